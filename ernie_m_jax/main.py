r"""The one entry: flags, distributed start, dispatch by --mode. Nothing else.

python -m ernie_m_jax.main --config=configs/quickstart.py --workdir=runs/quickstart
python -m ernie_m_jax.main --config=configs/quickstart.py --mode=print --config.train.batch_rows=32
python -m ernie_m_jax.main --config=configs/quickstart.py --workdir=runs/quickstart --mode=encode \
        --input=sentences.txt --output=vectors.npy
"""

import json
import os
import sys
from pathlib import Path

import jax
from absl import app, flags, logging
from ml_collections import config_flags

from ernie_m_jax import config as configs
from ernie_m_jax import encode
from ernie_m_jax.data.records import DataError
from ernie_m_jax.training import ahead, claim, run, start
from ernie_m_jax.training.checkpoint import CheckpointError
from ernie_m_jax.training.guard import TrainingError
from ernie_m_jax.training.watch import Interrupted

MODES = {
    "train": "pre-train every stage; an interrupted run goes on where it stood",
    "evaluate": "sentence retrieval with the newest checkpoint: table, CSV, heat map",
    "encode": "turn --input (a sentence a line) into --output (.npy) with config.retrieval's layer and pooling",
    "compile": "compile every step without data and print what it needs",
    "print": "show the resolved config",
}

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Config file, with an argument after a colon.", lock_config=False
)
_WORKDIR = flags.DEFINE_string("workdir", None, "Directory of the run: checkpoints, metrics, summary.")
_MODE = flags.DEFINE_enum("mode", "train", list(MODES), "; ".join(f"{name}: {what}" for name, what in MODES.items()))
_INPUT = flags.DEFINE_string("input", None, "Text file to encode, one sentence a line.")
_OUTPUT = flags.DEFINE_string("output", None, "Where --mode=encode writes its vectors; ends in .npy.")

EXPECTED = (configs.ConfigError, DataError, CheckpointError, TrainingError, OSError)


def main(arguments: list[str]) -> None:
    """Runs one mode; what a user can mend ends in one line on standard error and exit status 2."""
    try:
        if len(arguments) > 1:
            raise configs.ConfigError(f"unexpected argument {arguments[1]!r}: flags begin with --")
        if _CONFIG.value is None:
            raise configs.ConfigError("--config=FILE is missing, for instance --config=configs/quickstart.py")
        config = configs.resolve(_CONFIG.value)
        if _MODE.value == "print":
            print(json.dumps(configs.to_dict(config), indent=2, ensure_ascii=False))
            return
        start_jax()
        if _MODE.value == "compile":
            ahead.compile_steps(config)
            return
        if not _WORKDIR.value:
            raise configs.ConfigError(f"--workdir=DIR is missing; --mode={_MODE.value} needs it")
        if "://" in _WORKDIR.value:
            raise configs.ConfigError(f"--workdir must be a local or mounted directory, got {_WORKDIR.value!r}")
        use(config, Path(_WORKDIR.value))
    except Interrupted as error:
        print(f"{error}; the same command goes on from there", file=sys.stderr)
        sys.exit(143)
    except EXPECTED as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


def use(config: configs.Config, workdir: Path) -> None:
    """The modes that work on a run's directory."""
    if _MODE.value == "train":
        run.pretrain(config, workdir)
        return
    claim.check(config, workdir, claim.USE_KEYS)
    made = run.make(config, workdir)
    params = start.load_params(made, workdir)
    if _MODE.value == "evaluate":
        if not run.has_retrieval(config):
            raise configs.ConfigError("config.retrieval.source.path is empty: nothing to evaluate on")
        made.evaluate(params, workdir, "retrieval")
        return
    for name, value in (("input", _INPUT.value), ("output", _OUTPUT.value)):
        if not value:
            raise configs.ConfigError(f"--{name}=FILE is missing; --mode=encode needs it")
    keys = config.retrieval
    shape = encode.encode_file(
        _INPUT.value,
        _OUTPUT.value,
        model=made.model,
        params=params,
        tokenizer=made.tokenizer,
        layer=keys.layer,
        pooling=keys.pooling,
        max_length=keys.length,
        batch_rows=keys.batch_rows,
    )
    print(f"{_OUTPUT.value}: {shape[0]} vectors of {shape[1]}")


def start_jax() -> None:
    """Joins the other hosts if the launcher set them up, and keeps compiled programs between runs."""
    if "JAX_COORDINATOR_ADDRESS" in os.environ or os.environ.get("ERNIE_M_JAX_DISTRIBUTED"):
        # The address JAX finds by itself; these two it reads from a cluster's own variables only.
        jax.distributed.initialize(num_processes=_number("JAX_NUM_PROCESSES"), process_id=_number("JAX_PROCESS_ID"))
    if jax.config.values["jax_compilation_cache_dir"] is None:
        cache = os.environ.get("XDG_CACHE_HOME", str(Path.home() / ".cache"))
        jax.config.update("jax_compilation_cache_dir", os.path.join(cache, "ernie_m_jax", "jax"))


def _number(variable: str) -> int | None:
    """The number in an environment variable, None without one."""
    value = os.environ.get(variable)
    if value is None:
        return None
    if not value.isdigit():
        raise configs.ConfigError(f"{variable} is {value!r}; it must be a number from 0")
    return int(value)


def parse(arguments: list[str]) -> list[str]:
    """Flags off the command line; a key or value that the config does not take is one line, not a traceback."""
    logging.set_verbosity(logging.WARNING)  # the default of --verbosity; Orbax reports every file at INFO
    try:
        return flags.FLAGS(arguments)
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError, OSError) as error:
        # ml_collections wraps what a config file raises in its traceback; the first and last lines say what and why.
        lines = [line for line in str(error).splitlines() if line.strip()]
        said = f"{lines[0]} {lines[-1]}" if "Traceback (most recent call last):" in lines else str(error)
        print(f"error: {said}", file=sys.stderr)
        sys.exit(2)


def cli() -> None:
    """Entry of the installed command `ernie-m-jax`; like `python -m`, finds configs from the current directory."""
    sys.path.insert(0, os.getcwd())
    for name in ("config", "workdir", "mode", "input", "output"):
        # --help lists the key flags of the program that runs, here the script.
        flags.FLAGS.register_key_flag_for_module(sys.argv[0], flags.FLAGS[name])
    app.run(main, flags_parser=parse)


if __name__ == "__main__":
    app.run(main, flags_parser=parse)
