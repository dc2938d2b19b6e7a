"""What surrounds the code: workflows, forms, versions, and what a release is made with."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from detframe import __version__
from tests.scripts import load_script

ROOT = Path(__file__).resolve().parent.parent
FORMS = sorted(path for path in (ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml") if path.stem != "config")
SCHEMAS = {
    "github-workflows": sorted((ROOT / ".github/workflows").glob("*.yml")),
    "github-issue-forms": FORMS,
    "github-issue-config": [ROOT / ".github/ISSUE_TEMPLATE/config.yml"],
    "dependabot": [ROOT / ".github/dependabot.yml"],
    "citation-file-format": [ROOT / "CITATION.cff"],
}


@pytest.fixture(scope="module")
def release() -> ModuleType:
    return load_script("tools/release.py")


def schema_says(schema: str, *paths: Path) -> subprocess.CompletedProcess[str]:
    pytest.importorskip("check_jsonschema", reason="the schemas come with check-jsonschema")
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", f"vendor.{schema}", *map(str, paths)]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.mark.parametrize("schema", SCHEMAS)
def test_files_fit_the_schema_of_their_tool(schema: str) -> None:
    done = schema_says(schema, *SCHEMAS[schema])
    assert SCHEMAS[schema] and done.returncode == 0, done.stdout


def test_a_workflow_that_does_not_fit_is_seen(tmp_path: Path) -> None:
    (tmp_path / "ci.yml").write_text("on: push\njobs: {test: {steps: [{runs: make}]}}\n", encoding="utf-8")
    assert schema_says("github-workflows", tmp_path / "ci.yml").returncode != 0


def test_what_workflows_run_is_there() -> None:
    commands = [
        step["run"]
        for path in SCHEMAS["github-workflows"]
        for job in yaml.safe_load(path.read_text(encoding="utf-8"))["jobs"].values()
        for step in job["steps"]
        if "run" in step
    ]
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for command in commands:
        assert set(re.findall(r"\bmake ([\w-]+)", command)) <= targets, command
        named = re.findall(r"(?:^|\s)((?:tools|tests|\.ci)/[\w./-]+)", command)
        assert all((ROOT / name).exists() for name in named), command


def test_ci_tries_both_ends_of_what_is_supported() -> None:
    matrices = [job["strategy"]["matrix"] for job in _workflow("ci")["jobs"].values() if "strategy" in job]
    pythons = {version for matrix in matrices for version in matrix.get("python", [])}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    oldest = project["requires-python"].removeprefix(">=")
    assert {oldest, "3.13"} <= pythons
    torches = [words.split()[0] for matrix in matrices for words in matrix.get("torch", [])]
    lower = next(re.match(r"torch>=([\d.]+)", line)[1] for line in project["dependencies"] if line.startswith("torch>"))
    assert torches == [f"torch=={lower}.0", "torch"]


def test_a_tag_is_published_without_a_stored_token() -> None:
    workflow = _workflow("release")
    publish = workflow["jobs"]["publish"]
    assert "github.ref_type == 'tag'" in publish["if"] and publish["permissions"]["id-token"] == "write"
    assert "secrets." not in (ROOT / ".github/workflows/release.yml").read_text(encoding="utf-8")


def _workflow(name: str) -> dict:
    return yaml.safe_load((ROOT / f".github/workflows/{name}.yml").read_text(encoding="utf-8"))


# ---------------------------------------------------------------------------------------------- versions
@pytest.fixture
def copy(tmp_path: Path) -> Path:
    (tmp_path / "detframe").mkdir()
    for name in ("detframe/__init__.py", "CITATION.cff", "CHANGELOG.md"):
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def test_everything_is_of_one_version(release: ModuleType) -> None:
    assert list(release.disagreements(ROOT, "")) == []


def test_a_release_whose_parts_differ_is_refused(release: ModuleType, copy: Path) -> None:
    cited = (copy / "CITATION.cff").read_text(encoding="utf-8").replace(f"version: {__version__}", "version: 0.0.9")
    (copy / "CITATION.cff").write_text(cited, encoding="utf-8")
    wrong = "\n".join(release.disagreements(copy, "v9.0.0"))
    assert f"CITATION.cff says version 0.0.9, detframe/__init__.py {__version__}" in wrong
    assert f"the tag must be v{__version__}" in wrong


def test_a_tag_needs_its_heading_in_the_changelog(release: ModuleType, copy: Path) -> None:
    changelog = copy / "CHANGELOG.md"
    changelog.write_text("# Changelog\n\n## Unreleased\n\n- new\n", encoding="utf-8")
    assert f"give what is unreleased the heading ## {__version__}" in " ".join(
        release.disagreements(copy, f"v{__version__}")
    )
    changelog.write_text(f"# Changelog\n\n## {__version__} (2027-01-31)\n\n- new\n", encoding="utf-8")
    assert list(release.disagreements(copy, f"v{__version__}")) == []


SETUP = """
import setuptools
setuptools.setup = lambda **words: print(words["project_urls"])
__file__ = "setup.py"
exec(open(__file__).read())
"""


@pytest.mark.parametrize(
    ("repository", "expected"),
    [("", "{}"), ("https://example.org/us/detframe/", "'Issues': 'https://example.org/us/detframe/issues'")],
)
def test_links_of_a_release_lead_into_its_repository(repository: str, expected: str) -> None:
    words = {"env": {"DETFRAME_REPOSITORY": repository}, "capture_output": True, "text": True}
    done = subprocess.run([sys.executable, "-c", SETUP], cwd=ROOT, **words)
    assert expected in done.stdout and done.returncode == 0, done.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="the workflow runs on Linux")
def test_the_root_has_the_page_for_addresses_that_lead_nowhere(tmp_path: Path) -> None:
    """The step of .github/workflows/site.yml: with main alone, again without a change, and after a release."""
    script = _workflow("site")["jobs"]["deploy"]["steps"][-1]["run"]
    remote, clone = tmp_path / "remote.git", tmp_path / "clone"
    git = ["git", "-C", str(clone)]
    subprocess.run(["git", "init", "-q", "--bare", str(remote)], check=True)
    subprocess.run(["git", "init", "-q", "-b", "gh-pages", str(clone)], check=True)
    for words in (
        ["remote", "add", "origin", str(remote)],
        ["config", "user.name", "a"],
        ["config", "user.email", "a@b"],
    ):
        subprocess.run([*git, *words], check=True)
    for text, version in (("of main", "main"), ("of main", "main"), ("of 1.0", "1.0")):
        subprocess.run([*git, "checkout", "-q", "gh-pages"], check=version != "main")
        (clone / version).mkdir(exist_ok=True)
        (clone / version / "404.html").write_text(text)
        if version == "1.0":
            (clone / "latest").symlink_to("1.0")
        subprocess.run([*git, "add", "-A"], check=True)
        subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", version], check=True)
        subprocess.run([*git, "checkout", "-q", "--detach"], check=True)
        subprocess.run(["bash", "-e", "-c", script], cwd=clone, check=True, capture_output=True)
        subprocess.run([*git, "worktree", "remove", "../pages"], check=True)
        shown = subprocess.run(["git", "-C", str(remote), "show", "gh-pages:404.html"], capture_output=True, text=True)
        assert shown.stdout == text


def test_every_folder_of_tests_is_a_package(root: Path):
    """Else two files of one name in two folders are one module to Python, of which pytest refuses the second."""
    folders = {path.parent for path in (root / "tests").rglob("test_*.py")}
    assert len(folders) > 20 and not [folder for folder in folders if not (folder / "__init__.py").is_file()]
