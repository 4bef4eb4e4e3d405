"""The public functions: a model off the disk and onto it, and a run, from Python.

    path --load--> Model --save--> a folder of this project or another library          config --train--> a run

Nothing in the package imports this module; `ernie_m_jax` hands its names out when they are first used.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from ernie_m_jax import config as configs
from ernie_m_jax import mirrors
from ernie_m_jax.checkpoint import tree
from ernie_m_jax.config import Config, ModelConfig
from ernie_m_jax.convert import layers
from ernie_m_jax.convert import model as conversion
from ernie_m_jax.convert.native import NO_FACTS, Facts
from ernie_m_jax.pretrained import Model
from ernie_m_jax.tokenizer import Tokenizer
from ernie_m_jax.training import run


def load(
    path: Any,
    *,
    scan_layers: bool = True,
    form: str = "",
    style: str = "",
    num_heads: int = 0,
    ignore: Sequence[str] = (),
    with_tokenizer: bool = True,
) -> Model:
    """Loads a model whole into memory: of this project, or any released format (docs/conversion.md).

    Args:
      path: a run, one of its stages, a model's file, folder or tar archive; local or a URL.
      scan_layers: layers stacked, for `compute.scan_layers=True`; otherwise `layers_0`, `layers_1`, ...
      form: the format, where it is not to be recognised.
      style: of an ERNIE-M tokenizer: "ernie" (default) or "huggingface"; a model of this project keeps its own.
      num_heads: attention heads, where neither the checkpoint nor the width of 64 per head gives them.
      ignore: name prefixes of tensors that may be there and are no parameters.
      with_tokenizer: look for a tokenizer beside the weights.

    Raises:
      ConversionError, CheckpointError: what is wrong, with the names of tensors and their shapes.
    """
    with conversion.open_source(
        path, form=form, style=style, num_heads=num_heads, ignore=ignore, with_tokenizer=with_tokenizer
    ) as source:
        params = dict(source.read())
    nested = tree.nest(params if scan_layers else layers.unrolled(params))
    facts = source.facts
    return Model(
        source.config, nested, source.tokenizer, facts.languages, facts.pair_positions, str(path), facts.objectives
    )


def save(
    path: Any,
    model: Model | ModelConfig,
    params: Any = None,
    tokenizer: Tokenizer | None = None,
    *,
    to: str = "native",
    drop: Sequence[str] = (),
) -> None:
    """Writes a model for this project or another library: `save(path, model)`, or `save(path, config, params)`.

    Args:
      path: a folder that does not exist or is empty; local or a URL.
      model: a whole Model, or an architecture whose parameters follow.
      params: nested dictionaries of arrays; layers stacked or not.
      tokenizer: goes with it; None leaves it out.
      to: "native", "huggingface" (ErnieM), "xlm-roberta" (transformers' XLM-R) or "paddle" (PaddleNLP's ErnieM).
      drop: parameters to leave out, of "mlm_head", "head", "pooler" and "embeddings/language".

    Raises:
      ConversionError: the parameters do not fit the architecture, the target cannot hold them, or `drop` names what no
        model can do without.
      ValueError: a Model with parameters beside it, or an architecture without.
    """
    facts = NO_FACTS
    if isinstance(model, Model):
        if params is not None or tokenizer is not None:
            raise ValueError("save: a whole Model brings its own params and tokenizer; leave them out")
        facts = Facts(model.languages, model.pair_positions, model.objectives)
        config, params, tokenizer = model
    elif params is None:
        raise ValueError("save: an architecture alone cannot be saved; give its params too, or a whole Model")
    else:
        config = model
    checked = conversion.checked(config, params)
    with mirrors.mirrored(path, writing=True) as folder:
        conversion.write(folder, config, checked, tokenizer, to, drop=drop, facts=facts)


def train(config: Any, workdir: Any) -> dict[str, Any]:
    """Trains every stage of a config, as `--mode=train` does; an interrupted run goes on where it stood.

    Args:
      config: what a config file's `get_config()` returns, or a resolved `Config`.
      workdir: the run's directory, local or a URL.

    Returns:
      The summary: retrieval accuracies, each stage's numbers, speed; also in `workdir/summary.json`.

    Raises:
      TypeError: `config` is neither.
      ConfigError, DataError, CheckpointError: what is wrong and where; what is on disk stays intact.
      TrainingError: the loss or gradient was not finite too often in a row.
      Interrupted: a signal asked to stop.
    """
    if not (isinstance(config, Config | Mapping) or hasattr(config, "to_dict")):
        raise TypeError(f"config is {config!r:.80}; it must be what a config file's get_config() returns, or a Config")
    with mirrors.mirrored(workdir, writing=True) as place:
        return run.train(config if isinstance(config, Config) else configs.resolve(config), place)
