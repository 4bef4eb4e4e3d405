"""The vocabulary: hidden states and the word table in, negative log-likelihoods or chosen tokens out.

A batch's logits over 250002 words do not fit in memory, so everything here walks over the vocabulary in chunks and
keeps running results: log-sum-exp, the best token, the label's logit. The gradient computes each chunk's logits again.
Axes: N positions, V vocabulary, H width.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ernie_m_jax.model.dropout import random_bits_of_columns

_BLOCK = 128  # columns of a block in `_argmax`
_NEVER = -1e30  # added to the bias of words that must not be written; finite, since a chunk may hold nothing else


class Scores(NamedTuple):
    """What the masked language model scored: loss f32 [N], in nats, and correct bool [N] (the argmax is the label)."""

    loss: jax.Array
    correct: jax.Array


class Generated(NamedTuple):
    """What the model wrote: ids int32 [N] and their log-probabilities f32 [N] at temperature 1, in nats."""

    ids: jax.Array
    log_probs: jax.Array


def _over_chunks(body: Callable[[jax.Array | int, int, Any], Any], vocab: int, chunk: int, carry: Any) -> Any:
    """Applies `body(start, size, carry)` over [0, vocab): whole chunks in a loop, then the remainder at its own size.

    The remainder is a second copy of the body in the program; the alternatives pad the table (a copy of it) or overlap
    chunks (masks in every reduction).
    """
    if chunk <= 0 or chunk >= vocab:
        return body(0, vocab, carry)
    whole, rest = divmod(vocab, chunk)
    carry = jax.lax.fori_loop(0, whole, lambda i, carried: body(i * chunk, chunk, carried), carry)
    return body(whole * chunk, rest, carry) if rest else carry


def _logits(hidden: jax.Array, embedding: jax.Array, bias: jax.Array, start: jax.Array | int, size: int) -> jax.Array:
    """Logits f32 [N, size] of the words from `start`; the product in hidden's dtype, summed in fp32."""
    rows = jax.lax.dynamic_slice_in_dim(embedding, start, size).astype(hidden.dtype)
    logits = jax.lax.dot_general(hidden, rows, (((1,), (1,)), ((), ())), preferred_element_type=jnp.float32)
    return logits + jax.lax.dynamic_slice_in_dim(bias, start, size).astype(jnp.float32)


def _columns(start: jax.Array | int, size: int) -> jax.Array:
    return start + jax.lax.broadcasted_iota(jnp.int32, (1, size), 1)


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


def _accumulate(running: _Running, logits: jax.Array, scores: jax.Array, start: jax.Array | int) -> _Running:
    """Adds one chunk, logits and scores [N, size], to the running reductions."""
    largest = jnp.maximum(running.maximum, logits.max(axis=-1))
    total = running.total * jnp.exp(running.maximum - largest) + jnp.exp(logits - largest[:, None]).sum(axis=-1)
    column = _argmax(scores)
    score = jnp.take_along_axis(scores, column[:, None], axis=-1)[:, 0]
    logit = jnp.take_along_axis(logits, column[:, None], axis=-1)[:, 0]
    better = score > running.best_score
    return _Running(
        maximum=largest,
        total=total,
        best_score=jnp.where(better, score, running.best_score),
        best_logit=jnp.where(better, logit, running.best_logit),
        best_id=jnp.where(better, start + column, running.best_id),
    )


def _argmax(scores: jax.Array) -> jax.Array:
    """The first largest column, int32 [N], of scores [N, size].

    In two levels, over blocks of columns and within the best block: XLA's CPU code for a maximum is vectorised, that
    for an argmax is not and costs as much as the product that made the scores.
    """
    n, size = scores.shape
    blocks = -(-size // _BLOCK)
    scores = jnp.pad(scores, ((0, 0), (0, blocks * _BLOCK - size)), constant_values=-jnp.inf)
    blocked = scores.reshape(n, blocks, _BLOCK)
    block = blocked.max(axis=-1).argmax(axis=-1)
    row = jnp.take_along_axis(blocked, block[:, None, None], axis=1)[:, 0]
    return (block * _BLOCK + row.argmax(axis=-1)).astype(jnp.int32)


def _forward(
    hidden: jax.Array, embedding: jax.Array, bias: jax.Array, labels: jax.Array, chunk: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Loss [N], correct [N] and log-sum-exp [N]."""
    n = hidden.shape[0]

    def body(start: jax.Array | int, size: int, carry: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        maximum, total, label_logit = carry
        logits = _logits(hidden, embedding, bias, start, size)
        largest = jnp.maximum(maximum, logits.max(axis=-1))
        total = total * jnp.exp(maximum - largest) + jnp.exp(logits - largest[:, None]).sum(axis=-1)
        column = labels - start
        inside = (column >= 0) & (column < size)
        here = jnp.take_along_axis(logits, jnp.clip(column, 0, size - 1)[:, None], axis=-1)[:, 0]
        return largest, total, jnp.where(inside, here, label_logit)

    lowest = jnp.full((n,), -jnp.inf, jnp.float32)
    carry = (lowest, jnp.zeros((n,), jnp.float32), lowest)
    maximum, total, label_logit = _over_chunks(body, embedding.shape[0], chunk, carry)
    log_sum_exp = maximum + jnp.log(total)
    scored = labels >= 0
    return jnp.where(scored, log_sum_exp - label_logit, 0.0), scored & (label_logit >= maximum), log_sum_exp


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _cross_entropy(
    hidden: jax.Array, embedding: jax.Array, bias: jax.Array, labels: jax.Array, chunk: int
) -> tuple[jax.Array, jax.Array]:
    loss, correct, _ = _forward(hidden, embedding, bias, labels, chunk)
    return loss, correct


def _cross_entropy_forward(
    hidden: jax.Array, embedding: jax.Array, bias: jax.Array, labels: jax.Array, chunk: int
) -> tuple[tuple[jax.Array, jax.Array], tuple[jax.Array, ...]]:
    loss, correct, log_sum_exp = _forward(hidden, embedding, bias, labels, chunk)
    return (loss, correct), (hidden, embedding, bias, labels, log_sum_exp)


def _cross_entropy_backward(
    chunk: int, residuals: tuple[jax.Array, ...], cotangents: tuple[jax.Array, Any]
) -> tuple[jax.Array, jax.Array, jax.Array, None]:
    hidden, embedding, bias, labels, log_sum_exp = residuals
    weight = jnp.where(labels >= 0, cotangents[0], 0.0)[:, None]

    def body(start: jax.Array | int, size: int, carry: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        d_hidden, d_embedding, d_bias = carry
        logits = _logits(hidden, embedding, bias, start, size)
        is_label = _columns(start, size) == labels[:, None]
        d_logits = (jnp.exp(logits - log_sum_exp[:, None]) - is_label) * weight
        d_bias = jax.lax.dynamic_update_slice_in_dim(d_bias, d_logits.sum(axis=0), start, 0)
        d_logits = d_logits.astype(hidden.dtype)
        rows = jax.lax.dynamic_slice_in_dim(embedding, start, size).astype(hidden.dtype)
        d_hidden += jnp.matmul(d_logits, rows, preferred_element_type=jnp.float32)
        d_rows = jax.lax.dot_general(
            d_logits, hidden, (((0,), (0,)), ((), ())), preferred_element_type=jnp.float32
        ).astype(embedding.dtype)
        return d_hidden, jax.lax.dynamic_update_slice_in_dim(d_embedding, d_rows, start, 0), d_bias

    carry = (
        jnp.zeros(hidden.shape, jnp.float32),
        jnp.zeros(embedding.shape, embedding.dtype),
        jnp.zeros(bias.shape, jnp.float32),
    )
    d_hidden, d_embedding, d_bias = _over_chunks(body, embedding.shape[0], chunk, carry)
    return d_hidden.astype(hidden.dtype), d_embedding, d_bias.astype(bias.dtype), None


_cross_entropy.defvjp(_cross_entropy_forward, _cross_entropy_backward)


def vocabulary_cross_entropy(
    hidden: jax.Array, embedding: jax.Array, bias: jax.Array, labels: jax.Array, chunk: int
) -> Scores:
    """Softmax cross-entropy over the vocabulary without an [N, V] array, forward or backward.

    Args:
      hidden: [N, H]; the products are computed in its dtype and summed in fp32.
      embedding: [V, H], the word table.
      bias: [V].
      labels: int32 [N]; a negative label is a position that is not scored: loss 0, not correct, no gradient.
      chunk: words of the vocabulary at a time; 0 or less, or V and more, is the whole vocabulary at once.

    Returns:
      Scores with the negative log-likelihood f32 [N] in nats and whether no word has a larger logit than the label.

    Raises:
      ValueError: if the shapes do not fit together.
    """
    _check_shapes(hidden, embedding, bias)
    if labels.shape != hidden.shape[:1]:
        raise ValueError(f"labels must be [N] = {hidden.shape[:1]}, got {labels.shape}")
    return Scores(*_cross_entropy(hidden, embedding, bias, labels, chunk))


def _check_shapes(hidden: jax.Array, embedding: jax.Array, bias: jax.Array) -> None:
    if hidden.ndim != 2 or embedding.ndim != 2 or hidden.shape[1] != embedding.shape[1]:
        raise ValueError(f"hidden must be [N, H] and embedding [V, H], got {hidden.shape} and {embedding.shape}")
    if bias.shape != embedding.shape[:1]:
        raise ValueError(f"bias must be [V] = {embedding.shape[:1]}, got {bias.shape}")


def without(bias: jax.Array, words: Sequence[int]) -> jax.Array:
    """The decoder's bias [V] with which `words` have probability 0 and are never written."""
    return bias.at[jnp.asarray(words, jnp.int32)].set(_NEVER) if len(words) else bias


def vocabulary_argmax(hidden: jax.Array, embedding: jax.Array, bias: jax.Array, chunk: int) -> Generated:
    """The most probable token of each position; the first one of equals. Arguments as `vocabulary_cross_entropy`."""
    _check_shapes(hidden, embedding, bias)

    def body(start: jax.Array | int, size: int, running: _Running) -> _Running:
        logits = _logits(hidden, embedding, bias, start, size)
        return _accumulate(running, logits, logits, start)

    return _generated(_over_chunks(body, embedding.shape[0], chunk, _start_running(hidden.shape[0])))


def vocabulary_sample(
    hidden: jax.Array, embedding: jax.Array, bias: jax.Array, chunk: int, rng: jax.Array, temperature: float
) -> Generated:
    """A token of each position drawn from softmax(logits / temperature).

    The Gumbel-max trick: the argmax of logits / temperature plus independent Gumbel noise has that distribution, and an
    argmax can be taken chunk by chunk.

    Args:
      hidden: as in `vocabulary_cross_entropy`, like `embedding`, `bias` and `chunk`.
      embedding: [V, H].
      bias: [V].
      chunk: words at a time; the drawn tokens do not depend on it, since the noise belongs to the word.
      rng: a PRNG key.
      temperature: greater than 0.

    Returns:
      Generated; `log_probs` are those of the temperature 1 distribution.

    Raises:
      ValueError: if `temperature` is not positive or the shapes do not fit together.
    """
    _check_shapes(hidden, embedding, bias)
    if not temperature > 0.0:
        raise ValueError(f"temperature must be greater than 0, got {temperature}")

    def body(start: jax.Array | int, size: int, running: _Running) -> _Running:
        logits = _logits(hidden, embedding, bias, start, size)
        noise = _gumbel(logits.shape[0], start, size, rng)
        return _accumulate(running, logits, logits / temperature + noise, start)

    return _generated(_over_chunks(body, embedding.shape[0], chunk, _start_running(hidden.shape[0])))


def _gumbel(rows: int, start: jax.Array | int, size: int, rng: jax.Array) -> jax.Array:
    """Standard Gumbel noise f32 of columns [start, start + size); precise in the upper tail, where the winner is."""
    bits = random_bits_of_columns(rows, start, size, rng)
    upper = (bits.astype(jnp.float32) + 0.5) * jnp.float32(2.0**-32)
    upper = jnp.minimum(upper, jnp.float32(1.0 - 2.0**-24))  # 1 is where log1p ends
    return -jnp.log(-jnp.log1p(-upper))


def _generated(running: _Running) -> Generated:
    return Generated(running.best_id, running.best_logit - running.maximum - jnp.log(running.total))
