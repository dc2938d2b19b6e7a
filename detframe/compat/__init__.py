"""Weights of other programs: where they lie, what they call their parameters, what of them fits."""

from detframe.compat.files import read_checkpoint, read_weights
from detframe.compat.load import LoadReport, load_weights
from detframe.compat.names import translate

__all__ = ["LoadReport", "load_weights", "read_checkpoint", "read_weights", "translate"]
