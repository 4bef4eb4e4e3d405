"""Conversion there and back, bit for bit; the tokenizer that goes along; the command line."""

import dataclasses
import json
import math
import os
import pathlib
import pickle
import shutil
import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import load_file

import ernie_m_jax
from ernie_m_jax.checkpoint import tree
from ernie_m_jax.convert import __main__ as cli
from ernie_m_jax.convert import model
from ernie_m_jax.weights.tensors import ConversionError
from tests import reference
from tests.reference import assert_same

HEADS = (
    "ForSequenceClassification",
    "ForMultipleChoice",
    "ForTokenClassification",
    "ForQuestionAnswering",
    "ForInformationExtraction",
)
ERNIE = ("ernie_m-tiny", *(f"ernie_m-tiny-{head}" for head in HEADS))


def convert(source, output, *more) -> int:
    return cli.main(["--source", str(source), "--output", str(output), *more])


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


NAMES = ("entailment", "neutral", "Widerspruch")


def labelled(name, folder, **stated) -> pathlib.Path:
    """A recorded case whose config.json says `stated` of its labels, and nothing else."""
    source = reference.case(name).write(folder)
    config = json.loads((source / "config.json").read_text())
    config = {key: value for key, value in config.items() if key not in ("id2label", "label2id")} | stated
    (source / "config.json").write_text(json.dumps(config))
    return source


@pytest.mark.parametrize("to", ["huggingface", "paddle"])
@pytest.mark.parametrize("head", ["ForSequenceClassification", "ForTokenClassification"])
@pytest.mark.parametrize("kind", ["ernie_m", "paddle"])
def test_the_labels_names_survive_there_and_back(kind, head, to, tmp_path):
    id2label, label2id = {str(i): name for i, name in enumerate(NAMES)}, {name: i for i, name in enumerate(NAMES)}
    name = f"{kind}-tiny-{head}"
    source = labelled(name, tmp_path / "source", id2label=dict(reversed(id2label.items())), label2id=label2id)
    assert ernie_m_jax.load(source).labels == NAMES
    assert convert(source, tmp_path / "native") == 0
    assert ernie_m_jax.load(tmp_path / "native").labels == NAMES
    drop = ("--drop", "pooler") if (kind, head, to) == ("paddle", "ForTokenClassification", "huggingface") else ()
    assert convert(tmp_path / "native", tmp_path / "back", "--to", to, *drop) == 0
    written = json.loads((tmp_path / "back" / "config.json").read_text())
    assert (written["id2label"], written["label2id"]) == (id2label, label2id)
    assert ernie_m_jax.load(tmp_path / "back").labels == NAMES


def test_made_up_names_and_those_of_no_label_are_none(tmp_path):
    name = "ernie_m-tiny-ForSequenceClassification"
    default = {str(i): f"LABEL_{i}" for i in range(3)}
    model = ernie_m_jax.load(labelled(name, tmp_path / "default", id2label=default))
    assert (model.labels, model.config.num_labels) == ((), 3)
    model = ernie_m_jax.load(labelled(name, tmp_path / "none"))
    assert (model.labels, model.config.num_labels) == ((), 3)
    span = "ernie_m-tiny-ForQuestionAnswering"  # its two outputs are start and end
    named = {str(i): name for i, name in enumerate(NAMES)}
    assert ernie_m_jax.load(labelled(span, tmp_path / "span", id2label=named)).labels == ()


def test_a_model_whose_config_was_written_before_labels_had_names_loads(tmp_path):
    source = reference.case("ernie_m-tiny-ForSequenceClassification").write(tmp_path / "source")
    assert convert(source, tmp_path / "native") == 0
    path = tmp_path / "native" / "config.json"
    stated = json.loads(path.read_text())
    assert stated["model"].pop("labels") == []
    for key in ("languages", "data"):
        del stated[key]
    path.write_text(json.dumps(stated))
    assert ernie_m_jax.load(tmp_path / "native").config == ernie_m_jax.load(source).config


def test_dropping_the_head_drops_its_labels(tmp_path):
    id2label = {str(i): name for i, name in enumerate(NAMES)}
    source = labelled("ernie_m-tiny-ForSequenceClassification", tmp_path / "source", id2label=id2label)
    assert convert(source, tmp_path / "native", "--drop", "head") == 0
    assert ernie_m_jax.load(tmp_path / "native").labels == ()


def test_xlms_language_names_are_read(tmp_path):
    case = reference.case("xlm-tiny")
    source = case.write(tmp_path / "source")
    count = case.facts["config"]["n_langs"]
    names = [f"l{i}" for i in range(count)]
    config = json.loads((source / "config.json").read_text())
    for lang2id, expected in (({name: i for i, name in enumerate(names)}, tuple(names)), ({"en": 0, "de": 7}, ())):
        (source / "config.json").write_text(json.dumps(config | {"lang2id": lang2id}))
        assert ernie_m_jax.load(source).languages == expected
    assert ernie_m_jax.load(reference.case("xlm-tiny-no_languages").write(tmp_path / "none")).languages == ()


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


def test_the_tokenizer_goes_along(tokenizer, tokenizer_path, tmp_path, capsys):
    case = reference.case("ernie_m-tiny")
    config = dataclasses.replace(ernie_m_jax.load(case.write(tmp_path / "tiny")).config, vocab_size=1000)
    rng = np.random.default_rng(0)
    params = {name: rng.normal(size=shape).astype(np.float32) for name, shape in model.shapes(config).items()}
    ernie_m_jax.save(tmp_path / "native", config, tree.nest(params), tokenizer)
    for to in ("huggingface", "paddle"):
        assert convert(tmp_path / "native", tmp_path / to, "--to", to) == 0
        assert "tokenizer of style ernie: the other library's gives some texts other ids" in capsys.readouterr().out
        for name in ("sentencepiece.bpe.model", "vocab.txt"):
            assert (tmp_path / to / name).read_bytes() == (tokenizer_path / name).read_bytes()
        stated = json.loads((tmp_path / to / "tokenizer_config.json").read_text())
        assert stated == {"tokenizer_class": "ErnieMTokenizer", "model_max_length": 512}  # 514 positions from 2 on
        loaded = ernie_m_jax.load(tmp_path / to)
        assert loaded.tokenizer.fingerprint == tokenizer.fingerprint
        assert ernie_m_jax.load(tmp_path / to, style="huggingface").tokenizer.style == "huggingface"
        again = tmp_path / f"{to}-again"
        assert convert(tmp_path / to, again, "--to", to, "--style", "huggingface") == 0
        assert ("other ids" in capsys.readouterr().out) == (to == "paddle")  # whose class has a way of its own
    assert convert(tmp_path / "native", tmp_path / "none", "--to", "huggingface", "--no_tokenizer") == 0
    assert not (tmp_path / "none" / "vocab.txt").exists()
    with pytest.raises(ConversionError, match=r"style 'ernie' has no class in xlm-roberta.*--no_tokenizer"):
        ernie_m_jax.save(tmp_path / "x", config, tree.nest(params), tokenizer, to="xlm-roberta")


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
        (["--source", "nowhere", "--output", "out"], "'nowhere': no such file"),
        (
            ["--source", "{source}", "--output", "out", "--format", "paddle"],
            "not a paddle checkpoint: it has no tensor",
        ),
        (["--source", "{source}", "--output", "{source}"], "is there already and not empty"),
        (
            ["--source", "{source}", "--output", "out", "--drop", "embeddings/word"],
            "not a part that this model can do without; those are: pooler",
        ),
        (["--source", "{source}", "--output", "out", "--num_heads", "-1"], "must be positive"),
        (["--source", "{source}", "--output", "out", "--num_heads", "5"], "has 4 attention heads by its config, not 5"),
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


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ernie_m-base", "paddle-base"])
def test_converting_the_base_model_takes_less_than_two_and_a_half_times_its_size(name, tmp_path):
    """Peak memory of the whole process, for every target; the parameters are counted on the way."""
    source = reference.case(name).write(tmp_path / "source")
    size = sum(file.stat().st_size for file in source.iterdir())
    for to in ("native", "huggingface", "paddle"):
        # Not resource.getrusage: a process inherits the peak of the one that started it.
        measure = "import runpy, sys; sys.argv[0] = 'convert'\n"
        measure += "try: runpy.run_module('ernie_m_jax.convert', run_name='__main__', alter_sys=True)\n"
        measure += "except SystemExit as e: assert e.code == 0\n"
        measure += "print(*(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')))"
        command = [sys.executable, "-c", measure, "--source", source, "--output", tmp_path / to, "--to", to]
        done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=True, timeout=300)
        assert "278,042,880 parameters" in done.stdout
        peak = int(done.stdout.splitlines()[-1]) * 1024
        print(f"{name} to {to}: peak {peak / size:.2f} times the file")
        assert peak < 2.5 * size
        shutil.rmtree(tmp_path / to)
