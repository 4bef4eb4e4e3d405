"""Small files in the official formats of XNLI and PAWS-X, whose labels can be told from their words."""

import numpy as np

XNLI_HEADER = (
    *("language", "gold_label", "sentence1_binary_parse", "sentence2_binary_parse", "sentence1_parse"),
    *("sentence2_parse", "sentence1", "sentence2", "promptID", "pairID", "genre", "label1", "label2", "label3"),
    *("label4", "label5", "sentence1_tokenized", "sentence2_tokenized", "match"),
)
NLI = ("neutral", "contradiction", "entailment")  # XNLI's own order
PAWS = ("0", "1")
WORDS = {
    "en": ("the file", "a class", "this type", "one name", "is not", "has no", "may be", "of the"),
    "de": ("die Datei", "eine Klasse", "dieser Typ", "ein Name", "ist nicht", "hat kein", "kann", "von"),
    "fr": ("le fichier", "une classe", "ce type", "un nom", "n'est pas", "n'a pas", "peut", "de la"),
}
MARKS = ("not", "file", "name")


def pairs(language, count, labels, seed=0):
    """(sentence, sentence, label) of each pair; the second sentence begins with a word that tells the label."""
    rng = np.random.default_rng((seed, len(labels), count))  # the same labels in every language
    made = []
    for _ in range(count):
        label = int(rng.integers(len(labels)))
        first, second = (" ".join(rng.choice(WORDS[language], rng.integers(1, 4))) for _ in range(2))
        made.append((first, f"{MARKS[label]} {second}", labels[label]))
    return made


def table(path, *rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join("\t".join(row) + "\n" for row in rows), encoding="utf-8")


def xnli_row(language, number, first, second, label):
    cells = {"language": language, "gold_label": label, "sentence1": first, "sentence2": second, "pairID": str(number)}
    return [cells.get(name, "x") for name in XNLI_HEADER]


def write_xnli(folder, languages, train, dev, test):
    """XNLI-1.0 and XNLI-MT-1.0, with as many pairs of each split in each language."""
    for split, count, seed in (("dev", dev, 1), ("test", test, 2)):
        rows = [
            xnli_row(language, number, *pair)
            for language in languages
            for number, pair in enumerate(pairs(language, count, NLI, seed), 1)
        ]
        table(folder / "XNLI-1.0" / f"xnli.{split}.tsv", XNLI_HEADER, *rows)
    for language in languages:
        rows = [
            (first, second, label.replace("contradiction", "contradictory"))
            for first, second, label in pairs(language, train, NLI)
        ]
        path = folder / "XNLI-MT-1.0" / "multinli" / f"multinli.train.{language}.tsv"
        table(path, ("premise", "hypo", "label"), *rows)


def write_pawsx(folder, languages, train, dev, test):
    """The folder x-final."""
    for language in languages:
        names = {"train" if language == "en" else "translated_train": train, "dev_2k": dev, "test_2k": test}
        for seed, (name, count) in enumerate(names.items()):
            rows = [(str(number), *pair) for number, pair in enumerate(pairs(language, count, PAWS, seed), 1)]
            table(folder / "x-final" / language / f"{name}.tsv", ("id", "sentence1", "sentence2", "label"), *rows)


def labels(language, count, names, seed):
    return [label for *_, label in pairs(language, count, names, seed)]
