"""Text to token ids, and back.

`base` has what every tokenizer has; a published behaviour is a module of its own (`sentencepiece`, `wordpiece`, `xlm`);
`training` makes a new tokenizer out of text.
"""

from ernie_m_jax.tokenizer.base import (
    LEADING_SPECIALS,
    MASK,
    MODEL_FILE,
    STYLES,
    VOCABULARY_FILE,
    Encoding,
    Tokenizer,
)
from ernie_m_jax.tokenizer.training import train

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
