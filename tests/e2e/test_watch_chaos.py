"""The watcher through a bad night: 500 frames, a service and a watcher that are killed, a disk that is full."""

import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from examples.running import free_port, kill, wait_until_ready
from tests.contract.conftest import command
from tests.fakes import fits_bytes, star_field

ROOT = Path(__file__).parents[2]
SIDE = 110  # px: one tile, a few milliseconds
NIGHT = 20.0  # seconds in which the frames arrive
GOOD = 480
BROKEN = {  # the rest of the 500; by number modulo 3: name, code of the reason
    0: ("truncated_{:03d}.fits", "incomplete"),
    1: ("not_fits_{:03d}.fits", "not_fits"),
    2: ("cube_{:03d}.fits", "unusable_frame"),
}
LIMIT = 120.0  # seconds for everything that is asked to happen

pytestmark = pytest.mark.xdist_group("watcher")


def star(number: int) -> tuple[float, float]:
    return 15.0 + 4 * (number % 20), 15.0 + 3 * (number // 20)


def frame(number: int) -> bytes:
    return fits_bytes(star_field((SIDE, SIDE), [star(number)], seed=number))


def broken(number: int) -> tuple[str, bytes, str]:
    """Name, bytes and the code that its reason must have."""
    name, code = BROKEN[number % 3]
    plane = star_field((SIDE, SIDE), [])
    data = {
        "incomplete": fits_bytes(plane)[: 2880 + 100 * number],
        "not_fits": b"no FITS file, number %d" % number,
        "unusable_frame": fits_bytes(plane.reshape(11, 10, SIDE)),
    }[code]
    return name.format(number), data, code


class Observatory(threading.Thread):
    """Writes the frames: most at once, some in two halves, some by renaming; and twenty that are broken."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder
        self.reasons: dict[str, str] = {}
        self._halves: list[tuple[float, Path, bytes]] = []

    def run(self) -> None:
        start, total = time.monotonic(), GOOD + 20
        for number in range(total):
            self.complete(time.monotonic())
            time.sleep(max(0.0, start + NIGHT * number / total - time.monotonic()))
            if number % 25 == 7:
                name, data, self.reasons[name] = broken(number)
                (self.folder / name).write_bytes(data)
            else:
                self.write(number, frame(number))
        self.complete(float("inf"))

    def write(self, number: int, data: bytes) -> None:
        path = self.folder / f"frame_{number:03d}.fits"
        if number % 10 == 3:  # the rest comes later
            path.write_bytes(data[:20_000])
            self._halves.append((time.monotonic() + 1.5, path, data[20_000:]))
        elif number % 10 == 5:
            hidden = path.with_name(f".{path.name}.tmp")
            hidden.write_bytes(data)
            hidden.rename(path)
        else:
            path.write_bytes(data)

    def complete(self, until: float) -> None:
        while self._halves and self._halves[0][0] <= until:
            due, path, rest = self._halves.pop(0)
            time.sleep(max(0.0, due - time.monotonic()))
            with path.open("ab") as file:
                file.write(rest)


class Service:
    """The real server around a FixedNetwork, to be killed."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = folder / "service.log"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, home: Path) -> None:
        environment = {**os.environ, "BENTOML_HOME": str(home), "LYNCEUS_WORKERS": "1"}
        with self.log.open("a") as log:
            self.process = subprocess.Popen(
                command(self.port), stdout=log, stderr=log, env=environment, start_new_session=True
            )

    def wait(self) -> None:
        assert self.process is not None
        wait_until_ready(self.url, self.process, self.log)

    def kill(self) -> None:
        """End its processes at once, and wait until nobody listens."""
        if self.process is not None:
            kill(self.process)
            self.process = None
            until(lambda: not self.listens())

    def listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0


class Watching:
    """`lynceus watch` as a process, to be killed."""

    def __init__(self, frames: Path, url: str, out: Path, log: Path) -> None:
        self.command = [
            *(sys.executable, "-m", "lynceus", "watch", str(frames), "--url", url, "--out", str(out)),
            *("--format", "json", "--settle", "0.5", "--give-up", "8", "--concurrency", "2"),
            *("--metrics-file", str(log.with_name("watch.prom"))),
        ]
        self.log = log

    def start(self) -> None:
        with self.log.open("a") as log:
            self.process = subprocess.Popen(self.command, cwd=ROOT, stdout=log, stderr=log)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@contextmanager
def small_disk(folder: Path, kilobytes: int) -> Iterator[Path]:
    """A file system of its own, or a skip where none may be mounted."""
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("no file system may be mounted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)


def results(folder: Path) -> list[Path]:
    return sorted(folder.rglob("frame_*.json"))


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    started = Service(tmp_path_factory.mktemp("service"))
    with TemporaryDirectory() as home:
        started.start(Path(home))
        started.wait()
        yield started
        started.kill()


@pytest.fixture
def frames(tmp_path: Path) -> Path:
    folder = tmp_path / "frames"
    folder.mkdir()
    return folder


@pytest.mark.timeout(600)
def test_a_full_disk_loses_nothing(tmp_path: Path, frames: Path, service: Service) -> None:
    with small_disk(tmp_path / "disk", kilobytes=200) as disk:
        ballast, out = disk / "ballast", disk / "out"
        ballast.write_bytes(bytes(150 * 1024))
        for number in range(GOOD // 8):  # a file takes a page of 4 KiB at least
            (frames / f"frame_{number:03d}.fits").write_bytes(frame(number))
        watching = Watching(frames, service.url, out, tmp_path / "watch.log")
        watching.start()
        try:
            until(lambda: "No space left" in watching.log.read_text())
            before = len(results(out))
            assert before < GOOD // 8
            watching.kill()  # it must know the rest when it comes back
            watching.start()
            until(lambda: watching.log.read_text().count("No space left") == 2)
            subprocess.run(["mount", "-o", "remount,size=10m", str(disk)], check=True)
            until(lambda: len(results(out)) == GOOD // 8)
            watching.process.terminate()
            assert watching.process.wait(timeout=15) == 0
        finally:
            watching.kill()
        ballast.unlink()
        check_results(out, frames)
        assert not (frames / "dead-letters").exists()


@pytest.mark.timeout(600)
def test_every_frame_has_one_result_or_one_reason(tmp_path: Path, frames: Path, service: Service) -> None:
    out = tmp_path / "out"
    watching, observatory = Watching(frames, service.url, out, tmp_path / "watch.log"), Observatory(frames)
    watching.start()
    observatory.start()
    try:
        until(lambda: len(results(out)) > 60)
        watching.kill()  # with frames in flight
        watching.start()
        until(lambda: len(results(out)) > 120)
        service.kill()
        with TemporaryDirectory() as home:
            until(lambda: "the service cannot be used" in watching.log.read_text())
            service.start(Path(home))
            watching.kill()  # while there is nobody to send to
            watching.start()
            service.wait()
            until(lambda: len(results(out)) > 250)
            watching.kill()
            watching.start()
            observatory.join()
            dead = frames / "dead-letters"
            until(lambda: len(results(out)) + len(list(dead.glob("*.reason.json"))) >= GOOD + 20)
            watching.process.terminate()
            assert watching.process.wait(timeout=15) == 0
            service.kill()  # its home goes with this block
    finally:
        observatory.join()
        watching.kill()

    check_results(out, frames)
    reasons = {path.name: json.loads(path.read_text()) for path in dead.iterdir()}
    assert {name.removesuffix(".reason.json"): letter["code"] for name, letter in reasons.items()} == (
        observatory.reasons
    )
    assert all(letter["reason"] for letter in reasons.values())
    told = watching.log.read_text()
    assert "the service cannot be reached" in told  # by the one that started in the outage
    assert "the service cannot be used: over after" in told
    assert "Traceback" not in told
    metrics = (tmp_path / "watch.prom").read_text()
    assert re.search(r"^lynceus_watch_spool_pending 0$", metrics, re.MULTILINE)


def check_results(out: Path, frames: Path) -> None:
    """One result a good frame, each with its star in its place; nothing else was left anywhere."""
    sent = sorted(path.stem for path in frames.glob("frame_*.fits"))
    assert [path.stem for path in results(out)] == sent
    for path in results(out):
        [row] = json.loads(path.read_text())["detections"]
        assert (row["x"], row["y"]) == pytest.approx(star(int(path.stem[-3:])), abs=0.5), path.name
    assert sorted(out.rglob("*")) == results(out)
    assert [path.name for path in frames.rglob(".*")] == [".lynceus"]
    assert {path.suffix for path in frames.iterdir() if path.is_file()} == {".fits"}
