"""What lies beside a checkpoint's weights: its config and its tokenizer, under the names their publishers gave them."""

import json
import pathlib
from collections.abc import Mapping
from typing import Any

from ernie_m_jax.convert.rules import Format
from ernie_m_jax.tokenizer import MODEL_FILE, VOCABULARY_FILE, Tokenizer
from ernie_m_jax.tokenizer.sentencepiece import ErnieTokenizer
from ernie_m_jax.weights.tensors import ConversionError

# transformers and PaddleNLP; PaddleNLP before 2.5; the 2021 release.
_CONFIG_FILES = ("config.json", "model_config.json", "ernie_config.json")
# ERNIE-M's two files: as saved by either library, as PaddleNLP downloads them, as in the 2021 release.
_MODEL_FILES = (MODEL_FILE, f"ernie_m.{MODEL_FILE}", "piece.model")
_VOCABULARY_FILES = (VOCABULARY_FILE, f"ernie_m.{VOCABULARY_FILE}")
_STYLES = {"xlm-roberta": "xlm-roberta", "fairseq": "xlm-roberta", "bert": "bert", "xlm": "xlm"}
_FILES = {"xlm-roberta": (MODEL_FILE,), "bert": (VOCABULARY_FILE,), "xlm": ("vocab.json", "merges.txt")}


def config(folder: pathlib.Path, facts: Mapping[str, Any]) -> dict[str, Any]:
    """The checkpoint's own statement of its architecture; empty if there is none.

    Args:
      folder: of the weights; for a folder `params` the one above counts too.
      facts: what the weights' file says itself (fairseq's arguments).

    Raises:
      ConversionError: a config that is not a JSON object.
    """
    places = [folder, folder.parent] if folder.name == "params" else [folder]
    for path in (place / name for place in places for name in _CONFIG_FILES):
        if path.is_file():
            try:
                stated = json.loads(path.read_text("utf-8"))
            except (ValueError, RecursionError) as error:
                raise ConversionError(f"{path}: not JSON: {error}") from None
            if not isinstance(stated, dict):
                raise ConversionError(f"{path}: not a JSON object")
            inner = stated.get("init_args")  # before PaddleNLP 2.5 a head's class keeps the encoder's config in here
            for part in inner if isinstance(inner, list) else ():
                if isinstance(part, dict):
                    stated |= {key: value for key, value in part.items() if key != "init_class"}
            return stated
    return dict(facts.get("args") or {})


def tokenizer(folder: pathlib.Path, root: pathlib.Path, form: Format, style: str) -> Tokenizer | None:
    """The tokenizer beside the weights or above them; None if its files are not there.

    Args:
      folder: of the weights.
      root: the highest folder to look in; for a folder `params`, two above it.
      form: decides on the kind of tokenizer.
      style: of an ERNIE-M tokenizer: "ernie", "huggingface" or "", the first.

    Raises:
      ConversionError: files that are there but make no tokenizer, or need a library that is not installed.
    """
    places = [place for place in (folder, *folder.parents) if place.is_relative_to(root)]
    if root.name == "params":
        places += [root.parent, root.parent.parent]
    for place in places:
        try:
            if form.name in _STYLES:
                kind = _STYLES[form.name]
                if all((place / name).is_file() for name in _FILES[kind]):
                    return Tokenizer.load(place, kind)
            else:
                model, vocabulary = _first(place, _MODEL_FILES), _first(place, _VOCABULARY_FILES)
                if model is not None and vocabulary is not None:
                    contents = {MODEL_FILE: model.read_bytes(), VOCABULARY_FILE: vocabulary.read_bytes()}
                    return ErnieTokenizer(contents, style or "ernie")
        except ValueError as error:
            raise ConversionError(f"{place}: {error}; --no_tokenizer does without it") from error
    return None


def _first(place: pathlib.Path, names: tuple[str, ...]) -> pathlib.Path | None:
    return next((place / name for name in names if (place / name).is_file()), None)
