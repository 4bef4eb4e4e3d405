"""Result files: JSON, CSV, PNG and the versions behind a result. A file appears whole or not at all.

Importing this module imports neither JAX nor matplotlib.
"""

import csv
import importlib.metadata
import io
import json
import math
import os
import pathlib
import platform
import subprocess
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ernie_m_jax import atomic
from ernie_m_jax.version import __version__

_COLOURS = ("#00457c", "#d9a441", "#7f7f7f", "#6baed6", "#8c510a", "#35978f")  # of bars, one per metric
_WIDEST = 60.0  # inches of a bar chart
_OURS = "#fbe9c4"  # behind our rows of a table


def heat_map(path: str | os.PathLike[str], languages: Sequence[str], matrix: Any, title: str) -> None:
    """Draws the language-by-language accuracies as a PNG, the percentages in the cells, the diagonal blank.

    Args:
      path: file to write.
      languages: L codes.
      matrix: [L, L] in 0..1, as for `retrieval_table`.
      title: above the picture.

    Raises:
      ValueError: `matrix` is not [L, L] or has a value outside 0..1.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    percent, count = percentages(languages, matrix), len(languages)
    side = 0.52 * count
    figure = Figure(figsize=(max(3.4, side + 1.9), max(3.0, side + 1.3)), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    # Cividis reads the same to colour-blind people; the fixed range makes two pictures comparable.
    image = axes.imshow(percent, cmap="cividis", vmin=0, vmax=100)
    for row, column in np.argwhere(np.isfinite(percent)):
        value = percent[row, column]
        colour = "black" if value > 47 else "white"
        axes.text(column, row, tenths(value), ha="center", va="center", color=colour, fontsize=9)
    axes.set_xticks(range(count), languages)
    axes.set_yticks(range(count), languages)
    axes.set_xticks(np.arange(count + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(count + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=1.5)
    axes.tick_params(which="both", length=0)
    axes.spines[:].set_visible(False)
    axes.set_xlabel("language searched")
    axes.set_ylabel("language of the query")
    axes.set_title(title)
    figure.colorbar(image, ax=axes, label="accuracy, %", shrink=0.8)
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer, metadata={"Software": None})
    atomic.write(path, buffer.getvalue())


def write_csv(path: str | os.PathLike[str], languages: Sequence[str], matrix: Any) -> None:
    """Writes the matrix (0..1, full precision) with a header; diagonal and NaN are empty cells.

    Raises:
      ValueError: `matrix` is not [L, L] or has a value outside 0..1.
    """
    percentages(languages, matrix)
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["query", *languages])
    for row, language in enumerate(languages):
        cells = [float(value) for value in np.asarray(matrix)[row]]
        empty = [math.isnan(value) or row == column for column, value in enumerate(cells)]
        writer.writerow([language, *("" if blank else repr(value) for blank, value in zip(empty, cells, strict=True))])
    write_text(path, buffer.getvalue())


def write_rows(path: str | os.PathLike[str], rows: Mapping[str, Mapping[str, float]]) -> None:
    """Writes numbers by language as CSV, full precision: a row per metric, a column per language."""
    languages = list(dict.fromkeys(language for values in rows.values() for language in values))
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["metric", *languages])
    for metric, values in rows.items():
        writer.writerow([metric, *(repr(float(values[code])) if code in values else "" for code in languages)])
    write_text(path, buffer.getvalue())


def bar_chart(path: str | os.PathLike[str], rows: Mapping[str, Mapping[str, float]], title: str, unit: str) -> None:
    """Draws numbers by language as a PNG: a group of bars per language, a bar per metric, each with its number.

    Args:
      path: file to write.
      rows: metric -> language -> number, not empty.
      title: above the picture.
      unit: of the numbers; percentages get an axis from 0 to 100.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    languages = list(dict.fromkeys(language for values in rows.values() for language in values))
    needed = 0.42 * len(languages) * len(rows) + 1.2
    crowded = needed > _WIDEST  # such as all directions of a hundred languages: lines without numbers, some names
    figure = Figure(figsize=(min(max(4.0, needed), _WIDEST), 3.4), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    width, decimals = 0.84 / len(rows), 1 if unit == "%" else 2
    for number, (metric, values) in enumerate(rows.items()):
        heights = np.array([values.get(language, math.nan) for language in languages], np.float64)
        heights[~np.isfinite(heights)] = math.nan
        places = np.arange(len(languages)) + (number - (len(rows) - 1) / 2) * width
        colour = _COLOURS[number % len(_COLOURS)]
        if crowded:
            axes.vlines(places, 0, heights, label=metric, color=colour)  # thousands of bars would take minutes
            continue
        bars = axes.bar(places, heights, width * 0.92, label=metric, color=colour)
        labels = [f"{height:.{decimals}f}" if math.isfinite(height) else "" for height in heights]
        axes.bar_label(bars, labels, fontsize=7, padding=1)
    named = range(0, len(languages), math.ceil(needed / _WIDEST))
    upright = max(map(len, languages)) > 3 * len(rows) + 1
    axes.set_xticks(named, [languages[place] for place in named], rotation=90 if upright else 0, fontsize=9)
    axes.set_xlim(-0.6, len(languages) - 0.4)
    axes.set_ylabel(unit)
    axes.set_ylim(0, 105 if unit == "%" else None)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(title, fontsize=10, loc="left")
    if len(rows) > 1:
        columns = max(1, int(figure.get_figwidth() / 1.6))  # inches that a name may take
        figure.legend(fontsize=8, frameon=False, loc="outside lower center", ncols=min(columns, len(rows)))
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer, metadata={"Software": None})
    atomic.write(path, buffer.getvalue())


def table_picture(
    path: str | os.PathLike[str], rows: Sequence[Sequence[str]], highlighted: int, title: str, note: str = ""
) -> None:
    """Draws a table as a PNG.

    Args:
      path: file to write.
      rows: cells, the header's first.
      highlighted: how many of the last rows stand out, below a line.
      title: above the table.
      note: below it, small.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    widths = [max(map(len, cells)) + 2 for cells in zip(*rows, strict=True)]  # in characters
    ends = np.cumsum(widths)
    height = len(rows) + 3.2  # in lines: title and note beside the rows
    width = max(ends[-1], 1.2 * len(title) + 2, 0.8 * len(note) + 2)  # their letters are wider and narrower
    figure = Figure(figsize=(0.098 * width, 0.26 * height), dpi=150)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_xlim(0, width)
    axes.set_ylim(height, 0)
    axes.set_axis_off()
    axes.text(1, 0.9, title, fontsize=11, fontweight="bold", va="center", parse_math=False)
    first = len(rows) - highlighted
    for number, cells in enumerate(rows):
        line, ours = number + 2.2, number >= first
        if ours:
            axes.axhspan(line - 0.5, line + 0.5, xmax=ends[-1] / width, color=_OURS, linewidth=0)
        weight = "bold" if ours or not number else "normal"
        style: dict[str, Any] = {"family": "monospace", "fontsize": 9, "va": "center", "weight": weight}
        style["parse_math"] = False  # a "$" in a label is one
        axes.text(1, line, cells[0], **style)
        for end, cell in zip(ends[1:], cells[1:], strict=True):
            axes.text(end - 1, line, cell, ha="right", **style)
    for line in (1.7, 2.7, *([first + 1.7] if highlighted else []), len(rows) + 1.7):
        axes.hlines(line, 0.5, ends[-1] - 0.5, color="black", linewidth=0.8)
    axes.text(1, len(rows) + 2.3, note, fontsize=7.5, va="center", color="#555555")
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")  # a box stands for such a character
        FigureCanvasAgg(figure).print_png(buffer, metadata={"Software": None})
    atomic.write(path, buffer.getvalue())


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Writes JSON, indented, with the keys' order kept; the file is replaced whole or not at all. See `json_value`."""
    write_text(path, json.dumps(json_value(value), indent=2, allow_nan=False, ensure_ascii=False) + "\n")


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Writes a text file whole or not at all; its directory is made if need be."""
    atomic.write(path, text.encode())


def aside(path: Any, why: str = "damaged") -> Any:
    """Where to keep a file that another replaces: `<name>.<why>` beside it, with a number from 2 on if that is taken.

    Args:
      path: a `pathlib` or `epath` path; the result is of the same class.
      why: one word.
    """
    kept, number = path.with_name(f"{path.name}.{why}"), 1
    while kept.exists():
        number += 1
        kept = path.with_name(f"{path.name}.{why}-{number}")
    return kept


def json_value(value: Any) -> Any:
    """Returns `value` as JSON can hold it: NumPy and 0-d device numbers as Python's, NaN and infinities as strings.

    JSON has no NaN; the strings "nan", "inf" and "-inf" are read back by `float()`.

    Raises:
      TypeError: a value JSON cannot hold.
    """
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, Mapping):
        return {str(key): json_value(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [json_value(item) for item in value]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if hasattr(value, "tolist"):
        return json_value(value.tolist())
    raise TypeError(f"{type(value).__name__} has no JSON form: {value!r}")


def versions() -> dict[str, Any]:
    """What a result depends on: Python, libraries, devices, this host, and the commit of this checkout (or None)."""
    import jax

    result: dict[str, Any] = {"python": platform.python_version()}
    for name in ("jax", "jaxlib", "libtpu", "flax", "optax", "orbax-checkpoint", "numpy"):
        try:
            result[name.removesuffix("-checkpoint")] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            result[name.removesuffix("-checkpoint")] = None
    result["ernie_m_jax"] = __version__
    result |= {"device": jax.devices()[0].device_kind, "device_count": jax.device_count()}
    result |= {"processes": jax.process_count(), "cpus": os.cpu_count(), "platform": platform.platform()}
    result["commit"] = _commit()
    return result


def _commit() -> str | None:
    """Commit of the checkout that tracks this file, "-dirty" if tracked files changed; None without a checkout."""
    here = pathlib.Path(__file__).resolve()
    git = ["git", "--no-optional-locks", "-C", str(here.parent)]
    tracked = [
        "ls-files",
        "--error-unmatch",
        here.name,
    ]  # a virtual environment inside some checkout is not that checkout
    describe = ["describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        subprocess.run([*git, *tracked], capture_output=True, check=True, timeout=10)
        output = subprocess.run([*git, *describe], capture_output=True, check=True, timeout=10, text=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    return output.strip() or None


def percentages(languages: Sequence[str], matrix: Any) -> np.ndarray:
    """[L, L] in percent with NaN on the diagonal."""
    values = np.array(matrix, dtype=np.float64)
    if values.shape != (len(languages), len(languages)):
        raise ValueError(
            f"matrix of shape {values.shape} for {len(languages)} languages; expected one row and column each"
        )
    np.fill_diagonal(values, np.nan)
    if np.nanmin(values, initial=0.0) < 0.0 or np.nanmax(values, initial=0.0) > 1.0:
        raise ValueError(f"accuracies must lie in 0..1, got {np.nanmin(values)} to {np.nanmax(values)}")
    return 100.0 * values


def tenths(percent: float) -> str:
    """A percentage as it is shown; 100 without a decimal keeps columns narrow."""
    return f"{percent:.1f}" if percent < 99.95 else "100"
