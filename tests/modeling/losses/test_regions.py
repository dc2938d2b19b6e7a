"""Losses of the classes of RoIs: the formulas in plain Python, detectors that train with each of them, bad input."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from detframe.modeling import build_detection_model
from detframe.modeling.ground_truth import pack_targets
from detframe.modeling.losses import CrossEntropy, Federated, RegionTargets, Seesaw, SoftmaxFocal
from detframe.ops.losses_regions import draw_classes, seesaw, softmax_focal
from tests.modeling.compiled import check_same, pair, step
from tests.modeling.tiny import EMPTY, FULL, make_images, make_target, tiny_config

CPU = torch.device("cpu")
CLASSES = 4
WEIGHTS = [2.0, 0.5, 1.0, 3.0]
LOSSES = ["cross_entropy", "softmax_focal", "federated", "seesaw"]


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def softmax(row):
    total = sum(math.exp(x) for x in row)
    return [math.exp(x) / total for x in row]


def case(targets=None, rows=14, seed=0):
    """Logits, and labels of RoIs of two images, with background and rows that are no RoI."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(rows, 1 + CLASSES, generator=generator)
    labels = torch.randint(-1, CLASSES + 1, (rows,), generator=generator)
    image = (torch.arange(rows) >= rows // 2).long()
    targets = [make_target([[0.0, 0, 9, 9]], [1], seed=3), make_target([], [], seed=4)] if targets is None else targets
    return logits, RegionTargets(labels, image, pack_targets(targets, CLASSES, CPU))


def weight_of(label, weights):
    return 1.0 if weights is None or label < 1 else weights[label - 1]


def summed(plain, logits, labels, weights=None):
    rows = zip(logits.tolist(), labels.tolist(), strict=True)
    return sum(weight_of(label, weights) * plain(row, label) for row, label in rows if label >= 0)


# ---------------------------------------------------------------------------------------------- the formulas
@pytest.mark.parametrize("weights", [None, WEIGHTS])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy(smoothing, weights):
    def plain(row, label):
        logs = [math.log(p) for p in softmax(row)]
        return -(1 - smoothing) * logs[label] - smoothing * sum(logs) / len(logs)

    logits, targets = case()
    loss = CrossEntropy(smoothing, weights)(logits, targets)
    assert loss.item() == pytest.approx(summed(plain, logits, targets.labels, weights), rel=1e-5)


def test_the_default_is_that_of_pytorch_to_the_bit():
    logits, targets = case()
    expected = F.cross_entropy(logits, targets.labels, ignore_index=-1, reduction="sum")
    assert torch.equal(CrossEntropy()(logits, targets), expected)


@pytest.mark.parametrize("weights", [None, WEIGHTS])
@pytest.mark.parametrize("gamma", [2.0, 0.5, 0.0])
def test_softmax_focal(gamma, weights):
    def plain(row, label):
        p = softmax(row)[label]
        return -((1 - p) ** gamma) * math.log(p)

    logits, targets = case()
    loss = SoftmaxFocal(gamma, weights)(logits, targets)
    assert loss.item() == pytest.approx(summed(plain, logits, targets.labels, weights), rel=1e-4)
    sure = torch.tensor([[60.0, 0, 0], [-60.0, 60, 0]]).requires_grad_()
    softmax_focal(sure, torch.tensor([0, 0]), gamma).sum().backward()
    assert sure.grad.isfinite().all()


def plain_seesaw(row, label, counts, p, q):
    """From the formulas of arXiv:2008.10032, one pair of classes after the other."""
    counts, scores, i = [max(1, n) for n in counts], softmax(row), label
    total = math.exp(row[i])
    for j, z in enumerate(row):
        if j == i:
            continue
        mitigation = (counts[j] / counts[i]) ** p if counts[i] > counts[j] else 1.0
        ratio = scores[j] / max(scores[i], 1e-2)
        total += mitigation * (ratio**q if ratio > 1 else 1.0) * math.exp(z)
    return -math.log(math.exp(row[i]) / total)


@pytest.mark.parametrize(("p", "q"), [(0.8, 2.0), (0.0, 2.0), (0.8, 0.0), (0.0, 0.0)])
def test_seesaw_is_that_of_the_formula(p, q):
    logits, targets = case()
    columns, counts = targets.labels.clamp(min=1) - 1, [1000, 10, 0, 100]
    loss = seesaw(logits[:, 1:], columns, torch.tensor(counts), p, q)
    rows = zip(logits[:, 1:].tolist(), columns.tolist(), strict=True)
    torch.testing.assert_close(loss, torch.tensor([plain_seesaw(row, i, counts, p, q) for row, i in rows]))
    if p == q == 0:
        torch.testing.assert_close(loss, F.cross_entropy(logits[:, 1:], columns, reduction="none"))


@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_seesaw_decides_first_whether_there_is_an_object(weights):
    logits, targets = case()
    loss = Seesaw(CLASSES, 0.8, 2.0, weights).train()
    seen = [(targets.labels == label).sum().item() for label in range(1, 1 + CLASSES)]

    def plain(row, label):
        background = -math.log(sigmoid(row[0] if label == 0 else -row[0]))
        return background + (plain_seesaw(row[1:], label - 1, seen, 0.8, 2.0) if label else 0.0)

    assert loss(logits, targets).item() == pytest.approx(summed(plain, logits, targets.labels, weights), rel=1e-5)
    assert loss.counts.tolist() == seen
    loss(logits, targets)
    assert loss.counts.tolist() == [2 * n for n in seen] and list(loss.state_dict()) == ["counts"]
    loss.eval()(logits, targets)
    assert loss.counts.tolist() == [2 * n for n in seen]
    scores = loss.scores(logits)
    torch.testing.assert_close(scores.sum(1), torch.ones(len(scores)))
    torch.testing.assert_close(scores[:, 1:] / scores[:, 1:].sum(1, keepdim=True), logits[:, 1:].softmax(1))
    torch.testing.assert_close(scores[:, 0], logits[:, 0].sigmoid())


def test_an_object_of_a_frequent_class_punishes_a_rare_one_less():
    def gradient(counts):
        leaf = torch.zeros(1, 2).requires_grad_()
        seesaw(leaf, torch.tensor([0]), torch.tensor(counts), 0.8, 2.0).sum().backward()
        return leaf.grad[0, 1].item()

    assert gradient([100, 1]) < 0.1 * gradient([100, 100]) and gradient([1, 100]) == gradient([100, 100])


# ---------------------------------------------------------------------------------------------- federated
JUDGED = {"negative_labels": torch.tensor([2]), "partial_labels": torch.tensor([3])}


def plain_federated(row, label, classes):
    return sum(
        -math.log(sigmoid(z) if label == c else 1 - sigmoid(z))
        for c, z in enumerate(row[1:], start=1)
        if c in classes or c == label
    )


@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_federated_loss_of_images_that_say_what_was_looked_for(weights):
    """Image 0: 1 has objects, 2 is absent, 3 has objects but not all are annotated, 4 unknown. Image 1: 3 is absent."""
    full = make_target([[0.0, 0, 9, 9], [1, 1, 9, 9]], [1, 3], seed=3, **JUDGED)
    none = make_target([], [], seed=4, negative_labels=torch.tensor([3]))
    logits, targets = case([full, none])
    loss = Federated(CLASSES, (), 50, 0.5, weights)(logits, targets)
    rows = zip(logits.tolist(), targets.labels.tolist(), targets.image.tolist(), strict=True)
    classes = [{1, 2}, {3}]
    expected = sum(weight_of(b, weights) * plain_federated(row, b, classes[i]) for row, b, i in rows if b >= 0)
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_federated_loss_of_other_images_draws_classes_by_the_image_alone():
    known, other = make_target([[0.0, 0, 9, 9]], [1], seed=3, **JUDGED), make_target([[0.0, 0, 9, 9]], [4], seed=9)
    loss = Federated(CLASSES, (5, 4, 3, 2), 2, 0.5)
    both, alone = (loss._classes(pack_targets(t, CLASSES, CPU)) for t in ([known, other], [other]))
    assert both[0].tolist() == [True, True, False, False]
    assert torch.equal(both[1:], alone) and alone[0, 3] and alone.sum() == 2


def test_classes_are_drawn_by_their_chances():
    """Against torch.multinomial without replacement: how often each class is among those drawn."""
    generator = torch.Generator().manual_seed(0)
    chances, many = torch.tensor([8.0, 4, 2, 1, 0, 1]), 20000
    present = torch.zeros(many, 6, dtype=torch.bool)
    present[:, 3] = True
    drawn = draw_classes(present, chances, torch.rand(many, 6, generator=generator), 3)
    rest = chances.masked_fill(torch.arange(6) == 3, 0).expand(many, -1)
    expected = F.one_hot(torch.multinomial(rest, 2, generator=generator), 6).sum(1).float().mean(0)
    assert drawn[:, 3].all() and not drawn[:, 4].any() and (drawn.sum(1) == 3).all()
    torch.testing.assert_close(drawn.float().mean(0).masked_fill(torch.arange(6) == 3, 0), expected, atol=0.015, rtol=0)
    crowded = torch.ones(1, 6, dtype=torch.bool)
    assert draw_classes(crowded, chances, torch.zeros(1, 6), 2).all()  # those present stay, however many
    assert draw_classes(~crowded, chances, torch.zeros(1, 6), 99).sum() == 5


def test_federated_scores_are_of_each_class_by_itself():
    logits = torch.randn(5, 1 + CLASSES)
    scores = Federated(CLASSES, (), 50, 0.5).scores(logits)
    torch.testing.assert_close(scores[:, 1:], logits[:, 1:].sigmoid())
    assert not scores[:, 0].any()


def test_what_images_say_of_their_classes_is_checked():
    wrong = make_target([], [], negative_labels=torch.tensor([5]))
    with pytest.raises(ValueError, match=r"negative_labels: label 5, but labels run from 1 to 4"):
        pack_targets([wrong], CLASSES, CPU)
    with pytest.raises(TypeError, match=r"partial_labels must be a tensor, not a list"):
        pack_targets([make_target([], [], negative_labels=torch.tensor([1]), partial_labels=[2])], CLASSES, CPU)


# ---------------------------------------------------------------------------------------------- detectors
HEADS = {
    "Faster R-CNN": {},
    "Cascade": {"MODEL.ROI_HEADS.NAME": "CascadeROIHeads"},
    "EFPN": {
        "MODEL.BACKBONE.CONV_BODY": "R-18-EFPN",
        "MODEL.EFPN.WIDTH": 8,
        "MODEL.RPN.IN_FEATURES": ("p2", "p3", "p4", "p5", "p6"),
        "MODEL.ROI_HEADS.NAME": "ExtendedROIHeads",
        "MODEL.EFPN.ROI_ASSIGNMENT": "duplicate",
    },
}
SMALL = {
    "MODEL.ROI_BOX_HEAD.MLP_HEAD_DIM": 16,
    "MODEL.RPN.POST_NMS_TOP_N_TRAIN": 30,
    "MODEL.RPN.POST_NMS_TOP_N_TEST": 30,
    "MODEL.CLASS_WEIGHTS": (("a", 2.0), ("b", 1.0), ("c", 0.0)),
}


def made(head, loss, *opts):
    torch.manual_seed(0)
    keys = {**SMALL, **HEADS[head], "MODEL.ROI_BOX_HEAD.CLS_LOSS": loss}
    return build_detection_model(tiny_config(keys, *opts))


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("name", LOSSES)
def test_a_few_steps_lower_the_loss_and_predictions_are_scores(name, head):
    model = made(head, name, "MODEL.ROI_HEADS.SCORE_THRESH", 0.0).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    key = "loss_roi_cls_stage1" if head == "Cascade" else "loss_roi_cls"
    seen = []
    for _ in range(9):
        losses = model(make_images(), [FULL, EMPTY])
        seen.append(float(losses[key].detach()))
        optimizer.zero_grad()
        sum(losses.values()).backward()
        assert not [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
        optimizer.step()
    assert 0 < seen[-1] < 0.9 * max(seen)  # at first the RPN finds ever more foreground
    found = model.eval()(make_images())
    assert all(((p["scores"] >= 0) & (p["scores"] <= 1)).all() and len(p["scores"]) for p in found)


@pytest.mark.parametrize("name", LOSSES)
def test_images_without_objects(name):
    model = made("Faster R-CNN", name).train()
    losses = model(make_images(), [EMPTY, EMPTY])
    sum(losses.values()).backward()
    assert losses["loss_roi_cls"].isfinite() and losses["loss_roi_cls"] > 0
    assert not [n for n, p in model.named_parameters() if p.requires_grad and not p.grad.isfinite().all()]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", LOSSES)
def test_the_whole_step_is_one_graph(name):
    eager, compiled, counter = pair("faster_rcnn", "step", "MODEL.ROI_BOX_HEAD.CLS_LOSS", name)
    for targets in ([FULL, EMPTY], [EMPTY, FULL]):
        check_same(step(compiled, make_images(), targets), step(eager, make_images(), targets))
    assert counter.graphs == 1
    assert all(torch.equal(a, b) for a, b in zip(eager.buffers(), compiled.buffers(), strict=True))


def test_sigmoids_begin_at_their_prior():
    begun, other = (made("Cascade", name).roi_heads.box_predictor[2].cls_score.bias for name in ("federated", "seesaw"))
    torch.testing.assert_close(begun.sigmoid(), torch.full((4,), 0.01))
    assert not other.any()


def test_each_stage_of_a_cascade_counts_for_itself():
    model = made("Cascade", "seesaw").train()
    model(make_images(), [FULL, EMPTY])
    names = [name for name in model.state_dict() if "cls_loss" in name]
    assert names == [f"roi_heads.cls_loss.{stage}.counts" for stage in range(3)]
    assert all(loss.counts.sum() > 0 for loss in model.roi_heads.cls_loss)
