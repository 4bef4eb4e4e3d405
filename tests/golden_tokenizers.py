"""The recorded tokenizers of every style, the texts, and the ids that others gave for them.

The ids were recorded by `golden/record_tokenizers.py` from transformers 4.57.6's slow classes, for style "ernie" from a
second writing of the published algorithm; `golden/tokenizer/README.md` says more.
"""

import functools
import json
import lzma
import pathlib
import shutil

import numpy as np

from ernie_m_jax.tokenizer import Tokenizer

FIXTURE = pathlib.Path(__file__).parent / "golden" / "tokenizer"
FOLDERS = {"ernie": "ernie_m", "huggingface": "ernie_m", "xlm-roberta": "ernie_m", "bert": "bert", "xlm": "xlm"}
SPECIALS = {  # name -> id, in the attributes' order: cls, pad, sep, unk, mask
    "ernie": {"[CLS]": 0, "[PAD]": 1, "[SEP]": 2, "[UNK]": 3, "[MASK]": 5999},
    "huggingface": {"[CLS]": 0, "[PAD]": 1, "[SEP]": 2, "[UNK]": 3, "[MASK]": 5999},
    "xlm-roberta": {"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3, "<mask>": 5999},
    "bert": {"[CLS]": 3, "[PAD]": 0, "[SEP]": 4, "[UNK]": 2, "[MASK]": 5},
    "xlm": {"<s>": 0, "<pad>": 2, "</s>": 1, "<unk>": 3, "<special1>": 5},
}
BERT_SETTINGS = {
    "uncased": {},
    "stripped": {"do_lower_case": False, "strip_accents": True, "tokenize_chinese_chars": False},
    "accented": {"do_lower_case": True, "strip_accents": False},
}


@functools.cache
def texts() -> dict[str, list]:
    return json.loads(lzma.decompress((FIXTURE / "texts.json.xz").read_bytes()))


@functools.cache
def load(style: str) -> Tokenizer:
    return Tokenizer.load(FIXTURE / FOLDERS[style], style)


def recorded(name: str, case: str) -> list[list[int] | int]:
    """The ids of each row of a case; a negative number where there are none."""
    with np.load(FIXTURE / name) as arrays:
        lengths, ids, cases = arrays["lengths"], arrays["ids"].tolist(), arrays["cases"].tolist()
    ends = np.cumsum(np.maximum(lengths, 0)).reshape(lengths.shape)[:, cases.index(case)]
    lengths = lengths[:, cases.index(case)]
    return [ids[end - length : end] if length >= 0 else int(length) for end, length in zip(ends, lengths, strict=True)]


def copy(style: str, target: pathlib.Path, **contents: str | bytes | None) -> pathlib.Path:
    """The style's folder in `target`, with `contents` by file name (a dot as two underscores); None: taken away."""
    shutil.copytree(FIXTURE / FOLDERS[style], target, dirs_exist_ok=True)
    for key, content in contents.items():
        file = target / key.replace("__", ".")
        if content is None:
            file.unlink()
        else:
            file.write_bytes(content.encode() if isinstance(content, str) else content)
    return target


def tokenizer_of(case: str, target: pathlib.Path) -> Tokenizer:
    style, _, setting = case.partition(":")
    if not setting:
        return load(style)
    if style == "bert":
        return Tokenizer.load(copy(style, target, tokenizer_config__json=json.dumps(BERT_SETTINGS[setting])), style)
    config = json.dumps({"do_lowercase_and_remove_accent": setting not in ("cased", "ro")})
    language = "en" if setting == "cased" else setting
    return Tokenizer.load(copy(style, target, tokenizer_config__json=config), style, language)


def assert_same(tokenizer: Tokenizer, lines: list[str], expected: list[list[int] | int]) -> int:
    """Returns how many were compared."""
    assert len(lines) == len(expected)
    pairs = [(line, ids) for line, ids in zip(lines, expected, strict=True) if isinstance(ids, list)]
    wrong = [line for line, ids in pairs if tokenizer.encode_ids(line) != ids]
    assert not wrong, f"{len(wrong)} of {len(pairs)} differ, first: {wrong[0]!r}"
    return len(pairs)
