"""The screen finds every fault of a data set, counts it right, and finds nothing where there is nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from detframe.data.findings import Finding
from detframe.data.listing import Listing
from detframe.data.screen import examine, screen
from tests.data.screen.faults import boxes, by_code, clean, picture, records
from tests.data.sets import pixels, save_image


def of(findings: list[Finding], code: str) -> Finding:
    (found,) = [finding for finding in findings if finding.code == code]
    return found


def test_a_clean_data_set_has_no_finding(tmp_path: Path) -> None:
    sets = {"train": records(clean(tmp_path, "train", 0)), "val": records(clean(tmp_path, "val", 10))}
    assert screen(sets, Listing(tmp_path), decode=True) == []
    assert screen(sets, Listing(tmp_path), decode=False) == []


def test_nothing_at_all() -> None:
    assert screen({}) == []
    assert by_code(screen({"train": records([])})) == {("train", "no-images"): ("error", 1)}


def test_no_objects_is_an_error_in_either_split(tmp_path: Path) -> None:
    empty = [(path, []) for path, _ in clean(tmp_path, "train", 0)]
    found = by_code(screen({"train": records(empty), "val": records(clean(tmp_path, "val", 10))}))
    assert found == {("train", "no-objects"): ("error", 10)}
    found = by_code(screen({"train": records(clean(tmp_path, "val", 10)), "val": records(empty)}))
    assert found == {("val", "no-objects"): ("error", 10)}


def test_images_without_objects_are_a_note_and_a_warning_where_they_are_most(tmp_path: Path) -> None:
    images = clean(tmp_path, "train", 0)
    some = records([*images[:7], *((path, []) for path, _ in images[7:])], ["cat", "dog"])
    most = records([*images[:4], *((path, []) for path, _ in images[4:])], ["cat", "dog"])
    assert by_code(screen({"train": some}))["train", "images-without-objects"] == ("note", 3)
    assert by_code(screen({"train": most}))["train", "images-without-objects"] == ("warning", 6)


def test_one_image_and_one_class(tmp_path: Path) -> None:
    image = clean(tmp_path, "train", 0, count=1)
    only = records([(image[0][0], [((2, 2, 30, 30), 1)] * 1)], ["cat"])
    found = by_code(screen({"train": only, "val": only}))
    assert found == {
        ("train", "one-image"): ("warning", 1),
        ("train", "rare-class"): ("note", 1),
        ("val", "few-images"): ("note", 1),
        ("val", "image-in-both-splits"): ("warning", 1),  # said, but meant so: there is no other image
    }


# ---------------------------------------------------------------------------------------------- boxes
def test_suspicious_boxes(tmp_path: Path) -> None:
    images = clean(tmp_path, "train", 0)
    odd = [
        ((1, 1, 2.5, 20), 1),  # tiny
        ((2, 40, 62, 42.5), 1),  # narrow: 24 times as wide as high
        ((0, 0, 64, 48), 2),  # the whole image
        ((5, 5, 25, 25), 1),
        ((5.5, 5, 25, 25), 1),  # on the one before
        ((30, 5, 50, 25), 1),
        ((30, 5, 50, 25), 2),  # the same with another class
    ]
    found = screen({"train": records([*images, (picture(tmp_path / "train" / "odd.png", 99), odd)])})
    assert by_code(found) == {
        ("train", "tiny-box"): ("warning", 1),
        ("train", "narrow-box"): ("warning", 1),
        ("train", "whole-image-box"): ("note", 1),
        ("train", "boxes-on-one-another"): ("warning", 1),
        ("train", "two-classes-one-box"): ("warning", 1),
    }
    assert of(found, "tiny-box").examples == ("'cat' of 1.5x19 pixels at 1, 1 in odd.png",)
    assert of(found, "whole-image-box").examples == ("'dog' of 64x48 pixels at 0, 0 in odd.png",)


def test_boxes_of_whole_images_are_a_warning_where_they_are_many(tmp_path: Path) -> None:
    images = [(path, [*objects, ((0, 0, 64, 48), 1)]) for path, objects in clean(tmp_path, "train", 0)]
    assert by_code(screen({"train": records(images)})) == {("train", "whole-image-box"): ("warning", 10)}


def test_boxes_that_merely_overlap_are_not_reported(tmp_path: Path) -> None:
    rows = [((x, 4, x + 12, 30), 1) for x in range(0, 50, 2)]  # intersection over union 0.71
    images = [(path, rows) for path, _ in clean(tmp_path, "train", 0)]
    assert screen({"train": records(images, ["cat"])}) == []


def test_boxes_on_one_another_are_found_among_many(tmp_path: Path) -> None:
    rows = [((x * 0.9, y, x * 0.9 + 10, y + 10), 1) for x in range(0, 60, 6) for y in range(0, 36, 6)]
    twins = [((x * 0.9 + 0.2, y, x * 0.9 + 10, y + 10), 1) for x in range(0, 60, 6) for y in range(0, 36, 6)]
    images = [(path, [*rows, *twins]) for path, _ in clean(tmp_path, "train", 0)]
    found = by_code(screen({"train": records(images, ["cat"])}, decode=False))
    assert found == {("train", "boxes-on-one-another"): ("warning", 10 * len(rows))}


def test_what_the_reader_found_is_there_with_its_split(tmp_path: Path) -> None:
    images = clean(tmp_path, "train", 0)
    images[0] = (images[0][0], [*boxes(0), ((10, 10, 10, 20), 1), ((50, 40, 99, 47), 1)])
    found = by_code(screen({"train": records(images, missing=["gone.jpg"])}))
    assert found == {
        ("train", "box-without-area"): ("warning", 1),
        ("train", "clipped-box"): ("warning", 1),
        ("train", "missing-image"): ("warning", 1),
    }


@pytest.mark.parametrize(("there", "severity"), [(10, "warning"), (5, "warning"), (4, "error"), (0, "error")])
def test_missing_images_are_an_error_where_they_are_most(tmp_path: Path, there: int, severity: str) -> None:
    images = clean(tmp_path, "train", 0, count=there)
    found = by_code(screen({"train": records(images, missing=[f"{n}.jpg" for n in range(5)])}, decode=False))
    assert found["train", "missing-image"] == (severity, 5)
    assert (("train", "no-images") in found) == (there == 0)


# ---------------------------------------------------------------------------------------------- classes
def test_classes_without_objects(tmp_path: Path) -> None:
    classes = ["cat", "dog", "cow", "eel"]  # no dog in val, no cow in train, no eel anywhere
    train = [(path, [((2, 2, 20, 20), 1), ((30, 2, 50, 20), 2)]) for path, _ in clean(tmp_path, "train", 0)]
    val = [(path, [((2, 2, 20, 20), 1), ((30, 2, 50, 20), 3)]) for path, _ in clean(tmp_path, "val", 10)]
    found = screen({"train": records(train, classes), "val": records(val, classes)}, decode=False)
    assert by_code(found) == {
        ("train", "class-without-objects"): ("warning", 1),
        ("val", "class-only-in-val"): ("warning", 1),
        ("val", "class-not-measured"): ("note", 1),
    }
    assert of(found, "class-without-objects").examples == ("'eel'",)
    assert of(found, "class-only-in-val").examples == ("'cow' (10)",)
    assert of(found, "class-not-measured").examples == ("'dog'",)


def test_rare_classes(tmp_path: Path) -> None:
    images = clean(tmp_path, "train", 0)
    images = [*((path, objects[:1]) for path, objects in images[:1]), *images[1:]]
    found = screen({"train": records(images)}, decode=False)
    assert by_code(found) == {("train", "rare-class"): ("note", 1)}
    assert of(found, "rare-class").examples == ("'dog' (9)",)


@pytest.mark.parametrize("other", ["Cat", "cat ", "c a t", "C-A_T"])
def test_names_that_differ_by_spelling(tmp_path: Path, other: str) -> None:
    found = screen({"train": records(clean(tmp_path, "train", 0), ["cat", other])}, decode=False)
    assert by_code(found) == {("train", "similar-class-names"): ("warning", 1)}
    assert of(found, "similar-class-names").examples == (f"'cat' and {other!r}",)


def test_names_that_differ_between_splits(tmp_path: Path) -> None:
    train, val = records(clean(tmp_path, "train", 0)), clean(tmp_path, "val", 10)
    found = screen({"train": train, "val": records(val, ["cat", "hound"])}, decode=False)
    assert of(found, "class-names-differ").severity == "error"
    assert of(found, "class-names-differ").examples == ("'dog'", "'hound'")
    found = screen({"train": train, "val": records(val, ["dog", "cat"])}, decode=False)
    assert by_code(found) == {("val", "class-names-differ"): ("error", 1)}


# ---------------------------------------------------------------------------------------------- files
def test_files_that_cannot_be_used(tmp_path: Path) -> None:
    images = clean(tmp_path, "train", 0, count=60)
    whole = images[0][0].read_bytes()
    images[0][0].write_bytes(whole[: len(whole) // 2])
    images[1][0].write_text("<html>not found</html>")
    images[2][0].write_bytes(b"")
    picture(images[3][0], 3, (64, 48))
    picture(images[4][0], 4, (20, 30))
    images[5][0].unlink()
    found = screen({"train": records(images)})
    assert by_code(found) == {
        ("train", "unreadable-image"): ("warning", 3),
        ("train", "sides-exchanged"): ("warning", 1),
        ("train", "size-mismatch"): ("warning", 1),
        ("train", "missing-image"): ("warning", 1),
    }
    assert (
        of(found, "unreadable-image").examples[1].startswith("1.png cannot be decoded; is it an image? It is an HTML")
    )
    assert of(found, "size-mismatch").examples == ("4.png is 30x20, annotated as 64x48",)
    assert by_code(screen({"train": records(images[:30])}))["train", "unreadable-image"] == ("error", 3)


def test_one_file_that_cannot_be_used_is_an_error_where_a_training_stops_at_it(tmp_path: Path) -> None:
    images = clean(tmp_path, "train", 0, count=60)
    images[2][0].write_bytes(b"")
    found = examine({"train": records(images, missing=["gone.jpg"])}, skip=False).findings
    assert by_code(found) == {("train", "unreadable-image"): ("error", 1), ("train", "missing-image"): ("error", 1)}
    found = examine({"train": records(images, missing=["gone.jpg"])}).findings
    assert by_code(found) == {("train", "unreadable-image"): ("warning", 1), ("train", "missing-image"): ("warning", 1)}


def test_a_fault_that_many_files_have_is_told_once(tmp_path: Path) -> None:
    images = clean(tmp_path, "train", 0, count=60)
    for index, content in ((1, b""), (2, b"GIF89a"), (3, b"")):
        images[index][0].write_bytes(content)
    examples = of(screen({"train": records(images)}), "unreadable-image").examples
    assert examples[0] == "1.png is empty" and examples[2] == "3.png likewise"
    assert examples[1].startswith("2.png ") and "likewise" not in examples[1]


def test_headers_alone_show_much_of_it(tmp_path: Path) -> None:
    images = clean(tmp_path, "train", 0, count=60)
    images[1][0].write_text("<html>not found</html>")
    picture(images[3][0], 3, (64, 48))
    found = by_code(screen({"train": records(images)}, decode=False))
    assert found == {("train", "unreadable-image"): ("warning", 1), ("train", "sides-exchanged"): ("warning", 1)}


def test_unusual_pictures(tmp_path: Path) -> None:
    import cv2
    import numpy as np

    images = clean(tmp_path, "train", 0)
    blank, grey, deep, turned = (tmp_path / "train" / f"{name}.png" for name in ("blank", "grey", "deep", "turned"))
    cv2.imwrite(str(blank), np.full((48, 64, 3), (10, 90, 30), np.uint8))
    cv2.imwrite(str(grey), pixels(48, 64, 5)[..., 0])
    cv2.imwrite(str(deep), np.multiply(pixels(48, 64, 6), 257, dtype=np.uint16))
    save_image(turned, pixels(64, 48, 7), orientation=6)
    found = by_code(screen({"train": records([*images, *((path, boxes(1)) for path in (blank, grey, deep, turned))])}))
    assert found == {
        ("train", "blank-image"): ("warning", 1),
        ("train", "grey-image"): ("note", 1),
        ("train", "16-bit-image"): ("note", 1),
        ("train", "exif-orientation"): ("note", 1),
    }


def test_16_bit_images_of_a_12_bit_camera_become_dark_which_is_said(tmp_path: Path) -> None:
    import cv2
    import numpy as np

    images = clean(tmp_path, "train", 0)
    shallow, full = tmp_path / "train" / "shallow.png", tmp_path / "train" / "full.png"
    cv2.imwrite(str(shallow), np.multiply(pixels(48, 64, 6), 16, dtype=np.uint16))
    cv2.imwrite(str(full), np.multiply(pixels(48, 64, 7), 257, dtype=np.uint16))
    sets = {"train": records([*images, (shallow, boxes(1)), (full, boxes(1))])}
    assert of(screen(sets), "dark-16-bit-image").examples == ("shallow.png",)
    assert by_code(screen(sets)) == {
        ("train", "16-bit-image"): ("note", 2),
        ("train", "dark-16-bit-image"): ("warning", 1),
    }
    assert by_code(screen(sets, decode=False)) == {("train", "16-bit-image"): ("note", 2)}


def test_images_that_no_split_has(tmp_path: Path) -> None:
    sets = {"train": records(clean(tmp_path, "train", 0))}
    picture(tmp_path / "train" / "new.png", 50)
    found = screen(sets, Listing(tmp_path))
    assert by_code(found) == {("", "image-without-label"): ("warning", 1)}
    assert of(found, "image-without-label").examples == ("train/new.png",)


def test_findings_come_by_severity_and_known_ones_are_sorted_in(tmp_path: Path) -> None:
    known = Finding("made-split", "note", 1, "a split was made", whole=True)
    images = clean(tmp_path, "train", 0)
    images[0] = (images[0][0], [((1, 1, 2, 20), 1)])
    screened = examine({"train": records(images, ["cat", "dog", "eel"])}, None, False, [known])
    assert [f.severity for f in screened.findings] == sorted((f.severity for f in screened.findings), reverse=True)
    assert known in screened.of("note") and not screened.of("error")


def test_progress_tells_of_every_picture(tmp_path: Path) -> None:
    said: list[tuple[int, int]] = []
    examine({"train": records(clean(tmp_path, "train", 0, 25))}, progress=lambda *now: said.append(now))
    assert said[-1] == (25, 25) and len(said) == 3
