"""What `predict --input` names: images, videos, addresses, cameras; and where the drawing of each goes."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from detframe.cli.media import common_folder, find_inputs, output_paths
from detframe.errors import DownloadError
from detframe.files import safe_name
from detframe.web import without_password

if TYPE_CHECKING:
    from detframe.inference.videos import VideoReader

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Source:
    """One input.

    Attributes:
        name: what logs and images.json call it; an address without its password.
        place: a path, an address, or the number of a camera.
        target: the file for its drawing.
        listed: its name in the files of formats.
    """

    name: str
    place: str
    kind: Literal["image", "video", "address", "camera"]
    target: Path
    listed: str

    @property
    def origin(self) -> str:
        """What the writers of formats are told of it: a path, or an address."""
        return f"camera://{self.listed}" if self.kind == "camera" else self.name

    def open_video(self) -> VideoReader:
        """Open what is no image.

        Raises:
            FileNotFoundError, ValueError: it is not there, or cannot be read.
        """
        from detframe.inference.streams import open_address, open_camera
        from detframe.inference.videos import VideoReader

        if self.kind == "camera":
            return open_camera(int(self.place))
        return open_address(self.place) if self.kind == "address" else VideoReader.of_file(self.place)


def find_sources(words: Sequence[str], output: Path) -> list[Source]:
    """Every input that the words name, each once: files, folders, patterns, addresses, and numbers of cameras.

    Raises:
        FileNotFoundError: a word names nothing, or a folder or pattern neither image nor video.
        ValueError: a drawing would replace its own input, or two inputs would share one drawing.
    """
    from detframe.inference.addresses import local_path, scheme_of
    from detframe.inference.inputs import is_video
    from detframe.inference.writers import image_name

    remote = list(dict.fromkeys(word for word in words if word.isdecimal() or scheme_of(word) not in ("", "file")))
    local = [str(local_path(word)) if scheme_of(word) == "file" else word for word in words if word not in remote]
    files = find_inputs(local)
    targets = output_paths(files, output) if files else []
    root = common_folder(files) if files else None
    sources = [
        Source(str(path), str(path), "video" if is_video(path) else "image", target, image_name(path, root=root))
        for path, target in zip(files, targets, strict=True)
    ]
    return [*sources, *_remote_sources(remote, output.resolve(), set(targets))]


def root_of(sources: Sequence[Source]) -> Path | None:
    """The folder common to all files, which the names in the files of formats are relative to; None without files."""
    from detframe.inference.writers.base import is_address

    files = [Path(source.name) for source in sources if not is_address(source.origin)]
    return common_folder(files) if files else None


def _remote_sources(words: Sequence[str], output: Path, taken: set[Path]) -> Iterator[Source]:
    from detframe.inference.writers import image_name

    for word in words:
        kind: Literal["image", "address", "camera"] = "camera" if word.isdecimal() else _kind_of_address(word)
        name = f"camera_{int(word)}" if kind == "camera" else _name_of_address(word)
        target = _free(output / (name if kind == "image" else f"{Path(name).stem}.mp4"), taken)
        taken.add(target)
        if kind == "camera":
            yield Source(f"camera {int(word)}", word, kind, target, name)
        else:
            yield Source(without_password(word), word, kind, target, image_name(word))


def _kind_of_address(address: str) -> Literal["image", "address"]:
    """By its ending, else by what the server says; an address that does not answer is left out where it is read."""
    from detframe.inference import IMAGE_EXTENSIONS, VIDEO_EXTENSIONS
    from detframe.inference.addresses import WEB_SCHEMES, name_in, scheme_of, what_lies_at

    ending = name_in(address).suffix.lower()
    if ending in IMAGE_EXTENSIONS:
        return "image"
    if scheme_of(address) not in WEB_SCHEMES or ending in VIDEO_EXTENSIONS:
        return "address"
    try:
        return "image" if what_lies_at(address) == "image" else "address"
    except DownloadError as error:
        logger.debug("%s", error)
        return "address"


def _name_of_address(address: str) -> str:
    """The name of the file for what lies at an address, with the ending of an image where it has none."""
    from detframe.inference.addresses import name_in

    host = without_password(address).partition("://")[2].partition("/")[0]
    name = Path(safe_name(name_in(address).name or host))
    return str(name) if name.suffix else f"{name}.png"


def _free(path: Path, taken: set[Path]) -> Path:
    """The path, or the first of path-2, path-3, ... that no other input has."""
    candidates = (path if n == 1 else path.with_name(f"{path.stem}-{n}{path.suffix}") for n in range(1, len(taken) + 2))
    return next(candidate for candidate in candidates if candidate not in taken)
