"""Which values to try next: Sobol's sequence, then Bayesian optimisation. The only importer of Ax, an extra.

Ax: https://ax.dev; its "fast" strategy is a Gaussian process with expected improvement (BoTorch).
"""

from __future__ import annotations

import itertools
import logging
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from launcher.commands.jobs.tune.search import Search, Span, Value, Values, tries_all
from launcher.errors import RunError, UserError
from shards.manifest import write_atomically

if TYPE_CHECKING:
    from ax.api.client import Client

STATE_NAME = "optimiser.json"
OBJECTIVE = "score"
"""What Ax makes as large as it can."""
KINDS = {bool: "bool", int: "int", float: "float", str: "str"}
DRAWN_BY = {"Sobol": "Sobol", "MBM": "model"}
"""Ax's names of its generators -> ours."""
DONE, RUNNING = "COMPLETED", "RUNNING"


@dataclass(frozen=True)
class Trial:
    """`status`: in Ax's words. `score`: the larger the better; None where there is none."""

    number: int
    values: Values
    status: str
    score: float | None
    drawn_by: str


class Optimiser:
    """Trials and what they came to, on disk after every change: killed at any time, it goes on from there."""

    def __init__(self, folder: Path, search: Search) -> None:
        """Open what `folder` holds, or begin. Raise UserError without Ax, RunError when the state is damaged."""
        client_class = _import_client()
        self._path, self._search = folder / STATE_NAME, search
        with _quiet():
            self._client = self._load(client_class) if self._path.exists() else _begin(client_class, search)

    def _load(self, client_class: type[Client]) -> Client:
        try:
            return client_class.load_from_json_file(str(self._path))
        except Exception as error:  # whatever Ax stumbles over: the file is not what was written
            raise RunError(
                f"{self._path}: damaged ({type(error).__name__}); remove its folder to search anew"
            ) from None

    def add(self, values: Values) -> None:
        """A trial of these values, before any other."""
        with self._changed():
            self._client.attach_trial({**values}, arm_name="recipe")

    def propose(self, number: int) -> None:
        """At most so many trials more; fewer where the next must know what those that run come to."""
        left = [*itertools.islice(self._untried(), number)] if tries_all(self._search) else None
        with self._changed():
            if left is None:
                self._client.get_next_trials(max_trials=number)
            for values in left or ():
                self._client.attach_trial({**values})

    def _untried(self) -> Iterator[Values]:
        """Where all are wanted. Ax is not asked: once there are no more it looks for minutes, or for ever."""
        tried = [trial.values for trial in self.trials()]
        return (values for values in self._search.all_values() if values not in tried)

    def report(self, trial: int, score: float, step: int) -> None:
        with self._changed():
            self._client.attach_data(trial, {OBJECTIVE: score}, progression=step)

    def should_stop(self, trial: int) -> bool:
        with _quiet():
            return self._client.should_stop_trial_early(trial)

    def end(self, trial: int, score: float, step: int) -> None:
        with self._changed():
            self._client.complete_trial(trial, {OBJECTIVE: score}, progression=step)

    def end_early(self, trial: int) -> None:
        with self._changed():
            self._client.mark_trial_early_stopped(trial)

    def fail(self, trial: int, why: str) -> None:
        with self._changed():
            self._client.mark_trial_failed(trial, why)

    def trials(self) -> list[Trial]:
        """All of them, in order."""
        with _quiet():
            rows = self._client.summarize().to_dict("records") if self._path.exists() else []
        return [self._read_row(row) for row in sorted(rows, key=lambda row: int(row["trial_index"]))]

    def predict(self, points: Sequence[Values]) -> list[float] | None:
        """Scores that the model of all trials expects there; None while there is no model yet, or never will be."""
        if tries_all(self._search):
            return None
        from ax.exceptions.core import UnsupportedError

        with _quiet():
            copy = self._load(type(self._client))  # a model is made when values are asked for
            try:
                copy.get_next_trials(max_trials=1)
                return [found[OBJECTIVE][0] for found in copy.predict([{**point} for point in points])]
            except UnsupportedError:
                return None

    def _read_row(self, row: Mapping[str, Any]) -> Trial:
        values = {key: _plain(domain, row[key]) for key, domain in self._search.search.items()}
        score = row.get(OBJECTIVE)
        known = isinstance(score, float) and math.isfinite(score)
        drawn_by = "recipe" if row["arm_name"] == "recipe" else DRAWN_BY.get(row.get("generation_node", ""), "in turn")
        return Trial(int(row["trial_index"]), values, str(row["trial_status"]), score if known else None, drawn_by)

    @contextmanager
    def _changed(self) -> Iterator[None]:
        with _quiet():
            yield
            draft = self._path.with_name(f".{STATE_NAME}.draft")
            self._client.save_to_json_file(str(draft))
        write_atomically(self._path, draft.read_bytes())
        draft.unlink()


def _import_client() -> type[Client]:
    try:
        with _quiet():
            from ax.api.client import Client
    except ImportError:
        raise UserError("launcher tune needs Ax: pip install 'launcher[tune]'") from None
    return Client


def _begin(client_class: type[Client], search: Search) -> Client:
    client = client_class(random_seed=search.seed)
    client.configure_experiment(name="tune", parameters=[_parameter(*each) for each in search.search.items()])
    client.configure_optimization(objective=OBJECTIVE)
    client.configure_generation_strategy(
        method="fast",
        initialization_budget=search.start,
        initialization_random_seed=search.seed,
        initialize_with_center=False,
        allow_exceeding_initialization_budget=True,
    )
    return client


def _parameter(key: str, domain: Span | Sequence[Value]) -> Any:
    from ax.api.configs import ChoiceParameterConfig, RangeParameterConfig

    if isinstance(domain, Span):
        scaling = "log" if domain.log else "linear"
        bounds = (float(domain.low), float(domain.high))
        return RangeParameterConfig(key, bounds, "int" if domain.whole else "float", scaling=scaling)  # type: ignore[arg-type]
    kinds = {type(value) for value in domain}
    kind: Any = KINDS[kinds.pop()] if len(kinds) == 1 else "float"
    return ChoiceParameterConfig(key, [*domain], kind, is_ordered=kind in ("int", "float"))  # type: ignore[arg-type]


def _plain(domain: Span | Sequence[Value], value: Any) -> Value:
    """As the search wrote it: tables hold NumPy's numbers."""
    if isinstance(domain, Span):
        return int(value) if domain.whole else float(value)
    return next(choice for choice in domain if choice == value)


@contextmanager
def _quiet() -> Iterator[None]:
    """Ax says every step to the log, and uses what pandas no longer wants."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
