"""The container recipes, the compose file and the walk in docs/canary.md say what the manifests and the project say."""

import json
import re
import shlex
import shutil
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

import lynceus
from model_store import BUNDLES, Ref
from model_store.__main__ import app
from model_store.local import LocalStore
from service.settings import UPLOAD_MARGIN, Settings
from tests.unit.deploy.rendering import DEPLOY, ROOT, bytes_of, container_of, kustomize, of_kind, pod_of, rendered

RECIPE = (DEPLOY / "container" / "Dockerfile").read_text()
IGNORED = (DEPLOY / "container" / "Dockerfile.dockerignore").read_text().splitlines()
BENTO: dict[str, Any] = yaml.safe_load((ROOT / "bentofile.yaml").read_text())
COMPOSE: dict[str, Any] = yaml.safe_load((DEPLOY / "compose" / "compose.yaml").read_text())
SERVERS = {name: COMPOSE["services"][name] for name in ("cpu", "gpu")}
WALK = (ROOT / "docs" / "canary.md").read_text()
PAGE = (ROOT / "docs" / "deploy.md").read_text()
SHIPPED = ("compact/0.1.0", "compact/0.2.0")  # of the walk


def test_both_recipes_begin_with_the_same_cuda_and_end_as_the_user_of_the_manifests() -> None:
    (base,) = re.findall(r"^ARG BASE=(\S+)$", RECIPE, re.MULTILINE)
    assert re.fullmatch(r"nvidia/cuda:\d+\.\d+\.\d+-base-ubuntu\d+\.\d+", base)
    assert BENTO["docker"]["base_image"] == base
    assert set(re.findall(r"^FROM (\S+)", RECIPE, re.MULTILINE)) == {"${BASE}"}
    (deployment,) = of_kind(rendered("gpu"), "Deployment")
    security = pod_of(deployment)["securityContext"]
    assert re.findall(r"^USER (\S+)$", RECIPE, re.MULTILINE) == [f"{security['runAsUser']}:{security['runAsGroup']}"]
    assert RECIPE.rindex("\nUSER ") > RECIPE.rindex("\nRUN ")


def test_the_recipe_takes_what_the_server_needs_and_not_the_training() -> None:
    copied = {word for line in re.findall(r"^COPY ((?!--from).+)$", RECIPE, re.MULTILINE) for word in line.split()[:-1]}
    sources = {word.split("/")[0] for word in copied if not word.startswith("--")}
    assert sources == {"LICENSE", "lynceus", "model_store", "pyproject.toml", "requirements.txt", "service"}
    assert all((ROOT / source).exists() for source in sources)
    assert {line.removeprefix("!") for line in IGNORED if line.startswith("!")} == sources
    assert IGNORED[1] == "*"
    assert "--constraint requirements.txt" in RECIPE
    assert "--extra service" in RECIPE


def test_the_bento_and_the_project_need_the_same_packages() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    needed = {*project["dependencies"], *extras["detect"], *extras["service"]} - {"lynceus[detect]"}
    assert set(BENTO["python"]["packages"]) == needed


@pytest.mark.parametrize("name", sorted(COMPOSE["services"]))
def test_a_service_of_the_compose_file_has_no_rights_and_a_fixed_version(name: str) -> None:
    service = COMPOSE["services"][name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert not {"privileged", "cap_add", "network_mode", "pid", "ipc", "userns_mode", "user"} & set(service)
    assert re.fullmatch(r"[a-z/]+:v?\d+\.\d+\.\d+(-cpu)?", service["image"])
    assert "max-size" in service["logging"]["options"]


@pytest.mark.parametrize("name", sorted(COMPOSE["services"]))
def test_what_the_compose_file_mounts_is_there(name: str) -> None:
    for volume in COMPOSE["services"][name]["volumes"]:
        source, target, *mode = volume.split(":")
        assert target.startswith("/")
        if source.startswith("."):
            assert (DEPLOY / "compose" / source).exists(), source
            assert mode == ["ro"]
        else:
            assert source in COMPOSE["volumes"]


def test_the_compose_file_listens_on_this_machine_alone() -> None:
    ports = {name: service["ports"] for name, service in COMPOSE["services"].items()}
    assert all(port.startswith("127.0.0.1:") for name in ("prometheus", "grafana") for port in ports[name])
    assert ports["cpu"] == ports["gpu"] == ["${LISTEN:-127.0.0.1}:3000:3000"]
    taken = [port.split(":")[-2] for name in ("gpu", "prometheus", "grafana") for port in ports[name]]
    assert len(taken) == len(set(taken))


@pytest.mark.parametrize("name", sorted(SERVERS))
def test_the_server_of_the_compose_file(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    service = SERVERS[name]
    assert service["profiles"] == [name]
    assert service["image"].split(":")[1].removesuffix("-cpu") == lynceus.__version__
    known = {f"LYNCEUS_{field}".upper() for field in Settings.model_fields}
    assert {key for key in service["environment"] if key.startswith("LYNCEUS_")} <= known
    for key, value in service["environment"].items():
        monkeypatch.setenv(key, value)
    settings = Settings()
    assert settings.device == {"cpu": "cpu", "gpu": "cuda"}[name]
    assert int(service["stop_grace_period"][:-1]) >= settings.longest_deadline + UPLOAD_MARGIN
    targets = {volume.split(":")[1] for volume in service["volumes"]}
    assert {"/tmp", settings.store} <= targets
    assert settings.canary_journal is not None
    assert str(settings.canary_journal.parent) in targets
    assert bytes_of(service["mem_limit"].upper() + "i") >= 8 * 2**30


def test_the_gpu_is_asked_for_by_one_profile_alone() -> None:
    (device,) = SERVERS["gpu"]["deploy"]["resources"]["reservations"]["devices"]
    assert device == {"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}
    assert SERVERS["gpu"]["environment"]["NVIDIA_DRIVER_CAPABILITIES"] == "compute,utility"
    assert "deploy" not in SERVERS["cpu"]


def test_prometheus_of_the_compose_file_finds_the_server_and_its_rules() -> None:
    configuration = yaml.safe_load((DEPLOY / "observability" / "prometheus.yml").read_text())
    (scrape,) = [one for one in configuration["scrape_configs"] if one["job_name"] == "lynceus"]
    (target,) = [target for one in scrape["static_configs"] for target in one["targets"]]
    host, port = target.split(":")
    assert all(host in service["networks"]["default"]["aliases"] for service in SERVERS.values())
    assert all(service["ports"][0].endswith(f":{port}") for service in SERVERS.values())
    mounted = [volume.split(":")[1] for volume in COMPOSE["services"]["prometheus"]["volumes"]]
    assert all(str(Path("/etc/prometheus") / file) in mounted for file in configuration["rule_files"])


def commands(program: str) -> list[list[str]]:
    """The lines of the walk that run a program, as words."""
    blocks = re.findall(r"```sh\n(.*?)```", WALK, re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines() if line.startswith(program)]
    return [shlex.split(line) for line in lines]


def test_the_walk_promotes_and_comes_back(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    store.push(BUNDLES / SHIPPED[0])
    store.promote("stable", Ref.parse(SHIPPED[0]), by="test", reason="the first")
    seen = []
    for words in commands("python -m model_store"):
        given = [str(BUNDLES / SHIPPED[1]) if "/store/" in word else word for word in words[3:]]
        done = CliRunner().invoke(app, ["--store", str(tmp_path), *given])
        assert done.exit_code == 0, (words, done.output)
        seen.append({name: str(track.ref) for name, track in store.tracks().items()})
    old, new = SHIPPED
    steps = [step for before, step in zip([{}, *seen], seen, strict=False) if step != before]
    assert steps == [
        {"stable": old},
        {"stable": old, "canary": new},
        {"stable": new, "canary": new},
        {"stable": new, "canary": old},
        {"stable": old, "canary": old},
    ]


def test_the_patches_of_the_walk_set_the_weights_of_the_overlay() -> None:
    (route,) = of_kind(rendered("canary"), "HTTPRoute")
    patches = [json.loads(words[-1]) for words in commands("kubectl -n lynceus patch")]
    assert len(patches) == 3
    for patch in patches:
        weights = {}
        for operation in patch:
            assert operation["op"] == "replace"
            *parents, last = operation["path"].strip("/").split("/")
            target: Any = route
            for step in parents:
                target = target[int(step) if isinstance(target, list) else step]
            assert last in target
            weights[target["name"]] = operation["value"]
        assert set(weights) == {"lynceus-stable", "lynceus-canary"}
        assert sum(weights.values()) == 100


def test_the_pages_name_every_overlay_and_component_and_nothing_else() -> None:
    for part in ("overlays", "components"):
        for folder in (DEPLOY / part).iterdir():
            assert f"`{folder.name}`" in PAGE or folder.name == "s3", folder.name
    for path in re.findall(r"\b(?:deploy|docs|tests)/[\w./-]*\w", PAGE + WALK):
        assert (ROOT / path).exists(), path


def test_the_overlay_of_the_page_can_be_made() -> None:
    (block,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    overlay = yaml.safe_load(block)
    assert overlay["resources"] == ["../gpu"]
    manifests = rendered("gpu", *(Path(path).name for path in overlay["components"]))
    kinds = {manifest["kind"] for manifest in manifests}
    assert {"Deployment", "Gateway", "HTTPRoute", "PrometheusRule", "ServiceMonitor"} <= kinds
    (block,) = re.findall(r"```yaml\n(.*?)```", WALK, re.DOTALL)
    (deployment,) = of_kind(manifests, "Deployment")
    image = container_of(deployment)["image"].split(":")[0]
    assert {one["name"] for one in overlay["images"] + yaml.safe_load(block)["images"]} == {image}


def test_a_new_image_for_the_canary_alone_and_scaling_for_stable_alone(tmp_path: Path) -> None:
    """The two changes of the canary overlay that the pages tell."""
    copied = Path(shutil.copytree(DEPLOY, tmp_path / "deploy")) / "overlays" / "canary"
    (block,) = re.findall(r"```yaml\n(.*?)```", WALK, re.DOTALL)
    with (copied / "canary" / "kustomization.yaml").open("a") as file:
        file.write(block)
    with (copied / "stable" / "kustomization.yaml").open("a") as file:
        file.write("components: [../../../components/keda]\n")
    manifests = kustomize(copied)
    tags = {
        one["metadata"]["name"]: container_of(one)["image"].split(":")[1] for one in of_kind(manifests, "Deployment")
    }
    assert tags == {"lynceus-stable": lynceus.__version__, "lynceus-canary": "0.2.0"}
    (scaled,) = of_kind(manifests, "ScaledObject")
    assert scaled["spec"]["scaleTargetRef"]["name"] == "lynceus-stable"
    assert [one["metadata"]["name"] for one in of_kind(manifests, "Deployment") if "replicas" not in one["spec"]] == [
        "lynceus-stable"
    ]
