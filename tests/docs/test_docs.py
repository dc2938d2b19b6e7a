"""The docs say what is so: links lead somewhere, keys and commands exist, the reference is up to date."""

from __future__ import annotations

import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import yaml

from detframe.cli.main import COMMANDS, main
from detframe.config import get_cfg
from detframe.config.foreign import PROGRAMS
from detframe.config.reference import reference_page

ROOT = Path(__file__).resolve().parents[2]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
KEYS = {key for key, _ in get_cfg().leaves()}
SECTIONS = {key.rpartition(".")[0] for key in KEYS}


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def blocks(path: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", path.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)


def test_the_config_reference_is_up_to_date():
    page = (ROOT / "docs" / "config_reference.md").read_text(encoding="utf-8")
    assert page == reference_page(), "run `make docs`"
    assert subprocess.run([sys.executable, str(ROOT / "tools" / "make_docs.py"), "--check"]).returncode == 0


def test_tables_and_plots_of_runs_are_up_to_date():
    made = subprocess.run([sys.executable, str(ROOT / "tools" / "make_runs.py"), "--check"])
    assert made.returncode == 0, "run `make docs`"


def test_links_lead_somewhere():
    missing = []
    for page in PAGES:
        text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
        targets = [t for t in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text) if "://" not in t]
        missing += [f"{name(page)}: {t}" for t in targets if not (page.parent / t).exists()]
    assert not missing


def test_the_index_lists_every_page_once():
    """It is the navigation of the site as well (tools/docs_site.py)."""
    listed = re.findall(
        r"^- \[[^\]]+\]\(([^)]+)\)", (ROOT / "docs" / "index.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    pages = [page.name for page in (ROOT / "docs").glob("*.md") if page.name != "index.md"]
    assert sorted(target for target in listed if not target.startswith("../")) == sorted(pages)
    assert {"../MODEL_ZOO.md", "../CHANGELOG.md"} <= set(listed)


def test_nothing_in_pages_is_taken_for_a_tag():
    """`<name>` outside code is HTML, and vanishes."""
    wrong = []
    for page in PAGES:
        text = re.sub(
            r"^( *)```.*?^\1```|<!--.*?-->|`[^`\n]*`", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.M
        )
        wrong += [f"{name(page)}: {tag}" for tag in re.findall(r"</?\w[^>\n]*>", text) if "://" not in tag]
    assert not wrong


def test_keys_that_pages_name_exist():
    assert not [f"{name(page)}: {key}" for page in PAGES for key in unknown_keys(page)]


def unknown_keys(page: Path) -> list[str]:
    text = page.read_text(encoding="utf-8")
    roots = "MODEL|INPUT|DATASETS|DATALOADER|SOLVER|TEST"
    named = set(re.findall(rf"\b(?:{roots})\.[A-Z0-9_.]*[A-Z0-9_]\b", text))
    # how to move from other programs is told in their words as well
    theirs = {key for program in PROGRAMS for key in program.defaults} if page.name == "moving.md" else set()
    if page.name == "own_keys.md":
        theirs = {"MODEL.MY_BACKBONE", *re.findall(r"MODEL\.MY_BACKBONE\.(?:WIDTH|ACTIVATION)", text)}
    if page.name == "adding_a_loss.md":
        theirs = {"MODEL.MY_LOSSES", "MODEL.MY_LOSSES.EPSILON"}
    return sorted(key for key in named if key not in KEYS | SECTIONS | theirs)


def test_configs_in_pages_are_valid(tmp_path: Path):
    loaded = set()
    for page in PAGES:
        for number, block in enumerate(blocks(page, "yaml")):
            if not set(yaml.safe_load(block)) & {"MODEL", "DATASETS", "SOLVER", "_BASE_"}:
                continue  # a catalog
            file = tmp_path / f"{page.stem}_{number}.yaml"
            file.write_text(block, encoding="utf-8")
            get_cfg().merge_from_file(file)
            loaded.add(page.name)
    assert loaded >= {"README.md", "getting_started.md", "own_data.md", "adding_a_module.md"}


def test_scripts_and_configs_that_commands_name_exist():
    missing = []
    for page in PAGES:
        commands = "\n".join(blocks(page, "bash"))
        files = set(re.findall(r"\b(?:tools|datasets|configs)/[\w/.-]+\.(?:py|yaml)\b", commands))
        missing += [f"{name(page)}: {file}" for file in files if not (ROOT / file).is_file()]
    assert not missing


def test_commands_use_options_that_exist():
    """Every --option of a tools/ command in the docs is in the --help of that tool."""
    for page in PAGES:
        for command in re.findall(r"(tools/\w+\.py)((?: +[^\n#]*)?)", "\n".join(blocks(page, "bash"))):
            script, rest = ROOT / command[0], command[1]
            options = re.findall(r"(?<!\S)--[\w-]+", rest)
            if options and script.is_file():
                assert not [o for o in options if o not in help_of(script)], f"{name(page)}: {command}"


@cache
def help_of(script: Path) -> str:
    return subprocess.run([sys.executable, str(script), "--help"], capture_output=True, text=True).stdout


def test_commands_of_detframe_that_pages_name_exist(capsys: pytest.CaptureFixture[str]):
    """Every `detframe COMMAND --option` in the docs is in the --help of that command."""
    helps: dict[str, str] = {}
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        shell = "\n".join(blocks(page, "bash")).replace("\\\n", " ")
        inline = "\n".join(re.findall(r"`(detframe [^`]+)`", re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.M)))
        for command, rest in re.findall(
            r"^(?:\w+=\S+ |time )*detframe ([a-z][\w-]*)([^\n#|;]*)", f"{shell}\n{inline}", re.M
        ):
            assert command in COMMANDS, f"{name(page)}: detframe {command}"
            if command not in helps:
                with pytest.raises(SystemExit):
                    main([command, "--help"])
                helps[command] = capsys.readouterr().out
            for option in re.findall(r"(?<!\S)--[\w-]+", rest):
                assert re.search(rf"{option}(?![\w-])", helps[command]), f"{name(page)}: detframe {command} {option}"
    assert len(helps) > 15


def test_targets_of_make_that_pages_name_exist():
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))
    for page in PAGES:
        commands = "\n".join([*blocks(page, "bash"), *re.findall(r"`(make [\w-]+)`", page.read_text(encoding="utf-8"))])
        assert set(re.findall(r"^make ([\w-]+)", commands, flags=re.MULTILINE)) <= targets


def test_the_licence_is_whole():
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "Apache License" in text and "END OF TERMS AND CONDITIONS" in text
    assert len(text.split()) == 1581


def test_the_tests_and_experiments_of_the_reliability_page_exist():
    from tests.reliability.__main__ import EXPERIMENTS

    text = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
    files = set(re.findall(r"tests/[\w/]+\.py", text))
    assert len(files) > 20 and not [file for file in files if not (ROOT / file).is_file()]
    rows = re.findall(r"`python -m tests\.reliability (\w+)[^`]*`", text)
    assert rows == list(EXPERIMENTS)


def test_the_tests_that_pages_name_exist():
    """Their files, and what `-k` chooses of them."""
    for page in (*sorted((ROOT / "docs").glob("*.md")), ROOT / "README.md", ROOT / "MODEL_ZOO.md"):
        text = page.read_text(encoding="utf-8")
        named = set(re.findall(r"tests/[\w/]+\.py", text)) - set(re.findall(r"^cat > (\S+)", text, flags=re.MULTILINE))
        assert not [file for file in named if not (ROOT / file).is_file()], page.name
        for file, word in re.findall(r"`(?:python -m pytest -s )?(tests/[\w/]+\.py) -k (\w+)`", text):
            assert re.search(rf"def test_\w*{word}", (ROOT / file).read_text(encoding="utf-8")), (page.name, file, word)
