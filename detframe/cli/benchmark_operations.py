"""How many operations a step asks of the device, and how often the host waits for it, beside another program."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from detframe.cli.benchmark_models import Side, stored
from detframe.cli.benchmark_steps import is_detframes

if TYPE_CHECKING:
    from torch import Tensor, nn

    from detframe.cli.counting import OperationCounter
    from detframe.config import ConfigNode

logger = logging.getLogger(__name__)

STEPS = ("train", "inference")
LINES = 40  # of code, named with --verbose


def benchmark_operations(peer: str, rows: Iterable[tuple[str, Sequence[Side]]]) -> dict[str, Any]:
    """Count a training step and an inference of each model, and print the table.

    Args:
        peer: the other program.
        rows: name and sides, of which the last one is detframe's.

    Returns:
        "name/step" -> {"detframe": {"operations": .., "waits": ..}, "torchvision": ..}.
    """
    out: dict[str, Any] = {}
    logger.info("%-28s %-9s  %-22s  %s", "operations / waits", "", peer, "detframe")
    for name, sides in rows:
        for step in STEPS:
            counters = {side.program: count(side.model, step, side.images, side.targets) for side in sides}
            out[f"{name}/{step}"] = {
                program: {"operations": c.totals[0], "waits": c.totals[1]} for program, c in counters.items()
            }
            texts = [f"{c.totals[0]} / {c.totals[1]}" for c in counters.values()]
            logger.info("%-28s %-9s  %-22s  %s", name, step, *(["-"] * (2 - len(texts)) + texts))
            _say_lines(counters["detframe"])
    return out


def count(
    model: nn.Module, step: str, images: Sequence[Any], targets: Sequence[Mapping[str, Tensor]]
) -> OperationCounter:
    """The operations and waits of one training step (forward and backward) or inference, after one not counted.

    What is counted is what an accelerator would be asked for: where a CPU would leave out rows, they are masked, and
    detframe's targets are checked and padded before, on the host.
    """
    import torch

    from detframe.cli.counting import OperationCounter
    from detframe.modeling.ground_truth import pack_targets
    from detframe.ops.compacting import fixed_shapes

    model.train(step == "train")
    ours = is_detframes(model)
    given = stored(images) if ours else images
    known: Any = targets
    if ours and step == "train":
        sizes: Any = [tuple(image.shape[-2:]) for image in images]
        known = pack_targets(targets, model.num_classes, torch.device("cpu"), sizes)  # type: ignore[arg-type]

    def run() -> None:
        if step == "train":
            sum(model(given, known).values()).backward()
        else:
            with torch.no_grad():
                model(given)
        model.zero_grad()

    with fixed_shapes():
        run()
        with OperationCounter() as counter:
            run()
    return counter


def targets_for(cfg: ConfigNode, targets: list[dict[str, Tensor]]) -> list[dict[str, Tensor]]:
    """The targets as a config's detector takes them: classes that it has, and keypoints where it learns them."""
    import torch

    out = []
    for target in targets:
        fitting = {**target, "labels": target["labels"].clamp(max=cfg.MODEL.NUM_CLASSES)}
        if cfg.MODEL.KEYPOINT_ON:
            centre = (target["boxes"][:, :2] + target["boxes"][:, 2:]) / 2
            point = torch.cat([centre, torch.full_like(centre[:, :1], 2)], 1)
            fitting["keypoints"] = point[:, None].repeat(1, cfg.MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS, 1)
        out.append(fitting)
    return out


def _say_lines(counter: OperationCounter) -> None:
    for what, lines in (("waits", counter.wait_lines), ("operations", counter.operation_lines)):
        for line, times in lines.most_common(LINES):
            logger.debug("    %4d %-10s %s", times, what, line)
