"""The thread that sends this rank's position, and ends the process on a hang. Needs no torch."""

from __future__ import annotations

import faulthandler
import os
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn, Protocol

from launcher.distributed.watchdog.beacon import Beacon
from launcher.distributed.watchdog.channel import MAX_TEXT, Channel
from launcher.distributed.watchdog.detector import Failure, HangDetector
from launcher.distributed.watchdog.hang import name_rank
from launcher.errors import EXIT_FAILED, GpuMemoryError, LauncherError, RankLost, Stopped, is_peer_lost
from launcher.text import Say
from shards.manifest import ShardsError

END_S = 5.0
"""Time to write why the process ends: after it the process ends whatever it still waits for, such as a stuck disk."""

STACKS_S = 3.0
"""Time after the timeout until a process in which no Python can run writes its stacks: later than rank 0 ends the run,
earlier than launchers kill (30 s). One that was stopped (SIGSTOP) for longer writes them when it continues, while its
threads run: 2 of 60 such processes crashed of that."""

REACH_EVERY_S = 0.1

STDERR = 2


class Watchdog(Protocol):
    def fail(self, error: BaseException) -> RankLost | None:
        """Another rank's failure that caused `error`; None: show `error` itself.

        The training calls it once, with the error that ends it.
        """

    def close(self) -> None: ...


class NullWatchdog:
    """Detects nothing."""

    def fail(self, error: BaseException) -> RankLost | None:
        return None

    def close(self) -> None:
        pass


class ThreadWatchdog:
    """`log`: this rank's log, for the stacks of all its threads. `record`: writes the last line to the journal."""

    def __init__(self, detector: HangDetector, beacon: Beacon, channel: Channel, log: Path, record: Say) -> None:
        self._detector = detector
        self._beacon = beacon
        self._channel = channel
        self._log = log.open("a", encoding="utf-8", errors="backslashreplace")
        self._record = record
        self._is_leaving = False
        self._is_closed = False
        faulthandler.enable(self._log)  # a segmentation fault writes its stacks there
        detector.update(beacon, time.monotonic())
        self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)
        self._thread.start()

    def reach(self, timeout_s: float) -> bool:
        """Whether rank 0 answers in time."""
        end_s = time.monotonic() + timeout_s
        while 0 not in self._detector.heartbeats and time.monotonic() < end_s:
            self._channel.send(0, self._detector.message())
            time.sleep(REACH_EVERY_S)
        return 0 in self._detector.heartbeats

    def fail(self, error: BaseException) -> RankLost | None:
        while self._detector.ending is not None:
            time.sleep(1)  # the watchdog's thread is ending this process
        self._is_leaving = True
        self._beacon.enter("finish")
        if isinstance(error, Stopped):
            return None
        is_victim = is_peer_lost(error)
        if not is_victim:
            self._report(error)
        if isinstance(error, LauncherError | ShardsError) and not isinstance(error, GpuMemoryError):
            return None  # one line, shown as by a single process
        first = self._await_decision(is_victim)
        if first is None or first.rank == self._detector.world.rank:
            return None
        lost = RankLost(first.text, self._detector.should_print())
        lost.__cause__ = error
        return lost

    def close(self) -> None:
        self._is_closed = True
        self._channel.close()
        self._thread.join()
        faulthandler.cancel_dump_traceback_later()
        faulthandler.enable(STDERR)
        self._log.close()

    def _report(self, error: BaseException) -> None:
        """Send this rank's own failure to rank 0."""
        rank = self._detector.world.rank
        is_one_line = isinstance(error, LauncherError | ShardsError)
        reason = f" {error}" if is_one_line else "\n" + "".join(traceback.format_exception(error)).rstrip()
        text = f"{name_rank(rank, self._detector.hosts)} failed:{reason[-MAX_TEXT:]}"
        self._detector.blame(Failure(rank, text, is_printed=True), time.monotonic(), is_decided=rank == 0)
        self._send_all()

    def _await_decision(self, is_victim: bool) -> Failure | None:
        """The first failure; when no rank reports one, the rank that is silent."""
        detector = self._detector
        for _ in range(1 if detector.world.is_first else 2):  # rank 0 may need as long itself
            end_s = time.monotonic() + detector.grace_s
            while not detector.is_decided and time.monotonic() < end_s:
                time.sleep(0.02)
            if is_victim:
                detector.blame_lost_rank(time.monotonic())
            if detector.first is not None:
                break
        return detector.first

    def _run(self) -> None:
        detector = self._detector
        while not self._is_closed:
            now_s = time.monotonic()
            detector.update(self._beacon, now_s)
            # By a timer that takes no lock of Python's: some call into C may never give the lock back.
            faulthandler.dump_traceback_later(detector.timeout_s + STACKS_S, file=self._log)
            self._channel.send(0, detector.message())
            line = None if self._is_leaving and detector.ending is None else detector.conclude(now_s)
            if line is not None:
                self._end(line)
            listen(self._channel, detector, now_s + detector.interval_s, lambda: self._is_closed)

    def _end(self, line: str) -> NoReturn:
        """End this process. Prints first: then the others end, and a launcher ends those that are left."""
        faulthandler.dump_traceback_later(END_S, exit=True, file=self._log)
        should_print = self._detector.should_print()
        self._detector.ending = line
        if should_print:
            # Takes no lock that a hanging thread could hold.
            os.write(STDERR, f"launcher: {line}\n".encode(errors="backslashreplace"))
        self._send_all()
        self._log.write(f"{line}\n")
        self._log.flush()
        faulthandler.dump_traceback(self._log)
        self._record(line)
        for _ in range(3):  # a message may be lost, and all are to write their stacks before the first has ended
            time.sleep(0.1)
            self._send_all()
        os._exit(EXIT_FAILED)

    def _send_all(self) -> None:
        for rank in range(self._detector.world.size if self._detector.world.is_first else 1):
            self._channel.send(rank, self._detector.message())


def listen(channel: Channel, detector: HangDetector, until_s: float, is_closed: Callable[[], bool]) -> None:
    """Receive until `until_s`, then what has come by that time: two messages per rank at most.

    A process that was stopped for a while (Ctrl-Z) has yet to read those, and would take their senders for silent.
    """
    num_late = 0
    while not (is_closed() or detector.ending) and num_late < 2 * detector.world.size:
        left_s = max(0.0, until_s - time.monotonic())
        message = channel.receive(left_s)
        if message is not None:
            detector.receive(message, time.monotonic())
            if detector.world.is_first:
                channel.send(message["rank"], detector.message())
        if not left_s:
            if message is None:
                return
            num_late += 1
