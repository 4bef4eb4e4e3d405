"""A tokenizer's files: how they are read, which are refused, and the fingerprint that tells them apart."""

import hashlib
import pickle
import re

import pytest
import sentencepiece

from ernie_m_jax.tokenizer import Tokenizer
from tests import trained_tokenizers
from tests.trained_tokenizers import CORPUS, MODEL, SENTENCES, SPECIALS, VOCABULARY, tokens_of, write

hand_made = trained_tokenizers.hand_made
trained = trained_tokenizers.trained


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_vocabulary_lines_may_carry_their_id(hand_made, tmp_path, ending):
    lines = [f"{token}\t{i}" for i, token in enumerate(tokens_of(hand_made))]
    directory = write(tmp_path, (hand_made / MODEL).read_bytes(), [])
    (directory / VOCABULARY).write_bytes(ending.join(lines).encode())
    assert Tokenizer.load(directory).encode_ids("The 200, 語") == Tokenizer.load(hand_made).encode_ids("The 200, 語")


def test_fingerprint_and_pickle(trained, tmp_path):
    tokenizer = Tokenizer.load(trained)
    assert re.fullmatch("[0-9a-f]{64}", tokenizer.fingerprint)
    assert Tokenizer.load(str(trained)).fingerprint == tokenizer.fingerprint
    assert Tokenizer.load(trained, "huggingface").fingerprint != tokenizer.fingerprint
    model, tokens = (trained / MODEL).read_bytes(), tokens_of(trained)
    tokens[10], tokens[11] = tokens[11], tokens[10]
    assert Tokenizer.load(write(tmp_path, model, tokens)).fingerprint != tokenizer.fingerprint
    copy = pickle.loads(pickle.dumps(Tokenizer.load(trained, "huggingface")))
    assert (copy.style, copy.fingerprint) == ("huggingface", Tokenizer.load(trained, "huggingface").fingerprint)
    assert copy.encode(SENTENCES[10]) == Tokenizer.load(trained, "huggingface").encode(SENTENCES[10])


def test_known_digest_construction(trained):
    """The fingerprint covers both files' bytes with their lengths, and the style."""
    model, vocabulary = (trained / MODEL).read_bytes(), (trained / VOCABULARY).read_bytes()
    sizes = f"{len(model)} {len(vocabulary)} ".encode()
    assert Tokenizer.load(trained).fingerprint == hashlib.sha256(sizes + model + vocabulary + b"ernie").hexdigest()


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (
            ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "a", "[MASK]"],
            r"\[CLS\] must be on line 1 and on no other; it is on line 2",
        ),
        ([*SPECIALS, "[MASK]", "a"], r"\[MASK\] must be on line 6 and on no other; it is on line 5"),
        ([*SPECIALS, "a"], r"\[MASK\] must be on line 5 and on no other; it is missing"),
        ([*SPECIALS, "[SEP]", "[MASK]"], r"\[SEP\] must be on line 3 and on no other; it is on line 5"),
        ([*SPECIALS, "a\t7", "[MASK]"], "line 5: id '7'; must be the line counted from 0, 4"),
        ([], "it is missing"),
    ],
)
def test_a_wrong_vocabulary_is_refused(trained, tmp_path, tokens, message):
    write(tmp_path, (trained / MODEL).read_bytes(), tokens)
    with pytest.raises(ValueError, match=message) as error:
        Tokenizer.load(tmp_path)
    assert str(tmp_path) in str(error.value)


def test_other_load_errors(trained, tmp_path):
    with pytest.raises(ValueError, match="style 'paddle': must be one of ernie, huggingface"):
        Tokenizer.load(trained, "paddle")
    with pytest.raises(FileNotFoundError, match=r"sentencepiece\.bpe\.model: no such file"):
        Tokenizer.load(tmp_path)
    (tmp_path / MODEL).write_bytes((trained / MODEL).read_bytes()[:5000])
    with pytest.raises(FileNotFoundError, match=r"vocab\.txt: no such file"):
        Tokenizer.load(tmp_path)
    (tmp_path / VOCABULARY).write_bytes((trained / VOCABULARY).read_bytes())
    with pytest.raises(ValueError, match=r"sentencepiece\.bpe\.model: not a SentencePiece model"):
        Tokenizer.load(tmp_path)
    (tmp_path / MODEL).write_bytes(b"")
    with pytest.raises(ValueError, match=r"sentencepiece\.bpe\.model: not a SentencePiece model"):
        Tokenizer.load(tmp_path)
    (tmp_path / VOCABULARY).write_bytes(b"[CLS]\n[PAD]\n\xff\n")
    with pytest.raises(ValueError, match=r"vocab\.txt, line 3: not UTF-8"):
        Tokenizer.load(tmp_path)


def test_byte_fallback_is_refused(trained, tmp_path):
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS),
        model_prefix=str(tmp_path / "byte"),
        vocab_size=700,
        byte_fallback=True,
        minloglevel=2,
    )
    write(tmp_path, (tmp_path / "byte.model").read_bytes(), tokens_of(trained))
    with pytest.raises(ValueError, match="byte_fallback"):
        Tokenizer.load(tmp_path)
