"""The transform of torchvision.transforms.v2 or of Albumentations that an entry of INPUT.TRANSFORMS names."""

from __future__ import annotations

import inspect
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torchvision.transforms import v2

from detframe.data.transforms.arguments import check_arguments, parameters
from detframe.data.transforms.third_party import ForeignTransform, FromAlbumentations, FromTorchvision
from detframe.errors import InvalidValueError, MissingModuleError, UnknownNameError
from detframe.registry import nearest

TORCHVISION, ALBUMENTATIONS = "v2.", "albumentations."
_REFUSED = {  # of either library
    "SanitizeBoundingBoxes": "objects without area are removed after every entry; see INPUT.MIN_VISIBLE",
    "SanitizeKeyPoints": "keypoints outside become absent by themselves",
    "ClampBoundingBoxes": "boxes are clipped after every entry",
    "ClampKeyPoints": "keypoints outside become absent by themselves",
    "SetClampingMode": "boxes are clipped after every entry",
    "ConvertBoundingBoxFormat": "boxes have one form everywhere",
    "Lambda": "it is made of functions",
    "MixUp": "it mixes batches for classification; the entry MixUp mixes objects",
    "CutMix": "it mixes batches for classification; the entry Mosaic mixes objects",
    "Normalize": "the model does it (INPUT.PIXEL_MEAN, PIXEL_STD)",
    "FiveCrop": "it makes several images of one",
    "TenCrop": "it makes several images of one",
    "UniformTemporalSubsample": "it is for videos",
    "LinearTransformation": "it gives numbers that are no pixels",
    **dict.fromkeys(("ToTensor", "ToImage", "ToDtype", "ConvertImageDtype"), "images keep their type"),
    **dict.fromkeys(("ToPILImage", "PILToTensor", "ToPureTensor"), "images keep their type"),
    **dict.fromkeys(("ToFloat", "FromFloat", "ToTensorV2", "ToTensor3D"), "images keep their type"),
    "CropNonEmptyMaskIfExists": "it goes by one mask for all objects; the entry RandomCropWithObjects keeps objects",
    **dict.fromkeys(
        ("AutoAugment", "RandAugment", "TrivialAugmentWide", "AugMix"), "it moves the image and not its boxes"
    ),
}
_KEEP_SIZE = {  # transforms of torchvision after which an image is as large as before
    *("ColorJitter", "ElasticTransform", "GaussianBlur", "GaussianNoise", "Grayscale", "Identity", "JPEG", "RGB"),
    *("RandomAdjustSharpness", "RandomAffine", "RandomAutocontrast", "RandomChannelPermutation", "RandomEqualize"),
    *("RandomErasing", "RandomGrayscale", "RandomHorizontalFlip", "RandomInvert", "RandomPerspective"),
    *("RandomPhotometricDistort", "RandomPosterize", "RandomRotation", "RandomSolarize", "RandomVerticalFlip"),
}
_KEEP_SIZE_TOO = {  # and of Albumentations, beside those that change pixels alone
    *("Affine", "CoarseDropout", "ConstrainedCoarseDropout", "CropAndPad", "ElasticTransform", "Erasing", "NoOp"),
    *("GridDistortion", "GridDropout", "GridElasticDeform", "HorizontalFlip", "Morphological", "OpticalDistortion"),
    *("Perspective", "PiecewiseAffine", "PixelDropout", "RandomGridShuffle", "Rotate", "SafeRotate"),
    *("ShiftScaleRotate", "ThinPlateSpline", "VerticalFlip", "XYMasking"),
}
_BASES = ("BasicTransform", "DualTransform", "ImageOnlyTransform", "Transform3D")  # of Albumentations
_HANDED = {"image", "bboxes", "keypoints"}  # what transforms of Albumentations are always given
_OWN_P = ("RandomPhotometricDistort",)  # whose p is that of each of its changes, and stays as it is by default


@dataclass(frozen=True)
class Found:
    """A transform of another library, made, and what is to be known of it."""

    transform: ForeignTransform
    arguments: dict[str, Any]
    default_p: float


def find_foreign(where: str, name: str, given: Mapping[str, Any], pairs: Sequence[tuple[int, int]]) -> Found:
    """The transform that an entry names with "v2." or "albumentations." in front.

    Args:
        where: what is said first in an error.
        given: the arguments, without `p` and `close`.

    Raises:
        KeyError: there is none of that name; the nearest are named.
        ValueError: an argument that it does not take, or a transform that does not fit among those of training images.
        ImportError: Albumentations is not installed.
    """
    family = TORCHVISION if name.startswith(TORCHVISION) else ALBUMENTATIONS
    short = name.removeprefix(family)
    known = _torchvision() if family == TORCHVISION else _albumentations(where)
    if short not in known:
        usable = [one for one in known if one not in _REFUSED]
        raise UnknownNameError(f"{where} is no transform of {_library(family)}; {nearest(short, usable)}")
    factory = known[short]
    takes = parameters(factory)
    _check_fits(where, short, factory, takes)
    default = takes["p"].default if "p" in takes else 1.0
    own_p = short in _OWN_P
    free = {key: one for key, one in takes.items() if key != "p"}
    check_arguments(where, free, given)
    arguments = {**given, **({"p": 1.0} if "p" in takes and not own_p else {})}
    try:
        made = factory(**arguments)
    except Exception as error:  # of any class, as the library likes
        raise InvalidValueError(f"{where}({_written(given)}): {_complaint(error)}") from error
    needed = set(getattr(made, "targets_as_params", ())) - _HANDED
    if needed:
        raise _misfit(where, f"it needs {', '.join(sorted(needed))}")
    if getattr(made, "num_output_channels", 3) == 1:
        raise _misfit(where, "it leaves one channel, and images keep theirs; give it num_output_channels: 3")
    keeps = _keeps_size(family, short, made, given)
    kind = FromTorchvision if family == TORCHVISION else FromAlbumentations
    shown = {key: given.get(key, one.default) for key, one in free.items()}
    return Found(kind(name, made, keeps, pairs), shown, 1.0 if own_p else float(default))


def same_elsewhere(name: str) -> list[str]:
    """The transforms of other libraries that an entry without v2. or albumentations. in front may mean: those of its
    name, as an entry has them."""
    short = name.rpartition(".")[2].lower()
    try:
        installed = _albumentations(name)
    except MissingModuleError:
        installed = {}
    families = ((TORCHVISION, _torchvision()), (ALBUMENTATIONS, installed))
    return [family + one for family, known in families for one in known if one.lower() == short]


def _check_fits(where: str, short: str, factory: type, takes: Mapping[str, inspect.Parameter]) -> None:
    """Raises ValueError: a transform does not fit among those of training images."""
    if short in _REFUSED:
        raise _misfit(where, _REFUSED[short])
    if "transforms" in takes or "lambd" in takes:
        raise _misfit(where, "it is made of other transforms or functions; name those one by one")
    if any(base.__name__ == "Transform3D" for base in factory.__mro__):
        raise _misfit(where, "it is for volumes")


def _misfit(where: str, reason: str) -> InvalidValueError:
    return InvalidValueError(f"{where} does not belong into this list: {reason}")


def _library(family: str) -> str:
    return "torchvision.transforms.v2" if family == TORCHVISION else "Albumentations"


def _complaint(error: Exception) -> str:
    """What a library says of arguments; of pydantic, which Albumentations asks, sentences without types and links."""
    checked = next((one for one in (error, error.__cause__, error.__context__) if hasattr(one, "errors")), None)
    if checked is None:
        return str(error)
    said: dict[str, list[str]] = {}
    for row in checked.errors():
        said.setdefault(str(row["loc"][0]) if row["loc"] else "arguments", []).append(str(row["msg"]))
    return "; ".join(f"{argument}: {', or: '.join(dict.fromkeys(texts))}" for argument, texts in said.items())


def _written(given: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={value!r}" for key, value in given.items())


def _torchvision() -> dict[str, Any]:
    return {
        name: one
        for name, one in vars(v2).items()
        if inspect.isclass(one) and issubclass(one, v2.Transform) and one is not v2.Transform
    }


def _albumentations(where: str) -> dict[str, Any]:
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # else it asks the network for a newer one
    try:
        import albumentations
    except ImportError as error:
        raise MissingModuleError(
            f"{where} needs Albumentations, which cannot be imported ({error}): pip install 'detframe[albumentations]'"
        ) from error
    kinds = (albumentations.BasicTransform, albumentations.BaseCompose)
    return {
        name: one
        for name, one in vars(albumentations).items()
        if inspect.isclass(one) and issubclass(one, kinds) and name not in _BASES
    }


def _keeps_size(family: str, name: str, made: Any, given: Mapping[str, Any]) -> bool:
    if family == TORCHVISION:
        return name in _KEEP_SIZE and not given.get("expand", False)
    import albumentations

    if isinstance(made, albumentations.ImageOnlyTransform):
        return True
    changes = given.get("fit_output", False) or given.get("crop_border", False) or not given.get("keep_size", True)
    return name in _KEEP_SIZE_TOO and not changes
