from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
from pydantic import ValidationError

from lynceus.criteria import TABLE
from lynceus.decision import Decision, DecisionSpec, Outcome, Quantity, decide
from lynceus.evidence import Both, DarkEvidence, Evidence, Failure, FrameEvidence, Offsets, Scored, Scores, Stars, Times
from lynceus.pairing import OUTCOMES, SNR_BINS
from tests.contenders import BETTER, BLIND, SHIFTED, SLOW, STABLE, Contender, compete

SPEC = DecisionSpec(resamples=1000)
PAIRING = {
    "detections": {"stable": 100, "canary": 100},
    "matched": 100,
    "lost": 0,
    "gained": 0,
    "by_snr": {outcome: dict.fromkeys(SNR_BINS, 10 * (outcome == "matched")) for outcome in OUTCOMES},
    "median_shifts": {"box_side_ratio": 1.0},
}


def both(stable: float, canary: float) -> Both:
    return Both(stable=stable, canary=canary)


def frame(number: int = 0, **seen: object) -> FrameEvidence:
    """A frame on which nothing differs, but for what is given."""
    same = {
        "faint": Stars(planted=20, stable=10, canary=10),
        "bright": Stars(planted=20, stable=20, canary=20),
        "inverted": both(2, 2),
        "times": Times(client=both(150, 150), server=both(100, 100), infer=both(80, 80)),
    }
    return FrameEvidence(frame=f"{number}.fits", pairing=PAIRING, **(same | seen))


def night(count: int = 10, darks: tuple[DarkEvidence, ...] = (), **seen: Callable[[int], object]) -> Evidence:
    """Frames whose evidence depends on their number."""
    frames = [frame(number, **{name: made(number) for name, made in seen.items()}) for number in range(count)]
    return Evidence(frames=tuple(frames), darks=darks)


def quantity(decision: Decision, name: str) -> Quantity:
    return next(one for one in decision.quantities if one.name == name)


def scored(f1: float) -> Scores:
    """So many in a hundred right."""
    matched = round(100 * f1)
    return Scores(matched=matched, missed=100 - matched, extra=100 - matched, map_50=f1, best_iou_per_gt=0.8 * f1)


def stripped(evidence: Evidence) -> Evidence:
    frames = tuple(one.model_copy(update={"scores": None}) for one in evidence.frames)
    return evidence.model_copy(update={"frames": frames})


def rates(canary: Callable[[int], Contender], count: int) -> tuple[Counter[Outcome], Counter[Outcome]]:
    """Outcomes of so many comparisons of twelve frames with catalogues, and of the same without."""
    outcomes: tuple[Counter[Outcome], Counter[Outcome]] = Counter(), Counter()
    for seed in range(count):
        evidence = compete(STABLE, canary(seed), 12, seed, catalogues=True)
        outcomes[0][decide(evidence, SPEC).outcome] += 1
        outcomes[1][decide(stripped(evidence), SPEC).outcome] += 1
    return outcomes


def test_the_same_recipe_with_another_seed_is_held():
    for outcomes in rates(lambda seed: STABLE.reseeded(np.random.default_rng(10_000 + seed)), 200):
        assert outcomes[Outcome.HOLD] >= 0.95 * 200, outcomes


@pytest.mark.parametrize(
    ("canary", "outcome"),
    [
        (BETTER, Outcome.PROMOTE),
        (SHIFTED, Outcome.ROLL_BACK),
        (BLIND, Outcome.ROLL_BACK),
        (SLOW, Outcome.ROLL_BACK),
    ],
    ids=["better", "shifted", "blind", "slow"],
)
def test_what_is_better_or_broken_is_seen(canary, outcome):
    for outcomes in rates(lambda seed: canary, 40):
        assert outcomes[outcome] >= 0.95 * 40, outcomes


def test_two_equal_versions_are_held_and_nothing_is_unclear():
    decision = decide(night(), SPEC)
    assert decision.outcome is Outcome.HOLD
    assert decision.reasons == ("no figure is better by an amount that is of use, with confidence",)
    assert {one.verdict for one in decision.quantities if one.role == "guard"} == {"not worse"}


def test_one_frame_that_only_the_canary_fails_on_is_enough():
    evidence = night().model_copy(update={"failures": (Failure(frame="7.fits", reason="out of memory"),)})
    decision = decide(evidence, SPEC)
    assert decision.outcome is Outcome.ROLL_BACK
    assert decision.reasons == ("it failed on 7.fits, which stable answered: out of memory",)


@pytest.mark.parametrize(
    ("name", "seen", "reason"),
    [
        ("f1", {"scores": lambda n: Scored(stable=scored(0.9), canary=scored(0.8 + 0.01 * (n % 2)))},
         "its F1 against the catalogues is 0.805, stable's 0.900"),
        ("completeness_faint", {"faint": lambda n: Stars(planted=20, stable=12, canary=3 + n % 2)},
         "it finds 17.5 % of the faint planted stars, stable 60.0 % (change -42.5 points, interval -4"),
        ("completeness_bright", {"bright": lambda n: Stars(planted=20, stable=20, canary=15 + n % 2)},
         "it finds 77.5 % of the bright planted stars, stable 100.0 %"),
        ("inverted", {"inverted": lambda n: both(2, 20 + n % 3)},
         "it finds 20.9 sources in a frame turned upside down, where there are none, stable 2.0"),
        ("latency", {"times": lambda n: Times(client=both(9, 9), server=both(100, 300 + n))},
         "it takes 3.04 times the time that stable takes (interval 3.0"),
        ("box_offset", {"offsets": lambda n: Offsets(reference="planted stars", count=10, distance=both(0.2, 1.5),
                                                     x=both(0, -1.4), y=both(0, 0.5))},
         "its boxes are off their sources by 1.50 px, stable's by 0.20 px: x -1.4 px, y +0.5 px from the planted"),
    ],
)  # fmt: skip
def test_every_fault_is_named(name, seen, reason):
    decision = decide(night(**seen), SPEC)
    assert decision.outcome is Outcome.ROLL_BACK
    assert quantity(decision, name).verdict == "worse"
    assert any(one.startswith(reason) for one in decision.reasons), decision.reasons


def test_false_detections_on_darks_are_a_fault():
    darks = tuple(DarkEvidence(frame=f"{n}", found=both(1, 30 + n)) for n in range(5))
    decision = decide(night(darks=darks), SPEC)
    assert decision.outcome is Outcome.ROLL_BACK
    assert decision.reasons[0].startswith("it finds 32.0 sources on a dark, where there are none, stable 1.0")


def test_a_few_darks_are_reported_and_not_judged():
    darks = tuple(DarkEvidence(frame=f"{n}", found=both(1, 30)) for n in range(4))
    decision = decide(night(darks=darks), SPEC)
    assert decision.outcome is Outcome.HOLD
    assert quantity(decision, "darks").verdict == "reported"


def test_boxes_that_scatter_are_not_called_shifted():
    offsets = Offsets(reference="measured centroids", count=9, distance=both(0.2, 2.0), x=both(0, 0.1), y=both(0, 0))
    decision = decide(night(offsets=lambda n: offsets), SPEC)
    assert ": x" not in decision.reasons[0]
    assert "in all directions" in decision.reasons[0]


def test_better_alone_is_not_enough_where_something_may_be_worse():
    better = {"faint": lambda n: Stars(planted=20, stable=8, canary=16 + n % 2)}
    assert decide(night(**better), SPEC).outcome is Outcome.PROMOTE
    unclear = decide(night(**better, inverted=lambda n: both(2, 2 + 8 * (n % 4 == 0))), SPEC)
    assert unclear.outcome is Outcome.HOLD
    assert any(one.startswith("it may be worse: it finds") and "frames would tell" in one for one in unclear.reasons)
    assert any("faint planted stars" in one for one in unclear.reasons)


def test_where_bright_detections_differ_only_catalogues_can_promote():
    better = {"faint": lambda n: Stars(planted=20, stable=8, canary=16 + n % 2)}
    by_snr = PAIRING["by_snr"] | {"gained": dict.fromkeys(SNR_BINS, 9)}
    evidence = night(**better)
    frames = [one.model_copy(update={"pairing": PAIRING | {"by_snr": by_snr}}) for one in evidence.frames]
    decision = decide(Evidence(frames=tuple(frames)), SPEC)
    assert decision.outcome is Outcome.HOLD
    assert "only catalogues tell" in decision.reasons[-1]
    known = Scored(stable=scored(0.8), canary=scored(0.9))
    frames = [one.model_copy(update={"scores": known}) for one in frames]
    assert decide(Evidence(frames=tuple(frames)), SPEC).outcome is Outcome.PROMOTE


def test_where_there_are_catalogues_finding_more_is_not_enough():
    better = {"faint": lambda n: Stars(planted=20, stable=8, canary=16 + n % 2)}
    same = night(**better, scores=lambda n: Scored(stable=scored(0.8), canary=scored(0.8)))
    assert decide(same, SPEC).outcome is Outcome.HOLD


def test_faster_alone_is_no_reason_to_promote():
    decision = decide(night(times=lambda n: Times(client=both(100, 10), server=both(100, 10))), SPEC)
    assert decision.outcome is Outcome.HOLD


def test_time_in_the_queue_and_on_the_way_does_not_count_where_the_server_tells():
    decision = decide(night(times=lambda n: Times(client=both(100, 900), server=both(100, 101))), SPEC)
    assert decision.outcome is Outcome.HOLD
    assert quantity(decision, "latency_client").canary == pytest.approx(9)
    untold = decide(night(times=lambda n: Times(client=both(100, 900))), SPEC)
    assert untold.outcome is Outcome.ROLL_BACK


def test_figures_of_few_frames_are_not_judged():
    evidence = night(9, scores=lambda n: Scored(stable=scored(0.9), canary=scored(0.1)) if n < 4 else None)
    decision = decide(evidence, SPEC)
    assert quantity(decision, "f1").verdict == "reported"
    assert decision.outcome is Outcome.HOLD


def test_a_catalogue_that_lists_nothing_says_nothing():
    empty = Scores(matched=0, missed=0, extra=0, map_50=None, best_iou_per_gt=None)
    decision = decide(night(scores=lambda n: Scored(stable=empty, canary=empty)), SPEC)
    assert not {"f1", "recall", "map_50"} & {one.name for one in decision.quantities}


def test_counts_weigh_frames_by_what_they_hold():
    crowded, sparse = scored(0.9), Scores(matched=0, missed=1, extra=0, map_50=0.0, best_iou_per_gt=0.0)
    evidence = night(scores=lambda n: Scored(stable=crowded, canary=crowded if n else sparse))
    assert quantity(decide(evidence, SPEC), "recall").canary == pytest.approx(810 / 901)


def test_an_interval_holds_the_change_and_the_single_one_lies_within():
    decision = decide(compete(STABLE, BETTER, 12, 3, catalogues=True), SPEC)
    for one in decision.quantities:
        assert one.low <= one.single_low <= one.change <= one.single_high <= one.high


def test_fewer_frames_make_wider_intervals():
    few, many = (quantity(decide(compete(STABLE, STABLE, count, 5, True), SPEC), "f1") for count in (8, 80))
    assert few.high - few.low > 1.5 * (many.high - many.low)


def test_the_same_evidence_gives_the_same_decision():
    evidence = compete(STABLE, BETTER, 8, 1, catalogues=True)
    assert decide(evidence, SPEC) == decide(evidence, SPEC)


def test_tolerances_may_be_set():
    worse = {"bright": lambda n: Stars(planted=20, stable=20, canary=15 + n % 2)}
    tolerant = DecisionSpec(resamples=1000, tolerance={"completeness_bright": 0.4, "completeness": 0.4})
    assert decide(night(**worse), tolerant).outcome is Outcome.HOLD
    with pytest.raises(ValidationError, match="no figure is called fi; there are f1"):
        DecisionSpec(tolerance={"fi": 0.1})


def test_the_tolerance_of_false_detections_grows_with_the_lists():
    assert quantity(decide(night(), SPEC), "inverted").tolerance == pytest.approx(1 + 0.02 * 100)


def test_exit_codes_are_what_pipelines_rely_on():
    assert {one.value: one.exit_code for one in Outcome} == {"PROMOTE": 0, "HOLD": 10, "ROLL BACK": 20}


def test_every_figure_has_a_name_of_its_own_and_a_sentence_for_the_canary():
    assert len({row.name for row in TABLE}) == len(TABLE)
    assert all("{canary}" in row.sentence for row in TABLE)
