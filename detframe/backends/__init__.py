"""Exported detectors: what a file says of itself, and running it. Nothing here imports torch unless a file needs it."""

from detframe.backends.card import InputCard, ModelCard

__all__ = ["InputCard", "ModelCard"]
