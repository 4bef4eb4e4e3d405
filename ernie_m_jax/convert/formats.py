"""Which format a checkpoint has: its tensors' names in, its table and the names without prefix out.

One tensor of the first layer tells the tables apart, but XLM-R's and BERT's are the same: there `config.json` decides.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from ernie_m_jax.convert import rules
from ernie_m_jax.convert.rules import Format
from ernie_m_jax.weights.tensors import ConversionError, Tensor


def recognise(
    tensors: Mapping[str, Tensor], config: Mapping[str, Any], where: str, name: str = ""
) -> tuple[Format, dict[str, Tensor]]:
    """The format and the tensors under the names of its table.

    Args:
      tensors: of the checkpoint, by name.
      config: its `config.json`, empty if there is none.
      where: the checkpoint, for messages.
      name: the format if the caller says it.

    Raises:
      ConversionError: no format, or several, fit; or not the one that `name` says.
    """
    if name and name not in rules.FORMATS:
        raise ConversionError(f"format {name!r} is unknown; there are {', '.join(rules.FORMATS)}")
    fits = {}
    for form in rules.FORMATS.values():
        bare = _canonical(form, tensors)
        if _first_query(form) in bare:
            fits[form.name] = bare
    if name and name not in fits:
        query = _first_query(rules.FORMATS[name])
        raise ConversionError(f"{where}: not a {name} checkpoint: it has no tensor {query}; {_there(tensors)}")
    if not fits:
        known = ", ".join(f"{form.name} ({_first_query(form)})" for form in rules.FORMATS.values())
        raise ConversionError(f"{where}: no known format; {_there(tensors)}. Known are, by a tensor of theirs, {known}")
    stated = config.get("model_type")
    left = [key for key in fits if name in ("", key) and _allows(rules.FORMATS[key], stated)]
    if not left:
        allowed = [kind for key in fits for kind in rules.FORMATS[key].model_types]
        raise ConversionError(
            f"{where}: model_type is {stated!r}, but the tensors are {name or ' or '.join(fits)}'s; "
            f"allowed are {', '.join(allowed)}"
        )
    if len(left) > 1:
        kinds = ", ".join(kind for key in left for kind in rules.FORMATS[key].model_types)
        raise ConversionError(
            f"{where}: could be {' or '.join(left)}; config.json should name a model_type ({kinds}), or say --format"
        )
    return rules.FORMATS[left[0]], fits[left[0]]


def _allows(form: Format, stated: Any) -> bool:
    return stated is None or not form.model_types or stated in form.model_types


def _first_query(form: Format) -> str:
    return str(form.encoder["layers/attention/query"]).replace("{layer}", "0") + form.suffixes.kernel


def _there(tensors: Mapping[str, Tensor]) -> str:
    names = list(tensors)
    return f"there are {len(names)} tensors: {', '.join(names[:4])}{', ...' if len(names) > 4 else ''}"


def _canonical(form: Format, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors by the table's names: prefixes and older spellings taken off."""
    bare: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        short = name
        if form is rules.FAIRSEQ:
            short = short.replace(".layernorm_embedding.", ".emb_layer_norm.")
        if form is rules.BERT or form is rules.XLM_ROBERTA:  # as TensorFlow's checkpoints called them
            short = short.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")
        for prefix in form.prefixes:
            short = short.removeprefix(prefix)
        if short in bare:
            raise ConversionError(f"{tensor.file}: {name} and {bare[short].name} are the same parameter, {short}")
        if form is rules.FAIRSEQ and ".self_attn.in_proj_" in short and tensor.shape:
            bare |= _split(short, tensor)
        else:
            bare[short] = tensor
    for theirs, ours in form.tied.items():  # of two names of one bias a file may have either
        other = form.mlm.get(ours)
        if isinstance(other, str) and other not in bare and theirs in bare:
            bare[other] = bare.pop(theirs)
    return bare


def _split(name: str, tensor: Tensor) -> dict[str, Tensor]:
    """Fairseq's older packed projection [3 H, ...] as query, key and value."""
    size, rest = divmod(tensor.shape[0], 3)
    if rest:
        raise ConversionError(f"{tensor.name}: shape {tensor.shape} in {tensor.file} is not query, key and value")
    parts = {}
    for i, letter in enumerate("qkv"):

        def share(first: int = i * size) -> Any:
            return tensor.read()[first : first + size]

        own = name.replace("in_proj_", f"{letter}_proj.")
        parts[own] = dataclasses.replace(tensor, shape=(size, *tensor.shape[1:]), read=share)
    return parts
