"""What the folder watcher counts, in the text format of Prometheus."""

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

BUCKETS = (0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 600.0, 3600.0)  # seconds
MAX_CODES = 30  # distinct codes told apart; the service has fewer, a strange server may not
OTHER = "other"
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Tally:
    """Counters of one watcher since it started.

    Attributes
    ----------
    done : int
        Frames whose result was written.
    dead, retries : Counter
        Frames given up, and tries that failed and will be repeated, by the code of the error.
    waiting : int
        Frames that have neither result nor reason.
    oldest : float or None
        When the oldest of them was seen, in seconds since 1970.
    last_success : float or None
        When the last result was written, in seconds since 1970.
    """

    def __init__(self) -> None:
        self.done = 0
        self.dead: Counter[str] = Counter()
        self.retries: Counter[str] = Counter()
        self.waiting = 0
        self.oldest: float | None = None
        self.last_success: float | None = None
        self._seconds = 0.0
        self._buckets = dict.fromkeys(BUCKETS, 0)

    def finished(self, seconds: float, now: float) -> None:
        """Count a frame whose result was written so many seconds after it had arrived."""
        self.done += 1
        self.last_success = now
        self._seconds += seconds
        for bound in BUCKETS:
            self._buckets[bound] += seconds <= bound

    def count(self, counter: Counter[str], code: str) -> None:
        """Count one of `dead` or `retries`, under a bounded number of codes."""
        counter[code if code in counter or len(counter) < MAX_CODES else OTHER] += 1

    def text(self, now: float) -> str:
        """Everything, as Prometheus reads it.

        Parameters
        ----------
        now : float
            In seconds since 1970.
        """
        return "\n".join(self._lines(now)) + "\n"

    def _lines(self, now: float) -> Iterator[str]:
        yield from _head("frames_done_total", "counter", "Frames whose result was written.")
        yield f"lynceus_watch_frames_done_total {self.done}"
        yield from _by_code("frames_dead_total", "Frames given up, each with its reason.", self.dead)
        yield from _by_code("retries_total", "Tries that failed and are repeated.", self.retries)
        yield from _head("frame_seconds", "histogram", "From the arrival of a frame to its result.")
        for bound, count in self._buckets.items():
            yield f'lynceus_watch_frame_seconds_bucket{{le="{bound:g}"}} {count}'
        yield f'lynceus_watch_frame_seconds_bucket{{le="+Inf"}} {self.done}'
        yield f"lynceus_watch_frame_seconds_sum {self._seconds:.6f}"
        yield f"lynceus_watch_frame_seconds_count {self.done}"
        yield from _head("spool_pending", "gauge", "Frames that have neither result nor reason.")
        yield f"lynceus_watch_spool_pending {self.waiting}"
        yield from _head("oldest_pending_seconds", "gauge", "Since the oldest of them arrived; 0 without one.")
        yield f"lynceus_watch_oldest_pending_seconds {max(now - self.oldest, 0.0) if self.oldest else 0.0:.3f}"
        yield from _head("last_success_timestamp_seconds", "gauge", "When the last result was written; 0 before it.")
        yield f"lynceus_watch_last_success_timestamp_seconds {self.last_success or 0.0:.3f}"


@contextmanager
def metrics_server(text: Callable[[], str], port: int) -> Iterator[int]:
    """Serve `/metrics` on a port while the block runs.

    Parameters
    ----------
    text : callable
        Gives the body.
    port : int
        On all addresses; 0 for any that is free.

    Yields
    ------
    int
        The port.

    Raises
    ------
    OSError
        If somebody else listens there.
    """

    class Handler(BaseHTTPRequestHandler):
        timeout = 10  # seconds a client may take to ask

        def do_GET(self) -> None:
            found = self.path.partition("?")[0] == "/metrics"
            body = text().encode() if found else b"there is /metrics, and nothing else\n"
            self.send_response(200 if found else 404)
            self.send_header("Content-Type", CONTENT_TYPE if found else "text/plain")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing of every scrape."""

    with ThreadingHTTPServer(("", port), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, daemon=True, name="metrics")
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


def _head(name: str, kind: str, text: str) -> Iterator[str]:
    yield f"# HELP lynceus_watch_{name} {text}"
    yield f"# TYPE lynceus_watch_{name} {kind}"


def _by_code(name: str, text: str, counter: Counter[str]) -> Iterator[str]:
    yield from _head(name, "counter", text)
    for code, count in sorted(counter.items()):
        label = code.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
        yield f'lynceus_watch_{name}{{code="{label}"}} {count}'
