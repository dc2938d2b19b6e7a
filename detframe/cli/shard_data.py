"""Pack the images of data sets into tar files with an index, or index tar files that are there: tools/shard_data.py."""

from __future__ import annotations

import argparse
import logging
import os
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from detframe.cli.arguments import base_parser, local_path, whole
from detframe.cli.common import log_to_terminal, run_command
from detframe.cli.media import check_output
from detframe.config.paths import expanded
from detframe.errors import InvalidValueError, MissingFileError
from detframe.files import GrowingFile, replacing
from detframe.storage import INDEX, Shard, address_of, index_line, read_headers, refuse_address
from detframe.texts import counted

if TYPE_CHECKING:
    from detframe.data import Records

logger = logging.getLogger(__name__)

MB = 10**6
EPILOG = """\
Tar files that are not compressed, named 00000.tar and so on, hold the images under the names that the annotations give
them, so that the annotations stay as they are; index.jsonl says where in them each image lies. The folder, here or
copied to a bucket or web server, then is what `images` of a catalog entry names. docs/storage.md says more.

examples: tools/shard_data.py --datasets bccd_trainval --output shards/bccd
          tools/shard_data.py --index shards/of/somebody/else
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    parser = base_parser("shard-data", "Pack images into tar files with an index.", EPILOG)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--datasets", nargs="+", metavar="NAME", help="names in the catalog, whose images are packed")
    what.add_argument("--index", metavar="DIR", help="write the index of a folder with tar files, and nothing else")
    parser.add_argument(
        "--catalog", default="", type=local_path, metavar="FILE", help="your own catalog, read before the shipped one"
    )
    parser.add_argument("--output", metavar="DIR", help="a new folder for the tar files of --datasets")
    parser.add_argument("--megabytes", type=_megabytes, default=256, metavar="N", help="size of a tar file (256)")
    return run_command(parser, argv, _run)


def _megabytes(text: str) -> int:
    return whole(text, 1, 10**6)


def _run(args: argparse.Namespace) -> int:
    log_to_terminal()
    for given in (args.index, args.output):
        refuse_address(given or "", "make shards in a folder here, and copy that there")
    if args.index:
        folder = expanded(args.index)
        count, members = write_index(folder)
        logger.info("%s: %s with %s", folder / INDEX, counted(count, "shard"), counted(members, "image"))
        return 0
    from detframe.data import load_records
    from detframe.data.catalog import find_entry, read_catalogs

    if not args.output:
        raise InvalidValueError("--datasets needs --output, a new folder for the tar files")
    entries, output = read_catalogs(args.catalog), expanded(args.output)
    roots = {name: address_of(find_entry(name, entries, args.catalog).images) for name in args.datasets}
    folders = {name: output / name if len(roots) > 1 else output for name in roots}
    check_output(output)
    for folder in folders.values():
        _check_empty(folder)
    read = {name: load_records([name], args.catalog, on_missing="raise") for name in roots}
    for name, records in read.items():
        _check_names(records, roots[name])
    for name, records in read.items():  # nothing was written until here
        shards = pack(records, roots[name], folders[name], args.megabytes * MB)
        logger.info("%s: %s in %s", folders[name], counted(len(records), "image"), counted(shards, "shard"))
        logger.info("for the catalog: the entry %s with\n  images: %s", name, folders[name])
    return 0


def pack(records: Records, root: str, folder: Path, size: int) -> int:
    """Write the images of `records` as tar files and their index; returns how many.

    Args:
        root: the folder of the images; members are called as the images are below it.
        folder: new, or empty.
        size: bytes after which another tar file begins.

    Raises:
        ValueError: the folder holds something, or an image lies outside of `root`.
        OSError: reading or writing fails; what was written is then taken away.
    """
    _check_empty(folder)
    _check_names(records, root)
    fresh, written = not folder.exists(), list[Path]()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with GrowingFile(folder / INDEX) as index:  # which appears last, and whole
            for number, part in enumerate(_parts(_images(records, root), size)):
                written.append(folder / f"{number:05d}.tar")
                index.write(index_line(_write_shard(written[-1], part)))
    except BaseException:  # an interruption, too
        for path in written:
            path.unlink(missing_ok=True)
        if fresh:
            with suppress(OSError):  # somebody has put something there
                folder.rmdir()
        raise
    return len(written)


def _write_shard(path: Path, part: Iterator[tuple[str, bytes]]) -> Shard:
    with replacing(path) as file, tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, data in part:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, BytesIO(data))
    return read_headers(str(path), path.name, path.stat().st_size)


def _check_empty(folder: Path) -> None:
    if folder.exists() and any(folder.iterdir()):
        raise InvalidValueError(
            f"{folder} is not empty; name a new folder, so that shards of different data do not mix"
        )


def _check_names(records: Records, root: str) -> None:
    for index in range(len(records)):
        _name_below(records.file_name(index), root)


def _name_below(path: str, root: str) -> str:
    name = os.path.relpath(path, root) if not path.startswith(f"{root}/") else path[len(root) + 1 :]
    if name.startswith(".."):
        raise InvalidValueError(f"{path} lies outside of {root}, the folder of the images: shards have no name for it")
    return name.replace(os.sep, "/")


def _images(records: Records, root: str) -> Iterator[tuple[str, bytes]]:
    """(name below root, content) of each image file, once."""
    from detframe.data.image_files import read_image_bytes

    done: set[str] = set()
    for index in range(len(records)):
        path = records.file_name(index)
        name = _name_below(path, root)
        if name not in done:
            done.add(name)
            yield name, read_image_bytes(path)


def _parts(images: Iterator[tuple[str, bytes]], size: int) -> Iterator[Iterator[tuple[str, bytes]]]:
    """The images in stretches of about so many bytes."""
    for first in images:

        def stretch(first: tuple[str, bytes] = first) -> Iterator[tuple[str, bytes]]:
            total = len(first[1])
            yield first
            while total < size and (more := next(images, None)) is not None:
                total += len(more[1])
                yield more

        yield stretch()


def write_index(folder: Path) -> tuple[int, int]:
    """Write the index of the tar files in a folder; returns how many there are, and how many members they have.

    Raises:
        FileNotFoundError: there is none.
        ValueError: one is damaged, or compressed.
    """
    paths = sorted(folder.glob("*.tar")) if folder.is_dir() else []
    if not paths:
        raise MissingFileError(f"{folder} holds no file whose name ends in .tar")
    members = 0
    with GrowingFile(folder / INDEX) as index:
        for path in paths:
            shard: Shard = read_headers(str(path), path.name, path.stat().st_size)
            members += len(shard.members)
            index.write(index_line(shard))
    return len(paths), members
