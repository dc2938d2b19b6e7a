"""Detectors on the Hugging Face hub, fetched and published by huggingface_hub, which is needed here alone.

Fetching imports no torch, as an exported file needs none.
"""

from __future__ import annotations

import glob
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from detframe import __version__
from detframe.config.paths import expanded
from detframe.errors import DownloadError, InvalidValueError, MissingFileError, MissingModuleError, UserError
from detframe.files import read_text
from detframe.inference.folder_files import ABOUT, CARD, CONFIG, LIBRARY, MARK, WEIGHTS

if TYPE_CHECKING:
    from torch import nn

    from detframe.config import ConfigNode

_REPO = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_HELP = "log in by `hf auth login`, or hand in token=..., where it is private"


def local_copy(
    repo_or_folder: str | Path,
    file: str = "",
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
    code: bool = False,
) -> Path:
    """Where a detector lies on this machine, fetched from the hub where it is no folder here.

    Args:
        repo_or_folder: a folder of `save_pretrained`, or a repository on the hub, as "me/blood-cells".
        file: an exported file in it, as "model.onnx"; "": the weights, so that the folder is given back.
        revision: a branch, a tag or a commit of the repository.
        token: see huggingface_hub; None: that of `hf auth login`, if there is one.
        cache_dir: where files are kept; None: where huggingface_hub keeps its own.
        local_files_only: take what was fetched before; so it is where DETFRAME_OFFLINE is set, too.
        code: fetch Python files as well, which CUSTOM_IMPORTS may name. They are not imported here.

    Raises:
        FileNotFoundError: neither a folder here nor a repository's name, or it lacks the file.
        ConnectionError: no such repository or revision, no right to read it, or no connection.
        ImportError: huggingface_hub is not installed.
    """
    here = expanded(str(repo_or_folder))
    if here.exists():
        return _within(here, file)
    name = str(repo_or_folder)
    if not _REPO.fullmatch(name):
        raise MissingFileError(
            f"there is no folder {name} (working folder {Path.cwd()}), and no repository on the hub can be called so"
        )
    hub = _library()
    offline = local_files_only or os.environ.get("DETFRAME_OFFLINE", "0") not in ("", "0")
    with _told(name, revision):
        folder = Path(
            hub.snapshot_download(
                name,
                revision=revision,
                token=token,
                cache_dir=cache_dir,
                local_files_only=offline,
                allow_patterns=_wanted(file, code),
                library_name=LIBRARY,
                library_version=__version__,
            )
        )
    missing = [one for one in ([file] if file else [ABOUT, CONFIG, WEIGHTS]) if not (folder / one).is_file()]
    if missing:
        what = "it holds no detector of detframe" if not file else "or not in what was fetched before"
        raise MissingFileError(f"the repository {name}{_at(revision)} has no {', '.join(missing)}; {what}")
    return folder / file if file else folder


def publish(
    model: nn.Module,
    cfg: ConfigNode,
    meta: Mapping[str, Any],
    repo_id: str,
    *,
    private: bool | None = None,
    token: str | bool | None = None,
    message: str = "Detector of detframe",
    **written: Any,
) -> str:
    """Write a detector as `write_pretrained` does, and put it into a repository on the hub, made where there is none.

    The README.md of a repository stays where somebody wrote it: see `write_pretrained`.

    Args:
        repo_id: "me/blood-cells", or "blood-cells" for the account whose token it is.
        private: of a new repository: whether others see it; None: as the account says, usually yes.
        message: of the commit.
        written: as `write_pretrained` takes them: run, license, exported.

    Returns:
        The address of the repository.

    Raises:
        ConnectionError: the hub cannot be reached, or refuses. Otherwise as `write_pretrained` and `local_copy`.
    """
    from detframe.inference.pretrained import write_pretrained

    if not _REPO.fullmatch(repo_id):
        raise InvalidValueError(f"{repo_id!r} is no name of a repository on the hub; it looks like 'me/blood-cells'")
    api = _library().HfApi(token=token, library_name=LIBRARY, library_version=__version__)
    with tempfile.TemporaryDirectory(prefix="detframe-hub-") as temporary:
        folder = Path(temporary)
        with _told(repo_id):
            name = repo_id if "/" in repo_id else f"{api.whoami()['name']}/{repo_id}"
        write_pretrained(model, cfg, meta, folder, name=name, **written)
        with _told(name):
            address = api.create_repo(name, private=private, exist_ok=True)
            if _has_own_card(api, name, folder):
                (folder / CARD).unlink()
            api.upload_folder(repo_id=name, folder_path=folder, commit_message=message)
    return str(address)


def _library() -> ModuleType:
    try:
        import huggingface_hub
    except ImportError as error:
        raise MissingModuleError(
            f"the Hugging Face hub needs the package huggingface_hub: pip install huggingface_hub ({error})"
        ) from None
    return huggingface_hub


def _within(path: Path, file: str) -> Path:
    """A file in a folder of this machine; the folder itself where none is named, and a file that was named itself."""
    if not file:
        return path
    if not (path / file).is_file():
        found = ", ".join(sorted(one.name for one in path.iterdir())[:10]) if path.is_dir() else "nothing, being a file"
        raise MissingFileError(f"there is no {file} in {path}, which holds {found or 'nothing'}")
    return path / file


def _wanted(file: str, code: bool) -> list[str]:
    """Patterns of what is fetched: never more than is needed, above all nothing that holds pickles."""
    if not file:
        return [ABOUT, CONFIG, WEIGHTS, *(["*.py"] if code else [])]
    stem, end = os.path.splitext(file)
    companions = [f"{stem}.bin"] if end == ".xml" else [f"{file}.data"]
    return [glob.escape(name) for name in (file, *companions)]


def _has_own_card(api: Any, name: str, folder: Path) -> bool:
    """Whether the repository has a README.md that somebody wrote."""
    if not api.file_exists(name, CARD):
        return False
    with tempfile.TemporaryDirectory(prefix="detframe-hub-") as other:
        return MARK not in read_text(Path(api.hf_hub_download(name, CARD, local_dir=other)), f"the README.md of {name}")


def _at(revision: str | None) -> str:
    return f" at {revision}" if revision else ""


@contextmanager
def _told(name: str, revision: str | None = None) -> Iterator[None]:
    """Errors of huggingface_hub as ours."""
    from huggingface_hub import constants, errors

    where = f"{name}{_at(revision)} on {constants.ENDPOINT}"
    try:
        yield
    except UserError:
        raise
    except errors.GatedRepoError as error:
        raise DownloadError(f"{where} is open only to those whom its owner let in: {_first(error)}") from None
    except errors.RepositoryNotFoundError:
        raise DownloadError(
            f"{name} is no folder here (working folder {Path.cwd()}), and there is no repository {where} that this "
            f"account may read; {_HELP}"
        ) from None
    except errors.RevisionNotFoundError:
        raise DownloadError(f"the repository {name} has no branch, tag or commit {revision!r}") from None
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled) as error:
        raise DownloadError(
            f"{where} has not been fetched before, and could not be now ({_first(error)}). With a connection it can; "
            "else copy its folder here and name that"
        ) from None
    except errors.HFValidationError as error:
        raise InvalidValueError(f"{name!r} is no name of a repository: {_first(error)}") from None
    except (errors.HfHubHTTPError, errors.HTTPError, OSError) as error:
        raise DownloadError(f"{where}: {_first(error)}; {_HELP}") from None


def _first(error: Exception) -> str:
    """The message of an error, without what it quotes below."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
