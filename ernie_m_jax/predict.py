"""The words a model writes: into the masks of a text, or as BTMLM's generator behind a sentence.

    text --encode_masked--> CLS ids SEP --encoder, mlm_head--> probabilities at the masks --> Filled
    texts --btmlm's example--> CLS source SEP SEP masks SEP --btmlm.generate--> Written

Both lay text out as the objectives do (`objectives/`). `ernie_m_jax.Model` checks what a caller gives before it comes
here. Axes: B rows of a batch, L tokens of a row, M masks, V vocabulary.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

import jax
import numpy as np

from ernie_m_jax import compiler, config_fields
from ernie_m_jax.config import Config, ModelConfig
from ernie_m_jax.data import layout
from ernie_m_jax.evaluation import encode, in_use
from ernie_m_jax.model import visibility
from ernie_m_jax.model.encoder import ErnieM, Inputs
from ernie_m_jax.objectives import btmlm
from ernie_m_jax.task import Example, Record
from ernie_m_jax.tokenizer import Tokenizer

BATCH_ROWS = 32  # sentences that back-translation writes at a time


class Filled(NamedTuple):
    """A word for a mask.

    Attributes:
      token: the vocabulary's entry; "▁" (SentencePiece) before it begins a word, "##" (BERT) goes on with one.
      probability: the model's, among the whole vocabulary.
      text: the text with this word at this mask; other masks stay.
    """

    token: str
    probability: float
    text: str


class Written(NamedTuple):
    """What back-translation wrote for a text.

    Attributes:
      text: the tokens as text, special ones left out.
      tokens: the vocabulary's entries, one for each placeholder.
      log_probs: their log-probabilities, nats.
    """

    text: str
    tokens: tuple[str, ...]
    log_probs: tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class _Part:
    """The part of a `Config` that lays out an example: a model that is used has no whole one."""

    model: ModelConfig
    languages: tuple[str, ...]
    data: in_use.Layout


def _config(model: ModelConfig, languages: Sequence[str] = (), pair_positions: str = "") -> Config:
    """What the objectives read of a config."""
    return cast(Config, _Part(model, tuple(languages), in_use.Layout(positions_of(model), pair_positions)))


def _keys(**chosen: Any) -> btmlm.BTMLMConfig:
    """BTMLM's keys; those of its masks in the source and of its text are not used."""
    return btmlm.BTMLMConfig(**{"mask_ratio": 0.15, "length_ratio": 1.0, "join_to_characters": 0} | chosen)


def positions_of(config: ModelConfig) -> int:
    """How many tokens a text may have, special ones included."""
    return config.max_positions - config.first_position


def fill_mask(
    model: ErnieM, params: Any, tokenizer: Tokenizer, text: str, *, top_k: int, language: int
) -> list[list[Filled]]:
    """The most probable words for each mask of a text.

    Args:
      model: the encoder, with an mlm_head.
      params: its parameters.
      tokenizer: the model's.
      text: with masks, as `Tokenizer.encode_masked` reads them.
      top_k: words per mask.
      language: row of the language table, from 0, where the model has one: the language to write.

    Returns:
      For each mask its words, the most probable first; special tokens are never among them.

    Raises:
      ValueError: no mask, a text that is too long, or `top_k` out of range.
    """
    ordinary = tokenizer.vocab_size - len(tokenizer.special_tokens)
    if not 1 <= top_k <= ordinary:
        raise ValueError(f"top_k {top_k} is out of range: 1 to {ordinary}, the vocabulary without its special tokens")
    ids, spans = tokenizer.encode_masked(text)
    if not spans:
        raise ValueError(f"there is no '[MASK]' in the text {text!r}")
    row, limit = [tokenizer.cls_id, *ids, tokenizer.sep_id], positions_of(model.config)
    if len(row) > limit:
        raise ValueError(f"the text has {len(row)} tokens, the model has positions for {limit}: {text[:40]!r}")
    inputs = encode.inputs([row], 1, encode.bucket(len(row), limit), model.config.pad_id, None)
    masks = np.asarray(inputs.ids) == tokenizer.mask_id
    languages = layout.language_ids(_config(model.config), np.full(masks.shape, language), masks)
    inputs = inputs._replace(languages=jax.device_put(languages))
    at = np.flatnonzero(masks[0])
    padded = np.resize(at, 1 << (len(at) - 1).bit_length())  # powers of two, so that few programs are compiled
    probabilities = np.array(_probabilities(model)(params, inputs, padded))[: len(at)]
    filled = []
    for span, place, of_mask in zip(spans, at, probabilities, strict=True):
        shown = of_mask.copy()
        shown[list(tokenizer.special_tokens.values())] = -1.0
        best = np.argsort(-shown, kind="stable")[:top_k].tolist()
        words = zip(best, tokenizer.tokens(best), strict=True)
        filled.append(
            [
                Filled(token, float(of_mask[i]), _with_word(tokenizer, text, span, row[place - 1], i))
                for i, token in words
            ]
        )
    return filled


@functools.lru_cache(maxsize=4)
def _probabilities(model: ErnieM) -> Callable[[Any, Inputs, np.ndarray], jax.Array]:
    """The compiled (params, inputs of one row, places [M]) -> float32 [M, V]."""

    def run(params: Any, inputs: Inputs, at: jax.Array) -> jax.Array:
        hidden = model.apply({"params": params}, inputs, visibility.FULL, at=at[None], method="encode")[0]
        return jax.nn.softmax(model.apply({"params": params}, hidden, method="predict"))

    return compiler.jit(run)


def _with_word(tokenizer: Tokenizer, text: str, span: tuple[int, int], before: int, word: int) -> str:
    """The text with a token in a mask's place, joined to the token before it as the tokenizer joins the two."""
    left, right = text[: span[0]], text[span[1] :]
    alone = tokenizer.decode([before])
    if not alone:  # nothing, or another mask, stands before it
        return left + tokenizer.decode([word]) + right
    return left.rstrip() + tokenizer.decode([before, word]).removeprefix(alone) + right


def back_translate(
    model: ErnieM,
    params: Any,
    tokenizer: Tokenizer,
    texts: Sequence[str],
    *,
    source: str,
    target: str,
    languages: Sequence[str],
    pair_positions: str,
    length_ratio: float,
    temperature: float,
    passes: int,
    seed: int,
) -> list[Written]:
    """What BTMLM's generator writes behind each text, the text alone in its row.

    Args:
      model: the encoder, with an mlm_head and a language table.
      params: its parameters.
      tokenizer: the model's.
      texts: sentences; an empty one is answered with nothing.
      source: the texts' language, one of `languages`.
      target: the language to write.
      languages: names of the language table's rows.
      pair_positions: `config.data.pair_positions` of the training.
      length_ratio: placeholders per token of the text.
      temperature: 0 writes the most probable tokens, above 0 they are drawn.
      passes: passes of generation, of which each further one writes the least confident tokens again.
      seed: of the draws.

    Raises:
      ValueError: a key out of range, or a text that is too long.
    """
    if not isinstance(passes, int):
        raise ValueError(f"passes is {passes}; it must be a whole number")
    chosen = {"length_ratio": length_ratio, "temperature": temperature, "passes": passes}
    keys, cfg = _keys(**chosen), _config(model.config, languages, pair_positions)
    config_fields.check(keys, "")
    examples = [_example(text, i, (source, target), tokenizer, cfg, keys) for i, text in enumerate(texts)]
    run = _generator(model, temperature, passes, tuple(tokenizer.special_tokens.values()))
    written = [Written("", (), ())] * len(examples)
    places = [i for i, example in enumerate(examples) if example is not None]
    for number, group in enumerate(encode.batched(places, BATCH_ROWS)):
        batch = _batch([cast(Example, examples[i]) for i in group], model.config)
        tokens = run(params, batch, jax.random.fold_in(jax.random.key(seed), number))
        ids, log_probs = np.asarray(tokens.ids), np.asarray(tokens.log_probs)
        for row, i in enumerate(group):
            count = len(cast(Example, examples[i])["generate_at"])
            own = ids[row, :count].tolist()
            written[i] = Written(
                tokenizer.decode(own), tuple(tokenizer.tokens(own)), tuple(log_probs[row, :count].tolist())
            )
    return written


def _example(
    text: str, index: int, languages: tuple[str, str], tokenizer: Tokenizer, cfg: Config, keys: btmlm.BTMLMConfig
) -> Example | None:
    """BTMLM's own example of a text, which must fit whole; None for one without a known piece."""
    count = len(tokenizer.encode_ids(text))
    ratio = keys.length_ratio
    room = int((cfg.data.sequence_length - 5) / (1 + ratio))  # as btmlm counts it, which would cut a longer text
    if count > room:
        raise ValueError(
            f"texts[{index}] has {count} tokens; with length_ratio {ratio} the model's {cfg.data.sequence_length} "
            f"positions have room for {room} and their placeholders"
        )
    made = btmlm.examples(Record((text,), languages), tokenizer, cfg, keys, np.random.default_rng(0))
    return next(iter(made), None)


@functools.lru_cache(maxsize=4)
def _generator(
    model: ErnieM, temperature: float, passes: int, never: tuple[int, ...]
) -> Callable[..., btmlm.PseudoTokens]:
    """The compiled (params, batch, rng) -> PseudoTokens."""
    keys = _keys(temperature=temperature, passes=passes)
    generate = functools.partial(btmlm.generate, _config(model.config), keys, model, never=never)
    return compiler.jit(generate)


def _batch(examples: Sequence[Example], config: ModelConfig) -> dict[str, np.ndarray]:
    """An example per row, padded; numbers of rows and lengths are powers of two, so that few programs are compiled."""
    rows = 1 << (len(examples) - 1).bit_length()
    width = encode.bucket(max(len(example["ids"]) for example in examples), positions_of(config))
    room = encode.bucket(max(len(example["generate_at"]) for example in examples), width)
    batch = {name: np.zeros((rows, width), np.int32) for name in ("positions", "roles", "languages", "segments")}
    batch |= {"ids": np.full((rows, width), config.pad_id, np.int32)}
    batch |= {"generate_at": np.full((rows, room), width, np.int32)}
    for i, example in enumerate(examples):
        for name, array in batch.items():
            value = np.ones_like(example["ids"]) if name == "segments" else example[name]
            array[i, : len(value)] = value
    return batch
