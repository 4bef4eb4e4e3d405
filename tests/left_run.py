"""The files that runs leave, written by hand with the product's own writer of metrics: what a report is made of."""

import json
import math

from ernie_m_jax import config as configs
from ernie_m_jax import config_files
from ernie_m_jax.reporting import files, goodput, metrics, paper_tables
from tests.conftest import small_tree
from tests.test_evals import heldout, retrieval

SECONDS = dict(zip(goodput.CAUSES, (80.0, 6.0, 4.0, 1.0, 2.0, 3.0, 0.0, 4.0), strict=True))
LANGUAGES = ("en", "de", "ru")
DIRECTIONS = [f"{one}>{other}" for one in LANGUAGES for other in LANGUAGES if one != other]
VERSIONS = {"python": "3.11.7", "jax": "0.10.2", "device": "cpu", "device_count": 2}
STEPS = 60


def found_retrieval(level):
    values = {direction: level + 3 * place for place, direction in enumerate(DIRECTIONS)}
    return {"average": sum(values.values()) / len(values), "to_en": level, "from_en": level + 1.0, **values}


def found_heldout(loss):
    return {"en-de/loss": loss, "de-ru/loss": loss + 1, "en-de/accuracy": 0.25, "loss": loss + 0.5, "accuracy": 0.2}


def loss(step, objective):
    return 7.0 * math.exp(-step / 40) + (0.5 if objective == "camlm" else 1.0)


def write_config(directory, config):
    files.write_json(directory / "config.json", {"config": configs.to_dict(config), "versions": VERSIONS})


def write_metrics(directory, steps, objectives=("camlm", "mmlm"), evals=()):
    """The lines of a stage; `evals` are (step, name, values)."""
    with metrics.MetricsWriter(directory, 0) as writer:
        for step in range(steps):
            for at, name, values in evals:
                if at == step:
                    writer.evaluation(at, name, values)
            objective = objectives[step % len(objectives)]
            values = {"loss": loss(step, objective), "accuracy": step / 200, "scored": 100.0 + step, "tokens": 900.0}
            own = {"gradient_norm": 1.0 + step % 3, "learning_rate": 1e-3 * (1 - step / steps), "skipped": 0.0}
            writer.write(step, values | own | {"fill": 0.9}, objective)
            if step % 10 == 9:
                writer.write(step, {}, timing={"tokens_per_second": 9000.0 + step, "data_wait": 0.001})
        for at, name, values in evals:
            if at == steps:
                writer.evaluation(at, name, values)


def pretraining(directory, finished=True):
    """A run of two stages, or one stopped in its second."""
    tree = small_tree(evals={"retrieval": retrieval(path="corpus:diagnostics/dev"), "held": heldout("camlm", every=20)})
    tree["stages"] = {name: {**tree["stages"]["one"], "steps": STEPS} for name in ("stage1", "stage2")}
    write_config(directory, configs.resolve(tree))
    part = {"seconds": SECONDS, "marks": []}
    account = {"starts": 2, "earlier": dict.fromkeys(SECONDS, 0.0), "before": None, "part": part}
    files.write_json(directory / goodput.FILE, account)
    moments = {}
    for number, stage in enumerate(("stage1", "stage2")):
        steps = STEPS if finished or not number else STEPS // 2
        found = [(at, "held", found_heldout(6.0 - at / 20)) for at in range(20, steps + 1, 20)]
        found += [(0, "retrieval", found_retrieval(1.0))] if not number else []
        last = {"retrieval": found_retrieval(30.0 + 10 * number), "held": found_heldout(6.0 - steps / 20)}
        found += [(steps, "retrieval", last["retrieval"])] if finished or not number else []
        write_metrics(directory / stage, steps, evals=found)
        row = {"name": "en", "records": 1200, "tokens": 34567, "probability": 0.75, "epochs": 1.5}
        rest = {"name": "de", "records": 20, "tokens": 100, "probability": 0.25, "epochs": 12.0}
        files.write_json(directory / stage / "mixture.json", {"camlm": [row, rest], "mmlm": [row, rest]})
        if finished or not number:
            lines = (directory / stage / metrics.FILE).read_text().splitlines()
            numbers = metrics.summary.of_stage(lines) | {"evals": last}
            files.write_json(directory / stage / "summary.json", numbers)
            moments[stage] = last["retrieval"]["average"]
    if finished:
        evals = {"held": {"stage2": 3.5}, "retrieval": {"untrained": found_retrieval(1.0)["average"], **moments}}
        numbers = {"evals": evals, "objectives": {}, "stages": {}, "wall_seconds": 3723.0, "versions": VERSIONS}
        files.write_json(directory / "summary.json", numbers | {"tokens_per_second": 9030.5, "fill": 0.9})
    return directory


def finetuning(directory):
    """A fine-tuning run on English alone, with its last evaluation on every language of the paper's table."""
    tree = config_files.from_file("configs/finetune/xnli.py:size=base")
    config = configs.resolve(tree)
    write_config(directory, config)
    values = {code: 50 + number + 0.25 for number, code in enumerate(paper_tables.languages("xnli"))}
    evals = {f"test/{code}/accuracy": value for code, value in values.items()}
    evals |= {"test/accuracy": sum(values.values()) / len(values), "dev/en/accuracy": 61.5, "dev/accuracy": 61.5}
    found = [(at, "xnli", {"dev/en/accuracy": 40.0 + at, "dev/accuracy": 40.0 + at}) for at in (10, 20)]
    write_metrics(directory / "finetune", 30, ("xnli",), [*found, (30, "xnli", evals)])
    lines = (directory / "finetune" / metrics.FILE).read_text().splitlines()
    numbers = metrics.summary.of_stage(lines) | {"evals": {"xnli": evals}}
    files.write_json(directory / "finetune" / "summary.json", numbers)
    files.write_json(
        directory / "summary.json",
        {
            "evals": {"xnli": {"finetune": 57.0}},
            "objectives": {},
            "stages": {"finetune": numbers},
            "wall_seconds": 60.0,
        },
    )
    return directory, values


def read_lines(directory):
    return [json.loads(line) for line in (directory / metrics.FILE).read_text().splitlines()]
