"""The page of Gradio: a picture in, the picture drawn upon and a table out, by its function and by a client."""

from __future__ import annotations

import importlib.util
import json

import numpy as np
import PIL.Image
import pytest

from detframe.inference import Detector
from tests.inference.conftest import picture
from tests.integrations.conftest import checkpoint_path

__all__ = ["checkpoint_path"]

# In a process of its own: Gradio leaves event loops behind, whose warnings would be errors of other tests
SCRIPT = """
import json, sys
import numpy as np, PIL.Image
from gradio_client import Client, handle_file
import gradio_demo

demo = gradio_demo.build(sys.argv[1])
image = np.array(PIL.Image.open("a.png"))
drawn, table = demo.fn(image, 0.0)
clean, nothing = demo.fn(image, 1.0)
_, address, _ = demo.launch(prevent_thread_lock=True, server_name="127.0.0.1", quiet=True)
shown, rows = Client(address, verbose=False).predict(handle_file("a.png"), 0.0, api_name="/detect")
said = {
    "drawn": [drawn.shape == image.shape, bool((drawn != image).any()), bool((clean == image).all())],
    "table": table.to_numpy().tolist(), "nothing": len(nothing), "rows": rows, "size": PIL.Image.open(shown).size,
}
print("SAID" + json.dumps(said))
demo.close()
"""


def test_function_and_client_draw_and_list_what_is_found(checkpoint_path, run_python, root, tmp_path):
    for library in ("gradio", "gradio_client", "pandas"):
        if importlib.util.find_spec(library) is None:
            pytest.skip(f"gradio_demo.py needs {library}")
    PIL.Image.fromarray(picture(700, 900, seed=0)).save(tmp_path / "a.png")
    quiet = {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_OFFLINE": "1", "GRADIO_TEMP_DIR": str(tmp_path / "files")}
    path = f"{root}:{root / 'examples'}"
    done = run_python("-c", SCRIPT, checkpoint_path, cwd=tmp_path, PYTHONPATH=path, **quiet)
    lines = [line for line in done.stdout.splitlines() if line.startswith("SAID")]
    assert lines, done.stderr
    said = json.loads(lines[0].removeprefix("SAID"))
    (found,) = Detector.load(checkpoint_path).predict(picture(700, 900, seed=0))
    assert said["drawn"] == [True, True, True] and said["nothing"] == 0 and said["size"] == [900, 700]
    assert said["rows"]["headers"] == ["class_name", "score", "x1", "y1", "x2", "y2"]
    assert said["rows"]["data"] == said["table"]
    assert [row[0] for row in said["table"]] == found["names"] and len(found["names"]) > 0
    assert np.allclose([row[2:] for row in said["table"]], found["boxes"], atol=0.02)


def test_it_is_as_short_as_it_is_called(root):
    lines = (root / "examples" / "gradio_demo.py").read_text(encoding="utf-8").splitlines()
    assert len([line for line in lines[lines.index("import sys") :] if line.strip()]) <= 20
