"""Which versions the settings name, and whether there is anything to serve; nothing is loaded here."""

from lynceus.errors import StoreError
from model_store import Ref, Store, Track, open_store
from service.settings import Settings

STABLE, CANARY = "stable", "canary"


def store_of(settings: Settings) -> Store:
    """The store that the settings name."""
    return open_store(
        settings.store, cache=settings.cache, endpoint=settings.s3_endpoint, region=settings.s3_region
    )  # fmt: skip


def check_store(settings: Settings) -> None:
    """Raise LynceusError if there is nothing to serve."""
    if settings.bundle is not None:
        from lynceus.bundle import read_manifest  # brings torch along

        read_manifest(settings.bundle)
        return
    store = store_of(settings)
    ref = wanted_version(STABLE, settings, store.tracks())
    if ref is None:
        raise StoreError(f"the store has no track {settings.main_name!r}")
    store.fetch(ref)


def wanted_version(role: str, settings: Settings, tracks: dict[str, Track]) -> Ref | None:
    """The version a role shall be served by: what its track points to, or the one that is pinned; None for none.

    Raises
    ------
    StoreError
        If what the settings name is no version.
    """
    name = settings.main_name if role == STABLE else settings.other_name
    if "/" in name:
        return Ref.parse(name)
    track = tracks.get(name)
    return None if track is None else track.ref
