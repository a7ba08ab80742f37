"""A real server on a store of its own, with two GPUs that are none, for Prometheus to scrape."""

from service.app import create_app
from service.hosting import hosted
from service.settings import Settings
from tests.fakes import two_gpus

settings = Settings()
Lynceus = hosted(create_app(settings, nvml=two_gpus()), settings)
