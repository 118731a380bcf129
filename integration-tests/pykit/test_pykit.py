"""The kit itself: a wait that is in vain says so in time, and a process is ended whatever state it is in."""

from __future__ import annotations

import asyncio
import itertools
import pathlib
import sys
import time

import pytest

from pykit import NotYet, Process, eventually, eventually_async, free_ports


def test_what_is_true_at_last_is_given_back() -> None:
    numbers = itertools.count()
    assert eventually(lambda: (number := next(numbers)) > 2 and number, what="the third") == 3

    async def one() -> int:
        return next(numbers) - 5

    assert asyncio.run(eventually_async(one, what="the sixth")) == -1


def test_a_wait_in_vain_says_what_was_awaited_and_what_was_seen() -> None:
    asked = []
    began = time.monotonic()
    with pytest.raises(AssertionError, match=r"^not within 0\.1 s: the moon; last seen: only stars$"):
        eventually(lambda: asked.append(1) or NotYet("only stars"), within=0.1, what="the moon")
    assert 0.1 <= time.monotonic() - began < 5
    assert len(asked) > 1

    async def none() -> str:
        return ""

    with pytest.raises(AssertionError, match="not within 0 s: it; last seen: ''"):
        asyncio.run(eventually_async(none, within=0, what="it"))


def test_what_a_condition_raises_ends_the_wait() -> None:
    with pytest.raises(ZeroDivisionError):
        eventually(lambda: 1 / 0, what="nothing")


def test_no_port_is_given_twice() -> None:
    ports = [*free_ports(200), *free_ports(200)]
    assert len(set(ports)) == 400


def program(tmp_path: pathlib.Path, text: str) -> Process:
    return Process("it", [sys.executable, "-u", "-c", text], tmp_path / "log")


def test_a_process_that_ended_is_not_waited_for(tmp_path: pathlib.Path) -> None:
    process = program(tmp_path, "print('the reason'); raise SystemExit(3)")
    with pytest.raises(AssertionError, match="it ended with 3:\nthe reason"):
        eventually(lambda: process.lives() and NotYet("it lives"), what="it listens")


def test_a_process_that_is_paused_ends_by_itself(tmp_path: pathlib.Path) -> None:
    ends = "import signal, sys; signal.signal(signal.SIGTERM, lambda *_: sys.exit(7)); print('ready'); signal.pause()"
    process = program(tmp_path, ends)
    eventually(lambda: process.lives() and "ready" in process.tail(), what="it is ready")
    process.pause()
    process.stop()
    assert process.process.returncode == 7
    # What has ended is ended once more, and nothing happens.
    process.stop()
    process.kill()


def test_a_process_knows_nothing_of_who_runs_the_tests(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAPEVINE_NODE_ID", "x")
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    told = "import os; print([name for name in os.environ if name.startswith(('GRAPEVINE', 'OTEL'))])"
    process = Process("it", [sys.executable, "-c", told], tmp_path / "log", {"OTEL_SERVICE_NAME": "y"})
    process.process.wait(30)
    assert process.tail() == "['OTEL_SERVICE_NAME']"
