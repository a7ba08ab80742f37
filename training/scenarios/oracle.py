"""A finder that knows what no finder can: the ceiling of a scene.

A matched filter on a frame whose sky, noise, faults, spikes and trails are known and whose point spread function is
exact. What stands out most is fitted and taken away, its photons are counted as noise, and the frame is filtered again:
so sources come out from under each other. Blends are fitted, not told. Of galaxies it is told the shape, once it has
claimed something within a FWHM of one, so that taking it away leaves nothing; that it is there it must see by itself.

No true bound where the noise is smoothed (it does not whiten), where galaxies are long (its bank of filters is round),
and in pairs under a FWHM, where a joint fit at all scales could do a little better.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
from scipy.ndimage import maximum_filter

from training.scenarios.filters import Filter, Stars, best_of, filters, flux_of, window
from training.scenarios.listings import Listing
from training.scenarios.sight import Sight, sight_in_suite
from training.scenarios.suite import Suite, read_suite
from training.scenes.ranges import Floats
from training.scenes.scene import Seen
from training.scenes.stamps import PHASES, fwhm_of

FAINTEST, LAST = 3.0, 2  # SNR that claims go down to, in so many stages
GLARING, STEEP, GENTLE = 30.0, 8.0, 2.0  # stages go down by the one factor above this SNR, and below by the other
APART = 0.5  # FWHM within which all is one source
DEFER = 2.5  # FWHM around a claim where others wait for the next stage
STEPS = ((1, 0), (-1, 0), (0, 1), (0, -1))
HIDDEN = 0.5  # a star of which so little of the core is sound is fitted in its halo
AROUND = range(-24, 25, 4)  # eighths of a pixel that a star without a core may be away
ROUNDS = 2  # of fits after each stage


@dataclass
class Claim:
    """What the oracle takes for a source: place in steps of 1/8 px, flux in ADU, SNR, and the galaxy it is or None."""

    column: int
    row: int
    flux: float
    snr: float
    galaxy: Seen | None = None
    x: float = 0.0
    y: float = 0.0


def find(frame: Path, suite: Suite | None = None) -> Listing:
    """List what the oracle sees on a frame `<split>/<scenario>/00000.fits` of the suite; its scores are SNR.

    Raises
    ------
    TrainingError
        If the suite has no such frame.
    """
    return find_in(sight_in_suite(suite or read_suite(), frame))


def find_in(sight: Sight) -> Listing:
    """List what the oracle sees; its scores are SNR."""
    search, threshold, last = Search(sight), np.inf, LAST
    while last:
        snr = search.standing_out()
        threshold = next_threshold(float(snr.max()), threshold)
        search.fit(search.claim(snr, threshold))
        last -= threshold <= FAINTEST
    search.settle()
    return search.listing()


def next_threshold(highest: float, before: float) -> float:
    """How much must stand out in a stage: a share of what does, so that its neighbours wait, and less than before."""
    share = STEEP if highest > GLARING else GENTLE
    return max(min(highest / share, before / GENTLE), FAINTEST)


@dataclass(frozen=True, eq=False)
class Search:
    """Claims so far, and the frame without them.

    Attributes
    ----------
    sight : Sight
        What is known.
    claims : list of Claim
        In the order they were made.
    """

    sight: Sight
    claims: list[Claim] = field(default_factory=list)

    @cached_property
    def stars(self) -> Stars:
        """The point spread function at every phase."""
        return Stars(self.sight)

    @cached_property
    def bank(self) -> list[Filter]:
        """A star's filter, and those of galaxies."""
        return filters(self.sight, self.stars.fwhm)

    @cached_property
    def residual(self) -> Floats:
        """The frame without the claims, changed as they come."""
        return self.sight.over.copy()

    @cached_property
    def model(self) -> Floats:
        """The light of the claims, likewise."""
        return np.zeros_like(self.sight.over)

    @property
    def weight(self) -> Floats:
        """Inverse variance of every pixel, 0 where it is not sound."""
        variance = self.sight.variance + np.clip(self.model, 0, None) / self.sight.detector.gain
        return np.where(self.sight.sound, 1 / variance, 0.0)

    def standing_out(self) -> Floats:
        """The highest SNR that any filter sees in what is left, at every pixel."""
        return best_of(self.bank, self.residual, self.weight)

    def claim(self, snr: Floats, threshold: float) -> list[Claim]:
        """Claim what stands out."""
        side = 2 * int(APART * self.stars.fwhm) + 1
        top = snr >= maximum_filter(snr, max(side, 3))
        rows, columns = np.nonzero(top & (snr > threshold))
        order = np.argsort(-snr[rows, columns])
        fresh: list[Claim] = []
        before, now = _Places([(one.x, one.y) for one in self.claims]), _Places()
        held = {id(one.galaxy) for one in self.claims}
        for row, column in zip(rows[order], columns[order], strict=True):
            galaxy = self._lent(column, row, held)
            if galaxy is None and not before.clear(column, row, APART * self.stars.fwhm):
                continue
            reach = DEFER * (fwhm_of(galaxy.moments) if galaxy else self.stars.fwhm)
            if not now.clear(column, row, reach):
                continue
            place = PHASES * int(column) + PHASES // 2, PHASES * int(row) + PHASES // 2
            one = Claim(*place, 0.0, float(snr[row, column]), galaxy, float(column), float(row))
            now.add(column, row)
            held.add(id(galaxy))
            fresh.append(one)
        self.claims.extend(fresh)
        return fresh

    def _lent(self, column: int, row: int, held: set[int]) -> Seen | None:
        """The nearest galaxy within its FWHM that is not held by a claim."""
        best, least = None, 1.0
        for one in self.sight.galaxies:
            distance = float(np.hypot(one.x - column, one.y - row)) / fwhm_of(one.moments)
            if distance < least and id(one) not in held:
                best, least = one, distance
        return best

    def fit(self, claims: Sequence[Claim]) -> None:
        """Fit claims one after the other, each on what the others leave, a few times over."""
        for _ in range(ROUNDS):
            weight = self.weight
            for one in claims:
                self._refit(one, weight)

    def settle(self) -> None:
        """Fit all claims once more, brightest first, and rank stars by what the last fit says."""
        self.fit(sorted(self.claims, key=lambda one: -one.flux))
        weight = self.weight
        for one in self.claims:
            if one.galaxy is None:
                self._add(one, -1)
                gain, _ = self.stars.gain(self.residual, weight, (one.column, one.row), self._halo(one))
                self._add(one, 1)
                one.snr = gain / self.bank[0].boost

    def listing(self) -> Listing:
        """The claims of any light, each the surest of its place."""
        kept: list[Claim] = []
        taken = _Places()
        for one in sorted(self.claims, key=lambda one: -one.snr):
            if one.flux > 0 and one.snr > 0 and taken.clear(one.x, one.y, APART * self.stars.fwhm):
                taken.add(one.x, one.y)
                kept.append(one)
        positions = np.array([(one.x, one.y) for one in kept]).reshape(-1, 2)
        return Listing(positions, np.array([one.snr for one in kept]))

    def _refit(self, one: Claim, weight: Floats) -> None:
        self._add(one, -1)
        if one.galaxy is not None:
            one.flux = flux_of(one.galaxy.pixels, one.galaxy.column, one.galaxy.row, self.residual, weight)
        else:
            self._climb(one, weight)
        self._add(one, 1)

    def _climb(self, one: Claim, weight: Floats) -> None:
        """Move a star to where it explains most, in steps of an eighth of a pixel and a FWHM at most; set its flux."""
        halo = self._halo(one)
        start = np.array([one.x + 0.5, one.y + 0.5]) * PHASES
        if halo:  # without a core there is more than one hill to climb
            around = [(one.column + dx, one.row + dy) for dx in AROUND for dy in AROUND]
            hills = [self.stars.gain(self.residual, weight, place, halo)[0] for place in around]
            one.column, one.row = around[int(np.argmax(hills))]
        best, flux = self.stars.gain(self.residual, weight, (one.column, one.row), halo)
        for stride in (2, 1):
            while True:
                places = [(one.column + stride * dx, one.row + stride * dy) for dx, dy in STEPS]
                gains = [self.stars.gain(self.residual, weight, place, halo) for place in places]
                index = int(np.argmax([gain for gain, _ in gains]))
                away = np.hypot(*(np.array(places[index]) - start)) / PHASES
                if gains[index][0] <= best or away > max(self.stars.fwhm, 1.0) + halo * AROUND[-1] / PHASES:
                    break
                (best, flux), (one.column, one.row) = gains[index], places[index]
        one.flux = max(flux, 0.0)
        one.x, one.y = one.column / PHASES - 0.5, one.row / PHASES - 0.5

    def _halo(self, one: Claim) -> bool:
        """Whether too little of a star's core is sound to fit it there."""
        half = self.stars.half
        row, column = round(one.y), round(one.x)
        core = self.sight.sound[max(row - half, 0) : row + half + 1, max(column - half, 0) : column + half + 1]
        return bool(core.mean() < HIDDEN) if core.size else True

    def _add(self, one: Claim, sign: int) -> None:
        """Add a claim's light to the model, or take it from there."""
        if one.flux <= 0:
            return
        if one.galaxy is not None:
            stamp, column, row = one.galaxy.pixels, one.galaxy.column, one.galaxy.row
        else:
            stamp = self.stars.whole(one.column, one.row, one.flux)
            column, row = one.column // PHASES, one.row // PHASES
        where, cut = window(stamp, column, row, self.model.shape)
        self.model[where] += sign * one.flux * cut
        self.residual[where] -= sign * one.flux * cut


class _Places:
    """Places on a frame that are taken."""

    def __init__(self, taken: Sequence[tuple[float, float]] = ()) -> None:
        self._taken = list(taken)

    def clear(self, column: float, row: float, reach: float) -> bool:
        """Whether none is within reach."""
        taken = np.array(self._taken, float).reshape(-1, 2)
        return not bool((np.hypot(*(taken - [column, row]).T) < reach).any())

    def add(self, column: float, row: float) -> None:
        """Take a place."""
        self._taken.append((column, row))
