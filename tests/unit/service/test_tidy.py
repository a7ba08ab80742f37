"""Tidying: once for many answers, soon after them, and it frees what the heap keeps."""

import asyncio
import ctypes
import ctypes.util
import sys
from pathlib import Path

import pytest

from service import tidy as module
from service.tidy import Tidier, trim_heap

BLOCK = 64 * 1024  # bytes; under glibc's limit for blocks with a mapping of their own


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "EVERY", 0.02)


def test_answers_that_follow_each_other_share_one_tidying():
    trimmed: list[int] = []

    async def answers() -> None:
        tidier = Tidier(lambda: trimmed.append(1))
        for _ in range(5):
            tidier.note()
        await asyncio.sleep(0.1)
        assert len(trimmed) == 1
        tidier.note()
        await asyncio.sleep(0.1)
        tidier.close()

    asyncio.run(answers())
    assert len(trimmed) == 2


def test_nothing_is_tidied_after_the_end():
    trimmed: list[int] = []

    async def answers() -> None:
        tidier = Tidier(lambda: trimmed.append(1))
        tidier.note()
        tidier.close()
        await asyncio.sleep(0.1)

    asyncio.run(answers())
    assert trimmed == []


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


@pytest.mark.skipif(sys.platform != "linux" or module._malloc_trim() is None, reason="not glibc")
def test_what_is_free_below_a_block_in_use_goes_back_to_the_system():
    heap = ctypes.CDLL(None)
    heap.malloc.restype, heap.malloc.argtypes, heap.free.argtypes = (
        ctypes.c_void_p,
        [ctypes.c_size_t],
        [ctypes.c_void_p],
    )
    blocks = [heap.malloc(BLOCK) for _ in range(2000)]
    for block in blocks:
        ctypes.memset(block, 1, BLOCK)
    for block in blocks[:-1]:
        heap.free(block)
    before = resident()
    trim_heap()
    assert before - resident() > 1500 * BLOCK
    heap.free(blocks[-1])


def test_without_glibc_there_is_nothing_to_call(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    assert module._malloc_trim.__wrapped__() is None
