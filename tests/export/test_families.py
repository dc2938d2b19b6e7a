"""Every family of detectors finds in onnxruntime what it finds in PyTorch: any size, any batch, nothing to find."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from detframe.errors import InvalidValueError
from detframe.export import trace
from detframe.export.formats import opset_of
from detframe.export.graph import ExportableDetector
from detframe.export.onnx_ops import translations
from detframe.export.precision import to_fp16
from detframe.layers import ConvNorm
from detframe.modeling import build_detection_model
from detframe.registry import BACKBONES
from tests.conftest import can_export
from tests.export.conftest import batch
from tests.modeling.tiny import tiny_config

# How far the outputs of the last layers spread, so that detections are many and differ
SPREAD = {
    "cls_score": 4.0,
    "cls_logits": 2.0,
    "bbox_pred": 0.5,
    "bbox_reg": 0.5,
    "bbox_ctrness": 1.0,
    "bbox_dist": 1.0,
    "mask_fcn_logits": 2.0,
    "kps_score_lowres": 2.0,
    "prediction": 2.0,
    "predictor": 2.0,
    "offset": 1.0,
}
# The second is smaller than the smallest that was traced, with little padding: deep in it all scores are equal, and
# which of them come first is left open
SIZES = [(2, 97, 130), (1, 61, 58)]


class Slim(nn.Module):
    """Three maps in three convolutions, whose graph takes a second to make."""

    out_channels = 8

    def __init__(self) -> None:
        super().__init__()
        self.strides = {"p3": 8, "p4": 16, "p5": 32}
        self.size_divisibility = 32
        self.stem = ConvNorm(3, 8, 3, stride=4, norm="FrozenBN", relu=True)
        self.steps = nn.ModuleList(ConvNorm(8, 8, 3, stride=2, norm="BN") for _ in range(3))

    def forward(self, x):
        maps = []
        for step in self.steps:
            x = step(self.stem(x) if x.shape[1] == 3 else F.silu(x))
            maps.append(x)
        return dict(zip(self.strides, maps, strict=True))


@pytest.fixture(scope="module", autouse=True)
def slim():
    if "slim" not in BACKBONES:
        BACKBONES.register("slim", lambda cfg: Slim())


ANCHORS = ((16,), (32,), (64,))
ROI = {
    "MODEL.BACKBONE.CONV_BODY": "slim",
    "MODEL.RPN.ANCHOR_SIZES": ANCHORS,
    "MODEL.ROI_HEADS.NAME": "StandardROIHeads",
    "MODEL.ROI_BOX_HEAD.MLP_HEAD_DIM": 16,
}
DENSE = {"MODEL.BACKBONE.CONV_BODY": "slim", "MODEL.ROI_HEADS.NAME": ""}
MASK = {**ROI, "MODEL.MASK_ON": True, "MODEL.ROI_MASK_HEAD.CONV_DIM": 8, "MODEL.ROI_MASK_HEAD.NUM_CONV": 1}
FCOS = {**DENSE, "MODEL.RPN.NAME": "FCOS", "MODEL.FCOS.NUM_CONVS": 1}
RETINA = {
    **DENSE,
    "MODEL.RPN.NAME": "RetinaNet",
    "MODEL.RETINANET.NUM_CONVS": 1,
    "MODEL.RETINANET.ANCHOR_SIZES": ANCHORS,
}
KEYPOINTS = {
    **ROI,
    "MODEL.KEYPOINT_ON": True,
    "MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS": 3,
    "MODEL.ROI_KEYPOINT_HEAD.CONV_DIMS": (8,),
}
POINTS = {
    **MASK,
    "MODEL.ROI_MASK_HEAD.NAME": "PointRend",
    "MODEL.POINT_HEAD.IN_FEATURE": "p3",
    "MODEL.POINT_HEAD.FC_DIM": 8,
    "MODEL.POINT_HEAD.COARSE_FC_DIM": 16,
}
EXTENDED = {**ROI, "MODEL.ROI_HEADS.NAME": "ExtendedROIHeads"}
FAMILIES = {
    "faster": ROI,
    "faster, agnostic NMS, proposals of each level, pixel boxes": {
        **ROI,
        "TEST.NMS": "agnostic",
        "MODEL.RPN.POST_NMS_PER": "level",
        "MODEL.LEGACY_BOXES": True,
        "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG": True,
    },
    "faster, on the finest level alone": {
        **ROI,
        "MODEL.BACKBONE.CONV_BODY": "R-18-FPN",
        "MODEL.FPN.FINEST_ONLY": True,
        "MODEL.RPN.ANCHOR_SIZES": ((8, 16, 32),),
    },
    "scores of the federated loss": {**ROI, "MODEL.ROI_BOX_HEAD.CLS_LOSS": "federated"},
    "cascade, scores of Seesaw": {
        **ROI,
        "MODEL.ROI_HEADS.NAME": "CascadeROIHeads",
        "MODEL.ROI_BOX_HEAD.CLS_LOSS": "seesaw",
    },
    "mask": MASK,
    "keypoint": KEYPOINTS,
    "cascade with masks": {**MASK, "MODEL.ROI_HEADS.NAME": "CascadeROIHeads"},
    "fcos": {**FCOS, "MODEL.FCOS.THRESH_WITH_CTR": True, "MODEL.FCOS.INFERENCE_TH": 0.2},
    "fcos improved": {**FCOS, "MODEL.FCOS.NORM_REG_TARGETS": True, "MODEL.FCOS.CENTERNESS_ON_REG": True},
    "fcos deformable": {**FCOS, "MODEL.FCOS.USE_DCN_IN_TOWER": True},
    "gfl dynamic, deformable": {**FCOS, "MODEL.RPN.NAME": "GFL", "MODEL.DYHEAD.NUM_BLOCKS": 1},
    "tood": {**FCOS, "MODEL.RPN.NAME": "TOOD", "MODEL.TOOD.NUM_CONVS": 2},
    "gfl": {**FCOS, "MODEL.RPN.NAME": "GFL"},
    "retinanet": RETINA,
    "retinanet, clipped, large boxes alone": {
        **RETINA,
        "MODEL.RETINANET.CLIP_BEFORE_NMS": True,
        "MODEL.RETINANET.MIN_SIZE": 12.0,
        "MODEL.LEGACY_BOXES": True,
    },
    "point rend": POINTS,
    "rpn alone": {**ROI, "MODEL.ROI_HEADS.NAME": "", "MODEL.RPN.POST_NMS_TOP_N_TEST": 50},
    "fcos proposes": {**ROI, "MODEL.RPN.NAME": "FCOS"},
    "retinanet proposes": {**RETINA, **ROI, "MODEL.RPN.NAME": "RetinaNet"},
    "extended heads": {**EXTENDED, "MODEL.EFPN.SEPARATE_HEAD": True},
    "extended heads, twice": {**EXTENDED, "MODEL.EFPN.ROI_ASSIGNMENT": "duplicate", "MODEL.EFPN.DUPLICATE_UP_TO": 4},
}


def build(keys):
    """A model of random weights that finds many things, of scores of which no two are alike."""
    torch.manual_seed(0)
    model = build_detection_model(tiny_config(keys)).eval()
    for name, module in model.named_modules():
        last = name.rpartition(".")[2]
        if last in SPREAD and hasattr(module, "weight"):
            nn.init.normal_(module.weight)
            module.register_forward_hook(partial(scale, SPREAD[last]))
        if last == "cls_score" and not module.bias.any():  # else all classes begin low
            nn.init.constant_(module.bias[:1], 3.2)  # of the background, which is all that a grey image shows
    with torch.no_grad():
        ExportableDetector(model)(*batch(2, 64, 96))
    for module in model.modules():
        module._forward_hooks.clear()
    return model


def scale(spread, module, inputs, out):
    """Of a layer that is called for the first time, so that its outputs spread so far."""
    if not hasattr(module, "spread") and out.numel():
        module.spread = spread
        with torch.no_grad():
            module.weight.mul_(spread / out.std())
        return module.forward(*inputs)
    return out


def export(model, path):
    program, _ = trace(model)
    opset = opset_of(program)
    torch.onnx.export(
        program, f=path, dynamo=True, custom_translation_table=translations(), opset_version=opset, verbose=False
    )
    return onnxruntime.InferenceSession(path)


def compare(model, session, images, sizes):
    """The number of detections of each image, after a look at each of them."""
    with torch.no_grad():
        parts = [image[:, :h, :w] for image, (h, w) in zip(images, sizes.tolist(), strict=True)]
        found = model(parts, paste_masks=False)
    names = [node.name for node in session.get_inputs()]
    boxes, scores, labels, count, *more = session.run(
        None, dict(zip(names, (images.numpy(), sizes.numpy()), strict=True))
    )
    assert count.tolist() == [len(one["boxes"]) for one in found]
    for i, one in enumerate(found):
        rows = slice(0, count[i])
        np.testing.assert_allclose(scores[i, rows], one["scores"].numpy(), atol=1e-5)
        np.testing.assert_array_equal(labels[i, rows], one["labels"].numpy())
        np.testing.assert_allclose(boxes[i, rows], one["boxes"].numpy(), atol=1e-3)
        extras = [key for key in ("masks", "keypoints") if key in one]
        assert len(extras) == len(more)
        for key, theirs in zip(extras, more, strict=True):
            theirs = theirs[i, rows]
            ours = getattr(one[key], "probs", one[key]).numpy()
            # which points of a mask are looked at again, and which of two peaks as high is taken, may hang on the last
            # digit
            few = 1e-4 if key == "masks" else 5e-3
            assert (np.abs(theirs - ours) > 1e-3).sum() <= few * ours.size
        for values in (boxes, scores, labels, *more):
            assert not values[i, count[i] :].any()
    return count


class Graph:
    """What the graph of a model computes, as a session of onnxruntime would give it."""

    def __init__(self, model) -> None:
        self.graph = ExportableDetector(model)

    def get_inputs(self):
        return [SimpleNamespace(name="images"), SimpleNamespace(name="sizes")]

    def run(self, _, inputs):
        with torch.no_grad():
            return [out.numpy() for out in self.graph(*(torch.as_tensor(value) for value in inputs.values()))]


def check(family, model, session):
    """Two images, one smaller than any that was traced, and one with nothing on it."""
    counts = [compare(model, session, *batch(*shape)).sum() for shape in SIZES]
    assert counts[0] > 5
    if "alone" not in family:  # where something is always proposed
        grey = model.preprocessor.mean.round().to(torch.uint8).expand(1, 3, 64, 96)
        assert compare(model, session, grey, torch.tensor([[64, 96]])).tolist() == [0]


@pytest.mark.parametrize("family", FAMILIES)
def test_what_becomes_the_graph_of_each_family_finds_what_the_model_finds(family):
    model = build(FAMILIES[family])
    check(family, model, Graph(model))


# The others take the same operators into the file
QUICK = ("mask", "keypoint")


@pytest.mark.parametrize(
    "family", [pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow) for name in FAMILIES]
)
def test_a_file_of_each_family_finds_what_the_model_finds(family, tmp_path):
    model = build(FAMILIES[family])
    path = tmp_path / "model.onnx"
    check(family, model, export(model, path))
    to_fp16(path, tmp_path / "half.onnx")
    check_half(path, tmp_path / "half.onnx")


def check_half(path, half):
    """In half precision the same rows are found, but for those whose scores are nearly alike."""
    onnx.checker.check_model(str(half), full_check=True)
    inputs = dict(zip(("images", "sizes"), (values.numpy() for values in batch(2, 64, 96)), strict=True))
    results = []
    for file in (path, half):
        session = onnxruntime.InferenceSession(file)
        names = (entry.name for entry in session.get_inputs())
        results.append(session.run(None, dict(zip(names, inputs.values(), strict=True))))
    for found, wanted in zip(*results, strict=True):
        assert (found.shape, found.dtype) == (wanted.shape, wanted.dtype)
        assert np.isclose(found, wanted, atol=0.05, rtol=0.02).mean() > 0.5


@pytest.mark.skipif(not can_export(), reason="the exporter of this PyTorch warns of its own graph")
@pytest.mark.filterwarnings("ignore:.create_unbacked_symint:FutureWarning")  # of torchvision's nms
@pytest.mark.parametrize("family", ["retinanet", pytest.param("mask", marks=pytest.mark.slow)])
def test_the_plain_call_of_torch_exports_too(family, tmp_path):
    """torch.onnx.export(model, images, file), with torchvision's outputs, an image after another."""
    model = build(FAMILIES[family])
    images = [image[:, :h, :w] for (image,), ((h, w),) in (batch(1, 97, 130), batch(1, 64, 90))]
    images = [image / 255 for image in images]
    path = tmp_path / "plain.onnx"
    torch.onnx.export(model, (images,), str(path), opset_version=18, dynamo=True, verbose=False)
    session = onnxruntime.InferenceSession(path)
    names = [node.name for node in session.get_inputs()]
    results = session.run(None, {name: image.numpy() for name, image in zip(names, images, strict=True)})
    with torch.no_grad():
        wanted = [value for one in model(images) for value in one.values()]
    assert len(results) == len(wanted)
    for result, value in zip(results, wanted, strict=True):
        assert result.shape == value.shape and len(value)
        np.testing.assert_allclose(result, value.numpy(), atol=1e-3)


@pytest.mark.parametrize("key", ["MODEL.RPN.NMS_METRIC", "TEST.NMS_METRIC"])
def test_nms_by_wasserstein_distance_is_refused_by_name(key):
    model = build_detection_model(tiny_config({key: "nwd"}))
    with pytest.raises(InvalidValueError, match=r"MODEL.RPN.NMS_METRIC or TEST.NMS_METRIC 'nwd'\) cannot be exported"):
        trace(model)


def test_soft_nms_is_refused_by_name():
    model = build({**FAMILIES["faster"], "TEST.NMS": "soft"})
    with pytest.raises(InvalidValueError, match=r"Soft-NMS \(TEST.NMS 'soft'\) cannot be exported"):
        trace(model)


class Undecided(Slim):
    """A user's backbone that asks a value of a map."""

    def forward(self, x):
        maps = super().forward(x)
        if maps["p3"].mean() > 0:
            return maps
        return {name: -x for name, x in maps.items()}


def test_what_cannot_be_traced_is_named_with_its_line():
    model = build(FAMILIES["retinanet"])
    model.backbone = Undecided().eval()
    with pytest.raises(InvalidValueError) as caught:
        trace(model)
    message = str(caught.value)
    assert "the model cannot be exported: backbone cannot be traced" in message
    assert "test_families.py:" in message and "in forward" in message and len(message) < 700


def test_convolutions_of_the_graph_have_their_norms_inside():
    model = build(FAMILIES["retinanet"])
    program, _ = trace(model)
    assert not [name for name in program.state_dict if "running_var" in name]
    constants = {node.name for node in program.graph.nodes if node.op == "placeholder"}
    convolutions = [node for node in program.graph.nodes if "conv2d" in str(node.target)]
    assert convolutions and all(node.args[1].name in constants for node in convolutions)
    assert model.backbone.stem[1].running_var is not None  # the model itself is left as it was
