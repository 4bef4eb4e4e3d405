"""Sentence vectors: text in, one float32 vector per sentence out.

    texts --tokenizer--> CLS ids SEP --sort, pad to a few lengths--> Inputs --encoder up to a layer--> pooled [N, H]

`encode_texts` is what the retrieval evaluation calls; `encode_file` is the command-line mode: text file in, `.npy` out.
Axes: B rows of a batch, L tokens of a row, H hidden size, N sentences.
"""

import functools
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from rich import progress as rich_progress

from ernie_m_jax import atomic, compiler, config_fields, sharding, stores
from ernie_m_jax.config import ConfigError, EncodeConfig, ModelConfig
from ernie_m_jax.data import batch as batches
from ernie_m_jax.data.records import DataError
from ernie_m_jax.model import depth, visibility
from ernie_m_jax.model.encoder import ErnieM, Inputs
from ernie_m_jax.tokenizer import Tokenizer

SHORTEST_BUCKET = 16  # below this a shorter row saves no time worth one more compilation
CHUNK_LINES = 65_536  # lines that `encode_file` sorts and encodes at a time; bounds its memory


def encode_texts(
    model: ErnieM,
    params: Any,
    tokenizer: Tokenizer,
    texts: Sequence[str],
    *,
    layer: int | None,
    pooling: str,
    max_length: int,
    batch_size: int,
    on_rows: Callable[[int], None] | None = None,
) -> np.ndarray:
    """Encodes each text as `CLS ids SEP` and pools one layer's output to a vector, or that of each layer.

    The pools run over every real token, CLS and SEP included and padding excluded, so an empty text has a vector too.
    (The paper says "mean over tokens"; that the special tokens count is our decision.) Only the layers up to `layer`
    are computed. The compiled function is kept between calls: another call with the same `batch_size` compiles
    nothing for a length it has met.

    Args:
      model: the encoder.
      params: its parameters, the value of the "params" collection. The rows are spread over the mesh they lie on, if
        there is one.
      tokenizer: turns a text into ids.
      texts: N sentences; an empty one is allowed.
      layer: 0 is the embeddings' output, n the output of layer n, -1 the last layer; None: all of them in one pass.
      pooling: "mean", "cls" (the first token's vector) or "max" (a maximum for each dimension).
      max_length: tokens per sentence at most, specials included; longer ones are cut.
      batch_size: sentences per batch, rounded up to a multiple of the mesh's shards of rows; the last batch is filled
        up with rows of padding.
      on_rows: called with the number of sentences finished, for each batch.

    Returns:
      float32 [N, H], in the order of `texts`; [layers + 1, N, H] of all layers, the embeddings' output first.

    Raises:
      ValueError: `texts` is one string, or holds something that is no string.
      ConfigError: layer, pooling, max_length or batch_size out of range.
    """
    texts = check_texts(texts, "texts")
    config = model.config
    layer = _check_request(config, layer, pooling, max_length, batch_size)
    stacked = () if layer is not None else (config.num_layers + 1,)
    mesh = mesh_of(params)
    if mesh is None:
        params = jax.device_put(params)  # once, not for each batch; nothing happens to what is on a device
    else:
        shards = math.prod(mesh.shape[axis] for axis in sharding.ROWS)
        batch_size = math.ceil(batch_size / shards) * shards
    encoder = _encoder(model, layer, pooling, mesh)
    rows = [tokenizer.encode_single(text, max_length) for text in texts]
    # The longest first, so that too large a batch runs out of memory at the start and not at the end.
    longest_first = sorted(range(len(rows)), key=lambda i: -len(rows[i]))
    vectors = np.empty((*stacked, len(rows), config.hidden_size), np.float32)

    def finish(chosen: list[int], pooled: jax.Array) -> None:
        vectors[..., chosen, :] = jax.device_get(pooled)[..., : len(chosen), :]
        if on_rows is not None:
            on_rows(len(chosen))

    waiting = None
    for chosen in batched(longest_first, batch_size):
        width = bucket(len(rows[chosen[0]]), max_length)
        pooled = encoder(params, inputs([rows[i] for i in chosen], batch_size, width, config.pad_id, mesh))
        if waiting is not None:  # read one batch late, so that the device never waits for the host
            finish(*waiting)
        waiting = chosen, pooled
    if waiting is not None:
        finish(*waiting)
    return vectors


def check_texts(texts: Iterable[str], name: str) -> list[str]:
    """Returns the texts as a list.

    Raises:
      ValueError: one string, which would be taken for a list of its characters, or an item that is no string, with its
        index; `name` is what the caller calls them.
    """
    if isinstance(texts, str):
        raise ValueError(f"{name} is one string; put it into a list: [{texts[:40]!r}]")
    texts = list(texts)
    for index, text in enumerate(texts):
        if not isinstance(text, str):
            raise ValueError(f"{name}[{index}] is {text!r}; it must be a string")
    return texts


def encode_file(
    input_path: epath.PathLike,
    output_path: epath.PathLike,
    *,
    model: ErnieM,
    params: Any,
    tokenizer: Tokenizer,
    layer: int,
    pooling: str,
    max_length: int,
    batch_size: int,
) -> tuple[int, int]:
    """Encodes a text file, one sentence per line, into a `.npy` file: row i is line i + 1, empty lines included.

    The output appears whole or not at all: it is written beside its final name and then renamed.

    Args:
      input_path: UTF-8 text.
      output_path: ends in `.npy`; its folder is made, an existing file is replaced.
      model: see `encode_texts`, as for the other arguments.
      params: see there.
      tokenizer: see there.
      layer: see there.
      pooling: see there.
      max_length: see there.
      batch_size: see there.

    Returns:
      The shape (N, H) of the float32 array written.

    Raises:
      FileNotFoundError: no such input.
      DataError: invalid UTF-8 (named by file and line), or an input without lines.
      ConfigError: an output not ending in `.npy`, or an argument out of range.
    """
    source, target = epath.Path(stores.local(input_path)), Path(output_path)
    if not source.is_file():
        raise FileNotFoundError(f"input {str(source)!r} is not a file; expected a text file with one sentence per line")
    if target.suffix != ".npy":
        raise ConfigError(f"output {str(target)!r} must end in '.npy'")
    config = model.config
    _check_request(config, layer, pooling, max_length, batch_size)
    # A first pass over the file, so that a bad line is found before any work.
    shape = (sum(1 for _ in read_lines(source)), config.hidden_size)
    if not shape[0]:
        raise DataError(f"input {str(source)!r} is empty; expected one sentence per line")

    encode = functools.partial(
        encode_texts,
        model,
        params,
        tokenizer,
        layer=layer,
        pooling=pooling,
        max_length=max_length,
        batch_size=batch_size,
    )
    if not stores.is_url(output_path):
        target.parent.mkdir(parents=True, exist_ok=True)
    with atomic.replacing(output_path) as file, _progress() as bar:
        task = bar.add_task(f"encode {source.name}", total=shape[0])
        header = {"descr": "<f4", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        for texts in batched(read_lines(source), CHUNK_LINES):
            vectors = encode(texts, on_rows=lambda count: bar.advance(task, count))
            file.write(vectors.astype("<f4").tobytes())
    return shape


def read_lines(path: epath.Path) -> Iterator[str]:
    r"""Yields a UTF-8 file's lines without their ends (\n or \r\n) and without a byte order mark.

    Raises:
      DataError: invalid UTF-8; the message names the file and the line.
    """
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                yield line.decode("utf-8-sig" if number == 1 else "utf-8").removesuffix("\n").removesuffix("\r")
            except UnicodeDecodeError as error:
                raise DataError(f"{path}:{number}: not valid UTF-8 ({error.reason} at byte {error.start})") from None


@functools.lru_cache(maxsize=16)
def _encoder(
    model: ErnieM, layer: int | None, pooling: str, mesh: jax.sharding.Mesh | None
) -> Callable[..., jax.Array]:
    """Returns the compiled (params, inputs) -> pooled float32 [B, H] or [layers + 1, B, H], whole on every device.

    Rows of padding only come out as numbers of no meaning.
    """

    def run(params: Any, inputs: Inputs) -> jax.Array:
        hidden = depth.hidden(model, params, inputs, visibility.FULL, layer).astype(jnp.float32)
        real = (inputs.segments > 0)[:, :, None]
        if pooling == "cls":
            return hidden[..., 0, :]
        if pooling == "max":
            return jnp.where(real, hidden, -jnp.inf).max(axis=-2)
        return jnp.where(real, hidden, 0.0).sum(axis=-2) / jnp.maximum(real.sum(axis=-2), 1)

    if mesh is None:
        return compiler.jit(run)
    model = model.clone(mesh=mesh)
    return compiler.jit(run, mesh, out_shardings=sharding.replicated(mesh))


def inputs(rows: list[list[int]], batch_size: int, width: int, pad_id: int, mesh: jax.sharding.Mesh | None) -> Inputs:
    """Lays ids out as one segment per row, padded to int32 [batch_size, width], and places them on the devices."""
    ids = np.full((batch_size, width), pad_id, np.int32)
    segments = np.zeros((batch_size, width), np.int32)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = row
        segments[i, : len(row)] = 1
    positions = np.arange(width, dtype=np.int32) * segments
    zeros = np.zeros_like(ids)
    names = ("ids", "positions", "segments", "roles", "languages")
    named = dict(zip(names, (ids, positions, segments, zeros, zeros), strict=True))
    return Inputs(**batches.place_whole(named, None if mesh is None else sharding.batch_sharding(mesh)))


def mesh_of(params: Any) -> jax.sharding.Mesh | None:
    """Returns the mesh that the parameters lie on, None where they lie on one device or on the host."""
    placed = getattr(jax.tree.leaves(params)[0], "sharding", None)
    if not isinstance(placed, jax.sharding.NamedSharding):
        return None
    assert isinstance(placed.mesh, jax.sharding.Mesh)  # an array's mesh has devices
    return placed.mesh


def _check_request(
    config: ModelConfig, layer: int | None, pooling: str, max_length: int, batch_size: int
) -> int | None:
    """Returns `layer` with -1 resolved to the last; raises ConfigError where an argument is out of range."""
    limit = config.max_positions - config.first_position
    if layer is not None and not -1 <= layer <= config.num_layers:
        raise ConfigError(
            f"layer {layer} (config.encode.layer) is out of range: 0 (output of the embeddings) to "
            f"{config.num_layers} (output of the last layer), or -1 for the last"
        )
    for name, value in (("pooling", pooling), ("max_length", max_length), ("batch_size", batch_size)):
        config_fields.check_value(EncodeConfig, name, value, f"{name} (config.encode.{name})")
    if max_length > limit:
        raise ConfigError(
            f"max_length (config.encode.max_length) is {max_length}; the model has positions for {limit} tokens"
        )
    return config.num_layers if layer == -1 else layer


def bucket(length: int, max_length: int) -> int:
    """Returns the power of two (at least SHORTEST_BUCKET) that holds `length`, at most `max_length`."""
    return min(max(SHORTEST_BUCKET, 1 << (length - 1).bit_length()), max_length)


def batched(items: Any, size: int) -> Iterator[list[Any]]:
    """Yields the items in lists of `size`, the last one shorter."""
    iterator = iter(items)  # itertools.batched needs Python 3.12
    while batch := list(itertools.islice(iterator, size)):
        yield batch


def _progress() -> rich_progress.Progress:
    return rich_progress.Progress(
        rich_progress.TextColumn("{task.description}"),
        rich_progress.BarColumn(),
        rich_progress.MofNCompleteColumn(),
        rich_progress.TimeRemainingColumn(),
    )
