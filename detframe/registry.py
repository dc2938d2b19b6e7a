"""Registry and every registry instance: the names that a YAML file may choose from.

A registry exists only where a config key selects a member. Every form registers the decorated object and
returns it unchanged::

    @BACKBONES.register                 # under the object's own __name__
    @BACKBONES.register()               # the same
    @BACKBONES.register("R-50-FPN")     # under this name; decorators can be stacked to give several
    BACKBONES.register(obj)             # without a decorator
    BACKBONES.register("name", obj)

    @BACKBONES.register("timm/")        # every name that begins so and has no object of its own

Looking up: ``BACKBONES.get(name)``, ``BACKBONES[name]``, ``name in BACKBONES``, iteration over (name, object).
"""

from __future__ import annotations

import difflib
import inspect
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any, TypeVar, overload

from detframe.errors import InvalidTypeError, InvalidValueError, UnknownNameError, listed

T = TypeVar("T")
_FILES = 3  # that are shown of those that members are in
_MOST, _FEW = 120, 20  # known names, of which all are shown; and those that are shown where there are more


def nearest(name: str, known: list[str], count: int = 3) -> str:
    """A phrase that names the known words nearest to `name`: `did you mean 'a' or 'b'?`, or the list of all.

    Of more than a screen can show, the first few.
    """
    by_lower: dict[str, list[str]] = {}  # names that differ by case alone are names of their own
    for word in known:
        by_lower.setdefault(word.lower(), []).append(word)
    matches = difflib.get_close_matches(name.lower(), list(by_lower), n=count, cutoff=0.5)
    if matches:
        words = [word for match in matches for word in by_lower[match]][:count]
        return "did you mean " + " or ".join(map(repr, words)) + "?"
    more = len(known) - _FEW if len(known) > _MOST else 0
    some = sorted(known)[:_FEW] if more else sorted(known)
    return "known: " + (", ".join(some) or "none") + (f" and {more} more" if more else "")


def nearest_sentence(name: str, known: list[str]) -> str:
    """`nearest` with its full stop, for what another sentence follows."""
    phrase = nearest(name, known)
    return phrase if phrase.endswith("?") else f"{phrase}."


_missing: dict[str, str] = {}  # packages that might have registered a name and have not, and why they have not


def report_missing(package: str, why: str) -> None:
    """Remember for messages of unknown names and keys that a package, which may know them, is not here."""
    _missing[package] = why


_imported: dict[str, None] = {}  # files of others that were imported for what they register, in this order


def report_imported(file: str) -> None:
    """Remember for messages of unknown names that a file was imported, whatever it has registered."""
    _imported[file] = None


def missing_packages() -> str:
    """A sentence, with a space before it, on packages that might know a name that is not known; "" without any."""
    return "".join(f" It may be of {package}: {why}." for package, why in sorted(_missing.items()))


def calling_module(depth: int) -> str:
    """The name of the module whose code called the function that asks: `depth` 1; 2 is the one that called that."""
    return str(sys._getframe(depth + 1).f_globals.get("__name__", ""))


class Registry:
    """A mapping from names to classes or functions, filled by decorators.

    Registering the same object twice is a no-op; a different object under a taken name is a ValueError that names the
    owner; an unknown name is a KeyError that lists the nearest ones.
    """

    def __init__(self, name: str, chosen_by: str) -> None:
        self.name = name
        self.chosen_by = chosen_by
        self._members: dict[str, Any] = {}
        self._registrars: dict[str, str] = {}

    @overload
    def register(self, name: str) -> Callable[[T], T]: ...
    @overload
    def register(self, name: str, obj: T) -> T: ...
    @overload
    def register(self, name: None = None) -> Callable[[T], T]: ...
    @overload
    def register(self, name: T) -> T: ...

    def register(self, name: Any = None, obj: Any = None) -> Any:
        """Add an object; see the module's docstring for the forms.

        Raises:
            ValueError: the name is taken by another object.
            TypeError: the name is not a string and the object is not a class or function.
        """
        module = calling_module(1)
        if obj is not None:
            return self._add(name, obj, module)
        if name is None or isinstance(name, str):
            return lambda decorated: self._add(name, decorated, module)
        return self._add(None, name, module)

    def _add(self, name: str | None, obj: T, module: str) -> T:
        if not callable(obj):
            raise InvalidTypeError(f"{self.name} holds classes and functions; {obj!r} is neither")
        key = name if name is not None else getattr(obj, "__name__", "")
        if not isinstance(key, str) or not key:
            raise InvalidTypeError(f"{self.name}: a name must be a non-empty string, not {key!r}")
        owner = self._members.get(key)
        if owner is not None and _identity(owner) != _identity(obj):
            raise InvalidValueError(
                f"{self.name}: the name {key!r} is taken by {_describe(owner)}; "
                f"{_describe(obj)} needs another name, as in @{self.name}.register('my-{key}')"
            )
        self._members[key] = obj
        self._registrars[key] = module
        return obj

    def registrar(self, name: str) -> str:
        """The module that has registered what `get` gives for a name; "" where there is none."""
        return self._registrars.get(self._key(name) or "", "")

    def get(self, name: str) -> Any:
        """The object called `name`. Raises KeyError that lists the nearest names, and where it was looked for."""
        key = self._key(name)
        if key is None:
            found = nearest_sentence(name, list(self._members))
            raise UnknownNameError(
                f"{self.name} has no {name!r} (chosen by {self.chosen_by}); {found} "
                "A module of your own must be named in CUSTOM_IMPORTS to be found; "
                f"what was imported is {self._places()}.{missing_packages()}"
            )
        return self._members[key]

    def _places(self) -> str:
        """detframe with its folder, which tells a stale copy from a checkout, and files of others."""
        package = os.path.dirname(os.path.abspath(__file__))
        members = sorted(_file_of(obj) for _, obj in self)
        files = [
            file for file in dict.fromkeys([*_imported, *members]) if not (file + os.sep).startswith(package + os.sep)
        ]
        files = [file for file in files if file]
        return " and ".join([package, *([listed(files, _FILES)] if files else [])])

    __getitem__ = get

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self._key(name) is not None

    def _key(self, name: str) -> str | None:
        """The member that serves a name: its own, or the family "prefix/" that it belongs to."""
        family = name.partition("/")[0] + "/"
        return name if name in self._members else family if family in self._members else None

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        return iter(sorted(self._members.items()))

    def __len__(self) -> int:
        return len(self._members)

    def __repr__(self) -> str:
        rows = [f"  {name}: {_describe(obj)}" for name, obj in self]
        return "\n".join([f"Registry {self.name} ({self.chosen_by}), {len(self)} members", *rows])


def _identity(obj: Any) -> Any:
    """What makes two objects the same for a registry: where they are defined, so that reloading a file is allowed."""
    code = getattr(obj, "__code__", None)
    path = code.co_filename if code else getattr(obj, "__module__", None)
    qualname = getattr(obj, "__qualname__", None)
    if qualname is None or "<locals>" in qualname or "<lambda>" in qualname:
        return id(obj)
    return (path, qualname)


def _file_of(obj: Any) -> str:
    """Where an object is written; "" where that is unknown."""
    try:
        file = inspect.getsourcefile(obj)
    except TypeError:
        return ""
    return os.path.abspath(file) if file else ""


def _describe(obj: Any) -> str:
    try:
        where = f"{inspect.getsourcefile(obj)}:{inspect.getsourcelines(obj)[1]}"
    except (TypeError, OSError):
        where = "an unknown file"
    return f"{getattr(obj, '__module__', '?')}.{getattr(obj, '__qualname__', repr(obj))} ({where})"


META_ARCHITECTURES = Registry("META_ARCHITECTURES", "MODEL.DETECTOR")
"""Whole detectors."""
BACKBONES = Registry("BACKBONES", "MODEL.BACKBONE.CONV_BODY")
"""What turns a batch of images into feature maps, finest first."""
RPN_HEADS = Registry("RPN_HEADS", "MODEL.RPN.NAME")
"""What stands on the pyramid and proposes or detects."""
ROI_HEADS = Registry("ROI_HEADS", "MODEL.ROI_HEADS.NAME")
"""What refines proposals."""
MASK_HEADS = Registry("MASK_HEADS", "MODEL.ROI_MASK_HEAD.NAME")
"""The branch of the ROI heads that finds masks."""
LOSSES = Registry("LOSSES", "the keys CLS_LOSS, BOX_LOSS_TYPE and IOU_LOSS_TYPE of MODEL")
"""Losses of classes and boxes."""
DATASET_FORMATS = Registry("DATASET_FORMATS", "format in datasets/catalog.yaml")
"""Readers of annotation files."""
EVALUATORS = Registry("EVALUATORS", "TEST.EVALUATOR")
"""From predictions to metrics."""
OPTIMIZERS = Registry("OPTIMIZERS", "SOLVER.OPTIMIZER")
"""Optimizers."""
LR_SCHEDULES = Registry("LR_SCHEDULES", "SOLVER.LR_SCHEDULE")
"""The learning rate as a part of the base, step by step."""
TRANSFORMS = Registry("TRANSFORMS", "INPUT.TRANSFORMS")
"""What is done with training images."""
LOGGERS = Registry("LOGGERS", "LOGGERS")
"""Where the numbers of a training go."""


def program_has_members() -> bool:
    """Whether the program's own file has registered something, which a new process has to run to know it."""
    registries = [found for found in globals().values() if isinstance(found, Registry)]
    return any(getattr(member, "__module__", "") == "__main__" for found in registries for _, member in found)
