"""Properties that hold for any input: what is written is read again, and any text is tokenized."""

import json
import tempfile
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some
from hypothesis.extra import numpy as some_arrays

from ernie_m_jax import config as configs
from ernie_m_jax.config import SourceConfig
from ernie_m_jax.data import array_records, prepared, records
from ernie_m_jax.data.records import DataError
from ernie_m_jax.task import Record
from ernie_m_jax.tokenizer import Tokenizer
from ernie_m_jax.weights.open import open_weights
from ernie_m_jax.weights.paddle_files import write_pdparams
from ernie_m_jax.weights.safetensors_files import write_safetensors
from tests.conftest import small_tree

GOLDEN = Path(__file__).parent / "golden" / "tokenizer"
STYLES = {"ernie": "ernie_m", "huggingface": "ernie_m", "bert": "bert", "xlm": "xlm", "xlm-roberta": "ernie_m"}
FEW = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
ANY_TEXT = some.text(some.characters(exclude_categories=["Cs"]), max_size=60)
TYPES = ("?", "i1", "u1", "i2", "i4", "i8", "f2", "f4", "f8")


@pytest.fixture(scope="module", params=STYLES)
def any_style(request):
    return Tokenizer.load(GOLDEN / STYLES[request.param], request.param)


@FEW
@given(text=ANY_TEXT)
def test_any_text_is_tokenized_and_offsets_lie_within_it(any_style, text):
    ids = any_style.encode_ids(text)
    assert all(0 <= index < any_style.vocab_size for index in ids)
    assert isinstance(any_style.decode(ids), str)
    if any_style.style == "xlm":
        return
    encoding = any_style.encode(text)
    assert encoding.ids == ids
    assert all(0 <= start <= end <= len(text) for start, end in encoding.offsets)
    assert encoding.offsets == sorted(encoding.offsets)


@FEW
@given(text=some.text(some.characters(categories=["Cs", "L"]), min_size=1, max_size=10))
def test_half_a_pair_of_surrogates_is_refused_by_name(any_style, text):
    if any("\ud800" <= character <= "\udfff" for character in text):
        with pytest.raises(ValueError, match="lone surrogate"):
            any_style.encode_ids(text)
    else:
        assert any_style.encode_ids(text)


@FEW
@given(
    steps=some.integers(2, 2**40),
    rate=some.floats(1e-6, 1.0),
    languages=some.lists(some.from_regex(r"[a-z]{2}", fullmatch=True), min_size=1, max_size=5, unique=True),
    dropout=some.floats(0, 0.5),
)
def test_a_config_that_is_printed_is_read_again(steps, rate, languages, dropout):
    tree = small_tree(languages=tuple(languages), model__hidden_dropout=dropout, objectives__tlm__mask_ratio=0.5)
    tree["data"]["monolingual"]["diagnostics"]["languages"] = ()
    tree["stages"]["one"] |= {"steps": steps, "learning_rate": rate, "weights": {"mmlm": 1.0}}
    config = configs.resolve(tree)
    assert configs.resolve(json.loads(json.dumps(configs.to_dict(config)))) == config


@FEW
@given(lines=some.lists(ANY_TEXT.filter(lambda text: "\n" not in text), min_size=1, max_size=8))
def test_lines_that_are_written_are_read(lines):
    wanted = [line.strip() for line in lines if line.strip()]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "en.txt")
        path.write_bytes("\n".join(lines).encode())
        keys = SourceConfig(str(path), "auto", (), (), (), "train")
        try:
            found = records.open_source("x", keys, ("en",), "monolingual")["en"]
        except DataError:
            assert not wanted
            return
        read = [found[index].texts[0] for index in range(len(found))]
    if lines[0].startswith("\ufeff"):  # a byte order mark
        read, wanted = read[1:], wanted[1:]
    assert read == wanted


FIELDS = some.recursive(
    some.none() | some.booleans() | some.integers(-(2**60), 2**60) | some.text(max_size=5),
    lambda inner: (
        some.lists(inner, max_size=3)
        | some.lists(inner, max_size=3).map(tuple)
        | some.dictionaries(some.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=6,
)


@FEW
@given(
    rows=some.lists(
        some.tuples(ANY_TEXT, ANY_TEXT, some.dictionaries(some.text(max_size=3), FIELDS, max_size=3)),
        min_size=1,
        max_size=4,
    )
)
def test_records_that_are_prepared_are_read(rows):
    wanted = [Record((first, second), ("en", "de"), fields) for first, second, fields in rows]
    with tempfile.TemporaryDirectory() as folder:
        writer = prepared.Writer(folder)
        writer.add("train-en.array_record", array_records.record_lines(wanted), {})
        writer.finish("own", (), "raw")
        found = prepared.open_split(folder, "own", "train", ("en",), ())["en"]
        assert [found[index] for index in range(len(found))] == wanted


NAMES = some.text(some.characters(categories=["L", "N", "P"]), min_size=1, max_size=8)
ARRAYS = some.dictionaries(
    NAMES,
    some.sampled_from(TYPES).flatmap(
        lambda kind: some_arrays.arrays(kind, some_arrays.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3))
    ),
    min_size=1,
    max_size=4,
)


@pytest.mark.parametrize(("name", "write"), [("x.safetensors", write_safetensors), ("x.pdparams", write_pdparams)])
@FEW
@given(arrays=ARRAYS, half=some.booleans())
def test_arrays_that_are_written_are_read(name, write, arrays, half):
    if half:
        arrays = {**arrays, "half": np.arange(3).astype(ml_dtypes.bfloat16)}
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder, name), arrays)
        found = {key: tensor.read() for key, tensor in open_weights(Path(folder, name)).tensors.items()}
    assert found.keys() == arrays.keys()
    for key, array in arrays.items():
        assert (found[key].dtype, found[key].shape, found[key].tobytes()) == (array.dtype, array.shape, array.tobytes())
