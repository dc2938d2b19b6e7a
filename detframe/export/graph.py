"""The graph of a detector: from a batch of images to a fixed number of detections, everything inside.

Legend: N images, H and W sides of their plane, D detections of an image, S side of a mask, P keypoints.
"""

from __future__ import annotations

import inspect
import os
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.nn import functional as F

from detframe.errors import InvalidValueError
from detframe.layers import folded
from detframe.modeling import GeneralizedRCNN
from detframe.modeling.compiling import without_graphs
from detframe.modeling.proposals import NO_NWD_IN_GRAPH
from detframe.ops import BoxCoder
from detframe.ops.exportable import exporting
from detframe.structures import ImageList

INPUTS = ("images", "sizes")
OUTPUTS = ("boxes", "scores", "labels", "count")
"""What every exported file gives, masks and keypoints left aside; rows from `count` on are padding."""
# Sides of the traced plane, in cells of the coarsest map: odd and unequal, so that no size is taken for another
_TRACED_CELLS = (5, 7)
# The longest side of a plane, and the largest batch: with bounds, PyTorch need not think of numbers beyond 2**63
_LONGEST, _MOST = 2**15, 2**16
# What PyTorch cannot prove of sizes that are free, as that no padding is negative, is left for the running graph; the
# exporters that do not know this option, those before PyTorch 2.9, cannot trace a detector
_ASSERTING = "prefer_deferred_runtime_asserts_over_guards"


class ExportableDetector(nn.Module):
    """A detector whose forward pass takes and gives tensors of fixed meaning, whatever the family.

    `forward(images, sizes)` takes uint8 (N, 3, H, W), RGB, or float32 (N, C, H, W), channels in the values of their
    files, and int64 (N, 2): height and width of each image, which
    stands at the top left of its plane. It gives, in this order, boxes float32 (N, D, 4), scores float32 (N, D),
    labels int64 (N, D) and count int64 (N,), then what else the model finds: masks float32 (N, D, S, S),
    probabilities on the boxes; keypoints float32 (N, D, P, 3). Rows from `count` on are zeros.

    Args:
        model: in evaluation mode.
    """

    def __init__(self, model: GeneralizedRCNN) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor, sizes: Tensor) -> tuple[Tensor, ...]:
        with exporting():
            found = self.model.detect(ImageList(self._plane(images, sizes), [], sizes))
        boxes = BoxCoder(pixel=self.model.pixel).extend(found.boxes) * found.valid[..., None]
        return (boxes, found.scores, found.labels, found.valid.sum(1), *found.extras.values())

    def _plane(self, images: Tensor, sizes: Tensor) -> Tensor:
        """Normalised pixels, zero beyond each image, on a plane of multiples of the divisor."""
        preprocessor = self.model.preprocessor
        height, width = images.shape[-2:]
        pixels = images.float()
        if preprocessor.bgr:
            pixels = pixels.flip(1)
        pixels = (pixels - preprocessor.mean) / preprocessor.std
        below = torch.arange(height, device=images.device) < sizes[:, 0, None]
        right = torch.arange(width, device=images.device) < sizes[:, 1, None]
        inside = below[:, None, :, None] & right[:, None, None, :]
        return F.pad(torch.where(inside, pixels, 0.0), (0, self._missing(width), 0, self._missing(height)))

    def _missing(self, side: int) -> int:
        """What a side lacks to a multiple of the divisor; of positive numbers, since ONNX divides towards zero."""
        divisor = self.model.preprocessor.divisor
        return (side + divisor - 1) // divisor * divisor - side


def trace(
    model: GeneralizedRCNN, size: tuple[int, int] | None = None, batch: int | None = None
) -> tuple[ExportedProgram, tuple[Tensor, Tensor]]:
    """The graph of a model in evaluation mode, as torch.export makes it, and the inputs that it was traced with.

    Affine norms are within the convolutions before them, whose weights are constants of the graph.

    Args:
        size: (H, W) of all images; None: any.
        batch: N; None: any.

    Raises:
        ValueError: the model cannot be exported, and why.
    """
    check_exporter()
    check_exportable(model)
    coarsest = _coarsest(model)
    height, width = (cells * coarsest - 1 for cells in _TRACED_CELLS) if size is None else size
    number = 2 if batch is None else batch
    form = model.preprocessor.form
    dtype = torch.float32 if form.as_stored else torch.uint8
    images = torch.zeros((number, form.channels, height, width), dtype=dtype)
    inputs = (images, torch.tensor([[height, width]] * number))
    n = Dim("batch", min=1, max=_MOST) if batch is None else None
    free = {axis: Dim(name, min=least_side(model), max=_LONGEST) for axis, name in ((2, "height"), (3, "width"))}
    sides = {} if size else free
    first = {} if n is None else {0: n}
    shapes: dict[str, Any] = {"images": {**first, **sides}, "sizes": first}
    small = torch.zeros((1, form.channels, *(size or (2 * coarsest, 2 * coarsest))), dtype=dtype)
    with without_graphs(model):
        whole = folded(ExportableDetector(model), small, torch.tensor([small.shape[-2:]]))
    with torch.no_grad(), naming_culprit(whole):
        options: dict[str, Any] = {"strict": False, _ASSERTING: True}
        program = torch.export.export(whole, inputs, dynamic_shapes=shapes, **options)
    _without_idle_casts(program)
    return program, inputs


def _coarsest(model: GeneralizedRCNN) -> int:
    """Pixels a cell of the coarsest map, of those that do not come out, too."""
    strides: Any = model.backbone.strides
    return max(*strides.values(), model.preprocessor.divisor)


def least_side(model: GeneralizedRCNN) -> int:
    """The smallest side of a plane that a graph for any size takes, in pixels."""
    return 2 * _coarsest(model) + 1


def _without_idle_casts(program: ExportedProgram) -> None:
    """Take out casts to the dtype that a tensor has, and the checks of dtypes that torch.export puts before each cast.

    They compute nothing; of a PointRend they are every twelfth node of a graph, which takes its time to load.
    """
    outputs = set(program.graph.output_node().all_input_nodes)
    for node in program.graph.nodes:
        if node.target is torch.ops.aten._assert_tensor_metadata.default:
            program.graph.erase_node(node)
        elif node.target is torch.ops.aten.to.dtype and len(node.args) == 2 and not node.kwargs and node not in outputs:
            source, dtype = node.args
            if source.meta["val"].dtype == dtype:
                node.replace_all_uses_with(source)
                program.graph.erase_node(node)
    program.graph_module.recompile()


def check_exporter() -> None:
    """Raises ValueError where PyTorch's exporter is too old to trace a detector."""
    if _ASSERTING not in inspect.signature(torch.export.export).parameters:
        raise InvalidValueError(
            f"an export needs PyTorch 2.9 or newer; this is {torch.__version__}. Update torch and torchvision: the "
            "checkpoint stays as it is"
        )


def check_exportable(model: GeneralizedRCNN) -> None:
    """Raises ValueError where a detector has a part that no graph can hold, known before it is traced."""
    nms, proposing = model.nms, getattr(model.rpn, "proposing", None)
    if getattr(nms, "nwd_constant", 0.0) or getattr(proposing, "nms_constant", 0.0):
        raise InvalidValueError(NO_NWD_IN_GRAPH)
    if nms is not None and nms.kind.startswith("soft"):
        raise InvalidValueError(
            f"Soft-NMS (TEST.NMS {nms.kind!r}) cannot be exported: the runtimes have no operator for it; set TEST.NMS "
            "to 'class' or 'agnostic'"
        )


@contextmanager
def naming_culprit(whole: nn.Module) -> Iterator[None]:
    """Inside the `with`, an error of tracing names the module and the line that it comes from.

    Raises:
        ValueError: in place of what PyTorch raises.
    """
    try:
        yield
    except Exception as error:  # of whatever class: Python's, PyTorch's own, or of the code that is traced
        raise InvalidValueError(_complaint(whole, error)) from error


def _complaint(whole: nn.Module, error: BaseException) -> str:
    """What a user needs of hundreds of lines: where, which operation, and what to do about it."""
    names = {id(module): name.removeprefix("model.") for name, module in whole.named_modules()}
    where, module_name = "", ""
    for frame, line in traceback.walk_tb(error.__traceback__):
        file = frame.f_code.co_filename
        if not _of_library(file):
            where = f"{file}:{line}, in {frame.f_code.co_name}"
            module_name = names.get(id(frame.f_locals.get("self")), module_name)
    reason = " ".join(line.strip() for line in str(error).strip().split("\n")[:2])
    return (
        f"the model cannot be exported: {module_name or 'it'} cannot be traced{where and f' ({where})'}: {reason}. "
        "What runs may not depend on the values of tensors: no Python `if`, `int()` or loop over them. This is PyTorch "
        f"{torch.__version__}; newer ones trace more"
    )


def _of_library(file: str) -> bool:
    return any(f"{os.sep}{name}{os.sep}" in file for name in ("torch", "torchvision")) or file == __file__
