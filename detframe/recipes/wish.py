"""What somebody asks of a recipe, and one choice of its."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from detframe.arrays.pixels import PixelForm
from detframe.config import ConfigNode, get_cfg
from detframe.recipes.spelling import given_words
from detframe.recipes.weights import FoundWeights

TASKS = ("box", "mask", "keypoint")
NEEDS = {"mask": "masks", "keypoint": "keypoints"}  # of the data, by the task
SIZES = ("small", "medium", "large")


@dataclass(frozen=True)
class Choice:
    """One key of the config, its value, and the number of the data or of the machine from which it follows."""

    key: str
    value: Any
    reason: str


@dataclass(frozen=True)
class Wish:
    """What was asked for; whatever is left out is chosen.

    Attributes:
        minutes: from the beginning of the command to its end, evaluation included; None for no limit.
        epochs: of the training; None to choose.
        model: "small", "medium" or "large"; "" to choose by the machine. Not looked at with a `base`.
        task: "box", "mask" or "keypoint".
        weights: what MODEL.WEIGHTS becomes.
        overrides: values that win over every choice, by key.
        most_per_process: images that a process takes in a step at most, as memory has shown; 0 for no such limit.
        base: the config whose model is trained, in place of one of the three sizes; `base_name` is its file.
    """

    minutes: float | None = None
    epochs: float | None = None
    model: str = ""
    task: str = "box"
    weights: FoundWeights = field(default_factory=lambda: FoundWeights("", "weights were not looked for"))
    overrides: Mapping[str, Any] = field(default_factory=dict)
    most_per_process: int = 0
    base: ConfigNode | None = None
    base_name: str = ""


class Picks:
    """Choices in the making. An override takes the place of what would be chosen, and later choices follow from it."""

    def __init__(self, wish: Wish) -> None:
        self.wish = wish
        self._base = wish.base if wish.base is not None else get_cfg()
        self._made: dict[str, Choice] = {}

    def set(self, key: str, value: Any, reason: str) -> Any:
        """Choose a value for a key, and return the one that holds: the override where there is one."""
        if key in self.wish.overrides:
            value, reason = self.wish.overrides[key], given_words()
        self._made[key] = Choice(key, value, reason)
        return value

    def drop(self, *keys: str) -> None:
        """Take choices back; what an override says stays."""
        for key in keys:
            self._made.pop(key, None)

    def get(self, key: str) -> Any:
        """The value of a key so far: overridden, chosen, of the base, or the default."""
        if key in self.wish.overrides:
            return self.wish.overrides[key]
        if key in self._made:
            return self._made[key].value
        node: Any = self._base
        for part in key.split("."):
            node = node[part]
        return node

    def reason(self, key: str) -> str:
        """Why a key that was chosen has its value."""
        return self._made[key].reason

    def is_given(self, key: str) -> bool:
        """Whether an override names the key."""
        return key in self.wish.overrides

    @property
    def as_stored(self) -> bool:
        """Whether images are the channels of their files in place of 8-bit colours."""
        return PixelForm.named(self.get("INPUT.CHANNELS"), self.get("INPUT.DEPTH")).as_stored

    def all(self) -> list[Choice]:
        """Every choice in the order of the config's keys, the overrides that nobody asked for among them."""
        for key, value in self.wish.overrides.items():
            self._made.setdefault(key, Choice(key, value, given_words()))
        order = [key for key, _ in self._base.leaves()]
        return sorted(self._made.values(), key=lambda choice: order.index(choice.key))
