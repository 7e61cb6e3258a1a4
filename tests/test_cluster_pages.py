"""docs/how-to/cluster.md: its scripts are shell, its Slurm script runs a command on the head, its YAML is a RayJob."""

import os
import re
import shlex
import subprocess

import pytest
import yaml

from prism.plugin.options import pytest_addoption
from tests.conftest import ROOT

PAGE = (ROOT / "docs" / "how-to" / "cluster.md").read_text(encoding="utf-8")
# Fields of KubeRay's ray.io/v1 (ray-operator/apis/ray/v1/{rayjob,raycluster}_types.go) that the page uses, and are required.
JOB = {"entrypoint", "shutdownAfterJobFinishes", "rayClusterSpec"}
WORKERS = {"groupName", "replicas", "minReplicas", "maxReplicas", "rayStartParams", "template"}
CONTAINER = {"name", "image", "env", "volumeMounts", "resources"}


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


def test_each_way_takes_at_most_six_lines():
    laptop, slurm, kubernetes = blocks("bash")
    assert max(len(block.splitlines()) for block in (laptop, slurm, kubernetes)) <= 6
    for block in (laptop, slurm, kubernetes):
        subprocess.run(["bash", "-n"], input=block, text=True, check=True)


def test_the_slurm_script_runs_pytest_on_all_nodes_with_the_first_as_head(tmp_path):
    """With Slurm's commands as scripts: what they were given is read off."""
    tools = {"scontrol": 'test "$3" = "node[1-4]" && printf "node1\\nnode2\\n"', "srun": 'printf "%s\\n" "$@" > given'}
    for name, line in tools.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{line}\n")
        (tmp_path / name).chmod(0o755)
    script = tmp_path / "prism.sh"
    script.write_text(blocks("bash")[1])
    slurm = {"SLURM_JOB_NODELIST": "node[1-4]", "SLURM_NNODES": "4", "SLURM_SUBMIT_DIR": str(tmp_path)}
    path = f"{tmp_path}:{os.environ['PATH']}"
    subprocess.run(["bash", str(script)], cwd=tmp_path, env={**os.environ, **slurm, "PATH": path}, check=True)
    given = (tmp_path / "given").read_text().split("\n")
    assert given[:7] == ["ray", "symmetric-run", "--address", "node1:6379", "--min-nodes", "4", "--"]
    assert given[7:9] == ["pytest", "benchmarks"]


def test_the_options_of_every_command_exist():
    known = set()

    class Group:
        def addoption(self, name, **_):
            known.add(name)

    class Parser:
        def getgroup(self, *_):
            return Group()

    pytest_addoption(Parser())
    lines = [line for block in (*blocks(""), *blocks("bash")) for line in block.splitlines() if "pytest" in line]
    given = {word for line in lines for word in shlex.split(line, comments=True) if word.startswith("--prism")}
    assert "--prism-cluster" in given
    assert given <= known


def test_the_yaml_is_a_ray_job_of_known_fields():
    (text,) = blocks("yaml")
    job = yaml.safe_load(text)
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    assert job["spec"].keys() == JOB
    assert "--prism-cluster auto" in job["spec"]["entrypoint"]
    cluster = job["spec"]["rayClusterSpec"]
    assert cluster.keys() == {"headGroupSpec", "workerGroupSpecs"}
    (group,) = cluster["workerGroupSpecs"]
    assert group.keys() == WORKERS
    assert all(isinstance(value, str) for value in cluster["headGroupSpec"]["rayStartParams"].values())
    for pod in (cluster["headGroupSpec"]["template"], group["template"]):
        (container,) = pod["spec"]["containers"]
        assert container.keys() == CONTAINER
        assert {mount["name"] for mount in container["volumeMounts"]} == {
            volume["name"] for volume in pod["spec"]["volumes"]
        }
    assert container["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert all(isinstance(group[name], int) for name in ("replicas", "minReplicas", "maxReplicas"))


def test_kubectl_waits_for_the_end_also_of_a_run_that_fails():
    """A job whose entrypoint fails is Failed and never Complete; both have an endTime."""
    (wait,) = [line for line in blocks("bash")[2].splitlines() if line.startswith("kubectl wait")]
    assert "{.status.endTime}" in wait


@pytest.mark.parametrize("page", ["mkdocs.yml", "docs/how-to/several-machines.md"])
def test_the_page_is_found_from(page):
    assert "cluster.md" in (ROOT / page).read_text(encoding="utf-8")
