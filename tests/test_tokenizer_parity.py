"""Every style of tokenizer against recorded ids, and what they share: pairs, files, saving, pickling, errors.

The ids were recorded by `golden/record_tokenizers.py` from transformers 4.57.6's slow classes, for style "ernie" from a
second writing of the published algorithm; `golden/tokenizer/README.md` says more.
"""

import collections
import functools
import json
import lzma
import pathlib
import pickle
import re
import shutil
import subprocess
import sys
import unicodedata

import numpy as np
import pytest
from etils import epath

from ernie_m_jax import config as configs
from ernie_m_jax.tokenizer import STYLES, Tokenizer
from tests import sentencepiece_models
from tests.conftest import small_tree

FIXTURE = pathlib.Path(__file__).parent / "golden" / "tokenizer"
FOLDERS = {"ernie": "ernie_m", "huggingface": "ernie_m", "xlm-roberta": "ernie_m", "bert": "bert", "xlm": "xlm"}
SPECIALS = {  # name -> id, in the attributes' order: cls, pad, sep, unk, mask
    "ernie": {"[CLS]": 0, "[PAD]": 1, "[SEP]": 2, "[UNK]": 3, "[MASK]": 5999},
    "huggingface": {"[CLS]": 0, "[PAD]": 1, "[SEP]": 2, "[UNK]": 3, "[MASK]": 5999},
    "xlm-roberta": {"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3, "<mask>": 5999},
    "bert": {"[CLS]": 3, "[PAD]": 0, "[SEP]": 4, "[UNK]": 2, "[MASK]": 5},
    "xlm": {"<s>": 0, "<pad>": 2, "</s>": 1, "<unk>": 3, "<special1>": 5},
}
BERT_SETTINGS = {
    "uncased": {},
    "stripped": {"do_lower_case": False, "strip_accents": True, "tokenize_chinese_chars": False},
    "accented": {"do_lower_case": True, "strip_accents": False},
}


@functools.cache
def texts() -> dict[str, list]:
    return json.loads(lzma.decompress((FIXTURE / "texts.json.xz").read_bytes()))


@functools.cache
def load(style: str) -> Tokenizer:
    return Tokenizer.load(FIXTURE / FOLDERS[style], style)


def recorded(name: str, case: str) -> list[list[int] | int]:
    """The ids of each row of a case; a negative number where there are none."""
    with np.load(FIXTURE / name) as arrays:
        lengths, ids, cases = arrays["lengths"], arrays["ids"].tolist(), arrays["cases"].tolist()
    ends = np.cumsum(np.maximum(lengths, 0)).reshape(lengths.shape)[:, cases.index(case)]
    lengths = lengths[:, cases.index(case)]
    return [ids[end - length : end] if length >= 0 else int(length) for end, length in zip(ends, lengths, strict=True)]


def copy(style: str, target: pathlib.Path, **contents: str | bytes | None) -> pathlib.Path:
    """The style's folder in `target`, with `contents` by file name (a dot as two underscores); None: taken away."""
    shutil.copytree(FIXTURE / FOLDERS[style], target, dirs_exist_ok=True)
    for key, content in contents.items():
        file = target / key.replace("__", ".")
        if content is None:
            file.unlink()
        else:
            file.write_bytes(content.encode() if isinstance(content, str) else content)
    return target


def tokenizer_of(case: str, target: pathlib.Path) -> Tokenizer:
    style, _, setting = case.partition(":")
    if not setting:
        return load(style)
    if style == "bert":
        return Tokenizer.load(copy(style, target, tokenizer_config__json=json.dumps(BERT_SETTINGS[setting])), style)
    config = json.dumps({"do_lowercase_and_remove_accent": setting not in ("cased", "ro")})
    language = "en" if setting == "cased" else setting
    return Tokenizer.load(copy(style, target, tokenizer_config__json=config), style, language)


def assert_same(tokenizer: Tokenizer, lines: list[str], expected: list[list[int] | int]) -> int:
    """Returns how many were compared."""
    assert len(lines) == len(expected)
    pairs = [(line, ids) for line, ids in zip(lines, expected, strict=True) if isinstance(ids, list)]
    wrong = [line for line, ids in pairs if tokenizer.encode_ids(line) != ids]
    assert not wrong, f"{len(wrong)} of {len(pairs)} differ, first: {wrong[0]!r}"
    return len(pairs)


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


def test_xlm_has_no_offsets_and_takes_a_language():
    tokenizer = load("xlm")
    with pytest.raises(ValueError, match="style 'xlm' has no offsets"):
        tokenizer.encode("some text")
    german = Tokenizer.load(FIXTURE / "xlm", "xlm", language="de")
    assert (tokenizer.language, german.language) == ("en", "de")
    assert german.fingerprint != tokenizer.fingerprint
    for language in ("zh", "ja", "th"):
        with pytest.raises(ValueError, match=f"language '{language}': XLM cuts it with "):
            Tokenizer.load(FIXTURE / "xlm", "xlm", language)
    with pytest.raises(ValueError, match="language 'en': style 'bert' is the same in all"):
        Tokenizer.load(FIXTURE / "bert", "bert", "en")


def test_xlm_keeps_to_the_languages_of_its_files(tmp_path):
    copy("xlm", tmp_path, tokenizer_config__json='{"lang2id": {"en": 0, "fr": 1}}')
    assert Tokenizer.load(tmp_path, "xlm", "fr").language == "fr"
    with pytest.raises(ValueError, match=r"language 'sw': tokenizer_config\.json has only en, fr"):
        Tokenizer.load(tmp_path, "xlm", "sw")


def test_xlm_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "sacremoses", None)
    with pytest.raises(ValueError, match=r"pip install 'ernie_m_jax\[baselines\]'"):
        Tokenizer.load(FIXTURE / "xlm", "xlm")


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


@pytest.mark.parametrize("case", [*STYLES, "bert:stripped", "xlm:cased", "xlm:fr"])
def test_saving_and_pickling_give_the_same_tokenizer(tmp_path, case):
    tokenizer = tokenizer_of(case, tmp_path / "from")
    tokenizer.save(tmp_path / "new" / "to")
    tokenizer.save(tmp_path / "new" / "to")  # over an earlier one
    source = tmp_path / "from" if (tmp_path / "from").exists() else FIXTURE / FOLDERS[tokenizer.style]
    for file in (tmp_path / "new" / "to").iterdir():
        assert file.read_bytes() == (source / file.name).read_bytes()
    language = tokenizer.language if tokenizer.style == "xlm" else None
    saved = Tokenizer.load(tmp_path / "new" / "to", tokenizer.style, language)
    for copied in (saved, pickle.loads(pickle.dumps(tokenizer))):
        assert type(copied) is type(tokenizer)
        assert (copied.style, copied.fingerprint) == (tokenizer.style, tokenizer.fingerprint)
        assert_same(copied, texts()["nasty"][:60], [tokenizer.encode_ids(text) for text in texts()["nasty"][:60]])


def test_saving_does_not_change_what_is_saved(tmp_path, monkeypatch):
    vocabulary_only = Tokenizer.load(copy("bert", tmp_path / "a", tokenizer_config__json=None), "bert")
    with pytest.raises(FileExistsError, match=r"tokenizer_config\.json: would change the tokenizer"):
        vocabulary_only.save(copy("bert", tmp_path / "b"))
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError, match="not a directory"):
        load("bert").save(tmp_path / "file")

    def full(*_):
        raise OSError("no space left on device")

    for method in ("replace", "open"):
        monkeypatch.setattr(type(epath.Path(tmp_path)), method, full)
        with pytest.raises(OSError, match="no space left"):
            load("ernie").save(tmp_path / "c")
        assert list((tmp_path / "c").iterdir()) == []


def test_fingerprints_tell_apart_what_gives_other_ids(tmp_path):
    prints = [load(style).fingerprint for style in STYLES]
    prints += [tokenizer_of(f"bert:{name}", tmp_path / name).fingerprint for name in BERT_SETTINGS]
    assert len(set(prints)) == len(prints)
    assert all(re.fullmatch("[0-9a-f]{64}", fingerprint) for fingerprint in prints)
    config = '{"do_lower_case": false, "model_max_length": 99, "tokenizer_class": "BertTokenizer"}'
    same = Tokenizer.load(copy("bert", tmp_path / "same", tokenizer_config__json=config), "bert")
    assert same.fingerprint == load("bert").fingerprint
    # Of before there were other styles: a checkpoint keeps it.
    assert load("ernie").fingerprint == "60476899be98676cfe9597517a120eabb8abd6be69a15d7c359dffe5fa02e7f1"


def test_bert_settings_may_come_from_tokenizer_json(tmp_path):
    normaliser = {"type": "BertNormalizer", "lowercase": False, "handle_chinese_chars": False, "strip_accents": True}
    fast = json.dumps({"normalizer": normaliser})
    folder = copy("bert", tmp_path, tokenizer__json=fast, tokenizer_config__json="{}")
    other = Tokenizer.load(folder, "bert")
    assert other.fingerprint == tokenizer_of("bert:stripped", tmp_path / "other").fingerprint
    (folder / "tokenizer_config.json").write_text('{"do_lower_case": true, "strip_accents": null}')
    assert Tokenizer.load(folder, "bert").encode_ids("Freedom") == other.encode_ids("freedom")


def test_special_tokens_may_have_other_names(tmp_path):
    config = {"do_lower_case": False, "mask_token": {"content": "[unused1]", "lstrip": False}}
    renamed = Tokenizer.load(copy("bert", tmp_path, tokenizer_config__json=json.dumps(config)), "bert")
    assert (renamed.mask_id, renamed.cls_id) == (1, 3)
    assert renamed.fingerprint != load("bert").fingerprint


BAD_FILES = [
    ("xlm-roberta", {"sentencepiece__bpe__model": b"nothing"}, r"sentencepiece\.bpe\.model: not a SentencePiece model"),
    ("bert", {"vocab__txt": "[PAD]\n[UNK]\n[CLS]\n[SEP]\na\n"}, r"vocab\.txt: the special token \[MASK\] is missing"),
    ("bert", {"vocab__txt": "[PAD]\na\n[UNK]\na\n"}, r"vocab\.txt, line 4: 'a' is on line 2 too"),
    ("bert", {"vocab__txt": b"[PAD]\n\xff\n"}, r"vocab\.txt, line 2: not UTF-8"),
    ("bert", {"tokenizer_config__json": "{"}, r"tokenizer_config\.json: not JSON"),
    ("bert", {"tokenizer_config__json": "[]"}, r"tokenizer_config\.json: holds a list; must be an object"),
    ("bert", {"tokenizer_config__json": '{"do_lower_case": "no"}'}, "do_lower_case is 'no'; must be true or false"),
    ("bert", {"tokenizer_config__json": '{"do_basic_tokenize": false}'}, "do_basic_tokenize False is not supported"),
    ("bert", {"tokenizer_config__json": '{"unk_token": 3}'}, "unk_token is 3; must be a token"),
    ("bert", {"tokenizer__json": '{"normalizer": {"type": "NFC"}}'}, r"tokenizer\.json: its normalizer is no Bert"),
    ("xlm", {"vocab__json": '{"<s>": 0'}, r"vocab\.json: not JSON"),
    ("xlm", {"vocab__json": b"\xff"}, r"vocab\.json: not JSON"),
    ("xlm", {"vocab__json": '{"<s>": "0"}'}, r"vocab\.json: must map each token to an integer"),
    ("xlm", {"vocab__json": '{"<s>": 0, "a": -1}'}, r"vocab\.json: 'a' has id -1; must be below 4 and no other"),
    ("xlm", {"vocab__json": '{"<s>": 0, "a": 4}'}, r"vocab\.json: 'a' has id 4; must be below 4 and no other"),
    ("xlm", {"vocab__json": '{"<s>": 0, "a": 0}'}, r"vocab\.json: 'a' has id 0; must be below 4 and no other"),
    ("xlm", {"vocab__json": '{"<s>": 0, "</s>": 1}'}, r"vocab\.json: the special token <pad> is missing"),
    ("xlm", {"merges__txt": "a b\na b c d\n"}, r"merges\.txt, line 2: 'a b c d'; must be two symbols"),
    ("xlm", {"merges__txt": "a b\n\nc d\n"}, r"merges\.txt, line 2: ''; must be two symbols"),
    ("xlm", {"merges__txt": b"a \xff\n"}, r"merges\.txt: not UTF-8"),
]


@pytest.mark.parametrize(("style", "contents", "message"), BAD_FILES)
def test_bad_files_are_refused(tmp_path, style, contents, message):
    with pytest.raises(ValueError, match=message) as error:
        Tokenizer.load(copy(style, tmp_path, **contents), style)
    assert str(tmp_path) in str(error.value)


@pytest.mark.parametrize(
    ("style", "name"),
    [("xlm-roberta", "sentencepiece.bpe.model"), ("bert", "vocab.txt"), ("xlm", "vocab.json"), ("xlm", "merges.txt")],
)
def test_missing_files_are_named(tmp_path, style, name):
    folder = copy(style, tmp_path, **{name.replace(".", "__"): None})
    with pytest.raises(FileNotFoundError, match=rf"{re.escape(name)}: no such file; a tokenizer of style '{style}' is"):
        Tokenizer.load(folder, style)


def test_an_unknown_style_is_refused():
    with pytest.raises(ValueError, match="must be one of ernie, huggingface, xlm-roberta, bert, xlm"):
        Tokenizer.load(FIXTURE / "bert", "mbert")


def test_xlm_roberta_refuses_a_model_with_other_special_pieces(tmp_path):
    model = sentencepiece_models.read(FIXTURE / "ernie_m/sentencepiece.bpe.model")
    model.pieces[1].piece = "<begin>"
    (tmp_path / "sentencepiece.bpe.model").write_bytes(model.SerializeToString())
    with pytest.raises(ValueError, match="its first pieces are <unk> <begin> </s>; XLM-R's are <unk> <s> </s>"):
        Tokenizer.load(tmp_path, "xlm-roberta")


def test_merges_end_with_the_last_line_feed(tmp_path):
    """As XLMTokenizer reads them; a merge on an unfinished line is not read."""
    vocabulary = {name: i for i, name in enumerate((*SPECIALS["xlm"], "<special0>", "ab</w>", "a", "b</w>"))}
    folder = copy("xlm", tmp_path, vocab__json=json.dumps(vocabulary), merges__txt="a b</w>")
    pieces = [vocabulary["a"], vocabulary["b</w>"]]
    assert Tokenizer.load(folder, "xlm").encode_ids("ab") == pieces
    (folder / "merges.txt").write_text("a b</w> 7\r\n")
    assert Tokenizer.load(folder, "xlm").encode_ids("ab") == [vocabulary["ab</w>"]]


def test_ids_of_xlm_may_have_gaps(tmp_path):
    """Two names of the original's vocabulary can become one in vocab.json; the ids, and the model's rows, stay."""
    vocabulary = {name: i for i, name in enumerate((*SPECIALS["xlm"], "<special0>", "a", "b</w>", "c</w>"))}
    del vocabulary["b</w>"]
    tokenizer = Tokenizer.load(copy("xlm", tmp_path, vocab__json=json.dumps(vocabulary), merges__txt=""), "xlm")
    assert tokenizer.vocab_size == 9
    assert tokenizer.encode_ids("ac b") == [6, 8, 3]
    assert tokenizer.decode([6, 8, 7]) == "ac <unk>"


@pytest.mark.parametrize("style", STYLES)
def test_the_config_knows_every_style(style):
    tree = small_tree(tokenizer__style=style, tokenizer__path="somewhere")
    assert configs.resolve(tree, training=False).tokenizer.style == style
    if style in ("bert", "xlm"):
        with pytest.raises(configs.ConfigError, match=rf"tokenizer\.style '{style}' is for fine-tuning and using"):
            configs.resolve(tree)


@pytest.mark.parametrize("style", ["bert", "xlm"])
def test_a_run_trains_no_tokenizer_of_the_other_kinds(style):
    with pytest.raises(
        configs.ConfigError, match=rf"style is '{style}', which no run trains: set config\.tokenizer\.path"
    ):
        configs.resolve(small_tree(tokenizer__style=style, tokenizer__path=""))


def test_importing_the_tokenizer_loads_no_library_of_a_style():
    code = (
        "import sys, ernie_m_jax.tokenizer; "
        "print(sorted({'sentencepiece', 'tokenizers', 'sacremoses', 'jax', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"


def test_command_line_takes_every_style():
    command = [
        sys.executable,
        "-m",
        "ernie_m_jax.tokenizer",
        "encode",
        "--tokenizer",
        FIXTURE / "xlm",
        "--style",
        "xlm",
    ]
    done = subprocess.run(
        [*command, "--language", "fr", "l'homme"], capture_output=True, text=True, check=True, timeout=60
    )
    ids = [int(field) for field in done.stdout.split()]
    assert ids == Tokenizer.load(FIXTURE / "xlm", "xlm", "fr").encode_single("l'homme")
    assert ids != load("xlm").encode_single("l'homme")
