"""The thread that tells where this process is, and ends it when nothing moves any more. Needs no torch."""

from __future__ import annotations

import faulthandler
import os
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from launcher.distributed.watchdog.beacon import Pulse
from launcher.distributed.watchdog.channel import MAX_BYTES, Post, Postless
from launcher.distributed.watchdog.detector import Failure, Watch
from launcher.distributed.watchdog.hang import name_rank
from launcher.errors import EXIT_FAILED, LauncherError, RankLost, Stopped, is_peer_lost
from shards.manifest import ShardsError

END_S = 5.0
"""For last words: then the process ends whatever it still waits for, such as a disk that does not answer."""

SLICE_S = 0.1
"""Longest time between being closed and ending."""

STDERR = 2


class NoHeartbeat:
    """When hangs are not looked for."""

    def reach(self, timeout_s: float) -> bool:
        """Whether rank 0 answers."""
        return False

    def fail(self, error: BaseException) -> RankLost | None:
        """What another process failed of, where this one failed because of it; None: show `error` itself.

        To be called once, by the training, with what ends it.
        """
        return None

    def close(self) -> None:
        pass


class Heartbeat(NoHeartbeat):
    """`log`: this rank's, for the stacks of all its threads. `record`: writes why all ended to the journal."""

    def __init__(
        self, watch: Watch, pulse: Pulse, post: Postless, log: Path, record: Callable[[str], None] = lambda words: None
    ) -> None:
        self._watch = watch
        self._pulse = pulse
        self._post = post
        self._log = log.open("a", encoding="utf-8")
        self._record = record
        self._is_leaving = False
        self._is_closed = False
        faulthandler.enable(self._log)  # a segmentation fault shows its stacks there
        self._watch.look(pulse, time.monotonic())
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)
        self._thread.start()

    def reach(self, timeout_s: float) -> bool:
        end_s = time.monotonic() + timeout_s
        while 0 not in self._watch.beats and time.monotonic() < end_s:
            self._post.send(0, self._watch.say())
            time.sleep(SLICE_S)
        return 0 in self._watch.beats

    def fail(self, error: BaseException) -> RankLost | None:
        while self._watch.over is not None:
            time.sleep(1)  # the other thread is ending this process
        self._is_leaving = True
        self._pulse.enter("finish")
        if isinstance(error, Stopped):
            return None
        is_victim = is_peer_lost(error)
        if not is_victim:
            self._report(error)
        if isinstance(error, LauncherError | ShardsError):
            return None  # one line, which is said as on a single process
        first = self._await_decision(is_victim)
        if first is None or first.rank == self._watch.world.rank:
            return None
        lost = RankLost(first.words, self._watch.should_speak())
        lost.__cause__ = error
        return lost

    def close(self) -> None:
        self._is_closed = True
        self._post.close()
        self._thread.join()
        faulthandler.cancel_dump_traceback_later()
        faulthandler.enable(STDERR)
        self._log.close()

    def _report(self, error: BaseException) -> None:
        rank = self._watch.world.rank
        is_ours = isinstance(error, LauncherError | ShardsError)
        text = f" {error}" if is_ours else "\n" + "".join(traceback.format_exception(error)).rstrip()
        words = f"{name_rank(rank, self._watch.hosts)} failed:{text[-MAX_BYTES // 4 :]}"
        self._watch.blame(Failure(rank, words, True), time.monotonic(), is_decided=rank == 0)
        self._post.send(0, self._watch.say())

    def _await_decision(self, is_victim: bool) -> Failure | None:
        """Who failed first; where nobody says so, who has fallen silent."""
        watch = self._watch
        for _ in range(1 if watch.world.is_first else 2):  # rank 0 may need as long itself
            end_s = time.monotonic() + watch.grace_s
            while not watch.is_decided and time.monotonic() < end_s:
                time.sleep(0.02)
            if is_victim:
                watch.blame_who_is_gone(time.monotonic())
            if watch.first is not None:
                break
        return watch.first

    def _run(self) -> None:
        watch = self._watch
        while not self._is_closed:
            now_s = time.monotonic()
            watch.look(self._pulse, now_s)
            # By a thread that needs no lock of Python's: a call into C that keeps it for good shows its stacks, too.
            faulthandler.dump_traceback_later(watch.timeout_s + watch.interval_s, file=self._log)
            self._post.send(0, watch.say())
            words = None if self._is_leaving and watch.over is None else watch.conclude(now_s)
            if words is not None:
                self._end(words)
            self._listen(now_s + watch.interval_s)

    def _listen(self, until_s: float) -> None:
        while not (self._is_closed or self._watch.over) and (left_s := until_s - time.monotonic()) > 0:
            message = self._post.receive(min(left_s, SLICE_S) if isinstance(self._post, Post) else left_s)
            if message is not None:
                self._watch.hear(message, time.monotonic())
                if self._watch.world.is_first:
                    self._post.send(message["rank"], self._watch.say())

    def _end(self, words: str) -> NoReturn:
        """Say it first: from then on the others end, and a launcher ends those that are left."""
        faulthandler.dump_traceback_later(END_S, exit=True, file=self._log)
        speaks = self._watch.should_speak()
        self._watch.over = words
        if speaks:
            os.write(STDERR, f"launcher: {words}\n".encode())  # no lock that a thread that hangs could have
        self._tell_all()
        self._log.write(f"{words}\n")
        self._log.flush()
        faulthandler.dump_traceback(self._log)
        self._record(words)
        for _ in range(3):  # a message may be lost; and all are to show where they are before the first has ended
            time.sleep(0.1)
            self._tell_all()
        os._exit(EXIT_FAILED)

    def _tell_all(self) -> None:
        for rank in range(self._watch.world.size if self._watch.world.is_first else 1):
            self._post.send(rank, self._watch.say())
