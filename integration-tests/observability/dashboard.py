"""The Grafana dashboard as code: `run.sh --renew` writes the chart's JSON of it, by Grafana's own classes of what a dashboard may
hold.

A panel has a query for each thing that it draws. `S` in a query stands for what the variables choose; rates are over Grafana's
`$__rate_interval`, so that they fit whatever interval the sidecars are scraped at.
"""

import json
import pathlib
import string

from grafana_foundation_sdk.builders import common, dashboard, prometheus, stat, statetimeline, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import dashboard as models
from grafana_foundation_sdk.models.common import LegendDisplayMode, LegendPlacement, TooltipDisplayMode, VisibilityMode

FILE = pathlib.Path(__file__).parents[2] / "helm/grapevine/files/dashboards/grapevine.json"
SELECTED = 'job=~"$job", instance=~"$instance"'
WIDTH, HEIGHT = 24, 8


class Query:
    """What one line, or a line for each series, is drawn of."""

    def __init__(self, expr: str, legend: str):
        self.expr = expr.replace("{S}", "{" + SELECTED + "}").replace(", S}", ", " + SELECTED + "}")
        self.legend = legend


def now(metric: str, legend: str = "{{instance}}") -> Query:
    """A gauge, as it is, of each sidecar."""
    return Query(f"{metric}{{S}}", legend)


def rates(*counters: str) -> list[Query]:
    """How fast counters rise, of all chosen sidecars together, each by what its name says."""
    return [
        Query(f"sum(rate(grapevine_{counter}_total{{S}}[$__rate_interval]))", counter.replace("_", " "))
        for counter in counters
    ]


def sums(*gauges: str) -> list[Query]:
    return [Query(f"sum(grapevine_{gauge}{{S}})", gauge.replace("_", " ")) for gauge in gauges]


def share(part: str, whole: str) -> Query:
    return Query(f"grapevine_{part}{{S}} / grapevine_{whole}{{S}}", "{{instance}}")


def lines(title: str, about: str, queries: Query | list[Query], unit: str = "short", **bounds: float | None):
    """A panel with lines over time, from 0 up unless `bounds` say otherwise."""
    panel = timeseries.Panel().title(title).description(about).unit(unit)
    if (least := bounds.get("min", 0)) is not None:
        panel = panel.min(least)
    if (most := bounds.get("max")) is not None:
        panel = panel.max(most)
    panel = panel.fill_opacity(5).show_points(VisibilityMode.AUTO)
    panel = panel.legend(
        common.VizLegendOptions()
        .display_mode(LegendDisplayMode.LIST)
        .placement(LegendPlacement.BOTTOM)
        .show_legend(True)
    )
    panel = panel.tooltip(common.VizTooltipOptions().mode(TooltipDisplayMode.MULTI))
    return panel, queries if isinstance(queries, list) else [queries]


def figure(
    title: str,
    about: str,
    query: Query,
    unit: str = "short",
    bad_from: float | None = None,
    bad_below: float | None = None,
):
    """A panel with the latest number, in red where it is bad."""
    steps = [models.Threshold(value=None, color="red" if bad_below is not None else "green")]
    if bad_below is not None:
        steps.append(models.Threshold(value=bad_below, color="green"))
    if bad_from is not None:
        steps.append(models.Threshold(value=bad_from, color="red"))
    thresholds = dashboard.ThresholdsConfig().mode(models.ThresholdsMode.ABSOLUTE).steps(steps)
    panel = stat.Panel().title(title).description(about).unit(unit).thresholds(thresholds)
    return panel.reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"])), [query]


def states() -> tuple:
    """Which state of freshness each sidecar was in."""
    colours = {"0": ("fresh", "green"), "1": ("catching up", "yellow"), "2": ("unknown", "red")}
    results = {value: models.ValueMappingResult(text=text, color=colour) for value, (text, colour) in colours.items()}
    panel = statetimeline.Panel().title("Freshness").mappings([models.ValueMap(options=results)])
    panel = panel.description(
        "What each sidecar can show of its knowledge. Look-ups of one that is not fresh are answered as policy says."
    )
    by_state = 'sum by (instance) (grapevine_freshness{{state="{}", S}})'.format
    return panel, [Query(f"{by_state('catching_up')} + 2 * {by_state('unknown')}", "{{instance}}")]


def quantile(share: float, histogram: str, by: str, legend: str) -> Query:
    return Query(
        f"histogram_quantile({share}, sum by ({by}, le) (rate({histogram}_bucket{{S}}[$__rate_interval])))", legend
    )


def mean(histogram: str, by: str, legend: str) -> Query:
    total, count = (f"sum by ({by}) (rate({histogram}_{part}{{S}}[$__rate_interval]))" for part in ("sum", "count"))
    return Query(f"{total} / {count}", legend)


def rows() -> dict[str, list[tuple]]:
    """The panels of each row, in the order in which one looks for trouble."""
    convergence, calls = "grapevine_convergence_seconds", "rpc_server_call_duration_seconds"
    return {
        "Freshness and roster": [
            figure("Sidecars reached", "Sidecars that Prometheus can scrape.", Query("sum(up{S})", ""), bad_below=1),
            figure(
                "Not fresh",
                "Sidecars that catch up, or do not know.",
                Query('sum(grapevine_freshness{state=~"catching_up|unknown", S})', ""),
                bad_from=1,
            ),
            figure(
                "Members",
                "Members that the roster's newest view seats.",
                Query("max(grapevine_seats{S})", ""),
                bad_below=1,
            ),
            figure(
                "Policies differ",
                "The most members that any sidecar sees with other policies than its own.",
                Query("max(grapevine_policy_mismatches{S})", ""),
                bad_from=1,
            ),
            states(),
            lines(
                "Roster's view",
                "The number of the view that each sidecar has. They are the same, but for moments.",
                now("grapevine_roster_view"),
            ),
            lines(
                "Seats and runs",
                "Members that the view seats; runs of sidecars whose events are followed.",
                [now("grapevine_seats", "{{instance}} seats"), now("grapevine_origins", "{{instance}} runs")],
            ),
            lines("Uptime", "Since the start.", now("grapevine_uptime_seconds"), "s"),
            lines(
                "Versions",
                "Sidecars of each release.",
                Query("count by (service_version) (target_info{S})", "{{service_version}}"),
            ),
            lines(
                "Histories",
                "Runs that were retired; histories refused; sidecars that began with nothing of what their store said.",
                [
                    *rates("runs_retired", "histories_refused"),
                    Query("sum(grapevine_started_over_total{S})", "started over, now"),
                ],
            ),
        ],
        "Convergence and peers": [
            lines(
                "Convergence, 99th percentile",
                "From the flush of an invalidation to the peer's word that it has it on disk.",
                quantile(0.99, convergence, "instance, peer", "{{instance}} to {{peer}}"),
                "s",
            ),
            lines(
                "Convergence, all",
                "The same of all peers together.",
                [
                    quantile(0.5, convergence, "job", "median"),
                    quantile(0.9, convergence, "job", "90th percentile"),
                    mean(convergence, "job", "mean"),
                ],
                "s",
            ),
            lines(
                "Not acknowledged",
                "Invalidations of a sidecar that a peer has not said to have. Some are always on their way;"
                " it is bad when they stay.",
                now("grapevine_peer_unacknowledged", "{{instance}} to {{peer}}"),
            ),
            lines(
                "Lag",
                "Invalidations of a peer that are known to exist and are not applied.",
                now("grapevine_peer_lag", "{{instance}} of {{peer}}"),
            ),
            lines(
                "Missing events", "Events that are known to exist and are not here.", now("grapevine_missing_events")
            ),
            lines(
                "Missing for",
                "For how long the oldest of them has been missing.",
                now("grapevine_missing_age_seconds"),
                "s",
            ),
            lines(
                "Links",
                "Whether a peer is connected and not suspected.",
                now("grapevine_peer_linked", "{{instance}} to {{peer}}"),
                max=1,
            ),
            lines(
                "Silence",
                "Since a peer was last heard from.",
                now("grapevine_peer_silence_seconds", "{{instance}} of {{peer}}"),
                "s",
            ),
            lines(
                "Grants",
                "For how long a peer's word still counts; at 0 the sidecar is not fresh.",
                now("grapevine_peer_grant_left_seconds", "{{instance}} of {{peer}}"),
                "s",
            ),
            lines(
                "Connections",
                "Connections to peers opened, and broken; peers and messages refused.",
                rates("peer_connects", "peer_links_broken", "peer_rejected", "peer_messages_refused"),
                "ops",
            ),
            lines(
                "Repairs",
                "Repairs asked for and answered, events that came again, pushes that were dropped and are repaired.",
                rates("pulls_sent", "pulls_served", "events_duplicate", "pushes_dropped"),
                "ops",
            ),
            lines(
                "Relays",
                "Own events told by way of some peers, others' events passed on, and relays that were stood in for.",
                rates("pushes_relayed", "events_passed_on", "relays_stood_in_for"),
                "ops",
            ),
            lines(
                "Snapshots",
                "Whole states asked for, sent and adopted; and events that nobody had any more.",
                rates("snapshots_requested", "snapshots_sent", "snapshots_adopted", "events_written_off"),
                "ops",
            ),
        ],
        "Invalidations and receipts": [
            lines("Invalidations", "Issued here, and applied from others.", rates("bumps_own", "bumps_remote"), "ops"),
            lines(
                "Receipts",
                "Invalidations whose receipt was reached, and not in time.",
                rates("receipts_satisfied", "receipts_missed"),
                "ops",
            ),
            lines(
                "Widened",
                "Families invalidated together to bound memory, and conjunctions widened to a class: both cost needless misses.",
                rates("floors_own", "escalations"),
                "ops",
            ),
            lines(
                "Declared writes",
                "Writes begun, committed and aborted; those that nobody ended, and those that a peer would not hold.",
                rates(
                    "intents_begun",
                    "intents_committed",
                    "intents_aborted",
                    "intents_expired",
                    "intents_expired_for_others",
                    "intents_recovered",
                    "intents_declined",
                ),
                "ops",
            ),
            lines(
                "Open writes",
                "Own writes that are open, and those held for others.",
                sums("intents_open", "intents_held"),
            ),
            lines("Watchers that fell behind", "Watchers that were told so.", rates("watch_resyncs"), "ops"),
            lines("Local tables", "Tables of clients that receipts wait for.", sums("local_tables")),
            lines(
                "What local tables are told",
                "Tables opened, changes told to them, tables whose clients were silent till leases ended, and queues that overran.",
                rates("tables_opened", "table_notices", "tables_lapsed", "tables_overrun"),
                "ops",
            ),
        ],
        "Look-ups and fills": [
            lines(
                "Look-ups",
                "Addresses resolved, and of them those answered with bypass.",
                rates("resolves", "resolves_bypassed"),
                "ops",
            ),
            lines(
                "Reads, as clients report them",
                "Hits, misses, values served stale by policy, and reads around the cache.",
                rates("client_hits", "client_misses", "client_stale_served", "client_bypasses"),
                "ops",
            ),
            lines(
                "Audits",
                "Hits that clients computed anew, and those that differed without an excuse, of which there should be none.",
                rates("client_audits", "audit_mismatches"),
                "ops",
            ),
            lines(
                "Fills",
                "Fills that may be stored, and those that an invalidation overtook.",
                rates("fills_committed", "fills_condemned"),
                "ops",
            ),
            lines(
                "Turns to fill",
                'Of `fill = "one"`: turns given, taken without an arbiter, ended with their lease, put off,'
                " given without being remembered.",
                rates("fills_elected", "fills_unelected", "fills_superseded", "fills_put_off", "elections_overfull"),
                "ops",
            ),
            lines(
                "Waiting for a fill",
                "Callers that wait, and values whose fill is arbitrated.",
                sums("fills_waiting", "elections_open"),
            ),
            lines(
                "Leaves of indices",
                "Loaded, given up, dropped for want of room, and not begun for want of it.",
                rates("leaves_loaded", "leaves_condemned", "leaves_evicted", "loads_displaced", "loads_refused"),
                "ops",
            ),
            lines("Leaves held", "Leaves that are here, and their members.", sums("leaves_present", "leaf_members")),
            lines(
                "Rows and shapes",
                "Members removed, rows not shown before their commit, sets of columns made known.",
                rates("members_pruned", "rows_not_shown", "shapes_made_known"),
                "ops",
            ),
        ],
        "Purges and caches": [
            lines(
                "Deletes",
                "Addresses deleted or marked stale, and those that were not there.",
                rates("purge_deleted", "purge_absent"),
                "ops",
            ),
            lines(
                "Deletes that fail",
                "Attempts that failed, and further attempts.",
                rates("purge_failed", "purge_retried"),
                "ops",
            ),
            lines(
                "Deletes given up",
                "Addresses whose value ended by itself or that were too many, and those never tried.",
                rates("purge_expired", "purge_dropped"),
                "ops",
            ),
        ],
        "Directory and disk": [
            lines("Registrations", "Addresses in the directory, once for each class.", now("grapevine_registrations")),
            lines(
                "Registrations made",
                "Made here, known already, condemned.",
                rates("registrations_accepted", "registrations_suppressed", "registrations_condemned"),
                "ops",
            ),
            lines("Classes", "Bumped classes held in memory.", now("grapevine_classes")),
            lines("Disk", "What the directory and the logs take.", now("grapevine_store_disk_bytes"), "bytes"),
            lines(
                "Disk, growth",
                "How fast that changes.",
                Query("deriv(grapevine_store_disk_bytes{S}[$__rate_interval])", "{{instance}}"),
                "binBps",
                min=None,
            ),
            lines(
                "Writes",
                "Groups of writes flushed to disk, and writes in them.",
                rates("store_commits", "store_writes"),
                "ops",
            ),
        ],
        "Queues and limits": [
            lines("Queues", "What waits.", now("grapevine_queue_depth", "{{instance}} {{queue}}")),
            lines(
                "Queues, of their limits",
                "At 100 % calls are refused, or deletes given up.",
                Query("grapevine_queue_depth{S} / (grapevine_queue_limit{S} > 0)", "{{instance}} {{queue}}"),
                "percentunit",
                max=1,
            ),
            lines(
                "Calls and connections refused",
                "For want of room.",
                rates("intake_rejected", "connections_refused"),
                "ops",
            ),
            lines(
                "Classes, of their limit",
                "Beyond limits.classes_max, families are invalidated together.",
                share("classes", "classes_limit"),
                "percentunit",
                max=1,
            ),
            lines(
                "Registrations, of their limit",
                "Beyond limits.registrations_max, further ones are refused.",
                share("registrations", "registrations_limit"),
                "percentunit",
                max=1,
            ),
            lines(
                "Gossip's state, of a datagram",
                "Beyond it, further nodes are left out.",
                share("gossip_digest_bytes", "gossip_digest_limit_bytes"),
                "percentunit",
                max=1,
            ),
        ],
        "Gossip": [
            lines("Gossip runs", "1, or 0.", now("grapevine_gossip_running"), max=1),
            lines("Nodes", "Nodes in gossip's state, dead runs included.", now("grapevine_gossip_entries")),
            lines(
                "Datagrams", "Sent and received.", rates("gossip_datagrams_sent", "gossip_datagrams_received"), "pps"
            ),
            lines("Bytes", "Sent.", rates("gossip_bytes_sent"), "Bps"),
            lines(
                "Rounds",
                "Rounds to every peer at once, and rounds that tried the seeds; seed rounds go on while members are missing.",
                rates("gossip_nudges", "gossip_seed_rounds"),
                "ops",
            ),
            lines(
                "Losses",
                "Datagrams not sent or lost inside the process, names that did not resolve, and deaths of the task.",
                rates("gossip_send_failures", "gossip_relay_losses", "gossip_seed_lookup_failures", "gossip_restarts"),
                "ops",
            ),
            lines(
                "Refused",
                "What does not belong to this cluster, was not asked for, or no sidecar sends;"
                " and nodes left out for want of room.",
                rates(
                    "gossip_foreign_datagrams",
                    "gossip_unasked_datagrams",
                    "gossip_malformed_datagrams",
                    "gossip_bad_deltas",
                    "gossip_bad_entries",
                    "gossip_malformed_facts",
                    "gossip_refused_entries",
                ),
                "ops",
            ),
        ],
        "Calls": [
            lines(
                "Calls",
                "Of applications and operators, by method.",
                Query(f"sum by (rpc_method) (rate({calls}_count{{S}}[$__rate_interval]))", "{{rpc_method}}"),
                "reqps",
            ),
            lines(
                "Duration, median",
                "By method. Streams last as long as somebody reads them.",
                quantile(0.5, calls, "rpc_method", "{{rpc_method}}"),
                "s",
            ),
            lines(
                "Duration, 99th percentile", "By method.", quantile(0.99, calls, "rpc_method", "{{rpc_method}}"), "s"
            ),
            lines("Duration, mean", "By method.", mean(calls, "rpc_method", "{{rpc_method}}"), "s"),
            lines(
                "Not OK",
                "Calls by what they ended with, where that was not OK.",
                Query(
                    "sum by (rpc_response_status_code)"
                    f' (rate({calls}_count{{rpc_response_status_code!="OK", S}}[$__rate_interval]))',
                    "{{rpc_response_status_code}}",
                ),
                "reqps",
            ),
            lines(
                "Errors",
                "Those for which the sidecar has to answer.",
                Query(
                    f'sum by (rpc_method, error_type) (rate({calls}_count{{error_type!="", S}}[$__rate_interval]))',
                    "{{rpc_method}} {{error_type}}",
                ),
                "reqps",
            ),
        ],
        "Telemetry": [
            lines(
                "Spans",
                "Spans that the collector took, and that it did not.",
                rates("spans_exported", "spans_dropped"),
                "ops",
            ),
            lines(
                "Traces given up",
                "Traces that gave way to newer ones within a minute, and such as peers told malformed.",
                rates("traced_events_forgotten", "peer_traces_malformed"),
                "ops",
            ),
            lines(
                "Log lines dropped", "Because standard error was not read in time.", rates("log_lines_dropped"), "ops"
            ),
            lines("Scrapes", "How long Prometheus waits for a sidecar's metrics.", now("scrape_duration_seconds"), "s"),
            lines("Samples", "How many it gets.", now("scrape_samples_scraped")),
        ],
    }


def variable(name: str, label: str, query: str):
    """One that is chosen among a label's values: some, or all."""
    everything = models.VariableOption(text="All", value="$__all", selected=True)
    chosen = dashboard.QueryVariable(name).label(label).query(query).datasource(SOURCE).multi(True).include_all(True)
    return (
        chosen.current(everything)
        .refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(models.VariableSort.ALPHABETICAL_ASC)
    )


SOURCE = models.DataSourceRef(type_val="prometheus", uid="${datasource}")


def built() -> dict:
    """The dashboard, as Grafana imports it."""
    made = (
        dashboard.Dashboard("Grapevine")
        .uid("grapevine")
        .tags(["grapevine"])
        .refresh("30s")
        .time("now-1h", "now")
        .readonly()
    )
    made = made.tooltip(models.DashboardCursorSync.CROSSHAIR).timezone("browser")
    made = made.with_variable(dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus"))
    made = made.with_variable(variable("job", "Job", "label_values(grapevine_uptime_seconds, job)"))
    made = made.with_variable(
        variable("instance", "Sidecar", 'label_values(grapevine_uptime_seconds{job=~"$job"}, instance)')
    )
    number = 0
    for row, panels in rows().items():
        number += 1
        made = made.with_row(dashboard.Row(row).id(number))
        for panel, queries in panels:
            number += 1
            small = isinstance(panel, stat.Panel)
            panel = (
                panel.id(number)
                .datasource(SOURCE)
                .span(WIDTH // 4 if small else WIDTH // 3)
                .height(HEIGHT // 2 if small else HEIGHT)
            )
            for letter, query in zip(string.ascii_uppercase[: len(queries)], queries, strict=True):
                panel = panel.with_target(
                    prometheus.Dataquery().ref_id(letter).expr(query.expr).legend_format(query.legend).range()
                )
            made = made.with_panel(panel)
    return json.loads(JSONEncoder().encode(made.build()))


def text() -> str:
    return json.dumps(built(), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    FILE.write_text(text())
    print(f"written: {FILE.name}")
