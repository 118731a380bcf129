"""The chart's alert rules, and `promtool`, which checks them and runs their tests."""

import pathlib
import re
import subprocess

import yaml

REPOSITORY = pathlib.Path(__file__).parents[2]
FILE = REPOSITORY / "helm/grapevine/files/alerts.yaml"
TESTS = pathlib.Path(__file__).parent / "alerts"
RUNBOOK = REPOSITORY / "docs/runbook.md"

# What metrics are called, of sidecars and of Prometheus itself, where nothing else of PromQL can be meant.
METRIC = re.compile(r"\b(?:grapevine_[a-z0-9_]+|rpc_[a-z0-9_]+|scrape_[a-z_]+|target_info|up)\b(?!\s*\()")


def all_of() -> dict[str, dict]:
    """The rules by the alerts' names."""
    groups = yaml.safe_load(FILE.read_text())["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    named = {rule["alert"]: rule for rule in rules}
    assert len(named) == len(rules), "two alerts of one name"
    return named


def metrics(expr: str) -> list[str]:
    """The metrics that an expression names, each as often as it does; not the labels, and what stands in quotes."""
    bare = re.sub(r'"[^"]*"', '""', expr)
    # After a grouping word come labels.
    bare = re.sub(r"\b(by|on|ignoring|without|group_left|group_right)\s*\([^)]*\)", "", bare)
    bare = re.sub(r"\{[^}]*\}", "", bare)
    return METRIC.findall(bare)


def family(metric: str, families: set[str]) -> str:
    """What a metric is declared as: a histogram has series of three names."""
    for ending in ("_bucket", "_sum", "_count"):
        if metric.endswith(ending) and metric.removesuffix(ending) in families:
            return metric.removesuffix(ending)
    return metric


def promtool(*arguments: str, given: str | None = None) -> subprocess.CompletedProcess:
    """Both of its streams are in `stdout`, in order: it tells names in one and failures in the other."""
    into = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    return subprocess.run(["promtool", *arguments], input=given, **into, text=True, timeout=120)


def test_file(name: str, rule: dict, directory: pathlib.Path, called: str) -> pathlib.Path:
    """A copy of the alert's test, with `rule` in the place of the alert's own."""
    rule_file, file = directory / f"{called}.rules.yaml", directory / f"{called}.yaml"
    rule_file.write_text(yaml.safe_dump({"groups": [{"name": "grapevine", "rules": [rule]}]}))
    told = yaml.safe_load((TESTS / f"{name}.yaml").read_text())
    told["rule_files"] = [str(rule_file)]
    file.write_text(yaml.safe_dump(told))
    return file
