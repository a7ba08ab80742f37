"""What `bentoml serve service.bento:Lynceus` serves and `bentoml build` packs.

BentoML imports this module where it supervises too: the application is made, and the bundle loaded, in the process
that serves.
"""

from starlette.applications import Starlette

from service.hosting import hosted
from service.late import Late
from service.settings import Settings

settings = Settings()


def application() -> Starlette:
    """The application, with all that takes seconds to import."""
    from service.app import create_app

    return create_app(settings)


Lynceus = hosted(Late(application), settings)
