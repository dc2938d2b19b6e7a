"""A small exported detector, written by hand: what it finds is known, and no torch is needed to make or run it.

Of an image whose largest red value is r and whose size is (h, w) it finds two objects, or none where r is 0: the upper
left quarter with the score r / 255 and label 1, and the image but for a quarter of its width and height at the upper
left, with half that score and label 2. A third row is always empty.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from detframe.backends import InputCard, ModelCard
from detframe.backends.card import KEY
from detframe.config import get_cfg

SHARES = [[0.0, 0.0, 0.5, 0.5], [0.25, 0.25, 1.0, 1.0], [0.0, 0.0, 0.0, 0.0]]
MASK_SIDE, POINTS = 4, 2
DYNAMIC = InputCard(height=None, width=None, batch=None, min_size=0, max_size=0, divisor=32)

CONSTANTS = {
    "swap": np.array([1, 0, 1, 0]),  # of (h, w): w, h, w, h
    "parts": np.array([[1.0, 0.5, 0.0]], np.float32),
    "kinds": np.array([[1, 2, 0]], np.int64),
    "zero": np.array(0),
    "white": np.array(255, np.float32),
    "two": np.array(2, np.int64),
    "axes": np.array([1, 2]),
    "middle": np.array([1]),
    "shape": np.array([[1, 1, 1]], np.float32).reshape(1, 3, 1, 1),
    "mask": np.linspace(0, 1, MASK_SIDE**2, dtype=np.float32).reshape(1, 1, MASK_SIDE, MASK_SIDE),
    "places": np.array([[0.5, 0.5, 1.0], [1.0, 1.0, 0.0]], np.float32).reshape(1, 1, POINTS, 3),
}


def card(**changes: Any) -> ModelCard:
    cfg = get_cfg()
    cfg.MODEL.NUM_CLASSES = 2
    fields: dict[str, Any] = {
        "class_names": ("cat", "dog"),
        "category_ids": (17, 18),
        "input": DYNAMIC,
        "precision": "fp32",
        "detections": 3,
        "thresholds": {"score": 0.05, "nms": 0.5},
        "config": cfg.dump(),
        "provenance": {"iteration": 7, "versions": {"detframe": "0.1.0"}},
        "meta": {"input_format": "RGB"},
    }
    return ModelCard(**{**fields, **changes})


def fixed(height: int | None, width: int | None, batch: int | None = None) -> InputCard:
    return replace(DYNAMIC, height=height, width=width, batch=batch)


def model(what: ModelCard | None, masks: bool = False, keypoints: bool = False) -> onnx.ModelProto:
    """The graph, with the card in its metadata; without one for None."""
    form = DYNAMIC if what is None else what.input
    n, h, w = form.batch or "n", form.height or "h", form.width or "w"
    constants = {"shares": np.array([SHARES], np.float32), **CONSTANTS}
    node = helper.make_node
    nodes = [
        node("Gather", ["sizes", "swap"], ["whwh"], axis=1),
        node("Cast", ["whwh"], ["sides"], to=TensorProto.FLOAT),
        node("Unsqueeze", ["sides", "middle"], ["row"]),
        node("Mul", ["row", "shares"], ["all_boxes"]),
        node("Gather", ["images", "zero"], ["red"], axis=1),
        node("Cast", ["red"], ["red_float"], to=TensorProto.FLOAT),
        node("ReduceMax", ["red_float", "axes"], ["most"], keepdims=0),
        node("Div", ["most", "white"], ["best"]),
        node("Unsqueeze", ["best", "middle"], ["best_row"]),
        node("Mul", ["best_row", "parts"], ["scores"]),
        node("Cast", ["best"], ["any"], to=TensorProto.BOOL),
        node("Cast", ["any"], ["found"], to=TensorProto.INT64),
        node("Mul", ["found", "two"], ["count"]),
        node("Unsqueeze", ["found", "middle"], ["found_row"]),
        node("Mul", ["found_row", "kinds"], ["labels"]),
        node("Cast", ["found"], ["found_float"], to=TensorProto.FLOAT),
        node("Unsqueeze", ["found_float", "axes"], ["found_box"]),
        node("Mul", ["all_boxes", "found_box"], ["boxes"]),
    ]
    outputs = [("boxes", [n, 3, 4], 1), ("scores", [n, 3], 1), ("labels", [n, 3], 7), ("count", [n], 7)]
    if masks or keypoints:
        constants["deep"] = np.array([1, 2, 3])
        nodes += [node("Unsqueeze", ["found_float", "deep"], ["found_deep"])]
        nodes += [node("Mul", ["found_deep", "shape"], ["found_rows"])]
    if masks:
        nodes.append(node("Mul", ["found_rows", "mask"], ["masks"]))
        outputs.append(("masks", [n, 3, MASK_SIDE, MASK_SIDE], 1))
    if keypoints:
        nodes.append(node("Mul", ["found_rows", "places"], ["keypoints"]))
        outputs.append(("keypoints", [n, 3, POINTS, 3], 1))
    used = {name for one in nodes for name in one.input}
    graph = helper.make_graph(
        nodes,
        "handmade",
        [
            helper.make_tensor_value_info("images", TensorProto.UINT8, [n, 3, h, w]),
            helper.make_tensor_value_info("sizes", TensorProto.INT64, [n, 2]),
        ],
        [helper.make_tensor_value_info(name, kind, shape) for name, shape, kind in outputs],
        [numpy_helper.from_array(value, name) for name, value in constants.items() if name in used],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    if what is not None:
        helper.set_model_props(made, {KEY: what.to_json()})
    return made


def write(path: Path, what: ModelCard | None = None, **more: bool) -> Path:
    """The file of `model`, with the plain card if none is given."""
    onnx.save(model(card() if what is None else what, **more), path)
    return path


def write_openvino(path: Path, what: ModelCard, **more: bool) -> Path:
    """The same as OpenVINO's .xml and .bin."""
    import openvino

    source = path.with_name(f"{path.stem}-source.onnx")
    onnx.save(model(None if what is None else what, **more), source)
    read = openvino.Core().read_model(str(source))
    read.set_rt_info(what.to_json(), [KEY])
    openvino.save_model(read, str(path), compress_to_fp16=False)
    source.unlink()
    return path


def write_data(folder: Path, number: int = 4) -> Path:
    """Images in which the handmade detector finds everything, and their annotations as COCO has them; these's path."""
    images, rows = [], []
    for i in range(number):
        Image.fromarray(np.full((40, 60, 3), 255 - i, dtype=np.uint8)).save(folder / f"{i}.png")
        images.append({"id": i, "file_name": f"{i}.png", "height": 40, "width": 60})
        for label, box in ((17, [0, 0, 30, 20]), (18, [15, 10, 45, 30])):
            row = {"id": len(rows) + 1, "image_id": i, "category_id": label, "bbox": box}
            rows.append({**row, "area": box[2] * box[3], "iscrowd": 0})
    categories = [{"id": 17, "name": "cat"}, {"id": 18, "name": "dog"}]
    path = folder / "instances.json"
    path.write_text(json.dumps({"images": images, "annotations": rows, "categories": categories}))
    return path
