"""Which settings of the rival are tried, and in which order: a search that is handed scores and asks for more."""

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from typing import Any

from training.scoring.source_extractor import SourceExtractorSettings

Scores = Mapping[SourceExtractorSettings, float]
Asking = Generator[list[SourceExtractorSettings], Scores, None]
Ask = Callable[[Mapping[str, Sequence[SourceExtractorSettings]]], Mapping[str, Scores]]

# The filter leaves less noise, so that the same threshold is a stricter one behind a wider filter.
COARSE = {"none": (1.5, 2.0, 2.5, 3.0), "default": (0.8, 1.0, 1.5, 2.0, 3.0), "matched": (0.5, 0.7, 1.0, 1.5)}
AREAS = (1, 3, 5)
MESHES = (16, 32, 64, 128, 256)
CONTRASTS = (0.0001, 0.001, 0.005, 0.02, 0.05)
STEPS = (32, 64)
SHARPNESSES = (5.0, 10.0, 20.0, 40.0, 80.0)
SHARP = 20.0  # to begin with: the usual 5 takes undersampled stars for cosmic rays
NOT_CLEANED: dict[str, Any] = {}
CLEANED: dict[str, Any] = {"cleaned": True, "sharpness": SHARP}
FEWEST_AREA, LEAST_THRESHOLD, MOST_THRESHOLD = 1, 0.2, 6.0
FINER = (0.8, 0.9, 1.1, 1.25)  # of the threshold so far
LEADERS = 2  # of the first stage that are looked at more closely
ROUNDS = 3  # of the last stage, at most


class Search:
    """A staged search for the settings of the highest score.

    Threshold, filter and least area come first; then mesh, deblending and cleaning around the leaders; then finer
    steps of threshold and area around the best.

    Parameters
    ----------
    cosmic : bool
        Whether there are cosmic rays that the frame may be cleaned of.
    """

    def __init__(self, cosmic: bool) -> None:
        self.scores: dict[SourceExtractorSettings, float] = {}
        self._stages = self._search(cosmic)
        self.wanted = next(self._stages)

    @property
    def best(self) -> SourceExtractorSettings:
        """The best so far; of equals the first that was asked for."""
        return self._leaders(1)[0]

    def learn(self, scores: Scores) -> None:
        """Take the scores of all that was wanted, and of more; `wanted` is what to try next, empty at the end."""
        self.scores |= scores
        if self.wanted:
            self.wanted = next((some for some in self._stages if some), [])

    def _search(self, cosmic: bool) -> Asking:
        yield coarse_grid(cosmic)
        leaders = self._leaders(LEADERS)
        yield self._new(one for leader in leaders for one in _each_other_way(leader, cosmic))
        together = [self._together(leader, cosmic) for leader in leaders]
        yield self._new([*together, *_each_other_way(self.best, cosmic)])
        for _ in range(ROUNDS):
            before = self.best
            yield self._new(_nearby(before))
            if self.best == before:
                return

    def _leaders(self, count: int) -> list[SourceExtractorSettings]:
        return sorted(self.scores, key=lambda one: -self.scores[one])[:count]

    def _together(self, leader: SourceExtractorSettings, cosmic: bool) -> SourceExtractorSettings:
        """A leader with every change that helped it by itself; of two values of one setting the better."""
        changes: dict[str, Any] = {}
        others = sorted(_each_other_way(leader, cosmic), key=lambda one: self.scores[one])
        for other in others:  # the best comes last, and stays
            if self.scores[other] > self.scores[leader]:
                changes |= _differences(leader, other)
        return leader.model_copy(update=changes)

    def _new(self, some: Iterable[SourceExtractorSettings]) -> list[SourceExtractorSettings]:
        return [one for one in dict.fromkeys(some) if one not in self.scores]


def coarse_grid(cosmic: bool) -> list[SourceExtractorSettings]:
    """The first stage; with cosmic rays, on the frame as it is and cleaned."""
    return [
        SourceExtractorSettings(threshold=threshold, convolution=convolution, least_area=area, **cleaning)
        for cleaning in (NOT_CLEANED, CLEANED)[: 1 + cosmic]
        for convolution, thresholds in COARSE.items()
        for threshold in thresholds
        for area in AREAS
        if convolution != "none" or area > 1 or threshold >= 3  # noise alone: tens of thousands of lone pixels
    ]


def _each_other_way(one: SourceExtractorSettings, cosmic: bool) -> Iterable[SourceExtractorSettings]:
    """Each of mesh, deblending and cleaning changed by itself."""
    ways: dict[str, Sequence[Any]] = {"mesh": MESHES, "deblend": CONTRASTS, "steps": STEPS, "clean": (True, False)}
    if one.cleaned:
        ways["sharpness"] = SHARPNESSES
    elif cosmic:
        yield one.model_copy(update=CLEANED)
    for name, values in ways.items():
        for value in values:
            if value != getattr(one, name):
                yield one.model_copy(update={name: value})


def _nearby(one: SourceExtractorSettings) -> Iterable[SourceExtractorSettings]:
    """A little more and a little less of threshold and least area."""
    for factor in FINER:
        threshold = round(min(max(one.threshold * factor, LEAST_THRESHOLD), MOST_THRESHOLD), 3)
        yield one.model_copy(update={"threshold": threshold})
    for area, factor in ((one.least_area + 1, 0.92), (one.least_area - 1, 1.08)):
        if area >= FEWEST_AREA:
            yield one.model_copy(update={"least_area": area})
            yield one.model_copy(update={"least_area": area, "threshold": round(one.threshold * factor, 3)})


def _differences(one: SourceExtractorSettings, other: SourceExtractorSettings) -> dict[str, Any]:
    """What the other has otherwise."""
    return {name: value for name, value in other.model_dump().items() if value != getattr(one, name)}


def fitting(settings: SourceExtractorSettings, cosmic: bool) -> SourceExtractorSettings:
    """The settings as they are used on a scene: where there are no cosmic rays, nothing is cleaned of them."""
    plain = {"cleaned": False, "sharpness": SourceExtractorSettings().sharpness}
    return settings if cosmic or not settings.cleaned else settings.model_copy(update=plain)


def search_all(cosmic: Mapping[str, bool], ask: Ask) -> tuple[Search, dict[str, Search]]:
    """The best settings for every scene, and the one setting that is best in the mean over them.

    Parameters
    ----------
    cosmic : mapping of str to bool
        The scenes, and whether each has cosmic rays.
    ask : callable
        Scores lists of settings, one a scene.

    Returns
    -------
    Search
        For what is best in the mean, finished.
    dict of str to Search
        For what is best in each scene, finished.
    """
    own = {name: Search(one) for name, one in cosmic.items()}
    mean = Search(any(cosmic.values()))
    while mean.wanted or any(one.wanted for one in own.values()):
        wanted = {
            name: list(dict.fromkeys([*one.wanted, *(fitting(each, cosmic[name]) for each in mean.wanted)]))
            for name, one in own.items()
        }
        scores = ask(wanted)
        for name, one in own.items():
            one.learn(scores[name])
        mean.learn({each: _mean([scores[name][fitting(each, cosmic[name])] for name in own]) for each in mean.wanted})
    return mean, own


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
