"""Which parameters are wanted: names to leave out, and the architecture that is left."""

import dataclasses
import difflib
import re
from collections.abc import Iterable, Sequence
from typing import Any

from ernie_m_jax.config import ModelConfig
from ernie_m_jax.config_checks import POOLED_HEADS
from ernie_m_jax.weights.tensors import ConversionError

PARTS = ("mlm_head", "head", "pooler", "embeddings/language")  # what a model can do without


def pattern(names: Sequence[str]) -> str:
    """A regular expression for all names that are, or begin with a part named by, one of `names`; "" for none."""
    return "|".join(f"{re.escape(name.rstrip('/.'))}([/.].*)?" for name in names)


def check_used(names: Sequence[str], known: Iterable[str], flag: str) -> None:
    """Raises ConversionError where one of `names` stands for none of the `known`."""
    known = list(known)
    for name in names:
        if not any(re.fullmatch(pattern([name]), other) for other in known):
            close = difflib.get_close_matches(name, known, n=1, cutoff=0.0)
            nearest = f" (nearest: {close[0]})" if close else ""
            raise ConversionError(f"{flag} {name}: there is nothing of that name to leave out{nearest}")


def without(config: ModelConfig, drop: Sequence[str]) -> ModelConfig:
    """The architecture that is left without some of `PARTS`.

    Raises:
      ValueError: `drop` is one string.
      ConversionError: `drop` names something else, a part that is not there, or one that another part needs.
    """
    if isinstance(drop, str):
        raise ValueError(f"drop is the string {drop!r}; it must be a list of parameters' names")
    changes: dict[str, Any] = {}
    for name in (name.rstrip("/") for name in drop):
        there = {
            "mlm_head": config.mlm_head != "none",
            "head": config.head != "none",
            "pooler": config.pooler,
            "embeddings/language": config.language_embedding != "none",
        }
        if not there.get(name):
            parts = ", ".join(part for part, has in there.items() if has) or "nothing"
            raise ConversionError(f"drop {name}: not a part that this model can do without; those are: {parts}")
        without_it: dict[str, dict[str, Any]] = {
            "mlm_head": {"mlm_head": "none"},
            "head": {"head": "none", "labels": ()},
            "pooler": {"pooler": False},
            "embeddings/language": {"language_embedding": "none", "num_languages": 0},
        }
        changes |= without_it[name]
    left = dataclasses.replace(config, **changes)
    if left.head in POOLED_HEADS and not left.pooler:
        raise ConversionError(f"drop pooler: the head {left.head} needs it; drop both, or neither")
    return left
