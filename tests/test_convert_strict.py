"""What conversion does not let pass in silence: other architectures, spare parts, options, outputs."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file

import ernie_m_jax
from ernie_m_jax.convert import __main__ as cli
from ernie_m_jax.weights import checksums
from ernie_m_jax.weights.tensors import ConversionError
from tests import reference
from tests.reference import assert_same
from tests.test_convert_refused import changed

ROW = "roberta.embeddings.token_type_embeddings.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t, c: t[ROW].fill(np.nan), r"token_type_embeddings.weight in .*, shape \(1, 32\): has values"),
        (lambda t, c: t.update({ROW: t[ROW].astype(np.int64)}), "token_type_embeddings.weight: dtype int64"),
        (lambda t, c: t.update({ROW: t[ROW].repeat(2, 0)}), r"embeddings.weight: shape \(2, 32\).*needs \(1, 32\)"),
        (lambda t, c: t.pop(ROW), "token_type_embeddings.weight: missing; its only row belongs to every token"),
        (lambda t, c: c.update(model_type="bert"), "model_type is 'bert', but the tensors are xlm-roberta's"),
        (lambda t, c: c.update(architectures=["XLMRobertaXLModel"]), "class 'XLMRobertaXLModel' is unknown"),
    ],
)
def test_what_xlm_r_brings_besides_is_compared_too(change, message, tmp_path):
    with pytest.raises(ConversionError, match=f"(?s){message}"):
        ernie_m_jax.load(changed(tmp_path, change, "xlm_roberta-tiny-lm"))


def test_another_architecture_under_xlms_names(tmp_path):
    with pytest.raises(ConversionError, match="pre_norm is True; the encoder of this project has False"):
        ernie_m_jax.load(changed(tmp_path, lambda t, c: c.update(pre_norm=True), "xlm-tiny"))


def test_the_head_that_stands_on_the_pooler_keeps_it(tmp_path, capsys):
    """Old files have the encoder's pooler beside a classifier that brings its own: --ignore leaves the first out."""
    name = "roberta.pooler.dense.weight"
    folder = changed(tmp_path, lambda t, c: t.update({name: np.ones((32, 32), np.float32)}), "xlm_roberta-tiny-head")
    arguments = ["--source", str(folder), "--output", str(tmp_path / "out")]
    assert cli.main(arguments) == 2
    assert "--ignore pooler.dense.weight" in capsys.readouterr().err
    assert cli.main([*arguments, "--ignore", "pooler.dense", "--drop", "pooler"]) == 2
    assert "the head sequence_classification needs it" in capsys.readouterr().err
    assert cli.main([*arguments, "--ignore", "pooler.dense", "lm_heed"]) == 2
    assert "--ignore lm_heed: there is nothing of that name" in capsys.readouterr().err
    assert cli.main([*arguments, "--ignore", "pooler.dense"]) == 0
    expected = ernie_m_jax.load(reference.case("xlm_roberta-tiny-head").write(tmp_path / "plain"))
    assert_same(ernie_m_jax.load(tmp_path / "out").params, expected.params)


def test_a_pooler_that_the_other_class_lacks_must_be_dropped(tmp_path, capsys):
    source = reference.case("paddle-tiny-ForTokenClassification").write(tmp_path / "source")
    arguments = ["--source", str(source), "--output", str(tmp_path / "out"), "--to", "huggingface"]
    assert cli.main(arguments) == 2
    assert "ErnieMForTokenClassification has no place for these parameters:\n  pooler/" in capsys.readouterr().err
    assert cli.main([*arguments, "--drop", "pooler"]) == 0
    names = dict(reference.case("ernie_m-tiny-ForTokenClassification").facts["tensors"])
    assert set(load_file(tmp_path / "out" / "model.safetensors")) == set(names)
    back = ["--source", str(tmp_path / "out"), "--output", str(tmp_path / "back"), "--to", "paddle"]
    assert cli.main(back) == 0
    assert "without a pooler: the other library starts one from random numbers" in capsys.readouterr().out


def test_only_a_run_is_looked_into(tmp_path):
    """A model converted into a folder of the source, or a folder of models, must not be taken for what was named."""
    folder = reference.case("xlm_roberta-tiny-lm").write(tmp_path / "source")
    other = ernie_m_jax.load(reference.case("ernie_m-tiny").write(tmp_path / "other"))
    ernie_m_jax.save(folder / "mine", other.config, other.params)
    assert ernie_m_jax.load(folder).config.mlm_head == "dense"
    ernie_m_jax.save(tmp_path / "zoo" / "one", other.config, other.params)
    with pytest.raises(ConversionError, match="no weights"):
        ernie_m_jax.load(tmp_path / "zoo")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x.astype(np.int32), r"embeddings/word: dtype int32, shape \(90, 32\); allowed are float32"),
        (lambda x: x.astype(np.complex64), "embeddings/word: dtype complex64"),
        (lambda x: x * np.float32("nan"), r"embeddings/word: shape \(90, 32\), has values that are not finite"),
    ],
)
@pytest.mark.parametrize("to", ["native", "huggingface"])
def test_what_is_no_weight_is_not_saved_and_leaves_nothing(to, change, message, tmp_path):
    config, params, _ = ernie_m_jax.load(reference.case("ernie_m-tiny").write(tmp_path / "source"))
    params["embeddings"]["word"] = change(params["embeddings"]["word"])
    with pytest.raises(ConversionError, match=message):
        ernie_m_jax.save(tmp_path / "out", config, params, to=to)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source"]


def test_options_that_a_model_of_ours_contradicts(tmp_path):
    config, params, _ = ernie_m_jax.load(reference.case("ernie_m-tiny").write(tmp_path / "source"))
    ernie_m_jax.save(tmp_path / "out", config, params)
    with pytest.raises(ConversionError, match="has 4 attention heads, not 8 as --num_heads says"):
        ernie_m_jax.load(tmp_path / "out", num_heads=8)
    with pytest.raises(
        ConversionError, match="style 'bert' is unknown; an ERNIE-M tokenizer's is ernie or huggingface"
    ):
        ernie_m_jax.load(tmp_path / "out", style="bert")
    stated = json.loads((tmp_path / "out" / "config.json").read_text())
    for key, value in (("head", "zzz"), ("num_heads", 0), ("language_embedding", "zz")):
        wrong = {**stated, "model": {**stated["model"], key: value}}
        (tmp_path / "out" / "config.json").write_text(json.dumps(wrong))
        with pytest.raises(ConversionError, match=f"config.model.{key} is '?{value}"):
            ernie_m_jax.load(tmp_path / "out")


def test_digests_cover_every_tensor(tmp_path):
    config, params, _ = ernie_m_jax.load(reference.case("ernie_m-tiny").write(tmp_path / "source"))
    ernie_m_jax.save(tmp_path / "out", config, params, to="huggingface")
    path = tmp_path / "out" / checksums.FILE
    path.write_text(json.dumps({name: d for name, d in json.loads(path.read_text()).items() if "pooler" not in name}))
    with pytest.raises(ConversionError, match=r"pooler.dense.bias is in the weights, not in tensors.sha256.json"):
        ernie_m_jax.load(tmp_path / "out")
