"""What pyproject.toml cannot say.

configs/ and datasets/ travel inside the package, as detframe/shipped/. The addresses of the project are those of the
repository that a release is made in (DETFRAME_REPOSITORY, which the release workflow sets).
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
# Generated data sets also lie under datasets/; only these files are part of the package
SHIPPED = {"configs": ("*.yaml",), "datasets": ("*.yaml", "*.py", "*.md")}


class BuildWithConfigs(build_py):
    """build_py that also copies the shipped folders; an editable install reads them from the checkout instead."""

    def run(self) -> None:
        """Build, then copy."""
        super().run()
        if self.editable_mode:
            return
        for source, copy in self._shipped():
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, copy)

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        """The files that a build makes, those of the shipped folders included."""
        outputs = list(super().get_outputs(include_bytecode))
        return outputs if self.editable_mode else outputs + [str(copy) for _, copy in self._shipped()]

    def _shipped(self) -> list[tuple[Path, Path]]:
        target = Path(self.build_lib) / "detframe" / "shipped"
        pairs = []
        for folder, patterns in SHIPPED.items():
            for pattern in patterns:
                found = (ROOT / folder).rglob(pattern) if folder == "configs" else (ROOT / folder).glob(pattern)
                pairs += [(path, target / path.relative_to(ROOT)) for path in sorted(found)]
        return pairs


def project_urls(repository: str) -> dict[str, str]:
    """The links of a release, below the address of its repository; none where that is not known."""
    if not repository:
        return {}
    page = f"{repository}/blob/main"
    return {
        "Homepage": repository,
        "Documentation": f"{page}/docs/index.md",
        "Changelog": f"{page}/CHANGELOG.md",
        "Issues": f"{repository}/issues",
    }


setup(
    cmdclass={"build_py": BuildWithConfigs},
    project_urls=project_urls(os.environ.get("DETFRAME_REPOSITORY", "").rstrip("/")),
)
