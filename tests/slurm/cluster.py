"""A real SLURM cluster on one machine: a controller and two nodes, each in namespaces of its own.

munged, slurmctld and slurmd of the Debian packages; no systemd, no control groups, no accounting. Nodes have their own
network, processes and host name, and share the disk. The machine's own network is not changed.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "unshare", "setpriv", "nsenter", "ip")
PACKAGES = "munge slurmctld slurmd slurm-client iproute2 util-linux"

NODES = ("node1", "node2")
CPUS = 4
"""CPUs of each node, as SLURM counts them; the machine may have fewer."""
NETWORK = "10.213.77"
WAIT_S = 240.0

CONFIG = """\
ClusterName=tests
SlurmctldHost=ctl({network}.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
# A requeued job waits until its credential has expired: 120 s by default.
AuthInfo=socket={root}/munge.sock,cred_expire=6
StateSaveLocation={root}/state
SlurmdSpoolDir={root}/spool/%n
SlurmctldPidFile={root}/slurmctld.pid
SlurmdPidFile={root}/slurmd.%n.pid
SlurmctldLogFile={root}/slurmctld.log
SlurmdLogFile={root}/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
MpiDefault=none
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=2,sched_interval=2,batch_sched_delay=0
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
SlurmdParameters=config_overrides
ReturnToService=2
PropagateResourceLimits=NONE
KillWait=20
MinJobAge=86400
SlurmdTimeout=20
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
NodeName=node1 NodeAddr={network}.11 Port=17000 CPUs={cpus} RealMemory=8000
NodeName=node2 NodeAddr={network}.12 Port=17000 CPUs={cpus} RealMemory=8000
PartitionName=normal Nodes=ALL Default=YES PriorityTier=1 PreemptMode=REQUEUE GraceTime=60 State=UP
PartitionName=urgent Nodes=ALL PriorityTier=10 PreemptMode=OFF State=UP
"""


def why_not() -> str | None:
    """Why a cluster cannot run here; None where it can."""
    missing = [name for name in PROGRAMS if shutil.which(name, path=_path()) is None]
    if missing:
        return f"no {', '.join(missing)}: apt-get install {PACKAGES}"
    made = subprocess.run(["unshare", "--net", "--pid", "--fork", "--mount", "true"], capture_output=True, text=True)
    return None if made.returncode == 0 else f"no namespaces: {made.stderr.strip()}"


def _path() -> str:
    return f"{os.environ['PATH']}:/usr/sbin:/sbin"


@dataclass
class Cluster:
    root: Path
    """A folder of its own, with a short path."""
    environment: Mapping[str, str]
    """Environment of the jobs."""
    _inside: dict[str, int] = field(default_factory=dict)
    """Host -> process id of the first process in its namespaces."""
    _outside: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def start(self) -> None:
        try:
            self._start()
        except BaseException:
            self.stop()
            raise

    def _start(self) -> None:
        self.root.chmod(0o755)  # munged refuses a socket that not every user can reach
        for name in ("state", *(f"spool/{node}" for node in NODES)):
            (self.root / name).mkdir(parents=True)
        (self.root / "slurm.conf").write_text(CONFIG.format(root=self.root, network=NETWORK, cpus=CPUS))
        (self.root / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\nCgroupAutomount=no\n")
        addresses = {"ctl": 1, "node1": 11, "node2": 12}
        hosts = "".join(f"{NETWORK}.{number} {name}\n" for name, number in addresses.items())
        (self.root / "hosts").write_text(f"127.0.0.1 localhost\n{hosts}")
        key = self.root / "munge.key"
        key.write_bytes(secrets.token_bytes(128))
        key.chmod(0o600)
        self._enter("ctl")
        self._run("ctl", "-n", f"ip link add br0 type bridge; ip addr add {NETWORK}.1/24 dev br0; ip link set br0 up")
        files = [f"--{name}-file={self.root}/munged.{name}" for name in ("log", "pid", "seed")]
        self._run("ctl", "-mupn", f"munged --socket={self.root}/munge.sock --key-file={key} {' '.join(files)}")
        self._run("ctl", "-mupn", "slurmctld")
        for node in NODES:
            self.start_node(node)

    def start_node(self, node: str) -> None:
        """Start a node, also one that was lost."""
        number = NODES.index(node) + 1
        self._enter(node)
        cable = f"ip link add v{number} type veth peer name eth0 netns {self._inside[node]}"
        self._run("ctl", "-n", f"{cable}; ip link set v{number} master br0; ip link set v{number} up")
        self._run(node, "-n", f"ip addr add {NETWORK}.{10 + number}/24 dev eth0; ip link set eth0 up")
        self._run(node, "-mupn", f"slurmd -N {node}")
        self.wait(lambda: self.ask("sinfo", "-h", "-n", node, "-o", "%T").split()[0] == "idle", f"{node} is not idle")

    def lose_node(self, node: str) -> None:
        """Like a power failure: slurmd, jobs and network are gone at once."""
        os.kill(self._inside.pop(node), signal.SIGKILL)
        self._outside.pop(node).wait(timeout=20)

    def stop(self) -> None:
        """End each namespace's first process, and thereby everything in it."""
        for host in reversed(list(self._inside)):
            self.lose_node(host)

    def ask(self, *words: str | Path, cwd: Path = Path("/"), **settings: str) -> str:
        """Output of a command that must succeed. `settings`: further environment."""
        ended = self.call(*words, cwd=cwd, **settings)
        assert ended.returncode == 0, (words, ended.stdout, ended.stderr)
        return ended.stdout

    def call(self, *words: str | Path, cwd: Path, **settings: str) -> subprocess.CompletedProcess[str]:
        """Run a command on the controller's host, as on a login node."""
        command, env = self._on_login_node(words, cwd, settings)
        return subprocess.run(
            command, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=WAIT_S
        )

    def start_command(self, *words: str | Path, cwd: Path, **settings: str) -> subprocess.Popen[str]:
        command, env = self._on_login_node(words, cwd, settings)
        pipe = subprocess.PIPE
        return subprocess.Popen(command, env=env, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, text=True)

    def _on_login_node(
        self, words: Sequence[str | Path], cwd: Path, settings: Mapping[str, str]
    ) -> tuple[list[str], dict[str, str]]:
        command = ["nsenter", "-t", str(self._inside["ctl"]), "-m", "-u", "-n", f"--wd={cwd}", "--", *map(str, words)]
        slurm = {"PATH": self._job_path(), "SLURM_CONF": f"{self.root}/slurm.conf"}
        return command, {**self.environment, **slurm, **settings}

    def sbatch(self, *words: str | Path, cwd: Path, **settings: str) -> str:
        """Submit a job and return its id."""
        return self.ask("sbatch", "--parsable", *words, cwd=cwd, **settings).strip()

    def job_info(self, job: str) -> dict[str, str]:
        """scontrol's fields of a job: JobState, Restarts, ExitCode ..."""
        words = self.ask("scontrol", "show", "job", job, "-o").splitlines()[0].split()
        return dict(word.partition("=")[::2] for word in words if "=" in word)

    def wait_for_state(self, job: str, *states: str) -> dict[str, str]:
        self.wait(lambda: self.job_info(job)["JobState"] in states, f"job {job} is not {' or '.join(states)}")
        return self.job_info(job)

    def wait(self, condition: Callable[[], bool], complaint: str) -> None:
        end = time.monotonic() + WAIT_S
        while not condition():
            assert time.monotonic() < end, f"{complaint}\n{self.ask('squeue', '-a')}\n{self.ask('sinfo', '-N', '-l')}"
            time.sleep(0.3)

    def _job_path(self) -> str:
        return f"{self.environment['PATH']}:/usr/sbin:/sbin"

    def _enter(self, host: str) -> None:
        """Start an idle process in namespaces of its own. It ends with the tests, however they end."""
        ready = self.root / f"{host}.ready"
        ready.unlink(missing_ok=True)
        script = (
            'hostname "$0" && mount --bind "$1/hosts" /etc/hosts && ip link set lo up && touch "$2"; exec sleep inf'
        )
        own = ["--fork", "--kill-child", "--pid", "--mount-proc", "--uts", "--mount", "--net", "--propagation=private"]
        with (self.root / f"{host}.log").open("ab") as log:
            outside = subprocess.Popen(
                [
                    "setpriv",
                    "--pdeathsig=KILL",
                    "unshare",
                    *own,
                    "bash",
                    "-c",
                    script,
                    host,
                    str(self.root),
                    str(ready),
                ],
                env={**os.environ, "PATH": _path()},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._outside[host] = outside
        children = Path(f"/proc/{outside.pid}/task/{outside.pid}/children")
        end = time.monotonic() + WAIT_S
        while not ready.exists():
            assert time.monotonic() < end, (self.root / f"{host}.log").read_text()
            assert outside.poll() is None, (self.root / f"{host}.log").read_text()
            time.sleep(0.02)
        self._inside[host] = int(children.read_text().split()[0])

    def _run(self, host: str, spaces: str, script: str) -> None:
        """Run a shell script in some namespaces of a host; the daemons that it starts stay."""
        inside = ["nsenter", "-t", str(self._inside[host]), *(f"-{space}" for space in spaces.removeprefix("-"))]
        environment = {**os.environ, "PATH": self._job_path(), "SLURM_CONF": f"{self.root}/slurm.conf"}
        with (self.root / f"{host}.log").open("ab") as log:
            words = [*inside, "--", "sh", "-ec", script]
            ended = subprocess.run(words, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, timeout=60)
        assert ended.returncode == 0, (script, (self.root / f"{host}.log").read_text())
