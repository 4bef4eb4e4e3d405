"""The order of the records: each stream is the mixture, nothing is read twice, and any place is reached at once."""

import collections
import itertools

import numpy as np
import pytest

from ernie_m_jax.data import mixture
from ernie_m_jax.data.order import Order
from ernie_m_jax.task import Group
from tests.test_data import Numbers

SIZES = {
    "equal": dict.fromkeys(("en", "de", "fr", "ru"), 400),
    "unequal": {"en": 9000, "de": 700, "fr": 90, "ru": 12},
    "two": {"a": 500, "b": 500},
    "eighteen": {f"l{number:02}": 51 for number in range(18)},
}


def order_of(sizes, alpha=0.7, seed=0):
    entries = mixture.groups({name: Numbers(name, size) for name, size in sizes.items()}, alpha)
    return Order(entries, seed), np.array([entries[name].weight for name in sorted(entries)])


def drawn(stream, count):
    """Records drawn of each entry, and where they stand in the entry's endless sequence."""
    return [stream.place(index) for index in range(count)]


@pytest.mark.parametrize("streams", [1, 3, 4, 8, 18, 64, 96])
@pytest.mark.parametrize("sizes", SIZES)
def test_every_stream_is_the_mixture(sizes, streams):
    order, weights = order_of(SIZES[sizes])
    count, total = 600, np.zeros(len(weights))
    for number in range(streams):
        taken = np.bincount([entry for entry, _ in drawn(order.stream(number, streams), count)], minlength=len(weights))
        # An entry's draws lie one in each of as many equal parts: off by less than two, however long the stretch.
        assert np.abs(taken - count * weights).max() < 2.1
        assert np.abs(taken / count - weights).sum() / 2 < len(weights) / count
        total += taken
    np.testing.assert_allclose(total / total.sum(), weights, atol=0.003)


@pytest.mark.parametrize("streams", [1, 3, 8, 96])
@pytest.mark.parametrize("sizes", SIZES)
def test_streams_share_out_every_place_and_read_none_twice(sizes, streams):
    order, _ = order_of(SIZES[sizes])
    count = max(4000 // streams, 120)
    places = collections.defaultdict(list)
    for entry, place in itertools.chain(*(drawn(order.stream(number, streams), count) for number in range(streams))):
        places[entry].append(place)
    for taken in places.values():
        assert len(set(taken)) == len(taken)
        # All streams have come about as far: only places at the end are still open.
        assert max(taken) < len(taken) + 4 * streams


def test_draws_follow_the_exponent_by_records():
    sizes = {"a": 1000, "b": 100, "c": 10}
    for alpha in (0.0, 0.3, 0.7, 1.0):
        order, _ = order_of(sizes, alpha)
        taken = np.zeros(3)
        for number in range(8):
            taken += np.bincount([entry for entry, _ in drawn(order.stream(number, 8), 3000)], minlength=3)
        expected = np.array([size**alpha for size in sizes.values()])
        np.testing.assert_allclose(taken / taken.sum(), expected / expected.sum(), atol=0.001)


def test_the_shares_told_are_those_drawn_where_an_entry_gets_its_least_slot():
    order, weights = order_of({"a": 10**9, "b": 1000, "c": 50}, alpha=1.0)
    assert order.shares()["c"] > 10 * weights[2]
    taken = np.bincount([order.slot(index)[0] for index in range(1 << 18)], minlength=3)
    np.testing.assert_allclose(taken / taken.sum(), list(order.shares().values()), atol=1e-5)


@pytest.mark.parametrize("size", [1, 7, 20, 5000])
def test_every_epoch_holds_every_record_once_in_another_order(size):
    order = Order({"a": Group(Numbers("a", size), 1.0)}, seed=3)
    stream = order.stream(0, 1)
    first, second = ([stream[start + index].texts[0] for index in range(size)] for start in (0, size))
    assert sorted(first) == sorted(second) == sorted(f"a{i}" for i in range(size))
    assert size < 7 or first != second


def test_no_two_entries_or_epochs_share_a_shuffle():
    """Seeds that only count up made one entry's second epoch another's first."""
    order, _ = order_of(dict.fromkeys("abcd", 20))
    shuffles = set()
    for entry, epoch in itertools.product(range(4), range(6)):
        shuffles.add(tuple(order.record(entry, epoch * 20 + index).texts[0][1:] for index in range(20)))
    assert len(shuffles) == 24


def test_another_seed_is_another_order_and_the_same_one_the_same():
    sequences = [[order_of(SIZES["equal"], seed=seed)[0].stream(1, 4)[i] for i in range(200)] for seed in (0, 0, 1)]
    assert sequences[0] == sequences[1] != sequences[2]


def test_any_index_is_reached_without_the_ones_before():
    order, _ = order_of({"a": 10, "b": 51, "c": 10**9}, alpha=0.0)
    stream = order.stream(3, 8)
    # Reading up to there would take days.
    assert {stream[index].languages[0] for index in range(10**12, 10**12 + 300)} == {"a", "b", "c"}
