r"""The one entry: flags, distributed start, dispatch by --mode. Nothing else.

python -m ernie_m_jax.main --config=configs/quickstart.py --workdir=runs/quickstart
python -m ernie_m_jax.main --config=configs/quickstart.py --mode=print --config.train.batch_size=32
python -m ernie_m_jax.main --config=configs/pretrain/stage1.py:size=large --mode=compile --topology=v5e:16x16
python -m ernie_m_jax.main --workdir=runs/quickstart --mode=encode --input=sentences.txt --output=vectors.npy

Exit status: 0 done; 2 what a user can fix, in one line; 42 stopped by SIGTERM, saved, to be run again; 130 stopped by
Ctrl-C, saved.
"""

import contextlib
import json
import os
import sys
import traceback
from pathlib import Path
from typing import Any

# XLA's compiler warns at length about shardings on virtual devices; its errors stay. Read when JAX is imported.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import jax
from absl import app, flags, logging

from ernie_m_jax import compiler, config_files, lifeline, mirrors, processes, stores, topology
from ernie_m_jax import config as configs
from ernie_m_jax.checkpoint.checkpoints import CheckpointError
from ernie_m_jax.checkpoint.saved_steps import ElsewhereError
from ernie_m_jax.convert import native
from ernie_m_jax.data.records import DataError
from ernie_m_jax.evaluation import encode, in_use, predicted
from ernie_m_jax.evaluation import report as run_report
from ernie_m_jax.reporting import goodput
from ernie_m_jax.training import claim, compile, preemption, replay, restore, run, stages
from ernie_m_jax.training.guard import TrainingError

MODES = {
    "train": "pre-train or fine-tune every stage; an interrupted run goes on where it stood",
    "evaluate": "run config.evals with the selected or newest checkpoint: tables, CSV, PNG in evaluation/",
    "encode": "turn --input (a sentence per line) into --output (.npy) with config.encode's layer and pooling",
    "predict": "answer the rows of --input (lines, .tsv, .jsonl) into --output (.jsonl) with a fine-tuned model, "
    "or find the most similar sentences with one that has no head; without --input the test data of config.evals, as a "
    "submission to XTREME, into the folder --output",
    "replay": "run the recorded --step of a stage again from its nearest checkpoint, and compare its numbers bit for "
    "bit with metrics.jsonl; --workdir is the stage, or a run whose last trained stage is meant",
    "report": "make report.html in --workdir, of a run that is finished, stopped or still going on",
    "compile": "compile every step without data and print what it needs: for the devices here, or for --topology; "
    "--output has it as JSON",
    "print": "show the resolved config",
}

_CONFIG = flags.DEFINE_string(
    "config",
    None,
    "Config file, with an argument after a colon; without it the config.json in --workdir speaks. "
    "--config.KEY=VALUE sets one key over either; configs/base.py explains them all.",
)
_WORKDIR = flags.DEFINE_string(
    "workdir",
    None,
    "Directory of the run, local or a URL: checkpoints, metrics, summary; to use a model, also one of convert's.",
)
_MODE = flags.DEFINE_enum("mode", "train", list(MODES), "; ".join(f"{name}: {what}" for name, what in MODES.items()))
_INPUT = flags.DEFINE_string(
    "input", None, "File to encode (a sentence per line), or of rows to predict for (lines, .tsv, .jsonl; .gz)."
)
_OUTPUT = flags.DEFINE_string(
    "output",
    None,
    "File that --mode=encode (.npy), --mode=predict (.jsonl) or --mode=compile (.json) writes; of predict without "
    "--input a folder.",
)
_OBJECTIVE = flags.DEFINE_string("objective", None, "Entry of config.objectives to predict with, where several could.")
_TOPOLOGY = flags.DEFINE_string(
    "topology", None, f"Machine that --mode=compile compiles for, on any CPU: {topology.NAMES}."
)
_STEP = flags.DEFINE_integer("step", None, "Step of a stage that --mode=replay runs again, as in its metrics.jsonl.")
_COORDINATOR = flags.DEFINE_string(
    "coordinator", None, "HOST:PORT of process 0, where several processes train together; with --processes, --process."
)
_PROCESSES = flags.DEFINE_string("processes", None, "How many processes train together.")
_PROCESS = flags.DEFINE_string("process", None, "Which of them this is, from 0.")
_JOIN_SECONDS = flags.DEFINE_float("join_seconds", processes.JOIN_SECONDS, "How long they wait for one another.")
_COMPILATION_CACHE = flags.DEFINE_string(
    "compilation_cache",
    None,
    "Folder, gs:// or s3:// URL in which compiled programs are kept between runs, for several processes one that all "
    "hosts share under this name. By default JAX_COMPILATION_CACHE_DIR; else of one process ~/.cache/ernie_m_jax/jax, "
    "and several keep none.",
)
_LANGUAGE = flags.DEFINE_string(
    "language", None, "Language of the rows, where the model embeds every token's language."
)

FLAGS = ("coordinator", "processes", "process", "join_seconds", "compilation_cache")
EXPECTED = (configs.ConfigError, DataError, CheckpointError, TrainingError, OSError)
OUT_OF_MEMORY = (
    "raise config.train.grad_accumulation_steps, set config.compute.remat=full or lower config.train.batch_size "
    "(to evaluate or encode, config.evals.NAME.batch_size or config.encode.batch_size); --mode=compile tells what a "
    "step needs"
)


def main(arguments: list[str]) -> None:
    """Runs one mode; what a user can fix ends in one message on standard error and exit status 2."""
    allow_many_files()
    try:
        with opened_workdir() as workdir:
            do(arguments[1:], workdir)
        lifeline.close()
    except preemption.Interrupted as error:
        print(f"{error}; the same command goes on from there", file=sys.stderr)
        show_notes(error)
        lifeline.close(error.status)
        if error.busy:
            lifeline.leave(error.status)
        sys.exit(error.status)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        lifeline.fail(130, "was interrupted")
    except Exception as error:
        lifeline.explain(elsewhere=isinstance(error, ElsewhereError))
        problem = fixable(error)
        if problem is None:
            traceback.print_exc()
            lifeline.fail(1, f"ended with {type(error).__name__}: {str(error).partition(chr(10))[0]}")
        print(f"error: {problem}", file=sys.stderr)
        show_notes(error)
        lifeline.fail(2, f"ended: {problem}")


def allow_many_files() -> None:
    """As many open files as the system lets this user have; usual is 1,024, and each file of text takes two."""
    try:
        import resource  # not on every system that the package is imported on

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft != resource.RLIM_INFINITY:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (ImportError, OSError, ValueError):
        pass


def show_notes(error: Exception) -> None:
    """What was added to an error on its way: that the store of a URL does not have what was written last."""
    for note in getattr(error, "__notes__", ()):
        if note.startswith(mirrors.NOTE):  # JAX adds its own
            print(note, file=sys.stderr)


def fixable(error: Exception) -> str | None:
    """What to tell of an error that a user can do something about; None for one of the program."""
    if isinstance(error, EXPECTED):
        return str(error)
    if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error):
        return f"out of memory ({(str(error) or 'of the host').splitlines()[0]}): {OUT_OF_MEMORY}"
    return None


def opened_workdir() -> contextlib.AbstractContextManager[Path | None]:
    """--workdir as a local path, where it is a URL too; None without it."""
    if not _WORKDIR.value:
        return contextlib.nullcontext()
    if os.path.isfile(_WORKDIR.value):
        raise configs.ConfigError(f"--workdir={_WORKDIR.value} is a file; it must be a directory or a new name")
    return mirrors.mirrored(_WORKDIR.value, writing=_MODE.value in ("train", "evaluate", "report"))


def do(arguments: list[str], workdir: Path | None) -> None:
    """Runs one mode with what `parse` left of the command line."""
    if _MODE.value == "report":  # needs no sound config
        report(arguments, workdir)
    else:
        run_mode(read_config(arguments, workdir), workdir)


def settings_of(arguments: list[str]) -> list[str]:
    """The --config.KEY=VALUE among them; ConfigError of anything else."""
    if unexpected := [argument for argument in arguments if not argument.startswith(config_files.PREFIX)]:
        raise configs.ConfigError(f"unexpected argument {unexpected[0]!r}: flags begin with --")
    return arguments


def report(arguments: list[str], workdir: Path | None) -> None:
    """Makes a run's report out of what lies in its work directory; touches no device."""
    if workdir is None:
        raise configs.ConfigError(f"--workdir=DIR is missing; --mode={_MODE.value} needs it")
    print(mirrors.named(str(run_report.write(workdir, settings_of(arguments)))))


def read_config(arguments: list[str], workdir: Path | None) -> configs.Config:
    """The config of --config=FILE, or else of --workdir, under `arguments`: what `parse` left of the command line."""
    settings = settings_of(arguments)
    if _CONFIG.value:
        tree = config_files.from_file(_CONFIG.value)
    elif workdir is not None:
        tree = config_files.from_workdir(workdir, _MODE.value == "train", settings)
    else:
        raise configs.ConfigError("--config=FILE is missing, for instance --config=configs/quickstart.py")
    problems = config_files.override(tree, settings)
    return configs.resolve(tree, training=_MODE.value in ("train", "replay", "compile"), problems=problems)


def run_mode(config: configs.Config, workdir: Path | None) -> None:
    """Does what --mode says."""
    if _MODE.value == "print":
        print(json.dumps(configs.to_dict(config), indent=2, ensure_ascii=False))
        return
    if _TOPOLOGY.value is not None and _MODE.value != "compile":
        raise configs.ConfigError(f"--topology is for --mode=compile; --mode={_MODE.value} uses the devices there are")
    elsewhere = topology.open_topology(_TOPOLOGY.value) if _TOPOLOGY.value is not None else None
    start_jax(joining=elsewhere is None)
    if _MODE.value == "compile":
        compile.compile_steps(config, elsewhere, _OUTPUT.value or "")
        return
    if workdir is None:
        raise configs.ConfigError(f"--workdir=DIR is missing; --mode={_MODE.value} needs it")
    if _MODE.value == "train":
        with preemption.between_steps():
            run.train(config, workdir, goodput.age())
    elif _MODE.value == "replay":
        if _STEP.value is None:
            raise configs.ConfigError("--step=N is missing; --mode=replay needs it")
        replay.replay(config, workdir, _STEP.value)
    else:
        use(config, workdir)


def use(config: configs.Config, workdir: Path) -> None:
    """The modes that use the model in a work directory; they change nothing of the run or model in it."""
    claim.check_model(config, workdir)
    predicting = _MODE.value == "predict"
    evaluated = _MODE.value == "evaluate" or (predicting and _INPUT.value is None)
    made = run.make(config, config_files.home(workdir), with_evaluations=evaluated)
    params = restore.load_params(made, workdir, untrained=not predicting)
    if _MODE.value == "evaluate":
        run.evaluate(made, params, workdir / "evaluation")
        return
    needed = {"input": _INPUT.value, "output": _OUTPUT.value}
    for name, value in needed.items():
        if not value and not (name == "input" and value is None and predicting):
            raise configs.ConfigError(f"--{name}=FILE is missing; --mode={_MODE.value} needs it")
    if predicting:
        predict(made, params, workdir)
        return
    keys = config.encode
    shape = encode.encode_file(
        _INPUT.value,
        _OUTPUT.value,
        model=made.model,
        params=params,
        tokenizer=made.tokenizer,
        layer=keys.layer,
        pooling=keys.pooling,
        max_length=keys.max_length,
        batch_size=keys.batch_size,
    )
    print(f"{_OUTPUT.value}: {shape[0]} vectors of {shape[1]}")


def predict(made: stages.Run, params: Any, workdir: Path) -> None:
    """Answers the rows of --input, or writes a submission."""
    model, tokenizer, objective = made.model, made.tokenizer, _OBJECTIVE.value or ""
    if _INPUT.value is None:
        with mirrors.mirrored(_OUTPUT.value, writing=True) as output:
            folders = made.evaluations.submit(model, params, tokenizer, output, objective)
            print("\n".join(mirrors.named(str(folder)) for folder in folders))
        return
    place = native.find(workdir)
    known = native.read_config(place, None)[2].objectives if place else {}
    how = in_use.answering(made.config, model, params, tokenizer, known, objective, _LANGUAGE.value or "")
    count = predicted.answer_file(how.answer, how.check, how.inputs, _INPUT.value, _OUTPUT.value, how.at_once)
    print(f"{_OUTPUT.value}: {count} answers")


def start_jax(joining: bool = True) -> None:
    """Joins the other processes, if there are any, and keeps compiled programs between runs."""
    place = _COMPILATION_CACHE.value or jax.config.values["jax_compilation_cache_dir"]
    if place:  # what is wrong with it is said before the others are awaited
        compiler.keep_programs(place)
    several = False
    if joining:
        given = {"coordinator": _COORDINATOR.value, "processes": _PROCESSES.value, "process": _PROCESS.value}
        # Else JAX catches SIGTERM, and only training asks it whether one came.
        jax.config.update("jax_enable_preemption_service", _MODE.value == "train")
        if (host := processes.join(given, _JOIN_SECONDS.value)) is not None:
            lifeline.start(host)
            several = jax.process_count() > 1
    # Several hosts may each have a disk of its own. JAX writes on the first's only, and XLA for GPUs shares out what it
    # times: those that compile would wait for what the first, which found its program, never times.
    if place is None and not several:
        jax.config.update("jax_compilation_cache_dir", str(stores.cache("jax")))


def parse(arguments: list[str]) -> list[str]:
    """Flags off the command line; returns what is left of it, --config.KEY=VALUE in particular."""
    logging.set_verbosity(logging.WARNING)  # the default of --verbosity; Orbax reports every file at INFO
    try:
        rest, settings = config_files.split(flags.FLAGS.read_flags_from_files(arguments, force_gnu=False))
        return [*flags.FLAGS(rest), *settings]
    except (flags.Error, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


def cli() -> None:
    """Entry of the installed command `ernie-m-jax`."""
    for name in ("config", "workdir", "mode", "input", "output", "objective", "language", "topology", "step", *FLAGS):
        # --help lists the key flags of the program that runs, here the script.
        flags.FLAGS.register_key_flag_for_module(sys.argv[0], flags.FLAGS[name])
    app.run(main, flags_parser=parse)


if __name__ == "__main__":
    app.run(main, flags_parser=parse)
