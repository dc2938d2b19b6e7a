"""Building blocks with parameters, and the normalisers of losses."""

from detframe.layers.by_shape import ByShape
from detframe.layers.conv_norm import (
    ConvNorm,
    SingleValueError,
    affine_norms_at_once,
    check_norms,
    conv_norm,
    folded,
    folding,
    make_norm,
    prepared_weights,
    training_norms,
)
from detframe.layers.deform_conv import DeformConv
from detframe.layers.freezing import freeze, freeze_matching
from detframe.layers.initialising import init_he, init_normal, init_uniform
from detframe.layers.normalizers import StepCounts, first_part, global_normalizer, measuring, passes_per_step
from detframe.layers.resting import RestingWeights, are_resting, at_rest, autocast_dtype

__all__ = [
    "ByShape",
    "ConvNorm",
    "DeformConv",
    "RestingWeights",
    "SingleValueError",
    "StepCounts",
    "affine_norms_at_once",
    "are_resting",
    "at_rest",
    "autocast_dtype",
    "check_norms",
    "conv_norm",
    "first_part",
    "folded",
    "folding",
    "freeze",
    "freeze_matching",
    "global_normalizer",
    "init_he",
    "init_normal",
    "init_uniform",
    "make_norm",
    "measuring",
    "passes_per_step",
    "prepared_weights",
    "training_norms",
]
