"""`launcher submit RECIPE`: a SLURM job, rendered from the recipe and sent.

`slurm/train.sbatch` and `slurm/array.sbatch` are what `render_job` gives for TRAIN and ARRAY.
"""

from __future__ import annotations

import math
import re
import shlex
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from launcher.data.prepare import prepare_data
from launcher.distributed.world import World
from launcher.errors import EXIT_DONE, UserError
from launcher.recipe.parse import LoadedRecipe
from launcher.run.console import Console
from launcher.run.journal import JOURNAL_NAME, read_journal
from launcher.train.prepare import complete_recipe, plan_run
from shards.manifest import MANIFEST_NAME

Starter = Literal["accelerate", "srun"]

CPUS_PER_PROCESS = 8
"""Asked for where the recipe leaves `data.workers` open."""

TIME = re.compile(r"(\d+-)?\d+(:\d+){0,2}")

SBATCH_TIMEOUT_S = 120

WARN_S = 180
WARN_SAVES = 4
"""The job is warned so many of its longest saves before the time limit, and no later than WARN_S."""


@dataclass(frozen=True, slots=True)
class Job:
    """What is asked of SLURM. `words`: recipe and overrides; None: those that sbatch is given behind the script."""

    name: str = "launcher"
    nodes: int = 1
    gpus_per_node: int = 1
    """0: none, on which a node has one process, or PROCESSES_PER_NODE."""
    cpus_per_task: int = CPUS_PER_PROCESS
    """Of a whole node: of all its processes together."""
    time: str = "24:00:00"
    warn_s: int = WARN_S
    """Seconds before the time limit at which it is asked to save."""
    starter: Starter = "accelerate"
    options: tuple[str, ...] = ()
    """More options of sbatch: `--partition=a100`."""
    is_array: bool = False
    words: tuple[str, ...] | None = None


TRAIN = Job()
ARRAY = Job(is_array=True)

USAGE = """\
if [ $# = 0 ]; then
  echo "usage: sbatch slurm/train.sbatch RECIPE [key.path=value ...]" >&2
  exit 2
fi
"""

PICK = """\
# Task i of the array takes recipe i modulo their number, and the next seed each time round.
recipes=() overrides=()
for word in "$@"; do
  case $word in
    *=*) overrides+=("$word") ;;
    *) recipes+=("$word") ;;
  esac
done
if [ ${#recipes[@]} = 0 ]; then
  echo "usage: sbatch --array=0-2 slurm/array.sbatch RECIPE [RECIPE ...] [key.path=value ...]" >&2
  exit 2
fi
task=$SLURM_ARRAY_TASK_ID
set -- "${recipes[task % ${#recipes[@]}]}" "run.seed=$((task / ${#recipes[@]}))" "${overrides[@]}"
"""

BODY = """\
# A requeued job comes back to the same folder, and so to the same run.
name=$(basename "$1")
run=runs/${name%.y*ml}-${SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}${SLURM_ARRAY_TASK_ID:+_$SLURM_ARRAY_TASK_ID}
for word in "$@"; do
  case $word in run.dir=*) run=${word#run.dir=} ;; esac
done
mkdir -p "$run/logs"

export MASTER_ADDR MASTER_PORT PROCESSES_PER_NODE LAUNCHER_EXIT_CODE
MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
MASTER_PORT=$((20000 + SLURM_JOB_ID % 10000))
PROCESSES_PER_NODE=${PROCESSES_PER_NODE:-${SLURM_GPUS_ON_NODE:-1}}
LAUNCHER_EXIT_CODE=$run/logs/exit-code
rm -f "$LAUNCHER_EXIT_CODE"
[ "${SLURM_GPUS_ON_NODE:-0}" != 0 ] || export ACCELERATE_USE_CPU=true

if [ "$START_WITH" = srun ]; then
  tasks=$PROCESSES_PER_NODE
  start='exec python -m launcher "$@"'
else
  tasks=1
  start='exec accelerate launch $([ $((SLURM_NNODES * PROCESSES_PER_NODE)) = 1 ] || echo --multi_gpu) \\
    --num_machines "$SLURM_NNODES" --num_processes $((SLURM_NNODES * PROCESSES_PER_NODE)) \\
    --machine_rank "$SLURM_NODEID" --main_process_ip "$MASTER_ADDR" --main_process_port "$MASTER_PORT" \\
    --rdzv_backend static --mixed_precision no --dynamo_backend no -m launcher "$@"'
fi
cpus=$((${SLURM_CPUS_PER_TASK:-1} / tasks))

# The warning before the time limit comes to this shell, which hands it to the processes of the training.
trap 'scancel --signal=USR1 "$SLURM_JOB_ID"' USR1
echo "$(date '+%F %T') start ${SLURM_RESTART_COUNT:-0} on $SLURM_JOB_NODELIST, logs in $run/logs: $*"
# accelerate launch would die of USR1: it is told to ignore it, and the training's processes take it up again.
srun --nodes="$SLURM_NNODES" --ntasks=$((tasks * SLURM_NNODES)) --ntasks-per-node="$tasks" \\
  --cpus-per-task=$((cpus > 0 ? cpus : 1)) --kill-on-bad-exit=1 --open-mode=append --output="$run/logs/%N.log" \\
  bash -c "trap '' USR1; $start" launcher "$1" "run.dir=$run" "${@:2}" &
step=$!
while wait "$step"; code=$?; [ "$code" -gt 128 ] && kill -0 "$step" 2>/dev/null; do :; done
code=$(cat "$LAUNCHER_EXIT_CODE" 2>/dev/null || echo "$code")
echo "$(date '+%F %T') ended with $code"

# A job that was cancelled is not running any more, and stays cancelled.
is_running() { [ "$(squeue --noheader --jobs="$SLURM_JOB_ID" --format=%T 2>/dev/null)" = RUNNING ]; }
# It may be so early that nothing of the training is there to save and say so.
is_preempted() { scontrol show job --oneliner "$SLURM_JOB_ID" | grep -q ' PreemptTime=[0-9]'; }
# What a lost node takes with it fails before SLURM knows of the loss.
has_all_nodes() { timeout 60 srun --nodes="$SLURM_NNODES" --ntasks="$SLURM_NNODES" --cpus-per-task=1 true; }
case $code in
  0 | 2) ;;  # done, or a mistake that would be made again
  75) is_running && scontrol requeue "$SLURM_JOB_ID" ;;  # everything is saved
  *) if is_preempted || ! has_all_nodes; then is_running && scontrol requeue "$SLURM_JOB_ID"; fi ;;
esac
exit "$code"
"""


def render_job(job: Job) -> str:
    """The text that sbatch is given."""
    options = [
        f"--job-name={job.name}",
        f"--nodes={job.nodes}",
        "--ntasks-per-node=1",
        *([f"--gpus-per-node={job.gpus_per_node}"] if job.gpus_per_node else []),
        f"--cpus-per-task={job.cpus_per_task}",
        f"--time={job.time}",
        f"--signal=B:USR1@{job.warn_s}",
        "--requeue",
        "--open-mode=append",
        f"--output=%x-{'%A_%a' if job.is_array else '%j'}.out",
        *job.options,
    ]
    header = "".join(f"#SBATCH {option}\n" for option in options)
    arguments = USAGE if job.words is None else f"set -- {shlex.join(job.words)}\n"
    start_with = f"START_WITH=${{START_WITH:-{job.starter}}}\n"
    return f"#!/bin/bash\n{header}\n{PICK if job.is_array else arguments}{start_with}\n{BODY}"


def submit(
    loaded: LoadedRecipe,
    overrides: tuple[str, ...],
    *,
    nodes: int,
    gpus_per_node: int,
    cpus_per_task: int | None,
    time: str,
    starter: Starter,
    options: dict[str, str | None],
    dry_run: bool,
) -> int:
    """Send the job, or only show it. `options`: of sbatch, by name.

    Raise UserError where the job could not run, or sbatch is missing or refuses it; RecipeError where the recipe is
    not for so many processes.
    """
    processes = max(gpus_per_node, 1)
    job = Job(
        name=str(loaded.recipe.run.name),
        nodes=nodes,
        gpus_per_node=gpus_per_node,
        cpus_per_task=_choose_cpus(cpus_per_task, processes, loaded.recipe.data.workers),
        time=time,
        warn_s=max(WARN_S, math.ceil(WARN_SAVES * _longest_save_s(str(loaded.recipe.run.name)))),
        starter=starter,
        options=tuple(f"--{name}={value}" for name, value in options.items() if value is not None),
        words=(loaded.file, *overrides),
    )
    _check_job(job)
    _check_processes(loaded, nodes * processes)
    text = render_job(job)
    if dry_run:
        print(text, end="")
        return EXIT_DONE
    Console().say(f"job {send_job(text)}: {job.name}, {nodes} x {processes} processes; follow it with squeue --me")
    return EXIT_DONE


def _choose_cpus(wanted: int | None, processes: int, workers: int | None) -> int:
    """CPUs of a node. Raise UserError where so many are too few for the recipe's threads."""
    needed = processes * max(workers or 1, 1)
    if wanted is None:
        return max(needed, processes * CPUS_PER_PROCESS) if workers is None else needed
    if wanted < needed:
        raise UserError(
            f"--cpus-per-task {wanted}: {processes} processes with data.workers={workers or 1} need {needed} on a "
            f"node; ask for {needed}, or lower data.workers"
        )
    return wanted


def _longest_save_s(name: str) -> float:
    """Of the recipe's runs that are here."""
    journals = [path for runs in (f"{name}/*", f"{name}-*") for path in Path("runs").glob(f"{runs}/{JOURNAL_NAME}")]
    records = (record for path in journals for record in read_journal(path.parent) if record["kind"] == "checkpoint")
    return max((record.get("blocked_s", 0.0) + record.get("write_s", 0.0) for record in records), default=0.0)


def _check_job(job: Job) -> None:
    if job.nodes < 1 or job.gpus_per_node < 0:
        raise UserError(f"--nodes {job.nodes} --gpus-per-node {job.gpus_per_node}: at least 1 node and 0 GPUs")
    if not TIME.fullmatch(job.time):
        raise UserError(f"--time {job.time}: write minutes, hours:minutes:seconds or days-hours, for example 12:00:00")
    for option in job.options:
        if not re.fullmatch(r"--[a-z]+=[\w.,@+-]+", option):
            raise UserError(f"{option.replace('=', ' ', 1)}: is not a name that sbatch can take")


def _check_processes(loaded: LoadedRecipe, processes: int) -> None:
    """What can be known without the data, and with it where it is packed, before the job waits in a queue."""
    recipe = complete_recipe(loaded, lambda note: None)
    if recipe.data.source is None or (recipe.data.folder / MANIFEST_NAME).exists():
        plan_run(loaded, recipe, processes, prepare_data(recipe.data, World()))


def send_job(text: str) -> str:
    """The number that SLURM gives the job."""
    try:
        sent = subprocess.run(
            ["sbatch", "--parsable"], input=text, capture_output=True, text=True, timeout=SBATCH_TIMEOUT_S
        )
    except FileNotFoundError:
        raise UserError(
            "sbatch is not here: submit on a machine of the cluster, or see the job with --dry-run"
        ) from None
    except subprocess.TimeoutExpired:
        raise UserError(
            f"sbatch gave no answer in {SBATCH_TIMEOUT_S} s: see whether sinfo does, and try again"
        ) from None
    if sent.returncode:
        said = " ".join(sent.stderr.replace("sbatch: ", "").replace("error: ", "").split())
        raise UserError(f"sbatch refused the job: {said}; change the options, or see the job with --dry-run")
    return sent.stdout.strip().partition(";")[0]
