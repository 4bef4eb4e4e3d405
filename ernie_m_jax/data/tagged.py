"""Files of tagged words in, random access to `Record`s out: the data of recognising named entities (CoNLL).

`open_tagged` takes

| path | read as |
| ---- | ------- |
| a file | columns separated by spaces or tabs, the word first, the tag last; blank lines between sentences |
| a directory | one of the files in `LAYOUTS` by split and language |
| `tfds:NAME/CONFIG`, or `tfds:/DIRECTORY` of a prepared data set | words and the classes of their tags |
| `LANGUAGE=PATH,LANGUAGE=PATH` | any of these, by language |

`{language}` in a path is filled in; `.gz` may follow the names of files. Tags may be written in IOB1 or IOB2
(`tagged_rows.py`), records have IOB2. Lines of documents' beginnings (`-DOCSTART-`) are passed over. A test file may
have words alone. Everything is read at opening: these data sets are small.
"""

import collections
import os
from collections.abc import Mapping, Sequence

from ernie_m_jax.data import published, tagged_rows
from ernie_m_jax.data.readers import DataError, MissingData
from ernie_m_jax.data.tagged_rows import BadSentence, Raw, Source
from ernie_m_jax.task import Record

CODES = {"en": "eng", "de": "deu", "es": "esp", "nl": "ned"}  # as the shared tasks' files name the languages
# Files of published directories: CoNLL-2002 and CoNLL-2003, XTREME's panx, a folder per language, and the usual copies
# of CoNLL-2003, which are English and do not say so.
LAYOUTS = {
    "train": ("{code}.train", "train-{language}.tsv", "{language}/train.txt", "train.txt"),
    "dev": ("{code}.testa", "dev-{language}.tsv", "{language}/valid.txt", "{language}/dev.txt", "valid.txt", "dev.txt"),
    "test": ("{code}.testb", "test-{language}.tsv", "{language}/test.txt", "test.txt"),
}
_SHARED_TASK = "https://www.clips.uantwerpen.be"
# What cannot be downloaded by a program, and where it is to be had.
_HOW = {
    "de": "CoNLL-2003's German texts are licensed: get the ECI Multilingual Text Corpus (LDC94T5, from the LDC) and "
    f"build deu.train, deu.testa and deu.testb with the scripts of {_SHARED_TASK}/conll2003/ner/",
    "en": "CoNLL-2003's English texts are licensed: get Reuters' RCV1 (from NIST) and build eng.train, eng.testa and "
    f"eng.testb with the scripts of {_SHARED_TASK}/conll2003/ner/",
    "es": f"get esp.train, esp.testa and esp.testb from {_SHARED_TASK}/conll2002/ner/",
    "nl": f"get ned.train, ned.testa and ned.testb from {_SHARED_TASK}/conll2002/ner/",
}


class Sentences:
    """Random access to the tagged sentences of one language, in the order of their file.

    Attributes:
      language: code of the language.
      path: of the file or data set.
      encoding: that it was read in, "utf-8" or "latin-1".
      skipped: how many sentences were left out, by reason.
    """

    def __init__(
        self,
        source: Source,
        language: str,
        sentences: Sequence[tuple[Raw, tuple[str, ...]]],
        skipped: Mapping[str, int],
    ):
        """Takes raw sentences with their IOB2 tags, () where the file has none."""
        self.path, self.encoding, self.language, self.skipped = source.path, source.encoding, language, dict(skipped)
        self._sentences = [(source.name(raw), raw.words, tags) for raw, tags in sentences]

    @property
    def note(self) -> str:
        """What is to be said of the file, "" where nothing is."""
        return "" if self.encoding == "utf-8" else f"{self.path} is not UTF-8; read as {self.encoding}"

    def __len__(self) -> int:
        return len(self._sentences)

    def __getitem__(self, index: int) -> Record:
        name, words, tags = self._sentences[index]
        return Record(
            (" ".join(words),), (self.language,), {"words": words, **({"tags": tags} if tags else {}), "id": name}
        )


def open_tagged(
    path: str,
    split: str,
    languages: Sequence[str],
    types: Sequence[str],
    bad_rows: str = "error",
    config_key: str = "",
) -> dict[str, Sentences]:
    """Opens one split of a data set of tagged sentences.

    Args:
      path: as in the table above.
      split: "train", "dev" or "test"; only "test" may have no tags.
      languages: codes, as the paths have them.
      types: of the entities, "PER"; tags are O, and B- and I- with these.
      bad_rows: "error", or "skip" to leave out and count sentences with a line of one column, an unknown tag, or tags
        that neither IOB1 nor IOB2 allows.
      config_key: path of the task's entry in the config, "config.objectives.NAME", for messages; "" on a command line.

    Returns:
      `Sentences` by language, in the order of `languages`. A record has one text, the words joined by spaces; its
      fields are `words`, `tags` (IOB2; absent without tags) and `id`, "FILE:LINE" of its first word.

    Raises:
      DataError: naming file and line where a sentence is bad; a file or a language's path is missing, with where to
        get it; a language without a good sentence; a value of these arguments that is not allowed.
    """
    published.check(split, languages, bad_rows)
    spoken = published.key(config_key, "train_languages" if config_key and split == "train" else "languages")
    files = {language: _file(path, split, language, spoken) for language in languages}
    if len(set(files.values())) < len(files):
        raise DataError(
            f"{path}: one file for {', '.join(languages)}; put {{language}} into its path, or give a path by language: "
            "en=PATH,es=PATH"
        )
    skip = "" if bad_rows == "skip" else published.key(config_key, "bad_rows")
    return {language: _open(files[language], split, language, tuple(types), skip) for language in languages}


def _open(file: str, split: str, language: str, types: tuple[str, ...], skip: str) -> Sentences:
    """The good sentences of a file; `skip` is the key that would leave out bad ones, "" where they are."""
    source = tagged_rows.examples(file, split) if file.startswith("tfds:") else tagged_rows.columns(file)
    if source.sentences and not source.labelled:
        if split != "test":
            raise DataError(f"{file}: no tags; only the test split may have none")
        return Sentences(source, language, [(raw, ()) for raw in source.sentences], {})
    skipped: collections.Counter[str] = collections.Counter()
    good, first, names = [], "", tagged_rows.names_of(types)
    for raw in source.sentences:
        try:
            good.append((raw, tagged_rows.to_iob2(tagged_rows.checked(raw, names))))
        except BadSentence as error:
            message = f"{source.place(raw, error.index)}: {error.detail}"
            if skip:
                raise DataError(
                    f'{message}. Correct it, or set {skip} to "skip" to leave such sentences out'
                ) from error
            skipped[error.reason] += 1
            first = first or message
    if not good:
        why = f"{published.summary(skipped)}; the first is {first}" if skipped else "the file has none"
        raise DataError(f"{file}: no good sentence in {language!r}: {why}")
    return Sentences(source, language, good, skipped)


def _file(path: str, split: str, language: str, spoken: str) -> str:
    """The file that has a language's sentences; `spoken` is the key that names the languages."""
    chosen = path
    if published.BY_LANGUAGE.match(path):
        paths = published.by_language(path)
        if language not in paths:
            raise MissingData(f"{path}: no path for {language!r}; there are paths for: {', '.join(paths)}", language)
        chosen = paths[language]
    filled = chosen.replace("{language}", language)
    if filled.startswith("tfds:") or "://" in filled or os.path.isfile(filled):
        return filled
    if not os.path.isdir(filled):
        folder = (os.path.dirname(filled) or ".") if os.path.splitext(filled)[1] else filled
        raise _missing(f"{filled}: no such file or directory", language, folder, spoken)
    english = language == "en" or filled != path  # or the path says the language
    patterns = [pattern for pattern in LAYOUTS[split] if "{" in pattern or english]
    code = CODES.get(language, language)
    looked = [pattern.replace("{code}", code).replace("{language}", language) for pattern in patterns]
    found = [
        name + suffix
        for name in looked
        for suffix in ("", ".gz")
        if os.path.isfile(os.path.join(filled, name + suffix))
    ]
    if not found:
        reason = f"{filled}: no file of the {split} split in {language!r}; looked for: {', '.join(looked)}"
        raise _missing(reason, language, filled, spoken)
    if len(found) > 1:
        raise DataError(f"{filled}: several files fit the {split} split in {language!r}: {', '.join(found)}; name one")
    return os.path.join(filled, found[0])


def _missing(reason: str, language: str, folder: str, spoken: str) -> MissingData:
    """With where to get a language's files and where to put them."""
    how = _HOW.get(language)
    got = f"{how}, and put them into {folder}" if how else "put the data there or change the path"
    return MissingData(
        reason, language, f"{got[0].upper()}{got[1:]}", otherwise=f"; or leave {language!r} out of {spoken}"
    )
