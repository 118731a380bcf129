"""Programs that a test starts, and ends by their ids."""

from __future__ import annotations

import os
import pathlib
import signal
import subprocess
from collections.abc import Mapping, Sequence

# What a sidecar's drain takes, and more.
_END_S = 15.0
_TAIL_LINES = 15


def outside() -> dict[str, str]:
    """The environment of the tests without what would configure a sidecar: that is for the tests to say, and not for who runs
    them."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("GRAPEVINE_", "OTEL_"))}


class Process:
    """One program. What it says is in `log`; without one it is lost."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        log: pathlib.Path | None,
        environment: Mapping[str, str] | None = None,
        umask: int = -1,
    ) -> None:
        self.name, self.command, self.log = name, command, log
        self.environment = {**outside(), **(environment or {})}
        self._umask = umask
        self.start()

    def start(self) -> None:
        """Also once it has ended: with the same command."""
        with (self.log or pathlib.Path(os.devnull)).open("ab") as log:
            self.process = subprocess.Popen(
                self.command,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                umask=self._umask,
            )

    def lives(self) -> bool:
        """For conditions: a process that has ended is waited for in vain, and fails the test."""
        code = self.process.poll()
        assert code is None, f"{self.name} ended with {code}:\n{self.tail()}"
        return True

    def kill(self) -> None:
        """As kill -9 does."""
        self.process.kill()
        self.process.wait()

    def pause(self) -> None:
        """Stops all its threads, and waits until they have stopped."""
        self.process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self.process.pid, os.WSTOPPED)

    def resume(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def terminate(self) -> None:
        """Tells it to end. One that is paused would not hear it."""
        if self.process.poll() is None:
            self.process.terminate()
            self.resume()

    def stop(self) -> None:
        """Has it end: by itself, or, when that takes too long, by force."""
        self.terminate()
        try:
            self.process.wait(_END_S)
        except subprocess.TimeoutExpired:
            self.kill()

    def tail(self) -> str:
        """The end of what it said."""
        text = self.log.read_text(errors="replace") if self.log else ""
        return "\n".join(text.splitlines()[-_TAIL_LINES:])
