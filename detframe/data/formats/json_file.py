"""Reading JSON files, with errors that say where."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from detframe.errors import InvalidValueError


def read_json(path: Path) -> Any:
    """What a JSON file holds.

    Raises:
        ValueError: malformed JSON (with line and column), or not UTF-8. The message names the file.
    """
    try:
        return json.loads(path.read_bytes())
    except json.JSONDecodeError as error:
        raise InvalidValueError(
            f"malformed JSON in {path}, line {error.lineno}, column {error.colno}: {error.msg}"
        ) from None
    except UnicodeDecodeError as error:
        raise InvalidValueError(f"{path} is not UTF-8 text: {error}") from None
