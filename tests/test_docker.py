"""The Dockerfile: its lint, what of the repository goes into it, and that a wheel comes of that; no image is built."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
VARIANTS = re.findall(r"^FROM base AS torch-(\w+)", DOCKERFILE, flags=re.MULTILINE)


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `docker build` sends, by Docker's own reading of .dockerignore."""
    build = pytest.importorskip("docker.utils.build")
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    patterns = [line for line in lines if line and not line.startswith("#")]
    folder = tmp_path_factory.mktemp("context")
    for name in sorted(build.exclude_paths(str(ROOT), patterns, "Dockerfile")):
        target = folder / name
        if (ROOT / name).is_dir():
            target.mkdir(parents=True, exist_ok=True)
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, target)
    return folder


def hadolint(path: Path) -> str:
    program = shutil.which("hadolint", path=str(Path(sys.executable).parent)) or shutil.which("hadolint")
    if program is None:
        pytest.skip("hadolint is not installed")
    return subprocess.run([program, "--no-color", str(path)], capture_output=True, text=True).stdout


def test_hadolint_finds_nothing(tmp_path: Path):
    assert hadolint(ROOT / "Dockerfile") == ""
    bad = tmp_path / "Dockerfile"
    bad.write_text("FROM python\nRUN cd /src && pip install torch\n")
    found = hadolint(bad)
    assert "DL3006" in found and "DL3013" in found


def test_nothing_of_the_data_and_the_runs_is_sent(context: Path):
    top = {path.name for path in context.iterdir()} - {".dockerignore", "Dockerfile"}
    assert top == {"pyproject.toml", "setup.py", "README.md", "LICENSE", "detframe", "configs", "datasets"}
    assert not [path for path in (context / "datasets").rglob("*") if path.is_dir()]
    assert not list(context.rglob("__pycache__")) and (context / "detframe" / "config" / "foreign").is_dir()


@pytest.mark.slow
def test_a_wheel_comes_of_it(context: Path, tmp_path: Path):
    """With the setuptools that are here, instead of downloaded ones."""
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(tmp_path)]
    subprocess.run([*command, str(context)], check=True, capture_output=True)
    (wheel,) = tmp_path.glob("detframe-*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    shipped = {path.relative_to(ROOT).as_posix() for path in (ROOT / "configs").rglob("*.yaml")}
    assert {f"detframe/shipped/{name}" for name in [*shipped, "datasets/make_shapes.py"]} <= names


def test_the_packages_are_those_that_detframe_allows():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    allowed = {requirement.name: requirement.specifier for requirement in map(Requirement, project["dependencies"])}
    for name in ("torch", "torchvision"):
        given = set(re.findall(rf"\b{name.upper()}=([\d.]+)", DOCKERFILE))
        assert len(given) == 1 and allowed[name].contains(given.pop()), name
    assert Requirement(f"python{project['requires-python']}").specifier.contains(
        re.findall(r"^ARG PYTHON=(\S+)", DOCKERFILE, flags=re.MULTILINE)[0]
    )


def test_ci_builds_every_variant_and_trains_in_it():
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8"))
    job = workflow["jobs"]["image"]
    assert job["strategy"]["matrix"]["variant"] == VARIANTS == ["cpu", "cuda"]
    commands = "\n".join(step.get("run", "") for step in job["steps"])
    assert "docker build --build-arg VARIANT=${{ matrix.variant }}" in commands
    assert "SOLVER.MAX_ITER 3" in commands
