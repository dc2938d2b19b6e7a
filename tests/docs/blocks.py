"""The code blocks of a page that say which file they are."""

from __future__ import annotations

import re

BLOCK = re.compile(r"^<!-- file: (\S+) -->\n```\w+\n(.*?)^```", flags=re.DOTALL | re.MULTILINE)
