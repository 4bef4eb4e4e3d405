"""Config files and the keys on the command line: what they set, and what every mistake says."""

import json

import pytest

from configs import base
from ernie_m_jax import config as configs
from ernie_m_jax import config_files
from tests.command import QUICKSTART, call, refused
from tests.conftest import small_tree


def resolved(*settings, **keys):
    tree = small_tree(**keys)
    return configs.resolve(tree, problems=config_files.override(tree, settings))


def test_print_shows_the_resolved_config():
    said = call(QUICKSTART, "--mode=print", "--config.train.batch_size", "32", "--config.model.pooler").stdout
    shown = json.loads(said)
    assert shown["train"]["batch_size"] == 32
    assert shown["model"]["pooler"] is True
    assert shown["model"]["num_languages"] == len(shown["languages"])


def test_everything_that_is_wrong_is_said_at_once():
    said = refused(
        QUICKSTART,
        "--mode=print",
        "--config.train.batch_row=3",
        "--config.stages.stage1.learning_rat=1",
        "--config.train.max_to_keep=many",
        "--config.compute.dtype=float16",
        "--config.data.sequence_length=513",
    )
    assert said.splitlines() == [
        "5 things are wrong with the config:",
        "  config.train.batch_row is unknown (nearest: batch_size); keys here: batch_size, grad_accumulation_steps, "
        "log_every, save_every, max_to_keep, keep_every, max_skipped, spike_sigmas, profile_from, profile_steps, "
        "host_times_every, watchdog_seconds, watchdog_other_seconds, select, patience",
        "  config.stages.stage1.learning_rat is unknown (nearest: learning_rate); keys here: steps, weights, "
        "learning_rate, warmup_steps, schedule, final_fraction, epochs, warmup_fraction",
        "  config.train.max_to_keep must be of type int, got 'many'",
        "  config.data.sequence_length is 513, but the model has positions for 512 tokens (config.model.max_positions "
        "514 less first_position 2)",
        "  config.compute.dtype is 'float16'; allowed: float32, bfloat16",
    ]


FILES = {
    "syntax": ("from configs import base\n\ndef get_config():\n    config = = 3\n", "4: invalid syntax: config = = 3"),
    "inside": ("def get_config():\n    return {}['foo']\n", "2: KeyError: foo"),
    "key": (
        "from configs import base\ndef get_config():\n    config = base.get_config()\n    return config.trian.keep\n",
        "4: AttributeError: 'trian' Did you mean \"train\"",
    ),
    "deeper": (
        "from configs import base\ndef get_config():\n    return base.model('huge')\n",
        "3: size 'huge' is unknown",
    ),
    "nothing": ("from configs import base\ndef get_config():\n    base.get_config()\n", "must return a ConfigDict"),
    "zero": ("config = 1\0\n", "null bytes"),
    "bare": ("def get_config():\n    raise KeyError\n", "2: KeyError: "),
    "exit": ("def get_config():\n    raise SystemExit(3)\n", "2: SystemExit: 3"),
    "argument": ("def get_config(argument):\n    pass\n", "TypeError: get_config() missing 1 required"),
}


@pytest.mark.parametrize("name", FILES)
def test_what_a_config_file_raises_is_one_line_with_its_place(name, tmp_path):
    text, message = FILES[name]
    path = tmp_path / "mine.py"
    path.write_text(text)
    said = refused(f"--config={path}", "--mode=print")
    assert said.startswith(f"{path}:")
    assert message in said
    assert "\n" not in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--config=configs/nowhere.py",), "configs/nowhere.py: no such file"),
        ((f"{QUICKSTART}:objectives=foo",), "expected objectives=NAME+NAME"),
        (("--mode=print",), "--config=FILE is missing"),
        ((QUICKSTART, "--mode=trian"), "trian"),
        ((QUICKSTART, "--noconfig.model.pooler"), "Unknown command line flag"),
        ((QUICKSTART, "seed=3"), "unexpected argument 'seed=3'"),
    ],
)
def test_a_wrong_command_is_one_clear_error(arguments, message):
    assert message in refused(*arguments)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("train.batch_size=many", r"config\.train\.batch_size must be of type int, got 'many'"),
        ("model.pooler=perhaps", r"config\.model\.pooler must be of type bool, got 'perhaps'"),
        ("languages=('en'", r"config\.languages must be a list, got \"\('en'\""),
        ("languages=(1,2,3)", r"config\.languages\[0\] must be of type str, got 1 \(int\)"),
        ("stages.one.weights=3", r"config\.stages\.one\.weights must be a mapping of names, got '3'"),
        ("seed.value=3", r"config\.seed must be of type int; it holds no keys"),
        ("stages.on.steps=3", r"config\.stages\.on is unknown \(nearest: one\); keys here: one"),
        ("objectives.camln.mask_ratio=1", r"config\.objectives\.camln is unknown \(nearest: camlm\)"),
        ("stages.one.learning_rate=inf", r"config\.stages\.one\.learning_rate is inf; it must be a finite number"),
        ("optimizer.eps=nan", r"config\.optimizer\.eps is nan; it must be a finite number"),
        ("stages.one.learning_rate=1e39", r"learning_rate is 1e\+39; it must be a finite number in float32"),
        ("stages.one.learning_rate=1e38", r"learning_rate is 1e\+38; it must be from 0 to 1e\+30"),
        ("optimizer.eps=0", r"config\.optimizer\.eps is 0\.0; it must be above 0"),
        ("tokenizer.path", r"config\.tokenizer\.path needs a value: --config\.tokenizer\.path=VALUE"),
        ("stages.one.weights.mmml=1", r"weights\.mmml is unknown \(nearest: mmlm\)"),
        (
            "data.parallel.pears.format=moses",
            r"pears is unknown .*; a new source needs config\.data\.parallel\.pears\.path",
        ),
        ("data.parallel.diagnostics.pathe=x", r"diagnostics\.pathe is unknown \(nearest: path\)"),
    ],
)
def test_a_wrong_setting_names_its_path(setting, message):
    with pytest.raises(configs.ConfigError, match=message):
        resolved(f"--config.{setting}")


def test_the_last_of_several_values_counts():
    said = call(
        QUICKSTART, "--mode=print", "--config.languages=('en',)", "--config.languages=('de','fr')", "--config.seed=1"
    ).stdout
    assert json.loads(said)["languages"] == ["de", "fr"]
    for text in ("de,fr", "['de','fr']", "'de','fr'"):
        assert resolved("--config.languages=en", f"--config.languages={text}").languages == ("de", "fr")
    assert resolved("--config.init.fresh=").init.fresh == ()


def test_a_source_is_added_and_another_taken_out():
    config = resolved(
        "--config.data.monolingual.mine.path=x/{language}.txt",
        "--config.data.monolingual.mine.languages=en",
        "--config.data.monolingual.diagnostics.path=",
    )
    assert list(config.data.monolingual) == ["mine"]
    assert config.data.monolingual["mine"].languages == ("en",)
    assert config.data.monolingual["mine"].split == base.source().split
    assert resolved("--config.data.monolingual={}").data.monolingual == {}
    assert resolved("--config.stages.one.weights={'mmlm': 2.0}").stages["one"].weights == {"mmlm": 2.0}


def test_what_a_run_stored_takes_settings_too():
    stored = configs.to_dict(resolved(data__monolingual={}, data__parallel={}))
    problems = config_files.override(stored, ["--config.languages=de,en", "--config.data.parallel.new.path=y.tsv"])
    config = configs.resolve(stored, problems=problems)
    assert config.languages == ("de", "en")
    assert config.data.monolingual == {}
    assert config.data.parallel["new"].path == "y.tsv"


def test_the_keys_are_split_off_wherever_they_stand():
    arguments = [
        "main",
        "--config.a=1",
        "--config=x",
        "-config.b",
        "2",
        "--config.c",
        "--mode=print",
        "--",
        "--config.d=1",
    ]
    rest, settings = config_files.split(arguments)
    assert rest == ["main", "--config=x", "--mode=print", "--", "--config.d=1"]
    assert settings == ["--config.a=1", "--config.b=2", "--config.c"]
