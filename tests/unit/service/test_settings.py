from pathlib import Path

import pytest
import torch

from lynceus.errors import BundleError, LynceusError
from service.app import check_start, create_app
from service.settings import Settings
from tests.fakes import fixed_bundle


def test_every_setting_is_described() -> None:
    assert all(field.description for field in Settings.model_fields.values())


def test_the_environment_of_kubernetes_does_not_disturb(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LYNCEUS_PORT", "tcp://10.0.0.1:3000")
    monkeypatch.setenv("LYNCEUS_SERVICE_HOST", "10.0.0.1")
    assert Settings()


def test_limits_and_keywords_can_be_set_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LYNCEUS_LIMITS__PIXELS", "1000")
    monkeypatch.setenv("LYNCEUS_KEYWORDS__GAIN", '["MYGAIN"]')
    settings = Settings()
    assert (settings.limits.pixels, settings.limits.hdus) == (1000, 1000)
    assert settings.keywords.gain == ("MYGAIN",)
    assert "RDNOISE" in settings.keywords.read_noise


def test_without_a_gpu_cuda_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert Settings(device="auto").chosen_device().type == "cpu"
    with pytest.raises(LynceusError, match="no GPU"):
        check_start(create_app(Settings(device="cuda"), fixed_bundle()))


def test_without_a_bundle_it_does_not_start(tmp_path: Path) -> None:
    with pytest.raises(BundleError):
        check_start(create_app(Settings(device="cpu", bundle=tmp_path)))
    check_start(create_app(Settings(device="cpu", bundle=tmp_path), fixed_bundle()))
