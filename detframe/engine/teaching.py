"""The separate teacher of a training by distillation."""

from __future__ import annotations

from torch import nn

from detframe.config import ConfigNode
from detframe.inference.model_backend import ModelBackend
from detframe.modeling.distillation import DistilledRCNN


def give_teacher(cfg: ConfigNode, model: nn.Module) -> None:
    """The detector of MODEL.DISTILL.TEACHER_WEIGHTS for a model that is trained by distillation, if it names one.

    Raises:
        ValueError: it is no checkpoint of detframe, or no teacher for this model.
        FileNotFoundError: there is none.
    """
    path = cfg.MODEL.DISTILL.TEACHER_WEIGHTS
    if path and isinstance(model, DistilledRCNN):
        backend = ModelBackend.load(path, str(model.device), "off", allow_custom_imports=False)
        model.teach(backend.model, path)
