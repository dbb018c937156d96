"""The charts that a training draws at its end, and that it ends well when it cannot draw them."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from launcher.errors import EXIT_DONE
from launcher.run.charts import Curve, Panel
from launcher.run.final_charts import build_panels, draw_charts
from launcher.run.journal import Journal
from tests.harness.runs import DIGITS, events, journal, summary, train
from tests.harness.workdir import WorkDir
from tests.run.wandb_file import read_offline_runs

DRAWN = ["curves", "per_class", "confusion"]
CONFUSION = [[3, 1], [0, 2]]


def make_journal(folder: Path, rows: list[list[int]] = CONFUSION) -> Path:
    """Three steps, of which the last was trained again after a resume, two validations and a final evaluation."""
    folder.mkdir(exist_ok=True)
    written = Journal(folder, 10)
    written.write("event", 0, name="started")
    for step, loss in ((1, 4.0), (2, 3.0), (3, 9.0)):
        written.write("train", step, loss=loss, lr=0.1)
    written.write("event", 2, name="resumed")
    written.write("train", 3, loss=float("nan"), lr=0.2)
    per_class = {"ant": {"recall": 0.75, "support": 4}, "bee": {"recall": 1.0, "support": 2}}
    metrics = {"accuracy": 5 / 6, "num_images": 6, "per_class": per_class}
    for step in (2, 3):
        written.write("eval", step, split="valid", weights_step=step, loss=1.0 / step, **metrics)
    written.write("eval", 3, split="test", weights_step=2, loss=1.0, **metrics)
    written.write("event", 3, name="confusion", split="test", rows=rows)
    written.close()
    return folder


def test_a_training_leaves_its_charts_and_wandb_has_them(tmp_path: Path, digits: Path) -> None:
    train(DIGITS, f"data.dir={digits}", "run.dir=run", "train.epochs=6st", "log.wandb.mode=offline", cwd=tmp_path)
    run = tmp_path / "run"
    assert {path.name for path in (run / "pictures").iterdir()} == {f"{name}.png" for name in (*DRAWN, "augmented")}
    for name in DRAWN:
        with Image.open(run / "pictures" / f"{name}.png") as image:
            assert (image.format, min(image.size) > 300) == ("PNG", True)
            assert len(np.unique(np.asarray(image.convert("L")))) > 10
    assert [event["picture"] for event in events(run, "picture")] == ["augmented", *DRAWN]
    assert journal(run)[-1]["name"] == "done"
    (media,) = (run / "wandb").glob("offline-run-*/files/media/images")
    assert sorted(path.name.partition("_")[0] for path in media.iterdir()) == [
        "augmented",
        "confusion",
        "curves",
        "per",
    ]
    (mirrored,) = read_offline_runs(run)
    keys = {key.partition(".")[0] for row in mirrored.history for key in row}
    assert {"augmented", *DRAWN} <= keys


def test_curves_have_each_step_once(tmp_path: Path) -> None:
    """The step that was trained again counts once, and its loss is not finite; the final evaluation is no point."""
    found = build_panels(journal(make_journal(tmp_path / "run")))
    loss = [Curve("train", 0, [(1.0, 4.0), (2.0, 3.0)]), Curve("valid", 1, [(2.0, 0.5), (3.0, 1 / 3)])]
    assert found == [
        Panel("loss", loss),
        Panel("accuracy", [Curve("valid", 1, [(2.0, 5 / 6), (3.0, 5 / 6)])]),
        Panel("learning rate", [Curve("head", 0, [(1.0, 0.1), (2.0, 0.1), (3.0, 0.2)])]),
    ]


def test_too_many_classes_for_a_matrix_still_have_bars(tmp_path: Path) -> None:
    assert draw_charts(make_journal(tmp_path, rows=[]), tmp_path) == (["curves", "per_class"], [])
    assert not (tmp_path / "confusion.png").exists()


def test_a_chart_that_fails_leaves_the_others(tmp_path: Path) -> None:
    (tmp_path / "per_class.png").mkdir()
    names, [note] = draw_charts(make_journal(tmp_path / "run"), tmp_path)
    assert names == ["curves", "confusion"]
    assert note.startswith("per_class.png could not be drawn: IsADirectoryError: ")


def test_without_matplotlib_a_training_ends_well(workdir: WorkDir, capsys: pytest.CaptureFixture[str]) -> None:
    workdir.patch.setitem(sys.modules, "matplotlib.figure", None)
    assert workdir.train("train.epochs=1", "backbone.freeze=none") == EXIT_DONE
    run = workdir.path / "run"
    assert summary(run)["status"] == "done"
    assert [path.name for path in (run / "pictures").iterdir()] == ["augmented.png"]
    note = "curves.png needs matplotlib: pip install 'launcher[charts]'"
    assert f"note: {note}" in capsys.readouterr().out
    assert [event["message"] for event in events(run, "note") if "matplotlib" in event["message"]] == [note]
