"""What a Detector can do to reach others: files for other runtimes, folders that they can read, the hub."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from detframe.config.arguments import flag

if TYPE_CHECKING:
    from detframe.checkpoint import Checkpoint
    from detframe.config import ConfigNode
    from detframe.export import ExportReport
    from detframe.modeling import GeneralizedRCNN


class Shared:
    """The methods of a Detector about files, folders and repositories; `load` reads what they give."""

    if TYPE_CHECKING:

        @property
        def model(self) -> GeneralizedRCNN: ...
        @property
        def cfg(self) -> ConfigNode: ...
        @property
        def meta(self) -> dict[str, Any]: ...
        @property
        def class_names(self) -> tuple[str, ...]: ...

    def export(
        self, path: str | Path, *, data: str = "", num_images: int = 100, weights: str | Path | None = None, **how: Any
    ) -> ExportReport:
        """Write it as a file for onnxruntime, OpenVINO or torch, proved to find what it finds; `load` reads the file.

        Args:
            path: the file: .onnx, .xml or .pt2.
            data: validation data, a name of the catalog or a path; "": DATASETS.TEST of the config.
            num_images: of them, evenly.
            weights: the checkpoint that it comes from, for the file's provenance.
            how: format, precision, size, batch, tolerance, as `detframe.export.export` explains them.

        Returns:
            The evidence, which also lies beside the file.

        Raises:
            EvidenceError: the file does not find the same; nothing is left behind. Otherwise as
                `detframe.export.export`.
        """
        from detframe.export import export, validation_data

        model, cfg = self.model, self.cfg
        records, reason = validation_data(cfg, None if model.class_agnostic else self.class_names, data)
        about: Any = {"records": records, "no_records": reason, "num_images": num_images, "weights": weights}
        return export(model, cfg, self.meta, path, **about, **how)

    @classmethod
    def from_pretrained(
        cls,
        repo_or_folder: str | Path,
        file: str = "",
        *,
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
        **loading: Any,
    ) -> Self:
        """The detector in a folder of `save_pretrained`, or in a repository on the Hugging Face hub, as "me/cells".

        Args:
            file: an exported file in it, as "model.onnx"; "": the weights.
            revision: a branch, a tag or a commit of the repository.
            token, cache_dir: as huggingface_hub takes them.
            local_files_only: take what was fetched before.
            loading: as `load` takes them: device, amp, allow_custom_imports.

        Raises:
            FileNotFoundError: neither a folder here nor a repository's name, or it lacks the file.
            ConnectionError: no such repository or revision, no right to read it, or no connection.
            ImportError: huggingface_hub, which repositories need, is not installed. Otherwise as `load`.
        """
        from detframe.inference.hub import local_copy

        path = local_copy(
            repo_or_folder,
            file,
            revision=revision,
            token=token,
            cache_dir=cache_dir,
            local_files_only=local_files_only,
            code=flag("allow_custom_imports", loading.get("allow_custom_imports")),
        )
        return cls.load(path, **loading)  # type: ignore[attr-defined,no-any-return]

    def save_pretrained(self, folder: str | Path, **written: Any) -> Path:
        """Write a folder that `from_pretrained` reads and the hub can hold, with a model card.

        Args:
            written: name, run, license, exported, as `pretrained.write_pretrained` explains them.
        """
        from detframe.inference.pretrained import write_pretrained

        return write_pretrained(self.model, self.cfg, self.meta, folder, **written)

    def push_to_hub(self, repo_id: str, **published: Any) -> str:
        """Publish it on the Hugging Face hub, with a model card; gives the address.

        Args:
            repo_id: "me/blood-cells", or "blood-cells" for the account whose token it is.
            published: private, token, message, run, license, exported, as `hub.publish` explains them.
        """
        from detframe.inference.hub import publish

        return publish(self.model, self.cfg, self.meta, repo_id, **published)


def read_pretrained(folder: str | Path) -> Checkpoint:
    """`pretrained.read_pretrained`, which is imported only where there is such a folder."""
    from detframe.inference.pretrained import read_pretrained as read

    return read(folder)
