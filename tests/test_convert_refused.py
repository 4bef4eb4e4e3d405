"""Conversion refuses what does not match, and names the tensor with both shapes."""

import dataclasses
import json
import pathlib

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import ernie_m_jax
from ernie_m_jax.checkpoint.checkpoints import CheckpointError
from ernie_m_jax.convert import __main__ as cli
from ernie_m_jax.weights import checksums
from ernie_m_jax.weights.tensors import ConversionError
from tests import reference


def changed(tmp_path, change, name="ernie_m-tiny-ForSequenceClassification") -> pathlib.Path:
    """A checkpoint whose tensors and config `change` has changed in place."""
    case = reference.case(name)
    folder = case.write(tmp_path / "source")
    tensors, config = case.tensors(), case.config()
    change(tensors, config)
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    return folder


QUERY = "ernie_m.encoder.layers.1.self_attn.self_attn.q_proj.weight"
LINEAR = "ernie_m.encoder.layers.0.linear1.weight"
WORD = "ernie_m.embeddings.word_embeddings.weight"


def swap(tensors, config):
    tensors[LINEAR], tensors[QUERY] = tensors[QUERY], tensors[LINEAR]


def with_nan(tensors, config):
    tensors[QUERY][3, 4] = np.nan


def flipped_exponent(tensors, config):
    tensors[QUERY].view(np.uint32)[0, 0] ^= 1 << 30


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (swap, rf"{LINEAR}: shape \(32, 32\) in .*layers/ffn/intermediate/kernel needs \(128, 32\)"),
        (lambda t, c: t.pop(QUERY), r"self_attn.q_proj.weight: missing; the model has .*kernel with shape \(32, 32\)"),
        (lambda t, c: t.update(extra=np.ones((2, 3), np.float32)), r"extra: in .* with shape \(2, 3\), but no"),
        (lambda t, c: t.update({QUERY: t[QUERY][:, :8].copy()}), r"q_proj.weight: shape \(32, 8\).*needs \(32, 32\)"),
        (lambda t, c: t.update({QUERY: t[QUERY].astype(np.float64)}), "q_proj.weight: dtype float64 .*allowed are"),
        (lambda t, c: c.update(vocab_size=91), rf"{WORD}: shape \(90, 32\) in .*needs \(91, 32\)"),
        (lambda t, c: c.update(num_hidden_layers=4), r"encoder.layers.3.* missing"),
        (lambda t, c: c.update(num_hidden_layers=2), r"encoder.layers.2.*no parameter of the model"),
        (lambda t, c: c.update(max_position_embeddings=512), r"shape \(514, 32\).*needs \(512, 32\)"),
        (lambda t, c: c.update(num_attention_heads=5), "hidden_size 32 is not a multiple of its 5 heads"),
        (lambda t, c: c.update(hidden_act="relu"), "hidden_act is 'relu'; the encoder of this project has 'gelu'"),
        (lambda t, c: c.update(hidden_size="32"), "hidden_size is '32'; it must be a whole number"),
        (lambda t, c: c.update(architectures=["ErnieMForSpeech"]), "'ErnieMForSpeech' is unknown in a"),
        (lambda t, c: c.update(id2label={"0": "a"}), r"classifier.weight: shape \(3, 32\) in .*needs \(1, 32\)"),
        (lambda t, c: c.update(architectures=5), "architectures is '5'; it must be a list"),
        (lambda t, c: c.update(id2label=5), "id2label is '5'; it must be an object"),
        (lambda t, c: c.update(id2label={"0": "a", "1": "b", "3": "c"}), "id2label names 0, 1, 3; it must name each"),
        (lambda t, c: c.update(id2label={"0": "a", "1": "b", "2": 5}), "id2label gives 2 the name 5; it must be a str"),
        (lambda t, c: c.update(num_hidden_layers=10**7), r"encoder.layers.3.*missing; .* states 10000000 layers"),
        (lambda t, c: c.update(num_hidden_layers=3.0), "num_hidden_layers is '3.0'; it must be a whole number"),
        (lambda t, c: c.update(layer_norm_eps=float("nan")), "layer_norm_eps is 'nan'; it must be a number"),
        (lambda t, c: c.update(pad_token_id=90), "the padding's id 90 is not in 90 entries"),
        (lambda t, c: c.update(model_type="roberta"), "model_type is 'roberta', but the tensors are huggingface's"),
        (lambda t, c: c.update(model_type=[1]), "model_type is .*1.*, but the tensors are huggingface's"),
        (lambda t, c: t.update({WORD: t[WORD].reshape(-1)}), r"word_embeddings.weight has shape \(2880,\); it must be"),
        (lambda t, c: t.update({LINEAR[:-6] + "bias": np.ones((), np.float32)}), r"linear1.bias: shape \(\) "),
        (lambda t, c: t.update({"a\x1b[2J": np.ones(1, np.float32)}), r"a tensor has the name 'a\\x1b\[2J'"),
        (with_nan, r"q_proj.weight in .*, shape \(32, 32\): has values that are not finite"),
        (flipped_exponent, r"q_proj.weight in .*, shape \(32, 32\): has values that are not finite or above"),
    ],
)  # fmt: skip
def test_a_wrong_tensor_is_named_with_its_shapes(change, message, tmp_path):
    with pytest.raises(ConversionError, match=f"(?s){message}"):
        ernie_m_jax.load(changed(tmp_path, change))


def test_every_bit_of_what_we_wrote_is_guarded(tmp_path):
    """Neither safetensors nor Paddle's files check their content; the digests beside them do, and name the tensor."""
    config, params, _ = ernie_m_jax.load(reference.case("ernie_m-tiny").write(tmp_path / "source"))
    for to, file in (("huggingface", "model.safetensors"), ("paddle", "model_state.pdparams")):
        folder = tmp_path / to
        ernie_m_jax.save(folder, config, params, to=to)
        content = bytearray((folder / file).read_bytes())
        at = content.index(params["embeddings"]["position"].tobytes()) + 4321
        content[at] ^= 1  # the lowest bit of some number
        (folder / file).write_bytes(content)
        with pytest.raises(ConversionError, match=r"position_embeddings.weight in .*shape \(514, 32\): not what was"):
            ernie_m_jax.load(folder)
        (folder / checksums.FILE).unlink()
        ernie_m_jax.load(folder)


def test_swapped_tensors_of_one_shape_are_noticed_in_what_we_wrote(tmp_path):
    config, params, _ = ernie_m_jax.load(reference.case("ernie_m-tiny").write(tmp_path / "source"))
    ernie_m_jax.save(tmp_path / "out", config, params, to="huggingface")
    tensors = load_file(tmp_path / "out" / "model.safetensors")
    one, two = (f"encoder.layers.{i}.self_attn.self_attn.q_proj.weight" for i in (0, 1))
    tensors[one], tensors[two] = tensors[two], tensors[one]
    save_file(tensors, tmp_path / "out" / "model.safetensors")
    with pytest.raises(
        ConversionError, match=r"layers.0.self_attn.self_attn.q_proj.weight .*shape \(32, 32\): not what"
    ):
        ernie_m_jax.load(tmp_path / "out")


def test_damaged_native_models(tmp_path):
    config, params, _ = ernie_m_jax.load(reference.case("ernie_m-tiny").write(tmp_path / "source"))
    ernie_m_jax.save(tmp_path / "out", config, params)
    stated = json.loads((tmp_path / "out" / "config.json").read_text())
    wrong = {**stated, "model": {**stated["model"], "vocab_size": 91}}
    (tmp_path / "out" / "config.json").write_text(json.dumps(wrong))
    with pytest.raises(ConversionError, match=r"embeddings/word: shape \(90, 32\), the config's model has \(91, 32\)"):
        ernie_m_jax.load(tmp_path / "out")
    (tmp_path / "out" / "config.json").write_text(json.dumps(stated))
    largest = max((p for p in (tmp_path / "out").rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    content = largest.read_bytes()
    largest.write_bytes(content[:-7])
    with pytest.raises(CheckpointError, match=f"has {len(content) - 7} bytes, not the {len(content)} written"):
        ernie_m_jax.load(tmp_path / "out")
    largest.write_bytes(content[:100] + bytes([content[100] ^ 4]) + content[101:])
    with pytest.raises(CheckpointError, match="its SHA-256 is not that of what was written"):
        ernie_m_jax.load(tmp_path / "out")


def test_what_a_target_cannot_hold_is_named(tmp_path):
    config, params, _ = ernie_m_jax.load(reference.case("xlm_roberta-tiny-lm").write(tmp_path / "source"))
    with pytest.raises(
        ConversionError, match=r"(?s)ErnieMModel has no place.*mlm_head/bias: shape \(90,\).*--drop mlm_head"
    ):
        ernie_m_jax.save(tmp_path / "one", config, params, to="huggingface")
    assert not (tmp_path / "one").exists()
    arguments = ["--source", str(tmp_path / "source"), "--output", str(tmp_path / "two"), "--to", "huggingface"]
    assert cli.main([*arguments, "--drop", "mlm_head"]) == 0
    again = ernie_m_jax.load(tmp_path / "two")
    assert (again.config.mlm_head, again.config.pooler) == ("none", False)
    np.testing.assert_array_equal(again.params["embeddings"]["word"], params["embeddings"]["word"])
    config, params, _ = ernie_m_jax.load(reference.case("bert-tiny").write(tmp_path / "bert"))
    with pytest.raises(ConversionError, match=r"model\.first_position is 0; ErnieMModel computes with 2"):
        ernie_m_jax.save(tmp_path / "three", config, params, to="huggingface")
    wrong = dataclasses.replace(config, vocab_size=91)
    with pytest.raises(ConversionError, match=r"embeddings/word: shape \(90, 32\), the config's model has \(91, 32\)"):
        ernie_m_jax.save(tmp_path / "four", wrong, params)
    with pytest.raises(ConversionError, match="target 'onnx' is unknown; there are native, huggingface"):
        ernie_m_jax.save(tmp_path / "five", config, params, to="onnx")
