"""What the objectives share: which tokens to mask and how (host), and scoring the predictions (device).

On the host, actions are drawn first and applied after, so that each can be tested apart. On the device, hidden states
come in, `Sums` go out.
"""

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ernie_m_jax.config import Config
from ernie_m_jax.model.encoder import Inputs
from ernie_m_jax.model.heads import scored_first
from ernie_m_jax.model.loss import Scores
from ernie_m_jax.task import IGNORE, Batch, Spec, Sums
from ernie_m_jax.tokenizer.base import LEADING_SPECIALS

# Share of the chosen tokens that become [MASK] and that become a random token; the rest stays (BERT's 80/10/10).
MASK_SHARE, RANDOM_SHARE = 0.8, 0.1
# Every tokenizer that pre-training takes has the leading specials first and [MASK] as its last id.
FIRST_ORDINARY_ID = len(LEADING_SPECIALS)
# Room for predictions a row, beyond the mean share: the number of masked tokens varies with how a row is packed.
PREDICTION_SLACK = 1.15
# Rows whose predictions are scored together, and positions of a batch from which on it is worth a branch.
GROUPED_ROWS, WORTHWHILE = 8, 256


def word_head(cfg: Config, keys: Any) -> Iterator[str]:
    """What an objective that predicts words requires of the model, and of the tokenizer."""
    del keys
    if cfg.model.mlm_head == "none":
        yield "config.model.mlm_head is 'none', but the objectives of config.stages predict words with it"
    if cfg.tokenizer.style in ("bert", "xlm"):
        # Their special tokens stand elsewhere, and random words are drawn from between [UNK] and [MASK].
        style = cfg.tokenizer.style
        yield f"config.tokenizer.style {style!r} is for fine-tuning and using a model, not pre-training it"


def choose(candidates: np.ndarray, ratio: float, rng: np.random.Generator) -> np.ndarray:
    """The tokens to predict: `ratio` of the candidates, rounded at random, at least one if there are any.

    Args:
      candidates: int indices of tokens, `[n]`, ascending.
      ratio: share of them.
      rng: of the choice.

    Returns:
      The chosen indices, ascending int32.
    """
    number = min(len(candidates), max(1, int(ratio * len(candidates) + rng.random())))
    return np.sort(rng.choice(candidates, size=number, replace=False)).astype(np.int32)


def known(ids: np.ndarray, indices: np.ndarray, tokenizer: Any) -> np.ndarray:
    """Those of the `indices` at which `ids` has a word of the vocabulary: nobody should learn to write [UNK]."""
    return indices[ids[indices] != tokenizer.unk_id]


def special_ids(vocab_size: int) -> tuple[int, ...]:
    """The special tokens' ids, which nothing may write."""
    return (*range(FIRST_ORDINARY_ID), vocab_size - 1)


def draw_replacements(count: int, tokenizer: Any, rng: np.random.Generator) -> np.ndarray:
    """For each chosen token what to write there: the [MASK] id, a random ordinary id, or IGNORE to keep it; int32."""
    action = rng.random(count)
    random_ids = rng.integers(FIRST_ORDINARY_ID, tokenizer.mask_id, size=count)
    written = np.where(action < MASK_SHARE, tokenizer.mask_id, random_ids)
    return np.where(action < MASK_SHARE + RANDOM_SHARE, written, IGNORE).astype(np.int32)


def apply_replacements(ids: np.ndarray, chosen: np.ndarray, replacements: np.ndarray) -> np.ndarray:
    """`ids` with the replacements written at the chosen places."""
    out = ids.copy()
    out[chosen] = np.where(replacements == IGNORE, ids[chosen], replacements)
    return out


def windows(ids: Sequence[int], length: int, rng: np.random.Generator) -> list[Sequence[int]]:
    """A text as consecutive windows of `length` tokens, so that none is lost; one of them is the shorter rest.

    Which one is drawn: another epoch cuts a long text at other places.
    """
    sizes = [length] * (len(ids) // length)
    if rest := len(ids) % length:
        sizes.insert(int(rng.integers(len(sizes) + 1)), rest)
    ends = np.cumsum(sizes, dtype=int)
    return [ids[end - size : end] for end, size in zip(ends, sizes, strict=True)]


def row_spec(cfg: Config, predictions: int) -> Spec:
    """Shapes of a packed row that every objective has: token features `[L]`, predictions `[P]`, at most one a token."""
    length = cfg.data.sequence_length
    predictions = min(predictions, length)
    spec: Spec = dict.fromkeys(("ids", "segments", "positions", "roles", "languages"), ((length,), np.int32))
    spec |= dict.fromkeys(("predict_at", "predict_labels"), ((predictions,), np.int32))
    return spec


def prediction_room(words: float, ratio: float) -> int:
    """Predictions that a row has room for, given its mean number of maskable words; a multiple of 8."""
    return int(-(-(words * ratio * PREDICTION_SLACK + 4) // 8) * 8)


def loss_under(table: np.ndarray, predictions: Callable[[Config, Any], float]) -> Callable[..., Sums]:
    """A task's `loss`: negative log-likelihood of the tokens to predict, where `table` says who sees whom.

    `predictions(cfg, keys)` is how many a full row has on average, the task's own.
    """

    def loss(
        cfg: Config, keys: Any, model: Any, params: Any, batch: Batch, rng: jax.Array, deterministic: bool = False
    ) -> Sums:
        encoder = functools.partial(model.apply, {"params": params}, rngs={"dropout": rng})
        return prediction_sums(
            encoder, Inputs.of(batch), table, batch, predictions(cfg, keys), deterministic=deterministic
        )

    return loss


def prediction_sums(
    apply: Callable[..., Any],
    inputs: Inputs,
    table: np.ndarray,
    batch: Batch,
    predictions: float,
    *,
    deterministic: bool,
) -> Sums:
    """Loss (nats) and accuracy over the positions with a label, as (total, number of such positions).

    Encoded and scored in one call, so that over several devices the word table's gradient is added up once.

    Args:
      apply: the model's, bound to parameters and, unless `deterministic`, to a key for dropout.
      inputs: of the encoder, int32 [B, L] each.
      table: who sees whom.
      batch: "predict_at" and "predict_labels", int32 [B, P].
      predictions: how many a full row has on average.
      deterministic: without dropout.

    A row has room for more predictions than the `predictions` of an average one. Rows are scored in groups, in which
    this evens out: a group computes the logits of what its rows have on average and a little more, and all of its room
    only where that is not enough.
    """
    labels = batch["predict_labels"]
    # A group's rows lie on one device, where the rows divide evenly over all of them.
    rows = math.gcd(len(labels) // math.gcd(len(labels), jax.device_count()), GROUPED_ROWS)
    # A masked share is rounded at random in each example, so the number in a group varies by about its rows' root.
    room = int(-(-(rows * predictions + 4 * rows**0.5) // 8) * 8)
    if labels.size < WORTHWHILE:
        room = rows * labels.shape[1]

    def score(encoder: Any) -> Scores:
        hidden = encoder.encode(inputs, table, deterministic=deterministic, at=batch["predict_at"])
        return encoder.score(*scored_first(hidden, labels, rows), room)

    scores = apply(method=score)
    weight = jnp.sum(labels != IGNORE).astype(jnp.float32)
    return {
        "loss": (jnp.sum(scores.loss), weight),
        "accuracy": (jnp.sum(scores.correct.astype(jnp.float32)), weight),
    }
