"""The short form of `make load`: a network of a known speed, for a few seconds."""

import asyncio

from tests.load.__main__ import Plan, loaded

PLAN = Plan(
    peak_seconds=3, seconds=4, clients=6, overload=3, live=0.2, deadline=3, backfill_deadline=4, warm_up_seconds=1
)
TILE_SECONDS = 0.1
KEPT = 0.5  # of the deadlines, a coarse bound: the tests beside it take the cores; `make load` asks for 99 %


def test_with_too_much_load_those_let_in_are_answered_and_the_others_turned_away() -> None:
    tallies = asyncio.run(loaded(PLAN, "paced", TILE_SECONDS))
    peak, _, _, backfill, both, crowd, *_ = tallies
    for one in tallies:
        assert one.wrong == ()
        assert one.lost == one.unsent == 0
        assert one.answered > 0
    assert peak.refused == 0
    assert backfill.refused > 0
    assert crowd.refused > 0
    assert both.kept > KEPT
    assert crowd.kept > KEPT
