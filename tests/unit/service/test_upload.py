"""What the disk does to an upload."""

import errno
from contextlib import closing
from functools import partial
from typing import Any

import pytest

from lynceus.fits_file import BEGINNING
from service import upload as module
from service.refusals import DiskFullError
from service.upload import Upload


class FullFile:
    """A file on a disk without room: a buffered one finds out late, and once more when it is closed."""

    def __init__(self, *, late: bool) -> None:
        self.late = late

    def write(self, data: bytes) -> int:
        return len(data) if self.late else self.flush()

    def flush(self) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")

    close = flush


@pytest.mark.parametrize("late", [False, True])
def test_a_full_disk_is_told_and_the_upload_lets_go_of_everything(monkeypatch: pytest.MonkeyPatch, late: bool) -> None:
    monkeypatch.setattr(module, "TemporaryFile", lambda: FullFile(late=late))
    closed: list[int] = []
    upload = Upload(lambda: closed.append(1), ("frame", "mask"))
    parts = [upload.begin("frame"), upload.begin("mask")]
    step = parts[0].end if late else partial(parts[0].write, b"SIMPLE  =                    T" * 100)
    with pytest.raises(DiskFullError):
        step()
    upload.close()
    assert closed == [1]


def test_without_a_place_for_files_at_all_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def full() -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module, "TemporaryFile", full)
    with pytest.raises(DiskFullError):
        Upload().begin("frame")


def test_the_beginning_of_the_frame_is_shown_until_enough_of_it_was_seen() -> None:
    seen: list[int] = []

    def look(begun: bytes) -> bool:
        seen.append(len(begun))
        return len(begun) > 10_000

    with closing(Upload(allowed=("frame", "mask"), look=look)) as upload:
        frame, mask = upload.begin("frame"), upload.begin("mask")
        for _ in range(200):
            frame.write(b"SIMPLE  =                    T" + b" " * 130)
            mask.write(b"SIMPLE  =                    T" + b" " * 130)
        frame.end()
        assert seen == [2880, 5760, 11520]
        assert len(frame.read()) == len(mask.read()) == 200 * 160


def test_no_more_than_the_beginning_is_shown() -> None:
    seen: list[int] = []

    def look(begun: bytes) -> bool:
        seen.append(len(begun))
        return False

    with closing(Upload(look=look)) as upload:
        frame = upload.begin("frame")
        frame.write(b"SIMPLE  =                    T" + b" " * BEGINNING)
        frame.write(b" " * 4 * BEGINNING)
        assert seen == [BEGINNING]
