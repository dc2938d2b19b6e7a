"""The evaluation loop: every image of a loader through the model, into an evaluator."""

from __future__ import annotations

import contextlib
import inspect
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from detframe.evaluation.alike import canvas_of, predicted_alike
from detframe.layers import weights_stay
from detframe.parallel.collectives import rank
from detframe.structures import Prediction, Target, rescale_prediction, to_cpu
from detframe.texts import counted, format_seconds

logger = logging.getLogger(__name__)
# Seconds between two lines of progress
_LOG_SECONDS = 10.0

OnBatch = Callable[[Sequence[Tensor], Sequence[Target], list[Prediction]], None]


def run_evaluation(
    model: nn.Module,
    loader: Iterable[tuple[Sequence[Tensor], Sequence[Target]]],
    evaluator: Any,
    amp_dtype: torch.dtype | None = None,
    on_batch: OnBatch | None = None,
) -> dict[str, float]:
    """Evaluate a model; every rank calls it with its own shard, which may be empty, and gets the same metrics.

    Images go through the model with others of their shape (`predicted_alike`), so that metrics do not depend on the
    size of batches and the number of ranks. The model runs in evaluation mode without gradients; both are as before
    afterwards, whatever happens. Predictions are rescaled from the size of the image tensors to `orig_size_hw` of their
    targets. A detector leaves masks on their boxes (BoxMasks), so that large images do not take gigabytes.

    Args:
        model: `model(images)` gives one Prediction per image.
        loader: yields (images, targets); targets need `image_id` and `orig_size_hw`.
        evaluator: has reset(), update(targets, predictions), compute().
        amp_dtype: run under autocast with this dtype; None is plain fp32.
        on_batch: called with images, targets and predictions (on the CPU) of some images, in their order and all in the
            coordinates of the image tensors, as pictures need them.

    Returns:
        What `evaluator.compute()` gives, as floats of Python: a checkpoint holds them.
    """
    evaluator.reset()
    progress, predict = _Progress(loader), _with_masks_on_boxes(model)
    with evaluating(model, amp_dtype), weights_stay():
        for images, targets, predictions in predicted_alike(predict, progress.counted(loader), canvas_of(model)):
            pixel = getattr(model, "pixel", 0.0)
            evaluator.update(targets, to_cpu(_in_original_size(images, targets, predictions, pixel)))
            if on_batch is not None:
                on_batch(images, targets, to_cpu(predictions))
            progress.step(len(images), "tiles" if any("tile" in target for target in targets) else "images")
    progress.close()
    return {name: float(value) for name, value in evaluator.compute().items()}


@contextlib.contextmanager
def evaluating(model: nn.Module, amp_dtype: torch.dtype | None = None) -> Iterator[None]:
    """Evaluation mode, no gradients, autocast; the mode of every module is restored at the end.

    Not `torch.inference_mode`: what a model caches there (anchors, folded norms) could not be used in training later.
    """
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad(), torch.autocast(model_device(model).type, dtype=amp_dtype, enabled=amp_dtype is not None):
            yield
    finally:
        for module, training in modes:
            module.training = training


def _with_masks_on_boxes(model: nn.Module) -> Callable[[Sequence[Tensor]], list[Prediction]]:
    """The model, told to leave masks on their boxes where it can."""
    return partial(model, paste_masks=False) if takes_paste_masks(model) else model


def takes_paste_masks(model: nn.Module) -> bool:
    """Whether a model can be told to leave masks on their boxes: by an argument, or as it says of itself."""
    named = "paste_masks" in inspect.signature(model.forward).parameters
    return named or bool(getattr(model, "takes_paste_masks", False))


def model_device(model: nn.Module) -> torch.device:
    """Where the model's parameters are; the CPU for a model without any."""
    parameter = next(model.parameters(), None)
    return parameter.device if parameter is not None else torch.device("cpu")


def _in_original_size(
    images: Sequence[Tensor], targets: Sequence[Target], predictions: Sequence[Prediction], pixel: float
) -> list[Prediction]:
    return [
        rescale_prediction(prediction, (image.shape[-2], image.shape[-1]), target["orig_size_hw"], pixel)
        for image, target, prediction in zip(images, targets, predictions, strict=True)
    ]


class _Progress:
    """Lines in the log with images or tiles done, their rate and ETA; rank 0 speaks for all, as shards are equally
    long."""

    def __init__(self, loader: Any) -> None:
        self.batches = len(loader) if hasattr(loader, "__len__") else None
        self.start = self.last = time.perf_counter()
        self.done_batches = self.done = 0
        self.unit = "images"

    def counted(self, loader: Iterable[Any]) -> Iterator[Any]:
        """The batches of the loader, whose number says how far it is."""
        for batch in loader:
            self.done_batches += 1
            yield batch

    def step(self, count: int, unit: str) -> None:
        """Count what has been predicted, and perhaps log how far it is."""
        self.done += count
        self.unit = unit
        now = time.perf_counter()
        if rank() == 0 and now - self.last >= _LOG_SECONDS:
            self.last = now
            # a terminal that shows progress in a line of its own leaves this message out
            logger.info("evaluation: %s", self._text(now - self.start), extra={"progress": True})

    def _text(self, seconds: float) -> str:
        text = f"{self.done} {self.unit}, {self.done / max(seconds, 1e-9):.1f} {self.unit}/s"
        if not self.batches:
            return text
        left = seconds / self.done_batches * (self.batches - self.done_batches)
        return f"batch {self.done_batches}/{self.batches}, {text}, ETA {format_seconds(left, short=True)}"

    def close(self) -> None:
        """Log how long it took."""
        if rank() == 0:
            seconds = time.perf_counter() - self.start
            rate = self.done / max(seconds, 1e-9)
            took = format_seconds(seconds, short=True)
            done = counted(self.done, self.unit.removesuffix("s"))
            logger.info("evaluation: %s in %s (%.1f %s/s)", done, took, rate, self.unit)
