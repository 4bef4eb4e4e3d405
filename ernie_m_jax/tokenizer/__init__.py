"""Text to token ids, and back.

`base` has what every tokenizer has; a published behaviour is a module of its own (`sentencepiece`, `wordpiece`, `xlm`);
`training` makes a new tokenizer out of text.
"""

import importlib
from typing import Any

from ernie_m_jax.tokenizer.base import (
    LEADING_SPECIALS,
    MASK,
    MODEL_FILE,
    STYLES,
    VOCABULARY_FILE,
    Encoding,
    Tokenizer,
)

__all__ = [
    "LEADING_SPECIALS",
    "MASK",
    "MODEL_FILE",
    "STYLES",
    "VOCABULARY_FILE",
    "Encoding",
    "Tokenizer",
    "train",
]


def __getattr__(name: str) -> Any:
    if name == "train":  # when first used, since it needs SentencePiece
        return importlib.import_module("ernie_m_jax.tokenizer.training").train
    raise AttributeError(f"module 'ernie_m_jax.tokenizer' has no attribute {name!r}")
