"""What `pip install .` brings: the package, the configs, the catalog and the command."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from detframe import __version__

ROOT = Path(__file__).resolve().parent.parent
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
NEEDED = (
    "setup.py",
    "pyproject.toml",
    "MANIFEST.in",
    "LICENSE",
    "README.md",
    "CHANGELOG.md",
    "MODEL_ZOO.md",
    "Makefile",
)


# Where the name to import is another than the package's; TensorBoard is what torch's writer needs
IMPORTED_AS = {
    "pillow": "PIL",
    "PyYAML": "yaml",
    "opencv-python-headless": "cv2",
    "tensorboard": "torch.utils.tensorboard",
    "mlflow-skinny": "mlflow",
}
# What a user may have beside detframe, to be compared with, and what none of its packages brings
BESIDE = {"detectron2"}


def test_every_dependency_is_used_and_every_import_is_a_dependency():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    names = [re.match(r"[\w-]+", line)[0] for line in project["dependencies"]]
    extras = [re.match(r"[\w-]+", line)[0] for extra in project["optional-dependencies"].values() for line in extra]
    optional = {IMPORTED_AS.get(name, name) for name in extras}
    imported = set()
    for path in (ROOT / "detframe").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                imported.add(node.module)
    modules = {IMPORTED_AS.get(name, name) for name in names}
    unused = {m for m in modules if not any(i == m or i.startswith(f"{m}.") for i in imported)}
    assert not unused
    roots = {i.partition(".")[0] for i in imported} - set(sys.stdlib_module_names) - {"detframe"} - BESIDE
    assert roots <= {m.partition(".")[0] for m in modules} | optional


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the sources, so that the build leaves nothing in the checkout."""
    copy = tmp_path_factory.mktemp("source")
    for name in NEEDED:
        shutil.copy(ROOT / name, copy / name)
    hidden = shutil.ignore_patterns("__pycache__", "shipped")
    for folder in ("detframe", "configs", "docs", "tools"):
        shutil.copytree(ROOT / folder, copy / folder, ignore=hidden)
    (copy / "datasets" / "shapes").mkdir(parents=True)
    for file in (ROOT / "datasets").glob("*.*"):
        shutil.copy(file, copy / "datasets")
    (copy / "datasets" / "shapes" / "generated.yaml").write_text("not: shipped\n", encoding="utf-8")
    return copy


@pytest.fixture(scope="module")
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("setuptools", minversion="77", reason="building needs setuptools in this environment")
    folder = tmp_path_factory.mktemp("wheel")
    command = [*PIP, "wheel", str(source), "--no-deps", "--no-build-isolation", "--quiet", "-w", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("installed")
    subprocess.run([*PIP, "install", "--no-deps", "--quiet", "--target", str(folder), str(wheel)], check=True)
    return folder


def test_the_wheel_holds_package_configs_and_catalog_and_nothing_else(wheel: Path):
    assert wheel.name == f"detframe-{__version__}-py3-none-any.whl"
    names = set(zipfile.ZipFile(wheel).namelist())
    modules = {str(p.relative_to(ROOT)) for p in (ROOT / "detframe").rglob("*.py") if "shipped" not in p.parts}
    configs = {f"detframe/shipped/{p.relative_to(ROOT)}" for p in (ROOT / "configs").rglob("*.yaml")}
    modules |= {str(p.relative_to(ROOT)) for p in (ROOT / "detframe/config/foreign").glob("*.yaml")}
    for templates in ("report/templates", "contracts/templates"):
        modules |= {str(p.relative_to(ROOT)) for p in (ROOT / "detframe" / templates).iterdir()}
    modules.add("detframe/py.typed")  # type checkers of those who use detframe read its annotations
    assert modules | configs <= names and "detframe/config/foreign/detectron2.yaml" in modules
    assert {"detframe/shipped/datasets/catalog.yaml", "detframe/shipped/datasets/make_shapes.py"} <= names
    rest = {n for n in names - modules - configs if not n.startswith(f"detframe-{__version__}.dist-info/")}
    assert all(Path(n).parent.as_posix() == "detframe/shipped/datasets" for n in rest), rest
    assert "detframe/shipped/datasets/generated.yaml" not in names


def test_the_metadata(wheel: Path):
    with zipfile.ZipFile(wheel) as archive:
        info = f"detframe-{__version__}.dist-info"
        metadata = archive.read(f"{info}/METADATA").decode()
        scripts = archive.read(f"{info}/entry_points.txt").decode()
        assert f"{info}/licenses/LICENSE" in archive.namelist()
    assert "detframe = detframe.cli.main:main" in scripts
    assert "Requires-Dist: torch!=2.13.0,>=2.6" in metadata and "Requires-Python: >=3.11" in metadata
    runtime = [line for line in metadata.splitlines() if line.startswith("Requires-Dist:") and "extra ==" not in line]
    assert not any(tool in line for line in runtime for tool in ("pytest", "ruff", "mypy"))
    assert not any("<" in line for line in runtime), "no upper bounds"


def test_the_installed_command_finds_its_configs_from_anywhere(installed: Path, tmp_path: Path, run_python):
    main = ("-m", "detframe.cli.main")
    shown = run_python(*main, "--help", cwd=tmp_path, PYTHONPATH=str(installed))
    assert shown.returncode == 0 and "quickstart" in shown.stdout
    words = ("train", "--config-file", "configs/faster_rcnn/faster_rcnn_R_50_FPN_1x.yaml")
    where = run_python(*main, *words, "--print-config", "SOLVER.MAX_ITER", cwd=tmp_path, PYTHONPATH=str(installed))
    assert f"{installed}/detframe/shipped/configs/Base-Faster-RCNN-FPN.yaml" in where.stdout, where.stderr


def test_the_source_distribution_builds_the_same(source: Path, wheel: Path, tmp_path: Path):
    code = f"from setuptools import build_meta; print(build_meta.build_sdist({str(tmp_path)!r}))"
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    archive = tmp_path / done.stdout.strip().splitlines()[-1]
    command = [*PIP, "wheel", str(archive), "--no-deps", "--no-build-isolation", "--quiet", "-w", str(tmp_path)]
    subprocess.run(command, check=True, capture_output=True)
    again = zipfile.ZipFile(next(tmp_path.glob("*.whl"))).namelist()
    assert sorted(again) == sorted(zipfile.ZipFile(wheel).namelist())


def test_the_version_stands_in_one_place():
    assert "version" not in (ROOT / "setup.py").read_text(encoding="utf-8").lower()
    assert __version__ not in (ROOT / "pyproject.toml").read_text(encoding="utf-8")


def test_the_build_does_not_import_torch():
    for name in ("setup.py", "detframe/__init__.py"):
        assert "import torch" not in (ROOT / name).read_text(encoding="utf-8")
