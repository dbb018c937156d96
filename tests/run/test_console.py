"""The console: plain lines in a pipe, a live line on a terminal, a table that keeps every word."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys

import pytest

from launcher.commands.runs.watch import show_evaluation
from launcher.metrics.names import Metrics
from launcher.run.console import Board, Console, NoConsole
from launcher.train.summary import metrics_rows

FIGURES: Metrics = {"loss": 0.51234, "lr": 0.01, "images_per_s": 12345.6, "data_wait_frac": 0.034}
VALID: Metrics = {"loss": 0.25, "top1_frac": 0.9876, "top5_frac": 1.0, "num_images": 1797}
AWKWARD = "[bold]cat[/bold] :smile: [0]"
SHOW = f"""
from launcher.run.console import Console
console = Console(100, 10)
console.say("before")
console.train(20, 2, {FIGURES!r})
console.say("during {AWKWARD}")
console.evaluation("valid", 2, {VALID!r}, True)
console.table("[red]run", [("folder", "/" + "x" * 150), ("worst", "{AWKWARD} K\\u00e4se")])
"""
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")


def _show_piped(**environment: str) -> str:
    command = [sys.executable, "-c", SHOW]
    return subprocess.run(command, capture_output=True, check=True, env=os.environ | environment).stdout.decode()


def test_a_pipe_gets_plain_lines(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console(100, 30)
    console.train(50, 2, FIGURES)
    console.evaluation("valid", 2, VALID, is_best=False)
    console.evaluation("valid", 3, VALID, is_best=True)
    console.close()
    train, worse, better = capsys.readouterr().out.splitlines()
    assert train == "epoch 2/4  step 50/100  loss 0.5123  lr 1.00e-02  12,346 images/s  data wait 3%"
    words = "valid  loss 0.2500  top-1 98.76%  top-5 100.00%  1,797 images"
    assert worse == f"epoch 2/4  {words}"
    assert better.startswith(f"epoch 3/4  {words}  best")


@pytest.mark.parametrize(("num_classes", "is_shown"), [(2, False), (5, False), (6, True)])
def test_top5_is_shown_where_it_can_be_wrong(
    capsys: pytest.CaptureFixture[str], num_classes: int, is_shown: bool
) -> None:
    per_class = {f"class_{k}": {"top1_frac": 1.0, "num_images": 1} for k in range(num_classes)}
    metrics = {**VALID, "per_class": per_class}
    Console(100, 30).evaluation("valid", 2, metrics, is_best=False)
    shown = [capsys.readouterr().out, metrics_rows("valid", metrics)[0][1]]
    shown.append(show_evaluation({**metrics, "kind": "eval", "step": 1, "epoch": 1, "time_s": 0.0}))
    assert [("top-1 98.76%" in words, "top-5" in words) for words in shown] == [(True, is_shown)] * 3


def test_the_time_left_is_counted_from_the_first_record(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    console = Console(10_000, 100)
    console.train(4000, 41, FIGURES)
    now += 100
    console.train(4100, 42, FIGURES)
    assert capsys.readouterr().out.splitlines()[1].endswith("  left 1:38:20")


def test_no_speed_and_no_number_are_no_failure(capsys: pytest.CaptureFixture[str]) -> None:
    Console().train(1, 1, {"loss": float("nan"), "lr": 0.0, "images_per_s": 0.0, "data_wait_frac": 0.0})
    assert "loss nan  lr 0.00e+00  0 images/s  data wait 0%\n" in capsys.readouterr().out


def test_width_and_colour_asked_for_change_nothing_in_a_pipe() -> None:
    shown = _show_piped(COLUMNS="40", FORCE_COLOR="1")
    assert "\x1b" not in shown
    assert f"during {AWKWARD}\n" in shown
    assert re.search(r"\n\[red\]run *\n", shown)
    assert re.search(r"│ folder │ /x{150} │\n│ worst  │ " + re.escape(AWKWARD) + r" Käse +│\n", shown)


def test_letters_the_terminal_lacks_do_not_end_a_run() -> None:
    assert f"| worst  | {AWKWARD} K?se " in _show_piped(PYTHONIOENCODING="ascii")


def test_a_terminal_gets_a_live_line_and_an_unbroken_rest() -> None:
    parent, child = pty.openpty()
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "80", "LINES": "24"}
    environment.pop("NO_COLOR", None)
    process = subprocess.Popen([sys.executable, "-c", SHOW], stdout=child, stdin=child, env=environment)
    os.close(child)
    raw = b""
    while True:
        try:
            raw += os.read(parent, 65536)
        except OSError:  # how Linux says that the other end is closed
            break
    os.close(parent)
    assert process.wait() == 0
    shown = raw.decode()
    assert shown.count("\x1b[?25l") == shown.count("\x1b[?25h") == 1, "the cursor comes back"
    lines = [ESCAPES.sub("", line) for line in re.split(r"[\r\n]+", shown)]
    live = [line for line in lines if line.startswith("epoch 2/10") and "20/100" in line]
    assert live
    assert max(map(len, live)) <= 80, "one line, cut short, never two"
    assert f"during {AWKWARD}" in lines
    table = "".join(line.split("│")[2].strip() for line in lines if line.count("│") == 3)
    assert table == "/" + "x" * 150 + f"{AWKWARD} Käse"


def test_other_ranks_are_silent(capsys: pytest.CaptureFixture[str]) -> None:
    console = NoConsole()
    console.say("x")
    console.train(1, 1, FIGURES)
    console.evaluation("valid", 1, VALID, True)
    console.table("x", [("a", "b")])
    console.close()
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "")


def test_a_board_is_lines_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    board = Board()
    board.draw("run", [("a", "b")], 1, 2)
    board.note("\x1b[2Jnew")
    board.close()
    assert not board.is_live
    assert capsys.readouterr().out == "\\x1b[2Jnew\n"
