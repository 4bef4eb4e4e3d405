"""A checkpoint's architecture: its `config.json` and tensors in, `ModelConfig` out; and back for what is written.

What the file states is taken at its word and compared with the tensors later; what it does not state comes from the
tensors, and a number of heads that nothing states from the rule of all released models, 64 wide each.
"""

from collections.abc import Mapping
from typing import Any

from ernie_m_jax.config import ModelConfig
from ernie_m_jax.config_checks import HEADS, POOLED_HEADS
from ernie_m_jax.convert import rules
from ernie_m_jax.convert.rules import Format
from ernie_m_jax.convert.tensors import ConversionError, Tensor

_HEAD_WIDTH = 64
# Ending of a class's name -> fine-tuning head.
_CLASSES = {
    "ForSequenceClassification": "sequence_classification",
    "ForMultipleChoice": "multiple_choice",
    "ForTokenClassification": "token_classification",
    "ForQuestionAnsweringSimple": "question_answering",
    "ForQuestionAnswering": "question_answering",
    "ForInformationExtraction": "information_extraction",
    "UIEM": "information_extraction",
    "ForMaskedLM": "none",
    "ForPreTraining": "none",
    "WithLMHeadModel": "none",
    "Model": "none",
}
# Our key -> the names it has in the formats' configs.
_KEYS = {
    "vocab_size": ("vocab_size", "n_words"),
    "hidden_size": ("hidden_size", "emb_dim", "encoder_embed_dim"),
    "num_layers": ("num_hidden_layers", "n_layers", "encoder_layers"),
    "num_heads": ("num_attention_heads", "n_heads", "encoder_attention_heads"),
    "ffn_size": ("intermediate_size", "encoder_ffn_embed_dim"),
    "max_positions": ("max_position_embeddings",),
    "pad_id": ("pad_token_id", "pad_index"),
    "layer_norm_eps": ("layer_norm_eps",),
    "initializer_range": ("initializer_range", "embed_init_std"),
    "hidden_dropout": ("hidden_dropout_prob", "dropout"),
    "attention_dropout": ("attention_probs_dropout_prob", "attention_dropout"),
}
# What must hold for the encoder to be this project's: key of the config -> allowed values.
_REQUIRED: Mapping[str, tuple[Any, ...]] = {
    "hidden_act": ("gelu",),
    "activation_fn": ("gelu",),
    "gelu_activation": (True,),
    "position_embedding_type": ("absolute",),
    "is_decoder": (False,),
    "is_encoder": (True,),
    "causal": (False,),
    "asm": (False,),
}
# What differs between families: (pad_id, first_position, layer_norm_eps).
_FAMILIES = {"bert": (0, 0, 1e-12), "xlm": (2, 0, 1e-12)}


def model_config(
    form: Format, config: Mapping[str, Any], tensors: Mapping[str, Tensor], where: str, num_heads: int = 0
) -> ModelConfig:
    """The architecture behind a checkpoint, its fine-tuning head included.

    Args:
      form: the format.
      config: its `config.json` (or what stands for it), empty if there is none.
      tensors: by the format's names.
      where: the checkpoint, for messages.
      num_heads: attention heads, where the caller states it; 0: `config`, then 64 wide each.

    Raises:
      ConversionError: another architecture than this project's encoder, or a part that cannot be told.
    """
    for key, allowed in _REQUIRED.items():
        if config.get(key, allowed[0]) not in allowed:
            raise ConversionError(f"{where}: {key} is {config[key]!r}; the encoder of this project has {allowed[0]!r}")
    stated = {ours: next((config[name] for name in names if name in config), None) for ours, names in _KEYS.items()}
    values = {key: value for key, value in stated.items() if value is not None}
    for key, value in values.items():
        if type(value) not in (int, float) or value < 0:
            raise ConversionError(f"{where}: {' or '.join(_KEYS[key])} is {value!r}; it must be a number")
    seen = _seen(form, tensors)
    if form is rules.PADDLE or form is rules.ERNIE_2021 or form is rules.XLM:
        values["ffn_size"] = 4 * values.get("hidden_size", seen["hidden_size"])  # these never read another width
    values = {**seen, **values}
    if num_heads and values.get("num_heads", num_heads) != num_heads:
        raise ConversionError(
            f"{where}: has {values['num_heads']} attention heads by its config, not {num_heads} as told"
        )
    if "num_heads" not in values:
        values["num_heads"] = num_heads or values["hidden_size"] // _HEAD_WIDTH
    width, heads = values["hidden_size"], values["num_heads"]
    if not heads or width % heads or not (num_heads or stated["num_heads"] or width == heads * _HEAD_WIDTH):
        why = f"its {heads} heads" if num_heads or stated["num_heads"] else f"{_HEAD_WIDTH}, the released models' head"
        raise ConversionError(f"{where}: hidden_size {width} is not a multiple of {why}; --num_heads states another")
    pad, first, eps = _FAMILIES.get(form.name, (1, 2, 1e-5))
    head = _head(form, config, tensors, where)
    languages = config.get("n_langs", 1) if form is rules.XLM and config.get("use_lang_emb", True) else 1
    result: dict[str, Any] = {
        "pad_id": pad,
        "first_position": first,
        "layer_norm_eps": eps,
        "initializer_range": 0.02,
        "hidden_dropout": 0.1,
        "attention_dropout": 0.1,
        "num_languages": languages if languages > 1 else 0,
        "language_embedding": "all" if languages > 1 else "none",
        "num_token_types": config.get("type_vocab_size", 2) if form is rules.BERT else 0,
        "mlm_head": _mlm_head(form, tensors),
        "head": head,
        "num_labels": _num_labels(form, head, config, tensors),
        **values,
    }
    if form is rules.XLM_ROBERTA:
        result["first_position"] = result["pad_id"] + 1
    result["pooler"] = _pooler(form, head, config, tensors)
    return ModelConfig(**result)


def _seen(form: Format, tensors: Mapping[str, Tensor]) -> dict[str, int]:
    """Sizes as the tensors have them; a missing tensor is reported by the comparison that follows."""
    sizes: dict[str, int] = {}
    for table, rows in (("embeddings/word", "vocab_size"), ("embeddings/position", "max_positions")):
        name = str(form.encoder[table]) + form.suffixes.table
        if name not in tensors or len(tensors[name].shape) != 2:
            found = f"has shape {tensors[name].shape}" if name in tensors else "is missing"
            raise ConversionError(f"{name} {found}; it must be the table of {table}, [{rows}, hidden_size]")
        sizes[rows], sizes["hidden_size"] = tensors[name].shape
    query = str(form.encoder["layers/attention/query"]) + form.suffixes.kernel
    layers = 0
    while query.replace("{layer}", str(layers)) in tensors:
        layers += 1
    sizes["num_layers"] = layers
    bias = str(form.encoder["layers/ffn/intermediate"]).replace("{layer}", "0") + form.suffixes.bias
    sizes["ffn_size"] = tensors[bias].shape[0] if bias in tensors else 4 * sizes["hidden_size"]
    return sizes


def _head(form: Format, config: Mapping[str, Any], tensors: Mapping[str, Tensor], where: str) -> str:
    classes = config.get("architectures") or ([config["init_class"]] if "init_class" in config else [])
    for name in classes[:1]:
        for ending, head in _CLASSES.items():
            if str(name).endswith(ending):
                if head != "none" and head not in form.heads:
                    raise ConversionError(f"{where}: {name} in a {form.name} checkpoint is not known here")
                return head
        raise ConversionError(f"{where}: class {name!r} is unknown; known are names ending in {', '.join(_CLASSES)}")
    fits = [head for head in form.heads if any(name in tensors for name in _head_tensors(form, head))]
    if len(fits) > 1:  # a classifier: a token's if nothing is pooled, a choice's if it has one output
        outputs = min(tensors["classifier.bias"].shape, default=0) if "classifier.bias" in tensors else 0
        pooled = _has_pooler(form, tensors)
        guess = "multiple_choice" if outputs == 1 else "sequence_classification" if pooled else "token_classification"
        fits = [guess] if guess in fits else fits[:1]
    return fits[0] if fits else "none"


def _head_tensors(form: Format, head: str) -> list[str]:
    names: list[str] = []
    for ours, theirs in form.heads[head].items():
        for name in (theirs,) if isinstance(theirs, str) else theirs:
            names.append(name if ours.count("/") and not ours.startswith("pooler") else name + form.suffixes.bias)
    return names


def _num_labels(form: Format, head: str, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> int:
    if head == "none" or HEADS[head]:
        return 2
    stated = config.get("num_labels", len(config["id2label"]) if "id2label" in config else config.get("num_classes"))
    if stated is not None:
        return int(stated)
    found = [tensors[name].shape[0] for name in _head_tensors(form, head)[-1:] if name in tensors]
    return found[0] if found else 2


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
    """Whether the model has a pooler: as its class says, where the class says it."""
    if head in POOLED_HEADS:
        return True
    if form is rules.HUGGINGFACE:
        return bool(config.get("add_pooling_layer", head in ("none", "information_extraction")))
    if form is rules.PADDLE:
        return bool(config.get("add_pooling_layer", True))
    return _has_pooler(form, tensors)
