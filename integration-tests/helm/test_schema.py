"""Wrong values are refused with the name of the field, and the schema knows the sidecar's knobs as the sidecar does."""

import helm_python
import pytest

import chart
import knobs

REFUSALS = chart.parse((chart.HERE / "refusals.yaml").read_text())[0]


@pytest.mark.parametrize("case", REFUSALS, ids=lambda case: ",".join(chart.leaves(case["over"])))
def test_wrong_values_are_refused_with_the_field_s_name(case):
    values = chart.merged(chart.LEAST, case["over"])
    with pytest.raises(helm_python.HelmError) as refused:
        chart.render(values)
    message = str(refused.value)
    for word in case["says"]:
        # The schema's messages write a path with slashes, the templates' with dots.
        assert word in message, message


def test_what_the_refused_are_laid_over_is_taken():
    assert chart.render(chart.LEAST)


def test_the_schema_s_knobs_are_those_of_the_sidecar():
    assert chart.schema()["properties"]["config"] == knobs.config_schema(), "integration-tests/helm/run.sh --renew"


def test_the_knobs_that_the_chart_decides_are_all_there():
    more = {"cache": {"existingSecret": {"name": "caches"}}, "app": {"expose": "socket", "socket": {"mode": "0660"}}}
    container = chart.sidecar(chart.render(chart.merged(chart.LEAST, more)))
    variables = {each["name"] for each in container["env"]}
    known = set(knobs.all_knobs())
    for knob in knobs.OF_THE_CHART:
        assert f"GRAPEVINE_{knob.upper().replace('.', '_')}" in variables, knob
        assert knob in known, f"the sidecar has no knob {knob}"


def test_nothing_is_let_pass_where_all_names_are_known():
    """Every mapping of the schema either names its keys and refuses others, or is of a kind of Kubernetes or of the user's
    names."""
    free = {
        "global",
        "commonLabels",
        "commonAnnotations",
        "resources",
        "securityContext",
        "podSecurityContext",
        "podLabels",
        "podAnnotations",
        "nodeSelector",
        "affinity",
        "app.service.annotations",
        "app.service.labels",
        "serviceAccount.annotations",
        "metrics.service.annotations",
        "metrics.serviceMonitor.labels",
        "metrics.prometheusRule.labels",
        "metrics.dashboards.labels",
        "metrics.dashboards.annotations",
    }
    found = set()

    def walk(part, path):
        if part.get("additionalProperties") is False:
            for key, below in part["properties"].items():
                walk(below, f"{path}.{key}" if path else key)
        elif part.get("type") == "object" or part.get("$ref", "").endswith("labels"):
            found.add(path)

    walk(chart.schema(), "")
    assert found == free


def test_the_schema_declares_what_a_parent_gives():
    properties = chart.schema()["properties"]
    assert "global" in properties
    assert properties["enabled"] == {"type": "boolean"}
    assert chart.render(chart.merged(chart.LEAST, {"global": {"storageClass": "of-another-chart"}}))
