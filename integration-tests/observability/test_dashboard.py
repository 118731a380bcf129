"""The dashboard as Grafana would read it; what its queries return is for `test_live.py`."""

import json

import pytest
from grafana_foundation_sdk.models import units

import dashboard

MADE = json.loads(dashboard.FILE.read_text())
PANELS = [panel for panel in MADE["panels"] if panel["type"] != "row"]


def test_it_is_the_one_that_the_code_makes():
    assert dashboard.FILE.read_text() == dashboard.text(), (
        "if the code is right: integration-tests/observability/run.sh --renew"
    )


def test_it_is_of_a_current_grafana_and_its_variables_are_there():
    assert MADE["schemaVersion"] == 41
    variables = {variable["name"]: variable for variable in MADE["templating"]["list"]}
    assert list(variables) == ["datasource", "job", "instance"]
    assert variables["datasource"]["type"] == "datasource"
    assert variables["datasource"]["query"] == "prometheus"
    for name in ("job", "instance"):
        assert variables[name]["type"] == "query"
        assert variables[name]["multi"]
        assert variables[name]["includeAll"]
        assert variables[name]["datasource"] == {"type": "prometheus", "uid": "${datasource}"}


def test_it_has_the_rows_that_one_looks_for():
    rows = [panel["title"] for panel in MADE["panels"] if panel["type"] == "row"]
    assert rows == [
        "Freshness and roster",
        "Convergence and peers",
        "Invalidations and receipts",
        "Look-ups and fills",
        "Purges and caches",
        "Directory and disk",
        "Queues and limits",
        "Gossip",
        "Calls",
        "Telemetry",
    ]


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"])
def test_a_panel_says_what_it_shows_of_what_the_variables_choose(panel):
    assert panel["description"].endswith(".")
    assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    assert panel["fieldConfig"]["defaults"].get("unit", "none") in {
        value for value in vars(units).values() if isinstance(value, str)
    }
    assert [target["refId"] for target in panel["targets"]] == list("ABCDEFGHIJ"[: len(panel["targets"])])
    for target in panel["targets"]:
        # Every metric is selected by both variables, and by nothing that names a job or an instance.
        assert target["expr"].count('job=~"$job", instance=~"$instance"}') == target["expr"].count("{") > 0
        assert "job=" not in target["expr"].replace('job=~"$job"', "")


def test_panels_have_numbers_and_places_of_their_own():
    assert len({panel["id"] for panel in MADE["panels"]}) == len(MADE["panels"])
    taken = set()
    for panel in MADE["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24, panel["title"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not taken & cells, panel["title"]
        taken |= cells
