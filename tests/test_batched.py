"""Examples of many records at once are those made one by one, and packing is Grain's first fit."""

import itertools

import grain
import numpy as np
import pytest

from ernie_m_jax import config as configs
from ernie_m_jax import task as tasks
from ernie_m_jax.data import chunks, columns, loader, mixture, packing, stream
from ernie_m_jax.data.draws import Draws, purpose
from ernie_m_jax.data.order import Order
from ernie_m_jax.task import IGNORE, Record
from tests.conftest import small_tree

OBJECTIVES = ("mmlm", "tlm", "camlm", "btmlm")
SETTINGS = (
    {},
    {"model__language_embedding": "all", "data__pair_positions": "restarted"},
    {"data__sequence_length": 24},  # texts are cut, pairs shortened
    {"objectives__mmlm__mask_ratio": 0.8, "objectives__camlm__mask_ratio": 1.0, "objectives__tlm__mask_ratio": 1.0},
    {"objectives__btmlm__restore_from": "pseudo", "objectives__btmlm__length_ratio": 1.3},
)
STRANGE = ("", "語", "語 語 語 語", "語 name", "a", "name " * 90, "\u200b")


def some(sources, name, config):
    """Records of every entry, and some that are strange."""
    entries = tasks.bind(config, name).records(sources)
    made = [group.records[index] for group in entries.values() for index in range(0, 720, 12)]
    languages = made[0].languages
    count = len(made[0].texts)
    made += [Record((text, "der Name")[:count], languages) for text in STRANGE]
    made += [Record(("the name", text)[:count], languages) for text in STRANGE]
    return made


@pytest.mark.parametrize("keys", SETTINGS)
@pytest.mark.parametrize("name", OBJECTIVES)
def test_many_examples_at_once_are_those_made_one_by_one(name, keys, tokenizer):
    config = configs.resolve(small_tree(**keys))
    task = tasks.bind(config, name)
    records = some(mixture.Sources(config), name, config)
    left = assert_same(task, config, records, tokenizer)
    assert len(left) < len(records) / 2 or config.data.sequence_length == 24


@pytest.mark.parametrize("name", OBJECTIVES)
def test_chunks_of_nothing_but_strange_records(name, tokenizer):
    config = configs.resolve(small_tree())
    task = tasks.bind(config, name)
    count, languages = 1 if name in ("mmlm", "btmlm") else 2, ("en",) if name == "mmlm" else ("en", "de")
    for texts in itertools.product(STRANGE, repeat=2):
        records = [Record((text, "語")[:count], languages) for text in texts]
        assert_same(task, config, records, tokenizer)


def assert_same(task, config, records, tokenizer):
    """The examples of many records at once against those one by one; returns which are left to the latter."""
    indices = np.arange(len(records)) * 7 + 3
    draws = Draws(5, purpose(task.name), indices)
    made, left = task.task.batched(records, tokenizer, config, task.keys, draws)
    expected = [
        task.examples(record, tokenizer, np.random.default_rng((5, purpose(task.name), int(index))))
        for record, index in zip(records, indices, strict=True)
    ]
    expected = columns.of_examples([() if row in left else one for row, one in enumerate(expected)], [])
    np.testing.assert_array_equal(made.owners, expected.owners)
    assert made.values.keys() == expected.values.keys() or not len(made.owners)
    for feature, values in expected.values.items():
        np.testing.assert_array_equal(made.sizes[feature], expected.sizes[feature], err_msg=feature)
        np.testing.assert_array_equal(made.values[feature], values, err_msg=feature)
        assert made.values[feature].dtype == values.dtype == np.int32
    return left


def grain_rows(task, tokenizer, records, number, bins, seed):
    """Rows as Grain's packer makes them, and its states: how all rows were made once."""
    cfg, spec = task.cfg, task.spec()
    rooms = packing.features(spec)

    def examples(element, record):
        index = element * cfg.data.virtual_streams + number
        return task.examples(record, tokenizer, np.random.default_rng((cfg.seed, purpose(task.name), index)))

    class Flat(grain.experimental.FlatMapTransform):
        def flat_map(self, element):
            return element

    options = grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
    made = grain.MapDataset.source(records).map_with_index(examples).to_iter_dataset(options)
    flat = grain.experimental.FlatMapIterDataset(made, Flat())
    packed = grain.experimental.FirstFitPackIterDataset(flat, length_struct=rooms, num_packing_bins=bins, seed=seed)
    return packed.map(lambda row: to_row(row, rooms))


def to_row(packed, rooms):
    segments = packed["ids_segment_ids"].astype(np.int32)
    length = len(segments)
    starts = np.searchsorted(np.where(segments == 0, np.iinfo(np.int32).max, segments), np.arange(segments.max() + 1))
    row = {"segments": segments}
    for name in rooms:
        values, owner = packed[name], packed[f"{name}_segment_ids"]
        if name.endswith("_at"):
            values = np.where(owner > 0, values + starts[owner], length)
        elif name.endswith("_labels"):
            values = np.where(owner > 0, values, IGNORE)
        row[name] = values.astype(np.int32)
    return row


@pytest.mark.parametrize("keys", SETTINGS)
@pytest.mark.parametrize("name", OBJECTIVES)
def test_rows_are_those_of_grains_packer_also_from_its_states(name, keys, tokenizer):
    config = configs.resolve(small_tree(**keys))
    task = tasks.bind(config, name)
    records = Order(task.records(mixture.Sources(config)), loader.mixture_seed(name, config)).stream(1, 4)
    old = iter(grain_rows(task, tokenizer, records, 1, 4, 11))
    new = stream.StreamRows(chunks.Chunks(task, tokenizer, records, 1), task.spec(), 4, 11)
    for number in range(40):
        if number in (3, 17, 30):  # a checkpoint of either goes on in the other
            state = old.get_state()
            new = stream.StreamRows(chunks.Chunks(task, tokenizer, records, 1), task.spec(), 4, 11)
            new.set_state(state)
            assert (new.get_state()["next_row"], new.get_state()["counter"]) == (state["next_row"], state["counter"])
            old.set_state(new.get_state())
        expected, found = next(old), next(new)
        assert expected.keys() == found.keys()
        for feature, values in expected.items():
            np.testing.assert_array_equal(found[feature], values, err_msg=f"{number} {feature}")
