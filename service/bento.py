"""What `bentoml serve service.bento:Lynceus` serves and `bentoml build` packs.

BentoML needs the application when it imports this module; the bundle is loaded when the server starts.
"""

from service.app import create_app
from service.hosting import hosted
from service.settings import Settings

settings = Settings()
Lynceus = hosted(create_app(settings), settings)
