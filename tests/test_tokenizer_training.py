"""Training a tokenizer, from Python and from the command line, which encodes text as well."""

import os
import pathlib
import re
import subprocess
import sys

import pytest
import sentencepiece
from etils import epath

from ernie_m_jax.tokenizer import Tokenizer, train
from tests import trained_tokenizers
from tests.trained_tokenizers import CORPUS, MODEL, ROOT, SENTENCES, SPECIALS, VOCABULARY, tokens_of

trained = trained_tokenizers.trained


@pytest.mark.parametrize("vocab_size", [500, 777, 1200])
def test_trained_vocabulary_has_the_size_asked_for(tmp_path, vocab_size):
    tokenizer = train(CORPUS, vocab_size, tmp_path)
    tokens = tokens_of(tmp_path)
    assert len(tokens) == len(set(tokens)) == vocab_size == tokenizer.vocab_size
    assert tokens[:4] == SPECIALS
    assert tokens[-1] == "[MASK]"
    processor = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / MODEL))
    assert tokens[4:-1] == [processor.id_to_piece(i) for i in range(3, processor.get_piece_size())]
    assert sorted(os.listdir(tmp_path)) == sorted([MODEL, VOCABULARY])
    assert tokenizer.encode_ids(SENTENCES[1]) == Tokenizer.load(tmp_path).encode_ids(SENTENCES[1])


def test_training_is_deterministic_whatever_the_form_of_the_input(tmp_path):
    files = [tmp_path / "a.txt", tmp_path / "b.txt"]
    files[0].write_text("\ufeff" + "\r\n".join(CORPUS[:50]) + "\n\n", encoding="utf-8", newline="")
    files[1].write_text("\n".join(CORPUS[50:]), encoding="utf-8", newline="")
    train(files, 600, tmp_path / "one")
    train(iter(CORPUS), 700, tmp_path / "two")
    train((line for line in CORPUS), 600, tmp_path / "two")  # over an earlier output
    for name in (MODEL, VOCABULARY):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_no_line_is_left_out_of_training(tmp_path):
    """Lines that SentencePiece alone would drop without a word: a NUL, its reserved character, more than 4192 bytes."""
    lines = ["ჟ\x00ჟ", "ფ\u2585ფ", "ე " * 3000, "ი\u2028ი\tი"]
    tokenizer = train([*CORPUS, *lines], 600, tmp_path, character_coverage=1.0)
    assert tokenizer.unk_id not in tokenizer.encode_ids("ჟ ფ ე ი")
    assert not any(re.search(r"[\t\r\u2028\u2585\x00]", token) for token in tokens_of(tmp_path))


def test_sizes_that_cannot_be_met_name_the_bound(tmp_path):
    for asked, pattern in (
        (100_000, r"too small for it; the largest possible is (\d+)"),
        (50, r"the smallest possible is (\d+)"),
    ):
        with pytest.raises(ValueError, match=f"vocab_size {asked}: ") as error:
            train(CORPUS, asked, tmp_path / "none")
        bound = int(re.search(pattern, str(error.value))[1])
        assert train(CORPUS, bound, tmp_path / "bound").vocab_size == bound
        with pytest.raises(ValueError, match=f"possible is {bound}"):
            train(CORPUS, bound + (1 if asked > bound else -1), tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_training_errors_leave_an_earlier_output_as_it_was(tmp_path, monkeypatch):
    output = tmp_path / "tokenizer"
    train(CORPUS, 600, output)
    earlier = {path.name: path.read_bytes() for path in output.iterdir()}
    text, latin, blank = tmp_path / "text.txt", tmp_path / "latin.txt", tmp_path / "blank.txt"
    text.write_text("\n".join(CORPUS), encoding="utf-8")
    latin.write_bytes("first\nsécond\nth\n".encode("latin-1"))
    blank.write_text(" \n\u200b\n\n")

    def broken():
        yield SENTENCES[0]
        raise KeyError("from the iterable")

    cases = [
        ([text, tmp_path / "absent.txt"], FileNotFoundError, "absent.txt: no such file"),
        ([tmp_path], IsADirectoryError, "is a directory"),
        ([text, latin], ValueError, "latin.txt, line 2: not UTF-8"),
        ([blank], ValueError, "no text to train on: .*blank.txt"),
        ([], ValueError, "no text to train on"),
        (["a", "b\ud800"], ValueError, "input line 2: lone surrogate"),
        ([SENTENCES[0], text], TypeError, "item 2"),
        ([text, SENTENCES[0]], TypeError, "item 2"),
        ([str(text)], TypeError, "is a file's name"),
        (str(text), TypeError, "must be a list of paths or an iterable of lines"),
        (broken(), KeyError, "from the iterable"),
    ]
    for inputs, error, message in cases:
        with pytest.raises(error, match=message):
            train(inputs, 600, output)
    with pytest.raises(ValueError, match="vocab_size 5: must be above 5"):
        train([text], 5, output)
    with pytest.raises(ValueError, match=r"character_coverage 0\.5: must be from 0\.98 to 1"):
        train([text], 600, output, 0.5)
    with pytest.raises(NotADirectoryError, match=r"text\.txt: not a directory"):
        train(CORPUS, 600, text)

    def full(*_):
        raise OSError("no space left on device")

    for method in ("replace", "open"):
        monkeypatch.setattr(type(epath.Path(output)), method, full)
        with pytest.raises(OSError, match="no space left"):
            train(CORPUS, 600, output)
    assert {path.name: path.read_bytes() for path in output.iterdir()} == earlier


def run(*argv: str | pathlib.Path) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "ernie_m_jax.tokenizer", *argv]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUTF8": "1"}
    return subprocess.run(command, capture_output=True, encoding="utf-8", env=environment, check=False, timeout=60)


def test_command_line(tmp_path):
    files = [tmp_path / "a.txt", tmp_path / "b.txt"]
    files[0].write_text("\n".join(CORPUS[:50]), encoding="utf-8")
    files[1].write_text("\n".join(CORPUS[50:]), encoding="utf-8")
    output = tmp_path / "new" / "tokenizer"
    done = run("train", "--input", *files, "--vocab_size", "620", "--output", output, "--character_coverage", "1")
    tokenizer = Tokenizer.load(output)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{output}: 620 tokens, fingerprint {tokenizer.fingerprint}\n"
    for style in ("ernie", "huggingface"):
        done = run("encode", "--tokenizer", output, "--style", style, *SENTENCES[9:11], "")
        expected = [Tokenizer.load(output, style).encode_single(text) for text in (*SENTENCES[9:11], "")]
        assert (done.returncode, done.stderr) == (0, "")
        assert [[int(i) for i in line.split()] for line in done.stdout.splitlines()] == expected


def test_command_line_errors_are_one_line_and_code_2(trained, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("\n".join(CORPUS), encoding="utf-8")
    for argv, message in (
        (
            ("train", "--input", tmp_path / "absent", "--vocab_size", "600", "--output", tmp_path / "o"),
            "absent: no such file",
        ),
        (("train", "--input", text, "--vocab_size", "99999", "--output", tmp_path / "o"), "the largest possible is"),
        (("encode", "--tokenizer", tmp_path / "absent", "x"), "no such file"),
        (("encode", "--tokenizer", trained, "x\udcff"), "lone surrogate"),
    ):
        done = run(*argv)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.count("\n") == 1
        assert message in done.stderr
    for argv in ((), ("train",), ("encode", "--tokenizer", trained, "--style", "paddle", "x")):
        done = run(*argv)
        assert done.returncode == 2
        assert "usage: " in done.stderr
        assert "Traceback" not in done.stderr
    assert "--character_coverage" in run("train", "--help").stdout
