"""Extract what we need of Kubernetes' published schemas and protobuf definitions. Run by `./dev setup`.

The schemas are the OpenAPI definitions that the PyPI package kubernetes-validate carries; its edits for
validation (null in every optional type, `enum` for apiVersion and kind) are undone here. The protobuf field
numbers, and which Go fields are pointers, come from the Debian packages golang-k8s-api-dev and -apimachinery-dev;
without them protobuf bodies are refused. Standard library only, so that it runs before anything is installed:

    python -m controlplane.api.schema.build --schemas WHEEL --go DIRECTORY --out DIRECTORY
"""

import argparse
import json
import re
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

VERSION = "1.32"
# Group directory, version, kinds: everything the API server speaks, or other parts of netplane read.
ROOTS = (
    (
        "core",
        "v1",
        (
            "Binding ConfigMap Endpoints Event LimitRange Namespace Node PersistentVolume "
            "PersistentVolumeClaim Pod PodTemplate ReplicationController ResourceQuota Secret Service ServiceAccount"
        ),
    ),
    ("apps", "v1", "ControllerRevision DaemonSet Deployment ReplicaSet StatefulSet"),
    ("authentication", "v1", "SelfSubjectReview TokenRequest TokenReview"),
    (
        "authorization",
        "v1",
        "LocalSubjectAccessReview SelfSubjectAccessReview SelfSubjectRulesReview SubjectAccessReview",
    ),
    ("autoscaling", "v1", "HorizontalPodAutoscaler Scale"),
    ("autoscaling", "v2", "HorizontalPodAutoscaler"),
    ("batch", "v1", "CronJob Job"),
    ("certificates", "v1", "CertificateSigningRequest"),
    ("coordination", "v1", "Lease"),
    ("discovery", "v1", "EndpointSlice"),
    ("events", "v1", "Event"),
    ("networking", "v1", "Ingress IngressClass NetworkPolicy"),
    ("node", "v1", "RuntimeClass"),
    ("policy", "v1", "Eviction PodDisruptionBudget"),
    ("rbac", "v1", "ClusterRole ClusterRoleBinding Role RoleBinding"),
    ("scheduling", "v1", "PriorityClass"),
    ("storage", "v1", "CSIDriver CSINode CSIStorageCapacity StorageClass VolumeAttachment"),
)
META = "io.k8s.apimachinery.pkg.apis.meta.v1."
META_ROOTS = ("DeleteOptions", "Patch", "Status")
DEFINITIONS = f"kubernetes_validate/kubernetes-json-schema/v{VERSION}.0-local/_definitions.json"
INT_OR_STRING = "io.k8s.apimachinery.pkg.util.intstr.IntOrString"

Schema = dict[str, Any]


def main() -> int:
    """Write schemas.json and protobuf.json into the output directory."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--schemas", type=Path, required=True, help="the kubernetes-validate wheel")
    parser.add_argument("--go", type=Path, help="where the Go packages are unpacked")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    try:
        with zipfile.ZipFile(options.schemas) as wheel:
            published = json.loads(wheel.read(DEFINITIONS))["$defs"]
        found = schemas(published)
        options.out.mkdir(parents=True, exist_ok=True)
        write(options.out / "schemas.json", found)
        if options.go:
            write(options.out / "protobuf.json", protobuf(options.go))
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        sys.stderr.write(f"cannot build the schema data: {error!r}\n")
        return 1
    return 0


def write(path: Path, value: object) -> None:
    """Whole or not at all."""
    draft = path.with_suffix(".new")
    draft.write_text(json.dumps(value, separators=(",", ":"), sort_keys=True))
    draft.replace(path)


def schemas(published: Schema) -> Schema:
    """The definitions of our kinds and all that they refer to, as OpenAPI v3 has them."""
    wanted = [
        f"io.k8s.api.{group}.{version}.{kind}" for group, version, kinds in ROOTS for kind in kinds.split()
    ]
    wanted += [META + name for name in META_ROOTS]
    found: Schema = {}
    while wanted:
        name = wanted.pop()
        if name not in found:
            found[name] = restored(published[name])
            wanted += references(found[name])
    found[INT_OR_STRING]["format"] = "int-or-string"
    return found


def references(schema: Any) -> Iterator[str]:
    """The names of all definitions that a schema refers to."""
    if isinstance(schema, dict):
        for key, value in schema.items():
            if key == "$ref" and isinstance(value, str):
                yield value.rpartition("/")[2]
            else:
                yield from references(value)
    elif isinstance(schema, list):
        for value in schema:
            yield from references(value)


def restored(schema: Any) -> Any:
    """A schema without the package's edits. In OpenAPI v3, whatever stands beside a $ref needs an allOf."""
    if isinstance(schema, list):
        return [restored(value) for value in schema]
    if not isinstance(schema, dict):
        return schema
    result: Schema = {}
    for key, value in schema.items():
        if key == "properties":
            result[key] = {name: restored(field) for name, field in value.items()}
            for name in ("apiVersion", "kind"):
                result[key].get(name, {}).pop("enum", None)
        elif key == "type" and isinstance(value, list):
            (result[key],) = [name for name in value if name != "null"]
        elif key == "enum":
            result[key] = [choice for choice in value if choice is not None]
        elif key == "$ref":
            result[key] = "#/components/schemas/" + value.rpartition("/")[2]
        else:
            result[key] = restored(value)
    if "$ref" in result and len(result) > 1:
        result["allOf"] = [{"$ref": result.pop("$ref")}]
    return result


_PACKAGE = re.compile(r"^package ([\w.]+);", re.MULTILINE)
_MESSAGE = re.compile(r"^message (\w+) \{\n(.*?)^\}", re.MULTILINE | re.DOTALL)
_FIELD = re.compile(
    r"^  (?:(optional|repeated|required) ([\w.]+)|map<string, ([\w.]+)>) (\w+) = (\d+);", re.MULTILINE
)
_STRUCT = re.compile(r"^type (\w+) struct \{\n(.*?)^\}", re.MULTILINE | re.DOTALL)
_TAG = re.compile(r'^\t(?:\w+ +)?(\S+) +`json:"(\w*)((?:,\w+)*)" protobuf:"\w+,(\d+)', re.MULTILINE)


def protobuf(root: Path) -> Schema:
    """``kinds``: group/version/kind → name; ``messages``: name → number → [field, type, count, inline, zero kept]."""
    messages: Schema = {}
    for path in sorted(root.rglob("generated.proto")):
        text = path.read_text()
        package = _PACKAGE.search(text)
        if package:
            tags = go_tags(path.parent)
            for name, body in _MESSAGE.findall(text):
                messages[f"{package[1]}.{name}"] = fields(package[1], body, tags.get(name, {}))
    kinds: dict[str, str] = {}
    for group, version, names in ROOTS:
        for kind in names.split():
            kinds[f"{group}/{version}/{kind}"] = f"k8s.io.api.{group}.{version}.{kind}"
    meta = "k8s.io.apimachinery.pkg.apis.meta.v1."
    wanted = [*kinds.values(), *(meta + name for name in META_ROOTS)]
    found: Schema = {}
    while wanted:
        name = wanted.pop()
        if name in messages and name not in found:
            found[name] = messages[name]
            wanted += [entry[1] for entry in found[name].values()]
    missing = sorted(set(kinds.values()) - set(found))
    if missing:
        raise ValueError(f"no protobuf message for {', '.join(missing)}")
    return {"kinds": kinds, "messages": found}


def fields(package: str, body: str, tags: dict[str, tuple[bool, bool]]) -> Schema:
    """One message's fields by number."""
    found: Schema = {}
    for label, one, of, name, number in _FIELD.findall(body):
        kind = (of or one).removeprefix(".")
        if "." not in kind and kind[0].isupper():
            kind = f"{package}.{kind}"
        count = "map" if of else "many" if label == "repeated" else "one"
        inline, keep = tags.get(number, (False, True))
        found[number] = [name, kind, count, inline, keep]
    return found


def go_tags(directory: Path) -> dict[str, dict[str, tuple[bool, bool]]]:
    """Struct → field number → (its fields stand in the outer JSON object, its zero value is written to JSON)."""
    found: dict[str, dict[str, tuple[bool, bool]]] = {}
    for path in sorted(directory.glob("*.go")):
        for name, body in _STRUCT.findall(path.read_text()):
            for kind, _, options, number in _TAG.findall(body):
                keep = kind.startswith("*") or "omitempty" not in options
                found.setdefault(name, {})[number] = ("inline" in options, keep)
    return found


if __name__ == "__main__":
    sys.exit(main())
