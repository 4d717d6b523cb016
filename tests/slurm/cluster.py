"""A real Slurm cluster on this machine: every node has its own network, host name, mounts and process numbers.

In: a number of nodes and an empty folder. Out: a Cluster on which commands run, and whose nodes crash and lose their
links on demand. Needs root, Debian's slurmctld, slurmd, slurm-client, munge and iproute2.
Tasks are bound to cores, as clusters bind them: what does not ask for its cores gets one.
Always: everything lives in namespaces made here and in the folder; `down` ends every process and removes both.
"""

import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

CONTROLLER = "controller"
BINARIES = ("slurmctld", "slurmd", "sbatch", "munged", "ip", "nsenter", "unshare")
PREFIX = "pretrain-lab"
SUBNET = "10.77.0"
CPUS = 4
SECONDS_TO_NOTICE_A_DEAD_NODE = 15

SLURM_CONF = """\
ClusterName=lab
SlurmctldHost=controller({subnet}.254)
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/munge.sock,cred_expire=5
SlurmUser=root
SlurmdUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/log/slurmctld.log
SlurmdLogFile={folder}/log/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/affinity
TaskPluginParam=autobind=cores
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
MailProg=/bin/true
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
ReturnToService=2
JobRequeue=1
SchedulerParameters=sched_interval=5,bf_interval=5
MessageTimeout=5
SlurmdTimeout={timeout}
KillWait=5
InactiveLimit=0
NodeName=DEFAULT CPUs={cpus} RealMemory=4000
{nodes}
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


@dataclass(frozen=True)
class Answer:
    """What a command on a node gave."""

    status: int
    out: str
    err: str


class Cluster:
    """Nodes node1 .. nodeN and a controller, which is the login node, too."""

    def __init__(self, folder: Path, nodes: int) -> None:
        self.folder = folder
        self.names = [f"node{number}" for number in range(1, nodes + 1)]
        self._prefix = f"{PREFIX}-{os.getpid()}"
        self._first_processes: dict[str, int] = {}

    def up(self) -> None:
        """Starts everything and waits until all nodes are idle."""
        remove_leftovers()
        self._write_files()
        self._connect()
        for name in [CONTROLLER, *self.names]:
            self.boot(name)
        self.wait_for(self._all_idle, "the nodes to be idle", seconds=60)

    def down(self) -> None:
        """Ends every process and removes the namespaces; the folder stays for its owner."""
        for name in list(self._first_processes):
            self.crash(name)
        for name in _namespaces():
            if name.startswith(self._prefix):
                subprocess.run(["ip", "netns", "delete", name], check=True)

    def run(self, node: str, *command: str, user: int = 0, environment: Mapping[str, str] | None = None) -> Answer:
        """Runs a command on a node, from the folder that this process is in."""
        result = subprocess.run(
            [*self._inside(node), *_as_user(user), *command],
            capture_output=True,
            text=True,
            env={**os.environ, "SLURM_CONF": str(self.folder / "slurm.conf"), **(environment or {})},
            check=False,
        )
        return Answer(result.returncode, result.stdout, result.stderr)

    def slurm(self, *command: str) -> str:
        """A Slurm command's output, on the controller."""
        answer = self.run(CONTROLLER, *command)
        if answer.status != 0:
            raise RuntimeError(f"{' '.join(command)}: {answer.err}")
        return answer.out.strip()

    def boot(self, node: str) -> None:
        """Starts a node's processes."""
        network = f"/run/netns/{self._prefix}-{node}"
        script = Path(__file__).with_name("node.sh")
        unshare = ["unshare", "--uts", "--mount", "--pid", "--ipc", "--fork", "--kill-child"]
        with (self.folder / "log" / f"{node}.out").open("ab") as output:
            outer = subprocess.Popen(
                [
                    "nsenter",
                    f"--net={network}",
                    *unshare,
                    "/bin/bash",
                    str(script),
                    node,
                    str(self.folder),
                    sys.base_prefix,
                ],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        self.wait_for(lambda: bool(_children(outer.pid)), f"{node} to boot", seconds=10, pause=0.02)
        self._first_processes[node] = _children(outer.pid)[0]

    def crash(self, node: str) -> None:
        """Kills every process of a node at once."""
        first = self._first_processes.pop(node)
        parent = int(_stat(first)[1])
        os.kill(first, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(parent, 0)

    def cut(self, node: str) -> None:
        """Unplugs a node's network cable."""
        self._ip(CONTROLLER, "link", "set", f"to-{node}", "down")

    def mend(self, node: str) -> None:
        """Plugs it in again."""
        self._ip(CONTROLLER, "link", "set", f"to-{node}", "up")

    def heal(self) -> None:
        """Brings back what was crashed or cut, and waits until all nodes are idle."""
        for name in self.names:
            self.mend(name)
            if name not in self._first_processes:
                self.boot(name)
        self.wait_for(self._all_idle, "the nodes to be idle", seconds=90)

    def processes(self, node: str) -> list[tuple[int, str]]:
        """Process number, as this machine counts, and command line of every process of a node that is up."""
        if node not in self._first_processes:
            return []
        namespace = Path(f"/proc/{self._first_processes[node]}/ns/pid").readlink()
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if (entry / "ns/pid").readlink() == namespace:
                    found.append((int(entry.name), (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()))
        return found

    def wait_for(self, done: Callable[[], bool], what: str, seconds: float, pause: float = 0.2) -> None:
        """Asks ``done`` again and again."""
        deadline = time.monotonic() + seconds
        while not done():
            if time.monotonic() > deadline:
                raise TimeoutError(f"waited {seconds:.0f} s for {what}")
            time.sleep(pause)

    def _all_idle(self) -> bool:
        answer = self.run(CONTROLLER, "sinfo", "--noheader", "--states=idle", "--format=%D")
        return answer.out.split() == [str(len(self.names))]

    def _inside(self, node: str) -> list[str]:
        first = str(self._first_processes[node])
        return ["nsenter", "-t", first, "-m", "-u", "-n", "-i", "-p", f"--wd={Path.cwd()}"]

    def _write_files(self) -> None:
        for name in ("log", "state", *(f"spool.{node}" for node in self.names)):
            (self.folder / name).mkdir(parents=True)
        self.folder.chmod(0o755)
        addresses = {node: f"{SUBNET}.{number}" for number, node in enumerate(self.names, start=1)}
        hosts = ["127.0.0.1 localhost", f"{SUBNET}.254 {CONTROLLER}"]
        (self.folder / "hosts").write_text(
            "\n".join([*hosts, *(f"{address} {node}" for node, address in addresses.items())]) + "\n"
        )
        (self.folder / "slurm.conf").write_text(
            SLURM_CONF.format(
                folder=self.folder,
                subnet=SUBNET,
                cpus=CPUS,
                timeout=SECONDS_TO_NOTICE_A_DEAD_NODE,
                nodes="\n".join(f"NodeName={node} NodeAddr={address}" for node, address in addresses.items()),
            )
        )
        key = self.folder / "munge.key"
        key.write_bytes(secrets.token_bytes(128))
        key.chmod(0o600)

    def _connect(self) -> None:
        """A bridge in the controller's network, and a cable from each node to it."""
        for name in [CONTROLLER, *self.names]:
            subprocess.run(["ip", "netns", "add", f"{self._prefix}-{name}"], check=True)
        self._ip(CONTROLLER, "link", "add", "bridge", "type", "bridge")
        self._ip(CONTROLLER, "address", "add", f"{SUBNET}.254/24", "dev", "bridge")
        self._ip(CONTROLLER, "link", "set", "bridge", "up")
        for number, node in enumerate(self.names, start=1):
            other_end = ["peer", "name", "eth0", "netns", f"{self._prefix}-{node}"]
            self._ip(CONTROLLER, "link", "add", f"to-{node}", "type", "veth", *other_end)
            self._ip(CONTROLLER, "link", "set", f"to-{node}", "master", "bridge", "up")
            self._ip(node, "address", "add", f"{SUBNET}.{number}/24", "dev", "eth0")
            self._ip(node, "link", "set", "eth0", "up")

    def _ip(self, node: str, *command: str) -> None:
        subprocess.run(["ip", "-n", f"{self._prefix}-{node}", *command], check=True)


def missing_binaries() -> list[str]:
    """What a cluster needs and this machine lacks."""
    path = os.environ["PATH"] + ":/usr/sbin:/sbin"
    return [name for name in BINARIES if shutil.which(name, path=path) is None]


def remove_leftovers() -> None:
    """Removes the networks of clusters whose test was killed; their processes died with it."""
    for name in _namespaces():
        owner = name.removeprefix(f"{PREFIX}-").partition("-")[0]
        if name.startswith(f"{PREFIX}-") and not Path(f"/proc/{owner}").exists():
            subprocess.run(["ip", "netns", "delete", name], check=True)


def _namespaces() -> list[str]:
    listing = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout
    return [line.split()[0] for line in listing.splitlines() if line]


def _as_user(user: int) -> Sequence[str]:
    return [] if user == 0 else ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups"]


def _children(process: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{process}/task/{process}/children").read_text().split()]
    except FileNotFoundError:
        return []


def _stat(process: int) -> list[str]:
    """State, parent and so on, after the name in parentheses."""
    return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
