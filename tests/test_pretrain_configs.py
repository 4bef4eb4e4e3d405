"""The pre-training configs: what their arguments set, and that a user need give nothing but languages and paths."""

import dataclasses
import importlib
import subprocess
import sys

import numpy as np
import pytest

import ernie_m_jax
from configs import base, recipes
from ernie_m_jax import config as configs
from ernie_m_jax.checkpoint import tree
from ernie_m_jax.config import SourceConfig
from ernie_m_jax.convert import model
from ernie_m_jax.data import records
from tests.command import ROOT, call, refused
from tests.conftest import VOCAB_SIZE, small_tree

NAMES = ("stage1", "stage2", "ablation", "continue")


def config_of(name, argument=""):
    # `continue` is a keyword: only import_module can name it.
    return configs.resolve(importlib.import_module(f"configs.pretrain.{name}").get_config(argument))


@pytest.mark.parametrize("name", NAMES)
def test_every_size_resolves_to_that_size(name):
    for size in base.SIZES:
        config = config_of(name, f"size={size}")
        assert config.model.hidden_size == base.SIZES[size][0]
        on_cpu = size in ("tiny", "small")
        assert (config.compute.dtype == "float32") == on_cpu
        assert config.data.sequence_length == {"tiny": 128, "small": 256}.get(size, 512)
        for stage in config.stages.values():
            assert stage.warmup_steps < stage.steps
    for argument in ("size=huge", "size", "base", "size=base,size=tiny", "size=tiny,colour=red"):
        with pytest.raises(ValueError, match=r"expected .*size=base\|tiny\|small\|large"):
            config_of(name, argument)


def test_the_ablation_takes_an_experiment_and_a_size():
    config = config_of("ablation", "experiment=exp2,size=small")
    assert set(config.stages["stage2"].weights) == {"mmlm", "tlm"}
    assert config.stages["stage1"].steps == recipes.SCALES["small"]["stage"]["steps"] // 2


def test_continue_fits_the_batch_to_the_gpu():
    rows = {}
    for gpu in ("24", "40", "80"):
        config = config_of("continue", f"gpu={gpu},size=large")
        assert config.train.batch_size == 256
        rows[gpu] = config.train.batch_size // config.train.grad_accumulation_steps
    assert rows["24"] < rows["40"] < rows["80"]
    assert config_of("continue", "init=ernie-m").init.fresh == ("embeddings/language", "mlm_head")
    assert config_of("continue").tokenizer.style == "xlm-roberta"


def stage1(workdir, *flags):
    """Two steps; everything beside languages, paths, vocabulary and steps is the config's own."""
    return call(
        "--config=configs/pretrain/stage1.py:size=tiny",
        f"--workdir={workdir}",
        "--config.languages=en,de",
        f"--config.model.vocab_size={VOCAB_SIZE}",
        "--config.stages.stage1.steps=2",
        *flags,
    )


@pytest.mark.slow
def test_stage1_reads_array_record_files_by_their_names(tmp_path):
    for kind, source, name in (("monolingual", "mono", "{language}"), ("parallel", "pairs", "{pair}")):
        prepare = ["array_record", f"--input=corpus:diagnostics/{source}", f"--kind={kind}", "--languages=en,de"]
        subprocess.run(
            [sys.executable, "-m", "ernie_m_jax.data.prepare", *prepare, f"--output={tmp_path}/{name}.array_record"],
            cwd=ROOT,
            check=True,
            capture_output=True,
        )
    shown = stage1(
        tmp_path / "run",
        f"--config.data.monolingual.text.path={tmp_path}/{{language}}.array_record",
        f"--config.data.parallel.pairs.path={tmp_path}/{{pair}}.array_record",
    ).stdout
    assert "stage1 2/2" in shown


@pytest.mark.slow
def test_stage1_reads_a_tfds_dataset(tmp_path):
    import tensorflow_datasets as tfds

    class Sentences(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            features = {language: tfds.features.Text() for language in ("en", "de")}
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            source = SourceConfig("corpus:diagnostics/pairs", "auto", (), (), (), "train")
            for number, record in enumerate(records.open_source("bundled", source, ("en", "de"), "parallel")["en-de"]):
                yield number, dict(zip(record.languages, record.texts, strict=True))

    tfds.disable_progress_bar()
    builder = Sentences(data_dir=str(tmp_path / "tfds"), file_format="array_record")
    builder.download_and_prepare()
    path = f"tfds:{builder.data_dir}"
    kinds = ("monolingual.text", "parallel.pairs")
    shown = stage1(tmp_path / "run", *(f"--config.data.{kind}.path={path}" for kind in kinds)).stdout
    assert "stage1 2/2" in shown


@pytest.fixture(scope="module")
def released(tmp_path_factory, tokenizer):
    """A tiny model as ERNIE-M is released: random weights, with its tokenizer, without the MLM head."""
    folder = tmp_path_factory.mktemp("released")
    sizes = dict(zip(("hidden_size", "num_layers", "num_heads", "ffn_size"), base.SIZES["tiny"], strict=True))
    keys = {f"model__{key}": value for key, value in sizes.items()}
    config = dataclasses.replace(
        configs.resolve(small_tree(**keys)).model,
        language_embedding="none",
        num_languages=0,
        mlm_head="none",
        pooler=True,
    )
    rng = np.random.default_rng(0)
    params = {path: rng.normal(0, 0.05, shape).astype(np.float32) for path, shape in model.shapes(config).items()}
    ernie_m_jax.save(folder / "ernie-m", config, tree.nest(params), tokenizer, to="huggingface")
    return folder / "ernie-m"


@pytest.mark.slow
def test_continue_starts_from_a_released_model(released, tmp_path):
    config = ROOT / "configs" / "pretrain" / "continue.py"
    data = tmp_path / "{language}.txt"
    for language in ("en", "de"):
        (tmp_path / f"{language}.txt").write_text("a short line of text\n" * 200)
    paths = (
        f"--config.data.monolingual.text.path={data}",
        f"--config.data.parallel.pairs.path={data}",
        f"--config.init.params={released}",
        f"--config.tokenizer.path={released}",
    )
    shown = call(
        f"--config={config}:size=tiny,init=ernie-m",
        f"--workdir={tmp_path / 'run'}",
        "--config.languages=en,de",
        f"--config.model.vocab_size={VOCAB_SIZE}",
        "--config.train.batch_size=16",
        "--config.train.grad_accumulation_steps=1",
        *(f"--config.stages.stage{number}.{key}" for number in (1, 2) for key in ("steps=1", "warmup_steps=0")),
        *paths,
    ).stdout
    assert "init.params: from scratch: embeddings/language, mlm_head" in shown
    assert "stage2 1/1" in shown
    said = refused(
        f"--config={config}:size=tiny", f"--workdir={tmp_path / 'other'}", "--config.languages=en,de", *paths[:2]
    )
    assert said.startswith("xlm-roberta-tiny/sentencepiece.bpe.model: no such file")
