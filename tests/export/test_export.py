"""An export leaves a file that is proved, with its evidence beside it, or nothing."""

from __future__ import annotations

import copy
import errno
import hashlib
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnx
import pytest
import torch
from torchvision.ops import deform_conv2d

from detframe.backends import open_model
from detframe.errors import (
    EvidenceError,
    FileAccessError,
    InvalidValueError,
    MissingFileError,
    MissingModuleError,
    NoPermissionError,
    UnknownNameError,
)
from detframe.export import Tolerance, export, formats, pipeline
from detframe.export.graph import INPUTS, OUTPUTS
from detframe.export.pipeline import Plan
from detframe.modeling import build_detection_model
from tests.conftest import can_export
from tests.export.conftest import META, Exported
from tests.modeling.tiny import tiny_config


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# ---------------------------------------------------------------------------------------------- what is left
def test_the_file_lies_there_with_its_report(exported: Exported):
    assert names(exported.path.parent) == ["tiny.onnx", "tiny.onnx.report.json", "tiny.onnx.report.md"]
    report = json.loads(exported.path.with_name("tiny.onnx.report.json").read_text(encoding="utf-8"))
    assert report["file"] == "tiny.onnx" and report["format"] == "onnx" and report["precision"] == "fp32"
    assert report["problems"] == [] and report["tolerance"] == {"ap": 0.1, "near": 1e-3}
    content = exported.path.read_bytes()
    assert report["files"] == {"tiny.onnx": {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}}
    checks = {check["name"]: check for check in report["checks"]}
    assert list(checks) == [
        "another batch",
        "another size",
        "a blank image",
        "images smaller than their plane",
        "images that the exporter made",
    ]
    assert all(check["images"] and check["pytorch"] == check["file"] for check in checks.values())
    assert checks["another batch"]["images"] == 4 and checks["another batch"]["pytorch"] > 0
    assert report["worst"]["boxes"] < 1e-3 and report["worst"]["scores"] < 1e-4
    page = exported.path.with_name("tiny.onnx.report.md").read_text(encoding="utf-8")
    assert "agrees with PyTorch within the tolerance" in page and "| a blank image | 1 |" in page


def test_without_validation_images_the_report_says_so(exported: Exported):
    assert "no validation images" in exported.report.warnings[0]
    page = exported.path.with_name("tiny.onnx.report.md").read_text(encoding="utf-8")
    assert "**There were no validation images" in page


@pytest.mark.parametrize(
    ("norm", "name", "size", "side", "warned"),
    [
        ("GN", "a.pt2", None, 64, True),
        ("GN", "a.pt2", None, 0, True),  # images as they are
        ("GN", "a.pt2", None, 800, False),
        ("GN", "a.pt2", (64, 96), 64, False),
        ("GN", "a.onnx", None, 64, False),
        ("", "a.pt2", None, 64, False),
    ],
)
def test_group_norms_over_more_than_the_image_are_told(norm, name, size, side, warned, tmp_path: Path):
    cfg = tiny_config({"MODEL.FPN.NORM": norm, "INPUT.MIN_SIZE_TEST": side})
    model = build_detection_model(cfg)
    text = pipeline._padded_norms(model, cfg, Plan.of(tmp_path / name, size=size))
    assert warned == ("a side below 129 pixels stand in a plane" in text) and bool(text) == warned


def test_the_file_says_what_it_is(exported: Exported):
    card = open_model(exported.path).card
    assert card.class_names == ("cat", "dog", "owl") and card.category_ids == (3, 7, 11)
    assert (card.input.height, card.input.batch) == (None, None)
    assert (card.input.min_size, card.input.max_size, card.input.divisor) == (64, 96, 32)
    assert card.detections == 8 and card.thresholds == {"nms": 0.5, "score": 0.05} and not card.class_agnostic
    assert card.meta == {"metrics": {"bbox/AP": 41.5}} and card.provenance["iteration"] == 12
    assert card.provenance["weights"]["sha256"] == hashlib.sha256(b"weights").hexdigest()
    assert card.provenance["weights"]["file"].endswith("model_final.pth")
    assert set(card.provenance["versions"]) >= {"detframe", "torch", "onnx", "onnxscript", "onnxruntime"}


def test_inputs_and_outputs_have_names(exported: Exported):
    graph = onnx.load(str(exported.path)).graph
    shapes = {
        value.name: [side.dim_param or side.dim_value for side in value.type.tensor_type.shape.dim]
        for value in graph.input
    }
    assert shapes == {"images": ["batch", 3, "height", "width"], "sizes": ["batch", 2]}
    assert [value.name for value in graph.output] == ["boxes", "scores", "labels", "count"]
    assert onnx.load(str(exported.path)).opset_import[0].version == 18


class Summed(torch.nn.Module):
    """A model that has a deformable convolution, or none."""

    def __init__(self, deformable: bool):
        super().__init__()
        self.deformable = deformable

    def forward(self, images, sizes):
        if self.deformable:
            images = deform_conv2d(images, images.new_zeros(1, 2, 8, 8), images.new_ones(4, 3, 1, 1))
        return images + sizes.sum()


@pytest.mark.parametrize(("deformable", "opset"), [(True, 19), (False, 18)])
def test_the_opset_has_what_the_model_needs(deformable: bool, opset: int, tmp_path: Path):
    program = torch.export.export(Summed(deformable), (torch.ones(1, 3, 8, 8), torch.ones(1, 2)))
    card: Any = SimpleNamespace(to_json=lambda: "{}")
    formats.write_onnx(program, INPUTS, OUTPUTS[:1], card, tmp_path / "a.onnx")
    assert onnx.load(str(tmp_path / "a.onnx")).opset_import[0].version == opset


def test_what_openvino_has_no_counterpart_of_is_named(monkeypatch, tmp_path: Path):
    openvino = pytest.importorskip("openvino")

    def refuse(path):
        raise RuntimeError(
            "Check 'false' failed at src/report.cpp:151:\nModel wasn't fully converted.\nSummary:\n"
            "-- No conversion rule found for operations: DeformConv-19\n-- Conversion is failed for: Conv-19\n"
        )

    monkeypatch.setattr(openvino, "convert_model", refuse)
    card: Any = SimpleNamespace(to_json=lambda: "{}")
    with pytest.raises(InvalidValueError, match=r"convert the model: it has no counterpart of DeformConv-19$"):
        formats.convert(tmp_path / "a.onnx", card, tmp_path / "a.xml")


def test_the_model_is_as_before(tiny_model, quick, tmp_path: Path):
    model, cfg = tiny_model
    model.train()
    model.backbone.eval()
    try:
        export(model, cfg, META, tmp_path / "a.onnx")
        assert model.training and not model.backbone.training
    finally:
        model.eval()


# ---------------------------------------------------------------------------------------------- what is not left
def shifted(exported: Exported, path: Path, pixels: float) -> None:
    """The file with boxes that lie beside those of PyTorch."""
    proto = onnx.load(str(exported.path))
    for node in proto.graph.node:
        node.output[:] = ["right" if name == "boxes" else name for name in node.output]
        node.input[:] = ["right" if name == "boxes" else name for name in node.input]
    value = onnx.helper.make_tensor("beside", onnx.TensorProto.FLOAT, [1], [pixels])
    found = onnx.helper.make_tensor("nothing", onnx.TensorProto.FLOAT, [1], [0.0])
    proto.graph.initializer.extend([value, found])
    proto.graph.node.extend(
        [
            onnx.helper.make_node("Greater", ["scores", "nothing"], ["is_found"]),
            onnx.helper.make_node("Cast", ["is_found"], ["as_number"], to=onnx.TensorProto.FLOAT),
            onnx.helper.make_node("Mul", ["as_number", "beside"], ["by"]),
            onnx.helper.make_node("Unsqueeze", ["by", "last"], ["by_of_each"]),
            onnx.helper.make_node("Add", ["right", "by_of_each"], ["boxes"]),
        ]
    )
    proto.graph.initializer.append(onnx.helper.make_tensor("last", onnx.TensorProto.INT64, [1], [2]))
    onnx.save(proto, str(path))


@pytest.fixture
def wrong(exported: Exported, quick, monkeypatch: pytest.MonkeyPatch):
    """Exports whose boxes lie 2 pixels too far right and down."""
    entry = formats.FORMATS["onnx"]

    def write(program, inputs, outputs, card, path):
        shifted(exported, path, 2.0)

    monkeypatch.setitem(formats.FORMATS, "onnx", formats.Format("onnx", ".onnx", entry.modules, write))


def test_a_wrong_file_is_refused_and_the_older_one_stays(tiny_model, wrong, tmp_path: Path):
    model, cfg = tiny_model
    (tmp_path / "a.onnx").write_text("older")
    with pytest.raises(EvidenceError) as caught:
        export(model, cfg, META, tmp_path / "a.onnx")
    message = str(caught.value)
    assert "a.onnx is not written" in message and "another batch" in message and "boxes of label" in message
    assert "(2; tolerance 0.001)" in message and "--tolerance" in message
    assert names(tmp_path) == ["a.onnx"] and (tmp_path / "a.onnx").read_text() == "older"
    assert caught.value.exit_code == 1


def test_a_wide_tolerance_takes_it(tiny_model, wrong, tmp_path: Path):
    model, cfg = tiny_model
    report = export(model, cfg, META, tmp_path / "a.onnx", tolerance=Tolerance(0.1, 2.5))
    assert report.worst("boxes") == pytest.approx(2.0, abs=1e-3)
    assert report.worst("scores") < 1e-4


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left on device")])
def test_what_breaks_off_leaves_nothing(tiny_model, quick, monkeypatch, tmp_path: Path, error):
    model, cfg = tiny_model

    def fail(*_):
        raise error

    monkeypatch.setattr(pipeline.Prover, "prove", fail)
    with pytest.raises((KeyboardInterrupt, FileAccessError)) as caught:
        export(model, cfg, META, tmp_path / "a.onnx")
    assert names(tmp_path) == []
    if isinstance(error, OSError):
        assert "the disk is full" in str(caught.value) and "a.onnx" in str(caught.value)


def test_a_runtime_that_fails(tiny_model, quick, monkeypatch, tmp_path: Path):
    from detframe.backends.onnx_file import OnnxSession

    def fail(*_):
        raise RuntimeError("Non-zero status code returned while running Conv")

    model, cfg = tiny_model
    monkeypatch.setattr(OnnxSession, "_compute", fail)
    with pytest.raises(EvidenceError, match=r"another batch: it fails on an image of .*: Non-zero status code"):
        export(model, cfg, META, tmp_path / "a.onnx")
    assert names(tmp_path) == []


def test_a_runtime_that_lacks_an_operator(tiny_model, quick, monkeypatch, tmp_path: Path):
    def refuse(path, device):
        raise InvalidValueError(f"{path} needs the operation DeformConv, which onnxruntime 1.0 does not have")

    model, cfg = tiny_model
    monkeypatch.setattr(pipeline, "open_model", refuse)
    with pytest.raises(
        InvalidValueError, match="not written: the model needs the operation DeformConv, which"
    ) as caught:
        export(model, cfg, META, tmp_path / "a.onnx")
    assert ".tmp" not in str(caught.value) and names(tmp_path) == []


# ---------------------------------------------------------------------------------------------- what makes no sense
@pytest.mark.parametrize(
    ("words", "error", "says"),
    [
        ({"path": "a.pth"}, InvalidValueError, r"\.onnx \(onnx\), \.xml \(openvino\), \.pt2 \(torch\)"),
        ({"path": "a.onnx", "format": "openvino"}, InvalidValueError, r"ends in \.xml"),
        ({"path": "a.onnx", "format": "onyx"}, UnknownNameError, "did you mean 'onnx'"),
        ({"path": "a.onnx", "precision": "fp8"}, UnknownNameError, "fp32, fp16, int8"),
        ({"path": "a.onnx", "size": (0, 64)}, InvalidValueError, "0x64"),
        ({"path": "a.onnx", "size": (64, -1)}, InvalidValueError, "64x-1"),
        ({"path": "a.onnx", "size": (64, 100_000)}, InvalidValueError, "16384"),
        ({"path": "a.onnx", "batch": 0}, InvalidValueError, "batch is 0"),
        ({"path": "a.onnx", "batch": -2}, InvalidValueError, "batch is -2"),
        ({"path": "none/a.onnx"}, MissingFileError, "none of a.onnx does not exist"),
        ({"path": "."}, InvalidValueError, r"\.onnx"),
    ],
)
def test_arguments_that_mean_nothing(tmp_path: Path, monkeypatch, words, error, says):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=says):
        Plan.of(**words)
    assert names(tmp_path) == []


def test_a_folder_in_the_place_of_the_file(tmp_path: Path):
    (tmp_path / "a.onnx").mkdir()
    with pytest.raises(InvalidValueError, match="is a folder"):
        Plan.of(tmp_path / "a.onnx")


def test_a_folder_that_may_not_be_written(tmp_path: Path, monkeypatch):
    monkeypatch.setattr("os.access", lambda *_: False)
    with pytest.raises(NoPermissionError, match="may not be written"):
        Plan.of(tmp_path / "a.onnx")


def test_packages_that_are_missing(tmp_path: Path, monkeypatch):
    import importlib

    real = importlib.import_module

    def missing(name, *args):
        if name in ("onnxscript", "onnxruntime"):
            raise ImportError(name)
        return real(name, *args)

    monkeypatch.setattr("importlib.import_module", missing)
    with pytest.raises(MissingModuleError, match="pip install onnxscript onnxruntime"):
        Plan.of(tmp_path / "a.onnx")
    assert Plan.of(tmp_path / "a.pt2").format.name == "torch"


def test_without_the_packages_of_onnx_the_command_says_what_to_install(tmp_path: Path):
    code = (
        "import sys; sys.modules.update(onnx=None, onnxscript=None)\n"
        "from detframe.cli.main import main; sys.exit(main(['export', '--weights', 'w.pth', '--output', sys.argv[1]]))"
    )
    said = {}
    for name in ("a.onnx", "a.pt2"):
        done = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / name)], capture_output=True, text=True, check=False
        )
        said[name] = done.stderr
        assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "pip install onnx onnxscript" in said["a.onnx"] and "w.pth does not exist" in said["a.pt2"]


@pytest.mark.parametrize(
    ("meta", "message"),
    [
        ({}, "meta has no class_names and no category_ids: names of the classes and their ids in the data"),
        ({"class_names": META["class_names"]}, "meta has no category_ids:"),
        ({**META, "category_ids": [3, 7]}, "meta has 3 class_names and 2 category_ids"),
    ],
)
def test_labels_without_a_meaning_are_refused_before_anything_is_traced(
    tiny_model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, meta: dict[str, object], message: str
):
    monkeypatch.setattr(pipeline, "_traced", None)
    model, cfg = tiny_model
    with pytest.raises(InvalidValueError, match=message):
        export(model, cfg, meta, tmp_path / "a.onnx")
    assert names(tmp_path) == []


def test_a_size_that_the_network_cannot_see(tiny_model, tmp_path: Path):
    model, cfg = tiny_model
    with pytest.raises(InvalidValueError, match="smaller than one cell"):
        export(model, cfg, META, tmp_path / "a.onnx", size=(4, 4))
    assert names(tmp_path) == []


@pytest.mark.skipif(not can_export(), reason="this PyTorch is too old for exports, and says so first")
def test_a_module_that_no_graph_can_hold(tiny_model, tmp_path: Path):
    model, cfg = copy.deepcopy(tiny_model[0]), tiny_model[1]

    class Untraceable(torch.nn.Module):
        strides = model.backbone.strides
        out_channels = model.backbone.out_channels

        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, x):
            return self.inner(x * 2 if float(x.sum()) > 3 else x)

    model.backbone = Untraceable(model.backbone)
    with pytest.raises(InvalidValueError, match=r"the model cannot be exported: .*backbone"):
        export(model, cfg, META, tmp_path / "a.onnx")
    assert names(tmp_path) == []


def test_a_detector_exports_itself(tiny_model, quick, tmp_path: Path):
    from detframe.inference import Detector

    model, cfg = tiny_model
    report = Detector(model, cfg, META).export(tmp_path / "a.onnx", tolerance=Tolerance(1.0, 1e-2))
    assert report.tolerance == Tolerance(1.0, 1e-2) and "DATASETS.TEST of the checkpoint is empty" in report.warnings[0]
    detector = Detector.load(tmp_path / "a.onnx")
    assert detector.class_names == ("cat", "dog", "owl")
    with pytest.raises(InvalidValueError, match="export"):
        detector.export(tmp_path / "b.onnx")
