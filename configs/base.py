"""The whole tree of configuration, once. Every other config starts from `get_config()` here and states what differs.

A comment per key: meaning, unit, source. Sources: "paper" is Ouyang et al., EMNLP 2021; "recipe" is the nearest
published pre-training recipe (InfoXLM from XLM-R base); "ours" is a decision of this project, given in docs/design.md.
"""

import ml_collections

# Architecture per size: hidden size, layers, heads, FFN size. base and large are the released models (paper).
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
    config.key_init = "own"  # own (released models) | query: a key projection starts equal to its query projection, so
    # that equal tokens attend to each other from the start (ours, for models without much pre-training)
    config.position_init = "normal"  # normal (released models) | sinusoidal (Vaswani et al. 2017, then trained as the
    # others are): neighbours start alike (ours, likewise)
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
    config.path = path  # file, URL, template with {language} or {pair}, "corpus:NAME" (bundled), "tfds:NAME/CONFIG", or
    # a folder of stored ids (`python -m ernie_m_jax.data.prepare corpus`)
    config.format = "auto"  # auto | text | tsv | jsonl | moses | array_record | tfds | ids
    config.languages = ()  # languages to read; empty: all of `config.languages`
    config.pairs = ()  # pairs to read, "en-de"; empty: all pairs of the languages
    config.columns = ()  # names of the columns or keys where the file does not name its languages itself
    config.split = "train"  # TFDS split
    config.update(keys)
    return config


def stage(**keys: object) -> ml_collections.ConfigDict:
    """Keys of one stage of training. Stages run in the order of their names, each from the checkpoint before it."""
    config = ml_collections.ConfigDict()
    config.steps = 200_000  # optimizer steps (recipe); 0: as many as `epochs` take
    config.epochs = 0.0  # passes through the objective's training data where steps is 0; for fine-tuning
    config.weights = ml_collections.ConfigDict()  # objective -> weight; one objective is drawn per step (ours)
    config.learning_rate = 2e-4  # peak; 1e-4 for large (recipe)
    config.warmup_steps = 10_000  # steps (recipe)
    config.warmup_fraction = 0.0  # of the steps; above 0 it decides instead of warmup_steps (paper's code: 0.1)
    config.schedule = "linear"  # linear | linear_from_zero | cosine | constant, after the warm-up (recipe: linear)
    config.final_fraction = 0.0  # of the peak, reached at the last step (recipe)
    config.update(keys)
    return config


def evaluation(kind: str, **keys: object) -> ml_collections.ConfigDict:
    """Keys of an evaluation, `config.evals.NAME`; NAME is the user's.

    `--config.evals.NAME.kind=KIND` adds one on the command line. What it finds is shown, and is in `metrics.jsonl`, in
    TensorBoard and in `STAGE/NAME.csv` and `.png`.
    """
    config = ml_collections.ConfigDict()
    config.kind = kind  # retrieval | heldout | task
    config.every = 0  # steps between evaluations within a stage; 0: only at its end
    config.start = False  # also before the first step of the first stage
    config.batch_size = 32  # rows computed at a time: packed ones, in retrieval sentences
    if kind == "retrieval":
        # a parallel set to search: with one column per language every language is compared with every other; with
        # {pair} or {language} in the path, or `pairs`, each pair by itself. Empty path: no retrieval
        config.source = source()
        config.layer = -1  # 0: embeddings, n: after layer n, -1: the last
        config.pooling = "mean"  # mean | cls | max, over a sentence's tokens
        config.max_length = 128  # tokens of a sentence
        config.similarity = "cosine"  # cosine | margin (over the mean of both sentences' nearest neighbours)
        config.every_layer = False  # also the average of every layer, all computed in one pass
        config.paper = False  # whether the set is Tatoeba's: the paper's rows are shown beside
        config.start = True
        config.batch_size = 64
    elif kind == "heldout":
        config.objective = "mmlm"  # entry of config.objectives whose loss and accuracy are measured, by language
        config.monolingual = source()  # text that is not trained on, as the objective needs it
        config.parallel = source()
        config.max_records = 0  # the first of each language or pair; 0: all
    elif kind == "task":
        config.objective = ""  # entry of config.objectives that is a fine-tuning task
        config.splits = ("dev", "test")  # of the task; the last one's score is the headline
    else:
        raise ValueError(f"evaluation kind {kind!r}: must be retrieval, heldout or task")
    config.update(keys)
    return config


def sentence_pairs(**keys: object) -> ml_collections.ConfigDict:
    """Keys of a fine-tuning task on pairs of sentences (xnli, pawsx); `data/labelled.py` describes the files."""
    config = ml_collections.ConfigDict()
    config.train = ""  # file with {language}, folder of a known layout or prepared (data/prepare.py), or "tfds:NAME"
    config.dev = ""  # the same; empty: the task has no such split
    config.test = ""  # the same
    config.train_languages = ("en",)  # one: cross-lingual transfer; several: translate-train-all
    config.languages = ()  # languages that are evaluated; empty: all of config.languages
    config.max_length = 256  # tokens of a pair, special ones included; the longer sentence is cut first (paper's code)
    config.bad_rows = "error"  # error | skip: rows that cannot be used are left out and counted
    config.update(keys)
    return config


def tagged_words(**keys: object) -> ml_collections.ConfigDict:
    """Keys of a fine-tuning task on tagged words (conll); `data/tagged.py` describes the files."""
    config = ml_collections.ConfigDict()
    # A file with {language}, folder of a known layout or prepared (data/prepare.py), "tfds:NAME", or of each language:
    config.train = ""  # "en=A,es=B"
    config.dev = ""  # the same; empty: the task has no such split
    config.test = ""  # the same
    config.train_languages = ("en",)  # one: cross-lingual transfer; several: all of them at once
    config.languages = ()  # languages that are evaluated; empty: all of config.languages
    config.max_length = 512  # tokens of a window, special ones included; a longer sentence has several (paper's code)
    config.sentences_per_row = 0  # at most so many share a packed row; 0: as many as fit (ours, for small batches)
    config.bad_rows = "error"  # error | skip: sentences that cannot be used are left out and counted
    config.update(keys)
    return config


def question_answering(**keys: object) -> ml_collections.ConfigDict:
    """Keys of answering questions from a text (mlqa); `data/squad.py` describes the files."""
    config = ml_collections.ConfigDict()
    config.train = ""  # file with {language}, folder of a known layout or prepared (data/prepare.py), or "tfds:NAME"
    config.dev = ""  # the same; empty: the task has no such split
    config.test = ""  # the same
    config.train_languages = ("en",)  # the paper's: English only
    config.languages = ()  # languages that are evaluated; empty: all of config.languages
    config.max_length = 384  # tokens of a window, question and special ones included (paper's code)
    config.stride = 128  # tokens of the text between the beginnings of two windows (paper's code)
    config.max_question = 64  # tokens of the question; what is longer is cut (paper's code)
    config.max_answer = 100  # tokens of the longest answer that is given (paper's code)
    config.n_best = 20  # starts and ends of a window that are tried (paper's code)
    config.bad_rows = "error"  # error | skip: questions that cannot be used are left out and counted
    config.scoring = "mlqa"  # mlqa | squad: the official script that scores; squad for XQuAD and other languages
    config.update(keys)
    return config


def objectives() -> ml_collections.ConfigDict:
    """Keys of the four pre-training objectives.

    An entry of another name says which task it is: `config.objectives.short = {"task": "mmlm", ...}`. A task of your
    own is named by its module: `{"task": "my_package.my_task", ...}`.
    """
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
        # Small models fare better with a mask_ratio of 1.0: pseudo tokens are of use where the source does not tell
        # (docs/reproduction.md).
        "mask_ratio": 0.15,  # share of source tokens to predict from source and pseudo tokens (paper)
        "length_ratio": 1.0,  # placeholders per source token (ours; the paper does not say)
        "temperature": 0.0,  # 0: argmax; above: sample the pseudo tokens (ours: argmax)
        "passes": 1,  # generation passes; each further one masks the least confident again (ours)
        "restore_from": "both",  # both (paper) | pseudo: what masked words see, source and pseudo tokens or these alone
        "pseudo": "own",  # own (paper) | shuffled | other: a sentence's pseudo tokens, or as a control in random order,
        # or another row's
        "confidence_threshold": 0.0,  # pseudo tokens less probable than this stay [MASK] (ours)
        "join_to_characters": 0,  # as mmlm.join_to_characters
    }
    return config


def train() -> ml_collections.ConfigDict:
    """Keys of training: sizes of a step, how often it says and saves, what ends it."""
    config = ml_collections.ConfigDict()
    config.batch_size = 256  # packed rows per step over all devices
    config.grad_accumulation_steps = 1  # parts that each step is computed in; their sums are added up
    config.log_every = 50  # steps
    config.save_every = 1000  # steps between checkpoints; the last step is always saved; 0: only there
    config.max_to_keep = 2  # newest checkpoints to keep; 0: all
    config.keep_every = 0  # steps: of checkpoints, multiples of it are kept for good; 0: none is (ours)
    config.max_skipped = 10  # steps in a row with a loss or gradient that is not finite, at which a run stops (ours)
    config.spike_sigmas = 0.0  # a loss so many standard deviations above the mean of its objective's last 128 is
    # skipped as one that is not finite is (ours; 6 skips nothing but accidents); 0: none is
    config.profile_from = 20  # step of each stage that a profile begins with, for TensorBoard
    config.profile_steps = 0  # how many it has (ours); 0: no profile
    config.host_times_every = 1000  # steps between two tables of the processes' times, where there are several (ours);
    # 0: none
    config.watchdog_seconds = 600.0  # without a step, and 10 times the median step, after which a run counts as
    # hanging: it ends, to be run again (ours); 0: never, nor one of whose processes nothing is heard
    config.watchdog_other_seconds = 0.0  # in a compilation, an evaluation, a save or a start of a stage, after which it
    # ends likewise (ours); 0: never
    config.select = ""  # EVALUATION/METRIC, as "xnli/dev/accuracy": its best checkpoint is kept and is the result; of a
    # metric "loss" the least is best. Empty: the last step is the result
    config.patience = 0  # evaluations of `select` without a better one at which a stage ends early; 0: never
    return config


def get_config() -> ml_collections.ConfigDict:
    """The base: ERNIE-M base without data."""
    config = ml_collections.ConfigDict()
    config.seed = 0  # everything random comes from it
    config.languages = ("en",)  # language codes, in the order of the language table's rows
    config.model = model("base")
    config.compute = {
        "dtype": "float32",  # float32 | bfloat16: activations; parameters, LayerNorm, softmax and loss stay float32
        "scan_layers": True,  # parameters of all layers stacked, and a loop over them but on GPUs; False: layers_0, ...
        # dots, attention and dots_attention keep the outputs of the linear maps, of attention, of both
        "remat": "none",  # what the backward pass computes again: none | dots_attention | dots | attention | full
        "attention": "auto",  # xla | cudnn (no attention dropout) | flash (NVIDIA GPU, TPU) | auto
        "vocab_chunk": 16_384,  # vocabulary rows per step of the cross-entropy; 0: all at once
        "keep_logits": True,  # for the backward pass, in `dtype`; False, on TPUs and with mesh.fsdp: computed again
        "layer_norm": "auto",  # xla | fused (NVIDIA GPU) | auto
        "float8": False,  # the layers' linear maps in 8-bit floating point (NVIDIA GPUs from Hopper on)
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
        "sampling_exponent": 0.7,  # exponent of the sampling over languages and pairs (usual in the field)
        "virtual_streams": 8,  # parts of the batch, each with its own packer; divided among the processes
        "packing_bins": 64,  # rows that a packer fills at a time; more bins pad less and mix epochs further
        "prefetch": 2,  # batches made ahead, per objective, beside those whose rows are packed together
        "workers": 0,  # processes that make batches, per objective; at most virtual_streams (ours). 0: a thread
    }
    config.objectives = objectives()
    config.stages = ml_collections.ConfigDict()  # name -> stage(...)
    config.optimizer = {
        "b1": 0.9,  # Adam (recipe)
        "b2": 0.98,  # Adam (recipe)
        "eps": 1e-6,  # Adam (recipe)
        "weight_decay": 0.01,  # decoupled; not on biases and LayerNorm (recipe)
        "layer_decay": 1.0,  # factor per layer from the top down; fine-tuning uses 0.8 (paper's code)
        "clip_norm": 1.0,  # global norm; 0: no clipping (recipe)
        "moments_dtype": "float32",  # float32 | bfloat16: of Adam's moments between steps; bfloat16 halves their memory
    }
    config.train = train()
    # Devices per axis; -1: the rest. `tensor` need not divide the vocabulary (docs/design.md), but heads and FFN.
    config.mesh = {"data": -1, "fsdp": 1, "tensor": 1}
    config.evals = {"retrieval": evaluation("retrieval")}  # name -> evaluation(...)
    config.encode = {  # --mode=encode: sentences to vectors
        "layer": -1,  # 0: embeddings, n: after layer n, -1: the last
        "pooling": "mean",  # mean | cls | max, over a sentence's tokens
        "batch_size": 64,  # sentences computed at a time
        "max_length": 128,  # tokens of a sentence
    }
    config.init = {
        "resume": "",  # folder of a stage to continue: state and data position, into a new workdir
        "params": "",  # a model to take the parameters from: a run or stage, or any format of docs/conversion.md
        "fresh": (),  # name prefixes of parameters that may be missing there and then start from scratch
        "drop": (),  # name prefixes of parameters and tensors there that this model may do without
    }
    return config


def parse(argument: str, **choices: tuple[str, ...] | str) -> list[str]:
    """`KEY=VALUE,KEY=VALUE` as a value for each of `choices`, in their order.

    Args:
      argument: what stands after the colon of --config.
      **choices: key -> the values it may have, the default first; or, as a string, the default of a free value.

    Raises:
      ValueError: a key or value that is not among the choices, or a key given twice; the message lists them.
    """
    items = [item for item in argument.split(",") if item]
    given = dict(item.partition("=")[::2] for item in items)
    fits = all(
        key in choices and (isinstance(choices[key], str) or value in choices[key]) for key, value in given.items()
    )
    if len(given) < len(items) or not fits:
        shown = {key: "..." if isinstance(values, str) else "|".join(values) for key, values in choices.items()}
        raise ValueError(
            f"argument {argument!r}: expected {','.join(f'{key}={value}' for key, value in shown.items())}"
        )
    return [given.get(key, values if isinstance(values, str) else values[0]) for key, values in choices.items()]


SIZE = ("base", "tiny", "small", "large")  # choices of `size=`, the default first
