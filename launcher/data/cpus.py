"""The processors of a rank: its own, and its share of those that it has in common with other ranks of its node."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from launcher.distributed.comm import Comm


@dataclass(frozen=True, slots=True)
class CpuLimits:
    """`mask`: the processors on which a process may run, by number.

    `quotas`: the processors' worth of time that each of its control groups may take, by the group's identity.
    """

    mask: frozenset[int]
    quotas: dict[str, Fraction]


def share_cpus(own: CpuLimits, of_node: Sequence[CpuLimits]) -> int:
    """Processors for one rank, at least 1. `of_node`: the limits of every rank of its node, its own among them.

    Only what several ranks may use is divided: srun gives each task processors of its own, accelerate gives none.
    """
    num_sharing = Counter(cpu for each in of_node for cpu in each.mask)
    shares = [sum((Fraction(1, num_sharing[cpu]) for cpu in own.mask), Fraction(0))]
    for group, quota in own.quotas.items():
        shares.append(quota / sum(group in each.quotas for each in of_node))
    return max(1, int(min(shares)))


def count_cpus(comm: Comm) -> int:
    """This rank's share of the processors of its node. Called by every rank."""
    own = read_cpu_limits()
    here = comm.hosts[comm.world.rank]
    every = zip(comm.hosts, comm.all_gather_object(own), strict=True)
    return share_cpus(own, [limits for host, limits in every if host == here])


def read_cpu_limits(root: Path = Path("/")) -> CpuLimits:
    """The limits of this process. `root`: where `/proc` and `/sys` are."""
    # macOS does not tell which processors a process may use.
    is_told = hasattr(os, "sched_getaffinity")
    mask = os.sched_getaffinity(0) if is_told else range(os.cpu_count() or 1)
    quotas = {}
    for folder in _groups(root):
        quota = _read_quota(folder)
        if quota is not None:
            # A path does not do: each container sees its own group as `/`.
            identity = folder.stat()
            quotas[f"{identity.st_dev}:{identity.st_ino}"] = quota
    return CpuLimits(frozenset(mask), quotas)


def _groups(root: Path) -> Iterator[Path]:
    """Folders of the control groups, of both versions, that may limit the processors, and of those that hold them."""
    mount = root / "sys/fs/cgroup"
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return  # not Linux
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            tops = [mount, mount / "unified"]
        elif "cpu" in controllers.split(","):
            tops = [mount / controllers, mount / "cpu"]
        else:
            continue
        for top in tops:
            folder = top / path.lstrip("/")
            yield folder
            while folder != top:
                folder = folder.parent
                yield folder


def _read_quota(folder: Path) -> Fraction | None:
    """None: no limit, or no such group, as a container may not see the one that the host made for it."""
    try:
        if (folder / "cpu.max").exists():
            quota, period = (folder / "cpu.max").read_text().split()
        else:
            quota, period = ((folder / f"cpu.cfs_{name}_us").read_text().strip() for name in ("quota", "period"))
        return None if quota in ("max", "-1") else Fraction(int(quota), int(period))
    except (OSError, ValueError, ZeroDivisionError):
        return None
