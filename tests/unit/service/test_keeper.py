"""A server that is the canary: one Deployment a version, as the canary overlay runs them."""

import asyncio
from pathlib import Path

import pytest

from lynceus.errors import StoreError
from model_store import Ref
from model_store.local import LocalStore
from service.keeper import Keeper
from service.metrics import Metrics
from service.refusals import UnknownModelError
from service.settings import Settings
from service.versions import CANARY, check_store
from tests.fakes import fixed_bundle
from tests.variants import jitter, save_variant

OLD, NEW = Ref("variant", "1"), Ref("variant", "2")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> LocalStore:
    made, store = tmp_path_factory.mktemp("made"), LocalStore(tmp_path_factory.mktemp("store"))
    for number, ref in enumerate((OLD, NEW)):
        save_variant(made, ref.version, jitter(number))
        store.push(made / "variant" / ref.version)
    store.promote("stable", OLD, by="test", reason="the first")
    return store


def settings_of(store: LocalStore, **more: object) -> Settings:
    return Settings(store=str(store.root), track=CANARY, device="cpu", workers=1, track_poll=60, **more)


def model_lines(metrics: Metrics) -> list[str]:
    text = metrics.exposition(0, {}).decode()
    return [line for line in text.splitlines() if line.startswith("lynceus_model_info{")]


def test_the_canarys_server_serves_the_canary_alone_and_follows_its_track(store: LocalStore) -> None:
    with pytest.raises(StoreError, match="no track 'canary'"):
        check_store(settings_of(store))
    store.promote(CANARY, NEW, by="test", reason="try it")
    check_store(settings_of(store))
    metrics = Metrics((1,))
    asyncio.run(follow(Keeper(settings_of(store), metrics), store))
    lines = model_lines(metrics)
    assert all('track="canary"' in line for line in lines)
    assert {f'version="{OLD.version}"' in line: line[-3:] for line in lines} == {True: "1.0", False: "0.0"}


async def follow(keeper: Keeper, store: LocalStore) -> None:
    await keeper.start()
    lineup = keeper.lineup
    assert [(served.ref, served.track) for served in lineup.all] == [(str(NEW), CANARY)]
    assert lineup.other is None
    assert lineup.drawn("f" * 64, canary_share=1.0) is lineup.stable
    assert lineup.asked(CANARY) is lineup.asked(str(NEW)) is lineup.stable
    with pytest.raises(UnknownModelError, match="there is variant/2 as canary"):
        lineup.asked("stable")  # what it is not, it never answers for
    assert keeper.described()["models"][0]["tracks"] == [CANARY]
    store.promote(CANARY, OLD, by="test", reason="the way back")
    await keeper.refresh()
    assert [(served.ref, served.track) for served in keeper.lineup.all] == [(str(OLD), CANARY)]
    await keeper.close()


def test_a_version_can_be_pinned_and_a_failure_names_the_track(store: LocalStore, tmp_path: Path) -> None:
    check_store(settings_of(store, canary=str(NEW)))
    asyncio.run(stay(Keeper(settings_of(store, canary=str(OLD)), Metrics((1,)))))
    with pytest.raises(StoreError):
        check_store(Settings(store=str(tmp_path), track=CANARY))


async def stay(keeper: Keeper) -> None:
    await keeper.start()
    keeper._fail("stable", NEW, StoreError("it is gone"))
    assert keeper.described()["warnings"] == ["variant/2 could not be loaded for canary, variant/1 stays: it is gone"]
    await keeper.close()


def test_a_bundle_that_is_given_is_called_by_the_servers_track() -> None:
    keeper = Keeper(Settings(track=CANARY, device="cpu"), Metrics((1,)), fixed_bundle())
    asyncio.run(keeper.start())
    assert keeper.lineup.stable.track == CANARY
