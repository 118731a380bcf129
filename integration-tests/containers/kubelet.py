"""What a kubelet does with one pod: starts its container, probes it by the probes' own numbers, restarts what died, and ends it
by hook, signal and grace period."""

import signal
import subprocess
import sys
import threading
import time

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

import image
from pods import Pod
from pykit import eventually
from runtimes import Runtime

# Of a container that was made until its startup probe passes; its own patience is minutes, for large directories.
START_S = 60
# Without a probe's word, nobody here waits for longer.
READY_S = 60


class Kubelet:
    """One pod on its node."""

    def __init__(self, runtime: Runtime, pod: Pod):
        self.runtime = runtime
        self.pod = pod
        self.started = False
        self.passed = False
        self.ending = False
        self.killed = False
        self.hook_code: int | None = None
        # What a kubelet would have restarted it for, or what no pod should do.
        self.problems: list[str] = []
        self.probed = dict.fromkeys(pod.probes, 0)
        self.stop = threading.Event()
        self.threads: list[threading.Thread] = []

    @property
    def ready(self) -> bool:
        """Whether Services lead to it."""
        return self.passed and not self.ending

    def start(self) -> None:
        self.runtime.start(self.pod)
        self.stop = stop = threading.Event()
        self.threads = [threading.Thread(target=self.probe_all, args=(stop,), daemon=True)]
        self.threads[0].start()

    def ask(self, kind: str) -> bool:
        """Once, as a probe says."""
        probe = self.pod.probes[kind]
        self.probed[kind] += 1
        with grpc.insecure_channel(f"{self.pod.ip}:{probe['grpc']['port']}") as channel:
            try:
                request = health_pb2.HealthCheckRequest(service=probe["grpc"].get("service", ""))
                answer = health_pb2_grpc.HealthStub(channel).Check(request, timeout=probe["timeoutSeconds"])
            except grpc.RpcError:
                return False
        return answer.status == health_pb2.HealthCheckResponse.SERVING

    def probe_all(self, stop: threading.Event) -> None:
        """First the startup probe, then the two others side by side."""
        for _ in range(self.pod.probes["startup"]["failureThreshold"]):
            if self.ask("startup"):
                break
            if stop.wait(self.pod.probes["startup"]["periodSeconds"]):
                return
        else:
            self.problems.append(f"{self.pod.name}: its startup probe failed too often")
            return
        self.started = True
        for kind in ("liveness", "readiness"):
            self.threads.append(threading.Thread(target=self.probe, args=(kind, stop), daemon=True))
            self.threads[-1].start()

    def probe(self, kind: str, stop: threading.Event) -> None:
        probe, failed = self.pod.probes[kind], 0
        while True:
            answer = self.ask(kind)
            if stop.is_set():
                return
            failed = 0 if answer else failed + 1
            if kind == "readiness":
                self.passed = answer or (self.passed and failed < probe["failureThreshold"])
            elif failed >= probe["failureThreshold"]:
                self.problems.append(f"{self.pod.name}: {failed} liveness probes in a row failed")
                return
            if stop.wait(probe["periodSeconds"]):
                return

    def unprobed(self) -> None:
        self.stop.set()
        for thread in list(self.threads):
            thread.join()
        self.started = self.passed = False

    def wait_ready(self) -> None:
        try:
            eventually(lambda: self.started or self.dead(), within=START_S, what=f"{self.pod.name} has started")
            eventually(lambda: self.passed or self.dead(), within=READY_S, what=f"{self.pod.name} is ready")
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.runtime.log(self.pod)}") from None

    def exited(self) -> int | None:
        return self.runtime.exit_code(self.pod)

    def dead(self) -> bool:
        assert self.exited() is None, f"{self.pod.name} ended with {self.exited()}"
        return False

    def kill(self) -> None:
        """As an out-of-memory killer does; a kubelet sees at once that it is not ready."""
        self.ending = self.killed = True
        self.runtime.signal(self.pod, signal.SIGKILL)
        code = eventually(self.exited, within=10, what=f"{self.pod.name} is dead")
        assert code == 128 + signal.SIGKILL, code
        self.unprobed()

    def restart(self) -> None:
        """The same pod: its name, address and volumes."""
        self.ending = self.killed = False
        self.start()

    def end(self) -> float:
        """The pod's deletion: no Service leads to it, the hook, SIGTERM, and the rest of the grace period. Answers how long it
        took."""
        begun = time.monotonic()
        self.ending = True
        if self.pod.pre_stop:
            self.hook()
        self.runtime.signal(self.pod, signal.SIGTERM)
        left = self.pod.grace_s - (time.monotonic() - begun)
        eventually(lambda: self.exited() is not None, within=left, what=f"{self.pod.name} ends within its grace period")
        assert self.exited() == 0, f"{self.pod.name} ended with {self.exited()}\n{self.runtime.log(self.pod)}"
        took = time.monotonic() - begun
        self.unprobed()
        self.runtime.remove(self.pod)
        return took

    def hook(self) -> None:
        done = self.runtime.execute(self.pod, self.pod.pre_stop)
        # With the container's first process everything in it ends, and that is what the hook waits for: it may be killed an
        # instant before it could say that it is done.
        self.hook_code = done.returncode
        if done.returncode != 0:
            eventually(
                lambda: self.exited() is not None, within=self.pod.grace_s, what="the drain that was asked for ends"
            )
            assert self.exited() == 0, done.stdout + done.stderr

    def cli(self, *arguments: str) -> subprocess.CompletedProcess:
        """The command line in the container, as `kubectl exec` runs it."""
        done = self.runtime.execute(self.pod, [*image.config()["config"]["Entrypoint"], *arguments])
        assert done.returncode == 0, f"{arguments}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done


RELAY = """
import asyncio, sys

async def pump(reader, writer):
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    finally:
        writer.close()

async def main():
    async def relay(reader, writer):
        try:
            inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", int(sys.argv[2]))
        except OSError:
            return writer.close()
        await asyncio.gather(pump(reader, inner_writer), pump(inner_reader, writer))

    server = await asyncio.start_unix_server(relay, sys.argv[1])
    print("listening", flush=True)
    await server.serve_forever()

asyncio.run(main())
"""


class Inside:
    """A way to the pod's loopback, where another container of the pod would call: a process in its network hands connections on."""

    def __init__(self, kubelet: Kubelet, port: int):
        self.path = kubelet.runtime.directory / f"{kubelet.pod.ip}.sock"
        self.path.unlink(missing_ok=True)
        pid = kubelet.runtime.pid(kubelet.pod)
        command = ["nsenter", "--target", str(pid), "--net", sys.executable, "-c", RELAY, str(self.path), str(port)]
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
        assert self.process.stdout.readline() == b"listening\n"

    def close(self) -> None:
        self.process.terminate()
        self.process.wait()
        self.process.stdout.close()
