"""Every manifest is what the cluster expects: Kubernetes' own kinds by its schemas, others by the fields we use."""

from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from tests.unit.deploy.rendering import COMPONENTS, DEPLOY, OVERLAYS, Manifest, everything, of_kind, rendered

CUSTOM: dict[str, Any] = yaml.safe_load(Path(__file__).with_name("custom_resources.yaml").read_text())
KUBERNETES = ("1.31", "1.34", "1.37")


def check_custom(manifest: Manifest) -> None:
    expected = CUSTOM[manifest["kind"]]
    schema = {
        "$defs": CUSTOM["$defs"],
        "type": "object",
        "required": ["apiVersion", "kind", "metadata", "spec"],
        "additionalProperties": False,
        "properties": {
            "apiVersion": {"const": expected["apiVersion"]},
            "kind": {"const": manifest["kind"]},
            "metadata": {"$ref": "#/$defs/metadata"},
            "spec": expected["spec"],
        },
    }
    jsonschema.Draft202012Validator(schema).validate(manifest)


def test_there_is_what_is_promised() -> None:
    assert OVERLAYS == ["canary", "cpu", "gpu"]
    assert {"gateway", "keda", "pod-monitor", "s3-identity", "s3-secret", "service-monitor"} <= set(COMPONENTS)


@pytest.mark.parametrize("version", KUBERNETES)
def test_every_manifest_validates_against_the_schemas_of_kubernetes(version: str) -> None:
    seen = set()
    for name, manifests in everything():
        for manifest in manifests:
            if manifest["kind"] not in CUSTOM:
                seen.add(manifest["kind"])
                kubernetes_validate.validate(manifest, version, strict=True)
        assert of_kind(manifests, "Deployment"), name
    assert seen == {"Deployment", "NetworkPolicy", "PodDisruptionBudget", "Service", "ServiceAccount"}
    kubernetes_validate.validate(yaml.safe_load((DEPLOY / "namespace.yaml").read_text()), version, strict=True)


def test_every_custom_resource_has_only_known_fields() -> None:
    seen = set()
    for _, manifests in everything():
        for manifest in manifests:
            if manifest["kind"] in CUSTOM:
                seen.add(manifest["kind"])
                check_custom(manifest)
    assert {"Gateway", "HTTPRoute", "PodMonitor", "ScaledObject", "ServiceMonitor"} <= seen


@pytest.mark.parametrize(
    ("kind", "path", "value"),
    [
        ("HTTPRoute", ("spec", "rules", 0, "timeout"), {"request": "330s"}),
        ("HTTPRoute", ("spec", "rules", 0, "timeouts", "request"), "5.5 minutes"),
        ("HTTPRoute", ("spec", "rules", 2, "backendRefs", 0, "weight"), -1),
        ("HTTPRoute", ("apiVersion",), "gateway.networking.k8s.io/v1alpha2"),
        ("Gateway", ("spec", "listeners", 0, "port"), "443"),
    ],
)
def test_a_mistake_in_a_custom_resource_is_seen(kind: str, path: tuple[Any, ...], value: object) -> None:
    (manifest,) = of_kind(rendered("canary"), kind)
    broken: Any = yaml.safe_load(yaml.safe_dump(manifest))
    *parents, last = path
    target = broken
    for step in parents:
        target = target[step]
    target[last] = value
    with pytest.raises(jsonschema.ValidationError):
        check_custom(broken)


def test_a_mistake_in_a_manifest_of_kubernetes_is_seen() -> None:
    (manifest,) = of_kind(rendered("cpu"), "Deployment")
    broken = yaml.safe_load(yaml.safe_dump(manifest))
    broken["spec"]["template"]["spec"]["terminationGracePeriod"] = 30
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, KUBERNETES[-1], strict=True)


def test_nothing_is_rendered_twice() -> None:
    for name, manifests in everything():
        keys = [(manifest["kind"], manifest["metadata"]["name"]) for manifest in manifests]
        assert len(keys) == len(set(keys)), name
        assert {manifest["metadata"]["namespace"] for manifest in manifests} == {"lynceus"}, name
