"""From records to batches: mixture, packing, virtual streams and where they stand."""

import collections
import contextlib
import dataclasses
import itertools
import json

import numpy as np
import pytest

from configs import base
from ernie_m_jax import config as configs
from ernie_m_jax import task as tasks
from ernie_m_jax.data import batch, chunks, loader, mixture
from ernie_m_jax.data.order import Order
from ernie_m_jax.data.records import DataError
from ernie_m_jax.task import IGNORE, Record
from ernie_m_jax.tokenizer import train
from tests.conftest import small_tree

OBJECTIVES = ("mmlm", "tlm", "camlm", "btmlm")


class Numbers:
    """Records whose text is their own name."""

    def __init__(self, language, count):
        self.language, self.count = language, count

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        if not 0 <= index < self.count:
            raise IndexError(index)
        return Record((f"{self.language}{index}",), (self.language,))


def entries(**sizes):
    return mixture.groups({name: Numbers(name, size) for name, size in sizes.items()}, alpha=0.5)


def test_sampling_follows_the_exponent():
    assert mixture.weights({"a": 100, "b": 25}, 0.5) == {"a": pytest.approx(2 / 3), "b": pytest.approx(1 / 3)}


def test_mixture_table_adds_up():
    tokens = {"a": 4, "b": 2}
    made = entries(a=100, b=25)
    a, b = mixture.table(made, Order(made, 0).shares(), lambda record: tokens[record.languages[0]], drawn=900)
    assert (a["records"], a["tokens"], b["tokens"]) == (100, 400, 50)
    assert a["probability"] + b["probability"] == pytest.approx(1)
    assert (a["epochs"], b["epochs"]) == (pytest.approx(6, rel=1e-4), pytest.approx(12, rel=1e-4))


def rows_of(name, config, tokenizer, stream=0):
    return iter(open_loader(config, name, tokenizer).rows(stream))


def open_loader(config, name, tokenizer, owned=None, examples=None):
    """The loader of an objective; with other `examples` than its own if given."""
    task = tasks.bind(config, name)
    entries = task.records(mixture.Sources(config))
    if examples is not None:
        task = tasks.Bound(name, dataclasses.replace(task.task, examples=examples, batched=None), config, task.keys)
    return loader.Loader(task, tokenizer, entries, owned)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_packed_rows_hold_whole_examples(name, small_config, tokenizer):
    config = small_config()
    spec = tasks.bind(config, name).spec()
    for row in itertools.islice(rows_of(name, config, tokenizer), 30):
        assert {key: value.shape for key, value in row.items()} == {key: shape for key, (shape, _) in spec.items()}
        assert all(value.dtype == np.int32 for value in row.values())
        segments, real = row["segments"], row["segments"] > 0
        assert (np.diff(segments[real]) >= 0).all()
        assert not real[real.sum() :].any()
        for segment in range(1, segments.max() + 1):
            at = np.flatnonzero(segments == segment)
            assert row["ids"][at[0]] == tokenizer.cls_id
            assert row["positions"][at[0]] == 0
            assert tokenizer.sep_id in row["ids"][at]
            assert np.isin(row["predict_at"], at).sum() >= 1
        scored = row["predict_labels"] != IGNORE
        assert (segments[row["predict_at"][scored]] > 0).all()
        assert (row["predict_at"][~scored] == len(segments)).all()
        if name == "camlm":
            assert (row["ids"][row["predict_at"][scored]] == tokenizer.mask_id).all()
        if name == "btmlm":
            written = row["generate_at"][row["generate_at"] < len(segments)]
            assert (row["ids"][written] == tokenizer.mask_id).all()
            assert (row["roles"][written] == 1).all()


@pytest.mark.parametrize("name", ["tlm", "camlm"])
def test_pairs_fill_at_length_256(name, small_config, tokenizer):
    config = small_config(data__sequence_length=256, data__packing_bins=64)
    rows = itertools.islice(rows_of(name, config, tokenizer), 160)
    assert np.mean([(row["segments"] > 0).mean() for row in rows]) >= 0.95


def test_joined_lines_fill_rows(small_config, tokenizer):
    config = small_config(objectives__mmlm__join_to_characters=400, data__sequence_length=256)
    rows = list(itertools.islice(rows_of("mmlm", config, tokenizer), 40))
    assert np.mean([row["segments"].max() for row in rows]) < 4
    assert np.mean([(row["segments"] > 0).mean() for row in rows]) > 0.7


@pytest.mark.parametrize("name", OBJECTIVES)
def test_batches_do_not_depend_on_the_number_of_hosts(name, small_config, tokenizer):
    config = small_config()

    def batches(hosts, number=5):
        each = config.data.virtual_streams // hosts
        owned = [range(host * each, (host + 1) * each) for host in range(hosts)]
        loaders = [open_loader(config, name, tokenizer, streams) for streams in owned]
        drawn = []
        for _ in range(number):
            parts = [next(one) for one in loaders]
            drawn.append({key: np.concatenate([part[key] for part in parts]) for key in parts[0]})
        for one in loaders:
            one.close()
        return drawn

    one = batches(1)
    assert len({drawn["ids"].tobytes() for drawn in one}) == 5
    for hosts in (2, 4):
        for expected, found in zip(one, batches(hosts), strict=True):
            for key in expected:
                np.testing.assert_array_equal(found[key], expected[key])


@pytest.mark.parametrize("steps", [0, 1, 3, 7])
def test_streams_go_on_where_they_stood_on_another_number_of_hosts(steps, small_config, tokenizer):
    config = small_config()
    whole = open_loader(config, "camlm", tokenizer)
    for _ in range(steps):
        next(whole)
    state = json.loads(json.dumps(whole.state()))
    expected = [next(whole) for _ in range(4)]
    whole.close()
    halves = [open_loader(config, "camlm", tokenizer, streams) for streams in ((0, 1), (2, 3))]
    for half in halves:
        next(half)  # what it did before does not matter
        half.restore(state)
    for one in expected:
        parts = [next(half) for half in halves]
        for key in one:
            np.testing.assert_array_equal(np.concatenate([part[key] for part in parts]), one[key])
    for half in halves:
        half.close()
    # A few integers a stream, however far it is.
    assert len(json.dumps(state)) < 400 * config.data.virtual_streams


def test_streams_of_another_number_are_refused(small_config, tokenizer):
    one = open_loader(small_config(), "mmlm", tokenizer)
    other = open_loader(small_config(data__virtual_streams=8), "mmlm", tokenizer)
    with pytest.raises(ValueError, match=r"config\.data\.virtual_streams"):
        other.restore(one.state())


def test_another_seed_is_another_order(small_config, tokenizer):
    one, other = (next(rows_of("mmlm", small_config(seed=seed), tokenizer)) for seed in (0, 1))
    assert (one["ids"] != other["ids"]).any()


@pytest.mark.parametrize("ratio", [0.15, 1.0])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_synthetic_batches_have_the_real_shapes(name, ratio, small_config, tokenizer):
    config = small_config(**{f"objectives__{name}__mask_ratio": ratio})
    spec = tasks.bind(config, name).spec()
    made = batch.synthetic(spec, 8, config.model.vocab_size)
    real = next(rows_of(name, config, tokenizer))
    assert {key: (value.shape[1:], value.dtype) for key, value in made.items()} == {
        key: (value.shape, value.dtype) for key, value in real.items()
    }
    assert made["predict_at"].max() < config.data.sequence_length


def test_an_objective_without_its_kind_of_text_is_refused(small_config):
    config = small_config(data__parallel={})
    with pytest.raises(ValueError, match=r"config\.data\.parallel names no source"):
        tasks.bind(config, "camlm").records(mixture.Sources(config))


def test_two_sources_of_a_language_are_joined_together(small_config):
    sources = dict(small_config().data.monolingual)
    config = small_config(
        data__monolingual={name: dataclasses.asdict(sources["diagnostics"]) for name in ("one", "two")},
    )
    sources = mixture.Sources(config)
    joined, single = sources.monolingual(400), sources.monolingual()
    words = sum(len(single["en"][i].texts[0].split()) for i in range(len(single["en"])))
    assert len(single["en"]) == 2 * 727
    assert sum(len(joined["en"][i].texts[0].split()) for i in range(len(joined["en"]))) == words
    assert len(joined["en"]) < len(single["en"]) / 4


def test_text_that_gives_no_example_ends_with_an_error(small_config, tokenizer, monkeypatch):
    monkeypatch.setattr(chunks, "EMPTY_LIMIT", 20)
    rows = iter(open_loader(small_config(), "mmlm", tokenizer, examples=lambda *_: []).rows(0))
    with pytest.raises(DataError, match="20 records in a row gave no example"):
        next(rows)


@pytest.mark.parametrize("name", ["mmlm", "camlm"])
def test_the_table_of_epochs_is_what_a_run_draws(name, small_config, tokenizer, monkeypatch):
    # Long enough that the records of batches made ahead, more on a busy machine, are few beside those of the steps.
    config, steps = small_config(data__prefetch=1), 120
    drawn = collections.Counter()

    def examples(record, *arguments):
        drawn[record.languages] += 1
        return tasks.load(name).examples(record, *arguments)

    with contextlib.closing(open_loader(config, name, tokenizer, examples=examples)) as source:
        estimate = steps * config.train.batch_size * source.records_per_row()
        table = mixture.table(source.entries, source.shares(), source.tokens, estimate)
        drawn.clear()
        for _ in range(steps):
            next(source)
    total = sum(drawn.values())
    assert sum(row["epochs"] * row["records"] for row in table) == pytest.approx(total, rel=0.1)
    for row in table:
        share = drawn[tuple(row["name"].split("-"))] / total
        assert row["epochs"] * row["records"] / estimate == pytest.approx(share, abs=0.02)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_records_behind_a_batch_are_found(name, small_config, tokenizer):
    config = small_config()
    with contextlib.closing(open_loader(config, name, tokenizer)) as source:
        for _ in range(4):
            state = source.state()
            rows = next(source)
            traced = source.trace(json.loads(json.dumps(state)))
            assert len(traced) == config.train.batch_size
            for number, row in enumerate(traced):
                segments, words = rows["segments"][number], rows["ids"][number].copy()
                assert len(row) == segments.max()
                scored = rows["predict_labels"][number] != IGNORE
                words[rows["predict_at"][number][scored]] = rows["predict_labels"][number][scored]
                for segment, origin in enumerate(row, 1):
                    assert origin.record == source.entries[origin.entry].records[origin.index]
                    pieces = {piece for text in origin.record.texts for piece in tokenizer.encode_ids(text)}
                    read = set(words[segments == segment].tolist()) - set(tokenizer.special_tokens.values())
                    assert read
                    assert read <= pieces


@pytest.mark.parametrize("name", ["mmlm", "btmlm"])
def test_every_token_of_a_long_text_is_in_some_example(name, small_config, tokenizer):
    config = small_config()
    languages = ("en",) if name == "mmlm" else ("en", "de")
    text = " ".join(f"the class name {number} is not a valid name" for number in range(60))
    ids = tokenizer.encode_ids(text)
    made = tasks.bind(config, name).examples(Record((text,), languages), tokenizer, np.random.default_rng(3))
    read = []
    for example in made:
        whole = example["ids"].copy()
        whole[example["predict_at"]] = example["predict_labels"]
        source = (example["roles"] == 0).sum()
        read += whole[1 : source - 1].tolist()
    assert read == ids
    other = tasks.bind(config, name).examples(Record((text,), languages), tokenizer, np.random.default_rng(4))
    assert [len(one["ids"]) for one in made] != [len(one["ids"]) for one in other]


UDHR = ("en", "de", "hi", "ja", "ko", "ru", "th", "zh")


@pytest.fixture(scope="module")
def udhr(tmp_path_factory):
    """A config that joins the lines of a text in eight languages, and a tokenizer for it."""
    tree = small_tree(
        languages=UDHR,
        model__vocab_size=3000,
        data__monolingual={"udhr": base.source("corpus:udhr").to_dict()},
        data__parallel={},
        data__sequence_length=512,
        data__packing_bins=64,
        objectives__mmlm__join_to_characters=2000,
        stages__one__weights={"mmlm": 1.0},
    )
    config = configs.resolve(tree)
    return config, train(mixture.Sources(config).texts(), 3000, tmp_path_factory.mktemp("udhr"))


@pytest.mark.parametrize("language", UDHR)
def test_joined_text_loses_nothing_and_fills_rows_in_every_script(language, udhr):
    config, udhr_tokenizer = udhr
    config = dataclasses.replace(config, languages=(language,))
    task, sources = tasks.bind(config, "mmlm"), mixture.Sources(config)
    entry = task.records(sources)[language].records
    single = sources.monolingual()[language]
    expected = sum(len(udhr_tokenizer.encode_ids(single[index].texts[0])) for index in range(len(single)))
    read = 0
    for index in range(len(entry)):
        made = task.examples(entry[index], udhr_tokenizer, np.random.default_rng(index))
        read += sum(len(example["ids"]) - 2 for example in made)
    # Pieces do not cross the spaces at which records are joined.
    assert read == expected
    rows = itertools.islice(rows_of("mmlm", config, udhr_tokenizer), 64)
    assert np.mean([(row["segments"] > 0).mean() for row in rows]) > 0.9
