"""`python -m ernie_m_jax.tokenizer`: trains a tokenizer, or encodes text."""

import sys

from ernie_m_jax.tokenizer import training

sys.exit(training.main())
