"""The script of a SLURM job, and sending it.

`slurm/train.sbatch` and `slurm/array.sbatch` are TRAIN and ARRAY, rendered.
"""

from __future__ import annotations

import shlex
import subprocess
from dataclasses import dataclass

from launcher.commands.jobs.options import Starter
from launcher.errors import UserError
from launcher.text import one_line

CPUS_PER_PROCESS = 8
"""CPUs requested for each process where the recipe leaves `data.workers` open."""

WARN_S = 180
"""Least seconds between SLURM's warning and the time limit."""

SBATCH_TIMEOUT_S = 120


@dataclass(frozen=True, slots=True)
class SlurmJob:
    """Request to SLURM, and the training to run."""

    name: str = "launcher"
    nodes: int = 1
    gpus_per_node: int = 1
    """GPUs of each node, one process each. 0: CPU only, with PROCESSES_PER_NODE processes on each node, or one."""
    cpus_per_task: int = CPUS_PER_PROCESS
    """CPUs of a node, for all its processes."""
    time: str = "24:00:00"
    warn_s: int = WARN_S
    """Seconds before the time limit at which SLURM signals the job, which then saves."""
    starter: Starter = "accelerate"
    options: tuple[str, ...] = ()
    """Further options of sbatch: `--partition=a100`."""
    is_array: bool = False
    arguments: tuple[str, ...] | None = None
    """Recipe and overrides. None: those given to sbatch after the script."""


TRAIN = SlurmJob()
ARRAY = SlurmJob(is_array=True)

USAGE = """\
if [ $# = 0 ]; then
  echo "usage: sbatch slurm/train.sbatch RECIPE [key.path=value ...]" >&2
  exit 2
fi
"""

PICK = """\
# Task i takes recipe i modulo the number of recipes; each round of recipes takes the next seed.
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
# A requeued job finds the same folder, and so resumes the same run.
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

# SLURM signals this shell before the time limit; the shell signals the ranks.
trap 'scancel --signal=USR1 "$SLURM_JOB_ID"' USR1
echo "$(date '+%F %T') start ${SLURM_RESTART_COUNT:-0} on $SLURM_JOB_NODELIST, logs in $run/logs: $*"
# accelerate launch would die of USR1: it ignores the signal, and the ranks install handlers of their own.
srun --nodes="$SLURM_NNODES" --ntasks=$((tasks * SLURM_NNODES)) --ntasks-per-node="$tasks" \\
  --cpus-per-task=$((cpus > 0 ? cpus : 1)) --kill-on-bad-exit=1 --open-mode=append --output="$run/logs/%N.log" \\
  bash -c "trap '' USR1; $start" launcher "$1" "run.dir=$run" "${@:2}" &
step=$!
while wait "$step"; code=$?; [ "$code" -gt 128 ] && kill -0 "$step" 2>/dev/null; do :; done
code=$(cat "$LAUNCHER_EXIT_CODE" 2>/dev/null || echo "$code")
echo "$(date '+%F %T') ended with $code"

# A cancelled job is no longer running, and is not requeued.
is_running() { [ "$(squeue --noheader --jobs="$SLURM_JOB_ID" --format=%T 2>/dev/null)" = RUNNING ]; }
# Preemption may kill the training before it can save and exit with 75.
is_preempted() { scontrol show job --oneliner "$SLURM_JOB_ID" | grep -q ' PreemptTime=[0-9]'; }
# When a node is lost, the training fails before SLURM notices.
has_all_nodes() { timeout 60 srun --nodes="$SLURM_NNODES" --ntasks="$SLURM_NNODES" --cpus-per-task=1 true; }
case $code in
  0 | 2) ;;  # done, or a user error, which would only repeat
  75) is_running && scontrol requeue "$SLURM_JOB_ID" ;;  # everything is saved
  *) if is_preempted || ! has_all_nodes; then is_running && scontrol requeue "$SLURM_JOB_ID"; fi ;;
esac
exit "$code"
"""


def render_job(job: SlurmJob) -> str:
    """The batch script."""
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
    arguments = USAGE if job.arguments is None else f"set -- {shlex.join(job.arguments)}\n"
    start_with = f"START_WITH=${{START_WITH:-{job.starter}}}\n"
    return f"#!/bin/bash\n{header}\n{PICK if job.is_array else arguments}{start_with}\n{BODY}"


def send_job(text: str) -> str:
    """Submit a batch script and return the job's id. Raise UserError where sbatch is missing or refuses it."""
    try:
        sent = subprocess.run(
            ["sbatch", "--parsable"], input=text, capture_output=True, text=True, timeout=SBATCH_TIMEOUT_S
        )
    except FileNotFoundError:
        raise UserError(
            "sbatch is not installed here: submit on a node of the cluster, or print the job with --dry-run"
        ) from None
    except subprocess.TimeoutExpired:
        raise UserError(
            f"sbatch did not answer within {SBATCH_TIMEOUT_S} s: check whether sinfo does, and try again"
        ) from None
    if sent.returncode:
        reason = one_line(sent.stderr.replace("sbatch: ", "").replace("error: ", ""))
        raise UserError(f"sbatch refused the job: {reason}; change the options, or print the job with --dry-run")
    return sent.stdout.strip().partition(";")[0]
