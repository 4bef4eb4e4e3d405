"""Answers to questions in eight languages from 200 paragraphs: a model of minutes on XQuAD, against trivial baselines.

    python benchmarks/xquad_small.py --data xquad --workdir runs/xquad_small \
        --output benchmarks/results/xquad_small.json

--data is the folder of XQuAD's files, xquad.en.json and so on; 240 paragraphs in each language, translations of one
another. The first 200 are for training (of these the last 10 select the checkpoint), the other 40 are the test.
A small model learns with `configs/finetune/mlqa.py:size=tiny` in two runs, of all languages at once: from clozes on the
training paragraphs (`xquad_cloze.py`), then from the training questions, each several times anew, and harder clozes.
Both runs have labels for every token beside (`xquad_matching.py`). Nothing else is read, and no run comes before.
Prints F1 and exact match on the test questions (SQuAD's scoring, percent, mean over languages) of the model and of what
needs no model, and writes them by language with hardware, versions and date. `--baselines_only` stops before the model.
"""

import collections
import itertools
import json
import pathlib
import random
import re
from collections.abc import Callable
from statistics import mean
from typing import NamedTuple

import small_runs
import xquad_cloze
from xquad_cloze import WORD

from ernie_m_jax.finetune import answer_scoring
from ernie_m_jax.version import __version__

LANGUAGES = ("en", "es", "de", "ar", "hi", "ru", "zh", "el")
TRAINED, SELECTING = 200, 10  # paragraphs; those that select are the last of the trained ones
DRAWS = 20  # random spans per question
SENTENCE = re.compile(r"(?<=[.!?؟।])\s+|(?<=[。！？])")


class Asked(NamedTuple):
    """A question, its text and its right answers."""

    question: str
    context: str
    golds: list[str]


def words(text: str) -> list[str]:
    """The words of a text, in lower case."""
    return [found.casefold() for found in WORD.findall(text)]


def sentences(text: str) -> list[str]:
    """The sentences of a text; where one ends is told by its mark and the space behind it."""
    return [found.strip() for found in SENTENCE.split(text) if found.strip()]


def overlapping(asked: Asked) -> str:
    """The sentence that has the most of the question's words, the first of equals."""
    wanted = set(words(asked.question))
    return max(sentences(asked.context), key=lambda sentence: len(wanted & set(words(sentence))))


def first(pattern: Callable[[str, int], bool], text: str, asked: Asked) -> str:
    """The first word of a text that fits and is not in the question; the first word where none does."""
    wanted = set(words(asked.question))
    found = [one for one in WORD.finditer(text) if one[0].casefold() not in wanted] or list(WORD.finditer(text))
    return next((one[0] for one in found if pattern(one[0], one.start())), found[0][0])


def number(word: str, _: int) -> bool:
    """Whether a word is a number."""
    return word[0].isdigit()


def name_or_number(word: str, start: int) -> bool:
    """Whether a word is a number or is written with a capital that no sentence's beginning explains."""
    return word[0].isdigit() or (word[0].isupper() and start > 0)


def longest_new_run(asked: Asked) -> str:
    """Of the overlapping sentence, the longest run of words that are not in the question."""
    text, wanted = overlapping(asked), set(words(asked.question))
    best, run = (0, 0, 0), None
    for one in WORD.finditer(text):
        new = one[0].casefold() not in wanted
        run = ((run[0], run[1] + 1) if run else (one.start(), 1)) if new else None
        if run and run[1] > best[2]:
            best = (run[0], one.end(), run[1])
    return text[best[0] : best[1]] or text


def baselines(train: list[Asked], test: list[Asked], language: str) -> dict[str, dict[str, float]]:
    """The scores of what needs no model."""
    frequent = collections.Counter(gold for asked in train for gold in asked.golds).most_common(1)[0][0]
    lengths = [len(WORD.findall(gold)) or 1 for asked in train for gold in asked.golds]
    rng = random.Random(0)

    def span(asked: Asked) -> str:
        found = list(WORD.finditer(asked.context))
        start = rng.randrange(len(found))
        end = min(start + rng.choice(lengths), len(found)) - 1
        return asked.context[found[start].start() : found[end].end()]

    ways: dict[str, Callable[[Asked], str]] = {
        "whole paragraph": lambda asked: asked.context,
        "first sentence": lambda asked: sentences(asked.context)[0],
        "sentence with most of the question's words": overlapping,
        "longest run of other words in it": longest_new_run,
        "first name or number in it": lambda asked: first(name_or_number, overlapping(asked), asked),
        "first number in it": lambda asked: first(number, overlapping(asked), asked),
        "first name or number of the paragraph": lambda asked: first(name_or_number, asked.context, asked),
        "most frequent answer": lambda asked: frequent,
    }
    golds = [asked.golds for asked in test]

    def scored(way: Callable[[Asked], str]) -> dict[str, float]:
        return answer_scoring.scores(golds, [way(asked) for asked in test], "squad", language)

    found = {name: scored(way) for name, way in ways.items()}
    drawn = [scored(span) for _ in range(DRAWS)]
    found[f"random span, mean of {DRAWS}"] = {key: mean(one[key] for one in drawn) for key in drawn[0]}
    return found


def paragraphs(path: pathlib.Path) -> list[dict]:
    """A file's paragraphs in order."""
    return [paragraph for article in json.loads(path.read_text("utf-8"))["data"] for paragraph in article["paragraphs"]]


def questions(part: list[dict]) -> list[Asked]:
    """The questions on some paragraphs."""
    return [
        Asked(item["question"], paragraph["context"], [answer["text"] for answer in item["answers"]])
        for paragraph in part
        for item in paragraph["qas"]
    ]


def divide(data: pathlib.Path, folder: pathlib.Path, arguments) -> dict[str, dict[str, list[dict]]]:
    """Writes {train,dev,test,cloze,again}.LANGUAGE.json to a folder, and text/LANGUAGE.txt for the tokenizer."""
    parts: dict[str, dict[str, list[dict]]] = {"train": {}, "dev": {}, "test": {}}
    (folder / "text").mkdir(parents=True, exist_ok=True)
    cut = TRAINED - SELECTING
    for language in LANGUAGES:
        every, rng = paragraphs(data / f"xquad.{language}.json"), random.Random(f"{language}{arguments.seed}")
        for name, part in (("train", every[:cut]), ("dev", every[cut:TRAINED]), ("test", every[TRAINED:])):
            parts[name][language] = part
            tree = {"version": "1.1", "data": [{"title": name, "paragraphs": part}]}
            (folder / f"{name}.{language}.json").write_text(json.dumps(tree, ensure_ascii=False), "utf-8")
        part = parts["train"][language]
        contexts = [paragraph["context"] for paragraph in part]
        easy = xquad_cloze.clozes(contexts, language, arguments.easy, True, rng)
        xquad_cloze.write(folder / f"cloze.{language}.json", easy)
        both = (
            xquad_cloze.again(part, language, arguments.again, rng),
            xquad_cloze.clozes(contexts, language, arguments.hard, False, rng),
        )
        xquad_cloze.write(folder / f"again.{language}.json", itertools.chain(*both))
        texts = [text for one in part for text in (one["context"], *(item["question"] for item in one["qas"]))]
        (folder / "text" / f"{language}.txt").write_text(
            "\n".join(" ".join(text.split()) for text in texts) + "\n", "utf-8"
        )
    return parts


def model(folder: pathlib.Path, workdir: pathlib.Path, arguments) -> dict[str, dict]:
    """The summaries of both runs."""
    languages = ",".join(LANGUAGES)
    before = workdir / f"cloze-{arguments.seed}"
    same = [
        f"--config.languages={languages}",
        f"--config.objectives.mlqa.dev={folder}/dev.{{language}}.json",
        f"--config.objectives.mlqa.train_languages={languages}",
        "--config.objectives.mlqa.task=benchmarks.xquad_matching",
        "--config.objectives.mlqa.scoring=squad",
        *small_runs.SINGLE,
    ]
    clozes = small_runs.run(
        f"configs/finetune/mlqa.py:size=tiny,seed={arguments.seed}",
        before,
        [
            *same,
            f"--config.data.monolingual.text.path={folder}/text/{{language}}.txt",  # for the tokenizer
            f"--config.objectives.mlqa.train={folder}/cloze.{{language}}.json",
            "--config.objectives.mlqa.test=",
            "--config.objectives.mlqa.max_length=160",
            "--config.evals.dev.every=0",
            "--config.evals.mlqa.splits=dev",
            "--config.train.select=",
            "--config.train.batch_size=6",
            "--config.data.virtual_streams=2",
            "--config.data.sequence_length=160",
            f"--config.stages.finetune.steps={arguments.cloze_steps}",
            "--config.stages.finetune.learning_rate=1.5e-3",
            "--config.model.vocab_size=6000",
            "--config.tokenizer.character_coverage=0.999",
            "--config.model.num_layers=3",
            "--config.model.num_token_types=3",
            "--config.model.initializer_range=0.08",
            "--config.model.key_init=query",
            "--config.model.position_init=sinusoidal",
            "--config.model.hidden_dropout=0.0",
            "--config.model.attention_dropout=0.0",
        ],
    )
    finetuning = small_runs.run(
        f"configs/finetune/mlqa.py:size=tiny,seed={arguments.seed},init={before}",
        workdir / f"finetuned-{arguments.seed}",
        [
            *same,
            f"--config.objectives.mlqa.train={folder}/again.{{language}}.json",
            f"--config.objectives.mlqa.test={folder}/test.{{language}}.json",
            "--config.objectives.mlqa.max_length=256",
            "--config.evals.mlqa.splits=test",
            f"--config.evals.dev.every={arguments.every}",
            "--config.train.batch_size=6",
            "--config.data.virtual_streams=2",
            "--config.data.sequence_length=256",
            f"--config.stages.finetune.steps={arguments.steps}",
            "--config.stages.finetune.learning_rate=1e-3",
        ],
    )
    return {"clozes": clozes, "fine-tuning": finetuning}


def main() -> None:
    """Scores the baselines, runs what is missing, prints the table, writes the results."""
    parser = small_runs.parser(__doc__)
    parser.add_argument("--seed", type=int, default=0, help="of both runs")
    parser.add_argument("--easy", type=int, default=4000, help="clozes of the first run, per language")
    parser.add_argument("--hard", type=int, default=5500, help="clozes of the second run, per language")
    parser.add_argument("--again", type=int, default=5, help="times that the second run's data have each question")
    parser.add_argument("--cloze_steps", type=int, default=2000)
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--every", type=int, default=1000, help="steps between evaluations that select the checkpoint")
    parser.add_argument("--baselines_only", action="store_true")
    arguments = parser.parse_args()
    workdir = arguments.workdir.absolute()
    parts = divide(arguments.data.absolute(), workdir / "data", arguments)
    found: dict[str, dict[str, dict[str, float]]] = {}
    for language in LANGUAGES:
        train = questions(parts["train"][language] + parts["dev"][language])
        for name, scores in baselines(train, questions(parts["test"][language]), language).items():
            found.setdefault(name, {})[language] = scores
    versions, runs = {"ernie_m_jax": __version__}, {}
    if not arguments.baselines_only:
        runs = model(workdir / "data", workdir, arguments)
        versions, scores = runs["fine-tuning"]["versions"], runs["fine-tuning"]["stages"]["finetune"]["evals"]["mlqa"]
        found["the model"] = {
            language: {key: scores[f"test/{language}/{key}"] for key in ("f1", "exact_match")} for language in LANGUAGES
        }
    means = {
        name: {key: mean(scores[key] for scores in by_language.values()) for key in ("f1", "exact_match")}
        for name, by_language in found.items()
    }
    print("| answer | F1 | exact match |\n| --- | --- | --- |")
    for name, scores in sorted(means.items(), key=lambda item: item[1]["f1"]):
        print(f"| {name} | {scores['f1']:.1f} | {scores['exact_match']:.1f} |")
    small_runs.write(arguments, "xquad_small.py", versions, mean=means, by_language=found, runs=runs)


if __name__ == "__main__":
    main()
