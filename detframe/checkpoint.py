"""A checkpoint of detframe is one thing: weights, what they mean, and, where a training can go on, its state.

A file is {"model": state dict (the moving average where there is one), "meta": {...}, "training": {...}}, written whole
or not at all, with checksums, and loads with weights_only=True. "model" and "meta" alone are enough to predict; files
that are for that alone have no "training", which is two to three times as large as the weights.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NotRequired, TypedDict

from torch import Tensor

from detframe.config import ConfigNode, carried_config
from detframe.config.yaml_text import safe_yaml
from detframe.errors import InvalidValueError, MissingFileError, shown
from detframe.structures.forms import COUNT, NAME, NUMBERS, TEXT, WHOLE, check_form
from detframe.torch_files import read_torch_file, to_cpu, write_torch_file

if TYPE_CHECKING:
    from detframe.data import Metadata

FORMAT = 1  # of the layout; a later one is refused
_SHOWN = 5


class Meta(TypedDict):
    """What a checkpoint says about itself; older versions wrote less."""

    config: str  # the effective one, as YAML
    class_names: list[str]  # label 1 first
    category_ids: NotRequired[list[int]]  # of the data, by label
    keypoint_names: NotRequired[list[str]]
    keypoint_flip_pairs: NotRequired[list[list[int]]]
    keypoint_sigmas: NotRequired[list[float]]
    input_format: NotRequired[str]
    input_values: NotRequired[str]  # the type of stored channels, as "uint16"; "" of 8-bit RGB
    iteration: NotRequired[int]
    metrics: NotRequired[dict[str, float]]
    format: NotRequired[int]
    detframe_version: NotRequired[str]
    checksum: NotRequired[dict[str, str]]


class TrainingState(TypedDict):
    """What a training needs to go on, bit for bit."""

    iteration: int  # steps done
    max_iter: int
    finished: bool
    stop_reason: str
    optimizer: dict[str, Any]
    optimizer_names: NotRequired[list[str]]  # of the parameters that it numbers
    scaler: dict[str, Any]
    rng: list[dict[str, Any]]  # by rank
    hooks: dict[str, dict[str, Any]]  # by name
    infinite_buffers: NotRequired[list[str]]
    skipped: NotRequired[int]  # steps without their update
    images_seen: NotRequired[int]
    max_images: NotRequired[int]
    place: NotRequired[dict[str, Any]]  # in the data
    model: NotRequired[dict[str, Tensor]]  # the weights that are trained, where "model" is their average
    ema_updates: NotRequired[int]
    swa_updates: NotRequired[int]
    statistics: NotRequired[dict[str, Tensor]]  # running ones of training, where "model" has others (TEST.PRECISE_BN)


_META = {
    "config?": TEXT,
    "class_names?": [NAME],
    "category_ids?": [WHOLE],
    "iteration?": COUNT,
    "metrics?": NUMBERS,
    "format?": COUNT,
}


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint of detframe.

    Args:
        model: weights that predict, by their names.
        meta: what they mean; see `describe`.
        training: what going on needs; None in a file that is for use alone.
        source: the file, for messages.
    """

    model: Mapping[str, Tensor]
    meta: Meta
    training: TrainingState | None = None
    source: str | Path = "the checkpoint"

    @classmethod
    def read(cls, path: str | Path) -> Checkpoint:
        """The checkpoint in a file, on the CPU, its checksums compared.

        Raises:
            FileNotFoundError: no such file.
            ValueError: half-written, damaged, of a later version, or no checkpoint of detframe; what it is instead.
        """
        if not Path(path).exists():
            raise MissingFileError(f"checkpoint {path} does not exist")
        return cls.of(read_torch_file(path), path)

    @classmethod
    def of(cls, content: Any, source: str | Path) -> Checkpoint:
        """The checkpoint that the content of a file is; errors as of `read`."""
        if not cls.recognise(content):
            raise InvalidValueError(
                f"{source} is no checkpoint of detframe: it should hold 'model' and 'meta' with config, class_names, "
                f"category_ids; it {_looks_like(content)}. Weights of other programs go into MODEL.WEIGHTS of a config"
            )
        model, meta = content["model"], content["meta"]
        if not isinstance(model, Mapping):
            raise InvalidValueError(
                f"the model of {source} is {shown(model)}; it must be a dict of tensors by their names"
            )
        check_form(meta, _META, f"the meta of {source}")
        if meta.get("format", FORMAT) > FORMAT:
            raise InvalidValueError(
                f"{source} is of the format {meta['format']}, written by detframe {meta.get('detframe_version', '?')}; "
                f"this version reads formats up to {FORMAT}. Update detframe"
            )
        return cls(model, meta, content.get("training"), source)

    @staticmethod
    def recognise(content: Any) -> bool:
        """Whether the content of a file is that of a checkpoint of detframe, whole or not."""
        if not isinstance(content, Mapping) or "model" not in content:
            return False
        meta = content.get("meta")
        return isinstance(meta, Mapping) and ("class_names" in meta or "detframe_version" in meta)

    def write(self, path: str | Path, remedy: str = "") -> None:
        """Write it, whole or not at all, with checksums.

        Args:
            remedy: what to do about a full disk, for the message.

        Raises:
            OSError: it cannot be written; says what was needed and what is free. What was there before stays.
        """
        content: dict[str, Any] = {"model": dict(self.model), "meta": {"format": FORMAT, **self.meta}}
        if self.training is not None:
            content["training"] = self.training
        write_torch_file(content, Path(path), remedy)

    def copied(self) -> Checkpoint:
        """The same as it is now, in memory of its own on the CPU."""
        return replace(self, model=to_cpu(self.model, copy=True), training=to_cpu(self.training, copy=True))

    def for_use(self) -> Checkpoint:
        """The same without what only a training needs."""
        return replace(self, training=None)

    @property
    def state(self) -> TrainingState:
        """What going on needs.

        Raises:
            ValueError: the file is for use alone.
        """
        if self.training is None:
            raise InvalidValueError(
                f"{self.source} holds weights alone: MODEL.WEIGHTS {self.source} begins a new training with them, none "
                "goes on from it"
            )
        return self.training

    @property
    def class_names(self) -> tuple[str, ...]:
        """Label 1 first."""
        return tuple(self._said("class_names"))

    @property
    def category_ids(self) -> tuple[int, ...]:
        """In the annotation file of the training, by label."""
        return tuple(self._said("category_ids"))

    @property
    def iteration(self) -> int:
        """Steps that were done when it was saved."""
        return self.meta.get("iteration", 0) if self.training is None else self.training["iteration"]

    @property
    def metrics(self) -> dict[str, float]:
        """Of the last evaluation before it was saved."""
        return dict(self.meta.get("metrics", {}))

    def config(self) -> ConfigNode:
        """The config of the training, checked, over the defaults of this version. Nothing that it names is imported.

        Raises:
            ValueError: it is no config, not one of this version, or has values that no key may have; says why.
        """
        return carried_config(self._said("config"), self.source, self.meta.get("detframe_version", "?"))

    def settings(self) -> dict[str, Any]:
        """The config of the training by dotted keys, as it was written: perhaps with other keys than this version has.

        Raises:
            ValueError: it is no config.
        """
        source = f"the config in {self.source}"
        tree = safe_yaml(self._said("config"), source)
        if not isinstance(tree, dict):
            raise InvalidValueError(f"{source} is {shown(tree)}, no YAML with sections and keys")
        return dict(_flat(tree, ""))

    def _said(self, key: str) -> Any:
        if key not in self.meta:
            raise InvalidValueError(f"{self.source} is no whole checkpoint of detframe: its 'meta' says no {key}")
        return self.meta[key]  # type: ignore[literal-required]


def describe(cfg: ConfigNode, metadata: Metadata, input_values: str = "") -> Meta:
    """What the checkpoints of a training say about themselves.

    Args:
        cfg: the effective config.
        metadata: the training data's (class names, ids, keypoints).
        input_values: the type of the channels of its images, where these are stored ones.
    """
    import detframe

    return {
        "format": FORMAT,
        "detframe_version": detframe.__version__,
        "config": cfg.dump(),
        "class_names": list(metadata.class_names),
        "category_ids": [int(i) for i in metadata.category_ids],
        "keypoint_names": list(metadata.keypoint_names),
        "keypoint_flip_pairs": [[int(a), int(b)] for a, b in metadata.keypoint_flip_pairs],
        "keypoint_sigmas": [float(sigma) for sigma in metadata.keypoint_sigmas],
        "input_format": cfg.INPUT.FORMAT,
        "input_values": input_values,
    }


def _flat(tree: Mapping[str, Any], path: str) -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{path}{name}.")
        else:
            yield f"{path}{name}", value


def _looks_like(content: Any) -> str:
    if not isinstance(content, Mapping):
        return f"is a {type(content).__name__}"
    keys = [str(key) for key in content]
    listed = ", ".join(repr(key) for key in keys[:_SHOWN]) + (", ..." if len(keys) > _SHOWN else "")
    if keys and all(hasattr(value, "shape") for value in content.values()):
        return f"looks like bare weights of {len(keys)} parameters ({listed})"
    return f"holds {listed}" if keys else "is empty"
