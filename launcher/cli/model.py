"""Verbs that use a network as a run left it. What a person types of each is its signature."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter


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
    from launcher.commands.model.evaluate.main import Options, evaluate_run

    return evaluate_run(run, Options(split, data, checkpoint, transform, output, device))


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
    """Name what is on pictures, any number of processes together. Exit code 1: some cannot be read, the rest is done;
    2: none can.

    Parameters
    ----------
    run
        A run's folder, one of its checkpoints, or `torchvision/NAME` for a network that knows ImageNet.
    path
        A picture, a folder of them, a pattern, or a folder of shards.
    paths
        More of them.
    top
        How many classes to name for each, the likeliest first; of fewer classes, all.
    format
        Left out: by the ending of --output, else a table.
    output
        A file that ends in .txt (a table), .jsonl or .csv. Left out: stdout.
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
    from launcher.commands.model.predict.main import Options
    from launcher.commands.model.predict.main import predict as predict_pictures

    options = Options(top, format, output, grid, flips, checkpoint, split, device)
    return predict_pictures(run, [path, *paths], options)


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
    from launcher.commands.model.export.main import Options
    from launcher.commands.model.export.main import export as export_run

    return export_run(run, Options(format, checkpoint, output, data))


def explain(
    run: Path,
    path: str,
    /,
    *paths: str,
    method: Literal["occlusion", "gradient-shap", "integrated-gradients", "gradcam"] = "occlusion",
    classes: Annotated[tuple[str, ...], Parameter(name="--class", negative=())] = (),
    window: int | None = None,
    stride: int | None = None,
    samples: int | None = None,
    checkpoint: str = "best",
    output: Path | None = None,
    device: Literal["auto", "cpu", "cuda"] = "auto",
) -> int:
    """Draw what of each picture speaks for a class, red, and what against it, blue. Several processes share them.
    Exit code 1: some cannot be read, the rest is done; 2: none can.

    Parameters
    ----------
    run
        A run's folder, `runs/NAME/DATE-...`, or one of its checkpoints.
    path
        A picture, a folder of them, a pattern, or a folder of shards.
    paths
        More of them.
    method
        Occlusion (Zeiler and Fergus 2014), gradient SHAP (Lundberg and Lee 2017), integrated gradients (Sundararajan et
        al. 2017) or grad-CAM (Selvaraju et al. 2017).
    classes
        A class to explain; may be given several times. Left out: the one that the network names.
    window
        Of occlusion: side of the square that is covered, in pixels of what the network sees. Left out: 15.
    stride
        Of occlusion: pixels from one square to the next. Left out: 8.
    samples
        Of gradient-shap: noisy copies of a picture; of integrated-gradients: steps. Left out: 50.
    checkpoint
        best, last, or a step's number.
    output
        A folder. Left out: `explanations` in the run's folder.
    device
        Where to compute; auto: CUDA where it is, else the CPU.
    """
    from launcher.commands.model.explain.main import Options
    from launcher.commands.model.explain.main import explain as explain_pictures
    from launcher.commands.model.explain.methods import choose_method_options

    options = choose_method_options(method, window=window, stride=stride, samples=samples)
    return explain_pictures(run, [path, *paths], Options(options, classes, checkpoint, output, device))
