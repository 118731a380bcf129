"""Where the pods run, and the helpers of the chart's tests beside these."""

import os
import subprocess

import pytest

import runtimes

# By the name that chooses it in GRAPEVINE_CONTAINERS.
RUNTIMES = {"podman": runtimes.Podman, "namespaces": runtimes.Namespaces}
told = []


@pytest.fixture(scope="session")
def runtime():
    """Containers, or what comes next to them, said loudly. With GRAPEVINE_REQUIRE_CONTAINERS=1 nothing but containers will do."""
    chosen = os.environ.get("GRAPEVINE_CONTAINERS")
    assert chosen is None or chosen in RUNTIMES, (
        f"GRAPEVINE_CONTAINERS is {chosen!r}, and may be {' or '.join(RUNTIMES)}"
    )
    made = None
    for name in [chosen] if chosen else RUNTIMES:
        try:
            made = RUNTIMES[name]()
            break
        except (AssertionError, OSError, subprocess.SubprocessError) as error:
            told.append(f"NOT IN CONTAINERS BY {name}: {error}")
            if chosen or os.environ.get("GRAPEVINE_REQUIRE_CONTAINERS") == "1":
                raise
    if made is None:
        pytest.skip(
            "SKIPPED: neither containers nor network namespaces can be made here (that takes root): " + "; ".join(told)
        )
    told.append(f"the pods ran in: {made.kind}")
    yield made
    made.close()


def pytest_terminal_summary(terminalreporter):
    for line in told:
        terminalreporter.write_line(line, bold=True)
