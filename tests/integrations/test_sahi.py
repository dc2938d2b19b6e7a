"""SAHI's own functions with a detector of detframe: what they return is what the detector finds in each slice."""

from __future__ import annotations

import json
import os

import numpy as np
import PIL.Image
import pytest

from detframe.config import get_cfg
from detframe.errors import InvalidTypeError, InvalidValueError, MissingFileError
from detframe.inference import Detector
from tests.inference.conftest import NAMES, picture
from tests.inference.spots import drawn, spotter

pytest.importorskip("sahi")
pytest.importorskip("onnx")

from sahi.annotation import Mask
from sahi.predict import get_prediction, get_sliced_prediction, predict
from sahi.utils.cv import get_coco_segmentation_from_bool_mask

from detframe.integrations.sahi import DetframeDetectionModel
from tests.backends import handmade

CATEGORIES = {1: "circle", 5: "square", 9: "star"}
IMAGE = picture(150, 230, seed=3)


def rows(result):
    """(box, score, category id, name) of what SAHI found, the best first."""
    found = result.object_prediction_list if hasattr(result, "object_prediction_list") else result
    listed = [(o.bbox.to_xyxy(), o.score.value, o.category.id, o.category.name) for o in found]
    return sorted(listed, key=lambda row: -row[1])


def expected(prediction, shift=(0, 0)):
    boxes = np.asarray(prediction["boxes"]) + np.tile(shift, 2)
    ids = [(1, 5, 9)[label - 1] for label in prediction["labels"].tolist()]
    return [
        (box, score, category, CATEGORIES[category])
        for box, score, category in zip(boxes.tolist(), prediction["scores"].tolist(), ids, strict=True)
    ]


def assert_rows(found, wanted):
    assert [row[2:] for row in found] == [row[2:] for row in wanted] and found
    np.testing.assert_allclose([row[1] for row in found], [row[1] for row in wanted], atol=1e-5)
    np.testing.assert_allclose([row[0] for row in found], [row[0] for row in wanted], atol=1e-3)


class Watched:
    """Counts the images of every call of a detector's predict."""

    def __init__(self, detector, monkeypatch):
        self.batches = []
        original = detector.predict

        def watching(images, *args, **kwargs):
            self.batches.append((len(images), kwargs.get("batch_size")))
            return original(images, *args, **kwargs)

        monkeypatch.setattr(detector, "predict", watching)


@pytest.mark.parametrize("given", ["path", "detector"])
def test_a_prediction_is_the_detectors(detector, checkpoint_path, given):
    made = {"path": {"model_path": checkpoint_path, "device": "cpu"}, "detector": {"model": detector}}[given]
    model = DetframeDetectionModel(**made, confidence_threshold=0.4)
    result = get_prediction(IMAGE, model)
    detector = model.model  # of a path in the precision of this machine
    (prediction,) = detector.predict(IMAGE, score_threshold=0.4)
    assert 0 < len(prediction["scores"]) < len(detector.predict(IMAGE)[0]["scores"])
    assert_rows(rows(result), expected(prediction))
    assert str(model.device) == "cpu" and model.category_mapping == {"1": "circle", "5": "square", "9": "star"}
    assert model.num_categories == 3 and model.category_names == list(NAMES)


def test_slices_go_together_and_their_boxes_come_back_to_the_whole_image(detector, monkeypatch):
    model = DetframeDetectionModel(model=detector, confidence_threshold=0.35)
    watched = Watched(detector, monkeypatch)
    how = {"slice_height": 90, "slice_width": 100, "overlap_height_ratio": 0.2, "overlap_width_ratio": 0.2}
    result = get_sliced_prediction(
        IMAGE,
        model,
        **how,
        batch_size=4,
        perform_standard_pred=False,
        postprocess_type="NMS",
        postprocess_match_threshold=1.1,
        verbose=0,
    )
    assert watched.batches == [(4, 4), (2, 2)]
    monkeypatch.undo()
    wanted = []
    for top in (0, 60):
        for left in (0, 80, 130):
            (prediction,) = detector.predict(
                np.ascontiguousarray(IMAGE[top : top + 90, left : left + 100]), score_threshold=0.35
            )
            wanted += expected(prediction, (left, top))
    assert_rows(rows(result), sorted(wanted, key=lambda row: -row[1]))


@pytest.mark.parametrize("batch_size", [1, 3])
def test_any_batch_size_gives_the_same(detector, batch_size):
    model = DetframeDetectionModel(model=detector)
    how = {"slice_height": 90, "slice_width": 100, "verbose": 0}
    all_at_once = get_sliced_prediction(IMAGE, model, **how, batch_size=8)
    assert_rows(rows(get_sliced_prediction(IMAGE, model, **how, batch_size=batch_size)), rows(all_at_once))


def test_nothing_found_and_a_single_slice(detector):
    model = DetframeDetectionModel(model=detector, confidence_threshold=1.0)
    result = get_sliced_prediction(IMAGE, model, slice_height=90, slice_width=100, batch_size=4, verbose=0)
    assert result.object_prediction_list == []
    alone = get_sliced_prediction(
        IMAGE, model, slice_height=500, slice_width=500, confidence_threshold=0.4, postprocess_type="NMS", verbose=0
    )
    assert len(alone.object_prediction_list) > 0 and model.confidence_threshold == 1.0


def test_masks_are_those_of_the_detector(mask_detector):
    image = IMAGE[:90, :140].copy()
    model = DetframeDetectionModel(model=mask_detector, confidence_threshold=0.0, mask_threshold=0.45)
    objects = get_prediction(image, model).object_prediction_list
    (prediction,) = mask_detector.predict(image)
    assert len(objects) == len(prediction["scores"]) > 0
    masks = [pixels >= 0.45 for pixels in np.asarray(prediction["masks"])[:, 0]]
    assert sum(o.mask is not None for o in objects) > 5
    for one, pixels in zip(objects, masks, strict=True):
        if one.mask is None:  # its box stays
            assert get_coco_segmentation_from_bool_mask(pixels) == [] and one.bbox.area > 0
        else:  # SAHI fills holes and leaves out specks
            np.testing.assert_array_equal(one.mask.bool_mask, Mask.from_bool_mask(pixels, [90, 140]).bool_mask)


def test_masks_of_slices_come_back_to_the_whole_image(mask_detector):
    model = DetframeDetectionModel(model=mask_detector, confidence_threshold=0.0)
    model.perform_batch_inference([IMAGE[60:150, 130:230].copy()])
    model.convert_original_predictions(shift_amount=[[130, 60]], full_shape=[[150, 230]])
    moved = [o.get_shifted_object_prediction() for o in model.object_prediction_list if o.mask is not None]
    assert moved
    for one in moved:
        assert one.mask.bool_mask.shape == (150, 230)
        assert not one.mask.bool_mask[:60].any() and not one.mask.bool_mask[:, :130].any()


@pytest.mark.parametrize("arrays", ["torch", "numpy"])
def test_an_exported_file_finds_what_is_known_to_be_there(tmp_path, arrays):
    """In each slice the upper left quarter, category 17, and all but a margin at the upper left, category 18."""
    path = handmade.write(tmp_path / "model.onnx")
    model = DetframeDetectionModel(model=Detector.load(path, arrays=arrays), confidence_threshold=0.1)
    how = {"slice_height": 40, "slice_width": 60, "overlap_height_ratio": 0, "overlap_width_ratio": 0, "batch_size": 3}
    result = get_sliced_prediction(
        np.full((80, 120, 3), 255, np.uint8),
        model,
        **how,
        perform_standard_pred=False,
        postprocess_type="NMS",
        verbose=0,
    )
    found = [(tuple(one.bbox.to_xyxy()), one.category.id) for one in result.object_prediction_list]
    corners = [(left, top) for left in (0, 60) for top in (0, 40)]
    wanted = [((x, y, x + 30, y + 20), 17) for x, y in corners] + [
        ((x + 15, y + 10, x + 60, y + 40), 18) for x, y in corners
    ]
    assert sorted(found) == sorted(wanted)
    assert model.category_mapping == {"17": "cat", "18": "dog"}


def test_a_path_may_be_that_of_an_exported_file(tmp_path):
    model = DetframeDetectionModel(handmade.write(tmp_path / "model.onnx"), confidence_threshold=0.6)
    (one,) = get_prediction(np.full((40, 60, 3), 255, np.uint8), model).object_prediction_list
    assert (one.bbox.to_xyxy(), one.category.id, one.category.name, str(model.device)) == (
        [0, 0, 30, 20],
        17,
        "cat",
        "cpu",
    )


def test_other_names_and_other_ids(detector):
    names = {"1": "Kreis", "5": "Quadrat", "9": "Stern"}
    model = DetframeDetectionModel(model=detector, category_mapping=names, category_remapping={"1": 0, "5": 1, "9": 2})
    found = get_prediction(IMAGE, model).object_prediction_list
    (prediction,) = detector.predict(IMAGE, score_threshold=0.3)
    assert [o.category.id for o in found] == [label - 1 for label in prediction["labels"].tolist()]
    assert {o.category.name for o in found} <= set(names.values()) and model.category_names == list(names.values())


def test_sahis_predict_writes_results_for_the_datas_own_categories(detector, tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    PIL.Image.fromarray(IMAGE).save(folder / "a.png")
    truth = {
        "images": [{"id": 7, "file_name": "a.png", "height": 150, "width": 230}],
        "annotations": [],
        "categories": [{"id": key, "name": name} for key, name in CATEGORIES.items()],
    }
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    returned = predict(
        detection_model=DetframeDetectionModel(model=detector),
        source=str(folder),
        dataset_json_path=str(tmp_path / "truth.json"),
        slice_height=90,
        slice_width=100,
        project=str(tmp_path / "runs"),
        novisual=True,
        return_dict=True,
        verbose=0,
        batch_size=4,
    )
    results = json.loads((returned["export_dir"] / "result.json").read_text())
    assert results and {row["image_id"] for row in results} == {7}
    assert {row["category_id"] for row in results} <= set(CATEGORIES)


def test_a_model_loaded_later_and_unloaded(checkpoint_path):
    model = DetframeDetectionModel(checkpoint_path, device="cpu", load_at_init=False)
    with pytest.raises(InvalidValueError, match=r"load_model\(\)"):
        get_prediction(IMAGE, model)
    model.load_model()
    assert get_prediction(IMAGE, model).object_prediction_list
    model.unload_model()
    with pytest.raises(InvalidValueError, match=r"load_model\(\)"):
        get_prediction(IMAGE, model)


def test_another_detector_brings_its_own_names(detector, mask_detector):
    model = DetframeDetectionModel(model=detector)
    other = Detector(mask_detector.model, mask_detector.cfg, {"class_names": "abc", "category_ids": (2, 3, 4)})
    model.set_model(other)
    assert model.category_names == ["a", "b", "c"] and model.category_mapping == {"2": "a", "3": "b", "4": "c"}


def test_mistakes_are_named(detector, checkpoint_path, tmp_path):
    with pytest.raises(InvalidValueError, match="not both"):
        DetframeDetectionModel(checkpoint_path, model=detector)
    with pytest.raises(InvalidValueError, match="no model_path"):
        DetframeDetectionModel()
    with pytest.raises(InvalidTypeError, match="detframe Detector, not a GeneralizedRCNN"):
        DetframeDetectionModel(model=detector.model)
    with pytest.raises(InvalidValueError, match=r"image_size=640.*MIN_SIZE_TEST"):
        DetframeDetectionModel(model=detector, image_size=640)
    with pytest.raises(InvalidValueError, match=r"config_path='a\.yaml'"):
        DetframeDetectionModel(model=detector, config_path="a.yaml")
    with pytest.raises(InvalidValueError, match=r"device='cuda'.*works on cpu"):
        DetframeDetectionModel(model=detector, device="cuda")
    with pytest.raises(InvalidValueError, match=r"category_mapping names \['0', '1', '2'\].*category 5 \(square\)"):
        DetframeDetectionModel(model=detector, category_mapping={"0": "a", "1": "b", "2": "c"})
    with pytest.raises(MissingFileError):
        DetframeDetectionModel(tmp_path / "none.pth")


def test_sahi_leaves_the_gpus_of_the_process_alone(detector, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    DetframeDetectionModel(model=detector, device="cpu")
    assert "CUDA_VISIBLE_DEVICES" not in os.environ


@pytest.mark.parametrize("overlap", [0.25, 0.5])
def test_slices_of_sahi_find_what_tiles_find(overlap):
    """Every object is in both; beside them SAHI leaves some parts that borders have cut, which tiles do not."""
    image = drawn(5, 200, 300, 25, 30)
    image[image > 0] += 100  # for scores from which SAHI merges as it does by default
    spots, _ = spotter()
    model = DetframeDetectionModel(model=spots, confidence_threshold=0.2)
    how = {"slice_height": 64, "slice_width": 64, "overlap_height_ratio": overlap, "overlap_width_ratio": overlap}
    result = get_sliced_prediction(image, model, **how, perform_standard_pred=False, verbose=0)
    (found,) = spots.predict(image, tiles={"size": 64, "overlap": overlap})
    assert {tuple(box) for box in found["boxes"].tolist()} <= {tuple(row[0]) for row in rows(result)}
    assert len(found["boxes"]) == 25 <= len(rows(result))


def test_slices_are_not_cut_once_more(tmp_path):
    cfg = get_cfg()
    cfg.MODEL.NUM_CLASSES, cfg.INPUT.TILES.SIZE = 2, 32
    spots, session = spotter(handmade.card(config=cfg.dump(), detections=40))
    model = DetframeDetectionModel(model=spots, confidence_threshold=0.0)
    get_sliced_prediction(drawn(5, 128, 128, 9, 20), model, slice_height=64, slice_width=64, verbose=0)
    assert {shape[2:] for shape in session.batches} == {(64, 64), (128, 128)}
