"""The command line. A bare recipe means: train."""

from __future__ import annotations

from cyclopts import App, Parameter

import launcher
from launcher.cli import jobs, model, recipe, runs
from launcher.cli.outcome import run_app

COMMANDS = (
    *(recipe.check, recipe.fetch, recipe.show, recipe.probe, recipe.bench),
    *(jobs.tune, jobs.verify_resume, jobs.submit),
    recipe.schema,
    *(model.evaluate, model.predict, model.export, model.explain),
    *(runs.runs, runs.watch, runs.compare, runs.sync),
)

app = App(
    name="launcher",
    help="Train image classifiers on all available devices: `launcher RECIPE [key.path=value ...]`.",
    version=launcher.__version__,
    default_parameter=Parameter(negative=()),  # no --no-debug, no --empty-class
    suppress_keyboard_interrupt=False,
)
cache = App(name="cache", help="List and remove the features of frozen backbones, kept in data/features.")


app.default(recipe.train)
for command in COMMANDS:
    app.command(command)
for command in (runs.ls, runs.rm):
    cache.command(command)
app.command(cache)


def run(arguments: list[str] | None = None) -> int:
    """Run the command of these arguments, by default the process's own; return the exit code."""
    return run_app(app, arguments)
