"""What the tokenizers share: reading and writing their files, fingerprints, and checks on text.

In: the contents of files by name, and text. Out: what `tokenizer.py` and the modules of its styles are built of.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from typing import Any

from etils import epath

from ernie_m_jax import atomic, stores

CONFIG_FILE = "tokenizer_config.json"


def digest(contents: Iterable[bytes], ending: str) -> str:
    """sha256 in hex of `contents`, their sizes first so that bytes cannot move from one to the next, and `ending`."""
    parts = list(contents)
    sizes = b"".join(b"%d " % len(part) for part in parts)
    return hashlib.sha256(sizes + b"".join(parts) + ending.encode()).hexdigest()


def write(directory: epath.PathLike, files: Mapping[str, bytes]) -> None:
    """Writes every file beside its place, then moves all there: what can fail comes before anything is replaced.

    Raises NotADirectoryError where `directory` is a file, IsADirectoryError where a file's place is taken by one.
    """
    folder = None if stores.is_url(directory) else epath.Path(directory)
    if folder is not None and folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"output {os.fspath(directory)}: not a directory")
    for name in files:
        if folder is not None and (folder / name).is_dir():
            raise IsADirectoryError(f"{folder / name}: is a directory; a file of the tokenizer must go there")
    atomic.write_all(directory, files)


def refuse_surrogates(text: str) -> None:
    """Raises ValueError, naming the first, where the text has a lone surrogate and so no UTF-8 form."""
    if text.isascii():
        return
    try:
        text.encode()
    except UnicodeEncodeError as error:
        found = f"U+{ord(text[error.start]):04X} at character {error.start}"
        raise ValueError(f"text has a lone surrogate, {found}; it is not valid Unicode") from error


def lowered(text: str) -> str:
    """Lower case a character at a time: only the capital sigma's depends on where it stands."""
    return text.replace("Σ", "σ").lower()


def read_object(files: Mapping[str, bytes], name: str) -> dict[str, Any]:
    """A file's JSON object; empty where the file is not there."""
    if name not in files:
        return {}
    try:
        loaded = json.loads(files[name].decode())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{name}: not JSON ({error})") from error
    if not isinstance(loaded, dict):
        raise ValueError(f"{name}: holds a {type(loaded).__name__}; must be an object")
    return loaded


def boolean(config: Mapping[str, Any], key: str, file: str, default: bool) -> bool:
    """The value of a key that must be true or false where it is there; raises ValueError where it is not."""
    value = config.get(key, default)
    if not isinstance(value, bool):
        raise ValueError(f"{file}: {key} is {value!r}; must be true or false")
    return value


def token_name(config: Mapping[str, Any], key: str, default: str) -> str:
    """A special token's name, which a config gives as a string or as an object with `content`."""
    value = config.get(key, default)
    name = value.get("content") if isinstance(value, dict) else value
    if not isinstance(name, str) or not name.isprintable():
        raise ValueError(f"{CONFIG_FILE}: {key} is {value!r:.80}; must be a token")
    return name


def special_id(ids: Mapping[str, int], name: str, file: str) -> int:
    """A special token's id; raises ValueError where the vocabulary, the contents of `file`, has none."""
    if name not in ids:
        raise ValueError(f"{file}: the special token {name} is missing")
    return ids[name]
