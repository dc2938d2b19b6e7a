"""Weights of other programs: where they lie, what they call their parameters, what of them fits."""

from detframe.compat.body_weights import apply_input_format, apply_saved_format
from detframe.compat.files import read_checkpoint, read_weights
from detframe.compat.load import load_weights
from detframe.compat.programs import PROGRAMS, Program, translate
from detframe.compat.report import LoadReport

__all__ = [
    "PROGRAMS",
    "LoadReport",
    "Program",
    "apply_input_format",
    "apply_saved_format",
    "load_weights",
    "read_checkpoint",
    "read_weights",
    "translate",
]
