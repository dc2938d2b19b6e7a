"""GeneralizedRCNN: extractor, RPN head and optional ROI heads; the only forward that a user calls."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, ClassVar, Self, Unpack

import torch
from torch import Tensor, nn

from detframe.config import ConfigNode
from detframe.errors import InvalidTypeError, InvalidValueError
from detframe.layers import (
    Given,
    RestingWeights,
    SingleValueError,
    check_norms,
    prepared_weights,
    with_given,
)
from detframe.modeling.ground_truth import GroundTruth, pack_targets
from detframe.modeling.preprocessor import Preprocessor
from detframe.modeling.proposals import NMS, Proposals, predictions_in_graph
from detframe.ops import BoxCoder
from detframe.ops.exportable import is_traced
from detframe.registry import META_ARCHITECTURES
from detframe.structures import BoxMasks, ImageList, Pasting, Prediction, Target
from detframe.structures.transfer import move_together


@META_ARCHITECTURES.register
class GeneralizedRCNN(nn.Module):
    """A detector: images to features, features to proposals or detections, proposals to detections.

    `model(images, targets)` follows torchvision's convention. In training it returns a dict of weighted scalar losses
    whose keys begin with "loss_"; in evaluation a list of Prediction, in the coordinates of the images handed in. Masks
    come as (M, 1, H, W); with `paste_masks=False` on their boxes (BoxMasks), which takes far less memory. In place of
    targets, training takes their GroundTruth, which `pack_targets` has checked and padded.

    Args:
        pixel: 1 if the boxes inside of the model run from pixel to pixel, so that x2, y2 are 1 less than those of the
            targets and of the predictions, which begin and end between pixels.
        ignore_crowds: no background is learned in crowd rows of targets that have no `ignore_boxes`.

    Raises:
        ValueError: no images, images that are not (3, H, W), or in training targets that are missing or break their
            contract.
    """

    # images are padded to so many times what the extractor's maps need
    divisor_factor: ClassVar[int] = 1
    # what has to be asked, since the signature of `forward` does not tell
    takes_paste_masks: ClassVar[bool] = True
    # it makes its heads itself, in `from_config`, and is given neither `rpn` nor `roi_heads` (None)
    own_heads: ClassVar[bool] = False
    # whether its losses come from one pass over the images
    trains_in_one_pass: ClassVar[bool] = True
    graphs: Any = None  # what torch.compile made, as `compiling.Graphs`
    whole_step: Any = None  # as `compiling.WholeStep`, where it makes one graph of a training step

    def __init__(
        self,
        *,
        preprocessor: Preprocessor,
        backbone: nn.Module,
        rpn: nn.Module | None,
        roi_heads: nn.Module | None,
        num_classes: int,
        rpn_maps: Sequence[str],
        roi_maps: Sequence[str],
        pixel: float = 0.0,
        ignore_crowds: bool = False,
    ) -> None:
        super().__init__()
        self.pixel, self.ignore_crowds = pixel, ignore_crowds
        self.rpn_maps, self.roi_maps = list(rpn_maps), list(roi_maps)
        self.preprocessor = preprocessor
        self.backbone = backbone
        self.rpn: Any = rpn
        self.roi_heads = roi_heads
        self.num_classes = num_classes
        self.resting = RestingWeights()

    @classmethod
    def from_config(cls, cfg: ConfigNode, **parts: Any) -> Self:
        """The detector of a config.

        Args:
            parts: the arguments of the constructor that every detector has.
        """
        return cls(**parts)

    def check(self, cfg: ConfigNode) -> None:
        """What a detector must satisfy once MODEL.FREEZE has frozen parts of it.

        Raises:
            ValueError: it does not.
        """
        check_norms(self)
        if cfg.TEST.NMS != "class":
            self._nms_to_change(f"TEST.NMS cannot be {cfg.TEST.NMS!r}")
        if cfg.TEST.AUG.ENABLED:
            self.check_augmented(cfg)

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(self.parameters()).device

    @property
    def class_agnostic(self) -> bool:
        """Whether the predictions are proposals, which all have label 1, whatever class the object is of."""
        return self.roi_heads is None and getattr(self.rpn, "class_agnostic", False)

    @property
    def nms(self) -> NMS | None:
        """That of the detections; None where these are proposals, or of a head with an NMS of its own."""
        found = getattr(self.last_head, "nms", None)
        return found if isinstance(found, NMS) else None

    @property
    def last_head(self) -> Any:
        """What gives the detections; to be overridden by detectors with heads of their own."""
        return self.rpn if self.roi_heads is None else self.roi_heads

    @contextmanager
    def with_nms(self, **changes: Any) -> Iterator[None]:
        """Inside the `with`, the NMS of the detections has other settings, as `kind="soft"`.

        Raises:
            ValueError: no such kind, or the model has no NMS of detections.
        """
        before = self._nms_to_change(f"the NMS of the detections cannot be {changes.get('kind', changes)!r}")
        self.last_head.nms = replace(before, **changes)
        try:
            yield
        finally:
            self.last_head.nms = before

    def _nms_to_change(self, complaint: str) -> NMS:
        """The NMS of the detections. Raises ValueError, the complaint and its reason, where there is none."""
        if self.nms is not None:
            return self.nms
        why = (
            "gives proposals, whose NMS is hard (MODEL.RPN.NMS_THRESH)"
            if self.class_agnostic
            else f"has detections of {type(self.last_head).__name__}, which has no attribute `nms` (see detection_nms)"
        )
        raise InvalidValueError(f"{complaint}: the model {why}")

    # ------------------------------------------------------------------ several views of an image
    def check_augmented(self, cfg: ConfigNode) -> None:
        """What is found in several views of an image must be possible to merge.

        Raises:
            ValueError: it is not, and why.
        """
        self._nms_to_change("test-time augmentation (TEST.AUG) merges detections")
        if (cfg.MODEL.MASK_ON or cfg.MODEL.KEYPOINT_ON) and not hasattr(self.roi_heads, "maps_of"):
            raise InvalidValueError(
                "test-time augmentation (TEST.AUG) reads masks and keypoints from merged boxes, and "
                f"{type(self.roi_heads).__name__} has no method maps_of for that, as StandardROIHeads has one"
            )

    @contextmanager
    def boxes_alone(self) -> Iterator[None]:
        """Inside the `with`, predictions have no masks and no keypoints, whose cost is saved."""
        heads: Any = self.roi_heads
        before = getattr(heads, "boxes_alone", None)
        if before is None:
            yield
            return
        heads.boxes_alone = True
        try:
            yield
        finally:
            heads.boxes_alone = before

    def maps_of(
        self, images: Sequence[Tensor], boxes: Sequence[Tensor], labels: Sequence[Tensor]
    ) -> list[dict[str, Tensor]]:
        """What the masks and keypoints of given boxes are read from; see `StandardROIHeads.maps_of`.

        Args:
            boxes: (M, 4) for each image, in its coordinates.
            labels: int64 (M,) for each.

        Returns:
            For each image, the maps of its boxes by name.
        """
        heads: Any = self.roi_heads
        features = self.backbone(self.preprocessor(images).tensors)
        read = {name: features[name] for name in self.roi_maps}
        counts = [len(of_image) for of_image in boxes]
        image = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts), output_size=sum(counts))
        (image,) = move_together([image], boxes[0].device)
        inner = BoxCoder(pixel=self.pixel).shrink(torch.cat(list(boxes)))
        maps = heads.maps_of(read, inner, torch.cat(list(labels)), image)
        parts = {key: torch.split(value, counts) for key, value in maps.items()}
        return [{key: part[i] for key, part in parts.items()} for i in range(len(counts))]

    # options by name alone: of any other default, PyTorch's exporter by TorchScript makes one more image of the list
    def forward(
        self,
        images: Sequence[Tensor],
        targets: Sequence[Target] | GroundTruth | None = None,
        **how: Unpack[Pasting],
    ) -> Any:
        if torch.jit.is_tracing():  # type: ignore[no-untyped-call]
            images = [image for image in images if image is not None]  # which it puts there for missing targets
        with naming_images(images, targets):
            return self._run(*self._batch(images, targets), **how)

    def _batch(self, images: Sequence[Tensor], targets: Sequence[Target] | GroundTruth | None) -> tuple[ImageList, Any]:
        """The images as one batch, and in training their GroundTruth, else None."""
        if len(images) == 0:
            raise InvalidValueError("the list of images is empty")
        batch = self.preprocessor(images)
        return batch, self._ground_truth(batch, targets) if self.training else None

    def detect(self, batch: ImageList) -> Proposals:
        """What is found in a preprocessed batch, in evaluation mode; boxes as the model has them inside (`pixel`)."""
        with prepared_weights(self, self.resting, self.graphs is None):
            found: Proposals = self.through(batch, None)[0]
        return found

    def predictions(self, batch: ImageList, paste_masks: bool = True) -> list[Prediction]:
        """What `forward` gives, in evaluation mode, for a batch that is preprocessed."""
        out: list[Prediction] = self._run(batch, None, paste_masks)
        return out

    def _run(self, batch: ImageList, ground_truth: GroundTruth | None, paste_masks: bool = True) -> Any:
        if self.whole_step is not None and self.training and torch.is_grad_enabled():
            return self.whole_step(batch, ground_truth)
        with prepared_weights(self, self.resting, self.graphs is None):  # graphs fold their own
            proposals, losses = self.through(batch, ground_truth)
        if self.training:
            return losses
        detections = replace(proposals, boxes=BoxCoder(pixel=self.pixel).extend(proposals.boxes))
        return (predictions_in_graph if is_traced() else _predictions)(detections, batch.sizes_hw, paste_masks)

    def losses_in_graph(self, tensors: Tensor, sizes: Tensor, gt: GroundTruth, of_step: Any) -> dict[str, Tensor]:
        """The losses of a preprocessed batch from tensors alone: images (N, 3, H, W), their sizes (N, 2), objects.

        Args:
            of_step: as `known_of_step` says it.
        """
        given = None if of_step is None else Given(*of_step)
        losses: dict[str, Tensor] = with_given(given, self.through, ImageList(tensors, [], sizes), gt)[1]
        return losses

    def through(self, batch: ImageList, ground_truth: GroundTruth | None) -> tuple[Any, dict[str, Tensor]]:
        """What a detector with heads of its own overrides: from a preprocessed batch to detections and losses.

        Args:
            batch: images (N, C, H, W), normalised and padded.
            ground_truth: in training the objects of the images; None in evaluation.

        Returns:
            Proposals with labels 1..K (in training anything), and the losses by names that begin with "loss_": the
            same ones in every step, scalars divided by `global_normalizer`; none in evaluation.
        """
        features = self.backbone(batch.tensors)
        if not is_traced():  # where sizes are symbols that would be compared for good
            check_maps(features, batch.padded_hw, self.backbone.strides)  # type: ignore[arg-type]
        read = {name: features[name] for name in self.rpn_maps}
        proposals, losses = self.rpn(batch, read, ground_truth, self.roi_heads is not None or not self.training)
        if self.roi_heads is not None:
            read = {name: features[name] for name in self.roi_maps}
            proposals, roi_losses = self.roi_heads(batch, read, proposals, ground_truth)
            losses = {**losses, **roi_losses}
        return proposals, losses

    def _ground_truth(self, batch: ImageList, targets: Sequence[Target] | GroundTruth | None) -> GroundTruth:
        if targets is None:
            raise InvalidValueError(
                "training needs targets: model(images, targets); call model.eval() first to predict"
            )
        if len(targets) != len(batch):
            raise InvalidValueError(f"{len(batch)} images came with {len(targets)} targets")
        device = batch.tensors.device
        if isinstance(targets, GroundTruth):
            return targets.to(device)
        return pack_targets(targets, self.num_classes, device, batch.sizes_hw, self.ignore_crowds, self.pixel)


@contextmanager
def naming_images(images: Sequence[Tensor], targets: Sequence[Target] | GroundTruth | None) -> Iterator[None]:
    """Inside the `with`, a norm that has a single value to take statistics of is explained by the images of the pass.

    A GroundTruth does not say what they are called.

    Raises:
        ValueError: in place of SingleValueError, with the images and what to do.
    """
    try:
        yield
    except SingleValueError as error:
        known: Any = targets if targets and not isinstance(targets, GroundTruth) else [{}] * len(images)
        ids = [target.get("image_id") for target in known]
        named = [
            f"{'an image' if name is None else f'image {name}'} of {image.shape[-2]}x{image.shape[-1]} pixels"
            for name, image in zip(ids, images, strict=True)
        ]
        raise InvalidValueError(
            f"{error}: this pass holds {', '.join(named)} (height x width); use larger images (INPUT.MIN_SIZE_TRAIN), "
            "more images in a pass (SOLVER.IMS_PER_BATCH, fewer SOLVER.ACCUMULATE_STEPS or processes), or GN or "
            "FrozenBN in place of batch norm (MODEL.RESNETS.NORM and the other NORM keys)"
        ) from None


def _predictions(detections: Proposals, sizes_hw: Sequence[tuple[int, int]], paste: bool) -> list[Prediction]:
    counts = detections.known_counts()
    padded = {"boxes": detections.boxes, "labels": detections.labels, "scores": detections.scores, **detections.extras}
    out: list[Any] = [{key: rows[i, :n] for key, rows in padded.items()} for i, n in enumerate(counts)]
    for prediction, size_hw in zip(out, sizes_hw, strict=True):
        if "masks" in prediction:
            masks = BoxMasks(prediction["masks"], prediction["boxes"], size_hw)
            prediction["masks"] = masks.paste() if paste else masks
    return out


def check_extractor(name: str, extractor: Any) -> Mapping[str, int]:
    """The strides of a BACKBONES entry, after a look at its contract.

    Raises:
        TypeError: what it lacks.
    """
    for attribute in ("out_channels", "strides"):
        if not hasattr(extractor, attribute):
            raise InvalidTypeError(
                f"the backbone {name!r} has no {attribute!r}; an extractor has out_channels (int) and strides "
                f"(dict: name of each map -> image pixels per cell, finest first)"
            )
    strides = extractor.strides
    if not isinstance(strides, Mapping) or list(strides.values()) != sorted(strides.values()):
        raise InvalidTypeError(
            f"the backbone {name!r} must give strides as a dict from fine to coarse, not {strides!r}"
        )
    return strides


def check_maps(features: Mapping[str, Tensor], padded_hw: tuple[int, int], strides: Mapping[str, int]) -> None:
    """Compare the maps of an extractor with what it said of them.

    Raises:
        TypeError: it returned no dict.
        ValueError: a map has other names or another stride than `strides` says.
    """
    if not isinstance(features, Mapping):
        raise InvalidTypeError(
            f"the backbone returned a {type(features).__name__}, not a dict of the maps that its strides name, "
            f"{list(strides)}"
        )
    if list(features) != list(strides):
        raise InvalidValueError(
            f"the backbone returned the maps {list(features)}, but its strides name {list(strides)}"
        )
    for name, feature in features.items():
        stride, actual = strides[name], feature.shape[-2:]
        for side, cells in zip(padded_hw, actual, strict=True):
            if cells not in (side // stride, -(-side // stride)):
                raise InvalidValueError(
                    f"the backbone says that {name} has stride {stride}, but its map of {actual[0]}x{actual[1]} cells "
                    f"over {padded_hw[0]}x{padded_hw[1]} pixels has stride {padded_hw[0] / actual[0]:g}"
                )
