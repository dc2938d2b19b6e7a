"""Every detector on a CUDA device that is not there: a training step and an inference never wait for a value.

What may wait stands in WAITS, with the reason; a detector that still does elsewhere is a strict xfail.
"""

from __future__ import annotations

import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from detframe.modeling import build_detection_model
from detframe.modeling.ground_truth import pack_targets
from detframe.solver import ModelEMA
from tests.fake_device import CUDA, backward, fake_device, needs_fake_device, on_host, to_device
from tests.modeling.tiny import DENSE, EMPTY, FULL, make_images, tiny_config

pytestmark = needs_fake_device

# The places that may wait for the device, and that these tests therefore leave out
WAITS = {
    "the predictions leave the device": "an image has as many as were found: one wait a batch, after all is computed",
    "torchvision's NMS": "its operator gives as many rows as are kept; inside of detframe::nms, once a call",
    "is the step finite": "asked before the update, once a step; see Trainer._stop_unless_finite",
}
SMALL = {"MODEL.ROI_BOX_HEAD.MLP_HEAD_DIM": 16}
MASKS = {**SMALL, "MODEL.MASK_ON": True, "MODEL.ROI_MASK_HEAD.CONV_DIM": 8}
POINTS = {"MODEL.KEYPOINT_ON": True, "MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS": 4}
POINTS |= {**SMALL, "MODEL.ROI_KEYPOINT_HEAD.CONV_DIMS": (8,)}
REND = {**MASKS, "MODEL.ROI_MASK_HEAD.NAME": "PointRend", "MODEL.POINT_HEAD.FC_DIM": 12}
DETECTORS = {
    "fcos": {**DENSE, "MODEL.RPN.NAME": "FCOS", "MODEL.FCOS.NUM_CONVS": 1},
    "retinanet": {**DENSE, "MODEL.RPN.NAME": "RetinaNet", "MODEL.RETINANET.NUM_CONVS": 1},
    "rpn": {"MODEL.ROI_HEADS.NAME": ""},
    "faster_rcnn": SMALL,
    "cascade": {**SMALL, "MODEL.ROI_HEADS.NAME": "CascadeROIHeads"},
    "mask_rcnn": MASKS,
    "keypoint_rcnn": POINTS,
    "point_rend": REND,
}
VALUES = (DataDependentOutputException, DynamicOutputShapeException)
# detector -> why it still waits in training, or in inference
TARGETS = "masks are cut out on the host, which asks once where the RoIs are"
PEAKS = "peaks of keypoints are looked for in boxes of alike sizes"
POINTS_OF_IMAGES = "points are looked up image by image"
STILL_TRAINING = dict.fromkeys(("mask_rcnn", "point_rend"), TARGETS)
STILL_INFERENCE = {"keypoint_rcnn": PEAKS, "point_rend": POINTS_OF_IMAGES}


def cases(still):
    return [
        pytest.param(
            name, marks=[pytest.mark.xfail(raises=VALUES, strict=True, reason=still[name])] if name in still else []
        )
        for name in DETECTORS
    ]


def made(name):
    torch.manual_seed(0)
    return build_detection_model(tiny_config(DETECTORS[name]))


def targets_for(name):
    """Two objects, and none; as the loader has checked and padded them on the host."""
    full, none = dict(FULL), dict(EMPTY)
    if "MODEL.MASK_ON" in DETECTORS[name]:
        full["masks"], none["masks"] = torch.ones(2, 70, 90, dtype=torch.uint8), torch.zeros(0, 64, 51).byte()
    if "MODEL.KEYPOINT_ON" in DETECTORS[name]:
        full["keypoints"], none["keypoints"] = torch.full((2, 4, 3), 2.0), torch.zeros(0, 4, 3)
    return pack_targets([full, none], 3, torch.device("cpu"), [(70, 90), (64, 51)])


@pytest.mark.parametrize("name", cases(STILL_TRAINING))
def test_a_training_step(name):
    model, images, targets = made(name).train(), make_images(), targets_for(name)
    with fake_device() as mode:
        model = to_device(model)
        parameters = [p for p in model.parameters() if p.requires_grad]
        optimizer = torch.optim.SGD(parameters, lr=0.1, momentum=0.9, foreach=True)  # the fused one has no fake
        average = ModelEMA(model, 0.99)
        losses = model(on_host(mode, images), on_host(mode, targets))
        assert all(loss.shape == () and loss.device.type == CUDA.type for loss in losses.values())
        backward(sum(losses.values()))
        assert all(p.grad is not None and p.grad.shape == p.shape for p in parameters)
        norm = get_total_norm([p.grad for p in parameters])
        clip_grads_with_norm_(parameters, 1.0, norm)
        optimizer.step()
        average.update(model)
        assert norm.device.type == CUDA.type


@pytest.mark.parametrize("name", ["fcos", "retinanet"])
@pytest.mark.parametrize("kind", ["atss", "nwd", "rfla"])
def test_a_training_step_of_each_assigner(kind, name, monkeypatch):
    keys = {"MODEL.RPN.ASSIGNER": kind, "MODEL.RPN.ASSIGNMENT.RFLA_FIELDS": (16, 32, 64, 128, 256)}
    monkeypatch.setitem(DETECTORS, name, {**DETECTORS[name], **keys})
    test_a_training_step(name)


@pytest.mark.parametrize("name", cases(STILL_INFERENCE))
def test_an_inference(name):
    model, images = made(name).eval(), make_images()
    with fake_device() as mode, torch.no_grad():
        model = to_device(model)
        found = model.detect(model.preprocessor(on_host(mode, images)))
        assert found.boxes.shape[0] == len(images)
        assert found.boxes.device.type == found.valid.device.type == CUDA.type


def test_what_needs_a_value_fails_here():
    with fake_device() as mode, pytest.raises(Exception, match="_local_scalar_dense"):
        bool(on_host(mode, torch.ones(3)).to(CUDA).sum() > 2)


def test_mixed_devices_fail_here():
    with fake_device() as mode, pytest.raises(RuntimeError, match="device"):
        on_host(mode, torch.ones(3)).to(CUDA) + on_host(mode, torch.ones(3))


def test_packed_targets_train_as_the_targets_do():
    model, images = made("faster_rcnn").train(), make_images()
    plain = model(images, [FULL, EMPTY])
    packed = model(images, targets_for("faster_rcnn"))
    assert plain.keys() == packed.keys()
    assert all(torch.equal(plain[key], packed[key]) for key in plain)


def test_the_gradients_of_the_fake_device_are_those_of_the_engine():
    """Its backward pass goes through the same graph; here with values, on the host."""
    model, images = made("retinanet").train(), make_images()
    parameters = [p for p in model.parameters() if p.requires_grad]
    grads = []
    for run in (torch.Tensor.backward, backward):
        model.zero_grad()
        run(sum(model(images, [FULL, EMPTY]).values()))
        grads.append([p.grad for p in parameters])
    for engine, own in zip(*grads, strict=True):
        torch.testing.assert_close(own, engine)
