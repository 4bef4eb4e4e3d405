"""ERNIE-M in JAX: the small public surface.

What it names is loaded when first used, so that `import ernie_m_jax` stays cheap.
"""

import importlib
from typing import Any

_PUBLIC = {
    "Tokenizer": "ernie_m_jax.tokenizer",
    "encode_texts": "ernie_m_jax.encode",
    "load": "ernie_m_jax.convert.model",
    "save": "ernie_m_jax.convert.model",
}
__all__ = ["Tokenizer", "encode_texts", "load", "save"]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'ernie_m_jax' has no attribute {name!r}; public are {', '.join(__all__)}")
