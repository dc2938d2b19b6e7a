"""Packages that bring modules and keys by being installed: found, recorded, and named where they are missing."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from detframe import registry
from detframe.config import carried_config, get_cfg, import_carried, import_modules, plugins, read_config
from detframe.config.check import needed_plugins
from detframe.config.keys import ADDED

pytestmark = pytest.mark.usefixtures("own_sections")
CODE = """
from detframe import registry
from detframe.config import Key, add_section, section
add_section("MODEL.CROPS", section(WIDTH=Key(16, "Channels", at_least=8, ceiling=999)))
@registry.BACKBONES.register("crops-net")
def build(cfg):
    return None
"""
Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """A function that installs a package with one module and an entry point; all is as before after the test."""
    monkeypatch.chdir(tmp_path)
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(str(site))
    for name, value in (("_tried", {}), ("_told", set())):
        monkeypatch.setattr(plugins, name, value)
    monkeypatch.setattr(registry, "_missing", {})
    for known in (registry.BACKBONES._members, registry.BACKBONES._registrars, ADDED):
        for key in ("crops-net", "MODEL.CROPS"):
            monkeypatch.delitem(known, key, raising=False)
            monkeypatch.setitem(known, key, None)  # so that the end of the test takes it away
            del known[key]
    plugins._declared_on.cache_clear()

    def write(package: str, code: str, value: str = "", version: str = "1.2") -> None:
        module = package.replace("-", "_")
        (site / f"{module}.py").write_text(code)
        monkeypatch.delitem(sys.modules, module, raising=False)
        info = site / f"{module}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n")
        (info / "entry_points.txt").write_text(f"[detframe.plugins]\nmine = {value or module}\n")
        plugins._declared_on.cache_clear()

    return write


def test_members_and_keys_are_there_and_the_package_is_recorded(install: Install):
    install("plug-crops", CODE)
    Path("c.yaml").write_text("MODEL:\n  CROPS: {WIDTH: 8}\n  BACKBONE: {CONV_BODY: crops-net}\n")
    cfg = read_config("c.yaml", ["MODEL.CROPS.WIDTH", 24])
    assert cfg.MODEL.CROPS.WIDTH == 24 and "crops-net" in registry.BACKBONES
    assert needed_plugins(cfg) == ("plug-crops==1.2",)
    assert needed_plugins(read_config("", ["MODEL.BACKBONE.CONV_BODY", "crops-net"])) == ("plug-crops==1.2",)
    assert needed_plugins(read_config("", ["MODEL.CROPS.WIDTH", 16])) == ("plug-crops==1.2",)
    with pytest.raises(ValueError, match=r"MODEL\.CROPS\.WIDTH must be 8 or more"):
        read_config("c.yaml", ["MODEL.CROPS.WIDTH", 1])
    assert plugins.plugin_lines() == [(20, "plugins: plug-crops 1.2 (entry point mine = plug_crops)")]


def test_what_nothing_uses_is_neither_recorded_nor_written(install: Install):
    install("plug-crops", CODE)
    cfg = read_config()
    assert cfg.MODEL.CROPS.WIDTH == 16 and needed_plugins(cfg) == ()
    assert " CROPS:" not in cfg.dump()
    cfg = read_config("", ["PLUGINS", "plug_crops"])
    assert needed_plugins(cfg) == ("plug-crops==1.2",) and " CROPS:" in cfg.dump()


def test_a_function_is_called_and_a_package_is_imported_once(install: Install):
    install("plug-calls", "def bring():\n    calls.append(1)\ncalls = []\n", "plug_calls:bring")
    for _ in range(2):
        import_modules(get_cfg())
    assert sys.modules["plug_calls"].calls == [1]


def test_a_package_that_cannot_be_imported_stops_those_alone_who_need_it(install: Install):
    install("plug-broken", "import not_there_at_all")
    cfg = read_config()  # needs none
    ((level, line),) = plugins.plugin_lines()
    why = (
        "its entry point mine = plug_broken cannot be imported: ModuleNotFoundError: No module named 'not_there_at_all'"
    )
    assert (level, line) == (30, f"the plugin plug-broken==1.2 is not used: {why}")
    with pytest.raises(
        KeyError, match=r"has no 'crops-net' .* It may be of plug-broken==1\.2: its entry point mine = "
    ):
        registry.BACKBONES.get("crops-net")
    with pytest.raises(KeyError, match=r"MODEL\.CROPS\.WIDTH .*It may be of plug-broken==1\.2: its entry point"):
        read_config("", ["MODEL.CROPS.WIDTH", 8])
    with pytest.raises(KeyError, match=r"SOLVER\.BASE_RL \(an override\); did you mean 'SOLVER\.BASE_LR'.*\?'?$"):
        read_config("", ["SOLVER.BASE_RL", 8])
    Path("c.yaml").write_text("PLUGINS: [plug-broken]\n")
    with pytest.raises(ImportError, match=r"PLUGINS \(from c\.yaml:1\) names plug-broken: its entry point mine"):
        read_config("c.yaml")
    assert cfg.dump() == read_config().dump()


def test_a_package_that_ends_the_program_does_not(install: Install):
    install("plug-exits", "raise SystemExit(3)")
    read_config()
    assert "SystemExit: 3" in plugins.plugin_lines()[0][1]


@pytest.mark.parametrize(
    ("written", "why"),
    [
        ("plug-gone==2.0", r"names plug-gone==2\.0: the package is not installed here; pip install 'plug-gone==2\.0'"),
        ("yacs", r"names yacs: version \S+ is installed, and declares no entry point of the group 'detframe\.plugins'"),
        ("plug>=2", "PLUGINS names 'plug>=2'; a package is written as NAME or NAME==VERSION"),
    ],
)
def test_what_is_asked_for_must_be_there(install: Install, written: str, why: str):
    with pytest.raises((ImportError, ValueError), match=why):
        read_config("", ["PLUGINS", written])


def test_another_version_is_said_once(install: Install, caplog: pytest.LogCaptureFixture):
    install("plug-crops", CODE)
    for _ in range(2):
        read_config("", ["PLUGINS", "plug-crops==1.0"])
    assert caplog.messages == ["PLUGINS names plug-crops==1.0; version 1.2 of it is installed here"]


def test_a_checkpoint_needs_what_its_config_needs(install: Install):
    install("plug-other", "raise RuntimeError('nobody asked for this')")
    plain = carried_config("PLUGINS: []\n", "model.pth")
    import_carried(plain, "model.pth")
    assert plugins._tried == {}  # those alone that it names
    logger_only = carried_config("PLUGINS: [plug-gone==2.0]\n", "model.pth")
    import_carried(logger_only, "model.pth")  # it may not be needed here
    needs = carried_config("MODEL:\n  CROPS: {WIDTH: 8}\nPLUGINS: [plug-gone==2.0]\n", "model.pth")
    with pytest.raises(KeyError, match=r"MODEL\.CROPS\.WIDTH \(the config in model\.pth:2\).*pip install 'plug-gone=="):
        import_carried(needs, "model.pth")
    needs.complete(leniently=True)
    install("plug-gone", CODE, version="2.0")
    fine = carried_config("MODEL:\n  CROPS: {WIDTH: 8}\nPLUGINS: [plug-gone==2.0]\n", "model.pth")
    import_carried(fine, "model.pth")
    assert fine.MODEL.CROPS.WIDTH == 8


def test_the_owner_of_a_module_is_the_nearest_package(install: Install):
    install("plug-one", "", "plug_space.one.plugin")
    install("plug-two", "", "plug_space.two:bring")
    found = [plugins.owner(name) for name in ("plug_space.two.net", "plug_space.one", "elsewhere", "detframe.x")]
    assert [plugin and plugin.package for plugin in found] == ["plug-two", "plug-one", None, None]


def test_help_looks_for_no_plugins(install: Install, tmp_path: Path):
    install("plug-crops", f"open({str(tmp_path / 'trace')!r}, 'w')")
    code = f"import sys; sys.path.insert(0, {str(tmp_path / 'site')!r}); import detframe.config as c; c.get_cfg()"
    ask = "; sys.exit('importlib.metadata' in sys.modules or 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code + ask], capture_output=True, text=True)
    assert done.returncode == 0 and not (tmp_path / "trace").exists(), done.stderr
