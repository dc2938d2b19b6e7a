"""recipe.yaml and catalog.yaml in OUTPUT_DIR: written together, and taken back where no training comes of them."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from detframe.config.paths import expanded
from detframe.engine.lock import locked
from detframe.engine.output_dir import check_place, holds_run, prepare, set_aside
from detframe.files import write_text
from detframe.recipes.plan import CATALOG, RECIPE, Plan

logger = logging.getLogger(__name__)


def check_output(folder: str) -> None:
    """Whether OUTPUT_DIR can be written and no run is at work there; changes nothing. Errors as `check_place`."""
    check_place(expanded(folder))


@contextmanager
def written(plan: Plan) -> Iterator[Path]:
    """The path of recipe.yaml, which is written together with its catalog.

    What an older run, or somebody, has left there is moved into a folder inside. Where the `with` ends with an error
    before a training has begun, what was written is removed again.

    Raises:
        InUseError: another run works in OUTPUT_DIR.
        OSError: it cannot be written.
    """
    folder = expanded(plan.folder)
    is_new = not folder.exists()
    recipe = write(plan)
    try:
        yield recipe
    except BaseException:
        if not _has_begun(folder):
            _take_back(folder, is_new)
        raise


def write(plan: Plan) -> Path:
    """Write catalog.yaml and recipe.yaml; returns the path of the recipe. Errors as `written`."""
    folder = expanded(plan.folder)
    _write(folder, {CATALOG: plan.catalog, RECIPE: plan.recipe})
    logger.info("%s says each choice and its reason; %s the data", folder / RECIPE, folder / CATALOG)
    return folder / RECIPE


def write_catalog(plan: Plan) -> Path:
    """Write catalog.yaml alone, for a recipe that goes elsewhere; returns its path. Errors as `written`.

    Where the same catalog is there, nothing changes, and a run that trained with it stays where it is.
    """
    folder = expanded(plan.folder)
    if _texts(folder).get(CATALOG) != plan.catalog:
        _write(folder, {CATALOG: plan.catalog})
    logger.info("the config names the catalog %s, which is written", folder / CATALOG)
    return folder / CATALOG


def _write(folder: Path, files: Mapping[str, str]) -> None:
    """Write files, after what other ones of their names there, and an older run, has been set aside."""
    prepare(folder)
    with locked(folder):
        there = _texts(folder)
        if holds_run(folder) or any(there.get(name, text) != text for name, text in files.items()):
            target = set_aside(folder, (RECIPE, CATALOG))
            logger.warning("OUTPUT_DIR %s held an older run or recipe, which is now in %s", folder, target)
        for name, text in files.items():
            write_text(folder / name, text)


def _texts(folder: Path) -> dict[str, str]:
    """The recipe and the catalog that are there."""
    files = [folder / name for name in (RECIPE, CATALOG) if (folder / name).is_file()]
    return {file.name: file.read_text(encoding="utf-8", errors="replace") for file in files}


def _has_begun(folder: Path) -> bool:
    return holds_run(folder) or (folder / "config.yaml").exists()


def _take_back(folder: Path, is_new: bool) -> None:
    for name in (RECIPE, CATALOG):
        (folder / name).unlink(missing_ok=True)
    if is_new and not any(folder.iterdir()):
        folder.rmdir()
