"""A Slurm job; scontrol and srun are fakes, and srun starts its tasks here."""

import os
import shutil
import signal
import subprocess

import pytest

from tests.launch import conftest

SCRIPT = "slurm.sbatch"
SLURM = {
    "SLURM_SUBMIT_DIR": str(conftest.ROOT),
    "SLURM_JOB_NODELIST": "node[1-2]",
    "SLURM_JOB_ID": "17",
    "FAKE_scontrol": 'if [[ $1 == show ]]; then printf "node1\\nnode2\\n"; fi',
}
# Task number 1, in the place of srun.
SRUN = 'shift 2; SLURM_PROCID=1 exec "$@"'


def test_every_task_gets_its_place_in_the_list(launch, calls):
    result = launch(
        SCRIPT,
        "--",
        "--config.a=x y",
        **SLURM,
        FAKE_srun=SRUN,
        CLOZE_PORT=str(conftest.free_port()),
        FAKE_FATES="0,5",
    )
    assert result.returncode == 5, result
    first, second = calls.read_text().splitlines()[:2]
    assert first == "scontrol show hostnames node[1-2]"
    assert second.startswith("srun --kill-on-bad-exit=1 --label bash -c ")
    worker = conftest.worker(calls, 1)
    assert worker["config"]["task"]["index"] == 1
    assert worker["config"]["cluster"]["worker"][0].startswith("node1:")
    assert worker["argv"][-1] == "--config.a=x y"
    assert "requeue" not in calls.read_text()


def test_works_as_the_copy_that_slurm_makes(environment, refused, tmp_path):
    copy = tmp_path / "slurm_script"
    shutil.copy(conftest.ROOT / "launch" / SCRIPT, copy)
    shown = subprocess.run(
        [copy, "--dry_run", "--", "--a=1"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment(**SLURM),
    )
    assert shown.returncode == 0, shown.stderr
    assert "--hosts=node1,node2 --port=2222 -- --a=1" in shown.stdout
    assert "sbatch launch/slurm.sbatch" in refused(SCRIPT)  # Outside a job.


@pytest.mark.parametrize(
    ("number", "again"), [(signal.SIGUSR1, True), (signal.SIGTERM, False)]
)
def test_only_the_time_limit_queues_it_again(number, again, environment, calls):
    process = subprocess.Popen(
        [conftest.ROOT / "launch" / SCRIPT],
        env=environment(
            **SLURM,
            FAKE_srun=SRUN,
            FAKE_FATES="0,wait",
            CLOZE_PORT=str(conftest.free_port()),
        ),
        start_new_session=True,
    )
    conftest.worker(calls, 1)
    if again:
        process.send_signal(number)
    else:
        # Slurm sends SIGTERM to every process of the job.
        os.killpg(process.pid, number)
    assert process.wait(timeout=30) == 143
    assert ("scontrol requeue 17" in calls.read_text()) is again
