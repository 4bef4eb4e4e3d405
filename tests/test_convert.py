"""Conversion: round trips bit for bit, every source format, what is refused and how, and the command line."""

import dataclasses
import json
import math
import os
import pathlib
import pickle
import shutil
import struct
import subprocess
import sys
import tarfile

import numpy as np
import pytest
import reference
from safetensors.numpy import load_file, save_file

import ernie_m_jax
from ernie_m_jax.convert import __main__ as cli
from ernie_m_jax.convert import checksums, model
from ernie_m_jax.convert.tensors import ConversionError
from ernie_m_jax.training import tree
from ernie_m_jax.training.checkpoint import CheckpointError

FILES = pathlib.Path(__file__).parent / "golden" / "files"
HEADS = (
    "ForSequenceClassification",
    "ForMultipleChoice",
    "ForTokenClassification",
    "ForQuestionAnswering",
    "ForInformationExtraction",
)
ERNIE = ("ernie_m-tiny", *(f"ernie_m-tiny-{head}" for head in HEADS))


def flat(params) -> dict[str, np.ndarray]:
    return {name: np.asarray(array) for name, array in tree.named(params).items()}


def assert_same(found, expected) -> None:
    found, expected = flat(found), flat(expected)
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array, err_msg=name)


def convert(source, output, *more) -> int:
    return cli.main(["--source", str(source), "--output", str(output), *more])


# --- there and back ---


@pytest.mark.parametrize("name", ERNIE)
def test_huggingface_to_native_and_back_is_the_same_file(name, tmp_path, capsys):
    """Names, shapes and bits are those that transformers' class has: so it misses nothing and finds nothing unknown."""
    case = reference.case(name)
    source = case.write(tmp_path / "source")
    assert convert(source, tmp_path / "native") == 0
    assert convert(tmp_path / "native", tmp_path / "back", "--to", "huggingface") == 0
    assert "format huggingface" in capsys.readouterr().out
    back, original = load_file(tmp_path / "back" / "model.safetensors"), case.tensors()
    assert {key: list(array.shape) for key, array in back.items()} == dict(case.facts["tensors"])
    for key, array in original.items():
        np.testing.assert_array_equal(back[key], array, err_msg=key)
    written, stated = json.loads((tmp_path / "back" / "config.json").read_text()), case.config()
    assert written["architectures"] == [case.facts["class"]]
    assert {key: written[key] for key in stated if key not in ("id2label", "num_labels")} == {
        key: value for key, value in stated.items() if key not in ("id2label", "num_labels")
    }


@pytest.mark.parametrize("to", ["huggingface", "paddle", "native"])
@pytest.mark.parametrize("name", ERNIE)
def test_native_there_and_back_is_bit_exact(name, to, tmp_path):
    config, params, _ = ernie_m_jax.load(reference.case(name).write(tmp_path / "source"))
    ernie_m_jax.save(tmp_path / "there", config, params, to=to)
    again = ernie_m_jax.load(tmp_path / "there")
    assert again.config == config
    assert_same(again.params, params)


@pytest.mark.parametrize("name", [name for name in reference.NAMES if name.startswith("paddle-tiny")])
def test_paddle_to_native_and_back_is_the_same_file(name, tmp_path):
    case = reference.case(name)
    config, params, _ = ernie_m_jax.load(case.write(tmp_path / "source"))
    ernie_m_jax.save(tmp_path / "back", config, params, to="paddle")
    with (tmp_path / "back" / "model_state.pdparams").open("rb") as file:
        back = pickle.load(file)
    assert back.pop("StructuredToParameterName@@") == {key: key for key in back}
    assert {key: list(array.shape) for key, array in back.items()} == dict(case.facts["tensors"])
    for key, array in case.tensors().items():
        np.testing.assert_array_equal(back[key], array, err_msg=key)
    assert json.loads((tmp_path / "back" / "config.json").read_text())["architectures"] == [case.facts["class"]]


def test_the_xlm_roberta_target_has_its_names(tmp_path):
    case = reference.case("xlm_roberta-tiny-lm")
    config, params, _ = ernie_m_jax.load(case.write(tmp_path / "source"))
    ernie_m_jax.save(tmp_path / "out", config, params, to="xlm-roberta")
    written = load_file(tmp_path / "out" / "model.safetensors")
    assert {key: list(array.shape) for key, array in written.items()} == dict(case.facts["tensors"])
    assert not written["roberta.embeddings.token_type_embeddings.weight"].any()
    again = ernie_m_jax.load(tmp_path / "out")
    assert again.config == config
    assert_same(again.params, params)


def test_scanned_and_unrolled_parameters_are_saved_alike(tmp_path):
    source = reference.case("ernie_m-tiny").write(tmp_path / "source")
    config, stacked, _ = ernie_m_jax.load(source)
    _, unrolled, _ = ernie_m_jax.load(source, scan_layers=False)
    assert {"layers_0", "layers_1", "layers_2"} < set(unrolled)
    np.testing.assert_array_equal(
        unrolled["layers_1"]["ffn"]["output"]["kernel"], stacked["layers"]["ffn"]["output"]["kernel"][1]
    )
    for to in ("huggingface", "native"):
        ernie_m_jax.save(tmp_path / to, config, unrolled, to=to)
        assert_same(ernie_m_jax.load(tmp_path / to).params, stacked)
        assert_same(ernie_m_jax.load(tmp_path / to, scan_layers=False).params, unrolled)


# --- other sources ---


def fluid_name(name: str) -> str:
    """The 2021 code's variable for PaddleNLP's parameter, after the table in the code's own names."""
    parts = name.split(".")
    kind = {"weight": "w_0", "bias": "b_0"}[parts[-1]]
    norm = {"weight": "scale", "bias": "bias"}[parts[-1]]
    if name.startswith("embeddings.layer_norm"):
        return f"pre_encoder_layer_norm_{norm}"
    if name.startswith("pooler"):
        return f"pooled_fc.{kind}"
    if parts[0] == "embeddings":
        return {"word_embeddings": "word_embedding", "position_embeddings": "pos_embedding"}[parts[1]]
    if parts[0] == "classifier":
        return f"cls_out_{parts[-1][0]}"
    layer, letters = f"encoder_layer_{parts[2]}", {"q": "query", "k": "key", "v": "value", "o": "output"}
    if parts[3] == "self_attn":
        return f"{layer}_multi_head_att_{letters[parts[4][0]]}_fc.{kind}"
    if parts[3].startswith("norm"):
        return f"{layer}_post_{'att' if parts[3] == 'norm1' else 'ffn'}_layer_norm_{norm}"
    return f"{layer}_ffn_fc_{0 if parts[3] == 'linear1' else 1}.{kind}"


def write_variable(path: pathlib.Path, array: np.ndarray) -> None:
    """A Paddle variable's file: versions, no levels, the description, the data."""
    dims = b"".join(b"\x10" + varint(size) for size in array.shape)
    description = b"\x08\x05" + dims
    head = struct.pack("<IQIi", 0, 0, 0, len(description))
    path.write_bytes(head + description + array.astype("<f4").tobytes())


def varint(value: int) -> bytes:
    out = b""
    while value > 127:
        out, value = out + bytes([value & 127 | 128]), value >> 7
    return out + bytes([value])


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("head", ["", "-ForSequenceClassification"])
def test_the_2021_params_folder_and_its_archive(head, packed, tokenizer_path, tmp_path):
    case = reference.case(f"paddle-tiny{head}")
    expected = ernie_m_jax.load(case.write(tmp_path / "paddle"))
    root = tmp_path / "ernie-m"
    params = root / "base" / "params"
    params.mkdir(parents=True)
    for name, array in case.tensors().items():
        write_variable(params / fluid_name(name.removeprefix("ernie_m.")), array)
    write_variable(params / "learning_rate_0", np.zeros(1, np.float32))
    keys = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "max_position_embeddings")
    keys += ("hidden_dropout_prob", "attention_probs_dropout_prob")
    stated = {key: case.facts["config"][key] for key in keys} | {"hidden_act": "gelu"}
    (root / "base" / "ernie_config.json").write_text(json.dumps(stated))
    source = root
    if packed:
        source = tmp_path / "ernie-m.tar.gz"
        with tarfile.open(source, "w:gz") as archive:
            archive.add(root, "ernie-m")
    loaded = ernie_m_jax.load(source)
    assert dataclasses.replace(loaded.config, num_labels=3) == dataclasses.replace(expected.config, num_labels=3)
    assert_same(loaded.params, expected.params)
    assert loaded.tokenizer is None
    assert_same(ernie_m_jax.load(params, num_heads=4).params, expected.params)
    if not packed:  # the names of the tokenizer's files there; too many entries for this model
        shutil.copy(tokenizer_path / "sentencepiece.bpe.model", root / "piece.model")
        shutil.copy(tokenizer_path / "vocab.txt", root / "vocab.txt")
        with pytest.raises(
            ConversionError, match=r"word_embedding: shape \(90, 32\).*has 1000 entries: shape \(1000, 32\)"
        ):
            ernie_m_jax.load(source)


FAIRSEQ = {
    "embeddings.word_embeddings": "embed_tokens",
    "embeddings.position_embeddings": "embed_positions",
    "embeddings.LayerNorm": "emb_layer_norm",
    "attention.self.query": "self_attn.q_proj",
    "attention.self.key": "self_attn.k_proj",
    "attention.self.value": "self_attn.v_proj",
    "attention.output.dense": "self_attn.out_proj",
    "attention.output.LayerNorm": "self_attn_layer_norm",
    "intermediate.dense": "fc1",
    "output.dense": "fc2",
    "output.LayerNorm": "final_layer_norm",
    "encoder.layer.": "layers.",
}


@pytest.mark.parametrize("form", ["veco", "newer", "packed projections"])
def test_fairseq_names(form, tmp_path):
    """VECO's and XGLUE-Unicoder's names: XLM-R's numbers under them must give the same parameters."""
    case = reference.case("xlm_roberta-tiny-lm")
    original = case.tensors()
    row = original.pop("roberta.embeddings.token_type_embeddings.weight")
    original["roberta.embeddings.position_embeddings.weight"] += row  # fairseq has no token types
    tensors = {}
    for name, array in original.items():
        short = name.removeprefix("roberta.")
        for theirs, own in FAIRSEQ.items():
            short = short.replace(theirs, own)
        inside = "" if short.startswith("lm_head") else "sentence_encoder."
        tensors[("encoder." if form == "newer" else "decoder.") + inside + short] = array
    tensors = {name.replace("emb_layer_norm", "layernorm_embedding") if form == "newer" else name: array
               for name, array in tensors.items()}  # fmt: skip
    if form == "packed projections":
        for layer in range(3):
            for kind in ("weight", "bias"):
                stem = f"decoder.sentence_encoder.layers.{layer}.self_attn."
                parts = [tensors.pop(f"{stem}{letter}_proj.{kind}") for letter in "qkv"]
                tensors[f"{stem}in_proj_{kind}"] = np.concatenate(parts)
    start = "encoder." if form == "newer" else "decoder."
    tensors[f"{start}lm_head.weight"] = tensors[f"{start}sentence_encoder.embed_tokens.weight"]
    tensors[f"{start}sentence_encoder.version"] = np.array([3.0], np.float32)
    save_file(tensors, tmp_path / "model.safetensors")
    loaded = ernie_m_jax.load(tmp_path, num_heads=4)
    expected = ernie_m_jax.load(case.write(tmp_path / "hf"))
    keys = ("hidden_dropout", "attention_dropout")
    assert loaded.config == dataclasses.replace(expected.config, **dict.fromkeys(keys, 0.1))
    assert_same(loaded.params, expected.params)
    tensors[f"{start}lm_head.weight"] = tensors[f"{start}lm_head.weight"] + 1
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(ConversionError, match=rf"{start}lm_head.weight: shape \(90, 32\).*must equal .*embed_tokens"):
        ernie_m_jax.load(tmp_path, num_heads=4)


@pytest.mark.parametrize("folder", ["bert_safetensors", "bert_safetensors_sharded", "bert_bin", "bert_bin_sharded"])
def test_files_that_transformers_wrote(folder):
    """One BERT in all of its library's files: whole, in shards, safetensors and PyTorch's."""
    with np.load(FILES / "bert.npz") as file:
        expected = dict(file)
    loaded = ernie_m_jax.load(FILES / folder)
    found = flat(loaded.params)
    np.testing.assert_array_equal(
        found["embeddings/word"], expected[next(name for name in expected if "word_embeddings" in name)]
    )
    kernel = expected[next(name for name in expected if name.endswith("layer.0.intermediate.dense.weight"))]
    np.testing.assert_array_equal(found["layers/ffn/intermediate/kernel"][0], kernel.T)
    assert sum(array.size for array in found.values()) > 0


def test_half_precision_is_widened_exactly(tmp_path):
    case = reference.case("ernie_m-tiny")
    folder = case.write(tmp_path / "source")
    halves = {name: array.astype(np.float16) for name, array in case.tensors().items()}
    save_file(halves, folder / "model.safetensors")
    params = ernie_m_jax.load(folder).params
    word = halves["embeddings.word_embeddings.weight"]
    np.testing.assert_array_equal(params["embeddings"]["word"], word.astype(np.float32))
    assert params["embeddings"]["word"].dtype == np.float32


def test_older_names_of_bert(tmp_path):
    """The released mBERT calls LayerNorm's parameters gamma and beta and carries position ids and a task's head."""
    case = reference.case("bert-tiny-lm")
    expected = ernie_m_jax.load(case.write(tmp_path / "source")).params
    older = {name.replace("Norm.weight", "Norm.gamma").replace("Norm.bias", "Norm.beta"): array
             for name, array in case.tensors().items()}  # fmt: skip
    older["bert.embeddings.position_ids"] = np.arange(512)[None]
    older["cls.predictions.decoder.weight"] = older["bert.embeddings.word_embeddings.weight"]
    save_file(older, tmp_path / "source" / "model.safetensors")
    with model.open_source(tmp_path / "source") as source:
        assert "cls.seq_relationship.weight" in source.left_out
        assert_same(tree.nest(dict(source.read())), expected)


def test_a_paddle_file_without_any_config(tmp_path):
    """As the hub has ernie_m_base.pdparams: sizes from the tensors, 64 a head unless told."""
    case = reference.case("paddle-tiny")
    expected = ernie_m_jax.load(case.write(tmp_path / "source"))
    shutil.copy(tmp_path / "source" / "model_state.pdparams", tmp_path / "ernie_m_base.pdparams")
    loaded = ernie_m_jax.load(tmp_path / "ernie_m_base.pdparams", num_heads=4)
    assert loaded.config.num_heads == 4
    assert_same(loaded.params, expected.params)
    with pytest.raises(ConversionError, match=r"hidden_size 32 is not a multiple of 64.*--num_heads"):
        ernie_m_jax.load(tmp_path / "ernie_m_base.pdparams")


# --- what is refused ---


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
        (lambda t, c: c.update(hidden_size="32"), "hidden_size .*is '32'; it must be a number"),
        (lambda t, c: c.update(architectures=["ErnieMForSpeech"]), "'ErnieMForSpeech' is unknown; known are"),
        (lambda t, c: c.update(id2label={"0": "a"}), r"classifier.weight: shape \(3, 32\) in .*needs \(1, 32\)"),
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
    with pytest.raises(ConversionError, match=r"embeddings/word: shape \(90, 32\), config.json's model has \(91, 32\)"):
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
    assert convert(tmp_path / "source", tmp_path / "two", "--to", "huggingface", "--drop", "mlm_head") == 0
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


# --- the tokenizer that goes with a model ---


def test_the_tokenizer_goes_along(tokenizer, tokenizer_path, tmp_path):
    case = reference.case("ernie_m-tiny")
    config = dataclasses.replace(ernie_m_jax.load(case.write(tmp_path / "tiny")).config, vocab_size=1000)
    rng = np.random.default_rng(0)
    params = {name: rng.normal(size=shape).astype(np.float32) for name, shape in model.shapes(config).items()}
    ernie_m_jax.save(tmp_path / "native", config, tree.nest(params), tokenizer)
    for to in ("huggingface", "paddle"):
        assert convert(tmp_path / "native", tmp_path / to, "--to", to) == 0
        for name in ("sentencepiece.bpe.model", "vocab.txt"):
            assert (tmp_path / to / name).read_bytes() == (tokenizer_path / name).read_bytes()
        assert json.loads((tmp_path / to / "tokenizer_config.json").read_text())["tokenizer_class"] == "ErnieMTokenizer"
        loaded = ernie_m_jax.load(tmp_path / to)
        assert loaded.tokenizer.fingerprint == tokenizer.fingerprint
        assert ernie_m_jax.load(tmp_path / to, style="huggingface").tokenizer.style == "huggingface"
    assert convert(tmp_path / "native", tmp_path / "none", "--to", "huggingface", "--no_tokenizer") == 0
    assert not (tmp_path / "none" / "vocab.txt").exists()
    with pytest.raises(ConversionError, match=r"style 'ernie' has no class in xlm-roberta.*--no_tokenizer"):
        ernie_m_jax.save(tmp_path / "x", config, tree.nest(params), tokenizer, to="xlm-roberta")


# --- the command line ---


def run(*arguments) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "ernie_m_jax.convert", *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": str(pathlib.Path(__file__).parents[1])}
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=120)


def test_the_command_line(tmp_path):
    source = reference.case("ernie_m-tiny").write(tmp_path / "source")
    done = run("--source", source, "--output", tmp_path / "out")
    assert (done.returncode, done.stderr) == (0, "")
    assert "format huggingface" in done.stdout
    assert "3 layers, width 32, 4 heads, vocabulary 90" in done.stdout
    count = sum(math.prod(shape) for _, shape in reference.case("ernie_m-tiny").facts["tensors"])
    assert f"native, {count:,} parameters" in done.stdout
    done = run("--source", source, "--output", tmp_path / "out")
    assert done.returncode == 2
    assert (
        done.stderr
        == f"error: {tmp_path / 'out'}: is there already and not empty; choose another output or remove it\n"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--source", "nowhere", "--output", "out"], "nowhere: no such file"),
        (
            ["--source", "{source}", "--output", "out", "--format", "paddle"],
            "not a paddle checkpoint: it has no tensor",
        ),
        (["--source", "{source}", "--output", "{source}"], "is there already and not empty"),
        (["--source", "{source}", "--output", "out", "--drop", "embeddings/word"], "there is no model"),
        (["--source", "{source}", "--output", "out", "--num_heads", "-1"], "must be positive"),
        (["--source", "{source}", "--output", "out", "--num_heads", "5"], "not a multiple"),
    ],
)
def test_errors_on_the_command_line_are_one_message_and_status_2(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    source = reference.case("ernie_m-tiny").write(tmp_path / "source")
    assert cli.main([argument.format(source=source) for argument in arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert not (tmp_path / "out").exists()
