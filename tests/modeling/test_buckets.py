"""A batch on a larger canvas (INPUT.BUCKETS) is what another image of that size makes of it."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from detframe.modeling import build_detection_model
from tests.modeling.tiny import DENSE, EMPTY, FULL, make_images, tiny_config

DETECTORS = {
    "faster_rcnn": {},
    "fcos": {**DENSE, "MODEL.RPN.NAME": "FCOS", "MODEL.FCOS.INFERENCE_TH": 0.0},
    "retinanet": {**DENSE, "MODEL.RPN.NAME": "RetinaNet", "MODEL.RETINANET.INFERENCE_TH": 0.0},
    "mask_rcnn": {"MODEL.MASK_ON": True},
}


def detector(kind, *options):
    torch.manual_seed(0)
    return build_detection_model(tiny_config(DETECTORS[kind], *options))


@pytest.mark.parametrize("options", [(), ("INPUT.FORMAT", "BGR"), ("MODEL.CHANNELS_LAST", False)])
def test_the_canvas_is_padding_alone(options):
    images = make_images()
    plain = detector("faster_rcnn", *options).preprocessor(images)
    for bucket in ((96, 128), (80, 97), (128, 160), (300, 200)):
        batch = detector("faster_rcnn", *options, "INPUT.BUCKETS", (bucket,)).preprocessor(images)
        height, width = (-(-side // 32) * 32 for side in bucket)
        assert batch.padded_hw == (height, width) and batch.sizes_hw == plain.sizes_hw
        padded = F.pad(plain.tensors, (0, width - plain.padded_hw[1], 0, height - plain.padded_hw[0]))
        assert torch.equal(batch.tensors, padded)


@pytest.mark.parametrize("kind", ["faster_rcnn", "fcos", "retinanet"])
def test_detections_and_losses_are_those_on_the_same_canvas(kind):
    """Two models with the same weights: one pads by buckets, the other because of a multiple."""
    one = detector(kind, "INPUT.BUCKETS", ((128, 192), (192, 128)))
    other = detector(kind, "INPUT.BUCKETS", (64,))
    images, targets = make_images(), [FULL, EMPTY]
    images[0] = F.pad(images[0], (0, 50))  # 70 x 140: both pad it to 128 x 192
    losses, wanted = one(images, targets), other(images, targets)
    assert losses.keys() == wanted.keys() and all(torch.equal(losses[key], wanted[key]) for key in losses)
    with torch.no_grad():
        found, expected = one.eval()(images), other.eval()(images)
    for a, b in zip(found, expected, strict=True):
        assert all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize("kind", DETECTORS)
def test_an_image_alone_is_found_as_beside_a_large_one(kind):
    """What the large image makes necessary is what the bucket does; boxes stay inside of the image."""
    small, large = make_images()[1], torch.zeros(3, 96, 128, dtype=torch.uint8)
    with torch.no_grad():
        (alone,) = detector(kind, "INPUT.BUCKETS", ((96, 128),)).eval()([small])
        beside = detector(kind).eval()([small, large])[0]
    assert len(alone["scores"]) == len(beside["scores"]) > 0
    torch.testing.assert_close(alone["scores"], beside["scores"], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(alone["boxes"], beside["boxes"], atol=1e-2, rtol=1e-4)
    assert float(alone["boxes"][:, 2].max()) <= small.shape[2] and float(alone["boxes"][:, 3].max()) <= small.shape[1]
