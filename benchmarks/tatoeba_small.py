"""Does contrastive fine-tuning on some languages help to find sentences of others? A model of minutes, on Tatoeba.

    python benchmarks/tatoeba_small.py --data tatoeba --workdir runs/tatoeba_small \
        --output benchmarks/results/tatoeba_small.json

--data is the folder of LASER's files, tatoeba.ara-eng.ara and so on; any number of the languages will do. Every second
one, in the order of the files' codes, is held out: its Tatoeba sentences are trained on nowhere, and an English
sentence that stands in a held-out language's set is dropped from the pairs trained on, whatever its case and
punctuation. A tiny model is pre-trained on the other languages' pairs and on the bundled parallel text (UDHR,
diagnostics; these do have some of the held-out languages, in other domains), then fine-tuned on the other languages'
pairs with each loss of `configs/finetune/tatoeba.py`. Prints accuracy from and to English on the held-out languages
before and after (percent; chance is about 0.1) and writes it with hardware, versions and date.
"""

import csv
import gzip
import importlib.resources
import json
import pathlib
import re
from statistics import mean

import small_runs

# LASER's codes -> those of the bundled text and of `configs/finetune/tatoeba.py`.
CODES = {
    **{"ara": "ar", "bul": "bg", "cmn": "zh", "deu": "de", "ell": "el", "fra": "fr", "hin": "hi", "ita": "it"},
    **{"jpn": "ja", "kor": "ko", "nld": "nl", "por": "pt", "rus": "ru", "spa": "es", "swh": "sw", "tha": "th"},
    **{"tur": "tr", "urd": "ur", "vie": "vi", "est": "et", "fin": "fi", "heb": "he", "hun": "hu"},
}
BUNDLED = ("udhr/udhr18.tsv.gz", "diagnostics/pairs.tsv.gz")
RENAMED = {"zh-cn": "zh", "pt-br": "pt"}
LOSSES = ("hardest", "infonce")
PRETRAINING = (
    "--config.model.vocab_size=8000",
    "--config.model.initializer_range=0.08",
    "--config.data.pair_positions=restarted",
    "--config.objectives.camlm.mask_ratio=1.0",
    "--config.stages.stage1.weights.mmlm=0.04",
    "--config.stages.stage1.weights.tlm=0.04",
    "--config.stages.stage1.weights.camlm=0.92",
    "--config.stages.stage1.learning_rate=3e-3",
    "--config.stages.stage1.warmup_steps=100",
    "--config.optimizer.clip_norm=0.3",
    *small_runs.SINGLE,
)


def lines(path: pathlib.Path) -> list[str]:
    """The sentences of a file."""
    return path.read_text("utf-8").rstrip("\n").split("\n")


def plain(text: str) -> str:
    """What of an English sentence counts when it is compared."""
    return " ".join(re.findall(r"\w+", text.casefold()))


def bundled() -> dict[str, list[tuple[str, str]]]:
    """The bundled parallel text: pairs with English by language."""
    found: dict[str, list[tuple[str, str]]] = {}
    for name in BUNDLED:
        raw = importlib.resources.files("ernie_m_jax.data").joinpath("corpora", name).read_bytes()
        for row in csv.DictReader(gzip.decompress(raw).decode().splitlines(), delimiter="\t", quoting=csv.QUOTE_NONE):
            for code, text in row.items():
                if code not in ("key", "en") and text and row["en"]:
                    found.setdefault(RENAMED.get(code, code), []).append((text, row["en"]))
    return found


def divide(data: pathlib.Path, folder: pathlib.Path) -> dict[str, list[str]]:
    """Writes folder/{train,test,pretrain}/PAIR.LANGUAGE and folder/text/LANGUAGE.txt; returns who is held out."""
    found = sorted(path.suffix[1:] for path in data.glob("tatoeba.*-eng.*") if path.suffix != ".eng")
    pairs = {
        CODES.get(code, code): list(
            zip(*(lines(data / f"tatoeba.{code}-eng.{side}") for side in (code, "eng")), strict=True)
        )
        for code in found
    }
    languages = list(pairs)
    trained, held_out = languages[::2], languages[1::2]
    taboo = {plain(english) for language in held_out for _, english in pairs[language]}
    training = {
        language: [(text, english) for text, english in pairs[language] if plain(english) not in taboo]
        for language in trained
    }
    pretraining = {
        language: text + training.get(language, []) for language, text in bundled().items() if language in languages
    }
    pretraining |= {language: text for language, text in training.items() if language not in pretraining}
    # The bundled text too has no sentence of the tests.
    pretraining = {
        language: [(text, english) for text, english in rows if plain(english) not in taboo]
        for language, rows in pretraining.items()
    }
    tests = {language: pairs[language] for language in held_out}
    for name, group in (("train", training), ("test", tests), ("pretrain", pretraining)):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for language, rows in group.items():
            for side, code in enumerate((language, "en")):
                text = "".join(f"{row[side]}\n" for row in rows)
                (folder / name / f"{language}-en.{code}").write_text(text, "utf-8")
    (folder / "text").mkdir(exist_ok=True)
    mono = {language: [text for text, _ in rows] for language, rows in pretraining.items()}
    mono["en"] = list(dict.fromkeys(english for rows in pretraining.values() for _, english in rows))
    for language, texts in mono.items():
        (folder / "text" / f"{language}.txt").write_text("".join(f"{text}\n" for text in texts), "utf-8")
    return {
        "trained": trained,
        "held_out": held_out,
        "pretrained": list(pretraining),
        "training_pairs": {language: len(rows) for language, rows in training.items()},
    }


def means(found: dict[str, float], languages: list[str]) -> dict[str, float]:
    """Mean accuracy over languages: to English, from English and both."""
    to, of = (mean(found[way.format(language)] for language in languages) for way in ("{}>en", "en>{}"))
    return {"to_en": to, "from_en": of, "both": (to + of) / 2}


def main() -> None:
    """Runs what is missing, prints the table, writes the results."""
    parser = small_runs.parser(__doc__)
    parser.add_argument("--seed", type=int, default=0, help="of all runs")
    parser.add_argument("--pretraining_steps", type=int, default=800)
    arguments = parser.parse_args()
    folder = arguments.workdir.absolute() / "data"
    groups = divide(arguments.data.absolute(), folder)
    before = arguments.workdir.absolute() / f"pretrained-{arguments.seed}"
    pairs = ",".join(f"{language}-en" for language in groups["pretrained"])
    languages = ",".join([*groups["trained"], *groups["held_out"], "en"])
    text = ",".join([*groups["pretrained"], "en"])
    summaries = {
        "pre-training": small_runs.run(
            "configs/pretrain/stage1.py:size=tiny",
            before,
            [
                f"--config.seed={arguments.seed}",
                f"--config.languages={languages}",
                f"--config.data.monolingual.text.path={folder}/text/{{language}}.txt",
                f"--config.data.monolingual.text.languages={text}",
                f"--config.data.parallel.pairs.path={folder}/pretrain/{{pair}}.{{language}}",
                f"--config.data.parallel.pairs.pairs={pairs}",
                f"--config.stages.stage1.steps={arguments.pretraining_steps}",
                *PRETRAINING,
            ],
        )
    }
    trained = ",".join(f"{language}-en" for language in groups["trained"])
    held_out = ",".join(f"{language}-en" for language in groups["held_out"])
    results = {}
    for loss in LOSSES:
        after = arguments.workdir.absolute() / f"{loss}-{arguments.seed}"
        summary = small_runs.run(
            f"configs/finetune/tatoeba.py:size=tiny,loss={loss},seed={arguments.seed},init={before}",
            after,
            [
                f"--config.languages={languages}",
                f"--config.data.parallel.pairs.path={folder}/train/{{pair}}.{{language}}",
                f"--config.data.parallel.pairs.pairs={trained}",
                f"--config.evals.tatoeba.source.path={folder}/test/{{pair}}.{{language}}",
                f"--config.evals.tatoeba.source.pairs={held_out}",
                *small_runs.SINGLE,
            ],
        )
        start = json.loads((after / "finetune" / "start.json").read_text())  # the retrieval before the first step
        results["before"] = means(start["tatoeba"], groups["held_out"])
        results[loss] = means(summary["stages"]["finetune"]["evals"]["tatoeba"], groups["held_out"])
        summaries[loss] = summary
    print("| | to English | from English | both |\n| --- | --- | --- | --- |")
    for name, found in results.items():
        print(f"| {name} | " + " | ".join(f"{value:.1f}" for value in found.values()) + " |")
    small_runs.write(
        arguments, "tatoeba_small.py", summaries["pre-training"]["versions"], **groups, accuracy=results, runs=summaries
    )


if __name__ == "__main__":
    main()
