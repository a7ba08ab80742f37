import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest

from lynceus import detector as detector_module
from lynceus.bundle import load_bundle
from lynceus.detector import Detector
from model_store import default_bundle
from tests.bench import stages
from tests.bench.spans import REST, Spans, watched
from tests.fakes import SMALL_TILES, FixedNetwork, fits_bytes, star_field

PAUSE = 0.02


def test_a_stage_is_charged_without_the_stages_inside_it():
    spans = Spans()
    inner = spans.timed("inner", lambda: time.sleep(PAUSE))

    def outer():
        time.sleep(PAUSE)
        return inner(), inner()

    start = time.perf_counter()
    spans.timed("outer", outer)()
    whole = time.perf_counter() - start
    assert spans.wall["inner"] >= 2 * PAUSE
    assert spans.wall["outer"] >= PAUSE
    assert spans.wall["inner"] + spans.wall["outer"] <= whole


def test_a_stage_that_fails_is_charged_and_gives_way():
    spans = Spans()
    with pytest.raises(RuntimeError), spans.span("outer"), spans.span("inner"):
        raise RuntimeError
    with spans.span("outer"):
        pass
    assert set(spans.wall) == {"outer", "inner"}


def test_functions_are_as_they_were_afterwards():
    network = SimpleNamespace(head=SimpleNamespace(forward=lambda: 7))
    before, spans = network.head.forward, Spans()
    with watched(spans, {"head": ("network:head.forward", "network:tail.forward", "lynceus.nowhere:f")}, network):
        assert network.head.forward is not before
        assert network.head.forward() == 7
    assert network.head.forward is before
    assert set(spans.wall) == {"head"}


def test_what_other_threads_would_do_is_done_in_this_one():
    threads = []
    with watched(Spans(), {}, None), detector_module.ThreadPoolExecutor(2) as pool:
        pool.submit(lambda: threads.append(threading.get_ident()))
        failed = pool.submit(lambda: 1 / 0)
        assert list(pool.map(abs, [-1, 2])) == [1, 2]
    assert threads == [threading.get_ident()]
    with pytest.raises(ZeroDivisionError):
        failed.result()


def test_the_shipped_bundle_goes_through_every_stage():
    detector = load_bundle(default_bundle()).detector
    data = fits_bytes(star_field((600, 600), [(x, y) for x in range(40, 600, 80) for y in range(40, 600, 80)]))
    walk = stages.walk(detector, data)
    assert set(walk.spans.wall) == {*stages.STAGES, REST}
    assert len(walk.block.sources) > 10


def test_a_block_is_repeated_to_any_length():
    stars = [(30, 30), (90, 60), (60, 100)]
    walk = stages.walk(Detector(FixedNetwork(), SMALL_TILES), fits_bytes(star_field((128, 128), stars)))
    some = stages.with_rows(walk.block, 7)
    assert len(some.sources) == 7
    assert np.array_equal(some.sources.x[:3], some.sources.x[3:6])
