"""`predict`: classes, scores, crops, formats, addresses and streams, and how it ends."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from detframe.cli import predict
from detframe.cli.crops import CropNames, touched_pixels
from detframe.cli.sources import find_sources
from detframe.cli.video_writer import VideoWriter
from detframe.inference import Detector
from detframe.inference.videos import VideoReader
from tests.backends import handmade
from tests.cli.conftest import load, run
from tests.media_server import Site, serving


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory, write_checkpoint: Callable[..., Path]) -> Path:
    """A detector that finds cats and dogs in every picture."""
    return write_checkpoint(tmp_path_factory.mktemp("many") / "many.pth", "TEST.DETECTIONS_PER_IMG", 100)


def film(path: Path, seconds: list[Fraction], size_hw: tuple[int, int] = (600, 801)) -> Path:
    """A video of noise whose sides need no enlarging for its labels."""
    writer = VideoWriter(path, 10, Fraction(1, 1000))
    for number, time_ in enumerate(seconds):
        block = np.random.default_rng(number).integers(0, 255, (30, 40, 3), np.uint8)
        writer.write(cv2.resize(block, size_hw[::-1], interpolation=cv2.INTER_NEAREST), time_)
    writer.close()
    return path


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    (tmp_path / "site").mkdir()
    with serving(tmp_path / "site") as found:
        yield found


# ---------------------------------------------------------------------------------------------------- what counts
def test_classes_and_scores(many: Path, photos: Path, tmp_path: Path):
    assert run(many, tmp_path / "all", "--input", photos) == 0
    assert run(many, tmp_path / "dogs", "--input", photos, "--classes", "dog", "--score", 0.9) == 0
    everything, dogs = (load(tmp_path / name / "predictions.json") for name in ("all", "dogs"))
    assert dogs == [row for row in everything if row["category_id"] == 7] and 0 < len(dogs) < len(everything)


def test_a_class_that_there_is_not(checkpoint: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert run(checkpoint, tmp_path / "found", "--input", photos, "--classes", "dgo") == 2
    assert "--classes: the detector has no class 'dgo'; did you mean 'dog'?" in capsys.readouterr().err
    assert not (tmp_path / "found").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--format", "yollo"), "there is no format 'yollo'; did you mean 'yolo'?"),
        (("--score", "1.5"), "must lie between 0 and 1"),
        (("--seconds", "0"), "must be more than 0"),
        (("--max-frames", "0"), "must be 1 or more"),
    ],
)
def test_values_that_mean_nothing(words: tuple[str, str], said: str, tmp_path: Path, capsys):
    with pytest.raises(SystemExit):
        run(tmp_path / "no.pth", tmp_path / "found", "--input", tmp_path, *words)
    assert said in capsys.readouterr().err


def test_the_help_names_every_format(capsys: pytest.CaptureFixture[str]):
    from detframe.inference.writers import FORMATS

    with pytest.raises(SystemExit):
        predict.main(["--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert all(name in text.partition("--format")[2] for name in FORMATS)


# ---------------------------------------------------------------------------------------------------- crops
def test_crops_are_the_pixels_of_the_boxes(many: Path, photos: Path, tmp_path: Path, caplog):
    exif = Image.Exif()
    exif[0x0112] = 6
    with Image.open(photos / "a.png") as image:
        image.save(photos / "turned.png", exif=exif)
        image.save(photos / "a.bmp")
    output = tmp_path / "found"
    words = ("--score", 0, "--save-crops", "--no-drawings", "--classes", "cat")
    assert run(many, output, "--input", photos, *words) == 0
    assert sorted(path.name for path in output.iterdir()) == ["crops", "images.json", "predictions.json"]
    assert f"crops, predictions.json and images.json are in {output}" in caplog.text
    found = Detector.load(many, device="cpu").predict(photos / "turned.png")[0].of("cat")
    names = sorted(path.name for path in (output / "crops" / "cat").iterdir())
    numbers = range(1, len(found["names"]) + 1)
    assert {name for name in names if "turned" in name} == {f"turned_{number}.jpg" for number in numbers}
    assert {name.rpartition("_")[0] for name in names} == {"a.png", "a.bmp", "b", "c", "turned"}
    for number, (x1, y1, x2, y2) in enumerate(found["boxes"].tolist(), 1):
        crop = cv2.imread(str(output / "crops" / "cat" / f"turned_{number}.jpg"))
        assert crop.shape[:2] == (np.ceil(y2) - np.floor(y1), np.ceil(x2) - np.floor(x1))
        assert x2 <= 48 and y2 <= 64  # of the upright image


def test_crops_stay_inside_the_image():
    assert touched_pixels((20, 30), [-3.0, -0.1, 4.2, 99.0]) == (0, 0, 5, 20)
    assert touched_pixels((20, 30), [7.3, 8.3, 7.4, 8.4]) == (7, 8, 8, 9)
    for nothing in ([30.0, 3.0, 40.0, 9.0], [float("nan"), 0.0, 3.0, 3.0]):
        assert touched_pixels((20, 30), nothing) is None


def test_names_of_crops(tmp_path: Path):
    targets = [tmp_path / "x" / "a.jpg", tmp_path / "y" / "a.jpg", tmp_path / "clip.mp4"]
    names = CropNames(tmp_path, targets)
    found = [names.name(targets[0], None, "a/b", 1), names.name(targets[2], 7, "..", 12)]
    folder = tmp_path / "crops"
    assert found[0].name == "a_1.jpg" and found[0].parent.name == "x" and found[0].parents[2] == folder
    assert found[1].name == "clip_000007_12.jpg" and found[1].parents[1] == folder and found[1].parent.name != ".."


def test_an_exported_file_predicts_without_torch(tmp_path: Path, photos: Path, run_python):
    """Of a picture it finds the upper left quarter ("cat"), and all but a quarter of the sides ("dog")."""
    weights = handmade.write(tmp_path / "model.onnx")
    film(photos / "clip.mp4", [Fraction(0), Fraction(1, 10)], (48, 64))
    words = ["--weights", weights, "--input", photos, "--output", tmp_path / "found", "--device", "cpu", "--score", 0.1]
    words += ["--save-crops", "--format", "coco"]
    code = "import sys; from detframe.cli import predict; code = predict.main(sys.argv[1:])\n"
    code += "print(code, sorted({'torch', 'torchvision', 'pandas', 'matplotlib'} & set(sys.modules)))"
    done = run_python("-c", code, *words)
    assert done.stdout.strip() == "0 []", done.stderr
    for name, (width, height) in (
        ("cat/a_1.jpg", (32, 24)),
        ("dog/a_2.jpg", (48, 36)),
        ("cat/clip_000001_1.jpg", (32, 24)),
    ):
        assert cv2.imread(str(tmp_path / "found" / "crops" / name)).shape == (height, width, 3)
    assert (tmp_path / "found" / "clip.mp4").is_file() and (tmp_path / "found" / "a.png").is_file()


# ---------------------------------------------------------------------------------------------------- formats
def test_files_for_other_programs(checkpoint: Path, photos: Path, tmp_path: Path):
    clip = film(photos / "clip.mp4", [Fraction(number, 10) for number in range(3)])
    output = tmp_path / "found"
    words = ("--input", photos, "--format", "coco", "yolo", "--save-frames", "--no-drawings")
    boxes = [row["score"] for row in _scores(checkpoint, photos)]
    score = sorted(boxes)[len(boxes) // 2]
    assert run(checkpoint, output, *words, "--score", score) == 0
    data, rows = load(output / "coco" / "coco.json"), load(output / "predictions.json")
    frames = [f"{clip.name}_{number:06d}.jpg" for number in range(3)]
    assert [image["file_name"] for image in data["images"]] == ["a.png", "b.jpg", "c.png", *frames]
    assert sorted(path.name for path in (output / "frames").iterdir()) == frames
    assert cv2.imread(str(output / "frames" / frames[1])).shape == (600, 802, 3)  # the sides of the file are even
    expected = [row for row in rows if row["score"] >= score]
    assert 0 < len(expected) < len(rows)
    key = lambda row: (row["image_id"], row["category_id"], *row["bbox"])  # noqa: E731
    assert [key(row) for row in data["annotations"]] == [key(row) for row in expected]
    lines = [path.read_text().splitlines() for path in sorted((output / "yolo").rglob("a.txt"))]
    assert [len(one) for one in lines] == [len([row for row in expected if row["image_id"] == 1])]


def _scores(checkpoint: Path, photos: Path):
    return [row for found in Detector.load(checkpoint, device="cpu").predict(photos) for row in found.to_coco()]


def test_images_that_a_format_cannot_tell_apart(checkpoint: Path, photos: Path, tmp_path: Path, capsys):
    (photos / "a.jpg").write_bytes((photos / "b.jpg").read_bytes())
    assert run(checkpoint, tmp_path / "found", "--input", photos, "--format", "yolo") == 2
    assert "a.jpg and a.png would share" in capsys.readouterr().err
    assert not (tmp_path / "found").exists()
    assert run(checkpoint, tmp_path / "found", "--input", photos, "--format", "coco") == 0


# ---------------------------------------------------------------------------------------------------- videos
def test_a_video_keeps_its_times(checkpoint: Path, tmp_path: Path):
    seconds = [Fraction(text) for text in ("0", "0.1", "0.15", "1", "2.5", "2.6")]
    clip = film(tmp_path / "ü [1] %d.mp4", seconds)
    output = tmp_path / "found"
    assert run(checkpoint, output, "--input", clip, "--batch-size", 4) == 0
    with VideoReader.of_file(output / clip.name) as reader:
        assert [(frame.time, frame.image.shape) for frame in reader] == [(time_, (600, 802, 3)) for time_ in seconds]
    rows = load(output / "images.json")["images"]
    assert [(row["frame"], row["seconds"]) for row in rows] == [(i, float(time_)) for i, time_ in enumerate(seconds)]


@pytest.mark.parametrize(("words", "count"), [(("--max-frames", 4), 4), (("--seconds", 0.3), 3)])
def test_a_video_can_be_cut_short(checkpoint: Path, tmp_path: Path, words: tuple[str, int], count: int, caplog):
    clip = film(tmp_path / "a.mp4", [Fraction(number, 10) for number in range(30)], (48, 64))
    assert run(checkpoint, tmp_path / "found", "--input", clip, *words, "--strict") == 0
    assert len(load(tmp_path / "found" / "images.json")["images"]) == count and "ends after" not in caplog.text


def test_a_folder_of_videos(checkpoint: Path, tmp_path: Path):
    for name in ("in/a.mp4", "in/b.mp4", "in/deep/c.mp4"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        film(tmp_path / name, [Fraction(0), Fraction(1, 10)], (48, 64))
    assert run(checkpoint, tmp_path / "found", "--input", tmp_path / "in") == 0
    assert sorted(path.name for path in (tmp_path / "found").rglob("*.mp4")) == ["a.mp4", "b.mp4"]
    assert run(checkpoint, tmp_path / "deep", "--input", str(tmp_path / "in" / "**" / "*.mp4")) == 0
    assert (tmp_path / "deep" / "deep" / "c.mp4").is_file()


# ---------------------------------------------------------------------------------------------------- addresses
def test_addresses_of_images_and_videos(checkpoint: Path, photos: Path, site: Site, tmp_path: Path):
    (site.folder / "a.png").write_bytes((photos / "a.png").read_bytes())
    (site.folder / "snapshot").write_bytes((photos / "b.jpg").read_bytes())
    site.types["snapshot"] = "image/jpeg"
    film(site.folder / "clip.mp4", [Fraction(number, 10) for number in range(5)], (48, 64))
    output = tmp_path / "found"
    places = [f"{site.address}/{name}" for name in ("a.png", "snapshot", "clip.mp4", "gone.jpg", "gone")]
    host = site.address.removeprefix("http://")
    (site.folder / "mine.png").write_bytes((photos / "a.png").read_bytes())
    with_password = f"http://me:secret@{host}/mine.png"
    inputs = (photos / "c.png", (photos / "a.png").as_uri(), *places, with_password)
    assert run(checkpoint, output, "--input", *inputs, "--format", "coco") == 0
    index = load(output / "images.json")
    names = [str(photos / "a.png"), str(photos / "c.png"), *places[:2], f"{site.address}/mine.png", *[places[2]] * 5]
    assert sorted(row["file_name"] for row in index["images"]) == sorted(names)
    assert [row["file_name"] for row in index["left_out"]] == [places[3], places[4]]
    drawn = ["a-2.png", "a.png", "c.png", "clip.mp4", "mine.png", "snapshot.png"]
    assert sorted(path.name for path in output.iterdir() if path.suffix in (".png", ".mp4")) == drawn
    assert all("secret" not in path.read_text() for path in output.rglob("*.json"))


def test_a_live_stream(checkpoint: Path, site: Site, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    site.rate = 200
    output = tmp_path / "found"
    started = time.monotonic()
    assert run(checkpoint, output, "--input", f"{site.address}/live", "--max-frames", 5, "--strict") == 0
    assert time.monotonic() - started < 60
    rows = load(output / "images.json")["images"]
    assert [row["frame"] for row in rows] == list(range(5))
    with VideoReader.of_file(output / "live.mp4") as reader:
        times = [float(frame.time) for frame in reader]
    given = [row["seconds"] - rows[0]["seconds"] for row in rows]
    np.testing.assert_allclose(times, given, atol=0.002)
    assert "came faster than they could be predicted, and were left out" in caplog.text


def test_a_live_stream_that_breaks_off(checkpoint: Path, site: Site, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    site.length = 6
    output = tmp_path / "found"
    assert run(checkpoint, output, "--input", f"{site.address}/live") == 0
    assert "/live cannot be read as a video after 6 frames" in caplog.text and "1 video ended early" in caplog.text
    assert (output / "live.mp4").is_file()
    assert run(checkpoint, tmp_path / "strict", "--input", f"{site.address}/live", "--strict") == 1


def test_no_camera(checkpoint: Path, photos: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    assert run(checkpoint, tmp_path / "found", "--input", "999") == 1
    assert "left out: this machine has no camera 999" in caplog.text
    assert run(checkpoint, tmp_path / "both", "--input", "999", photos) == 0


def test_the_files_for_cameras_and_addresses(tmp_path: Path):
    words = ["0", "rtsp://me:secret@host:554/live/ch 1?x=/y", "rtsp://host", "rtmp://other/live/ch 1"]
    sources = find_sources(words, tmp_path)
    assert [source.target.name for source in sources] == ["camera_0.mp4", "ch 1.mp4", "host.mp4", "ch 1-2.mp4"]
    assert [source.name for source in sources][:2] == ["camera 0", "rtsp://host:554/live/ch 1?x=/y"]


# ---------------------------------------------------------------------------------------------------- its end
@pytest.mark.parametrize(("live", "code"), [(True, 0), (False, 130)])
def test_ctrl_c_ends_it_with_whole_files(
    live: bool, code: int, checkpoint: Path, site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A live stream has no other end; of a video something is left undone."""
    clip = film(tmp_path / "live.mp4", [Fraction(number, 10) for number in range(200)], (48, 64))
    output = tmp_path / "found"
    seen = 0
    real = Detector.predict_iter

    def predict_iter(self: Detector, *args: object, **how: object) -> Iterator[object]:
        nonlocal seen
        for prediction in real(self, *args, **how):  # type: ignore[arg-type]
            seen += 1
            if seen == 3:
                threading.Thread(target=os.kill, args=(os.getpid(), signal.SIGINT)).start()
            time.sleep(0.01)
            yield prediction

    monkeypatch.setattr(Detector, "predict_iter", predict_iter)
    place = f"{site.address}/live" if live else clip
    assert run(checkpoint, output, "--input", place, "--batch-size", 1) == code
    count = len(load(output / "images.json")["images"])
    assert 3 <= count < 150
    with VideoReader.of_file(output / "live.mp4") as reader:
        assert len(list(reader)) == count
