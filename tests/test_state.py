"""The state of training: made anew with the model's own parameters, or from given ones."""

import jax
import numpy as np
import optax
import pytest

from ernie_m_jax import sharding
from ernie_m_jax.training import state
from tests.linear_model import Linear, setup
from tests.mesh_worker import ONE


def test_the_initial_parameters_are_the_models_own():
    start, _ = setup()
    boxed = Linear().init(jax.random.key(0), np.zeros((1, 5), np.float32))["params"]
    np.testing.assert_array_equal(start.params["kernel"], boxed["kernel"].value)
    assert start.step == 0


def test_state_from_params_starts_where_it_is_told():
    mesh = sharding.make_mesh(ONE, jax.devices()[:1])
    tx = optax.adam(0.1)
    abstract = state.abstract_state(Linear(), lambda params: tx, mesh, jax.random.key(0), np.zeros((1, 5), np.float32))
    kernel = np.arange(5, dtype=np.float32)
    got = state.state_from_params({"kernel": kernel}, tx, abstract)
    np.testing.assert_array_equal(got.params["kernel"], kernel)
    assert jax.tree.map(lambda x: (x.shape, x.dtype, x.sharding), got) == jax.tree.map(
        lambda x: (x.shape, x.dtype, x.sharding), abstract
    )
    with pytest.raises(ValueError, match=r"missing \['kernel'\], unknown \['weight'\]"):
        state.state_from_params({"weight": kernel}, tx, abstract)
    with pytest.raises(ValueError, match=r"'kernel' is float32\(4,\), the model's is float32\(5,\)"):
        state.state_from_params({"kernel": kernel[:4]}, tx, abstract)
