"""Checkpoints of detframe, as `Detector.load` reads them: bytes, meta, and every kind of value in place of a tensor."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from detframe.inference import Detector
from detframe.torch_files import write_torch_file
from tests.malformed.contract import READ, Case, NonsenseError, check_apart
from tests.malformed.mutations import FEWEST, TEXTS, byte_changes, clear, no_files, renamed, replaced, trees
from tests.malformed.states import other_values, tiny_checkpoint, torch_file

IMAGE = torch.zeros(3, 64, 64, dtype=torch.uint8)
CHANGED = ("roi_heads.box_predictor.cls_score.weight", "backbone.body.bn1.running_var")
# Places of meta that a detector does without
FREE = ("format", "detframe_version", "iteration", "metrics", "keypoint_sigmas", "input_format", "keypoint_flip_pairs")


def cases(folder: Path) -> Iterator[Case]:
    torch.set_num_threads(1)
    path, content = folder / "model_best.pth", tiny_checkpoint()
    write_torch_file(content, path)
    sound = path.read_bytes()
    yield from of_bytes(path, sound, content)
    yield from of_meta(path, content, tuple(content["meta"]["class_names"]))
    yield from of_tensors(path, content)


def judged(path: Path, finite: bool = True) -> Detector:
    """Load a detector; raises NonsenseError where its weights or predictions make no sense."""
    detector = Detector.load(path, device="cpu")
    for name, value in detector.model.state_dict().items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise NonsenseError(f"{name} is not finite")
    if len(detector.class_names) != 2 or not all(isinstance(name, str) for name in detector.class_names):
        raise NonsenseError(f"class names {detector.class_names}")
    if not all(isinstance(number, int) for number in detector.category_ids):
        raise NonsenseError(f"category ids {detector.category_ids}")
    return detector


def of_bytes(path: Path, sound: bytes, content: dict[str, Any]) -> Iterator[Case]:
    def read(place: Callable[[], object]) -> str:
        clear(path)
        place()
        state = judged(path).model.state_dict()
        if not all(torch.equal(value, state[name]) for name, value in content["model"].items()):
            raise NonsenseError("other weights were read without a word")
        return READ

    for what, data in [*byte_changes(sound, flips=30), *of_archives(sound)]:
        yield Case(what, lambda d=data: read(lambda: path.write_bytes(d)), (path.name,))
    for what, place in no_files(path, endless=True):
        yield Case(what, lambda p=place: read(p), (path.name,))


def of_archives(sound: bytes) -> Iterator[tuple[str, bytes]]:
    """The archive with parts missing, packed, renamed, or of millions of zeros."""
    with zipfile.ZipFile(io.BytesIO(sound)) as file:
        parts = {part.filename: file.read(part) for part in file.infolist()}
    first, big = next(iter(parts)), "archive/data/0"
    yield "packed parts", archive(parts, zipfile.ZIP_DEFLATED)
    yield "a bomb", archive({**parts, big: b"\0" * 2**28}, zipfile.ZIP_DEFLATED)
    yield "no parts", archive({})
    yield "only the first part", archive({first: parts[first]})
    for name in list(parts)[:4]:
        yield f"without {name}", archive({k: v for k, v in parts.items() if k != name})
        yield f"{name} empty", archive({**parts, name: b""})
    yield "a climbing name", archive({**parts, "../../evil.py": b"x"})


def archive(parts: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as file:
        for name, data in parts.items():
            file.writestr(name, data)
    return buffer.getvalue()


def of_meta(path: Path, content: dict[str, Any], names: tuple[str, ...]) -> Iterator[Case]:
    """Every place of the meta, and the parts of the file."""

    def read(changed: Any, free: bool) -> str:
        torch_file(changed, path)
        detector = judged(path)
        if detector.class_names != names and not free:
            raise NonsenseError(f"class names {detector.class_names}")
        return READ

    for what, at, value, meta in trees(content["meta"], FEWEST):
        # another name of a class is a name as good
        free = bool(at) and (at[0] in FREE or (at[0] == "class_names" and isinstance(value, str) and value != ""))
        if "metrics" not in at or what.endswith(("nan", "empty dict")):
            changed = {"model": content["model"], "meta": meta}
            yield Case(f"meta {what}", lambda c=changed, f=free: read(c, f), (path.name,))
    for name, text in TEXTS.items():
        for key in ("SOLVER", "MODEL"):
            config = content["meta"]["config"] + f"{key}: {{{'RPN: {NMS_THRESH' if key == 'MODEL' else 'X'}: {text}}}"
            changed = {**content, "meta": {**content["meta"], "config": config + ("}" if key == "MODEL" else "")}}
            if not name.startswith(("long", "100000")):
                yield Case(f"config of {key} {name}", lambda c=changed: read(c, False), (path.name,))
    for what, place, _, changed in trees(content, {"null": None, "text": "x", "list": [1], "dict": {}}):
        if len(place) <= 1:
            yield Case(f"file {what}", lambda c=changed: read(c, False), (path.name,))


def of_tensors(path: Path, content: dict[str, Any]) -> Iterator[Case]:
    """Tensors replaced, missing, renamed, too many."""

    def read(state: Any) -> str:
        torch_file({**content, "model": state}, path)
        detector = judged(path)
        for prediction in detector.predict([IMAGE.clone()]):
            if not all(bool(torch.isfinite(prediction[key].float()).all()) for key in ("boxes", "scores")):
                raise NonsenseError("predictions that are not finite")
        return READ

    model = content["model"]
    for name in CHANGED:
        for what, make in other_values(model[name]):
            yield Case(f"{name} {what}", lambda n=name, m=make: read({**model, n: m()}), (path.name,))
        without = {key: value for key, value in model.items() if key != name}
        yield Case(f"{name} missing", lambda w=without: read(w), (path.name,))
        yield Case(f"{name} renamed", lambda n=name: read(renamed(model, (n,), f"{n}_")), (path.name,))
    for key in ("new.weight", "", 7, None, ("a", "b"), "../../x"):
        yield Case(f"one more tensor {key!r}", lambda k=key: read({**model, k: torch.zeros(1)}), (path.name,))
    for what, state in {"no tensors": {}, "a list": [1, 2], "in a dict": {"model": model}, "None": None}.items():
        yield Case(f"the state is {what}", lambda s=state: read(s), (path.name,))
    yield Case("every tensor nan", lambda: read({k: v.float() * float("nan") for k, v in model.items()}), (path.name,))
    shared = replaced(model, (CHANGED[0],), torch.zeros(10**6)[: model[CHANGED[0]].numel()].view_as(model[CHANGED[0]]))
    yield Case("a tensor of a large storage", lambda: read(shared), (path.name,))


@pytest.mark.filterwarnings("ignore")
def test_every_case_is_read_or_refused(tmp_path: Path):
    check_apart("checkpoints", tmp_path, at_least=350)
