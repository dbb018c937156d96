"""A run of digits and a run of photographs, and wrong input for the commands that take them."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_image

from launcher.errors import EXIT_USER_ERROR
from tests.harness.evaluated_run import read_split
from tests.harness.runs import DIGITS, Ended, run, train

RUNS = ("digits", "photos")
CLASSES = {"digits": tuple("0123456789"), "photos": ("china", "flower")}
"""The photographs are scikit-learn's two, of 427 x 640 pixels."""
FOLDERS = {"digits": "figures", "photos": "photos"}
"""Image files of the run's classes, in a folder for each class."""
NUM_PHOTOS = 24
"""Photographs of each class."""

SPOILT: Mapping[str, Callable[[bytes], bytes]] = {
    "text": lambda content: b"text, not an image\n",
    "cut-off": lambda content: content[: len(content) // 2],
    "empty": lambda content: b"",
}
"""Contents of unreadable images, made from a JPEG."""

RECIPE = """
backbone: {name: avatar_cnn}
data: {source: "imagefolder:photos", dir: photos-shards, split: {train: 0.5, valid: 0.25, test: rest}}
augment:
  train: [{op: random_resized_crop, size: 64}, {op: horizontal_flip}]
  eval: [{op: resize, size: 72}, {op: center_crop, size: 64}]
  mean: [0.485, 0.456, 0.406]
  std: [0.229, 0.224, 0.225]
optim: {name: adam, lr: 1.0e-3}
train: {epochs: 2, global_batch: 8}
"""
PROGRESS = re.compile(r"(evaluate|pack) \w+: [\d,]+ of [\d,]+")
"""A line of progress."""

SEARCH = """
trials: 2
search:
  optim.lr: {low: 1.0e-4, high: 0.1}
"""


def launch(workdir: Path, *words: str | Path, processes: int = 1) -> Ended:
    """Run the program in this folder, as one or several processes that no launcher ends."""
    return run(*words, cwd=workdir, processes=processes)


def expect(workdir: Path, words: str, message: str, processes: int = 1) -> None:
    """Expect exit code 2 of all processes, one line, in which `...` stands for anything, and no change of files."""
    before = list_files(workdir)
    ended = launch(workdir, *shlex.split(words), processes=processes)
    assert (ended.codes, ended.out) == ((EXIT_USER_ERROR,) * processes, ""), ended.err
    [line] = [line for line in ended.err.splitlines() if not PROGRESS.fullmatch(line)]
    assert re.fullmatch(".*".join(map(re.escape, f"launcher: {message}".split("..."))), line), line
    assert list_files(workdir) == before


def make_two_runs(workdir: Path, digits: Path) -> None:
    """Make `runs/RUN`; `bare/RUN`: without a checkpoint; `RUN-shards`: its data; `FOLDERS[RUN]`: images of its classes;
    `spoilt/RUN/KIND`: some of them, and one that is unreadable."""
    make_photographs(workdir / "photos")
    (workdir / "photos.yaml").write_text(RECIPE)
    (workdir / "search.yaml").write_text(SEARCH)
    options = ("data.workers=1", "log.wandb.mode=disabled", "strategy.device=cpu")
    (workdir / "digits-shards").symlink_to(digits)
    train(DIGITS, "data.dir=digits-shards", "train.epochs=1", "run.dir=runs/digits", *options, cwd=workdir)
    train("photos.yaml", "run.dir=runs/photos", *options, cwd=workdir)
    write_digits(digits, workdir / FOLDERS["digits"])
    photograph = (workdir / "photos/china/00.jpg").read_bytes()
    for name, folder in FOLDERS.items():
        shutil.copytree(
            workdir / "runs" / name, workdir / "bare" / name, ignore=shutil.ignore_patterns("step-*", "best", "last")
        )
        for kind in SPOILT:
            spoil(workdir / folder, workdir / "spoilt" / name / kind, SPOILT[kind](photograph))


def make_photographs(folder: Path) -> None:
    """Write parts of two photographs, with sides from 160 to 320 pixels."""
    rng = np.random.default_rng(0)
    for name in CLASSES["photos"]:
        whole = Image.fromarray(load_sample_image(f"{name}.jpg"))
        (folder / name).mkdir(parents=True)
        for number in range(NUM_PHOTOS):
            width, height = rng.integers(160, 321, 2).tolist()
            x, y = rng.integers(whole.width - width + 1), rng.integers(whole.height - height + 1)
            part = whole.crop((int(x), int(y), int(x) + width, int(y) + height))
            part.save(folder / name / f"{number:02}.jpg", quality=90)


def write_digits(shards: Path, folder: Path) -> None:
    """Write the first test image of each class as a file in a folder of its class."""
    first = {member.label: member for member in reversed(read_split(shards, "test"))}
    for label, member in first.items():
        class_folder = folder / CLASSES["digits"][label]
        class_folder.mkdir(parents=True)
        (class_folder / f"00{Path(member.name).suffix}").write_bytes(member.content)


def spoil(images: Path, folder: Path, bad: bytes) -> None:
    """Copy one image of each class, and write `bad.jpg` into the first class."""
    for class_folder in sorted(images.iterdir()):
        first = min(class_folder.iterdir())
        (folder / class_folder.name).mkdir(parents=True)
        shutil.copy(first, folder / class_folder.name)
    (min(folder.iterdir()) / "bad.jpg").write_bytes(bad)


def list_files(workdir: Path) -> dict[str, tuple[int, int]]:
    """Size and time of change of all files and folders but locks."""
    statuses = {path: path.lstat() for path in workdir.rglob("*") if path.suffix != ".lock"}
    return {
        path.relative_to(workdir).as_posix(): (0, 0) if path.is_dir() else (status.st_size, status.st_mtime_ns)
        for path, status in statuses.items()
    }
