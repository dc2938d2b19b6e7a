"""Finding images, reading videos, COCO results."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from detframe.inference import list_images, list_media, read_video, to_coco_results
from detframe.inference.inputs import as_tensor, expand
from tests.inference.conftest import picture


@pytest.fixture
def folder(tmp_path):
    for name in ("b.jpg", "a.PNG", "c.txt", "deep/d.jpeg"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"")
    (tmp_path / "folder.jpg").mkdir()
    return tmp_path


def test_list_images(folder):
    assert [p.name for p in list_images(folder)] == ["a.PNG", "b.jpg"]
    assert [p.name for p in list_images(str(folder / "**" / "*"))] == ["a.PNG", "b.jpg", "d.jpeg"]
    assert list_images(folder / "c.txt") == [folder / "c.txt"]  # named directly: the decoder decides


def pillow_images(tmp_path):
    """PIL images as their files would be read: RGB, grey, palette, transparent, 16 bits, turned by EXIF."""
    rng = np.random.default_rng(0)
    rgb = Image.fromarray(rng.integers(0, 255, (20, 30, 3), dtype=np.uint8))
    images = {mode: rgb.convert(mode) for mode in ("RGB", "L", "P", "RGBA", "1")}
    images["I;16"] = Image.fromarray(rng.integers(0, 2**16, (20, 30), dtype=np.uint16))
    for name, image in images.items():
        image.save(tmp_path / f"{name.replace(';', '_')}.png")
        yield name, image, tmp_path / f"{name.replace(';', '_')}.png"
    exif = Image.Exif()
    exif[0x0112] = 6
    rgb.save(tmp_path / "turned.png", exif=exif)
    with Image.open(tmp_path / "turned.png") as image:
        yield "turned", image, tmp_path / "turned.png"


def test_pillow_images_are_read_as_their_files(tmp_path):
    for name, image, path in pillow_images(tmp_path):
        assert torch.equal(as_tensor(image), as_tensor(path)), name
        assert list(expand(image)) == [image] and list(expand([image, str(path)])) == [image, path]


def test_pillow_images_that_cannot_be_read(tmp_path):
    with pytest.raises(ValueError, match="floating-point"):
        as_tensor(Image.fromarray(np.zeros((4, 4), np.float32)))
    Image.fromarray(np.zeros((400, 400, 3), np.uint8)).save(tmp_path / "x.jpg")
    (tmp_path / "x.jpg").write_bytes((tmp_path / "x.jpg").read_bytes()[:700])
    with Image.open(tmp_path / "x.jpg") as image, pytest.raises(ValueError, match=r"x\.jpg is truncated"):
        as_tensor(image)


def test_list_media(folder):
    (folder / "e.MPG").write_bytes(b"")
    (folder / "f.ts").write_bytes(b"")
    assert [p.name for p in list_media(folder)] == ["a.PNG", "b.jpg", "e.MPG", "f.ts"]
    assert [p.name for p in list_media(str(folder / "*.ts"))] == ["f.ts"]
    with pytest.raises(FileNotFoundError, match="no images or videos in pattern"):
        list_media(str(folder / "*.txt"))
    (folder.parent / "split" / "labels").mkdir(parents=True)
    (folder.parent / "split" / "labels" / "b.txt").write_text("0 0.5 0.5 0.1 0.1")
    folder.rename(folder.parent / "split" / "pictures")
    with pytest.raises(FileNotFoundError, match=r"2 entries, .* but 4 of that kind lie in .*pictures: name it"):
        list_media(folder.parent / "split")
    with pytest.raises(FileNotFoundError, match="no such image"):
        list_images("~nobody-of-this-name/x.jpg")


def test_a_video_that_breaks_off_is_said(tmp_path, caplog):
    writer = cv2.VideoWriter(str(tmp_path / "a.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 10, (64, 48))
    for number in range(20):
        writer.write(picture(48, 64, number))
    writer.release()
    whole = (tmp_path / "a.avi").read_bytes()
    assert len(list(read_video(tmp_path / "a.avi"))) == 20 and not caplog.records
    (tmp_path / "a.avi").write_bytes(whole[: len(whole) // 2])
    count = len(list(read_video(tmp_path / "a.avi")))
    assert 0 < count < 20
    assert f"a.avi ends after {count} frames, but its header states 20" in caplog.text


def test_read_video(tmp_path):
    path = tmp_path / "clip.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10, (64, 48))
    if not writer.isOpened():
        pytest.skip("this OpenCV writes no MJPG video")
    red = np.zeros((48, 64, 3), np.uint8)
    red[..., 2] = 255  # BGR
    for _ in range(5):
        writer.write(red)
    writer.release()
    frames = list(read_video(path))
    assert len(frames) == 5 and frames[0].shape == (48, 64, 3) and frames[0].dtype == np.uint8
    assert frames[0][..., 0].mean() > 240 and frames[0][..., 2].mean() < 15


def test_what_is_no_video(tmp_path):
    with pytest.raises(FileNotFoundError, match="absent"):
        next(read_video(tmp_path / "absent.mp4"))
    cv2.imwrite(str(tmp_path / "x.png"), picture(20, 20, 0))
    (tmp_path / "x.mp4").write_bytes(b"not a video")
    with pytest.raises(ValueError, match="no video"):
        next(read_video(tmp_path / "x.mp4"))


def test_to_coco_results():
    found = {
        "boxes": torch.tensor([[1.0, 2.0, 11.0, 22.0]]),
        "labels": torch.tensor([2]),
        "scores": torch.tensor([0.5]),
        "masks": torch.ones(1, 1, 30, 40),
        "keypoints": torch.tensor([[[1.0, 2.0, 1.0]]]),
    }
    empty = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64), "scores": torch.zeros(0)}
    (row,) = to_coco_results([empty, found], [3, 4], category_ids=[7, 9])
    assert (row["image_id"], row["category_id"], row["bbox"], row["score"]) == (4, 9, [1, 2, 10, 20], 0.5)
    assert row["segmentation"]["size"] == [30, 40] and isinstance(row["segmentation"]["counts"], str)
    assert row["keypoints"] == [1, 2, 1]
    with pytest.raises(ValueError):
        to_coco_results([empty], [3, 4], [7, 9])
