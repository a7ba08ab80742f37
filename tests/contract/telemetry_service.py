"""A FixedNetwork on a machine with two GPUs: `bentoml serve tests.contract.telemetry_service:Lynceus`."""

from service.app import create_app
from service.hosting import hosted
from service.settings import Settings
from tests.fakes import fixed_bundle, two_gpus

settings = Settings()
Lynceus = hosted(create_app(settings, fixed_bundle(), two_gpus()), settings)
