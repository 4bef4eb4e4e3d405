"""Files of questions on texts in, random access to `Record`s out: the data of extractive question answering.

`open_questions` reads SQuAD 1.1's JSON, in which MLQA and XQuAD are published too, and TFDS's examples of the three
(`tfds:squad/v1.1`, `tfds:mlqa/{language}`, `tfds:xquad/{language}`). A path is a file (`.gz` may follow its name),
with `{language}` in it where there is one per language, or a directory that has one of the files in `LAYOUTS`: those
of MLQA_V1 and XQuAD, and XTREME's folders `squad`, `mlqa` and `xquad`.

A file is held in memory, each text once however many questions it has; texts keep their white space, for an answer is
known by its characters in them. What cannot be used is an error that names file and question, or left out and counted.
"""

import collections
import json
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from ernie_m_jax.data import objects, published, readers
from ernie_m_jax.data.labelled_rows import BadRow
from ernie_m_jax.data.readers import DataError
from ernie_m_jax.task import Record

_MLQA = "{split}-context-{{language}}-question-{{language}}.json"
_FOLDERS = ("", "{split}/", "MLQA_V1/{split}/", "mlqa/MLQA_V1/{split}/")
LAYOUTS = {
    "train": ("train-v1.1.json", "squad/train-v1.1.json"),
    "dev": (
        "dev-v1.1.json",
        "squad/dev-v1.1.json",
        *((folder + _MLQA).format(split="dev") for folder in _FOLDERS),
    ),
    "test": (
        "xquad.{language}.json",
        "xquad/xquad.{language}.json",
        *((folder + _MLQA).format(split="test") for folder in _FOLDERS),
        "test-{language}.json",
    ),
}
ENGLISH = (*LAYOUTS["train"], *LAYOUTS["dev"][:2])
SOURCE = (
    "SQuAD 1.1 is https://rajpurkar.github.io/SQuAD-explorer/dataset/train-v1.1.json and dev-v1.1.json, to be put into "
    "a folder squad; MLQA is https://dl.fbaipublicfiles.com/MLQA/MLQA_V1.zip, to be unpacked as MLQA_V1; XQuAD's "
    "xquad.LANGUAGE.json are in https://github.com/google-deepmind/xquad"
)

Answers = tuple[tuple[str, int], ...]  # text, and the character of the context at which it begins


class Question(NamedTuple):
    """A question that can be used.

    Attributes:
      id: its own, otherwise its number in the file, from 1.
      text: the question.
      context: number of the text that it is on.
      answers: in their order; none where the file has none.
    """

    id: str
    text: str
    context: int
    answers: Answers


class Questions:
    """Random access to the questions in one language, in the order of their file.

    Attributes:
      language: code of the language.
      path: of the file or data set.
      questions: those that can be used.
      contexts: the texts they are on.
      skipped: how many questions were left out, by reason.
    """

    def __init__(
        self,
        path: str,
        language: str,
        questions: Sequence[Question],
        contexts: Sequence[str],
        skipped: Mapping[str, int],
    ):
        self.path, self.language, self.skipped = path, language, dict(skipped)
        self.questions, self.contexts = questions, contexts

    def __len__(self) -> int:
        return len(self.questions)

    def __getitem__(self, index: int) -> Record:
        question = self.questions[range(len(self))[index]]
        fields = {"answers": question.answers} if question.answers else {}
        texts = (question.text, self.contexts[question.context])
        return Record(texts, (self.language, self.language), {"id": question.id, **fields})


class _Row(NamedTuple):
    """A question as it stands in its source: `place` is for messages."""

    place: str
    id: str
    question: Any
    context: str
    answers: Any


def open_questions(
    path: str, split: str, languages: tuple[str, ...], bad_rows: str = "error", config_key: str = "bad_rows"
) -> dict[str, Questions]:
    """Opens one split of a data set of questions on texts.

    Args:
      path: a file, perhaps with `{language}`; a directory in `LAYOUTS`; or `tfds:NAME/CONFIG`.
      split: "train", "dev" or "test"; only "test" may have no answers. In TFDS "dev" is "validation".
      languages: codes, as the files' names have them.
      bad_rows: "error", or "skip" to leave out and count questions without text, context, answer or an id of their own,
        and those with an answer that does not stand at its `answer_start`, in characters.
      config_key: the name under which the user sets `bad_rows`, for messages.

    Returns:
      `Questions` by language, in the order of `languages`. A record has question and context as its texts and twice the
      language; its fields are `id` and `answers`: (text, first character) of each, absent without answers.

    Raises:
      DataError: naming file and question where one is bad; a file that is missing (and where it belongs) or cannot be
        read; no good question; a value of these arguments that is not allowed.
    """
    published.check(split, languages, bad_rows)
    files = {language: published.find(path, split, language, LAYOUTS, ENGLISH, SOURCE) for language in languages}
    opened = {}
    for language, (file, stated) in files.items():
        if not stated and len(languages) > 1:
            raise DataError(f"{file}: {len(languages)} languages are asked for; put {{language}} into the path")
        rows = _tfds_rows(file, split) if file.startswith("tfds:") else _json_rows(file)
        opened[language] = _judged(file, list(rows), split, language, config_key if bad_rows == "error" else "")
    return opened


def _json_rows(path: str) -> Iterator[_Row]:
    """The questions of a file in SQuAD's format, all of them in order."""
    tree, number = _parsed(path), 0
    for a, article in enumerate(_list(path, tree, "", "data")):
        for p, paragraph in enumerate(_list(path, article, f"data[{a}]", "paragraphs")):
            name = f"data[{a}].paragraphs[{p}]"
            questions = _list(path, paragraph, name, "qas")
            context = paragraph.get("context")
            if not isinstance(context, str):
                raise DataError(f"{path}: {name} has no text `context`")
            for q, item in enumerate(questions):
                number += 1
                if not isinstance(item, Mapping):
                    raise DataError(f"{path}: {name}.qas[{q}] is {type(item).__name__}, not a question with its keys")
                own = str(item.get("id") or number)
                yield _Row(f"{path}: question {own!r}", own, item.get("question"), context, item.get("answers"))


def _tfds_rows(path: str, split: str) -> Iterator[_Row]:
    """The questions of a prepared TFDS data set; each text is kept once."""
    examples = objects.TfdsExamples(path, "validation" if split == "dev" else split)
    kept: dict[str, str] = {}
    for number in range(len(examples)):
        item, place = examples[number], examples.place(number)
        try:
            own, question, context = (bytes(item[key]).decode("utf-8") for key in ("id", "question", "context"))
            texts = [bytes(text).decode("utf-8") for text in item["answers"]["text"]]
            starts = [int(start) for start in item["answers"]["answer_start"]]
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"{place}: not an example of SQuAD's features: {error!r}") from error
        answers = [{"text": text, "answer_start": start} for text, start in zip(texts, starts, strict=True)]
        yield _Row(f"{place}, question {own!r}", own, question, kept.setdefault(context, context), answers)


def _judged(path: str, rows: Sequence[_Row], split: str, language: str, config_key: str) -> Questions:
    """The good ones among the rows; a bad one is an error that names `config_key`, or counted where that is empty."""
    answered = split != "test" or any(_answered(row) for row in rows)
    questions: list[Question] = []
    contexts: dict[str, int] = {}
    known: set[str] = set()
    skipped: collections.Counter[str] = collections.Counter()
    first = ""
    for row in rows:
        try:
            answers = _checked(row, known, answered)
        except BadRow as bad:
            if config_key:
                way = f'Correct it, or set {config_key} to "skip" to leave such questions out'
                raise DataError(f"{row.place}: {bad.detail}. {way}") from None
            skipped[bad.reason] += 1
            first = first or f"{row.place}: {bad.detail}"
            continue
        known.add(row.id)
        questions.append(Question(row.id, row.question, contexts.setdefault(row.context, len(contexts)), answers))
    if not questions:
        why = f"{published.summary(skipped)}; the first is {first}" if first else "the file has no questions"
        raise DataError(f"{path}: no good question in {language!r}: {why}")
    return Questions(path, language, questions, list(contexts), skipped)


def _checked(row: _Row, known: set[str], answered: bool) -> Answers:
    """A row's answers as its context has them.

    Raises:
      BadRow: the row cannot be used.
    """
    if not isinstance(row.question, str):
        raise BadRow("empty question", f"the question is {type(row.question).__name__}, not text")
    for reason, what, text in (
        ("empty question", "the question", row.question),
        ("empty text", "its text", row.context),
    ):
        if not text.strip():
            raise BadRow(reason, f"{what} is empty")
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:  # JSON can spell half a surrogate pair, which no tokenizer takes
            raise BadRow("invalid Unicode", f"{what} is not valid Unicode ({error.reason})") from error
    if row.id in known:
        raise BadRow("repeated id", "a question before it has the same id")
    if not answered:
        return ()
    items = row.answers or []
    if not isinstance(items, list):
        raise BadRow("no answer", f"its answers are {type(items).__name__}, not a list")
    if wrong := [item for item in items if not isinstance(item, Mapping)]:
        raise BadRow(
            "no answer", f"an answer is {type(wrong[0]).__name__}, not an object with `text` and `answer_start`"
        )
    if not items or not all(str(item.get("text") or "").strip() for item in items):
        raise BadRow("no answer", "no answer; a question of SQuAD 2.0 that has none cannot be used")
    return tuple(_located(row.context, item["text"], item.get("answer_start")) for item in items)


def _located(context: str, text: Any, start: Any) -> tuple[str, int]:
    """An answer as its context has it: perhaps in another of Unicode's normal forms."""
    reason = "answer not at its place"
    if not isinstance(text, str) or not isinstance(start, int):
        raise BadRow(reason, f"the answer {text!r} cannot be found: its answer_start is {start!r}")
    if start >= 0 and context.startswith(text, start):
        return text, start
    composed = unicodedata.normalize("NFC", text)
    if start >= 0:
        for end in range(start + 1, min(len(context), start + 4 * len(text)) + 1):  # NFD has up to four for one
            if unicodedata.normalize("NFC", context[start:end]) == composed:
                return context[start:end], start
    there = f", where the text has {context[start : start + len(text)]!r}" if 0 <= start < len(context) else ""
    raise BadRow(reason, f"the answer {text!r} does not stand at character {start}{there}")


def _answered(row: _Row) -> bool:
    """Whether a row has an answer; XTREME's test files have empty ones."""
    items = row.answers if isinstance(row.answers, list) else []
    return any(isinstance(item, Mapping) and item.get("text") for item in items)


def _parsed(path: str) -> Any:
    try:
        return json.loads(readers.Buffer(path).data.tobytes().decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: invalid UTF-8 at byte {error.start} ({error.reason}); convert it to UTF-8") from error
    except json.JSONDecodeError as error:
        raise DataError(f"{path}:{error.lineno}: not JSON: {error.msg}") from error
    except ValueError as error:  # a number of thousands of digits
        raise DataError(f"{path}: not JSON: {error}") from error
    except RecursionError as error:
        raise DataError(f"{path}: not a SQuAD file: nested too deeply") from error


def _list(path: str, node: Any, name: str, key: str) -> list[Any]:
    if not isinstance(node, Mapping):
        raise DataError(f"{path}: no SQuAD file: {name or 'it'} is {type(node).__name__}, not an object with `{key}`")
    value = node.get(key)
    if not isinstance(value, list):
        raise DataError(f"{path}: {name} has no list `{key}`" if name else f"{path}: no SQuAD file: no list `{key}`")
    return value
