"""What a trained EFPN detects where P2' is replaced by something else, to see why a distilled one finds less.

    python tools/test_net.py --config-file CONFIG --weights MODEL.pth MODEL.BACKBONE.CONV_BODY replaced-p2-prime \
        CUSTOM_IMPORTS "['examples/replaced_p2_prime.py']" P2_PRIME.FROM teacher

P2' that the teacher gives is what a distillation without any error would reach. With `calibrated` the scale of the
student's map is the teacher's, and only what it shows is the student's; `upsampled` knows nothing that P2 does not.
"""

from __future__ import annotations

import logging

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from detframe import registry
from detframe.config import ConfigNode, Key, Resume, add_section, section

logger = logging.getLogger(f"detframe.{__name__}")

WAYS = {
    "student": "P2' as the extension gives it",
    "teacher": "P2 of the image enlarged twice, from the detector's own pyramid",
    "calibrated": "the student's, with mean and spread of each channel as the teacher's",
    "upsampled": "P2 enlarged twice",
}

add_section(
    "P2_PRIME",
    section(
        OF=Key("MNV2-EFPN", "The CONV_BODY whose P2' is replaced", registry="BACKBONES"),
        FROM=Key("student", "What stands in its place", choices=WAYS, resume=Resume("continues", "of the next step")),
    ),
)


@registry.BACKBONES.register("replaced-p2-prime")
def build(cfg: ConfigNode) -> nn.Module:
    """The extractor P2_PRIME.OF, whose map "p1" is replaced as P2_PRIME.FROM says."""
    keys = cfg.P2_PRIME
    backbone = registry.BACKBONES.get(keys.OF)(cfg)
    backbone.register_forward_hook(Replacement(keys.FROM))
    return backbone


class Replacement:
    """A forward hook that replaces "p1" (N, C, H/2, W/2) of the maps, and logs how alike it was to the teacher's."""

    def __init__(self, way: str, log_period: int = 50) -> None:
        self.way, self.log_period, self.calls = way, log_period, 0

    def __call__(self, backbone: nn.Module, inputs: tuple[Tensor], maps: dict[str, Tensor]) -> dict[str, Tensor]:
        (image,) = inputs
        student = maps["p1"]
        with torch.no_grad():
            _, teacher = backbone.targets(F.interpolate(image, scale_factor=2, mode="bilinear"))
        if self.calls % self.log_period == 0:
            logger.info("P2': %s", describe(student, teacher))
        self.calls += 1
        replaced = {
            "student": lambda: student,
            "teacher": lambda: teacher,
            "calibrated": lambda: calibrated(student, teacher),
            "upsampled": lambda: F.interpolate(maps["p2"], scale_factor=2),
        }
        return {**maps, "p1": replaced[self.way]()}


def calibrated(student: Tensor, teacher: Tensor) -> Tensor:
    """The student's map with the teacher's mean and standard deviation of each channel; both (N, C, h, w)."""
    places = (0, 2, 3)
    mean, spread = student.mean(places, keepdim=True), student.std(places, keepdim=True)
    wanted, width = teacher.mean(places, keepdim=True), teacher.std(places, keepdim=True)
    return (student - mean) / spread.clamp(min=1e-6) * width + wanted


def describe(student: Tensor, teacher: Tensor) -> str:
    """Spread of both, and what share of the teacher's variance the student leaves unexplained."""
    left = ((student - teacher).square().mean() / teacher.var()).item()
    return f"spread {student.std().item():.3f}, the teacher's {teacher.std().item():.3f}; error / variance {left:.2f}"
