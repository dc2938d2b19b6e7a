"""`detframe check` says what the log of a training would say of samplers, weights of classes and transforms."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from detframe.cli.check import main
from tests.cli.test_check import TINY, write_coco_sets
from tests.data.screen.faults import picture

Check = Callable[..., tuple[int, str]]


@pytest.fixture
def check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Check:
    """Check 12 images of a cat, or with `rare` those of `write_rare`: check(*overrides) -> exit code, text."""
    monkeypatch.setenv("DETFRAME_CACHE", str(tmp_path / "cache"))
    write_coco_sets(tmp_path)

    def run(*words: object, train: str = "a") -> tuple[int, str]:
        (tmp_path / "c.yaml").write_text(f"DATASETS: {{CATALOG: {tmp_path}/catalog.yaml, TRAIN: [{train}]}}\n")
        settings = (*TINY, "MODEL.NUM_CLASSES", 0, "INPUT.MIN_SIZE_TRAIN", 48, *words)
        code = main(["--config-file", str(tmp_path / "c.yaml"), *map(str, settings)])
        return code, " ".join(capsys.readouterr().out.split())

    return run


def write_rare(folder: Path) -> None:
    """Data set "rare": 49 images of a cat, one of a dog, one of nothing; no bird."""
    images, annotations = [], []
    for n in range(51):
        picture(folder / "rare" / f"{n}.png", n)
        images.append({"id": n + 1, "file_name": f"{n}.png", "height": 48, "width": 64})
        box: dict[str, Any] = {"bbox": [4, 4, 30, 20], "area": 600, "iscrowd": 0, "category_id": 2 if n == 7 else 1}
        annotations += [{"id": n + 1, "image_id": n + 1, **box}] if n < 50 else []
    categories = [{"id": i, "name": name} for i, name in enumerate(("cat", "dog", "bird"), 1)]
    data = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "rare.json").write_text(json.dumps(data))
    with (folder / "catalog.yaml").open("a") as catalog:
        catalog.write("rare: {format: coco, images: rare, annotations: rare.json}\n")


def test_a_sampler_over_one_class_is_a_warning(check: Check) -> None:
    code, text = check("DATALOADER.SAMPLER", "class_balanced", "--quick")
    assert code == 0 and "SAMPLER class_balanced balances classes, and train has objects of one class alone" in text
    assert "balances classes" not in check("--quick")[1]


def test_images_that_come_too_often_and_absent_classes(check: Check, tmp_path: Path) -> None:
    write_rare(tmp_path)
    keys = ("DATALOADER.SAMPLER", "class_balanced", "MODEL.CLASS_WEIGHTS", "auto", "--quick")
    code, text = check(*keys, train="rare")
    assert code == 0
    assert "DATALOADER.SAMPLER class_balanced: images come 0.51 to 25 times in an epoch of 51" in text
    assert "- model: 1 of the images of train come more than 20 times an epoch" in text
    assert "MODEL.CLASS_WEIGHTS auto: cat 0.510204, dog 25, bird 1" in text  # 50 / (2 * 49), 50 / (2 * 1)
    assert "- model: MODEL.CLASS_WEIGHTS auto: no object is a bird; weight 1" in text


def test_the_share_of_each_data_set(check: Check, tmp_path: Path) -> None:
    write_rare(tmp_path)
    text = check("DATASETS.TRAIN_WEIGHTS", "[1, 3]", "--quick", train="a, b")[1]
    assert "DATASETS.TRAIN_WEIGHTS: of the 24 images of an epoch, a 25.0%, b 75.0%" in text
    code, text = check("DATALOADER.EMPTY_SHARE", 0.5, "--quick")
    assert code == 1 and "set DATALOADER.EMPTY_SHARE -1" in text


def test_a_transform_whose_sizes_are_not_known_is_no_error_without_buckets(check: Check) -> None:
    code, text = check("INPUT.TRANSFORMS", "[{v2.RandomCrop: {size: 40}}]", "--quick")
    assert code == 0 and "shapes of batches" not in text
    code, text = check("INPUT.TRANSFORMS", "[{v2.RandomCrop: {size: 40}}]", "INPUT.BUCKETS", "[64]", "--quick")
    assert code == 1 and "INPUT.BUCKETS needs to know the largest size of images" in text


def test_transforms_are_tried(check: Check) -> None:
    code, text = check("INPUT.TRANSFORMS", "[HorizontalFlip]")
    assert code == 0 and "INPUT.TRANSFORMS, tried on 8 images with 8 objects: 8 objects afterwards" in text
    code, text = check("INPUT.TRANSFORMS", "[{v2.RandomCrop: {size: 2}}]", "INPUT.MIN_VISIBLE", 0.9)
    assert code == 1 and "stop at its beginning: INPUT.TRANSFORMS removes every object" in text
    code, text = check("INPUT.TRANSFORMS", "[Mosiac]", "--quick")
    assert code == 1 and "INPUT.TRANSFORMS, entry 1: Mosiac is not there; did you mean 'Mosaic'?" in text
