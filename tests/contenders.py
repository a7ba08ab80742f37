"""Made-up versions of a detector, and the evidence of a comparison between two of them: lists without pixels."""

from dataclasses import dataclass

import numpy as np
from scipy.stats import norm

from lynceus.detections import Floats, box_about
from lynceus.evidence import Both, Evidence, FrameEvidence, Scored, Scores, Times
from lynceus.pairing import Listed, pair_lists
from lynceus.sightings import count_stars, offsets_of_centroids, offsets_of_stars, sightings

SIDE = 1024.0  # of a frame, pixels
PLANTED = 40
FALSE_SNR = 4.5
SOFTNESS = 0.15  # relative width of the range in which a source is found by chance
IOU = 0.5  # that makes a match with the catalogue


@dataclass(frozen=True)
class Contender:
    """A version, by its virtues.

    Attributes
    ----------
    limit : float
        Signal to noise at which it finds half of the sources.
    false : float
        False detections a frame, in the mean.
    shift : float
        Of its boxes along x, in pixels.
    slowness : float
        Time that a frame takes, in units of stable's.
    """

    limit: float = 5.0
    false: float = 3.0
    shift: float = 0.0
    slowness: float = 1.0

    def reseeded(self, rng: np.random.Generator) -> "Contender":
        """The same recipe with another seed: as good as a training happens to come out."""
        return Contender(self.limit * rng.normal(1, 0.02), self.false * rng.normal(1, 0.1), self.shift, self.slowness)


STABLE = Contender()
BETTER = Contender(limit=4.0)
SHIFTED = Contender(shift=1.5)
BLIND = Contender(limit=8.0)
SLOW = Contender(slowness=3.0)


@dataclass(frozen=True, eq=False)
class Scene:
    """A frame's sources (`x, y, snr`), its seeing in pixels, and how much harder than others it is."""

    sources: Floats
    fwhm: float
    hardness: float

    @classmethod
    def drawn(cls, rng: np.random.Generator) -> "Scene":
        count = round(np.exp(rng.uniform(np.log(40), np.log(300))))
        snr = np.minimum(3.5 * rng.random(count) ** -1.0, 2000)
        sources = np.stack([rng.uniform(5, SIDE - 5, count), rng.uniform(5, SIDE - 5, count), snr], axis=1)
        return cls(sources, rng.uniform(2, 5), np.exp(rng.normal(0, 0.1)))

    def seen_by(self, contender: Contender, sources: Floats, rng: np.random.Generator) -> Listed:
        """What a version finds: by chance, with noise of its own."""
        limit = contender.limit * self.hardness
        found = sources[rng.random(len(sources)) < norm.cdf((sources[:, 2] / limit - 1) / SOFTNESS)]
        false = rng.uniform((0, 0, FALSE_SNR), (SIDE, SIDE, FALSE_SNR + 2), (rng.poisson(contender.false), 3))
        x, y, snr = np.concatenate([found, false]).T
        noise = self.fwhm / 2.355 / snr
        boxes = x + rng.normal(0, noise + 0.15) + contender.shift, y + rng.normal(0, noise + 0.15)
        side = np.maximum(2.5 * self.fwhm, 4.0) * np.exp(rng.normal(0, 0.05, len(x)))
        fwhm = np.full(len(x), self.fwhm)
        return Listed(box_about(*boxes, side, side), x + rng.normal(0, noise), y + rng.normal(0, noise),
                      1 - 1 / (1 + snr), snr * 10, snr, fwhm)  # fmt: skip


def compete(stable: Contender, canary: Contender, frames: int, seed: int, catalogues: bool) -> Evidence:
    """The evidence of a comparison on frames drawn by the seed."""
    rng = np.random.default_rng(seed)
    return Evidence(frames=tuple(_frame(f"{number}", stable, canary, rng, catalogues) for number in range(frames)))


def _frame(
    name: str, stable: Contender, canary: Contender, rng: np.random.Generator, catalogues: bool
) -> FrameEvidence:
    scene, both = Scene.drawn(rng), (stable, canary)
    lists = [scene.seen_by(one, scene.sources, rng) for one in both]
    pairing = pair_lists(lists[0], lists[1])
    grid = np.stack(np.meshgrid(*[np.arange(7) * 140.0 + 80] * 2), axis=-1).reshape(-1, 2)[:PLANTED]
    planted = np.column_stack([grid + rng.uniform(-20, 20, grid.shape), 3 * 10 ** rng.random(PLANTED)])
    again = [scene.seen_by(one, planted, rng) for one in both]
    found = [sightings(planted[:, :2], scene.fwhm, seen) for seen in again]
    faint, bright = count_stars(planted[:, 2], found, 10.0)
    stable_ms, canary_ms = (300 * one.slowness * _lateness(rng) for one in both)
    times = Both(stable=stable_ms, canary=canary_ms)
    scores = [_scores(seen, scene) for seen in lists] if catalogues else None
    return FrameEvidence(
        frame=name,
        pairing=pairing.summary(),
        faint=faint,
        bright=bright,
        offsets=offsets_of_stars(planted[:, :2], again, found) or offsets_of_centroids(pairing),
        inverted=Both(stable=float(rng.poisson(stable.false / 2)), canary=float(rng.poisson(canary.false / 2))),
        scores=Scored(stable=scores[0], canary=scores[1]) if scores else None,
        times=Times(client=times, server=times, infer=times),
    )


def _lateness(rng: np.random.Generator) -> float:
    """How much longer than it should the faster of two requests takes; one in twenty is held up by something else."""
    return float((np.exp(rng.normal(0, 0.1, 2)) * rng.choice([1, 3], 2, p=[0.95, 0.05])).min())


def _scores(seen: Listed, scene: Scene) -> Scores:
    """Against a catalogue that lists all sources above a signal to noise of 4."""
    listed = scene.sources[scene.sources[:, 2] > 4]
    index = sightings(listed[:, :2], scene.fwhm, seen)
    side = max(2.5 * scene.fwhm, 4.0)
    off = np.abs(seen.centres[index] - listed[:, :2])
    common = np.clip(side - off, 0, None).prod(axis=1)
    iou = np.where(index >= 0, common / (2 * side**2 - common), 0.0)
    matched = int((iou >= IOU).sum())
    others = sightings(scene.sources[scene.sources[:, 2] <= 4][:, :2], scene.fwhm, seen)  # count neither way
    extra = len(seen) - matched - int((others >= 0).sum())
    recall, precision = matched / max(len(listed), 1), matched / max(matched + extra, 1)
    return Scores(matched=matched, missed=len(listed) - matched, extra=max(extra, 0),
                  map_50=recall * precision**0.5, best_iou_per_gt=float(iou.mean()))  # fmt: skip
