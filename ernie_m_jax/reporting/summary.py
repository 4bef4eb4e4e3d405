"""A stage's numbers out of its `metrics.jsonl`: where each objective's loss began and ended, fill and speed.

They are kept in small files, which are read again when a run goes on; a damaged one counts as missing.
"""

import json
import math
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from statistics import mean, median
from typing import Any

from ernie_m_jax.reporting import screen

WINDOW = 0.1  # share of an objective's steps that its first and last numbers are the mean of


def of_stage(lines: Iterable[str]) -> dict[str, Any]:
    """Numbers of a stage.

    Args:
      lines: those of the stage's `metrics.jsonl`; where some were lost, the numbers are those of the others.

    Returns:
      `objectives`: name -> loss, accuracy and other values over the last tenth of its steps, `first_loss` over the
      first, `skipped` steps where there are any; `fill` (share of real tokens), `steps`, `tokens`,
      `tokens_per_second` (real ones, median over the log intervals), and `data_wait` (share of the time that the
      devices waited for data, mean over the log intervals but the first, which has the compilation).
    """
    entries = [json.loads(line) for line in lines]
    steps = [entry for entry in entries if "objective" in entry]
    timings = [entry["timing"] for entry in entries if "timing" in entry]
    counts = [float(line["tokens"]) for line in steps if "tokens" in line]
    rates = [float(timing["tokens_per_second"]) for timing in timings if "tokens_per_second" in timing]
    waits = [float(timing["data_wait"]) for timing in timings if "data_wait" in timing]
    return {
        "objectives": {
            name: _objective([line for line in steps if line["objective"] == name])
            for name in sorted({line["objective"] for line in steps})
        },
        "steps": len(steps),
        "tokens": sum(int(count) for count in counts if math.isfinite(count)),
        "fill": means(steps, ("fill",)).get("fill"),
        "tokens_per_second": median(rates) if rates else None,
        "data_wait": mean(waits[1:] or waits) if waits else None,
    }


def stored(path: Path, is_sound: Callable[[Any], bool]) -> Any:
    """The content of a JSON file of numbers; None if there is none, or, which is printed, if it is damaged."""
    try:
        value = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return None
    except (ValueError, RecursionError):
        value = None
    if value is not None and is_sound(value):
        return value
    screen.show(f"{path} is damaged; its numbers are made again")
    return None


def is_of_stage(value: Any) -> bool:
    """Whether a value is what `run.run_stage` writes."""
    try:
        keys = ("tokens", "fill", "tokens_per_second")
        numbers = [value["steps"], *(value[key] for key in keys if value[key] is not None)]
        numbers += [] if value.get("data_wait") is None else [value["data_wait"]]
        objectives = [number for values in value["objectives"].values() for number in values.values()]
        found = all(map(is_number, numbers)) and all(float(number) is not None for number in objectives)
        return found and is_of_start(value["evals"])
    except (TypeError, KeyError, ValueError, AttributeError, OverflowError):
        return False


def is_of_run(value: Any) -> bool:
    """Whether a value is what `run.train` writes."""
    return isinstance(value, dict) and {"evals", "objectives", "stages", "wall_seconds"} <= set(value)


def is_of_start(value: Any) -> bool:
    """Whether a value is what evaluations before the first stage found."""
    try:
        numbers = [number for metrics in value.values() for number in metrics.values()]
        return all(is_number(number) or number in ("nan", "inf", "-inf") for number in numbers)
    except (AttributeError, TypeError):
        return False


def is_number(value: Any) -> bool:
    """Whether a value is a number that a float has."""
    return type(value) is float or (type(value) is int and abs(value) < 2**63)


def applied(lines: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The steps whose update was applied: a skipped one's numbers are not finite. All of them if none was applied."""
    lines = list(lines)
    return [line for line in lines if not line.get("skipped")] or lines


def means(lines: Iterable[Mapping[str, Any]], names: Collection[str] | None = None) -> dict[str, float]:
    """Mean of each value, or of those named, over the lines that have it."""
    lines = list(lines)
    found = sorted({name for line in lines for name in line if names is None or name in names})
    return {name: mean(float(line[name]) for line in lines if name in line) for name in found}


def _objective(lines: list[dict[str, Any]]) -> dict[str, float]:
    trained = applied(lines)
    number = max(1, round(WINDOW * len(trained)))
    left_out = {"step", "objective", "timing", "tokens", "fill", "learning_rate", "skipped"}
    values = means({name: value for name, value in line.items() if name not in left_out} for line in trained[-number:])
    first = {f"first_{name}": value for name, value in means(trained[:number], ("loss",)).items()}
    skipped = {"skipped": count} if (count := sum(1 for line in lines if line.get("skipped"))) else {}
    return {"steps": len(lines)} | first | values | skipped


def totals(stages: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Fill, speed and waits over all stages, weighted by their steps."""
    stages = list(stages)
    keys = ("fill", "tokens_per_second", "data_wait")
    return {key: _weighted([(stage.get(key), stage["steps"]) for stage in stages]) for key in keys}


def _weighted(values: Iterable[tuple[float | None, int]]) -> float | None:
    known = [(value, weight) for value, weight in values if value is not None]
    total = sum(weight for _, weight in known)
    return sum(value * weight for value, weight in known) / total if total else None
