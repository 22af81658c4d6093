"""The chart, rendered by Helm: every object is one that Kubernetes takes, every switch does what it says."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jsonschema_rs
import kubernetes_validate
import pytest
import yaml

from helm.generate import CHART, VALUES
from service.settings import Settings
from tests.deploy.helm_library import ChartError, lint, notes, render
from tests.deploy.manifests import Manifest, Manifests, environment, validate

pytestmark = pytest.mark.helm

EXAMPLES = sorted((CHART / "examples").glob("*.yaml"))
NAME, NAMESPACE = "demo-rankrag", "rag"

# The least that renders.
LEAST: dict[str, Any] = {
    "image": {"repository": "registry.example.com/rankrag"},
    "model": {"name": "org/model", "revision": "main"},
    "auth": {"existingSecret": "keys"},
}


def merged(values: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    found = dict(values)
    for key, value in more.items():
        is_both = isinstance(value, Mapping) and isinstance(found.get(key), Mapping)
        found[key] = merged(found[key], value) if is_both else value
    return found


def chart(more: Mapping[str, Any] | None = None) -> Manifests:
    """With the least values and some more; every object is validated."""
    rendered = render(merged(LEAST, more or {}), name="demo", namespace=NAMESPACE)
    for manifest in rendered:
        validate(manifest)
    return rendered


def at(path: str, value: Any) -> dict[str, Any]:
    """`a.b` and a value as nested values."""
    for key in reversed(path.split(".")):
        value = {key: value}
    assert isinstance(value, dict)
    return value


def service_container(rendered: Manifests) -> Manifest:
    container: Manifest = rendered.pod(NAME)["containers"][0]
    return container


def vllm_arguments(rendered: Manifests) -> list[str]:
    arguments: list[str] = rendered.pod(f"{NAME}-vllm")["containers"][0]["args"]
    return arguments


def config(rendered: Manifests) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(rendered.get("ConfigMap", NAME)["data"]["rankrag.yaml"])
    return found


# --- whole charts ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_examples_render_and_every_object_is_valid(path: Path) -> None:
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert lint(values) == []
    rendered = render(values, name="demo", namespace=NAMESPACE)
    for manifest in rendered:
        validate(manifest)
    kinds = {kind for kind, _ in rendered.names}
    assert {"ConfigMap", "Deployment", "Service", "ServiceAccount", "NetworkPolicy", "StatefulSet"} <= kinds


def test_examples_show_every_kind_between_them() -> None:
    shown = {
        kind
        for path in EXAMPLES
        for kind, _ in render(yaml.safe_load(path.read_text(encoding="utf-8")), name="demo", namespace=NAMESPACE).names
    }
    assert shown >= {
        "Ingress", "HTTPRoute", "ScaledObject", "PodDisruptionBudget", "ServiceMonitor", "PrometheusRule", "Pod",
    }  # fmt: skip


def test_least_values_render() -> None:
    assert chart().names == [
        ("ConfigMap", NAME),
        ("Deployment", NAME),
        ("NetworkPolicy", NAME),
        ("NetworkPolicy", f"{NAME}-vllm"),
        ("Service", NAME),
        ("Service", f"{NAME}-metrics"),
        ("Service", f"{NAME}-vllm"),
        ("ServiceAccount", NAME),
        ("StatefulSet", f"{NAME}-vllm"),
    ]


def test_defaults_alone_say_everything_that_is_missing_at_once() -> None:
    with pytest.raises(ChartError) as caught:
        render({}, name="demo", namespace=NAMESPACE)
    for name in ("image.repository", "model.name", "auth.existingSecret"):
        assert f"{name}:" in str(caught.value)


@pytest.mark.parametrize(
    ("values", "named"),
    [
        (at("replicaCount", "two"), "replicaCount"),
        (at("vllm.replicas", 2), "vllm.*replicas"),
        (at("config.top_m", 2), "config.*top_m"),
        (at("model.source", "pvc"), "model.pvc.existingClaim:"),
        (at("index.source", "pvc"), "index.pvc.existingClaim:"),
        (at("index.source", "sync"), "index.sync.source:"),
        (at("vllm.enabled", False), "vllm.external.urls:"),
        (at("vllm.external.urls", ["http://a:8000"]), "vllm.external.urls:"),
        (at("vllm", {"enabled": False, "external": {"urls": ["http://a", "http://b"], "resolve": True}}),
         "vllm.external.resolve:"),
        (at("vllm.tensorParallelSize", 8), "vllm.tensorParallelSize:"),
        (at("redis.source", "external"), "redis.external.existingSecret:"),
        (at("redis.source", "builtin"), "redis.builtin.auth.existingSecret:"),
        (at("autoscaling.kind", "keda"), "keda.prometheusAddress:"),
        (at("autoscaling.minReplicas", 9), "autoscaling.minReplicas:"),
        (at("vllm.autoscaling.minReplicas", 9), "vllm.autoscaling.minReplicas:"),
        (at("ingress.enabled", True), "ingress.hosts:"),
        (at("httpRoute.enabled", True), "httpRoute.parentRefs:"),
        (at("tests.passages", []), "tests.passages:"),
        (at("terminationGracePeriodSeconds", 20), "terminationGracePeriodSeconds:"),
    ],
)  # fmt: skip
def test_a_wrong_value_fails_with_its_name(values: Mapping[str, Any], named: str) -> None:
    with pytest.raises(ChartError, match=named):
        chart(values)


# --- laws of every pod ----------------------------------------------------------------------------------------

FULL = merged(
    yaml.safe_load((CHART / "examples/values-cpu-demo.yaml").read_text(encoding="utf-8")),
    {"model": {"image": {"reference": "registry.example.com/checkpoint:1.2.3"}}},
)


@pytest.mark.parametrize("values", [FULL, *(yaml.safe_load(p.read_text(encoding="utf-8")) for p in EXAMPLES)])
def test_every_pod_is_locked_down(values: dict[str, Any]) -> None:
    for name, pod in render(values, name="demo", namespace=NAMESPACE).pods():
        assert pod["automountServiceAccountToken"] is False, name
        assert pod["enableServiceLinks"] is False, name
        assert pod["securityContext"]["runAsNonRoot"] is True, name
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        for container in pod["containers"] + pod.get("initContainers", []):
            context = container["securityContext"]
            assert context["readOnlyRootFilesystem"] is True, (name, container["name"])
            assert context["allowPrivilegeEscalation"] is False
            assert context["capabilities"] == {"drop": ["ALL"]}
            assert container["resources"]["limits"]["memory"]
            assert not re.search(r":latest$|/[^:@]+$", container["image"]), container["image"]


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_no_secret_is_made_and_no_value_is_one(path: Path) -> None:
    rendered = render(yaml.safe_load(path.read_text(encoding="utf-8")), name="demo", namespace=NAMESPACE)
    assert not rendered.has("Secret")
    for _, pod in rendered.pods():
        for container in pod["containers"] + pod.get("initContainers", []):
            for name, value in environment(container).items():
                if re.search("PASSWORD|API_KEY|TOKEN$|REDISCLI_AUTH", name):
                    assert isinstance(value, tuple), name


def test_every_mount_has_its_volume() -> None:
    for values in (FULL, *(yaml.safe_load(path.read_text(encoding="utf-8")) for path in EXAMPLES)):
        for name, pod in render(values, name="demo", namespace=NAMESPACE).pods():
            volumes = {volume["name"] for volume in pod.get("volumes", [])}
            for container in pod["containers"] + pod.get("initContainers", []):
                mounted = {mount["name"] for mount in container.get("volumeMounts", [])}
                assert mounted <= volumes, (name, container["name"])


# --- the service ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [None, *EXAMPLES], ids=lambda path: path.stem if path else "least")
def test_the_settings_file_is_one_that_the_service_takes(
    path: Path | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = yaml.safe_load(path.read_text(encoding="utf-8")) if path else LEAST
    rendered = render(values, name="demo", namespace=NAMESPACE)
    file = tmp_path / "rankrag.yaml"
    file.write_text(rendered.get("ConfigMap", NAME)["data"]["rankrag.yaml"], encoding="utf-8")
    monkeypatch.setenv("RANKRAG_CONFIG_FILE", str(file))
    settings = Settings()
    assert settings.vllm.url == "http://demo-rankrag-vllm.rag.svc:8000/"
    assert settings.vllm.resolve
    assert settings.vllm.priority_scheduling
    assert settings.host == "0.0.0.0"
    assert environment(service_container(rendered))["RANKRAG_CONFIG_FILE"] == "/etc/rankrag/rankrag.yaml"


def test_config_is_merged_and_the_pods_change_with_it() -> None:
    plain, changed = (
        chart(),
        chart({"config": {"top_n": 50, "cache": {"score_ttl_s": 0}, "vllm": {"window_tokens": 9}}}),
    )
    assert config(changed) == merged(
        config(plain), {"top_n": 50, "cache": {"score_ttl_s": 0}, "vllm": {"window_tokens": 9}}
    )
    checksums = [
        rendered.get("Deployment", NAME)["spec"]["template"]["metadata"]["annotations"]["checksum/config"]
        for rendered in (plain, changed, chart())
    ]
    assert checksums[0] != checksums[1]
    assert checksums[0] == checksums[2]


def test_large_numbers_stay_whole() -> None:
    rendered = chart({"config": {"vllm": {"max_queued_tokens": 20_000_000}}})
    assert "max_queued_tokens: 20000000\n" in rendered.get("ConfigMap", NAME)["data"]["rankrag.yaml"]


def test_the_window_is_twice_a_step_of_the_engine() -> None:
    assert config(chart())["vllm"]["window_tokens"] == 16384
    assert config(chart(at("vllm.maxNumBatchedTokens", 16384)))["vllm"]["window_tokens"] == 32768
    assert config(chart(at("vllm.maxNumBatchedTokens", 512)))["vllm"]["window_tokens"] == 8192


def test_probes_ask_the_admin_port_three_ways() -> None:
    container = service_container(chart())
    asked = {name: container[name]["httpGet"] for name in ("startupProbe", "livenessProbe", "readinessProbe")}
    assert asked == {
        "startupProbe": {"path": "/livez", "port": "admin"},
        "livenessProbe": {"path": "/livez", "port": "admin"},
        "readinessProbe": {"path": "/readyz", "port": "admin"},
    }
    assert {"name": "admin", "containerPort": 8081, "protocol": "TCP"} in container["ports"]
    assert "startupProbe" not in service_container(chart(at("startupProbe.enabled", False)))


def test_the_admin_port_is_moved_everywhere() -> None:
    rendered = chart(at("admin.port", 9999))
    assert config(rendered)["admin"]["port"] == 9999
    assert {"name": "admin", "containerPort": 9999, "protocol": "TCP"} in service_container(rendered)["ports"]
    assert rendered.get("Service", f"{NAME}-metrics")["spec"]["ports"][0]["port"] == 9999


def test_keys_come_from_the_secret_as_a_volume_that_follows_it() -> None:
    rendered = chart()
    assert config(rendered)["auth"] == {"mode": "keys", "key_file": "/etc/rankrag-keys/keys.yaml"}
    volume = next(v for v in rendered.pod(NAME)["volumes"] if v["name"] == "keys")
    assert volume["secret"] == {"secretName": "keys", "items": [{"key": "keys.yaml", "path": "keys.yaml"}]}
    mount = next(m for m in service_container(rendered)["volumeMounts"] if m["name"] == "keys")
    assert mount == {"name": "keys", "mountPath": "/etc/rankrag-keys", "readOnly": True}


def test_authentication_is_off_only_when_said_so() -> None:
    rendered = chart({"auth": {"enabled": False, "existingSecret": ""}})
    assert config(rendered)["auth"] == {"mode": "off"}
    assert "keys" not in {volume["name"] for volume in rendered.pod(NAME)["volumes"]}


def test_tls_is_passed_on() -> None:
    rendered = chart(at("tls.existingSecret", "certificate"))
    assert config(rendered)["tls"] == {"cert_file": "/etc/rankrag-tls/tls.crt", "key_file": "/etc/rankrag-tls/tls.key"}
    assert {"name": "tls", "secret": {"secretName": "certificate"}} in rendered.pod(NAME)["volumes"]


def test_extra_variables_come_last_so_that_they_win() -> None:
    extra = [{"name": "RANKRAG_TOP_N", "value": "7"}]
    assert service_container(chart(at("extraEnv", extra)))["env"][-1] == extra[0]


def test_pods_are_spread_by_their_own_labels() -> None:
    constraints = chart().pod(NAME)["topologySpreadConstraints"]
    assert [c["topologyKey"] for c in constraints] == ["kubernetes.io/hostname", "topology.kubernetes.io/zone"]
    labels = {
        "app.kubernetes.io/name": "rankrag", "app.kubernetes.io/instance": "demo",
        "app.kubernetes.io/component": "service",
    }  # fmt: skip
    assert all(c["labelSelector"] == {"matchLabels": labels} for c in constraints)


@pytest.mark.parametrize(
    ("path", "value", "field"),
    [
        ("priorityClassName", "high", "priorityClassName"),
        ("nodeSelector", {"pool": "cpu"}, "nodeSelector"),
        ("tolerations", [{"key": "a", "operator": "Exists"}], "tolerations"),
        ("imagePullSecrets", [{"name": "pull"}], "imagePullSecrets"),
        ("terminationGracePeriodSeconds", 99, "terminationGracePeriodSeconds"),
    ],
)
def test_scheduling_reaches_the_pod(path: str, value: Any, field: str) -> None:
    assert chart(at(path, value)).pod(NAME)[field] == value


def test_a_rollout_never_has_fewer_pods_and_may_be_a_recreation() -> None:
    assert chart().get("Deployment", NAME)["spec"]["strategy"] == {
        "type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0},
    }  # fmt: skip
    recreated = chart(at("updateStrategy.type", "Recreate"))
    assert recreated.get("Deployment", NAME)["spec"]["strategy"] == {"type": "Recreate"}


def test_a_digest_wins_over_the_tag() -> None:
    digest = "sha256:" + "0" * 64
    assert service_container(chart())["image"] == "registry.example.com/rankrag:0.1.0"
    assert service_container(chart(at("image.digest", digest)))["image"] == f"registry.example.com/rankrag@{digest}"


# --- where the checkpoint and the index come from -------------------------------------------------------------


def test_checkpoint_from_the_hub() -> None:
    rendered = chart(at("model.hub.existingSecret", "hub"))
    assert (config(rendered)["checkpoint"], config(rendered)["checkpoint_revision"]) == ("org/model", "main")
    assert {"--model=org/model", "--revision=main", "--tokenizer-revision=main"} <= set(vllm_arguments(rendered))
    for name in (NAME, f"{NAME}-vllm"):
        found = environment(rendered.pod(name)["containers"][0])
        assert (found["HF_HOME"], found["HF_TOKEN"]) == ("/models", ("hub", "token"))


def test_checkpoint_from_a_claim() -> None:
    rendered = chart({"model": {"source": "pvc", "name": "llama", "pvc": {"existingClaim": "checkpoints"}}})
    assert config(rendered)["checkpoint"] == "/models/llama"
    assert "--model=/models/llama" in vllm_arguments(rendered)
    for name in (NAME, f"{NAME}-vllm"):
        claim = {"claimName": "checkpoints", "readOnly": True}
        assert {"name": "models", "persistentVolumeClaim": claim} in rendered.pod(name)["volumes"]
    assert environment(rendered.pod(f"{NAME}-vllm")["containers"][0])["HF_HUB_OFFLINE"] == "1"


def test_checkpoint_from_an_image_is_copied_without_weights_for_the_service() -> None:
    values = {"model": {"source": "image", "name": "/checkpoint", "image": {"reference": "r/c:1"}}}
    rendered = chart(values)
    copies = [rendered.pod(name)["initContainers"][0] for name in (NAME, f"{NAME}-vllm")]
    assert [copy["image"] for copy in copies] == ["r/c:1", "r/c:1"]
    assert ["safetensors" in copy["args"][0] for copy in copies] == [True, False]
    target = config(rendered)["checkpoint"]
    assert re.fullmatch(r"/models/[0-9a-f]{40}", target)
    assert all(environment(copy)["TARGET"] == target for copy in copies)
    values["model"]["image"] = {"reference": "r/c:2"}
    assert config(chart(values))["checkpoint"] != target


def test_index_from_a_claim() -> None:
    rendered = chart(at("index", {"source": "pvc", "pvc": {"existingClaim": "indexes", "subPath": "wiki"}}))
    assert config(rendered)["index"]["path"] == "/index/current"
    mount = next(m for m in service_container(rendered)["volumeMounts"] if m["name"] == "index")
    assert mount == {"name": "index", "mountPath": "/index/current", "readOnly": True, "subPath": "wiki"}


def test_index_from_object_storage() -> None:
    sync = {"source": "s3:b/i", "existingSecret": "s3", "env": {"RCLONE_CONFIG_S3_TYPE": "s3"}}
    rendered = chart(at("index", {"source": "sync", "sync": sync, "size": "5Gi"}))
    (init,) = rendered.pod(NAME)["initContainers"]
    assert init["args"][-2:] == ["$(INDEX_SOURCE)", "/index/current"]
    assert environment(init)["INDEX_SOURCE"] == "s3:b/i"
    assert environment(init)["RCLONE_CONFIG_S3_TYPE"] == "s3"
    assert init["envFrom"] == [{"secretRef": {"name": "s3"}}]
    assert {"name": "index", "emptyDir": {"sizeLimit": "5Gi"}} in rendered.pod(NAME)["volumes"]


def test_index_on_a_volume_of_a_class() -> None:
    values = {"source": "build", "storageClassName": "fast", "size": "5Gi"}
    rendered = chart(at("index", values))
    volume = next(v for v in rendered.pod(NAME)["volumes"] if v["name"] == "index")
    claim = volume["ephemeral"]["volumeClaimTemplate"]["spec"]
    assert (claim["storageClassName"], claim["resources"]["requests"]["storage"]) == ("fast", "5Gi")
    assert rendered.pod(NAME)["initContainers"][0]["args"][:2] == ["index", "build"]


def test_without_an_index_there_is_no_path() -> None:
    assert "index" not in config(chart())


# --- vLLM -----------------------------------------------------------------------------------------------------


def test_vllm_is_started_for_scoring() -> None:
    arguments = vllm_arguments(chart())
    assert {
        "--scheduling-policy=priority", "--enable-prefix-caching", "--max-num-batched-tokens=8192",
        "--gpu-memory-utilization=0.9", "--shutdown-timeout=30",
    } <= set(arguments)  # fmt: skip
    assert not any(argument.startswith("--block-size") for argument in arguments)


@pytest.mark.parametrize(
    ("path", "value", "argument"),
    [
        ("vllm.blockSize", 32, "--block-size=32"),
        ("vllm.maxLogprobs", 40, "--max-logprobs=40"),
        ("vllm.maxModelLen", 131072, "--max-model-len=131072"),
        ("vllm.maxNumQueuedRequests", 2048, "--max-num-queued-reqs=2048"),
        ("vllm.gpuCount", 4, "--tensor-parallel-size=4"),
        ("vllm.dtype", "bfloat16", "--dtype=bfloat16"),
        ("vllm.extraArgs", ["--enforce-eager"], "--enforce-eager"),
    ],
)
def test_values_become_arguments(path: str, value: Any, argument: str) -> None:
    assert argument in vllm_arguments(chart(at(path, value)))
    assert argument not in vllm_arguments(chart())


def test_gpus_shared_memory_and_class() -> None:
    rendered = chart(at("vllm", {"gpuCount": 2, "runtimeClassName": "nvidia", "shmSize": "16Gi"}))
    pod = rendered.pod(f"{NAME}-vllm")
    (container,) = pod["containers"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "2"
    assert container["resources"]["requests"]["nvidia.com/gpu"] == "2"
    assert pod["runtimeClassName"] == "nvidia"
    assert pod["tolerations"] == [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
    assert {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "16Gi"}} in pod["volumes"]
    assert container["startupProbe"]["failureThreshold"] * container["startupProbe"]["periodSeconds"] >= 1200


def test_without_gpus_none_are_asked_for() -> None:
    rendered = chart(at("vllm.gpuCount", 0))
    assert "nvidia.com/gpu" not in rendered.pod(f"{NAME}-vllm")["containers"][0]["resources"]["limits"]
    assert not any("gpu-memory" in a or "tensor-parallel" in a for a in vllm_arguments(rendered))


def test_vllm_is_behind_a_headless_service() -> None:
    spec = chart().get("Service", f"{NAME}-vllm")["spec"]
    assert spec["clusterIP"] == "None"
    assert "publishNotReadyAddresses" not in spec


def test_the_engine_s_key_is_on_both_sides() -> None:
    rendered = chart(at("vllm.apiKey.existingSecret", "engine"))
    assert environment(service_container(rendered))["RANKRAG_VLLM__API_KEY"] == ("engine", "api-key")
    assert environment(rendered.pod(f"{NAME}-vllm")["containers"][0])["VLLM_API_KEY"] == ("engine", "api-key")


def test_vllm_elsewhere() -> None:
    urls = ["http://a.gpu:8000", "https://b.gpu"]
    rendered = chart(at("vllm", {"enabled": False, "external": {"urls": urls, "priorityScheduling": False}}))
    assert not rendered.has("StatefulSet")
    found = config(rendered)["vllm"]
    assert found == {"url": ",".join(urls), "resolve": False, "priority_scheduling": False}
    egress = rendered.get("NetworkPolicy", NAME)["spec"]["egress"]
    assert {"ports": [{"port": 8000, "protocol": "TCP"}, {"port": 443, "protocol": "TCP"}]} in egress


# --- Redis ----------------------------------------------------------------------------------------------------


def test_redis_of_this_release_with_a_password() -> None:
    rendered = chart(at("redis", {"source": "builtin", "builtin": {"auth": {"existingSecret": "r"}}}))
    found = environment(service_container(rendered))
    assert found["REDIS_PASSWORD"] == ("r", "redis-password")
    assert found["RANKRAG_REDIS_URL"] == "redis://:$(REDIS_PASSWORD)@demo-rankrag-redis.rag.svc:6379/0"
    order = [variable["name"] for variable in service_container(rendered)["env"]]
    assert order.index("REDIS_PASSWORD") < order.index("RANKRAG_REDIS_URL")  # else it would not be replaced
    (container,) = rendered.pod(f"{NAME}-redis")["containers"]
    assert environment(container) == {"REDISCLI_AUTH": ("r", "redis-password")}
    assert "requirepass" in container["args"][0]


def test_redis_of_this_release_without_a_password() -> None:
    rendered = chart(at("redis", {"source": "builtin", "builtin": {"auth": {"enabled": False}}}))
    assert environment(service_container(rendered))["RANKRAG_REDIS_URL"] == "redis://demo-rankrag-redis.rag.svc:6379/0"
    assert "requirepass" not in rendered.pod(f"{NAME}-redis")["containers"][0]["args"][0]


def test_redis_elsewhere() -> None:
    rendered = chart(at("redis", {"source": "external", "external": {"existingSecret": "r", "port": 6380}}))
    assert not rendered.has("Deployment", f"{NAME}-redis")
    assert environment(service_container(rendered))["RANKRAG_REDIS_URL"] == ("r", "redis-url")
    assert {"ports": [{"port": 6380, "protocol": "TCP"}]} in rendered.get("NetworkPolicy", NAME)["spec"]["egress"]


# --- scaling --------------------------------------------------------------------------------------------------


def test_nothing_scales_unless_told() -> None:
    rendered = chart(at("replicaCount", 3))
    assert rendered.get("Deployment", NAME)["spec"]["replicas"] == 3
    assert not rendered.has("HorizontalPodAutoscaler")
    assert not rendered.has("ScaledObject")


def test_hpa_of_both_tiers() -> None:
    rendered = chart({"autoscaling": {"kind": "hpa"}, "vllm": {"autoscaling": {"kind": "hpa"}}})
    for kind, name in (("Deployment", NAME), ("StatefulSet", f"{NAME}-vllm")):
        spec = rendered.get("HorizontalPodAutoscaler", name)["spec"]
        assert spec["scaleTargetRef"] == {"apiVersion": "apps/v1", "kind": kind, "name": name}
        assert "replicas" not in rendered.get(kind, name)["spec"]
    assert not rendered.has("ScaledObject")


def test_keda_of_both_tiers() -> None:
    kinds = {"autoscaling": {"kind": "keda"}, "vllm": {"autoscaling": {"kind": "keda"}}}
    rendered = chart(merged(kinds, at("keda", {"prometheusAddress": "http://p:9090", "authenticationRef": "t"})))
    triggers = rendered.get("ScaledObject", f"{NAME}-vllm")["spec"]["triggers"]
    assert [trigger["metadata"]["query"] for trigger in triggers] == [
        'sum(rankrag_queued_tokens{namespace="rag", job="demo-rankrag-metrics"})',
        'sum(vllm:num_requests_waiting{namespace="rag", job="demo-rankrag-vllm"})',
    ]
    assert [trigger["metadata"]["threshold"] for trigger in triggers] == ["100000", "5"]
    assert triggers[0]["authenticationRef"] == {"name": "t"}
    (trigger,) = rendered.get("ScaledObject", NAME)["spec"]["triggers"]
    assert trigger["metadata"]["query"].startswith("sum(rankrag_requests_in_flight{")
    assert not rendered.has("HorizontalPodAutoscaler")
    assert "replicas" not in rendered.get("StatefulSet", f"{NAME}-vllm")["spec"]


@pytest.mark.parametrize(
    ("values", "budgets"),
    [
        ({}, set()),
        ({"replicaCount": 2, "vllm": {"replicaCount": 3}}, {NAME, f"{NAME}-vllm"}),
        ({"autoscaling": {"kind": "hpa", "minReplicas": 2}}, {NAME}),
        ({"replicaCount": 5, "autoscaling": {"kind": "hpa", "minReplicas": 1}}, set()),
        ({"replicaCount": 2, "podDisruptionBudget": {"enabled": False}}, set()),
    ],
)
def test_budgets_are_made_where_there_is_more_than_one(values: Mapping[str, Any], budgets: set[str]) -> None:
    assert {name for kind, name in chart(values).names if kind == "PodDisruptionBudget"} == budgets


# --- who may reach what ---------------------------------------------------------------------------------------


def component(name: str) -> Manifest:
    labels = {"app.kubernetes.io/name": "rankrag", "app.kubernetes.io/instance": "demo"}
    return {"podSelector": {"matchLabels": {**labels, "app.kubernetes.io/component": name}}}


@pytest.mark.parametrize("name", ["vllm", "redis"])
def test_vllm_and_redis_are_for_the_service_alone(name: str) -> None:
    rendered = chart(at("redis", {"source": "builtin", "builtin": {"auth": {"enabled": False}}}))
    spec = rendered.get("NetworkPolicy", f"{NAME}-{name}")["spec"]
    assert spec["podSelector"] == component(name)["podSelector"]
    assert [rule["from"] for rule in spec["ingress"]] == [[component("service")]]
    labels = rendered.get("StatefulSet" if name == "vllm" else "Deployment", f"{NAME}-{name}")["spec"]["template"]
    assert component(name)["podSelector"]["matchLabels"].items() <= labels["metadata"]["labels"].items()


def test_who_may_call_and_who_may_scrape() -> None:
    gateway = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "gateways"}}}
    rendered = chart(at("networkPolicy", {"from": [gateway], "metricsFrom": []}))
    (rule,) = rendered.get("NetworkPolicy", NAME)["spec"]["ingress"]
    assert rule == {"ports": [{"port": "http", "protocol": "TCP"}], "from": [gateway, component("test")]}


def test_egress_is_what_is_needed() -> None:
    local = {"model": {"source": "pvc", "pvc": {"existingClaim": "c"}}}
    ports = [
        [port["port"] for port in rule["ports"]] for rule in chart(local).get("NetworkPolicy", NAME)["spec"]["egress"]
    ]
    assert ports == [[53, 53], [8000]]
    extra = {"ports": [{"port": 4318, "protocol": "TCP"}]}
    rendered = chart(at("networkPolicy.extraEgress", [extra]))
    assert extra in rendered.get("NetworkPolicy", NAME)["spec"]["egress"]


def test_a_scraper_is_let_to_vllm_only_with_a_monitor() -> None:
    rendered = chart(at("metrics.serviceMonitor.enabled", True))
    (rule,) = rendered.get("NetworkPolicy", f"{NAME}-vllm")["spec"]["ingress"]
    assert rule["from"] == [component("service"), {"namespaceSelector": {}}]


def test_policies_can_be_left_out() -> None:
    assert not chart(at("networkPolicy.enabled", False)).has("NetworkPolicy")


def test_ingress() -> None:
    values = {"enabled": True, "className": "nginx", "hosts": ["a.example.com"], "annotations": {"x": "y"}}
    found = chart(at("ingress", values)).get("Ingress", NAME)
    assert found["spec"]["ingressClassName"] == "nginx"
    assert found["metadata"]["annotations"] == {"x": "y"}
    (rule,) = found["spec"]["rules"]
    assert rule["http"]["paths"][0]["backend"]["service"] == {"name": NAME, "port": {"name": "http"}}


def test_gateway_route() -> None:
    values = {"enabled": True, "parentRefs": [{"name": "public"}], "hostnames": ["a.example.com"]}
    (rule,) = chart(at("httpRoute", values)).get("HTTPRoute", NAME)["spec"]["rules"]
    assert rule["backendRefs"] == [{"name": NAME, "port": 80}]


def test_service_account_has_no_token_and_may_be_another() -> None:
    assert chart().get("ServiceAccount", NAME)["automountServiceAccountToken"] is False
    other = chart(at("serviceAccount", {"create": False, "name": "mine"}))
    assert not other.has("ServiceAccount")
    assert other.pod(NAME)["serviceAccountName"] == "mine"


# --- monitoring -----------------------------------------------------------------------------------------------


def test_monitoring_is_off_unless_told() -> None:
    kinds = {kind for kind, _ in chart().names}
    assert not kinds & {"ServiceMonitor", "PrometheusRule"}


def test_monitors_select_the_services_that_have_metrics() -> None:
    rendered = chart(at("metrics.serviceMonitor", {"enabled": True, "labels": {"release": "p"}}))
    for monitor, service, port in ((NAME, f"{NAME}-metrics", "admin"), (f"{NAME}-vllm", f"{NAME}-vllm", "http")):
        found = rendered.get("ServiceMonitor", monitor)
        wanted = found["spec"]["selector"]["matchLabels"].items()
        selected = [
            o["metadata"]["name"]
            for o in rendered
            if o["kind"] == "Service" and wanted <= o["metadata"]["labels"].items()
        ]
        assert selected == [service]
        assert found["metadata"]["labels"]["release"] == "p"
        assert found["spec"]["endpoints"][0]["port"] == port
        assert port in {p["name"] for p in rendered.get("Service", service)["spec"]["ports"]}


def test_rules_and_dashboard_are_the_files() -> None:
    rendered = chart({"metrics": {"prometheusRule": {"enabled": True}, "dashboard": {"enabled": True}}})
    rules = yaml.safe_load((CHART / "files/rules.yaml").read_text(encoding="utf-8"))
    assert rendered.get("PrometheusRule", NAME)["spec"] == rules
    found = rendered.get("ConfigMap", f"{NAME}-dashboard")
    assert found["metadata"]["labels"]["grafana_dashboard"] == "1"
    dashboard = json.loads((CHART / "files/dashboard.json").read_text(encoding="utf-8"))
    assert json.loads(found["data"]["rankrag.json"]) == dashboard


# --- the rest -------------------------------------------------------------------------------------------------


def test_the_test_pod_asks_a_question_with_a_key() -> None:
    assert not chart().has("Pod")
    rendered = chart(at("tests", {"existingSecret": "tester", "expect": "4,806"}))
    pod = rendered.get("Pod", f"{NAME}-test")
    assert pod["metadata"]["annotations"]["helm.sh/hook"] == "test"
    (container,) = pod["spec"]["containers"]
    found = environment(container)
    assert (found["URL"], found["API_KEY"]) == ("http://demo-rankrag.rag.svc:80", ("tester", "api-key"))
    assert (found["QUESTION"], found["EXPECT"]) == ("How high is Mont Blanc?", "4,806")
    assert len(json.loads(found["PASSAGES"])) == 2
    compile(container["args"][0], "ask.py", "exec")
    assert container["args"][0].strip() == (CHART / "files/ask.py").read_text(encoding="utf-8").strip()


def test_the_test_pod_trusts_the_service_s_own_certificate() -> None:
    pod = chart({"tls": {"existingSecret": "certificate"}, "tests": {"existingSecret": "tester"}}).pod(f"{NAME}-test")
    found = environment(pod["containers"][0])
    assert (found["URL"], found["CERTIFICATE"]) == ("https://demo-rankrag.rag.svc:80", "/etc/rankrag-tls/tls.crt")
    (volume,) = pod["volumes"]
    assert volume["secret"] == {"secretName": "certificate", "items": [{"key": "tls.crt", "path": "tls.crt"}]}


def test_common_labels_and_annotations_are_on_every_object() -> None:
    values = merged(FULL, {"commonLabels": {"team": "search"}, "commonAnnotations": {"owner": "me"}})
    values["service"] = {"annotations": {"own": "1"}}
    rendered = render(values, name="demo", namespace=NAMESPACE)
    for manifest in rendered:
        validate(manifest)
        assert manifest["metadata"]["labels"]["team"] == "search"
        assert manifest["metadata"]["annotations"]["owner"] == "me"
        assert manifest["metadata"]["namespace"] == NAMESPACE
    assert rendered.get("Service", NAME)["metadata"]["annotations"] == {"own": "1", "owner": "me"}


def test_extra_objects_are_templates() -> None:
    found = chart({"extraObjects": [
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "{{ .Release.Name }}-more"}, "data": {"a": "b"}}
    ]})  # fmt: skip
    assert found.get("ConfigMap", "demo-more")["data"] == {"a": "b"}


def test_names_can_be_given_and_stay_short_enough() -> None:
    assert chart(at("fullnameOverride", "other")).has("Deployment", "other")
    long = chart(at("fullnameOverride", "a" * 80))
    assert max(len(name) for _, name in long.names) <= 63
    assert all(len(value) <= 63 for o in long for value in o["metadata"]["labels"].values())


def test_values_file_is_read_as_it_is() -> None:
    """The defaults that the tests above don't name are those of the file."""
    defaults = yaml.safe_load(VALUES.read_text(encoding="utf-8"))
    assert chart(defaults | LEAST).names == chart().names


@pytest.mark.parametrize(
    ("kind", "place", "wrong", "told"),
    [
        ("Deployment", "spec.replcas", 1, "replcas"),
        ("StatefulSet", "spec.template.spec.containers.0.resource", {}, "resource"),
        ("NetworkPolicy", "spec.podSelector", "all", "all"),
        ("HTTPRoute", "spec.rules.0.backendRefs.0.prot", 80, "prot"),
        ("ScaledObject", "spec.triggers.0.metadata.threshold", 5, "5 is not of type"),
        ("ServiceMonitor", "spec.endpoints.0.port", 8081, "8081 is not of type"),
        ("PrometheusRule", "spec.groups.0.rules.0.labels", [], "is not of type"),
    ],
)
def test_the_validation_sees_a_wrong_field(kind: str, place: str, wrong: Any, told: str) -> None:
    values = merged(LEAST, {
        "autoscaling": {"kind": "keda"}, "keda": {"prometheusAddress": "http://p"},
        "httpRoute": {"enabled": True, "parentRefs": [{"name": "public"}]},
        "metrics": {"serviceMonitor": {"enabled": True}, "prometheusRule": {"enabled": True}},
    })  # fmt: skip
    found = next(o for o in render(values, name="demo", namespace=NAMESPACE) if o["kind"] == kind)
    validate(found)
    *parents, key = place.split(".")
    target: Any = found
    for parent in parents:
        target = target[int(parent)] if parent.isdigit() else target[parent]
    target[key] = wrong
    with pytest.raises((jsonschema_rs.ValidationError, kubernetes_validate.ValidationError), match=told):
        validate(found)


def test_notes_say_what_to_do_next() -> None:
    assert "Bearer $RANKRAG_API_KEY" in notes(LEAST, name="demo", namespace=NAMESPACE)
    assert "tests.existingSecret" in notes(LEAST, name="demo", namespace=NAMESPACE)
    open_values = merged(LEAST, {"auth": {"enabled": False}, "networkPolicy": {"enabled": False}})
    told = notes(open_values, name="demo", namespace=NAMESPACE)
    assert "auth.enabled is false" in told
    assert "networkPolicy.enabled is false" in told
    assert "Bearer" not in told
