"""The processes that run the network may die at any time; who asked gets the answer all the same."""

import os
import signal
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np

from tests.fakes import fits_bytes, star_field
from tests.faults.kit import network_processes


def test_a_frame_whose_network_is_killed_is_answered_as_any_other(address):
    places = [tuple(place) for place in np.random.default_rng(5).uniform(30, 1400, (150, 2))]
    frame = fits_bytes(star_field((1430, 1430), places))
    calm = httpx.post(f"{address}/detect", content=frame, timeout=120).json()["detections"]
    killed = network_processes(os.getpid())
    assert killed
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(httpx.post, f"{address}/detect", content=frame, timeout=120)
        while tiles_waiting(address) == 0 and not asked.done():
            pass
        for pid in killed:
            os.kill(pid, signal.SIGKILL)
        answer = asked.result()
    assert answer.status_code == 200
    assert answer.json()["detections"] == calm
    assert not set(killed) & set(network_processes(os.getpid()))


def tiles_waiting(address: str) -> float:
    text = httpx.get(f"{address}/metrics", timeout=10).text
    return sum(float(line.split()[1]) for line in text.splitlines() if line.startswith("lynceus_queue_tiles "))
