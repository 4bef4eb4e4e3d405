"""The reference implementations' numbers out of their checkpoints: hidden states, pooled vectors, logits, gradients.

The recorded cases are transformers' ErnieM, XLM-R, BERT and XLM and PaddleNLP's ErnieM, random weights, padded batches
of lengths 1 to 512; tiny here, the released sizes under `-m slow`. See reference.py.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ernie_m_jax
from ernie_m_jax.checkpoint import tree
from ernie_m_jax.config import ComputeConfig
from ernie_m_jax.convert import rules, transform
from ernie_m_jax.model import FULL, ErnieM, Inputs
from tests import reference

COMPUTE = ComputeConfig(dtype="float32", scan_layers=True, remat="none", attention="xla", vocab_chunk=16_384)
UNROLLED = ComputeConfig(dtype="float32", scan_layers=False, remat="none", attention="xla", vocab_chunk=16_384)


def names(gradients: bool = False) -> list:
    """The recorded cases, those of the released sizes marked slow."""
    chosen = [name for name in reference.NAMES if name.endswith("-gradients") == gradients]
    return [pytest.param(name, marks=() if "-tiny" in name else pytest.mark.slow) for name in chosen]


def inputs_of(case: reference.Case) -> Inputs:
    """The batch as the encoder takes it; languages and token types as record_models.py has them."""
    ids, mask = (array.astype(np.int32) for array in case.batch())
    positions = np.arange(ids.shape[1], dtype=np.int32)[None] * mask
    languages, types = np.zeros_like(ids), None
    if case.name.startswith("bert"):
        types = (np.arange(512, dtype=np.int32)[None] // 5 % 2).repeat(len(ids), 0)
    if case.name.startswith("xlm-") and "no_languages" not in case.name:
        languages = (1 + np.arange(512, dtype=np.int32)[None] // 7 % case.facts["config"]["n_langs"]) * mask
    return Inputs(ids, positions, mask, np.zeros_like(ids), languages, types)


def run(model: ErnieM, params, inputs: Inputs) -> np.ndarray:
    """Every layer's output, [layers + 1, B, L, H]."""
    encode = functools.partial(model.apply, table=FULL, all_layers=True, method="encode")
    return jax.jit(encode)({"params": params}, inputs)


def close(found, expected, tolerance: float, what: str) -> None:
    """Largest absolute error, shown by `pytest -s`."""
    found, expected = np.asarray(found), np.asarray(expected)
    assert found.shape == expected.shape
    error = float(np.abs(found - expected).max())
    print(f"{what}: {error:.1e} of {float(np.abs(expected).max()):.1f}")
    assert error <= tolerance, what


@pytest.mark.parametrize("name", names())
def test_numbers_equal_the_reference(name, tmp_path):
    case = reference.case(name)
    config, params, _ = ernie_m_jax.load(case.write(tmp_path / "checkpoint"))
    model, inputs = ErnieM(config, COMPUTE), inputs_of(case)
    rows, positions = case.arrays["at"].T
    states = run(model, params, inputs)
    apply = functools.partial(model.apply, {"params": params})
    compared = 0
    if "hidden" in case.arrays:
        chosen = np.asarray(states)[case.arrays["layers"]][:, rows, positions]
        close(chosen, case.arrays["hidden"], case.tolerance, f"{name} hidden")
        compared += 1
    if "pooled" in case.arrays:
        close(apply(states[-1], method="pool"), case.arrays["pooled"], case.tolerance, f"{name} pooled")
        compared += 1
    if "mlm_logits" in case.arrays:
        logits = np.asarray(apply(states[-1][rows, positions], method="predict"))[:, case.arrays["columns"]]
        close(logits, case.arrays["mlm_logits"], case.tolerance, f"{name} mlm logits")
        compared += 1
    if "logits" in case.arrays:
        logits = np.asarray(head_logits(apply, config.head, states[-1]))
        expected = case.arrays["logits"]
        if config.head == "multiple_choice":
            logits = logits[None, :4, 0]
            expected = expected.reshape(1, -1)
        elif config.head != "sequence_classification":
            logits = logits[rows, positions]
        if case.facts["class"] == "UIEM":  # PaddleNLP's class returns probabilities
            logits = 1 / (1 + np.exp(-logits))
        close(logits, expected, case.tolerance, f"{name} logits")
        compared += 1
    assert compared


def head_logits(apply, head: str, hidden):
    """What the fine-tuning head computes: on pooled vectors or on every token's."""
    if head in ("sequence_classification", "multiple_choice"):
        return apply(apply(hidden, method="pool"), method="classify")
    return apply(hidden, method="classify")


@pytest.mark.parametrize("name", ["ernie_m-tiny", "xlm_roberta-tiny", "bert-tiny", "xlm-tiny"])
def test_unrolled_layers_give_the_same(name, tmp_path):
    case = reference.case(name)
    config, params, _ = ernie_m_jax.load(case.write(tmp_path / "checkpoint"), scan_layers=False)
    rows, positions = case.arrays["at"].T
    states = run(ErnieM(config, UNROLLED), params, inputs_of(case))
    close(np.asarray(states)[:, rows, positions], case.arrays["hidden"], case.tolerance, f"{name} unrolled")


@pytest.mark.parametrize("name", names(gradients=True))
def test_gradients_of_a_fine_tuning_step_equal_the_reference(name, tmp_path):
    """Relative error at most 1e-4 a tensor; in the large case of a sample of each tensor's numbers."""
    case = reference.case(name)
    config, params, _ = ernie_m_jax.load(case.write(tmp_path / "checkpoint"))
    model, inputs, labels = ErnieM(config, COMPUTE), inputs_of(case), case.arrays["labels"]

    @jax.jit
    @jax.value_and_grad
    def step(params):
        apply = functools.partial(model.apply, {"params": params})
        hidden = apply(inputs, FULL, deterministic=False, method="encode", rngs={"dropout": jax.random.key(0)})
        log_probs = jax.nn.log_softmax(head_logits(apply, config.head, hidden))
        return -jnp.take_along_axis(log_probs, labels[:, None], axis=1).mean()

    loss, gradient = step(params)
    np.testing.assert_allclose(loss, case.arrays["loss"], rtol=1e-5)
    flat = {path: np.asarray(array) for path, array in tree.named(gradient).items()}
    parts, _ = transform.plan(rules.HUGGINGFACE, config.head, {path: array.shape for path, array in flat.items()})
    ours = dict(transform.write(rules.HUGGINGFACE, parts, flat))
    worst, scale = 0.0, max(np.abs(array).max() for array in flat.values())
    compared = 0
    for key, expected in case.arrays.items():
        if key.startswith("gradient:"):
            tensor = key.removeprefix("gradient:")
            found = np.ascontiguousarray(ours[tensor.removeprefix("ernie_m.")]).reshape(-1)
            found = found[case.arrays.get(f"index:{tensor}", slice(None))]
            compared += 1
            if tensor.endswith("k_proj.bias"):
                # Exactly 0 in theory: a constant added to every key's logit leaves the softmax as it is.
                assert np.abs(found).max() <= 1e-6 * scale
                assert np.abs(expected).max() <= 1e-6 * scale
                continue
            error = np.linalg.norm(found - expected) / np.linalg.norm(expected)
            worst = max(worst, error)
            assert error <= 1e-4, tensor
    assert compared == len(ours)
    print(f"{name}: worst relative error {worst:.1e} of {compared} tensors")
