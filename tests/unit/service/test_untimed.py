from bentoml._internal.server.base_app import BaseAppFactory
from bentoml._internal.server.http import traffic

from service.untimed import Untimed, leave_out_timers


class Factory(BaseAppFactory):
    """BentoML's application with a timeout, and nothing else."""

    name = "any"


def test_bentoml_wraps_its_application_in_what_sets_no_timer(monkeypatch):
    monkeypatch.setattr(traffic, "TimeoutMiddleware", traffic.TimeoutMiddleware)
    before = [one.cls for one in Factory(timeout=600.0).middlewares]
    leave_out_timers()
    after = [one.cls for one in Factory(timeout=600.0).middlewares]
    assert Untimed not in before
    assert after == [Untimed]
