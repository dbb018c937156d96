"""Chooses the values to try next: a Sobol sequence, then Bayesian optimization. The only importer of Ax, an extra.

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

from launcher.commands.jobs.tune.search import Domain, Range, Search, Value, Values
from launcher.errors import RunError, UserError
from shards.files import write_atomically

if TYPE_CHECKING:
    from ax.api.client import Client

STATE_NAME = "optimiser.json"
OBJECTIVE = "score"
"""Ax's name of what it maximizes."""
PROPOSED_BY = {"Sobol": "Sobol", "MBM": "model"}
"""Ax's names of its generators -> ours."""
DONE, RUNNING = "COMPLETED", "RUNNING"


@dataclass(frozen=True)
class Trial:
    """`status`: Ax's word. `score`: higher is better; None without one. `proposed_by`: recipe, Sobol, model or grid."""

    number: int
    values: Values
    status: str
    score: float | None
    proposed_by: str


class Optimiser:
    """Trials and their results. Every change is on disk when its method returns, so that a kill loses nothing."""

    def __init__(self, folder: Path, search: Search) -> None:
        """Read the state in `folder`, or begin. Raise UserError without Ax, RunError when the state is damaged."""
        client_class = _import_client()
        self._path, self._search = folder / STATE_NAME, search
        with _quiet():
            self._client = self._load(client_class) if self._path.exists() else _begin(client_class, search)

    def _load(self, client_class: type[Client]) -> Client:
        try:
            return client_class.load_from_json_file(str(self._path))
        except Exception as error:  # whatever Ax raises: the file is not what it wrote
            advice = "remove its folder, or start another search with --folder"
            raise RunError(f"{self._path}: damaged ({type(error).__name__}); {advice}") from None

    def add(self, values: Values) -> None:
        """Add a trial of these values, before any other."""
        with self._changed():
            self._client.attach_trial({**values}, arm_name="recipe")

    def propose(self, num_trials: int) -> None:
        """Add trials, at most this many; fewer where the model first needs the results of running trials."""
        if not self._search.is_grid:
            with self._changed():
                self._client.get_next_trials(max_trials=num_trials)
            return
        # Ax would search for minutes, or forever, once all points of the grid have a trial.
        tried = [trial.values for trial in self.trials()]
        untried = (values for values in self._search.grid() if values not in tried)
        with self._changed():
            for values in itertools.islice(untried, num_trials):
                self._client.attach_trial({**values})

    def report(self, number: int, score: float, step: int) -> None:
        with self._changed():
            self._client.attach_data(number, {OBJECTIVE: score}, progression=step)

    def should_stop(self, number: int) -> bool:
        with _quiet():
            return self._client.should_stop_trial_early(number)

    def end(self, number: int, score: float, step: int) -> None:
        with self._changed():
            self._client.complete_trial(number, {OBJECTIVE: score}, progression=step)

    def end_early(self, number: int) -> None:
        with self._changed():
            self._client.mark_trial_early_stopped(number)

    def fail(self, number: int, reason: str) -> None:
        with self._changed():
            self._client.mark_trial_failed(number, reason)

    def trials(self) -> list[Trial]:
        """All trials, by number."""
        with _quiet():
            rows = self._client.summarize().to_dict("records") if self._path.exists() else []
        return [self._read_row(row) for row in sorted(rows, key=lambda row: int(row["trial_index"]))]

    def predict(self, points: Sequence[Values]) -> list[float] | None:
        """Scores that the model of all trials expects at `points`; None while there is no model; a grid needs none."""
        if self._search.is_grid:
            return None
        from ax.exceptions.core import UnsupportedError

        with _quiet():
            copy = self._load(type(self._client))  # proposing builds the model, and adds a trial
            try:
                copy.get_next_trials(max_trials=1)
                return [expected[OBJECTIVE][0] for expected in copy.predict([{**point} for point in points])]
            except UnsupportedError:
                return None

    def _read_row(self, row: Mapping[str, Any]) -> Trial:
        values = {key: _as_written(domain, row[key]) for key, domain in self._search.search.items()}
        number, status, score = int(row["trial_index"]), str(row["trial_status"]), row.get(OBJECTIVE)
        if not (isinstance(score, float) and math.isfinite(score)):
            score = None
        generator = PROPOSED_BY.get(row.get("generation_node", ""), "grid")
        return Trial(number, values, status, score, "recipe" if row["arm_name"] == "recipe" else generator)

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


def _parameter(key: str, domain: Domain) -> Any:
    from ax.api.configs import ChoiceParameterConfig, RangeParameterConfig

    if isinstance(domain, Range):
        scaling = "log" if domain.log else "linear"
        bounds = (float(domain.low), float(domain.high))
        return RangeParameterConfig(key, bounds, "int" if domain.whole else "float", scaling=scaling)  # type: ignore[arg-type]
    kinds = {type(value) for value in domain}
    kind: Any = kinds.pop().__name__ if len(kinds) == 1 else "float"
    return ChoiceParameterConfig(key, [*domain], kind, is_ordered=kind in ("int", "float"))  # type: ignore[arg-type]


def _as_written(domain: Domain, value: Any) -> Value:
    """The value with the search's type, where Ax's table has NumPy's."""
    if isinstance(domain, Range):
        return int(value) if domain.whole else float(value)
    return next(choice for choice in domain if choice == value)


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide Ax's log, and its warnings about deprecated parts of pandas."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
