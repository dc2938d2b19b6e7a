"""Trainings whose images lie in a bucket: the weights of local ones, also over a cut connection and a resumption."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from detframe.cli import shard_data
from detframe.config import ConfigNode
from detframe.engine import evaluate, train
from detframe.engine.trainer import Hook, Trainer
from detframe.errors import MissingFileError, UnreachableError
from detframe.inference import Detector
from tests.bucket_server import Cable, Store
from tests.engine.continued import goes_on_equally
from tests.engine.written import weights
from tests.storage.conftest import EVERY_STORE, NOBODYS

WORDS = ("DATASETS.TEST", (), "SOLVER.MAX_ITER", 8, "SOLVER.CHECKPOINT_PERIOD", 4)


def assert_equal(one: Path, two: Path) -> None:
    first, second = weights(one), weights(two)
    assert first.keys() == second.keys() and all(torch.equal(value, second[key]) for key, value in first.items())


def far_catalog(bucket: Store, datasets: Path, folder: Path, images: str) -> tuple[str, ...]:
    """The words of a config whose images and annotations are in the bucket, and its cache in a folder of its own."""
    bucket.put_folder(datasets / "shapes/annotations", "annotations")
    catalog = folder / "catalog.yaml"
    annotations = f"{bucket.address}/annotations/train.json"
    catalog.write_text(f"far: {{format: coco, images: {bucket.address}/{images}, annotations: {annotations}}}")
    own = ("DATALOADER.CACHE_DIR", str(folder / "copies"), "DATASETS.CATALOG", str(catalog))
    return (*WORDS, "DATASETS.TRAIN", "far", *own)


@pytest.fixture
def near(tiny: Callable[..., ConfigNode], tmp_path: Path) -> Path:
    """OUTPUT_DIR of the run of local files."""
    folder = tmp_path / "near"
    train(tiny(*WORDS, "DATASETS.TRAIN", "shapes_train", "OUTPUT_DIR", str(folder)))
    return folder


@EVERY_STORE
def test_weights_are_those_of_local_files(
    bucket: Store,
    cable: Cable,
    datasets: Path,
    tmp_path: Path,
    tiny: Callable[..., ConfigNode],
    near: Path,
) -> None:
    bucket.put_folder(datasets / "shapes/train", "images")
    words = far_catalog(bucket, datasets, tmp_path, "images")
    cable.drop_every = 3
    train(tiny(*words, "OUTPUT_DIR", str(tmp_path / "far"), "DATALOADER.NUM_WORKERS", 2))
    assert_equal(near, tmp_path / "far")
    assert goes_on_equally(tiny, words, tmp_path / "far", tmp_path / "parts")


@EVERY_STORE
def test_weights_in_a_store(bucket: Store, near: Path, tiny: Callable[..., ConfigNode], tmp_path: Path) -> None:
    address = f"{bucket.address}/weights/model.pth"
    bucket.put("weights/model.pth", near / "model_final.pth")
    detector = Detector.load(address, "cpu")
    given = weights(near)
    assert all(torch.equal(value, given[key]) for key, value in detector.model.state_dict().items())
    assert evaluate(tiny("MODEL.WEIGHTS", address, "OUTPUT_DIR", str(tmp_path / "evaluated"))).keys() >= {"bbox/AP"}
    for wrong, words in (
        (f"{bucket.address}/model.pth", "does not exist"),
        (f"{NOBODYS[bucket.scheme]}/m.pth", "the "),
    ):
        with pytest.raises(MissingFileError, match=f"{wrong}:? {words}"):
            Detector.load(wrong, "cpu")


class Outage(Hook):
    """Cuts the cable after the second step, for some seconds or for good."""

    def __init__(self, cable: Cable, seconds: float) -> None:
        self.cable, self.seconds = cable, seconds

    def after_step(self, trainer: Trainer) -> None:
        if trainer.iteration == 2:
            self.cable.cut()
            if self.seconds:
                threading.Timer(self.seconds, self.cable.mend).start()


def test_shards_over_an_outage(
    bucket: Store,
    cable: Cable,
    datasets: Path,
    tmp_path: Path,
    tiny: Callable[..., ConfigNode],
    near: Path,
) -> None:
    assert shard_data.main(["--datasets", "shapes_train", "--output", str(tmp_path / "shards")]) == 0
    bucket.put_folder(tmp_path / "shards", "shards")
    words = (*far_catalog(bucket, datasets, tmp_path, "shards"), "DATALOADER.CACHE_GB", 0.0)
    begun = time.monotonic()
    train(tiny(*words, "OUTPUT_DIR", str(tmp_path / "far")), callbacks=[Outage(cable, 2.0)])
    assert time.monotonic() - begun > 2
    assert_equal(near, tmp_path / "far")

    words = (
        *words,
        "OUTPUT_DIR",
        str(tmp_path / "ends"),
        "DATALOADER.RETRY_SECONDS",
        1.0,
        "DATALOADER.ON_ERROR",
        "skip",
    )
    with pytest.raises(UnreachableError, match="answered before: go on with --resume when it is back"):
        train(tiny(*words, "DATALOADER.NUM_WORKERS", 1), callbacks=[Outage(cable, 0.0)])
    cable.mend()
    train(tiny(*words), resume=True)
    assert_equal(near, tmp_path / "ends")
