"""Which parameters are wanted: names to leave out, and the architecture that is left."""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

from ernie_m_jax.config import ModelConfig
from ernie_m_jax.convert import model as models
from ernie_m_jax.convert.tensors import ConversionError


def pattern(names: Sequence[str]) -> str:
    """A regular expression for all names that are, or begin with a part named by, one of `names`; "" for none."""
    return "|".join(f"{re.escape(name.rstrip('/.'))}([/.].*)?" for name in names)


def without(
    config: ModelConfig, shapes: Mapping[str, tuple[int, ...]], drop: Sequence[str]
) -> tuple[ModelConfig, dict[str, tuple[int, ...]]]:
    """The architecture and the parameters that are left without those that `drop` names.

    Raises:
      ConversionError: what is left is no model: only whole heads, the pooler and the language table can go.
    """
    kept = {name: shape for name, shape in shapes.items() if not drop or not re.fullmatch(pattern(drop), name)}
    modules = {name.rpartition("/")[0] for name in kept} | set(kept)
    changes: dict[str, Any] = {
        "mlm_head": config.mlm_head if "mlm_head/bias" in kept else "none",
        "head": config.head if "head" in modules else "none",
        "pooler": config.pooler and "pooler/dense" in modules,
    }
    if "embeddings/language" not in kept:
        changes |= {"language_embedding": "none", "num_languages": 0}
    left = dataclasses.replace(config, **changes)
    if models.shapes(left) != kept:
        wrong = sorted(set(models.shapes(left)) ^ set(kept))
        raise ConversionError(
            f"without {', '.join(drop)} there is no model: {', '.join(wrong[:5])}; what can be left out is mlm_head, "
            "head, pooler and embeddings/language"
        )
    return left, kept
