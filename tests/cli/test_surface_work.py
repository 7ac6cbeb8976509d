"""Surfaces that are resumed, sharded and merged."""

import logging
import os
import resource
import signal
import subprocess
import sys
import time
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import torch

import cli
from landscape import journal, survey
from landscape.evaluator import Evaluator
from landscape.results import load, load_file

PINNED = ("--micro-batch", 64, "--layout", "contiguous", "--split", "test", "--steps", 5)


@pytest.fixture
def measure(landscape, trained, tmp_path):
    def run(*options, out="surface.npz", code=0):
        done = landscape("surface", trained / "sgd", trained / "sam", *PINNED, *options, "--out", tmp_path / out)
        assert done.code == code, done.err
        return done

    return run


@pytest.fixture(scope="module")
def whole(landscape, trained, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole") / "surface.npz"
    assert landscape("surface", trained / "sgd", trained / "sam", *PINNED, "--out", out).code == 0
    return load(out)


def assert_same(found, expected):
    for one, other in zip(found, expected, strict=True):
        for name in ("x", "y", "loss", "standard_error", "accuracy", "status"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
        assert (one.settings, one.checks, one.checkpoint) == (other.settings, other.checks, other.checkpoint)


@pytest.mark.parametrize("count", [3, 7])
def test_shards_merge_into_the_same_bits(landscape, measure, whole, tmp_path, count):
    for index in range(count, 0, -1):
        done = measure("--shard", f"{index}/{count}")
        assert f"landscape merge {tmp_path / 'surface.npz'}" in done.err
        assert not (tmp_path / "surface.npz").exists()
    done = landscape("merge", tmp_path / "surface.npz")
    assert done.code == 0, done.err
    assert_same(load(tmp_path / "surface.npz"), whole)
    assert not (tmp_path / "surface.npz.journal").exists()
    again = landscape("merge", tmp_path / "surface.npz", "--force")
    assert again.code == 2
    assert "surface.npz.journal is not there" in again.err


def test_two_processes_share_a_surface(measure, whole, tmp_path):
    measure("--devices", "cpu,cpu")
    assert_same(load(tmp_path / "surface.npz"), whole)
    assert not (tmp_path / "surface.npz.journal").exists()
    assert "--force replaces it" in measure("--devices", "cpu,cpu", code=6).err
    measure("--devices", "cpu", "--force", "--extent", 0.5)
    assert load(tmp_path / "surface.npz")[0].settings["extent"] == 0.5


def test_devices_go_on_with_a_begun_journal_only_when_told_to(measure, whole, tmp_path):
    measure("--shard", "2/2")
    assert "holds a surface that was not finished" in measure("--devices", "cpu,cpu", code=6).err
    assert "was begun with other shards" in measure("--devices", "cpu", "--resume", code=3).err
    measure("--devices", "cpu,cpu", "--resume")
    assert_same(load(tmp_path / "surface.npz"), whole)


def test_devices_take_no_shard(measure):
    assert "--devices makes shards of its own" in measure("--devices", "cpu", "--shard", "1/2", code=2).err


@pytest.mark.parametrize("devices", ["gpu", "0;1", ""])
def test_devices_that_are_none_are_refused(measure, devices):
    assert "--devices takes numbers of GPUs, or cpu" in measure("--devices", devices, code=2).err


def test_a_missing_shard_is_named_and_a_partial_surface_says_what_it_lacks(landscape, measure, tmp_path):
    measure("--shard", "2/3")
    out = tmp_path / "surface.npz"
    done = landscape("merge", out)
    assert done.code == 3
    assert "has 16 of 50 points (shards begun: 2/3): run the others first" in done.err
    done = landscape("merge", out, "--partial")
    assert done.code == 0
    assert "the centre is not measured yet" in done.out  # it is in another shard
    found = load(out)[0]
    assert (int((found.status == 1).sum()), int((found.status == 0).sum())) == (8, 17)
    assert np.isnan(found.loss[found.status == 0]).all()
    assert landscape("merge", out).code == 3
    measure("--shard", "1/3", "--force")
    measure("--shard", "3/3", "--resume")
    assert landscape("merge", out).code == 0
    assert not (load_file(out).plan.keys() & {"early"})


def test_an_early_picture_is_the_finest_whole_grid(landscape, measure, whole, tmp_path, monkeypatch):
    real, calls = Evaluator.sums, []

    def stops(self, *arguments):
        calls.append(arguments)
        if len(calls) == 12:  # the coarse grid of the first surface is 9 points
            raise KeyboardInterrupt
        return real(self, *arguments)

    monkeypatch.setattr(Evaluator, "sums", stops)
    monkeypatch.setattr("landscape.surface._SECONDS_OF_A_BLOCK", 0.0)  # a point at a time
    measure(code=130)
    monkeypatch.undo()
    out = tmp_path / "surface.npz"
    landscape("merge", out, "--partial")
    (early,) = load(out)
    assert (early.settings["steps"], early.settings["early_of"]) == (3, 5)
    np.testing.assert_array_equal(early.x, whole[0].x[::2])
    np.testing.assert_array_equal(early.loss, whole[0].loss[::2, ::2])
    assert (early.status == 1).all()
    assert landscape("merge", out, "--partial").code == 0  # another early picture may replace it
    measure("--resume")
    assert_same(load(out), whole)
    assert landscape("merge", out).code == 2  # there is no journal any more


def test_a_full_disk_loses_no_finished_block(measure, whole, tmp_path, monkeypatch):
    monkeypatch.setattr("landscape.surface._SECONDS_OF_A_BLOCK", 0.0)
    measure("--shard", "1/2")
    shard = tmp_path / "surface.npz.journal/1-of-2.jsonl"
    size = shard.stat().st_size
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, hard))
    try:
        done = measure("--shard", "2/2", code=5)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert len(done.err.splitlines()) == 1
    assert "2-of-2.jsonl: File too large. make room; what was measured is kept: --resume goes on" in done.err
    other = tmp_path / "surface.npz.journal/2-of-2.jsonl"
    assert not other.read_bytes().endswith(b"\n")  # a torn line
    measure("--shard", "2/2", "--resume")
    assert cli.main(["merge", str(tmp_path / "surface.npz")]) == 0
    assert_same(load(tmp_path / "surface.npz"), whole)


def test_a_results_file_that_a_full_disk_stops_is_named_and_made_by_resume(
    measure, whole, tmp_path, monkeypatch, full_for
):
    full_for("surface.npz")
    done = measure(code=5)
    assert f"{tmp_path / 'surface.npz'}: No space left on device. make room; what was measured is kept" in done.err
    assert "Loss on a" in done.out
    monkeypatch.undo()
    measure("--resume")
    assert_same(load(tmp_path / "surface.npz"), whole)


def test_a_surface_that_was_stopped_goes_on_where_it_was(measure, whole, tmp_path, monkeypatch):
    real, calls = Evaluator.sums, []

    def stops(self, *arguments):
        calls.append(len(arguments[2]))
        if len(calls) == 4:
            raise KeyboardInterrupt
        return real(self, *arguments)

    monkeypatch.setattr(Evaluator, "sums", stops)
    done = measure(code=130)
    assert "--resume goes on" in done.err
    monkeypatch.undo()
    folder = tmp_path / "surface.npz.journal"
    kept = sum(len(one.points) for one in journal.merged(folder, 2))
    assert kept == sum(calls[:3]) > 0
    assert "holds a surface that was not finished" in measure(code=6).err
    monkeypatch.setattr(Evaluator, "sums", lambda *a: calls.append(len(a[3])) or real(*a))
    del calls[:]
    measure("--resume")
    assert sum(calls) == 50 - kept
    assert_same(load(tmp_path / "surface.npz"), whole)
    assert "is there already" in measure("--resume").err


def test_a_killed_process_loses_no_finished_block(measure, whole, trained, tmp_path):
    out = tmp_path / "surface.npz"
    words = ["surface", trained / "sgd", trained / "sam", *PINNED, "--out", out]
    process = subprocess.Popen(
        [sys.executable, cli.__file__, *map(str, words)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    path = tmp_path / "surface.npz.journal" / "1-of-1.jsonl"
    for _ in range(3000):
        if out.exists() or (path.exists() and path.stat().st_size):
            break
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    measure("--resume")
    assert_same(load(out), whole)


def test_a_journal_of_other_work_is_refused_with_what_differs(measure, tmp_path):
    measure("--shard", "1/2")
    done = measure("--shard", "2/2", "--seed", 1, code=3)
    assert "surface.npz.journal is of other settings: seed. landscape surface --force starts anew" in done.err
    assert "was begun with other shards (1-of-2)" in measure("--shard", "1/3", code=3).err
    assert "holds a surface that was not finished" in measure("--shard", "1/2", code=6).err
    measure("--shard", "1/2", "--resume")
    measure("--force")
    assert (tmp_path / "surface.npz").exists()


def test_force_takes_nothing_from_a_process_that_writes(measure, tmp_path):
    measure("--shard", "1/2")
    folder = tmp_path / "surface.npz.journal"
    with journal.opened(folder, (1, 2), 2):
        before = {path.name: path.read_bytes() for path in folder.iterdir()}
        for options in ((), ("--shard", "1/2"), ("--shard", "1/3"), ("--shard", "2/2", "--seed", 1)):
            assert "another process writes" in measure(*options, "--force", code=6).err
        assert "another process writes" in measure("--devices", "cpu", "--force", code=6).err
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    measure("--force")


def test_a_process_whose_journal_was_begun_anew_says_so(measure, tmp_path, monkeypatch):
    real = survey.run_shard

    def late(folder, *arguments, **options):
        monkeypatch.undo()
        measure("--shard", "2/2", "--seed", 1, "--force")  # another process, faster
        return real(folder, *arguments, **options)

    monkeypatch.setattr(survey, "run_shard", late)
    assert "surface.npz.journal anew meanwhile" in measure("--shard", "1/2", code=6).err


def test_force_resets_its_own_shard_and_another_plan_the_whole_journal(measure, tmp_path):
    folder = tmp_path / "surface.npz.journal"

    def begun():
        return {path.name: len(path.read_bytes()) for path in journal.shard_files(folder)}

    for shard in ("1/3", "2/3"):
        measure("--shard", shard)
    before = begun()
    measure("--shard", "1/3", "--force")
    assert begun().keys() == before.keys()
    assert sum(len(one.points) for one in journal.merged(folder, 2)) == 34
    measure("--shard", "1/2", "--force")
    assert list(begun()) == ["1-of-2.jsonl"]
    measure("--shard", "2/2", "--force", "--extent", 0.5)
    assert list(begun()) == ["2-of-2.jsonl"]
    (folder / "plan.json").write_text("{}")
    measure("--shard", "1/2", "--force")
    assert list(begun()) == ["1-of-2.jsonl"]


def test_two_writers_of_one_shard_are_refused(measure, tmp_path):
    measure("--shard", "1/2")
    with journal.opened(tmp_path / "surface.npz.journal", (1, 2), 2):
        done = measure("--shard", "1/2", "--resume", code=6)
    assert "another process writes" in done.err
    assert "1-of-2.jsonl" in done.err


def test_a_damaged_journal_is_refused(measure, tmp_path):
    measure("--shard", "1/2")
    path = tmp_path / "surface.npz.journal" / "1-of-2.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"0" + lines[0][1:] + b"".join(lines[1:]))
    assert "line 1 is damaged. Delete the file" in measure("--shard", "1/2", "--resume", code=3).err
    (tmp_path / "surface.npz.journal" / "plan.json").write_text("{}")
    assert "is not the plan of a journal" in measure("--shard", "1/2", "--resume", code=3).err


@pytest.mark.parametrize("shard", ["0/2", "3/2", "half", "slurm"])
def test_a_shard_that_is_none_is_refused(measure, shard, monkeypatch):
    monkeypatch.delenv("SLURM_ARRAY_TASK_ID", raising=False)
    assert "shard" in measure("--shard", shard, code=2).err


def test_slurm_gives_the_shard(measure, tmp_path, monkeypatch):
    for name, value in {"ID": 7, "MIN": 5, "COUNT": 4}.items():
        monkeypatch.setenv(f"SLURM_ARRAY_TASK_{name}", str(value))
    measure("--shard", "slurm")
    assert (tmp_path / "surface.npz.journal" / "3-of-4.jsonl").exists()


def test_results_too_large_to_be_read_back_are_refused_before_anything_is_measured(measure, tmp_path, monkeypatch):
    limit = 2 * 25 * (4 * 8 + 100 * 4) / 0.9
    monkeypatch.setattr(survey, "MAX_BYTES", limit)
    measure("--paired", 100, "--max-nonfinite", 0.2, out="fits.npz")
    with zipfile.ZipFile(tmp_path / "fits.npz") as archive:
        arrays = sum(info.file_size - 128 for info in archive.infolist() if info.filename[0].isdigit())
    assert arrays < limit
    done = measure("--paired", 101, code=2)
    assert "more than the 0 of a file that is read back: use a smaller --paired, --steps or --planes" in done.err
    assert "file that is read back" in measure("--steps", 100001, "--paired", 2, code=2).err
    assert [path.name for path in tmp_path.iterdir()] == ["fits.npz"]


@pytest.mark.parametrize("mode", ["recalibrated", "train"])
def test_batch_norm_is_a_choice_that_is_shown(landscape, trained, tmp_path, mode):
    options = ("--steps", 3, "--split", "test", "--batch-norm", mode)
    done = landscape("surface", trained / "sgd", *options, "--out", tmp_path / "s.npz")
    assert done.code == 0, done.err
    found = load(tmp_path / "s.npz")[0]
    assert found.settings["batch_norm"] == mode
    assert found.checks["centre_ok"]


def test_a_precision_keeps_its_error_and_tf32_is_of_gpus(landscape, trained, tmp_path):
    options = ("--steps", 3, "--split", "test", "--device", "cpu")
    done = landscape("surface", trained / "sgd", *options, "--precision", "bf16", "--out", tmp_path / "s.npz")
    assert done.code == 0, done.err
    assert 0 < load(tmp_path / "s.npz")[0].checks["centre_error"] < 0.05
    done = landscape("surface", trained / "sgd", *options, "--precision", "tf32", "--out", tmp_path / "t.npz")
    assert done.code == 2
    assert "precision tf32 is of GPUs" in done.err


def test_examples_are_drawn_by_the_seed_and_hashed(landscape, trained, tmp_path):
    def measure(command, *options):
        out = tmp_path / f"{len(list(tmp_path.iterdir()))}.npz"
        words = (command, trained / "sgd", "--split", "test", *options, "--out", out)
        done = landscape(*words, *(("--steps", 3) if command == "surface" else ("--top", 1)))
        assert done.code == 0, done.err
        return load(out)[0]

    one, same, other = (measure("surface", "--examples", 50, "--seed", seed) for seed in (1, 1, 2))
    spectrum = measure("hessian", "--examples", 50, "--seed", 1)
    assert one.settings["num_examples"] == 50
    assert one.settings["data_hash"] == same.settings["data_hash"] == spectrum.settings["data_hash"]
    assert one.settings["data_hash"] != other.settings["data_hash"]
    assert spectrum.loss == pytest.approx(one.loss[1, 1], rel=1e-6)
    np.testing.assert_array_equal(one.loss, same.loss)
    done = landscape("surface", trained / "sgd", "--split", "test", "--examples", 361, "--out", tmp_path / "s.npz")
    assert done.code == 2
    assert "--examples is 361, but the test part has 360" in done.err


def test_a_compiled_plan_is_refused_where_nothing_compiles(measure, monkeypatch):
    from torch._dynamo.exc import TorchDynamoException

    def broken(*_):
        raise TorchDynamoException("InvalidCxxCompiler: No working C++\ncompiler found\n\nSet TORCHDYNAMO_VERBOSE=1")

    monkeypatch.setattr("landscape.evaluator._try_compiling", lambda _, engine: (replace(engine, compiled=True), {}))
    monkeypatch.setattr("landscape.evaluator._COMPILE_FLOPS", {"cpu": 0.0})
    monkeypatch.setattr(torch, "compile", lambda *_, **__: broken)
    done = measure("--shard", "1/2", "--device", "cpu", code=5)
    words = "the plan compiles the forward pass, and there is no working compiler here: InvalidCxxCompiler: No working"
    assert f"landscape: {words} C++ compiler found. Install a C++ compiler (CXX names it)" in done.err
    assert not logging.getLogger("torch.utils.cpp_extension").isEnabledFor(logging.WARNING)
    assert len(done.err.splitlines()) == 1


def test_tuning_measures_the_same_surface(landscape, trained, tmp_path):
    for name, options in {"usual": (), "tuned": ("--tune",)}.items():
        words = ("--split", "test", "--steps", 3, *options, "--out", tmp_path / f"{name}.npz")
        assert landscape("surface", trained / "sgd", *words).code == 0
    usual, tuned = (load(tmp_path / f"{name}.npz")[0] for name in ("usual", "tuned"))
    assert (usual.settings["micro_batch"], usual.settings["layout"]) == (64, "channels_last")
    np.testing.assert_allclose(tuned.loss, usual.loss, rtol=1e-5)
