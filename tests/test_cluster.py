"""The job files for clusters, run by the real things where they are: SLURM's daemons, and the pods' own script."""

import os
import re
import shutil
import signal
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


# As a user without an entry in the list of users, on a machine of which only two folders can be written.
NAMESPACE = ["unshare", "--mount", *([] if os.geteuid() == 0 else ["--map-root-user"])]
IN_A_POD = (
    'for folder in "$1" /tmp; do mount --bind "$folder" "$folder"; done; mount -o remount,bind,ro /; cd "$1"; shift\n'
    'exec unshare --user --map-user 54321 --map-group 54321 setpriv --no-new-privs "$@"'
)


@pytest.fixture
def ready(restored, tmp_path):
    """The finished project, pushed to a folder remote; what runs in it finds an environment in .venv."""
    restored.push_to(tmp_path / "remote")
    activate = restored.root / ".venv/bin/activate"
    activate.parent.mkdir(parents=True)
    activate.write_text(f"export PATH='{restored.env['PATH']}'\n")
    return restored


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


@pytest.mark.soak
def test_the_slurm_job_trains_on_two_nodes(slurm, ready):
    """In the environment of whoever logs in, and what the file says of itself."""
    ready.run("qc", "preset", "slurm")
    ready.commit("train on the cluster")
    login = {"HOME": ready.env["HOME"], "USER": "root", "PATH": os.environ["PATH"], "QC_HEAD": "127.0.0.1", **slurm}
    log, job = ready.root.parent / "slurm.out", str(ROOT / "cluster/slurm.sbatch")
    for options, expected in (["--test-only"], "using 4 processors on nodes n[1-2]"), (["--wait"], "Submitted batch"):
        command = ["sbatch", *options, f"--output={log}", job]
        done = subprocess.run(command, cwd=ready.root, env=login, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr + (log.read_text() if log.exists() else "")
        assert expected in done.stdout + done.stderr
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


def test_git_in_a_pod_gets_the_token_from_its_environment_for_the_repositorys_host_alone(tmp_path):
    setup = JOB["args"][0].partition("git clone")[0]
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "GIT_USER": "somebody", "GIT_TOKEN": "secret"}
    environment["REPOSITORY"] = "https://git.localhost:8443/owner/repository.git"
    subprocess.run([*JOB["command"], setup], env=environment, check=True)
    assert "secret" not in (tmp_path / ".gitconfig").read_text()
    environment |= {"GIT_TERMINAL_PROMPT": "0", "GIT_CONFIG_NOSYSTEM": "1"}
    for protocol, host, told in (
        ("https", "git.localhost:8443", "username=somebody\npassword=secret\n"),
        ("http", "git.localhost:8443", ""),
        ("https", "git.localhost", ""),
        ("https", "localhost:8443", ""),
        ("https", "git.localhost.elsewhere:8443", ""),
    ):
        asked = f"protocol={protocol}\nhost={host}\npath=owner/repository.git\n\n"
        command = ["git", "credential", "fill"]
        done = subprocess.run(command, cwd=tmp_path, input=asked, env=environment, capture_output=True, text=True)
        assert done.stdout.endswith(told)
        assert bool(done.stdout) == bool(told), host


@pytest.mark.soak
def test_the_pods_train_one_stage_and_leave_an_experiment(ready, tmp_path):
    """With the manifest's variables, those that Kubernetes and its secret give, and no other."""
    pod = [*NAMESPACE, "sh", "-euc", IN_A_POD, "sh", str(tmp_path)]
    if subprocess.run([*pod, "true"]).returncode:
        pytest.skip("needs namespaces, for another user and a read-only machine")
    ready.run("qc", "preset", "kubernetes")
    ready.run("git", "config", "receive.denyCurrentBranch", "ignore")
    ready.commit("train on the cluster")
    make = tmp_path / "bin/make"  # the environment is here already
    make.parent.mkdir()
    make.write_text(f"#!/bin/sh\nmkdir -p .venv/bin && cp '{ready.root}/.venv/bin/activate' .venv/bin/\n")
    make.chmod(0o755)
    script = JOB["args"][0].replace("29500", str(free_port()))
    own = {variable["name"]: variable["value"] for variable in JOB["env"]}
    others = {
        "PATH": f"{make.parent}{os.pathsep}{ready.env['PATH']}",
        "QC_HEAD": "127.0.0.1",
        "REPOSITORY": str(ready.root),
        "GIT_USER": "pod",
        "GIT_TOKEN": "secret",
    }
    works, pods = [tmp_path / f"pod{index}" for index in range(int(own["PODS"]))], []
    for index, work in enumerate(works):
        work.mkdir()
        mounted = {name: value.replace("/work", str(work)) for name, value in own.items()}
        environment = {**mounted, **others, "JOB_COMPLETION_INDEX": str(index)}
        command = [*pod, *JOB["command"], f"cd '{work}'\n{script}"]
        with work.with_suffix(".log").open("w") as log:
            process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
            pods.append(process)
    for other in pods[1:]:
        if other.wait():  # the first would wait for it
            os.killpg(pods[0].pid, signal.SIGKILL)
    ended, said = [process.wait() for process in pods], [work.with_suffix(".log").read_text() for work in works]
    assert ended == [0, 0], "\n".join(said)
    assert "distilbert: " in said[0]
    assert ", 2 processes" in said[0]
    laptop = ready.clone(tmp_path / "laptop")
    laptop.env = {**ready.env, "DVC_SITE_CACHE_DIR": str(tmp_path / "laptop-site")}
    laptop.run("dvc", "exp", "pull", "origin", own["NAME"])
    laptop.run("dvc", "exp", "apply", own["NAME"])
    weights = "models/distilbert/model.safetensors"
    assert outputs(laptop)[weights] != outputs(ready)[weights]
    assert outputs(laptop)[weights] == pin(works[0] / "qc" / weights)
    assert "train_distilbert" not in laptop.run("dvc", "status", "train_distilbert")
