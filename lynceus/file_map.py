"""Files mapped into memory: read without a copy, and let go of piece by piece."""

import hashlib
import mmap
from typing import IO

PAGE = mmap.PAGESIZE
PIECE = 1 << 24  # bytes hashed before their memory is given back


class FileMap(mmap.mmap):
    """The bytes of a file, read-only; a page of them takes memory from when it is read until it is forgotten.

    It outlives the file it was made from being closed or removed. The file must not become shorter meanwhile.
    """

    def forget(self, first: int, last: int) -> None:
        """Give back the memory that the bytes from `first` to before `last` take; they can be read again."""
        start = first // PAGE * PAGE
        length = last // PAGE * PAGE - start  # the page that `last` is on will be read next
        if length > 0 and hasattr(mmap, "MADV_DONTNEED"):
            self.madvise(mmap.MADV_DONTNEED, start, length)


FileBytes = bytes | FileMap


def map_file(file: IO[bytes]) -> FileBytes:
    """Map an open file into memory.

    Parameters
    ----------
    file : binary file
        What was written to it must have been flushed. It may be closed afterwards.

    Returns
    -------
    bytes or FileMap
        All of it, wherever the file stands; bytes where it is empty or cannot be mapped.
    """
    try:
        return FileMap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError):
        file.seek(0)
        return file.read()


def forget(data: FileBytes, first: int, last: int) -> None:
    """Give back the memory of some bytes of a mapped file; nothing happens to bytes that are no file's."""
    if isinstance(data, FileMap):
        data.forget(first, last)


def sha256_of(data: FileBytes) -> str:
    """SHA-256 of all the bytes, hexadecimal; no more than a piece of a mapped file is in memory at a time."""
    digest = hashlib.sha256()
    with memoryview(data) as view:
        for start in range(0, len(data), PIECE):
            digest.update(view[start : start + PIECE])
            forget(data, start, start + PIECE)
    return digest.hexdigest()
