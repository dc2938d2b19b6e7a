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
from detframe.layers.cpu_gradients import use_quick_gradients
from detframe.layers.deform_conv import DeformConv
from detframe.layers.freezing import freeze, freeze_matching, names_to_match, no_match
from detframe.layers.initialising import init_he, init_normal, init_uniform
from detframe.layers.normalizers import (
    Given,
    StepCounts,
    first_part,
    global_normalizer,
    known_of_step,
    measuring,
    passes_per_step,
    with_given,
)
from detframe.layers.recomputing import Recomputed, recompute
from detframe.layers.resting import (
    RestingWeights,
    are_resting,
    at_rest,
    autocast_dtype,
    joined_weights,
    weight_and_bias,
    weights_stay,
)
from detframe.layers.resting_layers import use_resting_layers

__all__ = [
    "ByShape",
    "ConvNorm",
    "DeformConv",
    "Given",
    "Recomputed",
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
    "joined_weights",
    "known_of_step",
    "make_norm",
    "measuring",
    "names_to_match",
    "no_match",
    "passes_per_step",
    "prepared_weights",
    "recompute",
    "training_norms",
    "use_quick_gradients",
    "use_resting_layers",
    "weight_and_bias",
    "weights_stay",
    "with_given",
]
