"""Optimizers with parameter groups, learning-rate schedules, and averages of the weights."""

from detframe.solver.ema import ModelEMA, ModelSWA, WeightAverage, build_average
from detframe.solver.lr_factors import idle_patterns
from detframe.solver.optimizers import build_optimizer, load_optimizer_state, parameter_groups, parameter_names
from detframe.solver.schedules import (
    build_lr_schedule,
    check_schedule,
    group_rates,
    learning_rate,
    resolve_base_lr,
    set_learning_rate,
)

__all__ = [
    "ModelEMA",
    "ModelSWA",
    "WeightAverage",
    "build_average",
    "build_lr_schedule",
    "build_optimizer",
    "check_schedule",
    "group_rates",
    "idle_patterns",
    "learning_rate",
    "load_optimizer_state",
    "parameter_groups",
    "parameter_names",
    "resolve_base_lr",
    "set_learning_rate",
]
