"""What --resume reads in OUTPUT_DIR: `last_checkpoint`, metrics.jsonl, and all of a checkpoint's training state."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from detframe.checkpoint import describe
from detframe.engine.build import check_resumable
from detframe.engine.checkpoint import LAST
from detframe.engine.hooks import EvaluationHook, LogHook
from detframe.engine.inputs import resolve_seed
from detframe.engine.metrics_file import MetricsFile
from detframe.engine.metrics_writer import MetricsWriter
from detframe.engine.newest import find_newest
from detframe.engine.resuming import saved_leaves
from detframe.engine.saving import BestHook
from detframe.engine.trainer import Trainer
from detframe.torch_files import write_torch_file
from tests.engine.fakes import METADATA, make_checkpointer, make_config, make_trainer
from tests.malformed.contract import READ, REPAIRED, Case, NonsenseError, check_apart
from tests.malformed.mutations import FEWEST, byte_changes, clear, lines_changed, no_files, text_changes, trees
from tests.malformed.states import other_values, torch_file

NAME = "model_0000004.pth"
NAMED = (NAME, "resuming: ", "the saved optimizer", "in the checkpoint")
# Places whose other value is another right state, or is told of by what is logged alone
FREE = (
    "optimizer",
    "optimizer_names",
    "model",
    "infinite_buffers",
    "stop_reason",
    "finished",
    "max_iter",
    "metrics",
    "hooks",
    "rng",
    "scaler",
    "ema_updates",
)


def new_trainer(folder: Path) -> Trainer:
    writer = MetricsWriter(folder, active=False)
    hooks = [
        LogHook(writer, 100, 4, 100),
        EvaluationHook(lambda iteration: {"bbox/AP": 1.0}, writer, 0),
        BestHook(make_checkpointer(folder / "best"), "bbox/AP", 2, 0.0),
    ]
    return make_trainer(folder, make_config(MAX_ITER=8), hooks=hooks, ema=0.9)


def cases(folder: Path) -> Iterator[Case]:
    torch.set_num_threads(1)
    (folder / "best").mkdir()
    cfg = make_config(MAX_ITER=8)
    trainer = new_trainer(folder)
    for _ in range(4):
        trainer.step()
    trainer.publish({"bbox/AP": 1.0})
    meta = {**describe(cfg, METADATA), "iteration": 4, "metrics": {"bbox/AP": 1.0}}
    meta["config"] = "SEED: 0\nSOLVER: {OPTIMIZER: SGD, MAX_ITER: 8, IMS_PER_BATCH: 4, BASE_LR: 0.1}\n"
    content = {"model": dict(trainer.inference_weights()), "meta": meta, "training": trainer.training_state()}
    write_torch_file(content, folder / NAME)
    (folder / LAST).write_text(NAME + "\n")
    usual = resumed(folder)
    yield from of_content(folder, content, usual)
    yield from of_files(folder, content, usual)
    yield from of_metrics(folder)


def resumed(folder: Path) -> dict[str, torch.Tensor]:
    """The weights one step after a resume; raises NonsenseError where they make no sense."""
    found = find_newest(folder)
    if found is None:
        raise NonsenseError("the run begins again without a word")
    cfg, trainer = make_config(MAX_ITER=8), new_trainer(folder)
    check_resumable(trainer.model, found.model)
    if not isinstance(resolve_seed(cfg, saved_leaves(found)), int):
        raise NonsenseError("the seed")
    trainer.load_training_state(found)
    if (
        type(trainer.iteration) is not int
        or trainer.iteration != found.iteration
        or type(trainer.stop_reason) is not str
    ):
        raise NonsenseError(f"iteration {trainer.iteration!r}, stopped for {trainer.stop_reason!r}")
    if not trainer.is_over:
        trainer.step()
    trainer.publish({"bbox/AP": 2.0})
    weights = {**trainer.model.state_dict(), "iteration": torch.tensor(trainer.iteration)}
    if not all(bool(torch.isfinite(value).all()) for value in weights.values()):
        raise NonsenseError("weights that are not finite")
    return weights


def judged(folder: Path, usual: dict[str, torch.Tensor], free: bool) -> str:
    weights = resumed(folder)
    if not free and not all(torch.equal(weights[name], value) for name, value in usual.items()):
        raise NonsenseError("another step than that of the sound checkpoint, without a word")
    return READ


def of_content(folder: Path, content: dict[str, Any], usual: Any) -> Iterator[Case]:
    path = folder / NAME

    def read(changed: Any, free: bool) -> str:
        torch_file(changed, path)
        (folder / LAST).write_text(NAME + "\n")
        return judged(folder, usual, free)

    for part in ("training", "meta", "model"):
        for what, at, _, changed in trees(content[part], FEWEST):
            if at[:2] == ("optimizer", "param_groups") and len(at) > 4:
                continue  # settings that come from the config
            free = bool(at) and (at[0] in FREE or (part == "meta" and at[0] != "config"))
            free |= what.startswith(("iteration=", "rng")) and what.endswith("=zero")
            whole = {**content, part: changed}
            yield Case(f"{part} {what}", lambda c=whole, f=free: read(c, f), NAMED)
    optimizer = content["training"]["optimizer"]
    state = optimizer["state"]
    for what, make in other_values(state[0]["momentum_buffer"]):

        def other(make: Callable[[], Any] = make) -> str:
            momentum = {**state, 0: {**state[0], "momentum_buffer": make()}}
            return read(
                {**content, "training": {**content["training"], "optimizer": {**optimizer, "state": momentum}}}, True
            )

        yield Case(f"momentum {what}", other, NAMED)


def of_files(folder: Path, content: dict[str, Any], usual: Any) -> Iterator[Case]:
    """The files themselves; a pointer that names nothing is passed over."""
    pointer, path = folder / LAST, folder / NAME

    def read(target: Path, place: Callable[[], object]) -> str:
        clear(pointer)
        clear(path)
        write_torch_file(content, path)
        pointer.write_text(NAME + "\n")
        clear(target)
        place()
        return judged(folder, usual, False)

    text = NAME + "\n"
    others = {"climbing": "../../x.pth\n", "absolute": "/etc/passwd\n", "long": "x" * 10**6, "the folder": ".\n"}
    changes = [*byte_changes(text.encode()), *text_changes(text), *((k, v.encode()) for k, v in others.items())]
    for what, data in changes:
        yield Case(f"pointer {what}", lambda d=data: read(pointer, lambda: pointer.write_bytes(d)), (LAST, NAME))
    for what, place in no_files(pointer, endless=True):
        yield Case(f"pointer {what}", lambda p=place: read(pointer, p), (LAST, NAME))
    for what, place in no_files(path, endless=True):
        if what != "nothing there":
            yield Case(f"checkpoint {what}", lambda p=place: read(path, p), (NAME, str(folder)))


def of_metrics(folder: Path) -> Iterator[Case]:
    """metrics.jsonl is a record: what of it can be read is kept, whatever it holds."""
    file = MetricsFile(folder)
    rows = [{"iteration": i, "loss": 1.0 / i, "bbox/AP": None} for i in range(1, 7)]
    sound = "".join(json.dumps(row) + "\n" for row in rows)

    def read(data: bytes) -> str:
        clear(file.path)
        file.path.write_bytes(data)
        file.trim(4)
        kept = file.rows()
        if not all(type(row["iteration"]) is int and row["iteration"] <= 4 for row in kept):
            raise NonsenseError(f"rows {kept}")
        return READ if kept == rows[:4] else REPAIRED

    changes = [*byte_changes(sound.encode()), *text_changes(sound), *lines_changed(sound)]
    for what, _, _, changed in trees(rows[0], FEWEST):
        lines = [json.dumps(changed), *sound.splitlines()[1:]]
        changes.append((f"a row of {what}", "\n".join(lines).encode()))
    for text in ("9" * 5000, "[" * 100_000, '{"iteration": ' + "9" * 5000 + "}", '{"iteration": 1e999}', "NaN"):
        changes.append((f"a line {text[:30]}", (text + "\n" + sound).encode()))
    for what, data in changes:
        yield Case(f"metrics {what}", lambda d=data: read(d), (file.path.name,))


def test_every_case_is_read_or_refused(tmp_path: Path):
    check_apart("resume", tmp_path, at_least=700)
