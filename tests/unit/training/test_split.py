"""Laws of the split: whole fields, every exposure once, and as near the shares as whole fields allow."""

from collections import Counter
from itertools import product
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training.curation.dataset import Exposure
from training.tiling.split import MOST_FIELDS, SHARES, SPLITS, split_fields

SIZES = st.lists(st.integers(1, 9), min_size=1, max_size=30)


def exposures_of(sizes: list[int]) -> list[Exposure]:
    """As many exposures of each field as it says."""
    return [
        Exposure(f"frame{field}_{number}", Path("a.fits"), None, ("OK",), f"field{field}")
        for field, size in enumerate(sizes)
        for number in range(size)
    ]


def sums_of(splits: dict[str, str]) -> list[int]:
    counts = Counter(splits.values())
    return [counts[split] for split in SPLITS]


def distance(sums: list[int], shares: tuple[float, ...] = SHARES) -> float:
    return sum(abs(count - share * sum(sums)) for count, share in zip(sums, shares, strict=True))


@settings(max_examples=40)
@given(SIZES, st.integers(0, 5))
def test_no_field_is_in_two_splits_and_every_exposure_is_in_one(sizes, seed):
    exposures = exposures_of(sizes)
    splits = split_fields(exposures, seed=seed)
    assert set(splits) == {one.key for one in exposures}
    fields = {split: {one.field for one in exposures if splits[one.key] == split} for split in SPLITS}
    assert sum(map(len, fields.values())) == len(sizes)
    assert all(fields.values()) or len(sizes) < 3


@settings(max_examples=40)
@given(SIZES, st.randoms())
def test_the_order_of_the_exposures_does_not_matter(sizes, random):
    exposures = exposures_of(sizes)
    shuffled = random.sample(exposures, len(exposures))
    assert split_fields(exposures, seed=3) == split_fields(shuffled, seed=3)


@settings(max_examples=40)
@given(st.lists(st.integers(1, 9), min_size=3, max_size=6))
def test_few_fields_are_split_as_near_the_shares_as_can_be(sizes):
    found = distance(sums_of(split_fields(exposures_of(sizes))))
    ways = (
        [sum(size for size, place in zip(sizes, places, strict=True) if place == split) for split in range(3)]
        for places in product(range(3), repeat=len(sizes))
    )
    assert found == pytest.approx(min(distance(sums) for sums in ways if all(sums)))


@settings(max_examples=40)
@given(st.lists(st.integers(1, 4), min_size=40, max_size=80), st.integers(0, 3))
def test_many_small_fields_come_within_a_frame_of_the_shares(sizes, seed):
    sums = sums_of(split_fields(exposures_of(sizes), seed=seed))
    assert all(abs(count - share * sum(sizes)) <= 1 for count, share in zip(sums, SHARES, strict=True))


def test_single_frames_are_split_as_the_ancestor_did():
    assert sums_of(split_fields(exposures_of([1] * 100))) == [81, 9, 10]


def test_the_seed_chooses_among_fields_alike():
    exposures = exposures_of([1] * 40)
    splits = [split_fields(exposures, seed=seed) for seed in range(4)]
    assert len({tuple(key for key, split in one.items() if split == "test") for one in splits}) == 4


@settings(max_examples=40)
@given(st.integers(1, 2 * MOST_FIELDS))
def test_a_split_without_a_share_stays_empty(fields):
    sums = sums_of(split_fields(exposures_of([2] * fields), shares=(0.5, 0.0, 0.5)))
    assert sums[1] == 0
    assert distance(sums, (0.5, 0.0, 0.5)) <= 2


def test_one_large_field_is_trained_on():
    exposures = exposures_of([50, 3, 3, 2, 2])
    splits = split_fields(exposures)
    assert {splits[one.key] for one in exposures if one.field == "field0"} == {"train"}


def test_no_exposures_have_no_split():
    assert split_fields([]) == {}
