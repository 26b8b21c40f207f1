"""The job files for clusters, run by the real things where they are: SLURM's daemons, and the pods' own script."""

import os
import re
import shutil
import subprocess
import time

import kubernetes_validate
import pytest
import yaml

from tests.conftest import ROOT, free_port, outputs, pin

DOCUMENTS = list(yaml.safe_load_all((ROOT / "cluster/kubernetes.yaml").read_text(encoding="utf-8")))
JOB = DOCUMENTS[1]["spec"]["template"]["spec"]["containers"][0]
CONFIG = """\
ClusterName=qc
SlurmctldHost=localhost
AuthType=auth/none
CredType=cred/none
SlurmUser=root
SlurmdUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/%n
SlurmctldPidFile={folder}/controller.pid
SlurmdPidFile={folder}/%n.pid
SlurmctldPort={ports[0]}
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
ReturnToService=2
SlurmdParameters=config_overrides
NodeName=n1 NodeHostname=localhost NodeAddr=127.0.0.1 Port={ports[1]} CPUs=2
NodeName=n2 NodeHostname=localhost NodeAddr=127.0.0.1 Port={ports[2]} CPUs=2
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


@pytest.fixture
def ready(restored, tmp_path):
    """The finished project, pushed to a folder remote; what runs in it finds an environment in .venv."""
    head = restored.run("git", "rev-parse", "HEAD").strip()
    restored.push_to(tmp_path / "remote")
    activate = restored.root / ".venv/bin/activate"
    activate.parent.mkdir(parents=True)
    activate.write_text(f"export PATH='{restored.env['PATH']}'\n")
    yield restored
    shutil.rmtree(restored.root / ".venv")
    restored.run("git", "reset", "--quiet", "--hard", head)


@pytest.fixture
def slurm(tmp_path):
    """A SLURM cluster of two nodes on this machine; the environment in which its commands find it."""
    if not (shutil.which("slurmctld") and shutil.which("slurmd") and os.geteuid() == 0):
        pytest.skip("needs SLURM, and to be root (Debian: apt-get install slurm-wlm)")
    ports = [free_port() for _ in range(3)]
    for name in ("state", "n1", "n2"):
        (tmp_path / name).mkdir()
    config = tmp_path / "slurm.conf"
    config.write_text(CONFIG.format(folder=tmp_path, ports=ports))
    environment = {**os.environ, "SLURM_CONF": str(config)}
    commands = [["slurmctld", "-D"], ["slurmd", "-D", "-N", "n1"], ["slurmd", "-D", "-N", "n2"]]
    with (tmp_path / "slurm.log").open("w") as log:
        daemons = [subprocess.Popen(command, env=environment, stdout=log, stderr=log) for command in commands]
        try:
            for _ in range(60):
                said = subprocess.run(["sinfo", "--noheader"], env=environment, capture_output=True, text=True).stdout
                if "idle" in said and "2" in said.split():
                    break
                time.sleep(0.5)
            else:
                raise AssertionError((tmp_path / "slurm.log").read_text())
            yield {"SLURM_CONF": str(config)}
        finally:
            for daemon in daemons:
                daemon.terminate()
            for daemon in daemons:
                daemon.wait()


def test_the_slurm_job_trains_on_two_nodes(slurm, ready):
    ready.run("qc", "preset", "slurm")
    ready.commit("train on the cluster")
    job = str(ROOT / "cluster/slurm.sbatch")
    assert "using 4 processors on nodes n[1-2]" in ready.run("sbatch", "--test-only", job, **slurm)
    log = ready.root.parent / "slurm.out"
    ready.run("sbatch", "--wait", f"--output={log}", job, QC_HEAD="127.0.0.1", **slurm)
    said = log.read_text()
    assert said.count(", 2 processes") == 3
    assert "evaluate" in said
    assert "files pushed" in said
    assert ready.repro() == []


def test_the_kubernetes_job_fits_its_schema():
    assert [document["kind"] for document in DOCUMENTS] == ["Service", "Job"]
    for document in DOCUMENTS:
        kubernetes_validate.validate(document, "1.30", strict=True)


def test_the_pods_may_do_no_more_than_they_need_and_keep_no_secret_in_a_url():
    pod = DOCUMENTS[1]["spec"]["template"]["spec"]
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    allowed = JOB["securityContext"]
    assert allowed["allowPrivilegeEscalation"] is False
    assert allowed["readOnlyRootFilesystem"] is True
    assert allowed["capabilities"] == {"drop": ["ALL"]}
    assert re.fullmatch(r"[\w.:-]+@sha256:[0-9a-f]{64}", JOB["image"])
    assert not re.search(r"://[^/\s]*@", (ROOT / "cluster/kubernetes.yaml").read_text(encoding="utf-8"))


def test_git_in_a_pod_gets_the_token_from_its_environment(tmp_path):
    setup = JOB["args"][0].partition("git clone")[0]
    environment = {**os.environ, "HOME": str(tmp_path), "GIT_USER": "somebody", "GIT_TOKEN": "secret"}
    subprocess.run([*JOB["command"], setup], env=environment, check=True)
    assert "secret" not in (tmp_path / ".gitconfig").read_text()
    environment["GIT_CONFIG_GLOBAL"] = str(tmp_path / ".gitconfig")
    asked = "protocol=https\nhost=localhost\n\n"
    done = subprocess.run(
        ["git", "credential", "fill"], input=asked, env=environment, check=True, capture_output=True, text=True
    )
    assert "username=somebody\npassword=secret\n" in done.stdout


@pytest.mark.soak
def test_the_pods_train_one_stage_and_leave_an_experiment(ready, tmp_path):
    ready.run("qc", "preset", "kubernetes")
    ready.run("git", "config", "receive.denyCurrentBranch", "ignore")
    ready.commit("train on the cluster")
    (tmp_path / "bin").mkdir()
    make = tmp_path / "bin/make"  # the environment is here already
    make.write_text(f"#!/bin/sh\nmkdir -p .venv/bin && cp '{ready.root}/.venv/bin/activate' .venv/bin/\n")
    make.chmod(0o755)
    port = free_port()
    given = {variable["name"]: variable["value"] for variable in JOB["env"]}
    pods = []
    for index in range(int(given["PODS"])):
        folder = tmp_path / f"pod{index}"
        folder.mkdir()
        environment = {
            **ready.env,
            **given,
            "PATH": f"{make.parent}{os.pathsep}{ready.env['PATH']}",
            "HOME": str(folder / "home"),
            "REPOSITORY": str(ready.root),
            "JOB_COMPLETION_INDEX": str(index),
            "QC_HEAD": "127.0.0.1",
            "DVC_SITE_CACHE_DIR": str(folder / "site"),
            **{f"GIT_{who}_{what}": "pod@localhost" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")},
        }
        script = JOB["args"][0].replace("29500", str(port))
        log = (folder / "log").open("w")
        pods.append(
            subprocess.Popen([*JOB["command"], script], cwd=folder, env=environment, stdout=log, stderr=log)
        )  # fmt: skip
    logs = [tmp_path / f"pod{index}/log" for index in range(len(pods))]
    assert [pod.wait() for pod in pods] == [0, 0], "\n".join(log.read_text() for log in logs)
    assert "distilbert: " in logs[0].read_text()
    assert ", 2 processes" in logs[0].read_text()
    laptop = ready.clone(tmp_path / "laptop")
    laptop.env = {**ready.env, "DVC_SITE_CACHE_DIR": str(tmp_path / "laptop-site")}
    laptop.run("dvc", "exp", "pull", "origin", given["NAME"])
    laptop.run("dvc", "exp", "apply", given["NAME"])
    weights = "models/distilbert/model.safetensors"
    assert outputs(laptop)[weights] != outputs(ready)[weights]
    assert outputs(laptop)[weights] == pin(tmp_path / "pod0/qc" / weights)
    assert "train_distilbert" not in laptop.run("dvc", "status", "train_distilbert")
