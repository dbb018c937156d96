from __future__ import annotations

from launcher.distributed.watchdog.beacon import Pulse


def test_entering_the_same_phase_again_is_progress() -> None:
    pulse = Pulse()
    pulse.at = ("eval", 7, False)
    before = pulse.at
    pulse.enter("eval")
    assert pulse.at == before
    assert pulse.at is not before


def test_waiting_is_part_of_a_phase() -> None:
    pulse = Pulse()
    pulse.at = ("save", 7, False)
    with pulse.waiting():
        assert pulse.at == ("save", 7, True)
    assert pulse.at == ("save", 7, False)
    pulse.at = ("reduce", 7, True)
    with pulse.waiting():
        pass
    assert pulse.at == ("reduce", 7, True)


def test_the_first_reader_that_is_reading_says_where() -> None:
    pulse = Pulse()
    assert pulse.place is None
    pulse.readers = [lambda: None, lambda: "a.tar: image 3", lambda: "b.tar: image 4"]
    assert pulse.place == "a.tar: image 3"
