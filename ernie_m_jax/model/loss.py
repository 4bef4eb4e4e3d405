"""Cross-entropy over the vocabulary: hidden states and the word table in, negative log-likelihoods out.

A chunk of the vocabulary at a time with running results, log-sum-exp and the label's logit; the gradient computes each
chunk's logits again, or reads them where there is memory to keep them.
Axes: N positions, V vocabulary, H width.
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ernie_m_jax.model import split as splits
from ernie_m_jax.model import vocabulary
from ernie_m_jax.model.split import Split

_ALIGNED = 128  # rows of the table in whole blocks of so many, where it is multiplied at once


class Scores(NamedTuple):
    """What the masked language model scored: loss f32 [N], in nats, and correct bool [N] (the argmax is the label)."""

    loss: jax.Array
    correct: jax.Array


@dataclasses.dataclass(frozen=True)
class _How:
    """How it is computed, which changes no value: arguments of `vocabulary_cross_entropy`."""

    chunk: int
    room: int
    keep: bool
    split: Split
    axis: int


class _Partial(NamedTuple):
    """Of the vocabulary so far, each [N]: the largest logit, the sum of exp(logit - maximum) and the label's logit."""

    maximum: jax.Array
    total: jax.Array
    label: jax.Array


def _whole(embedding: jax.Array, bias: jax.Array, dtype: Any, axis: int) -> tuple[jax.Array, jax.Array]:
    """The table in `dtype` and the bias; on accelerators with rows that nothing predicts, up to what they like."""
    more = -embedding.shape[0] % _ALIGNED if axis else 0
    return jnp.pad(embedding.astype(dtype), ((0, more), (0, 0))), jnp.pad(
        bias, (0, more), constant_values=vocabulary.NEVER
    )


def _forward(
    hidden: jax.Array, embedding: jax.Array, bias: jax.Array, labels: jax.Array, how: _How
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array | None]:
    """Loss [N], correct [N], log-sum-exp [N], and if `how.keep` the products with the whole table, else None."""
    lowest = jnp.full(labels.shape, -jnp.inf, jnp.float32)
    partial = _Partial(lowest, jnp.zeros(labels.shape, jnp.float32), lowest)
    split, axis = how.split, how.axis
    first = split.first_word(bias)

    def add(products: jax.Array, start: jax.Array | int, partial: _Partial) -> _Partial:
        logits = vocabulary.biased(products, bias, start, axis)
        largest, total = vocabulary.add_exponentials(logits, axis, partial.maximum, partial.total)
        word, size = labels - first - start, logits.shape[axis]
        here = vocabulary.at_words(logits, jnp.clip(word, 0, size - 1), axis)
        return _Partial(largest, total, jnp.where((word >= 0) & (word < size), here, partial.label))

    kept = None
    if how.keep:
        table, bias = _whole(embedding, bias, hidden.dtype, axis)
        kept = vocabulary.products(hidden, split.full_width(table), axis, hidden.dtype)
        partial = add(kept, 0, partial)
    else:

        def add_words(start: jax.Array | int, size: int, partial: _Partial) -> _Partial:
            rows = vocabulary.rows(embedding, start, size, hidden.dtype, split)
            return add(vocabulary.products(hidden, rows, axis), start, partial)

        partial = vocabulary.over_chunks(add_words, len(bias), how.chunk, partial)
    partial = _together(partial, split)
    log_sum_exp = partial.maximum + jnp.log(partial.total)
    scored = labels >= 0
    loss = jnp.where(scored, log_sum_exp - partial.label, 0.0)
    return loss, scored & (partial.label >= partial.maximum), log_sum_exp, kept


def _together(partial: _Partial, split: Split) -> _Partial:
    """The devices' results of their words as that of all words; the label is among the words of one of them."""
    maximum = split.over_words(partial.maximum, jax.lax.pmax)
    total = split.over_words(partial.total * jnp.exp(partial.maximum - maximum))
    return _Partial(maximum, total, split.over_words(partial.label, jax.lax.pmax))


class _Positions(NamedTuple):
    """Positions to be scored: hidden states [N, H], labels [N]; for the backward pass log-sum-exp and weight [N]."""

    hidden: jax.Array
    labels: jax.Array
    log_sum_exp: jax.Array
    weight: jax.Array


def _backward(
    positions: _Positions, embedding: jax.Array, bias: jax.Array, kept: jax.Array | None, how: _How
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Gradients of the sum of loss times weight with respect to hidden states, table and bias, fp32.

    Of a device's words with respect to the hidden states, of its positions with respect to table and bias.
    """
    hidden, labels, log_sum_exp, weight = positions
    split, axis = how.split, how.axis
    first = split.first_word(bias)

    def d_products(products: jax.Array, bias: jax.Array, start: jax.Array | int) -> tuple[jax.Array, jax.Array]:
        words = jax.lax.broadcasted_iota(jnp.int32, products.shape, axis)
        logits = vocabulary.biased(products, bias, start, axis)
        is_label = first + start + words == jnp.expand_dims(labels, axis)
        d_logits = jnp.exp(logits - jnp.expand_dims(log_sum_exp, axis)) - is_label
        d_logits *= jnp.expand_dims(weight, axis)
        return d_logits.astype(hidden.dtype), d_logits.sum(axis=1 - axis)

    def of_rows(d_logits: jax.Array) -> jax.Array:
        return split.own_width(_summed(d_logits, hidden, 1 - axis))

    if kept is not None:
        rows, aligned = _whole(embedding, bias, hidden.dtype, axis)
        d_logits, d_bias = d_products(kept, aligned, 0)
        d_hidden = _summed(d_logits, split.full_width(rows), axis)
        return d_hidden, of_rows(d_logits)[: len(bias)].astype(embedding.dtype), d_bias[: len(bias)]

    def add(start: jax.Array | int, size: int, carry: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        d_hidden, d_embedding, d_bias = carry
        rows = vocabulary.rows(embedding, start, size, hidden.dtype, split)
        d_logits, d_bias_here = d_products(vocabulary.products(hidden, rows, axis), bias, start)
        d_bias = jax.lax.dynamic_update_slice_in_dim(d_bias, d_bias_here, start, 0)
        d_hidden += _summed(d_logits, rows, axis)
        d_rows = of_rows(d_logits).astype(embedding.dtype)
        return d_hidden, jax.lax.dynamic_update_slice_in_dim(d_embedding, d_rows, start, 0), d_bias

    carry = (
        jnp.zeros(hidden.shape, jnp.float32),
        jnp.zeros(embedding.shape, embedding.dtype),
        jnp.zeros(bias.shape, jnp.float32),
    )
    return vocabulary.over_chunks(add, len(bias), how.chunk, carry)


def _summed(d_logits: jax.Array, factors: jax.Array, axis: int) -> jax.Array:
    """The product of d_logits with factors [n, H] over an axis of d_logits that has n, fp32 [the other axis, H]."""
    return jax.lax.dot_general(d_logits, factors, (((axis,), (0,)), ((), ())), preferred_element_type=jnp.float32)


def _part(array: jax.Array, where: slice) -> jax.Array:
    """Some positions of every group, `[groups, size, ...]` -> `[N, ...]`."""
    return array[:, where].reshape(-1, *array.shape[2:])


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _cross_entropy(
    hidden: jax.Array, copies: jax.Array, bias: jax.Array, labels: jax.Array, how: _How
) -> tuple[jax.Array, jax.Array]:
    how = dataclasses.replace(how, keep=False)  # without a backward pass nothing is kept
    return _cross_entropy_forward(hidden, copies, bias, labels, how)[0]


def _cross_entropy_forward(
    hidden: jax.Array, copies: jax.Array, bias: jax.Array, labels: jax.Array, how: _How
) -> tuple[tuple[jax.Array, jax.Array], tuple[Any, ...]]:
    split, room = how.split, how.room

    def part(arrays: Any, where: slice, how: _How) -> tuple[Any, ...]:
        hidden, copies, bias, labels = arrays
        *out, kept = _forward(_part(hidden, where), split.own(copies), bias, _part(labels, where), how)
        return *(array.reshape(len(labels), -1) for array in out), kept

    def on_device(*arrays: jax.Array) -> tuple[Any, ...]:
        labels = arrays[3]
        scored: list[jax.Array]
        *scored, kept = part(arrays, slice(room), how)
        if room < labels.shape[1]:  # the positions behind `room` are scored where any has a label
            behind, forgotten = slice(room, None), dataclasses.replace(how, keep=False)
            none = tuple(jnp.zeros(labels[:, behind].shape, array.dtype) for array in scored)
            more = split.anywhere(jnp.any(labels[:, behind] >= 0))
            rest = jax.lax.cond(more, lambda: part(arrays, behind, forgotten)[:3], lambda: none)
            scored = [jnp.concatenate(both, axis=1) for both in zip(scored, rest, strict=True)]
        return (*scored, kept)

    inputs = (splits.POSITIONS, split.table(), splits.BIAS, splits.POSITIONS)
    outputs = (*[splits.POSITIONS] * 3, splits.products(how.axis))
    found = split.on_devices(on_device, inputs, outputs)(hidden, copies, bias, labels)
    loss, correct, log_sum_exp, kept = found
    return (loss, correct), (hidden, copies, bias, labels, log_sum_exp, kept)


def _cross_entropy_backward(
    how: _How, residuals: tuple[Any, ...], cotangents: tuple[jax.Array, Any]
) -> tuple[jax.Array, jax.Array, jax.Array, None]:
    hidden, copies, bias, labels, log_sum_exp, kept = residuals
    weight = jnp.where(labels >= 0, cotangents[0], 0.0)
    split, room = how.split, how.room

    def part(arrays: Any, where: slice, kept: jax.Array | None) -> tuple[jax.Array, ...]:
        *of_positions, copies, bias = arrays
        positions = _Positions(*(_part(array, where) for array in of_positions))
        d_hidden, d_embedding, d_bias = _backward(positions, split.own(copies), bias, kept, how)
        hidden = of_positions[0]
        d_hidden = split.over_words(d_hidden).astype(hidden.dtype)
        return d_hidden.reshape(len(hidden), -1, hidden.shape[-1]), d_embedding, d_bias

    def on_device(*inputs: Any) -> tuple[jax.Array, ...]:
        *arrays, kept = inputs
        hidden, labels = arrays[:2]
        d_hidden, d_embedding, d_bias = part(arrays, slice(room), kept)
        if room < labels.shape[1]:
            behind = slice(room, None)

            def more(embedding: jax.Array, bias: jax.Array) -> tuple[jax.Array, ...]:
                d_hidden, *others = part(arrays, behind, None)
                return d_hidden, embedding + others[0], bias + others[1]

            d_rest, d_embedding, d_bias = jax.lax.cond(
                split.anywhere(jnp.any(labels[:, behind] >= 0)),
                more,
                lambda embedding, bias: (jnp.zeros_like(hidden[:, behind]), embedding, bias),
                d_embedding,
                d_bias,
            )
            d_hidden = jnp.concatenate([d_hidden, d_rest], axis=1)
        return d_hidden, split.of_copy(d_embedding), split.over_positions(d_bias)

    inputs = (*[splits.POSITIONS] * 4, split.table(), splits.BIAS, splits.products(how.axis))
    outputs = (splits.POSITIONS, split.table(), splits.BIAS)
    d_hidden, d_copies, d_bias = split.on_devices(on_device, inputs, outputs)(
        hidden, labels, log_sum_exp, weight, copies, bias, kept
    )
    return d_hidden, d_copies, d_bias.astype(bias.dtype), None


_cross_entropy.defvjp(_cross_entropy_forward, _cross_entropy_backward)


def vocabulary_cross_entropy(
    hidden: jax.Array,
    embedding: jax.Array,
    bias: jax.Array,
    labels: jax.Array,
    chunk: int,
    room: int = 0,
    keep: bool = False,
    split: Split = splits.ALONE,
    axis: int = 1,
) -> Scores:
    """Softmax cross-entropy over the vocabulary without an [N, V] array, forward or backward.

    Args:
      hidden: [..., H], with a leading axis or several; the products are computed in its dtype and summed in fp32.
      embedding: [V, H], the word table; or its copies (`Split.copies`), where it is looked up as well.
      bias: [V].
      labels: int32 [...]; a negative label is a position that is not scored: loss 0, not correct, no gradient.
      chunk: words of the vocabulary at a time; 0 or less, or V and more, is the whole vocabulary at once.
      room: of hidden [groups, size, H] with the scored positions first in each group: how many of a group are
        computed at once; the rest is computed where it has a label, so the result does not depend on it. 0: all.
      keep: keeps the logits for the backward pass, [positions, V] rounded to hidden's dtype, instead of computing them
        again, but for positions behind `room`. In 16 bits a label then counts as correct where it ties with the best.
      split: how positions and table lie on devices.
      axis: of the words in the logits; see `vocabulary.words_axis`.

    Returns:
      Scores with the negative log-likelihood f32 [...] in nats and whether no word has a larger logit than the label.

    Raises:
      ValueError: if the shapes do not fit together, or groups (or single positions) do not divide among the devices.
    """
    if labels.shape != hidden.shape[:-1]:
        raise ValueError(f"labels must be {hidden.shape[:-1]}, got {labels.shape}")
    grouped = labels.ndim == 2 and room > 0
    split.check(len(labels) if grouped else labels.size)
    copies = split.copies(embedding)
    vocabulary.check_shapes(hidden, jax.eval_shape(split.own, copies), bias)
    rows = labels if grouped else labels.reshape(split.parts, -1)
    room = room if grouped else rows.shape[1]
    hidden = hidden.reshape(*rows.shape, hidden.shape[-1])
    how = _How(chunk, min(room, rows.shape[1]), keep, split, axis)
    out = _cross_entropy(hidden, copies, bias, rows, how)
    return Scores(*(array.reshape(labels.shape) for array in out))
