from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from launcher.distributed import signals
from launcher.distributed.signals import SIGNALS, install_signal_handlers


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_no_stop_is_requested_before_a_signal() -> None:
    assert not install_signal_handlers()()


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_requests_a_stop(number: signal.Signals) -> None:
    should_stop = install_signal_handlers()
    os.kill(os.getpid(), number)
    assert should_stop()


def test_another_signal_does_not_end_the_process() -> None:
    should_stop = install_signal_handlers()
    for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT):
        os.kill(os.getpid(), number)
    assert should_stop()


def test_an_echo_of_a_signal_does_not_end_the_process() -> None:
    """SLURM signals every process of a step, and torchrun passes the signal on."""
    should_stop = install_signal_handlers()
    for _ in range(3):
        os.kill(os.getpid(), signal.SIGTERM)
    assert should_stop()


PROGRAM = """
import sys, time
from launcher.distributed import signals
signals.ECHO_S = 0.2
should_stop = signals.install_signal_handlers()
print("ready", flush=True)
while not should_stop():
    time.sleep(0.01)
print("stops", flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("number", SIGNALS)
def test_the_same_signal_later_ends_the_process(number: signal.Signals) -> None:
    with subprocess.Popen([sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        assert process.stdout.readline() == "stops\n"
        assert process.poll() is None
        time.sleep(0.3)
        process.send_signal(number)
        assert process.wait(timeout=20) == 128 + number


STUCK = """
import ctypes
from launcher.distributed import signals
signals.ECHO_S = 0.2
signals.install_signal_handlers()
print("ready", flush=True)
library, mutex = ctypes.CDLL(None), ctypes.create_string_buffer(64)
library.pthread_mutex_lock(mutex)
library.pthread_mutex_lock(mutex)
"""


def test_the_same_signal_later_ends_a_process_that_is_stuck_in_a_library() -> None:
    """As in a collective with ranks that are gone: Python's handlers do not run there."""
    with subprocess.Popen([sys.executable, "-c", STUCK], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        for _ in range(2):
            time.sleep(0.5)
            assert process.poll() is None
            process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=20) == 128 + signal.SIGTERM


def test_an_echo_is_over_before_torchrun_kills() -> None:
    assert signals.ECHO_S < 30


def test_an_ignored_hangup_stays_ignored() -> None:
    """As under `nohup`."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    install_signal_handlers()
    assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN


def test_a_second_installation_ends_the_thread_of_the_first() -> None:
    before = set(threading.enumerate())
    install_signal_handlers()
    [first] = set(threading.enumerate()) - before
    should_stop = install_signal_handlers()
    first.join(10)
    assert not first.is_alive()
    os.kill(os.getpid(), signal.SIGUSR1)
    assert should_stop()


FOLLOWER = """
import sys, time
from launcher.distributed.signals import follow_launcher, install_signal_handlers
should_stop = install_signal_handlers()
follow_launcher()
print("ready", flush=True)
while not should_stop():
    time.sleep(0.01)
open(sys.argv[1], "w").write("stops")
"""
LAUNCHER = "import subprocess, sys; subprocess.run([sys.executable, '-c', *sys.argv[2:]])"


def test_a_process_is_asked_to_stop_when_its_launcher_dies(tmp_path: Path) -> None:
    file = tmp_path / "signal"
    command = [sys.executable, "-c", LAUNCHER, "torchrun", FOLLOWER, str(file)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as launcher:
        assert launcher.stdout is not None
        assert launcher.stdout.readline() == "ready\n"
        launcher.kill()
        until_s = time.monotonic() + 20
        while not (file.exists() and file.read_text()):
            assert time.monotonic() < until_s
            time.sleep(0.01)
    assert file.read_text() == "stops"
