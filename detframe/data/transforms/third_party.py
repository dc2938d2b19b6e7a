"""Transforms of torchvision.transforms.v2 and of Albumentations, by name, as transforms of detframe.

They draw from random numbers of their own; these are seeded from the sample's generator, and put back. They know
nothing of left and right keypoints, nor of masks as polygons: some points that go along tell what became of the image,
so that rows are exchanged where it was mirrored, and masks are drawn only where something moved.

Legend: N objects, I ignored regions, M = N + I boxes, K of them left, Q points.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from detframe.arrays.outlines import ring_area
from detframe.data.scaled import SizeHW
from detframe.data.transforms.targets import exchange_sides, tightened, to_image, to_rows, with_lazy_masks
from detframe.errors import InvalidValueError
from detframe.structures import LazyMasks, Target, select
from detframe.structures.lazy_masks import encode
from detframe.structures.polygons import clip_polygon

_OF_COLOURS = {  # transforms of torchvision that take the values of pixels for colours from 0 to 255, or from 0 to 1
    *("ColorJitter", "GaussianNoise", "Grayscale", "JPEG", "RGB", "RandomAdjustSharpness", "RandomAutocontrast"),
    *("RandomEqualize", "RandomGrayscale", "RandomInvert", "RandomPhotometricDistort", "RandomPosterize"),
    "RandomSolarize",
}
# Of Albumentations, those that resize the whole image: they multiply points by a scale that is not yet rounded to the
# whole pixels of the image after
_RESIZING = {"LongestMaxSize", "RandomScale", "Resize", "SmallestMaxSize"}
# and those that resize a part of it: they multiply points by the scale, which is where the image goes if points count
# from the corner of the first pixel, as boxes do
_RESIZING_PARTS = {"CropAndPad", "RandomResizedCrop", "RandomSizedBBoxSafeCrop", "RandomSizedCrop"}
_AFFINE_PIXELS = 0.01  # what is not nearer to an affine map is none
_BESIDE_PIXELS = 0.05  # a box that is farther than this from where an affine map puts it lies beside its object
_GRID = 8  # points along each side of a box, which tell how much of it is left
# Corners of small triangles all over the image, each with legs to the right and down, as parts of the sides
_CORNERS = torch.cartesian_prod(*[(torch.arange(6) + 0.5) / 6] * 2)
_PROBE = (_CORNERS[:, None] + torch.tensor([[0.0, 0.0], [0.02, 0.0], [0.0, 0.02]])).reshape(-1, 2)


@dataclass(frozen=True)
class _Given:
    """An image, and all that lies in it."""

    image: Tensor
    boxes: Tensor  # float32 (M, 4): of objects, and after them ignored regions
    objects: int  # N
    points: Tensor  # float32 (Q, 2)
    masks: np.ndarray | None = None  # (N, H, W)

    @property
    def size_hw(self) -> SizeHW:
        return self.image.shape[-2], self.image.shape[-1]


@dataclass
class _Moved:
    """What a transform of another library made of an image, and of all that lies in it."""

    image: Tensor
    boxes: Tensor  # float32 (K, 4)
    rows: Tensor  # int64 (K,): which of the M boxes are left
    points: Tensor  # float32 (Q, 2)
    masks: np.ndarray | None  # (N, H, W), as many as there were


class ForeignTransform:
    """A transform of another library. Errors in it say which entry failed on which image."""

    cuts = True
    encloses = False  # whether boxes are moved here where an affine map moves the image, since the library's lie beside
    min_visible = 0.0  # INPUT.MIN_VISIBLE; other libraries clip boxes themselves, so that it is counted here

    def __init__(self, name: str, keeps_size: bool, pairs: Sequence[tuple[int, int]]) -> None:
        self.name, self.keeps_size, self.pairs = name, keeps_size, tuple(pairs)

    def run(self, given: _Given, seed: int) -> _Moved:
        """What the transform makes of an image (C, H, W), seeded by `seed`."""
        raise NotImplementedError

    def __call__(self, image: Tensor, target: Target, generator: Generator) -> tuple[Tensor, Target]:
        """See the module."""
        target = with_lazy_masks(target)
        seed = int(torch.randint(2**31, (), generator=generator))
        size_hw = (image.shape[-2], image.shape[-1])
        ignored = target.get("ignore_boxes", torch.zeros(0, 4))
        boxes = torch.cat([target["boxes"], ignored]).clamp(min=0)
        boxes = torch.minimum(boxes, boxes.new_tensor([size_hw[1], size_hw[0]] * 2))
        probe = _PROBE * boxes.new_tensor([size_hw[1], size_hw[0]])
        keypoints = target.get("keypoints", torch.zeros(0, 0, 3))
        points = torch.cat([probe, keypoints[..., :2].reshape(-1, 2)])
        if self.min_visible > 0:
            points = torch.cat([points, _grid(target["boxes"])])
        masks = target.get("masks")
        given = _Given(image, boxes, len(target["boxes"]), points)
        done = self._checked(given, seed, target)
        moved = done.image.shape != image.shape or not torch.allclose(done.points[: len(probe)], probe, atol=1e-3)
        if not moved:
            return done.image, target
        if isinstance(masks, LazyMasks):
            done = self._checked(replace(given, masks=masks.decode().numpy()), seed, target)
        return done.image, self._target(target, given, done)

    def _checked(self, given: _Given, seed: int, target: Target) -> _Moved:
        image = given.image
        shape = f"{tuple(image.shape)} {image.dtype}"
        where = f"INPUT.TRANSFORMS: {self.name}, on image {target.get('image_id', '?')} of {shape}"
        try:
            done = self.run(given, seed)
        except Exception as error:  # of any class, as the library likes
            raise InvalidValueError(f"{where}: {type(error).__name__}: {error}") from error
        if done.image.dtype != image.dtype or done.image.ndim != 3 or done.image.shape[0] != image.shape[0]:
            raise InvalidValueError(
                f"{where}: it gives {tuple(done.image.shape)} {done.image.dtype}, and must keep type and channels"
            )
        return done

    def _target(self, target: Target, given: _Given, done: _Moved) -> Target:
        size_hw = (done.image.shape[-2], done.image.shape[-1])
        count = len(target["labels"])
        objects = done.rows < count
        keypoints = target["keypoints"][..., 0].numel() if "keypoints" in target else 0
        spread = [*range(len(_PROBE)), *range(len(_PROBE) + keypoints, len(given.points))]
        matrix = _affine_of(given.points[spread], done.points[spread], size_hw)
        if self.min_visible > 0:
            enough = _left(given.boxes[:count], done.points, matrix, size_hw) >= self.min_visible
            objects &= torch.cat([enough, enough.new_zeros(len(done.rows))])[done.rows.clamp(max=count)]
        out: Target = {**target}
        if "keypoints" in target:
            out["keypoints"] = self._keypoints(target["keypoints"], done, matrix, size_hw)
        if isinstance(target.get("masks"), LazyMasks) and done.masks is not None:
            old = target["masks"].segmentations  # type: ignore[union-attr]
            drawn = [encode(mask) if len(before) else [] for before, mask in zip(old, done.masks, strict=True)]
            out["masks"] = LazyMasks(drawn, size_hw)
        boxes = done.boxes
        if self.encloses and matrix is not None:
            boxes = _placed(given.boxes[done.rows], boxes, matrix, size_hw)
        out = select(out, done.rows[objects])
        out["boxes"] = boxes[objects]
        if "ignore_boxes" in target:
            out["ignore_boxes"] = boxes[done.rows >= count]
        out = tightened(out, size_hw, _cut(given.boxes[done.rows[objects]], out["boxes"], matrix, size_hw))
        return exchange_sides(out, self.pairs) if _mirrored(done.points[: len(_PROBE)], size_hw) else out

    @staticmethod
    def _keypoints(before: Tensor, done: _Moved, matrix: Tensor | None, size_hw: SizeHW) -> Tensor:
        """Keypoints (N, P, 3) after; those that have left become absent. Those on the border stay, where the map of the
        image tells them from those that other libraries have clipped to it."""
        first = len(_PROBE)
        if matrix is None:
            xy = done.points[first : first + before[..., 0].numel()].reshape(*before.shape[:2], 2)
            there = _inside(xy, size_hw)
        else:
            mapped = (before[..., :2].double() @ matrix[:2] + matrix[2]).mul(1e4).round().div(1e4).to(before.dtype)
            limit = before.new_tensor([size_hw[1], size_hw[0]])
            xy = torch.minimum(mapped.clamp(min=0), limit)
            there = ((mapped - xy).abs() < _AFFINE_PIXELS).all(-1)
        return torch.cat([xy, before[..., 2:]], -1) * (there[..., None] & (before[..., 2:] > 0))


def _grid(boxes: Tensor) -> Tensor:
    """Points spread evenly in each box, float32 (N * _GRID**2, 2)."""
    steps = (torch.arange(_GRID) + 0.5) / _GRID
    parts = torch.cartesian_prod(steps, steps)
    return (boxes[:, None, :2] + (boxes[:, None, 2:] - boxes[:, None, :2]) * parts).reshape(-1, 2)


def _left(boxes: Tensor, after: Tensor, matrix: Tensor | None, size_hw: SizeHW) -> Tensor:
    """The part of each box that an image still shows, float64 (N,): to the pixel where an affine map has moved all of
    it, as a crop or a rotation is one, else counted in the points of `_grid`.

    Args:
        boxes: float32 (N, 4), before.
        after: float32 (Q, 2), the points that have gone along; the last ones are those of `_grid`.
        matrix: as of `_affine_of`.
        size_hw: of the image after.
    """
    if matrix is None:
        inside = _inside(after[len(after) - len(boxes) * _GRID**2 :], size_hw)
        return inside.reshape(len(boxes), _GRID**2).double().mean(1)
    corners = _corners(boxes, matrix)
    whole = boxes.double()[:, 2:].sub(boxes[:, :2]).prod(1) * torch.linalg.det(matrix[:2]).abs()
    window = (0.0, 0.0, float(size_hw[1]), float(size_hw[0]))
    seen = [ring_area(clip_polygon(polygon, window)) for polygon in corners.numpy()]
    # of coordinates in float32 the last digits are noise, and a box that is left whole has all of itself
    return (whole.new_tensor(seen) / whole.clamp(min=torch.finfo(torch.float64).tiny)).mul(1e6).round().div(1e6)


def _corners(boxes: Tensor, matrix: Tensor) -> Tensor:
    """Where an affine map (see `_affine_of`) puts the corners of boxes (N, 4), float64 (N, 4, 2)."""
    return boxes.double()[:, [[0, 1], [2, 1], [2, 3], [0, 3]]] @ matrix[:2] + matrix[2]


def _cut(before: Tensor, after: Tensor, matrix: Tensor | None, size_hw: SizeHW) -> Tensor:
    """bool (K,): which boxes, clipped by the library, reach over the border of an image of `size_hw`. Without an affine
    map these are taken to be those that end there."""
    limit = after.new_tensor([size_hw[1], size_hw[0]])
    if matrix is None:
        return (after[:, :2] <= 0).any(1) | (after[:, 2:] >= limit).any(1)
    corners = _corners(before, matrix)
    return ((corners < -_AFFINE_PIXELS) | (corners > limit + _AFFINE_PIXELS)).flatten(1).any(1)


def _placed(before: Tensor, moved: Tensor, matrix: Tensor, size_hw: SizeHW) -> Tensor:
    """Boxes as the library has `moved` them, float32 (K, 4), or where these lie beside their objects, those around the
    corners that the map of the image gives boxes `before`, clipped to an image of `size_hw`."""
    corners = _corners(before, matrix)
    limit = corners.new_tensor([size_hw[1], size_hw[0]] * 2)
    around = torch.minimum(torch.cat([corners.amin(1), corners.amax(1)], 1).clamp(min=0), limit).to(moved.dtype)
    beside = ((around - moved).abs() > _BESIDE_PIXELS).any(1, keepdim=True)
    return torch.where(beside, around, moved)


def _affine_of(before: Tensor, after: Tensor, size_hw: SizeHW) -> Tensor | None:
    """The affine map that has moved points (Q, 2), float64 (3, 2) for rows (x, y, 1), by those that lie inside an image
    of `size_hw`; None where there is none, or too few of them do."""
    inside = _inside(after, size_hw)
    before, after = before[inside].double(), after[inside].double()
    if len(before) < 3:
        return None
    rows = torch.cat([before, before.new_ones(len(before), 1)], 1)
    found = torch.linalg.lstsq(rows, after, driver="gelsd")
    exact = int(found.rank) == 3 and bool((rows @ found.solution - after).abs().max() < _AFFINE_PIXELS)
    return found.solution if exact else None


def _mirrored(probe: Tensor, size_hw: SizeHW) -> bool:
    """Whether most of the triangles of `_PROBE` that are still whole turn the other way."""
    first, second, third = probe.double().reshape(-1, 3, 2).unbind(1)
    along, down = second - first, third - first
    whole = _inside(probe, size_hw).reshape(-1, 3).all(1)
    turns = torch.sign(along[:, 0] * down[:, 1] - along[:, 1] * down[:, 0])
    return bool(turns[whole].sum() < 0)


def _inside(xy: Tensor, size_hw: SizeHW) -> Tensor:
    """bool (...): which points (..., 2) lie inside an image; those on its border are taken for clipped there."""
    return ((xy > 0) & (xy < xy.new_tensor([size_hw[1], size_hw[0]]))).all(-1)


class FromTorchvision(ForeignTransform):
    """A transform of torchvision.transforms.v2."""

    def __init__(self, name: str, transform: v2.Transform, keeps_size: bool, pairs: Sequence[tuple[int, int]]) -> None:
        super().__init__(name, keeps_size, pairs)
        self.transform, self.of_colours = transform, type(transform).__name__ in _OF_COLOURS

    def run(self, given: _Given, seed: int) -> _Moved:
        """See `ForeignTransform`; points go along as boxes without an area."""
        with _seeded(seed):
            if isinstance(self.transform, v2.RandomErasing):  # which warns of everything but images
                erased = self.transform(tv_tensors.Image(given.image)).as_subclass(Tensor)
                return _Moved(erased, given.boxes, torch.arange(len(given.boxes)), given.points, given.masks)
            if isinstance(self.transform, v2.RandomIoUCrop):
                return _cropped(self.transform, given)
            return self._moved(given)

    def _moved(self, given: _Given) -> _Moved:
        rows = torch.cat([given.boxes, given.points.repeat(1, 2)])
        sample: dict[str, Any] = {
            "image": tv_tensors.Image(given.image),
            "boxes": tv_tensors.BoundingBoxes(rows, format="XYXY", canvas_size=given.size_hw),
        }
        if given.masks is not None:
            sample["masks"] = tv_tensors.Mask(torch.from_numpy(given.masks))
        done = self.transform(sample)
        out = done["boxes"].as_subclass(Tensor).float()
        drawn = done["masks"].numpy() if given.masks is not None else None
        pixels = done["image"].as_subclass(Tensor)
        count = len(given.boxes)
        return _Moved(pixels, out[:count], torch.arange(count), out[count:, :2], drawn)


def _cropped(transform: v2.RandomIoUCrop, given: _Given) -> _Moved:
    """RandomIoUCrop: by the objects alone it chooses a part of the image, in which those stay whose centre it shows."""
    objects = tv_tensors.BoundingBoxes(given.boxes[: given.objects], format="XYXY", canvas_size=given.size_hw)
    rows = torch.arange(len(given.boxes))
    # without any object it would look for one without end
    chosen = transform.make_params([tv_tensors.Image(given.image), objects]) if given.objects else {}
    if not chosen:
        return _Moved(given.image, given.boxes, rows, given.points, given.masks)
    left, top = chosen["left"], chosen["top"]
    right, bottom = left + chosen["width"], top + chosen["height"]
    kept = torch.cat([rows[: given.objects][chosen["is_within_crop_area"]], rows[given.objects :]])
    corner = given.points.new_tensor([left, top])
    limit = corner.new_tensor([right - left, bottom - top]).repeat(2)
    boxes = torch.minimum((given.boxes[kept] - corner.repeat(2)).clamp(min=0), limit)
    masks = None if given.masks is None else given.masks[:, top:bottom, left:right]
    return _Moved(given.image[:, top:bottom, left:right].contiguous(), boxes, kept, given.points - corner, masks)


class FromAlbumentations(ForeignTransform):
    """A transform of Albumentations."""

    def __init__(self, name: str, transform: Any, keeps_size: bool, pairs: Sequence[tuple[int, int]]) -> None:
        import albumentations

        super().__init__(name, keeps_size, pairs)
        self.pixels_alone = self.of_colours = isinstance(transform, albumentations.ImageOnlyTransform)
        self.encloses = getattr(transform, "rotate_method", "largest_box") == "largest_box"
        self.resizes = type(transform).__name__ in _RESIZING
        self.centre = 0.0 if type(transform).__name__ in _RESIZING_PARTS else 0.5
        boxes = albumentations.BboxParams(format="pascal_voc", label_fields=["rows"], clip=True)
        points = albumentations.KeypointParams(format="xy", remove_invisible=False, label_fields=["numbers"])
        along = {} if self.pixels_alone else {"bbox_params": boxes, "keypoint_params": points}
        self.transform = albumentations.Compose([transform], **along)

    def run(self, given: _Given, seed: int) -> _Moved:
        """See `ForeignTransform`. Boxes count from the corner of the first pixel there, points mostly its centre."""
        self.transform.set_random_seed(seed)
        if self.pixels_alone:
            changed = to_image(np.ascontiguousarray(self.transform(image=to_rows(given.image))["image"]))
            return _Moved(changed, given.boxes, torch.arange(len(given.boxes)), given.points, given.masks)
        sample: dict[str, Any] = {
            "image": to_rows(given.image),
            "bboxes": given.boxes.numpy(),
            "rows": np.arange(len(given.boxes)),
            "keypoints": given.points.numpy() - self.centre,
            "numbers": np.arange(len(given.points)),
        }
        if given.masks is not None and len(given.masks):
            sample["masks"] = given.masks.astype(np.uint8)
        done = self.transform(**sample)
        rows = torch.as_tensor(np.asarray(done["rows"], dtype=np.int64))
        kept = torch.as_tensor(np.asarray(done["bboxes"], dtype=np.float32).reshape(-1, 4))
        pixels = to_image(np.ascontiguousarray(done["image"]))
        drawn = np.asarray(done["masks"]) if "masks" in sample else given.masks
        if self.resizes:
            scale = given.points.new_tensor([pixels.shape[-1] / given.size_hw[1], pixels.shape[-2] / given.size_hw[0]])
            return _Moved(pixels, kept, rows, given.points * scale, drawn)
        moved = torch.full_like(given.points, -1.0)  # where a distortion loses a point, it has left the image
        found = torch.as_tensor(np.asarray(done["numbers"], dtype=np.int64))
        moved[found] = torch.as_tensor(np.asarray(done["keypoints"], dtype=np.float32).reshape(-1, 2)) + self.centre
        return _Moved(pixels, kept, rows, moved, drawn)


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Inside, the random numbers of the CPU begin at a seed; afterwards they go on as before."""
    state = torch.get_rng_state()
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        torch.set_rng_state(state)
