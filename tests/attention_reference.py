"""Attention in NumPy, inputs for it, and the kernels of a program, for the tests of the kernels."""

import jax.numpy as jnp
import numpy as np

from ernie_m_jax.model import visibility
from ernie_m_jax.model.dropout import attention_kept


def inputs(shape, table, seed=0):
    """Four projections (the last a gradient), segments with padding at the end, roles, seeds."""
    batch, length, heads, _ = shape
    rng = np.random.default_rng(seed)
    arrays = [rng.standard_normal(shape).astype(np.float32) for _ in range(4)]
    segments = np.sort(rng.integers(1, 5, (batch, length)), axis=1)
    segments[:, length - length // 8 :] = 0
    roles = rng.integers(0, len(table), (batch, length))
    roles[0, 3] = len(table)  # sees nothing and is seen by nothing
    seeds = rng.integers(0, 2**32, (batch, heads), np.uint32)
    return arrays, segments.astype(np.int32), roles.astype(np.int32), jnp.asarray(seeds)


def plain(query, key, value, mask, keep, rate, grad):
    """Output and gradients in float64."""
    query, key, value, grad = (np.asarray(x, np.float64) for x in (query, key, value, grad))
    scale = query.shape[-1] ** -0.5
    logits = np.where(mask, np.einsum("bqhd,bkhd->bhqk", query, key) * scale, -np.inf)
    probs = np.exp(logits - logits.max(-1, keepdims=True))
    probs /= probs.sum(-1, keepdims=True)
    factor = keep / (1 - rate)
    out = np.einsum("bhqk,bkhd->bqhd", probs * factor, value)
    d_value = np.einsum("bhqk,bqhd->bkhd", probs * factor, grad)
    d_probs = np.einsum("bqhd,bkhd->bhqk", grad, value) * factor
    d_logits = probs * (d_probs - (probs * d_probs).sum(-1, keepdims=True)) * scale
    return out, np.einsum("bhqk,bkhd->bqhd", d_logits, key), np.einsum("bhqk,bqhd->bkhd", d_logits, query), d_value


def expected(arrays, segments, roles, table, seeds, rate):
    """Output and gradients of `plain`, and which queries see nothing: what these get is nobody's business.

    Their gradients among the arrays become zero.
    """
    mask = np.asarray(visibility.visible(segments, segments, roles, roles, table))
    at = jnp.arange(segments.shape[1])
    keep = (
        np.asarray(attention_kept(seeds[:, :, None, None], at[:, None], at[None], rate)) if rate else np.ones((), bool)
    )
    blind = ~mask.any(-1)[:, 0]
    arrays[3][blind] = 0.0
    return plain(*arrays[:3], np.where(blind[:, None, :, None], True, mask), keep, rate, arrays[3]), blind


def kernel_calls(program, name):
    """How many kernels of a name a program has whose results are read; a compiler leaves out the others."""
    read = {id(value) for one in program.eqns for value in one.invars} | {id(value) for value in program.outvars}
    count = 0
    for one in program.eqns:
        count += one.params.get("name") == name and any(id(value) in read for value in one.outvars)
        for value in one.params.values():
            for part in value if isinstance(value, (tuple, list)) else (value,):
                inner = getattr(part, "jaxpr", part)
                count += kernel_calls(inner, name) if hasattr(inner, "eqns") else 0
    return count
