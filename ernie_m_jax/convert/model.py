"""A model out of any known format, and into any: what `ernie_m_jax.load`, `save` and the command line use.

path --archives, tensors--> tensors --formats--> table --architectures--> ModelConfig --transform--> parameters
"""

import contextlib
import dataclasses
import functools
import pathlib
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ernie_m_jax import mirrors, stores
from ernie_m_jax.checkpoint import tree
from ernie_m_jax.config import ComputeConfig, ConfigError, ModelConfig
from ernie_m_jax.config_checks import validate_model
from ernie_m_jax.convert import (
    architectures,
    exports,
    formats,
    layers,
    native,
    parts,
    rules,
    sidecar_files,
    targets,
    transform,
)
from ernie_m_jax.convert.native import NO_FACTS, Facts
from ernie_m_jax.model.encoder import ErnieM, Inputs
from ernie_m_jax.model.visibility import FULL
from ernie_m_jax.tokenizer import Tokenizer
from ernie_m_jax.weights import archives, checksums
from ernie_m_jax.weights.open import find_weights, open_weights
from ernie_m_jax.weights.tensors import ConversionError

COMPUTE = ComputeConfig(dtype="float32", scan_layers=True, remat="none", attention="xla", vocab_chunk=16_384)
_DEPTH = 4  # folders below the one given in which weights are looked for


@dataclasses.dataclass(frozen=True)
class Source:
    """A checkpoint that was opened and compared with the architecture it states, its arrays not yet read.

    Attributes:
      format: "native", or a name of `rules.FORMATS`.
      config: the architecture.
      tokenizer: None where there is none.
      shapes: of the parameters by path, layers stacked.
      read: each parameter with its path, one at a time.
      left_out: names, without prefix, of tensors that were not taken.
      facts: what its training decided beside the architecture.
    """

    format: str
    config: ModelConfig
    tokenizer: Tokenizer | None
    shapes: Mapping[str, tuple[int, ...]]
    read: Callable[[], Iterator[tuple[str, np.ndarray]]]
    left_out: tuple[str, ...] = ()
    facts: Facts = NO_FACTS


@functools.cache
def shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Every parameter's shape by path, layers stacked; in the order of the flattened tree."""
    tokens = Inputs(*(jnp.zeros((1, 8), jnp.int32) for _ in Inputs._fields))
    init = functools.partial(ErnieM(config, COMPUTE).init, jax.random.key(0), tokens)
    abstract = jax.eval_shape(lambda: init(FULL)["params"])
    return {name.removesuffix("/value"): leaf.shape for name, leaf in tree.named(abstract).items()}


@contextlib.contextmanager
def open_source(
    path: Any,
    *,
    form: str = "",
    style: str = "",
    num_heads: int = 0,
    ignore: Sequence[str] = (),
    with_tokenizer: bool = True,
) -> Iterator[Source]:
    """Opens a checkpoint; its arrays can be read inside the `with` block.

    Args:
      path: a model's file, folder or tar archive; a run of this project or one of its stages. Local or a URL.
      form: the format, where it is not to be recognised.
      style: of an ERNIE-M tokenizer: "ernie" (default) or "huggingface"; a model of this project keeps its own.
      num_heads: attention heads, where neither the checkpoint nor the width of 64 per head gives them.
      ignore: beginnings of tensors' names, prefix left off, that may be there and are no parameters.
      with_tokenizer: look for a tokenizer beside the weights.

    Raises:
      ConversionError, CheckpointError: what is wrong, with the names of tensors and their shapes.
    """
    if style not in ("", "ernie", "huggingface"):
        raise ConversionError(f"style {style!r} is unknown; an ERNIE-M tokenizer's is ernie or huggingface")
    if form not in ("", "native", *rules.FORMATS):
        raise ConversionError(f"format {form!r} is unknown; there are native, {', '.join(rules.FORMATS)}")
    if not stores.is_url(path) and not (str(path) and pathlib.Path(path).exists()):
        raise ConversionError(f"{str(path)!r}: no such file or directory")
    wanted_style = style if with_tokenizer else None
    with mirrors.mirrored(path) as copy, archives.opened(copy) as opened:
        try:
            if stores.is_url(path) and opened.is_dir() and not any(opened.iterdir()):
                raise ConversionError(f"{str(path)!r}: no such file or folder")
            place = native.find(opened)
            if form == "native" and place is None:
                raise ConversionError(f"{path}: not a model or run of this project: no checkpoints in it")
            if place is not None and form in ("", "native"):
                source = _open_native(place, num_heads, wanted_style)
            else:
                source = _open_foreign(opened, form, num_heads, parts.pattern(ignore), wanted_style)
            yield source
        except ConversionError as error:  # an archive was unpacked to a place that is gone when this is read
            raise ConversionError(str(error).replace(str(opened), str(path))) from error


def _open_native(place: pathlib.Path, num_heads: int, style: str | None) -> Source:
    """See `open_source`; `style` None: without a tokenizer."""
    model, tokenizer, facts = native.read_config(place, style)
    if num_heads not in (0, model.num_heads):
        raise ConversionError(f"{place}: has {model.num_heads} attention heads, not {num_heads} as --num_heads says")

    def read() -> Iterator[tuple[str, np.ndarray]]:
        params = native.read(place)
        _compare(params, model, f"{place}: parameters and config.json do not match")
        yield from ((name, transform.float32(name, array)) for name, array in params.items())

    return Source("native", model, tokenizer, shapes(model), read, facts=facts)


def _compare(params: Mapping[str, np.ndarray], config: ModelConfig, title: str) -> None:
    """Raises ConversionError unless the names and shapes are those of the config's model."""
    have, wanted = {name: array.shape for name, array in params.items()}, shapes(config)
    problems = [
        f"{name}: shape {have.get(name, 'missing')}, the config's model has {wanted.get(name, 'no such parameter')}"
        for name in sorted({*have, *wanted})
        if have.get(name) != wanted.get(name)
    ]
    if problems:
        raise ConversionError(f"{title}:\n  {transform.listed(problems)}")


def _open_foreign(path: pathlib.Path, name: str, num_heads: int, ignore: str, style: str | None) -> Source:
    """See `open_source`; `style` None: without a tokenizer."""
    weights_path = _weights_in(path)
    weights = open_weights(weights_path)
    folder = weights_path if weights_path.is_dir() else weights_path.parent
    config = sidecar_files.config(folder, weights.facts)
    form, tensors = formats.recognise(weights.tensors, config, str(weights_path), name)
    tensors = checksums.guarded(folder, tensors)
    model = architectures.model_config(form, config, tensors, str(folder), num_heads)
    wanted = shapes(model)
    parts, unknown = transform.plan(form, model.head, wanted)
    transform.check(form, parts, unknown, tensors, ignore)
    root = path if path.is_dir() else folder
    tokenizer = None if style is None else sidecar_files.tokenizer(folder, root, form, style)
    if tokenizer is not None and tokenizer.vocab_size != model.vocab_size:
        raise ConversionError(
            f"{form.encoder['embeddings/word']}: shape {wanted['embeddings/word']} in {weights_path}, but the "
            f"tokenizer beside it has {tokenizer.vocab_size} entries: shape {(tokenizer.vocab_size, model.hidden_size)}"
        )
    used = {part.name for found in parts.values() for part in found} | {*form.tied, *form.folded}
    return Source(
        form.name,
        model,
        tokenizer,
        wanted,
        lambda: transform.read(form, parts, wanted, tensors),
        tuple(name for name in tensors if name not in used),
        Facts(architectures.language_names(config, model)),
    )


def _weights_in(path: pathlib.Path) -> pathlib.Path:
    """The shallowest folder with weights in it, at most `_DEPTH` below `path`; `path` itself if there is none."""
    level = [path]
    for _ in range(_DEPTH):
        found = [folder for folder in level if folder.is_dir() and find_weights(folder) is not None]
        if len(found) > 1:
            raise ConversionError(f"{path}: several models in it, name one: {', '.join(map(str, found))}")
        if found:
            return found[0]
        level = sorted(child for folder in level if folder.is_dir() for child in folder.iterdir() if child.is_dir())
    return path


def checked(config: ModelConfig, params: Any) -> Iterator[tuple[str, np.ndarray]]:
    """Each of the parameters in memory with its path, float32, layers stacked.

    Raises:
      ConversionError: they do not fit `config`.
    """
    try:
        validate_model(config)
    except ConfigError as error:
        raise ConversionError(str(error)) from None
    flat = layers.stacked({name: np.asarray(array) for name, array in tree.named(params).items()})
    _compare(flat, config, "params and config do not match")
    return ((name, transform.float32(name, flat[name])) for name in flat)


def write(
    folder: pathlib.Path,
    config: ModelConfig,
    params: Iterable[tuple[str, np.ndarray]],
    tokenizer: Tokenizer | None,
    to: str,
    drop: Sequence[str] = (),
    facts: Facts = NO_FACTS,
) -> ModelConfig:
    """Writes a model for this project or another library, whole or not at all.

    Args:
      folder: does not exist or is empty.
      config: the architecture.
      params: path and float32 array of each of its parameters, one at a time.
      tokenizer: goes with it; None leaves it out.
      to: "native", or a name of `targets.TARGETS`.
      drop: the parts of the model that are left out; see `parts.without`.
      facts: go into a native model.

    Returns:
      The architecture of what was written.

    Raises:
      ConversionError: the target cannot hold the parameters, or `drop` names what it cannot leave out.
    """
    left = parts.without(config, drop)
    kept = shapes(left)
    params = ((name, array) for name, array in params if name in kept)
    if left.language_embedding == "none":
        facts = facts._replace(languages=())
    if to not in ("native", *targets.TARGETS):
        raise ConversionError(f"target {to!r} is unknown; there are native, {', '.join(targets.TARGETS)}")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConversionError(f"{folder}: is there already and not empty; choose another output or remove it")
    folder = folder.absolute()
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = pathlib.Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    except OSError as error:
        raise ConversionError(f"{folder}: cannot be written: {error.strerror or error}") from error
    try:
        partial.chmod(0o755)
        if to == "native":
            native.write(partial, left, params, tokenizer, facts)
        else:
            exports.write(partial, left, params, tokenizer, to)
        partial.replace(folder)  # an empty folder is replaced
    except OSError as error:
        raise ConversionError(f"{folder}: cannot be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return left
