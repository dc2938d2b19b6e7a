"""Whether a member of a detector works on a GPU, tried where there is none: with tensors that have no values.

PyTorch's FakeTensorMode knows what an operator would give by type, shape and device alone, and says where tensors of
two devices meet, as those that a forward pass makes without `device=`.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from detframe.contracts.inputs import Place, images, with_objects
from detframe.contracts.results import BrokenContractError, LeftOutError, described
from detframe.registry import MASK_HEADS, META_ARCHITECTURES, RPN_HEADS
from detframe.structures import LazyMasks

_CUDA = torch.device("cuda")
_TWO_DEVICES = re.compile("two (different )?devices")  # in the words of PyTorch, by version and operator
_CALLED = {META_ARCHITECTURES.name: ("through",), MASK_HEADS.name: ("losses", "predict")}  # others: forward
_PROPOSE = 3  # the place among the arguments of an RPN head

Call = tuple[str, tuple[Any, ...], dict[str, Any]]  # a method and its arguments


def works_elsewhere(place: Place) -> None:
    """Raises BrokenContractError where a member mixes tensors of two devices, in training or in evaluation.

    Raises:
        LeftOutError: that cannot be seen without values, or with this PyTorch.
    """
    _need_fake_device()
    model, reasons = place.model(), []
    part = place.part(model)
    for training in (True, False):
        calls = _calls(place, model.train(training), part, training)
        for name, given, named in calls:
            try:
                _call_without_values(part, name, given, named)
            except Exception as error:  # most of them ask for a value
                if _TWO_DEVICES.search(str(error)):
                    raise BrokenContractError(
                        f"on a GPU {name} meets tensors on the CPU: {described(error, place.file)}; make tensors with "
                        "device=x.device, and keep constants in buffers (register_buffer)"
                    ) from None
                reasons.append(described(error, place.file))
            else:
                reasons.append("")
    if all(reasons):
        raise LeftOutError(f"it needs values to get to its end: {reasons[0] if reasons else 'it is not called'}")


def _without_values() -> AbstractContextManager[Any]:
    """Inside the `with`, tensors have no values, and a CUDA device is there."""
    try:
        from torch._subclasses import FakeTensorMode  # the name by which PyTorch's documentation has it
    except ImportError:
        raise LeftOutError("this PyTorch has no tensors without values where others have them") from None
    return FakeTensorMode(allow_non_fake_inputs=True)


def _need_fake_device() -> None:
    try:
        with _without_values():
            torch.empty(1).to(_CUDA)
    except RuntimeError:
        raise LeftOutError("this PyTorch asks for the CUDA driver even where tensors have no values") from None


def _calls(place: Place, model: nn.Module, part: nn.Module, training: bool) -> list[Call]:
    """With what a pass of the whole detector calls the member."""
    calls: list[Call] = []
    with _recorded(part, _CALLED.get(place.registry, ("forward",)), calls), torch.no_grad():
        targets = with_objects() if training else None
        with torch.random.fork_rng(devices=[]):
            model(images(place.cfg()), targets)
    if place.registry == RPN_HEADS.name and training:  # the NMS of proposals asks for values
        calls = [(name, given[:_PROPOSE] + (False,) * (len(given) > _PROPOSE), named) for name, given, named in calls]
    return calls


@contextmanager
def _recorded(part: nn.Module, names: tuple[str, ...], calls: list[Call]) -> Iterator[None]:
    """Inside the `with`, what some methods of a part are called with is put down."""

    def recorder(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def record(*given: Any, **named: Any) -> Any:
            calls.append((name, given, named))
            return method(*given, **named)

        return record

    for name in names:
        setattr(part, name, recorder(name, getattr(part, name)))
    try:
        yield
    finally:
        for name in names:
            delattr(part, name)


def _call_without_values(part: nn.Module, name: str, given: tuple[Any, ...], named: dict[str, Any]) -> None:
    own = copy.deepcopy(part)
    with _without_values(), torch.no_grad():
        for module in own.modules():
            for key, value in list(module.named_parameters(recurse=False)):
                setattr(module, key, nn.Parameter(_moved(value), value.requires_grad))
            for key, buffer in list(module.named_buffers(recurse=False)):
                setattr(module, key, _moved(buffer))
        getattr(own, name)(*_moved(given), **_moved(named))


def _moved(value: Any) -> Any:
    """The same on the device and without values: a tensor, or what holds some."""
    if isinstance(value, Tensor):
        return torch.empty(value.shape, dtype=value.dtype, device=_CUDA)
    if isinstance(value, (list, tuple)):
        return type(value)(_moved(one) for one in value)
    if isinstance(value, dict):
        return {key: _moved(one) for key, one in value.items()}
    if isinstance(value, LazyMasks) or not hasattr(value, "__dict__"):
        return value
    out = copy.copy(value)
    for key, one in vars(value).items():
        object.__setattr__(out, key, _moved(one))
    return out
