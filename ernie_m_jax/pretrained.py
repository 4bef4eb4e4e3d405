"""A model in memory, with all that it can do.

    Model --encode, retrieve--> vectors, accuracies      Model --fill_mask, back_translate--> words

Here a caller's arguments are checked and get their defaults; `evaluation` and `predict` do the work.
"""

import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from ernie_m_jax import predict
from ernie_m_jax.config import ModelConfig
from ernie_m_jax.config_checks import nearest
from ernie_m_jax.convert.model import COMPUTE
from ernie_m_jax.data import given as givens
from ernie_m_jax.evaluation import encode, in_use, predicted, retrieval, similar
from ernie_m_jax.evaluation.retrieval import RetrievalResult
from ernie_m_jax.model.encoder import ErnieM
from ernie_m_jax.predict import Filled, Written
from ernie_m_jax.task import Bound
from ernie_m_jax.tokenizer import Tokenizer


@dataclasses.dataclass(frozen=True, eq=False)
class Model:
    """A model in memory; it unpacks as (config, params, tokenizer).

    To change it, make another: `dataclasses.replace(model, languages=("en", "de"))`.

    Attributes:
      config: the architecture.
      params: nested dictionaries of float32 NumPy arrays, as `ErnieM.apply` takes them ({"params": params}); not to be
        changed in place, since the methods keep a copy on the device.
      tokenizer: None where the folder has no tokenizer's files.
      languages: names of the language table's rows; () where there is no table, or no name is known.
      pair_positions: `config.data.pair_positions` of the training.
      path: where it was loaded from, for messages.
      objectives: the run's entries of `config.objectives` that `predict` can use, with their keys; {} where none is
        known.
    """

    config: ModelConfig
    params: Any
    tokenizer: Tokenizer | None
    languages: tuple[str, ...] = ()
    pair_positions: str = "continued"
    path: str = ""
    objectives: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        rows = self.config.num_languages
        if self.config.language_embedding != "none" and len(self.languages) > rows:
            raise ValueError(f"{self._name}: {len(self.languages)} languages named, but its table has {rows} rows")

    def __iter__(self) -> Iterator[Any]:
        yield from (self.config, self.params, self.tokenizer)

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the fine-tuning head's outputs, in their order; () where they have none."""
        return self.config.labels

    def encoder(self, dtype: str = "float32") -> ErnieM:
        """The module that takes these parameters; `dtype` ("float32", "bfloat16") is that of its activations."""
        compute = dataclasses.replace(COMPUTE, dtype=dtype, scan_layers="layers" in self.params)
        return ErnieM(self.config, compute)

    def encode(
        self,
        texts: Sequence[str],
        layer: int = -1,
        pooling: str = "mean",
        normalize: bool = False,
        max_length: int = 128,
        batch_size: int = 32,
    ) -> np.ndarray:
        """Turns texts into vectors; see `encode_texts`.

        Args:
          texts: N sentences.
          layer: 0 is the embeddings' output, n the output of layer n, -1 the last layer.
          pooling: "mean", "cls" or "max" over a sentence's tokens.
          normalize: divide each vector by its Euclidean length (a zero vector stays).
          max_length: tokens per sentence at most, specials included, and never more than the model has positions for;
            longer sentences are cut.
          batch_size: sentences per batch.

        Returns:
          float32 [N, H].

        Raises:
          ValueError: no tokenizer, `texts` that are no list of strings, or an argument out of range.
        """
        vectors = encode.encode_texts(
            self.encoder(),
            self._on_device,
            self._tokenizer("encode"),
            texts,
            layer=layer,
            pooling=pooling,
            max_length=min(max_length, predict.positions_of(self.config)),
            batch_size=batch_size,
        )
        if not normalize:
            return vectors
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        return vectors / np.where(lengths > 0, lengths, 1)

    def fill_mask(self, text: str, top_k: int = 5, *, language: str | None = None) -> list[list[Filled]]:
        """Proposes words for each "[MASK]" in a text.

        Args:
          text: with one or several "[MASK]" (or the tokenizer's own name, "<mask>"); a mask without white space before
            it stands within a word or between a word and its punctuation.
          top_k: words per mask.
          language: the language to write, one of `languages`; needed where the model has a language table of several
            rows, since a mask there carries its language.

        Returns:
          For each mask its (token, probability, text) tuples, the most probable first; no special tokens.

        Raises:
          ValueError: no tokenizer or mlm_head, no mask, a text longer than the model's positions, or an argument that
            is not possible.
        """
        tokenizer = self._writer("fill_mask")
        if not isinstance(text, str):
            raise ValueError(f"text is {text!r}; it must be a string")
        row = self._row_to_write(language)
        return predict.fill_mask(self.encoder(), self._on_device, tokenizer, text, top_k=top_k, language=row)

    def back_translate(
        self,
        texts: Sequence[str],
        source: str,
        target: str,
        length_ratio: float = 1.0,
        temperature: float = 0.0,
        passes: int = 1,
        seed: int = 0,
    ) -> list[Written]:
        """Writes pseudo tokens of another language behind each text, as BTMLM does in training.

        It shows what the objective learns from: a parallel guess for each placeholder, no translation.

        Args:
          texts: sentences of the language `source`.
          source: one of `languages`.
          target: the language to write, one of `languages`.
          length_ratio: placeholders per token of the text.
          temperature: 0 writes the most probable tokens; above 0 they are drawn.
          passes: passes of generation; each further one writes the least confident tokens again.
          seed: of the draws; the same texts and seed give the same tokens.

        Returns:
          For each text (text, tokens, log_probs); empty for a text without tokens.

        Raises:
          ValueError: no tokenizer, mlm_head or language table, an unknown language, a text that is too long (it is
            named), or an argument out of range.
        """
        tokenizer = self._writer("back_translate")
        texts = encode.check_texts(texts, "texts")
        if self.config.language_embedding == "none":
            raise ValueError(f"{self._name}: has no language embedding: nothing tells it which language to write")
        for name, language in (("source", source), ("target", target)):
            self._row(name, language)
        return predict.back_translate(
            self.encoder(),
            self._on_device,
            tokenizer,
            texts,
            source=source,
            target=target,
            languages=self.languages,
            pair_positions=self.pair_positions,
            length_ratio=length_ratio,
            temperature=temperature,
            passes=passes,
            seed=seed,
        )

    def predict(
        self,
        rows: Sequence[Any],
        *,
        objective: str = "",
        language: str = "",
        batch_size: int = 32,
        **keys: Any,
    ) -> list[dict[str, Any]]:
        """Answers a user's rows with a fine-tuned model, as `--mode=predict` does.

        Args:
          rows: for each its parts, as a tuple in their order or a mapping by their names: (sentence1, sentence2) to
            classify, (question, context) to answer, a text or a list of words, by itself, to tag. An `id` in a mapping
            comes back.
          objective: which task, where the run had several; a task's module for a model that does not say its own, or
            whose task is outside the package.
          language: of the texts, where the model adds a language embedding to every token.
          batch_size: packed rows per batch at most.
          **keys: the task's own keys (`max_length`, `stride`, ...) over those it was trained with; configs/base.py
            explains them. Without a head: `similarity` ("cosine", "margin"), and of `encode` `layer` (the last;
            Tatoeba's is another), `pooling` and `max_length`.

        Returns:
          An answer per row: `label` and `probabilities`; `words`, `tags` and `entities`; `answer`, `start`, `end` and
          `n_best`; without a head, of rows (text, candidate), the candidate `found`, its `index` and `cosine`.

        Raises:
          ValueError: no tokenizer, no fine-tuned head, or a row or argument that is not possible.
        """
        tokenizer = self._tokenizer("predict")
        if not isinstance(batch_size, int) or batch_size < 1:
            raise ValueError(f"batch_size is {batch_size!r}; it must be a whole number from 1")
        if self.config.head == "none" and not objective:
            similarity = keys.pop("similarity", "cosine")
            if unknown := [key for key in keys if key not in ("layer", "pooling", "max_length")]:
                raise ValueError(
                    f"{unknown[0]} is no key of searching; there are similarity, layer, pooling, max_length"
                )
            encode_own = functools.partial(self.encode, batch_size=batch_size, **keys)
            return similar.answers(encode_own, givens.listed(rows, similar.INPUTS), similarity)
        spoken = self._language_of_rows(language)
        task = self._bound(objective, spoken, keys)
        assert task.task.use is not None
        given = givens.listed(rows, task.task.use.inputs)
        return predicted.answers(task, self.encoder(), self._on_device, tokenizer, given, spoken, batch_size)

    def _language_of_rows(self, language: str) -> str:
        """The language to take the texts for."""
        if self.config.language_embedding != "all":
            if language:
                raise ValueError(f"{self._name}: adds no embedding of the texts' language; leave language out")
            return "any"
        if not language and len(self.languages) != 1:
            raise ValueError(
                f"{self._name}: every token gets its language's embedding: say language=..., one of "
                f"{', '.join(self.languages) or 'its names, which are not known'}"
            )
        self._row("language", language or self.languages[0])
        return language or self.languages[0]

    def _bound(self, objective: str, language: str, keys: Mapping[str, Any]) -> Bound:
        """The task for a model's rows; the same again for the same arguments, so that nothing is compiled again."""
        made, key = self.__dict__.setdefault("_tasks", {}), repr((objective, language, sorted(keys.items())))
        if key not in made:
            try:
                made[key] = in_use.bound(
                    self.config,
                    language=language,
                    languages=self.languages,
                    pair_positions=self.pair_positions,
                    style=self._tokenizer("predict").style,
                    objectives=self.objectives,
                    objective=objective,
                    keys=keys,
                )
            except ValueError as error:
                raise ValueError(f"{self._name}: {error}") from None
        return made[key]

    def retrieve(
        self,
        sentences: Mapping[str, Sequence[str]],
        layer: int = -1,
        pooling: str = "mean",
        max_length: int = 128,
        batch_size: int = 32,
    ) -> RetrievalResult:
        """Searches each sentence's translation in every other language by the nearest cosine.

        Args:
          sentences: the texts of each language, by any names; the same index is the same meaning.
          layer: see `encode`, as for the other arguments.
          pooling: see there.
          max_length: see there.
          batch_size: see there.

        Returns:
          Accuracies in percent between every two languages; its `write(directory)` makes a CSV file and a heat map.

        Raises:
          ValueError: no tokenizer, fewer than two languages, unequal numbers of sentences, or as `encode`.
        """
        self._tokenizer("retrieve")
        texts = {key: encode.check_texts(own, f"sentences[{key!r}]") for key, own in sentences.items()}
        encode_own = functools.partial(
            self.encode, layer=layer, pooling=pooling, max_length=max_length, batch_size=batch_size
        )
        return retrieval.retrieval(encode_own, texts)

    @functools.cached_property
    def _on_device(self) -> Any:
        return jax.device_put(self.params)

    @property
    def _name(self) -> str:
        return self.path or "this model"

    def _tokenizer(self, method: str) -> Tokenizer:
        if self.tokenizer is None:
            raise ValueError(
                f"{self._name}: {method} needs a tokenizer, and there is no tokenizer's file beside the weights; put "
                "them there, or say dataclasses.replace(model, tokenizer=ernie_m_jax.Tokenizer.load(FOLDER, STYLE))"
            )
        return self.tokenizer

    def _writer(self, method: str) -> Tokenizer:
        """The tokenizer of a model that can write words."""
        if self.config.mlm_head == "none":
            raise ValueError(
                f"{self._name}: {method} predicts words, and this model has no mlm_head; pre-trained runs have one, "
                "released ERNIE-M models have none"
            )
        return self._tokenizer(method)

    def _row(self, name: str, language: str) -> int:
        """Row of the language table; `name` is the argument's."""
        if not self.languages:
            raise ValueError(
                f"{self._name}: the names of its {self.config.num_languages} languages are not known; say "
                "dataclasses.replace(model, languages=(NAME, ...)), in the order of the language table's rows"
            )
        if language not in self.languages:
            raise ValueError(
                f"{name} {language!r} is unknown{nearest(str(language), self.languages)}; it must be one of "
                f"{', '.join(self.languages)}"
            )
        return self.languages.index(language)

    def _row_to_write(self, language: str | None) -> int:
        """Row of the language that `fill_mask` writes; any where there is no table."""
        if self.config.language_embedding == "none":
            if language is not None:
                raise ValueError(f"{self._name}: has no language embedding; leave language out")
            return 0
        if language is None and self.config.num_languages > 1:
            raise ValueError(
                f"{self._name}: a mask carries the language to write: say language=..., one of "
                f"{', '.join(self.languages) or 'its names, which are not known'}"
            )
        return 0 if language is None else self._row("language", language)
