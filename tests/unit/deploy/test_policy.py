"""What every deployment holds to: no rights it does not need, and a rollout that loses no frame."""

import os
import re
from typing import Any

import pytest

import lynceus
from service.settings import UPLOAD_MARGIN, Settings
from tests.unit.deploy.rendering import (
    OVERLAYS,
    Manifest,
    bytes_of,
    container_of,
    environment_of,
    everything,
    of_kind,
    pod_of,
    rendered,
)

KEPT = re.compile(r"\d+(\.\d+)*(-[a-z]+)?")  # a version, never a moving name
OTHERS = {  # not settings of ours, but of what we run on
    "BENTOML_DO_NOT_TRACK", "BENTOML_HOME", "CUDA_CACHE_PATH", "HOME", "MALLOC_ARENA_MAX",
    "NVIDIA_DRIVER_CAPABILITIES", "OMP_NUM_THREADS", "OMP_WAIT_POLICY",
}  # fmt: skip


def deployments() -> list[Manifest]:
    return [one for _, manifests in everything() for one in of_kind(manifests, "Deployment")]


def seconds_of(duration: str) -> int:
    assert duration.endswith("s")
    return int(duration[:-1])


def grace_after_pre_stop(deployment: Manifest) -> int:
    (command, seconds) = container_of(deployment)["lifecycle"]["preStop"]["exec"]["command"]
    assert command == "sleep"
    return int(pod_of(deployment)["terminationGracePeriodSeconds"]) - int(seconds)


def test_a_pod_meets_the_restricted_standard() -> None:
    for deployment in deployments():
        pod, container = pod_of(deployment), container_of(deployment)
        assert not {"hostNetwork", "hostPID", "hostIPC", "initContainers"} & set(pod)
        assert not any("hostPath" in volume for volume in pod["volumes"])
        assert pod["securityContext"] == {
            "runAsNonRoot": True,
            "runAsUser": 1034,
            "runAsGroup": 1034,
            "fsGroup": 1034,
            "seccompProfile": {"type": "RuntimeDefault"},
        }
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert all("hostPort" not in port for port in container["ports"])


def test_a_pod_has_no_token_for_the_cluster() -> None:
    for _, manifests in everything():
        accounts = {one["metadata"]["name"]: one for one in of_kind(manifests, "ServiceAccount")}
        for deployment in of_kind(manifests, "Deployment"):
            pod = pod_of(deployment)
            assert pod["automountServiceAccountToken"] is False
            assert accounts[pod["serviceAccountName"]]["automountServiceAccountToken"] is False


def test_a_rollout_works_where_there_is_one_gpu_and_one_pod_at_a_time_goes() -> None:
    for _, manifests in everything():
        for deployment in of_kind(manifests, "Deployment"):
            assert deployment["spec"]["strategy"] == {
                "type": "RollingUpdate",
                "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1},
            }
            labels = deployment["spec"]["template"]["metadata"]["labels"]
            budgets = [one for one in of_kind(manifests, "PodDisruptionBudget") if selects(one, labels)]
            assert [budget["spec"]["maxUnavailable"] for budget in budgets] == [1]
            assert all("minAvailable" not in budget["spec"] for budget in budgets)
            spread = pod_of(deployment)["topologySpreadConstraints"]
            assert {one["topologyKey"] for one in spread} == {"kubernetes.io/hostname", "topology.kubernetes.io/zone"}
            assert all(one["labelSelector"]["matchLabels"].items() <= labels.items() for one in spread)


def selects(manifest: Manifest, labels: dict[str, str]) -> bool:
    selector = manifest["spec"]["selector"]
    return bool(selector.get("matchLabels", selector).items() <= labels.items())


def test_a_selector_picks_the_pods_of_its_own_deployment_and_no_others() -> None:
    for name, manifests in everything():
        for deployment in of_kind(manifests, "Deployment"):
            labels = deployment["spec"]["template"]["metadata"]["labels"]
            assert labels["app.kubernetes.io/name"] == "lynceus"
            assert labels["app.kubernetes.io/component"] == "server"
            assert labels["lynceus.io/track"] in ("stable", "canary")
            for kind in ("Deployment", "Service", "PodDisruptionBudget"):
                chosen = [one["metadata"]["name"] for one in of_kind(manifests, kind) if selects(one, labels)]
                assert chosen == [deployment["metadata"]["name"]], name


def test_the_probes_know_starting_from_ready_from_stuck() -> None:
    for deployment in deployments():
        container = container_of(deployment)
        probes = {name: container[f"{name}Probe"] for name in ("startup", "readiness", "liveness")}
        paths = {name: probe["httpGet"]["path"] for name, probe in probes.items()}
        assert paths == {"startup": "/readyz", "readiness": "/readyz", "liveness": "/livez"}
        assert {probe["httpGet"]["port"] for probe in probes.values()} == {container["ports"][0]["name"]}
        patience = {name: probe["periodSeconds"] * probe["failureThreshold"] for name, probe in probes.items()}
        assert patience["startup"] >= 600  # versions are fetched and tried out
        assert patience["startup"] <= deployment["spec"]["progressDeadlineSeconds"]
        assert patience["readiness"] <= 15
        assert 30 <= patience["liveness"] <= 60


def test_what_is_accepted_is_answered_before_the_pod_ends() -> None:
    for deployment in deployments():
        longest = float(environment_of(deployment)["LYNCEUS_LONGEST_DEADLINE"])
        assert grace_after_pre_stop(deployment) >= longest + UPLOAD_MARGIN


def test_the_gateway_waits_longer_than_any_deadline_and_sends_nothing_twice() -> None:
    for name, manifests in everything():
        deadlines = [float(environment_of(one)["LYNCEUS_LONGEST_DEADLINE"]) for one in of_kind(manifests, "Deployment")]
        for route in of_kind(manifests, "HTTPRoute"):
            for rule in route["spec"]["rules"]:
                assert seconds_of(rule["timeouts"]["request"]) >= max(deadlines) + UPLOAD_MARGIN, name
                assert rule["retry"] == {"attempts": 0}, name


def test_a_pod_is_bounded_in_all_it_takes() -> None:
    for deployment in deployments():
        resources, pod = container_of(deployment)["resources"], pod_of(deployment)
        for what in ("cpu", "memory", "ephemeral-storage"):
            assert what in resources["requests"], what
            assert what in resources["limits"], what
        sizes = {one["name"]: bytes_of(one["emptyDir"]["sizeLimit"]) for one in pod["volumes"] if "emptyDir" in one}
        assert bytes_of(resources["limits"]["ephemeral-storage"]) > sum(sizes.values())
        environment = environment_of(deployment)
        uploads = int(environment["LYNCEUS_MAX_UPLOADS"]) * int(environment["LYNCEUS_MAX_UPLOAD_BYTES"])
        assert sizes["tmp"] > uploads


def test_everything_that_is_written_has_a_volume() -> None:
    for deployment in deployments():
        mounts = {mount["name"]: mount["mountPath"] for mount in container_of(deployment)["volumeMounts"]}
        assert set(mounts) == {volume["name"] for volume in pod_of(deployment)["volumes"]}
        environment = environment_of(deployment)
        for name in ("BENTOML_HOME", "HOME", "LYNCEUS_CACHE"):
            assert any(f"{environment[name]}/".startswith(f"{path}/") for path in mounts.values()), name


def test_a_gpu_pod_asks_for_one_gpu_and_for_its_metrics() -> None:
    for overlay in ("gpu", "canary"):
        for deployment in of_kind(rendered(overlay), "Deployment"):
            container, pod = container_of(deployment), pod_of(deployment)
            environment = environment_of(deployment)
            assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"
            assert environment["LYNCEUS_DEVICE"] == "cuda"
            assert environment["NVIDIA_DRIVER_CAPABILITIES"] == "compute,utility"
            assert pod["nodeSelector"] == {"nvidia.com/gpu.present": "true"}
            assert [one["key"] for one in pod["tolerations"]] == ["nvidia.com/gpu"]


def test_a_cpu_pod_runs_as_many_threads_as_it_has_cores() -> None:
    (deployment,) = of_kind(rendered("cpu"), "Deployment")
    environment = environment_of(deployment)
    assert environment["LYNCEUS_DEVICE"] == "cpu"
    assert environment["LYNCEUS_WORKERS"] == container_of(deployment)["resources"]["limits"]["cpu"]
    assert "nvidia" not in str(deployment)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_image_is_the_version_of_the_project(overlay: str) -> None:
    for deployment in of_kind(rendered(overlay), "Deployment"):
        name, tag = container_of(deployment)["image"].rsplit(":", 1)
        assert KEPT.fullmatch(tag)
        assert tag.removesuffix("-cpu") == lynceus.__version__
        assert "/" in name


def names_of_settings() -> set[str]:
    names = set()
    for name, field in Settings.model_fields.items():
        names.add(f"LYNCEUS_{name}".upper())
        for inner in getattr(field.annotation, "model_fields", {}) or getattr(field.annotation, "__annotations__", {}):
            names.add(f"LYNCEUS_{name}__{inner}".upper())
    return names


def test_every_setting_in_the_manifests_exists_and_is_valid(monkeypatch: pytest.MonkeyPatch) -> None:
    known = names_of_settings()
    for deployment in deployments():
        environment = environment_of(deployment)
        ours = {name for name in environment if name.startswith("LYNCEUS_")}
        assert ours <= known
        assert set(environment) - ours <= OTHERS
        only(monkeypatch, environment)
        settings = Settings()
        assert settings.longest_deadline == 300
        assert settings.limits.pixels == 150_000_000


def only(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]) -> None:
    """An environment with these settings and no others."""
    for name in [name for name in os.environ if name.startswith("LYNCEUS_")]:
        monkeypatch.delenv(name)
    for name, value in environment.items():
        if name.startswith("LYNCEUS_"):
            monkeypatch.setenv(name, value)


def test_what_kubernetes_sets_for_a_service_is_no_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    for _, manifests in everything():
        for deployment in of_kind(manifests, "Deployment"):
            assert pod_of(deployment)["enableServiceLinks"] is False
            only(monkeypatch, environment_of(deployment))
            before = Settings()
            for service in of_kind(manifests, "Service"):
                for name, value in service_links(service).items():
                    assert name not in names_of_settings()
                    monkeypatch.setenv(name, value)
            assert Settings() == before


def service_links(service: Manifest) -> dict[str, str]:
    """The variables that a pod of the same namespace gets for a Service."""
    prefix = service["metadata"]["name"].upper().replace("-", "_")
    port = service["spec"]["ports"][0]["port"]
    address = f"tcp://10.0.0.1:{port}"
    return {
        f"{prefix}_SERVICE_HOST": "10.0.0.1",
        f"{prefix}_SERVICE_PORT": str(port),
        f"{prefix}_SERVICE_PORT_HTTP": str(port),
        f"{prefix}_PORT": address,
        f"{prefix}_PORT_{port}_TCP": address,
        f"{prefix}_PORT_{port}_TCP_PROTO": "tcp",
        f"{prefix}_PORT_{port}_TCP_PORT": str(port),
        f"{prefix}_PORT_{port}_TCP_ADDR": "10.0.0.1",
    }


def test_who_may_come_in_and_where_the_server_may_go() -> None:
    for overlay in OVERLAYS:
        manifests = rendered(overlay)
        for deployment in of_kind(manifests, "Deployment"):
            labels = deployment["spec"]["template"]["metadata"]["labels"]
            policies = [one["spec"] for one in of_kind(manifests, "NetworkPolicy") if chosen(one, labels)]
            assert [one for one in policies if set(one["policyTypes"]) == {"Ingress", "Egress"}]
            ways_in = [way for one in policies for way in one.get("ingress", [])]
            assert [port for way in ways_in for port in way["ports"]] == [{"port": "http"}]
            assert all(way["from"] for way in ways_in)
            ways_out = {port["port"] for one in policies for way in one["egress"] for port in way["ports"]}
            assert ways_out == ({53, 443} if overlay == "canary" else {53})


def chosen(policy: Manifest, labels: dict[str, str]) -> bool:
    return bool(policy["spec"]["podSelector"]["matchLabels"].items() <= labels.items())


def test_the_canary_is_a_deployment_of_its_own_and_neither_loads_the_others_version(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found: dict[str, Any] = {}
    for deployment in of_kind(rendered("canary"), "Deployment"):
        track = deployment["spec"]["template"]["metadata"]["labels"]["lynceus.io/track"]
        found[deployment["metadata"]["name"]] = track, environment_of(deployment)
    assert set(found) == {"lynceus-stable", "lynceus-canary"}
    for name, (track, environment) in found.items():
        only(monkeypatch, environment)
        assert (Settings().main_name, Settings().other_name) == (track, "")
        assert name == f"lynceus-{track}"
        assert environment["LYNCEUS_TRACK"] == track
        assert environment["LYNCEUS_STORE"].startswith("s3://")


def test_the_header_comes_before_the_weights() -> None:
    (route,) = of_kind(rendered("canary"), "HTTPRoute")
    *named, weighted = route["spec"]["rules"]
    for rule, track in zip(named, ("canary", "stable"), strict=True):
        (match,) = rule["matches"]
        assert match["headers"] == [{"type": "Exact", "name": "X-Lynceus-Track", "value": track}]
        assert [backend["name"] for backend in rule["backendRefs"]] == [f"lynceus-{track}"]
    assert all("headers" not in match for match in weighted["matches"])
    weights = {backend["name"]: backend["weight"] for backend in weighted["backendRefs"]}
    assert weights["lynceus-canary"] < weights["lynceus-stable"]
    services = {
        one["metadata"]["name"]: one["spec"]["ports"][0]["port"] for one in of_kind(rendered("canary"), "Service")
    }
    for rule in route["spec"]["rules"]:
        assert all(services[backend["name"]] == backend["port"] for backend in rule["backendRefs"])


def test_the_route_without_a_canary_reaches_the_service() -> None:
    manifests = rendered("gpu", "gateway")
    (route,), (service,), (gateway,) = (of_kind(manifests, kind) for kind in ("HTTPRoute", "Service", "Gateway"))
    assert [one["name"] for one in route["spec"]["parentRefs"]] == [gateway["metadata"]["name"]]
    (backend,) = [one for rule in route["spec"]["rules"] for one in rule["backendRefs"]]
    assert backend == {"name": service["metadata"]["name"], "port": service["spec"]["ports"][0]["port"]}
    assert gateway["spec"]["listeners"][0]["tls"]["mode"] == "Terminate"


@pytest.mark.parametrize(("component", "kind"), [("service-monitor", "ServiceMonitor"), ("pod-monitor", "PodMonitor")])
def test_a_monitor_finds_both_tracks_under_one_job(component: str, kind: str) -> None:
    for overlay in OVERLAYS:
        manifests = rendered(overlay, component)
        (monitor,) = of_kind(manifests, kind)
        wanted = monitor["spec"]["selector"]["matchLabels"].items()
        (endpoint,) = monitor["spec"]["endpoints" if kind == "ServiceMonitor" else "podMetricsEndpoints"]
        assert (endpoint["port"], endpoint["path"]) == ("http", "/metrics")
        scraped = of_kind(manifests, "Service" if kind == "ServiceMonitor" else "Deployment")
        for one in scraped:
            assert wanted <= one["metadata"]["labels"].items()
            assert one["metadata"]["labels"][monitor["spec"]["jobLabel"]] == "lynceus"


def test_keda_scales_the_deployment_and_nobody_else_sets_its_replicas() -> None:
    manifests = rendered("gpu", "keda")
    (scaled,), (deployment,) = of_kind(manifests, "ScaledObject"), of_kind(manifests, "Deployment")
    assert scaled["spec"]["scaleTargetRef"]["name"] == deployment["metadata"]["name"]
    assert "replicas" not in deployment["spec"]
    queries = " ".join(trigger["metadata"]["query"] for trigger in scaled["spec"]["triggers"])
    assert "lynceus_queue_oldest_seconds" in queries
    assert "lynceus_queue_tiles" in queries


def test_the_keys_of_the_bucket_come_from_an_identity_or_a_secret_and_are_in_no_manifest() -> None:
    (account,) = of_kind(rendered("gpu", "s3-identity"), "ServiceAccount")
    assert account["metadata"]["annotations"]["eks.amazonaws.com/role-arn"].startswith("arn:aws:iam::")
    (deployment,) = of_kind(rendered("gpu", "s3-secret"), "Deployment")
    assert container_of(deployment)["envFrom"] == [{"secretRef": {"name": "lynceus-s3"}}]
    for _, manifests in everything():
        assert not of_kind(manifests, "Secret")
        assert "AWS_SECRET_ACCESS_KEY" not in str(manifests)


def test_api_keys_come_from_a_secret() -> None:
    (deployment,) = of_kind(rendered("gpu", "api-keys"), "Deployment")
    (volume,) = [one for one in pod_of(deployment)["volumes"] if "secret" in one]
    (mount,) = [one for one in container_of(deployment)["volumeMounts"] if one["name"] == volume["name"]]
    assert volume["secret"]["defaultMode"] == 0o440
    assert environment_of(deployment)["LYNCEUS_API_KEYS_FILE"].startswith(mount["mountPath"] + "/")
