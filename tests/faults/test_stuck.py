"""The network does not come back from a batch."""

import subprocess
import threading

import httpx
import pytest

from service.finder import FATAL_STATUS
from tests.fakes import SLOW
from tests.faults.kit import serving, small, until

LIMIT = 2.0  # seconds


def test_liveness_fails_and_the_process_exits() -> None:
    settings = {"FAULT": "stuck", "LYNCEUS_STUCK_SECONDS": str(LIMIT), "BENTOML_CONTAINERIZED": "true"}
    with serving(settings) as server:
        outcomes: list[object] = []
        probes: list[int] = []

        def ask(body: bytes) -> None:
            try:
                outcomes.append(server.post(body).json()["code"])
            except httpx.TransportError as error:
                outcomes.append(type(error).__name__)

        threads = [threading.Thread(target=ask, args=(body,)) for body in (small(1, SLOW), small(2))]
        threads[0].start()
        until(lambda: server.metric("lynceus_inference_stuck_seconds") > 0)
        threads[1].start()

        def fails() -> bool:
            probes.append(httpx.get(f"{server.address}/livez", timeout=5).status_code)
            return probes[-1] != 200

        until(fails)
        assert (probes[0], probes[-1]) == (200, 503)
        for thread in threads:
            thread.join(30)
        assert outcomes == ["detection_failed"] * 2
        try:
            server.process.wait(30)
        except subprocess.TimeoutExpired:
            pytest.fail("the container would not have been restarted")
        assert f"status {FATAL_STATUS}" in server.log.read_text()
