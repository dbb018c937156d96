"""Commands that take a trained model."""
# ruff: noqa: B008 - the options are frozen

from __future__ import annotations

from launcher.cli.arguments import Flat, Images, MoreImages, NamedModel, Run
from launcher.commands.model.options import EvaluateOptions, ExplainOptions, ExportOptions, PredictOptions


def evaluate(run: Run, /, *, options: Flat[EvaluateOptions] = EvaluateOptions()) -> int:
    """Evaluate a run's model on a split: accuracy, loss, calibration, confusion matrix, worst mistakes."""
    from launcher.commands.model.evaluate.main import evaluate_run

    return evaluate_run(run, options)


def predict(
    run: NamedModel, path: Images, /, *paths: MoreImages, options: Flat[PredictOptions] = PredictOptions()
) -> int:
    """Predict the classes of images, shared by any number of processes. Exit code 1: some images cannot be read, the
    others are predicted; 2: no image can be read.
    """
    from launcher.commands.model.predict.main import predict as predict_images

    return predict_images(run, [path, *paths], options)


def export(run: Run, /, *, options: Flat[ExportOptions]) -> int:
    """Export a run's model for other programs, with its classes and preprocessing inside, checked on real images."""
    from launcher.commands.model.export.main import export as export_run

    return export_run(run, options)


def explain(run: Run, path: Images, /, *paths: MoreImages, options: Flat[ExplainOptions] = ExplainOptions()) -> int:
    """Draw which pixels of an image are evidence for a class (red) and against it (blue), shared by any number of
    processes. Exit code 1: some images cannot be read, the others are explained; 2: no image can be read.
    """
    from launcher.commands.model.explain.main import explain as explain_images

    return explain_images(run, [path, *paths], options)
