from __future__ import annotations

from datetime import timedelta

import pytest
from accelerate import InitProcessGroupKwargs

from launcher.distributed.timeouts import FOREVER, JOIN_TIMEOUT, training_timeout
from launcher.distributed.watchdog.hang import ALLOWANCE_S, DEADLOCK_FRAC


@pytest.mark.parametrize("hang_timeout_s", [1.0, 600.0, 86_400.0])
def test_collectives_wait_longer_than_the_watchdog(hang_timeout_s: float) -> None:
    names_after_s = max(DEADLOCK_FRAC * hang_timeout_s, *ALLOWANCE_S.values())
    assert training_timeout(hang_timeout_s) > timedelta(seconds=names_after_s)


@pytest.mark.parametrize("hang_timeout_s", [None, 1e300])
def test_no_limit_is_a_year(hang_timeout_s: float | None) -> None:
    assert training_timeout(hang_timeout_s) == FOREVER


def test_accelerate_passes_the_timeout_on() -> None:
    assert InitProcessGroupKwargs(timeout=JOIN_TIMEOUT).to_kwargs() == {"timeout": JOIN_TIMEOUT}
