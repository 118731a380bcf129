"""What the chart renders, given to the real program: its file and environment are taken, and with them it runs, is ready, and
drains."""

import os
import pathlib
import subprocess
import urllib.request

import grpc
import pytest
import tomllib
from grpc_health.v1 import health_pb2, health_pb2_grpc

import chart
import pykit
from pykit import NotYet, eventually, free_ports, outside

CI = chart.ci_values()
RENDERED = [name for name in CI if name != "disabled"]
FIELDS = {
    "metadata.name": "pod-a",
    "status.podIP": "10.0.0.1",
    "spec.nodeName": "node-a",
    "status.hostIP": "192.0.2.1",
    "secret": "memcached://cache:11211 redis://user:password@redis:6379/0",
}
FIELDS_IPV6 = FIELDS | {"status.podIP": "2001:db8::1", "status.hostIP": "2001:db8::2"}
WITHIN_S = 30


def prepared(values: dict, directory: pathlib.Path, fields: dict[str, str]) -> tuple[list[str], dict[str, str]]:
    """The sidecar's command and environment, with the pod's paths below `directory`."""
    objects = chart.render(values)
    container = chart.sidecar(objects)
    environment = chart.environment(container, fields)
    maps = [each for each in objects if each["kind"] == "ConfigMap" and "grapevine.toml" in each["data"]]
    file = directory / "grapevine.toml"
    if maps:
        file.write_text(maps[0]["data"]["grapevine.toml"])
    else:
        file.write_text("")
    assert environment["GRAPEVINE_CONFIG"] == "/etc/grapevine/grapevine.toml"
    environment["GRAPEVINE_CONFIG"] = str(file)
    environment["GRAPEVINE_STORE_PATH"] = str(directory / "data")
    for name in ("GRAPEVINE_APP_UNIX", "GRAPEVINE_ENDPOINT"):
        environment[name] = environment[name].replace("/run/grapevine/", f"{directory}/")
    return [chart.BIN, *container["args"]], environment


@pytest.mark.parametrize("name", RENDERED)
def test_the_sidecar_takes_the_configuration(name, tmp_path):
    values = chart.chart().merge_values(CI[name])
    fields = FIELDS if values["ipFamily"] == "IPv4" else FIELDS_IPV6
    command, environment = prepared(CI[name], tmp_path, fields)
    done = subprocess.run(
        [*command, "--check-config"], env=outside() | environment, capture_output=True, text=True, timeout=20
    )
    assert done.returncode == 0, done.stderr
    used = tomllib.loads(done.stdout)
    in_pod = values["mode"] == "in-pod"
    assert used["node"]["id"] == ("pod-a" if in_pod else "node-a")
    assert used["cluster"]["expected_members"] == values["cluster"]["expectedMembers"]
    assert used["cluster"]["name"] == (values["cluster"]["name"] or values["fullnameOverride"] or chart.RELEASE)
    assert used["drain"]["timeout"] == f"{values['drain']['timeoutSeconds']}s"
    assert used["gossip"]["advertise"].endswith(f":{values['ports']['gossip']}")
    assert used["health"]["listen"].endswith(f":{values['ports']['health']}")
    assert used["app"]["unix_mode"] == values["app"]["socket"]["mode"]
    assert bool(used["metrics"]["listen"]) == values["metrics"]["enabled"]
    # What stands in the values is what is used: knobs as they are, and as many policies.
    if not values["existingConfigMap"]:
        for section, keys in values["config"].items():
            for key, value in keys.items():
                assert used[section][key] == value, f"{section}.{key}"
        assert [policy["pattern"] for policy in used.get("policy", [])] == [
            policy["pattern"] for policy in values["policies"]
        ]
        for policy, wanted in zip(used.get("policy", []), values["policies"], strict=True):
            assert policy["strategy"] == wanted.get("strategy", values["policyDefault"].get("strategy", "versioned"))
    caches = used["cache"]["url"]
    assert len(caches) == (2 if values["cache"]["existingSecret"]["name"] else len(values["cache"]["urls"]))
    assert "password" not in done.stdout


def test_ipv6_is_bracketed(tmp_path):
    command, environment = prepared(CI["ipv6"], tmp_path, FIELDS_IPV6)
    done = subprocess.run(
        [*command, "--check-config"], env=outside() | environment, capture_output=True, text=True, timeout=20
    )
    assert done.returncode == 0, done.stderr
    used = tomllib.loads(done.stdout)
    assert used["gossip"]["advertise"] == "[2001:db8::1]:7502"
    assert used["peer"]["advertise"] == "[2001:db8::1]:7501"
    assert used["app"]["tcp"] == "[::]:7500"


class Running(pykit.Process):
    """A sidecar that runs with what the chart renders, and the commands of its pod."""

    def __init__(self, expose: str, directory: pathlib.Path):
        names = ("app", "peer", "gossip", "health", "metrics")
        self.ports = dict(zip(names, free_ports(len(names)), strict=True))
        values = {
            "cluster": {"expectedMembers": 1},
            "ports": self.ports,
            "drain": {"timeoutSeconds": 5},
            "test": {"timeoutSeconds": 20},
        }
        if expose == "loopback":
            values["mode"] = "in-pod"
        else:
            expose, _, mode = expose.partition(" ")
            values["app"] = {"expose": expose, "socket": {"mode": mode}}
        self.values = values
        self.objects = chart.render(values)
        self.container = chart.sidecar(self.objects)
        command, environment = prepared(values, directory, FIELDS | {"status.podIP": "127.0.0.1"})
        # On a machine that others share, not on all of its addresses; the seeds' name is known in a cluster only.
        for name, value in environment.items():
            environment[name] = value.replace("0.0.0.0:", "127.0.0.1:")
        environment["GRAPEVINE_GOSSIP_SEEDS"] = environment["GRAPEVINE_GOSSIP_ADVERTISE"]
        super().__init__("the sidecar", command, directory / "log", environment, umask=0o022)

    def probe(self, kind: str) -> bool | NotYet:
        """As the kubelet asks."""
        self.lives()
        asked = self.container[f"{kind}Probe"]["grpc"]
        with grpc.insecure_channel(f"127.0.0.1:{asked['port']}") as channel:
            try:
                request = health_pb2.HealthCheckRequest(service=asked.get("service", ""))
                answer = health_pb2_grpc.HealthStub(channel).Check(
                    request, timeout=self.container[f"{kind}Probe"]["timeoutSeconds"]
                )
            except grpc.RpcError as error:
                return NotYet(error)
        return answer.status == health_pb2.HealthCheckResponse.SERVING

    def run(self, arguments: list[str], more: dict[str, str] | None = None) -> subprocess.CompletedProcess:
        """A command of the image, in the container unless `more` says otherwise."""
        environment = self.environment | (more or {})
        return subprocess.run(
            [chart.BIN, *arguments], env=environment, capture_output=True, text=True, timeout=WITHIN_S
        )


@pytest.fixture(params=["service", "socket", "socket 0660", "loopback"])
def running(request, tmp_path):
    sidecar = Running(request.param, tmp_path)
    try:
        yield sidecar
    except BaseException:
        print(sidecar.log.read_text(errors="replace"))
        raise
    finally:
        sidecar.kill()


def test_it_runs_is_ready_and_drains(running):
    for kind in ("startup", "readiness", "liveness"):
        eventually(lambda kind=kind: running.probe(kind), what=f"the {kind} probe")

    if path := running.environment["GRAPEVINE_APP_UNIX"]:
        # To connect takes the right to write: as values.yaml says, nobody but the owner may, and root, unless a mode is given.
        mode = running.values["app"]["socket"]["mode"]
        assert os.stat(path).st_mode & 0o022 == (int(mode, 8) & 0o022 if mode else 0)

    with urllib.request.urlopen(f"http://127.0.0.1:{running.ports['metrics']}/metrics", timeout=5) as answer:
        assert answer.status == 200
        assert b"# TYPE" in answer.read()

    # `helm test`, where the sidecar that it asks is this one; in a pod it brings one along, and expects one more.
    pod = chart.of_kind(running.objects, "Pod")["spec"]
    arguments = list(pod["containers"][0]["args"])
    if "initContainers" in pod:
        assert arguments[2] == "2"
        arguments[2] = "1"
    done = running.run(arguments)
    assert done.returncode == 0, done.stderr
    assert FIELDS["metadata.name" if "initContainers" in pod else "spec.nodeName"] in done.stdout

    assert running.run(["invalidate", "--receipt", "all", "hello"]).returncode == 0

    if "lifecycle" in running.container:
        program, *arguments = running.container["lifecycle"]["preStop"]["exec"]["command"]
        assert program == "/grapevine"
        assert running.run(arguments).returncode == 0
    # The signal that follows every hook, or comes alone: it cuts nothing short.
    running.terminate()
    assert running.process.wait(timeout=WITHIN_S) == 0, running.log.read_text()


def test_a_name_that_is_too_long_ends_it_with_a_message(tmp_path):
    command, environment = prepared(chart.LEAST, tmp_path, FIELDS | {"spec.nodeName": "n" * 65})
    done = subprocess.run(
        [*command, "--check-config"], env=outside() | environment, capture_output=True, text=True, timeout=20
    )
    assert done.returncode == 2
    assert "node.id" in done.stderr
    assert "64" in done.stderr
