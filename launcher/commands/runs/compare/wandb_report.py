"""The comparison as a report in W&B, beside its runs. The only importer of wandb_workspaces."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

from launcher.commands.runs.compare.curves import PANELS
from launcher.commands.runs.compare.groups import Group
from launcher.commands.runs.compare.tables import Table
from launcher.errors import RunError, UserError
from launcher.run.wandb import quiet_wandb, stop_service
from launcher.text import first_line
from shards.printable import printable

CURVES = tuple(f"{split or 'train'}/{name}" for _, _, name, split in PANELS)
"""W&B's names of the metrics in the panels of every comparison."""
MAX_ROWS = 100
"""Rows of a table."""
MAX_TITLE = 128
"""Letters of a title that W&B allows."""


def publish_report(place: tuple[str, str], groups: Sequence[Group], tables: Sequence[Table]) -> str:
    """Return the report's address. `place`: see `find_project`. Raise UserError when W&B fails."""
    entity, project = place
    quiet_wandb()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # wandb_workspaces is written for an older pydantic
            import wandb_workspaces.reports.v2 as wr

            runsets = []
            for group in groups:
                ids = [run.found.name.rsplit("/", 1)[1] for run in group.runs]
                title = printable(group.title)
                runsets.append(wr.Runset(entity=entity, project=project, name=title, filters=f"ID in {ids}"))
            panels = [wr.LinePlot(title=name, x="step", y=[name]) for name in CURVES]
            blocks = [part for table in tables for part in (wr.H2(table.title), wr.MarkdownBlock(render_table(table)))]
            title = printable(", ".join(group.title for group in groups))[:MAX_TITLE]
            grid = wr.PanelGrid(runsets=runsets, panels=panels)
            report = wr.Report(entity=entity, project=project, title=title, blocks=[*blocks, wr.H2("curves"), grid])
            return str(report.save().url)
    except ModuleNotFoundError:
        raise UserError("--wandb-report needs pip install 'launcher[reports]'") from None
    except (Exception, SystemExit) as error:
        raise UserError(f"--wandb-report: W&B did not receive it ({first_line(error)})") from None
    finally:
        stop_service()


def find_project(groups: Sequence[Group]) -> tuple[str, str]:
    """Entity and project of the runs. Raise RunError unless all runs are in one project of W&B."""
    runs = [run for group in groups for run in group.runs]
    if folders := [run.found.name for run in runs if not run.found.state]:
        raise RunError(f"--wandb-report: {folders[0]} is a folder; name runs in W&B, entity/project/id or group:NAME")
    projects = {tuple(run.found.name.split("/")[:2]) for run in runs}
    if len(projects) > 1:
        raise RunError(
            f"--wandb-report: the runs are in several projects, {', '.join(map('/'.join, sorted(projects)))}"
        )
    [(entity, project)] = projects
    return entity, project


def render_table(table: Table) -> str:
    """As Markdown, with all text escaped."""
    lines = [table.columns, ("---",) * len(table.columns), *table.rows[:MAX_ROWS]] if table.rows else []
    shown = [f"| {' | '.join(map(_escape, line))} |" for line in lines]
    notes = [f"*{_escape(note)}*" for note in table.notes]
    return "\n".join([*shown, "", *notes])


def _escape(text: str) -> str:
    return "".join(f"\\{letter}" if letter in "\\`*_{}[]<>#|!~$" else letter for letter in printable(text))
