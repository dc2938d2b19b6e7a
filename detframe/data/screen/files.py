"""What is odd about the files of images: unreadable, turned, of another size than annotated, grey, not used."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np

from detframe.arrays.pixels import COLOURS, PixelForm
from detframe.data.findings import ERROR, NOTE, WARNING, Finding, Kind
from detframe.data.listing import Listing
from detframe.data.screen.pictures import HEADERS_AT_MOST
from detframe.data.screen.split import Split, found

LOST = 0.1  # of the images of a split: so many that cannot be used spoil a training
SIZES_APART = 4.0  # times as many pixels

MISSING = Kind("image file is missing, and left out", "image files are missing, and left out", code="missing-image")
UNREADABLE = Kind(
    "image cannot be read; a training stops at it, or leaves it out with DATALOADER.ON_ERROR skip",
    "images cannot be read; a training stops at them, or leaves them out with DATALOADER.ON_ERROR skip",
    code="unreadable-image",
    remedy="fetch or export them again, or write a clean list without them with --write",
)
OTHER_SIZE = Kind(
    "image has another size than its annotations say, so its boxes do not fit; as an unreadable one, it is not used",
    "images have other sizes than their annotations say, so their boxes do not fit; as unreadable ones, they are not "
    "used",
    code="size-mismatch",
    remedy="scale the boxes, or take the images that were annotated",
)
SIDES_EXCHANGED = Kind(
    "image has its sides exchanged, since it was annotated without its EXIF orientation; as an unreadable one, it is "
    "not used",
    "images have their sides exchanged, since they were annotated without their EXIF orientation; as unreadable ones, "
    "they are not used",
    code="sides-exchanged",
    remedy="turn the files and remove the tag, or annotate the upright images",
)
ORIENTATION = Kind(
    "image is turned upright by its EXIF orientation; its boxes are taken as of the upright image",
    "images are turned upright by their EXIF orientation; their boxes are taken as of the upright images",
    code="exif-orientation",
    severity=NOTE,
    remedy="look at some with `detframe visualize-data`: some programs annotate such images as they are stored",
)
DEEP = Kind(
    "image has 16 bits a channel, of which the upper 8 are kept",
    "images have 16 bits a channel, of which the upper 8 are kept",
    code="16-bit-image",
    severity=NOTE,
    remedy="INPUT.DEPTH file keeps them all, with as many INPUT.CHANNELS as the images have (docs/channels.md)",
)
MORE_CHANNELS = Kind(
    "image is a TIFF with channels beside its colours, as transparency or infrared, which are left out",
    "images are TIFFs with channels beside their colours, as transparency or infrared, which are left out",
    code="channels-left-out",
    severity=NOTE,
    remedy="INPUT.CHANNELS with the number of all of them reads them too (docs/channels.md)",
)
SHALLOW = Kind(
    "image has 16 bits a channel and uses 14 or fewer, as cameras write it, so that it becomes dark, with few shades",
    "images have 16 bits a channel and use 14 or fewer, as cameras write them, so that they become dark, with few "
    "shades",
    code="dark-16-bit-image",
    remedy="multiply the values of all images of that camera by one power of two, so that its brightest possible value "
    "is near 65535, or read them with INPUT.DEPTH file (docs/channels.md)",
)
SEVERAL = Kind(
    "image file holds several frames or pages, of which the first is read",
    "image files hold several frames or pages, of which the first is read",
    code="several-frames",
    severity=NOTE,
)
GREY = Kind(
    "image is grey among coloured ones", "images are grey among coloured ones", code="grey-image", severity=NOTE
)
ONE_COLOUR = Kind(
    "image shows one colour and nothing else; it is kept",
    "images show one colour and nothing else; they are kept",
    code="blank-image",
    remedy="look at them: a camera that was covered, or a failed conversion",
)
SIZES = Kind(
    "size of image differs", "different sizes of images; each is resized by itself", code="mixed-sizes", severity=NOTE
)
NOT_USED = Kind(
    "image file is in no split, since nothing that was read annotates it; it is not used",
    "image files are in no split, since nothing that was read annotates them; they are not used",
    code="image-without-label",
    remedy="annotate such images, or give those that show background alone an empty label file",
)
SAMPLE = Kind(
    "image file was looked at, not more",
    "image files were looked at for their size and orientation, and the others not",
    code="sample",
    severity=NOTE,
    remedy="without --quick all are read",
)


def check_files(split: Split, skip: bool = True, form: PixelForm = COLOURS) -> list[Finding]:
    """What is odd about the image files of a split.

    Args:
        skip: those that cannot be used are left out, which spoils a training if they are many; else one of them does.
        form: what the training reads images as.
    """
    pictures = [split.pictures[path] for path in split.paths]
    missing = [i for i, p in enumerate(pictures) if not p.exists]
    unreadable = [i for i, p in enumerate(pictures) if p.exists and p.fault]
    other_size, exchanged = _sizes(split)
    unusable = len(unreadable) + len(other_size) + len(exchanged) + len(missing)
    severity = ERROR if unusable > LOST * len(pictures) or not skip else WARNING
    out = [
        *split.found_images(MISSING, missing, severity),
        *split.found(UNREADABLE, _faults(split, unreadable), len(unreadable), severity),
        *split.found(OTHER_SIZE, _stated(split, other_size), len(other_size), severity),
        *split.found(SIDES_EXCHANGED, _stated(split, exchanged), len(exchanged), severity),
        *split.found_images(ORIENTATION, [i for i, p in enumerate(pictures) if p.orientation > 1]),
        *split.found_images(DEEP, [i for i, p in enumerate(pictures) if p.bits > 8 and not form.as_stored]),
        *split.found_images(MORE_CHANNELS, [i for i, p in enumerate(pictures) if p.left_out and not form.as_stored]),
        *split.found_images(SHALLOW, [i for i, p in enumerate(pictures) if p.is_shallow]),
        *split.found_images(SEVERAL, [i for i, p in enumerate(pictures) if p.several]),
        *split.found_images(ONE_COLOUR, [i for i, p in enumerate(pictures) if p.is_one_colour]),
    ]
    grey = [i for i, p in enumerate(pictures) if p.is_grey]
    coloured = sum(p.thumbnail is not None for p in pictures) - len(grey)
    return [*out, *(split.found_images(GREY, grey) if coloured else []), *_mixed_sizes(split)]


def _sizes(split: Split) -> tuple[list[int], list[int]]:
    """The images whose file has (another size than annotated, the two sides exchanged)."""
    other, exchanged = list[int](), list[int]()
    for i, (path, stated) in enumerate(zip(split.paths, split.records.sizes_hw.tolist(), strict=True)):
        found_hw = split.pictures[path].size_hw
        if found_hw is not None and list(found_hw) != stated:
            (exchanged if list(found_hw) == stated[::-1] else other).append(i)
    return other, exchanged


def _faults(split: Split, unreadable: Sequence[int]) -> list[str]:
    """What images have that cannot be read, each fault once: "1.jpg is empty", "2.jpg likewise"."""
    first: dict[str, int] = {}
    faults = [(i, split.pictures[split.paths[i]].fault) for i in unreadable[: UNREADABLE.examples]]
    return [f"{split.image(i)} {fault if first.setdefault(fault, i) == i else 'likewise'}" for i, fault in faults]


def _stated(split: Split, indices: Sequence[int]) -> list[str]:
    """What the annotations and the files say: "1.jpg is 640x480, annotated as 480x640"."""
    out = []
    for i in indices[: OTHER_SIZE.examples]:
        height, width = split.records.sizes_hw[i].tolist()
        there = split.pictures[split.paths[i]].size_hw or (0, 0)
        out.append(f"{split.image(i)} is {there[1]}x{there[0]}, annotated as {width}x{height}")
    return out


def _mixed_sizes(split: Split) -> list[Finding]:
    """Said where the largest image has several times the pixels of the smallest one."""
    sizes, counts = np.unique(split.records.sizes_hw, axis=0, return_counts=True)
    areas = sizes.astype(np.int64).prod(axis=1)
    if len(sizes) < 2 or areas.max() < SIZES_APART * areas.min():
        return []
    ends = [("smallest", areas.argmin()), ("largest", areas.argmax()), ("most frequent", counts.argmax())]
    examples = [f"{word} {sizes[i][1]}x{sizes[i][0]}" for word, i in ends]
    return split.found(SIZES, examples, len(sizes))


def check_not_used(splits: Sequence[Split], listing: Listing) -> list[Finding]:
    """Image files below the data set's folder that no split has."""
    used = {os.path.normpath(path) for split in splits for path in split.paths}
    root = os.path.abspath(listing.root)
    left = [file.as_posix() for file in listing.images() if os.path.normpath(os.path.join(root, file)) not in used]
    return found(NOT_USED, "", left)


def check_sample(splits: Sequence[Split], decoded: bool) -> list[Finding]:
    """Said where there are too many files to look at each."""
    images = len({path for split in splits for path in split.paths})
    if decoded or images <= HEADERS_AT_MOST:
        return []
    looked = sum(p.size_hw is not None or bool(p.fault) for p in splits[0].pictures.values())
    return found(SAMPLE, "", [], looked)
