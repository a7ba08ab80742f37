"""What shows before the server starts, without torch where no GPU is asked for."""

from service.keys import Keyring
from service.settings import Settings
from service.versions import check_store


def check_start(settings: Settings) -> None:
    """Raise LynceusError for what a server would fail with: no GPU, no API keys, no version to serve."""
    check_settings(settings)
    check_store(settings)


def check_settings(settings: Settings) -> None:
    """The same for a server that brings its own version."""
    if settings.device == "cuda":
        from service.device import chosen_device  # brings torch along

        chosen_device(settings)
    Keyring(settings.api_keys, settings.api_keys_file)
