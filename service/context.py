"""What is known of the request in progress, wherever its code runs: its id, and what its log line will say."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Lap:
    """A stage that ended, and when, by `time.perf_counter`."""

    stage: str
    start: float
    end: float


@dataclass(eq=False)
class Notes:
    """What one piece of work says of itself."""

    laps: list[Lap] = field(default_factory=list)
    facts: dict[str, str | int | float] = field(default_factory=dict)


@dataclass(eq=False)
class Journey:
    """A request on its way through the service.

    Attributes
    ----------
    request_id : str
        Its own or given by the client.
    trace : dict of str to str
        Ids of its trace and span, where it is traced.
    notes : list of Notes
        Its own, and those of the work it waits for, which it may share with others.
    """

    request_id: str
    trace: dict[str, str] = field(default_factory=dict)
    notes: list[Notes] = field(default_factory=lambda: [Notes()])

    @property
    def laps(self) -> list[Lap]:
        """Every stage so far, in the order of their ends."""
        return sorted((lap for notes in self.notes for lap in notes.laps), key=lambda lap: lap.end)

    @property
    def facts(self) -> dict[str, str | int | float]:
        """Everything noted so far."""
        return {name: value for notes in self.notes for name, value in notes.facts.items()}

    @property
    def stage_milliseconds(self) -> dict[str, float]:
        """Time by stage, to a hundredth; a stage that was done twice counts twice."""
        seconds: dict[str, float] = {}
        for lap in self.laps:
            seconds[lap.stage] = seconds.get(lap.stage, 0.0) + lap.end - lap.start
        return {stage: round(value * 1000, 2) for stage, value in seconds.items()}


_journey: ContextVar[Journey | None] = ContextVar("journey", default=None)
_notes: ContextVar[Notes | None] = ContextVar("notes", default=None)


def journey() -> Journey | None:
    """The request that the calling code works for; None outside of one."""
    return _journey.get()


def request_id() -> str:
    """Its id; empty outside of one."""
    now = _journey.get()
    return now.request_id if now else ""


def notes() -> Notes:
    """Where the calling code's facts and stages go; outside of a request, nowhere."""
    return _notes.get() or Notes()


def note(**facts: str | int | float) -> None:
    """Say something of the request, for its log line and its trace."""
    notes().facts.update(facts)


@contextmanager
def travelling(traveller: Journey) -> Iterator[None]:
    """Let everything within, and the tasks begun within, work for this request."""
    tokens = _journey.set(traveller), _notes.set(traveller.notes[0])
    try:
        yield
    finally:
        _journey.reset(tokens[0])
        _notes.reset(tokens[1])


@contextmanager
def shared_work() -> Iterator[Notes]:
    """Let a task begun within keep notes of its own, because several requests may wait for it."""
    fresh = Notes()
    token = _notes.set(fresh)
    try:
        yield fresh
    finally:
        _notes.reset(token)


def wait_for(work: Notes) -> None:
    """Let the request say what that work says: it waits for it."""
    now = _journey.get()
    if now is not None:
        now.notes.append(work)


@contextmanager
def stage(name: str) -> Iterator[None]:
    """Time what is done within as a stage, however it ends."""
    start, kept = time.perf_counter(), notes()
    try:
        yield
    finally:
        kept.laps.append(Lap(name, start, time.perf_counter()))
