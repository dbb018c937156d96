"""The processors of a rank, by affinity masks and control groups."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from launcher.data.cpus import CpuLimits, count_cpus, read_cpu_limits, share_cpus
from launcher.distributed.comm import Comm
from launcher.distributed.world import World

NODE = range(64)


def limits(mask: Iterable[int], **quotas: float) -> CpuLimits:
    return CpuLimits(frozenset(mask), {group: Fraction(quota) for group, quota in quotas.items()})


@pytest.mark.parametrize(
    ("ranks", "expected"),
    [
        pytest.param([limits(NODE)], [64], id="alone"),
        pytest.param([limits(NODE)] * 8, [8] * 8, id="accelerate: all may run anywhere"),
        pytest.param([limits(range(8 * i, 8 * i + 8)) for i in range(8)], [8] * 8, id="srun: each task has its own"),
        pytest.param([limits(range(8))] * 8, [1] * 8, id="accelerate in a job of 8 processors"),
        pytest.param([limits(range(3))] * 3, [1] * 3, id="thirds add up"),
        pytest.param([limits(range(2))] * 4, [1] * 4, id="never none"),
        pytest.param([limits(range(8)), limits(range(4, 16))], [6, 10], id="some in common"),
        pytest.param([limits(NODE, box=8)], [8], id="a container with a quota"),
        pytest.param([limits(NODE, box=8)] * 4, [2] * 4, id="four ranks in it"),
        pytest.param([limits(NODE, one=8), limits(NODE, two=8)], [8, 8], id="two containers"),
        pytest.param([limits(NODE, pod=12, one=8), limits(NODE, pod=12, two=8)], [6, 6], id="two containers of a pod"),
        pytest.param([limits(range(4), box=7.5)], [4], id="a quota above the mask"),
        pytest.param([limits(NODE, box=0.5)], [1], id="a part of a processor"),
    ],
)
def test_only_what_ranks_have_in_common_is_divided(ranks: list[CpuLimits], expected: list[int]) -> None:
    assert [share_cpus(own, ranks) for own in ranks] == expected


def test_ranks_of_other_nodes_take_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four ranks on each of two nodes whose processors have the same numbers."""
    monkeypatch.setattr("launcher.data.cpus.read_cpu_limits", lambda: limits(range(16)))
    comm = SimpleNamespace(
        world=World(rank=5, size=8, local_rank=1, local_size=4),
        hosts=["a"] * 4 + ["b"] * 4,
        all_gather_object=lambda value: [value] * 8,
    )
    assert count_cpus(cast(Comm, comm)) == 4


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        pytest.param({}, [], id="not Linux"),
        pytest.param({"proc/self/cgroup": "0::/\n"}, [], id="no group"),
        pytest.param({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "max 100000\n"}, [], id="no limit"),
        pytest.param({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "750000 100000\n"}, [7.5], id="docker"),
        pytest.param(
            {
                "proc/self/cgroup": "0::/job/step\n",
                "sys/fs/cgroup/job/step/cpu.max": "max 100000\n",
                "sys/fs/cgroup/job/cpu.max": "400000 100000\n",
                "sys/fs/cgroup/other/cpu.max": "100000 100000\n",
            },
            [4],
            id="a group around it",
        ),
        pytest.param(
            {
                "proc/self/cgroup": "4:memory:/x\n3:cpu,cpuacct:/x\n0::/\n",
                "sys/fs/cgroup/cpu,cpuacct/x/cpu.cfs_quota_us": "300000\n",
                "sys/fs/cgroup/cpu,cpuacct/x/cpu.cfs_period_us": "100000\n",
                "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "-1\n",
                "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
            },
            [3],
            id="version 1",
        ),
        pytest.param(
            {
                "proc/self/cgroup": "1:cpu:/docker/5f2a\n",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "200000\n",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            },
            [2],
            id="version 1 in docker, which names the group of the host",
        ),
        pytest.param({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "?"}, [], id="unknown text"),
    ],
)
def test_quotas_of_control_groups_are_read(tmp_path: Path, files: dict[str, str], expected: list[float]) -> None:
    assert list(read_cpu_limits(write(tmp_path, files)).quotas.values()) == expected


def test_the_same_group_has_one_identity(tmp_path: Path) -> None:
    """Under its own name and under that of its controllers."""
    folder = tmp_path / "sys/fs/cgroup/cpu,cpuacct"
    write(folder, {"cpu.cfs_quota_us": "200000", "cpu.cfs_period_us": "100000"})
    (tmp_path / "sys/fs/cgroup/cpu").symlink_to(folder)
    write(tmp_path, {"proc/self/cgroup": "1:cpu,cpuacct:/\n"})
    assert list(read_cpu_limits(tmp_path).quotas.values()) == [2]


def test_the_mask_is_that_of_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {2, 3, 5})
    assert read_cpu_limits().mask == {2, 3, 5}
    monkeypatch.delattr("os.sched_getaffinity")
    monkeypatch.setattr("os.cpu_count", lambda: 3)
    assert read_cpu_limits().mask == {0, 1, 2}
