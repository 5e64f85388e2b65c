"""The files of other tools in launch/: read by their own validators where these are installed, else field by field."""

import json
import os
import re
import subprocess
from pathlib import Path

import pytest
import yaml
from launch_recorder import Recorder

from launch import slices

ROOT = Path(__file__).parent.parent
LAUNCH = ROOT / "launch"
DOCUMENTED = (ROOT / "docs/launching.md").read_text()


def read(name: str) -> dict:
    """Returns a YAML file of launch/."""
    return yaml.safe_load((LAUNCH / name).read_text())


def run_slurm(tmp_path: Path, status: int, nodes: int) -> tuple[int, list[list[str]]]:
    """Executes the batch script with recorders in place of Slurm; returns its status and the calls."""
    slurm = Recorder(tmp_path / "bin", "srun", "scontrol")
    slurm.answer({"msm_jax": [(status, "")], "hostnames": [(0, "gpu1\ngpu2")]})
    environment = {
        **os.environ, "PATH": f"{slurm.path}:{os.environ['PATH']}",
        "SLURM_NNODES": str(nodes), "SLURM_JOB_ID": "17", "SLURM_JOB_NODELIST": "gpu[1-2]",
    }
    command = ["bash", "launch/slurm.sbatch", "python", "-m", "msm_jax.train", "--config=a b"]
    return subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode, slurm.calls


@pytest.mark.parametrize("name", [path.name for path in LAUNCH.iterdir() if path.suffix in {".sh", ".sbatch"}])
def test_scripts_have_the_syntax_of_bash(name):
    told = subprocess.run(["bash", "-n", str(LAUNCH / name)], capture_output=True, text=True, check=False)
    assert (told.returncode, told.stderr) == (0, "")


def test_slurm_has_the_options_of_the_batch_script():
    lines = re.findall(r"^#SBATCH --([a-z-]+)(?:=(\S+))?$", (LAUNCH / "slurm.sbatch").read_text(), re.MULTILINE)
    assert len(lines) == (LAUNCH / "slurm.sbatch").read_text().count("#SBATCH")
    options = dict(lines)
    # Names from slurm.schedmd.com/sbatch.html.
    assert set(options) == {
        "job-name", "nodes", "ntasks-per-node", "gpus-per-node", "time", "signal", "requeue", "open-mode", "output"
    }
    assert options["requeue"] == "" and options["ntasks-per-node"] == "1" and options["open-mode"] == "append"
    assert re.fullmatch(r"TERM@\d+", options["signal"]), "B: would send it to the script alone"


def test_a_preempted_slurm_job_goes_into_the_queue_again(tmp_path):
    status, calls = run_slurm(tmp_path, 75, nodes=1)
    assert status == 75
    assert calls == [["srun", "python", "-m", "msm_jax.train", "--config=a b"], ["scontrol", "requeue", "17"]]


@pytest.mark.parametrize("status", [0, 1, 2])
def test_a_slurm_job_that_ends_otherwise_does_not(tmp_path, status):
    found, calls = run_slurm(tmp_path, status, nodes=2)
    assert found == status
    assert [call[:2] for call in calls] == [["scontrol", "show"], ["srun", "bash"]]
    assert calls[1][-4:] == ["python", "-m", "msm_jax.train", "--config=a b"]
    # What srun starts on each node, with a command that shows what it gets.
    show = [*calls[1][1:-4], "sh", "-c", 'echo "$JAX_PROCESS_ID $1"', "-", "a b"]
    environment = {**os.environ, "SLURM_PROCID": "1"}
    assert subprocess.run(show, env=environment, capture_output=True, text=True, check=True).stdout == "1 a b\n"


def test_skypilot_starts_a_job_again_at_status_75_alone():
    task = read("sky.yaml")
    recovery = task["resources"]["job_recovery"]
    assert recovery == {"max_restarts_on_errors": 0, "recover_on_exit_codes": [75]}
    assert task["resources"]["use_spot"] is True
    assert [each["accelerators"] for each in task["resources"]["any_of"]] == [
        "tpu-v5litepod-8", "H100:8", "A100-80GB:8"
    ]
    tpu = task["resources"]["any_of"][0]
    assert tpu["accelerator_args"]["runtime_version"] == slices.runtime(slices.parse("v5e:2x4"))
    given = set(re.findall(r"--env (\w+)=", DOCUMENTED))
    assert given == set(task["envs"])


@pytest.mark.parametrize(("nodes", "expected"), [("10.0.0.1", "  "), ("10.0.0.1\n10.0.0.2", "10.0.0.1:8482 2 1")])
def test_skypilots_run_tells_jax_the_hosts(tmp_path, nodes, expected):
    (tmp_path / "show").write_text(
        '#!/bin/sh\necho "$*|$JAX_COORDINATOR_ADDRESS $JAX_NUM_PROCESSES $JAX_PROCESS_ID"\n'
    )
    (tmp_path / "show").chmod(0o755)
    environment = {
        **os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "COMMAND": "show a", "DIRECTORY": "x y",
        "SKYPILOT_NODE_IPS": nodes, "SKYPILOT_NODE_RANK": "1",
    }
    told = subprocess.run(
        ["bash", "-c", read("sky.yaml")["run"]], env=environment, capture_output=True, text=True, check=True
    )
    assert told.stdout == f"a --workdir=/shared/x y|{expected}\n"


def test_the_gke_manifest_gives_each_host_of_the_slice_its_chips_and_does_not_repeat_a_refusal():
    manifest = read("gke.yaml")
    assert (manifest["apiVersion"], manifest["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    job = manifest["spec"]["replicatedJobs"][0]["template"]["spec"]
    pod = job["template"]["spec"]
    found = slices.parse(f"v5e:{pod['nodeSelector']['cloud.google.com/gke-tpu-topology']}")
    container = pod["containers"][0]
    hosts = slices.hosts(found)
    assert (job["parallelism"], job["completions"], job["completionMode"]) == (hosts, hosts, "Indexed")
    assert container["resources"]["limits"]["google.com/tpu"] * hosts == found.chips
    assert job["backoffLimit"] == 0 and pod["restartPolicy"] == "Never"
    refusal = job["podFailurePolicy"]["rules"][0]
    assert refusal["action"] == "FailJob"
    assert refusal["onExitCodes"] == {"containerName": container["name"], "operator": "In", "values": [2]}
    assert manifest["spec"]["failurePolicy"]["rules"] == [
        {"action": "FailJobSet", "onJobFailureReasons": ["PodFailurePolicy"]}
    ]
    mounts, volumes = container["volumeMounts"], pod["volumes"]
    assert [each["name"] for each in mounts] == [each["name"] for each in volumes]
    assert f"--workdir={mounts[0]['mountPath']}/" in " ".join(container["args"])


def test_the_ray_cluster_has_workers_with_the_chips_of_their_slice():
    cluster = read("ray_cluster.yaml")
    assert cluster["head_node_type"] in cluster["available_node_types"]
    tpu = cluster["available_node_types"]["tpu"]
    found = slices.parse(tpu["node_config"]["acceleratorType"])
    assert tpu["resources"]["TPU"] == found.chips and slices.hosts(found) == 1
    assert tpu["node_config"]["runtimeVersion"] == slices.runtime(found)
    assert tpu["max_workers"] <= cluster["max_workers"]


def test_the_ray_cluster_passes_rays_own_schema():
    autoscaler = pytest.importorskip("ray.autoscaler", reason="needs requirements-ray.txt")
    jsonschema = pytest.importorskip("jsonschema")
    schema = json.loads((Path(autoscaler.__file__).parent / "ray-schema.json").read_text())
    jsonschema.validate(read("ray_cluster.yaml"), schema)
    assert schema["required"]
