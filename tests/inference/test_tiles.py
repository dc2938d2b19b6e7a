"""Detector.predict(tiles=): large images in tiles, whatever they come as, each object once."""

import io
import logging
import subprocess
import sys

import numpy as np
import PIL.Image
import pytest
import torch

from detframe.config import get_cfg
from detframe.structures import BoxMasks
from tests.backends import handmade
from tests.data.tiffs import write_huge_tiff
from tests.inference.conftest import picture
from tests.inference.spots import drawn, spotter, wanted

TILES = {"size": 64, "overlap": 0.5}


def boxes(prediction):
    return sorted(np.asarray(prediction["boxes"]).tolist())


# ---------------------------------------------------------------------- what comes in, and what comes out
def test_each_object_once_whatever_the_image_comes_as(tmp_path):
    image = drawn(0, 150, 210, 30, 30)
    stream = io.BytesIO()
    PIL.Image.fromarray(image).save(stream, "PNG")
    for name in ("a.png", "b.tif"):
        PIL.Image.fromarray(image).save(tmp_path / name)
    spots, session = spotter()
    inputs = {
        "array": image,
        "path": tmp_path / "a.png",
        "tiff": str(tmp_path / "b.tif"),
        "address": (tmp_path / "b.tif").as_uri(),
        "bytes": stream.getvalue(),
        "PIL": PIL.Image.fromarray(image),
        "tensor": torch.from_numpy(image).permute(2, 0, 1),
    }
    for what, one in inputs.items():
        (found,) = spots.predict(one, tiles=TILES)
        assert boxes(found) == wanted(image), what
        assert found.size_hw == (150, 210)
        names = {"path": tmp_path / "a.png", "tiff": tmp_path / "b.tif", "address": tmp_path / "b.tif"}
        assert found.file_name == (str(names[what]) if what in names else None)
    assert {shape[2:] for shape in session.batches} == {(64, 64)}


def test_scores_labels_and_names_go_with_their_boxes():
    image = drawn(1, 150, 210, 30, 30)
    spots, _ = spotter()
    (found,) = spots.predict(image, tiles=TILES)
    (whole,) = spots.predict(image, tiles=False)
    for key in ("boxes", "scores", "labels", "names"):
        assert np.array_equal(found[key], whole[key]), key  # values are scores, so that their order is one, too


def test_masks_and_keypoints_in_the_image():
    image = drawn(2, 150, 210, 20, 30)
    spots, _ = spotter(more=True)
    (found,) = spots.predict(image, tiles=TILES)
    (on_boxes,) = spots.predict(image, tiles=TILES, paste_masks=False)
    (plain,) = spots.predict(image, tiles=False)
    assert found["masks"].shape == on_boxes["masks"].shape == (20, 1, 150, 210)
    np.testing.assert_allclose(found["masks"], plain["masks"], atol=1e-6)
    assert np.array_equal(found["keypoints"], plain["keypoints"])
    assert [row["segmentation"] for row in on_boxes.to_coco()] == [row["segmentation"] for row in found.to_coco()]


def test_more_objects_than_a_tile_may_have():
    image = drawn(3, 260, 260, 200, 8)
    spots, session = spotter()
    assert session.card.detections == 40
    assert len(spots.predict(image, tiles=TILES)[0]["scores"]) == 200


def test_objects_larger_than_a_tile_come_from_the_whole_image_too():
    image = np.zeros((200, 300, 3), np.uint8)
    image[20:180, 30:270] = 100
    image[2:10, 5:15] = 50
    spots, session = spotter()
    (found,) = spots.predict(image, tiles={**TILES, "whole_image_too": True})
    assert found["boxes"].tolist() == [[30, 20, 270, 180], [5, 2, 15, 10]]
    assert session.batches[-1][2:] == (200, 300)


def test_batches_hold_tiles_of_several_images_and_the_order_stays():
    images = [drawn(seed, 100, 100, 6, 20) for seed in range(5)]  # 9 tiles each
    spots, session = spotter()
    found = spots.predict((image for image in images), batch_size=4, tiles={"size": 50, "overlap": 25})
    assert [boxes(one) for one in found] == [wanted(image) for image in images]
    assert [shape[0] for shape in session.batches] == [4] * 11 + [1]


def test_images_of_all_sizes_in_one_call():
    images = [drawn(seed, *size, 5, 12) for seed, size in enumerate([(40, 40), (300, 33), (64, 64), (50, 200)])]
    spots, _ = spotter()
    found = spots.predict(images, tiles=TILES)
    assert [boxes(one) for one in found] == [wanted(image) for image in images]


# ---------------------------------------------------------------------- one tile, and a network
@pytest.mark.parametrize("augment", [False, {"MIN_SIZES": (80,)}])
def test_an_image_that_is_one_tile_has_its_plain_prediction_bit_for_bit(detector, augment):
    image = picture(80, 100, 0)
    for tiles in (100, {"size": 200, "whole_image_too": True}, {"size": 100, "merge": "nms"}):
        plain, tiled = (detector.predict(image, tiles=how, augment=augment)[0] for how in (False, tiles))
        assert plain.keys() == tiled.keys() and len(plain["scores"])
        assert all(torch.equal(plain[key], tiled[key]) for key in ("boxes", "scores", "labels"))


def test_a_tile_is_an_image_like_any_other(detector):
    """What is whole in one tile, and in no other, is found as in that tile alone; views are those of tiles."""
    image = picture(100, 100, 1)
    for augment in (False, True):
        (found,) = detector.predict(image, batch_size=1, tiles={"size": 60, "overlap": 0}, augment=augment)
        (first,) = detector.predict(image[:60, :60], augment=augment)
        inside = (first["boxes"][:, 2:] < 40).all(1)
        both = (found["boxes"][:, None] == first["boxes"][inside][None]).all(2).any(0)
        assert inside.any() and both.all()


def test_masks_of_an_image_that_is_one_tile_stay_on_their_boxes():
    image = drawn(2, 60, 60, 5, 20)
    spots, _ = spotter(more=True)
    plain, tiled = (spots.predict(image, tiles=how, paste_masks=False)[0]["masks"] for how in (False, 64))
    assert isinstance(tiled, BoxMasks)
    assert np.array_equal(plain.probs, tiled.probs) and np.array_equal(plain.boxes, tiled.boxes)


def test_score_threshold_and_nms(detector):
    image = picture(100, 130, 2)
    (found,) = detector.predict(image, tiles=80, score_threshold=0.4, nms="agnostic")
    assert len(found["scores"]) and (found["scores"] >= 0.4).all()


# ---------------------------------------------------------------------- settings
def tiled_card(**settings):
    cfg = get_cfg()
    cfg.MODEL.NUM_CLASSES = 2
    cfg.INPUT.TILES.update({"SIZE": 64, "OVERLAP": 0.5, **settings})
    return handmade.card(config=cfg.dump(), detections=40)


def test_a_detector_that_was_trained_on_tiles_predicts_in_tiles_and_says_so_once(caplog):
    image = drawn(0, 150, 210, 30, 30)
    spots, session = spotter(tiled_card())
    with caplog.at_level(logging.INFO, "detframe"):
        for tiles in (None, True, None):
            assert boxes(spots.predict(image, tiles=tiles)[0]) == wanted(image)
            assert session.batches[-1][2:] == (64, 64)
    assert (
        caplog.text.count("tiles of 64 pixels, as in the training (INPUT.TILES); tiles=False predicts them whole") == 1
    )
    spots.predict(image, tiles=False)
    assert session.batches[-1][2:] == (150, 210)
    spots.predict(image, tiles=np.int64(96))
    assert session.batches[-1][2:] == (96, 96)


@pytest.mark.parametrize(
    "tiles, error, message",
    [
        (True, ValueError, "spots.onnx was not trained on tiles .INPUT.TILES.SIZE is 0.*as tiles=512"),
        ({"overlap": 0.1}, ValueError, "was not trained on tiles"),
        (0, ValueError, "was not trained on tiles"),
        (-5, ValueError, "INPUT.TILES.SIZE"),
        ({"size": 64, "overlap": 64}, ValueError, "INPUT.TILES.OVERLAP"),
        ({"size": 64, "merge": "wbf"}, ValueError, "INPUT.TILES.MERGE"),
        ({"size": 64, "overlapp": 0.1}, KeyError, "no 'OVERLAPP' in INPUT.TILES.*OVERLAP"),
        ({"size": 64, "min_visible": "0.5"}, ValueError, "MIN_VISIBLE says what is trained and scored.*leave it out"),
        ("512", TypeError, "tiles must be a side in pixels, True, False, None, or a dict as .* not '512'"),
        (512.0, TypeError, "tiles must be a side"),
    ],
)
def test_tiles_that_there_are_not(tiles, error, message):
    spots, session = spotter()
    for ask in (spots.check, lambda tiles: spots.predict(picture(50, 50, 0), tiles=tiles)):
        with pytest.raises(error, match=message):
            ask(tiles=tiles)
    assert not session.batches


def test_the_tiles_of_a_training_can_be_given_whole():
    image = drawn(0, 150, 210, 30, 30)
    spots, session = spotter()
    (found,) = spots.predict(image, tiles=get_cfg().changed([("INPUT.TILES.SIZE", 64)]).INPUT.TILES)
    assert boxes(found) == wanted(image)
    assert session.batches[-1][2:] == (64, 64)


@pytest.mark.parametrize("tiles", [0, {"size": 0}])
def test_tiles_without_a_side_are_no_way_to_say_whole_images(tiles):
    spots, session = spotter(tiled_card())
    with pytest.raises(ValueError, match=r"SIZE is a side in pixels above 0, not 0; .* of 64 pixels.*False for whole"):
        spots.predict(picture(50, 50, 0), tiles=tiles)
    assert not session.batches


def test_progress_of_each_image():
    spots, _ = spotter()
    told = []
    images = [drawn(seed, 100, 100, 5, 20) for seed in range(2)]
    spots.predict(images, tiles={"size": 50, "overlap": 0}, progress=lambda *numbers: told.append(numbers))
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)] * 2


def test_what_takes_long_is_told_in_the_log(caplog, monkeypatch):
    monkeypatch.setattr("detframe.inference.tiling._LOG_SECONDS", 0.0)
    spots, _ = spotter()
    with caplog.at_level(logging.INFO, "detframe"):
        spots.predict(drawn(0, 100, 100, 5, 20), tiles={"size": 50, "overlap": 0})
    assert "3 of the 4 tiles of an image are done" in caplog.text


# ---------------------------------------------------------------------- what cannot be read
def test_images_that_cannot_be_read_are_left_out_or_named(tmp_path, caplog):
    image = drawn(0, 100, 100, 5, 20)
    PIL.Image.fromarray(image).save(tmp_path / "good.png")
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    (tmp_path / "broken.tif").write_bytes(b"II*\0broken")
    inputs = [tmp_path / name for name in ("broken.tif", "good.png", "missing.png", "broken.png", "good.png")]
    spots, _ = spotter()
    found = spots.predict(inputs, on_error="skip", tiles=TILES)
    assert [one is None for one in found] == [True, False, True, True, False]
    assert boxes(found[1]) == boxes(found[4]) == wanted(image)
    assert all(name in caplog.text for name in ("broken.tif", "missing.png", "broken.png"))
    for name in ("broken.tif", "broken.png"):
        with pytest.raises(ValueError, match=name):
            spots.predict(tmp_path / name, tiles=TILES)
    with pytest.raises(FileNotFoundError, match=r"missing\.png"):
        spots.predict(tmp_path / "missing.png", tiles=TILES)


def test_an_image_of_which_a_part_cannot_be_read_is_left_out_whole(monkeypatch, tmp_path, caplog):
    from detframe.data import ImageReadError, regions

    image = drawn(0, 100, 100, 5, 20)
    PIL.Image.fromarray(image).save(tmp_path / "a.tif")
    PIL.Image.fromarray(image).save(tmp_path / "b.tif")

    def load_region(path, tile, *args, original=regions.load_region, **how):
        if path.name == "a.tif" and tile[0] > 0:
            raise ImageReadError(f"{path} is truncated")
        return original(path, tile, *args, **how)

    monkeypatch.setattr(regions, "load_region", load_region)
    spots, _ = spotter()
    found = spots.predict([tmp_path / "a.tif", tmp_path / "b.tif"], on_error="skip", tiles={"size": 50, "overlap": 25})
    assert found[0] is None and boxes(found[1]) == wanted(image)
    assert caplog.text.count("a.tif is truncated") <= 4 and "a.tif is truncated" in caplog.text  # of threads in work
    with pytest.raises(ImageReadError, match="truncated"):
        spots.predict(tmp_path / "a.tif", tiles={"size": 50, "overlap": 25})


@pytest.mark.parametrize("alone", [False, True])
@pytest.mark.parametrize(
    ("wrong", "shape"),
    [
        (np.zeros((70, 70), np.uint8), "70, 70"),
        (np.zeros((70, 70, 3)), "70, 70, 3"),
        (torch.zeros(70, 70, 3), "70, 70, 3"),
        (torch.zeros(70, 70), "70, 70"),
        (torch.zeros(3, 0, 70), "3, 0, 70"),
        (np.zeros(70, np.uint8), "70,"),
    ],
)
def test_pixels_that_are_no_image_are_named_with_their_own_shape(wrong, shape, alone):
    spots, _ = spotter()
    for tiles in (TILES, False):
        with pytest.raises((ValueError, TypeError), match=rf"of shape \({shape}\)"):
            spots.predict(wrong if alone else [wrong], tiles=tiles)


# ---------------------------------------------------------------------- without torch
def test_an_onnx_file_predicts_in_tiles_without_torch(tmp_path):
    handmade.write(tmp_path / "model.onnx")
    code = f"""
import sys, numpy as np
from detframe.inference import Detector
from detframe.structures import BoxMasks
found = Detector.load({str(tmp_path / "model.onnx")!r}).predict(np.full((100, 150, 3), 255, np.uint8), tiles=64)
assert len(found[0]["scores"]) > 2, found
assert not {{"torch", "torchvision", "pandas"}} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


# ---------------------------------------------------------------------- memory
MEASURE = """
import resource, sys
import cv2, numpy as np
from tests.inference.spots import SpotSession, spotter

def run(self, images, sizes):
    out = {"boxes": np.zeros((1, 40, 4), np.float32), "scores": np.ones((1, 40), np.float32)}
    stats = cv2.connectedComponentsWithStats(images[0, 0], ltype=cv2.CV_16U)[2][1:]
    out["boxes"][0, : len(stats), :2] = stats[:, :2]
    out["boxes"][0, : len(stats), 2:] = stats[:, :2] + stats[:, 2:4]
    return {**out, "labels": np.ones((1, 40), np.int64), "count": np.array([len(stats)])}

SpotSession.run = run
spots, _ = spotter()
spots.predict(np.zeros((99, 99, 3), np.uint8), batch_size=1, tiles=64)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
(found,) = spots.predict(sys.argv[1], batch_size=1, tiles={"size": 1000, "overlap": 50})
print(len(found["boxes"]), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in kilobytes on Linux")
def test_an_image_of_20000_pixels_is_predicted_by_region_in_little_memory(tmp_path, root):
    """300 MB of pixels, in each square of 500 px one object."""
    cell = np.zeros((500, 500, 3), np.uint8)
    cell[240:270, 235:275] = 200
    path = write_huge_tiff(tmp_path / "large.tif", (5_000, 20_000), cell)
    command = [sys.executable, "-c", MEASURE, str(path)]
    out = subprocess.run(command, capture_output=True, text=True, check=True, cwd=root).stdout.split()
    assert int(out[0]) == 10 * 40
    assert int(out[1]) / 1024 < 150
