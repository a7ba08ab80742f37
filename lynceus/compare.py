"""Two versions on the same frames: ask their servers, gather the evidence, decide.

The servers do the work; here there is no torch. A version is shown every frame as it is, once more with stars planted
in it, and once upside down; where the frame has a catalogue, the server scores the version against it.
"""

import heapq
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np

from lynceus.client import Client
from lynceus.comparison import CompareSpec, Comparison, Difference, Endpoint
from lynceus.decision import decide
from lynceus.errors import ComparisonError, LynceusError, RefusedError, ServiceError
from lynceus.evidence import (
    Both,
    DarkEvidence,
    Evidence,
    Failure,
    FrameEvidence,
    Scored,
    Scores,
    Times,
    Version,
)
from lynceus.frame import Frame, read_frame
from lynceus.injection import Planted, inverted, plant
from lynceus.pairing import Listed, listed_answer, pair_lists
from lynceus.sightings import count_stars, offsets_of_centroids, offsets_of_stars, sightings
from lynceus.sky import Sky, SkySpec, estimate_sky

WAITING = ("queue", "pause")  # stages that are not work
WARM_UP_FRAMES = 3
NOT_OURS = (401, 403, 404)  # the address, the key or the version is wrong, not the frame

DEFAULT_SPEC = CompareSpec()

T = TypeVar("T")
Progress = Callable[[int, int, str], None]


class Asker(Protocol):
    """What is needed of a client."""

    def detect(self, frame: bytes, **query: Any) -> dict[str, Any]:
        """The answer of `/detect`."""

    def evaluate(self, frame: bytes, catalogue: bytes, **query: Any) -> dict[str, Any]:
        """The answer of `/evaluate`."""

    def models(self) -> dict[str, Any]:
        """The answer of `/models`."""


Connect = Callable[[Endpoint], AbstractContextManager[Asker]]


class _CanaryError(Exception):
    """The canary failed on a frame that stable answered."""


class _NothingError(Exception):
    """Stable did not answer either: the frame says nothing about the canary."""


@dataclass(frozen=True, eq=False)
class Answer:
    """What one version answered to one frame: its list, the seeing in pixels, and how long it took in ms."""

    found: Listed
    fwhm: float | None
    client_ms: float
    timing_ms: Mapping[str, float]


class Contestant:
    """One of the two versions.

    Parameters
    ----------
    role : {"stable", "canary"}
        Which.
    endpoint : Endpoint
        Where.
    asker : Asker
        Connected to it.
    """

    def __init__(self, role: str, endpoint: Endpoint, asker: Asker) -> None:
        self.role = role
        self.endpoint = endpoint
        self.asker = asker
        self.version: Version | None = None

    def get_ready(self, frames: Sequence[Path]) -> None:
        """See that the server is there and has the version, and let it warm up on a frame it answers.

        Raises
        ------
        ComparisonError
            If there is nothing to compare.
        """
        try:
            self.version = announced(self.asker.models(), self.endpoint.model)
        except ServiceError as error:
            raise ComparisonError(f"the server of {self.role}, {self.endpoint.url}: {error}") from error
        reason = ""
        for path in frames[:WARM_UP_FRAMES]:
            try:
                self.detect(path.read_bytes())
                return
            except (OSError, ServiceError) as error:
                reason = str(error)
        if self.version is None:
            raise ComparisonError(f"{self.role} answers none of the first frames: {reason}")

    def detect(self, data: bytes) -> Answer:
        """Show it a frame, which live frames go before.

        Raises
        ------
        ServiceError
            If it does not answer.
        ComparisonError
            If the server is gone, or is not what it was.
        """
        start = time.perf_counter()
        try:
            answer = self.asker.detect(data, model=self.endpoint.model, priority="backfill")
        except ServiceError as error:
            if error.status in NOT_OURS or error.code == "unreachable":
                raise ComparisonError(f"{self.role} at {self.endpoint}: {error}") from error
            raise
        elapsed = 1000 * (time.perf_counter() - start)
        with self._understanding():
            self._check_version(answer)
            return Answer(listed_answer(answer), answer["frame"].get("fwhm_px"), elapsed, answer.get("timing_ms") or {})

    def evaluate(self, data: bytes, catalogue: bytes) -> Scores:
        """Let the server score it on a frame against a catalogue; errors are those of `detect`."""
        answer = self.asker.evaluate(data, catalogue, model=self.endpoint.model, priority="backfill")
        with self._understanding():
            self._check_version(answer)
            figures, counts = answer["evaluation"], answer["evaluation"]["counts"]
            return Scores(
                **{name: counts[name] for name in ("matched", "missed", "extra")},
                **{name: figures[name] for name in ("map_50", "best_iou_per_gt")},
            )

    @contextmanager
    def _understanding(self) -> Iterator[None]:
        try:
            yield
        except (LookupError, TypeError, ValueError) as error:
            raise ComparisonError(f"{self.role} at {self.endpoint} gives answers that cannot be understood") from error

    def _check_version(self, answer: Mapping[str, Any]) -> None:
        version = Version(**{name: answer["model"][name] for name in ("name", "version", "sha256")})
        if self.version is not None and version != self.version:
            raise ComparisonError(
                f"{self.role} changed from {self.version} to {version} while it was compared; compare again"
            )
        self.version = version


def announced(models: Mapping[str, Any], model: str) -> Version | None:
    """The version that a server has under a track, a version or `name/version`; None if it has none."""
    for one in models.get("models", ()):
        names = {one["version"], f"{one['name']}/{one['version']}", *one.get("tracks", ())}
        if model in names:
            return Version(name=one["name"], version=one["version"], sha256=one["sha256"])
    return None


def compare(
    stable: Endpoint,
    canary: Endpoint,
    frames: Sequence[Path],
    catalogues: Mapping[Path, Path] | None = None,
    darks: Sequence[Path] = (),
    spec: CompareSpec = DEFAULT_SPEC,
    progress: Progress = lambda done, total, name: None,
    connect: Connect | None = None,
) -> Comparison:
    """Compare two versions.

    Parameters
    ----------
    stable, canary : Endpoint
        The version that serves, and the one that wants to.
    frames : sequence of Path
        FITS files.
    catalogues : mapping of Path to Path, or None
        Of the frames that have one.
    darks : sequence of Path
        FITS files without sky.
    spec : CompareSpec
        How it is done.
    progress : callable
        Told how many of how many files are done, and the name of the next.
    connect : callable or None
        Opens a client for an endpoint; by default a `Client`.

    Returns
    -------
    Comparison
        With the decision.

    Raises
    ------
    ComparisonError
        If they could not be compared: a server is away, both names mean one version, a version changed in the middle,
        or too few frames can be used.

    Examples
    --------
    >>> result = compare(Endpoint(url), Endpoint(url, "canary"), sorted(folder.glob("*.fits")))  # doctest: +SKIP
    >>> result.decision.outcome  # doctest: +SKIP
    <Outcome.HOLD: 'HOLD'>
    """
    connect = connect or (lambda endpoint: Client(endpoint.url, timeout=spec.timeout))
    with connect(stable) as stable_asker, connect(canary) as canary_asker:
        both = Contestant("stable", stable, stable_asker), Contestant("canary", canary, canary_asker)
        for one in both:
            one.get_ready(frames)
        check_different(both, spec)
        trial = Trial(both, spec, catalogues or {})
        for done, path in enumerate([*frames, *darks]):
            progress(done, len(frames) + len(darks), path.name)
            trial.look(path, dark=done >= len(frames))
    return trial.concluded()


def check_different(both: Sequence[Contestant], spec: CompareSpec) -> None:
    """Raise ComparisonError if both are one version, unless that is what is wanted."""
    stable, canary = (one.version for one in both)
    if stable == canary and not spec.allow_same:
        raise ComparisonError(
            f"both answers were made by {stable}: a version can be compared with itself only if that is asked for"
        )


class Trial:
    """Gathers what is seen, file by file; one that fails loses nothing of the others.

    Parameters
    ----------
    both : (Contestant, Contestant)
        Stable and the canary, ready.
    spec : CompareSpec
        How it is done.
    catalogues : mapping of Path to Path
        Of the frames that have one.
    """

    def __init__(self, both: tuple[Contestant, Contestant], spec: CompareSpec, catalogues: Mapping[Path, Path]) -> None:
        self.both = both
        self.spec = spec
        self.catalogues = catalogues
        self.frames: list[FrameEvidence] = []
        self.darks: list[DarkEvidence] = []
        self.failures: list[Failure] = []
        self.left_out: list[Failure] = []
        self._different: list[tuple[float, int, Difference]] = []
        self._turn = count()

    def look(self, path: Path, dark: bool) -> None:
        """Look at one file."""
        try:
            data = path.read_bytes()
            if dark:
                self.darks.append(self._look_at_dark(path, data))
            else:
                self.frames.append(self._look_at_frame(path, data))
        except _CanaryError as error:
            self.failures.append(Failure(frame=path.name, reason=str(error)))
        except _NothingError as error:
            self.left_out.append(Failure(frame=path.name, reason=str(error)))
        except OSError as error:
            self.left_out.append(Failure(frame=path.name, reason=error.strerror or "it cannot be read"))

    def concluded(self) -> Comparison:
        """Decide on what was seen.

        Raises
        ------
        ComparisonError
            If it is too little.
        """
        least = self.spec.decision.least_frames
        if len(self.frames) < least and not self.failures:
            why = "".join(f"; {one.frame}: {one.reason}" for one in self.left_out[:3])
            raise ComparisonError(f"{len(self.frames)} frames can be used, and {least} are needed{why}")
        evidence = Evidence(
            frames=tuple(self.frames),
            darks=tuple(self.darks),
            failures=tuple(self.failures),
            left_out=tuple(self.left_out),
        )
        stable, canary = self.both
        assert stable.version is not None
        assert canary.version is not None
        return Comparison(
            stable=stable.version,
            canary=canary.version,
            endpoints=(stable.endpoint, canary.endpoint),
            decision=decide(evidence, self.spec.decision),
            evidence=evidence,
            differences=tuple(one for _, _, one in sorted(self._different, reverse=True)),
            spec=self.spec,
            made=datetime.now(UTC).isoformat(timespec="seconds"),
        )

    def _look_at_dark(self, path: Path, data: bytes) -> DarkEvidence:
        stable, canary = self._ask_both(lambda one: one.detect(data))
        return DarkEvidence(frame=path.name, found=Both(stable=len(stable.found), canary=len(canary.found)))

    def _look_at_frame(self, path: Path, data: bytes) -> FrameEvidence:
        answers = self._ask_both(lambda one: one.detect(data))
        pairing = pair_lists(answers[0].found, answers[1].found)
        notes: list[str] = []
        timed: list[list[Answer]] = [answers]
        seen: dict[str, Any] = {"offsets": offsets_of_centroids(pairing)}
        try:
            frame = read_frame(data)
            sky = estimate_sky(frame, SkySpec())
        except LynceusError as error:
            notes.append(f"no star was planted in it: {error}")
        else:
            planted = self._plant(data, frame, sky, answers)
            if len(planted) and (again := self._try_both(planted.data, "with planted stars", notes)):
                timed.append(again)
                seen |= self._stars(planted, again)
            if self.spec.invert and (down := self._try_both(inverted(data, frame, sky), "upside down", notes)):
                seen["inverted"] = Both(stable=len(down[0].found), canary=len(down[1].found))
        seen["scores"] = self._score(path, data, notes)
        self._keep(Difference(path, pairing))
        return FrameEvidence(frame=path.name, pairing=pairing.summary(), times=times(timed), notes=tuple(notes), **seen)

    def _plant(self, data: bytes, frame: Frame, sky: Sky, answers: Sequence[Answer]) -> Planted:
        """Plant stars as wide as those that the versions see, away from all they see."""
        known = np.concatenate([answer.found.positions for answer in answers])
        seeing = next((answer.fwhm for answer in answers if answer.fwhm is not None), None)
        seed = int(frame.sha256[:8], 16) ^ self.spec.seed
        return plant(data, frame, sky, known, seeing, self.spec.plant, seed)

    def _stars(self, planted: Planted, answers: Sequence[Answer]) -> dict[str, Any]:
        """What came of the planted stars."""
        places = np.stack([planted.x, planted.y], axis=1)
        found = [sightings(places, planted.fwhm, answer.found) for answer in answers]
        faint, bright = count_stars(planted.snr, found, self.spec.faint_below)
        offsets = offsets_of_stars(places, [answer.found for answer in answers], found)
        return {"faint": faint, "bright": bright} | ({"offsets": offsets} if offsets else {})

    def _score(self, path: Path, data: bytes, notes: list[str]) -> Scored | None:
        if path not in self.catalogues:
            return None
        try:
            catalogue = self.catalogues[path].read_bytes()
            stable, canary = self._ask_both(lambda one: one.evaluate(data, catalogue))
        except _NothingError as error:
            notes.append(f"it was not scored against its catalogue: {error}")
            return None
        except OSError as error:
            notes.append(f"its catalogue cannot be read: {error.strerror}")
            return None
        return Scored(stable=stable, canary=canary)

    def _try_both(self, data: bytes, what: str, notes: list[str]) -> list[Answer] | None:
        """Show both a frame that was made from one; that neither answers it says nothing against the canary."""
        try:
            return self._ask_both(lambda one: one.detect(data))
        except _CanaryError as error:
            raise _CanaryError(f"{what}: {error}") from error
        except _NothingError as error:
            notes.append(f"{what}: {error}")
            return None

    def _ask_both(self, question: Callable[[Contestant], T]) -> list[T]:
        """Ask both in turn, each as often first as the other.

        Raises
        ------
        _CanaryError
            If the canary alone fails, twice where asking again may help.
        _NothingError
            If stable fails.
        """
        stable, canary = self.both
        first = (stable, canary) if next(self._turn) % 2 == 0 else (canary, stable)
        answers: dict[str, T] = {}
        errors: dict[str, ServiceError] = {}
        for one in first:
            try:
                answers[one.role] = question(one)
            except ServiceError as error:
                errors[one.role] = error
        if stable.role in errors:
            who = "neither version answers" if canary.role in errors else "stable does not answer"
            raise _NothingError(f"{who}: {errors[stable.role]}")
        if canary.role in errors:
            answers[canary.role] = _once_more(canary, question, errors[canary.role])
        return [answers[stable.role], answers[canary.role]]

    def _keep(self, difference: Difference) -> None:
        """Remember the most different frames, and no more of them than are drawn."""
        heapq.heappush(self._different, (difference.amount, -len(self.frames), difference))
        if len(self._different) > self.spec.drawn:
            heapq.heappop(self._different)


def _once_more(canary: Contestant, question: Callable[[Contestant], T], error: ServiceError) -> T:
    """Ask the canary again where the failure may have been an accident."""
    if isinstance(error, RefusedError):
        raise _CanaryError(str(error)) from error
    try:
        return question(canary)
    except ServiceError as again:
        raise _CanaryError(str(again)) from again


def times(rounds: Sequence[Sequence[Answer]]) -> Times:
    """The fastest of several requests of about the same work, in milliseconds: whatever else runs only ever adds.

    Parameters
    ----------
    rounds : sequence of (Answer, Answer)
        Stable's and the canary's to the same request.
    """
    every = [answer for answers in rounds for answer in answers]
    told = all(answer.timing_ms for answer in every)
    network = all("infer" in answer.timing_ms for answer in every)
    return Times(
        client=_fastest(rounds, lambda answer: answer.client_ms),
        server=_fastest(rounds, _work) if told else None,
        infer=_fastest(rounds, lambda answer: answer.timing_ms["infer"]) if network else None,
    )


def _work(answer: Answer) -> float:
    return sum(milliseconds for stage, milliseconds in answer.timing_ms.items() if stage not in WAITING)


def _fastest(rounds: Sequence[Sequence[Answer]], time_of: Callable[[Answer], float]) -> Both:
    stable, canary = (min(map(time_of, answers)) for answers in zip(*rounds, strict=True))
    return Both(stable=stable, canary=canary)
