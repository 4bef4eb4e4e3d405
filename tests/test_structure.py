"""The shape of the source: who may import whom, and how long a file or a function may be."""

import ast
import pathlib

ROOT = pathlib.Path(__file__).parents[1]
PACKAGE = ROOT / "ernie_m_jax"
# From top to bottom: a part may import what stands below it, nothing beside or above it (docs/design.md).
FLOORS = (
    ("main",),
    ("api",),
    ("pretrained",),
    ("predict",),
    ("training",),
    ("evaluation",),
    ("convert",),
    ("checkpoint",),
    ("finetune", "objectives"),
    ("data", "lifeline", "model", "processes", "reporting", "topology", "weights"),
    ("compiler", "sharding", "tokenizer", "topology_gpus"),
    (
        "atomic",
        "config",
        "config_build",
        "config_checks",
        "config_evals",
        "config_fields",
        "config_files",
        "config_renames",
        "mirror",
        "mirrors",
        "stores",
        "task",
        "version",
    ),
)
LONGEST = 350  # lines of a file
OBJECTIVES = {"mmlm", "tlm", "camlm", "btmlm"}


def imports(path):
    """Every name that a file imports, inside functions too."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def graph(package):
    """Module -> the package's modules that it imports."""
    modules = {}
    for path in package.rglob("*.py"):
        name = ".".join((package.name, *path.relative_to(package).with_suffix("").parts))
        modules[name.removesuffix(".__init__")] = path
    found = {}
    for name, path in modules.items():
        named = {part for full in imports(path) for part in (full, full.rpartition(".")[0])}
        # `from package import module` names the package as well; what stands in its __init__ is not meant.
        found[name] = {other for other in named & set(modules) if not name.startswith(f"{other}.")} - {name}
    return found


def upward(package):
    """Imports of what does not stand below, and modules that stand on no floor."""
    floor = {part: number for number, parts in enumerate(FLOORS) for part in parts}
    bottom, wrong = len(FLOORS) - 1, []
    for name, used in graph(package).items():
        part = name.split(".")[1] if "." in name else None
        if part is None:
            continue
        if part not in floor:
            wrong.append(f"{name} stands on no floor")
            continue
        for other in used:
            target = other.split(".")[1] if "." in other else None
            if target is None or target == part or target not in floor:
                continue
            together = floor[target] == floor[part] == bottom
            if floor[target] <= floor[part] and not together:
                wrong.append(f"{name} imports {other}")
    return sorted(wrong)


def circles(package):
    """Sets of modules that import one another, directly or not."""
    used = graph(package)

    def reach(start):
        seen, todo = set(), [*used[start]]
        while todo:
            name = todo.pop()
            if name not in seen:
                seen.add(name)
                todo += used[name]
        return seen

    far = {name: reach(name) for name in used}
    return {
        frozenset({name, *(other for other in far[name] if name in far[other])}) for name in used if name in far[name]
    }


def too_long(package):
    """Files of more lines than a reader takes in."""
    lengths = {path: path.read_text("utf-8").count("\n") for path in package.rglob("*.py")}
    return sorted(f"{path.name}: {lines}" for path, lines in lengths.items() if lines > LONGEST)


def test_imports_go_down_only():
    assert upward(PACKAGE) == []


def test_no_modules_import_one_another():
    assert circles(PACKAGE) == set()


def test_no_file_is_too_long():
    assert too_long(PACKAGE) == []


def house(folder, **files):
    """A package with these modules; a name's `__` is a folder."""
    package = folder / "ernie_m_jax"
    for name, text in {"__init__": "", **files}.items():
        path = package / f"{name.replace('__', '/') if name != '__init__' else name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return package


def test_an_upward_import_is_found_inside_a_function_too(tmp_path):
    package = house(
        tmp_path,
        data__mixture="def f():\n    from ernie_m_jax.training import loop\n",
        model__encoder="import ernie_m_jax.data.mixture\n",
        training__loop="from ernie_m_jax.data import mixture\n",
        attic="",
    )
    assert upward(package) == [
        "ernie_m_jax.attic stands on no floor",
        "ernie_m_jax.data.mixture imports ernie_m_jax.training.loop",
        "ernie_m_jax.model.encoder imports ernie_m_jax.data.mixture",
    ]


def test_a_circle_within_a_part_is_found(tmp_path):
    package = house(
        tmp_path,
        weights__tensors="def f():\n    from ernie_m_jax.weights import torch_files\n",
        weights__torch_files="from ernie_m_jax.weights.archives import x\n",
        weights__archives="from ernie_m_jax.weights.tensors import Tensor\n",
        weights__kinds="from ernie_m_jax.weights.tensors import Tensor\n",
    )
    names = ("tensors", "torch_files", "archives")
    assert circles(package) == {frozenset(f"ernie_m_jax.weights.{name}" for name in names)}


def test_a_long_file_is_found(tmp_path):
    assert too_long(house(tmp_path, task="x = 1\n" * 351, config="x = 1\n" * 350)) == ["task.py: 351"]


def test_the_loop_and_the_data_know_no_objective():
    wrong = []
    for folder in ("training", "data", "model"):
        for path in (PACKAGE / folder).rglob("*.py"):
            tree = ast.parse(path.read_text("utf-8"))
            named = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)} & OBJECTIVES
            named |= {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)} & OBJECTIVES
            wrong += [f"{path.relative_to(ROOT)}: {name}" for name in named]
    assert wrong == []


def test_configs_import_only_the_base_and_what_reads_a_stored_config():
    for path in (ROOT / "configs").rglob("*.py"):
        allowed = (
            "json",
            "ml_collections",
            "configs.base",
            "configs.recipes",
            "ernie_m_jax.stores",
            "ernie_m_jax.tokenizer",
        )
        assert [name for name in imports(path) if not name.startswith(allowed)] == [], path


def test_no_deep_learning_framework_but_jax_at_run_time():
    for path in PACKAGE.rglob("*.py"):
        names = {name.split(".")[0] for name in imports(path)}
        assert not names & {"tensorflow", "torch", "transformers", "paddle", "clu"}, path


def test_every_module_says_where_it_stands():
    for path in PACKAGE.rglob("*.py"):
        assert ast.get_docstring(ast.parse(path.read_text("utf-8"))), path
