"""The words a model writes: into the masks of a text, and as BTMLM's generator behind a sentence."""

import dataclasses
import functools
import pathlib

import jax
import numpy as np
import pytest

from ernie_m_jax.model import FULL, Inputs
from ernie_m_jax.objectives import btmlm
from ernie_m_jax.task import Record
from ernie_m_jax.tokenizer import Tokenizer
from tests.small_models import LANGUAGES, random_model

GOLDEN = pathlib.Path(__file__).parent / "golden" / "tokenizer"
SENTENCEPIECE = ("ernie", "huggingface", "xlm-roberta")
TEXTS = ["the class name is not a valid name", "der Name ist hier nicht erlaubt"]


@pytest.fixture(scope="module")
def model(tokenizer):
    return random_model(tokenizer)


def golden(style):
    return Tokenizer.load(GOLDEN / (style if style in ("bert", "xlm") else "ernie_m"), style)


@pytest.mark.parametrize("style", SENTENCEPIECE)
@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("the [MASK] able", "▁the [MASK] ▁ able"),
        ("the[MASK] un", "▁the [MASK] ▁un"),
        ("un[MASK]able", "▁un [MASK] able"),
        ("[MASK]able", "[MASK] able"),
        ("the [MASK].", "▁the [MASK] ."),
        ("the [MASK][MASK] [MASK] un", "▁the [MASK] [MASK] [MASK] ▁un"),
        ("[MASK]", "[MASK]"),
        ("the [MASK]  ", "▁the [MASK]"),
        ("the [MASK]☃.", "▁the [MASK] [UNK] ."),
        ("the [MASK] ☃", "▁the [MASK] ▁ [UNK]"),
        ("the [CLS] un", None),
    ],
)
def test_text_around_a_mask_is_cut_as_if_a_word_stood_there(style, text, tokens):
    tokenizer = golden(style)
    ids, spans = tokenizer.encode_masked(text)
    if tokens is None:  # other special tokens' names stay ordinary text
        assert (ids, spans) == (tokenizer.encode_ids(text), [])
        return
    names = {tokenizer.mask_id: "[MASK]", tokenizer.unk_id: "[UNK]"}
    found = [names.get(index, token) for index, token in zip(ids, tokenizer.tokens(ids), strict=True)]
    assert found == tokens.split(" ")
    assert [text[start:end] for start, end in spans] == ["[MASK]"] * tokens.count("[MASK]")


@pytest.mark.parametrize("style", [*SENTENCEPIECE, "bert", "xlm"])
def test_every_tokenizer_knows_the_mask_by_its_own_name_too(style):
    tokenizer = golden(style)
    own = tokenizer.tokens([tokenizer.mask_id])[0]
    assert tokenizer.encode_masked(f"the {own} man") == (
        [*tokenizer.encode_ids("the"), tokenizer.mask_id, *tokenizer.encode_ids("man")],
        [(4, 4 + len(own))],
    )
    assert tokenizer.encode_masked("the [MASK] man")[0] == tokenizer.encode_masked(f"the {own} man")[0]
    assert tokenizer.mask_id not in tokenizer.encode_ids(f"the {own} man")  # there it is ordinary text


def plain_probabilities(model, ids, languages):
    """Softmax of whole logits at the masks, by numpy: the text alone in its row, unpadded."""
    row = np.array([ids], np.int32)
    positions = np.arange(len(ids), dtype=np.int32)[None]
    inputs = Inputs(row, positions, np.ones_like(row), np.zeros_like(row), np.array([languages], np.int32))
    module = model.encoder()
    encode = jax.jit(functools.partial(module.apply, table=FULL, method="encode"))
    hidden = encode({"params": model.params}, inputs)[0]
    at = np.flatnonzero(row[0] == model.tokenizer.mask_id)
    logits = np.asarray(module.apply({"params": model.params}, hidden[at], method="predict"), np.float64)
    exponents = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exponents / exponents.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("mode", ["slots", "all", "none"])
def test_fill_mask_equals_a_plain_computation(mode, tokenizer):
    model = random_model(tokenizer, language_embedding=mode)
    text = "the class [MASK] is [MASK] valid."
    ids = [tokenizer.cls_id, *tokenizer.encode_masked(text)[0], tokenizer.sep_id]
    told = {"slots": [2 if i == tokenizer.mask_id else 0 for i in ids], "all": [2] * len(ids), "none": [0] * len(ids)}
    probabilities = plain_probabilities(model, ids, told[mode])
    filled = model.fill_mask(text, top_k=7, language=None if mode == "none" else "de")
    assert [len(of_mask) for of_mask in filled] == [7, 7]
    for of_mask, expected in zip(filled, probabilities, strict=True):
        ranked = [i for i in np.argsort(-expected) if i not in tokenizer.special_tokens.values()][:7]
        assert [word.token for word in of_mask] == tokenizer.tokens(ranked)
        np.testing.assert_allclose([word.probability for word in of_mask], expected[ranked], atol=1e-5)
    if mode == "slots":  # the language matters
        other = model.fill_mask(text, language="en")
        assert [word.token for word in other[0]] != [word.token for word in filled[0][:5]]


def test_special_tokens_are_never_proposed(tokenizer):
    model = random_model(tokenizer)
    model.params["mlm_head"]["bias"][[*tokenizer.special_tokens.values()]] = 1e3
    words = model.fill_mask("the [MASK]", top_k=tokenizer.vocab_size - 5, language="en")[0]
    assert not {word.token for word in words} & {*tokenizer.special_tokens}
    assert words[0].probability < 1e-6  # it is the model's own, not rescaled
    with pytest.raises(ValueError, match=rf"top_k {tokenizer.vocab_size - 4} .* 1 to {tokenizer.vocab_size - 5}"):
        model.fill_mask("the [MASK]", top_k=tokenizer.vocab_size - 4, language="en")


def favouring(model, token):
    """The model with one token that it proposes everywhere."""
    bias = np.zeros_like(model.params["mlm_head"]["bias"])
    bias[model.tokenizer.tokens(range(model.tokenizer.vocab_size)).index(token)] = 1e3
    return dataclasses.replace(model, params={**model.params, "mlm_head": {**model.params["mlm_head"], "bias": bias}})


@pytest.mark.parametrize(
    ("text", "token", "filled"),
    [
        ("“Der” [MASK] fehlt", "▁name", "“Der” name fehlt"),
        ("the [MASK]", "s", "thes"),
        ("the[MASK].", "▁name", "the name."),
        ("[MASK] fehlt", "▁name", "name fehlt"),
        ("[MASK] fehlt", "s", "s fehlt"),
        ("☃ [MASK] fehlt", "▁name", "☃ name fehlt"),
    ],
)
def test_the_filled_text_is_the_callers_own_with_the_word_in_it(text, token, filled, model):
    assert favouring(model, token).fill_mask(text, top_k=1, language="en")[0][0].text == filled


def test_of_several_masks_the_others_stay(model):
    filled = favouring(model, "▁name").fill_mask("[MASK] is [MASK] [MASK].", top_k=1, language="en")
    assert [of_mask[0].text for of_mask in filled] == [
        "name is [MASK] [MASK].",
        "[MASK] is name [MASK].",
        "[MASK] is [MASK] name.",
    ]


def test_fill_mask_joins_pieces_as_bert_and_xlm_do():
    for style, token, filled in (
        ("bert", "##able", "unable to"),
        ("bert", "man", "un man to"),
        ("xlm", "man</w>", "un man to"),
    ):
        tokenizer = golden(style)
        ids = tokenizer.tokens(range(tokenizer.vocab_size))
        if token not in ids:
            token = next(entry for entry in ids if entry.startswith("##"))
            filled = f"un{token[2:]} to"
        model = random_model(
            tokenizer, (), vocab_size=tokenizer.vocab_size, pad_id=tokenizer.pad_id, language_embedding="none"
        )
        assert favouring(model, token).fill_mask("un [MASK] to", top_k=1)[0][0].text == filled


@pytest.mark.parametrize(
    ("keys", "languages", "arguments", "message"),
    [
        ({"mlm_head": "none"}, LANGUAGES, {}, r"somewhere: .*no mlm_head.*released ERNIE-M"),
        ({}, LANGUAGES, {}, r"language=.* one of en, de, ru"),
        ({}, LANGUAGES, {"language": "fr"}, r"language 'fr' is unknown .*one of en, de, ru"),
        ({}, (), {"language": "fr"}, r"names of its 3 languages are not known.*languages="),
        ({"language_embedding": "none"}, (), {"language": "en"}, r"no language embedding; leave language out"),
        ({}, LANGUAGES, {"language": "en", "text": "no mask"}, r"no '\[MASK\]' in the text 'no mask'"),
        ({}, LANGUAGES, {"language": "en", "text": ["a [MASK]"]}, r"text is \['a \[MASK\]'\]; it must be a string"),
        ({}, LANGUAGES, {"language": "en", "top_k": 0}, r"top_k 0"),
        ({"max_positions": 12}, LANGUAGES, {"language": "en", "text": "a b c d e f g h [MASK]"}, r"positions for 10"),
    ],
)  # fmt: skip
def test_fill_mask_says_what_it_needs(keys, languages, arguments, message, tokenizer):
    model = random_model(tokenizer, languages, **keys)
    with pytest.raises(ValueError, match=message):
        model.fill_mask(**{"text": "the [MASK]"} | arguments)


def test_one_language_need_not_be_named(tokenizer):
    model = random_model(tokenizer, ("en",), num_languages=3)
    with pytest.raises(ValueError, match="language="):
        model.fill_mask("the [MASK]")
    config = dataclasses.replace(model.config, num_languages=1)
    table = {"language": model.params["embeddings"]["language"][:1]}
    params = {**model.params, "embeddings": {**model.params["embeddings"], **table}}
    single = dataclasses.replace(model, config=config, params=params, languages=())
    found, expected = single.fill_mask("the [MASK]"), model.fill_mask("the [MASK]", language="en")
    assert [word.token for word in found[0]] == [word.token for word in expected[0]]


def generated(model, config, text, source, target, **keys):
    """What btmlm itself writes for the example that it would pack, alone in its row."""
    config = dataclasses.replace(config, model=model.config)
    config.objectives["btmlm"] = dataclasses.replace(config.objectives["btmlm"], **keys)
    record = Record((text,), (source, target))
    (example,) = btmlm.examples(record, model.tokenizer, config, config.objectives["btmlm"], np.random.default_rng(0))
    batch = {name: value[None] for name, value in example.items()} | {"segments": np.ones_like(example["ids"])[None]}
    run = jax.jit(functools.partial(btmlm.generate, config, config.objectives["btmlm"], model.encoder()))
    ids, log_probs = run(model.params, batch, jax.random.key(0))
    return np.asarray(ids)[0].tolist(), np.asarray(log_probs)[0]


@pytest.mark.parametrize("positions", ["continued", "restarted"])
@pytest.mark.parametrize(
    "keys", [{}, *(pytest.param(keys, marks=pytest.mark.slow) for keys in ({"length_ratio": 1.5}, {"passes": 3}))]
)
def test_back_translation_is_btmlms_generator(keys, positions, tokenizer, small_config):
    model = random_model(tokenizer, pair_positions=positions)
    config = small_config(data__pair_positions=positions)
    found = model.back_translate(TEXTS, "en", "ru", **keys)
    assert len(found) == 2
    for text, written in zip(TEXTS, found, strict=True):
        ids, log_probs = generated(model, config, text, "en", "ru", **keys)
        assert written.text == tokenizer.decode(ids)
        assert written.tokens == tuple(tokenizer.tokens(ids))
        np.testing.assert_allclose(written.log_probs, log_probs, atol=1e-5)


def test_back_translation_equals_a_layout_written_by_hand(model):
    """`CLS source SEP SEP masks SEP`, placeholders of the target language, the source blind to them; whole logits."""
    tokenizer, text = model.tokenizer, TEXTS[0]
    source = tokenizer.encode_ids(text)
    ids = [0, *source, 2, 2, *[tokenizer.mask_id] * len(source), 2]
    at = np.arange(len(source) + 3, 2 * len(source) + 3)
    roles = np.array([0] * (len(source) + 2) + [1] * (len(source) + 2), np.int32)
    languages = np.zeros(len(ids), np.int32)
    languages[at] = 1 + LANGUAGES.index("de")
    fields = (
        np.array(ids, np.int32),
        np.arange(len(ids), dtype=np.int32),
        np.ones(len(ids), np.int32),
        roles,
        languages,
    )
    module = model.encoder()
    inputs = Inputs(*(field[None] for field in fields))
    encode = jax.jit(functools.partial(module.apply, table=btmlm.GENERATION, method="encode"))
    hidden = encode({"params": model.params}, inputs)[0, at]
    logits = np.asarray(module.apply({"params": model.params}, hidden, method="predict"), np.float64)
    logits[:, list(tokenizer.special_tokens.values())] = -np.inf
    top = logits.argmax(axis=1)
    log_probs = (
        logits.max(axis=1) - np.log(np.exp(logits - logits.max(axis=1, keepdims=True)).sum(1)) - logits.max(axis=1)
    )
    (written,) = model.back_translate([text], "en", "de")
    assert written.tokens == tuple(tokenizer.tokens(top))
    np.testing.assert_allclose(written.log_probs, log_probs, atol=1e-5)


def test_the_target_language_and_the_seed_of_a_draw_matter(model):
    texts = TEXTS[:1]
    assert model.back_translate(texts, "en", "de") != model.back_translate(texts, "en", "ru")
    draw = functools.partial(model.back_translate, texts, "en", "de", temperature=1.0)
    assert draw(seed=1) == draw(seed=1)
    assert draw(seed=1) != draw(seed=2)


def test_more_languages_than_rows_are_refused(model):
    with pytest.raises(ValueError, match="4 languages named, but its table has 3 rows"):
        dataclasses.replace(model, languages=(*LANGUAGES, "fr"))


def test_many_texts_and_empty_ones_are_written_as_each_alone(model):
    texts = [TEXTS[0], "", *TEXTS * 20]
    found = model.back_translate(texts, "en", "de")
    assert len(found) == len(texts)
    assert found[1] == ("", (), ())
    alone = {text: model.back_translate([text], "en", "de")[0] for text in {*texts}}
    for text, written in zip(texts, found, strict=True):
        assert written.tokens == alone[text].tokens
        np.testing.assert_allclose(written.log_probs, alone[text].log_probs, atol=1e-5)
    assert model.back_translate([], "en", "de") == []


@pytest.mark.parametrize(
    ("keys", "languages", "arguments", "message"),
    [
        ({"mlm_head": "none"}, LANGUAGES, {}, r"somewhere: .*no mlm_head"),
        ({"language_embedding": "none"}, (), {}, r"somewhere: .*no language embedding"),
        ({}, (), {}, r"names of its 3 languages are not known"),
        ({}, LANGUAGES, {"source": "fr"}, r"source 'fr' is unknown .*one of en, de, ru"),
        ({}, LANGUAGES, {"target": "d"}, r"target 'd' is unknown \(nearest: de\).*one of en, de, ru"),
        ({}, LANGUAGES, {"length_ratio": 0.0}, r"length_ratio is 0.0; it must be from 0.1 to 4"),
        ({}, LANGUAGES, {"temperature": -1.0}, r"temperature is -1.0; it must be at least 0"),
        ({}, LANGUAGES, {"passes": 0}, r"passes is 0; it must be from 1 to 100"),
        ({}, LANGUAGES, {"passes": 1.5}, r"passes is 1.5; it must be a whole number"),
        ({"max_positions": 25}, LANGUAGES, {}, r"texts\[1\] has \d+ tokens.* room for 9 "),
    ],
)
def test_back_translate_says_what_it_needs(keys, languages, arguments, message, tokenizer):
    model = random_model(tokenizer, languages, **keys)
    with pytest.raises(ValueError, match=message):
        model.back_translate(**{"texts": ["a", " ".join(TEXTS)], "source": "en", "target": "de"} | arguments)
