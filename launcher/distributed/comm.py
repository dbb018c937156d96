"""Messages between the processes of a run, over gloo, so that a GPU never waits for them. A single process sends none.

The words are torch.distributed's: a rank is a process, rank 0 speaks to the user.
"""

from __future__ import annotations

import hashlib
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from launcher.distributed.watchdog.beacon import Beacon
from launcher.distributed.world import World
from launcher.errors import LauncherError, RankLost, Stopped, UserError

T = TypeVar("T")
ShouldStop = Callable[[], bool]

COMM_TIMEOUT = timedelta(hours=4)
"""Longest wait for rank 0 while it downloads, packs or writes. The collectives of training have a shorter one."""

POLL_EVERY_S = 0.5
"""Pause between two questions of `rank0_first` to the ranks that wait."""


def never() -> bool:
    """The `stop_requested` of a command that no signal stops."""
    return False


class Comm:
    """This process among the others. Every rank must make the same calls in the same order."""

    def __init__(self, world: World, stop_requested: ShouldStop = never) -> None:
        """`stop_requested`: whether this process has been asked to stop; the ranks agree on it by `should_stop`."""
        self.world = world
        self.beacon = Beacon()
        self._stop_requested = stop_requested
        self._group = _new_gloo_group() if world.size > 1 else None
        self._vote: tuple[Any, Tensor] | None = None
        self.hosts = self.all_gather_object(socket.gethostname())
        """Host name of each rank."""

    def all_gather_object(self, value: T) -> list[T]:
        """Every rank's value, in the order of ranks, on every rank."""
        if self.world.size == 1:
            return [value]
        values: list[Any] = [None] * self.world.size
        with self.beacon.waiting():
            dist.all_gather_object(values, value, group=self._group)
        return values

    def run_on_rank0(self, work: Callable[[], T]) -> T:
        """Rank 0 does `work` while the others wait; every rank returns its result or raises its LauncherError."""
        if self.world.size == 1:
            return work()
        outcome: list[Any] = [None]
        if self.world.is_first:
            try:
                outcome = [work()]
            except LauncherError as error:
                outcome = [error]
        with self.beacon.waiting():
            dist.broadcast_object_list(outcome, src=0, group=self._group)
        if isinstance(outcome[0], LauncherError):
            raise outcome[0]
        return outcome[0]  # type: ignore[no-any-return]

    def raise_on_all(self, error: LauncherError | None) -> None:
        """Raise UserError on every rank when some rank has an error, with the first one's words.

        The user then reads it once, and no rank waits for another that has ended.
        """
        words = next(filter(None, self.all_gather_object(None if error is None else str(error))), None)
        if words is not None:
            raise UserError(words)

    def local_rank0_first(self, work: Callable[[], T]) -> T:
        """The first rank of each node does `work`, then the node's others: for downloads into the node's cache."""
        is_first = self.world.local_rank == 0
        if not is_first:
            self.barrier()
        result = work()
        if is_first:
            self.barrier()
        return result

    def rank0_first(self, work: Callable[[ShouldStop], T]) -> T:
        """Rank 0 does `work`, then the others: for what is done once for all, such as packing.

        `work` is given `should_stop`, which it polls: it turns true once any rank has been asked to stop.
        Raise Stopped on every rank when that happens; raise RankLost on the waiting ranks when rank 0 fails.
        """
        if self.world.size == 1:
            return work(self._stop_requested)
        if not self.world.is_first:
            self._wait_for_rank0()
            return work(self._stop_requested)
        poll = _StopPoll(self._exchange)
        try:
            result = work(poll)
        except BaseException:
            if not poll.is_agreed:
                self._exchange(is_failed=True)
            raise
        if poll.is_agreed or self._exchange(is_over=True).should_stop:
            raise _stopped_early()
        return result

    def _wait_for_rank0(self) -> None:
        while not (ballot := self._exchange()).is_over:
            if ballot.is_failed:
                raise RankLost("rank 0 has failed before the training began", speaks=False)
            if ballot.should_stop:
                raise _stopped_early()
        if ballot.should_stop:
            raise _stopped_early()

    def _exchange(self, is_over: bool = False, is_failed: bool = False) -> _Ballot:
        ballot = torch.tensor([int(self._stop_requested()), int(is_over), int(is_failed)])
        dist.all_reduce(ballot, op=dist.ReduceOp.MAX, group=self._group)
        return _Ballot(*ballot.bool().tolist())

    def check_same(self, what: str, values: list[str]) -> None:
        """Raise UserError naming a rank whose values are not rank 0's: it would train otherwise, or wait for ever."""
        digests = self.all_gather_object(hashlib.sha256("\n".join(values).encode()).hexdigest())
        odd = [rank for rank, digest in enumerate(digests) if digest != digests[0]]
        if odd:
            raise UserError(f"rank {odd[0]} sees other {what} than rank 0: put them on a disk that all nodes share")

    def should_stop(self, also: bool = False) -> bool:
        """Whether some rank has been asked to stop, or its `also` is true: agreed by all; see `any_rank_async`."""
        return self.any_rank_async(self._stop_requested() or also)

    def any_rank_async(self, value: bool) -> bool:
        """Whether some rank's `value` was true at the previous call; with a single rank, at this one.

        The exchange that this call starts runs beside the next step, so training never waits for it.
        """
        if self.world.size == 1:
            return value
        agreed = self._finish_vote()
        ballot = torch.tensor([int(value)])
        self._vote = dist.all_reduce(ballot, op=dist.ReduceOp.MAX, group=self._group, async_op=True), ballot
        return agreed

    def sum(self, tensor: Tensor) -> Tensor:
        """Sum over all ranks, in place, on the tensor's device."""
        if self.world.size > 1:
            with self.beacon.waiting():
                dist.all_reduce(tensor)
        return tensor

    def broadcast_buffers(self, model: nn.Module) -> None:
        """Give every rank rank 0's buffers, which are those that are saved: each rank's BatchNorm has its own."""
        if self.world.size > 1:
            with self.beacon.waiting():
                for buffer in model.buffers():
                    dist.broadcast(buffer, src=0)

    def barrier(self) -> None:
        if self.world.size > 1:
            with self.beacon.waiting():
                dist.barrier(group=self._group)

    def close(self) -> None:
        """Leave the process group in order: every rank must call this at the same point."""
        if self.world.size > 1 and dist.is_initialized():
            self._finish_vote()
            self.barrier()
            dist.destroy_process_group()

    def _finish_vote(self) -> bool:
        if self._vote is None:
            return False
        work, ballot = self._vote
        with self.beacon.waiting():
            work.wait()
        self._vote = None
        return bool(ballot.item())


@dataclass(frozen=True, slots=True)
class _Ballot:
    """What the ranks have agreed on: each is true when it is on any of them. The last two are rank 0's alone."""

    should_stop: bool
    is_over: bool
    is_failed: bool


class _StopPoll:
    """`should_stop` for rank 0 while the others wait in `rank0_first`: asks them at most every POLL_EVERY_S."""

    def __init__(self, exchange: Callable[[], _Ballot]) -> None:
        self.is_agreed = False
        self._exchange = exchange
        self._asked_s = time.monotonic()

    def __call__(self) -> bool:
        if not self.is_agreed and time.monotonic() - self._asked_s > POLL_EVERY_S:
            self.is_agreed = self._exchange().should_stop
            self._asked_s = time.monotonic()
        return self.is_agreed


def _stopped_early() -> Stopped:
    return Stopped("stopped before the training began; the same command begins again")


def _new_gloo_group() -> dist.ProcessGroup:
    group = dist.new_group(backend="gloo", timeout=COMM_TIMEOUT)
    assert isinstance(group, dist.ProcessGroup)
    return group
