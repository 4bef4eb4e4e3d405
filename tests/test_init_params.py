"""`init.params`: a run that starts from another library's checkpoint, and what is said when it cannot."""

import dataclasses

import jax
import numpy as np
import pytest

import ernie_m_jax
from ernie_m_jax import config as configs
from ernie_m_jax.checkpoint import tree
from ernie_m_jax.convert import model
from ernie_m_jax.convert.__main__ import main
from ernie_m_jax.tokenizer import Tokenizer
from ernie_m_jax.training import init_params, run, stages
from tests.conftest import small_tree

LANGUAGE = {"init__fresh": ("embeddings/language",)}


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    """Random weights as XLM-R with its lm_head, and as ErnieM; the same encoder, 1,000 entries, width 32."""
    config = dataclasses.replace(configs.resolve(small_tree()).model, language_embedding="none", num_languages=0)
    rng = np.random.default_rng(0)
    root = tmp_path_factory.mktemp("released")
    params = {}
    for name, to, keys in (
        ("xlm-r", "xlm-roberta", {"pooler": False}),
        ("ernie-m", "huggingface", {"pooler": True, "mlm_head": "none"}),
    ):
        own = dataclasses.replace(config, **keys)
        for path, shape in model.shapes(own).items():
            params.setdefault(path, rng.normal(0, 0.05, shape).astype(np.float32))
        ernie_m_jax.save(root / name, own, tree.nest({path: params[path] for path in model.shapes(own)}), to=to)
    return root, params


def started(config, tokenizer_path):
    """The parameters a run of `config` starts with, and a run's own from scratch."""
    mesh = run.sharding.make_mesh(config.mesh)
    tokenizer = Tokenizer.load(tokenizer_path)
    made = stages.Run(config, tokenizer, stages.make_model(config, mesh), mesh, {}, lambda *_: None)
    stage = stages.make_stage(config, "one", None)
    abstract = stages.abstract_state(made, stage).params
    scratch = stages.initial_state(made, stage, None).params
    found = init_params.load(config.init, config.model, tokenizer, abstract, lambda: scratch)
    jax.tree.map(lambda have, want: (have.sharding == want.sharding) or pytest.fail("misplaced"), found, abstract)
    return {name: np.asarray(x) for name, x in tree.named(found).items()}, tree.named(scratch)


@pytest.mark.parametrize("scan_layers", [True, False])
def test_from_xlm_r_with_its_lm_head(scan_layers, released, small_config, tokenizer_path):
    root, params = released
    keys = {"init__params": str(root / "xlm-r"), "compute__scan_layers": scan_layers, **LANGUAGE}
    found, scratch = started(small_config(**keys), tokenizer_path)
    for name, array in found.items():
        if name == "embeddings/language":
            np.testing.assert_array_equal(array, scratch[name])
        elif name.startswith("layers_"):
            layer, _, rest = name.partition("/")
            np.testing.assert_array_equal(array, params[f"layers/{rest}"][int(layer[-1])])
        else:
            np.testing.assert_array_equal(array, params[name])
    assert "mlm_head/dense/kernel" in found


def test_from_ernie_m_the_word_head_starts_from_scratch_only_if_named(released, small_config, tokenizer_path):
    root, params = released
    keys = {"init__params": str(root / "ernie-m"), "init__drop": ("pooler",)}
    with pytest.raises(
        configs.ConfigError, match=r"(?s)mlm_head/bias: shape \(1000,\) in this model, not in the check"
    ):
        started(small_config(**keys, **LANGUAGE), tokenizer_path)
    found, scratch = started(small_config(**keys, init__fresh=("embeddings/language", "mlm_head")), tokenizer_path)
    np.testing.assert_array_equal(found["mlm_head/dense/kernel"], scratch["mlm_head/dense/kernel"])
    np.testing.assert_array_equal(found["embeddings/word"], params["embeddings/word"])


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (
            {"init__drop": ()},
            r"pooler/dense/kernel: shape \(32, 32\) in the checkpoint, not in this model; .*init.drop",
        ),
        (
            {"model__ffn_size": 64},
            r"ffn/intermediate/kernel: shape \(2, 32, 48\) in the checkpoint, \(2, 32, 64\) in this",
        ),
        ({"model__num_heads": 2}, r"has 4 attention heads by its config, not 2 as --num_heads says"),
        ({"model__layer_norm_eps": 1e-6}, r"layer_norm_eps is 1e-06, there 1e-05"),
    ],
)
def test_what_does_not_fit_is_named(keys, message, released, small_config, tokenizer_path):
    base = {"init__params": str(released[0] / "ernie-m"), "init__drop": ("pooler",)}
    base |= {"init__fresh": ("embeddings/language", "mlm_head")}
    with pytest.raises(configs.ConfigError, match=f"(?s){message}"):
        started(small_config(**{**base, **keys}), tokenizer_path)


def test_a_checkpoint_of_another_tokenizer_is_refused(released, small_config, tokenizer, tokenizer_path, tmp_path):
    root, _ = released
    loaded = ernie_m_jax.load(root / "ernie-m")
    words = (tokenizer_path / "vocab.txt").read_text().splitlines()
    words[10], words[11] = words[11], words[10]
    other = tmp_path / "tokenizer"
    tokenizer.save(other)
    (other / "vocab.txt").write_text("\n".join(words) + "\n")
    ernie_m_jax.save(tmp_path / "model", loaded.config, loaded.params, Tokenizer.load(other), to="huggingface")
    keys = {"init__params": str(tmp_path / "model"), "init__drop": ("pooler",)}
    keys["init__fresh"] = ("embeddings/language", "mlm_head")
    with pytest.raises(configs.ConfigError, match=r"was written with tokenizer .* config\.tokenizer\.path must name"):
        started(small_config(**keys), tokenizer_path)


@pytest.mark.slow
def test_a_run_starts_from_it_trains_and_goes_back(released, small_config, tokenizer_path, tmp_path):
    """XLM-R's weights, a step at rate 0, and ErnieM's folder out: the encoder's bits have come through."""
    root, params = released
    config = small_config(
        init__params=str(root / "xlm-r"),
        tokenizer__path=str(tokenizer_path),
        stages__one__steps=1,
        stages__one__warmup_steps=0,
        stages__one__learning_rate=0.0,
        stages__one__weights={"camlm": 1.0},
        **LANGUAGE,
    )
    run.train(config, tmp_path / "run")
    arguments = ["--source", str(tmp_path / "run"), "--output", str(tmp_path / "out"), "--to", "huggingface"]
    assert main(arguments) == 2  # ErnieM has neither a language table nor a word head
    assert main([*arguments, "--drop", "embeddings/language", "mlm_head"]) == 0
    loaded = ernie_m_jax.load(tmp_path / "out")
    assert loaded.tokenizer.fingerprint == Tokenizer.load(tokenizer_path).fingerprint
    for name, array in tree.named(loaded.params).items():
        np.testing.assert_array_equal(array, params[name])
