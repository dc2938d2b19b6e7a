"""`predict`: drawings under the same names, COCO results, videos, and inputs that cannot be read."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO

from detframe.cli import predictor
from detframe.cli.media import find_inputs, output_paths, write_image
from detframe.cli.video_writer import VideoWriter
from detframe.data.listing import Listing
from detframe.files import JsonList
from detframe.inference import read_video
from tests.cli.conftest import load, run


def test_a_folder(checkpoint: Path, photos: Path, tmp_path: Path):
    output = tmp_path / "found"
    assert run(checkpoint, output, "--input", photos, "--score-threshold", "0.01", "--batch-size", 2) == 0
    assert sorted(p.name for p in output.iterdir()) == ["a.png", "b.jpg", "c.png", "images.json", "predictions.json"]
    assert cv2.imread(str(output / "a.png")).shape[1] >= 64
    index, rows = load(output / "images.json"), load(output / "predictions.json")
    assert [(i["id"], Path(i["file_name"]).name) for i in index["images"]] == [(1, "a.png"), (2, "b.jpg"), (3, "c.png")]
    assert (index["images"][1]["width"], index["images"][1]["height"]) == (48, 64)
    assert index["categories"] == [{"id": 3, "name": "cat"}, {"id": 7, "name": "dog"}]
    assert rows and {row["category_id"] for row in rows} <= {3, 7} and {row["image_id"] for row in rows} <= {1, 2, 3}
    assert set(rows[0]) == {"image_id", "category_id", "bbox", "score"}


def test_where_nothing_is_drawn_the_highest_score_is_said(
    checkpoint: Path, photos: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    with caplog.at_level("INFO"):
        assert run(checkpoint, tmp_path / "none", "--input", photos, "--score", "1") == 0
        best = max(row["score"] for row in load(tmp_path / "none" / "predictions.json"))
        assert f"the highest score is {best:.2f}; a lower --score shows what there is" in caplog.text
        caplog.clear()
        assert run(checkpoint, tmp_path / "some", "--input", photos, "--score", "0.01") == 0
    assert "the highest score" not in caplog.text


def test_a_folder_that_holds_an_earlier_prediction(
    checkpoint: Path, photos: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    """The user hears that two predictions lie in one folder; the lists are those of the second."""
    found = tmp_path / "found"
    with caplog.at_level("INFO"):
        assert run(checkpoint, found, "--input", photos / "a.png") == 0
        assert "earlier prediction" not in caplog.text
        assert run(checkpoint, found, "--input", photos / "b.jpg") == 0
    assert f"{found} holds an earlier prediction: " in caplog.text
    assert {path.name for path in found.iterdir()} >= {"a.png", "b.jpg"}
    assert [Path(i["file_name"]).name for i in load(found / "images.json")["images"]] == ["b.jpg"]


def test_what_is_drawn_is_no_image_of_a_data_set(checkpoint: Path, photos: Path, tmp_path: Path):
    """Else drawings would be background, or second files of an image's name, to a training on the photos."""
    before = Listing(photos).names
    assert run(checkpoint, photos / "found", "--input", photos, "--score", 0, "--save-crops", "--format", "yolo") == 0
    assert (photos / "found" / "b.jpg").is_file() and list((photos / "found" / "crops").rglob("*.jpg"))
    images = [file.as_posix() for file in Listing(photos).images()]
    assert images == before and not Listing(photos / "found").images()


def test_proposals_have_no_class(write_checkpoint, photos: Path, tmp_path: Path):
    checkpoint = write_checkpoint(tmp_path / "rpn.pth", "MODEL.ROI_HEADS.NAME", "")
    assert run(checkpoint, tmp_path / "found", "--input", photos) == 0
    index, rows = load(tmp_path / "found" / "images.json"), load(tmp_path / "found" / "predictions.json")
    assert index["categories"] == [{"id": 1, "name": "object"}]
    assert len(rows) > 3 * 5 and {row["category_id"] for row in rows} == {1}  # more than TEST.DETECTIONS_PER_IMG


def test_the_results_are_those_of_the_detector(checkpoint: Path, photos: Path, tmp_path: Path):
    from detframe.inference import Detector

    output = tmp_path / "found"
    run(checkpoint, output, "--input", photos / "b.jpg")
    (prediction,) = Detector.load(checkpoint, device="cpu").predict(photos / "b.jpg")
    rows = load(output / "predictions.json")
    boxes = prediction["boxes"].double().numpy()
    np.testing.assert_allclose([r["bbox"][:2] for r in rows], boxes[:, :2], atol=1e-4)
    np.testing.assert_allclose([r["bbox"][2:] for r in rows], boxes[:, 2:] - boxes[:, :2], atol=1e-4)
    np.testing.assert_allclose([r["score"] for r in rows], prediction["scores"].numpy(), atol=1e-6)


def test_pycocotools_reads_both_files(checkpoint: Path, photos: Path, tmp_path: Path):
    output = tmp_path / "found"
    run(checkpoint, output, "--input", photos)
    results = COCO(str(output / "images.json")).loadRes(str(output / "predictions.json"))
    assert len(results.anns) == len(load(output / "predictions.json"))


def test_a_video(checkpoint: Path, photos: Path, tmp_path: Path):
    video = tmp_path / "clip.avi"
    writer = cv2.VideoWriter(str(video), cv2.VideoWriter.fourcc(*"MJPG"), 10.0, (64, 48))
    for number in range(5):
        writer.write(np.full((48, 64, 3), 40 * number, dtype=np.uint8))
    writer.release()
    output = tmp_path / "found"
    assert run(checkpoint, output, "--input", video, photos / "a.png", "--batch-size", 2) == 0
    images = load(output / "images.json")["images"]
    assert [i.get("frame") for i in images] == [None, 0, 1, 2, 3, 4]
    drawn = cv2.VideoCapture(str(output / "clip.mp4"))
    assert drawn.get(cv2.CAP_PROP_FRAME_COUNT) == 5 and drawn.get(cv2.CAP_PROP_FPS) == 10.0
    drawn.release()


def test_what_cannot_be_read_is_left_out_and_named(
    checkpoint: Path, photos: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    (photos / "broken.jpg").write_bytes((photos / "b.jpg").read_bytes()[:200])
    assert run(checkpoint, tmp_path / "found", "--input", photos) == 0
    assert "broken.jpg" in caplog.text and "1 of the inputs could not be read" in caplog.text
    index = load(tmp_path / "found" / "images.json")
    assert len(index["images"]) == 3
    (entry,) = index["left_out"]
    assert Path(entry["file_name"]).name == "broken.jpg" and "truncated or damaged" in entry["error"]
    assert run(checkpoint, tmp_path / "again", "--input", photos, "--strict") == 1
    assert len(load(tmp_path / "again" / "images.json")["images"]) == 3


def write_video(path: Path, count: int = 3, size: int = 48) -> Path:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10.0, (64, size))
    random = np.random.default_rng(0)
    for _ in range(count):
        writer.write(random.integers(0, 255, (size, 64, 3), np.uint8))
    writer.release()
    return path


def test_damaged_videos_do_not_take_the_others_along(
    checkpoint: Path, photos: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    folder = tmp_path / "in"
    folder.mkdir()
    write_video(folder / "b.avi")
    write_video(folder / "d.avi", count=0)
    whole = write_video(tmp_path / "e.avi", count=20).read_bytes()
    (folder / "e.avi").write_bytes(whole[: len(whole) // 2])
    for name in ("a.mp4", "c.wmv"):
        (folder / name).write_bytes(b"junk" * 100)
    (folder / "f.png").write_bytes((photos / "a.png").read_bytes())
    output = tmp_path / "found"
    assert run(checkpoint, output, "--input", folder) == 0
    index = load(output / "images.json")
    assert [Path(row["file_name"]).name for row in index["left_out"]] == ["a.mp4", "c.wmv", "d.avi"]
    frames = [Path(row["file_name"]).name for row in index["images"]]
    assert frames[:4] == ["f.png", "b.avi", "b.avi", "b.avi"] and 0 < frames.count("e.avi") < 20
    assert load(output / "predictions.json")
    for name in ("a.mp4", "c.wmv", "d.avi"):
        assert f"{name} is no video that can be read" in caplog.text
    assert "3 of the inputs could not be read" in caplog.text
    assert sorted(p.name for p in output.glob("*.mp4")) == ["b.mp4", "e.mp4"]


def test_nothing_could_be_read(checkpoint: Path, tmp_path: Path):
    (tmp_path / "a.mp4").write_bytes(b"junk" * 100)
    (tmp_path / "a.jpg").write_bytes(b"junk" * 100)
    assert run(checkpoint, tmp_path / "found", "--input", tmp_path / "a.mp4", tmp_path / "a.jpg") == 1
    index = load(tmp_path / "found" / "images.json")
    assert (len(index["images"]), len(index["left_out"])) == (0, 2)


def test_a_drawing_that_cannot_be_written_costs_only_itself(
    checkpoint: Path, photos: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    output = tmp_path / "found"
    (output / "a.png").mkdir(parents=True)  # where the drawing would stand
    assert run(checkpoint, output, "--input", photos, "--strict") == 1
    assert "not drawn" in caplog.text and "1 drawing could not be written" in caplog.text
    assert len(load(output / "images.json")["images"]) == 3 and (output / "b.jpg").is_file()


def test_a_full_disk_is_one_message_and_leaves_no_half_file(checkpoint: Path, photos: Path, tmp_path: Path, capsys):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(predictor, "write_image", full)
        assert run(checkpoint, tmp_path / "found", "--input", photos) == 2
    err = capsys.readouterr().err
    assert "a.png: No space left on device; make room" in err
    assert list((tmp_path / "found").iterdir()) == []


@pytest.mark.parametrize("place", ["file", "file/below/it"])
def test_an_output_that_cannot_be_a_folder(place: str, photos: Path, tmp_path: Path, capsys):
    (tmp_path / "file").write_text("x")
    assert run(tmp_path / "no.pth", tmp_path / place, "--input", photos) == 2
    assert f"--output {tmp_path / place} cannot be a folder: {tmp_path / 'file'} is a file" in capsys.readouterr().err


def test_names_of_every_kind(checkpoint: Path, photos: Path, tmp_path: Path):
    names = ["a b.png", "[1]*?.png", "ü€.png", "%d.png", "'\".png", "-x.png", "x" * 200 + ".png", "line\nbreak.png"]
    folder = tmp_path / "in"
    folder.mkdir()
    for name in [*names, os.fsdecode(b"\xff.png")]:
        (folder / name).write_bytes((photos / "a.png").read_bytes())
    assert run(checkpoint, tmp_path / "found", "--input", folder, folder / "[1]*?.png") == 0
    found = {Path(row["file_name"]).name for row in load(tmp_path / "found" / "images.json")["images"]}
    assert found == {*names, os.fsdecode(b"\xff.png")} == {p.name for p in (tmp_path / "found").glob("*.png")}


def test_an_input_that_is_no_regular_file_does_not_wait(checkpoint: Path, photos: Path, tmp_path: Path):
    os.mkfifo(photos / "pipe.jpg")
    os.mkfifo(photos / "pipe.mp4")
    inputs = [photos, photos / "pipe.jpg", photos / "pipe.mp4"]
    assert run(checkpoint, tmp_path / "found", "--input", *inputs) == 0
    left_out = load(tmp_path / "found" / "images.json")["left_out"]
    assert [Path(row["file_name"]).name for row in left_out] == ["pipe.jpg", "pipe.mp4"]


def test_frames_of_another_size_are_not_lost(tmp_path: Path):
    with contextlib.closing(VideoWriter(tmp_path / "a.mp4", 10.0)) as writer:
        for height in (48, 64, 48):
            writer.write(np.zeros((height, 64, 3), np.uint8))
    assert [frame.shape for frame in read_video(tmp_path / "a.mp4")] == [(48, 64, 3)] * 3


def test_images_that_their_format_cannot_hold(tmp_path: Path):
    with pytest.raises(OSError, match=r"a\.webp.*cannot be encoded"):
        write_image(tmp_path / "a.webp", np.zeros((1, 20_000, 3), np.uint8))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--input", "nowhere"], "nowhere"),
        (["--input", "."], "no images"),
        (["--input", "photos/*.gif"], "no images"),
    ],
)
def test_inputs_that_are_not_there(
    words: list[str], message: str, checkpoint: Path, photos: Path, tmp_path: Path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    assert run(checkpoint, tmp_path / "found", *words) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ") and message in err


def test_a_missing_checkpoint_and_a_file_that_is_none(photos: Path, tmp_path: Path, capsys):
    assert run(tmp_path / "no.pth", tmp_path / "found", "--input", photos) == 2
    assert "no.pth" in capsys.readouterr().err
    (tmp_path / "text.pth").write_text("hello")
    assert run(tmp_path / "text.pth", tmp_path / "found", "--input", photos) == 2
    assert "text.pth" in capsys.readouterr().err
    assert not (tmp_path / "found").exists()


def test_drawings_keep_their_folders_and_never_replace_an_input(tmp_path: Path):
    inputs = [tmp_path / "in" / "x" / "1.jpg", tmp_path / "in" / "y" / "1.jpg", tmp_path / "in" / "clip.avi"]
    targets = output_paths(inputs, tmp_path / "out")
    assert [str(t.relative_to(tmp_path / "out")) for t in targets] == ["x/1.jpg", "y/1.jpg", "clip.mp4"]
    with pytest.raises(ValueError, match="would replace the input"):
        output_paths(inputs[:2], tmp_path / "in")
    with pytest.raises(ValueError, match="would both be drawn as"):
        output_paths([tmp_path / "a.avi", tmp_path / "a.mkv"], tmp_path / "out")


def test_an_input_named_twice_counts_once(photos: Path):
    assert len(find_inputs([str(photos), str(photos / "a.png"), str(photos / "*.png")])) == 3


def test_a_list_appears_whole_or_not_at_all(tmp_path: Path):
    with JsonList(tmp_path / "whole.json") as rows:
        rows.append({"a": 1})
        rows.append({"a": 2})
        assert not (tmp_path / "whole.json").exists()
    assert load(tmp_path / "whole.json") == [{"a": 1}, {"a": 2}]
    with pytest.raises(RuntimeError, match="stop"), JsonList(tmp_path / "half.json") as rows:
        rows.append(1)
        raise RuntimeError("stop")
    with JsonList(tmp_path / "empty.json"):
        pass
    assert load(tmp_path / "empty.json") == []
    assert sorted(p.name for p in tmp_path.iterdir()) == ["empty.json", "whole.json"]


def test_another_nms(checkpoint: Path, photos: Path, tmp_path: Path):
    rows = {}
    for kind in ("class", "soft"):
        assert run(checkpoint, tmp_path / kind, "--input", photos, "--nms", kind) == 0
        rows[kind] = load(tmp_path / kind / "predictions.json")
    assert run(checkpoint, tmp_path / "plain", "--input", photos) == 0
    assert load(tmp_path / "plain" / "predictions.json") == rows["class"] != rows["soft"]


def test_several_views(checkpoint: Path, photos: Path, tmp_path: Path):
    rows = {}
    words = {"plain": (), "flip": ("--augment",), "wbf": ("--augment", "MERGE=wbf", "min_sizes=48,64")}
    for name, own in words.items():
        assert run(checkpoint, tmp_path / name, "--input", photos, *own) == 0
        rows[name] = load(tmp_path / name / "predictions.json")
    assert rows["plain"] != rows["flip"] != rows["wbf"]


@pytest.mark.parametrize(
    ("word", "said"), [("wbf", "--augment takes KEY=VALUE"), ("MERG=wbf", "did you mean 'TEST.AUG.MERGE'")]
)
def test_views_that_there_are_not(
    word: str, said: str, checkpoint: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert run(checkpoint, tmp_path / "found", "--input", photos, "--augment", word) == 2
    assert said in capsys.readouterr().err and not (tmp_path / "found").exists()
