"""The study's corpus of compiler messages: read from the package, held out as the bundled corpus is."""

import io
import json
import tarfile

import pytest

from benchmarks import ablation_corpus
from benchmarks.ablation_corpus import ablation_messages
from ernie_m_jax.data import prepare

LANGUAGES = ("en", "de", "fr")
SPECIAL = {
    9001: (r"A \"quoted\" word is taken out.", "Ein Wort „quoted“ geht hinaus.", "Un mot sort."),
    9002: ("Not in every language of it.", "Nicht in jeder Sprache davon.", None),
}


def messages():
    words = [f"{a} {b} {c} thing" for a in ("red", "old", "big", "wet", "new") for b in ("tin", "cup") for c in "vwxyz"]
    made = {2000 + n: (f"The {w} is broken.", f"Das {w[::-1]} ging kaputt.", f"{w} est en panne.")
            for n, w in enumerate(words)}  # fmt: skip
    return made | SPECIAL


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """A package with messages like the real one's."""
    path = tmp_path_factory.mktemp("package") / "typescript-0.tgz"
    found = messages()
    code = "".join(f'  N{key}: diag({key}, 1 /* Error */, "N_{key}", "{texts[0]}"),\n' for key, texts in found.items())
    files = {"lib/typescript.js": code, "package.json": "{}"}
    for place, language in enumerate(LANGUAGES[1:], 1):
        table = {f"N_{key}": texts[place] for key, texts in found.items() if texts[place]}
        files[f"lib/{language}/diagnosticMessages.generated.json"] = json.dumps(table)
    with tarfile.open(path, "w:gz") as archive:
        for name, text in files.items():
            member = tarfile.TarInfo(f"package/{name}")
            member.size = len(text.encode())
            archive.addfile(member, io.BytesIO(text.encode()))
    return path


def test_messages_that_every_language_has_are_read_and_cleaned(package):
    rows = ablation_messages.read(package, LANGUAGES)
    assert len(rows) == 51
    assert rows["9001", 0] == {"en": "A word is taken out.", "de": "Ein Wort geht hinaus.", "fr": "Un mot sort."}
    assert ("9002", 0) not in rows
    assert list(ablation_messages.read(package, ("en", "fr"))["2000", 0]) == ["en", "fr"]


def test_a_language_that_the_package_lacks_is_refused(package):
    with pytest.raises(SystemExit, match="has no it; it has en de fr"):
        ablation_messages.read(package, ("en", "it"))


def test_without_english_there_is_nothing_to_hold_out_by(package):
    with pytest.raises(SystemExit, match="en comes first"):
        ablation_messages.read(package, ("de", "fr"))


def test_what_is_held_out_is_what_the_bundled_corpus_holds_out(package, monkeypatch, tmp_path):
    monkeypatch.setattr(prepare.split, "__defaults__", (10, prepare.SEED))
    rows = ablation_messages.read(package, LANGUAGES)
    found, training = ablation_messages.held_out(rows, seed=5)
    chosen = prepare.split({place[0]: texts for place, texts in rows.items()}, 10)
    for name in ("dev", "test"):
        assert {text["en"] for text in found[name]} == {rows[number, 0]["en"] for number in chosen[name]}
        assert len(found[name]) == 10
    assert {place[0] for place in training} == {*chosen["pairs"], *chosen["mono"]}
    built = ablation_corpus.build("messages", package, tmp_path, LANGUAGES, (0.5, 0.2), seed=0, size=0)
    assert {name: built[name]["pairs"] for name in ("pairs-50", "pairs-20")} == {"pairs-50": 15, "pairs-20": 6}
    for share in ("pairs-50", "pairs-20"):
        assert (tmp_path / share / "translations" / "de.tsv.gz").exists()
    train = (tmp_path / "labelled" / "train.tsv").read_text("utf-8").splitlines()
    assert train[0] == "label\ten\tde\tfr"
    assert sorted({line.split("\t")[0] for line in train[1:]}) == ["2", "9"]
    assert len(train) == 1 + len(training)
