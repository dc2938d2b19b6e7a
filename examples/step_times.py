"""How long a training step takes with one config and another, in turn, so that a slow moment is slow for all.

    python examples/step_times.py 320 320 configs/small/faster_rcnn_MNV2_FPN_fingerlings.yaml \
        "configs/small/faster_rcnn_MNV2_EFPN_plain_fingerlings.yaml MODEL.RPN.ASSIGNER rfla" \
        "configs/small/faster_rcnn_MNV2_FPN_2x_fingerlings.yaml x2"

Forward and backward pass of four images of noise with 20 objects each, height by width, from random weights, in bf16 on
a CPU. A config may be followed by keys and values; `x2` doubles its images. Prints the median of the milliseconds, and
that of the ratio to the first.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from torch import Tensor

from detframe.config import get_cfg
from detframe.modeling import build_detection_model


def main(argv: list[str] | None = None) -> None:
    """Time the configs that the arguments name, and print a line of each."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("height", type=int)
    parser.add_argument("width", type=int)
    parser.add_argument("configs", nargs="+")
    parser.add_argument("--rounds", type=int, default=9, help="measured rounds, after two not counted (9)")
    args = parser.parse_args(argv)
    models = [build(words.split()) for words in args.configs]
    corners = torch.rand(4, 20, 2, generator=torch.Generator().manual_seed(0))
    rounds = [
        [seconds(model, (args.height * scale, args.width * scale), corners) for model, scale in models]
        for _ in range(args.rounds + 2)
    ]
    for words, own in zip(args.configs, zip(*rounds[2:], strict=True), strict=True):
        ratio = statistics.median(mine / first[0] for mine, first in zip(own, rounds[2:], strict=True))
        print(f"{1000 * statistics.median(own):6.0f} ms  {ratio:.2f}  {words}")


def build(words: list[str]) -> tuple[torch.nn.Module, int]:
    """The model of a config file with overrides, in training, and how many times as large its images are."""
    scale = 2 if words[-1] == "x2" else 1
    cfg = get_cfg()
    cfg.merge_from_file(words[0])
    cfg.merge_from_list(["MODEL.NUM_CLASSES", "3", "MODEL.WEIGHTS", "", "MODEL.DEVICE", "cpu"])
    cfg.merge_from_list(words[1 : len(words) - (scale - 1)])
    return build_detection_model(cfg).train(), scale


def seconds(model: torch.nn.Module, size_hw: tuple[int, int], corners: Tensor) -> float:
    """The second of two steps, for which the memory of the model before has been given back."""
    height, width = size_hw
    size = torch.tensor([width, height])
    boxes = [torch.cat([c * 0.9 * size, (c * 0.9 + 0.08) * size], 1) for c in corners]
    targets = [{"boxes": b, "labels": torch.ones(len(b), dtype=torch.int64)} for b in boxes]
    images = [torch.randint(0, 256, (3, height, width), dtype=torch.uint8) for _ in corners]
    begun = 0.0
    for _ in range(2):
        begun = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16):
            losses = model(images, targets)
        sum(losses.values()).backward()
        model.zero_grad()
    return time.perf_counter() - begun


if __name__ == "__main__":
    main()
