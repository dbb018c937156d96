"""The thread that reports where this process is, and ends it when nothing moves any more. Needs no torch."""

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
from launcher.distributed.watchdog.channel import MAX_BYTES, Channel
from launcher.distributed.watchdog.detector import Failure, HangDetector
from launcher.distributed.watchdog.hang import name_rank
from launcher.errors import EXIT_FAILED, LauncherError, RankLost, Stopped, is_peer_lost
from shards.manifest import ShardsError

END_S = 5.0
"""Time for last words: then the process ends whatever it still waits for, such as a disk that does not answer."""

REACH_EVERY_S = 0.1

STDERR = 2


class Watchdog(Protocol):
    def reach(self, timeout_s: float) -> bool:
        """Whether rank 0 answers in time."""

    def fail(self, error: BaseException) -> RankLost | None:
        """Another rank's failure that caused `error`; None: show `error` itself.

        To be called once, by the training, with the error that ends it.
        """

    def close(self) -> None: ...


class NullWatchdog:
    """Looks for no hangs."""

    def reach(self, timeout_s: float) -> bool:
        return False

    def fail(self, error: BaseException) -> RankLost | None:
        return None

    def close(self) -> None:
        pass


class ThreadWatchdog:
    """`log`: this rank's log, for the stacks of all its threads. `record`: writes to the journal why all ended."""

    def __init__(
        self,
        detector: HangDetector,
        beacon: Beacon,
        channel: Channel,
        log: Path,
        record: Callable[[str], None] = lambda words: None,
    ) -> None:
        self._detector = detector
        self._beacon = beacon
        self._channel = channel
        self._log = log.open("a", encoding="utf-8")
        self._record = record
        self._is_leaving = False
        self._is_closed = False
        faulthandler.enable(self._log)  # a segmentation fault shows its stacks there
        detector.update(beacon, time.monotonic())
        self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)
        self._thread.start()

    def reach(self, timeout_s: float) -> bool:
        end_s = time.monotonic() + timeout_s
        while 0 not in self._detector.heartbeats and time.monotonic() < end_s:
            self._channel.send(0, self._detector.message())
            time.sleep(REACH_EVERY_S)
        return 0 in self._detector.heartbeats

    def fail(self, error: BaseException) -> RankLost | None:
        while self._detector.ending is not None:
            time.sleep(1)  # the other thread is ending this process
        self._is_leaving = True
        self._beacon.enter("finish")
        if isinstance(error, Stopped):
            return None
        is_victim = is_peer_lost(error)
        if not is_victim:
            self._report(error)
        if isinstance(error, LauncherError | ShardsError):
            return None  # one line, which is shown as on a single process
        first = self._await_decision(is_victim)
        if first is None or first.rank == self._detector.world.rank:
            return None
        lost = RankLost(first.words, self._detector.should_speak())
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
        rank = self._detector.world.rank
        is_one_line = isinstance(error, LauncherError | ShardsError)
        text = f" {error}" if is_one_line else "\n" + "".join(traceback.format_exception(error)).rstrip()
        words = f"{name_rank(rank, self._detector.hosts)} failed:{text[-MAX_BYTES // 4 :]}"
        self._detector.blame(Failure(rank, words, True), time.monotonic(), is_decided=rank == 0)
        self._channel.send(0, self._detector.message())

    def _await_decision(self, is_victim: bool) -> Failure | None:
        """The rank that failed first; where no rank reports it, the one that has fallen silent."""
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
            # By a thread that needs no lock of Python's: a call into C that keeps it for good shows its stacks, too.
            faulthandler.dump_traceback_later(detector.timeout_s + detector.interval_s, file=self._log)
            self._channel.send(0, detector.message())
            words = None if self._is_leaving and detector.ending is None else detector.conclude(now_s)
            if words is not None:
                self._end(words)
            self._listen(now_s + detector.interval_s)

    def _listen(self, until_s: float) -> None:
        """Receive until then, and also what has come by then: a process that was stopped (Ctrl-Z) has yet to read it,
        and would otherwise take ranks for silent."""
        num_late, most_late = 0, 2 * self._detector.world.size
        while not (self._is_closed or self._detector.ending) and num_late <= most_late:
            left_s = max(0.0, until_s - time.monotonic())
            message = self._channel.receive(left_s)
            if message is not None:
                self._detector.receive(message, time.monotonic())
                if self._detector.world.is_first:
                    self._channel.send(message["rank"], self._detector.message())
            if not left_s:
                if message is None:
                    return
                num_late += 1

    def _end(self, words: str) -> NoReturn:
        """End this process. Speaks first: from then on the others end, and a launcher ends those that are left."""
        faulthandler.dump_traceback_later(END_S, exit=True, file=self._log)
        speaks = self._detector.should_speak()
        self._detector.ending = words
        if speaks:
            os.write(STDERR, f"launcher: {words}\n".encode())  # no lock that a thread that hangs could have
        self._send_all()
        self._log.write(f"{words}\n")
        self._log.flush()
        faulthandler.dump_traceback(self._log)
        self._record(words)
        for _ in range(3):  # a message may be lost; and all are to show where they are before the first has ended
            time.sleep(0.1)
            self._send_all()
        os._exit(EXIT_FAILED)

    def _send_all(self) -> None:
        for rank in range(self._detector.world.size if self._detector.world.is_first else 1):
            self._channel.send(rank, self._detector.message())
