"""A bounded file of JSON lines: what was compared, newest last."""

import logging
from pathlib import Path
from typing import Any

import orjson

logger = logging.getLogger(__name__)


class Journal:
    """Lines in a file and, once it is half full, in one older file beside it (`.1`).

    A disk that is full or gone costs lines, never an answer; it is logged once, until it works again.

    Parameters
    ----------
    path : Path or None
        Of the newer file; None to write nothing.
    max_bytes : int
        Of both files together.
    """

    def __init__(self, path: Path | None, max_bytes: int) -> None:
        self.path = path
        self.max_bytes = max_bytes
        self._failing = False

    def write(self, line: dict[str, Any]) -> None:
        """Append a line."""
        if self.path is None:
            return
        data = orjson.dumps(line) + b"\n"
        try:
            self._turn_over(self.path, len(data))
            with self.path.open("ab") as file:
                file.write(data)
            self._failing = False
        except OSError as error:
            if not self._failing:
                logger.warning("the journal of the canary cannot be written: %s", error)
            self._failing = True

    def _turn_over(self, path: Path, coming: int) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and path.stat().st_size + coming > self.max_bytes // 2:
            path.replace(path.with_name(path.name + ".1"))
