"""The real server around a FixedNetwork: `bentoml serve tests.contract.fixed_service:Lynceus`."""

from service.app import create_app
from service.hosting import hosted
from service.settings import Settings
from tests.fakes import fixed_bundle

settings = Settings()
Lynceus = hosted(create_app(settings, fixed_bundle()), settings)
