from __future__ import annotations

from dataclasses import replace

import pytest

from launcher.train.bottleneck import FEATURES, InputCost, Tunables, diagnose, find_remedies, find_straggler

GPU = Tunables(is_cpu=False, final_side=224, cache_keys="data.cache=decoded", feature_keys=None)
CPU = replace(GPU, is_cpu=True)
FROZEN = replace(GPU, feature_keys="augment.views=4")
# Three threads, busy all the time, most of it decoding, for a training that waits 61 of 100 s.
SLOW = InputCost(100.0, 61.0, 30.0, 240.0, 30.0, 2.0, 500.0, workers=3, num_cores=16)
SMALL = {"long_side": 300.0}
ALL_CORES = {"num_cores": 3}


TOOK = "reading and augmenting took"
TOO = " that the network uses too"
CACHE = "data.cache=decoded"
SHRINK = "shards packed with --max-side 320"


@pytest.mark.parametrize(
    ("changes", "tunables", "sentence"),
    [
        ({}, GPU, f"input-bound 61%: decode; try data.workers=8 or {SHRINK} or {CACHE}"),
        ({"num_cores": 4, **SMALL}, GPU, f"input-bound 61%: decode; try data.workers=4 or {CACHE}"),
        (ALL_CORES, GPU, f"input-bound 61%: decode; try {SHRINK} or {CACHE}"),
        ({**ALL_CORES, **SMALL}, GPU, f"input-bound 61%: decode; try {CACHE}"),
        ({**ALL_CORES, **SMALL}, FROZEN, f"input-bound 61%: decode; try {CACHE} or augment.views=4"),
        ({"decode_s": 90.0, **SMALL}, GPU, f"input-bound 61%: decode; try {CACHE}"),  # threads that are idle already
        ({"read_s": 250.0, **SMALL, **ALL_CORES}, GPU, f"input-bound 61%: read; try {CACHE}"),
        ({"augment_s": 250.0, **SMALL, **ALL_CORES}, CPU,
         f"input-bound 61%: augment; try fewer operations in augment.train; {TOOK} 100% of the 3 cores{TOO}"),
        ({"workers": 0, "wait_s": 90.0, **SMALL}, GPU, f"input-bound 90%: decode; try data.workers=10 or {CACHE}"),
        ({"workers": 0, "wait_s": 100.0, "num_cores": 1, **SMALL}, GPU,
         f"input-bound 100%: decode; try data.workers=1 or {CACHE}"),
        ({"read_s": 0.0, "decode_s": 0.0, "augment_s": 0.0, "long_side": 0.0}, CPU,
         "input-bound 61%: reading features; try data/features on a faster disk"),
        ({"wait_s": 3.0, "copy_s": 95.0}, GPU, f"input-bound 95%: copy; try {SHRINK} or data.cache=device"),
        ({"wait_s": 3.0, "copy_s": 95.0, **SMALL}, GPU, "input-bound 95%: copy; try data.cache=device"),
        ({**ALL_CORES, **SMALL}, replace(GPU, cache_keys=None), "input-bound 61%: decode; try smaller images"),
        ({"wait_s": 3.0}, GPU, "not input-bound: 3% of the time waiting for data"),
        ({"wait_s": 3.0, "decode_s": 30.0, "num_cores": 2}, CPU,
         f"not input-bound: 3% of the time waiting for data; {TOOK} 45% of the 2 cores{TOO}"),
        ({"wait_s": 3.0, "decode_s": 30.0, "num_cores": 1}, CPU,
         f"not input-bound: 3% of the time waiting for data; {TOOK} 90% of the core{TOO}"),
    ],
)  # fmt: skip
def test_the_sentence_names_the_bottleneck_and_what_to_try(
    changes: dict[str, float], tunables: Tunables, sentence: str
) -> None:
    report = diagnose([replace(SLOW, **changes)], tunables)  # type: ignore[arg-type]
    assert report is not None
    assert report.sentence == sentence
    assert (report.bottleneck is None) == sentence.startswith("not")


def test_the_process_that_waits_most_decides() -> None:
    """The others wait for its gradients, which looks as if they were computing."""
    quick = replace(SLOW, wait_s=1.0)
    report = diagnose([quick, SLOW, quick], GPU)
    assert report is not None
    assert (report.rank, report.bottleneck, report.wait_frac, report.threads_busy_frac) == (1, "decode", 0.61, 1.0)
    assert report.sentence.startswith("input-bound 61% (rank 1): decode; try")


def test_a_wait_is_never_longer_than_the_training() -> None:
    report = diagnose([replace(SLOW, wait_s=101.0)], GPU)
    assert report is not None
    assert report.wait_frac == 1.0


def ranks(*own: tuple[float, float]) -> list[InputCost]:
    """Seconds of own work and of waiting for data, in 100 steps."""
    return [replace(SLOW, compute_s=compute_s, wait_s=wait_s, steps=100) for compute_s, wait_s in own]


def test_a_straggler_is_named() -> None:
    costs = ranks((2.0, 0.1), (2.1, 0.1), (2.0, 2.0), (1.9, 0.2))
    times = "40.0 ms a step, 20.0 of them waiting for data, against 21.0 ms"
    line = f"rank 2 (d) takes 1.9 times as long as the others: {times}"
    assert find_straggler(costs, ["c", "c", "d", "d"]) == line
    report = diagnose(costs, GPU, ["c", "c", "d", "d"])
    assert report is not None
    assert report.straggler == line


@pytest.mark.parametrize(
    "costs",
    [
        ranks((2.0, 0.1), (2.9, 0.1)),
        ranks((2.0, 0.1)),
        [replace(cost, steps=9) for cost in ranks((2.0, 0.1), (9.0, 0.1))],  # too few to say
        ranks((0.0, 0.0), (0.0, 0.0)),
    ],
)
def test_nobody_is_called_slow_without_need(costs: list[InputCost]) -> None:
    assert find_straggler(costs, ["a", "b"]) is None


def test_nothing_trained_is_no_report() -> None:
    assert diagnose([InputCost(0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 2, 2)], CPU) is None


@pytest.mark.parametrize("stage", ["read", "decode", "augment", "copy", FEATURES])
@pytest.mark.parametrize("tunables", [GPU, CPU, FROZEN, replace(GPU, cache_keys=None)])
def test_there_is_always_something_to_try(stage: str, tunables: Tunables) -> None:
    assert find_remedies(stage, 100.0, tunables)
