"""Imports point one way: a package knows those that stand before it here, and no circle joins two modules."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ORDER = (
    *("__version__", "errors", "random", "words", "terminal", "console", "facts", "signals", "processes", "config"),
    *("records", "analysis"),  # know tables, not torch
    *("norms", "models", "kernels", "data", "tasks", "training", "measures", "runs", "cli", "cards", "docs"),
)
# What --help, a mistake, a finished run and the tables are told with. `processes` loads torch where there are several.
WITHOUT_TORCH = (
    "errors",
    "random",
    "words",
    "terminal",
    "console",
    "facts",
    "signals",
    "config",
    "records",
    "analysis",
    "cli",
)


def modules() -> dict[str, ast.Module]:
    """Dotted name → source of every module of the package."""
    paths = sorted((ROOT / "normbench").rglob("*.py"))
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in paths]
    return {
        name.removesuffix(".__init__"): ast.parse(path.read_text()) for name, path in zip(names, paths, strict=True)
    }


def imported(tree: ast.AST, known) -> set[str]:
    """The modules that a source imports, wherever in it: normbench's own, and other packages by their first name."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in known else node.module for name in names}
    return {name if name.startswith("normbench") else name.partition(".")[0] for name in found}


MODULES = modules()
ARROWS = {name: {other for other in imported(tree, MODULES) if other in MODULES} for name, tree in MODULES.items()}


def package(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


@pytest.mark.parametrize("module", [name for name in MODULES if package(name) not in ("", "__main__")])
def test_imports_point_one_way(module):
    mine = ORDER.index(package(module))
    upward = {other for other in ARROWS[module] if other != "normbench" and ORDER.index(package(other)) > mine}
    assert upward == set()


def test_no_circle_joins_two_modules():
    """The package's own face, `normbench.run`, stands before all and is looked into for its version."""
    inner = {name: arrows - {"normbench"} for name, arrows in ARROWS.items() if name != "normbench"}
    list(TopologicalSorter(inner).static_order())  # raises CycleError, which names them


@pytest.mark.parametrize("module", [name for name in MODULES if package(name) in WITHOUT_TORCH])
def test_what_is_told_without_torch_does_not_load_it(module):
    """At its top: where a function needs torch after all, it loads it itself."""
    top = [node for node in MODULES[module].body if isinstance(node, ast.Import | ast.ImportFrom)]
    assert imported(ast.Module(top, []), MODULES).isdisjoint({"torch", "torchvision"})


def test_every_part_has_its_place():
    assert {package(name) for name in MODULES} - {"", "__main__"} == set(ORDER) - {"__version__"}


@pytest.mark.parametrize("path", sorted([*ROOT.glob("normbench/**/*.py"), *ROOT.glob("scripts/*.py")]), ids=str)
def test_text_files_are_read_and_written_in_one_encoding(path):
    """Not in the locale's, which another machine does not share."""
    for call in (node for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.Call)):
        name = getattr(call.func, "attr", getattr(call.func, "id", ""))
        words = {keyword.arg for keyword in call.keywords}
        where = f"{path.name}:{call.lineno}"
        if name in ("read_text", "write_text"):
            assert len(call.args) == (1 if name == "read_text" else 2) or "encoding" in words, where
        if name == "open" and isinstance(call.func, ast.Name):
            binary = any(isinstance(one, ast.Constant) and "b" in str(one.value) for one in call.args[1:])
            assert binary or "encoding" in words, where
