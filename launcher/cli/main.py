"""The command line. A bare recipe means: train."""

from __future__ import annotations

from cyclopts import App

import launcher
from launcher.cli import jobs, model, recipe, runs
from launcher.cli.outcome import run_app

VERBS = (
    *(recipe.check, recipe.fetch, recipe.show, recipe.probe, recipe.bench),
    *(jobs.tune, jobs.verify_resume, jobs.submit),
    recipe.schema,
    *(model.evaluate, model.predict, model.export, model.explain),
    *(runs.runs, runs.watch, runs.compare, runs.sync),
)

app = App(
    name="launcher",
    help="Train image classifiers on every device there is: `launcher RECIPE [key.path=value ...]`.",
    version=launcher.__version__,
    suppress_keyboard_interrupt=False,
)
cache = App(name="cache", help="What frozen backbones have made of images, kept in data/features.")


app.default(recipe.train)
for verb in VERBS:
    app.command(verb)
for verb in (runs.ls, runs.rm):
    cache.command(verb)
app.command(cache)


def run(arguments: list[str] | None = None) -> int:
    """Run one command, that of the process if none is given; the exit code."""
    return run_app(app, arguments)
