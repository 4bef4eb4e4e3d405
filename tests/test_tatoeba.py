"""Tatoeba: contrastive losses on packed pairs, and retrieval by layer and by margin."""

import jax
import numpy as np
import pytest

from configs import base
from ernie_m_jax import config as configs
from ernie_m_jax import sharding
from ernie_m_jax import task as tasks
from ernie_m_jax.data import loader, mixture
from ernie_m_jax.evaluation import encode, retrieval
from ernie_m_jax.evaluation.runner import Evaluations
from ernie_m_jax.finetune import tatoeba
from ernie_m_jax.model import ErnieM
from ernie_m_jax.training import run, stages
from tests.conftest import small_tree

KEYS = {"layer": 1, "loss": "hardest", "temperature": 0.1, "max_length": 32}


def tree(**keys):
    own = {
        "objectives": {"tatoeba": KEYS},
        "stages__one__weights": {"tatoeba": 1.0},
        "model__mlm_head": "none",
    }
    return small_tree(**(own | keys))


@pytest.fixture(scope="module")
def setting(tokenizer):
    """A task, a model with parameters of some size, and a batch of packed rows."""
    config = configs.resolve(tree(data__sequence_length=128))
    task = tasks.bind(config, "tatoeba")
    rows = iter(loader.Loader(task, tokenizer, task.records(mixture.Sources(config))).rows(0))
    drawn = [next(rows) for _ in range(2)]
    batch = {name: np.stack([row[name] for row in drawn]) for name in drawn[0]}
    model = ErnieM(config.model, config.compute)
    params = sharding.unbox(model.init(jax.random.key(1), *stages.init_inputs())["params"])
    params = jax.tree.map(lambda leaf: leaf * 6 if leaf.ndim > 1 else leaf, params)
    return config, task, model, params, batch


def plain_vectors(model, params, batch, layer):
    """Each sentence alone in its row, mean over its tokens, unit length: [pairs, H] of both sides."""
    full = np.ones((1, 1), bool)
    encoder = jax.jit(lambda p, x: model.apply({"params": p}, x, full, method="encode", all_layers=True)[layer])
    sides = ([], [])
    for row in range(len(batch["ids"])):
        for segment in range(1, batch["segments"][row].max() + 1):
            for role in (0, 1):
                at = (batch["segments"][row] == segment) & (batch["roles"][row] == role)
                ids = batch["ids"][row][at].tolist()
                hidden = encoder(params, encode.inputs([ids], 1, KEYS["max_length"], 1, None))
                mean = np.asarray(hidden[0][: len(ids)], np.float64).mean(0)
                sides[role].append(mean / np.linalg.norm(mean))
    return tuple(np.array(side) for side in sides)


def plain_loss(first, second, keys):
    """The paper's formula by loops, or InfoNCE, summed over the pairs."""
    similar = first @ second.T / keys["temperature"]
    count, total = len(first), 0.0
    for i in range(count):
        others = [j for j in range(count) if j != i]
        if keys["loss"] == "hardest":
            s = 1 / (1 + np.exp(-similar))
            total -= 2 * np.log(s[i, i])
            total -= min(np.log(1 - s[i, j]) for j in others) + min(np.log(1 - s[j, i]) for j in others)
        else:
            rows = np.log(np.exp(similar[i]).sum()), np.log(np.exp(similar[:, i]).sum())
            total += (rows[0] + rows[1]) / 2 - similar[i, i]
    return total, count


@pytest.mark.parametrize("loss", ["hardest", "infonce"])
def test_the_loss_of_packed_pairs_is_the_formulas(loss, setting):
    config, task, model, params, batch = setting
    keys = tatoeba.TatoebaKeys(**KEYS | {"loss": loss})
    bound = tasks.Bound("tatoeba", task.task, config, keys)
    sums = jax.jit(lambda p: bound.loss(model, p, batch, jax.random.key(0), True))(params)
    total, count = plain_loss(*plain_vectors(model, params, batch, keys.layer), KEYS | {"loss": loss})
    assert count >= 4
    assert float(sums["loss"][1]) == count
    assert float(sums["loss"][0]) == pytest.approx(total, rel=1e-4)


def test_gradients_are_finite_where_a_row_has_few_pairs(setting):
    _, task, model, params, batch = setting
    alone = {name: value[:1] for name, value in batch.items()}
    alone["segments"] = np.where(alone["segments"] == 1, 1, 0)
    loss = jax.jit(lambda p: task.loss(model, p, alone, jax.random.key(0), False)["loss"][0])
    gradients = jax.grad(loss)(params)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))
    assert any((np.asarray(leaf) != 0).any() for leaf in jax.tree.leaves(gradients))


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"train__grad_accumulation_steps": 2}, "grad_accumulation_steps must be 1"),
        ({"objectives__tatoeba__layer": 3}, r"config\.objectives\.tatoeba\.layer is 3; config\.model\.num_layers is 2"),
        ({"objectives__tatoeba__max_length": 40}, r"config\.objectives\.tatoeba\.max_length 40 of two sentences"),
        ({"objectives__tatoeba__loss": "l2"}, r"config\.objectives\.tatoeba\.loss is 'l2'; allowed: hardest, infonce"),
    ],
)
def test_what_does_not_fit_is_said_with_the_config(keys, message):
    with pytest.raises(configs.ConfigError, match=message):
        configs.resolve(tree(**{"objectives": {"tatoeba": dict(KEYS)}} | keys))


@pytest.mark.slow
def test_it_trains_and_shows_every_layer(tokenizer_path, tmp_path, capsys):
    source = base.source("corpus:diagnostics/dev").to_dict()
    config = configs.resolve(
        tree(
            tokenizer__path=str(tokenizer_path),
            stages__one__steps=20,
            stages__one__learning_rate=3e-3,
            evals={"found": base.evaluation("retrieval", source=source, every_layer=True).to_dict()},
        )
    )
    numbers = run.train(config, tmp_path)
    trained = numbers["objectives"]["one"]["tatoeba"]
    assert trained["loss"] < 0.8 * trained["first_loss"]
    metrics = numbers["stages"]["one"]["evals"]["found"]
    assert metrics["layer2/average"] == metrics["average"]
    assert (tmp_path / "one" / "found-layers.csv").read_text().startswith("metric,0,1,2")
    english = {layer: metrics[f"layer{layer}/to_en"] for layer in range(3)}
    best = max(english, key=english.get)
    said = " ".join(capsys.readouterr().out.split())
    assert (
        f"to_en is best at layer {best}, {english[best]:.1f} %; the configured layer 2 has {english[2]:.1f} %" in said
    )


def test_every_layer_in_one_pass_is_each_layer_by_itself(setting, tokenizer):
    _, _, model, params, _ = setting
    texts = ["one file", "the class name is not valid", "x"]
    keys = {"pooling": "mean", "max_length": 32, "batch_size": 2}
    every = encode.encode_texts(model, params, tokenizer, texts, layer=None, **keys)
    assert every.shape == (3, 3, 32)
    for layer in range(3):
        one = encode.encode_texts(model, params, tokenizer, texts, layer=layer, **keys)
        np.testing.assert_allclose(every[layer], one, atol=1e-5)


def test_the_margin_does_not_find_what_is_near_to_everything():
    rng = np.random.default_rng(0)
    queries, candidates = (rng.normal(size=(40, 5)) + 0.5 for _ in range(2))
    queries, candidates = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (queries, candidates))
    cosines = queries @ candidates.T
    expected = []
    for i in range(40):
        of_query = np.sort(cosines[i])[-4:].mean()
        scores = [cosines[i, j] / ((of_query + np.sort(cosines[:, j])[-4:].mean()) / 2) for j in range(40)]
        expected.append(int(np.argmax(scores)))
    found = retrieval.nearest(queries, candidates, "margin")
    np.testing.assert_array_equal(found, expected)
    assert (found != retrieval.nearest(queries, candidates)).any()


def test_sets_of_two_languages_are_merged_with_gaps():
    one = retrieval.RetrievalResult(("en", "de"), np.array([[np.nan, 10.0], [20.0, np.nan]]))
    two = retrieval.RetrievalResult(("fr", "en"), np.array([[np.nan, 30.0], [40.0, np.nan]]))
    merged = retrieval.merged([one, two], ("de", "en", "fr", "ru"))
    assert merged.languages == ("de", "en", "fr")
    gap = np.nan
    np.testing.assert_array_equal(merged.matrix, [[gap, 20, gap], [10, gap, 40], [gap, 30, gap]])


def test_english_means_are_tatoebas_figure(setting, tokenizer):
    _, _, model, params, _ = setting
    source = base.source("corpus:diagnostics/dev", pairs=("en-de", "en-ru")).to_dict()
    keys = base.evaluation("retrieval", source=source).to_dict()
    evaluations = Evaluations(configs.resolve(tree(evals={"pairs": keys})))
    outcome = evaluations.evaluators["pairs"].run(model, params, tokenizer)
    metrics = outcome.metrics
    assert outcome.files == {}
    assert {name for name in metrics if ">" in name} == {"en>de", "de>en", "en>ru", "ru>en"}
    assert metrics["to_en"] == pytest.approx((metrics["de>en"] + metrics["ru>en"]) / 2)
    assert metrics["from_en"] == pytest.approx((metrics["en>de"] + metrics["en>ru"]) / 2)
    assert metrics["average"] == pytest.approx((metrics["to_en"] + metrics["from_en"]) / 2)


def test_xtremes_files_say_which_english_sentence_was_found(setting, tokenizer, tmp_path):
    _, _, model, params, _ = setting
    source = base.source("corpus:diagnostics/dev", pairs=("de-en", "en-ru")).to_dict()
    keys = base.evaluation("retrieval", source=source, paper=True, every_layer=True, layer=1).to_dict()
    evaluations = Evaluations(configs.resolve(tree(evals={"pairs": keys})))
    assert evaluations.submit(model, params, tokenizer, tmp_path) == [tmp_path / "tatoeba"]
    texts = retrieval.paired_sentences(
        configs.resolve(tree(evals={"pairs": keys})).evals["pairs"].source, ("de", "en", "ru"), "x"
    )
    for (one, other), sides in texts.items():
        code, found = (one, sides) if other == "en" else (other, sides[::-1])
        first, second = (
            encode.encode_texts(model, params, tokenizer, side, layer=1, pooling="mean", max_length=128, batch_size=64)
            for side in found
        )
        first, second = (side / np.linalg.norm(side, axis=1, keepdims=True) for side in (first, second))
        written = (tmp_path / "tatoeba" / f"test-{code}.tsv").read_text().split()
        same = np.mean(np.array(written, int) == np.argmax(first @ second.T, axis=1))
        assert len(written) == 200
        assert same > 0.98  # but for ties and rounding
