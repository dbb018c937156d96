"""Words between the processes of a run, by gloo: a GPU never waits for them. One process alone talks to nobody."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from launcher.distributed.watchdog.beacon import Pulse
from launcher.distributed.world import World
from launcher.errors import LauncherError, RankLost, Stopped, UserError

T = TypeVar("T")

TALK_TIMEOUT = timedelta(hours=4)
"""While one process downloads, packs or writes, the others wait here; training's own exchanges have a shorter one."""

VOTE_EVERY_S = 0.5
"""Between two questions to the processes that wait whether to stop."""


class Talk:
    """This process among the others. Every process must make the same calls in the same order."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.pulse = Pulse()
        self._group = _new_gloo_group() if world.size > 1 else None
        self._vote: tuple[Any, Tensor] | None = None

    def gather(self, value: T) -> list[T]:
        """Every process's value, in the order of ranks, on every process."""
        if self.world.size == 1:
            return [value]
        values: list[Any] = [None] * self.world.size
        with self.pulse.waiting():
            dist.all_gather_object(values, value, group=self._group)
        return values

    def on_first(self, work: Callable[[], T]) -> T:
        """Let rank 0 do `work` while the others wait; everyone returns its result or raises its LauncherError."""
        if self.world.size == 1:
            return work()
        outcome: list[Any] = [None]
        if self.world.is_first:
            try:
                outcome = [work()]
            except LauncherError as error:
                outcome = [error]
        with self.pulse.waiting():
            dist.broadcast_object_list(outcome, src=0, group=self._group)
        if isinstance(outcome[0], LauncherError):
            raise outcome[0]
        return outcome[0]  # type: ignore[no-any-return]

    def fail_together(self, error: LauncherError | None) -> None:
        """Raise UserError, on every process, with the words of the first rank that has an error, if one has: it is then
        said once, and none waits for another that has ended."""
        words = next(filter(None, self.gather(None if error is None else str(error))), None)
        if words is not None:
            raise UserError(words)

    @contextmanager
    def first_on_node_first(self) -> Iterator[None]:
        """The node's other processes enter after the first has left: for downloads into the node's cache."""
        is_first = self.world.local_rank == 0
        if not is_first:
            self._wait_for_all()
        yield
        if is_first:
            self._wait_for_all()

    @contextmanager
    def first_ahead(self, wish: Callable[[], bool]) -> Iterator[Callable[[], bool]]:
        """Rank 0 enters, the others when it has left: for what it does once for all of them, such as packing.

        What comes is to be asked again and again inside: whether to stop, which is when any process has the `wish`.
        Raise Stopped on leaving, or in those that wait, when it is so; in those that wait RankLost when rank 0 fails.
        """
        agreed, since_s = False, time.monotonic()

        def vote(is_over: bool, is_failed: bool = False) -> bool:
            """Whether it is over; sets `agreed`."""
            nonlocal agreed, since_s
            ballot = torch.tensor([int(wish()), int(is_over), int(is_failed)])
            dist.all_reduce(ballot, op=dist.ReduceOp.MAX, group=self._group)
            agreed, since_s = bool(ballot[0]), time.monotonic()
            if ballot[2] and not self.world.is_first:
                raise RankLost("rank 0 has failed before the training began", speaks=False)
            return bool(ballot[1])

        def should_stop() -> bool:
            if not agreed and time.monotonic() - since_s > VOTE_EVERY_S:
                vote(False)
            return agreed

        if self.world.size == 1:
            yield wish
        elif self.world.is_first:
            try:
                yield should_stop
            except BaseException:
                if not agreed:
                    vote(True, is_failed=True)
                raise
            if not agreed:
                vote(True)
            self._leave_if(agreed)
        else:
            while not (vote(False) or agreed):
                pass
            self._leave_if(agreed)
            yield wish

    @staticmethod
    def _leave_if(agreed: bool) -> None:
        if agreed:
            raise Stopped("stopped before the training began; the same command begins again")

    def check_same(self, what: str, facts: list[str]) -> None:
        """Raise UserError naming a rank whose facts are not rank 0's: it would train otherwise, or wait for ever."""
        digests = self.gather(hashlib.sha256("\n".join(facts).encode()).hexdigest())
        odd = [rank for rank, digest in enumerate(digests) if digest != digests[0]]
        if odd:
            raise UserError(f"rank {odd[0]} sees other {what} than rank 0: put them on a disk that all nodes share")

    def _wait_for_all(self) -> None:
        if self.world.size > 1:
            with self.pulse.waiting():
                dist.barrier(group=self._group)

    def any_process(self, wish: bool) -> bool:
        """Whether some process wished so at the previous call (at this one, when alone): agreed by all.

        The exchange of this call runs beside the next step, so it costs the training nothing.
        """
        if self.world.size == 1:
            return wish
        agreed = self._finish_vote()
        ballot = torch.tensor([int(wish)])
        self._vote = dist.all_reduce(ballot, op=dist.ReduceOp.MAX, group=self._group, async_op=True), ballot
        return agreed

    def _finish_vote(self) -> bool:
        if self._vote is None:
            return False
        work, ballot = self._vote
        with self.pulse.waiting():
            work.wait()
        self._vote = None
        return bool(ballot.item())


def _new_gloo_group() -> dist.ProcessGroup:
    group = dist.new_group(backend="gloo", timeout=TALK_TIMEOUT)
    assert isinstance(group, dist.ProcessGroup)
    return group
