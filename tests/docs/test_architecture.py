"""docs/architecture.md says what is so: its layers are those that are checked, and the files and names in it exist."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.test_layers import KNOWN, LAYERS, PACKAGE, STRANGERS

ROOT = PACKAGE.parent
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")


def section(title: str) -> str:
    return PAGE.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def table(text: str, heading: str) -> list[list[str]]:
    """The cells of the table whose first column has a heading."""
    lines = text.partition(f"\n| {heading} |")[2].splitlines()[2:]
    rows = []
    for line in lines:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows


def quoted(text: str) -> list[str]:
    return re.findall(r"`([^`]+)`", text)


def names_in(path: Path) -> set[str]:
    """What a file defines or imports at its top, methods as Class.method; of a folder, what its files do."""
    files = sorted(path.rglob("*.py")) if path.is_dir() else [path]
    out = set()
    for node in (node for file in files for node in ast.parse(file.read_text(encoding="utf-8")).body):
        if isinstance(node, ast.ImportFrom):
            out |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.Assign):
            out |= {target.id for target in node.targets if isinstance(target, ast.Name)}
        elif isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            out.add(node.name)
            out |= {f"{node.name}.{inner.name}" for inner in node.body if isinstance(inner, ast.FunctionDef)}
    return out


def test_the_floors_are_the_layers_that_are_checked():
    rows = table(section("Layers"), "layer")
    assert [int(floor) for floor, *_ in rows] == list(range(len(LAYERS), 0, -1))
    assert [set(quoted(parts)) for _, parts, _ in reversed(rows)] == list(LAYERS)


def test_who_knows_whom_on_the_ground_floor():
    assert {quoted(part)[0]: set(quoted(knows)) for part, knows, _ in table(section("Layers"), "part")} == KNOWN


def test_the_strangers():
    sentence = re.search(r"\n(`\w+`(?:, `\w+`)*) do not know each other", section("Layers"))
    assert sentence is not None and set(quoted(sentence[1])) == STRANGERS


@pytest.mark.parametrize("row", table(section("Where is ..."), "what"), ids=lambda row: row[0])
def test_where_things_are(row: list[str]):
    path = PACKAGE / quoted(row[1])[0]
    assert path.exists()
    missing = set(quoted(row[2])) - names_in(path)
    assert not missing


def test_ten_lines_say_where_things_are():
    assert len(table(section("Where is ..."), "what")) == 10


@pytest.mark.parametrize("row", table(section("What to read for a change"), "question"), ids=lambda row: row[0])
def test_files_that_answer_a_question_are_there(row: list[str]):
    files = quoted(row[1])
    assert files and len(set(files)) == len(files)
    assert not [file for file in files if not (PACKAGE / file).is_file()]


def test_files_and_folders_in_the_page_exist():
    named = set(re.findall(r"(?<![\w./])[\w/]+\.py\b|(?<![\w./])[\w/]+/(?=:|`)", PAGE))
    assert len(named) > 40
    assert not [name for name in named if not (PACKAGE / name).exists() and not (ROOT / name).exists()]


def test_types_in_the_picture_exist():
    picture = " ".join(re.findall(r"<text[^>]*>(.*?)</text>", (ROOT / "docs/images/data_way.svg").read_text("utf-8")))
    known = names_in(PACKAGE)
    classes = set(re.findall(r"\b(?:[A-Z][a-z]+){2,}\b|\b[A-Z][a-zA-Z]*[A-Z][a-zA-Z]*\b", picture))
    classes -= {"YAML", "AP", "COCO", "VOC", "YOLO", "CSV"}
    functions = set(re.findall(r"\b[a-z]+(?:_[a-z]+)+\b", picture)) - {"from_config"}
    assert {"GeneralizedRCNN", "ConfigNode", "ImageList", "GroundTruth"} <= classes and "pack_targets" in functions
    assert not [name for name in classes | functions | {"Records", "Proposals", "Trainer.step"} if name not in known]


def test_the_picture_is_up_to_date():
    drawn = subprocess.run([sys.executable, str(ROOT / "tools" / "draw_architecture.py"), "--check"])
    assert drawn.returncode == 0, "run `make docs`"


def test_pages_that_files_cite_are_here():
    """What the opening words of a file refer to comes with detframe: `docs/many_gpus.md`, `CHANGELOG.md`."""
    cited = {}
    for path in sorted(file for folder in ("detframe", "tests", "tools") for file in (ROOT / folder).rglob("*.py")):
        words = path.read_text(encoding="utf-8").partition('"""')[2].partition('"""')[0]
        cited |= dict.fromkeys(re.findall(r"[\w./-]*\w\.md\b", words), path)
    assert "docs/architecture.md" in cited
    assert not {page: path for page, path in cited.items() if not (ROOT / page).is_file()}
