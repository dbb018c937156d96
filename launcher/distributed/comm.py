"""Messages between the ranks of a run, over gloo, so that a GPU never waits for them. A single process sends none."""

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

from launcher.distributed.timeouts import COMM_TIMEOUT, JOIN_TIMEOUT
from launcher.distributed.watchdog.beacon import Beacon
from launcher.distributed.world import World
from launcher.errors import LauncherError, RankLost, Stopped, UserError
from launcher.text import first_line

T = TypeVar("T")
ShouldStop = Callable[[], bool]

POLL_EVERY_S = 0.5
"""Least time between two exchanges of `rank0_first` with the ranks that wait."""

STOPPED_EARLY = "stopped before the training began; the same command starts it again"


def never() -> bool:
    """`stop_requested` for commands that take no signals."""
    return False


class Comm:
    """The collectives of this rank. Every rank must make the same calls in the same order."""

    def __init__(self, world: World, stop_requested: ShouldStop = never, timeout: timedelta = COMM_TIMEOUT) -> None:
        """`stop_requested`: whether this process was asked to stop; the ranks agree on it in `agree_to_stop`.

        `timeout`: of the collectives of training. Raise UserError when the ranks do not find each other.
        """
        self.world = world
        self.beacon = Beacon()
        self._stop_requested = stop_requested
        self._group: dist.ProcessGroup | None = None
        self._in_flight: tuple[Any, Tensor] | None = None
        """The exchange of `agree_to_stop` that has begun: its handle and its tensor."""
        self.hosts = self._join(timeout)
        """Host name of each rank."""

    def _join(self, timeout: timedelta) -> list[str]:
        """Connect all ranks, which then wait longer for each other. Return the host name of each."""
        if self.world.size == 1:
            return [socket.gethostname()]
        try:
            self._group = dist.new_group(backend="gloo", timeout=JOIN_TIMEOUT)  # type: ignore[assignment]
            hosts = self.all_gather_object(socket.gethostname())
        except RuntimeError as error:
            why = f"rank {self.world.rank} cannot reach the other ranks ({first_line(error)})"
            advice = (
                "unless one of them has failed, let GLOO_SOCKET_IFNAME name the network interface between the nodes"
            )
            raise UserError(f"{why}: {advice}") from error
        _set_timeout(max(timeout, COMM_TIMEOUT), self._group)
        _set_timeout(timeout, None)
        return hosts

    def all_gather_object(self, value: T) -> list[T]:
        """The values of all ranks, in the order of ranks."""
        if self.world.size == 1:
            return [value]
        values: list[Any] = [None] * self.world.size
        with self.beacon.waiting():
            dist.all_gather_object(values, value, group=self._group)
        return values

    def run_on_rank0(self, work: Callable[[], T]) -> T:
        """Run `work` on rank 0 while the others wait. Every rank returns its result or raises its LauncherError."""
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
        """Raise UserError on every rank when some rank has an `error`, with the message of the first such rank.

        No rank is then left waiting for one that has ended, and the message is shown once.
        """
        message = next(filter(None, self.all_gather_object(None if error is None else str(error))), None)
        if message is not None:
            raise UserError(message)

    def local_rank0_first(self, work: Callable[[], T]) -> T:
        """Run `work` on the first rank of each node, then on its others: for downloads into the node's cache."""
        is_first = self.world.local_rank == 0
        if not is_first:
            self.barrier()
        result = work()
        if is_first:
            self.barrier()
        return result

    def rank0_first(self, work: Callable[[ShouldStop], T]) -> T:
        """Run `work` on rank 0, then on the others: for what rank 0 does once for all of them, such as packing.

        `work` polls the `should_stop` that it gets: it turns true once any rank was asked to stop, and then every rank
        raises Stopped. When rank 0 fails, the waiting ranks raise RankLost.
        """
        if self.world.size == 1:
            return work(self._stop_requested)
        if not self.world.is_first:
            self._wait_for_rank0()
            return work(self._stop_requested)
        is_agreed, exchanged_s = False, time.monotonic()

        def should_stop() -> bool:
            nonlocal is_agreed, exchanged_s
            if not is_agreed and time.monotonic() - exchanged_s > POLL_EVERY_S:
                is_agreed, exchanged_s = self._exchange().should_stop, time.monotonic()
            return is_agreed

        try:
            result = work(should_stop)
        except BaseException:
            if not is_agreed:
                self._exchange(is_failed=True)
            raise
        if is_agreed or self._exchange(is_over=True).should_stop:
            raise Stopped(STOPPED_EARLY)
        return result

    def _wait_for_rank0(self) -> None:
        while True:
            flags = self._exchange()
            if flags.is_failed:
                raise RankLost("rank 0 failed while this rank waited for it", should_print=False)
            if flags.should_stop:
                raise Stopped(STOPPED_EARLY)
            if flags.is_over:
                return

    def _exchange(self, is_over: bool = False, is_failed: bool = False) -> _Flags:
        flags_3 = torch.tensor([int(self._stop_requested()), int(is_over), int(is_failed)])
        with self.beacon.waiting():
            dist.all_reduce(flags_3, op=dist.ReduceOp.MAX, group=self._group)
        return _Flags(*flags_3.bool().tolist())

    def check_same(self, what: str, values: list[str]) -> None:
        """Raise UserError naming the first rank whose values differ from rank 0's: it would compute something else."""
        digests = self.all_gather_object(hashlib.sha256("\n".join(values).encode()).hexdigest())
        odd = [rank for rank, digest in enumerate(digests) if digest != digests[0]]
        if odd:
            raise UserError(f"rank {odd[0]} has other {what} than rank 0: put them on a disk that all nodes share")

    def agree_to_stop(self, also: bool = False) -> bool:
        """Whether some rank was asked to stop or passed `also` at the previous call; with a single rank, at this one.

        A collective: every rank calls it equally often and gets the same answer. The exchange that this call starts
        runs beside the next step, so training never waits for it.
        """
        value = self._stop_requested() or also
        if self.world.size == 1:
            return value
        result = self._finish_exchange()
        flag_1 = torch.tensor([int(value)])
        self._in_flight = dist.all_reduce(flag_1, op=dist.ReduceOp.MAX, group=self._group, async_op=True), flag_1
        return result

    def sum(self, tensor: Tensor) -> Tensor:
        """Sum over all ranks, in place, on the tensor's device."""
        if self.world.size > 1:
            with self.beacon.waiting():
                dist.all_reduce(tensor)
        return tensor

    def broadcast_buffers(self, model: nn.Module) -> None:
        """Copy rank 0's buffers to every rank: each BatchNorm counts its own statistics, and rank 0's are saved."""
        if self.world.size > 1:
            with self.beacon.waiting():
                is_nccl = dist.get_backend() == "nccl"
                for buffer in model.buffers():
                    if not (is_nccl and buffer.is_cpu):  # constants, such as torch.fx finds in a network
                        dist.broadcast(buffer, src=0)

    def barrier(self) -> None:
        if self.world.size > 1:
            with self.beacon.waiting():
                dist.barrier(group=self._group)

    def close(self) -> None:
        """Leave the process group, which `torchrun` gives a single rank, too. Every rank calls it at the same point."""
        if dist.is_initialized():
            self._finish_exchange()
            self.barrier()
            dist.destroy_process_group()

    def _finish_exchange(self) -> bool:
        if self._in_flight is None:
            return False
        work, flag_1 = self._in_flight
        with self.beacon.waiting():
            work.wait()
        self._in_flight = None
        return bool(flag_1.item())


def _set_timeout(timeout: timedelta, group: dist.ProcessGroup | None) -> None:
    """`group` None: that of the training."""
    # The function has another name since torch 2.13.
    set_timeout = getattr(dist, "set_timeout", None) or dist.distributed_c10d._set_pg_timeout
    set_timeout(timeout, group)


@dataclass(frozen=True, slots=True)
class _Flags:
    """Each is true when it is on any rank; only rank 0 sets the last two."""

    should_stop: bool
    is_over: bool
    is_failed: bool
