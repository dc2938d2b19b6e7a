"""What an exported file says of itself: classes, how to prepare images, thresholds, and where it comes from.

The same JSON stands in every format: in ONNX under the metadata key "detframe", in OpenVINO's IR as the run-time
information "detframe", in a .pt2 archive as the extra file "detframe.json".
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from detframe.arrays.pixels import PixelForm
from detframe.errors import InvalidValueError, shown

KEY = "detframe"
VERSION = 1


@dataclass(frozen=True)
class InputCard:
    """How an image becomes an input. Legend: H, W sides of the plane that images lie in, N images of a batch.

    Args:
        height: H; None where any will do.
        width: W; None where any will do.
        batch: N; None where any will do.
        min_size: of an image's shorter side, in pixels, as INPUT.MIN_SIZE_TEST, where H and W are free. Where they are
            fixed, an image gets the largest size that fits into the plane with its aspect ratio kept.
        max_size: of its longer side, as INPUT.MAX_SIZE_TEST.
        divisor: the network works on planes of multiples of this; padding to them is inside.
        channels: of an image.
        values: "uint8", RGB from 0 to 255, or "float32", channels in the values of their files.
    """

    height: int | None
    width: int | None
    batch: int | None
    min_size: int
    max_size: int
    divisor: int
    channels: int = 3
    values: str = "uint8"

    @property
    def form(self) -> PixelForm:
        """What images are."""
        return PixelForm(self.channels, as_stored=self.values != "uint8")

    @property
    def static_hw(self) -> tuple[int, int] | None:
        """(H, W) where they are fixed."""
        return None if self.height is None or self.width is None else (self.height, self.width)


@dataclass(frozen=True)
class ModelCard:
    """An exported detector in words; label i is class_names[i - 1] and category_ids[i - 1].

    Args:
        input: how images become inputs.
        precision: "fp32", "fp16" or "int8".
        detections: D, the rows of each output, whatever is found.
        thresholds: of scores and NMS, as the model was configured: a name -> number.
        keypoint_names: P names, empty without keypoints.
        class_agnostic: every detection has label 1, "object": proposals.
        pixel: see GeneralizedRCNN; boxes in the outputs are continuous, masks and keypoints are rescaled by it.
        config: the whole config, as YAML.
        provenance: where the weights come from: weights file, its SHA-256, iteration, date, versions, command.
        meta: what else the checkpoint carried and JSON can say.
    """

    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]
    input: InputCard
    precision: str
    detections: int
    thresholds: Mapping[str, float]
    config: str
    keypoint_names: tuple[str, ...] = ()
    class_agnostic: bool = False
    pixel: float = 0.0
    provenance: Mapping[str, Any] = field(default_factory=dict)
    meta: Mapping[str, Any] = field(default_factory=dict)

    @property
    def version(self) -> str:
        """Of the detframe that wrote the file; "?" where it does not say."""
        return str(self.provenance.get("versions", {}).get("detframe", "?"))

    def to_json(self) -> str:
        """The card as JSON text."""
        return json.dumps({"version": VERSION, **asdict(self)}, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str, source: str) -> ModelCard:
        """The card that `to_json` wrote.

        Args:
            source: the file, for messages.

        Raises:
            ValueError: no card, one that lacks something, or one of a newer version of detframe.
        """
        try:
            values = json.loads(text)
        except ValueError as error:
            raise InvalidValueError(f"the entry {KEY!r} of {source} is no JSON ({error}): is it damaged?") from None
        if not isinstance(values, dict) or not isinstance(values.get("version"), int):
            raise InvalidValueError(f"the entry {KEY!r} of {source} is {shown(values)}, not what detframe writes there")
        if values["version"] > VERSION:
            raise InvalidValueError(
                f"{source} was written by a newer detframe (form {values['version']}; this one reads {VERSION}): "
                "update detframe"
            )
        taken = _arguments(cls, values, source)
        limits = values["input"]
        if isinstance(limits, dict):  # files from before images could be anything but RGB do not say it
            limits = {"channels": InputCard.channels, "values": InputCard.values, **limits}
        return cls(**{**taken, "input": InputCard(**_arguments(InputCard, limits, source))})


def _arguments(kind: type, values: Any, source: str) -> dict[str, Any]:
    """What a card's constructor takes; lists become tuples."""
    wanted = [entry.name for entry in fields(kind)]
    missing = [name for name in wanted if not isinstance(values, dict) or name not in values]
    if missing:
        raise InvalidValueError(f"the entry {KEY!r} of {source} lacks {', '.join(missing)}: is the file damaged?")
    return {name: tuple(values[name]) if isinstance(values[name], list) else values[name] for name in wanted}
