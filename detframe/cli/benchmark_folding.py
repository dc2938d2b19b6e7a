"""What folding frozen norms into their convolutions brings: a training step of a config's model with it and without."""

from __future__ import annotations

import logging
import statistics
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from detframe.cli.benchmark_steps import training_step

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from detframe.config import ConfigNode

logger = logging.getLogger(__name__)


def benchmark_folding(
    cfg: ConfigNode,
    batch: tuple[list[Tensor], list[dict[str, Tensor]]],
    num_classes: int,
    precisions: Sequence[str],
    measure: Callable[[list[Callable[[], None]]], list[list[float]]],
    device: torch.device,
) -> dict[str, Any]:
    """Median seconds of a step with and without folding, for each precision.

    Args:
        batch: images and targets.
        measure: times steps in turn; the seconds of each.
    """
    from detframe.layers import folding
    from detframe.modeling import build_detection_model

    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.NUM_CLASSES = num_classes
    model = build_detection_model(cfg)
    out: dict[str, Any] = {}
    for precision in precisions:
        step = training_step(model, *batch, precision == "bf16", device)

        def unfolded(step: Callable[[], None] = step) -> None:
            with folding(False):
                step()

        rows = measure([unfolded, step])
        without, folded = (statistics.median(row) for row in rows)
        logger.info(
            "folding   %s  %s  without %8.1f ms  with %8.1f ms  ratio %.2f",
            precision, cfg.MODEL.BACKBONE.CONV_BODY, 1e3 * without, 1e3 * folded, without / folded,
        )  # fmt: skip
        out[precision] = {"without_s": without, "with_s": folded, "ratio": without / folded, "rounds_s": rows}
    return out
