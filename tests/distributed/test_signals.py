from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from launcher.distributed import signals as stop
from launcher.distributed.signals import SIGNALS, StopRequest


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_nothing_is_wanted_before_a_signal() -> None:
    assert StopRequest().wanted is None


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_sets_the_flag(number: signal.Signals) -> None:
    request = StopRequest()
    os.kill(os.getpid(), number)
    assert request.wanted == number.name


def test_another_signal_ends_nothing() -> None:
    request = StopRequest()
    for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT):
        os.kill(os.getpid(), number)
    assert request.wanted == "SIGINT"


def test_an_echo_of_a_signal_ends_nothing() -> None:
    """SLURM tells every process of a step, and torchrun passes on what it is told."""
    request = StopRequest()
    for _ in range(3):
        os.kill(os.getpid(), signal.SIGTERM)
    assert request.wanted == "SIGTERM"


PROGRAM = """
import sys, time
from launcher.distributed import signals as stop
stop.ECHO_S = 0.2
request = stop.StopRequest()
print("ready", flush=True)
while request.wanted is None:
    time.sleep(0.01)
print(request.wanted, flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("number", SIGNALS)
def test_the_same_signal_later_ends_the_process(number: signal.Signals) -> None:
    with subprocess.Popen([sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        assert process.stdout.readline() == f"{number.name}\n"
        assert process.poll() is None
        time.sleep(0.3)
        process.send_signal(number)
        assert process.wait(timeout=20) == 128 + number


STUCK = """
import ctypes
from launcher.distributed import signals as stop
stop.ECHO_S = 0.2
request = stop.StopRequest()
print("ready", flush=True)
library, mutex = ctypes.CDLL(None), ctypes.create_string_buffer(64)
library.pthread_mutex_lock(mutex)
library.pthread_mutex_lock(mutex)
"""


def test_the_same_signal_later_ends_a_process_that_is_stuck_in_a_library() -> None:
    """As in an exchange with processes that are gone: handlers of Python's do not run there."""
    with subprocess.Popen([sys.executable, "-c", STUCK], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        for _ in range(2):
            time.sleep(0.5)
            assert process.poll() is None
            process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=20) == 128 + signal.SIGTERM


def test_an_echo_is_over_before_torchrun_kills() -> None:
    assert stop.ECHO_S < 30
