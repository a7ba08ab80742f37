"""Files and folders that appear whole or not at all, even if the process or the machine dies."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4


@contextmanager
def new_folder(target: Path, beside: Path | None = None) -> Iterator[Path]:
    """A folder that gets its name when the block ends well; other processes never see it half full.

    Parameters
    ----------
    target : Path
        Where it shall be.
    beside : Path or None
        Folder of the same file system where it is filled under a hidden name; that of `target` by default.

    Yields
    ------
    Path
        Where to write.

    Raises
    ------
    FileExistsError
        If there is something at `target` when the block ends.
    """
    partial = (beside or target.parent) / f".{target.name}.{uuid4().hex}.partial"
    partial.mkdir(parents=True)
    try:
        yield partial
        for path in (*partial.iterdir(), partial):
            sync(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        _rename(partial, target)
        for folder in target.parents[:2]:
            sync(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def write_whole(path: Path, data: bytes) -> None:
    """Replace a file in one step: a reader sees the old bytes or the new ones."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{uuid4().hex}.partial")
    try:
        partial.write_bytes(data)
        sync(partial)
        partial.replace(path)
        sync(path.parent)
    finally:
        partial.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Have a file or a folder on the disk before going on."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _rename(partial: Path, target: Path) -> None:
    """Rename a folder; the system refuses to put it over one that holds anything."""
    try:
        partial.rename(target)
    except OSError as error:
        if target.exists():
            raise FileExistsError(f"{target.name} exists already") from error
        raise
