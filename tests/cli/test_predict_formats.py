"""`predict --format`: what it writes leads back to the images, wherever they lie, and is what was predicted."""

from __future__ import annotations

import json
from pathlib import Path
from urllib.parse import parse_qs, urlsplit
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from detframe.cli import predict
from detframe.cli.sources import find_sources, root_of
from detframe.cli.video_writer import VideoWriter
from detframe.inference.writers import FORMATS
from tests.data.format_sets import read
from tests.inference.writers.scenes import read_back

NAMES = ("x/a.png", "y/a.png", "z b.v2.png")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three images, two of one name, and a video of two frames."""
    folder = tmp_path_factory.mktemp("my photos")
    rng = np.random.default_rng(0)
    for name in NAMES:
        (folder / name).parent.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (48, 64, 3), np.uint8)).save(folder / name)
    writer = VideoWriter(folder / "clip.mp4", 10)
    for number in range(2):
        writer.write(rng.integers(0, 255, (48, 64, 3), np.uint8), number / 10)
    writer.close()
    return folder


@pytest.fixture(scope="module")
def found(checkpoint: Path, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is found in them, in every format."""
    output = tmp_path_factory.mktemp("found")
    words = ["--weights", str(checkpoint), "--device", "cpu", "--no-drawings", "--save-frames", "--score", "0"]
    inputs = [str(photos / "**" / "*.png"), str(photos / "clip.mp4")]
    assert predict.main([*words, "--input", *inputs, "--output", str(output), "--format", *FORMATS]) == 0
    return output


def expected(found: Path) -> dict[str, list[list[float]]]:
    """The boxes of predictions.json by the paths of the images."""
    images = {
        row["id"]: row
        for row in json.loads((found / "predictions.json").with_name("images.json").read_text())["images"]
    }
    out: dict[str, list[list[float]]] = {}
    for row in json.loads((found / "predictions.json").read_text()):
        x, y, w, h = row["bbox"]
        image = images[row["image_id"]]
        frame = f"_{image['frame']:06d}.jpg" if "frame" in image else ""
        out.setdefault(image["file_name"] + frame, []).append([x, y, x + w, y + h])
    return out


@pytest.mark.parametrize(
    ("name", "reader", "annotations", "tolerance"),
    [
        ("coco", "coco", "coco/coco.json", 1e-3),
        ("voc", "voc", "voc/Annotations", 2.0),
        ("csv", "csv", "csv/detections.csv", 0.01),
        ("labelme", "labelme", "labelme", 1e-3),
    ],
)
def test_what_was_predicted_is_in_the_files(
    name: str, reader: str, annotations: str, tolerance: float, photos: Path, found: Path
):
    packed = read(reader, photos, found / annotations)
    back = read_back(packed, photos)
    truth = {Path(key).relative_to(photos).as_posix(): boxes for key, boxes in expected(found).items()}
    assert set(NAMES) <= set(back) and truth
    for image in set(NAMES) & set(truth):
        np.testing.assert_allclose(back[image]["boxes"], truth[image], atol=tolerance, err_msg=name)


def test_every_file_leads_to_its_image(photos: Path, found: Path):
    images = {photos / name for name in NAMES} | {found / f"frames/clip.mp4_{n:06d}.jpg" for n in range(2)}
    assert all(path.is_file() for path in images)
    labelme = {
        (path.parent / json.loads(path.read_text(encoding="utf-8"))["imagePath"]).resolve()
        for path in (found / "labelme").rglob("*.json")
    }
    assert labelme == images
    voc = {Path(ElementTree.parse(path).findtext("path")) for path in (found / "voc/Annotations").rglob("*.xml")}
    assert voc == images
    tasks = json.loads((found / "labelstudio/tasks.json").read_text())
    served = [parse_qs(urlsplit(task["data"]["image"]).query)["d"][0] for task in tasks]
    assert {(photos.parent if path.startswith(photos.name) else found) / path for path in served} == images
    labels = {path.relative_to(found / "yolo/labels").as_posix() for path in (found / "yolo/labels").rglob("*.txt")}
    assert labels == {"x/a.txt", "y/a.txt", "z b.v2.txt", "clip.mp4_000000.txt", "clip.mp4_000001.txt"}


def test_sources_and_their_root(photos: Path, tmp_path: Path):
    words = [str(photos / "x"), str(photos / "y"), "0", "rtsp://user:secret@host/live"]
    sources = find_sources(words, tmp_path / "found")
    assert root_of(sources) == photos
    assert [source.origin for source in sources[2:]] == ["camera://camera_0", "rtsp://host/live"]
    assert root_of(sources[2:]) is None
