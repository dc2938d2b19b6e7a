"""The adapters are there for those who ask for them, and say what is missing."""

from __future__ import annotations

import sys

import pytest

from detframe.errors import MissingModuleError

ADAPTERS = {"detframe.integrations.sahi": "sahi", "detframe.integrations.fiftyone": "fiftyone"}


def test_neither_detframe_nor_the_detector_imports_an_adapter_or_its_library(run_python):
    code = (
        "import sys, detframe, detframe.inference; detframe.inference.Detector; "
        "print([m for m in sys.modules if m.split('.')[0] in ('sahi', 'fiftyone', 'supervision', 'trackers', 'pandas')"
        " or m.startswith('detframe.integrations')])"
    )
    result = run_python("-c", code)
    assert result.returncode == 0 and result.stdout.strip() == "[]", result.stderr


@pytest.mark.parametrize(("module", "library"), ADAPTERS.items())
def test_a_missing_library_is_named_with_the_way_to_install_it(monkeypatch, module, library):
    for name in [name for name in sys.modules if name == module or name.split(".")[0] == library]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, library, None)  # as if it were not installed
    with pytest.raises(MissingModuleError, match=rf"{module} needs {library}.*pip install {library}$"):
        __import__(module)
    assert module not in sys.modules
