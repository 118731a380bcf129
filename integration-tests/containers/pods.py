"""Pods as the chart renders them, and what of them a container gets.

What is not understood is refused, so nothing of a template is left out in silence: a new field fails the test until it is carried
out here or named as what concerns the scheduler and the API server alone.
"""

import dataclasses
import ipaddress
import pathlib
import re
import shutil
import tempfile

import helm_python

import chart

# Of a pod: what places, admits or names it, and not what runs.
NOT_OF_THE_NODE = {
    "affinity",
    "automountServiceAccountToken",
    "enableServiceLinks",
    "imagePullSecrets",
    "nodeSelector",
    "priorityClassName",
    "serviceAccountName",
    "tolerations",
    "topologySpreadConstraints",
}
CARRIED_OUT = {
    "containers",
    "initContainers",
    "restartPolicy",
    "securityContext",
    "terminationGracePeriodSeconds",
    "volumes",
}
OF_A_CONTAINER = {
    "args",
    "command",
    "env",
    "image",
    "imagePullPolicy",
    "lifecycle",
    "livenessProbe",
    "name",
    "ports",
    "readinessProbe",
    "resources",
    "restartPolicy",
    "securityContext",
    "startupProbe",
    "volumeMounts",
}
OF_A_PROBE = {"grpc", "periodSeconds", "timeoutSeconds", "failureThreshold"}
PROBES = ("startup", "liveness", "readiness")
SIZES = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30}


def understood(what: str, found, known) -> None:
    unknown = set(found) - set(known)
    assert not unknown, f"{what} has fields that are not carried out here: {sorted(unknown)}"


@dataclasses.dataclass
class Container:
    """What a runtime is told."""

    image: str
    command: list[str]
    args: list[str]
    env: dict[str, str]
    user: str
    read_only: bool
    memory_bytes: int | None
    # Source on this machine, place in the container, read only.
    mounts: list[tuple[pathlib.Path, str, bool]]


@dataclasses.dataclass
class Pod:
    """A pod that has been given its node, name and address."""

    name: str
    node: str
    ip: str
    # Names of Services that lead to it.
    names: list[str]
    container: Container
    probes: dict[str, dict]
    pre_stop: list[str] | None
    grace_s: int


class Rendered:
    """What a release of the chart makes, and pods from its template."""

    def __init__(self, objects: list[dict], directory: pathlib.Path):
        self.objects = objects
        self.directory = directory
        ((_, self.spec),) = [each for each in chart.pods(objects) if not each[0].startswith("Pod ")]
        (self.owner,) = [each for each in objects if each["kind"] in ("DaemonSet", "Deployment")]
        self.labels = self.owner["spec"]["template"]["metadata"]["labels"]
        self.container = chart.sidecar(objects)

    def names(self, labels: dict[str, str]) -> list[str]:
        """What resolves to the addresses of pods with these labels."""
        services = [each for each in self.objects if each["kind"] == "Service"]
        return [
            f"{each['metadata']['name']}.{each['metadata'].get('namespace', chart.NAMESPACE)}.svc.cluster.local"
            for each in services
            if each["spec"]["selector"].items() <= labels.items()
        ]

    def pod(self, name: str, node: str, ip: ipaddress.IPv4Address) -> Pod:
        return self.make(self.spec, self.container, self.labels, name, node, str(ip))

    def test_pod(self, name: str, ip: ipaddress.IPv4Address) -> Pod:
        """The one of `helm test`, which asks the Service."""
        object_ = chart.of_kind(self.objects, "Pod")
        (container,) = object_["spec"]["containers"]
        return self.make(object_["spec"], container, object_["metadata"]["labels"], name, "node-t", str(ip))

    def make(self, spec: dict, container: dict, labels: dict, name: str, node: str, ip: str) -> Pod:
        understood("the pod", spec, CARRIED_OUT | NOT_OF_THE_NODE)
        understood(container["name"], container, OF_A_CONTAINER)
        context = {**spec.get("securityContext", {}), **container["securityContext"]}
        probes = {kind: container[f"{kind}Probe"] for kind in PROBES if f"{kind}Probe" in container}
        for kind, probe in probes.items():
            understood(kind, probe, OF_A_PROBE)
        pre_stop = container.get("lifecycle", {}).get("preStop")
        assert pre_stop is None or list(pre_stop) == ["exec"], pre_stop
        fields = {"metadata.name": name, "status.podIP": ip, "spec.nodeName": node, "status.hostIP": "192.0.2.1"}
        memory = container.get("resources", {}).get("limits", {}).get("memory")
        return Pod(
            name=name,
            node=node,
            ip=ip,
            names=self.names(labels),
            container=Container(
                image=container["image"],
                command=container.get("command", []),
                args=container["args"],
                env=chart.environment(container, fields),
                user=self.user(context),
                read_only=context["readOnlyRootFilesystem"],
                memory_bytes=int(memory[:-2]) * SIZES[memory[-2:]] if memory else None,
                mounts=[self.mount(spec, each, name, node, context) for each in container.get("volumeMounts", [])],
            ),
            probes=probes,
            pre_stop=pre_stop["exec"]["command"] if pre_stop else None,
            grace_s=spec["terminationGracePeriodSeconds"],
        )

    @staticmethod
    def user(context: dict) -> str:
        """The one of the context, which has to be of the restricted profile: this is what every container here is started with."""
        understood(
            "the security context",
            context,
            {
                "allowPrivilegeEscalation",
                "capabilities",
                "fsGroup",
                "fsGroupChangePolicy",
                "readOnlyRootFilesystem",
                "runAsGroup",
                "runAsNonRoot",
                "runAsUser",
                "seccompProfile",
            },
        )
        assert context["allowPrivilegeEscalation"] is False
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}
        assert context["runAsNonRoot"]
        assert context["runAsUser"] != 0
        return f"{context['runAsUser']}:{context['runAsGroup']}"

    def mount(self, spec: dict, mount: dict, name: str, node: str, context: dict) -> tuple[pathlib.Path, str, bool]:
        understood("the mount", mount, {"mountPath", "name", "readOnly"})
        (volume,) = [each for each in spec["volumes"] if each["name"] == mount["name"]]
        ((kind, source),) = [(kind, source) for kind, source in volume.items() if kind != "name"]
        if kind == "configMap":
            path = self.directory / "pods" / name / volume["name"]
            data = chart.of_kind(self.objects, "ConfigMap", source["name"])["data"]
            path.mkdir(parents=True, exist_ok=True)
            for item in source["items"]:
                (path / item["path"]).write_text(data[item["key"]])
        elif kind == "emptyDir":
            # As the kubelet makes it: everybody's, and with `fsGroup` that group's. It lives as long as the pod.
            path = self.directory / "pods" / name / volume["name"]
            path.mkdir(parents=True, exist_ok=True)
            if (group := context.get("fsGroup")) is not None:
                shutil.chown(path, group=group)
            path.chmod(0o2777 if group is not None else 0o777)
        elif kind == "hostPath":
            # As values.yaml says: made on every node by who runs it, as the sidecar's user's.
            path = self.directory / "nodes" / node / source["path"].lstrip("/")
            if not path.exists():
                path.mkdir(parents=True)
                shutil.chown(path, context["runAsUser"], context["runAsGroup"])
        else:
            raise AssertionError(f"a volume of {kind} is not carried out here")
        return path, mount["mountPath"], mount.get("readOnly", False)

    def removed(self, pod: Pod) -> None:
        """A pod that was deleted takes its emptyDir along."""
        shutil.rmtree(self.directory / "pods" / pod.name)


def daemonset(directory: pathlib.Path) -> Rendered:
    """A sidecar for each node, whose data outlives its pods."""
    return Rendered(chart.render({"cluster": {"expectedMembers": 3}, "storage": {"type": "hostPath"}}), directory)


def in_pod(directory: pathlib.Path) -> Rendered:
    """A native sidecar in the pods of a chart that depends on this one, whose data goes with its pod."""
    with tempfile.TemporaryDirectory() as made:
        consumer = pathlib.Path(made) / "shop"
        shutil.copytree(chart.HERE / "consumer", consumer)
        shutil.copytree(chart.CHART, consumer / "charts" / "grapevine")
        with helm_python.Chart.load(consumer) as loaded:
            texts = loaded.render({}, name="shop", namespace=chart.NAMESPACE)
    objects = [each for path, text in texts.items() if not path.endswith("NOTES.txt") for each in chart.parse(text)]
    rendered = Rendered([each for each in objects if each["kind"] != "Pod"], directory)
    assert re.fullmatch(
        r"http://127\.0\.0\.1:\d+", chart.environment(rendered.spec["containers"][0], {})["GRAPEVINE_ENDPOINT"]
    )
    return rendered
