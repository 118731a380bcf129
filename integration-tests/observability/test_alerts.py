"""The alert rules by `promtool`: each has a test of its own, which goes red when anything of the rule is taken away."""

import re

import pytest
import yaml

import rules

RULES = rules.all_of()


def test_promtool_takes_the_rules():
    done = rules.promtool("check", "rules", "--lint-fatal", str(rules.FILE))
    assert done.returncode == 0, done.stdout
    assert f"{len(RULES)} rules found" in done.stdout


def test_each_alert_has_a_test_and_each_test_an_alert():
    assert {path.stem for path in rules.TESTS.glob("*.yaml")} == set(RULES)


@pytest.mark.parametrize("name", RULES)
def test_an_alert_says_what_whose_and_how_bad(name):
    rule = RULES[name]
    assert re.fullmatch(r"Grapevine[A-Z][A-Za-z]+", name)
    assert set(rule["labels"]) == {"severity"}
    assert rule["labels"]["severity"] in ("critical", "warning", "info")
    assert set(rule["annotations"]) == {"summary", "description", "runbook_url"}
    for text in ("summary", "description"):
        assert rule["annotations"][text].strip().endswith(".")
    assert rule["annotations"]["runbook_url"] == f"docs/runbook.md#{name.lower()}"


def test_the_runbook_has_an_entry_for_each_alert_with_all_that_an_entry_has():
    entries = dict(re.findall(r"^### (Grapevine\w+)\n(.*?)(?=^### |^## |\Z)", rules.RUNBOOK.read_text(), re.M | re.S))
    assert list(entries) == list(RULES)
    for name, text in entries.items():
        assert text.lstrip().startswith(f"*{RULES[name]['labels']['severity']}*"), name
        assert re.findall(r"^\*\*(.+?)\*\*", text, re.M) == ["Means.", "Look.", "Do.", "Leave it"], name


@pytest.mark.parametrize("name", RULES)
def test_it_fires_when_it_should_and_only_then(name):
    told = yaml.safe_load((rules.TESTS / f"{name}.yaml").read_text())
    moments = [moment for case in told["tests"] for moment in case["alert_rule_test"]]
    assert {moment["alertname"] for moment in moments} == {name}
    assert any(moment["exp_alerts"] for moment in moments)
    assert not all(moment["exp_alerts"] for moment in moments)
    assert all(case["name"] for case in told["tests"])
    # The file as it is: that is what whoever edits an alert runs.
    done = rules.promtool("test", "rules", str(rules.TESTS / f"{name}.yaml"))
    assert done.returncode == 0, done.stdout


def broken() -> dict[str, tuple[str, dict]]:
    """Each rule broken in each way that a test has to see, by what was done to it."""
    made = {}

    def add(name, how, **change):
        made[f"{name}-{how}"] = (name, RULES[name] | change)

    for name, rule in RULES.items():
        expr = rule["expr"]
        add(name, "never", expr=f"({expr}) and vector(1) < 0")
        add(name, "without-labels", expr=f"vector(1) and on () ({expr})")
        # Nothing is compared any more, and so everything fires that there is to compare.
        everything, compared = re.subn(r"(?:[<>]=?|==|!=)(?= *[\d.]|\s+ignoring|\s+min by|\s+2 )", "* 0 +", expr)
        assert compared, name
        add(name, "always", expr=everything)
        # Each metric that it names, one mention after the other, has another name.
        named = rules.metrics(expr)
        for place, metric in enumerate(named):
            start, end = list(re.finditer(rf"\b{metric}\b", expr))[named[:place].count(metric)].span()
            add(name, f"without-{place}-{metric}", expr=f"{expr[:start]}renamed_{metric}{expr[end:]}")
        for window in sorted(set(re.findall(r"\[\w+\]", expr))):
            add(name, f"of-a-moment-{window}", expr=expr.replace(window, "[1m]"))
        if "for" in rule:
            add(name, "at-once", **{"for": "0s"})
            add(name, "a-day-late", **{"for": "1d"})
    return made


BROKEN = broken()


@pytest.fixture(scope="module")
def verdicts(tmp_path_factory) -> dict[str, str]:
    """What promtool says of each broken rule: all in one run."""
    directory = tmp_path_factory.mktemp("broken")
    files = {how: rules.test_file(name, rule, directory, how) for how, (name, rule) in BROKEN.items()}
    # One that is as it should be is among them: then a red one is red for its break.
    files |= {name: rules.test_file(name, rule, directory, name) for name, rule in RULES.items()}
    done = rules.promtool("test", "rules", *map(str, files.values()))
    said = dict(re.findall(r"^Unit Testing:  (\S+)\n(.*?)(?=^Unit Testing:|\Z)", done.stdout, re.M | re.S))
    assert len(said) == len(files), done.stdout
    return {how: said[str(file)] for how, file in files.items()}


@pytest.mark.parametrize("how", BROKEN)
def test_a_broken_alert_is_seen(how, verdicts):
    name, rule = BROKEN[how]
    assert verdicts[name].strip() == "SUCCESS", verdicts[name]
    assert "FAILED" in verdicts[how], (
        f"its test says {verdicts[how].strip()!r} of {rule['expr']!r} for {rule.get('for')}"
    )
    # A rule that cannot be read is no proof.
    assert "alertname:" in verdicts[how], verdicts[how]
