"""The bundled corpora as they are published, and the command that makes them."""

import gzip
import importlib.resources
import itertools
import re

import pytest

from ernie_m_jax.config import SourceConfig
from ernie_m_jax.data import cleaning, preparation, prepare, records

DIAGNOSTICS = ("en", "cs", "de", "es", "fr", "it", "ja", "ko", "pl", "pt-br", "ru", "tr", "zh-cn", "zh-tw")
UDHR = ("en", "fr", "es", "de", "el", "bg", "ru", "tr", "ar", "vi", "th", "zh", "hi", "sw", "ur", "ja", "ko", "nl")
QUOTES = re.compile('["«»„“”「」『』‚`{}]')


def rows(name):
    path = importlib.resources.files("ernie_m_jax.data").joinpath("corpora", *name.split("/"))
    return [line.split("\t") for line in gzip.decompress(path.read_bytes()).decode().splitlines()]


@pytest.fixture(scope="module")
def diagnostics():
    """Texts by file and language."""
    found = {}
    for name in ("pairs", "mono", "dev", "test"):
        header, *table = rows(f"diagnostics/{name}.tsv.gz")
        columns = dict(zip(header, zip(*table, strict=True), strict=True))
        columns.pop("key", None)
        found[name] = columns
    return found


def test_diagnostics_hold_out_twice_200_messages_and_halve_the_others(diagnostics):
    assert {name: tuple(columns) for name, columns in diagnostics.items()} == dict.fromkeys(diagnostics, DIAGNOSTICS)
    counts = {name: {len(column) for column in columns.values()} for name, columns in diagnostics.items()}
    assert counts == {"pairs": {727}, "mono": {727}, "dev": {200}, "test": {200}}
    assert all(len(text.split()) >= 4 for name in ("dev", "test") for text in diagnostics[name]["en"])


def test_no_message_of_diagnostics_stands_in_two_files_or_twice_in_one(diagnostics):
    for language in DIAGNOSTICS:
        texts = list(itertools.chain(*(columns[language] for columns in diagnostics.values())))
        normal = {re.sub(r"[\W_]", "", text).lower() for text in texts}
        assert len(normal) == len(texts) == 1854


def test_diagnostics_hold_no_quotes_placeholders_or_code(diagnostics):
    code = re.compile(r"--\w|[<>=\\@*]|\w_\w|\b\w+\.(?:json|ts|js)\b|\(\)|\[|\b[a-z]+[A-Z]\w*")
    for columns in diagnostics.values():
        for language, texts in columns.items():
            for text in texts:
                assert text == text.strip()
                assert "  " not in text
                assert not QUOTES.search(text), text
                assert not re.search(r"(?<!\w)['’‘]|['’‘](?!\w)", text), text
                assert not code.search(text), text
                assert language == "en" or text not in columns["en"]


def test_mono_rows_are_not_aligned(diagnostics):
    # A message whose only number or name survives in both languages would stand in one row if rows were aligned.
    mono = diagnostics["mono"]
    names = ("JavaScript", "TypeScript", "JSX", "Unicode", "ECMAScript", "JSDoc")
    for language in DIAGNOSTICS[1:]:
        same = sum(any(n in a and n in b for n in names) for a, b in zip(mono["en"], mono[language], strict=True))
        pairs = zip(diagnostics["pairs"]["en"], diagnostics["pairs"][language], strict=True)
        aligned = sum(any(n in a and n in b for n in names) for a, b in pairs)
        assert aligned > 40
        assert same < 15


def test_udhr_is_complete():
    header, *table = rows("udhr/udhr18.tsv.gz")
    assert tuple(header[1:]) == UDHR
    assert len(table) == 51
    assert all(cell.strip() for row in table for cell in row)


def test_corpora_carry_licence_and_credit():
    folder = importlib.resources.files("ernie_m_jax.data").joinpath("corpora")
    assert "Apache License" in folder.joinpath("diagnostics", "LICENSE.txt").read_text()
    assert "typescript` 5.9.3" in folder.joinpath("diagnostics", "README.md").read_text()
    assert "OHCHR" in folder.joinpath("udhr", "README.md").read_text()


@pytest.mark.parametrize("name", sorted(records.CORPORA))
def test_bundled_corpora_open_by_name(name):
    source = SourceConfig(f"corpus:{name}", "auto", (), (), (), "train")
    opened = records.open_source("x", source, ("en", "ja"), "monolingual")
    assert list(opened) == ["en", "ja"]
    assert opened["ja"][0].languages == ("ja",)


@pytest.mark.parametrize(
    ("language", "published", "cleaned"),
    [
        ("en", "'{0}' modifier cannot be used with '--flag'.", "modifier cannot be used with."),
        ("en", "The parser doesn't know the users' `a 'b' c` option.", None),  # an unpaired quotation mark: unusable
        ("en", "It doesn't read the 'it's' word of a file.", "It doesn't read the word of a file."),
        ("fr", "L'option « {0} » n'est pas prise en charge.", "L'option n'est pas prise en charge."),
        ("fr", "L’option ‘strict’ n’est pas lue.", "L'option n'est pas lue."),
        ("de", "Nur in TypeScript-Dateien und in „{0}“-Feldern.", "Nur in TypeScript-Dateien und in Feldern."),
        ("de", "Die .d.ts-Dateien in tsconfig.json lesen.", "Die Dateien in lesen."),
        ("ko", "'{0}'이(가) 필요합니다 지금.", "필요합니다 지금."),
        ("ja", "'{0}' 修飾子は '{1}' 修飾子の前に。", "修飾子は修飾子の前に。"),
        ("zh-cn", "参数“{0}”不能为“{1}”。", "参数不能为。"),
        ("tr", "Burada '{0}'in sonucu var.", "Burada sonucu var."),
        ("ru", "Параметр callSite.kind, например {0}, не найден ( {1} ).", "Параметр, например, не найден."),
    ],
)
def test_cleaning_takes_out_what_gives_a_pair_away(language, published, cleaned):
    message = {"en": "A plain message of some words."} | {language: published}
    (found,) = cleaning.clean([message])
    if cleaned is None:
        assert not cleaning.usable(found)
    else:
        assert found[language] == cleaned
        assert cleaning.usable(found)


def test_cleaning_takes_out_words_that_only_another_language_quotes():
    rare = {"en": "The 'readonly' modifier is known.", "cs": "Modifikátor readonly je znám."}
    common = {"en": "The 'type' modifier is known.", "cs": "Modifikátor type je znám."}
    plain = [{"en": f"Type number {n} here.", "cs": f"Tady je type {n} teď."} for n in range(3)]
    found = cleaning.clean([rare, common, *plain])
    assert found[0]["cs"] == "Modifikátor je znám."
    assert found[1]["cs"] == "Modifikátor type je znám."  # a word of the language


def published(tmp_path, count=40):
    words = [f"{a} {b} {c} thing" for a in ("red", "old", "big", "wet") for b in ("tin", "cup") for c in "abcde"]
    table = [
        f"{n}\tThe '{{0}}' {w} is broken.\tDas {w[::-1]} „{{0}}“ ging kaputt." for n, w in enumerate(words[:count])
    ]
    table.append("900\tThe red tin a thing is broken.\tEtwas ganz anderes ist das.")  # repeats message 0 in English
    table.append("901\tOnly '{0}'.\tNur „{0}“ hier allein.")  # one English word is left
    table.append("902\tSame in both here.\tSame in both here.")
    path = tmp_path / "published.tsv.gz"
    path.write_bytes(gzip.compress("\n".join(["key\ten\tde", *table, ""]).encode()))
    return path


def read(path):
    return [line.split("\t") for line in gzip.decompress(path.read_bytes()).decode().splitlines()]


def test_prepare_diagnostics_splits_and_is_repeatable(tmp_path, capsys):
    source = published(tmp_path)
    for name in ("one", "two"):
        arguments = ["--input", str(source), "--output", str(tmp_path / name), "--held-out", "7", "--seed", "3"]
        prepare.main(["diagnostics", *arguments])
    assert "kept\t40\npairs\t13\nmono\t13\ndev\t7\ntest\t7\n" in capsys.readouterr().out
    for name in ("pairs", "mono", "dev", "test"):
        one, two = ((tmp_path / folder / f"{name}.tsv.gz").read_bytes() for folder in ("one", "two"))
        assert one == two
        assert one[4:8] == bytes(4)  # no time in the gzip header
    pairs, mono, dev, test = (read(tmp_path / "one" / f"{name}.tsv.gz") for name in ("pairs", "mono", "dev", "test"))
    assert (len(pairs), len(mono), len(dev), len(test)) == (14, 14, 8, 8)
    assert pairs[0] == dev[0] == test[0] == ["key", "en", "de"]
    assert mono[0] == ["en", "de"]
    aligned = pairs[1:] + dev[1:] + test[1:]
    english = [row[1] for row in aligned] + [row[0] for row in mono[1:]]
    assert len(set(english)) == len(english) == 40
    originals = {f"The {w} is broken.": f"Das {w[::-1]} ging kaputt." for w in (e[4:-11] for e in english)}
    assert all(originals[row[1]] == row[2] for row in aligned)
    assert sum(originals[a] == b for a, b in mono[1:]) < 6
    assert {originals[a] for a, _ in mono[1:]} == {b for _, b in mono[1:]}


def test_prepare_diagnostics_refuses_too_little_data(tmp_path):
    with pytest.raises(records.DataError, match="too few to hold out twice 60"):
        prepare.diagnostics(published(tmp_path), tmp_path / "out", held_out=60)


def test_prepare_array_record_writes_what_records_reads(tmp_path, capsys):
    arguments = ["--input", "corpus:udhr", "--kind", "parallel", "--languages", "en,ja"]
    prepare.main(["array_record", *arguments, "--output", str(tmp_path / "u.{pair}.array_record")])
    assert capsys.readouterr().out == "en-ja\t51\n"
    sources = [
        SourceConfig(path, "auto", (), (), (), "train")
        for path in ("corpus:udhr", f"{tmp_path}/u.{{pair}}.array_record")
    ]
    one, two = (records.open_source("x", source, ("en", "ja"), "parallel")["en-ja"] for source in sources)
    assert list(one) == [two[index] for index in range(len(two))]
    with pytest.raises(records.DataError, match=r"must contain \{pair\}"):
        preparation.array_record(sources[0], ("en", "ja"), "parallel", str(tmp_path / "u.array_record"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "in.tsv.gz"),
        (b"no gzip at all", "in.tsv.gz"),
        (gzip.compress(b"key\ten\n" * 9999)[:-20], "in.tsv.gz"),
        (gzip.compress(b"key\ten\n" * 9999)[:10] + b"\xff" * 50, "in.tsv.gz"),
        (gzip.compress(b"key\ten\n1\t\xff\n"), "in.tsv.gz"),
        (gzip.compress(b""), "in.tsv.gz"),
        (gzip.compress(b"key\ten\n1\n"), "in.tsv.gz:2"),
    ],
    ids=["missing", "no gzip", "cut short", "damaged", "no UTF-8", "empty", "a column too few"],
)
def test_prepare_says_in_one_line_what_is_wrong(content, message, tmp_path, capsys):
    source = tmp_path / "in.tsv.gz"
    if content is not None:
        source.write_bytes(content)
    keys = ["--kind", "monolingual", "--languages", "en", "--format", "tsv", "--output", f"{tmp_path}/{{language}}"]
    for arguments in (["diagnostics", "--output", str(tmp_path / "out")], ["array_record", *keys]):
        with pytest.raises(SystemExit) as stopped:
            prepare.main([*arguments, "--input", str(source)])
        assert stopped.value.code == 2
        shown = capsys.readouterr().err
        assert shown.startswith("error: ")
        assert message in shown
        assert shown.count("\n") == 1


@pytest.mark.parametrize(
    "changed",
    [
        {"--languages": "en,xx"},
        {"--format": "parquet"},
        {"--pairs": "en-fr"},
        {"--output": "no_place"},
        {"--output": "pyproject.toml/{pair}"},
    ],
)
def test_prepare_array_record_says_in_one_line_what_is_wrong(changed, capsys):
    keys = {"--input": "corpus:udhr", "--kind": "parallel", "--languages": "en,ja", "--output": "{pair}"} | changed
    with pytest.raises(SystemExit) as stopped:
        prepare.main(["array_record", *(part for pair in keys.items() for part in pair)])
    assert stopped.value.code == 2
    shown = capsys.readouterr().err
    assert shown.startswith("error: ")
    assert shown.count("\n") == 1
