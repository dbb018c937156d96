from __future__ import annotations

from launcher.distributed.watchdog.beacon import Beacon, Position


def test_entering_the_same_phase_again_is_progress() -> None:
    beacon = Beacon()
    beacon.enter("evaluate", 7)
    before = beacon.position
    beacon.enter("evaluate")
    assert beacon.position == before
    assert beacon.position is not before


def test_waiting_ends_at_the_position_before() -> None:
    beacon = Beacon()
    beacon.enter("save", 7)
    with beacon.waiting():
        assert beacon.position == ("save", 7, True)
    assert beacon.position == ("save", 7, False)
    beacon.position = Position("reduce", 7, True)
    with beacon.waiting():
        pass
    assert beacon.position == ("reduce", 7, True)


def test_reading_is_that_of_the_first_busy_reader() -> None:
    beacon = Beacon()
    assert beacon.reading() is None
    beacon.readers = [lambda: None, lambda: "a.tar: image 3", lambda: "b.tar: image 4"]
    assert beacon.reading() == "a.tar: image 3"
