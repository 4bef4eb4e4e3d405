"""Finite data: every example once, laid out as in training, with the results of each alone, whatever the batches.

Run as a program this file is the worker of the test on several devices: it evaluates on meshes of 4 virtual devices and
writes the predictions of each.
"""

import dataclasses
import functools
import json
import math
import os
import pathlib
import subprocess
import sys
import types

import jax
import numpy as np
import pytest

from ernie_m_jax import config as configs
from ernie_m_jax import sharding
from ernie_m_jax.config import MeshConfig
from ernie_m_jax.config_evals import TaskEval
from ernie_m_jax.data import chunks, columns, finite, packing
from ernie_m_jax.data.readers import DataError
from ernie_m_jax.evaluation import finite_rows
from ernie_m_jax.evaluation.scored import TaskEvaluator
from ernie_m_jax.finetune import xnli
from ernie_m_jax.model import visibility
from ernie_m_jax.model.encoder import ErnieM, Inputs
from ernie_m_jax.reporting import files
from ernie_m_jax.task import IGNORE, Bound, Record
from ernie_m_jax.tokenizer import Tokenizer
from tests.command import ROOT
from tests.conftest import small_tree
from tests.small_models import random_params

ROOM, PREDICTIONS, CLASSES = 24, 9, 3
SPEC = {
    **dict.fromkeys(("ids", "segments", "positions"), ((ROOM,), np.int32)),
    **dict.fromkeys(("predict_at", "predict_labels"), ((PREDICTIONS,), np.int32)),
    **dict.fromkeys(("class_at", "class_labels"), ((CLASSES,), np.int32)),
}


def example(rng, length, predictions, classes=1):
    at = {"predict": predictions, "class": classes}
    made = {"ids": rng.integers(4, 99, length), "positions": np.arange(length)}
    for name, count in at.items():
        made[f"{name}_at"] = rng.integers(0, length, count)
        made[f"{name}_labels"] = rng.integers(0, 99, count)
    return {name: values.astype(np.int32) for name, values in made.items()}


def examples(seed, count=60):
    """Of all lengths, full rows and the shortest among them; some need more of the other features than of tokens."""
    rng = np.random.default_rng(seed)
    lengths = [ROOM, ROOM, 1, *rng.integers(1, ROOM + 1, count - 3)]
    return [
        (finite.Origin(number % 2, number // 2, 0), example(rng, length, rng.integers(0, PREDICTIONS + 1)))
        for number, length in enumerate(lengths)
    ]


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("chunk", [7, 4096])
def test_every_example_is_in_one_row_once(seed, chunk, monkeypatch):
    monkeypatch.setattr(finite, "CHUNK", chunk)
    made = examples(seed)
    rows = list(finite.rows(iter(made), SPEC))
    assert sorted(placed.origin for row in rows for placed in row) == sorted(origin for origin, _ in made)
    assert list(finite.rows([], SPEC)) == []
    given = dict(made)
    for row in rows:
        used = dict.fromkeys(packing.features(SPEC), 0)
        for placed in row:
            assert placed.example is given[placed.origin]
            assert placed.starts == used  # one behind the other, in every feature
            used = {name: start + len(placed.example[name]) for name, start in used.items()}
        assert all(used[name] <= room for name, room in packing.features(SPEC).items())
    if chunk > len(made):  # no two rows could be one
        sums = [np.sum([[len(one.example[name]) for name in one.starts] for one in row], axis=0) for row in rows]
        rooms = np.array(list(packing.features(SPEC).values()))
        fits = [all(a + b <= rooms) for number, a in enumerate(sums) for b in sums[:number]]
        assert not any(fits)


@pytest.mark.parametrize("seed", range(8))
def test_rows_lie_as_in_training(seed):
    for row in finite.rows(examples(seed), SPEC):
        bins = packing.Bins(SPEC, 1)
        assert bins.add(columns.of_examples([[placed.example for placed in row]], []), 0) == len(row)
        expected = {name: values[0] for name, values in bins.rows.items()}
        stacked = finite.stack([row], SPEC, 1)
        assert set(stacked) == set(expected) == set(SPEC)
        for name, values in expected.items():
            np.testing.assert_array_equal(stacked[name][0], values, err_msg=name)
            assert stacked[name].dtype == values.dtype


def test_what_no_example_fills_points_behind_the_row_and_is_not_scored():
    rng = np.random.default_rng(0)
    made = [(finite.Origin(0, number, 0), example(rng, length, 2)) for number, length in enumerate((10, 5))]
    (row,) = finite.rows(made, SPEC)
    batch = finite.stack([row], SPEC, 3)
    assert {name: values.shape for name, values in batch.items()} == {name: (3, *SPEC[name][0]) for name in SPEC}
    first, second = (one for _, one in made)
    np.testing.assert_array_equal(batch["segments"][0], [1] * 10 + [2] * 5 + [0] * 9)
    np.testing.assert_array_equal(
        batch["predict_at"][0], [*first["predict_at"], *(second["predict_at"] + 10), *[ROOM] * 5]
    )
    np.testing.assert_array_equal(
        batch["predict_labels"][0], [*first["predict_labels"], *second["predict_labels"], *[IGNORE] * 5]
    )
    assert (batch["class_at"][0, 2:] == ROOM).all()
    for name, filler in {"ids": 0, "segments": 0, "predict_at": ROOM, "class_labels": IGNORE}.items():
        assert (batch[name][1:] == filler).all()


@pytest.mark.parametrize("seed", range(4))
def test_an_examples_part_is_cut_out_of_what_lies_like_its_features(seed):
    rows = list(finite.rows(examples(seed), SPEC))
    batch = finite.stack(rows, SPEC, len(rows))
    for number, row in enumerate(rows):
        for placed in row:
            for name, given in placed.example.items():
                shift = placed.starts["ids"] if name.endswith("_at") else 0
                np.testing.assert_array_equal(finite.cut(placed, name, batch[name][number]), given + shift)
                wider = np.stack([batch[name][number]] * 3, axis=1)
                assert finite.cut(placed, name, wider).shape == (len(given), 3)


@pytest.mark.parametrize("keys", [{"length": ROOM + 1}, {"classes": CLASSES + 1}])
def test_an_example_that_no_row_holds_is_an_error_that_shows_its_record(keys):
    rng = np.random.default_rng(0)
    made = example(rng, **({"length": 5, "predictions": 1} | keys))
    task = types.SimpleNamespace(
        name="mine",
        cfg=types.SimpleNamespace(seed=0, data=types.SimpleNamespace(virtual_streams=1, sequence_length=ROOM)),
        task=types.SimpleNamespace(batched=None),
        spec=lambda: SPEC,
        examples=lambda record, *_: [made] if record.texts == ("third",) else [],
    )
    records = [Record((text,), ("en",)) for text in ("first", "second", "third")]
    message = r"objectives\.mine: an example has (25 'ids', .* for 24|4 'class_at', .* for 3); its record: .*'third'"
    with pytest.raises(DataError, match=message):
        list(finite.rows(finite.examples(task, None, [records[:2], records]), SPEC))
    with pytest.raises(DataError, match=message):  # in training too
        chunks.Chunks(task, None, records, 0)(0, 3)


def test_each_records_examples_are_numbered():
    task = types.SimpleNamespace(
        name="mine",
        cfg=types.SimpleNamespace(seed=0),
        spec=lambda: SPEC,
        examples=lambda record, tokenizer, rng: [
            example(rng, length, 1) for length in range(1, 1 + record.fields["count"])
        ],
    )
    groups = [[Record(("",), ("en",), {"count": count}) for count in counts] for counts in ((2, 0, 3), (1,))]
    made = list(finite.examples(task, None, groups))
    assert [tuple(origin) for origin, _ in made] == [(0, 0, 0), (0, 0, 1), (0, 2, 0), (0, 2, 1), (0, 2, 2), (1, 0, 0)]
    again = list(finite.examples(task, None, groups))
    for (_, one), (_, other) in zip(made, again, strict=True):
        np.testing.assert_array_equal(one["ids"], other["ids"])


# Evaluation of sentence pairs

WORDS = ("one", "two", "a", "the", "eins", "zwei", "und", "ein", "в", "и", "на", "not", "is", "of", "to", "der", "die")
LENGTHS = ((1, 1), (3, 5), (2, 12), (20, 9), (40, 30))  # words of the sentences of a pair; the last is cut
LABELS = ("neutral", "entailment", "contradiction")  # not in the order of the task's own
LONGEST = 40


PAIRS = {
    **dict.fromkeys(("train", "dev", "test"), ""),
    "train_languages": ("en",),
    "languages": (),
    "max_length": LONGEST,
    "bad_rows": "error",
}


def pair_config(pairs=PAIRS, **keys):
    """The small config with a head for XNLI; `pairs` are the keys of its entry."""
    model = {"head": "sequence_classification", "pooler": True, "mlm_head": "none", "num_layers": 1}
    model |= {"num_labels": 3, "labels": LABELS}
    own = {"objectives": {"xnli": pairs}, "stages__one__weights": {"xnli": 1.0}}
    return configs.resolve(small_tree(**{f"model__{key}": value for key, value in model.items()} | own | keys))


def pair_records(tokenizer, language, count):
    rng, words = np.random.default_rng(count), [word for word in WORDS if len(tokenizer.encode_ids(word)) == 1]
    assert len(words) > 4
    return [
        Record(
            tuple(" ".join(rng.choice(words, length)) for length in LENGTHS[number % len(LENGTHS)]),
            (language, language),
            {"label": LABELS[rng.integers(3)], "id": str(number)},
        )
        for number in range(count)
    ]


def pair_groups(tokenizer):
    counts = {"dev": {"en": 21}, "test": {"de": 8, "en": 17}}
    return {
        split: {code: pair_records(tokenizer, code, count) for code, count in codes.items()}
        for split, codes in counts.items()
    }


def everything(cfg, keys, records, predictions):
    """All that was predicted, a line per record."""
    return [
        json.dumps([{name: np.asarray(part[name]).tolist() for name in sorted(part)} for part in parts])
        for parts in predictions
    ]


def evaluate(config, params, tokenizer, batch_size, **keys):
    task = Bound("xnli", dataclasses.replace(xnli.TASK, **keys), config, config.objectives["xnli"])
    evaluation = TaskEval("task", 0, False, batch_size, "xnli", ("dev", "test"))
    evaluator = TaskEvaluator("found", evaluation, task, pair_groups(tokenizer))
    return evaluator.run(ErnieM(config.model, config.compute), params, tokenizer)


@pytest.fixture(scope="module")
def classifier():
    config = pair_config()
    return config, random_params(config.model, 1.0)


@pytest.fixture(scope="module")
def each_alone(classifier, tokenizer):
    """Probabilities of each pair in a row of its own and of just its length, by the parts of the model."""
    config, params = classifier
    model = ErnieM(config.model, config.compute)

    @jax.jit
    def parts(params, inputs):
        apply = functools.partial(model.apply, {"params": params})
        hidden = apply(inputs, visibility.FULL, method="encode")
        return jax.nn.softmax(apply(apply(hidden, method="pool"), method="classify"))

    def probabilities(record):
        first, second = (tokenizer.encode_ids(text) for text in record.texts)
        while len(first) + len(second) + 4 > LONGEST:  # the longer loses its last, of equal ones the second
            (first if len(first) > len(second) else second).pop()
        ids = np.array([[tokenizer.cls_id, *first, *[tokenizer.sep_id] * 2, *second, tokenizer.sep_id]], np.int32)
        zeros = np.zeros_like(ids)
        positions = np.arange(ids.size, dtype=np.int32)[None]
        inputs = Inputs(ids=ids, positions=positions, segments=zeros + 1, roles=zeros, languages=zeros)
        return np.asarray(parts(params, inputs))[0]

    return {
        f"{split}-{language}.tsv": (records, np.stack([probabilities(record) for record in records]))
        for split, groups in pair_groups(tokenizer).items()
        for language, records in groups.items()
    }


@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_packed_pairs_get_what_each_gets_alone(batch_size, classifier, each_alone, tokenizer):
    outcome = evaluate(*classifier, tokenizer, batch_size, lines=everything)
    assert set(outcome.files) == set(each_alone)
    for name, (records, expected) in each_alone.items():
        found = [json.loads(line) for line in outcome.files[name]]
        assert [set(part) for (part,) in found] == [{"class_at/label", "class_at/probabilities"}] * len(records)
        np.testing.assert_allclose([part["class_at/probabilities"][0] for (part,) in found], expected, atol=1e-5)
        labels = np.argmax(expected, axis=1)
        assert [part["class_at/label"] for (part,) in found] == [[label] for label in labels]
        assert len(set(labels)) > 1
        right = [record.fields["label"] == LABELS[label] for record, label in zip(records, labels, strict=True)]
        split, language = name.removesuffix(".tsv").split("-")
        assert outcome.metrics[f"{split}/{language}/accuracy"] == pytest.approx(100 * np.mean(right))
    by_language = [outcome.metrics[f"test/{language}/accuracy"] for language in ("de", "en")]
    assert outcome.metrics["test/accuracy"] == pytest.approx(np.mean(by_language))


def test_packed_rows_are_few_and_the_same_whatever_the_batch(classifier, tokenizer, monkeypatch):
    seen = {}
    run = finite_rows.run

    def watched(function, params, rows, spec, batch_size):
        for chosen, found in run(function, params, rows, spec, batch_size):
            seen.setdefault(batch_size, []).extend([placed.origin for placed in row] for row in chosen)
            yield chosen, found

    monkeypatch.setattr(finite_rows, "run", watched)
    for batch_size in (3, 8):
        evaluate(*classifier, tokenizer, batch_size)
    assert seen[3] == seen[8]
    assert sum(map(len, seen[3])) == 46
    assert len(seen[3]) < 46 / 2


def test_an_evaluation_that_comes_again_compiles_nothing(classifier, tokenizer):
    config, params = classifier
    traced = []

    def predict(*given):
        traced.append(1)
        return xnli.TASK.predict(*given)

    task = Bound("xnli", dataclasses.replace(xnli.TASK, predict=predict), config, config.objectives["xnli"])
    evaluation = TaskEval("task", 0, False, 8, "xnli", ("test",))
    evaluator = TaskEvaluator("found", evaluation, task, pair_groups(tokenizer))
    model = ErnieM(config.model, config.compute)
    first = evaluator.run(model, params, tokenizer)
    second = evaluator.run(ErnieM(config.model, config.compute), jax.tree.map(np.negative, params), tokenizer)
    assert len(traced) == 1
    assert first.files != second.files  # other parameters all the same


@pytest.mark.slow
def test_any_number_of_devices_writes_the_same_predictions(tokenizer_path, tmp_path):
    environment = os.environ | {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=4",
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": str(ROOT),
    }
    command = [sys.executable, "-W", "error", __file__, str(tokenizer_path), str(tmp_path)]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    written = {path.name: {file.name: file.read_bytes() for file in path.iterdir()} for path in tmp_path.iterdir()}
    assert set(written) == {"1", "2", "4", "2x2"}
    assert set(written["1"]) == {"dev-en.tsv", "test-de.tsv", "test-en.tsv"}
    for name, predictions in written.items():
        assert predictions == written["1"], name
    assert len(set(written["1"]["dev-en.tsv"].split())) > 1


def main(tokenizer_path, target):
    """Evaluates on meshes of 1, 2 and 4 devices, the parameters whole on each, and writes what each predicts."""
    tokenizer, config = Tokenizer.load(tokenizer_path), pair_config()
    assert len(jax.devices()) == 4
    for name, sizes in {"1": (1, 1, 1), "2": (2, 1, 1), "4": (4, 1, 1), "2x2": (2, 2, 1)}.items():
        mesh = sharding.make_mesh(MeshConfig(*sizes), jax.devices()[: math.prod(sizes)])
        params = jax.device_put(random_params(config.model, 1.0), sharding.replicated(mesh))
        outcome = evaluate(config, params, tokenizer, 3)
        for file, lines in outcome.files.items():
            files.write_text(pathlib.Path(target, name, file), "".join(f"{line}\n" for line in lines))


if __name__ == "__main__":
    main(*sys.argv[1:])
