"""Every file of `ci/`: linted, rendered, held against its golden render and the schemas of Kubernetes."""

import re

import helm_python
import jsonschema
import kubernetes_validate
import pytest
import yaml

import chart

VERSIONS = [f"1.{minor}" for minor in range(29, 38)]
CI = chart.ci_values()

# Kinds of the Prometheus operator, whose schemas kubernetes-validate has not: what the chart uses of them, and nothing else.
# From their reference, monitoring.coreos.com/v1.
_text = {"type": "string"}
_labels = {"type": "object", "additionalProperties": _text}


def closed(required: list[str], **properties) -> dict:
    return {"type": "object", "required": required, "additionalProperties": False, "properties": properties}


_relabel = closed(
    [],
    sourceLabels={"type": "array", "items": _text},
    separator=_text,
    targetLabel=_text,
    regex=_text,
    modulus={"type": "integer"},
    replacement=_text,
    action=_text,
)
_metadata = closed(["name", "namespace"], name=_text, namespace=_text, labels=_labels, annotations=_labels)
_rule = closed(
    ["expr"],
    alert=_text,
    record=_text,
    expr=_text,
    keep_firing_for=_text,
    labels=_labels,
    annotations=_labels,
    **{"for": _text},
)
OPERATOR = {
    "ServiceMonitor": closed(
        ["selector", "endpoints"],
        namespaceSelector=closed([], matchNames={"type": "array", "items": _text}),
        selector=closed(["matchLabels"], matchLabels=_labels),
        endpoints={
            "type": "array",
            "items": closed(
                ["port"],
                port=_text,
                path=_text,
                interval=_text,
                scrapeTimeout=_text,
                relabelings={"type": "array", "items": _relabel},
                metricRelabelings={"type": "array", "items": _relabel},
            ),
        },
    ),
    "PrometheusRule": closed(
        ["groups"],
        groups={
            "type": "array",
            "minItems": 1,
            "items": closed(
                ["name", "rules"],
                name=_text,
                interval=_text,
                limit={"type": "integer"},
                labels=_labels,
                rules={"type": "array", "minItems": 1, "items": _rule},
            ),
        },
    ),
}


def valid(document: dict, version: str) -> None:
    if document["kind"] not in OPERATOR:
        kubernetes_validate.validate(document, version, strict=True)
        return
    assert document["apiVersion"] == "monitoring.coreos.com/v1"
    jsonschema.validate(document["metadata"], _metadata)
    jsonschema.validate(document["spec"], OPERATOR[document["kind"]])


def test_there_are_a_dozen_values_files():
    assert len(CI) >= 12


@pytest.mark.parametrize("name", CI)
def test_lint_has_nothing_to_say(name):
    report = helm_python.lint(chart.CHART, CI[name], strict=True, with_subcharts=True)
    # An icon is for catalogues; there is none.
    messages = [each for each in report["messages"] if "icon is recommended" not in each["error"]]
    assert messages == []
    assert not report["errors"]


@pytest.mark.parametrize("name", CI)
def test_the_render_is_the_golden_one(name):
    path = chart.GOLDEN / f"{name}.yaml"
    assert path.read_text() == chart.golden(CI[name]), (
        "if this is meant: integration-tests/helm/run.sh --renew, and look at the diff"
    )


def test_there_is_no_golden_render_of_nothing():
    assert {path.stem for path in chart.GOLDEN.glob("*.yaml")} == set(CI)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", CI)
def test_kubernetes_takes_every_object(name, version):
    if name == "sleep" and version == "1.29":
        with pytest.raises(
            helm_python.HelmError,
            match=r"drain\.preStop is sleep, which Kubernetes knows from 1\.30 on; this cluster has v1\.29\.0",
        ):
            chart.render(CI[name], version=version)
        return
    for document in chart.render(CI[name], version=version):
        valid(document, version)


@pytest.mark.parametrize("version", VERSIONS)
def test_each_version_s_schemas_are_there_and_strict(version):
    # What is older than asked for would be taken in its place, in silence.
    wrong = chart.of_kind(chart.render(CI["daemonset"]), "DaemonSet")
    assert kubernetes_validate.validate(wrong, version, strict=True) == version
    chart.sidecar([wrong])["livenessprobe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        valid(wrong, version)


@pytest.mark.parametrize("name", CI)
def test_all_objects_are_told_apart_and_labelled(name):
    seen = set()
    for each in chart.render(CI[name]):
        metadata = each["metadata"]
        identity = (each["kind"], metadata["namespace"], metadata["name"])
        assert identity not in seen
        assert re.fullmatch(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?", metadata["name"]), metadata["name"]
        seen.add(identity)
        assert metadata["labels"]["app.kubernetes.io/instance"] == chart.RELEASE
        assert metadata["labels"]["helm.sh/chart"] == f"grapevine-{chart.chart().version}"
        for key, value in metadata["labels"].items():
            assert re.fullmatch(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?", value), (key, value)


def test_the_longest_release_name_makes_no_name_that_is_too_long():
    objects = chart.render(chart.merged(CI["monitoring"], {}), name="r" * 53)
    assert objects
    for each in objects:
        assert len(each["metadata"]["name"]) <= 63, each["metadata"]["name"]
        for value in each["metadata"]["labels"].values():
            assert len(value) <= 63
    name = chart.environment(chart.sidecar(objects), FIELDS)["GRAPEVINE_CLUSTER_NAME"]
    assert 0 < len(name) <= 64


def test_a_release_that_is_called_as_a_number_is_labelled_as_a_text():
    for document in chart.render(chart.merged(CI["monitoring"], {"fullnameOverride": "caches"}), name="123"):
        valid(document, "1.37")
        assert document["metadata"]["labels"]["app.kubernetes.io/instance"] == "123"
    with pytest.raises(helm_python.HelmError, match="the full name, 123-grapevine, does not begin with a letter"):
        chart.render(CI["daemonset"], name="123")


def test_labels_that_select_win_over_common_ones():
    ours = {"app.kubernetes.io/name": "x", "app.kubernetes.io/component": "x", "grapevine/cluster": "x"}
    objects = chart.render(chart.merged(chart.LEAST, {"commonLabels": ours, "podLabels": ours}))
    template = chart.of_kind(objects, "DaemonSet")["spec"]["template"]["metadata"]
    for name in ("grapevine", "grapevine-gossip", "grapevine-metrics"):
        assert chart.of_kind(objects, "Service", name)["spec"]["selector"].items() <= template["labels"].items()
    assert (
        chart.of_kind(objects, "Service", "grapevine-metrics")["metadata"]["labels"]["app.kubernetes.io/component"]
        == "metrics"
    )


FIELDS = {
    "metadata.name": "pod-a",
    "status.podIP": "10.0.0.1",
    "spec.nodeName": "node-a",
    "status.hostIP": "192.0.2.1",
    "secret": "",
}


def test_the_gossip_service_finds_who_is_not_ready_and_is_not_the_applications():
    objects = chart.render(CI["daemonset"])
    gossip = chart.of_kind(objects, "Service", "grapevine-gossip")["spec"]
    app = chart.of_kind(objects, "Service", "grapevine")["spec"]
    template = chart.of_kind(objects, "DaemonSet")["spec"]["template"]["metadata"]
    assert gossip["clusterIP"] == "None"
    assert gossip["publishNotReadyAddresses"] is True
    assert gossip["selector"].items() <= template["labels"].items()
    assert app["internalTrafficPolicy"] == "Local"
    assert "publishNotReadyAddresses" not in app
    assert app["selector"].items() <= template["labels"].items()
    assert [port["port"] for port in app["ports"]] == [7400]
    assert {port["port"]: port["protocol"] for port in gossip["ports"]} == {7401: "TCP", 7402: "UDP"}
    seeds = chart.environment(chart.sidecar(objects), FIELDS)["GRAPEVINE_GOSSIP_SEEDS"]
    assert seeds == f"grapevine-gossip.{chart.NAMESPACE}.svc.cluster.local:7402"


@pytest.mark.parametrize("name", [name for name in CI if name != "disabled"])
def test_what_services_and_probes_lead_to_is_listened_on(name):
    objects = chart.render(CI[name])
    container = chart.sidecar(objects)
    environment = chart.environment(container, FIELDS)
    declared = {(port["containerPort"], port["protocol"]) for port in container["ports"]}
    listened = set()
    for knob, protocol in (
        ("APP_TCP", "TCP"),
        ("PEER_LISTEN", "TCP"),
        ("GOSSIP_LISTEN", "UDP"),
        ("HEALTH_LISTEN", "TCP"),
        ("METRICS_LISTEN", "TCP"),
    ):
        address = environment[f"GRAPEVINE_{knob}"]
        if address:
            listened.add((int(address.rsplit(":", 1)[1]), protocol))
    assert declared == listened
    for each in objects:
        if each["kind"] == "Service":
            for port in each["spec"]["ports"]:
                assert (port["targetPort"], port["protocol"]) in listened
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        if probe in container:
            assert (container[probe]["grpc"]["port"], "TCP") in listened


@pytest.mark.parametrize("name", [name for name in CI if name != "disabled"])
def test_every_mount_has_its_volume(name):
    for who, pod in chart.pods(chart.render(CI[name])):
        volumes = [volume["name"] for volume in pod.get("volumes", [])]
        assert len(volumes) == len(set(volumes))
        for container in pod.get("initContainers", []) + pod["containers"]:
            for mount in container.get("volumeMounts", []):
                assert mount["name"] in volumes, f"{who}: {mount['name']}"


def test_a_network_policy_lets_peers_callers_and_prometheus_in_and_nobody_else():
    policy = chart.of_kind(
        chart.render(chart.merged(chart.LEAST, {"networkPolicy": {"enabled": True}})), "NetworkPolicy"
    )["spec"]
    cluster = {"podSelector": {"matchLabels": {"grapevine/cluster": "grapevine"}}}
    test = {
        "podSelector": {
            "matchLabels": {"app.kubernetes.io/instance": "grapevine", "app.kubernetes.io/component": "test"}
        }
    }
    assert policy["podSelector"] == cluster["podSelector"]
    assert policy["policyTypes"] == ["Ingress"]
    callers = {(port["port"], port["protocol"]): rule["from"] for rule in policy["ingress"] for port in rule["ports"]}
    assert callers == {
        (7400, "TCP"): [{"podSelector": {}}, test],
        (7401, "TCP"): [cluster, test],
        (7402, "UDP"): [cluster, test],
        (7404, "TCP"): [{"namespaceSelector": {}}],
    }
    # Whom the rules name is there, with those labels.
    pod = chart.of_kind(chart.render(CI["network-policy"]), "Pod")
    assert test["podSelector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
    restricted = chart.of_kind(chart.render(CI["network-policy"]), "NetworkPolicy")["spec"]
    assert {port["port"] for rule in restricted["egress"] for port in rule["ports"]} == {53, 7401, 7402, 11211}


def test_a_disruption_budget_is_of_the_sidecars_pods_and_one_that_the_controller_can_count():
    objects = chart.render(CI["placement"])
    budget = chart.of_kind(objects, "PodDisruptionBudget")["spec"]
    template = chart.of_kind(objects, "DaemonSet")["spec"]["template"]["metadata"]
    assert budget["selector"]["matchLabels"].items() <= template["labels"].items()
    # For pods of a DaemonSet it takes a number of those that stay, and nothing else.
    assert budget["minAvailable"] == 11
    assert "maxUnavailable" not in budget


def test_a_service_monitor_selects_the_metrics_service_alone():
    objects = chart.render(CI["monitoring"])
    monitor = chart.of_kind(objects, "ServiceMonitor")["spec"]
    wanted = monitor["selector"]["matchLabels"]
    selected = [
        each for each in objects if each["kind"] == "Service" and wanted.items() <= each["metadata"]["labels"].items()
    ]
    assert [each["metadata"]["name"] for each in selected] == ["grapevine-metrics"]
    assert monitor["endpoints"][0]["port"] in [port["name"] for port in selected[0]["spec"]["ports"]]
    assert monitor["namespaceSelector"]["matchNames"] == [chart.NAMESPACE]


def test_alerts_and_dashboards_are_the_files_of_the_chart():
    objects = chart.render(CI["monitoring"])
    alerts = chart.parse((chart.CHART / "files/alerts.yaml").read_text())[0]
    assert chart.of_kind(objects, "PrometheusRule")["spec"] == alerts
    files = sorted((chart.CHART / "files/dashboards").glob("*.json"))
    assert files
    for file in files:
        made = chart.of_kind(objects, "ConfigMap", f"grapevine-{file.stem}")
        assert yaml.safe_load(made["data"][file.name]) == yaml.safe_load(file.read_text())
        assert made["metadata"]["labels"]["grafana_dashboard"] == "1"


def test_the_checksum_follows_the_configuration_and_nothing_else():
    def checksum(more):
        template = chart.of_kind(chart.render(chart.merged(chart.LEAST, more)), "DaemonSet")["spec"]["template"]
        return template["metadata"]["annotations"]["checksum/grapevine-config"]

    plain = checksum({})
    for more in (
        {"config": {"log": {"filter": "debug"}}},
        {"policies": [{"pattern": "a/**"}]},
        {"policyDefault": {"ttl": "1m"}},
        {"cache": {"urls": ["redis://a:6379"]}},
    ):
        assert checksum(more) != plain, more
    for more in ({"podLabels": {"a": "b"}}, {"metrics": {"dashboards": {"enabled": True}}}, {"ports": {"app": 7500}}):
        assert checksum(more) == plain, more


def test_pods_have_the_time_that_the_drain_takes():
    for more, seconds in (
        ({}, 25),
        ({"drain": {"timeoutSeconds": 40}}, 55),
        ({"drain": {"marginSeconds": 5}}, 15),
        ({"drain": {"preStop": "sleep", "sleepSeconds": 7}}, 32),
    ):
        pod = chart.of_kind(chart.render(chart.merged(chart.LEAST, more)), "DaemonSet")["spec"]["template"]["spec"]
        assert pod["terminationGracePeriodSeconds"] == seconds
        drain = int(chart.environment(pod["containers"][0], FIELDS)["GRAPEVINE_DRAIN_TIMEOUT"].removesuffix("s"))
        assert drain + 5 <= seconds


def test_notes_tell_the_next_step():
    daemonset = chart.notes(CI["daemonset"])
    assert "ATTENTION" in daemonset
    assert "rollout status daemonset/grapevine" in daemonset
    assert "helm --namespace caches test grapevine" in daemonset
    assert 'value: "http://grapevine.caches.svc.cluster.local:7400"' in daemonset
    assert "emptyDir" in daemonset
    assert "ATTENTION" not in chart.notes(CI["private-registry"])
    assert "emptyDir" not in chart.notes(CI["host-path"])
    assert 'value: "http://$(HOST_IP):17400"' in chart.notes(CI["host-port"])
    socket = chart.notes(CI["socket"])
    assert 'value: "unix:/run/grapevine/sidecar.sock"' in socket
    assert "path: /run/caches/grapevine" in socket
    assert "runAsUser: 65532" in socket
    opened = chart.notes(chart.merged(CI["socket"], {"app": {"socket": {"mode": "0660"}}}))
    assert "mode is 0660; it belongs to user 65532, group 65532" in opened
    assert "runAsUser" not in opened
    assert "enabled" in chart.notes(CI["disabled"])


def test_what_is_switched_off_renders_nothing():
    assert chart.render(CI["disabled"]) == []


def test_the_package_has_what_it_takes_and_no_more(tmp_path):
    archive = helm_python.package(chart.CHART, destination=tmp_path)
    with helm_python.Chart.load(archive) as packed:
        metadata = packed.metadata
        assert (metadata["name"], metadata["version"], metadata["appVersion"]) == ("grapevine", "0.5.0", "0.5.0")
        names = {each["name"] for each in packed.files}
        assert {"README.md", "UPGRADING.md", "files/alerts.yaml"} <= names
        assert not [name for name in names if name.startswith("ci/")]
        assert packed.schema == chart.schema()
        made = packed.render(CI["monitoring"], name=chart.RELEASE, namespace=chart.NAMESPACE)
    assert made == chart.chart().render(CI["monitoring"], name=chart.RELEASE, namespace=chart.NAMESPACE)


def test_the_readme_s_table_is_that_of_the_values():
    readme = (chart.CHART / "README.md").read_text()
    assert chart.with_table(readme) == readme, "integration-tests/helm/run.sh --renew"
