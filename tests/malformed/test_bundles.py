"""Bundles of non-finite steps, as `replay` reads them: bytes, and every place with every kind of value."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from detframe.engine import replaying
from detframe.engine.nonfinite import pack_target
from detframe.engine.replaying import replay
from tests.engine.fakes import META, Regressor, make_batch, make_trainer
from tests.malformed.contract import READ, Case, NonsenseError, check_apart
from tests.malformed.mutations import FEWEST, byte_changes, clear, no_files, trees
from tests.malformed.states import other_values, torch_file

NAME = "iter_0000003_rank0.pth"
# Parts that the replay of a step does not need, and that may be anything
FREE = ("iteration", "rank", "files", "optimizer", "scaler", "grad_norm", "lr", "meta", "losses", "infinite_buffers")


def bundle() -> dict[str, Any]:
    trainer = make_trainer(Path("unused"))
    trainer.step()
    images, targets = make_batch(1)
    return {
        "iteration": 2, "rank": 0, "world_size": 1,
        "images": images, "targets": [pack_target(target) for target in targets], "files": ["1 (a.png)"],
        "model": dict(trainer.model.state_dict()), "rng": trainer.last_step.rng if trainer.last_step else {},
        "losses": {"loss_a": float("nan")}, "grad_norm": float("nan"), "lr": 0.1, "accumulate_steps": 2, "amp": "",
        "config": "MODEL: {DEVICE: cpu, NUM_CLASSES: 2}\n", "meta": {"class_names": META["class_names"]},
    }  # fmt: skip


def cases(folder: Path) -> Iterator[Case]:
    torch.set_num_threads(1)
    replaying.build_detection_model = lambda cfg: Regressor()  # of milliseconds; in this process alone
    path, content = folder / NAME, bundle()
    torch_file(content, path)
    sound, usual = path.read_bytes(), replay(path).losses

    def read(place: Callable[[], object], free: bool) -> str:
        clear(path)
        place()
        report = replay(path)
        if report.losses != usual and not free:
            raise NonsenseError(f"losses {report.losses} instead of {usual}")
        report.text()
        return READ

    for what, data in byte_changes(sound, flips=30):
        yield Case(what, lambda d=data: read(lambda: path.write_bytes(d), False), (NAME,))
    for what, place in no_files(path, endless=True):
        yield Case(what, lambda p=place: read(p, False), (NAME,))
    for what, at, _, changed in trees(content, FEWEST):
        # another value of the batch or of the weights is another step, which may be replayed as well as any
        free = len(at) > 0 and (at[0] in (*FREE, "rng", "accumulate_steps", "world_size") or len(at) > 1)
        yield Case(what, lambda c=changed, f=free: read(lambda: torch_file(c, path), f), (NAME,))
    for key, tensor in (("images", content["images"][0]), ("model", content["model"]["layer.weight"])):
        for what, make in other_values(tensor.float()):
            place = [make] if key == "images" else None

            def other(make: Callable[[], Any] = make, images: bool = place is not None) -> str:
                part = [make(), *content["images"][1:]] if images else {**content["model"], "layer.weight": make()}
                changed = {**content, "images" if images else "model": part}
                return read(lambda: torch_file(changed, path), True)

            yield Case(f"{key} {what}", other, (NAME,))


def test_every_case_is_replayed_or_refused(tmp_path: Path):
    check_apart("bundles", tmp_path, at_least=500)
