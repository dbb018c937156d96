"""The command line. A bare recipe means: train."""

from __future__ import annotations

import errno
import json
import os
import sys
import time
import traceback
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App, CycloptsError, Parameter

import launcher
from launcher.cache import list_features, remove_features
from launcher.errors import (
    EXIT_DONE,
    EXIT_FAILED,
    EXIT_RESUMABLE,
    EXIT_USER_ERROR,
    DataError,
    FetchError,
    LauncherError,
    RankLost,
    Stopped,
    UserError,
    is_peer_lost,
)
from launcher.recipe.parse import load_recipe
from launcher.recipe.schema import Recipe
from launcher.runs import list_runs
from launcher.sync import sync as sync_runs
from launcher.watch import watch as watch_run
from launcher.world import World, read_world
from shards.manifest import ShardsError
from shards.printable import printable

HOLD_BACK_S = 3.0
"""A launcher ends all ranks when one ends: those that fail in the same words leave rank 0 the time to say them."""

app = App(
    name="launcher",
    help="Train image classifiers on every device there is: `launcher RECIPE [key.path=value ...]`.",
    version=launcher.__version__,
    suppress_keyboard_interrupt=False,
)


@app.default
def train(
    recipe: Path,
    /,
    *overrides: str,
    debug: Annotated[bool, Parameter(negative=())] = False,
    fresh: Annotated[bool, Parameter(negative=())] = False,
    allow_change: Annotated[tuple[str, ...], Parameter(negative=())] = (),
) -> int:
    """Train. The same command again continues the same run.

    Parameters
    ----------
    recipe
        A YAML file; see recipes/.
    overrides
        Values to change, as `key.path=value`.
    debug
        One CPU process, a handful of batches, every check on, no W&B.
    fresh
        Start anew even when an unfinished run of this recipe is there.
    allow_change
        Continue although this key of the recipe has changed; may be given several times.
    """
    from launcher.train import Options, main

    return main(load_recipe(recipe, overrides), Options(debug, fresh, allow_change))


@app.command
def check(
    recipe: Path,
    /,
    *overrides: str,
    processes: int | None = None,
    nodes: int = 1,
    gpus_per_node: int = 1,
    rank: int | None = None,
) -> int:
    """Read the recipe and the manifest of its shards, and print the plan. Trains nothing, downloads nothing.

    Parameters
    ----------
    recipe
        A YAML file.
    overrides
        Values to change, as `key.path=value`.
    processes
        How many processes will train, all on one node.
    nodes
        How many nodes will train, instead of --processes.
    gpus_per_node
        How many processes on each of them.
    rank
        Show all samples of this process's first batch.
    """
    from launcher.check import Wishes
    from launcher.check import check as check_recipe

    return check_recipe(load_recipe(recipe, overrides), Wishes(processes, nodes, gpus_per_node, rank))


@app.command
def fetch(recipe: Path, /, *overrides: str) -> int:
    """Download and pack what the recipe needs, on a machine that has a network, for others that have none.

    Parameters
    ----------
    recipe
        A YAML file.
    overrides
        Values to change, as `key.path=value`.
    """
    from launcher.fetch import fetch as fetch_recipe

    return fetch_recipe(load_recipe(recipe, overrides))


@app.command
def show(
    recipe: Path, /, *overrides: str, images: int = 6, views: int = 6, output: Path = Path("augmented.png")
) -> int:
    """Write a picture of training images beside what augmentation makes of them, as the network will see them.

    Parameters
    ----------
    recipe
        A YAML file.
    overrides
        Values to change, as `key.path=value`.
    images
        How many training images, a row each: the first of the first epoch.
    views
        How many augmented views of each: those of the first epochs.
    output
        The PNG file.
    """
    from launcher.show import show as show_recipe

    return show_recipe(load_recipe(recipe, overrides), images, views, output)


@app.command
def probe(recipe: Path, /, *overrides: str) -> int:
    """Logistic regression on what the recipe's backbone, all of it frozen, makes of the images. Trains no network.

    Parameters
    ----------
    recipe
        A YAML file. What it says about head, freezing and training does not matter here.
    overrides
        Values to change, as `key.path=value`.
    """
    from launcher.probe.main import probe as probe_recipe

    return probe_recipe(load_recipe(recipe, overrides))


@app.command
def bench(recipe: Path, /, *overrides: str, seconds: float = 20.0, processes: int = 1) -> int:
    """Measure reading, decoding, augmentation, the whole input and the network here, each alone. Keeps nothing.

    Parameters
    ----------
    recipe
        A YAML file.
    overrides
        Values to change, as `key.path=value`.
    seconds
        How long to measure, all stages together.
    processes
        How many processes will train on this machine and share its cores and the batch; one of them is measured.
    """
    from launcher.bench.main import bench as bench_recipe

    return bench_recipe(load_recipe(recipe, overrides), seconds, processes)


@app.command
def verify_resume(
    recipe: Path,
    /,
    *overrides: str,
    steps: int = 20,
    processes: int | None = None,
    other_processes: int | None = None,
    seed: int | None = None,
    keep: Path | None = None,
    hang_s: float = 900.0,
) -> int:
    """Prove that this recipe, killed and gone on with, trains as if never interrupted: a few steps, in its own folder.

    Parameters
    ----------
    recipe
        A YAML file.
    overrides
        Values to change, as `key.path=value`.
    steps
        How many optimizer steps each run has; the learning rate's schedule is that of a training of this length.
    processes
        How many processes train. Left out: 1 on a CPU, one for each GPU.
    other_processes
        How many go on after the second kill. Left out: another number that the global batch allows.
    seed
        Decides the steps to kill at. Left out: drawn, and said.
    keep
        A new or empty folder for the runs, which stay there. Left out: a temporary one, kept when something differs.
    hang_s
        A run that writes nothing to its journal for so many seconds is taken to hang.
    """
    from launcher.verify.main import Wishes, verify

    return verify(recipe, overrides, Wishes(steps, processes, other_processes, seed, keep, hang_s))


@app.command
def evaluate(
    run: Path,
    /,
    *,
    split: str = "test",
    data: str | None = None,
    checkpoint: str = "best",
    transform: Literal["none", "rotate180", "hflip", "vflip"] = "none",
    output: Path | None = None,
    device: Literal["auto", "cpu", "cuda"] = "auto",
) -> int:
    """Judge a run's network on every picture of a split: accuracy, loss, calibration, confusion, worst mistakes.

    Parameters
    ----------
    run
        A run's folder, `runs/NAME/DATE-...`, or one of its checkpoints.
    split
        train, valid or test.
    data
        Other pictures of the same classes: a folder of shards, its URL, or a folder with a folder for each class.
    checkpoint
        best, last, or a step's number.
    transform
        What is done to every picture before the network sees it.
    output
        A folder for the files. Left out: `evaluations/SPLIT-CHECKPOINT` in the run's folder.
    device
        Where to compute; auto: CUDA where it is, else the CPU.
    """
    from launcher.evaluation.main import Wishes, evaluate_run

    return evaluate_run(run, Wishes(split, data, checkpoint, transform, output, device))


@app.command
def predict(
    run: str,
    path: str,
    /,
    *paths: str,
    top: int = 5,
    format: Literal["table", "jsonl", "csv"] | None = None,  # noqa: A002 - the option's name
    output: Path | None = None,
    grid: Path | None = None,
    flips: Annotated[bool, Parameter(negative=())] = False,
    checkpoint: str | None = None,
    split: str | None = None,
    device: Literal["auto", "cpu", "cuda"] = "auto",
) -> int:
    """Name what is on pictures. Exit code 1: some cannot be read, the others are done.

    Parameters
    ----------
    run
        A run's folder, one of its checkpoints, or `torchvision/NAME` for a network that knows ImageNet.
    path
        A picture, a folder of them, a pattern, or a folder of shards.
    paths
        More of them.
    top
        How many classes to name for each, the likeliest first.
    format
        Left out: by the ending of --output, else a table.
    output
        A file. Left out: stdout.
    grid
        A PNG file for the first 64 pictures with what was said of them.
    flips
        Average over each picture and its mirror image.
    checkpoint
        best, last, or a step's number. Left out: best.
    split
        Of folders of shards. Left out: all.
    device
        Where to compute; auto: CUDA where it is, else the CPU.
    """
    from launcher.predict.main import Wishes
    from launcher.predict.main import predict as predict_pictures

    wishes = Wishes(top, format, output, grid, flips, checkpoint, split, device)
    return predict_pictures(run, [path, *paths], wishes)


@app.command
def export(
    run: Path,
    /,
    *,
    format: Literal["torchscript", "onnx", "safetensors", "hf"],  # noqa: A002 - the option's name
    checkpoint: str = "best",
    output: Path | None = None,
    data: Path | None = None,
) -> int:
    """Write a run's network for other programs, with its classes and preprocessing inside, checked on real pictures.

    Parameters
    ----------
    run
        A run's folder, `runs/NAME/DATE-...`, or one of its checkpoints.
    format
        hf: a folder as Hugging Face's hub has them. torchscript and onnx give probabilities, safetensors is weights.
    checkpoint
        best, last, or a step's number.
    output
        The file; of hf the folder, which must not be there. Left out: in `exports` in the run's folder.
    data
        A folder of pictures to check on, where the run's own are no more.
    """
    from launcher.export.main import Wishes
    from launcher.export.main import export as export_run

    return export_run(run, Wishes(format, checkpoint, output, data))


@app.command
def explain(
    run: Path,
    path: Path,
    /,
    *paths: Path,
    method: Literal["occlusion", "gradient-shap", "integrated-gradients", "gradcam"] = "occlusion",
    classes: Annotated[tuple[str, ...], Parameter(name="--class", negative=())] = (),
    window: int = 15,
    stride: int = 8,
    samples: int = 50,
    checkpoint: str = "best",
    output: Path | None = None,
    device: Literal["auto", "cpu", "cuda"] = "auto",
) -> int:
    """Draw what of each picture speaks for a class, red, and what against it, blue. Several processes share them.

    Parameters
    ----------
    run
        A run's folder, `runs/NAME/DATE-...`, or one of its checkpoints.
    path
        A picture, or a folder of them.
    paths
        More of them.
    method
        Occlusion (Zeiler and Fergus 2014), gradient SHAP (Lundberg and Lee 2017), integrated gradients (Sundararajan et
        al. 2017) or grad-CAM (Selvaraju et al. 2017).
    classes
        A class to explain; may be given several times. Left out: the one that the network names.
    window
        Of occlusion: side of the square that is covered, in pixels of what the network sees.
    stride
        Of occlusion: pixels from one square to the next.
    samples
        Of gradient-shap: noisy copies of a picture; of integrated-gradients: steps.
    checkpoint
        best, last, or a step's number.
    output
        A folder. Left out: `explanations` in the run's folder.
    device
        Where to compute; auto: CUDA where it is, else the CPU.
    """
    from launcher.explain.main import Wishes
    from launcher.explain.main import explain as explain_pictures
    from launcher.explain.methods import Options

    options = Options(method, window, stride, samples)
    return explain_pictures(run, [path, *paths], Wishes(options, classes, checkpoint, output, device))


@app.command
def sync(run: Path, /, *runs: Path) -> int:
    """Send runs to Weights & Biases from their journals: what was offline, dropped or refused. What is there stays.

    Parameters
    ----------
    run
        A run's folder: `runs/NAME/DATE-...`.
    runs
        More of them.
    """
    return sync_runs([run, *runs])


@app.command
def runs(*folders: Path, as_json: Annotated[bool, Parameter(name="--json", negative=())] = False) -> int:
    """List runs, the youngest first: status, progress, best figure, speed, age.

    Parameters
    ----------
    folders
        Where to look for them, or runs themselves. Left out: runs/.
    as_json
        Print a JSON list, for programs.
    """
    return list_runs(folders, as_json)


@app.command
def watch(run: Path, /, *, once: Annotated[bool, Parameter(negative=())] = False) -> int:
    """Follow a run from another terminal until it ends.

    Parameters
    ----------
    run
        A run's folder: `runs/NAME/DATE-...`.
    once
        Show how it stands and leave.
    """
    return watch_run(run, once)


@app.command
def compare(*runs: str, curves: Path | None = None, html: Path | None = None) -> int:
    """Show what differs in the recipes of runs beside what differs in their results. Runs that differ in nothing but
    their seed count together.

    Parameters
    ----------
    runs
        Run folders, and globs.
    curves
        Write a picture of losses, top-1 and learning rates to this PNG file.
    html
        Write a report that needs nothing else to this file.
    """
    from launcher.compare.main import compare as compare_runs

    return compare_runs(runs, curves, html)


cache = App(name="cache", help="What frozen backbones have made of images, kept in data/features.")
app.command(cache)


@cache.command
def ls() -> int:
    """List them: what each was made of, its size and its age."""
    return list_features()


@cache.command
def rm(key: str | None = None, /, *, everything: Annotated[bool, Parameter(name="--all", negative=())] = False) -> int:
    """Remove features, and what computations that did not end have left. A run that needs them computes them anew.

    Parameters
    ----------
    key
        Which: the beginning of a key of `launcher cache ls`.
    everything
        All of them.
    """
    return remove_features(key, everything)


@app.command
def submit(
    recipe: Path,
    /,
    *overrides: str,
    nodes: int = 1,
    gpus_per_node: int = 1,
    time: str = "24:00:00",
    cpus_per_task: int | None = None,
    partition: str | None = None,
    account: str | None = None,
    qos: str | None = None,
    starter: Literal["accelerate", "srun"] = "accelerate",
    dry_run: Annotated[bool, Parameter(negative=())] = False,
) -> int:
    """Send the training to SLURM. It saves and queues itself again before the time limit and when it is preempted.

    Parameters
    ----------
    recipe
        A YAML file.
    overrides
        Values to change, as `key.path=value`.
    nodes
        How many machines.
    gpus_per_node
        GPUs of each, with a process for every one. 0: a CPU process on each.
    time
        Limit, as sbatch takes it: minutes, hours:minutes:seconds, days-hours.
    cpus_per_task
        CPUs of each node. Left out: enough for `data.workers`, or 8 for each process.
    partition, account, qos
        Handed on to sbatch.
    starter
        What starts the processes: `accelerate launch` once on each node, or srun itself.
    dry_run
        Only print the job.
    """
    from launcher.submit import submit as submit_recipe

    return submit_recipe(
        load_recipe(recipe, overrides),
        overrides,
        nodes=nodes,
        gpus_per_node=gpus_per_node,
        cpus_per_task=cpus_per_task,
        time=time,
        starter=starter,
        options={"partition": partition, "account": account, "qos": qos},
        dry_run=dry_run,
    )


@app.command
def schema() -> int:
    """Print the JSON schema of recipes, for editors."""
    print(json.dumps(Recipe.model_json_schema(), indent=1))
    return EXIT_DONE


def run(arguments: list[str] | None = None) -> int:
    """Run one command.

    `accelerate launch` makes one of all exit codes: rank 0 leaves its own in the file that LAUNCHER_EXIT_CODE names.
    """
    os.umask(os.umask(0o022) | 0o002)  # what is written here, everybody may not change
    code = _run(arguments)
    if (path := os.environ.get("LAUNCHER_EXIT_CODE")) and _world().is_first:
        Path(path).write_text(f"{code}\n")
    return code


def _run(arguments: list[str] | None) -> int:
    """Errors become messages and exit codes here and nowhere else."""
    try:
        code = app(arguments, exit_on_error=False, print_error=False, verbose=False, result_action="return_value")
    except CycloptsError as error:
        return _explain(UserError(" ".join(str(error).split()) + " See launcher --help."))
    except Stopped as error:
        print(f"launcher: {error}", file=sys.stderr, flush=True)
        return EXIT_RESUMABLE
    except RankLost as error:
        return _tell_of_lost_rank(error)
    except (LauncherError, ShardsError) as error:
        return _explain(error)
    except KeyboardInterrupt:
        return EXIT_FAILED
    except OSError as error:
        where = error.filename or "the run folder"
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return _explain(UserError(f"no space left on the disk of {where}; make room, then give the same command"))
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            return _explain(UserError(f"{where}: {error.strerror}; see to who may read and write it, or name another"))
        return _show_traceback(error)
    except Exception as error:
        return _show_traceback(error)
    return int(code or 0)


def _explain(error: Exception) -> int:
    """One line a problem, said by the first rank of each node; what one rank cannot read or fetch, by that rank."""
    if _world().local_rank == 0 or isinstance(error, DataError | FetchError):
        for line in str(error).splitlines():
            print(f"launcher: {printable(line)}", file=sys.stderr, flush=True)
    else:
        time.sleep(HOLD_BACK_S)
    return EXIT_USER_ERROR if isinstance(error, UserError | ShardsError) else EXIT_FAILED


def _tell_of_lost_rank(error: RankLost) -> int:
    """Said by one rank alone; and the one that failed first is to end first."""
    if error.speaks:
        print(f"launcher: {error}", file=sys.stderr, flush=True)
    time.sleep(HOLD_BACK_S)
    return EXIT_FAILED


def _show_traceback(error: Exception) -> int:
    """The rank's own failure, last of all it says."""
    rank = _world().rank
    text = "\n".join(map(printable, "".join(traceback.format_exception(error)).splitlines()))
    if is_peer_lost(error):
        print(
            f"launcher: rank {rank} lost another rank, which has failed; the same command goes on",
            file=sys.stderr,
            flush=True,
        )
        time.sleep(HOLD_BACK_S)
    else:
        print(f"launcher: rank {rank} failed:\n{text}\n", file=sys.stderr, flush=True)
    return EXIT_FAILED


def _world() -> World:
    try:
        return read_world(os.environ)
    except UserError:
        return World()
