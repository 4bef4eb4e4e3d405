"""XLA's options: what is asked for, what the environment says instead, and what this XLA does not know."""

import jax
import numpy as np
import pytest

from ernie_m_jax import compiler, config, sharding
from tests.conftest import small_tree

OPTION = "xla_cpu_experimental_ynn_fusion_type"


@pytest.fixture
def mesh():
    return sharding.make_mesh(config.resolve(small_tree()).mesh)


def product(x, y):
    return jax.nn.gelu(x @ y) @ y


def test_products_on_a_cpu_are_not_given_to_ynnpack(mesh):
    arrays = tuple(jax.random.uniform(jax.random.key(seed), (256, 256)) for seed in (1, 2))
    plain = jax.jit(product, compiler_options={OPTION: "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT"})
    assert "__ynn_fusion" in plain.lower(*arrays).compile().as_text()
    for ours in (compiler.jit(product), compiler.jit(product, mesh, out_shardings=sharding.replicated(mesh))):
        assert "__ynn_fusion" not in ours.lower(*arrays).compile().as_text()
        np.testing.assert_allclose(ours(*arrays), product(*arrays), rtol=1e-5)


def test_the_environment_counts_before_our_options(monkeypatch):
    assert OPTION in compiler.options("cpu")
    monkeypatch.setenv("XLA_FLAGS", f"--some_other --{OPTION}=LIBRARY_FUSION_TYPE_DOT")
    assert OPTION not in compiler.options("cpu")


def test_an_option_that_this_xla_does_not_know_is_left_out(monkeypatch):
    monkeypatch.setattr(compiler, "OPTIONS", {"cpu": {"xla_of_another_version": 1, OPTION: ""}})
    assert compiler.options("cpu") == {OPTION: ""}
    assert compiler.jit(lambda x: x + 1)(1) == 2


def test_a_platform_without_options_has_none():
    assert compiler.options("tpu") == {}
