"""What a run says at its end: how good the model is, where everything lies, and what may be done next."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Mapping
from pathlib import Path

from detframe.engine.checkpoint import BEST, FINAL, best_weights, periodic_name
from detframe.engine.commands import program_name
from detframe.engine.inputs import RunInputs
from detframe.engine.loggers import CSV_FILE
from detframe.engine.metrics_writer import TENSORBOARD_FOLDER
from detframe.engine.saving import BestHook
from detframe.engine.terminal import RESULT
from detframe.engine.trainer import Trainer
from detframe.parallel.collectives import gather_objects
from detframe.texts import counted, format_minutes

logger = logging.getLogger(__name__)
_MAIN = ("/AP", "/AP50", "/AR@100", "/AR@1000")
_FILES = {
    BEST: "the detector with the best metric; this file alone is enough to predict",
    FINAL: "the weights of the last iteration, enough to predict as well",
    "recipe.yaml": "what was chosen, and why; catalog.yaml beside it says where the data are",
    "report.html": "how good it is, where it fails, likely label errors and what to try next; open it in a browser",
    "config.yaml": "the effective config",
    "metrics.jsonl": "losses and metrics, one JSON object a line",
    TENSORBOARD_FOLDER: "the same as curves and pictures",
    CSV_FILE: "the same as a table",
    "images": "training images with their targets; predictions beside ground truth",
    "log.txt": "this log",
}


def summarise(trainer: Trainer, inputs: RunInputs, folder: Path, seconds: float, missing: str) -> None:
    """Log how the training went, what was made, and where it is. Called by every rank.

    Args:
        seconds: that the training took.
        missing: what is said of images that do not exist; "" where all do.
    """
    done = f"trained {counted(trainer.iteration, 'iteration')} in {format_minutes(seconds)}"
    rows = [done, *([missing] if missing else [])]
    skipped = sum(gather_objects(getattr(trainer.data, "skipped", 0)))
    if skipped:
        rows.append(f"images that could not be read were left out {skipped} times (DATALOADER.ON_ERROR skip)")
    if trainer.skipped:
        rows.append(f"{trainer.skipped} steps were skipped, whose losses or gradients were not finite")
    if _main_values(trainer.metrics):
        rows.append(f"final model: {_main_values(trainer.metrics)}")
    rows += [
        f"best model:  {hook.metric} {hook.best:.2f}, at iteration {hook.best_iteration}"
        for hook in trainer.hooks
        if isinstance(hook, BestHook) and 0 <= hook.best_iteration != trainer.iteration
    ]
    files = {**_FILES, **_final(trainer), periodic_name(trainer.iteration): "all that --resume needs to train on"}
    rows += [f"  {folder / name}: {text}" for name, text in files.items() if (folder / name).exists()]
    rows += ["to go on:", *(f"  {command}" for command in next_commands(inputs, folder))]
    logger.info("%s", "\n".join(rows), extra=RESULT)


def _final(trainer: Trainer) -> dict[str, str]:
    """What model_final.pth is where it does not hold the weights that were trained."""
    key = trainer.weights.averaged_by
    return {FINAL: f"the average of the weights ({key}) at the end, enough to predict as well"} if key else {}


def next_commands(inputs: RunInputs, folder: Path) -> list[str]:
    """Some commands that a user of this run may want next, ready to be copied."""
    weights = best_weights(folder)
    predict = ["--weights", str(weights), "--input", _pictures(inputs), "--output", str(folder / "found")]
    if inputs.cfg.CUSTOM_IMPORTS:  # the code is the user's own, but a checkpoint may be anybody's
        predict.append("--allow-custom-imports")
    commands = [f"{program_name('predict', 'predict.py')} {shlex.join(predict)}"]
    config = ["--config-file", str(folder / "config.yaml")]
    if inputs.test_sets:
        commands.append(f"{program_name('evaluate', 'test_net.py')} {shlex.join(config)}")
    else:
        key = "MAX_MINUTES" if inputs.cfg.SOLVER.MAX_MINUTES else "MAX_ITER"
        longer = [*config, "--resume", f"SOLVER.{key}", str(2 * inputs.cfg.SOLVER[key])]
        commands.append(f"{program_name('train', 'train_net.py')} {shlex.join(longer)}")
    board = folder / TENSORBOARD_FOLDER
    return [*commands, *([f"tensorboard --logdir {shlex.quote(str(board))}"] if board.is_dir() else [])]


def _pictures(inputs: RunInputs) -> str:
    """A folder with pictures that the model was not trained on, if there is one."""
    records = next(iter(inputs.test_sets.values()), inputs.records)
    return str(Path(records.file_name(0)).parent)


def _main_values(metrics: Mapping[str, float]) -> str:
    return ", ".join(f"{key} {value:.2f}" for key, value in metrics.items() if key.endswith(_MAIN))
