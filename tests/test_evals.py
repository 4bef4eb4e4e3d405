"""What the evaluations of a config measure: loss on held-out text, retrieval within pairs."""

import csv
import dataclasses

import jax
import numpy as np
import pytest

from configs import base
from ernie_m_jax import config as configs
from ernie_m_jax import task as tasks
from ernie_m_jax.data import records
from ernie_m_jax.data.loader import purpose
from ernie_m_jax.data.records import DataError
from ernie_m_jax.evaluation import encode
from ernie_m_jax.evaluation.runner import Evaluations
from ernie_m_jax.model import ErnieM
from ernie_m_jax.objectives import masking
from ernie_m_jax.task import IGNORE
from tests.conftest import small_tree
from tests.small_models import random_params
from tests.test_evaluate import reference
from tests.test_report import text_of

HELDOUT = "corpus:diagnostics/dev"
RECORDS = 5
ENTRIES = {
    "mmlm": ["en", "de", "ru"],
    "tlm": ["en-de", "en-ru", "de-ru"],
    "camlm": ["en-de", "en-ru", "de-ru"],
    "btmlm": ["en>de", "en>ru", "de>en", "de>ru", "ru>en", "ru>de"],
}


def heldout(objective="mmlm", **keys):
    text = {"monolingual": base.source(HELDOUT), "parallel": base.source(HELDOUT), "max_records": RECORDS}
    return base.evaluation("heldout", objective=objective, **(text | keys)).to_dict()


def retrieval(**keys):
    return base.evaluation("retrieval", source=base.source(**keys)).to_dict()


def config_of(evals, **keys):
    """Without any text to train on, so that an evaluation that reads it fails."""
    nowhere = {"nowhere": base.source("nowhere.{language}.txt").to_dict()}
    own = {
        "evals": evals,
        "data__monolingual": nowhere,
        "data__parallel": nowhere,
        "model__hidden_dropout": 0.5,
        "model__attention_dropout": 0.5,
    }
    return configs.resolve(small_tree(**(own | keys)), training=False)


def model_of(config):
    return ErnieM(config.model, config.compute), random_params(config.model)


def outcome(config, tokenizer, name="held"):
    return Evaluations(config).evaluators[name].run(*model_of(config), tokenizer)


# Loss and accuracy on held-out text.


def alone(example, spec):
    """A batch of one row that holds one example."""
    length, batch = len(example["ids"]), {}
    for name, (shape, dtype) in spec.items():
        filler = shape and spec["ids"][0][0] if name.endswith("_at") else IGNORE if name.endswith("_labels") else 0
        batch[name] = np.full((1, *shape), filler, dtype)
        if name == "segments":
            batch[name][0, :length] = 1
        else:
            batch[name][0, : len(example[name])] = example[name]
    return batch


def plain_totals(config, objective, tokenizer):
    """Every example by itself through the task's loss: {entry: {name: (total, weight)}}."""
    model, params = model_of(config)
    task = tasks.bind(config, objective)
    kind = "parallel" if objective in ("tlm", "camlm") else "monolingual"
    opened = records.open_source(
        "x", configs.build(configs.SourceConfig, base.source(HELDOUT).to_dict(), "x"), config.languages, kind
    )
    loss = jax.jit(lambda batch: task.loss(model, params, batch, jax.random.key(9), True))
    totals = {}
    for entry in ENTRIES[objective]:
        sequence = opened[entry.split(">")[0]]
        for index in range(RECORDS):
            record = sequence[index]
            if ">" in entry:
                record = dataclasses.replace(record, languages=tuple(entry.split(">")))
            rng = np.random.default_rng((config.seed, purpose("evaluate"), index))
            for example in task.examples(record, tokenizer, rng):
                for name, (total, weight) in loss(alone(example, task.spec())).items():
                    before = totals.setdefault(entry, {}).get(name, (0.0, 0.0))
                    totals[entry][name] = before[0] + float(total), before[1] + float(weight)
    return totals


@pytest.mark.parametrize(
    "objective", [pytest.param(name, marks=[pytest.mark.slow] if name in ("btmlm", "tlm") else []) for name in ENTRIES]
)
def test_heldout_numbers_are_those_of_every_example_alone(objective, tokenizer):
    config = config_of({"held": heldout(objective, batch_size=3), "again": heldout(objective, batch_size=5)})
    found = outcome(config, tokenizer).metrics
    totals = plain_totals(config, objective, tokenizer)
    expected = {
        f"{entry}/{name}": total / weight for entry, sums in totals.items() for name, (total, weight) in sums.items()
    }
    for name in totals[ENTRIES[objective][0]]:
        both = np.sum([sums[name] for sums in totals.values()], axis=0)
        expected[name] = both[0] / both[1]
    assert found == pytest.approx(expected, rel=1e-4)
    assert {"loss", "accuracy", f"{ENTRIES[objective][0]}/loss"} <= set(found)
    assert 0 < found["accuracy"] < 1 or found["loss"] > 1
    if objective in ("mmlm", "btmlm"):  # whatever the size of a batch
        assert outcome(config, tokenizer, "again").metrics == pytest.approx(found, rel=1e-4)


def test_heldout_numbers_are_the_same_in_two_calls(tokenizer):
    config = config_of({"held": heldout()})
    evaluator, (model, params) = Evaluations(config).evaluators["held"], model_of(config)
    first = evaluator.run(model, params, tokenizer)
    assert evaluator.run(model, params, tokenizer) == first
    assert evaluator.headline(first.metrics) == first.metrics["loss"]
    other = jax.tree.map(lambda leaf: leaf * 1.5, params)
    assert evaluator.run(model, other, tokenizer) != first


def test_max_records_takes_the_first_of_each_language(tokenizer, tmp_path):
    lines = ["a class may not be empty", "every name has a place", "nothing else is here at all"]
    for language, ours in (("en", lines), ("de", lines[:1])):
        (tmp_path / f"{language}.txt").write_text("\n".join(ours) + "\n")
        (tmp_path / f"two.{language}.txt").write_text("\n".join(ours[:2]) + "\n")
    keys = {"languages": ("en", "de")}
    two, cut, whole = (
        outcome(
            config_of(
                {
                    "held": heldout(
                        monolingual=base.source(f"{tmp_path}/{name}{{language}}.txt"),
                        parallel=base.source(),
                        max_records=limit,
                    )
                },
                **keys,
            ),
            tokenizer,
        ).metrics
        for name, limit in (("two.", 0), ("", 2), ("", 0))
    )
    assert cut == two
    assert whole["en/loss"] != cut["en/loss"]
    assert whole["de/loss"] == cut["de/loss"]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"monolingual": base.source(), "parallel": base.source()}, r"config\.evals\.held has no text: set its mono"),
        ({"objective": "mlmm"}, r"config\.evals\.held\.objective is 'mlmm' \(nearest: mmlm\)"),
        ({"objective": ""}, r"config\.evals\.held\.objective is ''"),
        ({"batch_size": 0}, r"config\.evals\.held\.batch_size is 0; it must be at least 1"),
        ({"kind": "other"}, r"config\.evals\.held\.kind is 'other'; allowed: retrieval, heldout, task"),
        ({"splits": ("dev",)}, r"config\.evals\.held\.splits is unknown"),
    ],
)  # fmt: skip
def test_a_wrong_evaluation_is_said_with_the_config(keys, message):
    with pytest.raises(configs.ConfigError, match=message):
        config_of(
            {"held": heldout() | {key: getattr(value, "to_dict", lambda v=value: v)() for key, value in keys.items()}}
        )


@pytest.mark.parametrize(
    ("objective", "kind", "message"),
    [
        ("xnli", "heldout", "objective is 'xnli', which has splits of its own: set its kind to 'task'"),
        ("mmlm", "task", "objective is 'mmlm', which has no splits to be scored on: set its kind to 'heldout'"),
    ],
)
def test_an_objective_of_the_other_kind_is_refused(objective, kind, message):
    keys = heldout(objective) if kind == "heldout" else base.evaluation("task", objective=objective).to_dict()
    tree = small_tree(evals={"held": keys})
    tree["objectives"]["xnli"] = base.sentence_pairs().to_dict()
    tree["model"].update(
        pooler=True, head="sequence_classification", num_labels=3, labels=("contradiction", "entailment", "neutral")
    )
    with pytest.raises(configs.ConfigError, match=message):
        configs.resolve(tree)


def test_text_that_an_objective_needs_and_does_not_get_is_named(tokenizer, monkeypatch):
    config = config_of({"held": heldout("camlm", parallel=base.source())})
    with pytest.raises(configs.ConfigError, match=r"config\.evals\.held\.parallel names no source"):
        Evaluations(config)
    monkeypatch.setattr(masking, "known", lambda ids, indices, tokenizer: indices[:0])  # no word of the vocabulary
    with pytest.raises(DataError, match=r"config\.evals\.held: its text holds nothing to predict"):
        outcome(config_of({"held": heldout()}), tokenizer)


def test_a_program_is_compiled_once(tokenizer, monkeypatch):
    config = config_of({"held": heldout()})
    evaluator, (model, params) = Evaluations(config).evaluators["held"], model_of(config)
    evaluator.run(model, params, tokenizer)
    compiled, jit = [], jax.jit
    monkeypatch.setattr(jax, "jit", lambda function, **how: compiled.append(function) or jit(function, **how))
    evaluator.run(ErnieM(config.model, config.compute), params, tokenizer)
    assert compiled == []


# Retrieval.

SENTENCES = {
    "de": ["eine Klasse darf nicht leer sein", "der Name fehlt hier", "ein Parameter ist zu viel", "das Ende davon"],
    "en": ["a class may not be empty", "the name is missing here", "one parameter too many", "the end of the file"],
    "ru": ["класс не может быть пустым", "здесь нет имени", "лишний параметр", "конец файла"],
}  # fmt: skip


def write_pairs(folder, form):
    """Pair files of different lengths; of ru-en the second sentence is another one."""
    texts = {("de", "en"): [SENTENCES["de"], SENTENCES["en"]], ("en", "ru"): [SENTENCES["en"][:3], SENTENCES["ru"][:3]]}
    texts[("en", "ru")][0][1] = "something else"
    for (one, other), (left, right) in texts.items():
        if form == "moses":
            for language, side in ((one, left), (other, right)):
                (folder / f"{one}-{other}.{language}").write_text("\n".join(side) + "\n")
            path = "{pair}.{language}"
        else:
            rows = "".join(f"{a}\t{b}\n" for a, b in zip(left, right, strict=True))
            (folder / f"{one}-{other}.tsv").write_text(f"{one}\t{other}\n{rows}")
            path = "{pair}.tsv"
    return texts, str(folder / path)


def directions(metrics):
    """The metrics without the means."""
    return {name: value for name, value in metrics.items() if ">" in name}


def one_by_one(config, tokenizer, texts, **keys):
    """Mean vectors of the last layer, each sentence encoded by itself."""
    model, params = model_of(config)
    settings = {"layer": -1, "pooling": "mean", "max_length": 64, "batch_size": 1} | keys
    return [encode.encode_texts(model, params, tokenizer, [text], **settings)[0].astype(np.float64) for text in texts]


@pytest.mark.parametrize("form", ["moses", "tsv"])
def test_only_the_pairs_that_are_given_are_compared(form, tokenizer, tmp_path):
    texts, path = write_pairs(tmp_path, form)
    evals = {"find": retrieval(path=path, pairs=("de-en", "ru-en")) | {"max_length": 64}}
    config = config_of(evals, languages=("ru", "de", "en"))
    evaluator = Evaluations(config).evaluators["find"]
    metrics = evaluator.run(*model_of(config), tokenizer).metrics
    expected = {}
    for (one, other), sides in texts.items():
        vectors = {code: one_by_one(config, tokenizer, side) for code, side in zip((one, other), sides, strict=True)}
        matrix = reference(vectors)
        expected |= {f"{one}>{other}": matrix[0, 1], f"{other}>{one}": matrix[1, 0]}
    assert directions(metrics) == pytest.approx(expected)
    assert metrics["average"] == evaluator.headline(metrics) == pytest.approx(np.mean(list(expected.values())))
    # The languages stand in the order of the config, and what was not compared is left blank.
    evaluator.write(tmp_path / "out", "find", metrics)
    rows = list(csv.reader((tmp_path / "out" / "find.csv").read_text().splitlines()))
    assert rows[0] == ["query", "ru", "de", "en"]
    assert [[bool(cell) for cell in row[1:]] for row in rows[1:]] == [
        [False, False, True],
        [False, False, True],
        [True, True, False],
    ]
    assert float(rows[1][3]) == pytest.approx(expected["ru>en"] / 100)
    assert (tmp_path / "out" / "find.png").read_bytes().startswith(b"\x89PNG")
    (table,) = evaluator.show(metrics, "found")
    cells = [line.split() for line in text_of(table).splitlines()]
    assert next(row for row in cells if row[:1] == ["ru"] and len(row) == 5)[1:3] == ["-", "-"]


def test_a_wide_table_compares_every_language_unless_pairs_are_given(tokenizer, tmp_path):
    rows = "".join("\t".join(row) + "\n" for row in zip(*SENTENCES.values(), strict=True))
    path = tmp_path / "wide.tsv"
    path.write_text("\t".join(SENTENCES) + "\n" + rows)
    keys = {"languages": ("de", "en", "ru")}
    evals = {"every": retrieval(path=str(path)), "some": retrieval(path=str(path), pairs=("en-ru",))}
    config = config_of({name: value | {"max_length": 64} for name, value in evals.items()}, **keys)
    every, some = (outcome(config, tokenizer, name).metrics for name in ("every", "some"))
    matrix = reference({code: one_by_one(config, tokenizer, texts) for code, texts in SENTENCES.items()})
    order = list(SENTENCES)
    expected = {f"{a}>{b}": matrix[order.index(a), order.index(b)] for a in order for b in order if a != b}
    assert directions(every) == pytest.approx(expected)
    assert directions(some) == {name: every[name] for name in ("en>ru", "ru>en")}
