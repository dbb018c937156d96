"""`launcher compare RUN RUN ...`: what differs in the recipes beside what differs in the results. Needs no torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from launcher.commands.runs.compare.curves import build_panels, draw_panel
from launcher.commands.runs.compare.find import find_runs
from launcher.commands.runs.compare.groups import group_runs, read_run
from launcher.commands.runs.compare.report import render_report
from launcher.commands.runs.compare.tables import Table, build_tables
from launcher.commands.runs.compare.wandb_report import find_project, publish_report
from launcher.commands.runs.options import CompareOptions
from launcher.errors import EXIT_DONE, UserError
from launcher.run.charts import write_curves
from launcher.run.console import Console
from shards.files import write_atomically

MAX_ROWS = 20
"""Rows of a table on the console; the HTML report has all."""


def compare(names: Sequence[str], options: CompareOptions) -> int:
    """Print the comparison, and write the files and the report in W&B that are wanted.

    Raise RunError when a name leads to no run, a run cannot be read, or there is only one; UserError when a file cannot
    be written, or W&B fails.
    """
    console = Console()
    with TemporaryDirectory(prefix="launcher-compare-") as store:
        groups = group_runs([read_run(found) for found in find_runs(names, Path(store))])
        folders = [run.folder for group in groups for run in group.runs]
        _check_output(options.html, ".html", folders)
        _check_output(options.curves, ".png", folders)
        project = find_project(groups) if options.wandb_report else None
        tables, panels = build_tables(groups), build_panels(groups)
        for table in tables:
            _show(console, table)
        for panel in panels:
            for line in draw_panel(panel):
                console.say(line)
        if options.curves is not None:
            write_curves(options.curves, panels)
            console.say(f"curves: {options.curves}")
        if options.html is not None:
            _write_report(options.html, render_report(groups, tables, panels))
            console.say(f"report: {options.html}")
        if project is not None:
            console.say(f"report in W&B: {publish_report(project, groups, tables)}")
    return EXIT_DONE


def _check_output(file: Path | None, ending: str, folders: Sequence[Path]) -> None:
    """Raise UserError, before anything is shown, for a file that cannot be written or would be in a run folder."""
    if file is None:
        return
    if file.suffix.lower() != ending:
        raise UserError(f"{file}: does not end in {ending}; name a file that does")
    if any(file.resolve().is_relative_to(folder.resolve()) for folder in folders):
        raise UserError(f"{file}: is in the folder of a run; name a file elsewhere")
    if not file.parent.is_dir() or file.is_dir():
        why = "is a folder" if file.is_dir() else f"no folder {file.parent}"
        raise UserError(f"{file}: cannot be written ({why}); name another file")


def _show(console: Console, table: Table) -> None:
    console.say(table.title)
    if table.rows:
        console.columns(table.columns, table.rows[:MAX_ROWS])
    if len(table.rows) > MAX_ROWS:
        console.say(f"{len(table.rows) - MAX_ROWS:,} more rows: --html REPORT.html has all")
    for note in table.notes:
        console.say(f"note: {note}")
    console.say("")


def _write_report(file: Path, page: str) -> None:
    try:
        write_atomically(file, page.encode("utf-8", errors="replace"))
    except OSError as error:
        raise UserError(f"{file}: cannot be written ({error.strerror}); name another file") from None
