"""The output of one layer, from an encoder that is only as deep as that: a model and a layer in, hidden states out."""

import dataclasses
from typing import Any

import jax
import numpy as np

from ernie_m_jax.model.embeddings import Inputs
from ernie_m_jax.model.encoder import ErnieM


def hidden(
    model: ErnieM,
    params: Any,
    inputs: Inputs,
    table: np.ndarray,
    layer: int | None,
    rng: jax.Array | None = None,
) -> jax.Array:
    """Encodes up to a layer.

    Args:
      model: the encoder.
      params: its parameters.
      inputs: int32 [B, L] each.
      table: who sees whom; see `visibility`.
      layer: 0 is the embeddings' output, n the output of layer n; None: every layer's.
      rng: of the dropout; None: without dropout.

    Returns:
      [B, L, H], or [layers + 1, B, L, H] of all layers.
    """
    keys: dict[str, Any] = {"method": "encode", "deterministic": rng is None}
    if rng is not None:
        keys["rngs"] = {"dropout": rng}
    if layer is None:
        return model.apply({"params": params}, inputs, table, all_layers=True, **keys)
    depth = max(layer, 1)  # no encoder has 0 layers; the embeddings' output is index 0 of a 1-layer one's
    shallow = model.clone(config=dataclasses.replace(model.config, num_layers=depth))
    if model.compute.scan_layers:
        params = {**params, "layers": jax.tree.map(lambda stacked: stacked[:depth], params["layers"])}
    if layer == 0:
        return shallow.apply({"params": params}, inputs, table, all_layers=True, **keys)[0]
    return shallow.apply({"params": params}, inputs, table, **keys)
