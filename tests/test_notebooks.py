"""The notebooks: each runs from top to bottom in an empty folder, and is kept without what it printed."""

from __future__ import annotations

import ast
import os
import re
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from detframe.cli.main import COMMANDS

ROOT = Path(__file__).resolve().parents[1]
# What each leaves in its folder at the end
LEFT = {
    "moving_from_detectron2": "new.yaml",
    "own_data": "found",
    "quickstart": "output/quickstart/predictions.png",
    "small_objects": "tiles/model_final.pth",
}
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def code_cells(path: Path) -> list[str]:
    return [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]


def test_notebooks_are_sources():
    assert [path.stem for path in NOTEBOOKS] == list(LEFT)
    for path in NOTEBOOKS:
        notebook = nbformat.read(path, as_version=4)
        nbformat.validate(notebook)
        assert not [cell for cell in notebook.cells if cell.get("outputs") or cell.get("execution_count")], path.name
        assert "%pip install --quiet {SOURCE}" in code_cells(path)[0], path.name
        for source in code_cells(path):
            for line in source.splitlines():
                if line.startswith("!detframe "):
                    assert line.split()[1] in COMMANDS, f"{path.name}: {line}"
            if not source.startswith("%%"):
                ast.parse(re.sub(r"^( *)[!%].*", r"\1pass", source, flags=re.MULTILINE))


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.delenv("DETFRAME_DATASETS", raising=False)
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    for cell in notebook.cells:  # commands that fail do not stop a notebook
        printed = "".join(output.get("text", "") for output in cell.get("outputs", ()))
        assert not re.search(r"^(Traceback|ERROR|\S* ?error: )|command not found", printed, flags=re.MULTILINE), printed
    assert (tmp_path / LEFT[path.stem]).exists()
