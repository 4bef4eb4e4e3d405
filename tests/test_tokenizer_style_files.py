"""The files of every style of tokenizer: settings in them, bad ones, saving, pickling, fingerprints."""

import json
import pickle
import re

import pytest
from etils import epath

from ernie_m_jax.tokenizer import STYLES, Tokenizer
from tests import sentencepiece_models
from tests.golden_tokenizers import (
    BERT_SETTINGS,
    FIXTURE,
    FOLDERS,
    SPECIALS,
    assert_same,
    copy,
    load,
    texts,
    tokenizer_of,
)


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
