"""A log file per rank: messages, warnings and tracebacks, each once, before and after it is open."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from launcher.run.rank_log import LOGGER, log_warnings, open_rank_log


@pytest.fixture(autouse=True)
def _untouched(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Start as a fresh `python -m launcher` does, and put everything back."""
    monkeypatch.setattr(sys, "warnoptions", [])
    loggers = (LOGGER, logging.getLogger("py.warnings"))
    kept = [(logger, list(logger.handlers), logger.propagate, logger.level) for logger in loggers]
    with warnings.catch_warnings():
        yield
    logging.captureWarnings(False)
    for logger, handlers, propagate, level in kept:
        for handler in logger.handlers:
            handler.close()
        logger.handlers, logger.propagate = handlers, propagate
        logger.setLevel(level)


def test_messages_warnings_and_tracebacks_are_in_the_log(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    log_warnings()
    open_rank_log(tmp_path / "logs", 3)
    LOGGER.info("rank %d", 3)
    warnings.warn("mind the step", UserWarning, stacklevel=1)
    try:
        raise ValueError("Käse \udcff")
    except ValueError as error:
        LOGGER.error("failed", exc_info=error)
    text = (tmp_path / "logs" / "rank-3.log").read_text(encoding="utf-8")
    assert "INFO rank 3\n" in text
    assert "UserWarning: mind the step" in text
    assert "ERROR failed\nTraceback (most recent call last):" in text
    assert 'raise ValueError("Käse' in text
    assert "ValueError: Käse \\udcff" in text
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")


def test_messages_from_before_the_log_was_open_are_in_it(tmp_path: Path) -> None:
    log_warnings()
    warnings.warn("early", UserWarning, stacklevel=1)
    LOGGER.info("early too")
    open_rank_log(tmp_path, 0)
    text = (tmp_path / "rank-0.log").read_text()
    assert text.count("UserWarning: early") == 1
    assert text.count("INFO early too") == 1


def test_a_log_that_is_opened_twice_has_each_line_once(tmp_path: Path) -> None:
    open_rank_log(tmp_path, 0)
    LOGGER.info("one")
    open_rank_log(tmp_path, 0)
    LOGGER.info("two")
    lines = (tmp_path / "rank-0.log").read_text().splitlines()
    assert [line.rsplit(" ", 1)[1] for line in lines] == ["one", "two"]


def test_a_second_run_in_one_process_has_its_own_log(tmp_path: Path) -> None:
    open_rank_log(tmp_path / "a", 0)
    open_rank_log(tmp_path / "b", 0)
    LOGGER.info("second")
    assert (tmp_path / "a" / "rank-0.log").read_text() == ""
    assert "second" in (tmp_path / "b" / "rank-0.log").read_text()


def test_warning_filters_of_the_user_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "warnoptions", ["error"])
    warnings.simplefilter("error")
    log_warnings()
    with pytest.raises(UserWarning, match="mine"):
        warnings.warn("mine", UserWarning, stacklevel=1)
