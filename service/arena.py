"""Memory that a process shares with one that it starts: nameless, so it is gone when both are, however they end."""

import math
import mmap
import os
import tempfile
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Shape = tuple[int, ...]
ITEM = np.dtype(np.float32).itemsize


class Arena:
    """A piece of memory that arrays of float32 are laid out in, one after the other.

    Parameters
    ----------
    descriptor : int or None
        Of the piece that another process laid out; None for a new one.
    """

    def __init__(self, descriptor: int | None = None) -> None:
        self.descriptor = _nameless() if descriptor is None else descriptor
        self._memory: mmap.mmap | None = None

    def arrays(self, shapes: Sequence[Shape]) -> list[NDArray[np.float32]]:
        """Arrays of these shapes, the same for all who share the memory; what they held before is overwritten.

        Who writes must have asked for them before who reads does.

        Raises
        ------
        MemoryError
            If there is no room for them.
        """
        counts = [math.prod(shape) for shape in shapes]
        memory, start, found = self._room(sum(counts) * ITEM), 0, []
        for shape, count in zip(shapes, counts, strict=True):
            found.append(np.frombuffer(memory, np.float32, count, start * ITEM).reshape(shape))
            start += count
        return found

    def close(self) -> None:
        """Give up this process's share, once no array of it is used any more."""
        self._memory = None
        os.close(self.descriptor)

    def _room(self, size: int) -> mmap.mmap:
        if self._memory is None or len(self._memory) < size:
            try:
                if os.fstat(self.descriptor).st_size < size:
                    os.truncate(self.descriptor, size)
                self._memory = mmap.mmap(self.descriptor, size)
            except OSError as error:
                raise MemoryError(f"there is no room for {size} bytes of tiles: {error.strerror}") from error
        return self._memory


def _nameless() -> int:
    """A file in memory; where the system has none, one in the folder for temporary files, under no name."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("lynceus-tiles")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())
