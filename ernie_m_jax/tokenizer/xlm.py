"""XLM's tokenizer: Moses' normalisation and tokenisation, then BPE.

In: the contents of a published tokenizer's files. Out: a `tokenizer.Tokenizer`, which `Tokenizer.load` hands out.
Moses' rules are the `sacremoses` library's, which the extra `baselines` installs; BPE is the `tokenizers` library's.
"""

import json
import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

import tokenizers

from ernie_m_jax.tokenizer import files as tokenizer_files
from ernie_m_jax.tokenizer.base import Encoding, Tokenizer
from ernie_m_jax.tokenizer.files import CONFIG_FILE

VOCABULARY_FILE, MERGES_FILE = "vocab.json", "merges.txt"

_WORD_END = "</w>"
_SEGMENTED = {"zh": "jieba", "ja": "KyTea", "th": "PyThaiNLP"}  # languages that XLM cuts with a program of their own
# Moses' replace-unicode-punctuation.perl, but for the full stops, which also take the white space after them.
_PUNCTUATION: dict[int, str | int] = {
    **str.maketrans("，、”“∶：？《》）！（；」「～’━〈〉【】％", ',,""::?"")!(;""~\'-<>[]%'),
    **str.maketrans("０１２３４５６７８９", "0123456789"),
    ord("…"): "...",
}
_ROMANIAN = str.maketrans("\u015e\u015f\u0162\u0163ȘșȚțĂăÂâÎî", "SsTtSsTtAaAaIi")  # of xlm-mlm-enro-1024


class XlmTokenizer(Tokenizer):
    """Moses' normalisation and tokenisation, then BPE, as transformers' XLMTokenizer in one language.

    A sequence begins with `<s>`, which is `cls_id`, though XLM's files call `</s>` its classifier token. What follows
    the last line feed of merges.txt is not read, as in XLMTokenizer. `tokenizer_config.json` may say
    `do_lowercase_and_remove_accent` (true where it does not), the special tokens' names, and the languages (`lang2id`).

    Attributes:
      language: whose Moses rules cut the text.
    """

    style = "xlm"
    required = (VOCABULARY_FILE, MERGES_FILE)
    optional = (CONFIG_FILE,)

    def __init__(self, files: Mapping[str, bytes], language: str = "en"):
        """Builds a tokenizer from the contents of its files; see `Tokenizer.load` for what it raises."""
        self._files, self.language = files, language
        config = tokenizer_files.read_object(files, CONFIG_FILE)
        languages = config.get("lang2id") or {}
        if not isinstance(languages, dict):
            raise ValueError(f"{CONFIG_FILE}: lang2id is {languages!r:.80}; must be an object")
        if languages and language not in languages:
            named = ", ".join(name if name.isprintable() else ascii(name)[1:-1] for name in sorted(languages))
            raise ValueError(f"language {language!r}: {CONFIG_FILE} has only {named:.1000}")
        self._normalise, self._cut = _moses(language)
        ids = _read_ids(tokenizer_files.read_object(files, VOCABULARY_FILE))
        names = {
            "cls": tokenizer_files.token_name(config, "bos_token", "<s>"),
            "pad": tokenizer_files.token_name(config, "pad_token", "<pad>"),
            "sep": tokenizer_files.token_name(config, "sep_token", "</s>"),
            "unk": tokenizer_files.token_name(config, "unk_token", "<unk>"),
            "mask": tokenizer_files.token_name(config, "mask_token", "<special1>"),
        }
        for key, name in names.items():
            setattr(self, f"{key}_id", tokenizer_files.special_id(ids, name, VOCABULARY_FILE))
        self.vocab_size = max(ids.values()) + 1
        tokens = {index: token for token, index in ids.items()}
        self._tokens = [tokens.get(index, names["unk"]) for index in range(self.vocab_size)]
        self._lower = tokenizer_files.boolean(config, "do_lowercase_and_remove_accent", CONFIG_FILE, default=True)
        self._printing, self._unmarked = _Without("C"), _Without("Mn")  # line feeds and tabs do not print either
        self._bpe, self._outer_ids = _byte_pairs(ids, _read_merges(files[MERGES_FILE]), names["unk"])
        settings = json.dumps([self._lower, language, names], sort_keys=True).encode()
        self.fingerprint = tokenizer_files.digest((files[VOCABULARY_FILE], files[MERGES_FILE], settings), self.style)

    def __reduce__(self) -> tuple[Any, ...]:
        return XlmTokenizer, (dict(self._files), self.language)

    def encode_ids(self, text: str) -> list[int]:
        """See `Tokenizer.encode_ids`."""
        tokenizer_files.refuse_surrogates(text)
        words = self._words(text)
        if not words:
            return []
        outer_ids = self._outer_ids
        return [outer_ids[index] for index in self._bpe.encode(words, is_pretokenized=True).ids]

    def encode(self, text: str) -> Encoding:
        """Raises ValueError: there are no offsets. See `Tokenizer.encode`."""
        raise ValueError("style 'xlm' has no offsets: Moses' rules rewrite the text beyond following")

    def _words(self, text: str) -> list[str]:
        if self._lower:
            text = tokenizer_files.lowered(text)
        text = re.sub(r"[。．]\s*", ". ", text).translate(_PUNCTUATION)
        text = self._normalise(text).translate(self._printing)
        if self.language == "ro":
            text = text.translate(_ROMANIAN)
        words: list[str] = self._cut(text, return_str=False, escape=False)
        if self._lower:
            plain = unicodedata.normalize("NFD", " ".join(words).lower()).translate(self._unmarked)
            words = plain.lower().split(" ")
        return [word for word in words if word]

    def _join(self, tokens: Sequence[str]) -> str:
        return "".join(tokens).replace(_WORD_END, " ").strip()


class _Without(dict[int, str | None]):
    """For `str.translate`: characters whose Unicode category begins with `category` are dropped."""

    def __init__(self, category: str):
        super().__init__()
        self._category = category

    def __missing__(self, code: int) -> str | None:
        self[code] = None if unicodedata.category(chr(code)).startswith(self._category) else chr(code)
        return self[code]


def _moses(language: str) -> tuple[Any, Any]:
    """Moses' punctuation normaliser and tokenizer as functions."""
    if language in _SEGMENTED:
        raise ValueError(
            f"language {language!r}: XLM cuts it with {_SEGMENTED[language]}, which is not supported; "
            "load the tokenizer in a language that Moses cuts"
        )
    try:
        import sacremoses
    except ImportError as error:
        raise ValueError("style 'xlm' needs sacremoses: pip install 'ernie_m_jax[baselines]'") from error
    return sacremoses.MosesPunctNormalizer(lang=language).normalize, sacremoses.MosesTokenizer(lang=language).tokenize


def _byte_pairs(
    ids: Mapping[str, int], merges: list[tuple[str, str]], unknown: str
) -> tuple[tokenizers.Tokenizer, list[int]]:
    """BPE, and its ids -> the vocabulary's.

    The vocabulary need not hold what a merge makes, since another merge may use it up (XLM's has only what its corpus
    showed); `tokenizers` must have an id for it. So BPE runs on ids of its own.
    """
    inner = dict.fromkeys(ids)
    for first, second in merges:
        inner.update(dict.fromkeys((first, second, first + second)))
    inner_ids = {token: index for index, token in enumerate(inner)}
    model = tokenizers.models.BPE(inner_ids, merges, unk_token=unknown, end_of_word_suffix=_WORD_END)
    return tokenizers.Tokenizer(model), [ids.get(token, ids[unknown]) for token in inner_ids]


def _read_ids(vocabulary: dict[str, Any]) -> dict[str, int]:
    """XLM's vocabulary. Ids may have gaps: two tokens of the original's can have come to one name here."""
    seen: set[int] = set()
    most = 2 * len(vocabulary)  # a bound, so that a slip in one id does not ask for all the memory
    for token, index in vocabulary.items():
        if type(index) is not int:
            raise ValueError(f"{VOCABULARY_FILE}: must map each token to an integer, not {token!r} to {index!r}")
        if not 0 <= index < most or index in seen:
            raise ValueError(f"{VOCABULARY_FILE}: {token!r} has id {index}; must be below {most} and no other's")
        tokenizer_files.refuse_surrogates(token)
        seen.add(index)
    return vocabulary


def _read_merges(contents: bytes) -> list[tuple[str, str]]:
    """Pairs of merges.txt, best first: two symbols per line, perhaps with a count."""
    try:
        lines = contents.decode().replace("\r\n", "\n").split("\n")[:-1]
    except UnicodeDecodeError as error:
        raise ValueError(f"{MERGES_FILE}: not UTF-8 ({error.reason} at byte {error.start})") from error
    merges = []
    for number, line in enumerate(lines):
        fields = line.split()
        if len(fields) not in (2, 3):
            raise ValueError(f"{MERGES_FILE}, line {number + 1}: {line!r}; must be two symbols, perhaps with a count")
        merges.append((fields[0], fields[1]))
    return merges
