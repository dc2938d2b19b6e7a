"""MODEL.ROI_HEADS.ASSIGNER: which proposals are foreground, by IoU or by the normalised Wasserstein distance."""

from __future__ import annotations

import pytest
import torch

from detframe.config import validate
from detframe.errors import UserError
from detframe.modeling import build_detection_model
from detframe.modeling.ground_truth import pack_targets
from detframe.modeling.proposals import Proposals
from tests.modeling.tiny import EMPTY, FULL, make_images, make_target, tiny_config
from tests.ops.test_suppression import nwd, overlap

HEADS = {"standard": {}, "cascade": {"MODEL.ROI_HEADS.NAME": "CascadeROIHeads"}}
SMALL = {"MODEL.ROI_BOX_HEAD.MLP_HEAD_DIM": 16, "MODEL.RPN.POST_NMS_TOP_N_TRAIN": 30}
ALL = {"MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": 200, "MODEL.ROI_HEADS.POSITIVE_FRACTION": 1.0}
OBJECTS = [[10.0, 10, 16, 15], [30, 20, 38, 26], [33, 22, 41, 30]]


def near_objects():
    """Proposals around the objects, one image with and one without objects."""
    generator = torch.Generator().manual_seed(3)
    moved = torch.tensor(OBJECTS).repeat(20, 1)
    boxes = moved + torch.randn(60, 4, generator=generator) * 2.5
    boxes[:, 2:] = torch.maximum(boxes[:, 2:], boxes[:, :2] + 1)
    both, ones = boxes.expand(2, 60, 4), torch.ones(2, 60)
    return Proposals(both, ones, ones.long(), ones.bool())


def labels_of(proposals, measure, fg, bg, extent):
    """Label and object of each proposal in plain Python; None between the thresholds."""
    out = {}
    for box in [*proposals, *OBJECTS]:
        values = [measure(extended(box, extent), extended(other, extent)) for other in OBJECTS]
        best = max(range(len(OBJECTS)), key=lambda i: (values[i], -i))
        label = best + 1 if values[best] >= fg else 0 if values[best] < bg else None
        out[tuple(round(x, 4) for x in box)] = (label, best)
    return out


def extended(box, extent):
    return [box[0], box[1], box[2] + extent, box[3] + extent]


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize(("assigner", "constant"), [("iou", 8.0), ("nwd", 8.0), ("nwd", 3.0)])
def test_labels_are_those_of_the_reference(head, assigner, constant, legacy):
    options = {"MODEL.ROI_HEADS.ASSIGNER": assigner, "MODEL.NWD_CONSTANT": constant, "MODEL.LEGACY_BOXES": legacy}
    thresholds = {"MODEL.ROI_HEADS.FG_IOU_THRESHOLD": 0.6, "MODEL.ROI_HEADS.BG_IOU_THRESHOLD": 0.4}
    fg, bg = (0.5, 0.5) if head == "cascade" else (0.6, 0.4)
    heads = build_detection_model(tiny_config({**SMALL, **ALL, **HEADS[head], **options, **thresholds})).roi_heads
    proposals = near_objects()
    truth = pack_targets([make_target(OBJECTS, [1, 2, 3], seed=1), EMPTY], 3, torch.device("cpu"))
    regions = heads._sample(proposals, truth)

    def measure(a, b):
        return overlap(a, b) if assigner == "iou" else nwd(a, b, constant)

    expected = labels_of(proposals.boxes[0].tolist(), measure, fg, bg, float(legacy))
    first = regions.image == 0
    boxes = [tuple(round(x, 4) for x in box) for box in regions.boxes[first].tolist()]
    assert set(boxes) == {box for box, (label, _) in expected.items() if label is not None}
    assert [expected[box] for box in boxes] == list(
        zip(regions.labels[first].tolist(), regions.gt_index[first].tolist(), strict=True)
    )
    assert (regions.labels[~first] == 0).all() and (~first).any()


def test_by_distance_a_small_object_keeps_a_proposal_beside_it():
    """5 pixels of side, 3 to the right: IoU 0.25, NWD exp(-3 / 12.8) = 0.79."""
    truth = pack_targets([make_target([[10.0, 10, 15, 15]], [2], seed=1)], 3, torch.device("cpu"))
    ones = torch.ones(1, 1)
    proposals = Proposals(torch.tensor([[[13.0, 10, 18, 15]]]), ones, ones.long(), ones.bool())
    for assigner, foreground in (("iou", 1), ("nwd", 2)):  # the object itself is one
        cfg = tiny_config({**SMALL, **ALL, "MODEL.ROI_HEADS.ASSIGNER": assigner})
        regions = build_detection_model(cfg).roi_heads._sample(proposals, truth)
        assert int((regions.labels == 2).sum()) == foreground


def test_later_stages_of_a_cascade_match_by_distance_too():
    cfg = tiny_config({**SMALL, **ALL, **HEADS["cascade"], "MODEL.ROI_HEADS.ASSIGNER": "nwd"})
    heads = build_detection_model(cfg).roi_heads
    assert [rule.matching.fg for rule in heads.stages] == [0.5, 0.6, 0.7]
    box, beside = torch.tensor([[10.0, 10, 15, 15]]), torch.tensor([[13.0, 10, 18, 15]])
    for rule in heads.stages:
        assert float(rule.matching.overlap(box, beside)) == pytest.approx(
            nwd(box[0].tolist(), beside[0].tolist(), 12.8)
        )


@pytest.mark.parametrize("head", HEADS)
def test_training_is_finite(head):
    torch.manual_seed(0)
    model = build_detection_model(tiny_config({**SMALL, **HEADS[head], "MODEL.ROI_HEADS.ASSIGNER": "nwd"}))
    losses = model(make_images(), [FULL, EMPTY])
    assert all(torch.isfinite(loss) for loss in losses.values())
    sum(losses.values()).backward()


@pytest.mark.parametrize(
    ("key", "value"), [("ROI_HEADS.ASSIGNER", "rfla"), ("NWD_CONSTANT", 0), ("RPN.NMS_METRIC", "giou")]
)
def test_values_out_of_bounds(key, value):
    with pytest.raises(UserError, match=key.rpartition(".")[2]):
        validate(tiny_config({}, f"MODEL.{key}", value))
