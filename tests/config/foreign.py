"""The standard configs of other programs as files, written from the tables beside this module."""

from __future__ import annotations

import functools
import tempfile
import textwrap
from pathlib import Path

import yaml

TABLES = Path(__file__).resolve().parent / "standard"
PROGRAMS = ("detectron2", "maskrcnn_benchmark", "fcos")


@functools.cache
def standard_configs(program: str) -> dict[str, Path]:
    """Name -> a file with exactly the keys, values and tags of the original, where its bases find each other."""
    text = (TABLES / f"{program}.yaml").read_text(encoding="utf-8")
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    assert isinstance(root, yaml.MappingNode)
    lines = text.splitlines(keepends=True)
    folder = Path(tempfile.mkdtemp(prefix=f"{program}-"))
    starts = [key.start_mark.line for key, _ in root.value] + [len(lines)]
    out = {}
    for (key, _), start, end in zip(root.value, starts[:-1], starts[1:], strict=True):
        name = str(key.value)
        inside = name.removeprefix("PointRend/")
        path = folder / (f"projects/PointRend/configs/{inside}" if inside != name else f"configs/{name}")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent("".join(lines[start + 1 : end])), encoding="utf-8")
        out[name] = path
    return out


def names(program: str, translatable: bool = False) -> list[str]:
    """The names of a program's standard configs, without the bases of others.

    Args:
        translatable: without those that ask for what detframe does not have, too.
    """
    root = yaml.compose((TABLES / f"{program}.yaml").read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    assert isinstance(root, yaml.MappingNode)
    found = [str(key.value) for key, _ in root.value]
    stems = {name: Path(name).stem for name in found if not Path(name).name.startswith("Base-")}
    refused = {n for n, stem in stems.items() if "fbnet" in stem or stem.startswith(("panoptic", "fast_rcnn"))}
    return [name for name in stems if not (translatable and name in refused)]
