"""Where the time of a call goes: functions named from outside are timed while a block runs, less what they call."""

import importlib
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future
from contextlib import ExitStack, contextmanager
from functools import wraps
from operator import attrgetter
from typing import Any
from unittest.mock import patch

REST = "everything else"


class Spans:
    """Seconds by stage: by the clock and of all cores, each stage without the stages inside it; one thread alone.

    Parameters
    ----------
    wait : callable
        Called at every border between stages: where work goes on elsewhere, as on a GPU, it must wait for it.
    """

    def __init__(self, wait: Callable[[], object] = lambda: None) -> None:
        self.wall: defaultdict[str, float] = defaultdict(float)
        self.cpu: defaultdict[str, float] = defaultdict(float)
        self._wait = wait
        self._inside = [(0.0, 0.0)]  # for each open stage: what the stages in it took

    @contextmanager
    def span(self, stage: str) -> Iterator[None]:
        """Charge what a block takes to a stage."""
        self._wait()
        self._inside.append((0.0, 0.0))
        cpu, wall = time.process_time(), time.perf_counter()
        try:
            yield
        finally:
            self._wait()
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            inner_wall, inner_cpu = self._inside.pop()
            self.wall[stage] += wall - inner_wall
            self.cpu[stage] += cpu - inner_cpu
            outer_wall, outer_cpu = self._inside[-1]
            self._inside[-1] = (outer_wall + wall, outer_cpu + cpu)

    def timed(self, stage: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, charged to a stage whenever it is called."""

        @wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            with self.span(stage):
                return function(*args, **kwargs)

        return call


@contextmanager
def watched(spans: Spans, stages: Mapping[str, Sequence[str]], network: object) -> Iterator[None]:
    """Time functions while a block runs.

    Parameters
    ----------
    spans : Spans
        What they are charged to.
    stages : mapping of str to sequence of str
        Stage to the places that hold its functions: `package.module:name`, or `network:attribute.attribute` for those
        of the network at hand. A place that is not there is passed over: networks differ.
    network : object
        Of the detector.

    Notes
    -----
    What the detector would do in other threads meanwhile is done at once, in this one: the stages add up to the whole.
    """
    with ExitStack() as patches:
        for module in [one for name, one in sys.modules.items() if name.startswith("lynceus.")]:
            if hasattr(module, "ThreadPoolExecutor"):
                patches.enter_context(patch.object(module, "ThreadPoolExecutor", InThisThread))
        for stage, places in stages.items():
            for owner, name in filter(None, (_found(place, network) for place in places)):
                patches.enter_context(patch.object(owner, name, spans.timed(stage, getattr(owner, name))))
        yield


class InThisThread(Executor):
    """Stands for a pool of threads, and does what it is given at once."""

    def __init__(self, *_: object, **__: object) -> None:
        """Take no notice of how many threads there should be."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Call the function now."""
        done: Future[Any] = Future()
        try:
            done.set_result(fn(*args, **kwargs))
        except Exception as error:
            done.set_exception(error)
        return done


def _found(place: str, network: object) -> tuple[Any, str] | None:
    """Who holds a function, and under which name; None where nobody does."""
    root, _, path = place.partition(":")
    *way, name = path.split(".")
    try:
        owner = network if root == "network" else importlib.import_module(root)
        owner = attrgetter(".".join(way))(owner) if way else owner
        return (owner, name) if callable(getattr(owner, name)) else None
    except (AttributeError, ModuleNotFoundError):
        return None
