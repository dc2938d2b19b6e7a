"""benchmark --weights: files in processes of their own, timed in turn, scored on the same images."""

from __future__ import annotations

import argparse
import json

import numpy as np
import pytest
import torch

from detframe.cli.benchmark import main
from detframe.cli.benchmark_weights import Entry, file_bytes, table
from detframe.cli.benchmark_worker import Facts, Worker, _load
from detframe.inference import Detector
from tests.backends.handmade import card, fixed, write, write_data


def test_two_files_are_timed_in_turn_and_scored(tmp_path, capfd):
    data = write_data(tmp_path)
    files = [write(tmp_path / "a.onnx"), write(tmp_path / "b.onnx", card(precision="int8", input=fixed(80, 120)))]
    out = tmp_path / "results.json"
    words = ["--weights", *map(str, files), "--data", str(data), "--output", str(out), "--threads", "1"]
    assert main([*words, "MODEL.DEVICE", "cpu"]) == 0
    results = json.loads(out.read_text())
    first, second = results["files"]
    assert (results["images"], results["batch"], results["threads"]) == (4, 1, 1)
    assert [row["metrics"]["bbox/AP"] for row in (first, second)] == pytest.approx([100, 100], abs=1e-6)
    assert (first["ratio"], first["ratio_quartiles"]) == (1, [1, 1])
    assert (first["precision"], second["precision"], first["format"]) == ("fp32", "int8", "onnx")
    for row, file in zip((first, second), files, strict=True):
        assert row["file_bytes"] == file.stat().st_size
        assert 0 < row["median_s"] <= row["p90_s"] and row["ratio"] > 0 and row["load_s"] > 0
        assert 20e6 < row["peak_memory_bytes"] < 400e6  # a process without torch
    lines = [line for line in capfd.readouterr().err.splitlines() if line.startswith(("file", "a.onnx", "b.onnx"))]
    assert [line.split()[0] for line in lines] == ["file", "a.onnx", "b.onnx"] and lines[0].endswith("bbox/AP")
    assert "100.00" in lines[2]


def test_files_of_other_classes_are_refused(tmp_path, capfd):
    other = card(class_names=("cat", "owl"))
    words = ["--weights", str(write(tmp_path / "a.onnx")), str(write(tmp_path / "b.onnx", other))]
    assert main([*words, "MODEL.DEVICE", "cpu"]) == 2
    assert "b.onnx finds cat, owl, but" in capfd.readouterr().err


def test_a_file_that_cannot_be_loaded_is_named(tmp_path, capfd):
    assert main(["--weights", str(tmp_path / "none.onnx")]) == 2
    assert "no such file" in capfd.readouterr().err


def test_a_checkpoint_finds_what_its_model_finds_in_the_form_of_a_file(checkpoint):
    run, said = _load(checkpoint, "cpu", 0, False)
    assert (said.format, said.precision, said.class_names, said.static_hw) == (
        "checkpoint",
        "fp32",
        ("cat", "dog"),
        None,
    )
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3, 64, 96), dtype=np.uint8)
    found = run(pixels, np.array([[64, 96], [50, 60]]))
    detector = Detector.load(checkpoint, "cpu", amp="off")
    with torch.inference_mode():
        expected = detector.model([torch.from_numpy(pixels[0]), torch.from_numpy(pixels[1, :, :50, :60])])
    assert found["count"].tolist() == [len(one["scores"]) for one in expected]
    for i, one in enumerate(expected):
        np.testing.assert_array_equal(found["boxes"][i, : found["count"][i]], one["boxes"].numpy())
        assert not found["scores"][i, found["count"][i] :].any()


def test_a_process_that_dies_is_an_error_with_its_file(tmp_path):
    worker = Worker(write(tmp_path / "a.onnx"), "cpu", 1)
    worker._process.kill()
    with pytest.raises(ValueError, match=r"a\.onnx has ended by itself"):
        worker.run(np.zeros((1, 3, 8, 8), dtype=np.uint8), np.array([[8, 8]]))
    worker.close()


def facts(**changes):
    values = {"format": "onnx", "precision": "fp32", "runtime": "r", "config": "", "class_names": ("cat",)}
    values |= {"class_agnostic": False, "pixel": 0.0, "static_hw": None, "batch": None, "min_size": 0, "max_size": 0}
    return Facts(**{**values, "load_s": 0.5, **changes})


def entry(tmp_path, name, seconds):
    path = tmp_path / name
    path.write_bytes(b"x" * 2**20)
    return Entry(argparse.Namespace(path=path, facts=facts()), seconds, 3, metrics={"bbox/AP": 40.0, "bbox/AP50": 60.0})


def test_the_ratio_is_that_of_runs_on_the_same_images(tmp_path):
    """A machine that becomes slower by ten in the middle changes no ratio."""
    first, second = entry(tmp_path, "a", [0.2, 2.0, 4.0]), entry(tmp_path, "b", [0.1, 1.0, 2.0])
    row = second.row(first)
    assert (row["ratio"], row["ratio_quartiles"]) == (2.0, [2.0, 2.0])
    assert row["images_per_s"] == pytest.approx(3 / 3.1)
    lines = table([first.row(first), row]).splitlines()
    assert lines[2].split()[:8] == ["b", "fp32", "1000.0", "1800.0", "1.0", "2.00", "(2.00-2.00)", "0.5"]
    assert lines[0].split()[-1] == "bbox/AP" and lines[2].split()[-1] == "40.00"


def test_the_size_counts_what_lies_beside(tmp_path):
    for name, size in (("a.xml", 3), ("a.bin", 5), ("b.onnx", 7), ("b.onnx.data", 11)):
        (tmp_path / name).write_bytes(b"x" * size)
    assert (file_bytes(tmp_path / "a.xml"), file_bytes(tmp_path / "b.onnx")) == (8, 18)
