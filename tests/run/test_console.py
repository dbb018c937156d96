"""The console: plain lines in a pipe, a live line on a terminal, tables that keep every word."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys

import pytest

from launcher.commands.runs.watch import show_evaluation
from launcher.metrics.names import Metrics
from launcher.run.console import Board, TrainingConsole
from launcher.train.summary import metrics_rows

TRAIN: Metrics = {"loss": 0.51234, "lr": 0.01, "images_per_s": 12345.6, "data_wait_frac": 0.034}
VALID: Metrics = {"loss": 0.25, "accuracy": 0.9876, "top5_accuracy": 1.0, "num_images": 1797}
AWKWARD = "[bold]cat[/bold] :smile: [0]"
SHOW = f"""
from launcher.run.console import TrainingConsole
console = TrainingConsole(100, 10)
console.say("before")
console.train(20, {TRAIN!r})
console.say("during {AWKWARD}")
console.evaluation("valid", 20, {VALID!r}, True)
console.table("[red]run", [("folder", "/" + "x" * 150), ("worst", "{AWKWARD} K\\u00e4se")])
"""
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")


def _show_piped(**environment: str) -> str:
    command = [sys.executable, "-c", SHOW]
    return subprocess.run(command, capture_output=True, check=True, env=os.environ | environment).stdout.decode()


def test_a_pipe_gets_plain_lines(capsys: pytest.CaptureFixture[str]) -> None:
    console = TrainingConsole(100, 30)
    console.train(50, TRAIN)
    console.evaluation("valid", 50, VALID, is_best=False)
    console.evaluation("valid", 61, VALID, is_best=True)
    console.close()
    train, worse, better = capsys.readouterr().out.splitlines()
    assert train == "epoch 2/4  step 50/100  loss 0.5123  lr 1.00e-02  12,346 images/s  data wait 3%"
    words = "valid  loss 0.2500  accuracy 98.76%  top-5 accuracy 100.00%  1,797 images"
    assert worse == f"epoch 2/4  {words}"
    assert better == f"epoch 3/4  {words}  best so far"


@pytest.mark.parametrize(("num_classes", "is_shown"), [(2, False), (5, False), (6, True)])
def test_top5_is_shown_where_it_can_be_wrong(
    capsys: pytest.CaptureFixture[str], num_classes: int, is_shown: bool
) -> None:
    per_class = {f"class_{k}": {"recall": 1.0, "support": 1} for k in range(num_classes)}
    metrics = {**VALID, "per_class": per_class}
    TrainingConsole(100, 30).evaluation("valid", 2, metrics, is_best=False)
    shown = [capsys.readouterr().out, metrics_rows("valid", metrics)[0][1]]
    shown.append(show_evaluation({**metrics, "kind": "eval", "step": 1, "epoch": 1, "time_s": 0.0}))
    assert [("  accuracy 98.76%" in words, "top-5" in words) for words in shown] == [(True, is_shown)] * 3


def test_time_left_counts_from_the_first_record(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    console = TrainingConsole(10_000, 100)
    console.train(4000, TRAIN)
    now += 100
    console.train(4100, TRAIN)
    first, second = capsys.readouterr().out.splitlines()
    assert first.endswith("data wait 3%")
    assert second.endswith("data wait 3%  1:38:20 left")


def test_zero_speed_and_a_nan_loss_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    TrainingConsole(1, 1).train(1, {"loss": float("nan"), "lr": 0.0, "images_per_s": 0.0, "data_wait_frac": 0.0})
    assert "loss nan  lr 0.00e+00  0 images/s  data wait 0%\n" in capsys.readouterr().out


def test_width_and_color_variables_change_nothing_in_a_pipe() -> None:
    shown = _show_piped(COLUMNS="40", FORCE_COLOR="1")
    assert "\x1b" not in shown
    assert f"during {AWKWARD}\n" in shown
    assert re.search(r"\n\[red\]run *\n", shown)
    assert re.search(r"│ folder │ /x{150} │\n│ worst  │ " + re.escape(AWKWARD) + r" Käse +│\n", shown)


def test_letters_that_the_terminal_lacks_do_not_end_a_run() -> None:
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
        except OSError:  # the other end is closed
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


def test_a_board_is_lines_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    board = Board()
    board.draw("run", [("a", "b")], 1, 2)
    board.change("\x1b[2Jnew")
    board.close()
    assert not board.is_live
    assert capsys.readouterr().out == "\\x1b[2Jnew\n"
