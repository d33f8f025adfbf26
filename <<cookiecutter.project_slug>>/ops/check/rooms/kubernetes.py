"""The Kubernetes manifests as they are applied: against the schemas of three versions, and against this project's own rules."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ops.check.tools import Check, Findings, Foreign, find, findings, run

FOLDER = Path("ops/deploy/kubernetes")
VERSIONS = ("1.35", "1.36", "1.37")
#: Stands for an image that a build has pushed.
IMAGE = f"registry.invalid/app@sha256:{'0' * 64}"

Object = dict[str, Any]
#: What CloudNativePG makes for a cluster: NAME-app and NAME-ca.
CLUSTER_SECRETS = {"app": {"username", "password", "uri", "host", "port", "dbname"}, "ca": {"ca.crt"}}
#: Read by the programs of images that are not ours, or by no program at all.
FOREIGN_VARIABLES = re.compile(r"REDISCLI_AUTH|REDIS_(ADDR|PASSWORD)|DATA_SOURCE_(URI|USER|PASS)|POD_IP")


def overlays(root: Path) -> list[str]:
    """The names of the overlays."""
    return sorted(path.name for path in (root / FOLDER / "overlays").iterdir())


def render(root: Path, overlay: str) -> list[Object]:
    """The objects of an overlay, as the deploy applies them.

    Raises:
        Foreign: there is no kustomize on this machine.
        ValueError: kustomize refuses the files; the text says why.
    """
    if not (find("kubectl") or find("kustomize")):
        raise Foreign(
            "kubectl is not here: https://kubernetes.io/docs/tasks/tools, or go on without it: SKIP=kubernetes"
        )
    result = run(root, ["bash", FOLDER / "render.sh", overlay, IMAGE, IMAGE])
    if text := findings(result):
        raise ValueError(text)
    return [document for document in yaml.safe_load_all(result.stdout) if document]


def check(root: Path) -> Findings:
    """Every overlay, and the example of a recovery."""
    found, everything = [], []
    for overlay in overlays(root):
        try:
            objects = render(root, overlay)
        except ValueError as error:
            found.append(f"{overlay}: {error}")
            continue
        everything += objects
        found += [f"{overlay}: {fault}" for fault in faults(objects, variables(root))]
    everything += list(yaml.safe_load_all((root / FOLDER / "recovery/cluster.yaml").read_text("utf-8")))
    found += [fault for version in VERSIONS for fault in schema_faults(root, everything, version)]
    return "\n".join(dict.fromkeys(found))


def schema_faults(root: Path, objects: list[Object], version: str) -> list[str]:
    """What the schemas of one version of Kubernetes, and those of the custom kinds, find."""
    folder = root / FOLDER / "schemas"
    plain, custom = (json.loads((folder / f"{name}.json").read_text("utf-8")) for name in (version, "custom"))
    kinds = {**plain["kinds"], **custom["kinds"]}
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$defs": {**plain["$defs"], **custom["$defs"]},
    }
    found = []
    with tempfile.TemporaryDirectory(prefix="kubernetes-") as scratch:
        by_kind: dict[str, list[Path]] = {}
        for number, item in enumerate(objects):
            key = f"{item['apiVersion']} {item['kind']}"
            if key not in kinds:
                found.append(f"{version}: {name(item)}: no schema for {key}: docs/kubernetes.md, Schemas")
                continue
            path = Path(scratch, f"{number}-{item['kind']}-{item['metadata']['name']}.json")
            path.write_text(json.dumps(item), "utf-8")
            by_kind.setdefault(key, []).append(path)
        # One schema of all kinds, so that one run of the checker does for all objects.
        chosen = [
            {
                "if": {"properties": {"apiVersion": {"const": key.split()[0]}, "kind": {"const": key.split()[1]}}},
                "then": kinds[key],
            }
            for key in by_kind
        ]
        whole = Path(scratch, "schema.json")
        whole.write_text(json.dumps({**schema, "allOf": chosen}), "utf-8")
        paths = [path for group in by_kind.values() for path in group]
        result = run(root, ["check-jsonschema", "--schemafile", whole, *paths])
        if text := findings(result):
            found.append(f"{version}: {text.replace(scratch, '')}")
    return found


def variables(root: Path) -> frozenset[str]:
    """Every variable that the application reads."""
    example = (root / ".env.example").read_text("utf-8").split("\n## Compose:")[0]
    return frozenset(re.findall(r"(?m)^([A-Z][A-Z0-9_]*)=", example))


@dataclass(frozen=True, slots=True)
class Pods:
    """What makes pods, and the pods that it makes."""

    owner: Object
    labels: dict[str, str]
    spec: Object

    @property
    def containers(self) -> list[Object]:
        """Those that stay and those that come first."""
        return [*self.spec.get("initContainers", ()), *self.spec["containers"]]


def pods(objects: list[Object]) -> Iterator[Pods]:
    """All that the objects make themselves; an operator's pods are its own business."""
    for item in objects:
        spec = item.get("spec", {})
        if item["kind"] == "CronJob":
            spec = spec["jobTemplate"]["spec"]
        if item["kind"] in ("Deployment", "StatefulSet", "Job", "CronJob"):
            template = spec["template"]
            yield Pods(item, template.get("metadata", {}).get("labels", {}), template["spec"])


def name(item: Object) -> str:
    """As kubectl writes it."""
    return f"{item['kind'].lower()}/{item['metadata']['name']}"


def selects(selector: Object, labels: dict[str, str]) -> bool:
    """Whether a selector of labels takes them."""
    wanted = selector.get("matchLabels", {}).items() <= labels.items()
    return bool(wanted) and all(
        labels.get(part["key"]) in part["values"]
        for part in selector.get("matchExpressions", ())
        if part["operator"] == "In"
    )


def faults(objects: list[Object], known: frozenset[str]) -> list[str]:
    """What is wrong with an overlay by the rules of this project.

    Args:
        objects: all of its objects.
        known: the variables that the application reads.
    """
    rules = (namespaces, restricted, limited, shut, pinned, probed, referred, named_variables, selected, routed)
    return [fault for rule in rules for fault in rule(objects, known)]


def namespaces(objects: list[Object], _: frozenset[str]) -> Iterator[str]:
    """All in the one namespace, in which the cluster itself insists on restricted pods."""
    own = [item for item in objects if item["kind"] == "Namespace"]
    if len(own) != 1:
        yield f"{len(own)} namespaces; there is to be one"
        return
    if own[0]["metadata"].get("labels", {}).get("pod-security.kubernetes.io/enforce") != "restricted":
        yield f"{name(own[0])}: does not enforce restricted pods: pod-security.kubernetes.io/enforce"
    for item in objects:
        if item is not own[0] and item["metadata"].get("namespace") != own[0]["metadata"]["name"]:
            yield f"{name(item)}: lies in another namespace"


def restricted(objects: list[Object], _: frozenset[str]) -> Iterator[str]:
    """Pod Security `restricted`, and beyond it no writing to the image and no token."""
    for made in pods(objects):
        pod = made.spec.get("securityContext", {})
        rules = {
            "may run as root: runAsNonRoot, runAsUser": not (pod.get("runAsNonRoot") and pod.get("runAsUser")),
            "any system call is open: seccompProfile": pod.get("seccompProfile", {}).get("type") != "RuntimeDefault",
            "holds a token for the API server: automountServiceAccountToken": (
                made.spec.get("automountServiceAccountToken") is not False
            ),
            "shares the node's network or processes": any(
                made.spec.get(key) for key in ("hostNetwork", "hostPID", "hostIPC")
            ),
            "mounts the node's disk: hostPath": any("hostPath" in volume for volume in made.spec.get("volumes", ())),
        }
        for container in made.containers:
            own = container.get("securityContext", {})
            capabilities = own.get("capabilities", {})
            rules |= {
                "may gain privileges: allowPrivilegeEscalation": (
                    own.get("allowPrivilegeEscalation") is not False or bool(own.get("privileged"))
                ),
                "keeps capabilities: drop": capabilities.get("drop") != ["ALL"] or bool(capabilities.get("add")),
                "can write to its file system: readOnlyRootFilesystem": not own.get("readOnlyRootFilesystem"),
            }
            yield from (f"{name(made.owner)}: {text}" for text, broken in rules.items() if broken)


def limited(objects: list[Object], _: frozenset[str]) -> Iterator[str]:
    """The scheduler knows what each needs, and none can take a node's memory."""
    for made in pods(objects):
        for container in made.containers:
            resources = container.get("resources", {})
            if not {"cpu", "memory"} <= resources.get("requests", {}).keys():
                yield f"{name(made.owner)}: does not say what it needs: resources.requests"
            if "memory" not in resources.get("limits", {}):
                yield f"{name(made.owner)}: has no limit of memory"
        for volume in made.spec.get("volumes", ()):
            if "emptyDir" in volume and "sizeLimit" not in (volume["emptyDir"] or {}):
                yield f"{name(made.owner)}: may fill the node's disk: {volume['name']} has no sizeLimit"


def shut(objects: list[Object], _: frozenset[str]) -> Iterator[str]:
    """Doors are shut by default, and each policy opens one for pods that there are."""
    policies = [item for item in objects if item["kind"] == "NetworkPolicy"]
    if not any(
        item["spec"]["podSelector"] == {}
        and set(item["spec"].get("policyTypes", ())) == {"Ingress", "Egress"}
        and not item["spec"].get("ingress")
        and not item["spec"].get("egress")
        for item in policies
    ):
        yield "no NetworkPolicy shuts every door by default"
    labels = [made.labels for made in pods(objects)]
    labels += [{"cnpg.io/cluster": item["metadata"]["name"]} for item in objects if item["kind"] == "Cluster"]
    for item in policies:
        spec = item["spec"]
        if not any(selects(spec["podSelector"], each) for each in labels):
            yield f"{name(item)}: opens a door for nobody"
        for direction, side in (("ingress", "from"), ("egress", "to")):
            for rule in spec.get(direction, ()):
                if not rule.get("ports"):
                    yield f"{name(item)}: opens every port"
                if direction == "ingress" and not rule.get(side):
                    yield f"{name(item)}: lets everybody in"
                for peer in rule.get(side, ()):
                    inside = "podSelector" in peer and "namespaceSelector" not in peer
                    if inside and not any(selects(peer["podSelector"], each) for each in labels):
                        yield f"{name(item)}: names pods that there are not"


def pinned(objects: list[Object], _: frozenset[str]) -> Iterator[str]:
    """Nothing takes whatever image is newest; ours come by digest."""
    for made in pods(objects):
        for container in made.containers:
            image = container["image"]
            last = image.rsplit("/", 1)[-1]
            if "@sha256:" not in image and (":" not in last or last.endswith(":latest")):
                yield f"{name(made.owner)}: takes whatever image is newest: {image}"
            if container["name"] == "app" and "@sha256:" not in image:
                yield f"{name(made.owner)}: our own image comes by digest, not as {image}"


def probed(objects: list[Object], _: frozenset[str]) -> Iterator[str]:
    """What stays up is asked whether it lives, and never about its neighbours."""
    for made in pods(objects):
        where = name(made.owner)
        for container in made.spec["containers"]:
            if made.owner["kind"] in ("Deployment", "StatefulSet") and "livenessProbe" not in container:
                yield f"{where}: nobody asks whether it lives: livenessProbe"
            for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
                path = container.get(probe, {}).get("httpGet", {}).get("path", "")
                if path.startswith("/health/"):
                    yield f"{where}: {probe} asks {path}, which depends on neighbours"
        if made.owner["kind"] == "Job" and "activeDeadlineSeconds" not in made.owner["spec"]:
            yield f"{where}: may run for ever: activeDeadlineSeconds"
        if made.owner["kind"] == "CronJob":
            spec = made.owner["spec"]
            if spec.get("concurrencyPolicy") != "Forbid":
                yield f"{where}: may overtake itself: concurrencyPolicy"
            if "activeDeadlineSeconds" not in spec["jobTemplate"]["spec"]:
                yield f"{where}: may run for ever: activeDeadlineSeconds"


def produced(objects: list[Object]) -> dict[str, set[str] | None]:
    """Every secret that an object makes, and its keys; None where they are not known here."""
    secrets: dict[str, set[str] | None] = {}
    for item in objects:
        if item["kind"] == "ExternalSecret":
            spec = item["spec"]
            own = None if "dataFrom" in spec else {part["secretKey"] for part in spec.get("data", ())}
            secrets[spec.get("target", {}).get("name", item["metadata"]["name"])] = own
        if item["kind"] == "Cluster":
            secrets |= {f"{item['metadata']['name']}-{suffix}": set(keys) for suffix, keys in CLUSTER_SECRETS.items()}
    return secrets


def references(value: Any, path: str = "") -> Iterator[tuple[str, Object]]:
    """Every mapping within an object, and the key under which it stands."""
    if isinstance(value, dict):
        yield path, value
        for key, part in value.items():
            yield from references(part, key)
    elif isinstance(value, list):
        for part in value:
            yield from references(part, path)


def referred(objects: list[Object], known: frozenset[str]) -> Iterator[str]:
    """Each secret that is used is made by something, each ConfigMap and account is there."""
    secrets = produced(objects)
    maps = {item["metadata"]["name"]: set(item.get("data", ())) for item in objects if item["kind"] == "ConfigMap"}
    accounts = {item["metadata"]["name"] for item in objects if item["kind"] == "ServiceAccount"}
    for item in objects:
        for key, part in references(item):
            if key in ("secretRef", "secretKeyRef", "secret", "secretTargetRef", "accessKeyId", "secretAccessKey"):
                secret = part.get("name") or part.get("secretName")
                if secret not in secrets:
                    yield f"{name(item)}: nothing makes the secret {secret}"
                    continue
                wanted = [part["key"]] if "key" in part else [entry["key"] for entry in part.get("items", ())]
                own = secrets[secret]
                yield from (
                    f"{name(item)}: the secret {secret} has no {one}"
                    for one in wanted
                    if one not in (known if own is None else own)
                )
            if key in ("configMapRef", "configMapKeyRef", "configMap") and part.get("name") not in maps:
                yield f"{name(item)}: there is no ConfigMap {part.get('name')}"
    for made in pods(objects):
        if made.spec.get("serviceAccountName", "default") not in {*accounts, "default"}:
            yield f"{name(made.owner)}: there is no ServiceAccount {made.spec['serviceAccountName']}"


def named_variables(objects: list[Object], known: frozenset[str]) -> Iterator[str]:
    """Every variable is one that somebody reads, and is set before another one is made of it."""
    for item in objects:
        if item["kind"] == "ConfigMap" and item["metadata"]["name"].startswith("settings"):
            yield from (f"{name(item)}: nothing reads {key}" for key in item["data"] if key not in known)
    for made in pods(objects):
        for container in made.containers:
            before: set[str] = set()
            for variable in container.get("env", ()):
                key = variable["name"]
                if not (FOREIGN_VARIABLES.fullmatch(key) or key in known):
                    yield f"{name(made.owner)}: nothing reads {key}"
                for used in re.findall(r"\$\(([A-Z_]+)\)", variable.get("value", "")):
                    if used not in before:
                        yield f"{name(made.owner)}: {key} is made of {used}, which is not set before it"
                before.add(key)


def selected(objects: list[Object], _: frozenset[str]) -> Iterator[str]:
    """Services, budgets, autoscalers and monitors are about something that there is."""
    made = list(pods(objects))
    targets = {(each.owner["kind"], each.owner["metadata"]["name"]) for each in made}
    for item in objects:
        kind, spec = item["kind"], item.get("spec", {})
        if kind in ("HorizontalPodAutoscaler", "ScaledObject"):
            target = spec["scaleTargetRef"]
            if (target.get("kind", "Deployment"), target["name"]) not in targets:
                yield f"{name(item)}: scales {target['name']}, which there is not"
            continue
        if kind not in ("Service", "PodDisruptionBudget", "PodMonitor"):
            continue
        selector = {"matchLabels": spec["selector"]} if kind == "Service" else spec["selector"]
        chosen = [each for each in made if selects(selector, each.labels)]
        if not chosen:
            yield f"{name(item)}: selects no pod"
            continue
        ports = {port.get("name") for each in chosen for part in each.containers for port in part.get("ports", ())}
        wanted = [port["targetPort"] for port in spec.get("ports", ())]
        wanted += [endpoint["port"] for endpoint in spec.get("podMetricsEndpoints", ())]
        yield from (f"{name(item)}: no pod has a port {port}" for port in wanted if port not in ports)
    scaled = {
        item["spec"]["scaleTargetRef"]["name"]
        for item in objects
        if item["kind"] in ("HorizontalPodAutoscaler", "ScaledObject")
    }
    for item in objects:
        if item["kind"] == "Deployment" and item["metadata"]["name"] in scaled and "replicas" in item["spec"]:
            yield f"{name(item)}: every deploy would undo the autoscaler: replicas"


def routed(objects: list[Object], _: frozenset[str]) -> Iterator[str]:
    """The public reaches what is meant for it: a route names its hosts and paths, and never the metrics."""
    services = {item["metadata"]["name"] for item in objects if item["kind"] == "Service"}
    for item in objects:
        if item["kind"] != "HTTPRoute":
            continue
        if not item["spec"].get("hostnames"):
            yield f"{name(item)}: answers to every name: hostnames"
        for rule in item["spec"]["rules"]:
            backends = rule.get("backendRefs", ())
            yield from (
                f"{name(item)}: leads to {each['name']}, which there is not"
                for each in backends
                if each["name"] not in services
            )
            paths = [match.get("path", {}).get("value", "/") for match in rule.get("matches", [{}])]
            if backends and any(path == "/" or path.startswith("/metrics") for path in paths):
                yield f"{name(item)}: lets the public reach /metrics"


def rules(root: Path) -> Findings:
    """The alarms in the cluster are those of every other place."""
    return findings(run(root, ["python", FOLDER / "generate.py", "--check"]))


CHECKS = (
    Check("kubernetes", check, str(FOLDER)),
    Check("kubernetes-rules", rules, f"{FOLDER}/generate.py"),
)
