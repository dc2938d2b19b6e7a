"""`detframe test-module` on modules that are broken, each in one way: the fault is named in plain words."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from PIL import Image

from detframe.cli import test_module as command
from detframe.contracts import running
from detframe.contracts import test_file as run_contract_tests
from detframe.contracts.inputs import Place
from detframe.contracts.running import REGISTRIES
from detframe.contracts.skeletons import write_skeleton
from detframe.errors import InvalidValueError, MissingFileError
from detframe.registry import Registry
from tests.contracts.faults import assert_named, broken, found
from tests.fake_device import needs_fake_device

GRADIENT = "a gradient for every parameter"
EMPTY, READS = "images without objects", "boxes, labels and names"
BROKEN = [
    # what is built and what comes out
    ("backbone", "super().__init__()", "super().__init__(); self.missing", "it is built", r"no attribute 'missing' \("),
    (
        "backbone",
        '"p3": 8, "p4": 16',
        '"p3": 4, "p4": 16',
        "shapes and types",
        "p3 has stride 4, but its map of 12x16 cells",
    ),
    (
        "backbone",
        "self.out_channels = out_channels",
        "self.out_channels = 7",
        "shapes and types",
        r"p3.* must be float32 \(2, 7,.*not float32 \(2, 32,",
    ),
    (
        "backbone",
        "return dict(zip(self.strides, maps[2:], strict=True))",
        "return maps[2:]",
        "shapes and types",
        "a dict of maps",
    ),
    ("backbone", "maps = []", "maps = []; x.mul_(2)", "shapes and types", "changed the images that it was given"),
    (
        "backbone",
        "maps = []",
        "maps = []; x = x - x.mean(0)",
        "shapes and types",
        "the map 'p3' of an image depends on the other images of its batch",
    ),
    (
        "backbone",
        "maps = []",
        "import torch; maps = []; x = x * (float('nan') if torch.is_autocast_enabled('cpu') else 1)",
        "half precision",
        r"under autocast in bfloat16 \(SOLVER\.AMP\) loss_\w+ is nan with 3 objects",
    ),
    pytest.param(
        "backbone",
        "maps = []",
        "import torch; maps = []; x = x + torch.zeros(x.shape)",
        "another device",
        r"on a GPU forward meets tensors on the CPU: .* devices.* \(broken_\w+\.py, line 37\)",
        marks=needs_fake_device,
    ),
    (
        "rpn-head",
        "assigned = _assign(",
        "gt.boxes.add_(1); assigned = _assign(",
        "losses",
        r"forward changed GroundTruth\.boxes that it was given",
    ),
    ("backbone", "maps.append(x)", "maps.append(x.to('meta'))", "shapes and types", "p3.* must be on .* cpu, not meta"),
    (
        "backbone",
        "def from_config",
        "def make",
        "it is built",
        r"Broken\w+ cannot be made of a config .*`from_config\(cls, cfg\)`",
    ),
    ("rpn-head", "def from_config", "def make", "it is built", r"`from_config\(cls, cfg, out_channels, strides\)`"),
    ("rpn-head", "self.tower(feature)", "self.tower(feature.mul_(2))", "shapes and types", "changed the maps p"),
    (
        "rpn-head",
        "return (self._detect(images, cells, logits, distances) if propose else None), losses",
        "return self._detect(images, cells, logits, distances), losses",
        "shapes and types",
        "with propose=False, None must come first",
    ),
    pytest.param(
        "rpn-head",
        "self.coder.clip(rows_of(boxes, pairs.row)",
        "(lambda b, s: b + 90)(rows_of(boxes, pairs.row)",
        "two images are learned",
        "clip them",
        marks=pytest.mark.slow,
    ),
    ("rpn-head", "nn.Conv2d(channels, 4, 1)", "nn.Conv2d(channels, 5, 1)", "losses", r"\(broken_\w+\.py, line \d+\)"),
    # losses and gradients
    (
        "loss",
        "clamp(min=1e-6)) ** 3",
        "clamp(min=1e-6)).detach() ** 3",
        "boxes that are equal, touch or do not",
        "has no gradient: detach",
    ),
    ("rpn-head", '{"loss_rpn_cls": cls', '{"rpn_cls": cls', "losses", "must begin with 'loss_', not 'rpn_cls'"),
    (
        "rpn-head",
        "cls / normalizer,",
        "cls / normalizer * float('nan'),",
        "losses",
        "loss_rpn_cls is nan with 3 objects",
    ),
    (
        "rpn-head",
        'return {"loss_rpn_cls"',
        'if not gt.valid.any(): return {"loss_rpn_cls": cls}\n        return {"loss_rpn_cls"',
        "losses",
        r"\['loss_rpn_box'\] must be there in every step",
    ),
    (
        "rpn-head",
        "global_normalizer(found.sum())",
        "found.sum()",
        EMPTY,
        r"loss_rpn_\w+ is (nan|inf) for images without objects",
    ),
    (
        "backbone",
        "self.stages = nn",
        "self.unused = nn.Linear(2, 2)\n        self.stages = nn",
        GRADIENT,
        "no gradient for unused.weight, unused.bias",
    ),
    ("roi-head", ".mean((2, 3))", ".mean((2, 3)).detach()", GRADIENT, "no gradient for .*convs"),
    (
        "rpn-head",
        'return {"loss_rpn_cls": cls / normalizer, "loss_rpn_box": box / normalizer}',
        'return {"loss_rpn_cls": cls * 0 + 1, "loss_rpn_box": box * 0 + 1}',
        "two images are learned",
        "steps on two images did not lower the losses: the sum was 2 at first, at most 2, and 2 in the end",
    ),
    ("loss", "outer.clamp(min=1e-6)", "(outer - outer)", "losses", r"loss_roi_box is (nan|-?inf)"),
    ("loss", "return 1 - (inner", "return pred - (inner", "losses", r"RuntimeError: .*\(broken_\w+\.py, line 30\)"),
    # the same again
    (
        "roi-head",
        "= self.convs(x)",
        "= (self.convs(x) + x.new_empty(()).normal_())",
        "two evaluations are equal",
        "nothing may be drawn by chance",
    ),
    (
        "roi-head",
        "return vectors",
        "import random; self.s = getattr(self, 's', random.random()); return self.s * vectors",
        "saved and loaded",
        "nothing else is saved",
    ),
    pytest.param(
        "rpn-head",
        "normalizer = global_normalizer(found.sum())",
        "normalizer = found.sum().clamp(min=1)",
        "two processes learn as one",
        "global_normalizer",
        marks=pytest.mark.slow,
    ),
    # a whole detector
    (
        "detector",
        "feature = feature + F.interpolate(other, size=feature.shape[-2:])",
        "pass",
        GRADIENT,
        "no gradient for backbone",
    ),
    ("detector", "own_heads = True", "own_heads = False", GRADIENT, "no gradient for rpn"),
    (
        "detector",
        "return None, self._losses(xy, feature.shape[-1], logits, distances, ground_truth)",
        "return None, sum(self._losses(xy, feature.shape[-1], logits, distances, ground_truth).values())",
        "losses",
        "must give a dict of losses, not tensor",
    ),
    (
        "detector",
        "return detections(pairs, boxes, self.num_classes, self.head.nms), {}",
        "return detections(pairs, boxes, self.num_classes, self.head.nms)",
        "shapes and types",
        r"TypeError: cannot unpack",
    ),
    (
        "detector",
        "best_pairs([logits], 1000",
        "best_pairs([logits + torch.randn_like(logits)], 1000",
        "two evaluations are equal",
        "nothing may be drawn by chance",
    ),
    (
        "detector",
        "return cls(coder=coder,",
        "return cls(coder=coder, colour='red',",
        "it is built",
        r"TypeError: .*unexpected keyword argument 'colour'",
    ),
]


@pytest.mark.parametrize(("kind", "old", "new", "test", "says"), BROKEN)
def test_what_is_broken_is_named(kind: str, old: str, new: str, test: str, says: str, tmp_path: Path):
    assert_named(kind, broken(kind, old, new, tmp_path), test, says)


FORMATS = [
    (
        "image_size(path))",
        "image_size(path)[::-1])",
        READS,
        r"a\.png: the file has height 60 and width 80.* given \(80, 60\)",
    ),
    ("classes.index(name) + 1", "classes.index(name)", READS, r"a\.png: a label is not from 1 to 5"),
    ("number, image_size", "7, image_size", READS, "images have the same id"),
    ("return builder.build()", "return builder", READS, r"must return a PackedDataset, .* not a RecordBuilder"),
    ("builder.add_image(path", "builder.add_picture(path", READS, r"AttributeError: .*\(broken_\w+\.py, line 28\)"),
    ("*, smallest: float = 0", "*, least: float = 0", READS, "smallest"),
    (
        "for _, name, _ in rows if name})",
        "for _, name, _ in rows if name}, reverse=bool(__import__('os').environ.pop('ODD', '')))",
        "two readings are equal",
        "was read twice with different results: sort what comes from sets and folders",
    ),
    ("enumerate(sorted(", "enumerate((", "two readings are equal", "another process reads .* in another way"),
]


@pytest.mark.parametrize(("old", "new", "test", "says"), FORMATS)
def test_a_broken_format(old: str, new: str, test: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DETFRAME_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("ODD", "the first reading sees this")
    path = broken("format", old, new, tmp_path)
    data = tmp_path / f"{path.stem}_data"
    data.mkdir()
    names = [f"{letter}.png" for letter in "abcdefgh"]
    for name in names:
        Image.new("RGB", (80, 60)).save(data / name)
    rows = "".join(f"{name} {kind} 10 10 50 45\n" for name in names for kind in ("cat", "dog", "owl", "emu", "fox"))
    for part in ("train", "val"):
        (data / f"{part}.txt").write_text(rows)
    result = found("format", path, test, str(path.with_suffix(".yaml")))
    assert re.search(says, str(result)), result


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("def half(:\n", r"SyntaxError: .*\(mine\.py, line 1\)"),
        ("import no_such_library\n", r"ModuleNotFoundError: No module named 'no_such_library' \(mine\.py, line 1\)"),
        ("x = 1\nx.y\n", r"AttributeError: .*\(mine\.py, line 2\)"),
        (
            "from detframe import registry\n\n@registry.LOSSES.register('giou')\nclass Mine:\n    pass\n",
            r"'giou' .*LOSSES",
        ),
    ],
)
def test_a_file_that_cannot_be_imported(text: str, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path = tmp_path / "mine.py"
    path.write_text(text, encoding="utf-8")
    assert command.main([str(path)]) == 1
    out, err = capsys.readouterr()
    assert re.search(f"it can be imported +FAILED\n +.*{says}", out) and "1 test, 1 failed" in out
    assert "Traceback" not in out + err and out.count("(mine.py, line ") <= 1


def test_an_error_that_several_tests_share_is_written_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path = broken("transform", "return (image * factors).to(image.dtype), target", "image * factors", tmp_path)
    assert command.main([str(path)]) == 1
    out = capsys.readouterr().out
    assert out.count("it must return (image, target), not a NoneType") == 1
    assert out.count("FAILED\n      the same as of: images and targets\n") == out.count("FAILED") - 1 > 0


def test_a_file_that_registers_nothing(tmp_path: Path):
    path = tmp_path / "mine.py"
    path.write_text("class Mine:\n    pass\n", encoding="utf-8")
    with pytest.raises(InvalidValueError, match=r"mine\.py registers nothing: put a decorator such as @registry"):
        run_contract_tests(path)
    with pytest.raises(MissingFileError, match=r"other\.py is not there"):
        run_contract_tests(tmp_path / "other.py")


def test_a_member_that_cannot_be_built_is_not_tested_further(tmp_path: Path):
    path = broken("backbone", "super().__init__()", "super().__init__(); self.gone", tmp_path)
    assert [(result.test, result.state) for result in run_contract_tests(path)] == [("it is built", "FAILED")]


@pytest.mark.parametrize("members", REGISTRIES, ids=lambda members: members.name)
def test_every_registry_has_tests(members: Registry, tmp_path: Path):
    name = "giou" if members.name == "LOSSES" else "any"
    titles = [title for title, _ in running.tests_of(Place(members.name, name, tmp_path / "mine.py"))]
    assert len(titles) >= 2 and len(set(titles)) == len(titles)


def test_what_is_left_out_is_not_called_well(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path = write_skeleton("format", "plain_format", tmp_path)[0]
    assert command.main([str(path)]) == 0
    assert capsys.readouterr().out.endswith("2 tests, 2 left out\n")


@pytest.mark.slow
def test_without_the_packages_of_an_export(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A graph is traced by PyTorch alone."""
    packages = ("onnx", "onnxscript", "onnxruntime", "openvino")
    for name in [name for name in sys.modules if name.partition(".")[0] in packages or "detframe.export" in name]:
        monkeypatch.delitem(sys.modules, name)
    for name in packages:
        monkeypatch.setitem(sys.modules, name, None)
    path = write_skeleton("loss", "plain_loss", tmp_path)[0]
    result = found("loss", path, "it can be exported")
    assert result.state == "ok"
