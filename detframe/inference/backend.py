"""What a Detector needs of that which computes: a model in PyTorch, or an exported file in its runtime."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from detframe.arrays.pixels import PixelForm
from detframe.inference.inputs import ImageLike

if TYPE_CHECKING:
    from detframe.backends import ModelCard
    from detframe.config import ConfigNode
    from detframe.inference.augmentation import AugmentedModel
    from detframe.modeling import GeneralizedRCNN

SizeHW = tuple[int, int]
# Several views of an image: True and False, keys of TEST.AUG, or None: as the config says
Augment = bool | Mapping[str, Any] | None


class Way(Protocol):
    """From what a user hands in to what was found, for the settings of one call; `form` says what images are."""

    form: PixelForm

    def load(self, source: ImageLike) -> tuple[Any, SizeHW]:
        """An image read and resized, and its size (height, width) before. Threads call it."""

    def shape(self, image: Any, size_hw: SizeHW) -> Hashable:
        """What images must have in common to be one batch; `size_hw` is the size before resizing.

        More padding would change what the convolutions see at the border, and a prediction must not depend on the
        images that happen to come with it.
        """

    def run(self, images: Sequence[Any], sizes_hw: Sequence[SizeHW]) -> Sequence[Mapping[str, Any]]:
        """Predictions of a batch, on the CPU, in the coordinates before resizing, masks on their boxes."""


class Backend(Protocol):
    """What computes, and what is known of it. The properties are those of `Detector`."""

    torch_native: bool  # its results are tensors of torch
    source: str  # what messages call it
    form: PixelForm  # what images are

    @property
    def model(self) -> GeneralizedRCNN: ...
    @property
    def card(self) -> ModelCard | None: ...
    @property
    def cfg(self) -> ConfigNode: ...
    @property
    def meta(self) -> dict[str, Any]: ...
    @property
    def device(self) -> Any: ...
    @property
    def amp_dtype(self) -> Any: ...
    @property
    def class_names(self) -> tuple[str, ...]: ...
    @property
    def category_ids(self) -> tuple[int, ...]: ...

    @property
    def tiles(self) -> Mapping[str, Any]:
        """INPUT.TILES of its config, as far as it has them."""

    def augmented(self, augment: Augment) -> AugmentedModel | None:
        """See `Detector.augmented`."""

    def way(self, nms: str | None, augment: Augment, score_threshold: float) -> Way:
        """How images are predicted, for these arguments of `Detector.predict`.

        Raises:
            ValueError, KeyError: there is no such NMS, or there are no such views.
        """
