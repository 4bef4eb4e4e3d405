"""The shape of the source: who may import whom, and how long a file or a function may be."""

import ast
import pathlib

ROOT = pathlib.Path(__file__).parents[1]
PACKAGE = ROOT / "ernie_m_jax"
# What a part may not import, so that data moves left to right only (docs/design.md).
FORBIDDEN = {
    "data": ("model", "objectives", "training", "convert", "main"),
    "model": ("data", "objectives", "training", "convert", "main", "tokenizer"),
    "objectives": ("training", "convert", "main"),
    "convert": ("data", "objectives", "main"),
    "training": ("main",),
    "task": ("data", "model", "objectives", "training", "main", "config"),
    "config": ("data", "model", "objectives", "training", "main"),
    "tokenizer": ("data", "model", "objectives", "training", "convert", "main"),
}
TOKENIZER_PARTS = (
    "tokenizer_sentencepiece",
    "tokenizer_bert",
    "tokenizer_xlm",
    "tokenizer_files",
    "tokenizer_training",
)
FORBIDDEN |= dict.fromkeys(("config_build", "config_checks", "config_files"), FORBIDDEN["config"])
FORBIDDEN |= dict.fromkeys(TOKENIZER_PARTS, FORBIDDEN["tokenizer"])
OBJECTIVES = {"mmlm", "tlm", "camlm", "btmlm"}


def imports(path):
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_imports_go_one_way():
    wrong = []
    for path in PACKAGE.rglob("*.py"):
        part = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        for name in imports(path):
            parts = name.split(".")
            if parts[0] == "ernie_m_jax" and len(parts) > 1 and parts[1] in FORBIDDEN.get(part, ()):
                wrong.append(f"{path.relative_to(ROOT)} imports {name}")
    assert wrong == []


def test_the_loop_and_the_data_know_no_objective():
    wrong = []
    for folder in ("training", "data", "model"):
        for path in (PACKAGE / folder).rglob("*.py"):
            tree = ast.parse(path.read_text("utf-8"))
            named = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)} & OBJECTIVES
            named |= {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)} & OBJECTIVES
            wrong += [f"{path.relative_to(ROOT)}: {name}" for name in named]
    assert wrong == []


def test_configs_import_only_the_base():
    for path in (ROOT / "configs").rglob("*.py"):
        allowed = ("ml_collections", "configs.base")
        assert [name for name in imports(path) if not name.startswith(allowed)] == [], path


def test_no_deep_learning_framework_but_jax_at_run_time():
    for path in PACKAGE.rglob("*.py"):
        names = {name.split(".")[0] for name in imports(path)}
        assert not names & {"tensorflow", "torch", "transformers", "paddle", "clu"}, path


def test_every_module_says_where_it_stands():
    for path in PACKAGE.rglob("*.py"):
        assert ast.get_docstring(ast.parse(path.read_text("utf-8"))), path


def test_nothing_stands_on_the_public_surface():
    for path in PACKAGE.rglob("*.py"):
        above = {name for name in imports(path) if name.startswith(("ernie_m_jax.api", "ernie_m_jax.pretrained"))}
        assert not above or path.name == "api.py", path
