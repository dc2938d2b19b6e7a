"""Plugins: installed packages that bring modules and config keys of their own, by an entry point of "detframe.plugins".

What is installed is the caller's own, so it is imported where CUSTOM_IMPORTS are, without being named in a config. A
package that cannot be imported stops nobody who does not need it: it is named where a name or key is not known, and
where PLUGINS of a config asks for it.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

from detframe.config.keys import ADDED
from detframe.errors import InvalidValueError, MissingModuleError
from detframe.registry import report_imported, report_missing

logger = logging.getLogger(__name__)

GROUP = "detframe.plugins"
_WRITTEN = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)(?:==([A-Za-z0-9.+!_-]+))?")


@dataclass(frozen=True)
class Plugin:
    """An entry point of an installed package.

    Attributes:
        name: of the entry point.
        value: what it names: "module", or "module:function", which is called without arguments.
        package: that declares it, and
        version: of that package.
    """

    name: str
    value: str
    package: str
    version: str

    @property
    def requirement(self) -> str:
        """The package as PLUGINS names it: "name==1.2"."""
        return f"{self.package}=={self.version}" if self.version else self.package

    def __str__(self) -> str:
        return f"{self.package} {self.version} (entry point {self.name} = {self.value})"


_tried: dict[Plugin, str] = {}  # of this process; why one could not be imported, "" where it was
_told: set[tuple[str, str]] = set()  # packages of another version than was asked for


def declared() -> tuple[Plugin, ...]:
    """The plugins of all packages that Python finds on its path, by name. Nothing is imported."""
    return _declared_on(tuple(sys.path))


@cache
def _declared_on(path: tuple[str, ...]) -> tuple[Plugin, ...]:
    from importlib import metadata  # which brings parsers of mail

    found = set()
    for point in metadata.entry_points(group=GROUP):
        name, version = ("", "") if point.dist is None else (point.dist.name, point.dist.version)
        found.add(Plugin(point.name, point.value, name or point.name, version or ""))
    return tuple(sorted(found, key=lambda plugin: (plugin.package, plugin.name)))


def import_plugins(required: Sequence[str] = (), source: str = "") -> None:
    """Import every plugin that this process has not tried, for the sake of what it registers.

    Args:
        required: packages that must be there, as PLUGINS of a config names them.
        source: where PLUGINS was set, for messages.

    Raises:
        ImportError: one of `required` is not installed, has no plugin, or cannot be imported.
        ValueError: what stands in `required` is no package.
    """
    for plugin in declared():
        _import(plugin)
    problems = [line for text in required for line in _problems(text)]
    if problems:
        where = f" (from {source})" if source else ""
        raise MissingModuleError("\n".join(f"PLUGINS{where} names {package}: {why}" for package, why in problems))


def import_carried_plugins(named: Sequence[str]) -> None:
    """Import the plugins that the config of a checkpoint names, and no others. One that is not here, the checkpoint may
    not need for what it is used for, so it is only remembered for messages; see `detframe.registry.report_missing`.
    """
    packages = {_split(text)[0] for text in named}
    for plugin in declared() if packages else ():
        if canonical(plugin.package) in packages:
            _import(plugin)
    for text in named:
        for package, why in _problems(text):
            report_missing(package, why)


def _import(plugin: Plugin) -> None:
    if plugin in _tried:
        return
    from importlib import metadata

    _tried[plugin] = ""
    point = metadata.EntryPoint(plugin.name, plugin.value, GROUP)
    try:
        loaded = point.load()
        if ":" in plugin.value and callable(loaded) and not isinstance(loaded, type):
            loaded()
        module = plugin.value.partition(":")[0]
        report_imported(getattr(sys.modules.get(module), "__file__", None) or module)
    except (Exception, SystemExit) as error:  # whatever code of others runs into
        text = f"{type(error).__name__}: {error}".strip().partition("\n")[0]
        _tried[plugin] = f"its entry point {plugin.name} = {plugin.value} cannot be imported: {text}"
        report_missing(plugin.requirement, _tried[plugin])
        logger.debug("the plugin %s cannot be imported", plugin, exc_info=True)


def _problems(text: str) -> Iterator[tuple[str, str]]:
    """What keeps a package that PLUGINS names from being used: (what it names, why)."""
    from importlib import metadata

    package, version = _split(text)
    own = [plugin for plugin in declared() if canonical(plugin.package) == package]
    if not own:
        try:
            there = metadata.version(package)
        except metadata.PackageNotFoundError:
            yield text, f"the package is not installed here; pip install {text!r}, from where its author offers it"
        else:
            yield text, f"version {there} is installed, and declares no entry point of the group {GROUP!r}"
    yield from ((text, _tried[plugin]) for plugin in own if _tried.get(plugin))
    if own and version not in ("", own[0].version) and (package, version) not in _told:
        _told.add((package, version))
        logger.warning("PLUGINS names %s; version %s of it is installed here", text, own[0].version)


def _split(text: str) -> tuple[str, str]:
    """The canonical name and the version, "" for any, of an entry of PLUGINS."""
    found = _WRITTEN.fullmatch(text)
    if found is None:
        raise InvalidValueError(f"PLUGINS names {text!r}; a package is written as NAME or NAME==VERSION")
    return canonical(found[1]), found[2] or ""


def canonical(package: str) -> str:
    """A package's name in the spelling in which names are compared."""
    return re.sub(r"[-_.]+", "-", package).lower()


def requirements(named: Sequence[str], modules: Sequence[str]) -> tuple[str, ...]:
    """What PLUGINS of a run is: the packages that its config names, and those of modules that it takes something from.

    Args:
        named: PLUGINS so far.
        modules: by which the members and keys were registered.
    """
    used = {canonical(plugin.package): plugin.requirement for plugin in map(owner, set(modules)) if plugin is not None}
    here = {canonical(plugin.package): plugin.requirement for plugin in declared()} if named else {}
    asked = {_split(text)[0]: text for text in named}
    return tuple(sorted({**asked, **{name: here[name] for name in asked.keys() & here.keys()}, **used}.values()))


def owner(module: str) -> Plugin | None:
    """The plugin whose package a module belongs to: the one that shares most of its dotted name."""
    if module.partition(".")[0] in ("", "detframe", "__main__"):
        return None
    shared = [(_shared(plugin.value.partition(":")[0], module), plugin) for plugin in declared()]
    best = max(shared, key=lambda pair: pair[0], default=(0, None))
    return best[1] if best[0] else None


def _shared(one: str, other: str) -> int:
    """How many parts two dotted names have in common, from the first on."""
    pairs = zip(one.strip().split("."), other.split("."), strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(one.count("."), other.count(".")) + 1)


def plugin_lines() -> list[tuple[int, str]]:
    """What there is to say of the plugins that this process has tried: (level of logging, line)."""
    fine = [str(plugin) for plugin, wrong in _tried.items() if not wrong]
    lines = [(logging.INFO, f"plugins: {', '.join(fine)}")] if fine else []
    return lines + [
        (logging.WARNING, f"the plugin {plugin.requirement} is not used: {wrong}")
        for plugin, wrong in _tried.items()
        if wrong
    ]


def unused_sections(named: Sequence[str], used: Sequence[str]) -> list[str]:
    """The sections of plugins that PLUGINS does not name, and of which no key is set, by their dotted paths.

    Args:
        named: PLUGINS.
        used: sections of which keys are set.
    """
    packages = {canonical(text.partition("==")[0]) for text in named}
    owners = {path: owner(ADDED[path]) for path in ADDED.keys() - set(used)}
    return [path for path, of in owners.items() if of is not None and canonical(of.package) not in packages]
