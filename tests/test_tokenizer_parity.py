"""Every style of tokenizer against recorded ids: lines, pairs, special tokens, offsets, decoding."""

import collections
import json
import unicodedata

import numpy as np
import pytest

from ernie_m_jax.tokenizer import STYLES
from tests.golden_tokenizers import BERT_SETTINGS, FIXTURE, SPECIALS, assert_same, load, recorded, texts, tokenizer_of


def test_the_fixture_has_5000_lines_in_18_scripts():
    scripts = collections.Counter()
    for _, line in texts()["lines"]:
        letters = [character for character in line if character.isalpha()]
        scripts.update([collections.Counter(unicodedata.name(c).split()[0] for c in letters).most_common(1)[0][0]])
    assert sum(scripts.values()) >= 5000
    assert sum(count >= 20 for count in scripts.values()) >= 18
    with np.load(FIXTURE / "lines.npz") as arrays:
        assert (arrays["lengths"][:, :5] > 0).all()  # the five styles: all recorded, and no empty one


@pytest.mark.parametrize("style", STYLES)
def test_ids_of_the_lines(style):
    tokenizer, expected = load(style), recorded("lines.npz", style)
    assert assert_same(tokenizer, [line for _, line in texts()["lines"]], expected) >= 5000
    unknown = np.mean(np.concatenate(expected) == tokenizer.unk_id)
    assert 0 < unknown < 0.1  # both what is known and what is not


@pytest.mark.parametrize("style", STYLES)
def test_ids_of_nasty_text(style):
    assert assert_same(load(style), texts()["nasty"], recorded("nasty.npz", style)) > 450


@pytest.mark.parametrize(
    "case",
    [*(f"bert:{name}" for name in BERT_SETTINGS), "xlm:cased", "xlm:fr", "xlm:de", "xlm:ro", "xlm:ru"],
)
def test_ids_with_other_settings(tmp_path, case):
    tokenizer = tokenizer_of(case, tmp_path)
    assert assert_same(tokenizer, [line for _, line in texts()["lines"]], recorded("lines.npz", case)) > 600
    assert_same(tokenizer, texts()["nasty"], recorded("nasty.npz", case))
    plain = recorded("nasty.npz", case.partition(":")[0])
    assert recorded("nasty.npz", case) != plain  # the setting does something


@pytest.mark.parametrize("style", STYLES)
def test_singles_and_pairs_with_truncation(style):
    with np.load(FIXTURE / "truncated.npz") as arrays:
        pairs = json.loads(str(arrays["texts"]))
        single_lengths, pair_lengths = arrays["single_lengths"].tolist(), arrays["pair_lengths"].tolist()
    tokenizer, expected = load(style), iter(recorded("truncated.npz", style))
    cut = 0
    for first, second in pairs:
        for length in single_lengths:
            ids = tokenizer.encode_single(first, length)
            assert ids == next(expected), (first, length)
            assert len(ids) <= length
        for length in pair_lengths:
            ids = tokenizer.encode_pair(first, second, length or None)
            assert ids == next(expected), (first, second, length)
            cut += len(ids) == length
    assert next(expected, None) is None
    assert cut > 200


@pytest.mark.parametrize("style", STYLES)
def test_special_tokens(style):
    tokenizer, specials = load(style), SPECIALS[style]
    assert tokenizer.style == style
    found = [tokenizer.cls_id, tokenizer.pad_id, tokenizer.sep_id, tokenizer.unk_id, tokenizer.mask_id]
    assert found == list(specials.values())
    assert tokenizer.special_tokens == specials
    assert list(tokenizer.special_tokens.values()) == sorted(specials.values())
    ids = tokenizer.encode_ids(" ".join(name for name in specials if name != "<unk>"))
    assert not {tokenizer.cls_id, tokenizer.pad_id, tokenizer.sep_id, tokenizer.mask_id} & set(ids)
    assert tokenizer.vocab_size > max(max(row) for row in recorded("lines.npz", style))
    least = len(tokenizer.encode_pair("", ""))
    assert least == (3 if style in ("bert", "xlm") else 4)
    with pytest.raises(ValueError, match=f"max_length {least - 1}: must be at least {least}"):
        tokenizer.encode_pair("x", "x", least - 1)


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("method", ["encode_ids", "encode_single", "encode_pair", "encode"])
def test_a_lone_surrogate_is_refused(style, method):
    texts_of = ("fine", "abc\ud83d\ude00") if method == "encode_pair" else ("abc\ud83d\ude00",)
    with pytest.raises(
        ValueError, match="no offsets" if (style, method) == ("xlm", "encode") else r"U\+D83D at character 3"
    ):
        getattr(load(style), method)(*texts_of)


@pytest.mark.parametrize("case", ["xlm-roberta", "bert", "bert:uncased", "bert:stripped"])
def test_offsets(tmp_path, case):
    """Each id's span holds its piece, whatever was dropped, composed or lowered on the way."""
    tokenizer, checked = tokenizer_of(case, tmp_path), 0
    form = "NFKC" if case == "xlm-roberta" else "NFD"
    for text in [line for _, line in texts()["lines"][::20]] + texts()["nasty"]:
        ids, offsets = tokenizer.encode(text[:500])
        assert ids == tokenizer.encode_ids(text[:500])
        assert len(ids) == len(offsets)
        assert all(0 <= start <= end <= len(text) for start, end in offsets)
        assert [start for start, _ in offsets] == sorted(start for start, _ in offsets)
        for index, (start, end) in zip(ids, offsets, strict=True):
            piece = tokenizer.decode([index], skip_specials=False).removeprefix("##").strip()
            if index == tokenizer.unk_id or not piece:
                continue
            found = "".join(c for c in text[start:end] if unicodedata.category(c) not in ("Cc", "Cf"))
            found, piece = unicodedata.normalize(form, found), unicodedata.normalize(form, piece)
            if case in ("bert:uncased", "bert:stripped"):
                found = "".join(c for c in found if unicodedata.category(c) != "Mn")
            if case == "bert:uncased":
                found = found.lower().replace("ς", "σ")
                piece = piece.replace("ς", "σ")
            assert piece in found, (text, piece, found)
            checked += piece == found
    assert checked > 9000


@pytest.mark.parametrize(
    ("case", "text", "expected"),
    [
        ("bert", "é e\u0301!", [(0, 1), (2, 4), (4, 5)]),
        ("bert", "  a\u200d\u0301,", [(2, 5), (5, 6)]),
        ("bert", "漢\x00x", [(0, 1), (2, 3)]),
        ("xlm-roberta", " é  ", [(1, 2)]),
        ("bert", "", []),
        ("xlm-roberta", " ", []),
    ],
)
def test_known_offsets(tmp_path, case, text, expected):
    offsets = tokenizer_of(case, tmp_path).encode(text).offsets
    assert [span for i, span in enumerate(offsets) if span not in offsets[:i] and span[0] < span[1]] == expected


@pytest.mark.parametrize("style", STYLES)
def test_decode(style):
    tokenizer = load(style)
    text = "freedom of speech and belief"
    ids = tokenizer.encode_single(text)
    assert tokenizer.decode(ids) == text
    names = {index: name for name, index in SPECIALS[style].items()}
    whole = tokenizer.decode(ids, skip_specials=False)
    assert whole.startswith(names[tokenizer.cls_id])
    assert whole.endswith(names[tokenizer.sep_id])
    assert tokenizer.decode([tokenizer.mask_id, tokenizer.pad_id, tokenizer.unk_id]) == names[tokenizer.unk_id]
    with pytest.raises(ValueError, match="id -1: must be in"):
        tokenizer.decode([-1])
