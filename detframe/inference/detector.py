"""Detector: a checkpoint, or an exported file, is enough to predict on files, arrays and tensors.

Nothing here imports torch: an ONNX file predicts without.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

from detframe.arrays.pixels import PixelForm
from detframe.backends import ModelCard, is_exported, open_model
from detframe.config.arguments import flag
from detframe.errors import InvalidTypeError, InvalidValueError, shown
from detframe.inference.backend import Augment, Backend
from detframe.inference.batching import Result, predicted
from detframe.inference.file_backend import FileBackend
from detframe.inference.folder_files import ABOUT, CONFIG, WEIGHTS
from detframe.inference.inputs import ImageLike
from detframe.inference.kinds import KINDS, ArrayKind, as_kind, kind_wanted
from detframe.inference.prediction import ImagePrediction
from detframe.inference.sharing import Shared
from detframe.inference.tiling import Progress, Tiles, Tiling, predicted_in_tiles, tiling_of
from detframe.storage.folders import copy_of

if TYPE_CHECKING:
    import torch

    from detframe.config import ConfigNode
    from detframe.inference.augmentation import AugmentedModel
    from detframe.modeling import GeneralizedRCNN

logger = logging.getLogger(__name__)


class Detector(Shared):
    """A trained model with its class names and its way of resizing.

    Args:
        model: as `build_detection_model` gives it, with its weights.
        cfg: the config it was built from (INPUT.MIN_SIZE_TEST and MAX_SIZE_TEST say how to resize).
        meta: class_names, category_ids and what else a checkpoint carries.
        amp: "auto", "off", "bf16" or "fp16", as SOLVER.AMP.
    """

    def __init__(self, model: GeneralizedRCNN, cfg: ConfigNode, meta: dict[str, Any], amp: str = "auto") -> None:
        from detframe.inference.model_backend import ModelBackend

        self._backend: Backend = ModelBackend(model, cfg, meta, amp)
        self._arrays: ArrayKind = "auto"
        self._said_tiles = False

    @classmethod
    def load(
        cls,
        path: str | Path,
        device: str | torch.device = "auto",
        amp: str = "auto",
        allow_custom_imports: bool = False,
        arrays: ArrayKind = "auto",
    ) -> Detector:
        """The detector of a checkpoint, such as model_best.pth, or of an exported file: "model.onnx", OpenVINO's
        "model.xml", "model.pt2". Config and class names come with it.

        An ONNX file needs onnxruntime and an .xml openvino, and neither imports torch. What a file was exported with is
        fixed: its precision, its NMS, its thresholds. A .pt2 is a program: load those that you trust.

        A folder of `save_pretrained` is one, too; and any of them may lie in an object store ("s3://bucket/model.pth").

        Args:
            device: "auto", "cpu", "cuda" or "cuda:1", or such a torch.device; for OpenVINO "auto", "cpu" or "gpu".
            amp: of a checkpoint: "auto", "off", "bf16" or "fp16", as SOLVER.AMP.
            allow_custom_imports: import the Python modules and files that CUSTOM_IMPORTS of the checkpoint's config
                names. That runs their code: allow it where you trust the checkpoint's author. What this process has
                imported already needs no consent.
            arrays: what predictions hold: "torch" tensors, "numpy" arrays, or "auto": tensors of what computes with
                torch (a checkpoint, a .pt2) and wherever the process has imported torch, else arrays.

        Raises:
            FileNotFoundError: no such file.
            ValueError: a file that is half-written, not detframe's, or contradicts itself; one that needs imports that
                are not allowed (the message lists them), or what its runtime does not have; or an unknown device.
            ImportError: the runtime of an exported file is not installed.
            TypeError: no path, as an open file or the content of a checkpoint.
        """
        if not isinstance(path, (str, Path)):
            raise InvalidTypeError(
                "a detector is loaded from the path of a checkpoint, an exported file or a folder, not from "
                f"{shown(path)}"
            )
        device, allow = str(device), flag("allow_custom_imports", allow_custom_imports)
        if arrays not in KINDS:
            raise InvalidValueError(f"arrays is {arrays!r}; it must be one of {', '.join(KINDS)}")
        with copy_of(path, (WEIGHTS, CONFIG, ABOUT, "*.py")) as file:
            if is_exported(file):
                if amp != "auto":
                    raise InvalidValueError(f"amp is {amp!r}, but {file} has the precision that it was exported with")
                return cls._of(FileBackend(open_model(file, device)), arrays)
            from detframe.inference.model_backend import ModelBackend

            return cls._of(ModelBackend.load(file, device, amp, allow), arrays)

    @classmethod
    def _of(cls, backend: Backend, arrays: ArrayKind) -> Detector:
        detector = cls.__new__(cls)
        detector._backend, detector._arrays, detector._said_tiles = backend, arrays, False
        return detector

    # ------------------------------------------------------------------ what it is
    @property
    def model(self) -> GeneralizedRCNN:
        """The network of a checkpoint.

        Raises:
            ValueError: this is an exported file, which has none.
        """
        return self._backend.model

    @property
    def card(self) -> ModelCard | None:
        """What an exported file says of itself; None for a checkpoint."""
        return self._backend.card

    @property
    def cfg(self) -> ConfigNode:
        """The config of the training; of an exported file, that of the checkpoint behind it."""
        return self._backend.cfg

    @property
    def meta(self) -> dict[str, Any]:
        """class_names, category_ids and what else a checkpoint or an exported file carries."""
        return self._backend.meta

    @property
    def device(self) -> Any:
        """Where it computes: a torch.device for a checkpoint, else its name."""
        return self._backend.device

    @property
    def amp_dtype(self) -> Any:
        """The dtype of autocast, where a checkpoint computes with it; else None."""
        return self._backend.amp_dtype

    @property
    def form(self) -> PixelForm:
        """What images are: RGB of 8 bits, or so many channels in the values of their files."""
        return self._backend.form

    @property
    def class_names(self) -> tuple[str, ...]:
        """Label i is class_names[i - 1]; of proposals, which have no class, there is "object" alone."""
        return self._backend.class_names

    @property
    def category_ids(self) -> tuple[int, ...]:
        """Label i is category_ids[i - 1] in the annotation file of the training; of proposals there is 1 alone."""
        return self._backend.category_ids

    # ------------------------------------------------------------------ predicting
    @overload
    def predict(
        self,
        inputs: ImageLike | Iterable[ImageLike],
        batch_size: int = 8,
        score_threshold: float = 0.0,
        paste_masks: bool = True,
        on_error: Literal["raise"] = "raise",
        nms: str | None = None,
        augment: Augment = None,
        tiles: Tiles = None,
        progress: Progress | None = None,
    ) -> list[ImagePrediction]: ...

    @overload
    def predict(
        self,
        inputs: ImageLike | Iterable[ImageLike],
        batch_size: int = 8,
        score_threshold: float = 0.0,
        paste_masks: bool = True,
        *,
        on_error: Literal["skip"],
        nms: str | None = None,
        augment: Augment = None,
        tiles: Tiles = None,
        progress: Progress | None = None,
    ) -> list[ImagePrediction | None]: ...

    def predict(
        self,
        inputs: ImageLike | Iterable[ImageLike],
        batch_size: int = 8,
        score_threshold: float = 0.0,
        paste_masks: bool = True,
        on_error: Literal["raise", "skip"] = "raise",
        nms: str | None = None,
        augment: Augment = None,
        tiles: Tiles = None,
        progress: Progress | None = None,
    ) -> Sequence[ImagePrediction | None]:
        """Detections of every image, in the order of the inputs, on the CPU, in the coordinates of the images.

        Beside the model's entries, each prediction has `names`, the class name of each of its rows; and it knows its
        image and how other libraries want it: `to_supervision()`, `to_coco()`, `to_pandas()` (see `ImagePrediction`).

        Args:
            inputs: a path, a folder, a pattern as "photos/*.jpg", an address (http, https, file), the bytes of an image
                file, a PIL image, an RGB array (H, W, 3) of uint8, an RGB tensor (3, H, W), uint8 or float in [0, 1],
                or a list or generator that mixes them. One image gives a list of one. Of a detector that learned on
                other channels (`form`) a file with these, an array (H, W, C), or a tensor (C, H, W), in the same units.
            batch_size: images per forward pass, for speed and memory. Images never influence each other; but sums are
                rounded as the kernels for a batch of that size add them up: in float32 (amp "off") in the last digits
                of boxes and scores; in half precision, which "auto" takes where the hardware has it, the results may
                differ visibly, and what lies at a threshold come or go.
            score_threshold: leave out what scores below; the model itself leaves out what scores below
                MODEL.ROI_HEADS.SCORE_THRESH.
            paste_masks: give masks as (M, 1, H, W); else on their boxes (BoxMasks), which takes far less memory.
            on_error: "raise", or "skip": a file that is missing or cannot be read is named by a warning, and None
                stands in its place, so that the others keep theirs.
            nms: another NMS of the detections than that of the config, one of the values of TEST.NMS: "class",
                "agnostic", "soft" or "soft_linear".
            augment: look at several views of each image and merge what is found: True, as TEST.AUG of the config says
                (the image and its mirror image, where it says nothing else); a dict, with these of its keys changed,
                as {"MIN_SIZES": (600, 1000), "MERGE": "wbf"}; False, not; None, where TEST.AUG.ENABLED is True.

            tiles: cut each image into tiles, predict these, and merge what is found over their seams: a side in pixels
                (512); a dict with keys of INPUT.TILES, as {"size": 512, "overlap": 0.2}; True, as the config says;
                False, whole images; None, tiles where the config has an INPUT.TILES.SIZE. What is not said is as the
                config has it. `batch_size` then counts tiles, of one image or several, and
                TEST.DETECTIONS_PER_IMG those of a tile: of the image there may be more. Of TIFF files only the tiles
                in work are in memory.
            progress: called with the number of tiles done and of all tiles of an image, after each of them.

        An exported file has its NMS and its one view inside: it takes neither `nms` nor `augment`. It takes pixels of
        8 bits; those of a tensor of floats are rounded to them.

        Raises:
            FileNotFoundError: no such file, or no image in a folder or behind a pattern.
            TypeError, ValueError: something that is no image; names the file. No such NMS, views or tiles.
            KeyError: `augment` or `tiles` has a key that TEST.AUG or INPUT.TILES does not have.
        """
        how: Any = {"on_error": on_error, "nms": nms, "augment": augment, "tiles": tiles, "progress": progress}
        return list(self.predict_iter(inputs, batch_size, score_threshold, paste_masks, **how))

    @overload
    def predict_iter(
        self,
        inputs: ImageLike | Iterable[ImageLike],
        batch_size: int = 8,
        score_threshold: float = 0.0,
        paste_masks: bool = True,
        on_error: Literal["raise"] = "raise",
        nms: str | None = None,
        augment: Augment = None,
        tiles: Tiles = None,
        progress: Progress | None = None,
    ) -> Iterator[ImagePrediction]: ...

    @overload
    def predict_iter(
        self,
        inputs: ImageLike | Iterable[ImageLike],
        batch_size: int = 8,
        score_threshold: float = 0.0,
        paste_masks: bool = True,
        *,
        on_error: Literal["skip"],
        nms: str | None = None,
        augment: Augment = None,
        tiles: Tiles = None,
        progress: Progress | None = None,
    ) -> Iterator[ImagePrediction | None]: ...

    def predict_iter(
        self,
        inputs: ImageLike | Iterable[ImageLike],
        batch_size: int = 8,
        score_threshold: float = 0.0,
        paste_masks: bool = True,
        on_error: Literal["raise", "skip"] = "raise",
        nms: str | None = None,
        augment: Augment = None,
        tiles: Tiles = None,
        progress: Progress | None = None,
    ) -> Iterator[ImagePrediction | None]:
        """`predict`, one prediction at a time, for folders and videos (`read_video`) of any length in little memory."""
        if batch_size < 1:
            raise InvalidValueError(f"batch_size must be 1 or more, not {batch_size}")
        if on_error not in ("raise", "skip"):
            raise InvalidValueError(f"on_error is {on_error!r}; it must be 'raise' or 'skip'")
        way, skip = self._backend.way(nms, augment, score_threshold), on_error == "skip"
        tiling = self._tiling(tiles)
        if tiling is None:
            results = predicted(way, inputs, batch_size, skip)
        else:
            results = predicted_in_tiles(way, inputs, batch_size, skip, tiling, progress)
        kind = kind_wanted(self._arrays, self._backend)
        for result in results:
            yield self._finished(result, paste_masks, kind)

    def check(self, nms: str | None = None, augment: Augment = None, tiles: Tiles = None) -> None:
        """Whether `predict` can work with these settings, without an image.

        Raises:
            TypeError, ValueError, KeyError: no such NMS, views or tiles, or an exported file, in which NMS and views
                are fixed.
        """
        self._backend.way(nms, augment, 0.0)
        tiling_of(tiles, self._backend.tiles, self._backend.source)

    def uses_tiles(self, tiles: Tiles = None) -> bool:
        """Whether `predict` with these `tiles` cuts images; None: whether it does so by itself.

        Raises:
            TypeError, ValueError, KeyError: no such tiles.
        """
        return tiling_of(tiles, self._backend.tiles, self._backend.source) is not None

    def augmented(self, augment: Augment) -> AugmentedModel | None:
        """What looks at several views of an image, as `augment` of `predict` says; None where there is one.

        Raises:
            ValueError, KeyError: no such views, or an exported file, which has one.
        """
        return self._backend.augmented(augment)

    # ------------------------------------------------------------------ inside
    def _tiling(self, tiles: Tiles) -> Tiling | None:
        tiling = tiling_of(tiles, self._backend.tiles, self._backend.source)
        if tiles is None and tiling is not None and not self._said_tiles:
            self._said_tiles = True
            logger.info(
                "images are cut into tiles of %d pixels, as in the training (INPUT.TILES); tiles=False predicts them "
                "whole (--tiles off)",
                tiling.size,
            )
        return tiling

    def _finished(self, result: Result, paste_masks: bool, kind: str) -> ImagePrediction | None:
        """A model's prediction with what it means: its classes and its image."""
        if result.found is None:
            return None
        prediction = ImagePrediction(
            result.found,
            size_hw=result.size_hw,
            class_names=self.class_names,
            category_ids=self.category_ids,
            file_name=result.file_name,
            keypoint_names=self.meta.get("keypoint_names", ()),
        )
        for key, value in prediction.items():
            prediction[key] = as_kind(value, kind)
        if paste_masks and hasattr(prediction.get("masks"), "paste"):
            prediction["masks"] = prediction["masks"].paste()
        return prediction
