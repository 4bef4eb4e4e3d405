"""launch/gke.sh and launch/gke_jobset.yaml: what is created is a JobSet by its schema, and means what was asked."""

import copy
import json
import re
import shlex

import jsonschema
import pytest
import yaml

from ernie_m_jax import lifeline
from tests import launching
from tests.launching import LAUNCH, ROOT

launcher = launching.launcher
SCHEMA = json.loads((ROOT / "tests" / "golden" / "jobset.schema.json").read_text())
ODD = ('--config=it\'s "x"', "--config.a=$HOME $(JAX_PROCESS_ID) $$ ${IMAGE} & \\ \\n", "line\nbreak\ttab", "ä", "")
COMMON = ("--name=mine", "--image=registry/ours:1", "--claim=shared")
TPU = (*COMMON, "--accelerator=tpu-v5-lite-podslice", "--topology=4x4")
GPU = (*COMMON, "--accelerator=nvidia-h100-80gb")


def jobset(launcher, *arguments):
    """What a dry run would have created, checked; and the command that would."""
    done = launcher.run("gke.sh", "--dry_run", *arguments, "--", *ODD)
    assert done.returncode == 0, done.stderr
    command, text = done.stdout.split("\n", 1)
    made = yaml.safe_load(text.removesuffix("JOBSET\n"))
    jsonschema.validate(made, SCHEMA)
    return made, shlex.split(command)


def parts(made):
    """The job's specification, its pods' and their container."""
    job = made["spec"]["replicatedJobs"][0]["template"]["spec"]
    pod = job["template"]["spec"]
    return job, pod, pod["containers"][0]


def started(command):
    """A container's command as Kubernetes starts it: variables replaced, $$ one dollar."""
    return [re.sub(r"\$\$|\$\([^)]*\)", lambda found: "$" if found[0] == "$$" else "REPLACED", one) for one in command]


def test_a_tpu_slice(launcher):
    made, command = jobset(launcher, *TPU)
    job, pod, container = parts(made)
    assert command == ["kubectl", "create", "-f", "-", "<<JOBSET"]
    assert made["metadata"]["name"] == "mine"
    assert (job["parallelism"], job["completions"], job["completionMode"]) == (4, 4, "Indexed")
    assert pod["nodeSelector"] == {
        "cloud.google.com/gke-tpu-accelerator": "tpu-v5-lite-podslice",
        "cloud.google.com/gke-tpu-topology": "4x4",
    }
    assert container["resources"] == {"limits": {"google.com/tpu": "4"}}
    assert container["env"] == []  # JAX finds the rest by what GKE sets
    assert pod["volumes"][0]["persistentVolumeClaim"] == {"claimName": "shared"}
    assert container["volumeMounts"][0]["mountPath"] == "/shared"


def test_gpu_hosts_get_their_places(launcher):
    made, command = jobset(launcher, *GPU, "--hosts=2", "--spot", "--namespace=team")
    job, pod, container = parts(made)
    assert command[:3] == ["kubectl", "create", "--namespace=team"]
    assert job["completions"] == 2
    assert pod["nodeSelector"] == {
        "cloud.google.com/gke-accelerator": "nvidia-h100-80gb",
        "cloud.google.com/gke-spot": "true",
    }
    assert pod["tolerations"][0]["key"] == "cloud.google.com/gke-spot"
    assert container["resources"] == {"limits": {"nvidia.com/gpu": "8"}}
    values = {one["name"]: one.get("value") or one["valueFrom"]["fieldRef"]["fieldPath"] for one in container["env"]}
    # JobSet's name of a pod: <jobset>-<replicated job>-<job index>-<pod index>.<subdomain, by default the jobset>
    group = made["spec"]["replicatedJobs"][0]["name"]
    assert values == {
        "JAX_COORDINATOR_ADDRESS": f"mine-{group}-0-0.mine:12355",
        "JAX_NUM_PROCESSES": "2",
        "JAX_PROCESS_ID": "metadata.annotations['batch.kubernetes.io/job-completion-index']",
    }
    assert parts(jobset(launcher, *GPU)[0])[2]["env"] == []  # one host: one process


def test_the_training_gets_its_flags_unchanged(launcher):
    container = parts(jobset(launcher, *GPU)[0])[2]
    assert started(container["command"]) == ["python", "-m", "ernie_m_jax.main", *ODD]


def test_42_and_a_lost_node_restart_it_and_nothing_else_does(launcher):
    made, _ = jobset(launcher, *TPU, "--max_restarts=7")
    job, pod, container = parts(made)
    policy = made["spec"]["failurePolicy"]
    assert policy["maxRestarts"] == 7
    assert [(rule["action"], rule["onJobFailureReasons"]) for rule in policy["rules"]] == [
        ("FailJobSet", ["PodFailurePolicy"])
    ]
    lost, failed = job["podFailurePolicy"]["rules"]
    assert (lost["action"], lost["onPodConditions"][0]["type"]) == ("Count", "DisruptionTarget")
    codes = failed["onExitCodes"]
    assert (failed["action"], codes["operator"], codes["values"]) == ("FailJob", "NotIn", [lifeline.RESTART])
    assert codes["containerName"] == container["name"]
    assert (job["backoffLimit"], pod["restartPolicy"]) == (0, "Never")


def test_the_schema_sees_a_misspelt_field(launcher):
    made, _ = jobset(launcher, *TPU)
    for path in (("spec",), ("spec", "failurePolicy"), ("spec", "replicatedJobs", 0, "template", "spec")):
        wrong = copy.deepcopy(made)
        node = wrong
        for key in path:
            node = node[key]
        node["maxRestart"] = 3
        with pytest.raises(jsonschema.ValidationError, match="maxRestart"):
            jsonschema.validate(wrong, SCHEMA)


def test_the_template_is_yaml_and_every_place_in_it_is_filled(launcher):
    yaml.safe_load((LAUNCH / "gke_jobset.yaml").read_text())
    made = launcher.run("gke.sh", "--dry_run", *GPU, "--", "--config=x").stdout
    assert "${" not in made


def test_it_is_created_from_standard_input(launcher):
    launcher.fake("kubectl", 'cat > "$here/created"; exit 0')
    done = launcher.run("gke.sh", *TPU, "--", *ODD)
    assert done.returncode == 0, done.stderr
    assert launcher.calls() == [["kubectl", "create", "-f", "-"]]
    made = yaml.safe_load((launcher.folder / "created").read_text())
    assert made == jobset(launcher, *TPU)[0]


@pytest.mark.parametrize(
    ("kind", "device"),
    [
        ("v5litepod-16", ["--tpu-type=v5litepod-16", "--num-slices=1"]),
        ("h100-80gb-8", ["--device-type=h100-80gb-8", "--num-nodes=2"]),
    ],
)
def test_xpk(launcher, kind, device):
    flags = ("--name=mine", "--image=registry/ours:1", "--xpk_cluster=c", f"--xpk_type={kind}", "--hosts=2", "--spot")
    (command,) = launcher.dry("gke.sh", *flags, "--max_restarts=7", "--", "--config=it's", "--workdir=/shared/a b")
    training = "python -m ernie_m_jax.main '--config=it'\\''s' '--workdir=/shared/a b'"
    assert command == [
        *("xpk", "workload", "create", "--cluster=c", "--workload=mine", "--docker-image=registry/ours:1"),
        *(*device, "--spot", "--max-restarts=7", "--termination-grace-period-seconds=300", f"--command={training}"),
    ]
    launcher.fake("xpk", "exit 3")
    assert launcher.run("gke.sh", *flags, "--", "--config=x").returncode == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((*COMMON[1:], "--", "x"), "--name is missing"),
        ((*COMMON, "--", "x"), "--accelerator is missing"),
        ((*TPU, "--name=" + "a" * 41, "--", "x"), "--name is 'aaaa"),
        ((*TPU, "--topology=4by4", "--", "x"), "--topology is '4by4'; it must be like 4x4 or 2x2x4"),
        ((*TPU, "--topology=2x3", "--", "x"), "--topology=2x3 are 6 chips, no multiple of --chips=4"),
        ((*COMMON, "--accelerator=tpu-v6e-slice", "--", "x"), "--topology is missing: tpu-v6e-slice is a TPU"),
        ((*GPU, "--hosts=0", "--", "x"), "--hosts must be at least 1"),
        ((*GPU, "--", "a\x01b"), "a control character is in 'a\x01b'"),
    ],
)
def test_a_wrong_call_is_one_line(launcher, arguments, message):
    assert launcher.refused("gke.sh", *arguments).startswith(message)
