"""Predicting with a model in PyTorch, as a checkpoint holds it."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from detframe.checkpoint import Checkpoint
from detframe.compat import read_weights
from detframe.compat.state import refuse_not_finite
from detframe.config import ConfigNode, import_carried, validate
from detframe.errors import InvalidValueError, shown
from detframe.evaluation import evaluating
from detframe.inference.augmentation import AugmentedModel, View
from detframe.inference.backend import Augment, SizeHW
from detframe.inference.carried import settled
from detframe.inference.inputs import ImageLike, as_small_tensor
from detframe.inference.sharing import read_pretrained
from detframe.modeling import GeneralizedRCNN, build_detection_model
from detframe.parallel.device import resolve_amp
from detframe.structures import ANY_CLASS, Prediction, rescale_prediction, select, to_cpu
from detframe.structures.forms import check_fit


class ModelBackend:
    """A model with its config, for a Detector. Arguments are those of `Detector`."""

    torch_native = True
    card = None
    source = "the model"

    def __init__(self, model: GeneralizedRCNN, cfg: ConfigNode, meta: dict[str, Any], amp: str = "auto") -> None:
        self.model = model
        self.cfg = cfg
        self.meta = meta
        self.device: torch.device = model.device
        self.amp_dtype = resolve_amp(amp, self.device)
        self.form = replace(model.preprocessor.form, dtype=meta.get("input_values", ""))

    @classmethod
    def load(cls, path: str | Path, device: str, amp: str, allow_custom_imports: bool) -> ModelBackend:
        """That of a checkpoint; see `Detector.load`."""
        checkpoint = read_pretrained(path) if Path(path).is_dir() else Checkpoint.of(read_weights(path), path)
        named, numbered = len(checkpoint.class_names), len(checkpoint.category_ids)
        cfg = settled(checkpoint.config(), path, named, numbered, device)
        import_carried(cfg, checkpoint.source, allow_custom_imports)
        model = build_detection_model(cfg)
        check_fit(checkpoint.model, model.state_dict(), f"the weights in {path}")
        refuse_not_finite(checkpoint.model, model.state_dict(), path)
        model.load_state_dict(dict(checkpoint.model))
        backend = cls(model.eval(), cfg, dict(checkpoint.meta), amp)
        backend.source = str(path)
        return backend

    @property
    def class_names(self) -> tuple[str, ...]:
        """See `Detector`."""
        return (ANY_CLASS,) if self.model.class_agnostic else tuple(self.meta["class_names"])

    @property
    def category_ids(self) -> tuple[int, ...]:
        """See `Detector`."""
        return (1,) if self.model.class_agnostic else tuple(self.meta["category_ids"])

    @property
    def tiles(self) -> Mapping[str, Any]:
        """See `Backend`."""
        return dict(self.cfg.INPUT.TILES)

    def augmented(self, augment: Augment) -> AugmentedModel | None:
        """See `Detector`."""
        if augment is not None and not isinstance(augment, (bool, Mapping)):
            raise InvalidValueError(
                f"augment must be True, False, None or a dict with keys of TEST.AUG, as {{'MERGE': 'wbf'}}, not "
                f"{shown(augment)}"
            )
        if augment is False or (augment is None and not self.cfg.TEST.AUG.ENABLED):
            return None
        changes = augment if isinstance(augment, Mapping) else {}
        settings = [(f"TEST.AUG.{key}", value) for key, value in ({"ENABLED": True} | dict(changes)).items()]
        cfg = self.cfg.changed(settings)
        validate(cfg)
        return AugmentedModel(self.model, cfg, self.meta.get("keypoint_flip_pairs", ()))

    def way(self, nms: str | None, augment: Augment, score_threshold: float) -> ModelWay:
        """See `Backend`."""
        if nms is not None:
            with self.model.with_nms(kind=nms):  # a mistake is one before images are read
                pass
        return ModelWay(self, self.augmented(augment), nms, score_threshold)


class ModelWay:
    """Images through a model; see `Way`. Images are tensors (C, H, W)."""

    def __init__(
        self, backend: ModelBackend, augmented: AugmentedModel | None, nms: str | None, score_threshold: float
    ) -> None:
        self.backend, self.augmented, self.nms, self.score_threshold = backend, augmented, nms, score_threshold
        self.form = backend.form
        self.view = View(backend.cfg.INPUT.MIN_SIZE_TEST, backend.cfg.INPUT.MAX_SIZE_TEST)
        self.wanted = self.view.size if backend.cfg.INPUT.DECODE == "scaled" and augmented is None else None

    def load(self, source: ImageLike) -> tuple[Tensor, SizeHW]:
        """See `Way`; several views resize an image themselves."""
        image, size_hw = as_small_tensor(source, self.wanted, self.form)
        return self.view.of(image, size_hw) if self.augmented is None else image, size_hw

    def shape(self, image: Tensor, size_hw: SizeHW) -> Hashable:
        """The shape that the model pads this image to when it is alone."""
        if self.augmented is not None:
            return size_hw
        canvas_hw: SizeHW = self.backend.model.preprocessor.canvases.canvas((image.shape[-2], image.shape[-1]))
        return canvas_hw

    def run(self, images: Sequence[Tensor], sizes_hw: Sequence[SizeHW]) -> list[Prediction]:
        """See `Way`."""
        backend = self.backend
        model = backend.model if self.augmented is None else self.augmented
        suppressed = nullcontext() if self.nms is None else backend.model.with_nms(kind=self.nms)
        with evaluating(backend.model, backend.amp_dtype), suppressed:
            predictions = to_cpu(model(images, paste_masks=False))  # what follows asks for values
            if self.score_threshold > 0:
                predictions = [select(p, p["scores"] >= self.score_threshold) for p in predictions]
            return [
                rescale_prediction(prediction, (image.shape[-2], image.shape[-1]), size_hw, model.pixel)
                for prediction, image, size_hw in zip(predictions, images, sizes_hw, strict=True)
            ]
