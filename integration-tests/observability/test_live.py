"""A real Prometheus that scrapes a live cluster under load: what it is told, what the dashboard's queries return, and that all is
calm."""

import json
import os
import re
import shlex
import subprocess
import time

import pytest
import yaml

import dashboard
import rules
from moves import MOVED as SEEN
from pykit import eventually

EXCEPTIONS = yaml.safe_load((rules.REPOSITORY / "integration-tests/observability/exceptions.yaml").read_text())
PANELS = [panel for panel in json.loads(dashboard.FILE.read_text())["panels"] if panel["type"] != "row"]
QUERIES = {f"{panel['title']} {target['refId']}": target["expr"] for panel in PANELS for target in panel["targets"]}

# What the load is to move: a query that returns nothing but noughts would show nothing.
MOVED = [
    "resolves",
    "bumps_own",
    "bumps_remote",
    "receipts_satisfied",
    "fills_committed",
    "fills_elected",
    "registrations_accepted",
    "purge_deleted",
    "intents_begun",
    "intents_committed",
    "intents_aborted",
    "store_commits",
    "store_writes",
    "client_hits",
    "client_misses",
    "client_stale_served",
    "client_bypasses",
    "client_audits",
    "gossip_datagrams_sent",
    "gossip_datagrams_received",
    "gossip_bytes_sent",
]

pytestmark = pytest.mark.usefixtures("calls_go_well")


def families(text: str) -> set[str]:
    """The metrics that a sidecar declares."""
    return set(re.findall(r"^# TYPE (\S+) ", text, re.M))


def used(known: set[str]) -> set[str]:
    """The metrics of sidecars that the dashboard or an alert has."""
    exprs = [*QUERIES.values(), *(rule["expr"] for rule in rules.all_of().values())]
    names = {rules.family(metric, known) for expr in exprs for metric in rules.metrics(expr)}
    # These two are Prometheus' own.
    return {name for name in names if name != "up" and not name.startswith("scrape_")}


def test_promtool_has_nothing_to_say_of_the_metrics(world):
    for sidecar in world.sidecars[:3]:
        done = rules.promtool("check", "metrics", given=sidecar.scraped())
        assert (done.returncode, done.stdout) == (0, "")


def test_each_metric_is_shown_or_is_an_exception_with_a_reason(world):
    live = families(world.sidecars[0].scraped())
    assert live == families(world.sidecars[1].scraped()) == families(world.sidecars[2].scraped())
    shown = used(live)
    assert live - shown == set(EXCEPTIONS["not_shown"]), (
        "neither in the dashboard nor in an alert, or an exception that is none"
    )
    assert shown - live == set(), "no sidecar has them: a metric was renamed"


def test_each_metric_is_told_in_the_operators_pages(world):
    told = set(re.findall(r"`([a-z0-9_]+)(?:\{[a-z_, ]+\})?`", (rules.REPOSITORY / "docs/operations.md").read_text()))
    # Counters stand there without their prefix; a limit beside what it limits.
    names = told | {f"grapevine_{name}_total" for name in told} | {f"grapevine_{name}" for name in told}
    names |= {f"{name}_limit" for name in told}
    live = families(world.sidecars[0].scraped()) - {"target_info"}
    assert live - names == set()


@pytest.mark.parametrize("counter", MOVED)
def test_the_load_moves_it(world, counter):
    expr = world.as_grafana_asks(
        f'sum(rate(grapevine_{counter}_total{{job=~"$job", instance=~"$instance"}}[$__rate_interval])) > 0'
    )
    eventually(lambda: world.prometheus.value(expr), what=f"{counter} rises")
    SEEN.add(counter)


def test_the_variables_choose_among_the_sidecars(world):
    def values(query: str) -> set[str]:
        metric, label = re.fullmatch(r"label_values\((.+), (\w+)\)", world.as_grafana_asks(query)).groups()
        return {series[label] for series in world.prometheus.asked("series", **{"match[]": metric})}

    job, instance = (variable["query"] for variable in json.loads(dashboard.FILE.read_text())["templating"]["list"][1:])
    assert values(job) == {"grapevine"}
    assert values(instance) == {sidecar.metrics for sidecar in world.sidecars}


@pytest.mark.parametrize("name", QUERIES)
def test_a_query_of_the_dashboard_returns_data(world, name):
    asked = world.as_grafana_asks(QUERIES[name])

    def data() -> bool:
        # As a panel asks: over a range.
        now = time.time()
        span = {"start": str(now - 10), "end": str(now), "step": "2"}
        found = world.prometheus.asked("query_range", query=asked, **span)["result"]
        return any(value not in ("NaN", "+Inf", "-Inf") for series in found for _, value in series["values"])

    if name in EXCEPTIONS["empty_when_well"]:
        assert not data(), "it returns data: no exception is needed"
    else:
        eventually(data, what=f"{asked} returns data")


def runbook(pattern: str) -> list[str]:
    return re.findall(pattern, rules.RUNBOOK.read_text(), re.M | re.S)


@pytest.mark.parametrize("expr", runbook(r"```promql\n(.*?)```"))
def test_a_query_of_the_runbook_is_one(world, expr):
    world.prometheus.asked("query", query=expr)
    live = families(world.sidecars[0].scraped())
    assert {rules.family(metric, live) for metric in rules.metrics(expr)} <= live


@pytest.mark.parametrize("command", sorted(set(runbook(r"(?:^|`)(grapevine [a-z][^`\n]*?)(?: +#[^\n]*)?(?:`|$)"))))
def test_a_command_of_the_runbook_is_one(command):
    _, subcommand, *words = shlex.split(command)
    done = subprocess.run(
        [os.environ["GRAPEVINE_BIN"], subcommand, "--help"], capture_output=True, text=True, timeout=20
    )
    assert done.returncode == 0, done.stderr
    for flag in [word for word in words if word.startswith("--")]:
        assert re.search(rf"{flag}\b", done.stdout), flag


def test_exceptions_are_of_queries_and_alerts_that_there_are():
    assert set(EXCEPTIONS["empty_when_well"]) <= set(QUERIES)
    assert set(EXCEPTIONS["not_provoked"]) <= set(rules.all_of())
    assert not set(EXCEPTIONS["not_moved"]) & set(MOVED)
    for of in EXCEPTIONS.values():
        assert all(reason.strip() for reason in of.values())


@pytest.mark.parametrize("counter", EXCEPTIONS["not_moved"])
def test_a_test_elsewhere_that_is_to_have_moved_a_counter_names_it(counter):
    reason = EXCEPTIONS["not_moved"][counter]
    places = re.findall(r"`(.+?)`", reason)
    assert places or reason.endswith("no test has it")
    for place in places:
        assert re.search(rf"\b{counter.removeprefix('gossip_')}\b", (rules.REPOSITORY / place).read_text()), place


@pytest.mark.parametrize("name", rules.all_of())
def test_no_alert_has_a_reason_where_all_is_well(world, name):
    # Without waiting for `for`; so what a busy machine makes of a moment may pass. Windows are as they are, and know what little
    # there was.
    expr = rules.all_of()[name]["expr"]
    eventually(lambda: not world.prometheus.value(expr), what=f"{name} has no reason")
