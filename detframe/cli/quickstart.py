"""The shortest way from nothing to detections: tools/quickstart.py, `make quickstart`, `detframe quickstart`."""

from __future__ import annotations

import argparse
import importlib.util
import logging
import math
import shlex
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detframe.cli.arguments import add_config_arguments, base_parser, parse, program_name
from detframe.cli.common import load_config, log_to_terminal, print_config
from detframe.cli.errors import guard
from detframe.cli.media import write_image
from detframe.cli.recipe import above_zero
from detframe.config import read_config, shipped_folder
from detframe.config.paths import with_docs
from detframe.errors import MissingFileError
from detframe.storage import refuse_address
from detframe.texts import format_minutes

if TYPE_CHECKING:
    from detframe.config import ConfigNode

logger = logging.getLogger(__name__)

CONFIG, EPOCHS = "configs/quick/faster_rcnn_R_18_FPN_shapes.yaml", 9
OUTPUT = "output/quickstart"
NUM_PICTURES = 12
EPILOG = """\
Makes the data set "shapes", trains a small Faster R-CNN on it from random weights on the CPU, evaluates it, and draws
what it finds beside the ground truth. Everything it makes is in OUTPUT_DIR (output/quickstart) and datasets/shapes.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    parser = base_parser("quickstart", "Train a small detector on generated pictures, in minutes, on the CPU.", EPILOG)
    parser.add_argument(
        "--minutes",
        type=above_zero,
        metavar="M",
        help=f"of the training, on whatever machine, in place of {EPOCHS} epochs",
    )
    add_config_arguments(parser)
    args = parse(parser, argv)
    if args.minutes and args.config_file:
        parser.error("--minutes is for the quickstart's own config; of another, SOLVER.MAX_MINUTES says them")
    if "OUTPUT_DIR" not in args.opts:
        args.opts = ["OUTPUT_DIR", OUTPUT, *args.opts]
    return guard(lambda: _run(args), args.debug)


def _run(args: argparse.Namespace) -> int:
    if args.print_config is not None:
        args.config_file = args.config_file or CONFIG
        return print_config(args)
    start = time.monotonic()
    log_to_terminal()
    cfg = load_config(args)
    refuse_address(cfg.OUTPUT_DIR, "the quickstart works in one, which OUTPUT_DIR names")
    output = Path(cfg.OUTPUT_DIR)
    logger.info("1/4  generating the data set 'shapes'")
    shapes = import_make_shapes()()
    command = training_command(args, shapes)
    logger.info("     it is in %s\n2/4  training and evaluating, as this command does:\n     %s", shapes, command)
    from detframe.engine.checkpoint import best_weights
    from detframe.visualization import draw_curves

    metrics = _train(args, cfg, shapes)
    cfg = read_config(output / "config.yaml")
    logger.info("3/4  drawing predictions beside ground truth")
    pictures = draw_predictions(cfg, best_weights(output), output / "predictions")
    logger.info("4/4  drawing the curves")
    draw_curves(output / "metrics.jsonl", output / "curves.png")
    for line in summary(output, shapes, pictures, metrics, time.monotonic() - start):
        logger.info("%s", line)
    return 0


def training_command(args: argparse.Namespace, shapes: Path) -> str:
    """What does the same as the second part of the quickstart."""
    train, words = program_name("train", "train_net.py"), shlex.join(args.opts)
    if args.config_file:
        return f"{train} --config-file {args.config_file} {words}"
    length = f"--minutes {args.minutes:g}" if args.minutes else f"--epochs {EPOCHS}"
    return f"{train} --data {shapes} --model {Path(CONFIG).stem} {length} {words}"


def _train(args: argparse.Namespace, cfg: ConfigNode, shapes: Path) -> Mapping[str, float]:
    """By the config, or from the folder; returns the metrics."""
    from detframe.engine import train
    from detframe.recipes.finetune import finetune

    if args.config_file:
        return train(cfg)
    length = {"minutes": args.minutes} if args.minutes else {"epochs": EPOCHS}
    metrics: Mapping[str, float] = finetune(shapes, **length, model=CONFIG, overrides=args.opts).meta["metrics"]
    return metrics


def import_make_shapes() -> Callable[..., Path]:
    """The function `make_shapes` of datasets/make_shapes.py, which generates the built-in data set."""
    script = shipped_folder("datasets") / "make_shapes.py"
    spec = importlib.util.spec_from_file_location("detframe_make_shapes", script)
    if spec is None or spec.loader is None or not script.is_file():
        raise MissingFileError(f"{script} is missing; it comes with detframe, so this copy is incomplete")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up there
    spec.loader.exec_module(module)
    make_shapes: Callable[..., Path] = module.make_shapes
    return make_shapes


def draw_predictions(cfg: ConfigNode, checkpoint: Path, folder: Path) -> int:
    """Draw ground truth and predictions of the first test images side by side; returns how many."""
    import torch

    from detframe.data import load_image, load_records
    from detframe.inference import Detector
    from detframe.visualization import contact_sheet, side_by_side

    detector = Detector.load(str(checkpoint), device=cfg.MODEL.DEVICE)
    records = load_records(
        cfg.DATASETS.TEST, cfg.DATASETS.CATALOG, limit=cfg.DATASETS.LIMIT, on_missing=cfg.DATALOADER.ON_ERROR
    )
    chosen = records.select(torch.arange(min(NUM_PICTURES, len(records))))
    images = [load_image(chosen[i]["file_name"]) for i in range(len(chosen))]
    pictures = []
    for i, prediction in enumerate(detector.predict(images)):
        record: Any = chosen[i]
        name = Path(record["file_name"]).name
        pictures.append(side_by_side(images[i], record, prediction, detector.class_names, name=name))
        write_image(folder / f"{Path(record['file_name']).stem}.png", pictures[-1])
    write_image(folder.with_suffix(".png"), contact_sheet(pictures, columns=3))
    return len(chosen)


def summary(output: Path, shapes: Path, pictures: int, metrics: Mapping[str, float], seconds: float) -> list[str]:
    """What was made, and what to try next."""
    train, predict = program_name("train", "train_net.py"), program_name("predict", "predict.py")
    values = ", ".join(f"{name} {_number(metrics.get(f'bbox/{name}'))}" for name in ("AP", "AP50", "AP75"))
    return [
        "",
        f"Done in {format_minutes(seconds)}. On the validation images: {values}.",
        "",
        f"  {output}/report.html      how good it is, where it fails and what to try next; open it in a browser",
        f"  {output}/predictions.png  ground truth and predictions of {pictures} images; one by one in predictions/",
        f"  {output}/curves.png       losses and AP over the training",
        f"  {output}/log.txt          the whole log; metrics.jsonl has it in numbers, TensorBoard reads this folder",
        f"  {output}/model_best.pth   the detector; this file alone is enough to predict",
        "",
        "What to try next:",
        f"  {predict} --weights {output}/model_best.pth --input {shapes}/val --output {output}/found",
        f"  {train} --config-file {output}/config.yaml OUTPUT_DIR output/longer SOLVER.MAX_ITER 20ep",
        f"  {train} --config-file {output}/config.yaml --print-config SOLVER.BASE_LR",
        f"  {train} --data PATH",
        with_docs("      a folder, file or archive of your own data (docs/from_a_folder.md)"),
        with_docs("      in a usual format (docs/own_data.md)"),
    ]


def _number(value: float | None) -> str:
    return "n/a" if value is None or math.isnan(value) else f"{value:.1f}"
