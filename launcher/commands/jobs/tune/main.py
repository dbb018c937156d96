"""`launcher tune RECIPE --search FILE`: many trainings, to find better values for keys of a recipe."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from launcher.commands.jobs.options import TuneOptions
from launcher.commands.jobs.spawn import check_single_process
from launcher.commands.jobs.tune.folder import hold_folder
from launcher.commands.jobs.tune.loop import run_trials
from launcher.commands.jobs.tune.optimiser import Optimiser
from launcher.commands.jobs.tune.plan import plan_search
from launcher.commands.jobs.tune.report import show_trials, write_charts
from launcher.commands.jobs.tune.search import Search, load_search, recipe_values
from launcher.distributed.signals import install_signal_handlers
from launcher.errors import EXIT_DONE
from launcher.recipe.parse import LoadedRecipe, load_recipe
from launcher.run.console import Console
from launcher.text import Say


def tune(recipe_file: Path, overrides: Sequence[str], options: TuneOptions) -> int:
    """Run the trials that are not done yet, write the best recipe, show all trials.

    Raise LauncherError or ShardsError for what the user can fix.
    """
    options.check()
    check_single_process("tune RECIPE --search FILE")
    stop, console = install_signal_handlers(), Console()
    loaded = load_recipe(recipe_file, overrides)
    found = load_search(options.search, recipe_file, overrides)
    plan = plan_search(loaded, found.search, options, console.say, stop)
    with hold_folder(plan, found, loaded, overrides):
        optimiser = Optimiser(plan.folder, plan.search)
        _add_recipe(optimiser, plan.search, loaded, console.say)
        run_trials(plan, optimiser, console, stop)
        trials = optimiser.trials()
        show_trials(plan, trials, console)
        for note in write_charts(plan, optimiser, trials):
            console.say(f"note: {note}")
    return EXIT_DONE


def _add_recipe(optimiser: Optimiser, search: Search, loaded: LoadedRecipe, say: Say) -> None:
    """Make the recipe's own values the first trial, so that the best is never worse."""
    if search.num_trials < search.trials:
        say(f"note: there are only {search.num_trials} different trials, not {search.trials}: each runs once")
    if optimiser.trials():
        return
    values, outside = recipe_values(search, loaded.recipe)
    for key in outside:
        say(f"note: the recipe's own {key}, {values.get(key)}, is outside the search: it gets no trial")
    if not outside:
        optimiser.add(values)
