"""Images in a bucket that are more than pictures: cut into tiles, with several channels; weights as of local files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml

from detframe.config import ConfigNode
from detframe.engine import train
from tests.bucket_server import Bucket, Cable
from tests.data.channel_sets import MEANS, channel_set
from tests.engine.test_elsewhere import assert_equal

WORDS = ("SOLVER.MAX_ITER", 4, "TEST.EVAL_PERIOD", 0)
TILES = ("INPUT.TILES.SIZE", 40, "INPUT.TILES.OVERLAP", 8)


def near_and_far(bucket: Bucket, folder: Path, entry: dict[str, str]) -> tuple[str, ...]:
    """The words of a config that knows a catalog's entry as "near", and as "far" with its files in the bucket."""
    bucket.put_folder(Path(entry["images"]), "images")
    bucket.put("instances.json", Path(entry["annotations"]))
    far = {**entry, "images": f"{bucket.address}/images", "annotations": f"{bucket.address}/instances.json"}
    (folder / "catalog.yaml").write_text(yaml.safe_dump({"near": entry, "far": far}))
    return ("DATASETS.CATALOG", str(folder / "catalog.yaml"), "DATALOADER.CACHE_DIR", str(folder / "copies"))


def check_equal(make: Callable[..., ConfigNode], folder: Path, words: tuple[object, ...]) -> None:
    """Trained and evaluated on both, "far" with a worker and a cache that holds few of the images."""
    for name in ("near", "far"):
        out = ("OUTPUT_DIR", str(folder / name), "DATASETS.TRAIN", (name,), "DATASETS.TEST", (name,))
        far = ("DATALOADER.NUM_WORKERS", 1, "DATALOADER.CACHE_GB", 1e-4) if name == "far" else ()
        train(make(*WORDS, *words, *out, *far))
    assert_equal(folder / "near", folder / "far")


@pytest.mark.slow
def test_tiles(bucket: Bucket, cable: Cable, datasets: Path, tmp_path: Path, tiny: Callable[..., ConfigNode]) -> None:
    shapes = datasets / "shapes"
    entry = {"format": "coco", "images": str(shapes / "train"), "annotations": str(shapes / "annotations/train.json")}
    words = near_and_far(bucket, tmp_path, entry)
    cable.drop_every = 5
    check_equal(tiny, tmp_path, (*words, *TILES))
    assert "tiles" in (tmp_path / "far/log.txt").read_text()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("suffix", "channels", "dtype", "more"), [(".tif", 4, "uint16", ()), (".npy", 5, "float32", TILES)]
)
def test_channels(
    bucket: Bucket,
    cable: Cable,
    tmp_path: Path,
    tiny: Callable[..., ConfigNode],
    suffix: str,
    channels: int,
    dtype: str,
    more: tuple[object, ...],
) -> None:
    words = near_and_far(bucket, tmp_path, channel_set(tmp_path / "data", suffix, channels, dtype))
    cable.drop_every = 5
    means = np.resize(MEANS, channels)
    form = ("INPUT.CHANNELS", channels, "INPUT.DEPTH", "file", "INPUT.PIXEL_MEAN", means.tolist())
    check_equal(tiny, tmp_path, (*words, *form, "INPUT.PIXEL_STD", (means / 10).tolist(), *more))
