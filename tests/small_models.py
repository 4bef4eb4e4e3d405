"""A small model in memory, with random weights large enough that its predictions differ."""

import dataclasses

import numpy as np

import ernie_m_jax
from ernie_m_jax import config as configs
from ernie_m_jax.checkpoint import tree
from ernie_m_jax.convert import model as conversion
from tests.conftest import small_tree

LANGUAGES = ("en", "de", "ru")


def random_params(config, scale=0.3):
    """Parameters of the shapes that `config` asks for, layers stacked."""
    rng = np.random.default_rng(0)
    shapes = conversion.shapes(config)
    return tree.nest({name: rng.normal(0, scale, shape).astype(np.float32) for name, shape in shapes.items()})


def random_model(tokenizer, languages=LANGUAGES, pair_positions="continued", **keys):
    """A `Model` of the small config, with other keys of `config.model` where given."""
    config = dataclasses.replace(configs.resolve(small_tree()).model, **keys)
    return ernie_m_jax.Model(config, random_params(config), tokenizer, languages, pair_positions, "somewhere")
