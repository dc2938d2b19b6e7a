"""The contract of what is part of a detector: backbones, heads, whole detectors, losses."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from detframe.contracts.devices import works_elsewhere
from detframe.contracts.inputs import Place, images, with_objects, without_objects
from detframe.contracts.losses import tests_of_loss
from detframe.contracts.ranks import ranks_agree
from detframe.contracts.results import BrokenContractError, LeftOutError, Test, described
from detframe.contracts.words import listed, need, need_shape, shape_of
from detframe.errors import InvalidValueError
from detframe.modeling import GeneralizedRCNN
from detframe.modeling.detector import check_maps
from detframe.modeling.proposals import Proposals
from detframe.registry import BACKBONES, LOSSES, MASK_HEADS, ROI_HEADS, RPN_HEADS
from detframe.structures import Prediction

STEPS, RATE = 30, 2e-3  # enough to begin to overfit two images


def tests_of(place: Place) -> list[Test]:
    """The tests of a member, in the order in which they are made."""
    shapes = {BACKBONES.name: _maps, RPN_HEADS.name: _proposals, MASK_HEADS.name: _masks}.get(
        place.registry, _predictions
    )
    return [
        ("it is built", lambda: _whole(place)),
        ("shapes and types", lambda: shapes(place)),
        *(tests_of_loss(place) if place.registry == LOSSES.name else ()),
        ("losses", lambda: _losses(place)),
        ("a gradient for every parameter", lambda: _gradients(place, with_objects())),
        ("images without objects", lambda: _gradients(place, without_objects())),
        ("half precision", lambda: _in_half_precision(place)),
        ("another device", lambda: works_elsewhere(place)),
        ("two images are learned", lambda: _learned(place)),
        ("two evaluations are equal", lambda: _deterministic(place)),
        ("saved and loaded", lambda: _saved(place)),
        ("two processes learn as one", lambda: ranks_agree(place)),
        ("it can be exported", lambda: _exported(place)),
    ]


# ---------------------------------------------------------------------------------------------------- what comes out
def _whole(place: Place) -> None:
    place.model()


def _maps(place: Place) -> None:
    backbone: Any = place.model().eval().backbone
    coarsest = max(backbone.strides.values())
    for number, cells in ((2, (3, 4)), (1, (2, 2))):
        size = (cells[0] * coarsest, cells[1] * coarsest)
        shown = torch.rand((number, place.cfg().INPUT.CHANNELS, *size), generator=torch.Generator().manual_seed(0))
        before = shown.clone()
        with torch.no_grad():
            maps = backbone(shown)
        need(torch.equal(shown, before), "forward changed the images that it was given: work on a copy (x = x * 2)")
        need(isinstance(maps, Mapping), f"forward must return a dict of maps, not a {type(maps).__name__}")
        check_maps(maps, size, backbone.strides)
        for name, stride in backbone.strides.items():
            wanted = (number, backbone.out_channels, size[0] // stride, size[1] // stride)
            need_shape(f"the map {name!r} of images {(number, *size)}", maps[name], wanted, torch.float32)
        _need_own_maps(backbone, shown, maps)


def _need_own_maps(backbone: nn.Module, shown: Tensor, maps: Mapping[str, Tensor]) -> None:
    """Raises BrokenContractError where the maps of the first image are others without the other images."""
    with torch.no_grad():
        again, alone = backbone(shown), backbone(shown[:1])
    if any(not torch.equal(maps[name], again[name]) for name in maps):
        return  # drawn by chance, which has a test of its own
    for name, value in maps.items():
        apart = float((value[:1] - alone[name]).abs().max())
        need(
            apart <= 1e-3 * float(value.abs().max()) + 1e-6,
            f"the map {name!r} of an image depends on the other images of its batch: in evaluation each is seen alone",
        )


def _proposals(place: Place) -> None:
    """What a head gives without ground truth; without ROI heads, also the predictions."""
    model = place.model().eval()
    batch = model.preprocessor(images(place.cfg()))
    features = {name: maps for name, maps in model.backbone(batch.tensors).items() if name in model.rpn_maps}
    before = {name: maps.clone() for name, maps in features.items()}
    found = model.rpn(batch, features, None, True)
    changed = [name for name, maps in features.items() if not torch.equal(maps, before[name])]
    need(not changed, f"forward changed the maps {listed(changed)} that it was given: work on a copy (x = x * 2)")
    need(
        isinstance(found, tuple) and len(found) == 2,
        f"forward must return (Proposals or None, dict of losses), not {type(found).__name__}",
    )
    proposals, losses = found
    need(isinstance(proposals, Proposals), f"with propose=True, Proposals must come first, not {proposals!r}")
    need(losses == {}, f"without ground truth there must be no losses, not {losses!r}")
    number, rows = proposals.scores.shape
    for name, dtype in (("scores", torch.float32), ("labels", torch.int64), ("valid", torch.bool)):
        need_shape(f"Proposals.{name}", getattr(proposals, name), (len(batch), rows), dtype)
    need_shape("Proposals.boxes", proposals.boxes, (number, rows, 4), torch.float32)
    model.train()
    need(model.rpn(batch, features, None, False)[0] is None, "with propose=False, None must come first")
    _predictions(place)


def _masks(place: Place) -> None:
    """What a mask head predicts on boxes of two images, and on none; then the predictions."""
    model: Any = place.model().eval()
    batch = model.preprocessor(images(place.cfg()))
    boxes = torch.tensor([[10.0, 12, 40, 44], [20, 10, 110, 90], [60, 30, 100, 80]])
    labels, image = torch.tensor([1, 1, model.num_classes]), torch.tensor([0, 0, 1])
    side = None
    for number in (len(boxes), 0):
        with torch.no_grad():
            maps = model.backbone(batch.tensors)
            features = {name: maps[name] for name in model.roi_maps}
            masks = model.roi_heads.maps_of(features, boxes[:number], labels[:number], image[:number])["masks"]
        what = f"masks of {number or 'no'} boxes"
        right = isinstance(masks, Tensor) and masks.ndim == 3 and masks.shape[1] == masks.shape[2] != 0
        need(right, f"{what} must be float32 (R, S, S), one map for each box, not {shape_of(masks)}")
        side = side or masks.shape[-1]
        need_shape(what, masks, (number, side, side), torch.float32)
        good = bool(((masks >= 0) & (masks <= 1)).all())
        need(good, f"{what} must be probabilities from 0 to 1: is a sigmoid missing, or is something not finite?")
    _predictions(place)


def _predictions(place: Place) -> None:
    _check_predictions(place.model(), place)


def _check_predictions(model: GeneralizedRCNN, place: Place) -> None:
    cfg = place.cfg()
    shown = images(cfg)
    with torch.no_grad():
        predictions = model.eval()(shown)
    need(len(predictions) == len(shown), f"{len(shown)} images gave {len(predictions)} predictions")
    for image, prediction in zip(shown, predictions, strict=True):
        _check_prediction(prediction, (image.shape[-2], image.shape[-1]), cfg.MODEL.NUM_CLASSES)


def _check_prediction(prediction: Prediction, size_hw: tuple[int, int], classes: int) -> None:
    boxes, labels, scores = prediction["boxes"], prediction["labels"], prediction["scores"]
    need_shape("scores", scores, (len(boxes),), torch.float32)
    need_shape("labels", labels, (len(boxes),), torch.int64)
    need_shape("boxes", boxes, (len(boxes), 4), torch.float32)
    if not len(boxes):
        return
    need(bool(((scores >= 0) & (scores <= 1)).all()), f"scores must be from 0 to 1, not up to {float(scores.max())}")
    need(
        bool(((labels >= 1) & (labels <= classes)).all()),
        f"labels must be from 1 to {classes}, not from {int(labels.min())} to {int(labels.max())}",
    )
    largest = boxes.new_tensor([size_hw[1], size_hw[0]] * 2)
    inside = bool(((boxes >= 0) & (boxes <= largest)).all())
    need(inside, f"boxes must lie inside the image of {size_hw[0]}x{size_hw[1]} pixels: clip them")
    need(bool((boxes[:, 2:] >= boxes[:, :2]).all()), "boxes must be x1, y1, x2, y2 with x2 >= x1 and y2 >= y1")


# ---------------------------------------------------------------------------------------------------------- training
def _losses(place: Place) -> None:
    with_some, with_none = (
        _losses_of(place.model(), place, targets) for targets in (with_objects(), without_objects())
    )
    if set(with_some) != set(with_none):
        missing = sorted(set(with_some) ^ set(with_none))
        raise BrokenContractError(
            f"the losses are {sorted(with_some)} with objects and {sorted(with_none)} without: {missing} must be there "
            "in every step, 0 if need be, or several processes would wait for each other"
        )


def _losses_of(model: GeneralizedRCNN, place: Place, targets: Sequence[Any]) -> dict[str, Tensor]:
    """The losses of a training pass, after a look at them."""
    with torch.random.fork_rng(devices=[]), _arguments_kept(place, model):
        torch.manual_seed(0)
        losses: Any = model.train()(images(place.cfg(), len(targets)), targets)
    need(isinstance(losses, dict) and bool(losses), f"training must give a dict of losses, not {losses!r}")
    objects = sum(len(target["labels"]) for target in targets)
    for name, loss in losses.items():
        need(name.startswith("loss_"), f"the names of losses must begin with 'loss_', not {name!r}")
        need(isinstance(loss, Tensor) and loss.ndim == 0, f"{name} must be a scalar tensor, not {shape_of(loss)}")
        where = f"with {objects} objects" if objects else "for images without objects"
        need(math.isfinite(loss.item()), f"{name} is {loss.item()} {where}")
    return dict(losses)


@contextmanager
def _arguments_kept(place: Place, model: GeneralizedRCNN) -> Iterator[None]:
    """Inside the `with`, a head that changes what it is given raises BrokenContractError."""
    if place.registry not in (RPN_HEADS.name, ROI_HEADS.name):
        yield
        return
    kept: list[dict[str, Tensor]] = []

    def before(_module: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> None:
        kept.append({name: x.detach().clone() for name, x in _held(given, named).items()})

    def after(_module: nn.Module, given: tuple[Any, ...], named: dict[str, Any], _out: Any) -> None:
        new = _held(given, named)
        changed = [name for name, old in kept.pop().items() if name not in new or not torch.equal(old, new[name])]
        need(not changed, f"forward changed {listed(changed)} that it was given: work on a copy (x = x * 2)")

    part = place.part(model)
    handles = [part.register_forward_pre_hook(before, with_kwargs=True)]
    handles.append(part.register_forward_hook(after, with_kwargs=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _held(given: Sequence[Any], named: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors in the arguments of a head, one level deep: of classes their attributes, of dicts their values."""
    out: dict[str, Tensor] = {}
    for value in (*given, *named.values()):
        parts = value if isinstance(value, Mapping) else getattr(value, "__dict__", {})
        kind = "maps" if isinstance(value, Mapping) else type(value).__name__
        out |= {f"{kind}.{name}": x for name, x in parts.items() if isinstance(x, Tensor)}
    return out


def _gradients(place: Place, targets: Sequence[Any]) -> None:
    model = place.model()
    part = place.part(model)
    torch.stack(list(_losses_of(model, place, targets).values())).sum().backward()
    trained = [(name, p) for name, p in part.named_parameters() if p.requires_grad]
    without = [name for name, p in trained if p.grad is None]
    if without:
        objects = "" if len(targets[0]["labels"]) else " in a step without objects"
        raise BrokenContractError(
            f"no gradient{objects} for {listed(without)}: a parameter that no loss depends on stops a training in "
            "several processes; use it, or remove it (a loss times 0 gives a gradient of 0)"
        )
    broken = [name for name, p in trained if p.grad is not None and not bool(torch.isfinite(p.grad).all())]
    need(not broken, f"the gradient of {listed(broken)} is not finite")


def _in_half_precision(place: Place) -> None:
    """A step as SOLVER.AMP bf16 makes it, with objects and without: losses and gradients stay finite."""
    under = "under autocast in bfloat16 (SOLVER.AMP)"
    for targets in (with_objects(), without_objects()):
        try:
            with torch.autocast("cpu", torch.bfloat16):
                _gradients(place, targets)
        except BrokenContractError as broken:
            raise BrokenContractError(
                f"{under} {broken}: what has to be exact is computed of x.float() in `with torch.autocast("
                "x.device.type, enabled=False)`"
            ) from None
        except RuntimeError as error:
            raise BrokenContractError(f"{under}: {described(error, place.file)}") from None


def _learned(place: Place) -> None:
    """Some steps on two images: the losses fall, and what is found then, which may be nothing at first, is in order."""
    model = place.model()
    optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=RATE)
    sums = []
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss = torch.stack(list(_losses_of(model, place, with_objects()).values())).sum()
        loss.backward()
        optimizer.step()
        sums.append(loss.item())
    # not below the first loss: it may rise before, where scores are weights of the boxes' losses (GFL)
    highest, last = max(sums[: -STEPS // 4]), max(sums[-STEPS // 4 :])
    fallen = f"the sum was {sums[0]:.4g} at first, at most {highest:.4g}, and {last:.4g} in the end"
    need(last < highest, f"{STEPS} steps on two images did not lower the losses: {fallen}")
    _check_predictions(model, place)


# ------------------------------------------------------------------------------------------- the same again, elsewhere
def _deterministic(place: Place) -> None:
    model = place.model().eval()
    first, second = (_seen(model, place) for _ in range(2))
    _compare(first, second, "two evaluations of the same images differ in {}: nothing may be drawn by chance there")


def _saved(place: Place) -> None:
    model = place.model()
    model.train()
    optimizer = torch.optim.SGD((p for p in model.parameters() if p.requires_grad), lr=1e-3)
    for _ in range(2):
        optimizer.zero_grad()
        torch.stack(list(_losses_of(model, place, with_objects()).values())).sum().backward()
        optimizer.step()
    other = place.model(seed=1)
    missing, unexpected = other.load_state_dict(model.state_dict(), strict=False)
    odd = [*missing, *unexpected]
    need(not odd, f"{listed(odd)} is in the state of one model of a config and not in that of another")
    _compare(
        _seen(model, place),
        _seen(other, place),
        "a model that was saved and loaded differs in {}: what changes, or is drawn by chance, must be a parameter "
        "(nn.Parameter), a buffer (register_buffer) or a module of its own, nothing else is saved",
    )
    first, second = (_losses_of(m, place, with_objects()) for m in (model, other))
    _compare(first, second, "after saving and loading {} differs: some state is neither parameter nor buffer")


def _exported(place: Place) -> None:
    from detframe.export.graph import check_exporter, trace

    try:
        check_exporter()
    except InvalidValueError as error:
        raise LeftOutError(str(error)) from None
    model = place.model().eval()
    if not all(getattr(part, "exportable", True) for part in model.modules()):
        raise LeftOutError("it says `exportable = False`")
    trace(model)


def _seen(model: GeneralizedRCNN, place: Place) -> dict[str, Tensor]:
    """What every module of the member gives in an evaluation, by its name, and the predictions."""
    with _watched(place.part(model)) as seen, torch.no_grad():
        predictions = model.eval()(images(place.cfg()))
    for i, prediction in enumerate(predictions):
        rows: Any = {key: value for key, value in prediction.items() if isinstance(value, Tensor)}
        seen |= {f"the {key} of image {i + 1}": value for key, value in rows.items()}
    return seen


@contextmanager
def _watched(part: nn.Module) -> Iterator[dict[str, Tensor]]:
    """Inside the `with`, the tensors that modules of a part give are put down under the names of the modules."""
    seen: dict[str, Tensor] = {}
    handles = []
    for name, module in part.named_modules():

        def note(_module: nn.Module, _given: Any, out: Any, name: str = name) -> None:
            for tensor in _tensors(out):
                seen[f"what {name or 'it'} gives ({len(seen) + 1})"] = tensor.detach().clone()

        handles.append(module.register_forward_hook(note))
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _tensors(value: Any) -> Iterator[Tensor]:
    """The tensors in lists and dicts, one in another."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for one in value.values():
            yield from _tensors(one)
    elif isinstance(value, (list, tuple)):
        for one in value:
            yield from _tensors(one)


# ------------------------------------------------------------------------------------------------------------- words
def _compare(first: Mapping[str, Tensor], second: Mapping[str, Tensor], complaint: str) -> None:
    """Raises BrokenContractError where two runs gave other tensors; the first of them is named."""
    if list(first) != list(second):
        raise BrokenContractError(complaint.format("which modules are called"))
    for name, value in first.items():
        if not torch.equal(value.detach(), second[name].detach()):
            raise BrokenContractError(complaint.format(name))
