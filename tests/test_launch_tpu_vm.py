"""launch/tpu_vm.sh against a stand-in for gcloud that has a queue, TPUs that can be taken away, and workers."""

import shlex
import signal
import subprocess

import pytest

from tests import launching

launcher = launching.launcher
RUN = ("--config=configs/pretrain/stage1.py", "--workdir=/mnt/shared/it's mine")
TPU = (
    "--name=mine",
    "--zone=europe-west4-b",
    "--accelerator_type=v5litepod-16",
    "--wheel=my dist/ours-0.1-py3-none-any.whl",
)
QUICK = ("--poll_seconds=0", *TPU)
WHERE = ["--zone=europe-west4-b", "--quiet"]
QUEUED = ["gcloud", "compute", "tpus", "queued-resources"]
VM = ["gcloud", "compute", "tpus", "tpu-vm"]
# The queue's state and the node's stand in the files `queued` and `node`; `statuses` has a line for each training.
GCLOUD = """at() { cat "$here/$1" 2>/dev/null; }
case "$3 $4" in
  "queued-resources list") at queued ;;
  "tpu-vm list") at node ;;
  "queued-resources create") echo ACTIVE > "$here/queued"; echo READY > "$here/node" ;;
  "queued-resources delete") rm -f "$here/queued" "$here/node" ;;
  "tpu-vm scp") ;;
  "tpu-vm ssh")
    [[ $* != *"--command=kill"* ]] || touch "$here/told"
    [[ $* == *"-m ernie_m_jax.main"* ]] || exit 0
    status=$(head -n 1 "$here/statuses"); sed -i 1d "$here/statuses"
    if [[ $status == lost ]]; then echo SUSPENDED > "$here/queued"; rm "$here/node"; exit 255; fi
    if [[ $status == told ]]; then until [[ -e $here/told ]]; do touch "$here/ready"; sleep 0.02; done; status=42; fi
    exit "$status" ;;
  *) exit 99 ;;
esac
exit 0"""


@pytest.fixture
def tpu(launcher):
    launcher.fake("gcloud", GCLOUD)
    (launcher.folder / "my dist").mkdir()
    (launcher.folder / "my dist" / "ours-0.1-py3-none-any.whl").touch()

    def run(*statuses, flags=()):
        (launcher.folder / "statuses").write_text("".join(f"{status}\n" for status in statuses))
        return launcher.run("tpu_vm.sh", *QUICK, *flags, "--", *RUN)

    return run


def did(launcher):
    """What was done, looks aside, in a word each."""
    words = []
    for _, _, _, group, verb, *rest in launcher.calls("gcloud"):
        if verb == "ssh":
            said = " ".join(rest)
            verb = "train" if "-m ernie_m_jax.main" in said else "stop" if "--command=kill" in said else "prepare"
        if (group, verb) not in (("queued-resources", "list"), ("tpu-vm", "list")):
            words.append(verb)
    return words


def test_a_dry_run_prints_every_command(launcher):
    create, copy, prepare, train, delete = launcher.dry(
        "tpu_vm.sh", *TPU, "--spot", "--setup=mount /mnt/shared", "--", *RUN
    )
    assert create == [
        *(*QUEUED, "create", "mine", "--node-id=mine", "--accelerator-type=v5litepod-16"),
        *("--runtime-version=v2-alpha-tpuv5-lite", "--spot", *WHERE),
    ]
    assert copy == [*VM, "scp", "my dist/ours-0.1-py3-none-any.whl", "mine:", "--worker=all", *WHERE]
    assert prepare[:8] == train[:8] == [*VM, "ssh", "mine", "--worker=all", "--ssh-flag=-o ServerAliveInterval=30"]
    prepared = prepare[8].removeprefix("--command=")
    assert "./ours-0.1-py3-none-any.whl[tpu,gcs]" in shlex.split(prepared)
    assert prepared.endswith("&& { mount /mnt/shared; }")
    command = shlex.split(train[8].removeprefix("--command="))
    run = ["env", "ERNIE_M_JAX_DISTRIBUTED=1", "ernie-m-jax/bin/python", "-m", "ernie_m_jax.main", *RUN]
    assert command[-len(run) :] == run
    assert delete == [*QUEUED, "delete", "mine", "--force", *WHERE]


@pytest.mark.parametrize(
    ("kind", "version"), [("v4-8", "tpu-ubuntu2204-base"), ("v5p-8", "v2-alpha-tpuv5"), ("v6e-8", "v2-alpha-tpuv6e")]
)
def test_each_kind_has_its_runtime(launcher, kind, version):
    create, *_ = launcher.dry("tpu_vm.sh", *TPU, f"--accelerator_type={kind}", "--project=p", "--", *RUN)
    assert f"--runtime-version={version}" in create
    assert create[-3:] == ["--zone=europe-west4-b", "--project=p", "--quiet"]


def test_it_creates_prepares_trains_and_deletes(launcher, tpu):
    done = tpu(0)
    assert done.returncode == 0, done.stderr
    assert did(launcher) == ["create", "scp", "prepare", "train", "delete"]


def test_a_tpu_that_is_there_is_used_and_kept_if_asked(launcher, tpu):
    (launcher.folder / "queued").write_text("ACTIVE\n")
    (launcher.folder / "node").write_text("READY\n")
    assert tpu(0, flags=["--keep"]).returncode == 0
    assert did(launcher) == ["scp", "prepare", "train"]


@pytest.mark.parametrize(("statuses", "status", "trained"), [((42, 42, 1), 1, 3), ((42,) * 9, 42, 2)])
def test_42_trains_again_on_the_same_tpu_a_bounded_number_of_times(launcher, tpu, statuses, status, trained):
    done = tpu(*statuses, flags=[f"--max_restarts={trained - 1}"])
    assert done.returncode == status, done.stderr
    assert did(launcher) == ["create", "scp", "prepare"] + ["train"] * trained
    delete = shlex.join([*QUEUED, "delete", "mine", "--force", *WHERE])  # it may have taken long to get
    assert done.stderr.endswith(f"the TPU stays, and costs; this deletes it: {delete}\n")


def test_a_tpu_that_was_taken_away_is_made_and_prepared_again(launcher, tpu):
    done = tpu("lost", 42, 0, flags=["--spot"])
    assert done.returncode == 0, done.stderr
    anew = ["create", "scp", "prepare", "train"]
    assert did(launcher) == [*anew, "delete", *anew, "train", "delete"]


@pytest.mark.slow
def test_being_taken_away_is_bounded_too(launcher, tpu):
    assert tpu(*["lost"] * 9, flags=["--max_restarts=2"]).returncode == 255
    assert did(launcher).count("create") == 3


@pytest.mark.slow
def test_a_lost_connection_to_a_tpu_that_is_there_is_handed_on(launcher, tpu):
    done = tpu(255)
    assert done.returncode == 255
    assert "the same command goes on" in done.stderr
    assert did(launcher) == ["create", "scp", "prepare", "train"]


def test_a_request_that_failed_is_an_error(launcher, tpu):
    (launcher.folder / "queued").write_text("FAILED\n")
    done = tpu()
    assert done.returncode == 1
    assert "the request for mine failed" in done.stderr
    assert did(launcher) == []


def test_a_signal_stops_the_workers_and_is_awaited(launcher, tpu):
    (launcher.folder / "statuses").write_text("told\n")
    process = launcher.start("tpu_vm.sh", *QUICK, "--", *RUN)
    launcher.wait_for("ready")
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 42, said
    assert did(launcher) == ["create", "scp", "prepare", "train", "stop"]
    assert "the TPU stays, and costs" in said


def test_a_worker_ends_what_a_broken_connection_left_there_before_it_trains(launcher):
    *_, train, _ = launcher.dry("tpu_vm.sh", *TPU, "--", *RUN)
    command = train[8].removeprefix("--command=").replace("/dev/shm", str(launcher.folder))
    python = launcher.folder / "ernie-m-jax" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(
        "#!/bin/bash\ntrap 'echo saved; exit 42' TERM\n[[ -e first ]] && { printf '%s\\n' began \"$@\"; exit 0; }\n"
        "touch first\nwhile :; do sleep 0.02; done\n"
    )
    python.chmod(0o755)
    options = {"cwd": launcher.folder, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(["bash", "-c", command], **options) as first:
        launcher.wait_for("first")
        with subprocess.Popen(["bash", "-c", command], **options) as second:
            assert first.communicate(timeout=30)[0] == "saved\n"
            assert first.returncode == 42
            assert second.communicate(timeout=30)[0].splitlines() == ["began", "-m", "ernie_m_jax.main", *RUN]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (TPU, "the training's flags are missing"),
        ((*TPU[1:], "--", *RUN), "--name is missing"),
        ((*TPU, "--name=Mine_1", "--", *RUN), "--name is 'Mine_1'; it must be of a-z, 0-9 and -"),
        (
            (*TPU, "--accelerator_type=v9-8", "--", *RUN),
            "--runtime_version is missing: which fits v9-8 is not known here",
        ),
        (
            (*TPU, "--wheel=nothing.whl", "--", *RUN),
            "--wheel: there is no file nothing.whl; python -m build --wheel makes",
        ),
        ((*TPU, "--poll_seconds=soon", "--", *RUN), "--poll_seconds is 'soon'"),
    ],
)
def test_a_wrong_call_is_one_line(launcher, tpu, arguments, message):
    assert launcher.refused("tpu_vm.sh", *arguments).startswith(message)
