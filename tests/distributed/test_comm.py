"""Collectives between three ranks that are threads, and those of a single process."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from datetime import timedelta

import pytest
import torch
from torch import nn

from launcher.distributed import comm as comm_module
from launcher.distributed.comm import Comm, ShouldStop
from launcher.distributed.timeouts import COMM_TIMEOUT, JOIN_TIMEOUT
from launcher.distributed.world import World
from launcher.errors import DataError, LauncherError, RankLost, RunError, Stopped, UserError
from tests.distributed.threads import run_ranks


class Steps:
    """What ranks did, in order."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self._lock = threading.Lock()

    def add(self, name: str) -> None:
        with self._lock:
            self.done.append(name)


def describe(outcomes: Sequence[object]) -> list[str]:
    return [f"{type(each).__name__}: {each}" if isinstance(each, Exception) else str(each) for each in outcomes]


def test_values_of_all_ranks_come_in_order() -> None:
    assert (
        run_ranks(lambda comm: comm.all_gather_object({"rank": comm.world.rank}))
        == [[{"rank": 0}, {"rank": 1}, {"rank": 2}]] * 3
    )


def test_hosts_are_those_of_the_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    names = {0: "a", 1: "b", 2: "c"}
    ranks = iter(names)
    monkeypatch.setattr("socket.gethostname", lambda: names[next(ranks)])
    found = run_ranks(lambda comm: sorted(comm.hosts))
    assert found == [["a", "b", "c"]] * 3


def test_rank_0_works_for_all() -> None:
    steps = Steps()

    def work(comm: Comm) -> str:
        def read() -> str:
            steps.add(f"rank {comm.world.rank}")
            return "read"

        return comm.run_on_rank0(read)

    assert run_ranks(work) == ["read"] * 3
    assert steps.done == ["rank 0"]


def test_a_launcher_error_of_rank_0_is_raised_on_every_rank() -> None:
    def fail() -> None:
        raise RunError("folder: in use")

    assert describe(run_ranks(lambda comm: comm.run_on_rank0(fail))) == ["RunError: folder: in use"] * 3


def test_the_first_rank_with_an_error_gives_the_message_of_all() -> None:
    errors: list[LauncherError | None] = [None, DataError("image 1"), DataError("image 2")]
    found = run_ranks(lambda comm: comm.raise_on_all(errors[comm.world.rank]))
    assert describe(found) == ["UserError: image 1"] * 3
    assert run_ranks(lambda comm: comm.raise_on_all(None)) == [None] * 3


def test_the_first_rank_of_a_node_works_before_its_others() -> None:
    steps = Steps()

    def work(comm: Comm) -> int:
        def download() -> int:
            if comm.world.local_rank == 0:
                time.sleep(0.1)
            steps.add("first" if comm.world.local_rank == 0 else "other")
            return comm.world.rank

        return comm.local_rank0_first(download)

    assert run_ranks(work) == [0, 1, 2]
    assert steps.done == ["first", "other", "other"]


def test_other_values_than_those_of_rank_0_are_a_user_error() -> None:
    same = run_ranks(lambda comm: comm.check_same("shards", ["a", "b"]))
    assert same == [None] * 3
    found = run_ranks(lambda comm: comm.check_same("shards", ["a", "b" if comm.world.rank < 2 else "c"]))
    message = "UserError: rank 2 has other shards than rank 0: put them on a disk that all nodes share"
    assert describe(found) == [message] * 3


def test_tensors_are_summed_in_place() -> None:
    def work(comm: Comm) -> list[int]:
        tensor = torch.tensor([comm.world.rank, 10])
        assert comm.sum(tensor) is tensor
        return [int(number) for number in tensor]

    assert run_ranks(work) == [[3, 30]] * 3


def test_buffers_become_those_of_rank_0_and_weights_do_not() -> None:
    def work(comm: Comm) -> list[float]:
        model = nn.BatchNorm1d(1)
        for tensor in model.state_dict().values():
            tensor.fill_(comm.world.rank)
        comm.broadcast_buffers(model)
        assert isinstance(model.running_mean, torch.Tensor)
        return [model.weight.item(), model.running_mean.item()]

    assert run_ranks(work) == [[0, 0], [1, 0], [2, 0]]


def test_a_stop_request_of_one_rank_is_agreed_one_call_later() -> None:
    found = run_ranks(lambda comm: [comm.agree_to_stop() for _ in range(3)], lambda: False, lambda: True, lambda: False)
    assert found == [[False, True, True]] * 3


def test_also_counts_beside_stop_requests() -> None:
    def work(comm: Comm) -> list[bool]:
        return [comm.agree_to_stop(also=comm.world.rank == 2 and call == 1) for call in range(4)]

    assert run_ranks(work) == [[False, False, True, False]] * 3


def test_waiting_for_others_is_marked_in_the_beacon() -> None:
    def work(comm: Comm) -> tuple[list[bool], bool]:
        waits: list[bool] = []
        comm.all_gather_object(Probe(lambda: waits.append(comm.beacon.position.is_waiting)))
        return waits, comm.beacon.position.is_waiting

    for outcome in run_ranks(work):
        assert not isinstance(outcome, BaseException)
        waits, waits_after = outcome
        assert waits == [True]
        assert not waits_after


def record_timeouts(monkeypatch: pytest.MonkeyPatch, timeout: timedelta) -> set[tuple[bool, timedelta]]:
    """Whether of the training's group, and its new timeout."""
    found: set[tuple[bool, timedelta]] = set()
    monkeypatch.setattr(comm_module, "_set_timeout", lambda wait, group: found.add((group is None, wait)))

    def work(comm: Comm) -> None:
        found.clear()
        comm.barrier()
        comm._join(timeout)

    assert run_ranks(work) == [None] * 3
    return found


def test_ranks_that_have_met_wait_longer_for_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    short, long = timedelta(seconds=1), timedelta(days=300)
    assert record_timeouts(monkeypatch, short) == {(True, short), (False, COMM_TIMEOUT)}
    assert record_timeouts(monkeypatch, long) == {(True, long), (False, long)}


def test_ranks_that_do_not_meet_are_a_user_error(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[timedelta] = []

    def fail(backend: str, timeout: timedelta) -> None:
        asked.append(timeout)
        raise RuntimeError("Gloo connectFullMesh failed with: Connection refused, remote=[127.0.0.1]\nmore")

    monkeypatch.setattr("torch.distributed.new_group", fail)
    with pytest.raises(UserError) as error:
        Comm(World(rank=1, size=2))
    assert asked == [JOIN_TIMEOUT]
    assert str(error.value) == (
        "rank 1 cannot reach the other ranks (Gloo connectFullMesh failed with: Connection refused, remote=[127.0.0.1])"
        ": unless one of them has failed, let GLOO_SOCKET_IFNAME name the network interface between the nodes"
    )


def test_over_nccl_buffers_on_the_cpu_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def work(comm: Comm) -> float:
        model = nn.BatchNorm1d(1)
        assert isinstance(model.running_mean, torch.Tensor)
        model.running_mean.fill_(comm.world.rank)
        comm.broadcast_buffers(model)
        return model.running_mean.item()

    monkeypatch.setattr("torch.distributed.get_backend", lambda: "nccl")
    assert run_ranks(work) == [0, 1, 2]


def test_closing_leaves_the_group_of_a_single_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    left: list[bool] = []
    monkeypatch.setattr("torch.distributed.is_initialized", lambda: True)
    monkeypatch.setattr("torch.distributed.destroy_process_group", lambda: left.append(True))
    Comm(World()).close()
    assert left == [True]


class Probe:
    """Calls `on_pickle` when a collective takes it."""

    def __init__(self, on_pickle: Callable[[], None]) -> None:
        self.on_pickle = on_pickle

    def __reduce__(self) -> tuple[type[int], tuple[int]]:
        self.on_pickle()
        return int, (0,)


def test_closing_waits_for_the_exchange_that_has_begun() -> None:
    def work(comm: Comm) -> bool:
        comm.agree_to_stop()
        comm.close()
        return torch.distributed.is_initialized()

    assert run_ranks(work) == [False] * 3


class Rank0First:
    """Runs `rank0_first` on three ranks. `work`: of rank 0; the others only take their turn."""

    def __init__(self, work: Callable[[ShouldStop], object], *stop_requested: ShouldStop) -> None:
        self.steps = Steps()

        def run(comm: Comm) -> object:
            def on_rank(should_stop: ShouldStop) -> object:
                if comm.world.is_first:
                    try:
                        return work(should_stop)
                    finally:
                        self.steps.add("rank 0")
                self.steps.add("other")
                return "reads"

            return comm.rank0_first(on_rank)

        self.outcomes = describe(run_ranks(run, *stop_requested))


STOPPED = "Stopped: stopped before the training began; the same command starts it again"


@pytest.fixture
def eager_polls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comm_module, "POLL_EVERY_S", 0.0)


def poll_until_stop(should_stop: ShouldStop) -> None:
    """As packing does."""
    for _ in range(1000):
        if should_stop():
            raise Stopped("stopped while packing")
        time.sleep(0.001)


def test_the_others_wait_until_rank_0_is_done() -> None:
    def pack(should_stop: ShouldStop) -> str:
        time.sleep(0.1)
        return "packs"

    ran = Rank0First(pack)
    assert ran.outcomes == ["packs", "reads", "reads"]
    assert ran.steps.done == ["rank 0", "other", "other"]


@pytest.mark.usefixtures("eager_polls")
def test_polling_without_a_stop_request_changes_nothing() -> None:
    ran = Rank0First(lambda should_stop: [should_stop() for _ in range(5)])
    assert ran.outcomes == ["[False, False, False, False, False]", "reads", "reads"]


@pytest.mark.usefixtures("eager_polls")
@pytest.mark.parametrize("rank", [0, 1, 2])
def test_a_stop_request_of_any_rank_stops_all(rank: int) -> None:
    ran = Rank0First(poll_until_stop, *[lambda r=r: r == rank for r in range(3)])
    assert ran.outcomes == ["Stopped: stopped while packing", STOPPED, STOPPED]
    assert ran.steps.done == ["rank 0"]


@pytest.mark.parametrize("rank", [0, 1])
def test_a_stop_request_stops_all_when_work_does_not_poll(rank: int) -> None:
    ran = Rank0First(lambda should_stop: "packs", *[lambda r=r: r == rank for r in range(2)])
    assert ran.outcomes == [STOPPED] * 3
    assert ran.steps.done == ["rank 0"]


@pytest.mark.usefixtures("eager_polls")
def test_work_that_ends_in_spite_of_a_stop_request_stops_all() -> None:
    def pack(should_stop: ShouldStop) -> str:
        while not should_stop():
            time.sleep(0.001)
        return "packs"

    assert Rank0First(pack, lambda: False, lambda: True).outcomes == [STOPPED] * 3


@pytest.mark.parametrize("error", [UserError("no disk"), ZeroDivisionError("bug")])
def test_a_failure_of_rank_0_is_a_lost_rank_to_the_others(error: Exception) -> None:
    def fail(should_stop: ShouldStop) -> None:
        raise error

    ran = Rank0First(fail)
    lost = "RankLost: rank 0 failed while this rank waited for it"
    assert ran.outcomes == [f"{type(error).__name__}: {error}", lost, lost]
    assert ran.steps.done == ["rank 0"]


def test_a_rank_that_lost_rank_0_prints_nothing() -> None:
    def fail(should_stop: ShouldStop) -> None:
        raise UserError("no disk")

    lost = run_ranks(lambda comm: comm.rank0_first(fail))[1]
    assert isinstance(lost, RankLost)
    assert not lost.should_print


def test_a_single_process_needs_no_collectives() -> None:
    comm = Comm(World(), lambda: True)
    assert comm.all_gather_object("x") == ["x"]
    assert comm.run_on_rank0(lambda: 1) == comm.local_rank0_first(lambda: 1) == 1
    assert comm.rank0_first(lambda should_stop: should_stop()) is True
    assert comm.agree_to_stop() is True
    assert [Comm(World()).agree_to_stop(also=value) for value in (False, True)] == [False, True]
    assert comm.sum(torch.tensor([1, 2])).tolist() == [1, 2]
    comm.broadcast_buffers(nn.BatchNorm1d(1))
    comm.check_same("shards", ["a"])
    comm.barrier()
    comm.close()
    with pytest.raises(RunError, match=r"^no$"):
        comm.run_on_rank0(raise_run_error)
    with pytest.raises(UserError, match=r"^image 1$"):
        comm.raise_on_all(DataError("image 1"))


def raise_run_error() -> None:
    raise RunError("no")
