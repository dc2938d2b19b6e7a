"""P2' of an extended pyramid is replaced by what the example says, through its own backbone and key."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from detframe.config import get_cfg
from detframe.modeling.build import BACKBONES
from tests.conftest import sections_as_before
from tests.examples.conftest import load_example


@pytest.fixture(scope="module")
def example():
    with sections_as_before():
        yield load_example("replaced_p2_prime")


@pytest.fixture(scope="module")
def image():
    return torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def maps_with(way, image):
    cfg = get_cfg()
    cfg.merge_from_list(["MODEL.FPN.OUT_CHANNELS", 8, "MODEL.EFPN.WIDTH", 8, "P2_PRIME.FROM", way])
    torch.manual_seed(0)
    backbone = BACKBONES.get("replaced-p2-prime")(cfg).eval()
    with torch.no_grad():
        return backbone(image), backbone


def test_the_student_is_the_extractor_as_it_is(example, image):
    replaced, backbone = maps_with("student", image)
    with torch.no_grad():
        _, own, levels = backbone.extended(image)
    torch.testing.assert_close(replaced["p1"], own)
    torch.testing.assert_close(replaced["p2"], levels[0])


def test_the_teachers_map_is_p2_of_the_image_enlarged_twice(example, image):
    replaced, backbone = maps_with("teacher", image)
    with torch.no_grad():
        enlarged = backbone(F.interpolate(image, scale_factor=2, mode="bilinear"))
    torch.testing.assert_close(replaced["p1"], enlarged["p2"])


def test_upsampled_is_p2_twice_as_large(example, image):
    replaced, _ = maps_with("upsampled", image)
    torch.testing.assert_close(replaced["p1"][:, :, ::2, 1::2], replaced["p2"])


def test_calibrated_has_the_teachers_mean_and_spread_and_the_students_pattern(example, image):
    replaced, teacher, student = (maps_with(way, image)[0]["p1"] for way in ("calibrated", "teacher", "student"))
    places = (0, 2, 3)
    torch.testing.assert_close(replaced.mean(places), teacher.mean(places), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(replaced.std(places), teacher.std(places), atol=1e-5, rtol=1e-4)
    both = torch.stack([replaced[:, 0].flatten(), student[:, 0].flatten()])
    assert torch.corrcoef(both)[0, 1] > 0.999


def test_the_log_says_how_alike_the_maps_are(example):
    teacher = torch.randn(1, 2, 8, 8, generator=torch.Generator().manual_seed(0))
    assert example.describe(teacher, teacher).endswith("error / variance 0.00")
    assert "spread 0.000" in example.describe(torch.zeros_like(teacher), teacher)
