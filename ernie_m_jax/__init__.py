"""ERNIE-M in JAX: the small public surface.

What it names is loaded when first used, so that `import ernie_m_jax` stays cheap.
"""

import importlib
from typing import Any

_PUBLIC = {
    "Model": "ernie_m_jax.pretrained",
    "Tokenizer": "ernie_m_jax.tokenizer",
    "__version__": "ernie_m_jax.version",
    "encode_texts": "ernie_m_jax.evaluation.encode",
    "load": "ernie_m_jax.api",
    "save": "ernie_m_jax.api",
    "train": "ernie_m_jax.api",
}
__all__ = ["Model", "Tokenizer", "__version__", "encode_texts", "load", "save", "train"]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'ernie_m_jax' has no attribute {name!r}; public are {', '.join(__all__)}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
