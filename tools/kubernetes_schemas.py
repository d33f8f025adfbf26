"""Make the schemas that a project's Kubernetes manifests are held against: KINDS, and nothing that they do not need.

python tools/kubernetes_schemas.py FOLDER    with the packages of SOURCES unpacked in FOLDER, each in a folder of its name

Kubernetes' own kinds come from the strict schemas of the Python package kubernetes-validate. Custom kinds come from the
declarations (.d.ts) of the npm packages @kubernetes-models/*, which are made from each project's own Go types: every
interface becomes an object that knows its fields and no others. What neither has is written by hand in OWN.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from stage import TEMPLATE_FOLDER

ROOT = Path(__file__).resolve().parent.parent
TARGET = ROOT / TEMPLATE_FOLDER / "ops/deploy/kubernetes/schemas"
VERSIONS = ("1.35", "1.36", "1.37")
KINDS = (
    "configmap-v1",
    "cronjob-batch-v1",
    "deployment-apps-v1",
    "horizontalpodautoscaler-autoscaling-v2",
    "job-batch-v1",
    "namespace-v1",
    "networkpolicy-networking-v1",
    "persistentvolumeclaim-v1",
    "poddisruptionbudget-policy-v1",
    "service-v1",
    "serviceaccount-v1",
    "statefulset-apps-v1",
)
# Where a kind is declared, below the folder of its package.
CUSTOM = {
    "external-secrets.io/v1 ExternalSecret": "external-secrets/external-secrets.io/v1/ExternalSecret.d.ts",
    "external-secrets.io/v1 SecretStore": "external-secrets/external-secrets.io/v1/SecretStore.d.ts",
    "gateway.networking.k8s.io/v1 HTTPRoute": "gateway-api/gateway.networking.k8s.io/v1/HTTPRoute.d.ts",
    "keda.sh/v1alpha1 ScaledObject": "keda/keda.sh/v1alpha1/ScaledObject.d.ts",
    "keda.sh/v1alpha1 TriggerAuthentication": "keda/keda.sh/v1alpha1/TriggerAuthentication.d.ts",
    "monitoring.coreos.com/v1 PodMonitor": "prometheus-operator/monitoring.coreos.com/v1/PodMonitor.d.ts",
    "monitoring.coreos.com/v1 PrometheusRule": "prometheus-operator/monitoring.coreos.com/v1/PrometheusRule.d.ts",
    "monitoring.coreos.com/v1 ServiceMonitor": "prometheus-operator/monitoring.coreos.com/v1/ServiceMonitor.d.ts",
    "postgresql.cnpg.io/v1 Cluster": "cloudnative-pg/postgresql.cnpg.io/v1/Cluster.d.ts",
    "postgresql.cnpg.io/v1 ScheduledBackup": "cloudnative-pg/postgresql.cnpg.io/v1/ScheduledBackup.d.ts",
}
BARMAN = "cloudnative-pg/github.com/cloudnative-pg/barman-cloud/pkg/api/BarmanObjectStoreConfiguration.d.ts"
# Nobody packs the plugin's own kind. Its configuration is barman-cloud's, which is packed; the rest is by its documentation.
OWN: dict[str, dict[str, Any]] = {
    "barmancloud.cnpg.io/v1 ObjectStore": {
        "type": "object",
        "required": ["apiVersion", "kind", "metadata", "spec"],
        "additionalProperties": False,
        "properties": {
            "apiVersion": {"const": "barmancloud.cnpg.io/v1"},
            "kind": {"const": "ObjectStore"},
            "metadata": {"type": "object"},
            "spec": {
                "type": "object",
                "required": ["configuration"],
                "additionalProperties": False,
                "properties": {
                    "configuration": {
                        "$ref": "#/$defs/IComGithubCloudnativePgBarmanCloudPkgApiBarmanObjectStoreConfiguration"
                    },
                    "retentionPolicy": {"type": "string", "pattern": "^[1-9][0-9]*[dwm]$"},
                    "instanceSidecarConfiguration": {"type": "object"},
                },
            },
        },
    }
}

# For reading, or for a schema that stands alone.
NOISE = frozenset({"description", "$id", "$schema"})
# How the declarations name Kubernetes' own types.
FOREIGN = {
    r"IIoK8sApiCoreV1(\w+)": r"io.k8s.api.core.v1.\1",
    r"IIoK8sApimachineryPkgApisMetaV1(\w+)": r"io.k8s.apimachinery.pkg.apis.meta.v1.\1",
}
FIELD = re.compile(r'^\s*(?:readonly )?"?([^":?]+)"?(\?)?: ?(.*)$', re.DOTALL)
COMMENT = re.compile(r"/\*.*?\*/", re.DOTALL)


def without_text(value: Any) -> Any:
    """The same schema without what is for reading only."""
    if isinstance(value, dict):
        return {
            key: without_text(part)
            for key, part in value.items()
            if not (key in NOISE and isinstance(part, str)) and key != "x-kubernetes-group-version-kind"
        }
    return [without_text(part) for part in value] if isinstance(value, list) else value


def references(value: Any) -> Iterator[str]:
    """Every definition that a schema points to."""
    if isinstance(value, dict):
        if isinstance(target := value.get("$ref"), str):
            yield target.rsplit("/", 1)[-1]
        for part in value.values():
            yield from references(part)
    elif isinstance(value, list):
        for part in value:
            yield from references(part)


def kubernetes(version: str, packages: Path) -> dict[str, Any]:
    """The schemas of KINDS in one version, by apiVersion and kind, with the definitions that they need."""
    folder = packages / f"kubernetes-validate/kubernetes_validate/kubernetes-json-schema/v{version}.0-local-strict"
    definitions = json.loads((folder / "_definitions.json").read_text("utf-8"))["$defs"]
    kinds = {}
    for name in KINDS:
        schema = without_text(json.loads((folder / f"{name}.json").read_text("utf-8")))
        (api,), (kind,) = (schema["properties"][part]["enum"] for part in ("apiVersion", "kind"))
        kinds[f"{api} {kind}"] = schema
    needed: dict[str, Any] = {}
    waiting = list(references(kinds))
    while waiting:
        name = waiting.pop()
        if name not in needed:
            needed[name] = without_text(definitions[name])
            waiting += references(needed[name])
    text = json.dumps({"kinds": kinds, "$defs": needed})
    return dict(json.loads(text.replace("/api/_definitions.json#/$defs/", "#/$defs/")))


class Declarations:
    """The interfaces of the unpacked packages, read when they are asked for, as schemas."""

    def __init__(self, known: frozenset[str]) -> None:
        self.known = known
        self.found: dict[str, Any] = {}

    def read(self, path: Path) -> str:
        """Read the interface of a file and all that it needs, and tell the name under which it is found."""
        text = COMMENT.sub("", path.read_text("utf-8"))
        name = re.search(r"export type \{ \w+ as (I\w+)", text)
        own = name[1] if name else f"I{path.name.split('.')[0]}"
        if own in self.found:
            return own
        self.found[own] = True  # types may hold themselves
        imports = dict(re.findall(r'import \{ (\w+) \} from "(\.[^"]+)\.js";', text))
        if alias := re.search(r"export type I\w+ = ([^;]+);", text):
            self.found[own] = self.schema(alias[1], imports, path)
        else:
            body = re.search(r"export interface \w+(?: extends ([\w, ]+))? (\{.*?\n?\})\n", text, re.DOTALL)
            assert body, path
            whole = self.schema(body[2], imports, path)
            for parent in (body[1] or "").split(", "):
                if parent in imports:  # a type that Go embeds
                    inner = self.found[self.read(path.parent / (imports[parent] + ".d.ts"))]
                    whole["properties"] |= inner["properties"]
                    whole["required"] += inner["required"]
            self.found[own] = whole
        return own

    def schema(self, kind: str, imports: dict[str, str], path: Path) -> Any:
        """What a TypeScript type says, as JSON Schema."""
        kind = kind.strip()
        simple = {"string": "string", "boolean": "boolean", "number": "number"}
        if kind in simple:
            return {"type": simple[kind]}
        if kind.startswith("Array<"):
            return {"type": "array", "items": self.schema(kind[6:-1], imports, path)}
        if kind.startswith("{"):
            return self.object(kind[1:-1], imports, path)
        if " | " in kind:
            return {"anyOf": [self.schema(part, imports, path) for part in kind.split(" | ")]}
        if kind.startswith('"'):
            return {"const": kind.strip('"')}
        if kind in imports:
            return {"$ref": f"#/$defs/{self.read(path.parent / (imports[kind] + '.d.ts'))}"}
        for pattern, name in FOREIGN.items():  # their definitions are those of the version at hand
            if re.fullmatch(pattern, kind) and (known := re.sub(pattern, name, kind)) in self.known:
                return {"$ref": f"#/$defs/{known}"}
        return True  # nothing else that is used here needs the type

    def object(self, body: str, imports: dict[str, str], path: Path) -> dict[str, Any]:
        """An interface, or a map."""
        properties, required = {}, []
        for line in fields(body):
            if mapped := re.match(r"\s*\[key: string\]: ?(.*)", line, re.DOTALL):
                return {"type": "object", "additionalProperties": self.schema(mapped[1], imports, path)}
            field = FIELD.match(line)
            assert field, line
            properties[field[1]] = self.schema(field[3], imports, path)
            if not field[2]:
                required.append(field[1])
        return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def fields(body: str) -> Iterator[str]:
    """The parts between semicolons that are not within further braces."""
    depth, start = 0, 0
    for position, character in enumerate(body):
        depth += {"{": 1, "}": -1}.get(character, 0)
        if character == ";" and depth == 0:
            yield body[start:position]
            start = position + 1


def custom(packages: Path, known: frozenset[str]) -> dict[str, Any]:
    """The schemas of CUSTOM and OWN, which may point to the definitions that are known in every version."""
    declarations = Declarations(known)
    declarations.read(packages / BARMAN)
    kinds: dict[str, Any] = {
        key: {"$ref": f"#/$defs/{declarations.read(packages / path)}"} for key, path in CUSTOM.items()
    }
    return {"kinds": {**kinds, **OWN}, "$defs": declarations.found}


def main(packages: Path) -> None:
    """Write them all."""
    TARGET.mkdir(parents=True, exist_ok=True)
    files = {version: kubernetes(version, packages) for version in VERSIONS}
    known = frozenset.intersection(*(frozenset(schemas["$defs"]) for schemas in files.values()))
    for name, schemas in {**files, "custom": custom(packages, known)}.items():
        path = TARGET / f"{name}.json"
        path.write_text(json.dumps(schemas, sort_keys=True, separators=(",", ":")) + "\n", "utf-8")
        print(f"{path.name}: {len(schemas['kinds'])} kinds, {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
