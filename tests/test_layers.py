"""Imports go down the layers of docs/architecture.md, and `import detframe` stays light."""

from __future__ import annotations

import ast
from collections.abc import Collection, Iterator
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "detframe"
LAYERS = (
    {
        "errors",
        "files",
        "texts",
        "registry",
        "config",
        "structures",
        "ops",
        "parallel",
        "torch_files",
        "backends",
        "arrays",
        "lazy",
        "web",
        "storage",
        "own_drawings",
    },
    {"layers"},
    {"modeling", "data", "evaluation"},
    {"solver", "checkpoint", "visualization"},
    {"compat"},
    {"export"},
    {"inference", "model_zoo", "report"},
    {"engine", "integrations"},
    {"recipes", "tuning", "contracts"},
    {"cli"},
    {"__main__"},
)
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
# Parts of one layer that do not know each other
STRANGERS = {"modeling", "data", "evaluation"}
# What each part of the ground floor knows of the others
KNOWN: dict[str, set[str]] = {
    "errors": set(),
    "texts": set(),
    "lazy": set(),
    "arrays": {"errors"},
    "files": {"errors"},
    "registry": {"errors"},
    "ops": {"errors", "arrays"},
    "parallel": {"errors"},
    "structures": {"errors", "ops", "arrays", "lazy"},
    "torch_files": {"errors", "files"},
    "web": {"errors"},
    "own_drawings": set(),
    "storage": {"lazy", "errors", "files", "config"},
    "backends": {"errors", "files", "texts", "arrays", "structures", "ops"},
    "config": {"errors", "files", "registry"},
}
LIGHT = ("config", "errors", "files", "registry", "__init__")


def files() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def part_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@cache
def imports(path: Path) -> tuple[tuple[int, str], ...]:
    """(line, dotted name) of every import of a file, those inside functions included; relative ones made absolute."""
    return tuple(_imports(path))


def _imports(path: Path) -> Iterator[tuple[int, str]]:
    package = ["detframe", *path.relative_to(PACKAGE).parent.parts]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield from ((node.lineno, f"{module}.{alias.name}") for alias in node.names)


def violation(importer: str, imported: str) -> str | None:
    """Why a part must not import another, or None."""
    if importer == imported or importer == "__init__":
        return None
    if imported not in LEVEL:
        return f"{imported} stands in no layer"
    if LEVEL[imported] > LEVEL[importer]:
        return f"{imported} is above {importer}"
    if imported not in KNOWN.get(importer, LEVEL):
        return f"{importer} stands on the ground and knows of no {imported}"
    if {importer, imported} <= STRANGERS:
        return f"{importer} and {imported} must not know each other"
    return None


def test_every_part_stands_in_a_layer():
    assert {part_of(path) for path in files()} - {"__init__"} == set(LEVEL)
    assert set(KNOWN) == LAYERS[0]


def test_imports_go_down():
    wrong = []
    for path in files():
        for line, name in imports(path):
            parts = name.split(".")
            if parts[0] == "detframe" and len(parts) > 1 and parts[1] != "__version__":
                reason = violation(part_of(path), parts[1])
                wrong += [f"{path.relative_to(PACKAGE)}:{line} imports {name}: {reason}"] if reason else []
    assert not wrong


def modules() -> dict[str, Path]:
    """Dotted name -> file."""
    return {".".join(("detframe", *path.relative_to(PACKAGE).with_suffix("").parts)): path for path in files()}


def imported_modules(path: Path, known: Collection[str]) -> set[str]:
    """The modules of detframe that a file imports, anywhere in it; a package counts as its __init__."""
    found = set()
    for _, name in imports(path):
        module = name if name in known or f"{name}.__init__" in known else name.rpartition(".")[0]
        found.add(module if module in known else f"{module}.__init__")
    return found & set(known)


def circles(graph: dict[str, set[str]]) -> list[str]:
    """The modules on circles of imports, and on the ways between two circles."""
    left = dict(graph)
    while True:
        needed = set().union(*left.values())
        ends = {name for name, own in left.items() if not own & left.keys() or name not in needed}
        if not ends:
            return sorted(left)
        left = {name: own - ends for name, own in left.items() if name not in ends}


def test_no_files_import_each_other_in_a_circle():
    known = modules()
    assert not circles({name: imported_modules(path, known) - {name} for name, path in known.items()})


def test_no_parts_import_each_other_in_a_circle():
    known = modules()
    graph: dict[str, set[str]] = {part_of(path): set() for path in known.values()}
    for path in known.values():
        graph[part_of(path)] |= {part_of(known[name]) for name in imported_modules(path, known)} - {part_of(path)}
    assert not circles(graph)


def test_the_readers_of_formats_know_data_and_data_knows_none_of_them():
    """Where data sets are looked up, the folder is imported as a whole, to fill its registry."""
    known, formats = modules(), "detframe.data.formats."
    data = {name for name in known if name.startswith("detframe.data.") and not name.startswith(formats)}
    found = {name: {m for m in imported_modules(known[name], known) if m.startswith(formats)} for name in data}
    whole = {"detframe.data.formats.__init__"}
    assert {name: m for name, m in found.items() if m} == {
        "detframe.data.catalog": whole,
        "detframe.data.folder": whole,
    }


def test_what_a_circle_is():
    assert circles({"a": {"b"}, "b": {"c"}, "c": set()}) == []
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c"]


@pytest.mark.parametrize(
    ("importer", "imported", "allowed"),
    [
        ("modeling", "layers", True),
        ("modeling", "data", False),
        ("evaluation", "modeling", False),
        ("config", "registry", True),
        ("structures", "ops", True),
        ("structures", "config", False),
        ("ops", "structures", False),
        ("ops", "config", False),
        ("config", "engine", False),
        ("config", "ops", False),
        ("parallel", "errors", True),
        ("parallel", "config", False),
        ("registry", "config", False),
        ("inference", "visualization", True),
        ("engine", "cli", False),
    ],
)
def test_the_rule_itself(importer: str, imported: str, allowed: bool):
    assert (violation(importer, imported) is None) == allowed


def test_the_config_does_not_import_torch():
    heavy = {"torch", "torchvision", "cv2", "numpy", "pycocotools", "tensorboard"}
    light = [path for path in files() if part_of(path) in LIGHT]
    assert len(light) > 20
    assert not [(path.name, name) for path in light for _, name in imports(path) if name.split(".")[0] in heavy]


@pytest.mark.parametrize("module", ["detframe", "detframe.config", "detframe.cli.train", "detframe.cli.main"])
def test_importing_is_light(module: str, run_python):
    heavy = "{'torch', 'torchvision', 'cv2', 'numpy', 'pycocotools', 'tensorboard'}"
    done = run_python("-c", f"import sys, {module}; print(sorted({heavy} & set(sys.modules)))")
    assert done.stdout.strip() == "[]", done.stderr


def test_importing_detframe_takes_less_than_a_fifth_of_a_second(run_python):
    code = "import time; t = time.perf_counter(); import detframe; print(time.perf_counter() - t)"
    assert min(float(run_python("-c", code).stdout) for _ in range(3)) < 0.2


def test_the_public_names_are_found(run_python):
    done = run_python("-c", "import detframe; print(detframe.get_cfg().OUTPUT_DIR); detframe.nothing")
    assert done.stdout.strip() == "output"
    assert "has no attribute 'nothing'; it offers" in done.stderr
