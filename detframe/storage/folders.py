"""A folder on an object store into which a run writes: s3://bucket/run, gs://…, or what else fsspec writes to."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar
from uuid import uuid4

from detframe.errors import FileAccessError, InvalidValueError, UserError
from detframe.storage.addresses import LISTED, public, refuse_address, scheme_of, split_address
from detframe.storage.faults import explained, reason
from detframe.storage.materialised import here
from detframe.storage.retrying import persistently
from detframe.storage.stores import LARGE_SECONDS, ask, client_of, seconds_for

WRITABLE = (*LISTED, "file", "memory")
T = TypeVar("T")
_OTHER = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://", re.ASCII)


def is_store(path: str | Path) -> bool:
    """Whether a text, or the path made of one, is an address into which a run can write."""
    return split_address(path)[0] in WRITABLE


def store_of(output_dir: str | Path) -> StoreFolder | None:
    """The store that OUTPUT_DIR names; None of a folder of this machine.

    Raises:
        ValueError: it is an address at which no run can be.
    """
    if is_store(output_dir):
        return StoreFolder(output_dir)
    if _OTHER.match(str(output_dir)):
        raise InvalidValueError(
            f"OUTPUT_DIR {public(str(output_dir))} is an address at which no run can be; runs are in folders of this "
            f"machine, and at {', '.join(f'{scheme}://' for scheme in WRITABLE)}"
        )
    return None


def local_file(path: str | Path, only: Sequence[str] = ()) -> str | Path:
    """A file in a store as one of this machine, which is fetched where it is not here as it is there; others as given.

    Args:
        only: what is wanted of a folder, where it may be one, as of `here`.

    Raises:
        UserError: it does not exist, or cannot be read, or is a folder with nothing of `only`; an address of another
            kind.
    """
    if not is_store(path):
        refuse_address(path, "download it, and name the copy")
        return path
    address = address_with_slashes(path)
    if address.endswith(".xml"):  # OpenVINO's, whose weights are in a file beside it
        here(f"{address.removesuffix('.xml')}.bin")
    return here(address, only=only)


@contextmanager
def copy_of(path: str | Path, only: Sequence[str] = ()) -> Iterator[str | Path]:
    """`local_file`, with its errors; within it an error that names the copy names what it is a copy of, first."""
    copy = local_file(path, only)
    try:
        yield copy
    except UserError as error:
        if is_store(path) and str(copy) in str(error):
            named = f"{address_with_slashes(path)} (copied to {copy})"
            error.args = (str(error).replace(str(copy), named, 1), *error.args[1:])
        raise


def address_with_slashes(path: str | Path) -> str:
    """The address in a text, or in the path made of one, in which a slash is lost."""
    scheme, rest = split_address(path)
    if not scheme:
        return rest
    return f"{scheme}{':///' if scheme == 'file' else '://'}{rest}"


def joined(folder: str | Path, name: str) -> str:
    """The path or address of a name in a folder, which may lie in a store."""
    return f"{address_with_slashes(folder).rstrip('/')}/{name}" if is_store(folder) else str(Path(folder) / name)


class StoreFolder:
    """The objects below an address. Each is put as a whole: until that has ended there is the one before, or none.

    What reads asks again after a lost connection, and what writes does not: its callers go on meanwhile.

    Args:
        address: with or without a slash at its end, or as a path, in which one of its slashes is lost.

    Raises:
        ValueError: it names no bucket.
    """

    def __init__(self, address: str | Path) -> None:
        self.address = address_with_slashes(address).rstrip("/")
        scheme = scheme_of(self.address)
        if scheme in LISTED and self.address == f"{scheme}:":
            raise InvalidValueError(f"{address} names no bucket; an address is {scheme}://bucket/folder")

    def __str__(self) -> str:
        return self.address

    def at(self, name: str) -> str:
        """The address of an object."""
        return f"{self.address}/{name}"

    # ------------------------------------------------------------------ reading
    def names(self) -> set[str]:
        """The names of all objects, with slashes; none where there is no such folder.

        Raises:
            OSError, ValueError, ImportError: as `persistently`.
        """

        def act() -> set[str]:
            start = len(str(client_of(self.address)._strip_protocol(self.address)).rstrip("/")) + 1
            return {str(name)[start:] for name in ask(self.address, "find", self.address)} - {""}

        return persistently(self.address, act)

    def read(self, name: str, patience: float | None = None) -> bytes | None:
        """What an object holds; None where there is none. Errors as of `names`.

        Args:
            patience: seconds for which to ask again; None: as the settings say.
        """

        def act() -> bytes | None:
            try:
                return bytes(ask(self.address, "cat_file", self.at(name)))
            except FileNotFoundError:
                return None

        return persistently(self.address, act, patience)

    def fetch(self, name: str, path: Path) -> None:
        """Write an object to a file; errors as of `names`."""
        persistently(
            self.address, lambda: ask(self.address, "get_file", self.at(name), str(path), seconds=LARGE_SECONDS)
        )

    # ------------------------------------------------------------------ writing
    def put(self, path: Path, name: str) -> None:
        """Make an object of a file, in parts where it is large; raises what the store's library does."""
        ask(self.address, "put_file", str(path), self.at(name), seconds=seconds_for(path.stat().st_size))

    def write(self, name: str, data: bytes) -> None:
        """Make an object of some bytes; errors as of `put`."""
        self._make_place(name)
        ask(self.address, "pipe_file", self.at(name), data)

    def remove(self, name: str) -> None:
        """Take an object away, if there is one; errors as of `put`."""
        try:
            ask(self.address, "rm_file", self.at(name))
        except FileNotFoundError:
            return

    def move(self, name: str, target: str) -> None:
        """Give an object another name, without sending it; errors as of `put`."""
        self._make_place(target)
        ask(self.address, "cp_file", self.at(name), self.at(target), seconds=LARGE_SECONDS)
        ask(self.address, "rm_file", self.at(name))

    def surely(self, act: Callable[[], T]) -> T:
        """What an action on the store gives, which is tried again after a lost connection; errors as of `names`."""
        return persistently(self.address, act)

    def check_writable(self) -> None:
        """Write a small object and take it away again.

        Raises:
            OSError, ValueError, ImportError: it cannot be written; says why and what to do.
        """
        name = f".probe-{uuid4().hex[:12]}"
        try:
            self.surely(lambda: self.write(name, b"x"))
            self.surely(lambda: self.remove(name))
        except UserError as error:
            raise type(error)(f"OUTPUT_DIR {self} cannot be written. {error}") from None

    def refusal(self, error: Exception) -> UserError:
        """An error of the store, in words for the user."""
        known = explained(error, self.address)
        return known or FileAccessError(f"{self.address} does not answer: {reason(error)}")

    def _make_place(self, name: str) -> None:
        """The folder in which an object lies, where the store has folders: of others this would make a bucket."""
        if scheme_of(self.address) in ("file", "memory"):
            store = client_of(self.address)
            store.makedirs(store._parent(self.at(name)), exist_ok=True)
