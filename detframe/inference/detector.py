"""Detector: a checkpoint is enough to predict on files, arrays and tensors."""

from __future__ import annotations

import logging
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Literal, overload

import torch
from torch import Tensor

from detframe.checkpoint import Checkpoint
from detframe.compat import read_weights
from detframe.compat.state import refuse_not_finite
from detframe.config import ConfigNode, get_cfg, import_carried, validate
from detframe.errors import InvalidValueError, shown
from detframe.evaluation import evaluating
from detframe.inference.augmentation import AugmentedModel, View
from detframe.inference.inputs import ImageLike, as_tensor, expand
from detframe.inference.prediction import ImagePrediction
from detframe.inference.sharing import Shared, read_pretrained
from detframe.modeling import GeneralizedRCNN, build_detection_model
from detframe.parallel.device import resolve_amp
from detframe.structures import ANY_CLASS, BoxMasks, Prediction, rescale_prediction, select, to_cpu
from detframe.structures.forms import check_fit

logger = logging.getLogger(__name__)

# Settings of the machine and run that trained, which mean nothing here
_NOT_CARRIED = ("MODEL.DEVICE", "MODEL.WEIGHTS", "MODEL.COMPILE", "OUTPUT_DIR")
# Threads that decode and resize while the model computes, and the batches that may wait for company of their shape
_THREADS = 4
_WINDOW = 4

# Position in the input, resized image, size_hw of the original, and its file where it came as a path
_Item = tuple[int, Tensor, tuple[int, int], str | None]
# Several views of an image: True and False, keys of TEST.AUG, or None: as the config says
Augment = bool | Mapping[str, Any] | None
_Missing = tuple[int, None, None, None]  # an image that could not be read


class Detector(Shared):
    """A trained model with its class names and its way of resizing.

    Args:
        model: as `build_detection_model` gives it, with its weights.
        cfg: the config it was built from (INPUT.MIN_SIZE_TEST and MAX_SIZE_TEST say how to resize).
        meta: class_names, category_ids and what else a checkpoint carries.
        amp: "auto", "off", "bf16" or "fp16", as SOLVER.AMP.
    """

    def __init__(self, model: GeneralizedRCNN, cfg: ConfigNode, meta: dict[str, Any], amp: str = "auto") -> None:
        self.model = model
        self.cfg = cfg
        self.meta = meta
        self.device: torch.device = model.device
        self.amp_dtype = resolve_amp(amp, self.device)

    @classmethod
    def load(
        cls, path: str | Path, device: str = "auto", amp: str = "auto", allow_custom_imports: bool = False
    ) -> Detector:
        """The detector of a checkpoint, such as model_best.pth; config and class names come with it.

        A folder of `save_pretrained` is one, too.

        Args:
            allow_custom_imports: import the Python modules and files that CUSTOM_IMPORTS of the checkpoint's config
                names. That runs their code: allow it where you trust the checkpoint's author. What this process has
                imported already needs no consent.

        Raises:
            FileNotFoundError: no such file.
            ValueError: a file that is half-written, not detframe's, or contradicts itself; one that needs imports that
                are not allowed (the message lists them); or an unknown device.
        """
        checkpoint = read_pretrained(path) if Path(path).is_dir() else Checkpoint.of(read_weights(path), path)
        cfg = _config(checkpoint, device)
        import_carried(cfg, checkpoint.source, allow_custom_imports)
        model = build_detection_model(cfg)
        check_fit(checkpoint.model, model.state_dict(), f"the weights in {path}")
        refuse_not_finite(checkpoint.model, model.state_dict(), path)
        model.load_state_dict(dict(checkpoint.model))
        return cls(model.eval(), cfg, dict(checkpoint.meta), amp)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Label i is class_names[i - 1]; of proposals, which have no class, there is "object" alone."""
        return (ANY_CLASS,) if self.model.class_agnostic else tuple(self.meta["class_names"])

    @property
    def category_ids(self) -> tuple[int, ...]:
        """Label i is category_ids[i - 1] in the annotation file of the training; of proposals there is 1 alone."""
        return (1,) if self.model.class_agnostic else tuple(self.meta["category_ids"])

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
    ) -> Sequence[ImagePrediction | None]:
        """Detections of every image, in the order of the inputs, on the CPU, in the coordinates of the images.

        Beside the model's entries, each prediction has `names`, the class name of each of its rows; and it knows its
        image and how other libraries want it: `to_supervision()`, `to_coco()`, `to_pandas()` (see `ImagePrediction`).

        Args:
            inputs: a path, a folder, a pattern as "photos/*.jpg", a PIL image, an RGB array (H, W, 3) of uint8, an RGB
                tensor (3, H, W), uint8 or float in [0, 1], or a list that mixes them. One image gives a list of one.
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

        Raises:
            FileNotFoundError: no such file, or no image in a folder or behind a pattern.
            TypeError, ValueError: something that is no image; names the file. No such NMS, or no such views.
            KeyError: `augment` has a key that TEST.AUG does not have.
        """
        how: Any = {"on_error": on_error, "nms": nms, "augment": augment}
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
    ) -> Iterator[ImagePrediction | None]:
        """`predict`, one prediction at a time, for folders and videos (`read_video`) of any length in little memory."""
        if batch_size < 1:
            raise InvalidValueError(f"batch_size must be 1 or more, not {batch_size}")
        if on_error not in ("raise", "skip"):
            raise InvalidValueError(f"on_error is {on_error!r}; it must be 'raise' or 'skip'")
        augmented = self.augmented(augment)
        run = partial(self._run, score_threshold=score_threshold, nms=nms, augmented=augmented)
        waiting: dict[tuple[int, int], list[_Item]] = defaultdict(list)
        done: dict[int, ImagePrediction | None] = {}
        following = 0
        for item in self._loaded(inputs, 2 * batch_size, on_error == "skip", resized=augmented is None):
            if item[1] is None:
                done[item[0]] = None
                shape = None
            else:
                shape = self._padded_shape(item[1]) if augmented is None else item[2]
                waiting[shape].append(item)
            if shape is not None and len(waiting[shape]) == batch_size:
                done.update(run(waiting.pop(shape)))
            elif item[0] - following >= _WINDOW * batch_size:
                done.update(run(waiting.pop(_oldest(waiting))))
            while following in done:
                yield self._finished(done.pop(following), paste_masks)
                following += 1
        while waiting:
            done.update(run(waiting.pop(_oldest(waiting))))
        yield from (self._finished(done.pop(index), paste_masks) for index in sorted(done))

    def augmented(self, augment: Augment) -> AugmentedModel | None:
        """What looks at several views of an image, as `augment` of `predict` says; None where there is one.

        Raises:
            ValueError, KeyError: no such views.
        """
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

    # ------------------------------------------------------------------ inside
    def _loaded(
        self, inputs: ImageLike | Iterable[ImageLike], ahead: int, skip: bool, resized: bool
    ) -> Iterator[_Item | _Missing]:
        """Images decoded and resized by threads, at most `ahead` before they are needed, in order.

        With `skip`, None in place of one that cannot be read.
        """
        load = partial(self._load_or_skip, skip, resized)
        sources = enumerate(expand(inputs, keep_missing=skip))
        with ThreadPoolExecutor(_THREADS, thread_name_prefix="detframe-decode") as pool:
            queue: deque[Future[_Item | _Missing]] = deque()
            try:
                queue.extend(pool.submit(load, *source) for source in islice(sources, ahead))
                while queue:
                    item = queue.popleft().result()
                    queue.extend(pool.submit(load, *source) for source in islice(sources, 1))
                    yield item
            finally:
                for future in queue:
                    future.cancel()

    def _load_or_skip(self, skip: bool, resized: bool, index: int, source: ImageLike) -> _Item | _Missing:
        from detframe.data import IMAGE_FAULTS

        try:
            return self._load(resized, index, source)
        except IMAGE_FAULTS as error:
            if not skip:
                raise
            logger.warning("left out: %s", error)
            return index, None, None, None

    def _load(self, resized: bool, index: int, source: ImageLike) -> _Item:
        image = as_tensor(source)
        size_hw = (int(image.shape[-2]), int(image.shape[-1]))
        plain = View(self.cfg.INPUT.MIN_SIZE_TEST, self.cfg.INPUT.MAX_SIZE_TEST)
        file_name = str(source) if isinstance(source, (str, Path)) else None
        return index, plain.of(image) if resized else image, size_hw, file_name

    def _padded_shape(self, image: Tensor) -> tuple[int, int]:
        """The shape that the model pads this image to when it is alone.

        Only images of one padded shape share a batch: more padding would change what the convolutions see at the
        border, and a prediction must not depend on the images that happen to come with it.
        """
        divisor = self.model.preprocessor.divisor
        return -(-image.shape[-2] // divisor) * divisor, -(-image.shape[-1] // divisor) * divisor

    def _run(
        self, items: list[_Item], score_threshold: float, nms: str | None, augmented: AugmentedModel | None
    ) -> dict[int, ImagePrediction]:
        model = self.model if augmented is None else augmented
        suppressed = nullcontext() if nms is None else self.model.with_nms(kind=nms)
        with evaluating(self.model, self.amp_dtype), suppressed:
            predictions = model([image for _, image, _, _ in items], paste_masks=False)
            if score_threshold > 0:
                predictions = [select(p, p["scores"] >= score_threshold) for p in predictions]
            predictions = [
                rescale_prediction(prediction, (image.shape[-2], image.shape[-1]), size_hw, model.pixel)
                for prediction, (_, image, size_hw, _) in zip(predictions, items, strict=True)
            ]
            predictions = to_cpu(predictions)
        return {
            index: self._described(prediction, size_hw, file_name)
            for (index, _, size_hw, file_name), prediction in zip(items, predictions, strict=True)
        }

    def _described(self, prediction: Prediction, size_hw: tuple[int, int], file_name: str | None) -> ImagePrediction:
        """A model's prediction with what it means: its classes and its image."""
        return ImagePrediction(
            prediction,
            size_hw=size_hw,
            class_names=self.class_names,
            category_ids=self.category_ids,
            file_name=file_name,
            keypoint_names=self.meta.get("keypoint_names", ()),
        )

    def _finished(self, prediction: ImagePrediction | None, paste_masks: bool) -> ImagePrediction | None:
        if prediction is None:
            return None
        masks = prediction.get("masks")
        if paste_masks and isinstance(masks, BoxMasks):
            prediction["masks"] = masks.paste()
        return prediction


def _oldest(waiting: dict[tuple[int, int], list[_Item]]) -> tuple[int, int]:
    """The shape of the image that has waited longest."""
    return min(waiting, key=lambda shape: waiting[shape][0][0])


def _config(checkpoint: Checkpoint, device: str) -> ConfigNode:
    """The config of the training, on this machine's device."""
    cfg, defaults = checkpoint.config(), dict(get_cfg().leaves())
    cfg.merge_from_list([word for key in _NOT_CARRIED for word in (key, defaults[key])])
    cfg.MODEL.DEVICE = device
    named, numbered = len(checkpoint.class_names), len(checkpoint.category_ids)
    if numbered != named or cfg.MODEL.NUM_CLASSES not in (0, named):
        raise InvalidValueError(
            f"{checkpoint.source} contradicts itself: {named} class names, {numbered} category ids, and "
            f"MODEL.NUM_CLASSES {cfg.MODEL.NUM_CLASSES}"
        )
    cfg.MODEL.NUM_CLASSES = named
    cfg.freeze()
    return cfg
