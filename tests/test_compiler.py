"""XLA's options: what is asked for, what the environment says instead, and what this XLA does not know."""

import dataclasses
import pathlib

import jax
import numpy as np
import pytest

from configs.finetune import xnli
from ernie_m_jax import compiler, config, sharding
from ernie_m_jax.evaluation.runner import Evaluations
from ernie_m_jax.training import stages, step
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


def test_what_computes_the_words_logits_is_compiled_as_xla_does(mesh):
    arrays = tuple(jax.random.uniform(jax.random.key(seed), (256, 256)) for seed in (1, 2))
    both = (compiler.jit(product, mesh, words=True), jax.jit(product))
    ours, plain = (jitted.lower(*arrays).compile().as_text() for jitted in both)
    assert "__ynn_fusion" in plain
    assert "__ynn_fusion" in ours


def fine_tuning():
    tree = xnli.get_config("size=tiny")
    tree.model.vocab_size, tree.evals, tree.train.select = 300, {}, ""
    tree.stages.finetune.update(steps=10, epochs=0.0)
    return tree


@pytest.mark.parametrize(
    ("tree", "words"),
    [(small_tree, {"mmlm": True, "tlm": True, "camlm": True, "btmlm": True}), (fine_tuning, {"xnli": False})],
    ids=["pre-training", "fine-tuning"],
)
def test_a_step_says_whether_it_predicts_words(tree, words, monkeypatch):
    settings = config.resolve(tree())
    mesh = sharding.make_mesh(settings.mesh)
    none = Evaluations(dataclasses.replace(settings, evals={}))
    run = stages.Run(settings, None, stages.make_model(settings, mesh), mesh, {}, none)
    monkeypatch.setattr(step.compiler, "jit", lambda function, mesh, words, **how: words)
    assert stages.compiled_steps(run, stages.make_stage(settings, next(iter(settings.stages)), pathlib.Path())) == words


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
