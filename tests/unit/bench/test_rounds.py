import io
import os
import time
from itertools import count

import httpx
import pytest
from rich.console import Console

from tests.bench import clients, detector
from tests.bench.processes import cpu_seconds, cpu_seconds_of, kilobytes
from tests.bench.rivals import NAIVE, SEP, SEP_MAP, SEXTRACTOR, TUNED
from tests.bench.rounds import Contender, Times, interleave
from tests.bench.server import Server

QUIET = Console(file=io.StringIO())


def test_contenders_take_turns_and_the_first_round_is_not_counted():
    seen = []
    contenders = {name: Contender(lambda name=name: seen.append(name)) for name in "abc"}
    times = interleave(contenders, 2, QUIET)
    assert seen == list("abc") * 3
    assert all(len(one.wall) == len(one.cpu) == 2 for one in times.values())


def test_a_slow_contender_sits_out_the_later_rounds():
    seen = []
    contenders = {"slow": Contender(lambda: seen.append(1), rounds=2), "fast": Contender(lambda: None)}
    times = interleave(contenders, 5, QUIET)
    assert len(seen) == 3
    assert len(times["slow"].wall) == 2
    assert len(times["fast"].wall) == 5


def test_what_is_made_ready_is_not_timed_and_each_round_gets_its_own():
    numbers, seen = count(), []

    def ready():
        time.sleep(0.5)
        return next(numbers)

    times = interleave({"one": Contender(seen.append, ready=ready)}, 3, QUIET)
    assert seen == [0, 1, 2, 3]
    assert max(times["one"].wall) < 0.5


def test_times_are_scaled_to_the_work_they_stand_for():
    [took] = interleave({"part": Contender(lambda: time.sleep(0.01), scale=10)}, 1, QUIET)["part"].wall
    assert took >= 0.1


def test_cpu_time_counts_work_and_not_sleep():
    start = cpu_seconds()
    time.sleep(0.2)
    asleep = cpu_seconds() - start
    sum(i * i for i in range(300_000))
    assert cpu_seconds() - start > asleep
    assert asleep < 0.15


def test_the_kernel_tells_of_this_process_and_of_none_that_is_gone():
    assert 0 < kilobytes("VmRSS") <= kilobytes("VmHWM")
    assert cpu_seconds_of(os.getpid()) > 0
    assert kilobytes("VmRSS", 2**22 + 1) == 0
    assert cpu_seconds_of(2**22 + 1) == 0


def test_a_full_server_is_asked_again_and_every_frame_is_answered():
    answers = iter([503, 200, 503, 200, 200])
    sent = []

    def answer(request):
        status = next(answers)
        if status == 200:
            sent.append(request.content)
        return httpx.Response(status, headers={"retry-after": "0"})

    server = Server("http://test", 1, httpx.Client(transport=httpx.MockTransport(answer)))
    assert len(server.post_all([b"a", b"b", b"c"], 1)) == 3
    assert sent == [b"a", b"b", b"c"]


def test_an_error_of_the_server_ends_the_bench():
    client = httpx.Client(transport=httpx.MockTransport(lambda _: httpx.Response(500)))
    with pytest.raises(httpx.HTTPStatusError):
        Server("http://test", 1, client).post(b"")


def took(*seconds):
    return Times(list(seconds), list(seconds))


def test_the_detectors_ratios_are_those_of_the_same_round():
    times = {
        detector.DETECTOR: took(1.0, 2.0),
        detector.TOGETHER: took(2.1, 4.2),
        detector.IN_TURN: took(2.0, 4.0),
        NAIVE: took(70.0),
        TUNED: took(30.0),
        SEP: took(0.5, 1.0),
        SEP_MAP: took(1.0, 2.0),
        SEXTRACTOR: took(2.0, 4.0),
    }
    found = {figure.name: figure for figure in detector.ratios(times, detector.NAIVE_BARS["cpu"])}
    assert found["naive torchvision over detector"].values == (70.0,)
    assert found["detector over sep, one noise"].values == (2.0, 2.0)
    assert found["at once over one after the other"].median == pytest.approx(1.05)
    assert {figure.verdict for figure in found.values()} == {"kept", ""}
    del times[SEXTRACTOR]
    assert "detector over SExtractor" not in {one.name for one in detector.ratios(times, detector.NAIVE_BARS["cpu"])}


def test_throughput_is_that_of_the_service_over_the_detectors():
    times = {clients.ALONE: took(2.0, 2.0)} | {clients.named(n): took(2.5, 1.6) for n in clients.CLIENTS}
    found = {figure.name: figure for figure in clients.figures(times)}
    assert found["throughput over detector's, 16"].values == (0.8, 1.25)
    assert found["throughput over detector's, 16"].verdict == "kept"
    assert clients.frames_for(1) == clients.LEAST
    assert clients.frames_for(16) > 16
