import hashlib
from dataclasses import replace

import pytest

from lynceus.bundle import Bundle
from service.lineup import Lineup, draw
from service.refusals import UnknownModelError
from service.served import Served
from service.versions import CANARY, STABLE
from tests.fakes import fixed_bundle

FRAMES = [hashlib.sha256(bytes([number % 256, number // 256])).hexdigest() for number in range(2000)]


def version(number: str) -> Bundle:
    bundle = fixed_bundle()
    return replace(bundle, manifest=bundle.manifest.model_copy(update={"version": number}))


LINEUP = Lineup(Served(version("1")), Served(version("2"), CANARY))


@pytest.mark.parametrize("name", ["stable", "1", "fixed/1"])
def test_a_version_goes_by_its_track_its_version_and_its_full_name(name: str) -> None:
    assert LINEUP.asked(name) is LINEUP.stable


def test_who_names_none_gets_none_and_an_unknown_name_is_told_what_there_is() -> None:
    assert LINEUP.asked("canary") is LINEUP.canary
    assert LINEUP.asked(None) is None
    with pytest.raises(UnknownModelError, match=r"'3' is loaded; there is fixed/1 as stable, fixed/2 as canary"):
        LINEUP.asked("3")
    with pytest.raises(UnknownModelError):
        Lineup(LINEUP.stable).asked("canary")


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 1.0])
def test_the_canary_gets_its_share_and_the_same_frame_always_draws_the_same(share: float) -> None:
    drawn = [LINEUP.drawn(sha256, share) for sha256 in FRAMES]
    assert [LINEUP.drawn(sha256, share) for sha256 in FRAMES] == drawn
    assert sum(served is LINEUP.canary for served in drawn) == pytest.approx(share * len(FRAMES), abs=70)
    assert {Lineup(LINEUP.stable).drawn(sha256, share) for sha256 in FRAMES} == {LINEUP.stable}


def test_a_larger_share_keeps_the_frames_of_a_smaller_one() -> None:
    few = {sha256 for sha256 in FRAMES if LINEUP.drawn(sha256, 0.1) is LINEUP.canary}
    more = {sha256 for sha256 in FRAMES if LINEUP.drawn(sha256, 0.3) is LINEUP.canary}
    assert few < more
    assert all(0 <= draw(sha256) < 1 for sha256 in FRAMES)


def test_a_change_makes_a_new_lineup() -> None:
    other = LINEUP.with_served(STABLE, LINEUP.canary)
    assert LINEUP.stable is not LINEUP.canary
    assert other.stable is other.canary
    assert LINEUP.with_served(CANARY, None).all == [LINEUP.stable]


def test_a_canary_that_is_the_same_version_is_no_other() -> None:
    same = Lineup(LINEUP.stable, Served(LINEUP.stable.bundle, CANARY))
    assert (LINEUP.other, same.other) == (LINEUP.canary, None)
    assert {same.drawn(sha256, 1.0) for sha256 in FRAMES} == {same.stable}
    assert same.asked("canary") is same.canary
