"""The config inside somebody's checkpoint imports nothing without consent."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from detframe.config import carried_config, get_cfg, import_carried_modules, import_custom_modules

REGISTRATION = "from pathlib import Path\nPath({trace!r}).write_text('run')\n"


@pytest.fixture
def code(tmp_path, monkeypatch):
    """A function that writes a Python file which leaves a trace when it runs; and the trace."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    trace = tmp_path / "trace"

    def write(path: str, extra: str = "") -> Path:
        file = tmp_path / path
        file.parent.mkdir(exist_ok=True)
        file.write_text(REGISTRATION.format(trace=str(trace)) + extra)
        return file

    return write, trace


def refused(names, source, words):
    with pytest.raises(ValueError, match=words) as caught:
        import_carried_modules(names, source)
    assert all(word in str(caught.value) for word in ("--allow-custom-imports", "allow_custom_imports=True", *names))


def test_a_file_beside_the_checkpoint(code, tmp_path):
    write, trace = code
    file, source = write("theirs/net_beside.py"), tmp_path / "theirs" / "model.pth"
    refused(["/their/machine/net_beside.py"], source, rf"CUSTOM_IMPORTS:\n.*the file {file}")
    assert not trace.exists()
    import_carried_modules(["/their/machine/net_beside.py"], source, allow=True)
    assert trace.exists()


def test_a_file_or_module_of_the_working_folder(code, tmp_path):
    """A name that the caller's folder happens to have is not what the caller has imported."""
    write, trace = code
    write("work/net_of_work.py")
    refused(["net_of_work.py"], tmp_path / "model.pth", "net_of_work.py: |the file .*work/net_of_work.py")
    refused(["/elsewhere/net_of_work.py"], tmp_path / "model.pth", "the file .*work/net_of_work.py")
    refused(["net_of_work"], tmp_path / "model.pth", "a module, wherever Python finds it")
    assert not trace.exists() and "net_of_work" not in sys.modules


def test_an_absolute_path_and_what_is_not_there(code, tmp_path):
    write, trace = code
    file = write("other/net_absolute.py")
    refused([str(file)], tmp_path / "model.pth", f"the file {file}")
    refused(["/not/there.py", "no.such.module"], tmp_path / "model.pth", "a file that is not here\n.*a module")
    assert not trace.exists()


def test_an_installed_module_is_code_too(tmp_path):
    assert "antigravity" not in sys.modules
    refused(["antigravity"], tmp_path / "model.pth", "antigravity")
    assert "antigravity" not in sys.modules


def test_what_the_caller_imported_needs_no_consent(code, tmp_path, monkeypatch):
    write, trace = code
    file = write("work/net_of_mine.py")
    import_custom_modules(["net_of_mine.py"])
    trace.unlink()
    import_carried_modules([str(file)], tmp_path / "model.pth")  # the path that a run's own config.yaml has
    import_carried_modules(["net_of_mine.py", "sys"], tmp_path / "model.pth")
    monkeypatch.syspath_prepend(str(tmp_path / "work"))
    write("work/net_by_import.py")
    __import__("net_by_import")
    trace.unlink()
    import_carried_modules(["net_by_import", str(tmp_path / "work" / "net_by_import.py")], tmp_path / "model.pth")
    assert not trace.exists()


def test_a_file_that_moved_with_the_checkpoint(code, tmp_path, monkeypatch):
    """Where the caller imported it from another place, the same content is the same code, and other content is not."""
    write, trace = code
    original = write("work/net_moved.py", "# the same")
    import_custom_modules([str(original)])
    write("theirs/net_moved.py", "# the same")
    monkeypatch.chdir(tmp_path)
    trace.unlink()
    import_carried_modules(["/gone/net_moved.py"], tmp_path / "theirs" / "model.pth")
    assert not trace.exists()
    write("theirs/net_moved.py", "# not the same")
    refused(["/gone/net_moved.py"], tmp_path / "theirs" / "model.pth", "theirs/net_moved.py")
    assert not trace.exists()


@pytest.mark.parametrize("name", ["", ".relative", "a b", "a..b", "1", "a/b"])
def test_names_of_nothing(name, tmp_path):
    with pytest.raises(ValueError, match="neither a file"):
        import_custom_modules([name])
    refused([name], tmp_path / "model.pth", "CUSTOM_IMPORTS")


# ---------------------------------------------------------------------- carried configs
def test_a_carried_config_is_read_and_imports_nothing(code, tmp_path):
    write, trace = code
    cfg = get_cfg()
    cfg.CUSTOM_IMPORTS = (str(write("work/net_in_config.py")),)
    assert carried_config(cfg.dump(), "model.pth").CUSTOM_IMPORTS == cfg.CUSTOM_IMPORTS
    assert not trace.exists()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "model.pth is a NoneType, not text"),
        (b"SEED: 0", "is a bytes"),
        ("_BASE_: /etc/passwd", r"_BASE_"),
        ('"\\x5fBASE_": configs/Base.yaml', r"_BASE_"),
        ("a: &a [1, 1]\nSEED: " + "[" * 100_000, r"nest"),
        ("SEED: [", r"cannot read the config in it: .*YAML"),
        ("SEEED: 0", r"written by detframe 9\.9, and .*SEEED"),
        ("SEED: much", "SEED"),
    ],
)
def test_what_is_no_config(text, words):
    with pytest.raises(ValueError, match=words) as caught:
        carried_config(text, "model.pth", "9.9")
    assert "model.pth" in str(caught.value)


@pytest.mark.parametrize("name", ["~nobody_of_that_name/net.py", "n" * 300 + ".py"])
def test_names_that_no_file_can_have(code, tmp_path, name):
    """The system refuses to look for them, which is no reason to end otherwise than with the list."""
    refused([name], tmp_path / "model.pth", "a file that is not here")
    with pytest.raises(FileNotFoundError, match=r"CUSTOM_IMPORTS names .*there is no such file"):
        import_custom_modules([name])


def test_values_that_no_key_may_have():
    cfg = get_cfg()
    cfg.INPUT.PIXEL_STD = (float("nan"),) * 3
    with pytest.raises(ValueError, match=r"(?s)a\.pth was written by detframe 1\.2.*INPUT\.PIXEL_STD"):
        carried_config(cfg.dump(), "a.pth", "1.2")
