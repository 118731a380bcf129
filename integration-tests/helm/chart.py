"""The chart, by Helm's own engine, and what tests ask of what it renders."""

import copy
import functools
import json
import os
import pathlib
import re
import shutil
import subprocess
import tempfile

import helm_python
import yaml
from helm_python import _native

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
CHART = ROOT / "helm" / "grapevine"
GOLDEN = HERE / "golden"
RELEASE = "grapevine"
NAMESPACE = "caches"
BIN = os.environ.get("GRAPEVINE_BIN", str(ROOT / "target/release/grapevine"))

# What there must be of some sort at least, for anything to be rendered.
LEAST = {"cluster": {"expectedMembers": 3}}


class Loader(yaml.SafeLoader):
    """YAML that refuses a key that stands twice in a mapping: of those the last would win, in silence."""

    def construct_mapping(self, node, deep=False):
        keys = [key.value for key, _ in node.value]
        twice = {key for key in keys if keys.count(key) > 1}
        if twice:
            raise yaml.constructor.ConstructorError(None, None, f"twice: {sorted(twice)}", node.start_mark)
        return super().construct_mapping(node, deep)


def parse(text: str) -> list[dict]:
    """The documents of a YAML text, without empty ones."""
    return [document for document in yaml.load_all(text, Loader) if document]


@functools.cache
def chart() -> helm_python.Chart:
    return helm_python.Chart.load(CHART)


def merged(base: dict, more: dict) -> dict:
    """`base` with `more` laid over it, as Helm lays values."""
    result = copy.deepcopy(base)
    for key, value in more.items():
        below = result.get(key)
        result[key] = (
            merged(below, value) if isinstance(value, dict) and isinstance(below, dict) else copy.deepcopy(value)
        )
    return result


def at(path: str, value) -> dict:
    """Values that hold nothing but this one."""
    for key in reversed(path.split(".")):
        value = {key: value}
    return value


def texts(values: dict, name: str = RELEASE, version: str = "1.37") -> dict[str, str]:
    """What every template made for a version of Kubernetes, by its path within the chart."""
    # `Chart.render` does not hand the version on, though the library below it takes one: hence by its own function. It is pinned.
    options = {"name": name, "namespace": NAMESPACE, "kube_version": f"v{version}.0"}
    made = json.loads(_native.call_string("helm_render", chart()._raw(), json.dumps(values), json.dumps(options)))
    return {path.split("/", 1)[1]: text for path, text in sorted(made.items())}


def render(values: dict, name: str = RELEASE, version: str = "1.37") -> list[dict]:
    """The objects that are made."""
    return [
        each
        for path, text in texts(values, name, version).items()
        if not path.endswith("NOTES.txt")
        for each in parse(text)
    ]


def notes(values: dict) -> str:
    return texts(values)["templates/NOTES.txt"]


def of_kind(objects: list[dict], kind: str, name: str | None = None) -> dict:
    found = [each for each in objects if each["kind"] == kind and name in (None, each["metadata"]["name"])]
    assert len(found) == 1, f"{len(found)} of {kind} {name or ''}: {[each['metadata']['name'] for each in objects]}"
    return found[0]


def ci_values() -> dict[str, dict]:
    """The values files of `ci/`, by name."""
    files = sorted((CHART / "ci").glob("*-values.yaml"))
    return {path.name.removesuffix("-values.yaml"): parse(path.read_text())[0] for path in files}


def pods(objects: list[dict]) -> list[tuple[str, dict]]:
    """The pods' specs among the objects, each with who it is of."""
    found = []
    for each in objects:
        if each["kind"] == "Pod":
            found.append((f"Pod {each['metadata']['name']}", each["spec"]))
        elif each["kind"] in ("DaemonSet", "Deployment", "StatefulSet"):
            found.append((f"{each['kind']} {each['metadata']['name']}", each["spec"]["template"]["spec"]))
    return found


def sidecar(objects: list[dict]) -> dict:
    """The container of the sidecar, wherever it runs."""
    for _, pod in pods(objects):
        for container in pod.get("initContainers", []) + pod["containers"]:
            if container["name"] == "grapevine":
                return container
    raise AssertionError("no sidecar was rendered")


def environment(container: dict, fields: dict[str, str]) -> dict[str, str]:
    """The container's variables as the kubelet would make them: fields of the pod, and $(NAME) of those before."""
    made = {}
    for each in container.get("env", []):
        source = each.get("valueFrom", {})
        if "fieldRef" in source:
            made[each["name"]] = fields[source["fieldRef"]["fieldPath"]]
        elif "secretKeyRef" in source:
            made[each["name"]] = fields["secret"]
        else:
            value = each.get("value", "")
            made[each["name"]] = re.sub(r"\$\(([A-Za-z_][A-Za-z0-9_]*)\)", lambda m: made.get(m[1], m[0]), value)
    return made


def leaves(values, prefix="") -> list[str]:
    """The paths of all values that are no mappings with something in them."""
    found = []
    for key, value in values.items():
        path = f"{prefix}{key}"
        found += leaves(value, f"{path}.") if isinstance(value, dict) and value else [path]
    return found


def default_values() -> dict:
    return parse((CHART / "values.yaml").read_text())[0]


def schema() -> dict:
    return json.loads((CHART / "values.schema.json").read_text())


def with_table(readme: str) -> str:
    """The README with its table as the generator makes it from the comments of values.yaml, which it checks for completeness."""
    with tempfile.TemporaryDirectory() as directory:
        path = pathlib.Path(directory) / "README.md"
        path.write_text(readme)
        command = [
            shutil.which("readme-generator") or "readme-generator",
            "-v",
            str(CHART / "values.yaml"),
            "-r",
            str(path),
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stdout + done.stderr
        return path.read_text()


def golden(values: dict) -> str:
    """What is compared with the file in `golden/`. Alerts and dashboards stand for themselves in the chart's files, and are left
    out."""
    alerts = parse((CHART / "files/alerts.yaml").read_text())[0]
    parts = []
    for path, text in texts(values).items():
        if path.endswith("NOTES.txt"):
            parts.append(f"# {path}\n" + "".join(f"# {line}".rstrip() + "\n" for line in text.strip().splitlines()))
            continue
        for each in parse(text):
            if each["kind"] == "PrometheusRule" and each["spec"] == alerts:
                each["spec"] = "files/alerts.yaml"
            for key, value in each.get("data", {}).items():
                file = CHART / "files/dashboards" / key
                if file.exists() and value.strip() == file.read_text().strip():
                    each["data"][key] = f"files/dashboards/{key}"
            parts.append(f"# {path}\n" + yaml.safe_dump(each, sort_keys=False, width=1000))
    return "---\n".join(parts)
