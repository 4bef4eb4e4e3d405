"""Folders for other libraries: parameters in, their weights, config and tokenizer files out.

huggingface, xlm-roberta   config.json  model.safetensors       tokenizer files  tensors.sha256.json
paddle                     config.json  model_state.pdparams    tokenizer files  tensors.sha256.json
"""

import pathlib
from collections.abc import Iterable
from typing import Any

import numpy as np

from ernie_m_jax.config import ModelConfig
from ernie_m_jax.convert import targets, transform
from ernie_m_jax.reporting import files
from ernie_m_jax.tokenizer import Tokenizer
from ernie_m_jax.weights import checksums, paddle_files, safetensors_files
from ernie_m_jax.weights.tensors import ConversionError

_WEIGHTS = {"huggingface": "model.safetensors", "xlm-roberta": "model.safetensors", "paddle": "model_state.pdparams"}


def write(
    folder: pathlib.Path,
    config: ModelConfig,
    params: Iterable[tuple[str, np.ndarray]],
    tokenizer: Tokenizer | None,
    to: str,
) -> None:
    """Writes a model's folder for another library.

    Args:
      folder: empty.
      config: the architecture.
      params: path and array of every parameter, layers stacked.
      tokenizer: its files go with it.
      to: a name of `targets.TARGETS`.

    Raises:
      ConversionError: the library has no such model or tokenizer.
    """
    form = targets.TARGETS[to]
    stated = targets.config_json(to, config)
    tokenizer_config = _tokenizer_config(to, config, tokenizer)
    arrays = dict(params)
    parts, unknown = transform.plan(form, config.head, {name: array.shape for name, array in arrays.items()})
    if not targets.has_pooler(to, config):
        unknown += [name for name in arrays if name.startswith("pooler/")]
    if unknown:
        names = sorted({"/".join(name.split("/")[: 2 if "embeddings" in name else 1]) for name in unknown})
        raise ConversionError(
            f"{targets.class_name(to, config)} has no place for these parameters:\n  "
            + "\n  ".join(f"{name}: shape {arrays[name].shape}" for name in unknown)
            + f"\nto leave them out: --drop {' '.join(names)}, in Python drop={tuple(names)}"
        )
    prefix = targets.prefix(to, config)
    alone = {part.name for path in parts for part in parts[path] if path.startswith(("head/", "mlm_head/"))}
    if "pooler/dense" in form.heads.get(config.head, {}):
        alone |= {part.name for path in parts for part in parts[path] if path.startswith("pooler/")}
    tensors = {name if name in alone else prefix + name: array for name, array in transform.write(form, parts, arrays)}
    for name in form.folded:
        tensors[prefix + name] = np.zeros((1, config.hidden_size), np.float32)
    if to == "paddle":
        paddle_files.write_pdparams(folder / _WEIGHTS[to], tensors)
    else:
        safetensors_files.write_safetensors(folder / _WEIGHTS[to], tensors, {"format": "pt"})
    files.write_json(folder / checksums.FILE, {name: checksums.digest(array) for name, array in tensors.items()})
    if tokenizer is not None:
        tokenizer.save(folder)
        files.write_json(folder / "tokenizer_config.json", tokenizer_config)
    files.write_json(folder / "config.json", stated)


def _tokenizer_config(to: str, config: ModelConfig, tokenizer: Tokenizer | None) -> dict[str, Any]:
    """`tokenizer_config.json` for the other library's class, which cuts texts that the model has no positions for.

    Raises:
      ConversionError: no class of the library splits text like this tokenizer.
    """
    if tokenizer is None:
        return {}
    fits = ("xlm-roberta",) if to == "xlm-roberta" else ("ernie", "huggingface")
    if tokenizer.style not in fits:
        raise ConversionError(
            f"a tokenizer of style {tokenizer.style!r} has no class in {to}, which takes {' or '.join(fits)}; "
            "--no_tokenizer, in Python dataclasses.replace(model, tokenizer=None), leaves it out"
        )
    return {
        "tokenizer_class": "XLMRobertaTokenizer" if to == "xlm-roberta" else "ErnieMTokenizer",
        "model_max_length": config.max_positions - config.first_position,
    }
