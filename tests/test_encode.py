import dataclasses
import re

import flax.linen as nn
import jax
import numpy as np
import pytest

from ernie_m_jax import sharding, tokenizer
from ernie_m_jax.config import ComputeConfig, ConfigError, MeshConfig, ModelConfig
from ernie_m_jax.data.records import DataError
from ernie_m_jax.evaluation import encode
from ernie_m_jax.model import depth
from ernie_m_jax.model.encoder import ErnieM, Inputs

MAX_LENGTH = 40
LINES = [
    "the quick brown fox jumps over the lazy dog",
    "der schnelle braune Fuchs springt über den faulen Hund",
    "le renard brun saute par-dessus le chien paresseux",
    "a house, a garden, a tree and a river",
    "ein Haus, ein Garten, ein Baum und ein Fluss",
]
LONG = " ".join(LINES)  # more than MAX_LENGTH tokens
TEXTS = [LINES[0], "", "fox", LONG, "fox", LINES[0], "", "fox", LONG]
COMPUTE = ComputeConfig(dtype="float32", scan_layers=True, remat="none", attention="xla", vocab_chunk=0)


@pytest.fixture(scope="module", autouse=True)
def _quick_compilation():
    """The models here run for microseconds and compile for seconds."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="module")
def pieces(tmp_path_factory):
    return tokenizer.train(LINES * 4, 70, tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def make(pieces):
    config = ModelConfig(
        vocab_size=pieces.vocab_size,
        hidden_size=32,
        num_layers=2,
        num_heads=4,
        ffn_size=64,
        max_positions=66,
        first_position=2,
        pad_id=pieces.pad_id,
        layer_norm_eps=1e-5,
        initializer_range=0.02,
        hidden_dropout=0.1,
        attention_dropout=0.1,
        num_languages=3,
        language_embedding="slots",
        num_token_types=0,
        pooler=False,
        mlm_head="dense",
        head="none",
        num_labels=2,
    )

    def build(**compute):
        model = ErnieM(config, dataclasses.replace(COMPUTE, **compute))
        shapes = nn.unbox(jax.eval_shape(lambda key: model.init(key, single([0, 2]), FULL), jax.random.key(0)))[
            "params"
        ]
        rng = np.random.default_rng(0)
        return model, jax.tree.map(lambda leaf: rng.normal(scale=0.3, size=leaf.shape).astype(leaf.dtype), shapes)

    return build


@pytest.fixture(scope="module")
def model_and_params(make):
    return make()


FULL = np.ones((1, 1), bool)


def single(ids):
    """One unpadded sentence as the encoder's input."""
    row = np.array([ids], np.int32)
    zeros = np.zeros_like(row)
    return Inputs(row, np.arange(len(ids), dtype=np.int32)[None], np.ones_like(row), zeros, zeros)


def all_layers(model, params, ids):
    """Hidden states of every layer, [layers + 1, L, H], of one sentence alone, without padding."""
    run = jax.jit(lambda inputs: model.apply({"params": params}, inputs, FULL, all_layers=True, method="encode"))
    return np.asarray(run(single(ids)))[:, 0]


@pytest.fixture(scope="module")
def layers_of(model_and_params, pieces):
    ids = {text: [0, *pieces.encode(text).ids[: MAX_LENGTH - 2], 2] for text in set(TEXTS)}
    return {text: all_layers(*model_and_params, row) for text, row in ids.items()}


POOLS = {
    "mean": lambda hidden: hidden.sum(axis=0) / len(hidden),
    "cls": lambda hidden: hidden[0],
    "max": lambda hidden: np.array([column.max() for column in hidden.T]),
}


def run(model_and_params, pieces, texts=TEXTS, **changes):
    keys = {"layer": -1, "pooling": "mean", "max_length": MAX_LENGTH, "batch_size": 4} | changes
    return encode.encode_texts(*model_and_params, pieces, texts, **keys)


def test_the_texts_of_this_file_meet_several_lengths_and_truncation(pieces):
    lengths = [len(pieces.encode_single(text)) for text in TEXTS]
    assert min(lengths) == 2
    assert max(lengths) > MAX_LENGTH
    assert len(pieces.encode_single(LINES[0])) not in (16, MAX_LENGTH)  # so it is padded


@pytest.mark.parametrize(("layer", "pooling"), [(0, "max"), (1, "cls"), (2, "mean"), (-1, "mean")])
def test_vectors_equal_those_of_each_text_alone_without_padding(layer, pooling, model_and_params, pieces, layers_of):
    vectors = run(model_and_params, pieces, layer=layer, pooling=pooling)
    assert vectors.dtype == np.float32
    expected = np.stack([POOLS[pooling](layers_of[text][layer]) for text in TEXTS])
    np.testing.assert_allclose(vectors, expected, atol=1e-5)


def test_unrolled_layers_give_the_right_layer_too(make, pieces):
    model, params = make(scan_layers=False)
    hidden = all_layers(model, params, pieces.encode_single("fox"))
    vectors = run((model, params), pieces, ["fox"], layer=1)
    np.testing.assert_allclose(vectors[0], hidden[1].mean(axis=0), atol=1e-5)


def test_batch_size_and_order_do_not_matter(model_and_params, pieces):
    expected = run(model_and_params, pieces)
    backwards = run(model_and_params, pieces, TEXTS[::-1], batch_size=16)
    np.testing.assert_allclose(backwards, expected[::-1], atol=1e-5)
    assert run(model_and_params, pieces, []).shape == (0, 32)


def test_a_second_call_traces_nothing(model_and_params, pieces, monkeypatch):
    traces = []
    hidden = depth.hidden
    monkeypatch.setattr(depth, "hidden", lambda *args: traces.append(args[2].ids.shape) or hidden(*args))
    model, params = model_and_params
    first = run((model, params), pieces, batch_size=5)
    assert sorted(traces) == [(5, 16), (5, MAX_LENGTH)]  # once a length
    other = jax.tree.map(lambda x: x + 0.01, params)
    again = ErnieM(model.config, model.compute)
    second = run((again, other), pieces, TEXTS[::-1], batch_size=5)
    assert len(traces) == 2
    assert np.abs(second[::-1] - first).max() > 1e-4  # new parameters were used, not baked-in ones


def test_rows_spread_over_a_mesh_give_the_same_vectors(model_and_params, pieces, layers_of):
    model, params = model_and_params
    mesh = sharding.make_mesh(MeshConfig(data=-1, fsdp=1, tensor=1))
    params = jax.device_put(params, sharding.replicated(mesh))
    with jax.transfer_guard("disallow"):
        vectors = run((model, params), pieces, ["fox", ""], batch_size=3)
    expected = [layers_of[text][-1].mean(axis=0) for text in ("fox", "")]
    np.testing.assert_allclose(vectors, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layer": 3}, r"layer 3 \(config.encode.layer\) is out of range: 0 .* to 2 .*-1"),
        ({"layer": -2}, "layer -2 .* is out of range: 0 .* to 2"),
        ({"pooling": "sum"}, r"pooling \(config.encode.pooling\) is 'sum'; allowed: mean, cls, max"),
        ({"max_length": 65}, "max_length .* is 65; the model has positions for 64 tokens"),
        ({"max_length": 1}, "max_length .* is 1; it must be at least 2"),
        ({"batch_size": 0}, "batch_size .* is 0; it must be at least 1"),
    ],
)
def test_arguments_out_of_range_are_refused(changes, message, model_and_params, pieces):
    with pytest.raises(ConfigError, match=message):
        run(model_and_params, pieces, **changes)


def run_file(source, target, model_and_params, pieces, **changes):
    model, params = model_and_params
    keys = {"layer": -1, "pooling": "mean", "max_length": MAX_LENGTH, "batch_size": 4} | changes
    return encode.encode_file(source, target, model=model, params=params, tokenizer=pieces, **keys)


@pytest.mark.parametrize(("end", "mark"), [("\n", b""), ("\r\n", b""), ("", b"\xef\xbb\xbf")])
def test_a_file_becomes_an_array_with_a_row_for_each_line(end, mark, tmp_path, model_and_params, pieces, monkeypatch):
    monkeypatch.setattr(encode, "CHUNK_LINES", 4)
    source, target = tmp_path / "in.txt", tmp_path / "deep" / "out.npy"
    source.write_bytes(mark + ("\r\n" if end == "\r\n" else "\n").join(TEXTS).encode() + end.encode())
    assert run_file(source, target, model_and_params, pieces) == (len(TEXTS), 32)
    array = np.load(target)
    assert array.dtype == np.float32
    np.testing.assert_allclose(array, run(model_and_params, pieces), atol=1e-5)
    assert [path.name for path in target.parent.iterdir()] == ["out.npy"]


def test_a_bad_file_is_named_and_leaves_no_output(tmp_path, model_and_params, pieces):
    source, target = tmp_path / "in.txt", tmp_path / "out.npy"
    target.write_bytes(b"old")
    with pytest.raises(FileNotFoundError, match=re.escape(str(source))):
        run_file(source, target, model_and_params, pieces)
    source.write_bytes(b"")
    with pytest.raises(DataError, match="is empty"):
        run_file(source, target, model_and_params, pieces)
    source.write_bytes(b"good\nb\xffad\n")
    with pytest.raises(DataError, match=re.escape(f"{source}:2: not valid UTF-8")):
        run_file(source, target, model_and_params, pieces)
    source.write_bytes(b"good\n")
    for changes in ({"layer": 7}, {"pooling": "sum"}):
        with pytest.raises(ConfigError, match=r"layer 7|pooling .* is 'sum'"):
            run_file(source, target, model_and_params, pieces, **changes)
    with pytest.raises(ConfigError, match="must end in"):
        run_file(source, tmp_path / "out.txt", model_and_params, pieces)
    assert target.read_bytes() == b"old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.txt", "out.npy"]


def test_a_failure_half_way_leaves_no_file(tmp_path, model_and_params, pieces, monkeypatch):
    source, target = tmp_path / "in.txt", tmp_path / "out.npy"
    source.write_text("one\ntwo\nthree\n")

    def fail(*args, **keys):
        raise RuntimeError("device lost")

    monkeypatch.setattr(encode, "encode_texts", fail)
    with pytest.raises(RuntimeError, match="device lost"):
        run_file(source, target, model_and_params, pieces)
    assert [path.name for path in tmp_path.iterdir()] == ["in.txt"]
