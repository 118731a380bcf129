"""Which counters of sidecars the tests have seen rise: at the end that is each of them, or it is an exception with a reason."""

import contextlib
import re

from pykit import SOON_S, NotYet, eventually

# Without their prefix and ending.
MOVED: set[str] = set()


def counters(text: str) -> dict[str, float]:
    """The counters of a scrape by their names."""
    return {name: float(value) for name, value in re.findall(r"^grapevine_(\w+)_total (\S+)$", text, re.M)}


def told(sidecars, names) -> dict[str, float]:
    """What all of the sidecars have counted together."""
    each = [counters(sidecar.scraped()) for sidecar in sidecars]
    return {name: sum(of_one[name] for of_one in each) for name in names}


def has_risen(sidecars, *names: str, since: dict[str, float] | None = None, within: float = SOON_S) -> None:
    """Waits until each of these counters is above what it was, or above nought."""
    before = since or dict.fromkeys(names, 0.0)

    def all_have():
        now = told(sidecars, names)
        return all(now[name] > before[name] for name in names) or NotYet(f"{now}, after {before}")

    eventually(all_have, within=within, what=f"{', '.join(names)} of {', '.join(it.name for it in sidecars)} rise")
    MOVED.update(names)


@contextlib.contextmanager
def rises(sidecars, *names: str):
    """What is done within has each of these counters rise, before long."""
    before = told(sidecars, names)
    yield
    has_risen(sidecars, *names, since=before)
