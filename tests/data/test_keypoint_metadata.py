"""What a catalog says of keypoints, and how many a model gets."""

from __future__ import annotations

from pathlib import Path

import pytest

from detframe.config import get_cfg
from detframe.data import Metadata, load_records
from detframe.data.metadata import resolve_num_keypoints
from tests.data.sets import write_catalog
from tests.data.test_make_shapes import script, shapes  # noqa: F401  (fixtures)


def entry(shapes: Path, **more: object) -> dict[str, object]:  # noqa: F811
    return {
        "format": "coco",
        "images": str(shapes / "val"),
        "annotations": str(shapes / "annotations" / "val.json"),
        **more,
    }


def test_sigmas_and_pairs_come_from_the_catalog(shapes: Path, tmp_path: Path) -> None:  # noqa: F811
    names = load_records(["a"], str(write_catalog(tmp_path, {"a": entry(shapes)}))).metadata.keypoint_names
    assert len(names) == 4
    own = entry(shapes, keypoint_sigmas=[0.1, 0.2, 0.3, 0.4], keypoint_flip_pairs=[[names[0], names[2]]])
    catalog = str(write_catalog(tmp_path, {"b": own}))
    for _ in range(2):  # read, and from the cache
        metadata = load_records(["b"], catalog).metadata
        assert metadata.keypoint_sigmas == (0.1, 0.2, 0.3, 0.4) and metadata.keypoint_flip_pairs == ((0, 2),)


def test_sigmas_of_joined_sets(shapes: Path, tmp_path: Path) -> None:  # noqa: F811
    """One set may leave them out; two that differ cannot be scored together."""
    sets = {"none": None, "some": [0.1, 0.2, 0.3, 0.4], "others": [0.1, 0.2, 0.3, 0.5]}
    catalog = str(write_catalog(tmp_path, {k: entry(shapes, keypoint_sigmas=v) for k, v in sets.items()}))
    for names in (["none", "some"], ["some", "none"], ["some", "some"]):
        assert load_records(names, catalog).metadata.keypoint_sigmas == (0.1, 0.2, 0.3, 0.4)
    with pytest.raises(ValueError, match=r"same keypoint_sigmas \(\[0.1, .*0.4\] and \[0.1, .*0.5\]\)"):
        load_records(["some", "others"], catalog)


@pytest.mark.parametrize(
    "more, words",
    [
        ({"keypoint_sigmas": [0.1]}, "must be 4 numbers"),
        ({"keypoint_sigmas": [0.1, 0.1, 0.1, 0]}, "above 0"),
        ({"keypoint_flip_pairs": [["nose", "top"]]}, r"\['nose', 'top'\]"),
    ],
)
def test_what_does_not_fit(shapes: Path, tmp_path: Path, more: dict[str, object], words: str) -> None:  # noqa: F811
    with pytest.raises(ValueError, match=words):
        load_records(["a"], str(write_catalog(tmp_path, {"a": entry(shapes, **more)})))


def test_the_number_of_keypoints() -> None:
    cfg = get_cfg()
    with_points = Metadata("a", ("x",), (1,), ("p", "q"))
    without = Metadata("b", ("x",), (1,))
    assert resolve_num_keypoints(cfg, with_points) == 0
    cfg.merge_from_list(["MODEL.KEYPOINT_ON", True])
    assert resolve_num_keypoints(cfg, with_points) == 2
    with pytest.raises(ValueError, match="b has 0 keypoints"):
        resolve_num_keypoints(cfg, without)
    cfg.merge_from_list(["MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS", 17])
    with pytest.raises(ValueError, match=r"17.*has 2 keypoints \(p, q\)"):
        resolve_num_keypoints(cfg, with_points)


def test_only_the_first_images(shapes: Path, tmp_path: Path) -> None:  # noqa: F811
    catalog = str(write_catalog(tmp_path, {"a": entry(shapes)}))
    whole, few = load_records(["a"], catalog), load_records(["a"], catalog, limit=3)
    assert len(whole) == 10 and [r["image_id"] for r in few] == [r["image_id"] for r in whole][:3]
    assert len(load_records(["a"], catalog, limit=99)) == 10


def test_the_first_images_of_each_data_set(shapes: Path, tmp_path: Path) -> None:  # noqa: F811
    catalog = str(write_catalog(tmp_path, {"a": entry(shapes), "b": entry(shapes)}))
    for limit, counts in ((3, [3, 3]), (99, [10, 10]), (0, [10, 10])):
        records = load_records(["a", "b"], catalog, limit=limit)
        names = [Path(record["file_name"]).name for record in records]
        assert len(records) == sum(counts) and names[: counts[0]] == names[counts[0] :]
