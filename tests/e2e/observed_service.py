"""A real server on a store of its own, with two GPUs that are none, for Prometheus to scrape."""

from starlette.applications import Starlette

from service.hosting import hosted
from service.late import Late
from service.settings import Settings
from service.start import check_settings

settings = Settings()


def application() -> Starlette:
    from service.app import create_app
    from tests.fakes import two_gpus

    return create_app(settings, nvml=two_gpus())


Lynceus = hosted(Late(application), settings, check_settings)
