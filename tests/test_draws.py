"""Many generators at once give what NumPy's give one by one."""

import numpy as np
import pytest

from ernie_m_jax.data.draws import Draws

SEED, PURPOSE = 12345, 0xFEDCBA98
INDICES = np.array([0, 1, 2, 77, 2**31, 2**32 - 1, *range(1000, 1300)])


def pair():
    return Draws(SEED, PURPOSE, INDICES), [np.random.default_rng((SEED, PURPOSE, int(i))) for i in INDICES]


def test_the_bits_are_those_of_the_generator():
    draws, generators = pair()
    expected = np.array([rng.bit_generator.random_raw(50) for rng in generators])
    np.testing.assert_array_equal(draws._bits(np.tile(np.arange(50), (len(INDICES), 1))), expected)
    for row, index in enumerate(INDICES[:8]):
        again = np.random.default_rng((SEED, PURPOSE, int(index)))
        assert draws.generator(row).random(3).tolist() == again.random(3).tolist()


@pytest.mark.parametrize("ratio", [0.15, 0.5, 1.0])
@pytest.mark.parametrize("vocabulary", [100, 2000, 250_002])
def test_a_chain_of_draws_is_that_of_the_generator(ratio, vocabulary):
    """What masking does, twice in a row: a permutation, numbers, choices, doubles, bounded integers."""
    draws, generators = pair()
    order = draws.words(np.ones(len(INDICES), np.int64))[:, 0] & np.uint64(1)
    assert [[0, 1] if bit else [1, 0] for bit in order] == [rng.permutation(2).tolist() for rng in generators]
    sizes = np.random.default_rng(0)
    for _ in range(3):
        count = sizes.integers(0, 60, len(INDICES))
        fraction = draws.doubles(np.ones(len(INDICES), np.int64))[:, 0]
        assert fraction.tolist() == [rng.random() for rng in generators]
        chosen = np.minimum(count, np.maximum(1, (ratio * count + fraction).astype(np.int64)))
        taken = draws.choices(count, chosen)
        actions, ids = draws.doubles(chosen), draws.below(np.full((1, 1), vocabulary - 5), chosen)
        for row, rng in enumerate(generators):
            number = chosen[row]
            expected = np.sort(rng.choice(np.arange(count[row]), size=number, replace=False))
            action, replaced = rng.random(number), rng.integers(4, vocabulary - 1, size=number)
            if not draws.rejected[row]:
                np.testing.assert_array_equal(np.flatnonzero(taken[row]), expected)
                np.testing.assert_array_equal(actions[row, :number], action)
                np.testing.assert_array_equal(ids[row, :number] + 4, replaced)
    assert draws.rejected.mean() < 0.02


def test_an_index_beyond_32_bits_is_left_to_the_generator():
    index = 2**32 + 5
    draws = Draws(SEED, PURPOSE, np.array([4, index]))
    assert draws.rejected.tolist() == [False, True]
    assert draws.generator(1).random() == np.random.default_rng((SEED, PURPOSE, index)).random()
