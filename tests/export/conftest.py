"""A tiny detector with random weights, exported once as ONNX."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from detframe.export import ExportReport, evidence, export
from detframe.modeling import build_detection_model
from tests.modeling.tiny import tiny_config

META = {
    "class_names": ["cat", "dog", "owl"],
    "category_ids": [3, 7, 11],
    "keypoint_names": [],
    "iteration": 12,
    "metrics": {"bbox/AP": 41.5},
}


@dataclass(frozen=True)
class Exported:
    """A model, what it was built from, and its file."""

    model: Any
    cfg: Any
    report: ExportReport

    @property
    def path(self) -> Path:
        """The file."""
        return self.report.path


@pytest.fixture(scope="session")
def tiny_model():
    """The model and its config; it proposes few boxes, so that all is quick."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        cfg = tiny_config({"MODEL.RPN.POST_NMS_TOP_N_TEST": 30, "TEST.DETECTIONS_PER_IMG": 8})
        cfg.merge_from_list(["INPUT.MIN_SIZE_TEST", 64, "INPUT.MAX_SIZE_TEST", 96])
        return build_detection_model(cfg).eval(), cfg


@pytest.fixture(scope="session")
def exported(tiny_model, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """It as ONNX, proved on a few images that the exporter makes."""
    model, cfg = tiny_model
    weights = tmp_path_factory.mktemp("weights") / "model_final.pth"
    weights.write_bytes(b"weights")
    path = tmp_path_factory.mktemp("exported") / "tiny.onnx"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evidence, "_SYNTHETIC", ((64, 90), (80, 64)))
        report = export(model, cfg, META, path, weights=weights)
    return Exported(model, cfg, report)


@pytest.fixture
def quick(exported: Exported, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exports to ONNX take the file that is there already: nothing is traced and nothing translated."""
    from detframe.export import pipeline
    from detframe.export.formats import FORMATS, Format

    onnx = FORMATS["onnx"]

    def write(program, inputs, outputs, card, path):
        shutil.copy(exported.path, path)

    monkeypatch.setitem(FORMATS, "onnx", Format(onnx.name, onnx.suffix, onnx.modules, write))
    monkeypatch.setattr(evidence, "_SYNTHETIC", ((64, 90), (80, 64)))
    program = torch.export.export(_Rows(), (torch.zeros(1, 8, 4),))
    monkeypatch.setattr(pipeline, "trace", lambda *_: (program, ()))


class _Rows(torch.nn.Module):
    """What has as many rows as the detector's outputs."""

    def forward(self, rows):
        return (rows + 0, rows[..., 0] + 0, rows[..., 0] + 1, rows[:, 0, 0] + 0)


def batch(number: int, height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Images of noise of unlike sizes on planes of one, and those sizes."""
    generator = torch.Generator().manual_seed(number)
    sizes = torch.tensor([[height - 7 * i, width - 5 * i] for i in range(number)])
    return torch.randint(0, 256, (number, 3, height, width), dtype=torch.uint8, generator=generator), sizes
