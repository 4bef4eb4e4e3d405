"""Back-translation: its examples, who sees whom while it writes, and what it writes."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ernie_m_jax import task as tasks
from ernie_m_jax.data import mixture
from ernie_m_jax.model import Inputs
from ernie_m_jax.objectives import btmlm
from ernie_m_jax.task import Record
from tests.test_objectives import DEEP, PAIR, dependence, packed_batch, parameters


@pytest.mark.slow
def test_placeholders_see_source_and_placeholders_and_the_source_only_itself(small_config, tokenizer):
    config = small_config(**DEEP)
    batch = {key: value[:1] for key, value in packed_batch("btmlm", config, tokenizer, rows=2).items()}
    model, params = parameters(config)
    inputs = Inputs.of(batch)

    depends = dependence(model, params, inputs, btmlm.GENERATION)
    segments, roles = np.asarray(batch["segments"][0]), np.asarray(batch["roles"][0])
    same = (segments[:, None] == segments[None]) & (segments[:, None] > 0)
    expected = same & ((roles[:, None] == 1) | (roles[None] == 0))
    real = segments > 0
    np.testing.assert_array_equal(depends[real], expected[real])


def test_no_gradient_flows_through_generation(small_config, tokenizer):
    config = small_config(objectives__btmlm__passes=2, data__sequence_length=112)
    batch = packed_batch("btmlm", config, tokenizer)
    model, params = parameters(config)

    # The ids are integers; their log-probabilities are what a gradient could flow through.
    def confidence(p):
        return btmlm.generate(config, config.objectives["btmlm"], model, p, batch, jax.random.key(3)).log_probs.sum()

    value, gradients = jax.jit(jax.value_and_grad(confidence))(params)
    assert value < 0
    assert all((np.asarray(leaf) == 0).all() for leaf in jax.tree.leaves(gradients))


def generated(config, model, params, batch, key):
    """Stage 1 as it runs: compiled."""
    return jax.jit(functools.partial(btmlm.generate, config, config.objectives["btmlm"], model))(params, batch, key)


def numpy_generate(config, model, params, example):
    """Stage 1 for one example: alone in its row, no jit, whole logits in numpy, argmax."""
    fields = {**example, "segments": np.ones_like(example["ids"])}
    inputs = Inputs.of({name: field[None] for name, field in fields.items()})
    with jax.disable_jit():
        hidden = model.apply({"params": params}, inputs, btmlm.GENERATION, method="encode")[0]
        transformed = model.apply({"params": params}, hidden, method=lambda module, x: module.mlm_head(x))
    logits = np.asarray(transformed, np.float64) @ np.asarray(params["embeddings"]["word"], np.float64).T
    return (logits + np.asarray(params["mlm_head"]["bias"]))[example["generate_at"]].argmax(-1)


@pytest.mark.slow
def test_generated_tokens_equal_a_plain_reference(small_config, tokenizer):
    config = small_config(compute__scan_layers=False, data__sequence_length=112)
    batch = packed_batch("btmlm", config, tokenizer)
    model, params = parameters(config)
    tokens = generated(config, model, params, batch, jax.random.key(0))
    checked = 0
    batch = {key: np.asarray(value) for key, value in batch.items()}
    for row in [0]:  # every length compiles its own reference
        for segment in range(1, batch["segments"][row].max() + 1):
            at = np.flatnonzero(batch["segments"][row] == segment)
            own = batch["generate_at"][row]
            mine = (own >= at[0]) & (own <= at[-1])
            example = {name: batch[name][row, at] for name in Inputs._fields if name in batch}
            example["generate_at"] = own[mine] - at[0]
            expected = numpy_generate(config, model, params, example)
            np.testing.assert_array_equal(np.asarray(tokens.ids)[row, mine], expected)
            checked += len(expected)
    assert checked >= 10


def test_refinement_writes_the_least_confident_again():
    log_probs = jnp.log(jnp.array([[0.9, 0.1, 0.5, 0.3, 0.2, 0.8, 0.7]]))
    segments = jnp.array([[1, 1, 1, 1, 2, 2, 0]])
    again = btmlm.least_confident(log_probs, segments, jnp.float32(0.5))
    np.testing.assert_array_equal(again[0, :6], [False, True, False, True, True, False])


@pytest.mark.slow
def test_refinement_keeps_confident_tokens_and_never_leaves_a_mask(small_config, tokenizer):
    config = small_config(objectives__btmlm__passes=1, data__sequence_length=112)
    batch = packed_batch("btmlm", config, tokenizer)
    model, params = parameters(config)
    key = jax.random.key(0)
    once = generated(config, model, params, batch, key)
    twice = generated(small_config(objectives__btmlm__passes=2, data__sequence_length=112), model, params, batch, key)
    segments = np.asarray(btmlm.segments_at(batch))
    again = np.asarray(btmlm.least_confident(once.log_probs, segments, jnp.float32(0.5)))
    kept = (segments > 0) & ~again
    np.testing.assert_array_equal(np.asarray(twice.ids)[kept], np.asarray(once.ids)[kept])
    assert kept.sum() > 5


def test_sampled_tokens_differ_by_key_and_argmax_does_not(small_config, tokenizer):
    config = small_config(objectives__btmlm__temperature=1.0, data__sequence_length=112)
    batch = packed_batch("btmlm", config, tokenizer)
    model, params = parameters(config, scale=1.0)
    one, other = (generated(config, model, params, batch, jax.random.key(seed)).ids for seed in (0, 1))
    assert (np.asarray(one) != np.asarray(other)).any()
    argmax = small_config(objectives__btmlm__temperature=0.0, data__sequence_length=112)
    one, other = (generated(argmax, model, params, batch, jax.random.key(seed)).ids for seed in (0, 1))
    np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("temperature", [0.0, 2.0])
def test_back_translation_never_writes_a_special_token(temperature, small_config, tokenizer):
    config = small_config(objectives__btmlm__temperature=temperature, data__sequence_length=112)
    batch = packed_batch("btmlm", config, tokenizer)
    model, params = parameters(config, scale=1.0)
    specials = sorted(tokenizer.special_tokens.values())
    params["mlm_head"]["bias"] = params["mlm_head"]["bias"].at[np.array(specials)].set(9.0)
    written = np.asarray(generated(config, model, params, batch, jax.random.key(0)).ids)
    assert not np.isin(written[np.asarray(btmlm.segments_at(batch)) > 0], specials).any()


def test_pseudo_sums_count_copies_of_the_own_source_only():
    batch = {
        "ids": jnp.array([[0, 10, 11, 2, 9, 2, 0, 20, 2, 9, 9, 2]]),
        "segments": jnp.array([[1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2]]),
        "roles": jnp.array([[0, 0, 0, 1, 1, 1, 0, 0, 0, 1, 1, 1]]),
        "generate_at": jnp.array([[4, 9, 10, 12]]),
    }
    tokens = btmlm.PseudoTokens(jnp.array([[10, 11, 20, 99]]), jnp.log(jnp.array([[0.5, 0.25, 0.75, 0.1]])))
    sums = btmlm.pseudo_sums(batch, tokens)
    assert [float(value) for value in sums["pseudo_novel"]] == [1.0, 3.0]
    assert [float(value) for value in sums["pseudo_confidence"]] == pytest.approx([1.5, 3.0])


def test_back_translation_example(small_config, tokenizer):
    config = small_config(objectives__btmlm__length_ratio=0.5)
    record = Record((PAIR.texts[0],), ("en", "de"))
    (example,) = tasks.bind(config, "btmlm").examples(record, tokenizer, np.random.default_rng(0))
    source = tokenizer.encode_ids(PAIR.texts[0])
    assert example["ids"][: len(source) + 2].tolist() == [0, *source, 2]
    assert len(example["generate_at"]) == round(0.5 * len(source))
    assert (example["ids"][example["generate_at"]] == tokenizer.mask_id).all()
    assert set(example["languages"][example["generate_at"]]) == {2}
    assert set(np.delete(example["languages"], example["generate_at"])) == {0}
    # In stage 2 the masked source words say their own language and the pseudo tokens, words by then, none.
    masked = example["masked_ids"] == tokenizer.mask_id
    masked[example["generate_at"]] = False
    np.testing.assert_array_equal(example["masked_languages"], np.where(masked, 1, 0))
    changed = np.flatnonzero(example["ids"] != example["masked_ids"])
    assert set(changed) <= set(example["predict_at"])
    np.testing.assert_array_equal(example["ids"][example["predict_at"]], example["predict_labels"])


def test_back_translation_writes_only_languages_that_parallel_data_pairs(small_config):
    config = small_config()
    tree = dataclasses.replace(
        config,
        data=dataclasses.replace(
            config.data,
            parallel={"some": dataclasses.replace(config.data.parallel["diagnostics"], pairs=("en-de", "en-ru"))},
        ),
    )
    groups = tasks.bind(tree, "btmlm").records(mixture.Sources(tree))
    assert set(groups) == {"en>de", "en>ru", "de>en", "ru>en"}
    assert sum(group.weight for group in groups.values()) == pytest.approx(1)
    assert groups["de>en"].records[0].languages == ("de", "en")


def test_back_translation_knows_language_codes_with_hyphens(small_config):
    config = small_config(languages=("en", "zh-cn", "pt-br"))
    groups = tasks.bind(config, "btmlm").records(mixture.Sources(config))
    assert set(groups) == {f"{a}>{b}" for a in ("en", "zh-cn", "pt-br") for b in ("en", "zh-cn", "pt-br") if a != b}


def test_restoring_from_pseudo_tokens_alone_hides_the_sources_words(small_config, tokenizer):
    keys = {"objectives__btmlm__restore_from": "pseudo", "objectives__btmlm__mask_ratio": 0.5}
    config = small_config(data__sequence_length=112, **keys)
    batch = packed_batch("btmlm", config, tokenizer)
    rows, places = np.nonzero(np.asarray(batch["predict_labels"]) >= 0)
    masked = np.asarray(batch["masked_ids"])[rows, np.asarray(batch["predict_at"])[rows, places]]
    assert (masked == tokenizer.mask_id).all()
    model, params = parameters(config)
    loss = jax.jit(functools.partial(btmlm.loss, config, config.objectives["btmlm"], model))

    def of_words(change):
        """The loss where other source words, which the generator saw as they were, are changed for stage 2."""
        kept = (batch["roles"] == btmlm.SOURCE) & (batch["masked_ids"] != tokenizer.mask_id) & (batch["segments"] > 0)
        ids = jnp.where(kept & change, 7, batch["masked_ids"])
        return float(loss(params, batch | {"masked_ids": ids}, jax.random.key(0))["loss"][0])

    assert of_words(True) == of_words(False)
    plain = small_config(data__sequence_length=112)
    loss = jax.jit(functools.partial(btmlm.loss, plain, plain.objectives["btmlm"], model))
    assert of_words(True) != of_words(False)


@pytest.mark.parametrize("embedding", ["slots", "all"])
def test_pseudo_tokens_below_the_threshold_stay_masked(embedding, small_config, tokenizer):
    plain = small_config(data__sequence_length=112, model__language_embedding=embedding)
    batch = packed_batch("btmlm", plain, tokenizer)
    at, real = np.asarray(batch["generate_at"]), np.asarray(btmlm.segments_at(batch)) > 0
    rng, threshold = np.random.default_rng(0), 0.5
    ids = rng.integers(10, 900, at.shape).astype(np.int32)
    tokens = btmlm.PseudoTokens(jnp.asarray(ids), jnp.log(rng.uniform(size=at.shape)))
    config = small_config(
        data__sequence_length=112,
        model__language_embedding=embedding,
        objectives__btmlm__confidence_threshold=threshold,
    )

    def given(config):
        return btmlm.with_pseudo(config, config.objectives["btmlm"], batch, tokens, jax.random.key(1))

    before, after = given(plain), given(config)
    sure = np.asarray(tokens.log_probs) >= np.log(threshold)
    assert 0.3 < sure[real].mean() < 0.7
    for row, place in zip(*np.nonzero(real), strict=True):
        where = row, at[row, place]
        assert before["masked_ids"][where] == tokens.ids[row, place]
        assert before["masked_languages"][where] == (0 if embedding == "slots" else batch["languages"][where])
        if sure[row, place]:
            assert after["masked_ids"][where] == tokens.ids[row, place]
            assert after["masked_languages"][where] == before["masked_languages"][where]
        else:
            assert after["masked_ids"][where] == tokenizer.mask_id
            assert after["masked_languages"][where] == batch["languages"][where] > 0
    written = np.zeros(batch["ids"].shape, bool)
    written[np.nonzero(real)[0], at[real]] = True
    for name in ("masked_ids", "masked_languages"):
        np.testing.assert_array_equal(np.asarray(after[name])[~written], np.asarray(batch[name])[~written])


@pytest.mark.parametrize("pseudo", ["shuffled", "other"])
def test_a_control_brings_the_confidence_of_what_it_writes(pseudo, small_config):
    batch, ids = two_rows()
    batch |= {name: jnp.zeros((2, 9), jnp.int32) for name in ("masked_ids", "masked_languages", "languages")}
    tokens = btmlm.PseudoTokens(ids, jnp.where(ids % 2 == 0, jnp.log(0.9), jnp.log(0.1)))  # even words are believed
    keys = {"objectives__btmlm__pseudo": pseudo, "objectives__btmlm__confidence_threshold": 0.5}
    config = small_config(**keys)
    given = btmlm.with_pseudo(config, config.objectives["btmlm"], batch, tokens, jax.random.key(1))
    written = np.asarray(given["masked_ids"])
    assert set(written.ravel()) == {0, *range(0, 6, 2), *range(8, 14, 2)}


def test_with_nothing_believed_the_loss_does_not_depend_on_what_was_written(small_config, tokenizer):
    losses = []
    for pseudo in ("own", "other"):
        keys = {"objectives__btmlm__confidence_threshold": 1.0, "objectives__btmlm__pseudo": pseudo}
        config = small_config(data__sequence_length=112, **keys)
        batch = packed_batch("btmlm", config, tokenizer)
        model, params = parameters(config)
        loss = jax.jit(functools.partial(btmlm.loss, config, config.objectives["btmlm"], model))
        losses.append(float(loss(params, batch, jax.random.key(0))["loss"][0]))
    assert losses[0] == losses[1] > 0


def two_rows():
    """Rows of two sentences with three placeholders each and padding, and a pseudo token of its own for every place."""
    batch = {
        "ids": jnp.zeros((2, 9), jnp.int32),
        "segments": jnp.array([[1, 1, 1, 1, 2, 2, 2, 2, 0]] * 2),
        "generate_at": jnp.array([[1, 2, 3, 5, 6, 7, 9, 9]] * 2),
    }
    return batch, jnp.arange(16).reshape(2, 8)


def test_controls_give_a_sentence_other_pseudo_tokens(small_config):
    batch, ids = two_rows()

    def mixed(how):
        keys = small_config(objectives__btmlm__pseudo=how).objectives["btmlm"]
        return np.asarray(btmlm.mixed(keys, batch, ids, jax.random.key(1)))

    np.testing.assert_array_equal(mixed("own"), ids)
    np.testing.assert_array_equal(mixed("other")[:, :6], ids[::-1, :6])  # the rest is padding
    fewer = batch["generate_at"].at[0, 4:].set(9)  # the first row has four
    batch = batch | {"generate_at": fewer}
    np.testing.assert_array_equal(mixed("other")[1, :6], [*ids[0, :4], *ids[1, 4:6]])
    batch, ids = {name: array[:1] for name, array in batch.items()}, ids[:1]
    with pytest.raises(ValueError, match="one row at a time"):
        mixed("other")


def test_shuffled_pseudo_tokens_stay_in_their_sentence(small_config):
    batch, ids = two_rows()
    keys = small_config(objectives__btmlm__pseudo="shuffled").objectives["btmlm"]
    shuffled = np.asarray(btmlm.mixed(keys, batch, ids, jax.random.key(1)))
    assert (shuffled != np.asarray(ids)).any()
    for part in (slice(0, 3), slice(3, 6)):
        np.testing.assert_array_equal(np.sort(shuffled[:, part], axis=1), ids[:, part])
