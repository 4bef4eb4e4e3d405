"""Draws who sees whom, from the objectives' own tables of visibility, as SVG files: docs/images/sees_*.svg.

python docs/draw.py            # writes them; tests/test_docs.py compares what is stored with what this draws

Each picture has a grid (row: who looks, column: who is seen) and the row of tokens with an arc from every predicted
token to all that it sees. Nothing here states who sees whom: `model.visibility.visible` computes it from the tables.
"""

import dataclasses
import pathlib
import sys

import jax.numpy as jnp
import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

from ernie_m_jax.model import visibility
from ernie_m_jax.objectives import btmlm, camlm

FOLDER = pathlib.Path(__file__).parent / "images"
CELL, LABEL, BOX = 34, 46, 46  # pixels: a cell of the grid, its labels, a token of the row
COLOURS = {"first": "#cfe0f3", "second": "#fbe3bd", "slot": "#ffffff"}  # sentences; a place where a word is predicted
SEEN, GRID, TEXT = "#00457c", "#c8c8c8", "#1a1a1a"
ARCS = ("#00457c", "#b45f06", "#35978f")


@dataclasses.dataclass(frozen=True)
class Drawing:
    """One example of a row.

    Attributes:
      title: above it.
      tokens: name and kind ("first", "second" sentence, "slot") of each.
      roles: of each, into the table.
      table: the objective's.
      predicted: the tokens whose arcs are drawn.
      segments: example of each token within the row; all in one where it is empty.
    """

    title: str
    tokens: tuple[tuple[str, str], ...]
    roles: tuple[int, ...]
    table: np.ndarray
    predicted: tuple[str, ...]
    segments: tuple[int, ...] = ()

    def mask(self) -> np.ndarray:
        """Bool [L, L]: row sees column."""
        segments = jnp.asarray([self.segments or [1] * len(self.tokens)], jnp.int32)
        roles = jnp.asarray([self.roles], jnp.int32)
        return np.asarray(visibility.visible(segments, segments, roles, roles, self.table))[0, 0]


def _tokens(first: str, second: str = "", kind: str = "second") -> tuple[tuple[str, str], ...]:
    """Tokens by their names; one that begins with M is a place where a word is predicted."""
    named = [(name, "first") for name in first.split()] + [(name, kind) for name in second.split()]
    return tuple((name, "slot" if name.startswith("M") else own) for name, own in named)


DRAWINGS = {
    "mmlm": Drawing("MMLM: masks in one sentence", _tokens("x1 M2 x3 x4"), (0,) * 4, visibility.FULL, ("M2",)),
    "tlm": Drawing(
        "TLM: masks in both sentences of a pair", _tokens("x1 M2 x3", "y4 M5 M6 y7"), (0,) * 7, visibility.FULL, ("M2",)
    ),
    "camlm": Drawing(
        "CAMLM: the words stay, each predicted word gets a slot",
        (*_tokens("x1 x2 x3", "y4 y5 y6 y7"), *_tokens("M2 M5 M6")),
        (camlm.SOURCE_WORD,) * 3 + (camlm.TARGET_WORD,) * 4 + (camlm.SOURCE_SLOT,) + (camlm.TARGET_SLOT,) * 2,
        camlm.TABLE,
        ("M2", "M5"),
    ),
    "btmlm_write": Drawing(
        "BTMLM, first pass: pseudo tokens are written into placeholders",
        _tokens("x1 x2 x3 x4", "M5 M6 M7"),
        (btmlm.SOURCE,) * 4 + (btmlm.PLACEHOLDER,) * 3,
        btmlm.GENERATION,
        ("M6",),
    ),
    "btmlm_restore": Drawing(
        "BTMLM, second pass: words are restored from sentence and pseudo tokens",
        _tokens("x1 M2 M3 x4", "h5 h6 h7"),
        (0,) * 7,
        visibility.FULL,
        ("M2",),
    ),
    "packed": Drawing(
        "A packed row: two examples (a, b) and padding (-)",
        (*_tokens("a1 M2 a3"), *_tokens("", "b1 b2 M3"), ("-", "slot"), ("-", "slot")),
        (0,) * 8,
        visibility.FULL,
        ("M2", "M3"),
        (1, 1, 1, 2, 2, 2, 0, 0),
    ),
}


def svg(drawing: Drawing) -> str:
    """The picture of one example."""
    mask, count = drawing.mask(), len(drawing.tokens)
    grid, row = LABEL + count * CELL, count * BOX
    width, height = grid + 50 + row, max(40 + grid + 10, 190)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        'font-family="sans-serif" font-size="14" text-anchor="middle">',
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
        f'<text x="8" y="20" text-anchor="start" font-weight="bold" fill="{TEXT}">{drawing.title}</text>',
        *_grid(drawing, mask),
        *_row(drawing, mask, grid + 40, height - 60),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _grid(drawing: Drawing, mask: np.ndarray) -> list[str]:
    parts, top = [], 40 + LABEL
    for i, (name, kind) in enumerate(drawing.tokens):
        middle = i * CELL + CELL // 2
        parts += _box(name, kind, LABEL + middle, 40 + LABEL // 2, CELL)
        parts += _box(name, kind, LABEL // 2, top + middle, CELL)
        for j in range(len(drawing.tokens)):
            fill = SEEN if mask[i, j] else "#ffffff"
            place = f'x="{LABEL + j * CELL}" y="{top + i * CELL}" width="{CELL}" height="{CELL}"'
            parts.append(f'<rect {place} fill="{fill}" stroke="{GRID}"/>')
    return parts


def _row(drawing: Drawing, mask: np.ndarray, left: int, base: int) -> list[str]:
    """The tokens in a row, at height `base`; arcs above it lead from what is predicted to what it sees."""
    parts, names = [], [name for name, _ in drawing.tokens]
    for number, predicted in enumerate(drawing.predicted):
        start, colour = names.index(predicted), ARCS[number]
        x = left + start * BOX + BOX // 2
        for seen in np.flatnonzero(mask[start]):
            if seen == start:
                continue
            end = left + int(seen) * BOX + BOX // 2
            radius = abs(end - x) / 2
            depth = min(0.55 * radius + 12, base - 60)
            curve = f"M {x} {base - 16} C {x} {base - 16 - depth:.0f} {end} {base - 16 - depth:.0f} {end} {base - 16}"
            parts.append(f'<path d="{curve}" fill="none" stroke="{colour}" stroke-width="1.6"/>')
            parts.append(f'<circle cx="{end}" cy="{base - 16}" r="3" fill="{colour}"/>')
    for i, (name, kind) in enumerate(drawing.tokens):
        parts += _box(name, kind, left + i * BOX + BOX // 2, base, BOX - 10)
    said = f"arcs: what {' and '.join(drawing.predicted)} {'see' if len(drawing.predicted) > 1 else 'sees'}"
    parts.append(f'<text x="{left}" y="{base + 36}" text-anchor="start" fill="{TEXT}" font-size="12">{said}</text>')
    return parts


def _box(name: str, kind: str, x: int, y: int, side: int) -> list[str]:
    """A token around a point; dashed where a word is predicted, or padding stands."""
    dashed = ' stroke-dasharray="3 2"' if kind == "slot" else ""
    place = f'x="{x - side / 2 + 2:g}" y="{y - 13}" width="{side - 4}" height="26" rx="4"'
    return [
        f'<rect {place} fill="{COLOURS[kind]}" stroke="#666666"{dashed}/>',
        f'<text x="{x}" y="{y + 5}" fill="{TEXT}">{name}</text>',
    ]


def main() -> None:
    """Writes every drawing."""
    for name, drawing in DRAWINGS.items():
        path = FOLDER / f"sees_{name}.svg"
        path.write_text(svg(drawing), "utf-8")
        print(path.relative_to(FOLDER.parents[1]))


if __name__ == "__main__":
    main()
