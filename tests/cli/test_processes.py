"""Commands under torchrun."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import cli
import landscape as ls

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--"]  # or --m is torchrun's
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def torchrun(*words):
    command = [*TORCHRUN, cli.__file__, *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, env=ENVIRONMENT)


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


def test_two_processes_measure_one_curvature_and_speak_once(landscape, runs, tmp_path):
    words = ("hessian", runs / "sgd", "--split", "test", "--examples", 101, "--top", 2, "--budget", 60, "--data-error")
    assert landscape(*words, "--out", tmp_path / "one.npz").code == 0
    done = torchrun(*words, "--out", tmp_path / "two.npz", "--json")
    assert done.returncode == 0, done.stderr
    one, two = ls.load(tmp_path / "one.npz"), ls.load(tmp_path / "two.npz")
    assert json.loads(done.stdout)["results"]["tables"][0]["rows"][0]["values"] == two[0].values.tolist()
    assert [type(result) for result in one] == [type(result) for result in two]
    np.testing.assert_allclose(two[0].values, one[0].values, rtol=1e-4)  # in float32
    np.testing.assert_allclose(two[-1].standard_error, one[-1].standard_error, rtol=1e-2)
    assert two[0].settings["num_processes"] == 2
    assert two[0].settings["data_hash"] == one[0].settings["data_hash"]
    assert done.stderr.count("wrote ") == 0  # --json is quiet
    assert not (tmp_path / "two.npz.journal").exists()
    again = torchrun(*words, "--out", tmp_path / "two.npz")
    assert again.returncode != 0
    told = [line for line in again.stderr.splitlines() if line.startswith("landscape:")]
    assert len(told) == 1
    assert "two.npz exists. --force replaces it" in told[0]


def test_processes_of_which_one_was_killed_end_and_go_on_together(runs, tmp_path):
    words = ("hessian", runs / "sgd", runs / "sam", "--split", "test", "--examples", 101, "--top", 2)
    whole = torchrun(*words, "--out", tmp_path / "whole.npz")
    assert whole.returncode == 0, whole.stderr
    folder = tmp_path / "h.npz.journal"
    command = [*TORCHRUN, cli.__file__, *map(str, words), "--out", str(tmp_path / "h.npz")]
    process = subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    kept = "1-checkpoint-*.products"
    while process.poll() is None and not any(path.stat().st_size > 1_000_000 for path in folder.glob(kept)):
        time.sleep(0.005)
    workers = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(workers[-1]), signal.SIGKILL)
    out, err = process.communicate(timeout=100)
    assert (process.returncode, out) == (1, "")
    assert sum(line.startswith("landscape:") for line in err.splitlines()) <= 1, err
    alone = [sys.executable, cli.__file__, *map(str, words), "--out", str(tmp_path / "h.npz"), "--resume"]
    refused = subprocess.run(alone, capture_output=True, text=True, env=ENVIRONMENT)
    assert refused.returncode == 3
    assert "is of other settings: processes" in refused.stderr
    done = torchrun(*words, "--out", tmp_path / "h.npz", "--resume")
    assert done.returncode == 0, done.stderr
    for one, two in zip(ls.load(tmp_path / "h.npz"), ls.load(tmp_path / "whole.npz"), strict=True):
        assert one.values.tolist() == two.values.tolist()
        assert repr(one.settings) == repr(two.settings)
    assert not folder.exists()


def test_a_failed_check_ends_all_processes_with_one_line(runs, tmp_path):
    words = ("hessian", runs / "sgd", "--split", "test", "--examples", 10, "--top", 1, "--budget", 24)
    done = torchrun(*words, "--tolerance", 1e-4, "--out", tmp_path / "h.npz")
    assert done.returncode != 0
    told = [line for line in done.stderr.splitlines() if line.startswith("landscape:")]
    assert len(told) == 1
    assert "1 eigenvalues did not converge" in told[0]
    assert "exitcode  : 4" in done.stderr  # torchrun's report of the first that failed; its own is 1
    assert (tmp_path / "h.npz").exists()


@pytest.fixture
def of_two(monkeypatch):
    def become(rank):
        for name, value in {"WORLD_SIZE": "2", "RANK": rank, "LOCAL_RANK": rank}.items():
            monkeypatch.setenv(name, value)

    return become


@pytest.mark.parametrize("rank", ["0", "1"])
def test_only_train_and_hessian_share_their_work(landscape, of_two, rank):
    of_two(rank)
    done = landscape("surface", "last.pt")
    assert (done.code, done.out) == (2, "")
    assert ("only train and hessian share their work among processes of torchrun" in done.err) == (rank == "0")


@pytest.mark.parametrize(
    "option",
    ["--per-layer", "--cross-check", "--engine timed", "--protocol paper", "--batch-norm train", "--operator fisher"],
)
def test_what_cannot_be_shared_is_refused(landscape, of_two, option):
    of_two("0")
    done = landscape("hessian", "last.pt", *option.split())
    assert done.code == 2
    assert f"{option} is measured by one process: leave out torchrun" in done.err


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
