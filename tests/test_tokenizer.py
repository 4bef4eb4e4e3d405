"""Text to ids and back: both published behaviours, special tokens, pairs, truncation, decoding.

The expected pieces of style "huggingface" were checked against ErnieMTokenizer of transformers 4.57.6.
"""

import pathlib

import pytest

from ernie_m_jax.tokenizer import Tokenizer
from tests import sentencepiece_models, trained_tokenizers
from tests.trained_tokenizers import MODEL, SENTENCES, tokens_of, write

hand_made = trained_tokenizers.hand_made
trained = trained_tokenizers.trained


def pieces(directory: pathlib.Path, style: str, text: str) -> list[str]:
    tokens = tokens_of(directory)
    return [tokens[i] for i in Tokenizer.load(directory, style).encode_ids(text)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The 15", "▁The ▁15"),
        # A piece that ends in digit + comma is encoded anew without it: the new "▁" stays, as in the published code.
        ("The 200,", "▁The ▁200 ,"),
        ("x15,", "▁x ▁15 ,"),
        ("x,", "▁x ,"),
        ("b,", "▁b,"),
        # Nothing else is cut, and a bare "▁" is kept wherever SentencePiece gives one.
        ("東京2020年", "▁ 東京2020年"),
        ("The 第15条", "▁The ▁ 第15条"),
        ("a1b", "▁ a1b"),
        ("c2 d", "▁ c2▁d"),
        # Cleaning: before SentencePiece, so that "x\u200d15" is as "x15".
        ("The\u00a015\u3000in\t15", "▁The ▁15 ▁in ▁15"),
        ("The\u168015", "▁The ▁15"),  # NFKC alone leaves this space as it is
        ("T\u00adh\x00e 1\u200b5", "▁The ▁15"),
    ],
)
def test_ernie_style(hand_made, text, expected):
    assert pieces(hand_made, "ernie", text) == expected.split()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The 15", "▁The 15"),
        ("The 200,", "▁The 200 ,"),
        ("x15,", "▁x 15 ,"),
        ("東京2020年", "東 京 2020 年"),
        ("第15条", "第 15 条"),
        ("The 第15条", "▁The ▁ 第 15 条"),
        ("x 東d", "▁x ▁ 東 d"),
        ("a1b", "[UNK] 1 b"),
        ("b,", "[UNK] ,"),
        ("in ab!", "▁in ▁ab !"),
        ("in，。", "▁in , 。"),
        ("x ,", "▁x ,"),
        ("x 年", "▁x ▁ 年"),
        ("c2 d", "c [UNK]"),
        ("3 年", "3▁ 年"),
        ("\u200b15", "[UNK] 15"),
    ],
)
def test_huggingface_style(hand_made, text, expected):
    assert pieces(hand_made, "huggingface", text) == expected.split()


def test_a_bare_space_piece_may_be_last(hand_made, tmp_path):
    """Only a model that keeps white space at the end gives one; transformers' class raises IndexError there."""
    proto = sentencepiece_models.read(hand_made / MODEL)
    proto.normalizer_spec.remove_extra_whitespaces = False
    directory = write(tmp_path, proto.SerializeToString(), tokens_of(hand_made))
    assert pieces(directory, "huggingface", "The 15 ") == ["▁The", "15", "▁"]
    assert pieces(directory, "huggingface", "The  15 ") == ["▁The", "15", "▁"]
    assert Tokenizer.load(directory, "huggingface").encode("The  15 ").offsets == [(0, 3), (5, 7), (7, 8)]
    assert pieces(directory, "ernie", "The  15 ") == ["▁The", "▁", "▁15", "▁"]


def test_cleaning_maps_quotes_and_dashes_in_ernie_style_only(trained):
    ernie, huggingface = Tokenizer.load(trained), Tokenizer.load(trained, "huggingface")
    assert ernie.encode_ids("“a” — ‘b’") == ernie.encode_ids("\"a\" - 'b'")
    assert huggingface.encode_ids("“a” — ‘b’") != huggingface.encode_ids("\"a\" - 'b'")
    assert huggingface.unk_id not in huggingface.encode_ids("“Quoted” words — with ‘dashes’")


def test_ids_are_the_vocabularys_lines_and_unknown_pieces_are_unk(hand_made):
    tokenizer, tokens = Tokenizer.load(hand_made), tokens_of(hand_made)
    assert tokenizer.encode_ids("The 15") == [tokens.index("▁The"), tokens.index("▁15")]
    assert tokenizer.encode_ids("xa") == [tokens.index("▁x"), 3]  # "a" is a piece of the model, but not in vocab.txt
    assert tokenizer.encode_ids("x語") == [tokens.index("▁x"), 3]  # "語" is not even a piece
    assert (tokenizer.cls_id, tokenizer.pad_id, tokenizer.sep_id, tokenizer.unk_id) == (0, 1, 2, 3)
    assert tokenizer.mask_id == len(tokens) - 1 == tokenizer.vocab_size - 1


@pytest.mark.parametrize("style", ["ernie", "huggingface"])
def test_special_names_in_text_are_text(trained, style):
    tokenizer = Tokenizer.load(trained, style)
    ids = tokenizer.encode_ids("[CLS] [PAD] [SEP] [MASK] <s> </s>")
    assert not {tokenizer.cls_id, tokenizer.pad_id, tokenizer.sep_id, tokenizer.mask_id} & set(ids)


@pytest.mark.parametrize(
    ("style", "text"),
    # Without cleaning a line feed is a character like others.
    [("ernie", ""), ("ernie", " "), ("ernie", "\n\t \u3000"), ("huggingface", ""), ("huggingface", " \u3000")],
)
def test_no_text_has_no_ids(trained, style, text):
    tokenizer = Tokenizer.load(trained, style)
    assert tokenizer.encode(text) == ([], [])
    assert tokenizer.encode_single(text) == [0, 2]
    assert tokenizer.encode_pair(text, text) == [0, 2, 2, 2]


@pytest.mark.parametrize("method", ["encode", "encode_ids", "encode_single"])
def test_a_lone_surrogate_is_refused(trained, method):
    with pytest.raises(ValueError, match=r"lone surrogate, U\+D83D at character 3"):
        getattr(Tokenizer.load(trained), method)("abc\ud83d\ude00")


def test_single_and_pair(trained):
    tokenizer = Tokenizer.load(trained)
    a, b = tokenizer.encode_ids(SENTENCES[0]), tokenizer.encode_ids(SENTENCES[3])
    assert tokenizer.encode_single(SENTENCES[0]) == [0, *a, 2]
    assert tokenizer.encode_single(SENTENCES[0], 7) == [0, *a[:5], 2]
    assert tokenizer.encode_single(SENTENCES[0], 2) == [0, 2]
    assert tokenizer.encode_pair(SENTENCES[0], SENTENCES[3]) == [0, *a, 2, 2, *b, 2]
    with pytest.raises(ValueError, match="max_length 1: must be at least 2"):
        tokenizer.encode_single("x", 1)
    with pytest.raises(ValueError, match="max_length 3: must be at least 4"):
        tokenizer.encode_pair("x", "x", 3)


@pytest.mark.parametrize(("first", "second"), [(0, 0), (0, 1), (3, 12), (12, 0), (13, 2)])
def test_pair_truncation_takes_from_the_longer(trained, first, second):
    tokenizer = Tokenizer.load(trained)
    a, b = tokenizer.encode_ids(SENTENCES[first]), tokenizer.encode_ids(SENTENCES[second])
    for max_length in range(len(a) + len(b) + 6, 3, -1):
        while len(a) + len(b) + 4 > max_length:
            (a if len(a) > len(b) else b).pop()
        assert tokenizer.encode_pair(SENTENCES[first], SENTENCES[second], max_length) == [0, *a, 2, 2, *b, 2]


@pytest.mark.parametrize("style", ["ernie", "huggingface"])
def test_decode(trained, style):
    tokenizer = Tokenizer.load(trained, style)
    for text in SENTENCES[:6]:
        assert Tokenizer.load(trained).decode(Tokenizer.load(trained).encode_single(text)) == text
    ids = [0, *tokenizer.encode_ids("equal rights"), tokenizer.mask_id, 3, 2, 1]
    assert tokenizer.decode(ids) == "equal rights[UNK]"
    assert tokenizer.decode(ids, skip_specials=False) == "[CLS] equal rights[MASK][UNK][SEP][PAD]"
    assert tokenizer.decode([]) == ""
    for index in (-1, tokenizer.vocab_size):
        with pytest.raises(ValueError, match=rf"id {index}: must be in \[0, 700\)"):
            tokenizer.decode([index])
