"""TEST.LOSS: what training computes on the evaluated images, with nothing of the training moved."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest
import torch
from torch import nn

from detframe.data import load_records
from detframe.engine import evaluate, train
from detframe.engine.preflight import choose_metric
from detframe.engine.validation_loss import ValidationLosses, check_can_measure, line, losing
from detframe.errors import InvalidValueError
from detframe.evaluation.loop import evaluating
from detframe.modeling import build_detection_model
from detframe.modeling.losses.regions import Seesaw
from tests.engine.fakes import Regressor, make_batch
from tests.engine.parts import DETECTORS, RETINANET, image_with
from tests.engine.ranks import KINDS, kind_config, tiny_config

NORMS = (nn.modules.batchnorm._BatchNorm,)
COUNTS = (2, 0, 1)  # objects of the images


def make_model(name, *more):
    torch.manual_seed(0)
    cfg = kind_config(tiny_config(), name, DETECTORS)
    cfg.merge_from_list(list(more))
    return build_detection_model(cfg)


def images_and_targets(counts=COUNTS):
    images, targets = zip(*(image_with(index, count) for index, count in enumerate(counts)), strict=True)
    return list(images), list(targets)


def measured(model, images, targets, size=8, images_per_step=1):
    """The validation losses of batches of `size` images."""
    losses = ValidationLosses(model, images_per_step, str)
    with evaluating(model):
        for start in range(0, len(images), size):
            part = slice(start, start + size)
            losses.on_batch(images[part], targets[part], [])
    return losses.compute()


def in_training_mode(model, image, target):
    """What a training step would compute, with running statistics and counts as they stand."""
    model.train()
    for module in model.modules():
        if isinstance(module, (*NORMS, nn.Dropout, Seesaw)):
            module.eval()
    with torch.no_grad():
        return model([image], [target])


def seed_of(model, image, target):
    """The seed that the model gets for an image."""
    seen = []
    handle = model.register_forward_pre_hook(lambda _module, args: seen.append(args[1][0]["seed"]))
    measured(model, [image], [target])
    handle.remove()
    return seen[0]


# ---------------------------------------------------------------------------------------------- what is computed
@pytest.mark.parametrize("name", [name for name in DETECTORS if name not in RETINANET])
def test_losses_are_those_of_training_on_each_image(name):
    """For every detector: the mean over the images, which stands still with the batches and the other images."""
    model = make_model(name)
    images, targets = images_and_targets()
    found = measured(model, images, targets)
    wanted = {}
    for image, target in zip(images, targets, strict=True):
        target = {**target, "seed": seed_of(model, image, target)}
        for key, value in in_training_mode(model, image, target).items():
            wanted[f"val/{key}"] = wanted.get(f"val/{key}", 0.0) + float(value) / len(images)
    assert found.pop("val/loss") == pytest.approx(sum(wanted.values()), rel=1e-5)
    assert found == pytest.approx(wanted, rel=1e-5)
    assert all(np.isfinite(list(found.values()))) and any(value > 0 for value in found.values())
    assert measured(model, images, targets, size=1) == measured(model, images, targets)
    if name in ("Faster R-CNN", "FCOS"):
        mean = {key: 0.0 for key in wanted}
        for image, target in zip(images, targets, strict=True):
            alone = measured(model, [image], [target])
            mean = {key: value + alone[key] / 3 for key, value in mean.items()}
        assert mean == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("normalizer", ["batch", "image", "ema", "detectron"])
def test_retinanet_is_normalised_as_in_a_step_of_such_images(normalizer):
    """Also where that is a moving average of whole steps, which an evaluation does not move."""
    model = make_model("RetinaNet", "MODEL.RETINANET.LOSS_NORMALIZER", normalizer)
    image, target = image_with(3, 2)
    model.train()
    with torch.no_grad():
        wanted = model([image] * 8, [target] * 8)
    before = {name: value.clone() for name, value in model.named_buffers()}
    found = measured(model, [image], [target], images_per_step=8)
    assert found["val/loss_retinanet_cls"] == pytest.approx(float(wanted["loss_retinanet_cls"]), rel=1e-4)
    assert found["val/loss_retinanet_box"] == pytest.approx(float(wanted["loss_retinanet_box"]), rel=1e-4)
    assert all(torch.equal(value, before[name]) for name, value in model.named_buffers())


@pytest.mark.parametrize("name", ["Faster R-CNN", "masks and keypoints", "PointRend", "RetinaNet", "distillation"])
def test_nothing_of_the_training_moves(name):
    """Running statistics, random states and modes are as before; no gradient is left."""
    norm = () if name == "distillation" else ("MODEL.RESNETS.NORM", "BN")
    model = make_model(name, *norm)
    model.train()
    modes = [module.training for module in model.modules()]
    state = {key: value.clone() for key, value in model.state_dict().items()}
    numbers = (torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate())
    measured(model, *images_and_targets())
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), numbers[0]) and random.getstate() == numbers[2]
    assert np.array_equal(np.random.get_state()[1], numbers[1])
    assert all(parameter.grad is None for parameter in model.parameters())


def test_predictions_are_the_same_after_losses():
    model = make_model("Faster R-CNN")
    images, targets = images_and_targets()
    with evaluating(model):
        before = model(images)
        ValidationLosses(model, 1, str).on_batch(images, targets, before)
        after = model(images)
    for one, two in zip(before, after, strict=True):
        assert all(torch.equal(one[key], two[key]) for key in one)


def test_what_varies_from_pass_to_pass_in_training_stands_still():
    """Batch norm uses its running statistics, dropout drops nothing, and a noise of a user's own is the image's."""

    class Head(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = nn.MultiheadAttention(4, 1, dropout=0.9)
            self.parts = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.9))

        def forward(self, x):
            assert self.training and self.parts.training
            assert not any(part.training for part in (self.attention, *self.parts))
            y = self.parts(x)
            return self.attention(y, y, y)[0].square().mean() + torch.rand(())

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.backbone = nn.Sequential(nn.Sequential(nn.Dropout(0.9)))
            self.head = Head()

        def forward(self, images, targets):
            assert self.training and not self.backbone.training
            x = torch.stack([image.float().mean((1, 2)) / 255 for image in images])
            return {"loss_a": self.head(self.backbone(x))}

    model = Model()
    images, targets = make_batch(0)
    first = measured(model, images, targets)
    assert measured(model, images, targets, size=1) == first
    with losing(model):
        assert model.training
    assert model.head.training and model.head.parts[2].training


def test_crowds_are_no_targets():
    model = make_model("FCOS")
    image, target = image_with(1, 2)
    crowd = {**target, "iscrowd": torch.tensor([False, True])}
    without = {key: value[:1] if isinstance(value, torch.Tensor) else value for key, value in target.items()}
    assert measured(model, [image], [crowd]) == measured(model, [image], [without])


# ---------------------------------------------------------------------------------------------- what is said
def test_no_image_gives_no_losses():
    assert ValidationLosses(Regressor(), 1, str).compute() == {}


def test_losses_that_are_not_finite_are_named(caplog):
    model = Regressor()
    images, targets = make_batch(0)
    targets[2]["boxes"][:] = float("inf")
    losses = ValidationLosses(model, 1, lambda image_id: f"picture {image_id}.jpg")
    losses.on_batch(images, targets, [])
    assert losses.compute()["val/loss"] == float("inf")
    assert "1 of 4 images are not finite" in caplog.text and "picture 2.jpg" in caplog.text


def test_the_same_losses_for_every_image():
    class Moody(Regressor):
        def forward(self, images, targets):
            losses = super().forward(images, targets)
            return losses if targets[0]["image_id"] else {"loss_a": losses["loss_a"]}

    with pytest.raises(InvalidValueError, match=r"\['loss_a', 'loss_b'\] for an image, and \['loss_a'\]"):
        ValidationLosses(Moody(), 1, str).on_batch(*make_batch(0), [])


def test_a_model_without_losses():
    class Wordless(Regressor):
        def forward(self, images, targets):
            return {}

    with pytest.raises(InvalidValueError, match="scalar losses whose names start with 'loss_'"):
        ValidationLosses(Wordless(), 1, str).on_batch(*make_batch(0), [])


def test_line():
    metrics = {"val/loss": 1.5, "val/loss_rpn_cls": 0.5, "val/loss_roi_box": 1.0}
    assert line(metrics) == "loss 1.5000 (rpn_cls 0.5000 roi_box 1.0000)"


def test_a_loss_is_no_metric_of_the_best_model(tiny):
    with pytest.raises(InvalidValueError, match="BEST_METRIC 'val/loss' is a loss"):
        choose_metric(tiny("SOLVER.BEST_METRIC", "val/loss"))
    two = tiny("SOLVER.BEST_METRIC", "shapes_val/val/loss_rpn_cls", "DATASETS.TEST", ("shapes_val", "shapes_train"))
    with pytest.raises(InvalidValueError, match="is a loss"):
        choose_metric(two)


# ---------------------------------------------------------------------------------------------- a run
def test_a_run_with_losses_trains_as_one_without(tiny, tmp_path, caplog):
    """The same weights and AP; val/loss stands in the rows of evaluations, in the log and in what evaluate gives."""
    options = ("TEST.EVAL_PERIOD", 2, "SOLVER.MAX_ITER", 4, "MODEL.RESNETS.NORM", "BN")
    plain = train(tiny("OUTPUT_DIR", str(tmp_path / "plain"), *options))
    caplog.clear()
    losing_run = tiny("OUTPUT_DIR", str(tmp_path / "losses"), *options, "TEST.LOSS", True)
    metrics = train(losing_run)
    assert "validation losses on shapes_val after 4 iterations: loss " in caplog.text
    losses = {key: metrics.pop(key) for key in list(metrics) if key.startswith("val/")}
    assert metrics == pytest.approx(plain, nan_ok=True)
    parts = {"loss_rpn_cls", "loss_rpn_box", "loss_roi_cls", "loss_roi_box"}
    assert set(losses) == {"val/loss", *(f"val/{part}" for part in parts)}
    one, two = (
        torch.load(tmp_path / name / "model_0000004.pth", weights_only=True)["model"] for name in ("plain", "losses")
    )
    assert all(torch.equal(one[key], two[key]) for key in one)

    rows = [json.loads(text) for text in (tmp_path / "losses" / "metrics.jsonl").read_text().splitlines()]
    of_evaluations = [row for row in rows if "val/loss" in row]
    assert [row["iteration"] for row in of_evaluations] == [2, 4]
    assert all("bbox/AP" in row and "loss" not in row for row in of_evaluations)
    assert of_evaluations[-1]["val/loss"] == pytest.approx(losses["val/loss"])

    again = losing_run.clone()
    again.defrost()
    again.merge_from_list(["MODEL.WEIGHTS", str(tmp_path / "losses" / "model_final.pth")])
    again.OUTPUT_DIR = str(tmp_path / "again")
    assert {key: value for key, value in evaluate(again).items() if key in losses} == pytest.approx(losses)

    larger = again.changed([("INPUT.MIN_SIZE_TEST", 80), ("INPUT.MAX_SIZE_TEST", 80)])
    wanted = evaluate(larger)["val/loss"]
    assert wanted != pytest.approx(losses["val/loss"], rel=1e-6)
    assert evaluate(larger.changed([("TEST.AUG.ENABLED", True)]))["val/loss"] == pytest.approx(wanted)


@pytest.mark.parametrize(
    ("name", "what"), [("cascade", "needs masks"), ("masks and keypoints", "needs the 17 keypoints")]
)
def test_data_without_what_a_loss_needs_are_refused_before_the_run(tiny, name, what, monkeypatch):
    cfg = kind_config(tiny("TEST.LOSS", True), name, KINDS)
    records = load_records(["shapes_val"])
    check_can_measure(cfg, records)
    if what == "needs masks":
        monkeypatch.setattr(type(records), "has_masks", False)
    else:
        cfg.MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS = 17
    with pytest.raises(InvalidValueError, match=rf"TEST.LOSS {what}.* data set shapes_val"):
        check_can_measure(cfg, records)
