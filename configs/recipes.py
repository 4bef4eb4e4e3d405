"""Recipes: how a size is pre-trained and fine-tuned; `configs/pretrain` and `configs/finetune` use them."""

import json

import ml_collections

from configs import base
from ernie_m_jax import stores
from ernie_m_jax.tokenizer import Tokenizer

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
        "compute": {"dtype": "bfloat16", "remat": "dots_attention"},
        "data": {"sequence_length": 512, "virtual_streams": 64},
        "train": {"batch_size": 2048, "grad_accumulation_steps": 16},
        "stage": {"steps": 200_000, "warmup_steps": 10_000, "learning_rate": 2e-4},
    },
    "large": {
        "compute": {"dtype": "bfloat16", "remat": "dots_attention"},
        "data": {"sequence_length": 512, "virtual_streams": 64},
        "train": {"batch_size": 2048, "grad_accumulation_steps": 32},
        "stage": {"steps": 200_000, "warmup_steps": 10_000, "learning_rate": 1e-4},
    },
}


def pretraining(size: str) -> ml_collections.ConfigDict:
    """The base at one of `SCALES`; the files of `configs/pretrain` add the stages."""
    config = base.get_config()
    config.model.update(base.model(size))
    config.model.hidden_dropout = 0.0  # (recipe)
    config.model.attention_dropout = 0.0  # (recipe)
    config.init.fresh = ("embeddings/language",)  # released models have no language embedding
    config.init.drop = ("pooler",)  # nothing trains it
    config.data.monolingual.text = base.source("text/{language}.txt")
    config.data.parallel.pairs = base.source("pairs/{pair}.{language}")
    for group in ("compute", "data", "train"):
        config[group].update(SCALES[size][group])
    # About as many as fill four rows: of a text cut into rows one is not full, whatever its length. More would pad less
    # still, but then the rows that are packed together come from fewer texts.
    characters = 16 * config.data.sequence_length
    config.objectives.mmlm.join_to_characters = characters
    config.objectives.btmlm.join_to_characters = characters // 2  # the placeholders need as much room again
    return config


def pretraining_stage(size: str, weights: dict[str, float], **keys: object) -> ml_collections.ConfigDict:
    """A stage at one of `SCALES`."""
    return base.stage(weights=weights, **{**SCALES[size]["stage"], **keys})


def finetuning(
    size: str, labels: tuple[str, ...], init: str, seed: str, head: str = "sequence_classification"
) -> ml_collections.ConfigDict:
    """The base for fine-tuning ERNIE-M (paper's code), without task and stage.

    Args:
      size: one of `SIZES`; does not count where `init` is a model of this project.
      labels: names of the classes; none for a head whose outputs are fixed.
      init: where the parameters come from, a folder or URL: a run or converted model of this project, whose
        architecture and tokenizer are taken over, or another format of `docs/conversion.md`; empty: `ernie-m-<size>`
        for base and large, from scratch for the others.
      seed: a number.
      head: `config.model.head`: what is classified, texts or tokens, or where answers begin and end.
    """
    config = base.get_config()
    config.seed = int(seed)  # the paper's figures are means of five
    config.model.update(base.model(size))
    config.model.language_embedding = "none"  # nothing is to be written, and released models have none
    init = init or (f"ernie-m-{size}" if size in ("base", "large") else "")
    config.init.params = init
    config.tokenizer.path = init
    if init:
        _as_stored(config, init)
    if size in ("base", "large"):
        config.model.hidden_dropout = 0.1  # (paper's code); pre-training, whose value a run has, goes without
        config.model.attention_dropout = 0.1
    config.model.pooler = head == "sequence_classification"
    config.model.mlm_head = "none"
    config.model.head = head
    config.model.num_labels = len(labels) or config.model.num_labels
    config.model.labels = labels
    config.init.fresh = ("head", "pooler") if config.model.pooler else ("head",)
    config.init.drop = ("mlm_head", "embeddings/language", "head") + (() if config.model.pooler else ("pooler",))
    config.optimizer.update({"b2": 0.999, "weight_decay": 0.0, "layer_decay": 0.8})  # (paper's code)
    config.data.sampling_exponent = 1.0  # every pair as often as every other
    config.data.packing_bins = 32
    config.evals = ml_collections.ConfigDict()
    config.train.log_every = 100
    return config


def _as_stored(config: ml_collections.ConfigDict, place: str) -> None:
    """Takes over what a run or a converted model of this project says of itself; another library's says nothing."""
    try:
        stored = json.loads(stores.read(stores.join(place, "config.json")))
    except (FileNotFoundError, NotADirectoryError):
        return
    stored = stored.get("config", stored)
    if not isinstance(stored.get("model"), dict):
        return
    config.model.update({key: value for key, value in stored["model"].items() if key in config.model})
    config.model.language_embedding = "none"  # the other languages of a task have no row in its table
    config.model.num_languages = -1
    config.tokenizer.style = stored["tokenizer"]["style"] or config.tokenizer.style
    own = stores.join(place, "tokenizer")
    has_own = Tokenizer.is_in(own, config.tokenizer.style)
    config.tokenizer.path = own if has_own else stored["tokenizer"].get("path") or own
    config.data.pair_positions = stored.get("data", {}).get("pair_positions", config.data.pair_positions)


# Learning rate, and steps between evaluations on dev, by size. base and large: the paper's code, ours.
FINETUNING_SCALES = {"tiny": (5e-4, 200), "small": (1e-4, 1000), "base": (5e-5, 2000), "large": (5e-5, 2000)}


def finetune_on(
    config: ml_collections.ConfigDict, objective: str, size: str, epochs: float, rows: int, metric: str = "accuracy"
) -> None:
    """The one stage of a fine-tuning run, with its evaluations; the checkpoint that is best on dev is its result.

    Args:
      config: of `finetuning`, with the objective's keys.
      objective: the task's entry.
      size: decides learning rate and precision.
      epochs: passes through the training data.
      rows: packed rows per step.
      metric: of the task, by which the best checkpoint is chosen.
    """
    rate, every = FINETUNING_SCALES[size]
    config.compute.dtype = "bfloat16" if size in ("base", "large") else "float32"
    config.train.batch_size = rows
    config.data.virtual_streams = 8 if rows % 8 == 0 else 2
    config.stages.finetune = base.stage(
        steps=0,
        epochs=epochs,
        weights={objective: 1.0},
        learning_rate=rate,
        warmup_steps=0,
        warmup_fraction=0.1,
        schedule="linear_from_zero",
    )
    config.evals.dev = base.evaluation("task", objective=objective, splits=("dev",), every=every)
    config.evals[objective] = base.evaluation("task", objective=objective, splits=("dev", "test"))
    config.train.select = f"dev/dev/{metric}"
