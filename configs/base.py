"""The whole tree of configuration, once. Every other config starts from `get_config()` here and states what differs.

A comment a key: meaning, unit, source. Sources: "paper" is Ouyang et al., EMNLP 2021; "recipe" is the nearest published
pre-training recipe (InfoXLM from XLM-R base); "ours" is a decision of this project, given in docs/design.md.
"""

import ml_collections

# Architecture a size: hidden size, layers, heads, FFN size. base and large are the released models (paper).
SIZES = {
    "tiny": (128, 2, 4, 512),
    "small": (384, 6, 6, 1536),
    "base": (768, 12, 12, 3072),
    "large": (1024, 24, 16, 4096),
}


def model(size: str = "base") -> ml_collections.ConfigDict:
    """Keys of the architecture for one of `SIZES`."""
    if size not in SIZES:
        raise ValueError(f"size {size!r} is unknown; there are {', '.join(SIZES)}")
    hidden_size, num_layers, num_heads, ffn_size = SIZES[size]
    config = ml_collections.ConfigDict()
    config.vocab_size = 250002  # tokens, the five special ones included (released vocabulary)
    config.hidden_size = hidden_size  # by size (paper)
    config.num_layers = num_layers  # by size (paper)
    config.num_heads = num_heads  # by size (paper); divides hidden_size
    config.ffn_size = ffn_size  # by size (paper)
    config.max_positions = 514  # rows of the position table (released models)
    config.first_position = 2  # row of a text's first token; so 512 tokens at most (released models)
    config.pad_id = 1  # token id of padding (released vocabulary)
    config.layer_norm_eps = 1e-5  # (released models)
    config.initializer_range = 0.02  # standard deviation of the truncated normal (released models)
    config.hidden_dropout = 0.1  # rate after embeddings, attention and FFN (released models)
    config.attention_dropout = 0.1  # rate on attention probabilities (released models)
    config.num_languages = -1  # rows of the language table; -1: as many as `languages`
    config.language_embedding = "slots"  # slots | all | none: which tokens get one (ours; "all" is the paper's figure)
    config.num_token_types = 0  # rows of the token type table; 0: none (released models; BERT has 2)
    config.pooler = False  # dense + tanh on the first token; fine-tuning heads use it, pre-training does not
    config.mlm_head = "dense"  # dense (dense + GELU + LayerNorm before the tied decoder) | plain (decoder only) | none
    config.head = "none"  # none | sequence_classification | multiple_choice | token_classification |
    # question_answering | information_extraction: the linear map on the pooled or the token vectors
    config.num_labels = 2  # outputs of sequence_classification and token_classification; the others' are fixed
    config.labels = ()  # names of these outputs, in their order; empty: unnamed
    return config


def source(path: str = "", **keys: object) -> ml_collections.ConfigDict:
    """Keys of one set of records; `ernie_m_jax/data/records.py` describes the formats."""
    config = ml_collections.ConfigDict()
    # empty: this source is left out; so `--config.data.monolingual.text.path=` takes one out, and
    # `--config.data.monolingual.NAME.path=PATH` with a new NAME adds one
    config.path = path  # file, URL, template with {language} or {pair}, "corpus:NAME" (bundled) or "tfds:NAME/CONFIG"
    config.format = "auto"  # auto | text | tsv | jsonl | moses | array_record | tfds
    config.languages = ()  # languages to read; empty: all of `config.languages`
    config.pairs = ()  # pairs to read, "en-de"; empty: all pairs of the languages
    config.columns = ()  # names of the columns or keys where the file does not name its languages itself
    config.split = "train"  # TFDS split
    config.update(keys)
    return config


def stage(**keys: object) -> ml_collections.ConfigDict:
    """Keys of one stage of training. Stages run in the order of their names, each from the checkpoint before it."""
    config = ml_collections.ConfigDict()
    config.steps = 200_000  # optimizer steps (recipe)
    config.weights = ml_collections.ConfigDict()  # objective -> weight; one objective is drawn a step (ours)
    config.learning_rate = 2e-4  # peak; 1e-4 for large (recipe)
    config.warmup_steps = 10_000  # steps (recipe)
    config.schedule = "linear"  # linear | linear_from_zero | cosine | constant, after the warm-up (recipe: linear)
    config.final_fraction = 0.0  # of the peak, reached at the last step (recipe)
    config.update(keys)
    return config


def objectives() -> ml_collections.ConfigDict:
    """Keys of the four pre-training objectives."""
    config = ml_collections.ConfigDict()
    config.mmlm = {
        "mask_ratio": 0.15,  # share of tokens to predict (paper)
        "join_to_characters": 0,  # join lines of a language to about this many characters, cut into rows; 0: no joining
    }
    config.tlm = {
        "mask_ratio": 0.15,  # share of tokens to predict (paper)
    }
    config.camlm = {
        "mask_ratio": 0.15,  # share of words that get an extra mask slot (paper)
    }
    config.btmlm = {
        "mask_ratio": 0.15,  # share of source tokens to predict from source and pseudo tokens (paper)
        "length_ratio": 1.0,  # placeholders for each source token (ours; the paper does not say)
        "temperature": 0.0,  # 0: argmax; above: sample the pseudo tokens (ours: argmax)
        "passes": 1,  # generation passes; each further one masks the least confident again (ours)
        "join_to_characters": 0,  # as mmlm.join_to_characters
    }
    return config


def get_config() -> ml_collections.ConfigDict:
    """The base: ERNIE-M base without data."""
    config = ml_collections.ConfigDict()
    config.seed = 0  # everything random comes from it
    config.languages = ("en",)  # language codes, in the order of the language table's rows
    config.model = model("base")
    config.compute = {
        "dtype": "float32",  # float32 | bfloat16: activations; parameters, LayerNorm, softmax and loss stay float32
        "scan_layers": True,  # one compiled layer, parameters stacked; False: unrolled
        "remat": "none",  # none | dots | full: what the backward pass computes again
        "attention": "xla",  # xla | cudnn
        "vocab_chunk": 16_384,  # vocabulary rows a step of the cross-entropy; 0: all at once
    }
    config.tokenizer = {
        "path": "",  # folder of sentencepiece.bpe.model and vocab.txt; empty: train one on the data into the workdir
        "style": "ernie",  # ernie (published scores) | huggingface, and for baselines xlm-roberta | bert | xlm
        "character_coverage": 0.9999,  # share of characters a trained tokenizer covers
    }
    config.data = {
        "sequence_length": 256,  # tokens of a packed row
        "pair_positions": "continued",  # continued (as in fine-tuning) | restarted (as XLM): second sentence
        "monolingual": ml_collections.ConfigDict(),  # name -> source(...), read by mmlm and btmlm
        "parallel": ml_collections.ConfigDict(),  # name -> source(...), read by tlm and camlm
        "sampling_exponent": 0.7,  # exponent of the sampling over languages and pairs (the field's habit)
        "virtual_streams": 8,  # parts of the batch with a packer of their own; hosts share them out
        "packing_bins": 64,  # rows that a packer fills at a time; more fills better and mixes epochs further
        "prefetch": 2,  # batches made ahead, an objective
    }
    config.objectives = objectives()
    config.stages = ml_collections.ConfigDict()  # name -> stage(...)
    config.optimizer = {
        "b1": 0.9,  # Adam (recipe)
        "b2": 0.98,  # Adam (recipe)
        "eps": 1e-6,  # Adam (recipe)
        "weight_decay": 0.01,  # decoupled; not on biases and LayerNorm (recipe)
        "layer_decay": 1.0,  # factor a layer from the top down; fine-tuning uses 0.8 (paper's code)
        "clip_norm": 1.0,  # global norm; 0: no clipping (recipe)
    }
    config.train = {
        "batch_size": 256,  # packed rows a step over all devices
        "grad_accumulation_steps": 1,  # parts a step is computed in; sums are accumulated
        "log_every": 50,  # steps
        "evaluate_every": 0,  # steps between retrieval evaluations within a stage; 0: only at its end
        "save_every": 1000,  # steps between checkpoints; the last step is always saved; 0: only there
        "max_to_keep": 2,  # newest checkpoints to keep; 0: all
        "max_skipped": 10,  # steps in a row with a loss or gradient that is not finite, at which a run stops (ours)
    }
    config.mesh = {"data": -1, "fsdp": 1, "tensor": 1}  # devices an axis; -1: the rest
    config.retrieval = {
        "source": source(),  # a parallel set with one column a language; empty path: no retrieval
        "layer": -1,  # 0: embeddings, n: after layer n, -1: the last
        "pooling": "mean",  # mean | cls | max, over a sentence's tokens
        "batch_size": 64,  # sentences a step
        "max_length": 128,  # tokens at most
    }
    config.init = {
        "resume": "",  # folder of a stage to continue: state and data position, into a new workdir
        "params": "",  # a model to take the parameters from: a run or stage, or any format of docs/conversion.md
        "fresh": (),  # beginnings of names of parameters that may be missing there and then start from scratch
        "drop": (),  # beginnings of names of parameters and tensors there that this model may do without
    }
    return config


# How a size is pre-trained. base and large: the recipe, on many accelerators. small: the least that is worth comparing
# objectives with, on one GPU, or on a CPU with patience (ours). tiny: tries data and a config out on a CPU (ours).
SCALES = {
    "tiny": {
        "compute": {"dtype": "float32", "remat": "none"},
        "data": {"sequence_length": 128, "virtual_streams": 4, "packing_bins": 32},
        "train": {"batch_size": 8, "grad_accumulation_steps": 1, "save_every": 500},
        "stage": {"steps": 2_000, "warmup_steps": 0, "learning_rate": 1e-3},  # no warm-up: a trial may be cut short
    },
    "small": {
        "compute": {"dtype": "float32", "remat": "none"},
        "data": {"sequence_length": 256, "virtual_streams": 8},
        "train": {"batch_size": 64, "grad_accumulation_steps": 4},
        "stage": {"steps": 20_000, "warmup_steps": 1_000, "learning_rate": 5e-4},
    },
    "base": {
        "compute": {"dtype": "bfloat16", "remat": "dots"},
        "data": {"sequence_length": 512, "virtual_streams": 64},
        "train": {"batch_size": 2048, "grad_accumulation_steps": 16},
        "stage": {"steps": 200_000, "warmup_steps": 10_000, "learning_rate": 2e-4},
    },
    "large": {
        "compute": {"dtype": "bfloat16", "remat": "dots"},
        "data": {"sequence_length": 512, "virtual_streams": 64},
        "train": {"batch_size": 2048, "grad_accumulation_steps": 32},
        "stage": {"steps": 200_000, "warmup_steps": 10_000, "learning_rate": 1e-4},
    },
}


def pretraining(size: str) -> ml_collections.ConfigDict:
    """The base at one of `SCALES`; the files of `configs/pretrain` add the stages."""
    config = get_config()
    config.model.update(model(size))
    config.model.hidden_dropout = 0.0  # (recipe)
    config.model.attention_dropout = 0.0  # (recipe)
    config.init.fresh = ("embeddings/language",)  # released models have no language embedding
    config.init.drop = ("pooler",)  # nothing trains it
    config.data.monolingual.text = source("text/{language}.txt")
    config.data.parallel.pairs = source("pairs/{pair}.{language}")
    for group in ("compute", "data", "train"):
        config[group].update(SCALES[size][group])
    characters = 4 * config.data.sequence_length  # about as many as fill a row
    config.objectives.mmlm.join_to_characters = characters
    config.objectives.btmlm.join_to_characters = characters // 2  # the placeholders need as much room again
    return config


def pretraining_stage(size: str, weights: dict[str, float], **keys: object) -> ml_collections.ConfigDict:
    """A stage at one of `SCALES`."""
    return stage(weights=weights, **{**SCALES[size]["stage"], **keys})


def parse(argument: str, **choices: tuple[str, ...]) -> list[str]:
    """`KEY=VALUE,KEY=VALUE` as a value for each of `choices`, in their order; the first choice is the default.

    Raises:
      ValueError: a key or value that is not among the choices, or a key given twice; the message lists them.
    """
    given = dict(item.partition("=")[::2] for item in argument.split(",") if item)
    if len(given) < len([item for item in argument.split(",") if item]) or not all(
        key in choices and value in choices[key] for key, value in given.items()
    ):
        expected = ",".join(f"{key}={'|'.join(values)}" for key, values in choices.items())
        raise ValueError(f"argument {argument!r}: expected {expected}")
    return [given.get(key, values[0]) for key, values in choices.items()]


SIZE = ("base", "tiny", "small", "large")  # choices of `size=`, the default first
