"""The encoder and its heads: token-level integers in, hidden states, losses and generated tokens out."""

from ernie_m_jax.model.encoder import ErnieM, Inputs
from ernie_m_jax.model.generation import Generated
from ernie_m_jax.model.loss import Scores
from ernie_m_jax.model.visibility import FULL

__all__ = ["FULL", "ErnieM", "Generated", "Inputs", "Scores"]
