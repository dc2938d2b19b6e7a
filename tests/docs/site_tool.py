"""tools/docs_site.py as a module."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

_spec = importlib.util.spec_from_file_location(
    "docs_site", Path(__file__).resolve().parents[2] / "tools" / "docs_site.py"
)
SITE = importlib.util.module_from_spec(_spec)
sys.modules["docs_site"] = SITE
_spec.loader.exec_module(SITE)
