"""A checkpoint's architecture: its `config.json` and tensors in, `ModelConfig` out; and back for what is written.

What the file states is taken at its word and compared with the tensors later; what it does not state comes from the
tensors, and a number of heads that nothing states from the rule of all released models, 64 wide each.
"""

import re
from collections.abc import Mapping
from typing import Any

from ernie_m_jax.config import ModelConfig
from ernie_m_jax.config_checks import HEADS, POOLED_HEADS
from ernie_m_jax.convert import rules, targets
from ernie_m_jax.convert.rules import Format
from ernie_m_jax.weights.tensors import ConversionError, Tensor

_HEAD_WIDTH = 64
# What follows the family in a class's name -> fine-tuning head.
_FAMILIES = ("ErnieM", "XLMRoberta", "Roberta", "Bert", "XLM")
_CLASSES = {
    "ForSequenceClassification": "sequence_classification",
    "ForMultipleChoice": "multiple_choice",
    "ForTokenClassification": "token_classification",
    "ForQuestionAnsweringSimple": "question_answering",
    "ForQuestionAnswering": "question_answering",
    "ForInformationExtraction": "information_extraction",
    "ForMaskedLM": "none",
    "ForPreTraining": "none",
    "WithLMHeadModel": "none",
    "Model": "none",
}
_MANY = 2**31 - 1
# Our key -> the names it has in the formats' configs, its type, least and greatest value.
_KEYS: Mapping[str, tuple[tuple[str, ...], type, float, float]] = {
    "vocab_size": (("vocab_size", "n_words"), int, 1, _MANY),
    "hidden_size": (("hidden_size", "emb_dim", "encoder_embed_dim"), int, 1, _MANY),
    "num_layers": (("num_hidden_layers", "n_layers", "encoder_layers"), int, 1, _MANY),
    "num_heads": (("num_attention_heads", "n_heads", "encoder_attention_heads"), int, 1, _MANY),
    "ffn_size": (("intermediate_size", "encoder_ffn_embed_dim"), int, 1, _MANY),
    "max_positions": (("max_position_embeddings",), int, 1, _MANY),
    "pad_id": (("pad_token_id", "pad_index"), int, 0, _MANY),
    "layer_norm_eps": (("layer_norm_eps",), float, 1e-15, 0.1),
    "initializer_range": (("initializer_range", "embed_init_std"), float, 0, 10),
    "hidden_dropout": (("hidden_dropout_prob", "dropout"), float, 0, 0.99),
    "attention_dropout": (("attention_probs_dropout_prob", "attention_dropout"), float, 0, 0.99),
}
# What must hold for the encoder to be this project's: key of the config -> the only allowed value.
_REQUIRED: Mapping[str, Any] = {
    "hidden_act": "gelu",
    "activation_fn": "gelu",
    "gelu_activation": True,
    "position_embedding_type": "absolute",
    "is_decoder": False,
    "is_encoder": True,
    "causal": False,
    "asm": False,
    "pre_norm": False,
}
# What differs between families: pad_id, first_position, layer_norm_eps.
_FAMILY_VALUES = {"bert": (0, 0, 1e-12), "xlm": (2, 0, 1e-12)}


def model_config(
    form: Format, config: Mapping[str, Any], tensors: Mapping[str, Tensor], where: str, num_heads: int = 0
) -> ModelConfig:
    """The architecture behind a checkpoint, its fine-tuning head included.

    Args:
      form: the format.
      config: its `config.json` (or what stands for it), empty if there is none.
      tensors: by the format's names.
      where: the checkpoint, for messages.
      num_heads: attention heads, where `config` does not state them; 0: 64 wide each.

    Raises:
      ConversionError: another architecture than this project's encoder, or a part that cannot be determined.
    """
    for key, only in _REQUIRED.items():
        if config.get(key, only) != only:
            raise ConversionError(f"{where}: {key} is {config[key]!r}; the encoder of this project has {only!r}")
    values = _stated(config, where)
    seen = _seen(form, tensors)
    if values.get("num_layers", 0) > seen["num_layers"]:  # checked here, since the number may be absurd
        query = str(form.encoder["layers/attention/query"]).replace("{layer}", str(seen["num_layers"]))
        raise ConversionError(
            f"{query}{form.suffixes.kernel}: missing; {where} states {values['num_layers']} layers, the tensors are of "
            f"{seen['num_layers']}"
        )
    if form in (rules.PADDLE, rules.ERNIE_2021, rules.XLM):  # these never read another width
        values["ffn_size"] = 4 * values.get("hidden_size", seen["hidden_size"])
    heads = _num_heads(values.get("num_heads", 0), num_heads, values.get("hidden_size", seen["hidden_size"]), where)
    head = _head(form, config, tensors, where)
    labels = () if head == "none" or HEADS[head] else _labels(config, where)
    languages = 1
    if form is rules.XLM and config.get("use_lang_emb", True):
        languages = _number(config, "n_langs", 1, where)
    pad, first, eps = _FAMILY_VALUES.get(form.name, (1, 2, 1e-5))
    result: dict[str, Any] = {
        "pad_id": pad,
        "layer_norm_eps": eps,
        "initializer_range": 0.02,
        "hidden_dropout": 0.1,
        "attention_dropout": 0.1,
        **seen,
        **values,
        "num_heads": heads,
        "first_position": first,
        "num_languages": languages if languages > 1 else 0,
        "language_embedding": "all" if languages > 1 else "none",
        "num_token_types": _number(config, "type_vocab_size", 2, where) if form is rules.BERT else 0,
        "mlm_head": _mlm_head(form, tensors),
        "head": head,
        "num_labels": len(labels) or _num_labels(form, head, config, tensors, where),
        "labels": () if labels == targets.unnamed(len(labels)) else labels,
        "pooler": _pooler(form, head, config, tensors),
    }
    if form is rules.XLM_ROBERTA:
        result["first_position"] = result["pad_id"] + 1
    if result["pad_id"] >= result["vocab_size"]:
        raise ConversionError(f"{where}: the padding's id {result['pad_id']} is not in {result['vocab_size']} entries")
    return ModelConfig(**result)


def language_names(config: Mapping[str, Any], model: ModelConfig) -> tuple[str, ...]:
    """The languages of the language table's rows by an XLM config's `lang2id`; () where it does not name each row."""
    stated, rows = config.get("lang2id"), range(model.num_languages)
    pairs = stated.items() if isinstance(stated, dict) else ()
    names = {row: name for name, row in pairs if type(row) is int}
    return tuple(names[row] for row in rows) if set(names) == set(rows) else ()


def _stated(config: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The sizes that the config states, by our keys."""
    values: dict[str, Any] = {}
    for ours, (names, kind, low, high) in _KEYS.items():
        for name in names:
            value = config.get(name)
            if value is None:
                continue
            number = type(value) is int or (kind is float and type(value) is float)
            if not number or not low <= value <= high:
                what = "a whole number" if kind is int else "a number"
                raise ConversionError(f"{where}: {name} is {str(value)[:40]!r}; it must be {what} from {low} to {high}")
            values[ours] = kind(value)
            break
    return values


def _number(config: Mapping[str, Any], name: str, default: int, where: str) -> int:
    value = config.get(name, default)
    if type(value) is not int or not 0 <= value <= _MANY:
        raise ConversionError(f"{where}: {name} is {str(value)[:40]!r}; it must be a whole number from 0")
    return value


def _num_heads(stated: int, told: int, width: int, where: str) -> int:
    if told and stated not in (0, told):
        raise ConversionError(f"{where}: has {stated} attention heads by its config, not {told} as --num_heads says")
    heads = stated or told or width // _HEAD_WIDTH
    if not heads or width % heads or not (stated or told or width == heads * _HEAD_WIDTH):
        why = f"its {heads} heads" if stated or told else f"{_HEAD_WIDTH}, the released models' head"
        raise ConversionError(f"{where}: hidden_size {width} is not a multiple of {why}; --num_heads states another")
    return heads


def _seen(form: Format, tensors: Mapping[str, Tensor]) -> dict[str, int]:
    """Sizes as the tensors have them; a missing tensor is reported by the comparison that follows."""
    sizes: dict[str, int] = {}
    for table, rows in (("embeddings/word", "vocab_size"), ("embeddings/position", "max_positions")):
        name = str(form.encoder[table]) + form.suffixes.table
        if name not in tensors or len(tensors[name].shape) != 2 or 0 in tensors[name].shape:
            found = f"has shape {tensors[name].shape}" if name in tensors else "is missing"
            raise ConversionError(f"{name} {found}; it must be the table of {table}, [{rows}, hidden_size]")
        sizes[rows], sizes["hidden_size"] = tensors[name].shape
    query = str(form.encoder["layers/attention/query"]) + form.suffixes.kernel
    layer = re.compile(re.escape(query).replace(re.escape("{layer}"), r"(\d{1,6})"))
    numbers = [int(match[1]) for match in map(layer.fullmatch, tensors) if match]
    sizes["num_layers"] = 1 + max(numbers, default=-1)
    bias = str(form.encoder["layers/ffn/intermediate"]).replace("{layer}", "0") + form.suffixes.bias
    wide = tensors[bias].shape if bias in tensors else ()
    sizes["ffn_size"] = wide[0] if len(wide) == 1 else 4 * sizes["hidden_size"]
    return sizes


def _head(form: Format, config: Mapping[str, Any], tensors: Mapping[str, Tensor], where: str) -> str:
    classes = config.get("architectures") or [config.get("init_class")]
    if not isinstance(classes, list) or not all(isinstance(name, str | None) for name in classes):
        raise ConversionError(f"{where}: architectures is {str(classes)[:80]!r}; it must be a list of classes' names")
    if classes[0]:
        return _head_of_class(form, classes[0], where)
    fits = [head for head in form.heads if any(name in tensors for name in _head_tensors(form, head))]
    if len(fits) > 1:  # a classifier: a token's if nothing is pooled, a choice's if it has one output
        outputs = tensors["classifier.bias"].shape if "classifier.bias" in tensors else ()
        guess = "sequence_classification" if _has_pooler(form, tensors) else "token_classification"
        guess = "multiple_choice" if outputs == (1,) else guess
        fits = [guess] if guess in fits else fits[:1]
    return fits[0] if fits else "none"


def _head_of_class(form: Format, name: str, where: str) -> str:
    if name == "UIEM":  # PaddleNLP's name
        return "information_extraction"
    family = next((family for family in _FAMILIES if name.startswith(family)), "")
    head = _CLASSES.get(name.removeprefix(family)) if family else None
    if head is None or (head != "none" and head not in form.heads):
        known = ", ".join(ending for ending, head in _CLASSES.items() if head == "none" or head in form.heads)
        raise ConversionError(f"{where}: class {name!r} is unknown in a {form.name} checkpoint; known are ...{known}")
    return head


def _head_tensors(form: Format, head: str) -> list[str]:
    names: list[str] = []
    for ours, theirs in form.heads[head].items():
        for name in (theirs,) if isinstance(theirs, str) else theirs:
            names.append(name if ours.count("/") and not ours.startswith("pooler") else name + form.suffixes.bias)
    return names


def _labels(config: Mapping[str, Any], where: str) -> tuple[str, ...]:
    """The labels' names in the order of their ids, () where `id2label` is not there.

    `label2id` alone names none: neither library reads it then.
    """
    named = config.get("id2label") or {}
    if not isinstance(named, dict):
        raise ConversionError(f"{where}: id2label is {str(named)[:40]!r}; it must be an object")
    wrong = next((index for index, name in named.items() if not isinstance(name, str)), None)
    if wrong is not None:
        raise ConversionError(f"{where}: id2label gives {wrong} the name {str(named[wrong])[:40]}; it must be a string")
    names = [named.get(str(index)) for index in range(len(named))]
    if None in names:
        found = ", ".join(list(named)[:20])
        raise ConversionError(f"{where}: id2label names {found}; it must name each of 0 to {len(named) - 1}")
    return tuple(map(str, names))


def _num_labels(form: Format, head: str, config: Mapping[str, Any], tensors: Mapping[str, Tensor], where: str) -> int:
    if head == "none" or HEADS[head]:
        return 2
    for key in ("num_labels", "num_classes"):
        if key in config:
            return _number(config, key, 2, where)
    found = [tensors[name].shape for name in _head_tensors(form, head)[-1:] if name in tensors]
    return found[0][0] if found and len(found[0]) == 1 else 2


def _mlm_head(form: Format, tensors: Mapping[str, Tensor]) -> str:
    if not any(_named(form, name) in tensors for name in form.mlm):
        return "none"
    return "dense" if "mlm_head/dense" in form.mlm else "plain"


def _named(form: Format, module: str) -> str:
    name = str(form.mlm[module])
    return name if module == "mlm_head/bias" else name + form.suffixes.bias


def _has_pooler(form: Format, tensors: Mapping[str, Tensor]) -> bool:
    name = form.encoder.get("pooler/dense")
    return name is not None and any(f"{name}{s}" in tensors for s in (form.suffixes.kernel, form.suffixes.bias))


def _pooler(form: Format, head: str, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> bool:
    """Whether the model has a pooler: as its class or its config says, otherwise as its tensors do."""
    if head in POOLED_HEADS:
        return True
    if form is rules.HUGGINGFACE and head in ("token_classification", "question_answering"):
        return False
    return _has_pooler(form, tensors)
