"""The real server around a network with a fault: `bentoml serve tests.faults.faulty_service:Lynceus`.

`FAULT` says which.
"""

import os

from starlette.applications import Starlette

from service.hosting import hosted
from service.late import Late
from service.settings import Settings
from service.start import check_settings

settings = Settings()


def application() -> Starlette:
    from service.app import create_app
    from tests.faults.faulty_network import faulty_bundle

    return create_app(settings, faulty_bundle(os.environ.get("FAULT", "")))


Lynceus = hosted(Late(application), settings, check_settings)
