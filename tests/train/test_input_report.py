"""The report on the input: from the timers of a stage to one line of advice."""

from __future__ import annotations

import pytest

from launcher.train.input_report import report_input, tunables_of
from tests.harness.recorded_log import RecordedLog
from tests.harness.workdir import FLIPS, LENET, WorkDir


def test_a_training_that_waited_says_so(workdir: WorkDir) -> None:
    parts, log = workdir.build(LENET, "backbone.freeze=none"), RecordedLog()
    stage, timer = parts.enter(0), parts.inputs.timer
    timer.images, timer.train_s, timer.input.wait_s, timer.input.read_s = 120, 10.0, 6.0, 9.0
    report = report_input(parts.job, stage, 10, log)
    assert report is not None
    assert (report.bottleneck, report.wait_frac) == ("read", 0.6)
    [event] = log.events("input")
    assert event["sentence"] == report.sentence
    assert [(each["wait_s"], each["steps"], each["workers"]) for each in event["ranks"]] == [(6.0, 10, 1)]


def test_nothing_trained_is_no_report(workdir: WorkDir) -> None:
    parts, log = workdir.build(LENET), RecordedLog()
    assert report_input(parts.job, parts.enter(0), 0, log) is None
    assert log.records == []


@pytest.mark.parametrize(
    ("overrides", "cache_keys", "feature_keys"),
    [
        (("data.cache=none",), "data.cache=decoded", None),
        (("data.cache=none", "strategy.feature_cache_gib=0"), "data.cache=decoded", "strategy.feature_cache_gib=20"),
        (("data.cache=none", FLIPS), "data.cache=decoded", "augment.views=4"),
        (("data.cache=decoded", FLIPS), None, "augment.views=4"),
    ],
)
def test_only_what_is_not_done_yet_is_advised(
    workdir: WorkDir, overrides: tuple[str, ...], cache_keys: str | None, feature_keys: str | None
) -> None:
    parts = workdir.build(LENET, "train.epochs=4", *overrides)
    tunables = tunables_of(parts.job.recipe, parts.enter(0), "cpu")
    assert (tunables.is_cpu, tunables.final_side) == (True, 32)
    assert (tunables.cache_keys, tunables.feature_keys) == (cache_keys, feature_keys)
