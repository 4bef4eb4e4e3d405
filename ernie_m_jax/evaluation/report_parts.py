"""The parts of a run's report: numbers of a run in, charts, heat maps and tables of `reporting.page` out."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np

from ernie_m_jax.evaluation import heldout, scored, searched
from ernie_m_jax.reporting import chart, goodput, page, screen, summary
from ernie_m_jax.reporting.chart import Chart
from ernie_m_jax.reporting.history import TIMING, History, thinned
from ernie_m_jax.reporting.page import Table

TITLES = {
    "loss": "loss, nats per prediction",
    "accuracy": "accuracy, share of the predictions",
    "scored": "predictions per step",
    "gradient_norm": "gradient norm",
    "learning_rate": "learning rate",
    "skipped": "share of steps skipped",
    f"{TIMING}tokens_per_second": "real tokens per second",
    f"{TIMING}data_wait": "input wait, share of the time",
    f"{TIMING}productive": "productive share of the time",
}
_FIRST = ("loss", "accuracy", "scored")
_LAST = (
    "gradient_norm",
    "learning_rate",
    "skipped",
    f"{TIMING}tokens_per_second",
    f"{TIMING}data_wait",
    f"{TIMING}productive",
)
_OF_CAUSE = dict(zip(goodput.CAUSES, (2, 0, 7, 1, 6, 4, 5, 3), strict=True))  # colours
_POINTS = 150  # of a curve; fewer where there are many
_ALL_POINTS = 9000  # of a stage: some 200 kB
_MOST_CURVES = 24  # in one chart
_WIDEST = 48  # languages of a heat map; of more the means are shown


def colours(stages: Iterable[History]) -> dict[str, int]:
    """Objective -> number of its colour, the same in all stages; that of what has no objective is the first."""
    named = {name for history in stages for found in history.values.values() for name in found if name}
    return {name: place for place, name in enumerate(sorted(named))} | {"": 0}


def charts(history: History, kinds: Mapping[str, str], colours: Mapping[str, int]) -> Iterator[Chart | None]:
    """A chart per number of the steps, with a curve per objective, then one per evaluation that came several times.

    Args:
      history: of the stage.
      kinds: evaluation -> its kind.
      colours: of the objectives.
    """
    names = history.values.keys()
    drawn = [name for name in _FIRST if name in names]
    drawn += sorted(name for name in names if name not in (*_FIRST, *_LAST) and not name.startswith(TIMING))
    drawn += [name for name in _LAST if name in names]
    if not any(value > 0 for _, values in history.values.get("skipped", {}).values() for value in values):
        drawn = [name for name in drawn if name != "skipped"]
    points = max(20, min(_POINTS, _ALL_POINTS // max(1, sum(len(history.values[name]) for name in drawn))))
    steps = history.last or 0
    for name in drawn:
        title = TITLES.get(name, name.replace("_", " "))
        curves = {"": history.merged(name, points)} if name == "learning_rate" else history.curves(name, points)
        yield _drawn(title, curves, colours, steps, wide=name == "gradient_norm")
    evaluated: dict[str, list[tuple[int, dict[str, Any]]]] = {}
    for entry in history.evaluations:
        evaluated.setdefault(entry["eval"], []).append((entry["step"], entry))
    for name, lines in evaluated.items():
        if len(lines) > 1:
            yield _evaluated(name, kinds.get(name, ""), lines, steps)


def _evaluated(name: str, kind: str, lines: Sequence[tuple[int, dict[str, Any]]], steps: int) -> Chart | None:
    """An evaluation's means over the steps."""
    metrics = {metric for _, entry in lines for metric in entry if metric not in ("step", "eval")}
    curves = {}
    for metric in sorted(metric for metric in metrics if _is_mean(kind, metric)):
        found = np.array([(step, float(entry[metric])) for step, entry in lines if metric in entry], np.float64)
        curves[metric] = thinned(found[:, 0], found[:, 1], _POINTS)
    unit = "nats and shares" if kind == "heldout" else "%"
    return _drawn(f"{name}, {unit}", curves, {metric: number for number, metric in enumerate(curves)}, steps)


def _is_mean(kind: str, metric: str) -> bool:
    """Whether a metric is over all languages, so one of few."""
    if kind == "task":
        return metric.count("/") == 1
    return "/" not in metric and ">" not in metric and (kind != "heldout" or metric in ("loss", "accuracy"))


def _drawn(
    title: str, curves: Mapping[str, Any], colours: Mapping[str, int], steps: int, wide: bool = False
) -> Chart | None:
    """A chart of the first curves, which says how many it leaves out."""
    made = chart.chart(title, dict(islice(curves.items(), _MOST_CURVES)), colours, steps, wide)
    if made is None or len(curves) <= _MOST_CURVES:
        return made
    return made._replace(note="; ".join(filter(None, (made.note, f"{len(curves) - _MOST_CURVES} more are not drawn"))))


def objectives(stages: Mapping[str, History]) -> Table | None:
    """How each objective's loss began and ended, over a tenth of its steps each, and what else its last steps say."""
    names = list(dict.fromkeys(name for history in stages.values() for name in history.values))
    shown = [name for name in names if name not in ("loss", *_LAST) and not name.startswith(TIMING)]
    header = ["", "steps", "loss at first", "loss at last", *(name.replace("_", " ") for name in shown)]
    rows = []
    for stage, history in stages.items():
        for objective, (_, losses) in sorted(history.values.get("loss", {}).items()):
            count = max(1, round(summary.WINDOW * len(losses)))
            cells = [number(_mean(losses[:count])), number(_mean(losses[-count:]))]
            for name in shown:
                values = history.values.get(name, {}).get(objective, ((), ()))[1]
                cells.append(number(_mean(values[-count:])) if len(values) else "")
            rows.append([f"{stage} {objective}", f"{len(losses):,}", *cells])
    return Table("Objectives", header, rows) if rows else None


def _mean(values: Iterable[float]) -> float:
    finite = np.array(values, np.float64)
    finite = finite[np.isfinite(finite)]
    return float(finite.mean()) if finite.size else float("nan")


def mixtures(stage: str, stored: Mapping[str, Any]) -> Iterator[Table]:
    """A table per objective of a stage: its languages, pairs or directions, what each has and how often it is drawn."""
    for objective, entries in stored.items():
        rows = [screen.MixtureRow(**entry) for entry in entries]
        shares = [100 * float(row.probability) for row in rows]
        cells = [
            [row.name, number(row.records), number(row.tokens), f"{share:.1f} %", number(row.epochs)]
            for row, share in zip(rows, shares, strict=True)
        ]
        header = ["", "records", "tokens", "drawn", "epochs"]
        bars = {3: [max(0.0, min(share, 100.0)) for share in shares]}
        yield Table(f"{objective}: mixture, {stage}", header, cells, bars=bars)


def evaluation(kind: str, languages: Sequence[str], values: Mapping[str, Any], title: str) -> Iterator[Any]:
    """What an evaluation found: a heat map of retrieval, a table by language of the others.

    Raises:
      ValueError, TypeError, KeyError, AttributeError: they are not what such an evaluation writes.
    """
    metrics = {name: float(value) for name, value in values.items()}
    if kind == "retrieval":
        yield from _retrieval(languages, metrics, title)
        return
    rows = heldout.by_entry(metrics) if kind == "heldout" else scored.by_language(metrics)
    codes = [code for code in dict.fromkeys(code for found in rows.values() for code in found) if code != "all"]
    cells = [[code, *(_cell(kind, found.get(code)) for found in rows.values())] for code in codes]
    ours = 0
    if any("all" in found for found in rows.values()):
        cells.append(["all", *(_cell(kind, found.get("all")) for found in rows.values())])
        ours = 1
    elif len(codes) > 1:
        means = [_mean([found[code] for code in codes if code in found]) for found in rows.values()]
        cells.append(["mean", *(_cell(kind, value) for value in means)])
        ours = 1
    if cells:
        yield Table(title, ["", *rows], cells, ours=ours, note="in percent" if kind == "task" else "")


def _retrieval(languages: Sequence[str], metrics: Mapping[str, float], title: str) -> Iterator[Any]:
    found = searched.result_of(languages, metrics)
    if 1 < len(found.languages) <= _WIDEST:
        yield page.heat_map(
            f"{title}: {metrics.get('average', found.average):.1f} %", found.languages, found.matrix / 100
        )
    elif found.languages:
        rows = [
            [code, _cell("task", _mean(found.matrix[place])), _cell("task", _mean(found.matrix[:, place]))]
            for place, code in enumerate(found.languages)
        ]
        yield Table(title, ["", "as the query", "searched"], rows, note="means, in percent")
    if layers := searched.by_layer(metrics):
        numbers = list(dict.fromkeys(layer for means in layers.values() for layer in means))
        rows = [[layer, *(_cell("task", means.get(layer)) for means in layers.values())] for layer in numbers]
        yield Table(f"{title}, by layer", ["layer", *layers], rows, note="means, in percent")


def _cell(kind: str, value: float | None) -> str:
    if value is None or np.isnan(value):
        return "-"
    return f"{value:.3f}" if kind == "heldout" else f"{value:.1f}"


def guarded(problems: list[str], what: str, make: Callable[..., Iterable[Any]], *arguments: Any) -> list[Any]:
    """What `make` gives; where its numbers are damaged nothing, which is noted."""
    try:
        return list(make(*arguments))
    except (OSError, ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
        problems.append(f"{what}: the numbers are damaged and left out ({error!r:.80})")
        return []


def spent(account: Mapping[str, Any]) -> page.Section:
    """Where the time went: a bar of all causes and their table."""
    seconds = goodput.of_file(account)
    whole = sum(seconds.values()) or 1.0
    shares = [
        page.Share(cause.replace("_", " "), _OF_CAUSE[cause], max(0.0, 100 * value / whole), (f"{value:,.1f}", what))
        for (cause, what), value in zip(goodput.CAUSES.items(), seconds.values(), strict=True)
    ]
    facts = [
        ("productive", f"{100 * goodput.share(seconds):.1f} %"),
        ("wall time", duration(sum(seconds.values()))),
        ("starts", number(account["starts"])),
    ]
    return page.Section("Goodput", facts, shares=shares)


def mapping(value: Any) -> Mapping[str, Any]:
    """A value that should be a mapping; empty where it is none."""
    return value if isinstance(value, dict) else {}


def number(value: Any) -> str:
    """A number for people; "-" where there is none, and text, such as "nan", as it is."""
    if value is None:
        return "-"
    if isinstance(value, str):
        return value
    if isinstance(value, int):
        return f"{value:,}"
    return screen.cell(value) if isinstance(value, float) else f"{value!r:.20}"


def duration(seconds: float) -> str:
    """Hours, minutes and seconds."""
    return screen.duration(seconds)
