"""How fast detframe is beside torchvision: the same weights, the same images, steps taken in turn within one run."""

from __future__ import annotations

import argparse
import contextlib
import logging
import statistics
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detframe.cli.arguments import (
    add_config_arguments,
    add_consent_argument,
    base_parser,
    local_path,
    natural,
    positive,
)
from detframe.cli.benchmark_compile import benchmark_compile
from detframe.cli.benchmark_data import benchmark_data
from detframe.cli.benchmark_evaluation import benchmark_evaluation
from detframe.cli.benchmark_models import (
    MODELS,
    NUM_CLASSES,
    NUM_KEYPOINTS,
    PEERS,
    Side,
    make_batch,
    models_of,
    sides_beside,
)
from detframe.cli.benchmark_operations import benchmark_operations, targets_for
from detframe.cli.benchmark_roofline import benchmark_roofline
from detframe.cli.benchmark_scaling import add_scaling_arguments, benchmark_scaling
from detframe.cli.benchmark_steps import (
    autocast,
    benchmark_folding,
    inference_step,
    interleave,
    machine,
    now,
    training_step,
)
from detframe.cli.benchmark_weights import benchmark_weights, without_overrides
from detframe.cli.common import load_config, log_to_terminal, run_command
from detframe.cli.media import file_to_write
from detframe.files import write_json
from detframe.texts import counted

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from detframe.config import ConfigNode

logger = logging.getLogger(__name__)

EPILOG = """\
Times a training step (forward, backward, SGD update) and an inference of a detector and of torchvision's of the same
kind (ResNet-50 with a pyramid), the one after the other in each round, and prints medians and their ratio. Weights are
random, the same in both; batch norm is frozen and the first two stages are not trained, as both do by default. With
--beside detectron2 it is detectron2's, and detframe computes by detectron2's conventions.
--what folding times a training step of the config's model with its frozen norms folded into the convolutions and not.
--what compile times a step of the model with MODEL.COMPILE dense and step beside one without, and the start of each.
--what data measures the config's data loader alone, and beside it one without INPUT.DECODE and DATALOADER.CACHE_RAM
where these are set (in seconds of this process with DATALOADER.NUM_WORKERS 0); --what stages the share of each part of
detframe's step.
--what ops counts, at 320x416 pixels, what a GPU pays for, without one: operations, and waits of the host for a value,
of a training step (forward and backward) and of inference. Without --config-file it counts all models beside those of
the other program, else the config's detector; with --verbose it names the lines that most of them come from.
--what roofline runs the convolutions and matrix products of a step alone, in turn with the step, and prints their share
of its time; of which models and of what size as --what ops; with --verbose it names what takes the rest.
--what scaling computes a step on many GPUs from the measured parts of one, from what links and processors are said to
do, and, with a --config-file, from what the loader gives; it names what holds each up. --ranks 2 takes real steps too.
--what evaluation times AP by detframe and by pycocotools for the same predictions, 100 an image.

--weights A B C times files instead, each in a process of its own, with the same images in turn, so that a slow machine
is slow for all: checkpoints (PyTorch, eager, fp32) and exported files. It prints the median and the 90th percentile of
a batch's latency from pixels to detections, without decoding and resizing; how many times as fast as the first file
(median and quartiles of the ratio); time to load, the peak of the process's memory, the file's size; and the scores on
the data of the first file's config or of --data.

example: detframe benchmark --weights model_best.pth model.onnx model_int8.onnx --threads 2
"""
CHOICES = ("train", "inference", "stages", "data", "folding", "evaluation", "ops", "roofline", "compile", "scaling")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    parser = base_parser("benchmark", "Time detframe beside torchvision.", EPILOG)
    add_config_arguments(parser)
    parser.add_argument("--what", nargs="+", choices=CHOICES, default=["train", "inference"])
    parser.add_argument(
        "--model", choices=sorted(MODELS), help="what to compare (faster_rcnn; of ops and roofline: all)"
    )
    parser.add_argument(
        "--beside",
        choices=PEERS,
        default=PEERS[0],
        help="the other program of --what train, inference and ops (torchvision); detectron2 has to be installed",
    )
    parser.add_argument(
        "--weights",
        nargs="+",
        metavar="FILE",
        help="time and score these in turn: checkpoints and exported files (.onnx, .xml, .pt2) of the same classes",
    )
    parser.add_argument(
        "--data",
        default="",
        metavar="NAME_OR_PATH",
        help="what --weights are scored on; left out: DATASETS.TEST of the first",
    )
    parser.add_argument(
        "--size",
        nargs=2,
        type=positive,
        metavar=("H", "W"),
        help="image size (480 640; of ops and roofline alone 320 416; of --weights: as their configs resize)",
    )
    parser.add_argument("--batch", type=positive, help="images per step (2; of --weights 1)")
    parser.add_argument("--precision", nargs="+", choices=["fp32", "bf16"], default=["fp32", "bf16"])
    parser.add_argument("--images", type=positive, help="images of --what evaluation (500), of --weights (100)")
    parser.add_argument("--rounds", type=positive, default=7, help="measured rounds, after two not counted (7)")
    parser.add_argument("--threads", type=natural, default=0, help="CPU threads; 0 leaves PyTorch's choice")
    parser.add_argument("--json", "--output", type=local_path, metavar="FILE", help="also write the results here")
    add_scaling_arguments(parser)
    add_consent_argument(parser)
    return run_command(parser, argv, _run)


def _run(args: argparse.Namespace) -> int:
    log_to_terminal()
    import torch

    if args.threads:
        torch.set_num_threads(args.threads)
    if args.weights:
        args.weights, args.opts = without_overrides(args.weights, args.opts)
    cfg = load_config(args)
    file = file_to_write(args.json, "--json") if args.json else None
    results = _of_weights(args, cfg) if args.weights else _of_what(args, cfg)
    if file is not None:
        write_json(file, results, indent=1)
    return 0


def _of_weights(args: argparse.Namespace, cfg: ConfigNode) -> dict[str, Any]:
    args.batch = args.batch or 1
    return {"machine": machine(), **benchmark_weights(args, cfg)}


def _of_what(args: argparse.Namespace, cfg: ConfigNode) -> dict[str, Any]:
    """What --what names, one after another."""
    import torch

    small = set(args.what) <= {"ops", "roofline"}
    args.size, args.batch = args.size or ([320, 416] if small else [480, 640]), args.batch or 2
    results: dict[str, Any] = {"machine": machine(), "size_hw": args.size, "batch": args.batch, "rounds": args.rounds}
    logger.info("%s", results["machine"])
    if set(args.what) - {"data", "evaluation"}:
        logger.info("%s of %dx%d pixels a step", counted(args.batch, "image"), *args.size)
    if {"train", "inference", "stages"} & set(args.what):
        results.update(_benchmark_models(args, cfg))
    if "folding" in args.what:
        results["folding"] = _folding(args, cfg)
    if "compile" in args.what:
        results["compile"] = _compiled(args, cfg)
    if "ops" in args.what:
        results["ops"] = _operations(args, cfg)
    if "roofline" in args.what:
        results["roofline"] = _roofline(args, cfg)
    if "scaling" in args.what:
        results["scaling"] = _scaling(args, cfg)
    if "data" in args.what:
        results["data"] = benchmark_data(cfg, args.rounds)
    if "evaluation" in args.what:
        cpu = torch.device("cpu")
        results["evaluation"] = benchmark_evaluation(
            args.images or 500, lambda steps: interleave(steps, args.rounds, cpu)
        )
    return results


def _folding(args: argparse.Namespace, cfg: ConfigNode) -> dict[str, Any]:
    from detframe.parallel.device import resolve_device

    device = resolve_device(cfg.MODEL.DEVICE)
    height, width = args.size
    batch = make_batch(args.batch, height, width, device)
    return benchmark_folding(
        cfg, batch, NUM_CLASSES, args.precision, lambda steps: interleave(steps, args.rounds, device), device
    )


def _compiled(args: argparse.Namespace, cfg: ConfigNode) -> dict[str, Any]:
    base = "" if args.config_file else MODELS[args.model or "faster_rcnn"][1]
    measured = {"size_hw": tuple(args.size), "batch": args.batch, "rounds": args.rounds, "threads": args.threads}
    return benchmark_compile(cfg, base, NUM_CLASSES, {**measured, "make_batch": make_batch}, args.precision)


def _operations(args: argparse.Namespace, cfg: ConfigNode) -> dict[str, Any]:
    import torch

    return benchmark_operations(args.beside, _rows(args, cfg, torch.device("cpu")))


def _roofline(args: argparse.Namespace, cfg: ConfigNode) -> dict[str, Any]:
    from detframe.parallel.device import resolve_device

    device = resolve_device(cfg.MODEL.DEVICE)
    measure = partial(interleave, rounds=args.rounds, device=device)
    out: dict[str, Any] = {}
    for name, sides in _rows(args, cfg, device):
        ours = sides[-1]
        del sides  # the other program's model
        out |= benchmark_roofline(name, ours, args.precision, measure, device)
    return out


def _scaling(args: argparse.Namespace, cfg: ConfigNode) -> dict[str, Any]:
    from detframe.parallel.device import resolve_device

    device = resolve_device(cfg.MODEL.DEVICE)
    args.model = args.model or "faster_rcnn"
    ((name, (*_, ours)),) = _rows(args, cfg, device)
    return {name: benchmark_scaling(args, cfg, name, ours.model, (list(ours.images), ours.targets), device)}


def _rows(args: argparse.Namespace, cfg: ConfigNode, device: torch.device) -> Iterator[tuple[str, Sequence[Side]]]:
    """The detector of the config file, or, one at a time, those of --model, each behind the other program's."""
    import torch

    from detframe.modeling import build_detection_model

    torch.manual_seed(0)
    height, width = args.size
    batch = make_batch(args.batch, height, width, device, cfg.INPUT.CHANNELS)
    # in graphs of torch.compile nothing could be counted
    cfg = cfg.changed([("MODEL.DEVICE", str(device)), ("MODEL.COMPILE", "off")])
    if args.config_file:
        known = ("MODEL.NUM_CLASSES", NUM_CLASSES), ("MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS", NUM_KEYPOINTS)
        cfg = cfg.changed([(key, cfg.at(key) or number) for key, number in known])
        model = build_detection_model(cfg)
        yield Path(args.config_file).stem, [Side("detframe", model, batch[0], targets_for(cfg, batch[1]))]
        return
    for name in [args.model] if args.model else models_of(args.beside):
        yield name, sides_beside(args.beside, cfg, name, batch, device)


# ---------------------------------------------------------------------------------------------- models
def _benchmark_models(args: argparse.Namespace, cfg: ConfigNode) -> dict[str, Any]:
    import torch

    from detframe.parallel.device import resolve_device

    torch.manual_seed(0)
    device = resolve_device(cfg.MODEL.DEVICE)
    height, width = args.size
    batch = make_batch(args.batch, height, width, device)
    sides = sides_beside(args.beside, cfg, args.model or "faster_rcnn", batch, device)
    out: dict[str, Any] = {}
    for what in [w for w in ("train", "inference") if w in args.what]:
        step = training_step if what == "train" else inference_step
        for precision in args.precision:
            steps = [step(s.model, s.images, s.targets, precision == "bf16", device) for s in sides]
            rows = interleave(steps, args.rounds, device)
            out[f"{what}/{precision}"] = _report(args.beside, what, precision, rows)
    if "stages" in args.what:
        for precision in args.precision:
            out[f"stages/{precision}"] = stages(sides[1].model, *batch, precision, args.rounds, device)
    return out


def _report(peer: str, what: str, precision: str, rows: list[list[float]]) -> dict[str, Any]:
    theirs, ours = (statistics.median(row) for row in rows)
    logger.info(
        "%-9s %s  %s %8.1f ms  detframe %8.1f ms  ratio %.2f  (spread %.0f-%.0f, %.0f-%.0f ms)",
        what, precision, peer, 1e3 * theirs, 1e3 * ours, theirs / ours,
        *(1e3 * f(row) for row in rows for f in (min, max)),
    )  # fmt: skip
    return {f"{peer}_s": theirs, "detframe_s": ours, "ratio": theirs / ours, "rounds_s": rows}


def stages(
    model: Any, images: list[Tensor], targets: list[Any], precision: str, rounds: int, device: torch.device
) -> dict[str, float]:
    """Median seconds of each part of a training step: what the forward pass spends where, backward, optimizer."""
    import torch

    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(parameters, lr=1e-9, momentum=0.9, fused=True)
    names = ("preprocessor", "backbone", "rpn", "roi_heads")
    parts = {name: getattr(model, name) for name in names if getattr(model, name) is not None}
    rows: dict[str, list[float]] = {name: [] for name in [*parts, "backward", "optimizer"]}
    model.train()
    with _timed(parts, rows, device):
        for _ in range(rounds + 2):
            with autocast(precision == "bf16", device):
                losses = model(images, targets)
            start = now(device)
            sum(losses.values()).backward()
            middle = now(device)
            optimizer.step()
            optimizer.zero_grad()
            rows["backward"].append(middle - start)
            rows["optimizer"].append(now(device) - middle)
    medians = {name: statistics.median(row[2:]) for name, row in rows.items()}
    total = sum(medians.values())
    shares = "  ".join(f"{name} {1e3 * s:.0f} ms ({100 * s / total:.0f} %)" for name, s in medians.items())
    logger.info("stages    %s  %s", precision, shares)
    return medians


@contextlib.contextmanager
def _timed(parts: dict[str, nn.Module], rows: dict[str, list[float]], device: torch.device) -> Iterator[None]:
    started: dict[str, float] = {}
    handles = []
    for name, part in parts.items():
        handles.append(part.register_forward_pre_hook(lambda *_, n=name: started.__setitem__(n, now(device))))
        handles.append(part.register_forward_hook(lambda *_, n=name: rows[n].append(now(device) - started[n])))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
