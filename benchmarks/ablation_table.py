"""What the arms of `ablation.py` found, as numbers and as a table."""

import json
import pathlib
from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any

from ablation_arms import Arm

COLUMNS = (
    "dev",
    "test",
    "last",
    "layers",
    "margin",
    "udhr",
    "centred",
    "transfer",
    "f1",
    "chrf",
    "own gain",
    "true gain",
    "words",
    "text",
    "btmlm loss",
    "steps",
    "Mtokens",
    "minutes",
)
OWN = {"dev", "dev_margin", "test", "test_margin", "udhr", "words", "text"}  # evaluations that every arm has


def numbers(workdir: pathlib.Path, arm: Arm) -> dict[str, Any]:
    """What a finished arm found: its stage's summary, and the columns of the table."""
    stage = {"first": "stage1", "second": "stage2"}[arm.stage]
    found = json.loads((workdir / arm.name / stage / "summary.json").read_text())
    whole = json.loads((workdir / arm.name / "summary.json").read_text())
    evals = found["evals"]
    layers = by_layer(evals["dev"])
    best, margin = (max(values, key=values.__getitem__) for values in (layers, by_layer(evals["dev_margin"])))
    test = by_layer(evals["test"])
    columns = {
        "dev": layers[best],
        "test": test[best],
        "last": test[max(test)],
        "layers": mean(value for layer, value in test.items() if layer),
        "margin": by_layer(evals["test_margin"])[margin],
        "udhr": by_layer(evals["udhr"])[best],
        "words": 100 * evals["words"]["accuracy"],
        "text": 100 * evals["text"]["accuracy"],
        "btmlm loss": found["objectives"].get("btmlm", {}).get("loss"),
        "steps": found["steps"],
        "Mtokens": found["tokens"] / 1e6,
        "minutes": whole["wall_seconds"] / 60,
    }
    chosen = {"layer": best, "margin_layer": margin}
    record = {"columns": columns, "chosen": chosen, "stage": found, "versions": whole["versions"]}
    columns |= {name: by_layer(evals[name])[best] for name in sorted(evals.keys() - OWN) if by_layer(evals[name])}
    if (workdir / arm.name / "measures.json").exists():
        record["measures"] = measures = json.loads((workdir / arm.name / "measures.json").read_text("utf-8"))
        columns["centred"] = measures["retrieval"]["test"]["centred_cosine"]
        if "transfer" in measures:
            columns["transfer"] = measures["transfer"]["others"]
        if "writing" in measures:
            columns |= {name: measures["writing"][name] for name in ("f1", "chrf")}
            use = measures["use"]
            columns |= {"own gain": use["none"] - use["own"], "true gain": use["none"] - use["translation"]}
    return record


def by_layer(metrics: Mapping[str, float]) -> dict[int, float]:
    """The mean over all directions after each layer; 0 is the embeddings."""
    means = {name: value for name, value in metrics.items() if name.startswith("layer") and name.endswith("/average")}
    return {int(name.partition("/")[0].removeprefix("layer")): value for name, value in means.items()}


def table(found: Mapping[str, Mapping[str, Any]], arms: Sequence[Arm]) -> str:
    """A Markdown table, a row per group: mean over its arms, and the range where there are several."""
    there = dict.fromkeys(column for arm in found.values() for column in arm["columns"])
    columns = [*(column for column in COLUMNS if column in there), *(name for name in there if name not in COLUMNS)]
    lines = [f"| arm | seeds | {' | '.join(columns)} |", "| --- " * (len(columns) + 2) + "|"]
    for group in dict.fromkeys(arm.group for arm in arms):
        members = [found[arm.name]["columns"] for arm in arms if arm.group == group and arm.name in found]
        if members:
            cells = [_cell([member.get(column) for member in members]) for column in columns]
            lines.append(f"| {group} | {len(members)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return ""
    if min(known) == max(known):
        return f"{known[0]:.4g}"
    return f"{mean(known):.1f} ({min(known):.1f}-{max(known):.1f})"
