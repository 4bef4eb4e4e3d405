"""Tatoeba: sentence retrieval after contrastive fine-tuning on parallel pairs (the starred row of the paper's table).

    pair --examples--> CLS a SEP | CLS b SEP, one segment, two roles that do not see each other
         --loss--> mean over each side's tokens at one layer -> similarity of every side with every other of the batch

Two losses. "hardest" is binary cross-entropy with the hardest negative of each row and column, for similarities s in
(0, 1): -(2 sum_i log s_ii + sum_i min_{j != i} log(1 - s_ij) + sum_j min_{i != j} log(1 - s_ij)). "infonce" is the
cross-entropy of each sentence's own translation among all of the batch, in both directions. Similarity is the cosine
over `temperature`; for "hardest" its sigmoid is s (ours: the paper does not say how s comes to lie in (0, 1)).

The other pairs of a batch are the negatives, so here a batch cannot be divided: `train.grad_accumulation_steps` is 1.
Zero-shot retrieval needs no task; it is the evaluation `retrieval`.
"""

import dataclasses
from collections.abc import Iterator
from dataclasses import field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ernie_m_jax.config import Config
from ernie_m_jax.config_fields import ABOVE_ZERO, between, one_of
from ernie_m_jax.data import layout, mixture
from ernie_m_jax.model import depth
from ernie_m_jax.model.encoder import Inputs
from ernie_m_jax.task import Batch, Example, Group, Record, Sources, Spec, Sums, Task, TaskKeys

FIRST, SECOND = range(2)
TABLE = np.eye(2, dtype=bool)  # each side sees itself only
SHORTEST = 12  # tokens of the shortest pair that rows are planned for: bounds the pairs per row


@dataclasses.dataclass(frozen=True)
class TatoebaKeys(TaskKeys):
    """Keys of the task; `configs/base.py` gives their meaning."""

    layer: int = field(metadata=between(-1))
    loss: str = field(metadata=one_of("hardest", "infonce"))
    temperature: float = field(metadata=between(ABOVE_ZERO))
    max_length: int = field(metadata=between(4))


def records(cfg: Config, keys: TatoebaKeys, sources: Sources) -> dict[str, Group]:
    """Parallel text, an entry per language pair."""
    del keys
    return mixture.groups(sources.parallel(), cfg.data.sampling_exponent)


def examples(record: Record, tokenizer: Any, cfg: Config, keys: TatoebaKeys, rng: np.random.Generator) -> list[Example]:
    """One example: both sentences, each cut to `max_length` and with positions of its own; none if one is empty."""
    del rng
    pieces = [layout.token_ids(record, side, tokenizer)[: keys.max_length - 2] for side in range(2)]
    sides = [[tokenizer.cls_id, *ids, tokenizer.sep_id] for ids in pieces]
    if min(map(len, sides)) < 3:
        return []
    roles = np.repeat(np.arange(2, dtype=np.int32), [len(side) for side in sides])
    languages = layout.languages_of(cfg, record.languages, roles)
    return [
        {
            "ids": np.concatenate(sides).astype(np.int32),
            "positions": np.concatenate([np.arange(len(side), dtype=np.int32) for side in sides]),
            "roles": roles,
            "languages": layout.language_ids(cfg, languages, np.zeros(len(roles), bool)),
        }
    ]


def spec(cfg: Config, keys: TatoebaKeys) -> Spec:
    """A packed row."""
    del keys
    names = ("ids", "segments", "positions", "roles", "languages")
    return dict.fromkeys(names, ((cfg.data.sequence_length,), np.int32))


def requires(cfg: Config, keys: TatoebaKeys) -> Iterator[str]:
    """Room for both sentences, a layer that is there, and an undivided batch."""
    if 2 * keys.max_length > cfg.data.sequence_length:
        yield f"max_length {keys.max_length} of two sentences exceeds config.data.sequence_length"
    if keys.layer > cfg.model.num_layers:
        yield f"layer is {keys.layer}; config.model.num_layers is {cfg.model.num_layers}"
    if cfg.train.grad_accumulation_steps > 1:
        yield "config.train.grad_accumulation_steps must be 1: a batch's pairs are one another's negatives"


def vectors(cfg: Config, keys: TatoebaKeys, model: Any, params: Any, batch: Batch, rng: jax.Array | None) -> jax.Array:
    """Unit vectors of both sides of each pair, float32 [2, B * P, H]; zero where a row has fewer than P pairs."""
    layer = cfg.model.num_layers if keys.layer < 0 else keys.layer
    hidden = depth.hidden(model, params, Inputs.of(batch), TABLE, layer, rng).astype(jnp.float32)
    pairs = jnp.arange(1, pairs_per_row(cfg) + 1)
    of_pair = batch["segments"][:, None] == pairs[None, :, None]  # [B, P, L]
    sides = []
    for role in (FIRST, SECOND):
        own = (of_pair & (batch["roles"] == role)[:, None]).astype(jnp.float32)
        summed = jnp.einsum("bpl,blh->bph", own, hidden)
        # Not `norm`, whose gradient at the zeros of an absent pair is no number.
        scale = jax.lax.rsqrt(jnp.sum(jnp.square(summed), axis=-1, keepdims=True) + 1e-12)
        sides.append((summed * scale).reshape(-1, hidden.shape[-1]))
    return jnp.stack(sides)


def pairs_per_row(cfg: Config) -> int:
    """Pairs that are counted of a row."""
    return cfg.data.sequence_length // SHORTEST


def loss(
    cfg: Config, keys: TatoebaKeys, model: Any, params: Any, batch: Batch, rng: jax.Array, deterministic: bool = False
) -> Sums:
    """The loss per pair, and the share of sentences whose own translation is the most similar one of the batch."""
    first, second = vectors(cfg, keys, model, params, batch, None if deterministic else rng)
    present = jnp.any(first != 0, axis=-1)
    similar = first @ second.T / keys.temperature
    both = present[:, None] & present[None]
    own = jnp.eye(len(present), dtype=bool)
    per_pair = (hardest if keys.loss == "hardest" else infonce)(similar, both, own)
    ranked = jnp.where(both, similar, -jnp.inf)
    right = jnp.stack([jnp.argmax(ranked, axis=axis) == jnp.arange(len(present)) for axis in (0, 1)])
    weight = jnp.sum(present).astype(jnp.float32)
    return {
        "loss": (jnp.sum(jnp.where(present, per_pair, 0.0)), weight),
        "accuracy": (jnp.sum(present & right).astype(jnp.float32) / 2, weight),
    }


def hardest(similar: jax.Array, both: jax.Array, own: jax.Array) -> jax.Array:
    """Hardest-negative binary cross-entropy of each pair, [N], of similarities [N, N] before the sigmoid."""
    positive = jax.nn.log_sigmoid(jnp.diagonal(similar))
    # log(1 - s) is least where the similarity is greatest; without a negative nothing is added.
    negative = jnp.where(both & ~own, jax.nn.log_sigmoid(-similar), 0.0)
    return -(2 * positive + negative.min(axis=1) + negative.min(axis=0))


def infonce(similar: jax.Array, both: jax.Array, own: jax.Array) -> jax.Array:
    """Cross-entropy of each pair among all of the batch, [N], the mean of both directions."""
    del own
    masked = jnp.where(both, similar, jnp.finfo(jnp.float32).min)
    logs = [jax.nn.log_softmax(masked, axis=axis) for axis in (0, 1)]
    return -(jnp.diagonal(logs[0]) + jnp.diagonal(logs[1])) / 2


TASK = Task(config=TatoebaKeys, records=records, examples=examples, spec=spec, loss=loss, requires=requires)
