import os
import resource

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.arena import Arena

SHAPES = st.lists(st.lists(st.integers(1, 5), min_size=1, max_size=3).map(tuple), min_size=1, max_size=4)


@given(st.lists(SHAPES, min_size=1, max_size=5))
def test_what_one_writes_the_other_reads_however_sizes_change(rounds):
    here = Arena()
    there = Arena(os.dup(here.descriptor))
    for number, shapes in enumerate(rounds):
        for index, array in enumerate(here.arrays(shapes)):
            array[:] = np.arange(array.size).reshape(array.shape) + 100 * index + 1000 * number
        for index, (array, shape) in enumerate(zip(there.arrays(shapes), shapes, strict=True)):
            expected = np.arange(np.prod(shape)).reshape(shape) + 100 * index + 1000 * number
            np.testing.assert_array_equal(array, expected)
        del array
    here.close()
    there.close()


def test_an_array_outlives_a_larger_one():
    arena = Arena()
    [small] = arena.arrays([(4,)])
    small[:] = 7
    [large] = arena.arrays([(1_000_000,)])
    assert small.tolist() == large[:4].tolist() == [7] * 4
    arena.close()


def test_without_an_end_it_leaves_no_descriptor_open():
    before = len(os.listdir("/proc/self/fd"))
    arena = Arena()
    arena.arrays([(100, 100)])
    arena.close()
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_system_without_files_in_memory_takes_a_nameless_one_on_disk(monkeypatch, tmp_path):
    monkeypatch.delattr(os, "memfd_create")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    arena = Arena()
    [array] = arena.arrays([(3, 3)])
    array[:] = 5
    assert list(tmp_path.iterdir()) == []
    [same] = Arena(os.dup(arena.descriptor)).arrays([(3, 3)])
    np.testing.assert_array_equal(same, array)
    arena.close()


def test_no_room_is_no_memory():
    arena = Arena()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, hard))
    try:
        with pytest.raises(MemoryError, match="no room for 4000000 bytes of tiles"):
            arena.arrays([(1_000_000,)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    arena.close()
