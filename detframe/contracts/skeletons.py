"""`detframe new`: the beginnings of modules, as files that run as they are."""

from __future__ import annotations

import importlib
import keyword
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path

from detframe import registry
from detframe.errors import InvalidValueError, UnknownNameError
from detframe.registry import Registry, nearest_sentence


@dataclass(frozen=True)
class Kind:
    """A kind of module that there is a skeleton of.

    Args:
        members: the registry that it joins.
        fills: the modules that register detframe's own members of it.
        also: further files, by their names with `my_name` in them, and their templates.
    """

    members: Registry
    fills: str
    also: Mapping[str, str] = field(default_factory=dict)


KINDS = {
    "backbone": Kind(registry.BACKBONES, "detframe.modeling"),
    "rpn-head": Kind(registry.RPN_HEADS, "detframe.modeling"),
    "roi-head": Kind(registry.ROI_HEADS, "detframe.modeling"),
    "detector": Kind(registry.META_ARCHITECTURES, "detframe.modeling"),
    "loss": Kind(registry.LOSSES, "detframe.modeling.losses"),
    "format": Kind(registry.DATASET_FORMATS, "detframe.data", {"my_name_catalog.yaml": "format_catalog.yaml"}),
    "transform": Kind(registry.TRANSFORMS, "detframe.data.transforms"),
    "evaluator": Kind(registry.EVALUATORS, "detframe.evaluation"),
    "optimizer": Kind(registry.OPTIMIZERS, "detframe.solver"),
    "schedule": Kind(registry.LR_SCHEDULES, "detframe.solver"),
    "logger": Kind(registry.LOGGERS, "detframe.engine.loggers.processes"),
}
OTHER_WORDS = {"head": "rpn-head", "meta-architecture": "detector", "box-head": "roi-head", "lr-schedule": "schedule"}


def write_skeleton(kind: str, name: str, folder: Path) -> list[Path]:
    """Write NAME.py, NAME.yaml and test_NAME.py (and what else the kind needs) into a folder.

    Raises:
        KeyError: no such kind; the nearest ones are named.
        ValueError: a name that is not one of Python, or that the registry, or a file in the folder, has already.
    """
    word = kind.lower().replace("_", "-").replace(" ", "-")
    word = OTHER_WORDS.get(word, word)
    if word not in KINDS:
        raise UnknownNameError(f"there is no skeleton of a {kind!r}; {nearest_sentence(word, list(KINDS))}")
    _check_name(word, name)
    templates = {"my_name.py": f"{word}.py.txt", "my_name.yaml": f"{word}.yaml", **KINDS[word].also}
    templates["test_my_name.py"] = "test_format.py.txt" if word == "format" else "test.py.txt"
    out = {folder / file.replace("my_name", name): _filled(template, name) for file, template in templates.items()}
    there = [str(path) for path in out if path.exists()]
    if there:
        raise InvalidValueError(
            f"{' and '.join(there)} {'is' if len(there) == 1 else 'are'} there already, and nothing was written: "
            "choose another name, or --output another folder"
        )
    folder.mkdir(parents=True, exist_ok=True)
    for path, text in out.items():
        path.write_text(text, encoding="utf-8")
    return list(out)


def _check_name(kind: str, name: str) -> None:
    """Raises ValueError where a name cannot be that of a module, or is taken."""
    if not name.isidentifier() or keyword.iskeyword(name):
        proposed = re.sub(r"\W+", "_", name).strip("_").lower() or "my_module"
        proposed = f"my_{proposed}" if keyword.iskeyword(proposed) or proposed[0].isdigit() else proposed
        raise InvalidValueError(
            f"{name!r} cannot be the name of a Python file to import: letters, digits and _ alone, no digit first, and "
            f"no word of Python's own; for example {proposed!r}"
        )
    if not name.isascii():
        raise InvalidValueError(
            f"{name!r} has letters that not every file system writes alike; use a to z, 0 to 9 and _"
        )
    importlib.import_module(KINDS[kind].fills)
    if name in KINDS[kind].members:
        members = KINDS[kind].members
        raise InvalidValueError(
            f"the name {name!r} is taken in {members.name} (by {members.get(name).__module__}); choose another one, as "
            f"'my_{name}'"
        )


def _filled(template: str, name: str) -> str:
    """The text of a template, with the name in the place of my_name, and as that of a class."""
    text = (files("detframe.contracts") / "templates" / template).read_text(encoding="utf-8")
    title = "".join(part[:1].upper() + part[1:] for part in name.split("_"))
    return text.replace("my_name", name).replace("MyName", title)
