"""The process with the network dies in the middle of a batch."""

import os
import signal
import subprocess
import threading

import httpx
import pytest

from tests.fakes import SLOW
from tests.faults.kit import Server, is_ready, is_right, serving, small, until


def in_flight(server: Server, seeds: range) -> tuple[list[threading.Thread], dict[int, httpx.Response | str]]:
    """Clients of a server that is in the middle of a batch."""
    outcomes: dict[int, httpx.Response | str] = {}

    def ask(seed: int) -> None:
        try:
            outcomes[seed] = server.post(small(seed, SLOW if seed == seeds[0] else None))
        except httpx.TransportError as error:
            outcomes[seed] = type(error).__name__

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in seeds]
    before = server.metric("lynceus_tiles_total")
    threads[0].start()
    until(lambda: server.metric("lynceus_tiles_total") > before)
    for thread in threads[1:]:
        thread.start()
    until(lambda: server.metric("lynceus_queue_tiles") == len(seeds) - 1)
    return threads, outcomes


def test_a_killed_worker_answers_nothing_wrongly_and_another_takes_its_place() -> None:
    with serving({"FAULT": "stuck"}) as server:
        assert is_right(server.post(small(1)), 1)
        counted = server.metric("lynceus_tiles_total")
        threads, outcomes = in_flight(server, range(10, 15))
        victim = server.worker
        os.kill(victim, signal.SIGKILL)
        for thread in threads:
            thread.join(30)
        assert all(isinstance(outcome, str) for outcome in outcomes.values()), outcomes
        assert len(outcomes) == 5
        until(lambda: is_ready(server), 60)
        assert server.worker != victim
        assert server.metric("lynceus_tiles_total") >= counted
        assert server.metric("lynceus_queue_tiles") == 0
        for seed in range(10, 15):
            assert is_right(server.post(small(seed)), seed)


def test_in_a_container_the_process_ends_with_its_worker() -> None:
    with serving({"FAULT": "stuck", "BENTOML_CONTAINERIZED": "true"}) as server:
        threads, outcomes = in_flight(server, range(20, 22))
        os.kill(server.worker, signal.SIGKILL)
        for thread in threads:
            thread.join(30)
        assert all(isinstance(outcome, str) for outcome in outcomes.values()), outcomes
        try:
            server.process.wait(30)
        except subprocess.TimeoutExpired:
            pytest.fail("the container would not have been restarted")
