"""Writing tokens: hidden states and the word table in, the best or drawn tokens out.

The vocabulary is read a chunk at a time. Axes: N positions, V vocabulary, H width.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from ernie_m_jax.model import split as splits
from ernie_m_jax.model import vocabulary
from ernie_m_jax.model.dropout import random_bits_at
from ernie_m_jax.model.split import Split

_BLOCK = 128  # words of a block in `_argmax`


class Generated(NamedTuple):
    """What the model wrote: ids int32 [N] and their log-probabilities f32 [N] at temperature 1, in nats."""

    ids: jax.Array
    log_probs: jax.Array


class _Running(NamedTuple):
    """Running reductions over the vocabulary, each [N].

    Attributes:
      maximum: the largest logit.
      total: sum of exp(logit - maximum).
      best_score: the largest score; a score is the logit, or the logit with noise.
      best_logit: the logit of the word with the largest score.
      best_id: that word.
    """

    maximum: jax.Array
    total: jax.Array
    best_score: jax.Array
    best_logit: jax.Array
    best_id: jax.Array


def _start_running(n: int) -> _Running:
    lowest = jnp.full((n,), -jnp.inf, jnp.float32)
    return _Running(lowest, jnp.zeros((n,), jnp.float32), lowest, lowest, jnp.zeros((n,), jnp.int32))


def _accumulate(running: _Running, logits: jax.Array, scores: jax.Array, start: jax.Array | int, axis: int) -> _Running:
    """Adds one chunk's logits and scores, with the words in `axis`, to the running reductions."""
    largest, total = vocabulary.add_exponentials(logits, axis, running.maximum, running.total)
    word = _argmax(scores, axis)
    score, logit = (vocabulary.at_words(values, word, axis) for values in (scores, logits))
    better = score > running.best_score
    return _Running(
        maximum=largest,
        total=total,
        best_score=jnp.where(better, score, running.best_score),
        best_logit=jnp.where(better, logit, running.best_logit),
        best_id=jnp.where(better, start + word, running.best_id),
    )


def _argmax(scores: jax.Array, axis: int) -> jax.Array:
    """The first largest word of each position, int32 [N], of scores with the words in `axis`.

    In two levels, over blocks of words and within the best block: XLA's CPU code for a maximum is vectorised, that
    for an argmax is not and costs as much as the product that made the scores.
    """
    size, n = scores.shape[axis], scores.shape[1 - axis]
    blocks = -(-size // _BLOCK)
    more = [(0, 0), (0, 0)]
    more[axis] = (0, blocks * _BLOCK - size)
    scores = jnp.pad(scores, more, constant_values=-jnp.inf)
    blocked = scores.reshape((n, blocks, _BLOCK) if axis else (blocks, _BLOCK, n))
    block = blocked.max(axis=axis + 1).argmax(axis=axis)
    best = jnp.take_along_axis(blocked, jnp.expand_dims(block, (axis, axis + 1)), axis=axis).squeeze(axis)
    return (block * _BLOCK + best.argmax(axis=axis)).astype(jnp.int32)


def vocabulary_argmax(
    hidden: jax.Array, embedding: jax.Array, bias: jax.Array, chunk: int, split: Split = splits.ALONE, axis: int = 1
) -> Generated:
    """The most probable token of each position; the first one of equals. Arguments as `vocabulary_cross_entropy`."""

    def on_device(hidden: jax.Array, embedding: jax.Array, bias: jax.Array) -> Generated:
        best = _over_words(hidden, embedding, bias, chunk, split, axis, lambda logits, start: logits)
        return _generated(best, split)

    vocabulary.check_shapes(hidden, embedding, bias)
    split.check(len(hidden))
    inputs = (splits.POSITIONS, splits.TABLE, splits.BIAS)
    return Generated(*split.on_devices(on_device, inputs, splits.POSITIONS)(hidden, embedding, bias))


def vocabulary_sample(
    hidden: jax.Array,
    embedding: jax.Array,
    bias: jax.Array,
    chunk: int,
    rng: jax.Array,
    temperature: float,
    split: Split = splits.ALONE,
    axis: int = 1,
) -> Generated:
    """A token of each position drawn from softmax(logits / temperature).

    The Gumbel-max trick: the argmax of logits / temperature plus independent Gumbel noise has that distribution, and an
    argmax can be taken chunk by chunk.

    Args:
      hidden: as in `vocabulary_cross_entropy`, like `embedding`, `bias` and `chunk`.
      embedding: [V, H].
      bias: [V].
      chunk: words at a time; the drawn tokens do not depend on it, since the noise belongs to the position and word.
      rng: a PRNG key.
      temperature: greater than 0.
      split: as in `vocabulary_cross_entropy`; the drawn tokens do not depend on it either.
      axis: as there; nor on this.

    Returns:
      Generated; `log_probs` are those of the temperature 1 distribution.

    Raises:
      ValueError: if `temperature` is not positive, the shapes do not fit together, or positions do not divide.
    """
    vocabulary.check_shapes(hidden, embedding, bias)
    split.check(len(hidden))
    if not temperature > 0.0:
        raise ValueError(f"temperature must be greater than 0, got {temperature}")

    def on_device(hidden: jax.Array, embedding: jax.Array, bias: jax.Array, seed: jax.Array) -> Generated:
        position, word = split.first_position(hidden), split.first_word(bias)

        def noisy(logits: jax.Array, start: jax.Array | int) -> jax.Array:
            noise = _gumbel((len(hidden), logits.shape[axis]), (position, word + start), seed)
            return logits / temperature + (noise if axis else noise.T)

        return _generated(_over_words(hidden, embedding, bias, chunk, split, axis, noisy), split)

    inputs = (splits.POSITIONS, splits.TABLE, splits.BIAS, splits.WHOLE)
    run = split.on_devices(on_device, inputs, splits.POSITIONS)
    return Generated(*run(hidden, embedding, bias, jax.random.bits(rng, (2,), jnp.uint32)))


def _over_words(
    hidden: jax.Array,
    embedding: jax.Array,
    bias: jax.Array,
    chunk: int,
    split: Split,
    axis: int,
    score: Callable[[jax.Array, jax.Array | int], jax.Array],
) -> _Running:
    """The reductions over a device's words; `score(logits, start)` are the scores of a chunk of them."""
    first = split.first_word(bias)

    def body(start: jax.Array | int, size: int, running: _Running) -> _Running:
        rows = vocabulary.rows(embedding, start, size, hidden.dtype, split)
        logits = vocabulary.biased(vocabulary.products(hidden, rows, axis), bias, start, axis)
        return _accumulate(running, logits, score(logits, start), first + start, axis)

    return vocabulary.over_chunks(body, len(bias), chunk, _start_running(len(hidden)))


def _generated(running: _Running, split: Split) -> Generated:
    """The best token over all devices' words; of equals the first."""
    maximum = split.over_words(running.maximum, jax.lax.pmax)
    total = split.over_words(running.total * jnp.exp(running.maximum - maximum))
    score = split.over_words(running.best_score, jax.lax.pmax)
    own = jnp.where(running.best_score == score, running.best_id, jnp.iinfo(jnp.int32).max)
    best = split.over_words(own, jax.lax.pmin)
    logit = split.over_words(jnp.where(own == best, running.best_logit, -jnp.inf), jax.lax.pmax)
    return Generated(best, logit - maximum - jnp.log(total))


def _gumbel(shape: tuple[int, int], first: tuple[jax.Array | int, jax.Array | int], seed: jax.Array) -> jax.Array:
    """Standard Gumbel noise f32 of positions and words from `first`; precise in the upper tail, where the winner is."""
    bits = random_bits_at(shape, first, seed)
    upper = (bits.astype(jnp.float32) + 0.5) * jnp.float32(2.0**-32)
    upper = jnp.minimum(upper, jnp.float32(1.0 - 2.0**-24))  # 1 is where log1p ends
    return -jnp.log(-jnp.log1p(-upper))
