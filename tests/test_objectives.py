"""The four objectives: what an example holds, who sees whom to the last bit, and what back-translation writes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ernie_m_jax import sharding
from ernie_m_jax import task as tasks
from ernie_m_jax.data import loader, mixture
from ernie_m_jax.model import ErnieM, Inputs
from ernie_m_jax.objectives import camlm, masking
from ernie_m_jax.task import IGNORE, Record
from ernie_m_jax.tokenizer.base import shorten_pair

OBJECTIVES = ("mmlm", "tlm", "camlm", "btmlm")
PAIR = Record(("the class name is not a valid name", "der Name ist hier nicht erlaubt und fehlt"), ("en", "de"))
DEEP = {"model__num_layers": 4, "data__sequence_length": 112}


def parameters(config, scale=6.0):
    """Random parameters, large enough that no real dependence is lost in rounding."""
    model = ErnieM(config.model, config.compute)
    zeros = Inputs(*(np.zeros((1, 8), np.int32) for _ in Inputs._fields))
    boxed = model.init(jax.random.key(1), zeros, np.ones((1, 1), bool))["params"]
    scaled = jax.tree.map_with_path(lambda path, leaf: leaf * scale if leaf.ndim > 1 else leaf, sharding.unbox(boxed))
    return model, scaled


def packed_batch(name, config, tokenizer, rows=2):
    """The first rows of an objective's first stream: several examples a row."""
    task = tasks.bind(config, name)
    stream = iter(loader.Loader(task, tokenizer, task.records(mixture.Sources(config))).rows(0))
    drawn = [next(stream) for _ in range(rows)]
    batch = {key: np.stack([row[key] for row in drawn]) for key in drawn[0]}
    assert (batch["segments"].max(axis=1) >= 2).any(), "the test needs packed rows"
    return {key: jnp.asarray(value) for key, value in batch.items()}


class Perturbed:
    """A model that adds `offset` [B, L, H] to the embedding sum wherever it encodes."""

    def __init__(self, model, offset):
        self._model, self._offset = model, offset

    def apply(self, variables, *args, **keys):
        return self._model.apply(variables | {"perturbations": {"input_embeddings": self._offset}}, *args, **keys)


def influence(name, config, batch):
    """|d loss of prediction p / d input embedding j|, summed over the hidden axis: [B, P, L], through the real loss."""
    model, params = parameters(config)
    task = tasks.bind(config, name)
    rows, length = batch["ids"].shape
    offset = jnp.zeros((rows, length, config.model.hidden_size))

    def one(labels):
        def total(offset):
            labelled = batch | {"predict_labels": labels}
            sums = task.loss(Perturbed(model, offset), params, labelled, jax.random.key(0), False)
            return sums["loss"][0]

        return jnp.abs(jax.grad(total)(offset)).sum(-1)

    labels = batch["predict_labels"]
    single = np.where(np.eye(labels.shape[1], dtype=bool)[:, None, :], labels[None], IGNORE)  # [P, B, P]
    return np.asarray(jax.jit(lambda all_labels: jax.lax.map(one, all_labels))(single)).swapaxes(0, 1)


def may_see(name, batch, row, at):
    """The tokens of the row that the prediction at token `at` may use, straight from the paper's figures."""
    same = batch["segments"][row] == batch["segments"][row, at]
    if name != "camlm":
        return same
    role = batch["roles"][row]
    source_slot = role[at] == 2
    # The other sentence's words, whole, and the own sentence's slots.
    return same & ((role == (1 if source_slot else 0)) | (role == role[at]))


@pytest.mark.parametrize("scan", [True, False])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_prediction_depends_on_exactly_what_it_may_see(name, scan, small_config, tokenizer):
    config = small_config(compute__scan_layers=scan, **DEEP)
    batch = packed_batch(name, config, tokenizer)
    found = influence(name, config, batch)
    batch = {key: np.asarray(value) for key, value in batch.items()}
    scored = 0
    for row, prediction in zip(*np.nonzero(batch["predict_labels"] != IGNORE), strict=True):
        seen = may_see(name, batch, row, batch["predict_at"][row, prediction])
        assert (found[row, prediction][~seen] == 0).all()
        assert (found[row, prediction][seen] > 0).all()
        scored += 1
    assert scored > 10


def dependence(model, params, inputs, table):
    """Whether token i's output in the first row depends on token j's embedding: bool [L, L], by reverse mode."""

    # One feature of each token: the sum of all of them is constant under LayerNorm. Gradients are taken one by one:
    # reverse mode through `scan` under `vmap`, as in `jax.jacrev`, gives wrong numbers on the CPU (jax 0.10.2).
    def feature(offset, token):
        variables = {"params": params, "perturbations": {"input_embeddings": offset}}
        return model.apply(variables, inputs, table, method="encode")[0, token, 0]

    length = inputs.ids.shape[1]
    offset = jnp.zeros((*inputs.ids.shape, model.config.hidden_size))
    gradients = jax.jit(lambda: jax.lax.map(lambda token: jax.grad(feature)(offset, token), jnp.arange(length)))()
    return np.abs(np.asarray(gradients))[:, 0].sum(-1) > 0


def test_camlm_reproduces_figure_1(small_config):
    """Ten inputs x1 x2 M2 x3 | y4 y5 M5 y6 M6 y7: the rows of the mask slots, over twelve layers."""
    names = ["x1", "x2", "M2", "x3", "y4", "y5", "M5", "y6", "M6", "y7"]
    roles = np.array([[0, 0, 2, 0, 1, 1, 3, 1, 3, 1]], np.int32)
    seen = {"M2": "M2 y4 y5 y6 y7", "M5": "x1 x2 x3 M5 M6", "M6": "x1 x2 x3 M5 M6"}
    config = small_config(model__num_layers=12, model__hidden_size=16, model__ffn_size=16)
    model, params = parameters(config)
    inputs = Inputs(
        ids=np.arange(4, 14, dtype=np.int32)[None],
        positions=np.array([[0, 1, 1, 2, 3, 4, 4, 5, 5, 6]], np.int32),
        segments=np.ones((1, 10), np.int32),
        roles=roles,
        languages=np.where(roles >= 2, 1, 0).astype(np.int32),
    )

    depends = dependence(model, params, inputs, camlm.TABLE)
    for slot, words in seen.items():
        assert [name for name, on in zip(names, depends[names.index(slot)], strict=True) if on] == words.split()


def test_camlm_slots_carry_their_words_position_and_language(small_config, tokenizer):
    config = small_config()
    (example,) = tasks.bind(config, "camlm").examples(PAIR, tokenizer, np.random.default_rng(0))
    words = example["roles"] < 2
    slots = example["predict_at"]
    np.testing.assert_array_equal(np.flatnonzero(~words), slots)
    assert (example["ids"][slots] == tokenizer.mask_id).all()
    np.testing.assert_array_equal(example["ids"][words][example["positions"][slots]], example["predict_labels"])
    # A slot's role and language are its word's: 2 beside 0, 3 beside 1.
    np.testing.assert_array_equal(example["roles"][slots] - 2, example["roles"][words][example["positions"][slots]])
    assert set(example["languages"][words]) == {0}
    assert len(set(example["languages"][slots])) == 2
    assert set(example["languages"][slots]) <= {1, 2}


@pytest.mark.parametrize(
    ("mode", "words", "slots"), [("all", {1, 2}, {1, 2}), ("none", {0}, {0}), ("slots", {0}, {1, 2})]
)
def test_language_embedding_modes(small_config, tokenizer, mode, words, slots):
    config = small_config(model__language_embedding=mode)
    (example,) = tasks.bind(config, "camlm").examples(PAIR, tokenizer, np.random.default_rng(0))
    assert set(example["languages"][example["roles"] < 2]) == words
    assert set(example["languages"][example["roles"] >= 2]) == slots


@pytest.mark.parametrize("name", ["mmlm", "tlm"])
def test_a_mask_in_place_says_its_language_and_a_word_does_not(name, small_config, tokenizer):
    config = small_config(**{f"objectives__{name}__mask_ratio": 0.9})
    (example,) = tasks.bind(config, name).examples(PAIR, tokenizer, np.random.default_rng(1))
    masked = example["ids"] == tokenizer.mask_id
    assert set(example["languages"][~masked]) == {0}
    assert set(example["languages"][masked]) == ({1} if name == "mmlm" else {1, 2})


def test_positions_of_a_pair_run_on_or_start_again(small_config, tokenizer):
    for mode, start in (("continued", None), ("restarted", 0)):
        config = small_config(data__pair_positions=mode)
        (example,) = tasks.bind(config, "camlm").examples(PAIR, tokenizer, np.random.default_rng(0))
        words = example["roles"] < 2
        boundary = np.flatnonzero(example["roles"] == 1)[0]
        expected = np.arange(words.sum())
        if start is not None:
            expected[boundary:] -= boundary
        np.testing.assert_array_equal(example["positions"][words], expected)


def test_special_tokens_stand_with_their_sentence(small_config, tokenizer):
    (example,) = tasks.bind(small_config(), "camlm").examples(PAIR, tokenizer, np.random.default_rng(0))
    specials = np.flatnonzero(np.isin(example["ids"], [tokenizer.cls_id, tokenizer.sep_id]))
    assert example["roles"][specials].tolist() == [0, 0, 1, 1]


def test_either_side_comes_first(small_config, tokenizer):
    config = small_config(model__language_embedding="all")
    task = tasks.bind(config, "tlm")
    examples = [task.examples(PAIR, tokenizer, np.random.default_rng(seed))[0] for seed in range(8)]
    assert {int(example["languages"][0]) for example in examples} == {1, 2}


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("words", [1, 400])
def test_very_short_and_very_long_texts_fit(name, words, small_config, tokenizer):
    config = small_config()
    languages = ("en",) if name == "mmlm" else ("en", "de")
    text = " ".join(["name"] * words)
    texts = (text,) if name in ("mmlm", "btmlm") else (text, text)
    made = tasks.bind(config, name).examples(Record(texts, languages), tokenizer, np.random.default_rng(0))
    spec = tasks.bind(config, name).spec()
    assert made
    for example in made:
        assert len(example["predict_at"]) >= 1
        for key, value in example.items():
            assert len(value) <= spec[key][0][0], key


@pytest.mark.parametrize("name", OBJECTIVES)
def test_an_unknown_piece_is_never_a_label(name, small_config, tokenizer):
    strange = "\u16a0\u16a1"  # runes, which the bundled messages do not have
    assert tokenizer.unk_id in tokenizer.encode_ids(strange)
    keys = {f"objectives__{name}__mask_ratio": 1.0} if name != "btmlm" else {"objectives__btmlm__mask_ratio": 0.9}
    languages = ("en",) if name == "mmlm" else ("en", "de")
    text = f"a {strange} name"
    record = Record((text,) if name in ("mmlm", "btmlm") else (text, text), languages)
    (example,) = tasks.bind(small_config(**keys), name).examples(record, tokenizer, np.random.default_rng(0))
    labels = example["predict_labels"].tolist()
    known = [piece for piece in tokenizer.encode_ids(text) if piece != tokenizer.unk_id]
    assert tokenizer.unk_id not in labels
    assert set(labels) <= set(known)
    assert labels == known or name != "mmlm"


def test_masking_shares():
    rng = np.random.default_rng(0)

    class Vocabulary:
        mask_id = 1000

    replacements = masking.draw_replacements(20_000, Vocabulary, rng)
    assert np.mean(replacements == 1000) == pytest.approx(0.8, abs=0.01)
    assert np.mean(replacements == IGNORE) == pytest.approx(0.1, abs=0.01)
    random = replacements[(replacements != 1000) & (replacements != IGNORE)]
    assert random.min() >= 4
    assert random.max() < 1000
    numbers = [len(masking.choose(np.arange(10), 0.15, rng)) for _ in range(4000)]
    assert np.mean(numbers) == pytest.approx(1.5, abs=0.05)
    assert min(numbers) == 1


@pytest.mark.parametrize(
    ("first", "second", "length", "kept"), [(9, 3, 8, (5, 3)), (4, 9, 7, (4, 3)), (5, 5, 7, (4, 3)), (2, 2, 9, (2, 2))]
)
def test_longest_first_truncation(first, second, length, kept):
    shortened = shorten_pair(list(range(first)), list(range(second)), length)
    assert tuple(map(len, shortened)) == kept
