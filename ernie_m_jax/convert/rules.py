"""Which tensor of which format is which parameter: one table per format, module by module.

A table maps this project's modules (`layers/attention/query`) to the other side's (`encoder.layers.{layer}...q_proj`);
the format's suffixes name a module's arrays, and its `transposed` says how kernels lie. `transform` reads and writes by
these tables. Names and layouts: the state dicts of transformers 4.57, PaddleNLP 2.8 and fairseq, and the variables that
PaddlePaddle/ERNIE's ernie-m code creates.
"""

import dataclasses
from collections.abc import Mapping
from typing import NamedTuple


class Suffixes(NamedTuple):
    """What follows a module's name: of a table, a LayerNorm's scale and bias, a linear map's kernel and bias."""

    table: str
    scale: str
    shift: str
    kernel: str
    bias: str


DOTTED = Suffixes(".weight", ".weight", ".bias", ".weight", ".bias")
FLUID = Suffixes("", "_scale", "_bias", ".w_0", ".b_0")

Modules = Mapping[str, str | tuple[str, ...]]  # ours -> theirs; several are joined along the output axis


@dataclasses.dataclass(frozen=True)
class Format:
    """One family of checkpoints.

    Attributes:
      name: what `--format` takes and what is printed.
      encoder: embeddings, layers and pooler; `{layer}` is the layer's number from 0. A `prefix` may stand before them.
      heads: fine-tuning head (`model.head`) -> its modules, without prefix. A pooler here replaces the encoder's.
      mlm: modules of the masked language model's head, without prefix; "mlm_head/bias" is an array itself.
      prefixes: what may stand before the encoder's names, besides nothing.
      suffixes: of the arrays.
      model_types: what `model_type` in a config may say; nothing is compared where this is empty.
      transposed: kernels lie as [out, in] (PyTorch), not [in, out] (Paddle, Flax).
      folded: their array -> our table to which its only row is added.
      tied: their array -> our parameter that it must equal, because the two are one in the model.
      ignored: their arrays that are no parameters: a regular expression.
      left_out: modules of tasks that this project does not have, not read: a regular expression.
    """

    name: str
    encoder: Modules
    heads: Mapping[str, Modules]
    mlm: Modules = dataclasses.field(default_factory=dict)
    prefixes: tuple[str, ...] = ()
    model_types: tuple[str, ...] = ()
    suffixes: Suffixes = DOTTED
    transposed: bool = True
    folded: Mapping[str, str] = dataclasses.field(default_factory=dict)
    tied: Mapping[str, str] = dataclasses.field(default_factory=dict)
    ignored: str = r".*\.position_ids"
    left_out: str = "(?!)"

    def modules(self, head: str) -> dict[str, str | tuple[str, ...]]:
        """All modules of a model with this fine-tuning head, the pooler once."""
        return {**self.encoder, **self.mlm, **self.heads.get(head, {})}


def _layer(module: str, names: Mapping[str, str]) -> dict[str, str]:
    return {f"layers/{ours}": f"{module}{theirs}" for ours, theirs in names.items()}


_CLASSIFIER = {
    name: {"head": "classifier"} for name in ("sequence_classification", "multiple_choice", "token_classification")
}
_SPANS = {"information_extraction": {"head": ("linear_start", "linear_end")}}


def _ernie_m(attention: str) -> dict[str, str]:
    return {
        "embeddings/word": "embeddings.word_embeddings",
        "embeddings/position": "embeddings.position_embeddings",
        "embeddings/layer_norm": "embeddings.layer_norm",
        **_layer(
            "encoder.layers.{layer}.",
            {
                "attention/query": f"{attention}q_proj",
                "attention/key": f"{attention}k_proj",
                "attention/value": f"{attention}v_proj",
                "attention/output": "self_attn.out_proj",
                "attention_layer_norm": "norm1",
                "ffn/intermediate": "linear1",
                "ffn/output": "linear2",
                "ffn_layer_norm": "norm2",
            },
        ),
        "pooler/dense": "pooler.dense",
    }


HUGGINGFACE = Format(
    name="huggingface",
    encoder=_ernie_m("self_attn.self_attn."),
    heads={**_CLASSIFIER, "question_answering": {"head": "qa_outputs"}, **_SPANS},
    prefixes=("ernie_m.",),
    model_types=("ernie_m",),
)
PADDLE = Format(
    name="paddle",
    encoder=_ernie_m("self_attn."),
    heads={**_CLASSIFIER, "question_answering": {"head": "classifier"}, **_SPANS},
    prefixes=("ernie_m.",),
    model_types=("ernie_m",),
    transposed=False,
)
ERNIE_2021 = Format(
    name="ernie-2021",
    encoder={
        "embeddings/word": "word_embedding",
        "embeddings/position": "pos_embedding",
        "embeddings/layer_norm": "pre_encoder_layer_norm",
        **_layer(
            "encoder_layer_{layer}_",
            {
                "attention/query": "multi_head_att_query_fc",
                "attention/key": "multi_head_att_key_fc",
                "attention/value": "multi_head_att_value_fc",
                "attention/output": "multi_head_att_output_fc",
                "attention_layer_norm": "post_att_layer_norm",
                "ffn/intermediate": "ffn_fc_0",
                "ffn/output": "ffn_fc_1",
                "ffn_layer_norm": "post_ffn_layer_norm",
            },
        ),
        "pooler/dense": "pooled_fc",
    },
    # The heads' variables have names of their own: an array each, hence the leaves.
    heads={
        "sequence_classification": {"head/kernel": "cls_out_w", "head/bias": "cls_out_b"},
        "question_answering": {"head/kernel": "cls_mrc_out_w", "head/bias": "cls_mrc_out_b"},
        "token_classification": {"head/kernel": "cls_seq_label_out_w", "head/bias": "cls_seq_label_out_b"},
    },
    suffixes=FLUID,
    transposed=False,
)

_BERT_ENCODER = {
    "embeddings/word": "embeddings.word_embeddings",
    "embeddings/position": "embeddings.position_embeddings",
    "embeddings/token_type": "embeddings.token_type_embeddings",
    "embeddings/layer_norm": "embeddings.LayerNorm",
    **_layer(
        "encoder.layer.{layer}.",
        {
            "attention/query": "attention.self.query",
            "attention/key": "attention.self.key",
            "attention/value": "attention.self.value",
            "attention/output": "attention.output.dense",
            "attention_layer_norm": "attention.output.LayerNorm",
            "ffn/intermediate": "intermediate.dense",
            "ffn/output": "output.dense",
            "ffn_layer_norm": "output.LayerNorm",
        },
    ),
    "pooler/dense": "pooler.dense",
}
_LM_HEAD = {
    "mlm_head/dense": "lm_head.dense",
    "mlm_head/layer_norm": "lm_head.layer_norm",
    "mlm_head/bias": "lm_head.bias",
}
XLM_ROBERTA = Format(
    name="xlm-roberta",
    encoder={ours: theirs for ours, theirs in _BERT_ENCODER.items() if ours != "embeddings/token_type"},
    heads={
        # Its head for sentences brings the dense layer that this project calls pooler.
        "sequence_classification": {"pooler/dense": "classifier.dense", "head": "classifier.out_proj"},
        "multiple_choice": {"head": "classifier"},
        "token_classification": {"head": "classifier"},
        "question_answering": {"head": "qa_outputs"},
    },
    mlm=_LM_HEAD,
    prefixes=("roberta.",),
    model_types=("xlm-roberta", "roberta"),
    folded={"embeddings.token_type_embeddings.weight": "embeddings/position"},
    tied={"lm_head.decoder.weight": "embeddings/word", "lm_head.decoder.bias": "mlm_head/bias"},
)
BERT = Format(
    name="bert",
    encoder=_BERT_ENCODER,
    heads={**_CLASSIFIER, "question_answering": {"head": "qa_outputs"}},
    mlm={
        "mlm_head/dense": "cls.predictions.transform.dense",
        "mlm_head/layer_norm": "cls.predictions.transform.LayerNorm",
        "mlm_head/bias": "cls.predictions.bias",
    },
    prefixes=("bert.",),
    model_types=("bert",),
    tied={"cls.predictions.decoder.weight": "embeddings/word", "cls.predictions.decoder.bias": "mlm_head/bias"},
    left_out=r"cls\.seq_relationship\..*",  # next sentence prediction
)
XLM = Format(
    name="xlm",
    encoder={
        "embeddings/word": "embeddings",
        "embeddings/position": "position_embeddings",
        "embeddings/language": "lang_embeddings",
        "embeddings/layer_norm": "layer_norm_emb",
        "layers/attention/query": "attentions.{layer}.q_lin",
        "layers/attention/key": "attentions.{layer}.k_lin",
        "layers/attention/value": "attentions.{layer}.v_lin",
        "layers/attention/output": "attentions.{layer}.out_lin",
        "layers/attention_layer_norm": "layer_norm1.{layer}",
        "layers/ffn/intermediate": "ffns.{layer}.lin1",
        "layers/ffn/output": "ffns.{layer}.lin2",
        "layers/ffn_layer_norm": "layer_norm2.{layer}",
    },
    heads={"token_classification": {"head": "classifier"}, "question_answering": {"head": "qa_outputs"}},
    mlm={"mlm_head/bias": "pred_layer.proj.bias"},
    prefixes=("transformer.",),
    model_types=("xlm",),
    tied={"pred_layer.proj.weight": "embeddings/word"},
    ignored=r"(.*\.)?position_ids",
)
FAIRSEQ = Format(
    name="fairseq",
    encoder={
        "embeddings/word": "sentence_encoder.embed_tokens",
        "embeddings/position": "sentence_encoder.embed_positions",
        "embeddings/layer_norm": "sentence_encoder.emb_layer_norm",
        **_layer(
            "sentence_encoder.layers.{layer}.",
            {
                "attention/query": "self_attn.q_proj",
                "attention/key": "self_attn.k_proj",
                "attention/value": "self_attn.v_proj",
                "attention/output": "self_attn.out_proj",
                "attention_layer_norm": "self_attn_layer_norm",
                "ffn/intermediate": "fc1",
                "ffn/output": "fc2",
                "ffn_layer_norm": "final_layer_norm",
            },
        ),
    },
    heads={},
    mlm=_LM_HEAD,
    prefixes=("decoder.", "encoder."),
    tied={"lm_head.weight": "embeddings/word"},
    ignored=r"(.*\.)?(version|_float_tensor)",
    left_out=r"classification_heads\..*",
)
FORMATS = {entry.name: entry for entry in (HUGGINGFACE, PADDLE, ERNIE_2021, XLM_ROBERTA, BERT, XLM, FAIRSEQ)}
