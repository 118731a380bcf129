"""The sidecar in somebody else's pods: by named templates, in a chart that depends on this one, and as a copy of what is
printed."""

import pathlib
import re
import shutil
import textwrap

import helm_python
import kubernetes_validate
import pytest
import yaml

import chart
from test_render import FIELDS, VERSIONS
from test_security import restricted

CONSUMER = chart.HERE / "consumer"


@pytest.fixture(scope="module")
def consumer(tmp_path_factory) -> pathlib.Path:
    """The consumer's chart with its dependency, as `helm dependency update` leaves it."""
    directory = tmp_path_factory.mktemp("consumer") / "shop"
    shutil.copytree(CONSUMER, directory)
    shutil.copytree(chart.CHART, directory / "charts" / "grapevine")
    return directory


def render(directory: pathlib.Path, values: dict) -> list[dict]:
    with helm_python.Chart.load(directory) as loaded:
        made = loaded.render(values, name="shop", namespace=chart.NAMESPACE)
    return [each for path, text in made.items() if not path.endswith("NOTES.txt") for each in chart.parse(text)]


def deployment(objects: list[dict]) -> tuple[dict, dict]:
    template = chart.of_kind(objects, "Deployment")["spec"]["template"]
    return template["metadata"], template["spec"]


def test_the_consumer_is_what_the_readme_shows():
    blocks = re.findall(r"```yaml\n(.*?)```", (chart.CHART / "README.md").read_text(), re.S)
    dependency, shown = blocks
    dependencies = yaml.safe_load(dependency)["dependencies"][0]
    used = yaml.safe_load((CONSUMER / "Chart.yaml").read_text())["dependencies"][0]
    assert {**used, "repository": ""} == {**dependencies, "repository": ""}
    assert used["version"] == chart.chart().version
    lines = iter((CONSUMER / "templates/deployment.yaml").read_text().splitlines())
    for line in shown.splitlines()[1:]:
        assert line in lines, f"not there, or not in this order: {line}"


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    "more", [{}, {"app": {"expose": "socket"}}, {"storage": {"type": "ephemeralClaim"}}, {"enabled": False}], ids=str
)
def test_kubernetes_takes_the_consumer(consumer, more, version):
    objects = render(consumer, {"grapevine": more})
    for each in objects:
        kubernetes_validate.validate(each, version, strict=True)
    assert len(objects) == (1 if more == {"enabled": False} else 5)


def test_the_sidecar_is_native_and_ends_after_the_application(consumer):
    objects = render(consumer, {})
    metadata, pod = deployment(objects)
    (container,) = pod["initContainers"]
    assert container["name"] == "grapevine"
    assert container["restartPolicy"] == "Always"
    # Its hook would run when the pod begins to end, and drain it under the application.
    assert "lifecycle" not in container
    assert pod["terminationGracePeriodSeconds"] == 55
    assert "service" not in container["readinessProbe"]["grpc"]
    environment = chart.environment(container, FIELDS)
    assert environment["GRAPEVINE_NODE_ID"] == "pod-a"
    assert environment["GRAPEVINE_APP_TCP"] == "127.0.0.1:7400"
    application = chart.environment(pod["containers"][0], FIELDS)
    assert application["GRAPEVINE_ENDPOINT"] == "http://127.0.0.1:7400"
    assert application["LISTEN"] == "8080"
    assert metadata["annotations"]["checksum/grapevine-config"]
    assert metadata["annotations"]["example.com/of"] == "shop"


def test_the_consumer_s_pods_are_found_and_spread(consumer):
    objects = render(consumer, {})
    metadata, pod = deployment(objects)
    gossip = chart.of_kind(objects, "Service", "shop-grapevine-gossip")
    assert gossip["spec"]["selector"].items() <= metadata["labels"].items()
    seeds = chart.environment(pod["initContainers"][0], FIELDS)["GRAPEVINE_GOSSIP_SEEDS"]
    assert seeds == f"shop-grapevine-gossip.{chart.NAMESPACE}.svc.cluster.local:7402"
    (constraint,) = pod["topologySpreadConstraints"]
    assert constraint["labelSelector"]["matchLabels"].items() <= metadata["labels"].items()
    config = [volume["configMap"]["name"] for volume in pod["volumes"] if volume["name"] == "grapevine-config"]
    assert [chart.of_kind(objects, "ConfigMap")["metadata"]["name"]] == config


def test_no_name_of_the_sidecar_s_meets_one_of_the_application_s(consumer):
    _, pod = deployment(render(consumer, {}))
    ports = [port["name"] for container in pod["initContainers"] + pod["containers"] for port in container["ports"]]
    volumes = [volume["name"] for volume in pod["volumes"]]
    assert len(ports) == len(set(ports))
    assert len(volumes) == len(set(volumes))


def test_a_socket_is_shared_within_the_pod(consumer):
    _, pod = deployment(render(consumer, {"grapevine": {"app": {"expose": "socket"}}}))
    application = pod["containers"][0]
    assert chart.environment(application, FIELDS)["GRAPEVINE_ENDPOINT"] == "unix:/run/grapevine/app.sock"
    assert application["volumeMounts"] == [{"name": "grapevine-run", "mountPath": "/run/grapevine"}]
    assert {"name": "grapevine-run", "emptyDir": {}} in pod["volumes"]


def test_values_of_the_parent_reach_the_sidecar(consumer):
    values = {
        "global": {"imageRegistry": "mirror.example.com", "imagePullSecrets": ["key"]},
        "grapevine": {"config": {"log": {"filter": "debug"}}},
    }
    objects = render(consumer, values)
    metadata, pod = deployment(objects)
    assert pod["initContainers"][0]["image"] == "mirror.example.com/grapevine/grapevine:0.5.0"
    assert pod["imagePullSecrets"] == [{"name": "key"}]
    assert 'filter = "debug"' in chart.of_kind(objects, "ConfigMap")["data"]["grapevine.toml"]
    before, _ = deployment(render(consumer, {}))
    assert before["annotations"] != metadata["annotations"]


def test_the_wrong_values_of_a_parent_are_refused(consumer):
    with pytest.raises(helm_python.HelmError, match="expectedMembers"):
        render(consumer, {"grapevine": {"cluster": {"expectedMembers": "many"}}})


def test_the_parent_without_the_sidecar_is_whole(consumer):
    objects = render(consumer, {"grapevine": {"enabled": False}})
    metadata, pod = deployment(objects)
    assert "initContainers" not in pod
    assert metadata["labels"] == {"app": "shop"}
    assert [volume["name"] for volume in pod["volumes"]] == ["scratch"]


def test_an_alias_works(consumer, tmp_path):
    directory = tmp_path / "shop"
    shutil.copytree(consumer, directory)
    for path in (directory / "Chart.yaml", directory / "values.yaml", directory / "templates/deployment.yaml"):
        text = path.read_text()
        text = text.replace("condition: grapevine.enabled", "alias: vine\n    condition: vine.enabled")
        path.write_text(text.replace("\ngrapevine:", "\nvine:").replace(".Subcharts.grapevine", ".Subcharts.vine"))
    _, pod = deployment(render(directory, {}))
    assert pod["initContainers"][0]["name"] == "grapevine"


def test_the_consumer_passes_the_restricted_profile(consumer):
    _, pod = deployment(render(consumer, {}))
    assert restricted(pod) == []


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("expose", ["loopback", "socket"])
def test_what_is_printed_can_be_copied(expose, version):
    values = {
        "mode": "in-pod",
        "cluster": {"expectedMembers": 3},
        "app": {"expose": expose},
        "imagePullSecrets": ["key"],
    }
    printed = re.search(r"^metadata:\n.*?(?=^\S(?!pec:))", chart.notes(values) + "\n.", re.S | re.M)[0]
    template = yaml.safe_load(textwrap.dedent(printed))
    template["spec"]["containers"][0]["image"] = "registry.example.com/shop:1"
    template["metadata"]["labels"]["app"] = "shop"
    whole = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "shop"},
        "spec": {"selector": {"matchLabels": {"app": "shop"}}, "template": template},
    }
    kubernetes_validate.validate(whole, version, strict=True)
    objects = chart.render(values)
    assert template["spec"]["initContainers"] == [chart.sidecar(objects)]
    assert (
        chart.of_kind(objects, "Service", "grapevine-gossip")["spec"]["selector"].items()
        <= template["metadata"]["labels"].items()
    )
    mounted = {
        mount["name"]
        for each in template["spec"]["initContainers"] + template["spec"]["containers"]
        for mount in each.get("volumeMounts", [])
    }
    assert mounted <= {volume["name"] for volume in template["spec"]["volumes"]}
