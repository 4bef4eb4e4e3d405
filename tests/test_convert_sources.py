"""Every other format that is read, under its own names, gives the same parameters."""

import dataclasses
import json
import pathlib
import pickle
import shutil
import struct
import tarfile

import numpy as np
import pytest
from safetensors.numpy import save_file

import ernie_m_jax
from ernie_m_jax.checkpoint import tree
from ernie_m_jax.convert import model
from ernie_m_jax.weights.tensors import ConversionError
from tests import reference
from tests.golden import weights
from tests.reference import assert_same, flat

FILES = pathlib.Path(__file__).parent / "golden" / "files"


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


def test_a_file_as_fairseq_saves_it():
    """VECO's and XLM-R's own: the architecture is in the file's arguments."""
    loaded = ernie_m_jax.load(FILES / "veco.pt")
    config = loaded.config
    assert (config.num_layers, config.hidden_size, config.num_heads, config.ffn_size) == (2, 8, 4, 16)
    assert (config.vocab_size, config.max_positions, config.attention_dropout, config.mlm_head) == (
        30,
        20,
        0.2,
        "dense",
    )
    name = "decoder.sentence_encoder.layers.1.fc2.weight"
    np.testing.assert_array_equal(
        loaded.params["layers"]["ffn"]["output"]["kernel"][1].T, weights.tensor(name, (8, 16))
    )


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
    """As the hub has ernie_m_base.pdparams: sizes from the tensors, 64 per head unless stated."""
    case = reference.case("paddle-tiny")
    expected = ernie_m_jax.load(case.write(tmp_path / "source"))
    shutil.copy(tmp_path / "source" / "model_state.pdparams", tmp_path / "ernie_m_base.pdparams")
    loaded = ernie_m_jax.load(tmp_path / "ernie_m_base.pdparams", num_heads=4)
    assert loaded.config.num_heads == 4
    assert_same(loaded.params, expected.params)
    with pytest.raises(ConversionError, match=r"hidden_size 32 is not a multiple of 64.*--num_heads"):
        ernie_m_jax.load(tmp_path / "ernie_m_base.pdparams")


def test_paddlenlps_older_config_keeps_the_encoders_inside(tmp_path):
    case = reference.case("paddle-tiny-ForSequenceClassification")
    folder = case.write(tmp_path / "source")
    expected = ernie_m_jax.load(folder)
    inner = dict(case.facts["config"])
    labels = inner.pop("num_labels")
    older = {"init_args": [{**inner, "init_class": "ErnieMModel"}], "init_class": case.facts["class"]}
    (folder / "config.json").unlink()
    (folder / "model_config.json").write_text(json.dumps({**older, "num_classes": labels}))
    loaded = ernie_m_jax.load(folder)
    assert loaded.config == expected.config
    assert_same(loaded.params, expected.params)


def test_a_loaded_model_encodes_text(tokenizer, tokenizer_path, tmp_path):
    """From a folder with the names of PaddleNLP's downloads to vectors, by the public functions alone."""
    case = reference.case("paddle-tiny")
    tensors = case.tensors()
    name = "embeddings.word_embeddings.weight"
    tensors[name] = weights.tensor(name, (tokenizer.vocab_size, 32))
    with (tmp_path / "ernie_m_base.pdparams").open("wb") as file:
        pickle.dump(tensors, file, protocol=2)
    for file in ("sentencepiece.bpe.model", "vocab.txt"):
        shutil.copy(tokenizer_path / file, tmp_path / f"ernie_m.{file}")
    texts, options = ["Unexpected token.", "", "Erwartet"], {"layer": 2, "max_length": 32, "batch_size": 2}
    vectors = []
    for scan_layers in (True, False):
        loaded = ernie_m_jax.load(tmp_path, num_heads=4, scan_layers=scan_layers)
        assert loaded.tokenizer.fingerprint == tokenizer.fingerprint
        vectors.append(
            ernie_m_jax.encode_texts(
                loaded.encoder(), loaded.params, loaded.tokenizer, texts, pooling="mean", **options
            )
        )
    assert vectors[0].shape == (3, 32)
    np.testing.assert_allclose(*vectors, rtol=1e-5, atol=1e-6)
    (tmp_path / "ernie_m.vocab.txt").write_bytes(b"[CLS]\n")
    with pytest.raises(ConversionError, match=r"\[PAD\] must be on line 2.*--no_tokenizer does without it"):
        ernie_m_jax.load(tmp_path, num_heads=4)
    assert ernie_m_jax.load(tmp_path, num_heads=4, with_tokenizer=False).tokenizer is None


def test_an_archive_of_a_model_of_ours_and_what_is_wrong_in_one(tmp_path):
    config, params, _ = ernie_m_jax.load(reference.case("ernie_m-tiny").write(tmp_path / "source"))
    ernie_m_jax.save(tmp_path / "model", config, params)
    with tarfile.open(tmp_path / "model.tgz", "w:gz") as archive:
        archive.add(tmp_path / "model", "model")
    assert_same(ernie_m_jax.load(tmp_path / "model.tgz").params, params)
    (tmp_path / "source" / "config.json").write_text("{")
    with tarfile.open(tmp_path / "source.tar", "w") as archive:
        archive.add(tmp_path / "source", "source")
    with pytest.raises(ConversionError, match=r"source.tar/config.json: not JSON"):
        ernie_m_jax.load(tmp_path / "source.tar")


def test_a_bias_under_either_of_its_two_names(tmp_path):
    case = reference.case("xlm_roberta-tiny-lm")
    expected = ernie_m_jax.load(case.write(tmp_path / "source"))
    tensors = case.tensors()
    tensors["lm_head.decoder.bias"] = tensors.pop("lm_head.bias")
    save_file(tensors, tmp_path / "source" / "model.safetensors")
    assert_same(ernie_m_jax.load(tmp_path / "source").params, expected.params)


def test_an_encoder_without_a_pooler(tmp_path):
    """As transformers saves ErnieMModel(add_pooling_layer=False)."""
    case = reference.case("ernie_m-tiny")
    folder = case.write(tmp_path / "source")
    tensors = {name: array for name, array in case.tensors().items() if "pooler" not in name}
    save_file(tensors, folder / "model.safetensors")
    assert not ernie_m_jax.load(folder).config.pooler
    tensors["pooler.dense.bias"] = np.ones(32, np.float32)
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(ConversionError, match=r"pooler.dense.weight: missing; .* with shape \(32, 32\)"):
        ernie_m_jax.load(folder)
