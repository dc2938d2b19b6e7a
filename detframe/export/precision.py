"""A fp32 ONNX file in half precision, or in integers of eight bits, with what loses accuracy left as it was."""

from __future__ import annotations

import copy
import logging
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from detframe.errors import InvalidValueError
from detframe.export.calibration import Batch, best_range, collect, noise
from detframe.export.half import half_precision
from detframe.export.layers import QUANTIZABLE, Layer, Network

logger = logging.getLogger(__name__)

PRECISIONS = ("fp32", "fp16", "int8")
"""What an exported file may compute in."""
# AP (0 to 100) that the search for int8 layers may lose on the calibration images
TOLERANCE = 0.5
# Error over signal of a layer's own output (10 dB) from which on integers are not tried at all
_TOO_COARSE = 0.1
# Kinds of nodes that compute in half precision; RoiAlign's boxes would have to, norms square what they sum
_HALF = frozenset(
    "Conv ConvTranspose Gemm MatMul Relu Clip LeakyRelu HardSwish HardSigmoid Sigmoid Add Mul MaxPool AveragePool "
    "GlobalAveragePool Resize Concat Slice Split Pad Reshape Transpose Flatten".split()
)

Score = Callable[[Path], float]


@dataclass(frozen=True)
class Kept:
    """A layer that stays in fp32.

    Args:
        layer: its place in the model.
        reason: why, in words.
    """

    layer: str
    reason: str


@dataclass(frozen=True)
class PrecisionFacts:
    """What became of a file's layers.

    Args:
        precision: "fp16" or "int8".
        layers: how many have a weight.
        kept: those in fp32.
        bytes: size of the file.
        images: how many it was calibrated with; 0: not at all.
        scores: AP on those images: "fp32" and "int8", and "all int8" where that lost too much.
    """

    precision: str
    layers: int
    kept: tuple[Kept, ...]
    bytes: int
    images: int = 0
    scores: Mapping[str, float] | None = None

    def to_dict(self) -> dict[str, Any]:
        """For a report, as JSON."""
        out: dict[str, Any] = {"precision": self.precision, "layers": self.layers, "bytes": self.bytes}
        out["kept_in_fp32"] = [{"layer": kept.layer, "reason": kept.reason} for kept in self.kept]
        if self.images:
            out["calibration_images"] = self.images
        if self.scores is not None:
            out["calibration_scores"] = dict(self.scores)
        return out


def check_precision(precision: str, form: str) -> None:
    """Whether files of a format ("onnx", "openvino" or "torch") can be written in a precision.

    Raises:
        ValueError: they cannot.
    """
    if precision not in PRECISIONS:
        raise InvalidValueError(f"precision is {precision!r}; it must be one of {', '.join(PRECISIONS)}")
    if form == "torch" and precision != "fp32":
        raise InvalidValueError(
            f"the format torch is written in fp32 alone, not in {precision}: a .pt2 runs under torch.autocast where "
            f"the hardware gains from it; for {precision} files take the format onnx or openvino"
        )


def lower(
    source: Path, target: Path, precision: str, batches: Iterable[Batch] = (), score: Score | None = None
) -> dict[str, Any]:
    """Write an ONNX file in another precision; inputs, outputs and metadata stay what they are.

    Args:
        source: the fp32 file.
        target: the file to write.
        precision: "fp16" or "int8".
        batches, score: of `to_int8`.

    Returns:
        What a report says of it: `PrecisionFacts.to_dict`.

    Raises:
        ValueError: no such precision, or nothing to calibrate with.
    """
    if precision == "fp16":
        return to_fp16(source, target).to_dict()
    if precision == "int8":
        return to_int8(source, target, batches, score).to_dict()
    raise InvalidValueError(f"precision is {precision!r}; a file is lowered to fp16 or int8")


def to_fp16(source: Path, target: Path) -> PrecisionFacts:
    """The network in half precision: weights and the values between layers.

    In fp32 stay preprocessing, RoiAlign, norms, and all that follows the layers that predict: decoding, box
    arithmetic, scores, NMS.
    """
    import onnx

    network = Network(onnx.load(str(source)))
    half = {node.name for node in network.between() if node.op_type in _HALF}
    onnx.save(half_precision(network.model, half), str(target))
    kept = [Kept(layer.title, f"{layer.kind} stays in fp32") for layer in network.layers if layer.node not in half]
    return PrecisionFacts("fp16", len(network.layers), tuple(kept), target.stat().st_size)


def to_int8(
    source: Path, target: Path, batches: Iterable[Batch], score: Score | None = None, tolerance: float = TOLERANCE
) -> PrecisionFacts:
    """Convolutions and linear layers between the image and the predictions in integers of eight bits.

    Ranges of activations are those with the least squared error on the calibration images; weights have a range for
    each output channel, and seven bits: x86 without VNNI adds pairs of products with saturation, and with seven bits
    no sum of two can overflow, so that a file finds the same on every machine. In fp32 stay the layers that predict,
    those whose own output is too coarse, and, until `score` is within the tolerance, those that lose most after them.

    Args:
        source: the fp32 file.
        target: the file to write.
        batches: what the file takes, of the training set.
        score: AP (0 to 100) of a file on images that are not those of the test; None: no search.
        tolerance: how much lower than that of the fp32 file it may be.

    Raises:
        ValueError: there are no images to calibrate with, or no layer that integers could compute.
    """
    import onnx

    data = list(batches)
    if not data:
        raise InvalidValueError(
            "int8 is calibrated on images of the training set, and there are none: DATASETS.TRAIN of the config is "
            "empty or its images are not on this machine; name a data set that is, or export with fp16"
        )
    network = Network(onnx.load(str(source)))
    kept, candidates = _candidates(network)
    if not candidates:
        raise InvalidValueError(f"{source} has no convolution or linear layer that int8 could compute: take fp16")
    images = sum(len(batch[0]) for batch in data)
    logger.info("int8: measuring %d layers on %d images of the training set", len(candidates), images)
    with tempfile.TemporaryDirectory(prefix="detframe-int8-") as folder:
        writer = _Writer(network, candidates, source, data, Path(folder))
        losses = noise(source, network, [c for c in candidates if c.values in writer.ranges], writer.ranges, data)
        order = sorted(candidates, key=lambda layer: losses.get(layer.node, np.inf))
        fine = [layer for layer in order if losses.get(layer.node, np.inf) < _TOO_COARSE]
        kept += [Kept(layer.title, _too_coarse(layer, losses)) for layer in order[len(fine) :]]
        if score is not None:
            logger.info("int8: scoring %d layers beside fp32 on these images", len(fine))
        number, scores = _search(writer, fine, score, source, tolerance)
        costly = f"with it as int8, and all less noisy layers, the file loses more than {tolerance:g} AP"
        kept += [Kept(layer.title, f"{costly}: {_decibels(losses[layer.node])}") for layer in fine[number:]]
        shutil.copyfile(writer.write(fine[:number]), target)
    logger.info("int8: %d of %d layers, calibrated on %d images", number, len(network.layers), images)
    return PrecisionFacts("int8", len(network.layers), tuple(kept), target.stat().st_size, images, scores)


def _candidates(network: Network) -> tuple[list[Kept], list[Layer]]:
    """Layers that stay in fp32 whatever is measured, and the others."""
    kept, candidates = [], []
    for layer in network.layers:
        if layer.kind not in QUANTIZABLE:
            kept.append(Kept(layer.title, f"{layer.kind} has no integer form"))
        elif not layer.inner:
            kept.append(Kept(layer.title, "predicts: its output is decoded"))
        else:
            candidates.append(layer)
    return kept, candidates


def _search(
    writer: _Writer, layers: Sequence[Layer], score: Score | None, source: Path, tolerance: float
) -> tuple[int, dict[str, float] | None]:
    """How many of the layers, the least noisy first, may be int8, by bisection; and the scores measured."""
    if score is None or not layers:
        return len(layers), None
    scores = {"fp32": score(source), "int8": score(writer.write(layers))}
    enough = scores["fp32"] - tolerance
    if scores["int8"] >= enough:
        return len(layers), scores
    scores["all int8"] = scores["int8"]
    good, bad, scores["int8"] = 0, len(layers), scores["fp32"]
    while bad - good > 1:
        middle = (good + bad) // 2
        found = score(writer.write(layers[:middle]))
        logger.info("int8: %d layers give AP %.2f, fp32 %.2f", middle, found, scores["fp32"])
        if found >= enough:
            good, scores["int8"] = middle, found
        else:
            bad = middle
    return good, scores


class _Writer:
    """Writes a model with some of its layers as int8; ranges are measured once, and shapes inferred.

    Args:
        folder: for the files.
    """

    def __init__(
        self, network: Network, candidates: Sequence[Layer], source: Path, batches: Iterable[Batch], folder: Path
    ) -> None:
        import onnx

        self._path, self._network = folder / "int8.onnx", network
        self._shaped = onnx.shape_inference.infer_shapes(network.model)
        self._written: list[str] = []  # nodes that are int8 in the file
        names = {layer.node for layer in candidates} | set(network.followers(candidates))
        samples = collect(source, network.values_of(names), batches)
        self.ranges = {name: best_range(values) for name, values in samples.items()}

    def write(self, layers: Sequence[Layer]) -> Path:
        """The file with these layers as int8, until the next one is written."""
        from onnxruntime.quantization import QDQQuantizer, QuantType

        names = [layer.node for layer in layers] + self._network.followers(layers)
        if self._path.exists() and names == self._written:
            return self._path
        model = copy.deepcopy(self._shaped)  # which the quantizer changes
        quantizer = QDQQuantizer(
            model,
            per_channel=True,
            reduce_range=True,
            weight_qType=QuantType.QInt8,
            activation_qType=QuantType.QUInt8,
            tensors_range=self._tensors_range(),
            nodes_to_quantize=names,
            nodes_to_exclude=[],
            op_types_to_quantize=_kinds(self._network, names),
            extra_options={},
        )
        quantizer.quantize_model()
        quantizer.model.save_model_to_file(str(self._path))
        self._written = names
        return self._path

    def _tensors_range(self) -> Any:
        from onnxruntime.quantization.calibrate import CalibrationMethod, TensorsData

        limits = {name: tuple(np.array(end, dtype=np.float32) for end in ends) for name, ends in self.ranges.items()}
        return TensorsData(CalibrationMethod.MinMax, limits)


def _kinds(network: Network, names: Collection[str]) -> list[str]:
    return sorted({node.op_type for node in network.nodes if node.name in names})


def _too_coarse(layer: Layer, losses: Mapping[str, float]) -> str:
    if layer.node not in losses:
        return "the calibration images never reach it"
    return f"{'depthwise: ' if layer.groups > 1 else ''}too coarse as int8: {_decibels(losses[layer.node])}"


def _decibels(loss: float) -> str:
    return f"signal over noise {-10 * np.log10(max(loss, 1e-12)):.0f} dB"
