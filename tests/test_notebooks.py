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
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PICTURES = {"moving_from_detectron2": 1, "own_data": 2, "quickstart": 3, "small_objects": 1}
# A last cell of each, which looks at what the others left; `printed` is what they wrote
CHECKS = {
    "moving_from_detectron2": """
import numpy as np
(wanted,) = Detector(model, detector.cfg, detector.meta).predict(picture)
assert len(wanted["boxes"]) == 100
for key in ("boxes", "scores", "labels"):
    np.testing.assert_array_equal(found[key].numpy(), wanted[key].numpy())
assert len(after) == len(before) > 100 and f"{len(before)} tensors of {len(before)} are the same" in printed
""",
    "own_data": """
pictures = [str(path) for path in sorted(Path("mine/val/images").iterdir())]
checkpoint, exported = (detectors[name].predict(pictures, score_threshold=0.1) for name in ("PyTorch", "file"))
assert len(pictures) == len(checkpoint) == 8 and sum(len(found.above(0.3)["boxes"]) for found in checkpoint) >= 8
for wanted, same in zip(checkpoint, exported, strict=True):
    assert wanted["names"] == same["names"]
    np.testing.assert_allclose(same["scores"], wanted["scores"], atol=1e-3)
    np.testing.assert_allclose(same["boxes"], wanted["boxes"], atol=0.1)
""",
    "quickstart": """
import json, re
rows = [json.loads(line) for line in open("output/quickstart/metrics.jsonl")]
measured = [row["bbox/AP"] for row in rows if "bbox/AP" in row]
(told,) = re.findall(r"On the validation images: AP ([0-9.]+),", printed)
assert measured[-1] > 0 and told == f"{measured[-1]:.1f}", (told, measured)
assert len(found["boxes"]) > 0
""",
    "small_objects": """
import re
rows = dict(re.findall(r"^(whole|tiles) (\\d+) boxes for 60 objects$", printed, flags=re.MULTILINE))
assert int(rows["tiles"]) == len(found["boxes"]) > 20 and int(rows["whole"]) == len(whole["boxes"]), rows
assert int(rows["tiles"]) > int(rows["whole"]), rows
""",
}


def code_cells(path: Path) -> list[str]:
    return [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]


def test_notebooks_are_sources():
    assert [path.stem for path in NOTEBOOKS] == list(CHECKS) == list(PICTURES)
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
    client = NotebookClient(notebook, timeout=1200, resources={"metadata": {"path": str(tmp_path)}})
    with client.setup_kernel():
        for number, cell in enumerate(notebook.cells):
            client.execute_cell(cell, number)
            text = printed(cell)  # commands that fail do not stop a notebook
            assert not re.search(r"^(Traceback|ERROR|\S* ?error: )|command not found", text, flags=re.MULTILINE), text
        outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
        assert sum("image/png" in output.get("data", ()) for output in outputs) == PICTURES[path.stem]
        text = f"printed = {''.join(map(printed, notebook.cells))!r}\n"
        notebook.cells.append(nbformat.v4.new_code_cell(text + CHECKS[path.stem]))
        client.execute_cell(notebook.cells[-1], len(notebook.cells) - 1)


def printed(cell: nbformat.NotebookNode) -> str:
    return "".join(output.get("text", "") for output in cell.get("outputs", ()))
