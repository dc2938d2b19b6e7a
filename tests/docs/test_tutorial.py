"""The tutorial "adding a module" is run as it stands."""

from __future__ import annotations

import json
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "adding_a_module.md"
# The same run on fewer and smaller images, with fewer proposals
SMALL = ["SOLVER.MAX_ITER", 2, "SOLVER.IMS_PER_BATCH", 2, "SOLVER.LOG_PERIOD", 1, "DATALOADER.NUM_WORKERS", 0]
SMALL += ["INPUT.MIN_SIZE_TRAIN", 64, "INPUT.MIN_SIZE_TEST", 64, "MODEL.ROI_BOX_HEAD.MLP_HEAD_DIM", 32]
SMALL += [
    "MODEL.RPN.POST_NMS_TOP_N_TRAIN",
    50,
    "MODEL.RPN.POST_NMS_TOP_N_TEST",
    50,
    "TEST.VISUALIZE",
    0,
    "TEST.REPORT",
    False,
]


def test_the_module_stands_alone(tutorial: Path, run_python):
    code = "import torch; from my_backbone import MyBackbone; m = MyBackbone(out_channels=64)\n"
    code += "out = m(torch.zeros(1, 3, 64, 64)); print({k: tuple(v.shape) for k, v in out.items()}, m.strides)"
    done = run_python("-c", code, cwd=tutorial, PYTHONPATH=f"{ROOT}:{tutorial}")
    assert done.returncode == 0, done.stderr
    assert "'p3': (1, 64, 8, 8)" in done.stdout and "'p5': 32" in done.stdout


def test_the_backbone_trains_and_its_checkpoint_predicts_from_elsewhere(tutorial: Path, tmp_path_factory, run_python):
    make_shapes, train, *_ = [line.split()[1:] for line in (tutorial / "run.sh").read_text().splitlines()]
    environment = {"DETFRAME_DATASETS": str(tutorial / "datasets")}
    made = run_python(ROOT / make_shapes[0], "--train", 6, "--val", 3, cwd=tutorial, **environment)
    assert made.returncode == 0, made.stderr
    done = run_python(ROOT / train[0], *train[1:], *SMALL, cwd=tutorial, **environment)
    assert done.returncode == 0, done.stderr + done.stdout
    output = tutorial / "output" / "my_backbone"
    rows = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    assert [row["iteration"] for row in rows if "loss" in row] == [1, 2]
    assert all(row["loss"] > 0 for row in rows if "loss" in row)
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    weights, images = output / "model_final.pth", tutorial / "datasets" / "shapes" / "val"
    words = ("--weights", weights, "--input", images, "--output", elsewhere / "found", "--device", "cpu")
    refused = run_python(ROOT / "tools" / "predict.py", *words, cwd=elsewhere)
    assert refused.returncode == 2 and "my_backbone.py" in refused.stderr and "--allow-custom-imports" in refused.stderr
    found = run_python(ROOT / "tools" / "predict.py", *words, "--allow-custom-imports", cwd=elsewhere)
    assert found.returncode == 0, found.stderr
    assert len(list((elsewhere / "found").glob("*.jpg"))) == 3
