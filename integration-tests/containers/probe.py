"""Whether pods can run here at all, asked with a program that has nothing to do with the image.

It stands in a pod as those of the tests are, in a runtime of its own that goes again: its user without rights, a root directory
that cannot be written, a mount, limits, an address, a name, and a command in it. Only where that does not run is the machine to
blame; what goes wrong with the image afterwards is the image's.
"""

import contextlib
import os
import pathlib
import shutil
import socket
import subprocess
import tarfile
import tempfile

from pods import Container, Pod
from pykit import NotYet, eventually
from runtimes import Runtime, run

SOURCE = pathlib.Path(__file__).with_name("probe.c")
IMAGE = "localhost/probe:1"
PORT = 7403
SERVICE = "probe.grapevine.svc.cluster.local"
LISTENS_S = 30
CONNECT_S = 1


class CannotRun(Exception):
    """The machine lacks what pods take, of whatever image they are."""


class Program:
    """Contents of a runtime, in the place of the image."""

    def __init__(self, directory: pathlib.Path):
        self.path = directory / "probe"
        run(os.environ.get("CC", "cc"), "-static", "-O", f"-DPORT={PORT}", "-o", self.path, SOURCE)

    def load(self, podman) -> str:
        packed = self.path.with_suffix(".tar")
        with tarfile.open(packed, "w") as archive:
            archive.add(self.path, self.path.name)
        podman("import", packed, IMAGE)
        return IMAGE

    def extract(self, to: pathlib.Path) -> None:
        shutil.copy(self.path, to)


def ask(kind: type[Runtime]) -> None:
    """Raises `CannotRun` where this kind of runtime runs no pod. That there is no program to ask with, as without a C compiler,
    says nothing about that: it is an error of its own."""
    with tempfile.TemporaryDirectory() as made:
        program = Program(pathlib.Path(made))
        try:
            with contextlib.closing(kind(program)) as runtime:
                runs(runtime, pathlib.Path(made))
        except (AssertionError, OSError, subprocess.SubprocessError) as error:
            raise CannotRun(str(error)) from error


def runs(runtime: Runtime, mounted: pathlib.Path) -> None:
    container = Container(
        image=IMAGE,
        command=["/probe"],
        args=[],
        env={},
        user="65532:65532",
        read_only=True,
        memory_bytes=2**30,
        mounts=[(mounted, "/etc/probe", True)],
    )
    ip = str(runtime.address())
    pod = Pod("probe", "node", ip, [SERVICE], container, probes={}, pre_stop=None, grace_s=0)
    runtime.start(pod)
    try:
        eventually(lambda: listens(ip) or ended(runtime, pod), within=LISTENS_S, what=f"{ip} listens at {PORT}")
        looked_up = runtime.execute(pod, ["/probe", SERVICE])
        assert looked_up.stdout.split() == [ip], f"{SERVICE} is not {ip}: {looked_up.stdout}{looked_up.stderr}"
    finally:
        runtime.remove(pod)


def listens(ip: str) -> bool:
    with contextlib.suppress(OSError), socket.create_connection((ip, PORT), timeout=CONNECT_S):
        return True
    return False


def ended(runtime: Runtime, pod: Pod) -> NotYet:
    code = runtime.exit_code(pod)
    assert code is None, f"it ended with {code}: {runtime.log(pod)}"
    return NotYet("nobody listens")
