"""What is written for other libraries: their `config.json` out of a `ModelConfig`, or why there can be none."""

from collections.abc import Mapping
from typing import Any

from ernie_m_jax.config import ModelConfig
from ernie_m_jax.convert import rules
from ernie_m_jax.convert.rules import Format
from ernie_m_jax.weights.tensors import ConversionError

TARGETS: Mapping[str, Format] = {
    "huggingface": rules.HUGGINGFACE,
    "xlm-roberta": rules.XLM_ROBERTA,
    "paddle": rules.PADDLE,
}
_PREFIX = {"huggingface": "ernie_m.", "xlm-roberta": "roberta.", "paddle": "ernie_m."}
_NAMES = {"huggingface": "ErnieM", "xlm-roberta": "XLMRoberta", "paddle": "ErnieM"}
_HEADS = {
    "sequence_classification": "ForSequenceClassification",
    "multiple_choice": "ForMultipleChoice",
    "token_classification": "ForTokenClassification",
    "question_answering": "ForQuestionAnswering",
    "information_extraction": "ForInformationExtraction",
}


# The style whose ids the tokenizer's class there gives. PaddleNLP's are no style's: it drops every bare "▁".
_STYLES = {"huggingface": "huggingface", "xlm-roberta": "xlm-roberta"}


def same_ids(target: str, style: str) -> bool:
    """Whether the other library's tokenizer gives every text the ids that a tokenizer of this style gives it."""
    return _STYLES.get(target) == style


def unnamed(count: int) -> tuple[str, ...]:
    """What both libraries call labels that nobody named."""
    return tuple(f"LABEL_{i}" for i in range(count))


def class_name(target: str, model: ModelConfig) -> str:
    """The other library's class for this model; "ErnieMModel" is the bare encoder."""
    if model.head == "none":
        return _NAMES[target] + ("ForMaskedLM" if target == "xlm-roberta" and model.mlm_head != "none" else "Model")
    if target == "paddle" and model.head == "information_extraction":
        return "UIEM"
    return _NAMES[target] + _HEADS[model.head]


def has_pooler(target: str, model: ModelConfig) -> bool:
    """Whether the other library's class has a pooler."""
    if target == "paddle":
        return True
    name = class_name(target, model)
    return not name.endswith(("ForTokenClassification", "ForQuestionAnswering", "ForMaskedLM"))


def prefix(target: str, model: ModelConfig) -> str:
    """What stands before the encoder's names: nothing in the bare encoder's own class."""
    return "" if class_name(target, model).endswith("Model") else _PREFIX[target]


def config_json(target: str, model: ModelConfig) -> dict[str, Any]:
    """The `config.json` beside the weights.

    Raises:
      ConversionError: the library's class computes something else than this model.
    """
    _check(target, model)
    config: dict[str, Any] = {
        "architectures": [class_name(target, model)],
        "model_type": "xlm-roberta" if target == "xlm-roberta" else "ernie_m",
        "vocab_size": model.vocab_size,
        "hidden_size": model.hidden_size,
        "num_hidden_layers": model.num_layers,
        "num_attention_heads": model.num_heads,
        "intermediate_size": model.ffn_size,
        "hidden_act": "gelu",
        "hidden_dropout_prob": model.hidden_dropout,
        "attention_probs_dropout_prob": model.attention_dropout,
        "max_position_embeddings": model.max_positions,
        "initializer_range": model.initializer_range,
        "layer_norm_eps": model.layer_norm_eps,
        "pad_token_id": model.pad_id,
    }
    if target == "xlm-roberta":
        config |= {"type_vocab_size": 1, "bos_token_id": 0, "eos_token_id": 2}
    else:
        config["act_dropout"] = 0.0
    if model.head in ("sequence_classification", "token_classification"):
        labels = model.labels or unnamed(model.num_labels)
        config["id2label"] = {str(i): label for i, label in enumerate(labels)}
        config["label2id"] = {label: i for i, label in enumerate(labels)}
    return config


def _check(target: str, model: ModelConfig) -> None:
    fixed: dict[str, tuple[Any, Any]] = {
        "first_position": (model.first_position, 2),
        "num_token_types": (model.num_token_types, 0),
        "pad_id": (model.pad_id, 1),
    }
    if target == "paddle":  # PaddleNLP's class reads neither from its config
        fixed |= {
            "layer_norm_eps": (model.layer_norm_eps, 1e-5),
            "ffn_size": (model.ffn_size, 4 * model.hidden_size),
        }
    for key, (have, want) in fixed.items():
        if have != want:
            raise ConversionError(f"model.{key} is {have}; {class_name(target, model)} computes with {want}")
    if model.head != "none" and model.head not in TARGETS[target].heads:
        raise ConversionError(
            f"model.head {model.head!r} has no class in {target} ({', '.join(TARGETS[target].heads)})"
        )
