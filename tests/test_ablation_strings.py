"""The study's corpus of translated strings: what is cleaned and dropped, and that nothing leaks between its parts."""

import gzip
import json
import pathlib
import zipfile

import pytest

from benchmarks import ablation_corpus
from benchmarks.ablation_corpus import ablation_strings

LANGUAGES = ("en", "de", "zh")
WORDS = ("alpha", "beta", "gamma", "delta", "kappa", "omega", "sigma", "theta")


def named(number, prefix):
    """A sentence like no other."""
    return " ".join(f"{prefix}{WORDS[number // 8**place % 8]}{'klmn'[place]}{'x' * (number % 8)}" for place in range(4))


def strings():
    """component -> key -> texts in the languages."""
    made = {
        f"part{component:02d}": {
            f"step.key{key}": [named(64 * component + key, prefix) for prefix in ("e", "d", "z")] for key in range(4)
        }
        for component in range(20)
    }
    first = made["part00"]
    made["part01"]["step.again"] = ["Eine ganz andere Quelle", first["step.key0"][1], "zzz"]  # German that stands there
    made["part02"]["step.number"] = ["Value of sensor 1 now", "Wert eins", "zeins"]
    made["part03"]["step.number"] = ["Value of sensor 2 now!", "Zweiter Wert", "zzwei"]  # the same without the digits
    made["part04"]["near.one"] = ["Connect the red cable to port one", "Rotes Kabel", "zrot"]
    made["part05"]["near.two"] = ["Connect the red cable to port two", "Kabel, das rot ist", "zkabel"]  # 6 of 8 words
    made["part06"]["step.short"] = ["Only three words", "Nur drei Woerter", "zdrei"]
    made["part06"]["step.same"] = ["Not translated at all", "Not translated at all", "zkein"]
    made["part07"]["step.clean"] = [
        "Set up {name} `code` [here](http://x.y) now **please**",
        "Richte {name} ein",
        "z好",
    ]
    return made


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """A wheel with translations like the real one's."""
    path = tmp_path_factory.mktemp("wheel") / "some.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for component, keys in strings().items():
            for place, language in enumerate(LANGUAGES):
                tree = {}
                for key, texts in keys.items():
                    group, name = key.split(".")
                    tree.setdefault(group, {})[name] = texts[place]
                code = ablation_strings.CODES[language]
                archive.writestr(f"homeassistant/components/{component}/translations/{code}.json", json.dumps(tree))
        archive.writestr("homeassistant/components/part00/translations/sensor.en.json", json.dumps({"a": {"b": "no"}}))
    return path


def test_strings_are_cleaned_and_each_counts_once(wheel):
    rows = ablation_strings.read(wheel, LANGUAGES)
    assert rows["part07", "step.clean"]["en"] == "Set up here now please"
    assert ("part02", "step.number") in rows
    for place in (("part01", "step.again"), ("part03", "step.number"), ("part05", "near.two")):
        assert place not in rows
    assert not {("part06", "step.short"), ("part06", "step.same")} & set(rows)


def lines(path):
    data = path.read_bytes()
    return (gzip.decompress(data) if path.suffix == ".gz" else data).decode().splitlines()


def test_no_string_stands_in_two_parts_of_the_corpus(wheel, tmp_path):
    built = [
        ablation_corpus.build("strings", wheel, tmp_path / name, LANGUAGES, (0.3,), seed=3, size=0) for name in "ab"
    ]
    assert built[0] == built[1]
    files = [path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*.*") if path.is_file()]
    assert all((tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes() for file in files)
    corpus = tmp_path / "a"
    rows = {tuple(texts.values()): place for place, texts in ablation_strings.read(wheel, LANGUAGES).items()}
    parts: dict[str, set[tuple]] = {
        name: {rows[tuple(line.split("\t"))] for line in lines(corpus / file)[1:]}
        for name, file in (("dev", "dev.tsv"), ("test", "test.tsv"), ("pairs", "pairs-30/pairs.tsv.gz"))
    }
    places = {
        (language, text): place
        for texts, place in rows.items()
        for language, text in zip(LANGUAGES, texts, strict=True)
    }
    for language in LANGUAGES:
        text = pathlib.Path("pairs-30") / "text" / f"{language}.txt.gz"
        parts[language] = {places[language, line] for line in lines(corpus / text)}
    assert sum(map(len, parts.values())) == len(set.union(*parts.values())) == len(rows)
    components = {name: {component for component, _ in found} for name, found in parts.items() if name != "pairs"}
    assert sum(map(len, components.values())) == len(set.union(*components.values()))
    assert len(components["dev"]) == len(components["test"]) == 2  # of 20
