"""A hessian command that was killed goes on where it was, with the bits of one that was not."""

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pyhessian
import pytest
import torch

import cli
import landscape as ls
from landscape import analysis
from landscape.objective import NotRepeatableError
from landscape.operators import SymmetricOperator
from landscape.products import NotTwiceDifferentiableError
from landscape.results import load_file, taken_apart

SMALL = ("--split", "test", "--examples", 64, "--top", 2, "--seed", 3)


def killed(*words, folder, when):
    """A command in a process of its own, killed by SIGKILL once a file of its journal holds something."""
    command = [sys.executable, cli.__file__, *map(str, words)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    while process.poll() is None and not any(path.stat().st_size > 1_000_000 for path in folder.glob(when)):
        time.sleep(0.005)
    process.kill()
    assert process.wait() == -signal.SIGKILL, process.stderr.read()
    process.communicate()


def assert_equal(file, other):
    found, expected = load_file(file), load_file(other)
    assert found.plan == expected.plan
    for one, two in zip(found.results, expected.results, strict=True):
        (arrays, settings), (others, their_settings) = taken_apart(one), taken_apart(two)
        assert repr(settings) == repr(their_settings)
        for name, array in arrays.items():
            np.testing.assert_array_equal(array, others[name])


@pytest.fixture
def products(monkeypatch):
    """The number of products that this process makes, in a list."""
    made, chosen = [0], analysis.chosen_operator

    def counting(objective, options):
        operator = chosen(objective, options)

        def matvec(v):
            made[0] += 1
            return operator.matvec(v)

        def matvecs(vectors):
            made[0] += len(vectors)
            return operator.matvecs(vectors)

        return SymmetricOperator(**{**vars(operator), "matvec": matvec, "matvecs": matvecs})

    monkeypatch.setattr(analysis, "chosen_operator", counting)
    return made


def test_a_killed_measurement_of_two_checkpoints_goes_on(landscape, runs, tmp_path, products):
    words = ("hessian", runs / "sgd", runs / "sam", *SMALL, "--which", "both", "--trace", "--save-vectors")
    assert landscape(*words, "--out", tmp_path / "whole.npz").code == 0
    whole, products[0] = products[0], 0
    out, folder = tmp_path / "h.npz", tmp_path / "h.npz.journal"
    killed(*words, "--out", out, folder=folder, when="1-checkpoint-*.products")
    kinds = ("plan.json", "0-checkpoint-*.step", "1-checkpoint-*.products")
    assert [len([*folder.glob(kind)]) for kind in kinds] == [1, 1, 1]
    refused = landscape(*words, "--out", out)
    assert refused.code == 6
    assert "holds a measurement that was not finished. --resume goes on, --force anew" in refused.err
    other = landscape(*words, "--tolerance", 0.01, "--out", out, "--resume")
    assert other.code == 3
    assert "h.npz.journal is of other settings: tolerance. landscape hessian --force starts anew" in other.err
    done = landscape(*words, "--out", out, "--resume")
    assert done.code == 0, done.err
    assert 0 < products[0] < whole / 2
    assert_equal(out, tmp_path / "whole.npz")
    assert not folder.exists()
    again = landscape(*words, "--out", out, "--resume")
    assert (again.code, again.out) == (0, done.out)
    assert "is there already" in again.err


def test_a_killed_walk_through_training_goes_on(landscape, tmp_path):
    run = tmp_path / "run"
    assert landscape("train", "--epochs", 3, "--save-every", 1, "--out", run).code == 0
    words = ("hessian", run, *SMALL)
    assert landscape("hessian", run, *words[1:], "--out", tmp_path / "whole.npz").code == 0  # a run twice is a run
    out, folder = tmp_path / "h.npz", tmp_path / "h.npz.journal"
    killed(*words, "--out", out, folder=folder, when="0-epoch-2-*.products")
    assert [*folder.glob("0-epoch-1-*.step")]
    assert landscape(*words, "--out", out, "--resume").code == 0
    assert_equal(out, tmp_path / "whole.npz")
    assert len(ls.load(out)) == 1


def test_the_error_of_the_data_goes_on_as_well(landscape, runs, tmp_path, monkeypatch):
    words = ("hessian", runs / "sgd", *SMALL, "--data-error")
    assert landscape(*words, "--out", tmp_path / "whole.npz").code == 0
    monkeypatch.setattr("landscape.sampling.mean_and_error", interrupt)  # after a part of its products
    stopped = landscape(*words, "--out", tmp_path / "h.npz")
    assert stopped.code == 130
    assert "interrupted. what was measured is kept: --resume goes on" in stopped.err
    monkeypatch.undo()
    page = landscape("report", tmp_path, "--out", tmp_path / "page.html", "--json")
    assert json.loads(page.out)["results"]["files"] == [
        str(tmp_path / "whole.npz")
    ]  # what is not finished is no result
    assert landscape(*words, "--out", tmp_path / "h.npz", "--resume").code == 0
    assert_equal(tmp_path / "h.npz", tmp_path / "whole.npz")


def test_a_cross_check_goes_on_as_well(landscape, runs, tmp_path, monkeypatch):
    words = ("hessian", runs / "sgd", *SMALL, "--cross-check")
    assert landscape(*words, "--out", tmp_path / "whole.npz").code == 0
    monkeypatch.setattr("pyhessian.hessian.trace", interrupt)  # after its power iteration
    assert landscape(*words, "--out", tmp_path / "h.npz").code == 130
    monkeypatch.undo()
    made, product = [], pyhessian.hessian.dataloader_hv_product
    monkeypatch.setattr(pyhessian.hessian, "dataloader_hv_product", lambda *args: made.append(0) or product(*args))
    assert landscape(*words, "--out", tmp_path / "h.npz", "--resume").code == 0
    assert len(made) == 30  # those of the trace
    assert_equal(tmp_path / "h.npz", tmp_path / "whole.npz")


def interrupt(*_, **__):
    raise KeyboardInterrupt


def test_what_would_end_a_measurement_again_keeps_nothing(landscape, runs, tmp_path, monkeypatch):
    monkeypatch.setattr("landscape.spectrum.trace_of", refuse)
    done = landscape("hessian", runs / "sgd", *SMALL, "--trace", "--out", tmp_path / "h.npz")
    assert done.code == 2
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]


def refuse(*_, **__):
    raise ValueError("no")


def test_what_ends_a_step_again_leaves_those_before_it(landscape, tmp_path, monkeypatch):
    run = tmp_path / "run"
    assert landscape("train", "--epochs", 2, "--save-every", 1, "--out", run).code == 0
    monkeypatch.setattr("landscape.following._overlap", lambda before, _: refuse() if before else math.nan)
    assert landscape("hessian", run, *SMALL, "--out", tmp_path / "h.npz").code == 2
    kept = [path.name.rpartition("-")[0] for path in (tmp_path / "h.npz.journal").glob("*-*")]
    assert kept == ["0-epoch-1"]


@pytest.mark.filterwarnings("default::landscape.ledger.LedgerWarning")
def test_a_full_disk_at_the_end_leaves_the_table_and_the_products(
    landscape, runs, tmp_path, monkeypatch, products, full_for
):
    words = ("hessian", runs / "sgd", *SMALL, "--out", tmp_path / "h.npz")
    full_for(".step", "h.npz")
    done = landscape(*words)
    assert done.code == 5
    assert "step: No space left on device, so no more than its products is kept" in done.err
    hint = "make room; what was measured is kept: --resume goes on"
    assert done.err.splitlines()[-1] == f"landscape: {tmp_path / 'h.npz'}: No space left on device. {hint}"
    assert "lambda_1" in done.out
    monkeypatch.undo()
    products[0] = 0
    again = landscape(*words, "--resume")
    assert (again.code, again.out, products[0]) == (0, done.out, 0)


@pytest.mark.filterwarnings("default::landscape.ledger.LedgerWarning")
def test_a_full_disk_that_keeps_nothing_still_tells_the_numbers(landscape_json, runs, tmp_path, monkeypatch, full_for):
    free = shutil.disk_usage(tmp_path)._replace(free=0)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: free)
    full_for(".step", ".npz")
    for command, options in (("hessian", SMALL), ("alignment", ())):
        done = landscape_json(command, runs / "sgd/last.pt", *options, "--out", tmp_path / "x.npz")
        assert done.code == 5
        assert done.document["error"]["message"] == f"{tmp_path / 'x.npz'}: No space left on device"
        assert done.document["error"]["hint"] == "make room"
        assert done.document["results"]["tables"][0]["rows"]
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]


@pytest.mark.parametrize("command", ["train", "surface", "hessian", "alignment"])
def test_going_on_and_starting_anew_exclude_each_other(landscape, tmp_path, command):
    words = () if command == "train" else (tmp_path / "last.pt",)
    done = landscape(command, *words, "--resume", "--force", "--out", tmp_path / "x")
    assert done.code == 2
    assert "--force starts anew and --resume goes on: give one of them" in done.err


@pytest.mark.parametrize("error", [FloatingPointError, ValueError, NotTwiceDifferentiableError, NotRepeatableError])
def test_a_checkpoint_without_a_number_leaves_those_of_the_others(landscape, runs, tmp_path, monkeypatch, error):
    measured, calls = analysis.hessian_analysis, []

    def overflowing(*args, **options):
        calls.append(args)
        if len(calls) == 2:
            raise error("product 1 with the operator is not finite (overflow, or NaN weights)")
        return measured(*args, **options)

    monkeypatch.setattr(analysis, "hessian_analysis", overflowing)
    words = ("hessian", runs / "sgd/last.pt", runs / "sam/last.pt", *SMALL, "--out", tmp_path / "h.npz")
    done = landscape(*words)
    assert done.code == 4
    assert "sam: product 1 with the operator is not finite" in done.err
    assert "is written and flagged" in done.err
    assert [one.checkpoint["label"] for one in load_file(tmp_path / "h.npz").results] == ["sgd"]
    monkeypatch.undo()
    assert landscape(*words, "--resume").code == 0
    assert len(load_file(tmp_path / "h.npz").results) == 2
