"""What runs a pod's container: podman, or where no container runs, network namespaces with the image's files.

Both give it a network of its own with DNS or a file of names, its user without any right, a root directory that cannot be written
where the template says so, and its mounts. Only podman has the runtime's filter of system calls, and its memory is limited where
the machine can.
"""

import contextlib
import ipaddress
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import tempfile
import typing

import image
from pods import Pod

COMMAND_S = 60
# The range that is set aside for measurements of networks: nothing real has such an address.
RANGE = ipaddress.IPv4Network("198.18.0.0/15")
ATTEMPTS = 20


def run(*command, check=True, timeout=COMMAND_S) -> subprocess.CompletedProcess:
    done = subprocess.run(
        [str(each) for each in command], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout
    )
    assert not check or done.returncode == 0, (
        f"{' '.join(map(str, command))}: {done.returncode}\n{done.stdout}{done.stderr}"
    )
    return done


class Contents(typing.Protocol):
    """What the containers are made of: `image`, or `probe`'s program."""

    def load(self, podman) -> str:
        """Gives it to podman, and answers what podman calls it."""

    def extract(self, to: pathlib.Path) -> None:
        """The root directory, for those who run without podman."""


class Runtime:
    """A network, and containers in it by the names of their pods."""

    def __init__(self):
        # Short: sockets lie in there, whose paths may have some hundred bytes.
        self.directory = pathlib.Path(tempfile.mkdtemp(prefix="gvc"))
        self.name = f"gvc{os.getpid()}"
        self.subnet = None
        self.given = 10

    def lay(self, make) -> None:
        """Makes the network, in a subnet that nobody has."""
        for _ in range(ATTEMPTS):
            self.subnet = random.choice(list(RANGE.subnets(new_prefix=24)))
            routes = run("ip", "-4", "route", "show", "table", "all").stdout
            if str(self.subnet.network_address)[:-1] in routes:
                continue
            with contextlib.suppress(AssertionError):
                return make()
        raise AssertionError(f"no network could be made in {ATTEMPTS} attempts")

    def address(self) -> ipaddress.IPv4Address:
        """One that no pod had before."""
        self.given += 1
        return self.subnet[self.given]


class Podman(Runtime):
    """Containers by podman and runc, with a store and a network of the test's own."""

    kind = "podman"

    def __init__(self, contents: Contents):
        super().__init__()
        self.base = [
            "podman", "--root", self.directory / "root", "--runroot", self.directory / "run",
            "--tmpdir", self.directory / "tmp", "--network-config-dir", self.directory / "net",
            "--storage-driver", "vfs", "--cgroup-manager", "cgroupfs", "--runtime", "runc",
            "--events-backend", "file", "--log-level", "error",
        ]  # fmt: skip
        try:
            self.loaded = contents.load(self.podman)
            self.lay(lambda: self.podman("network", "create", "--subnet", self.subnet, self.name))
        except BaseException:
            self.close()
            raise

    def podman(self, *arguments, check=True, timeout=COMMAND_S):
        return run(*self.base, *arguments, check=check, timeout=timeout)

    @staticmethod
    def limits() -> list[str]:
        # Podman's own defaults are above what a process without CAP_SYS_RESOURCE may have.
        return ["--ulimit", "nofile=8192:8192", "--ulimit", "nproc=4096:4096"]

    def start(self, pod: Pod) -> None:
        """A new container, as the kubelet makes one at each start of it; the pod's volumes and address are the same."""
        self.podman("rm", "--force", "--time", "0", "--ignore", pod.name)
        made = pod.container
        self.podman("tag", self.loaded, made.image)
        options = [
            "--name",
            pod.name,
            "--hostname",
            pod.name,
            "--network",
            self.name,
            "--ip",
            pod.ip,
            "--pull",
            "never",
            *self.limits(),
        ]
        options += ["--user", made.user, "--cap-drop", "all", "--security-opt", "no-new-privileges", "--env-host=false"]
        if made.read_only:
            options += ["--read-only", "--read-only-tmpfs=false"]
        if made.memory_bytes:
            options += ["--memory", str(made.memory_bytes)]
        if made.command:
            options += ["--entrypoint", json.dumps(made.command)]
        for name in pod.names:
            options += ["--network-alias", name]
        for name, value in made.env.items():
            options += ["--env", f"{name}={value}"]
        for source, place, read_only in made.mounts:
            options += ["--volume", f"{source}:{place}{':ro' if read_only else ''}"]
        self.podman("run", "--detach", *options, made.image, *made.args)

    def execute(self, pod: Pod, command: list[str]) -> subprocess.CompletedProcess:
        return self.podman("exec", pod.name, *command, check=False)

    def signal(self, pod: Pod, number: signal.Signals) -> None:
        self.podman("kill", "--signal", number.name, pod.name, check=False)

    def state(self, pod: Pod) -> dict:
        return json.loads(self.podman("inspect", "--format", "{{json .State}}", pod.name).stdout)

    def exit_code(self, pod: Pod) -> int | None:
        """Of a container that has ended."""
        state = self.state(pod)
        return None if state["Status"] in ("running", "created", "stopping") else state["ExitCode"]

    def pid(self, pod: Pod) -> int:
        return self.state(pod)["Pid"]

    def log(self, pod: Pod) -> str:
        done = self.podman("logs", "--tail", "40", pod.name, check=False)
        return done.stdout + done.stderr

    def remove(self, pod: Pod) -> None:
        self.podman("rm", "--force", "--time", "0", pod.name)

    def close(self) -> None:
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            self.podman("rm", "--force", "--all", "--time", "0", check=False)
            self.podman("network", "rm", "--force", self.name, check=False)
        shutil.rmtree(self.directory, ignore_errors=True)


# In a namespace of mounts that is the container's own: the image's files, its mounts, and the program as its user, with no right,
# and none to be had: what changing to that user takes stays in a set that nothing can be drawn from any more. `$1`: its root
# directory; `$2`: its user; `$3`: `ro` or `rw`; then pairs of mounts, `--`, and the command.
ENTER = r"""
set -eu
root=$1 user=$2 access=$3
shift 3
mount --bind "$root" "$root"
mount -t proc proc "$root/proc"
# A static program opens these for its random bits, and every runtime of containers brings them.
for device in null random urandom; do
    : >>"$root/dev/$device"
    mount --bind "/dev/$device" "$root/dev/$device"
done
while [ "$1" != -- ]; do
    mkdir -p "$root$2"
    mount --bind "$1" "$root$2"
    [ "$3" = rw ] || mount -o remount,bind,ro "$root$2"
    shift 3
done
shift
mount -o "remount,bind,$access" "$root"
exec setpriv --no-new-privs --bounding-set=-all,+sys_chroot,+setuid,+setgid --inh-caps=-all chroot --userspec="$user" "$root" "$@"
"""


class Namespaces(Runtime):
    """The image's files in namespaces of network and mounts, on one bridge: what is left where no container runs."""

    kind = "network namespaces"

    def __init__(self, contents: Contents):
        super().__init__()
        self.files = self.directory / "image"
        self.processes: dict[str, subprocess.Popen] = {}
        self.names: dict[str, list[str]] = {}
        try:
            self.files.mkdir()
            contents.extract(self.files)
            self.hosts = self.directory / "hosts"
            self.hosts.write_text("")
            self.lay(self.bridge)
        except BaseException:
            self.close()
            raise

    def bridge(self) -> None:
        run("ip", "link", "add", self.name, "type", "bridge")
        run("ip", "address", "add", f"{self.subnet[1]}/24", "dev", self.name)
        run("ip", "link", "set", self.name, "up")

    def start(self, pod: Pod) -> None:
        self.names[pod.ip] = pod.names
        self.write_hosts()
        namespace, link = f"{self.name}-{pod.name}", f"v{pod.ip.rpartition('.')[2]}{self.name[3:]}"
        if namespace not in run("ip", "netns", "list").stdout.split():
            run("ip", "netns", "add", namespace)
            run("ip", "link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", namespace)
            run("ip", "link", "set", link, "master", self.name, "up")
            for command in (
                ["address", "add", f"{pod.ip}/24", "dev", "eth0"],
                ["link", "set", "eth0", "up"],
                ["link", "set", "lo", "up"],
            ):
                run("ip", "-n", namespace, *command)
        root = self.directory / "roots" / pod.name
        if not root.exists():
            shutil.copytree(self.files, root)
            for place in ("dev", "etc", "proc"):
                (root / place).mkdir(exist_ok=True)
            shutil.copy(self.hosts, root / "etc/hosts")
        with self.log_file(pod).open("ab") as log:
            command = [
                "ip",
                "netns",
                "exec",
                namespace,
                "unshare",
                "--mount",
                *self.enter(pod, root, [*self.program(pod), *pod.container.args]),
            ]
            self.processes[pod.name] = subprocess.Popen(
                command,
                env={"PATH": os.environ["PATH"]} | pod.container.env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    @staticmethod
    def program(pod: Pod) -> list[str]:
        return pod.container.command or image.config()["config"]["Entrypoint"]

    def enter(self, pod: Pod, root: pathlib.Path, command: list[str]) -> list[str]:
        made = pod.container
        mounts = [
            each
            for source, place, read_only in made.mounts
            for each in (str(source), place, "ro" if read_only else "rw")
        ]
        return [
            "sh",
            "-c",
            ENTER,
            "enter",
            str(root),
            made.user,
            "ro" if made.read_only else "rw",
            *mounts,
            "--",
            *command,
        ]

    def write_hosts(self) -> None:
        """Every name with every address, one a line: in the place of DNS. In place, for it is the same file in all of them."""
        lines = [f"{ip} {name}\n" for ip, names in self.names.items() for name in names]
        self.hosts.write_text("127.0.0.1 localhost\n" + "".join(lines))
        for root in (self.directory / "roots").glob("*"):
            (root / "etc/hosts").write_text(self.hosts.read_text())

    def log_file(self, pod: Pod) -> pathlib.Path:
        return self.directory / f"{pod.name}.log"

    def execute(self, pod: Pod, command: list[str]) -> subprocess.CompletedProcess:
        process = self.processes[pod.name]
        inside = [
            "nsenter",
            "--target",
            process.pid,
            "--net",
            "--mount",
            "chroot",
            "--userspec",
            pod.container.user,
            self.directory / "roots" / pod.name,
            *command,
        ]
        environment = [
            "env",
            "-i",
            f"PATH={os.environ['PATH']}",
            *(f"{name}={value}" for name, value in pod.container.env.items()),
        ]
        return run(*environment, *inside, check=False)

    def signal(self, pod: Pod, number: signal.Signals) -> None:
        self.processes[pod.name].send_signal(number)

    def exit_code(self, pod: Pod) -> int | None:
        code = self.processes[pod.name].poll()
        return 128 - code if code is not None and code < 0 else code

    def pid(self, pod: Pod) -> int:
        return self.processes[pod.name].pid

    def log(self, pod: Pod) -> str:
        return "\n".join(self.log_file(pod).read_text(errors="replace").splitlines()[-40:])

    def remove(self, pod: Pod) -> None:
        process = self.processes.pop(pod.name)
        if process.poll() is None:
            process.kill()
        process.wait()
        self.names.pop(pod.ip, None)
        self.write_hosts()
        run("ip", "netns", "delete", f"{self.name}-{pod.name}")

    def close(self) -> None:
        for process in self.processes.values():
            if process.poll() is None:
                process.kill()
            process.wait()
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            for line in run("ip", "netns", "list", check=False).stdout.splitlines():
                if line.startswith(f"{self.name}-"):
                    run("ip", "netns", "delete", line.split()[0], check=False)
            run("ip", "link", "delete", self.name, check=False)
        shutil.rmtree(self.directory, ignore_errors=True)
