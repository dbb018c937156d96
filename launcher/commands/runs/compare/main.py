"""`launcher compare RUN RUN ...`: what differs in the recipes beside what differs in the results. Needs no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from launcher.commands.runs.compare.curves import Panel, build_panels, draw_panel
from launcher.commands.runs.compare.find import find_runs
from launcher.commands.runs.compare.groups import Group, group_runs, read_run
from launcher.commands.runs.compare.report import render_report
from launcher.commands.runs.compare.tables import Table, build_tables
from launcher.commands.runs.compare.wandb_report import find_project, publish_report
from launcher.errors import EXIT_DONE, UserError
from launcher.run.charts import write_curves
from launcher.run.console import Console
from shards.manifest import write_atomically

MAX_ROWS = 20
"""Of a table on the console; the report has all."""


@dataclass(frozen=True, slots=True)
class Options:
    """Files to write, and whether W&B is given a report, too."""

    curves: Path | None = None
    html: Path | None = None
    wandb_report: bool = False


def compare(names: Sequence[str], options: Options) -> int:
    """Print the comparison; write its curves and its report where asked to.

    Raise RunError when a name leads to no run, a run cannot be read, or there is only one; UserError when a file cannot
    be written, or W&B does not take the report.
    """
    with TemporaryDirectory(prefix="launcher-compare-") as store:
        groups = group_runs([read_run(found) for found in find_runs(names, Path(store))])
        _check_outputs(options, [run.folder for group in groups for run in group.runs])
        if options.wandb_report:
            find_project(groups)
        _report(groups, options)
    return EXIT_DONE


def _check_outputs(options: Options, folders: Sequence[Path]) -> None:
    """Before anything is shown. Raise UserError for a file that cannot be written, or that belongs to a run."""
    for path, ending in ((options.html, ".html"), (options.curves, ".png")):
        if path is None:
            continue
        if path.suffix.lower() != ending:
            raise UserError(f"{path}: does not end in {ending}, which is what is written there; name such a file")
        if any(path.resolve().is_relative_to(folder.resolve()) for folder in folders):
            raise UserError(f"{path}: is in the folder of a run; name a file elsewhere")
        if not path.parent.is_dir() or path.is_dir():
            why = "is a folder" if path.is_dir() else f"no folder {path.parent}"
            raise UserError(f"{path}: cannot be written ({why}); name another file")


def _report(groups: Sequence[Group], options: Options) -> None:
    tables, panels = build_tables(groups), build_panels(groups)
    console = Console()
    for table in tables:
        _show(console, table)
    for panel in panels:
        for line in draw_panel(panel):
            console.say(line)
    if options.curves is not None:
        write_curves(options.curves, [_plain(panel) for panel in panels])
        console.say(f"curves: {options.curves}")
    if options.html is not None:
        write_report(options.html, render_report(groups, tables, panels))
        console.say(f"report: {options.html}")
    if options.wandb_report:
        console.say(f"report in W&B: {publish_report(groups, tables)}")


def write_report(file: Path, page: str) -> None:
    """Raise UserError when it cannot be written."""
    try:
        write_atomically(file, page.encode("utf-8", errors="replace"))
    except OSError as error:
        raise UserError(f"{file}: cannot be written ({error.strerror}); name another file") from None


def _show(console: Console, table: Table) -> None:
    console.say(table.title)
    if table.rows:
        console.columns(table.columns, table.rows[:MAX_ROWS])
    if len(table.rows) > MAX_ROWS:
        console.say(f"{len(table.rows) - MAX_ROWS:,} more rows: --html REPORT.html has all")
    for note in table.notes:
        console.say(f"note: {note}")
    console.say("")


def _plain(panel: Panel) -> tuple[str, list[tuple[str, int, list[tuple[float, float]]]]]:
    return panel.title, [(line.label, line.group, line.points) for line in panel.lines]
