"""Building blocks with parameters, and what every part needs to know of devices and ranks."""

from detframe.layers.collectives import (
    any_rank,
    barrier,
    broadcast_object,
    gather_objects,
    mean_over_ranks,
    rank,
    world_size,
)
from detframe.layers.conv_norm import ConvNorm, conv_norm, folding, make_norm
from detframe.layers.deform_conv import DeformConv
from detframe.layers.device import resolve_amp, resolve_device
from detframe.layers.freezing import freeze, freeze_matching
from detframe.layers.norm_check import SingleValueError, check_norms
from detframe.layers.normalizers import StepCounts, first_part, global_normalizer, passes_per_step

__all__ = [
    "ConvNorm",
    "DeformConv",
    "SingleValueError",
    "StepCounts",
    "any_rank",
    "barrier",
    "broadcast_object",
    "check_norms",
    "conv_norm",
    "first_part",
    "folding",
    "freeze",
    "freeze_matching",
    "gather_objects",
    "global_normalizer",
    "make_norm",
    "mean_over_ranks",
    "passes_per_step",
    "rank",
    "resolve_amp",
    "resolve_device",
    "world_size",
]
