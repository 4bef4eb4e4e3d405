"""Small raw files of every task with labelled data, in the published layouts, with one row that cannot be used."""

import json

from tests import labelled_files

PAIRS = dict.fromkeys(("xnli", "pawsx"), "empty sentence")
BAD = {**PAIRS, "conll": "one column", "mlqa": "answer not at its place"}  # reason for which the bad row is left out
CONTEXT = "La classe 😀 {language} ouvre la porte."


def write(task, folder, languages=("en", "de"), counts=(7, 4, 5), bad=False):
    """Writes train, dev and test of a task.

    Args:
      task: xnli, pawsx, conll or mlqa.
      folder: to write into.
      languages: of every split; conll and mlqa have a file for each.
      counts: good rows per language of train, dev and test.
      bad: whether the last language's training file has one bad row more.

    Returns:
      What the config's train, dev and test name.
    """
    return {"xnli": _xnli, "pawsx": _pawsx, "conll": _conll, "mlqa": _mlqa}[task](folder, languages, counts, bad)


def _xnli(folder, languages, counts, bad):
    labelled_files.write_xnli(folder, languages, *counts)
    _append(folder / "XNLI-MT-1.0" / "multinli" / f"multinli.train.{languages[-1]}.tsv", "a\t \tneutral\n", bad)
    return _paths(folder, "XNLI-MT-1.0", "XNLI-1.0", "XNLI-1.0")


def _pawsx(folder, languages, counts, bad):
    labelled_files.write_pawsx(folder, languages, *counts)
    name = "train" if languages[-1] == "en" else "translated_train"
    _append(folder / "x-final" / languages[-1] / f"{name}.tsv", "99\ta\t \t1\n", bad)
    return _paths(folder, "x-final", "x-final", "x-final")


def _conll(folder, languages, counts, bad):
    place = folder / "conll"
    place.mkdir(parents=True)
    for language in languages:
        code = {"en": "eng", "de": "deu", "es": "esp", "nl": "ned"}[language]
        for name, count in zip(("train", "testa", "testb"), counts, strict=True):
            rows = "".join(f"Grün{number} x B-LOC\nder x O\n{language} x B-PER\n\n" for number in range(count))
            (place / f"{code}.{name}").write_bytes(rows.encode("latin-1" if language == "de" else "utf-8"))
    _append(place / f"{code}.train", "bad\n", bad)
    return _paths(folder, "conll", "conll", "conll")


def _mlqa(folder, languages, counts, bad):
    """The training data is SQuAD's, English alone; so a bad row stands there."""
    _questions(folder / "squad" / "train-v1.1.json", "en", counts[0], bad)
    for language in languages:
        for split, count in zip(("dev", "test"), counts[1:], strict=True):
            name = f"{split}-context-{language}-question-{language}.json"
            _questions(folder / "MLQA_V1" / split / name, language, count, False)
    return _paths(folder, "squad", "MLQA_V1", "MLQA_V1")


def _questions(path, language, count, bad):
    context = CONTEXT.format(language=language)
    rows = [(f"{language}{number}", "la porte", context.index("la porte")) for number in range(count)]
    rows += [("bad", "la porte", 0)] * bad
    items = [
        {"id": name, "question": f"Quoi {name} ?", "answers": [{"text": text, "answer_start": start}] * 2}
        for name, text, start in rows
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    tree = {"data": [{"title": "t", "paragraphs": [{"context": context, "qas": items}]}]}
    path.write_text(json.dumps(tree), encoding="utf-8")


def _append(path, text, wanted):
    if wanted:
        with path.open("a", encoding="utf-8") as file:
            file.write(text)


def _paths(folder, *names):
    return {split: str(folder / name) for split, name in zip(("train", "dev", "test"), names, strict=True)}
