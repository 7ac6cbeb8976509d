"""Commands under torchrun."""

import json
import os
import subprocess
import sys

import pytest

import cli


def torchrun(*words):
    run = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--"]  # or --m is torchrun's
    command = [*run, cli.__file__, *map(str, words)]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=300, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )


def test_two_processes_train_one_run_and_speak_once(tmp_path):
    done = torchrun("train", "--method", "sam", "--m", 16, "--epochs", 1, "--out", tmp_path / "run", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["results"]["status"] == "finished"
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 1
    again = torchrun("train", "--method", "sam", "--m", 16, "--epochs", 1, "--out", tmp_path / "run")
    assert again.returncode != 0
    assert again.stdout == ""
    told = [line for line in again.stderr.splitlines() if line.startswith("landscape:")]
    assert len(told) == 1
    assert "holds a run already" in told[0]


@pytest.mark.parametrize("rank", ["0", "1"])
def test_only_train_shares_its_work(landscape, monkeypatch, rank):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setenv("LOCAL_RANK", rank)
    done = landscape("hessian", "last.pt")
    assert (done.code, done.out) == (2, "")
    assert ("only train shares its work among the processes of torchrun" in done.err) == (rank == "0")


def test_m_and_sync_are_refused_where_they_make_no_sense(landscape, tmp_path):
    done = landscape("train", "--method", "agnostic-sam-nonoverlap", "--m", 16, "--out", tmp_path / "run")
    assert done.code == 2
    assert "m must be 0 with agnostic-sam-nonoverlap" in done.err
    done = landscape("train", "--sam-sync", "globl", "--out", tmp_path / "run")
    assert "sam_sync must be one of global, local; got 'globl'. Did you mean 'global'" in done.err
    done = landscape("train", "--method", "sam", "--m", 129, "--out", tmp_path / "run")
    assert "m must be at most batch_size (128); got 129" in done.err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("environment", [{"RANK": "x"}, {"WORLD_SIZE": "1", "RANK": "1"}, {"RANK": "1"}])
def test_one_process_speaks_whatever_else_is_in_the_environment(landscape, monkeypatch, environment):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert "cifar100-wrn28x10" in landscape("train", "--list-recipes").out


@pytest.mark.parametrize("environment", [{"WORLD_SIZE": "x"}, {"WORLD_SIZE": "2"}, {"WORLD_SIZE": "2", "RANK": "0"}])
def test_half_an_environment_of_torchrun_is_refused(landscape, monkeypatch, environment):
    for name in ("RANK", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    done = landscape("train", "--list-recipes")
    assert done.code == 2
    assert "the environment is not torchrun's" in done.err


def test_a_dry_run_refuses_what_training_would(landscape):
    done = landscape("train", "--method", "sam", "--m", 127, "--dry-run")
    assert done.code == 2
    assert "m 127 cut a batch of 128 into pieces as small as 1" in done.err
