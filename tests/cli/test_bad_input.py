"""Bad input: one clear line, the right exit code, nothing half-written, no traceback."""

import json
import os
import pickle
import resource
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch


def refused(done, code, *words):
    assert done.code == code, (done.code, done.err)
    lines = done.err.strip().splitlines()
    assert lines[-1].startswith("landscape: ")
    assert "Traceback" not in done.err
    for word in words:
        assert str(word) in lines[-1], lines[-1]


def whole(path):
    return {p.relative_to(path): p.read_bytes() for p in path.rglob("*") if p.is_file()}


MEASURING = (("surface", "--steps", 3), ("hessian", "--top", 1), ("alignment",))


@pytest.mark.parametrize("command", MEASURING, ids=lambda c: c[0])
class TestCheckpoints:
    def test_missing_names_the_nearest(self, landscape, runs, command):
        refused(landscape(*command, runs / "sgd/lost.pt"), 2, "is not there", "Did you mean", "sgd/last.pt")

    def test_empty(self, landscape, runs, command):
        (runs / "sgd/last.pt").write_bytes(b"")
        refused(landscape(*command, runs / "sgd/last.pt"), 3, "last.pt", "empty")

    def test_truncated(self, landscape, runs, command):
        data = (runs / "sgd/last.pt").read_bytes()
        (runs / "sgd/last.pt").write_bytes(data[: len(data) // 2])
        refused(landscape(*command, runs / "sgd/last.pt"), 3, "last.pt", "truncated")

    def test_a_flipped_byte_in_a_tensor(self, landscape, runs, command):
        data = bytearray((runs / "sgd/last.pt").read_bytes())
        data[len(data) // 2] ^= 0xFF
        (runs / "sgd/last.pt").write_bytes(data)
        refused(landscape(*command, runs / "sgd/last.pt"), 3, "last.pt", "corrupt")

    def test_text(self, landscape, runs, command):
        (runs / "sgd/last.pt").write_text("<!DOCTYPE html><html>not found</html>")
        refused(landscape(*command, runs / "sgd/last.pt"), 3, "last.pt", "HTML")

    def test_weights_that_are_not_a_run(self, landscape, runs, command):
        torch.save({"weight": torch.zeros(3)}, runs / "sgd/last.pt")
        refused(landscape(*command, runs / "sgd/last.pt"), 3, "last.pt")

    @pytest.mark.parametrize("kind", ["archive", "bare pickle"])
    def test_malicious_is_refused_and_not_run(self, landscape, runs, command, kind):
        class Payload:
            def __reduce__(self):
                return os.system, (f"touch {runs}/hacked",)

        if kind == "archive":
            torch.save({"model": Payload()}, runs / "sgd/last.pt")
        else:
            (runs / "sgd/last.pt").write_bytes(pickle.dumps({"model": Payload()}))
        refused(landscape(*command, runs / "sgd/last.pt"), 6, "system")
        assert not (runs / "hacked").exists()

    def test_nothing_is_written_for_a_bad_checkpoint(self, landscape, runs, command):
        (runs / "sgd/last.pt").write_bytes(b"")
        before = whole(runs)
        landscape(*command, runs / "sgd/last.pt")
        assert whole(runs) == before


def test_nan_weights_are_named(landscape, runs):
    saved = torch.load(runs / "sgd/last.pt", weights_only=True)
    name = next(iter(saved["model"]))
    saved["model"][name][0] = torch.nan
    with (runs / "sgd/last.pt").open("wb") as file:
        torch.save(saved, file)
    refused(landscape("surface", runs / "sgd/last.pt", "--steps", 1), 3, name, "finite")


def test_a_newer_format_says_upgrade(landscape, runs):
    saved = torch.load(runs / "sgd/last.pt", weights_only=True)
    with (runs / "sgd/last.pt").open("wb") as file:
        torch.save(saved | {"format": 99}, file)
    refused(landscape("surface", runs / "sgd/last.pt", "--steps", 1), 3, "newer")


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (("train", "--method", "agnostic"), ("method must be one of", "Did you mean", "agnostic-sam")),
        (("train", "--model", "resnet9"), ("model must be one of", "Did you mean 'resnet8'")),
        (("train", "--data", "digit"), ("data must be one of digits", "Did you mean 'digits'")),
        (("train", "--rho", "-1"), ("rho must be at least 0", "-1")),
        (("train", "--rho", "nan"), ("rho must be finite", "nan")),
        (("train", "--split-ratio", "1.0"), ("split_ratio must be",)),
        (("train", "--label-noise", "1.5"), ("label_noise must be",)),
        (("train", "--epochs", "0"), ("epochs must be at least 1",)),
        (("train", "--batch-size", "4000"), ("batch_size",)),
        (("train", "--batch-size", "3"), ("BatchNorm",)),
        (("train", "--epochs", "many"), ("'many' is not a valid int",)),
        (("train", "--methd", "sgd"), ("No such option", "--method")),
        (("trian",), ("No such command 'trian'",)),
        (("surface",), ("Missing argument",)),
        (("report", "nowhere"), ("nowhere is not there",)),
        (("demo", "--steps", "20"), ("steps must be odd and positive", "got 20, try 21")),
    ],
    ids=" ".join,
)
def test_a_wrong_command_line_exits_2(landscape, landscape_json, tmp_path, monkeypatch, argv, words):
    monkeypatch.chdir(tmp_path)
    refused(landscape(*argv), 2, *words)
    done = landscape_json(*argv)
    assert done.code == done.document["error"]["code"] == 2
    assert done.document["ok"] is False
    assert words[0] in done.document["error"]["message"]
    assert not list(tmp_path.iterdir())


def test_tensorboard_that_is_missing_is_named_with_the_fix_before_anything_is_written(landscape, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    done = landscape("train", "--tensorboard", "--out", tmp_path / "run")
    refused(done, 5, "tensorboard cannot be imported", "pip install -e '.[tensorboard]'")
    assert not list(tmp_path.iterdir())


def test_a_validation_part_that_the_run_has_not_is_refused(landscape, tmp_path):
    done = landscape("train", "--epochs", 1, "--val-fraction", 0, "--out", tmp_path / "run")
    assert "no best.pt: nothing was held out for validation" in done.out
    for command in (("surface", "--split", "val", "--steps", 1), ("alignment",)):
        words = (f"{tmp_path}/run/last.pt was trained without a validation part (val_fraction 0)",)
        refused(landscape(command[0], tmp_path / "run/last.pt", *command[1:]), 2, *words)
    assert not list(tmp_path.rglob("*.npz"))
    assert landscape("alignment", tmp_path / "run").code == 0  # the trace needs none


@pytest.mark.parametrize(("steps", "hint"), [(0, 51), (-5, 51), (50, 51), (4, 5)])
def test_a_grid_without_a_centre_is_refused_before_anything_is_read(landscape, tmp_path, steps, hint):
    refused(landscape("surface", tmp_path / "x.pt", "--steps", steps), 2, f"got {steps}, try {hint}")


@pytest.mark.parametrize("extent", ["0", "nan", "-1", "inf"])
def test_a_bad_extent_is_refused(landscape, tmp_path, extent):
    refused(landscape("surface", tmp_path / "x.pt", "--extent", extent), 2, "extent must be finite and positive")


def test_bad_options_of_the_iteration_are_refused(landscape, runs):
    refused(landscape("hessian", runs / "sgd/last.pt", "--top", 10**6), 2, "--top must be in 1..")
    refused(landscape("hessian", runs / "sgd/last.pt", "--tolerance", 0), 2, "--tolerance must be above 0")
    refused(landscape("hessian", runs / "sgd/last.pt", "--max-matvecs", 3), 2, "--max-matvecs must be at least")
    refused(landscape("alignment", runs / "sgd/last.pt", "--radius", "nan"), 2, "radius must be finite")


def test_runs_and_checkpoints_are_not_mixed(landscape, runs):
    refused(landscape("alignment", runs / "sgd", runs / "sgd/last.pt"), 2, "not both")


def test_output_that_exists_is_refused_before_anything_is_measured(landscape, runs):
    (runs / "s.npz").write_bytes(b"precious")
    refused(landscape("surface", runs / "sgd/last.pt", "--out", runs / "s.npz"), 6, "exists", "--force", "--resume")
    assert (runs / "s.npz").read_bytes() == b"precious"
    refused(landscape("train", "--out", runs / "sgd"), 6, "--force", "--resume")


def test_resuming_a_run_with_other_settings_names_them(landscape, runs):
    done = landscape("train", "--epochs", 2, "--label-noise", 0.2, "--lr", 0.2, "--out", runs / "sgd", "--resume")
    refused(done, 3, "lr")


def test_resuming_into_something_else_is_refused(landscape, runs):
    (runs / "s.npz").write_bytes(b"precious")
    refused(landscape("surface", runs / "sgd/last.pt", "--out", runs / "s.npz", "--resume"), 3, "not a whole .npz")


def test_a_folder_is_no_output_file(landscape, runs):
    refused(landscape("surface", runs / "sgd/last.pt", "--out", runs, "--steps", 1), 2, "is a folder")


def test_a_report_of_nothing_says_what_makes_something(landscape, runs):
    refused(landscape("report", runs), 3, "no results in", "landscape surface")


def test_a_report_of_a_broken_file_names_it(landscape, runs):
    (runs / "surface.npz").write_bytes(b"PK\x03\x04 not really")
    refused(landscape("report", runs), 3, "surface.npz is not a whole .npz")
    assert not (runs / "report.html").exists()


def test_a_report_of_results_from_a_newer_version_says_upgrade(landscape, runs):
    members = {"header": np.array(json.dumps({"format": 99, "results": [{"type": "Aura"}]})), "run": np.array("{}")}
    np.savez(runs / "surface.npz", **members)
    refused(landscape("report", runs), 3, "format 99, made by a newer landscape", "upgrade")


def test_the_trace_of_a_folder_without_metrics(landscape, runs):
    (runs / "sgd/metrics.jsonl").unlink()
    refused(landscape("alignment", runs / "sgd"), 3, "metrics.jsonl")


@pytest.mark.parametrize("argv", [("train", "--epochs", 1, "--force"), ("surface", "--steps", 5, "--force")])
def test_a_full_disk_keeps_what_was_there(landscape, runs, argv):
    before = None
    if argv[0] == "surface":
        argv = (*argv, runs / "sgd/last.pt")
        landscape("surface", runs / "sgd/last.pt", "--steps", 3)
        before = (runs / "sgd/surface.npz").read_bytes()
    else:
        argv = (*argv, "--out", runs / "new")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500, hard))
    try:
        done = landscape(*argv)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    refused(done, 5)
    assert not list(runs.rglob(".*tmp*"))
    if before is not None:
        assert (runs / "sgd/surface.npz").read_bytes() == before


def test_no_cuda_is_said(landscape, runs, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    refused(landscape("surface", runs / "sgd/last.pt", "--device", "cuda"), 5, "no CUDA device", "--device cpu")


def test_running_out_of_memory_is_said(landscape, runs, monkeypatch):
    def exhausted(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB")

    monkeypatch.setattr("landscape.survey.run_shard", exhausted)
    refused(landscape("surface", runs / "sgd/last.pt", "--steps", 1), 5, "out of memory")


def test_a_bug_of_ours_says_so_and_shows_itself_with_debug(landscape, runs, monkeypatch):
    def broken(*_, **__):
        raise ZeroDivisionError("oh")

    monkeypatch.setattr("landscape.survey.run_shard", broken)
    refused(
        landscape("surface", runs / "sgd/last.pt", "--steps", 1), 1, "a bug of ours", "ZeroDivisionError", "--debug"
    )
    assert "Traceback" in landscape("surface", runs / "sgd/last.pt", "--steps", 1, "--debug").err


def test_hostile_names_are_only_names(landscape, runs):
    hostile = runs / '"><script>alert(1)</script> ünï'.replace("/", "∕")
    shutil.copytree(runs / "sgd", hostile)
    assert landscape("surface", hostile / "last.pt", "--steps", 3).code == 0
    assert landscape("report", hostile).code == 0
    assert "<script>alert(1)" not in (hostile / "report.html").read_text()


@pytest.mark.parametrize("content", [b"precious", b"<html>somebody's page</html>"])
def test_a_report_does_not_replace_what_is_not_a_page_of_ours(landscape, runs, content):
    landscape("surface", runs / "sgd/last.pt", "--steps", 1)
    (runs / "mine.html").write_bytes(content)
    refused(landscape("report", runs, "--out", runs / "mine.html"), 6, "is not a page of ours", "--force")
    refused(landscape("report", runs, "--out", runs / "sgd/surface.npz"), 6, "--force")
    refused(landscape("report", runs, "--out", runs / "sgd/last.pt"), 6, "--force")
    refused(landscape("report", runs, "--out", runs / "sgd"), 2, "is a folder")
    assert (runs / "mine.html").read_bytes() == content
    assert landscape("report", runs, "--out", runs / "mine.html", "--force").code == 0
    assert landscape("report", runs, "--out", runs / "mine.html").code == 0  # now it is one


def test_a_file_of_plotlys_name_is_replaced_by_nothing(landscape, runs):
    import plotly.offline

    landscape("surface", runs / "sgd/last.pt", "--steps", 1)
    mine = runs / f"plotly-{plotly.offline.get_plotlyjs_version()}.min.js"
    mine.write_text("my own")
    told = landscape("report", runs, "--out", runs / "shared.html", "--plotlyjs", "directory", "--force")
    refused(told, 6, "is no plotly.js", "--plotlyjs directory")
    assert mine.read_text() == "my own"
    mine.unlink()


def test_a_checkpoint_given_to_report_is_named(landscape, runs):
    refused(landscape("report", runs / "sgd/last.pt"), 3, "is a checkpoint, not results", "landscape surface")


def spoil(path, **changes):
    saved = torch.load(path, weights_only=True)
    with path.open("wb") as file:
        torch.save(saved | changes, file)
    return saved


@pytest.mark.parametrize(
    "changes",
    [
        {"epoch": -3},
        {"epoch": True},
        {"epoch": 99},
        {"step": -1},
        {"format": 0},
        {"format": True},
        {"model": {"a": "text"}},
        {"model": {"a": 1}},
        {"model": {3: torch.zeros(1)}},
        {"model": {"a": torch.zeros(2).to_sparse()}},
        {"rng": {"cpu": None}},
        {"metrics": []},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_a_checkpoint_of_a_wrong_type_is_refused(landscape, runs, changes):
    spoil(runs / "sgd/last.pt", **changes)
    refused(landscape("surface", runs / "sgd/last.pt", "--steps", 1), 3, "last.pt")
    train = ("train", "--epochs", 2, "--label-noise", 0.2, "--out", runs / "sgd", "--resume")
    refused(landscape(*train), 3, "last.pt")


@pytest.mark.parametrize("dtype", [torch.int64, torch.float64, torch.complex64, torch.float16], ids=str)
def test_weights_of_another_dtype_are_refused(landscape, runs, dtype):
    model = torch.load(runs / "sgd/last.pt", weights_only=True)["model"]
    name = next(iter(model))
    spoil(runs / "sgd/last.pt", model=model | {name: model[name].to(dtype)})
    refused(landscape("surface", runs / "sgd/last.pt", "--steps", 1), 3, "wrong dtype", name, dtype)


@pytest.mark.parametrize(
    "change",
    [
        lambda saved: {"rng": {}},
        lambda saved: {"data": {}},
        lambda saved: {"step": 9},
        lambda saved: {"optimizer": {**saved["optimizer"], "num_skipped": "a"}},
        lambda saved: {"model": {name: value.double() for name, value in saved["model"].items()}},
        lambda saved: {"rng": {"cpu": saved["rng"]["cpu"][:10].clone()}},
        lambda saved: {"optimizer": {}},
        lambda saved: {"optimizer": {**saved["optimizer"], "optimizer": {"state": {}, "param_groups": []}}},
        lambda saved: {"metrics": {}},
    ],
)
def test_a_run_that_cannot_be_continued_says_so(landscape, tmp_path, change):
    landscape("train", "--epochs", 2, "--out", tmp_path / "run")
    saved = torch.load(tmp_path / "run/last.pt", weights_only=True)
    spoil(tmp_path / "run/last.pt", **({"epoch": 1, "step": 8} | change(saved)))
    done = landscape("train", "--epochs", 2, "--out", tmp_path / "run", "--resume")
    refused(done, 3, "run")
    assert "cannot be continued from" in done.err or "not what the run was started with" in done.err


def test_metrics_that_lost_an_epoch_are_refused_on_resume(landscape, runs):
    (runs / "sgd/metrics.jsonl").unlink()
    done = landscape("train", "--epochs", 2, "--label-noise", 0.2, "--out", runs / "sgd", "--resume")
    refused(done, 3, "metrics.jsonl does not hold the epochs 1 to 2")


def test_a_trace_of_damaged_metrics(landscape, runs):
    metrics = runs / "sgd/metrics.jsonl"
    whole_lines = metrics.read_bytes()
    metrics.write_bytes(whole_lines + b'{"epoch": 3, "cos\xff')  # torn: the run is still going on
    assert landscape("alignment", runs / "sgd", "--force").code == 0
    for damaged in (
        b"3\n",
        *(whole_lines.replace(b'"epoch": 1', b'"epoch": ' + v) for v in (b"null", b"1.5", b"true")),
        b'{"epoch": "hi"}\n',
        whole_lines.replace(b'"cosine_b": ', b'"cosine_b": 1e400, "x": '),
    ):
        metrics.write_bytes(damaged + whole_lines)
        refused(landscape("alignment", runs / "sgd", "--force"), 3, "metrics.jsonl", "line 1")


def test_weights_that_leave_no_direction_to_move_in(landscape, runs):
    model = torch.load(runs / "sgd/last.pt", weights_only=True)["model"]
    spoil(runs / "sgd/last.pt", model={name: torch.zeros_like(value) for name, value in model.items()})
    refused(landscape("surface", runs / "sgd/last.pt", "--steps", 1), 2, "no parameter moves")


def test_an_extent_beyond_the_dtype(landscape, runs):
    refused(landscape("surface", runs / "sgd/last.pt", "--extent", "1e39"), 2, "range of torch.float32")


def test_resume_refuses_results_of_other_data_for_the_same_weights(landscape, tmp_path):
    for name, noise in (("a", 0.0), ("b", 0.5)):  # both diverge at once: equal weights, other labels
        landscape("train", "--lr", 1e30, "--epochs", 1, "--label-noise", noise, "--out", tmp_path / name)
    out = ("--steps", 1, "--out", tmp_path / "s.npz")
    assert landscape("surface", tmp_path / "a/last.pt", *out).code == 0
    refused(landscape("surface", tmp_path / "b/last.pt", *out, "--resume"), 3, "other settings", "data")


@pytest.mark.parametrize("stream", [">&-", "2>&-"])
def test_a_closed_stream_is_no_bug(runs, stream):
    command = f"{sys.executable} -m cli surface {runs}/sgd/last.pt --steps 1 {stream}"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, cwd=runs)
    assert done.returncode == 0, done.stderr
    assert (runs / "sgd/surface.npz").exists()
    assert "bug" not in done.stderr


def test_a_folder_whose_name_is_no_text(landscape, runs):
    odd = os.fsdecode(os.fsencode(runs) + b"/odd\xff")
    shutil.copytree(runs / "sgd", odd)
    assert landscape("surface", os.path.join(odd, "last.pt"), "--steps", 1).code == 0  # noqa: PTH118
    assert landscape("report", odd).code == 0
