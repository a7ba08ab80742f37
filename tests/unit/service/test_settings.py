import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lynceus.errors import BundleError, LynceusError
from model_store import DEFAULT
from service.device import chosen_device
from service.keys import KeysError
from service.settings import Settings
from service.start import check_start


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
    assert chosen_device(Settings(device="auto")).type == "cpu"
    with pytest.raises(LynceusError, match="no GPU"):
        check_start(Settings(device="cuda"))


def test_without_a_bundle_it_does_not_start(tmp_path: Path) -> None:
    with pytest.raises(BundleError):
        check_start(Settings(device="cpu", bundle=tmp_path))
    check_start(Settings(device="cpu", bundle=DEFAULT))


@pytest.mark.parametrize("keys", ["", "dome short"])
def test_with_bad_keys_it_does_not_start(tmp_path: Path, keys: str) -> None:
    (tmp_path / "keys").write_text(keys)
    with pytest.raises(KeysError):
        check_start(Settings(device="cpu", api_keys_file=tmp_path / "keys"))


def test_whoever_only_supervises_imports_no_torch() -> None:
    heavy = {"torch", "astropy", "scipy", "fastapi"}
    code = f"import sys, service.bento; service.bento.Lynceus.inner.check(); print(*{heavy} & {{*sys.modules}})"
    environment = {"PATH": os.defpath, "LYNCEUS_DEVICE": "auto"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
