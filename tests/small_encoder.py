"""A small encoder, parameters and packed rows that the tests of the model share."""

import dataclasses
import functools

import flax.linen as nn
import jax
import numpy as np

from ernie_m_jax.config import ComputeConfig, ModelConfig
from ernie_m_jax.model import FULL, ErnieM, Inputs
from ernie_m_jax.objectives.camlm import TABLE as CAMLM

CONFIG = ModelConfig(
    vocab_size=61,
    hidden_size=16,
    num_layers=2,
    num_heads=4,
    ffn_size=24,
    max_positions=20,
    first_position=2,
    pad_id=1,
    layer_norm_eps=1e-5,
    initializer_range=0.02,
    hidden_dropout=0.1,
    attention_dropout=0.1,
    num_languages=3,
    language_embedding="slots",
    num_token_types=0,
    pooler=True,
    mlm_head="dense",
    head="none",
    num_labels=2,
)
COMPUTE = ComputeConfig(dtype="float32", scan_layers=True, remat="none", attention="xla", vocab_chunk=16)
OWN_KERNELS = dataclasses.replace(COMPUTE, attention="flash", layer_norm="fused")
UNROLLED = dataclasses.replace(COMPUTE, scan_layers=False)
B, L = 2, 12
LABELS = np.arange(B * L, dtype=np.int32) * 2 - 1  # the first is not scored


def small_inputs() -> Inputs:
    """Packed rows with CAMLM's roles: two examples in the first row, three in the second, padding at both ends."""
    segments = np.array([[1] * 7 + [2] * 4 + [0], [1] * 3 + [2] * 3 + [3] * 4 + [0] * 2], np.int32)
    roles = np.array([[0, 0, 1, 1, 2, 3, 3, 0, 1, 2, 3, 0], [0, 1, 2, 0, 1, 3, 0, 1, 1, 2, 0, 0]], np.int32)
    positions = np.array([[0, 1, 2, 3, 1, 2, 3, 0, 1, 0, 1, 0], [0, 1, 0, 0, 1, 1, 0, 1, 2, 0, 0, 0]], np.int32)
    ids = np.random.default_rng(0).integers(4, CONFIG.vocab_size, (B, L)).astype(np.int32)
    languages = np.where(roles >= 2, 1 + ids % CONFIG.num_languages, 0).astype(np.int32)
    return Inputs(np.where(segments == 0, CONFIG.pad_id, ids), positions, segments, roles, languages)


@functools.cache
def small_params():
    """Parameters of the unrolled and of the scanned model, the same; every bias and LayerNorm away from 0 and 1."""
    shapes = jax.eval_shape(ErnieM(CONFIG, UNROLLED).init, jax.random.key(0), small_inputs(), CAMLM)["params"]
    rng = np.random.default_rng(1)
    unrolled = jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32) * 0.4, nn.meta.unbox(shapes))
    layers = [unrolled[f"layers_{i}"] for i in range(CONFIG.num_layers)]
    rest = {name: part for name, part in unrolled.items() if not name.startswith("layers_")}
    return unrolled, rest | {"layers": jax.tree.map(lambda *x: np.stack(x), *layers)}


@functools.cache
def encoded(config=CONFIG, compute=COMPUTE, **options):
    model = ErnieM(config, compute)
    table = options.pop("table", "camlm")
    table = {"camlm": CAMLM, "full": FULL}[table]
    return jax.jit(lambda params, inputs: model.apply({"params": params}, inputs, table, method="encode", **options))
