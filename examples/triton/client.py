"""Asks a Triton server, whose repository `make_repository.py` wrote, what is in some pictures.

python examples/triton/client.py photo.jpg other.jpg --model cells --url localhost:8001
"""

from __future__ import annotations

import argparse
import json
from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageOps
import tritonclient.grpc as triton


def prepare(picture: PIL.Image.Image, how: dict[str, Any]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The inputs images (1, 3, H, W) and sizes (1, 2) for a picture, and by how much x, y, x, y of a box were enlarged.

    Args:
        how: the parameter "input" of the model: min_size and max_size, or a fixed height and width.
    """
    picture = PIL.ImageOps.exif_transpose(picture).convert("RGB")
    short, long = sorted(picture.size)
    if how["height"]:
        scale = min(how["width"] / picture.width, how["height"] / picture.height)
    else:
        scale = how["min_size"] / short if how["min_size"] else 1.0
        scale = min(scale, how["max_size"] / long) if how["min_size"] and how["max_size"] else scale
    width, height = (max(1, int(side * scale + 0.5)) for side in picture.size)
    pixels = np.asarray(picture.resize((width, height), PIL.Image.Resampling.BILINEAR)).transpose(2, 0, 1)
    plane = np.zeros((1, 3, how["height"] or height, how["width"] or width), np.uint8)
    plane[0, :, :height, :width] = pixels
    enlarged = np.array([width / picture.width, height / picture.height] * 2)  # sides are whole pixels
    return plane, np.array([[height, width]], np.int64), enlarged


def detect(client: triton.InferenceServerClient, model: str, picture: PIL.Image.Image) -> list[dict[str, Any]]:
    """The objects in a picture, the best first: name, score, box in pixels of the picture."""
    parameters = client.get_model_config(model).config.parameters
    about = {key: json.loads(value.string_value) for key, value in parameters.items()}
    images, sizes, enlarged = prepare(picture, about["input"])
    inputs = [
        triton.InferInput("images", list(images.shape), "UINT8"),
        triton.InferInput("sizes", list(sizes.shape), "INT64"),
    ]
    for one, values in zip(inputs, (images, sizes), strict=True):
        one.set_data_from_numpy(values)
    answer = client.infer(model, inputs)
    count = int(answer.as_numpy("count").reshape(-1)[0])
    boxes, scores, labels = (answer.as_numpy(name)[0, :count] for name in ("boxes", "scores", "labels"))
    names = ["object"] if about.get("class_agnostic") else about["class_names"]
    return [
        {"name": names[label - 1], "score": float(score), "box": (box / enlarged).tolist()}
        for box, score, label in zip(boxes, scores, labels, strict=True)
    ]


def main() -> None:
    """Send the pictures to the server, and print what it finds."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("pictures", nargs="+")
    parser.add_argument("--model", required=True)
    parser.add_argument("--url", default="localhost:8001")
    parser.add_argument("--score", type=float, default=0.5)
    given = parser.parse_args()
    with triton.InferenceServerClient(given.url) as client:
        for path in given.pictures:
            for found in detect(client, given.model, PIL.Image.open(path)):
                if found["score"] >= given.score:
                    print(path, found["name"], f"{found['score']:.2f}", *(f"{side:.1f}" for side in found["box"]))


if __name__ == "__main__":
    main()
