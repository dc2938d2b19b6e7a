"""Predicting with an exported file. Nothing here imports torch.

Legend: N images, M detections of an image.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

from detframe.arrays.resize import resize_image
from detframe.arrays.results import ANY_CLASS
from detframe.backends import ModelCard, Session
from detframe.backends.detections import in_image, rows_found, stacked, wanted_shape
from detframe.data.scaled import shown_hw
from detframe.errors import InvalidValueError
from detframe.inference.backend import Augment, SizeHW
from detframe.inference.inputs import ImageLike, as_small_array

if TYPE_CHECKING:
    from detframe.config import ConfigNode


class FileBackend:
    """An exported file, for a Detector.

    Args:
        session: the file, ready to run.
    """

    amp_dtype = None

    def __init__(self, session: Session) -> None:
        self.session = session
        self.card: ModelCard = session.card
        self.device = session.device
        self.torch_native = session.format == "torch"
        self.source = str(session.path)
        self.form = replace(self.card.input.form, dtype=self.card.meta.get("input_values", ""))

    @property
    def model(self) -> Any:
        """Raises ValueError: there is none."""
        raise InvalidValueError(
            f"{self.session.path} is an exported file, which holds no model of PyTorch; load the checkpoint that it "
            "was made from"
        )

    @cached_property
    def cfg(self) -> ConfigNode:
        """The config in the card, frozen; where the file runs is no part of it."""
        from detframe.config import carried_config
        from detframe.inference.carried import settled

        card, path = self.card, self.session.path
        carried = carried_config(card.config, path, card.version)
        counts = len(card.class_names), len(card.category_ids)
        if card.class_agnostic:  # whose classes no output knows
            counts = carried.MODEL.NUM_CLASSES, carried.MODEL.NUM_CLASSES
        return settled(carried, path, *counts, "auto")

    @cached_property
    def meta(self) -> dict[str, Any]:
        """What the card says that a checkpoint would."""
        return {
            **self.card.meta,
            "class_names": list(self.card.class_names),
            "category_ids": list(self.card.category_ids),
            "keypoint_names": list(self.card.keypoint_names),
        }

    @property
    def class_names(self) -> tuple[str, ...]:
        """See `Detector`."""
        return (ANY_CLASS,) if self.card.class_agnostic else self.card.class_names

    @property
    def category_ids(self) -> tuple[int, ...]:
        """See `Detector`."""
        return (1,) if self.card.class_agnostic else self.card.category_ids

    @cached_property
    def tiles(self) -> Mapping[str, Any]:
        """See `Backend`. Files without such keys in them are older than tiles, or of no training."""
        return dict(self._input_keys.get("TILES") or {})

    @cached_property
    def _input_keys(self) -> Mapping[str, Any]:
        """The keys of INPUT in the card's config, which may lack some."""
        try:
            carried = yaml.safe_load(self.card.config)
            return dict(carried.get("INPUT") or {})
        except (yaml.YAMLError, AttributeError, TypeError, ValueError):
            return dict(self.cfg.INPUT)  # says what is wrong with that config

    def augmented(self, augment: Augment) -> None:
        """Raises ValueError where several views are asked for; those of the config were no part of the export."""
        if augment is not None and augment is not False:
            raise InvalidValueError(
                f"augment= cannot be chosen for {self.session.path}: an exported file looks at an image once; predict "
                "with the checkpoint that it was made from"
            )

    def way(self, nms: str | None, augment: Augment, score_threshold: float) -> FileWay:
        """See `Backend`."""
        self.augmented(augment)
        if nms is not None:
            raise InvalidValueError(
                f"nms= cannot be chosen for {self.session.path}: the NMS of an exported file was fixed when it was "
                f"written; export the checkpoint again, with TEST.NMS {nms} in its config, or predict with the "
                "checkpoint"
            )
        return FileWay(self.session, score_threshold, scaled=self._input_keys.get("DECODE") == "scaled")


class FileWay:
    """Images through a file; see `Way`. Images are (H, W, C).

    Args:
        scaled: JPEG files are decoded small, as INPUT.DECODE says.
    """

    def __init__(self, session: Session, score_threshold: float = 0.0, scaled: bool = False) -> None:
        self.session, self.score_threshold, self.scaled = session, score_threshold, scaled
        self.form = replace(session.card.input.form, dtype=session.card.meta.get("input_values", ""))

    def _wanted(self, size_hw: SizeHW) -> SizeHW:
        return wanted_shape(size_hw, self.session.card.input)

    def load(self, source: ImageLike) -> tuple[np.ndarray, SizeHW]:
        """See `Way`."""
        image, size_hw = as_small_array(source, self._wanted if self.scaled else None, self.form)
        small_hw = (image.shape[0], image.shape[1])
        shown = None if small_hw == size_hw else shown_hw(small_hw, size_hw)
        resized = resize_image(image, self._wanted(size_hw), shown)
        return resized.astype(self.session.card.input.values, copy=False), size_hw

    def shape(self, image: np.ndarray, size_hw: SizeHW) -> Hashable:
        """See `Way`."""
        del size_hw
        form = self.session.card.input
        return form.static_hw or tuple(-(-side // form.divisor) * form.divisor for side in image.shape[:2])

    def run(self, images: Sequence[np.ndarray], sizes_hw: Sequence[SizeHW]) -> list[dict[str, Any]]:
        """See `Way`."""
        found = self.session.run(*stacked(images, self.session.card.input))
        pixel, out = self.session.card.pixel, []
        for row, (image, size_hw) in enumerate(zip(images, sizes_hw, strict=True)):
            from_hw = (image.shape[0], image.shape[1])
            values = rows_found({name: of_all[row] for name, of_all in found.items()}, self.score_threshold)
            out.append(in_image(values, from_hw, size_hw, pixel))
        return out
