"""The programs whose checkpoints detframe knows: a file each, with how they are recognised, read and written.

A state dict that is read is in detframe's names, order of rows and layout afterwards, which are torchvision's for every
part that torchvision has. A new program is a new file, and an entry here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from detframe.compat.programs import detectron, detectron2, maskrcnn_benchmark, timm, torchvision
from detframe.compat.renaming import State, without_wrappers


@dataclass(frozen=True)
class Program:
    """What is known of a program's checkpoints.

    Attributes:
        name: as it calls itself.
        recognise: what a state dict of the program is, as "detectron2 body"; "" for one of another program.
        read: a state dict that was recognised, as a model has it. Without a model, what depends on it stays as it lies:
            the order of anchors, a class that is not used.
        write: a model's weights as the program has them; what it has no place for is left out, which `export` finds.
        into: how names of the models begin that alone can take its weights.
        category_ids: the classes of its checkpoints of COCO are the 90 category ids, not the 80 classes in their order.
    """

    name: str
    recognise: Callable[[State], str]
    read: Callable[[State, nn.Module | None], State]
    write: Callable[[nn.Module], State] | None = None
    into: str = ""
    category_ids: bool = False


OWN = Program("detframe", lambda state: "detframe", lambda state, model: dict(state))
PROGRAMS: list[Program] = [
    Program("timm", timm.recognise, timm.read, into=timm.BODY),
    Program("maskrcnn-benchmark", maskrcnn_benchmark.recognise, maskrcnn_benchmark.read),
    Program("detectron2", detectron2.recognise, detectron2.read, detectron2.write),
    Program("torchvision", torchvision.recognise, torchvision.read, torchvision.write, category_ids=True),
    Program("Detectron", detectron.recognise, detectron.read),
]
"""In order of recognition; what nobody recognises is detframe's own."""


def translate(state: Mapping[str, Tensor], model: nn.Module | None = None) -> tuple[str, State]:
    """The kind of a state dict and its content in detframe's names; as `model` has it, where one is given."""
    program, kind, cleaned = recognised(state, model)
    return kind, program.read(cleaned, model)


def recognised(state: Mapping[str, Tensor], model: nn.Module | None) -> tuple[Program, str, State]:
    """Whose a state dict is, its kind, and its content without wrappers around the names."""
    cleaned = without_wrappers(state)
    ours = () if model is None else tuple(model.state_dict())
    for program in PROGRAMS:
        fits = not program.into or any(name.startswith(program.into) for name in ours)
        if fits and (kind := program.recognise(cleaned)):
            return program, kind, cleaned
    return OWN, OWN.name, cleaned
