"""The built Bento, run as its container would be: nobody's user, a read-only root, and the volumes of the manifest."""

import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from examples.bento import build
from examples.demo import post_frame, simulate_frame
from examples.running import descendants, free_port, kill, wait_until_ready
from tests.unit.deploy.rendering import container_of, environment_of, of_kind, pod_of, rendered

pytestmark = pytest.mark.xdist_group("container")

ROOT = Path(__file__).parents[2]
IMAGE = {  # what the recipe of BentoML sets
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LANG": "C.UTF-8",
    "PYTHONUNBUFFERED": "1",
    "BENTO_PATH": "/home/bentoml/bento",
    "BENTOML_HOME": "/home/bentoml/",
    "BENTOML_CONTAINERIZED": "true",
}
ENTRYPOINT = ["/bin/bash", "/home/bentoml/bento/env/docker/entrypoint.sh"]
DEVICES = {"/proc", "/dev/shm", *(f"/dev/{name}" for name in ("null", "zero", "full", "random", "urandom"))}
EXIT_LIMIT_S = 60.0


@dataclass(frozen=True)
class Container:
    process: subprocess.Popen[bytes]
    address: str
    volumes: dict[str, Path]
    uid: int
    recipe: str

    def pids(self) -> list[int]:
        return [self.process.pid, *descendants(self.process.pid)]


@pytest.fixture(scope="module")
def deployment() -> dict[str, Any]:
    (one,) = of_kind(rendered("cpu"), "Deployment")
    return one


@pytest.fixture(scope="module")
def container(deployment: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Container]:
    need_what_makes_a_container(deployment)
    home, work = tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp("work")
    bento = home / "bentos" / build(home).replace(":", "/")
    uid = pod_of(deployment)["securityContext"]["runAsUser"]
    volumes = {}
    for mount in container_of(deployment)["volumeMounts"]:
        volumes[mount["mountPath"]] = tmp_path_factory.mktemp(mount["name"])
        os.chown(volumes[mount["mountPath"]], uid, uid)
    port = free_port()
    environment = IMAGE | environment_of(deployment) | {"LYNCEUS_WORKERS": "2", "PORT": str(port)}
    command = [
        *("unshare", "--mount", "--propagation", "private", "sh", str(Path(__file__).with_name("container.sh"))),
        *(str(work), str(bento), str(ROOT / ".venv"), str(ROOT), str(uid)),
        " ".join(f"{name}={value}" for name, value in environment.items()),
        *(f"{path}={folder}" for path, folder in volumes.items()),
        *("--", *ENTRYPOINT),
    ]
    log = home / "log"
    with log.open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        wait_until_ready(f"http://127.0.0.1:{port}", process, log)
        recipe = (bento / "env" / "docker" / "Dockerfile").read_text()
        yield Container(process, f"http://127.0.0.1:{port}", volumes, uid, recipe)
    finally:
        kill(process)


def need_what_makes_a_container(deployment: dict[str, Any]) -> None:
    for program in ("unshare", "setpriv", "kubectl"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")
    if os.geteuid() != 0:
        pytest.skip("only root may mount and change users")
    if any(ROOT.is_relative_to(mount["mountPath"]) for mount in container_of(deployment)["volumeMounts"]):
        pytest.skip("the checkout lies where the container has a volume")
    if not (ROOT / ".venv" / "bin" / "activate").exists():
        pytest.skip("there is no .venv to stand for the packages of the image")
    mounting = ["unshare", "--mount", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    if subprocess.run(mounting, capture_output=True, check=False).returncode:
        pytest.skip("nothing may be mounted here")


def test_it_serves_the_demo_frame(container: Container, tmp_path: Path) -> None:
    answer = post_frame(container.address, simulate_frame(tmp_path / "frame.fits"))
    assert answer["model"]["track"] == "stable"
    assert answer["count"] > 50
    assert answer["overflow"] is False


def test_its_image_is_made_for_the_manifest(container: Container, deployment: dict[str, Any]) -> None:
    recipe = container.recipe
    assert re.findall(r"^FROM nvidia/cuda:\S+", recipe, re.MULTILINE)
    assert f"BENTO_USER_UID={container.uid}\n" in recipe
    assert re.findall(r"^USER (\w+)$", recipe, re.MULTILINE) == ["bentoml"]
    assert f"EXPOSE {container_of(deployment)['ports'][0]['containerPort']}\n" in recipe
    assert all(f"ENV {name}=" in recipe for name in IMAGE if name.startswith("BENTO"))
    assert ENTRYPOINT[-1] in recipe[recipe.rindex("ENTRYPOINT") :]


def test_it_has_no_rights(container: Container) -> None:
    for pid in container.pids():
        status = dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        assert {status[name].split()[0] for name in ("Uid", "Gid")} == {str(container.uid)}
        assert {int(status[f"Cap{kind}"], 16) for kind in ("Inh", "Prm", "Eff", "Bnd", "Amb")} == {0}
        assert status["NoNewPrivs"] == "1"


def test_it_can_write_to_its_volumes_alone(container: Container) -> None:
    for pid in container.pids():
        mounts = [line.split() for line in Path(f"/proc/{pid}/mountinfo").read_text().splitlines()]
        writable = {fields[4] for fields in mounts if "ro" not in fields[5].split(",")}
        assert writable - DEVICES == set(container.volumes)
        assert os.readlink(f"/proc/{pid}/root") != "/"


def test_its_metrics_are_counted_on_a_volume(container: Container) -> None:
    text = httpx.get(f"{container.address}/metrics").text
    assert 'lynceus_http_requests_total{code="200",route="/detect"} 1.0' in text
    assert list((container.volumes["/tmp"] / "bentoml").rglob("counter_*.db"))


def test_it_ends_when_its_worker_dies_so_that_kubernetes_starts_a_new_one(container: Container) -> None:
    others = descendants(container.process.pid)
    networks = {pid for pid in others if b"service.network_host" in Path(f"/proc/{pid}/cmdline").read_bytes()}
    (worker,) = set(others) - networks
    os.kill(worker, signal.SIGKILL)
    deadline = time.monotonic() + EXIT_LIMIT_S
    while container.process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.1)
    assert container.process.returncode not in (None, 0)
    while any(Path(f"/proc/{pid}").exists() for pid in networks) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert networks
    assert not any(Path(f"/proc/{pid}").exists() for pid in networks)
