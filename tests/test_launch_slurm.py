"""launch/slurm.sbatch: what it submits and starts, and when it asks Slurm for another run of the job."""

import re
import shutil
import signal

import pytest

from tests import launching
from tests.launching import LAUNCH, ends_with

launcher = launching.launcher
RUN = ("--config=configs/quickstart.py", "--workdir=/shared/a b")
JOB = {
    "SLURM_JOB_ID": "20007",
    "SLURM_JOB_NUM_NODES": "2",
    "SLURM_JOB_NODELIST": "node[07,09]",
    "SLURM_CPUS_ON_NODE": "96",
}
SRUN = ["srun", "--nodes=2", "--ntasks=2", "--ntasks-per-node=1", "--cpus-per-task=96", "--kill-on-bad-exit=0"]
# Runs the command as two tasks, and ends like srun with the highest of their statuses.
TWO_TASKS = """while [[ $1 == --* ]]; do shift; done
highest=0
for task in 0 1; do
  SLURM_PROCID=$task "$@" || { status=$?; ((status > highest)) && highest=$status; }
done
exit $highest"""
HOSTS = 'if [[ $1 == show ]]; then printf "node07\\nnode09\\n"; fi; exit 0'


def test_it_asks_for_what_the_restarts_need():
    options = re.findall(r"^#SBATCH (\S+)", (LAUNCH / "slurm.sbatch").read_text(), re.MULTILINE)
    # Not B:TERM: the tasks get the signal, the batch shell does not, and so knows a time limit from an scancel.
    assert {"--requeue", "--signal=TERM@300", "--open-mode=append", "--ntasks-per-node=1"} <= set(options)


def test_a_dry_run_prints_what_is_submitted_started_and_asked_for(launcher):
    submit, start, requeue = launcher.dry("slurm.sbatch", "--python=/my venv/python", "--dry_run", "--", *RUN)
    assert submit == ["sbatch", str(LAUNCH / "slurm.sbatch"), "--python=/my venv/python", "--", *RUN]
    assert start == [
        *("srun", "--nodes=1", "--ntasks=1", "--ntasks-per-node=1", "--kill-on-bad-exit=0"),
        *("/my venv/python", "-m", "ernie_m_jax.main", *RUN),
    ]
    assert requeue == ["scontrol", "requeue", "JOB_ID"]


def test_each_node_gets_its_place(launcher):
    launcher.fake("srun", TWO_TASKS)
    launcher.fake("scontrol", HOSTS)
    launcher.fake("python", 'env | grep -E "^JAX_(COO|NUM|PRO)" | sort > "$here/place-$JAX_PROCESS_ID"; exit 0')
    done = launcher.run("slurm.sbatch", "--", *RUN, **JOB)
    assert done.returncode == 0, done.stderr
    (started,) = launcher.calls("srun")
    assert started[: len(SRUN)] == SRUN
    assert launcher.calls("python") == [["python", "-m", "ernie_m_jax.main", *RUN]] * 2
    for task in (0, 1):
        assert (launcher.folder / f"place-{task}").read_text().splitlines() == [
            "JAX_COORDINATOR_ADDRESS=node07:10007",
            "JAX_NUM_PROCESSES=2",
            f"JAX_PROCESS_ID={task}",
        ]


@pytest.mark.parametrize(
    ("status", "before", "requeued"),
    [
        (42, {}, True),
        (42, {"SLURM_RESTART_COUNT": "2"}, True),
        (42, {"SLURM_RESTART_COUNT": "3"}, False),
        (1, {}, False),
    ],
)
def test_42_puts_the_job_back_into_the_queue_a_bounded_number_of_times(launcher, status, before, requeued):
    launcher.fake("srun", ends_with(status))
    launcher.fake("scontrol", HOSTS)
    done = launcher.run("slurm.sbatch", "--max_restarts=3", "--", *RUN, **JOB, **before)
    assert done.returncode == status
    calls = [call for call in launcher.calls("scontrol") if call[1] == "requeue"]
    assert calls == [["scontrol", "requeue", "20007"]] * requeued
    assert len(launcher.calls("srun")) == 1


def test_a_job_that_is_cancelled_is_not_put_back(launcher):
    launcher.fake("srun", "trap 'exit 42' TERM; touch \"$here/ready\"; while :; do sleep 0.02; done")
    launcher.fake("scontrol", HOSTS)
    process = launcher.start("slurm.sbatch", "--", *RUN, **JOB)
    launcher.wait_for("ready")
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode == 42
    assert [call[1] for call in launcher.calls("scontrol")] == ["show"]


def test_a_cluster_that_does_not_put_it_back_is_named(launcher):
    launcher.fake("srun", ends_with(42))
    launcher.fake("scontrol", f"[[ $1 == show ]] || exit 1; {HOSTS}")
    done = launcher.run("slurm.sbatch", "--", *RUN, **JOB)
    assert done.returncode == 42
    assert "Slurm does not put the job back into its queue; submit it again" in done.stderr


def test_slurm_runs_a_copy_from_its_spool(launcher):
    (launcher.folder / "spool").mkdir()
    copy = launcher.folder / "spool" / "slurm_script"
    shutil.copy(LAUNCH / "slurm.sbatch", copy)
    launcher.fake("srun", ends_with(0))
    launcher.fake("scontrol", HOSTS)
    one = {**JOB, "SLURM_JOB_NUM_NODES": "1", "SLURM_SUBMIT_DIR": str(LAUNCH.parent)}
    assert launcher.run(copy, "--", *RUN, **one).returncode == 0
    assert launcher.calls()[0][-5:] == ["python", "-m", "ernie_m_jax.main", *RUN]
    lost = launcher.run(copy, "--", *RUN, **JOB)
    assert lost.returncode == 2
    assert lost.stderr.startswith("error: launch/restart.sh is not in .; submit from where launch/ is")


def test_outside_a_job_it_says_how_to_submit(launcher):
    assert launcher.refused("slurm.sbatch", "--", *RUN).startswith("this is for sbatch: sbatch ")
