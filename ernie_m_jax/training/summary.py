"""A stage's numbers out of its `metrics.jsonl`: where each objective's loss began and ended, fill and speed."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from statistics import mean, median
from typing import Any

WINDOW = 0.1  # share of an objective's steps that its first and last numbers are the mean of


def of_stage(path: Path) -> dict[str, Any]:
    """Numbers of a stage.

    Args:
      path: the stage's `metrics.jsonl`.

    Returns:
      `objectives`: name -> loss, accuracy and other values over the last tenth of its steps, `first_loss` over the
      first, `skipped` steps where there are any; `fill` (share of real tokens), `steps`, `tokens`, and
      `tokens_per_second` (real ones, median over the log intervals).
    """
    lines = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    steps = [line for line in lines if "objective" in line]
    rates = [line["timing"]["tokens_per_second"] for line in lines if "timing" in line]
    return {
        "objectives": {
            name: _objective([line for line in steps if line["objective"] == name])
            for name in sorted({line["objective"] for line in steps})
        },
        "steps": len(steps),
        "tokens": sum(int(line["tokens"]) for line in steps),
        "fill": mean(float(line["fill"]) for line in steps),
        "tokens_per_second": median(rates) if rates else None,
    }


def applied(lines: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The steps whose update was applied: a skipped one's numbers are not finite. All of them if none was applied."""
    lines = list(lines)
    return [line for line in lines if not line.get("skipped")] or lines


def means(lines: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Mean of each value over the lines that have it."""
    lines = list(lines)
    names = sorted({name for line in lines for name in line})
    return {name: mean(float(line[name]) for line in lines if name in line) for name in names}


def _objective(lines: list[dict[str, Any]]) -> dict[str, float]:
    trained = applied(lines)
    number = max(1, round(WINDOW * len(trained)))
    left_out = {"step", "objective", "timing", "tokens", "fill", "learning_rate", "skipped"}
    values = means({name: value for name, value in line.items() if name not in left_out} for line in trained[-number:])
    skipped = {"skipped": count} if (count := sum(1 for line in lines if line.get("skipped"))) else {}
    first_loss = mean(float(line["loss"]) for line in trained[:number])
    return {"steps": len(lines), "first_loss": first_loss} | values | skipped


def totals(stages: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Fill and speed over all stages, weighted by their steps."""
    stages = list(stages)
    steps = sum(stage["steps"] for stage in stages)
    rates = [(stage["tokens_per_second"], stage["steps"]) for stage in stages if stage["tokens_per_second"]]
    return {
        "fill": sum(stage["fill"] * stage["steps"] for stage in stages) / steps,
        "tokens_per_second": sum(rate * n for rate, n in rates) / sum(n for _, n in rates) if rates else None,
    }
