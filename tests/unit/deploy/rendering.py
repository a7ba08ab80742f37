"""What `kubectl kustomize` makes of deploy/, and what its containers would see in their environment."""

import os
import shutil
import subprocess
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[3]
DEPLOY = ROOT / "deploy"
OVERLAYS = sorted(path.parent.name for path in (DEPLOY / "overlays").glob("*/kustomization.yaml"))
COMPONENTS = sorted(path.parent.name for path in (DEPLOY / "components").glob("*/kustomization.yaml"))
UNITS = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30}

Manifest = dict[str, Any]


@cache
def rendered(overlay: str, *components: str) -> tuple[Manifest, ...]:
    """The manifests of an overlay, with more components than it has itself."""
    if not components:
        return kustomize(DEPLOY / "overlays" / overlay)
    with TemporaryDirectory() as folder:
        here = Path(folder).resolve()
        parts = {
            "apiVersion": "kustomize.config.k8s.io/v1beta1",
            "kind": "Kustomization",
            "namespace": "lynceus",
            "resources": [os.path.relpath(DEPLOY / "overlays" / overlay, here)],
            "components": [os.path.relpath(DEPLOY / "components" / name, here) for name in components],
        }
        (here / "kustomization.yaml").write_text(yaml.safe_dump(parts))
        return kustomize(here)


def kustomize(folder: Path) -> tuple[Manifest, ...]:
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("kubectl is not installed (Debian: kubernetes-client)")
    done = subprocess.run([kubectl, "kustomize", str(folder)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return tuple(yaml.safe_load_all(done.stdout))


def everything() -> list[tuple[str, tuple[Manifest, ...]]]:
    """Every overlay as it is, and every component on top of an overlay; the name says which."""
    plain = [(overlay, rendered(overlay)) for overlay in OVERLAYS]
    return plain + [(f"gpu with {name}", rendered("gpu", name)) for name in COMPONENTS]


def of_kind(manifests: tuple[Manifest, ...], kind: str) -> list[Manifest]:
    return [manifest for manifest in manifests if manifest["kind"] == kind]


def pod_of(deployment: Manifest) -> Manifest:
    return deployment["spec"]["template"]["spec"]


def container_of(deployment: Manifest) -> Manifest:
    (container,) = pod_of(deployment)["containers"]
    return container


def environment_of(deployment: Manifest) -> dict[str, str]:
    """What the container finds in its environment; the CPU limit is filled in as the kubelet would."""
    container = container_of(deployment)
    limits = container["resources"]["limits"]
    values = {}
    for entry in container["env"]:
        asked = entry.get("valueFrom", {}).get("resourceFieldRef", {}).get("resource")
        values[entry["name"]] = entry["value"] if asked is None else limits[asked.removeprefix("limits.")]
    return values


def bytes_of(quantity: str) -> int:
    """A Kubernetes quantity of bytes."""
    return int(quantity[:-2]) * UNITS[quantity[-2:]]
