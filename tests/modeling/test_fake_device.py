"""Every detector on a CUDA device that is not there: where a training step or an inference waits for a value.

Places that may wait stand in WAITS, with their reasons; how often each detector does, in TRAINING and INFERENCE.
Anywhere else, what needs a value is an error, and so is a tensor on another device.
"""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from detframe.engine.step import StepSettings
from detframe.engine.trainer import Trainer
from detframe.evaluation import run_evaluation
from detframe.inference import model_backend
from detframe.inference.augmentation import AugmentedModel
from detframe.inference.model_backend import ModelBackend
from detframe.modeling import build_detection_model, proposals
from detframe.modeling.ground_truth import pack_targets
from detframe.solver import ModelEMA
from detframe.structures import CheckedTarget
from tests.fake_device import (
    CUDA,
    NoSlowCopies,
    Waits,
    backward,
    fake_device,
    needs_fake_device,
    on_host,
    to_device,
)
from tests.modeling.tiny import DENSE, EMPTY, FULL, make_images, tiny_config

pytestmark = needs_fake_device

NMS = "detframe::nms"
# The places that may wait for the device
WAITS = {
    NMS: "inside, torchvision's operator gives as many boxes as are kept",
    "ops/nms.py": "which detections stay, and how many of each image, before they leave the device",
    "modeling/proposals.py": "how many boxes of each image leave the device, where no NMS comes last",
    "modeling/roi_heads/mask.py": "masks, which may be polygons, are cut out on the host: where are the RoIs?",
    "modeling/roi_heads/point_rend.py": "and looked up at points",
    "ops/keypoints.py": "heatmaps are enlarged together where their boxes are alike in size",
    "modeling/backbones/extended_crops.py": "as much of P2' is computed as there are RoIs that read it",
    "parallel/collectives.py": "is the step finite? Before its update, so that weights never have to be taken back",
}
CROPS, MASK = ("modeling/backbones/extended_crops.py",), ("modeling/roi_heads/mask.py",)
SMALL = {"MODEL.ROI_BOX_HEAD.MLP_HEAD_DIM": 16}
MASKS = {**SMALL, "MODEL.MASK_ON": True, "MODEL.ROI_MASK_HEAD.CONV_DIM": 8}
POINTS = {"MODEL.KEYPOINT_ON": True, "MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS": 4}
POINTS |= {**SMALL, "MODEL.ROI_KEYPOINT_HEAD.CONV_DIMS": (8,)}
REND = {**MASKS, "MODEL.ROI_MASK_HEAD.NAME": "PointRend", "MODEL.POINT_HEAD.FC_DIM": 12}
PYRAMID = {"MODEL.BACKBONE.CONV_BODY": "R-18-EFPN", "MODEL.EFPN.WIDTH": 8}
PYRAMID |= {**SMALL, "MODEL.RPN.IN_FEATURES": ("p2", "p3", "p4", "p5", "p6")}
EFPN = {**PYRAMID, "MODEL.ROI_HEADS.NAME": "ExtendedROIHeads"}
DISTILLED = {**PYRAMID, "MODEL.DISTILL.ON": True, "MODEL.DISTILL.DETECTION": True}
FCOS = {**DENSE, "MODEL.RPN.NAME": "FCOS", "MODEL.FCOS.NUM_CONVS": 1}
RETINANET = {**DENSE, "MODEL.RPN.NAME": "RetinaNet", "MODEL.RETINANET.NUM_CONVS": 1}
WEIGHTS = (("a", 2.0), ("b", 1.0), ("c", 0.5))
DETECTORS = {
    "fcos": FCOS,
    "atss": {**DENSE, "MODEL.RPN.NAME": "ATSS", "MODEL.FCOS.NUM_CONVS": 1},
    "dynamic": {**FCOS, "MODEL.RPN.NAME": "ATSS", "MODEL.DYHEAD.NUM_BLOCKS": 1},
    "tood": {**DENSE, "MODEL.RPN.NAME": "TOOD", "MODEL.TOOD.NUM_CONVS": 2},
    "gfl": {**DENSE, "MODEL.RPN.NAME": "GFL", "MODEL.FCOS.NUM_CONVS": 1},
    "retinanet": RETINANET,
    "fcos_quality": {**FCOS, "MODEL.FCOS.CLS_LOSS": "quality_focal", "MODEL.CLASS_WEIGHTS": WEIGHTS},
    "retinanet_varifocal": {**RETINANET, "MODEL.RETINANET.CLS_LOSS": "varifocal", "MODEL.CLASS_WEIGHTS": WEIGHTS},
    "rpn": {"MODEL.ROI_HEADS.NAME": ""},
    "faster_rcnn": SMALL,
    "seesaw": {**SMALL, "MODEL.ROI_BOX_HEAD.CLS_LOSS": "seesaw"},
    "federated": {**SMALL, "MODEL.ROI_BOX_HEAD.CLS_LOSS": "federated", "MODEL.CLASS_WEIGHTS": WEIGHTS},
    "cascade": {**SMALL, "MODEL.ROI_HEADS.NAME": "CascadeROIHeads"},
    "mask_rcnn": MASKS,
    "keypoint_rcnn": POINTS,
    "point_rend": REND,
    "fcos_with_roi_heads": {**SMALL, "MODEL.RPN.NAME": "FCOS"},
    "efpn": EFPN,
    "efpn_separate_head": {**EFPN, "MODEL.EFPN.SEPARATE_HEAD": True},
    "efpn_duplicates": {**EFPN, "MODEL.EFPN.ROI_ASSIGNMENT": "duplicate"},
    "efpn_on_crops": {**EFPN, "MODEL.EFPN.ON_CROPS": True, "MODEL.EFPN.CROP_SIZE": 8, "MODEL.EFPN.CROP_MARGIN": 2},
    "distillation": DISTILLED,
}
# what waits: in training, once each, beside the NMS of proposals
TRAINING = {
    "mask_rcnn": MASK,
    "point_rend": (*MASK, "modeling/roi_heads/point_rend.py"),
    "efpn_on_crops": CROPS,
}
WITHOUT_PROPOSALS = (
    "fcos",
    "fcos_quality",
    "atss",
    "gfl",
    "dynamic",
    "tood",
    "retinanet",
    "retinanet_varifocal",
    "rpn",
)
# in inference, beside the NMS of proposals and that of detections
INFERENCE = {"keypoint_rcnn": ("ops/keypoints.py",), "efpn_on_crops": CROPS}


def waits_of(name, more, *always):
    """How often each place waits."""
    return dict.fromkeys([*always, *([] if name in WITHOUT_PROPOSALS else [NMS]), *more.get(name, ())], 1)


@pytest.fixture
def waits(monkeypatch):
    """The places that wait, counted."""
    counted = Waits(WAITS)
    plain = proposals.nms

    def nms(*args):
        counted.counts[NMS] += 1
        return plain(*args)

    monkeypatch.setattr(proposals, "nms", nms)
    return counted


def made(name):
    torch.manual_seed(0)
    return build_detection_model(tiny_config(DETECTORS[name]))


def targets_for(name):
    """None, and two objects, which the host is told of; checked and padded on the host."""
    full, none = dict(FULL), dict(EMPTY)
    if "MODEL.MASK_ON" in DETECTORS[name]:
        full["masks"], none["masks"] = torch.ones(2, 64, 51, dtype=torch.uint8), torch.zeros(0, 70, 90).byte()
    if "MODEL.KEYPOINT_ON" in DETECTORS[name]:
        full["keypoints"], none["keypoints"] = torch.full((2, 4, 3), 2.0), torch.zeros(0, 4, 3)
    return pack_targets([none, full], 3, torch.device("cpu"), [(70, 90), (64, 51)])


def optimizer_of(model):
    parameters = [p for p in model.parameters() if p.requires_grad]
    return torch.optim.SGD(parameters, lr=0.1, momentum=0.9, foreach=True)  # the fused one has no fake


def check_training_step(name, waits):
    """One step of a detector on the device that is none: of which places it waits, and that all of it learns."""
    model, images, targets = made(name).train(), make_images(), targets_for(name)
    with fake_device() as mode, waits, NoSlowCopies():
        model = to_device(model)
        optimizer = optimizer_of(model)
        parameters = optimizer.param_groups[0]["params"]
        losses = model(on_host(mode, images), on_host(mode, targets))
        assert all(loss.shape == () and loss.device.type == CUDA.type for loss in losses.values())
        backward(sum(losses.values()))
        assert all(p.grad is not None and p.grad.shape == p.shape for p in parameters)
        norm = get_total_norm([p.grad for p in parameters])
        clip_grads_with_norm_(parameters, 1.0, norm)
        optimizer.step()
        assert norm.device.type == CUDA.type
    assert waits.counts == waits_of(name, TRAINING)


@pytest.mark.parametrize("name", DETECTORS)
def test_a_training_step(name, waits):
    check_training_step(name, waits)


@pytest.mark.parametrize("name", ["fcos", "retinanet"])
@pytest.mark.parametrize("kind", ["atss", "nwd", "rfla"])
def test_a_training_step_of_each_assigner(kind, name, waits, monkeypatch):
    keys = {"MODEL.RPN.ASSIGNER": kind, "MODEL.RPN.ASSIGNMENT.RFLA_FIELDS": (16, 32, 64, 128, 256)}
    monkeypatch.setitem(DETECTORS, name, {**DETECTORS[name], **keys})
    check_training_step(name, waits)


class Unasked:
    """The guard of a trainer whose steps are finite."""

    def check_rates(self, trainer):
        pass

    def not_finite(self, trainer, step):
        raise AssertionError("the step was told to be finite")


@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("name", ["fcos", "faster_rcnn"])
def test_a_step_of_the_trainer(name, parts, waits, monkeypatch):
    """Whole: clipping, the moving average, and parts, whose objects are counted in a pass of their own."""
    monkeypatch.setattr(torch.Tensor, "backward", backward)
    monkeypatch.setattr("detframe.engine.trainer.infinite_buffers", lambda model: frozenset())  # before all steps
    monkeypatch.setattr("detframe.engine.step.set_rng_state", lambda state: None)  # of the host
    model, images = made(name), make_images()
    with fake_device() as mode, waits, NoSlowCopies():
        model = to_device(model)
        # as the loader has checked them
        targets = [CheckedTarget(on_host(mode, FULL), 3, image.shape[-2:]) for image in images]
        trainer = Trainer(
            model,
            optimizer_of(model),
            iter([(on_host(mode, images), targets)]),
            lambda iteration: 1.0,
            StepSettings(0.1, accumulate_steps=parts, clip_norm=1.0, clip_value=0.5),
            max_iter=1,
            device=CUDA,
            guard=Unasked(),
            ema=ModelEMA(model, 0.99),
        )
        trainer.step()
    passes = 1 if parts == 1 else 2 * parts
    wanted = {place: times * passes for place, times in waits_of(name, TRAINING).items()}
    assert waits.counts == {**wanted, "parallel/collectives.py": 1}
    assert trainer.iteration == 1 and trainer.ema.updates == 1


@pytest.mark.parametrize("name", DETECTORS)
def test_an_inference(name, waits):
    model, images = made(name).eval(), make_images()
    with fake_device() as mode, torch.no_grad(), waits, NoSlowCopies():
        model = to_device(model)
        found = model(on_host(mode, images))
        assert [len(prediction["boxes"]) for prediction in found] == [1, 1]  # as the host was told
        assert all(value.device.type == CUDA.type for prediction in found for value in prediction.values())
    last = ("modeling/proposals.py", NMS) if name in ("rpn", "retinanet", "retinanet_varifocal") else ("ops/nms.py",)
    assert waits.counts == waits_of(name, INFERENCE, *last)


class Found:
    """An evaluator that keeps what comes."""

    def reset(self):
        self.predictions = []

    def update(self, targets, predictions):
        self.predictions += predictions

    def compute(self):
        return {}


@pytest.fixture
def cuda_waits(monkeypatch):
    """The waits for the whole device, which is not there: one 1 each. PyTorch says that there is no autocast for it."""
    counted = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: counted.append(1))
    monkeypatch.setattr(torch, "autocast", lambda *args, **how: nullcontext())
    return counted


WHOLE = ["faster_rcnn", "mask_rcnn", "keypoint_rcnn", "fcos", "retinanet"]


@pytest.mark.parametrize("name", WHOLE)
def test_an_evaluation(name, waits, cuda_waits):
    """In the original size of images, on the host: it waits once more, when all that it wants is on its way there."""
    model, evaluator = made(name).eval(), Found()
    images = make_images()[:1] * 2  # of one size, so that they are one batch
    targets = [{"image_id": i, "orig_size_hw": (140, 180)} for i in range(2)]
    with fake_device() as mode, waits, NoSlowCopies():
        model = to_device(model)
        run_evaluation(model, [(on_host(mode, images), targets)], evaluator)
        values = [value for prediction in evaluator.predictions for value in prediction.values()]
    assert values and {value.device.type for value in values} == {"cpu"}
    last = "modeling/proposals.py" if name == "retinanet" else "ops/nms.py"
    assert waits.counts == waits_of(name, INFERENCE, last, *([NMS] if name == "retinanet" else []))
    assert cuda_waits == [1]


@pytest.mark.parametrize("name", WHOLE)
def test_a_prediction_of_a_detector(name, waits, cuda_waits, monkeypatch):
    """A threshold of its own is applied on the host."""
    chosen = []

    def select(prediction, keep):
        chosen.append(keep.device.type)
        return prediction

    monkeypatch.setattr(model_backend, "select", select)
    backend = ModelBackend(made(name).eval(), tiny_config(DETECTORS[name]), {}, "off")
    with fake_device() as mode, waits, NoSlowCopies():
        to_device(backend.model)
        found = backend.way(None, False, 0.3).run(on_host(mode, make_images()), [(140, 180), (128, 102)])
        assert {value.device.type for prediction in found for value in prediction.values()} == {"cpu"}
    assert chosen == ["cpu", "cpu"] and cuda_waits == [1]


@pytest.mark.parametrize("name", ["faster_rcnn", "mask_rcnn", "fcos"])
def test_several_views_of_an_image_are_merged_there(name, waits):
    """Beside those of each view, it is waited for what stays of the merged ones."""
    cfg = tiny_config({**DETECTORS[name], "TEST.AUG.ENABLED": True, "TEST.AUG.MIN_SIZES": (64,), "TEST.AUG.FLIP": True})
    model, images = made(name).eval(), make_images()
    augmented = AugmentedModel(model, cfg)
    with fake_device() as mode, torch.no_grad(), waits, NoSlowCopies():
        to_device(model)
        found = augmented(on_host(mode, images), paste_masks=False)
        assert all(value.device.type == CUDA.type for prediction in found for value in prediction.values())
    assert set(waits.counts) <= {"ops/nms.py", NMS} and waits.counts["ops/nms.py"] == 1 + len(augmented.views)


def test_what_needs_a_value_fails_here():
    with fake_device() as mode, pytest.raises(Exception, match="_local_scalar_dense"):
        bool(on_host(mode, torch.ones(3)).to(CUDA).sum() > 2)


def test_only_the_places_that_may_wait_are_told_values():
    with fake_device() as mode, Waits(WAITS), pytest.raises(Exception, match="numpy"):
        on_host(mode, torch.ones(3)).to(CUDA).numpy(force=True)


def test_copies_that_are_waited_for_fail_here():
    with fake_device() as mode, NoSlowCopies():
        there = on_host(mode, torch.ones(3)).to(CUDA, non_blocking=True)
        there.copy_(on_host(mode, torch.ones(3)), True)
        with pytest.raises(AssertionError, match="waits for a copy cpu -> cuda"):
            on_host(mode, torch.ones(3)).to(CUDA)
        with pytest.raises(AssertionError, match="waits for a copy"):
            torch.tensor([1.0, 2.0], device=CUDA)
        with pytest.raises(AssertionError, match="waits for a copy"):
            there.copy_(on_host(mode, torch.ones(3)))


def test_mixed_devices_fail_here():
    with fake_device() as mode, pytest.raises(RuntimeError, match="device"):
        on_host(mode, torch.ones(3)).to(CUDA) + on_host(mode, torch.ones(3))


def test_packed_targets_train_as_the_targets_do():
    model, images = made("faster_rcnn").train(), make_images()
    plain = model(images, [EMPTY, FULL])
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
