"""Cutting text into parts: together they hold what the source holds, whatever the format and the size of a part."""

import gzip
import itertools
import json

import numpy as np
import pytest

from ernie_m_jax.config import SourceConfig
from ernie_m_jax.data import array_records, preparation_duplicates, preparation_parts, records
from ernie_m_jax.data.preparation_parts import Text
from ernie_m_jax.data.readers import DataError

LANGUAGES = ("en", "de")
LINES = {
    "en": ["\ufeffOne line.", "", "Two", "  three  words ", " ", "x", "y" * 70, "Ünïcödé 😀", "last"],
    "de": ["Eine Zeile.", "leer", "Zwei", "drei Wörter", "", "x", "z" * 30, "Ünïcödé 😀", "letzte"],
}


def write_lines(path, lines, end="\n"):
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "wb") as file:
        file.write(("\n".join(lines) + end).encode())


def write(name, folder, end="\n"):
    """Writes LINES in a format; the path as a config gives it."""
    rows = list(zip(*LINES.values(), strict=True))
    if name in ("text", "text.gz", "moses"):
        suffix = ".txt.gz" if name == "text.gz" else ".txt"
        for language in LANGUAGES:
            write_lines(folder / f"{language}{suffix}", LINES[language], end)
        return folder / f"{{language}}{suffix}"
    if name in ("tsv", "tsv.gz"):
        write_lines(folder / f"x.{name}", ["en\tde", *("\t".join(row).replace("\ufeff", "") for row in rows)], end)
    elif name == "jsonl":
        lines = [json.dumps({"en": a, "de": b}) for a, b in rows]
        write_lines(folder / "x.jsonl", [*lines[:3], "", *lines[3:]], end)
    else:
        lines = [json.dumps({"translation": {"en": a, "de": b}}).encode() for a, b in rows]
        array_records.write(str(folder / "x.array_record"), lines)
    return folder / f"x.{name}"


def text_of(path, kind, group=("en",), only=()):
    source = SourceConfig(str(path), "auto", only, (), (), "train")
    return Text(kind, group, LANGUAGES, ((f"data.{kind}.src", source),))


def texts(found):
    return [found[index].texts for index in range(len(found))]


def together(text, size, folder):
    """Texts of all parts, and how many parts there are."""
    made = list(preparation_parts.cut(text, size, str(folder)))
    found = []
    for part in made:
        with preparation_parts.opened(text, part) as opened:
            found += texts(opened)
    return found, len(made)


CASES = [
    (name, kind)
    for name in ("text", "text.gz", "moses", "tsv", "tsv.gz", "jsonl", "array_record")
    for kind in ("monolingual", "parallel")
    if (name.startswith("text"), kind) != (True, "parallel") and (name, kind) != ("moses", "monolingual")
]


@pytest.mark.parametrize("end", ["", "\n"], ids=["open", "closed"])
@pytest.mark.parametrize(("name", "kind"), CASES)
def test_parts_hold_what_the_source_holds(name, kind, end, tmp_path):
    path = write(name, tmp_path, end)
    group = LANGUAGES if kind == "parallel" else ("de",)
    text = text_of(path, kind, group)
    whole = texts(records.open_source("src", text.sources[0][1], LANGUAGES, kind)["-".join(group)])
    (tmp_path / "unpacked").mkdir()
    counts = set()
    for size in (1, 13, 40, 100, 10_000):
        found, count = together(text, size, tmp_path / "unpacked")
        assert found == whole
        counts.add(count)
    assert max(counts) >= 9
    assert min(counts) == 1


def test_blocks_may_end_anywhere(tmp_path, monkeypatch):
    text = text_of(write("moses", tmp_path), "parallel", LANGUAGES)
    whole = together(text, 10_000, tmp_path)[0]
    for block in (1, 2, 7, 31):
        monkeypatch.setattr(preparation_parts, "BLOCK", block)
        for size in (1, 20, 64):
            assert together(text, size, tmp_path)[0] == whole


def test_a_packed_file_is_cut_by_each_text_for_itself(tmp_path):
    languages = ("en", "de", "fr")
    for language, size in zip(languages, (3, 9, 20), strict=True):
        lines = [f"{row:03d}{language * (1 + row * size % 17)}" for row in range(60)]
        write_lines(tmp_path / f"x.{language}.gz", lines)
    made = []
    for kind, count, format_ in (("monolingual", 1, "text"), ("parallel", 2, "moses")):
        source = SourceConfig(f"{tmp_path}/x.{{language}}.gz", format_, (), (), (), "train")
        for group in itertools.combinations(languages, count):
            text = Text(kind, group, languages, ((f"data.{kind}.src", source),))
            whole = texts(records.open_source("src", source, languages, kind)["-".join(group)])
            made.append((text, whole, list(preparation_parts.cut(text, 200, str(tmp_path)))))
    for text, whole, parts in made:  # only now, when all are cut
        found = []
        for part in parts:
            with preparation_parts.opened(text, part) as opened:
                found += texts(opened)
        assert found == whole


def test_a_part_with_other_lines_than_before_is_told(tmp_path):
    text = text_of(write("moses", tmp_path), "parallel", LANGUAGES)
    (part,) = preparation_parts.cut(text, 10_000, str(tmp_path))
    content = (tmp_path / "de.txt").read_bytes()
    (tmp_path / "de.txt").write_bytes(content.replace(b"leer", b"le\nr"))
    with (
        pytest.raises(DataError, match=r"^source 'data.parallel.src': .*/de.txt: it has other lines than before; it"),
        preparation_parts.opened(text, part),
    ):
        pass


@pytest.mark.parametrize("columns", [(), ("en", "de")], ids=["text", "tsv"])
def test_a_byte_order_mark_within_the_text_stays(columns, tmp_path):
    lines = ["\ufeffone", "\ufefftwo", "three", "\ufefffour"]
    path = tmp_path / ("x.tsv" if columns else "x.txt")
    write_lines(path, [f"{line}\t{line}" if columns else line for line in lines])
    source = SourceConfig(str(path), "auto", ("en",), (), columns, "train")
    text = Text("monolingual", ("en",), LANGUAGES, (("data.monolingual.src", source),))
    whole = texts(records.open_source("src", source, LANGUAGES, "monolingual")["en"])
    assert together(text, 1, tmp_path) == (whole, 4)
    assert whole == [("one",), ("\ufefftwo",), ("three",), ("\ufefffour",)]


@pytest.mark.parametrize(("name", "kind"), [("text", "monolingual"), ("moses", "parallel"), ("tsv", "monolingual")])
def test_a_bad_byte_is_told_with_its_own_line(name, kind, tmp_path):
    path = str(write(name, tmp_path)).replace("{language}", "en")
    with open(path, "rb") as file:
        lines = file.read().split(b"\n")
    with open(path, "wb") as file:
        file.write(b"\n".join([*lines[:7], b"caf\xe9" + lines[7], *lines[8:]]))
    text = text_of(path.replace("en.txt", "{language}.txt"), kind, LANGUAGES if kind == "parallel" else ("en",))
    for size in (10, 10_000):
        with pytest.raises(DataError, match=rf"^source 'data\.{kind}\.src': {path}:8: invalid UTF-8 \("):
            together(text, size, tmp_path)


def test_what_cannot_be_cut_is_refused(tmp_path):
    write("moses", tmp_path)
    with open(tmp_path / "de.txt", "ab") as file:
        file.write(b"one more\n")
    pairs = text_of(tmp_path / "{language}.txt", "parallel", LANGUAGES)
    with pytest.raises(DataError, match=r"unequal sides: .*en.txt has 9 lines, .*de.txt has 10"):
        together(pairs, 10, tmp_path)
    (tmp_path / "empty.txt").touch()
    (tmp_path / "x.txt.gz").write_bytes(b"no gzip\n")
    for name, message in {
        "empty.txt": "the file is empty",
        "none.txt": "no such file",
        "x.txt.gz": "cannot be read: Not a gzipped file",
    }.items():
        with pytest.raises(DataError, match=rf"^source 'data.monolingual.src': .*/{name}: {message}"):
            together(text_of(tmp_path / name, "monolingual", only=("en",)), 10, tmp_path)
    with pytest.raises(DataError, match="text is one file per language"):
        together(text_of(tmp_path / "x.txt", "monolingual"), 10, tmp_path)


class Given:
    """Records of given texts."""

    def __init__(self, texts):
        self.texts = texts

    def __len__(self):
        return len(self.texts)

    def __getitem__(self, index):
        return records.Record(self.texts[index], ("en", "de"))


@pytest.mark.parametrize("ranges", [1, 3, 16])
def test_the_first_of_equal_records_is_kept(ranges, tmp_path):
    rng = np.random.default_rng(0)
    many = [(f"a{number}", f"b{number % 7}") for number in rng.integers(0, 300, 1000)]
    many[500] = ("a1b", "")  # blank
    given = [many[:10], many[10:10], many[10:600], many[600:]]
    seen, expected, left = set(), [], 0
    for part in given:
        dropped = []
        for row, pair in enumerate(part):
            if not all(pair) or pair in seen:
                dropped.append(row)
            else:
                left += sum(map(len, pair))
            seen.add(pair)
        expected.append(dropped)
    for number, part in enumerate(given):
        preparation_duplicates.write(str(tmp_path / str(number)), preparation_duplicates.digests(Given(part)))
    found, size = [[] for _ in given], 0
    edges = np.linspace(0, preparation_duplicates.BUCKETS, ranges + 1).astype(int)
    for first, end in itertools.pairwise(edges):
        tables = [preparation_duplicates.read(str(tmp_path / str(number)), first, end) for number in range(4)]
        rows, kept = preparation_duplicates.repeated(tables)
        preparation_duplicates.write_rows(str(tmp_path / "rows"), rows)
        for number in range(4):
            found[number] += preparation_duplicates.read_rows(str(tmp_path / "rows"), 4, number).tolist()
        size += kept
    assert [sorted(rows) for rows in found] == expected
    assert size == left


def test_texts_that_join_to_the_same_are_not_the_same():
    table = preparation_duplicates.digests(Given([("ab", "c"), ("a", "bc"), ("ab", "c")]))
    rows, _ = preparation_duplicates.repeated([table])
    assert [row.tolist() for row in rows] == [[2]]
    rows, _ = preparation_duplicates.repeated([table], same=False)
    assert [row.tolist() for row in rows] == [[]]
