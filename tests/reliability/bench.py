"""A training in miniature, run as a user runs it: in processes of its own, in a folder of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[2]
STEPS = 16
CONFIG = f"""
MODEL:
  DEVICE: cpu
  BACKBONE: {{CONV_BODY: R-18-FPN, FREEZE_CONV_BODY_AT: 0}}
  RESNETS: {{NORM: BN, STEM_OUT_CHANNELS: 8}}
  FPN: {{OUT_CHANNELS: 16}}
  RPN: {{ANCHOR_SIZES: [[8], [16], [32], [64], [128]], POST_NMS_TOP_N_TRAIN: 30, POST_NMS_TOP_N_TEST: 30}}
  ROI_BOX_HEAD: {{MLP_HEAD_DIM: 32}}
INPUT: {{MIN_SIZE_TRAIN: [64, 80], MIN_SIZE_TEST: 64}}
DATASETS: {{TRAIN: [shapes_train], TEST: [shapes_val]}}
DATALOADER: {{NUM_WORKERS: 1}}
SOLVER: {{IMS_PER_BATCH: 4, BASE_LR: 0.01, WARMUP_ITERS: 4, MAX_ITER: {STEPS}, LOG_PERIOD: 1, CHECKPOINT_PERIOD: 3,
  KEEP_LAST: 3, EMA_DECAY: 0.9, AMP: "off"}}
TEST: {{VISUALIZE: 0, REPORT: false, EVAL_PERIOD: 8}}
"""


class Bench:
    """A folder with a config and a few generated pictures, in which trainings run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "c.yaml").write_text(CONFIG, encoding="utf-8")
        self.env = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
            "DETFRAME_DATASETS": str(folder / "data"),
            "DETFRAME_CACHE": str(folder / "cache"),
        }
        shapes = [ROOT / "datasets" / "make_shapes.py", "--output", folder / "data" / "shapes"]
        shapes += ["--train", 12, "--val", 4, "--size", 64]
        subprocess.run([sys.executable, *map(str, shapes)], env=self.env, check=True, capture_output=True)

    def command(self, out: str, *words: object) -> list[str]:
        """A training into a folder of this name."""
        return [
            *(sys.executable, str(ROOT / "tools" / "train_net.py"), "--config-file", "c.yaml"),
            *(str(word) for word in words),
            *("OUTPUT_DIR", str(self.folder / out)),
        ]

    def start(self, out: str, *words: object) -> subprocess.Popen[str]:
        """A training that goes on while its caller does something to it."""
        return subprocess.Popen(
            self.command(out, *words),
            cwd=self.folder,
            env=self.env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, out: str, *words: object, before: str = "") -> tuple[int, str]:
        """(exit code, what was said) of a whole training; `before` is a line of shell in the same surroundings."""
        command: list[str] = self.command(out, *words)
        if before:
            command = ["unshare", "--mount", "sh", "-c", f'{before}; exec "$@"', "sh", *command]
        done = subprocess.run(command, cwd=self.folder, env=self.env, capture_output=True, text=True, timeout=300)
        return done.returncode, done.stdout + done.stderr

    def steps(self, out: str) -> int:
        """The last step in metrics.jsonl."""
        path = self.folder / out / "metrics.jsonl"
        lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
        return max((json.loads(line)["iteration"] for line in lines if line.endswith("}")), default=0)

    def start_until(self, out: str, step: int, *words: object) -> subprocess.Popen[str]:
        """A training that has done this step, or has ended before."""
        process = self.start(out, *words)
        while process.poll() is None and self.steps(out) < step:
            time.sleep(0.005)
        return process

    def equal(self, one: str, two: str) -> bool:
        """Whether two runs ended with the same weights, averages, optimizer state, losses and metrics, bit for bit."""
        a, b = (self._content(name) for name in (one, two))
        return _same(a, b) and self._numbers(one) == self._numbers(two)

    def _content(self, out: str) -> dict[str, object]:
        final = torch.load(self.folder / out / "model_final.pth", weights_only=True)
        last = torch.load(self.folder / out / f"model_{STEPS:07d}.pth", weights_only=True)["training"]
        return {"model": final["model"], "raw": last.get("model"), "optimizer": last["optimizer"]}

    def _numbers(self, out: str) -> list[dict[str, object]]:
        lines = (self.folder / out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        rows = [json.loads(line) for line in lines]
        return [{k: v for k, v in row.items() if "loss" in k or "/" in k or k in ("iteration", "lr")} for row in rows]


def _same(a: object, b: object) -> bool:
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return len(a) == len(b) and all(map(_same, a, b))
    return a == b
