"""Exported detectors: what a file says of itself, and running it. Nothing here imports torch unless a file needs it."""

from detframe.backends.card import InputCard, ModelCard
from detframe.backends.opening import FORMATS, is_exported, open_model
from detframe.backends.session import Session

__all__ = ["FORMATS", "InputCard", "ModelCard", "Session", "is_exported", "open_model"]
