"""What is trained here is used there: remotes, damaged caches, other repositories."""

import json
import shutil
import subprocess
import sys

import pytest
import yaml

from qc import load
from qc.errors import QcError
from tests.conftest import free_port, outputs, pin
from tests.faults import flip
from tests.loopback import wait_for

BUCKET = "storage"
KEYS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}
WEIGHTS = "models/prefix/model.safetensors"


def clone(project, root, **env):
    """A second clone, with a cache of its own."""
    other = project.clone(root)
    other.env = {**project.env, **env, "DVC_SITE_CACHE_DIR": str(root.parent / "other-site")}
    return other


@pytest.fixture
def s3(tmp_path, restored):
    """A server with the S3 API and an empty bucket; the address."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with (tmp_path / "server.log").open("w") as log:
        server = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        try:
            wait_for(port)
            make = "import boto3, sys; boto3.client('s3', endpoint_url=sys.argv[1]).create_bucket(Bucket=sys.argv[2])"
            restored.run(sys.executable, "-c", make, url, BUCKET, **KEYS)
            yield url
        finally:
            server.terminate()
            server.wait()


@pytest.fixture
def shared(restored, tmp_path):
    """A clone of the finished project, which has a folder remote that holds its outputs."""
    restored.push_to(tmp_path / "remote")
    restored.commit("a remote")
    return clone(restored, tmp_path / "clone")


def test_a_second_clone_pulls_and_runs_nothing_and_a_change_reruns_only_what_it_must(shared, finished):
    assert "files fetched" in shared.run("dvc", "pull")
    assert shared.repro() == []
    assert outputs(shared) == outputs(finished)
    assert shared.run("git", "status", "--porcelain") == ""
    shared.set("train_prefix.learning_rate", 0.02)
    assert shared.repro() == ["fetch", "train_prefix", "evaluate"]


@pytest.mark.soak
def test_results_of_a_teammates_change_come_back_without_training(shared, restored):
    shared.run("dvc", "pull")
    shared.set("train_prefix.learning_rate", 0.02)
    shared.repro()
    shared.run("git", "config", "user.email", "teammate@localhost")
    shared.run("git", "config", "user.name", "teammate")
    shared.commit("another rate")
    shared.run("dvc", "push")
    restored.run("git", "pull", "--quiet", str(shared.root))
    restored.run("dvc", "pull", "--force")
    assert restored.repro() == []
    assert pin(restored.root / WEIGHTS) == pin(shared.root / WEIGHTS)


@pytest.mark.soak
def test_an_s3_remote_serves_a_second_clone(s3, restored, tmp_path):
    restored.run("dvc", "remote", "add", "--default", "storage", f"s3://{BUCKET}/qc")
    restored.run("dvc", "remote", "modify", "storage", "endpointurl", s3)
    restored.run("dvc", "push", **KEYS)
    restored.commit("a remote")
    other = clone(restored, tmp_path / "clone", **KEYS)
    config = (other.root / ".dvc/config").read_text()
    assert "s3://" in config
    assert not any(name.lower() in config.lower() for name in ("access_key", "secret"))
    other.run("dvc", "pull")
    assert other.repro() == []
    assert outputs(other) == outputs(restored)
    other.set("train_scratch.epochs", 1)
    assert other.repro() == ["fetch", "train_scratch", "evaluate"]


def cached(project, stage, path):
    """The file in DVC's cache that holds an output's file."""
    lock = yaml.safe_load((project.root / "dvc.lock").read_text())
    folder, name = path.rsplit("/", 1)
    digest = next(out["md5"] for out in lock["stages"][stage]["outs"] if out["path"] == folder)
    objects = project.root / ".dvc/cache/files/md5"
    entries = json.loads((objects / digest[:2] / digest[2:]).read_text())
    digest = next(entry["md5"] for entry in entries if entry["relpath"] == name)
    return objects / digest[:2] / digest[2:]


def flip_a_bit(path):
    """What a failing disk does to a file of the cache, though nobody may write it."""
    mode = path.stat().st_mode
    path.chmod(0o644)
    flip(path)
    path.chmod(mode)


@pytest.mark.parametrize("how", ["removed", "damaged"])
@pytest.mark.parametrize("command", ["pull", "repro"])
@pytest.mark.soak
def test_a_missing_or_damaged_object_of_the_cache_is_noticed_and_brought_back(shared, finished, how, command):
    shared.run("dvc", "pull")
    path = cached(shared, "train_prefix", WEIGHTS)
    shutil.rmtree(shared.root / "models/prefix")
    if how == "damaged":
        flip_a_bit(path)
        assert "of the cache is damaged; removed; " in shared.run("qc", "doctor", "--fix")
    else:
        path.unlink()
    shared.run("dvc", command)
    assert pin(shared.root / WEIGHTS) == pin(finished.root / WEIGHTS)
    assert shared.repro() == []
    assert "cache and outputs: ok" in shared.run("qc", "doctor")


def test_damaged_weights_that_dvc_did_not_notice_are_never_used(shared, finished):
    shared.run("dvc", "pull")
    flip_a_bit(cached(shared, "train_prefix", WEIGHTS))
    shutil.rmtree(shared.root / "models/prefix")
    shared.run("dvc", "checkout")
    assert pin(shared.root / WEIGHTS) != pin(finished.root / WEIGHTS)
    with pytest.raises(QcError, match=r"SHA-256 .* was trained with .*`qc doctor` first, if a disk damaged it"):
        load(shared.root / "models/prefix")
    assert "models/prefix/model.safetensors: SHA-256" in shared.stage("evaluate", status=1)
    assert f"{WEIGHTS}: its bytes are not those of dvc.lock; " in shared.run("qc", "doctor", "--fix")
    shared.run("dvc", "pull", "--force")
    assert pin(shared.root / WEIGHTS) == pin(finished.root / WEIGHTS)
    assert "cache and outputs: ok" in shared.run("qc", "doctor")


def test_a_damaged_object_of_the_remote_does_not_arrive(shared, finished):
    path = cached(finished, "train_prefix", WEIGHTS)
    remote = shared.root.parent / "remote/files/md5" / path.parent.name / path.name
    flip_a_bit(remote)
    remote.chmod(0o644)
    shared.run("dvc", "remote", "modify", "--local", "storage", "verify", "true")
    shared.run("dvc", "pull", status=1)
    assert not (shared.root / WEIGHTS).exists()
    assert shared.repro() == ["train_prefix"]
    assert pin(shared.root / WEIGHTS) == pin(finished.root / WEIGHTS)


def test_another_repository_gets_a_released_model_by_its_name_and_imports_one(restored, finished, tmp_path):
    artifacts = yaml.safe_load((restored.root / "dvc.yaml").read_text())["artifacts"]
    assert {name: (about["path"], about["type"]) for name, about in artifacts.items()} == {
        name: (f"models/{name}", "model") for name in ("scratch", "prefix", "distilbert")
    }
    assert all(about["desc"] and about["labels"] for about in artifacts.values())
    source, user = str(restored.root), tmp_path / "user"
    (user / "models").mkdir(parents=True)
    mine = restored.at(user)
    mine.run("git", "init", "--quiet")
    mine.run("dvc", "init", "--quiet")
    mine.run("dvc", "import", source, "models/prefix", "--out", "models/prefix")
    assert (user / "models/prefix.dvc").is_file()

    restored.run("gto", "register", "distilbert", "--version", "v1.0.0")
    restored.run("git", "rm", "--quiet", "dvc.lock")
    restored.commit("no model after the release")
    mine.run("dvc", "artifacts", "get", source, "distilbert", "--rev", "v1.0.0", "--out", "models/distilbert")
    encoder = "data/encoders/tiny-bert"
    mine.run("dvc", "get", source, encoder, "--rev", "distilbert@v1.0.0", "--out", encoder)
    for name in ("prefix", "distilbert"):
        expected = load(finished.root / "models" / name).predict(["who is the king ?"])
        assert load(user / "models" / name).predict(["who is the king ?"]) == expected
