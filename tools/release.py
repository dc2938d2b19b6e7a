"""A release without its last step: build, check, install into an empty environment, train three steps there.

    make release-check              # of the checkout as it is
    make release-check TAG=v0.2.0   # and the version, the changelog and CITATION.cff are those of a tag

Leaves the wheel and the source distribution in dist/. docs/versions.md says how a version is made.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
import venv
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VERSION = re.compile(r'^__version__ = "([^"]+)"$', re.MULTILINE)
RELEASED = re.compile(r"^## (\d[^\s]*)", re.MULTILINE)  # a heading of the changelog: "## 0.2.0 (2027-01-31)"


def disagreements(root: Path, tag: str) -> Iterator[str]:
    """What is not of one version: package, CITATION.cff, and for a tag also that and the changelog's newest heading."""
    version = _found(VERSION, root / "detframe" / "__init__.py")
    cited = _found(re.compile(r"^version: (\S+)$", re.MULTILINE), root / "CITATION.cff")
    if cited != version:
        yield f"CITATION.cff says version {cited or 'nothing'}, detframe/__init__.py {version}"
    if not tag:
        return
    if tag != f"v{version}":
        yield f"the tag is {tag}, detframe/__init__.py says {version}: the tag must be v{version}"
    newest = _found(RELEASED, root / "CHANGELOG.md")
    if newest != version:
        known = f"the newest version in CHANGELOG.md is {newest or 'none'}"
        yield f"{known}; give what is unreleased the heading ## {version}"


def _found(pattern: re.Pattern[str], path: Path) -> str:
    match = pattern.search(path.read_text(encoding="utf-8"))
    return match[1] if match else ""


def build(dist: Path) -> list[Path]:
    """The source distribution and the wheel, in an empty folder, with metadata that an index accepts."""
    shutil.rmtree(dist, ignore_errors=True)
    run("-m", "build", "--outdir", str(dist), str(ROOT))
    made = sorted(dist.iterdir())
    run("-m", "twine", "check", "--strict", *map(str, made))
    return made


def try_wheel(wheel: Path) -> None:
    """Install a wheel into an empty environment, and train three steps in an empty folder."""
    with tempfile.TemporaryDirectory(prefix="detframe-release-") as folder:
        venv.create(folder, with_pip=True)
        python = next(
            path for path in (Path(folder, "bin/python"), Path(folder, "Scripts/python.exe")) if path.exists()
        )
        run("-m", "pip", "install", "--disable-pip-version-check", "--quiet", str(wheel), python=python)
        place = Path(folder) / "empty"
        place.mkdir()
        run("-m", "detframe", "--version", python=python, cwd=place)
        run("-m", "detframe", "quickstart", "SOLVER.MAX_ITER", "3", python=python, cwd=place)


def run(*words: str, python: str | Path = sys.executable, cwd: Path = ROOT) -> None:
    """A command of Python's; ends this program where it fails."""
    done = subprocess.run([str(python), *words], cwd=cwd, check=False)
    if done.returncode:
        sys.exit(f"release: {' '.join(words)} ended with {done.returncode}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script; returns the exit code."""
    parser = argparse.ArgumentParser(description="Build a release and try it, without publishing it.")
    parser.add_argument("--tag", default="", help="the tag that the release is made from, as v0.2.0; none for a trial")
    args = parser.parse_args(argv)
    wrong = list(disagreements(ROOT, args.tag))
    if wrong:
        sys.exit("release: " + "\nrelease: ".join(wrong))
    made = build(ROOT / "dist")
    try_wheel(next(path for path in made if path.suffix == ".whl"))
    sys.stdout.write("release: all is well; dist/ holds " + ", ".join(path.name for path in made) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
