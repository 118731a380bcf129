"""Where the pods run, and the helpers of the chart's tests beside these."""

import os

import pytest

import image
import probe
import runtimes

# By the name that chooses it in GRAPEVINE_CONTAINERS.
RUNTIMES = {"podman": runtimes.Podman, "namespaces": runtimes.Namespaces}
told = []


@pytest.fixture(scope="session")
def runtime():
    """Containers, or what comes next to them where none can run, said loudly. Which it is, the probe decides and not the image:
    what goes wrong after that is a failure."""
    chosen = os.environ.get("GRAPEVINE_CONTAINERS")
    assert chosen is None or chosen in RUNTIMES, (
        f"GRAPEVINE_CONTAINERS is {chosen!r}, and may be {' or '.join(RUNTIMES)}"
    )
    kind = None
    for name in [chosen] if chosen else RUNTIMES:
        try:
            probe.ask(RUNTIMES[name])
        except probe.CannotRun as error:
            told.append(f"NO POD RUNS HERE BY {name}, whatever image it is of: {str(error).rstrip()}")
        else:
            kind = RUNTIMES[name]
            break
    if kind is None:
        if chosen or os.environ.get("GRAPEVINE_REQUIRE_PODS") == "1":
            pytest.fail("\n".join(told), pytrace=False)
        told.append("SKIPPED: all that takes pods (they take root)")
        pytest.skip(told[-1])
    told.append(f"the pods ran in: {kind.kind}")
    made = kind(image)
    yield made
    made.close()


def pytest_terminal_summary(terminalreporter):
    for line in told:
        terminalreporter.write_line(line, bold=True)
