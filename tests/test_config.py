"""Configs: what resolves, and what every wrong key says."""

import ast
import dataclasses
import importlib
import json
import pathlib
import re

import ml_collections
import pytest

from configs import base
from ernie_m_jax import config as configs
from ernie_m_jax import task as tasks
from tests.conftest import small_tree

ROOT = pathlib.Path(__file__).parents[1]
FILES = sorted(
    path for path in (ROOT / "configs").rglob("*.py") if path.name not in ("__init__.py", "base.py", "recipes.py")
)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_config_resolves_and_survives_json(path):
    module = importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))
    config = configs.resolve(module.get_config())
    assert configs.resolve(json.loads(json.dumps(configs.to_dict(config)))) == config
    assert "Command:" in module.__doc__
    assert "Hardware" in module.__doc__


def changed(**keys):
    return configs.resolve(small_tree(**keys))


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"train__batch_row": 8}, r"config\.train\.batch_row is unknown \(nearest: batch_size\)"),
        ({"optimiser": {}}, r"config\.optimiser is unknown \(nearest: optimizer\)"),
        (
            {"objectives__camlm__mask_ration": 0.1},
            r"config\.objectives\.camlm\.mask_ration is unknown \(nearest: mask_ratio\)",
        ),
        ({"objectives__camln": {}}, r"config\.objectives\.camln: .*\(nearest: camlm\)"),
        ({"stages__one__weights": {"mmml": 1.0}}, r"weights\.mmml is unknown \(nearest: mmlm\)"),
        ({"train__batch_size": "8"}, r"config\.train\.batch_size must be of type int, got '8'"),
        ({"train__batch_size": True}, r"config\.train\.batch_size must be of type int, got True"),
        ({"languages": "en"}, r"config\.languages must be a list, got 'en'"),
        ({"data__sequence_length": 513}, r"config\.data\.sequence_length is 513, but the model has positions for 512"),
        ({"encode__max_length": 600}, r"config\.encode\.max_length is 600"),
        ({"model__num_heads": 5}, r"hidden_size 32 is not a multiple of num_heads 5"),
        ({"compute__dtype": "float16"}, r"config\.compute\.dtype is 'float16'; allowed: float32, bfloat16"),
        ({"model__language_embedding": "some"}, r"allowed: slots, all, none"),
        ({"model__num_languages": 2}, r"num_languages is 2, but config\.languages names 3"),
        ({"train__batch_size": 6}, r"batch_size 6 is not a multiple of config\.data\.virtual_streams 4"),
        ({"train__grad_accumulation_steps": 3}, r"not a multiple of config\.train\.grad_accumulation_steps 3"),
        ({"stages__one__schedule": "lineer"}, r"schedule is 'lineer'; allowed: linear"),
        ({"stages__one__weights": {"mmlm": 0.0}}, r"at least one objective needs a weight above 0"),
        ({"stages__one__weights": {"mmlm": -1.0}}, r"weights\.mmlm is -1\.0; it must be at least 0"),
        ({"data__sequence_length": 8}, r"config\.data\.sequence_length is 8; it must be at least 16"),
        ({"train__max_to_keep": -1}, r"config\.train\.max_to_keep is -1; it must be at least 0"),
        (
            {"train__keep_every": 25, "train__save_every": 10},
            r"config\.train\.keep_every is 25, but a checkpoint is saved every config\.train\.save_every 10 steps",
        ),
        ({"train__keep_every": 25, "train__save_every": 0}, r"every config\.train\.save_every 0 steps: make it a"),
        ({"train__watchdog_seconds": -1.0}, r"config\.train\.watchdog_seconds is -1\.0; it must be at least 0"),
        ({"objectives__btmlm__temperature": -1.0}, r"config\.objectives\.btmlm\.temperature is -1\.0"),
        ({"objectives__camlm__mask_ratio": 1.5}, r"mask_ratio is 1\.5; it must be from 0\.01 to 1"),
        ({"compute__attention": "cudnn"}, r"'cudnn' needs config\.compute\.dtype 'bfloat16'"),
        (
            {"compute__attention": "cudnn", "compute__dtype": "bfloat16", "model__attention_dropout": 0.1},
            r"but config\.model\.attention_dropout is 0\.1: set that to 0, or config\.compute\.attention to 'xla'",
        ),
        ({"optimizer__clip_norm": float("inf")}, r"config\.optimizer\.clip_norm is inf; it must be a finite number"),
        ({"stages__one__learning_rate": float("nan")}, r"learning_rate is nan; it must be a finite number"),
        ({"optimizer__layer_decay": 0.0}, r"config\.optimizer\.layer_decay is 0\.0; it must be above 0 and at most 1"),
        ({"model__layer_norm_eps": -1.0}, r"config\.model\.layer_norm_eps is -1\.0; it must be above 0"),
        ({"model__initializer_range": 0.0}, r"config\.model\.initializer_range is 0\.0; it must be above 0"),
        ({"model__labels": ("a", "b", "c")}, r"config\.model\.labels names 3 labels, config\.model\.num_labels is 2"),
        ({"model__labels": "ab"}, r"config\.model\.labels must be a list, got 'ab'"),
        ({"stages": {}}, r"config\.stages is empty"),
        ({"languages": ("en", "en")}, r"each once"),
    ],
)
def test_a_wrong_key_is_named(keys, message):
    with pytest.raises(configs.ConfigError, match=message):
        changed(**keys)


def test_a_missing_key_is_named():
    tree = small_tree()
    del tree["train"]["max_to_keep"]
    with pytest.raises(configs.ConfigError, match=r"config\.train\.max_to_keep is missing"):
        configs.resolve(tree)


def test_all_that_is_wrong_is_said_and_what_cannot_be_judged_is_not():
    tree = small_tree(train__batch_size="8", model__hidden_size=30, seed=-1, train__row=1, data__sampling_exponent=11.0)
    del tree["compute"]["dtype"]
    with pytest.raises(configs.ConfigError) as caught:
        configs.resolve(tree)
    heads = [line.strip().split(" ")[0] for line in str(caught.value).splitlines()[1:]]
    assert heads == [
        "config.compute.dtype",  # missing
        "config.train.row",  # unknown
        "config.train.batch_size",  # mistyped; so its multiples are not judged
        "config.model.hidden_size",  # no multiple of num_heads
        "config.seed",
        "config.data.sampling_exponent",
    ]


def test_a_model_that_is_only_used_needs_no_stage():
    tree = small_tree(stages={}, model__mlm_head="none")
    assert configs.resolve(tree, training=False).stages == {}
    with pytest.raises(configs.ConfigError, match=r"config\.stages is empty"):
        configs.resolve(tree)


def test_the_number_of_languages_is_taken_from_the_list():
    assert changed().model.num_languages == 3


def test_stages_are_in_the_order_of_their_numbers():
    tree = small_tree()
    names = ["stage2", "stage10", "warmup", "stage1b", "stage1a", "2nd"]
    expected = ["2nd", "stage1a", "stage1b", "stage2", "stage10", "warmup"]
    for order in (names, sorted(names)):
        tree["stages"] = {name: small_tree()["stages"]["one"] for name in order}
        config = configs.resolve(ml_collections.ConfigDict(tree))
        assert list(config.stages) == expected
        assert list(configs.resolve(json.loads(json.dumps(configs.to_dict(config)))).stages) == expected


def test_differences_name_each_key():
    one, other = (configs.to_dict(changed(seed=seed, optimizer__b1=0.8 + seed / 10)) for seed in (0, 1))
    assert [line.split(":")[0] for line in configs.differences(one, other)] == ["config.optimizer.b1", "config.seed"]


def test_a_config_written_before_labels_had_names_is_read_and_differs_in_nothing():
    config = changed()
    tree = configs.to_dict(config)
    assert tree["model"].pop("labels") == []
    assert configs.resolve(tree) == config
    assert configs.differences(tree, configs.to_dict(config)) == []
    named = configs.to_dict(changed(model__labels=("no", "yes")))
    assert configs.differences(tree, named) == ["config.model.labels: None there, ['no', 'yes'] here"]


@pytest.mark.parametrize("empty", ["", [], {}, None])
def test_a_key_that_one_lacks_and_that_is_empty_in_the_other_is_no_difference(empty):
    assert configs.differences({"a": {"b": 1}}, {"a": {"b": 1, "new": empty}, "late": empty}) == []
    assert configs.differences({"a": {"new": empty}}, {"a": {}}) == []


@pytest.mark.parametrize("value", [0, False, 0.0, "x", [0], {"c": ""}])
def test_a_key_that_one_lacks_and_that_says_something_is_a_difference(value):
    assert configs.differences({}, {"new": value}) == [f"config.new: None there, {value!r} here"]


def test_an_empty_key_differs_from_one_that_says_something():
    assert configs.differences({"a": ""}, {"a": "x"}) == ["config.a: '' there, 'x' here"]
    assert configs.differences({"a": []}, {"a": ""}) == ["config.a: [] there, '' here"]


def test_every_key_of_base_has_a_comment():
    lines = (ROOT / "configs" / "base.py").read_text().splitlines()
    keys = [line for line in lines if re.match(r'\s{8}"\w+": [^{]+$|    config\.\w+ = [^{]+$', line)]
    made = ("ml_collections.ConfigDict()", "model(", "objectives()", "source(", "train()")
    assert len(keys) > 60
    assert [line for line in keys if "#" not in line and not any(mark in line for mark in made)] == []


def test_every_key_is_read_somewhere():
    kinds = [kind for kind in vars(configs).values() if dataclasses.is_dataclass(kind)]
    kinds += [tasks.load(name).config for name in tasks.names()]
    keys = {field.name for kind in kinds for field in dataclasses.fields(kind)}
    read = set()
    for path in (ROOT / "ernie_m_jax").rglob("*.py"):
        read |= {node.attr for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Attribute)}
        read |= {node.value for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant)}
    assert keys - read == set()


def test_sizes_are_the_papers():
    assert base.SIZES["base"] == (768, 12, 12, 3072)
    assert base.SIZES["large"] == (1024, 24, 16, 4096)
    with pytest.raises(ValueError, match="tiny, small, base, large"):
        base.model("huge")
