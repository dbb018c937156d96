"""Jobs under a real SLURM, limited, preempted, cancelled and requeued: the training resumes as the same run."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

from tests.harness.runs import DIGITS, ROOT, Record, events, journal, summary, train_records
from tests.slurm.cluster import Cluster

TRAIN = ROOT / "slurm" / "train.sbatch"
ARRAY = ROOT / "slurm" / "array.sbatch"

TWO_NODES = ("--nodes=2", "--gpus-per-node=0", "--cpus-per-task=2", "--time=60")
TWO_PROCESSES = {"PROCESSES_PER_NODE": "2"}
STEPS_PER_EPOCH = 33


def node_logs(folder: Path) -> str:
    return "\n".join(path.read_text() for path in sorted((folder / "logs").glob("node*.log")))


def wait_for_step(cluster: Cluster, job: str, folder: Path, step: int) -> None:
    def is_reached() -> bool:
        state = cluster.job_info(job)["JobState"]
        assert state in ("PENDING", "RUNNING", "CONFIGURING"), (state, node_logs(folder))
        return any(record["kind"] == "train" and record["step"] >= step for record in journal(folder))

    cluster.wait(is_reached, f"step {step} is not reached")


def write_recipe(path: Path, epochs: int) -> Path:
    path.write_text(DIGITS.read_text().replace("epochs: 30", f"epochs: {epochs}"))
    return path


LONG = 1000
"""Epochs, so many that no machine trains them before a test stops the job; the test then gives the recipe fewer."""


def assert_one_run(folder: Path, num_steps: int, num_resumes: int) -> Record:
    """No step is missing, and all starts share one W&B run."""
    found = summary(folder)
    assert (found["status"], found["steps_done"], found["world_size"]) == ("done", num_steps, 4)
    resumed = events(folder, "resumed")
    assert len(resumed) == num_resumes
    assert {found["wandb"]["id"]} == {record["wandb_id"] for record in (*events(folder, "started"), *resumed)}
    assert {path.name.rpartition("-")[2] for path in (folder / "wandb").glob("offline-run-*")} == {found["wandb"]["id"]}
    assert [step for step in train_records(folder) if step % 20 == 0] == list(range(20, num_steps + 1, 20))
    return found


def test_array_of_three_seeds(cluster: Cluster, tmp_path: Path, digits: Path) -> None:
    words = ["--array=0-2", "--gpus-per-node=0", "--cpus-per-task=1", "--time=10"]
    job = cluster.sbatch(*words, ARRAY, DIGITS, f"data.dir={digits}", "train.epochs=2", cwd=tmp_path, START_WITH="srun")
    for task in range(3):
        info = cluster.wait_for_state(f"{job}_{task}", "COMPLETED", "FAILED", "TIMEOUT")
        folder = tmp_path / "runs" / f"lenet_digits-{job}_{task}"
        assert info["JobState"] == "COMPLETED", node_logs(folder)
        assert (summary(folder)["status"], summary(folder)["steps_done"]) == ("done", 2 * STEPS_PER_EPOCH)
        assert f"seed: {task}\n" in (folder / "recipe.lock.yaml").read_text()
        assert f"run.seed={task}" in (tmp_path / f"launcher-{job}_{task}.out").read_text()
    ids = {summary(folder)["wandb"]["id"] for folder in (tmp_path / "runs").iterdir()}
    assert len(ids) == 3


def test_time_limit(cluster: Cluster, tmp_path: Path, digits: Path) -> None:
    """SLURM warns before the limit; the job saves, and requeues itself."""
    recipe = write_recipe(tmp_path / "digits.yaml", LONG)
    words = [f"data.dir={digits}", "--allow-change", "train.epochs"]
    job = cluster.sbatch(*TWO_NODES, TRAIN, recipe, *words, cwd=tmp_path, **TWO_PROCESSES)
    folder = tmp_path / "runs" / f"digits-{job}"
    wait_for_step(cluster, job, folder, 20)
    # SLURM checks every 30 s which jobs to warn: 180 s before their end or, here, at the next check.
    minutes, seconds = map(int, cluster.job_info(job)["RunTime"].split(":")[1:])
    cluster.ask("scontrol", "update", f"JobId={job}", f"TimeLimit={minutes + (seconds + 45) // 60 + 1}")
    info = cluster.wait_for_state(job, "PENDING", "COMPLETED", "FAILED", "TIMEOUT")
    assert info["JobState"] == "PENDING", node_logs(folder)
    stopped = summary(folder)
    assert stopped["status"] == "preempted"
    epochs = stopped["steps_done"] // STEPS_PER_EPOCH + 2
    write_recipe(recipe, epochs)
    cluster.ask("scontrol", "update", f"JobId={job}", "TimeLimit=60")
    info = cluster.wait_for_state(job, "COMPLETED", "FAILED", "TIMEOUT")
    assert (info["JobState"], info["Restarts"]) == ("COMPLETED", "1"), node_logs(folder)
    assert_one_run(folder, epochs * STEPS_PER_EPOCH, 1)
    assert [record["step"] for record in events(folder, "resumed")] == [stopped["steps_done"]]
    log = (tmp_path / f"launcher-{job}.out").read_text()
    assert log.count(" start 0 on node[1-2]") == log.count(" start 1 on node[1-2]") == 1
    assert log.count(" ended with 75\n") == log.count(" ended with 0\n") == 1


def test_preemption_by_a_higher_partition(cluster: Cluster, tmp_path: Path, digits: Path) -> None:
    """SLURM sends SIGTERM to the ranks, which srun has started here.

    The urgent job keeps both nodes until the recipe of the preempted one is shorter.
    """
    recipe = write_recipe(tmp_path / "digits.yaml", LONG)
    words = [f"data.dir={digits}", "--allow-change", "train.epochs"]
    settings = {**TWO_PROCESSES, "START_WITH": "srun"}
    job = cluster.sbatch(*TWO_NODES, TRAIN, recipe, *words, cwd=tmp_path, **settings)
    folder = tmp_path / "runs" / f"digits-{job}"
    wait_for_step(cluster, job, folder, 20)
    script = "until [ -e shortened ]; do sleep 0.2; done"
    urgent = cluster.sbatch(
        "--partition=urgent", "--nodes=2", "--exclusive", "--time=10", f"--wrap={script}", cwd=tmp_path
    )
    cluster.wait_for_state(urgent, "RUNNING")
    stopped = summary(folder)
    assert stopped["status"] == "preempted"
    epochs = stopped["steps_done"] // STEPS_PER_EPOCH + 2
    write_recipe(recipe, epochs)
    (tmp_path / "shortened").touch()
    info = cluster.wait_for_state(job, "COMPLETED", "FAILED", "TIMEOUT", "PREEMPTED")
    assert (info["JobState"], info["Restarts"]) == ("COMPLETED", "1"), node_logs(folder)
    assert_one_run(folder, epochs * STEPS_PER_EPOCH, 1)
    assert [record["step"] for record in events(folder, "resumed")] == [stopped["steps_done"]]


def test_preemption_before_anything_can_be_saved(cluster: Cluster, tmp_path: Path) -> None:
    """SIGTERM kills a training while Python still loads: here a stand-in, which is done the second time."""
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    python.write_text('#!/bin/bash\n[ "${SLURM_RESTART_COUNT:-0}" = 1 ] || exec sleep 300\n')
    python.chmod(0o755)
    settings = {"START_WITH": "srun", "PATH": f"{python.parent}:{cluster.environment['PATH']}"}
    job = cluster.sbatch(*TWO_NODES, TRAIN, DIGITS, cwd=tmp_path, **settings)
    cluster.wait_for_state(job, "RUNNING")
    urgent = cluster.sbatch("--partition=urgent", "--nodes=2", "--exclusive", "--wrap=sleep 1", cwd=tmp_path)
    cluster.wait_for_state(urgent, "COMPLETED")
    info = cluster.wait_for_state(job, "COMPLETED", "FAILED")
    assert (info["JobState"], info["Restarts"]) == ("COMPLETED", "1"), (tmp_path / f"launcher-{job}.out").read_text()


def test_cancelled_job_saves_and_stays_cancelled(cluster: Cluster, tmp_path: Path, digits: Path) -> None:
    words: list[str | Path] = [
        "--gpus-per-node=0",
        "--cpus-per-task=1",
        TRAIN,
        DIGITS,
        f"data.dir={digits}",
        "train.epochs=100",
    ]
    job = cluster.sbatch(*words, cwd=tmp_path)
    folder = tmp_path / "runs" / f"lenet_digits-{job}"
    wait_for_step(cluster, job, folder, 20)
    cluster.ask("scancel", job)
    cluster.wait(lambda: job not in cluster.ask("squeue", "--noheader", "--format=%A").split(), f"job {job} stays")
    info = cluster.job_info(job)
    assert (info["JobState"], info["Restarts"]) == ("CANCELLED", "0")
    # The job may leave the queue just before its last process writes this.
    cluster.wait((folder / "summary.json").exists, f"job {job} leaves no summary")
    assert summary(folder)["status"] == "preempted"


def test_node_failure(cluster: Cluster, tmp_path: Path, digits: Path) -> None:
    """All of a node ends at once. The job resumes from its newest checkpoint when both nodes are back."""
    recipe = write_recipe(tmp_path / "digits.yaml", LONG)
    words = [f"data.dir={digits}", "--allow-change", "train.epochs", "checkpoint.every=10st"]
    settings = {**TWO_PROCESSES, "START_WITH": "srun"}
    job = cluster.sbatch(*TWO_NODES, TRAIN, recipe, *words, cwd=tmp_path, **settings)
    folder = tmp_path / "runs" / f"digits-{job}"
    wait_for_step(cluster, job, folder, 20)
    cluster.lose_node("node2")
    info = cluster.wait_for_state(job, "PENDING", "COMPLETED", "FAILED", "NODE_FAIL")
    assert info["JobState"] == "PENDING", node_logs(folder)
    newest = max(train_records(folder))
    epochs = newest // STEPS_PER_EPOCH + 2
    write_recipe(recipe, epochs)
    cluster.start_node("node2")
    info = cluster.wait_for_state(job, "COMPLETED", "FAILED", "TIMEOUT", "NODE_FAIL")
    assert info["JobState"] == "COMPLETED", node_logs(folder)
    # SLURM may also end the second start while it cleans up after the first: that saves, and requeues.
    num_resumes = len(events(folder, "resumed"))
    assert 1 <= num_resumes <= int(info["Restarts"]) <= 2
    assert_one_run(folder, epochs * STEPS_PER_EPOCH, num_resumes)
    assert 10 <= events(folder, "resumed")[0]["step"] <= newest


def test_refusal_is_one_line(cluster: Cluster, tmp_path: Path) -> None:
    words: list[str | Path] = ["submit", DIGITS, "--gpus-per-node", "0", "--time", "10", "--partition", "nowhere"]
    refused = cluster.call("python", "-m", "launcher", *words, cwd=tmp_path)
    assert refused.returncode == 2
    assert refused.stderr.startswith("launcher: sbatch refused the job: ")
    assert "invalid partition" in refused.stderr
    assert len(refused.stderr.splitlines()) == 1


def test_submitted_job_trains(cluster: Cluster, tmp_path: Path, digits: Path) -> None:
    words: list[str | Path] = ["submit", DIGITS, f"data.dir={digits}", "train.epochs=4st"]
    sent = cluster.call(
        "python", "-m", "launcher", *words, "--gpus-per-node", "0", "--cpus-per-task", "1", "--time", "10", cwd=tmp_path
    )
    assert sent.returncode == 0, sent.stderr
    job = sent.stdout.removeprefix("job ").partition(":")[0]
    info = cluster.wait_for_state(job, "COMPLETED", "FAILED")
    folder = tmp_path / "runs" / f"lenet_digits-{job}"
    assert (info["JobState"], info["JobName"]) == ("COMPLETED", "lenet_digits"), node_logs(folder)
    assert summary(folder)["steps_done"] == 4


def test_user_error_fails_the_job_with_exit_code_2(cluster: Cluster, tmp_path: Path) -> None:
    job = cluster.sbatch(
        "--gpus-per-node=0", "--cpus-per-task=1", TRAIN, DIGITS, "optim.lr=-1", cwd=tmp_path, START_WITH="srun"
    )
    info = cluster.wait_for_state(job, "COMPLETED", "FAILED")
    assert (info["JobState"], info["ExitCode"], info["Restarts"]) == ("FAILED", "2:0", "0")
    assert "optim.lr: must be more than 0, not -1" in node_logs(tmp_path / "runs" / f"lenet_digits-{job}")


def test_search_with_trials_as_jobs(cluster: Cluster, tmp_path: Path, digits: Path) -> None:
    """Two at a time; the search is killed while its jobs run, and the same command finds them."""
    text = "trials: 4\nstart: 4\nsearch:\n  optim.lr: {low: 1.0e-4, high: 3.0e-2, log: true}\n"
    (tmp_path / "s.yaml").write_text(text)
    words = ["tune", str(DIGITS), f"data.dir={digits}", "train.epochs=2", "log.wandb.mode=disabled"]
    options = ["--partition=normal", "--gpus-per-node=0", "--cpus-per-task=1", "--time=10"]
    words += ["--search", "s.yaml", "--parallel", "2", "--slurm", " ".join(options)]
    command = [sys.executable, "-m", "launcher", *words]
    folder = tmp_path / "runs/lenet_digits-s"

    def read_job_ids() -> dict[str, str]:
        return {path.name: path.read_text() for path in folder.glob("logs/*.job")}

    killed = cluster.start_command(*command, cwd=tmp_path)
    cluster.wait(
        lambda: killed.poll() is not None or sum(map(bool, read_job_ids().values())) == 2, "two jobs are not sent"
    )
    killed.kill()
    output = killed.communicate()
    assert killed.returncode == -signal.SIGKILL, output
    before = read_job_ids()
    ended = cluster.call(*command, cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    after = read_job_ids()
    assert len(set(after.values())) == 4
    assert before.items() <= after.items()  # none was sent twice
    for path in sorted(folder.glob("trial-*")):
        assert (summary(path)["status"], len(events(path, "started")), events(path, "resumed")) == ("done", 1, [])
    assert (folder / "best.yaml").exists()
