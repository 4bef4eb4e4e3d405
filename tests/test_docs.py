"""The documentation: its messages are the program's, its drawings are those of the tables, its links lead somewhere."""

import ast
import importlib.util
import re
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
HOLE = "…"  # stands for what differs in a message
CODE_FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)


def drawing_script():
    spec = importlib.util.spec_from_file_location("draw", DOCS / "draw.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def text_of(node):
    """A string expression as the page writes it, with holes for what is put in."""
    if isinstance(node, ast.Constant):
        return str(node.value) if isinstance(node.value, str) else HOLE
    if isinstance(node, ast.JoinedStr):
        return "".join(text_of(value) for value in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return text_of(node.left) + text_of(node.right)
    return HOLE


def messages():
    """Every string in the source of the package and the launchers, concatenations too, but for docstrings."""
    found = set()
    for folder in ("ernie_m_jax", "launch"):
        for path in (ROOT / folder).rglob("*.py"):
            nodes = list(ast.walk(ast.parse(path.read_text("utf-8"))))
            docstrings = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
            for node in nodes:
                if isinstance(node, ast.Constant | ast.JoinedStr | ast.BinOp) and id(node) not in docstrings:
                    found.add(text_of(node))
    return sorted(found)


def quoted():
    """The messages on the page: the first cell of the tables below a heading `message`."""
    page = (DOCS / "troubleshooting.md").read_text("utf-8")
    rows = [line for line in page.splitlines() if line.startswith("| `")]
    return [row.removeprefix("| `").rpartition("` | ")[0] for row in rows]


def stands_in(message, source):
    pieces = [re.escape(piece) for piece in message.strip(f"{HOLE} ").split(HOLE)]
    return re.search(".{0,150}".join(pieces), source) is not None


SOURCE = messages()


@pytest.mark.parametrize("message", quoted())
def test_every_message_of_the_page_is_one_of_the_program(message):
    assert len(re.sub(rf"[{HOLE}\W]", "", message)) >= 8, "too short to find anything"
    assert any(stands_in(message, text) for text in SOURCE)


def test_a_message_that_the_program_has_not_is_found():
    assert len(quoted()) > 80
    assert not any(stands_in("config.seed … is too lucky", text) for text in SOURCE)


def test_the_drawings_are_those_of_the_tables():
    draw = drawing_script()
    for name, drawing in draw.DRAWINGS.items():
        stored = (DOCS / "images" / f"sees_{name}.svg").read_text("utf-8")
        assert stored == draw.svg(drawing), f"{name}: python docs/draw.py draws another one"
    assert {path.stem for path in (DOCS / "images").glob("sees_*.svg")} == {f"sees_{name}" for name in draw.DRAWINGS}


def test_a_camlm_slot_sees_the_other_sentence_only():
    drawing = drawing_script().DRAWINGS["camlm"]
    names, mask = [name for name, _ in drawing.tokens], drawing.mask()
    seen = {name: " ".join(np.array(names)[row]) for name, row in zip(names, mask, strict=True)}
    assert seen["M2"] == "y4 y5 y6 y7 M2"
    assert seen["M5"] == seen["M6"] == "x1 x2 x3 M5 M6"
    assert seen["x2"] == "x1 x2 x3"


def anchors(page):
    """The anchors of a page's headings, as GitHub and MkDocs make them."""
    text = CODE_FENCE.sub("", page.read_text("utf-8"))
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", [ROOT / "README.md", *PAGES], ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    text = CODE_FENCE.sub("", page.read_text("utf-8"))
    for target, anchor in re.findall(r"\]\((?!https?:|mailto:)([^)#\s]*)(?:#([^)\s]+))?\)", text):
        path = (page.parent / target).resolve() if target else page
        assert path.exists(), target
        if anchor and path.suffix == ".md":
            assert anchor in anchors(path), f"{target}#{anchor}"


def test_every_page_is_in_the_navigation():
    listed = re.findall(r": ([\w/]+\.md)$", (ROOT / "mkdocs.yml").read_text("utf-8"), re.MULTILINE)
    assert sorted(listed) == [str(page.relative_to(DOCS)) for page in PAGES]


def test_one_address_of_the_repository():
    address = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["urls"]["Repository"]
    owner = address.removeprefix("https://github.com/")
    assert f"repo_url: {address} " in (ROOT / "mkdocs.yml").read_text("utf-8")
    for page in [ROOT / "README.md", *PAGES]:
        for found in re.findall(r"github(?:\.com|usercontent\.com)?/([\w.-]+/ernie[\w.-]*)", page.read_text("utf-8")):
            assert found == owner, page
