"""Answers to questions in eight languages from 200 paragraphs: a model of minutes on XQuAD, against trivial baselines.

    python benchmarks/xquad_small.py --data xquad --workdir runs/xquad_small \
        --output benchmarks/results/xquad_small.json

--data is the folder of XQuAD's files, xquad.en.json and so on; 240 paragraphs in each language, translations of one
another. The first 200 are for training (of these the last 10 select the checkpoint), the other 40 are the test. A small
model is pre-trained on the training paragraphs' text, questions and sentences as parallel pairs, then fine-tuned with
`configs/finetune/mlqa.py:size=tiny` on the training questions in all languages. Prints F1 and exact match on the test
questions (SQuAD's scoring, percent, mean over languages) of the model and of what needs no model, and writes them by
language with hardware, versions and date. `--baselines_only` stops before the model.
"""

import collections
import json
import pathlib
import random
import re
from collections.abc import Callable
from statistics import mean
from typing import NamedTuple

import small_runs

from ernie_m_jax.finetune import answer_scoring
from ernie_m_jax.version import __version__

LANGUAGES = ("en", "es", "de", "ar", "hi", "ru", "zh", "el")
TRAINED, SELECTING = 200, 10  # paragraphs; those that select are the last of the trained ones
DRAWS = 20  # random spans per question
WORD = re.compile(r"[\u3400-\u9fff]|[^\W_]+(?:[^\w\s]+[^\W_]+)*", re.UNICODE)  # Chinese by character; "1,234" is one
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


def one_line(text: str) -> str:
    """A text as a cell of a table."""
    return " ".join(text.split())


def divide(data: pathlib.Path, folder: pathlib.Path) -> dict[str, dict[str, list[dict]]]:
    """Writes folder/{train,dev,test}.LANGUAGE.json, and the training text as text/LANGUAGE.txt and pairs.tsv."""
    parts: dict[str, dict[str, list[dict]]] = {"train": {}, "dev": {}, "test": {}}
    (folder / "text").mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, str]] = []
    for language in LANGUAGES:
        every = paragraphs(data / f"xquad.{language}.json")
        cut = TRAINED - SELECTING
        for name, part in (("train", every[:cut]), ("dev", every[cut:TRAINED]), ("test", every[TRAINED:])):
            parts[name][language] = part
            tree = {"version": "1.1", "data": [{"title": name, "paragraphs": part}]}
            (folder / f"{name}.{language}.json").write_text(json.dumps(tree, ensure_ascii=False), "utf-8")
    for number_, english in enumerate(parts["train"]["en"]):
        same = {language: parts["train"][language][number_] for language in LANGUAGES}
        rows += [
            {language: one_line(same[language]["qas"][asked]["question"]) for language in LANGUAGES}
            for asked in range(len(english["qas"]))
        ]
        cut_up = {language: sentences(one_line(same[language]["context"])) for language in LANGUAGES}
        count = len(cut_up["en"])
        agreeing = [language for language in LANGUAGES if len(cut_up[language]) == count]
        rows += [
            {language: cut_up[language][at] if language in agreeing else "" for language in LANGUAGES}
            for at in range(count)
        ]
    table = ["\t".join(LANGUAGES), *("\t".join(row[language] for language in LANGUAGES) for row in rows)]
    (folder / "pairs.tsv").write_text("\n".join(table) + "\n", "utf-8")
    for language, part in parts["train"].items():
        texts = [
            one_line(text) for one in part for text in (one["context"], *(item["question"] for item in one["qas"]))
        ]
        (folder / "text" / f"{language}.txt").write_text("\n".join(texts) + "\n", "utf-8")
    return parts


def model(folder: pathlib.Path, workdir: pathlib.Path, arguments) -> dict[str, dict]:
    """The summaries of pre-training and fine-tuning."""
    languages = ",".join(LANGUAGES)
    before = workdir / f"pretrained-{arguments.seed}"
    pretraining = small_runs.run(
        "pretrain/stage1.py:size=tiny",
        before,
        [
            f"--config.seed={arguments.seed}",
            f"--config.languages={languages}",
            f"--config.data.monolingual.text.path={folder}/text/{{language}}.txt",
            f"--config.data.parallel.pairs.path={folder}/pairs.tsv",
            f"--config.stages.stage1.steps={arguments.pretraining_steps}",
            "--config.model.vocab_size=6000",
            "--config.tokenizer.character_coverage=0.999",
            "--config.model.initializer_range=0.08",
            "--config.data.pair_positions=restarted",
            "--config.objectives.mmlm.mask_ratio=0.3",
            "--config.objectives.tlm.mask_ratio=0.3",
            "--config.objectives.camlm.mask_ratio=1.0",
            "--config.stages.stage1.weights.mmlm=0.25",
            "--config.stages.stage1.weights.tlm=0.25",
            "--config.stages.stage1.weights.camlm=0.5",
            "--config.stages.stage1.learning_rate=3e-3",
            "--config.stages.stage1.warmup_steps=100",
            "--config.optimizer.clip_norm=0.3",
            *small_runs.SINGLE,
        ],
    )
    finetuning = small_runs.run(
        f"finetune/mlqa.py:size=tiny,seed={arguments.seed},init={before}",
        workdir / f"finetuned-{arguments.seed}",
        [
            f"--config.languages={languages}",
            *(
                f"--config.objectives.mlqa.{name}={folder}/{name}.{{language}}.json"
                for name in ("train", "dev", "test")
            ),
            f"--config.objectives.mlqa.train_languages={languages}",
            "--config.objectives.mlqa.scoring=squad",
            "--config.evals.mlqa.splits=test",
            f"--config.evals.dev.every={arguments.every}",
            f"--config.stages.finetune.epochs={arguments.epochs}",
            *small_runs.SINGLE,
        ],
    )
    return {"pre-training": pretraining, "fine-tuning": finetuning}


def main() -> None:
    """Scores the baselines, runs what is missing, prints the table, writes the results."""
    parser = small_runs.parser(__doc__)
    parser.add_argument("--seed", type=int, default=0, help="of both runs")
    parser.add_argument("--pretraining_steps", type=int, default=400)
    parser.add_argument("--epochs", type=float, default=0.25)
    parser.add_argument("--every", type=int, default=250, help="steps between evaluations that select the checkpoint")
    parser.add_argument("--baselines_only", action="store_true")
    arguments = parser.parse_args()
    workdir = arguments.workdir.absolute()
    parts = divide(arguments.data.absolute(), workdir / "data")
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
