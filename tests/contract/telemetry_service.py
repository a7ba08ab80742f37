"""A FixedNetwork on a machine with two GPUs: `bentoml serve tests.contract.telemetry_service:Lynceus`."""

from starlette.applications import Starlette

from service.hosting import hosted
from service.late import Late
from service.settings import Settings
from service.start import check_settings

settings = Settings()


def application() -> Starlette:
    from service.app import create_app
    from tests.fakes import fixed_bundle, two_gpus

    return create_app(settings, fixed_bundle(), two_gpus())


Lynceus = hosted(Late(application), settings, check_settings)
