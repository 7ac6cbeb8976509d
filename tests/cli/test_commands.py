"""The commands on real, small runs: what they print, write, and leave alone."""

import json
import math
import os
import re
import signal
import subprocess
import sys
import time
import zipfile

import numpy as np
import pytest

import landscape as ls
from landscape.results import load_file
from train.checkpoint import content_hash, read

SMALL = ("--steps", 3)


def test_train_prints_its_results_and_leaves_a_run_folder(landscape, tmp_path):
    done = landscape("train", "--epochs", 1, "--out", tmp_path / "run")
    assert done.code == 0
    assert done.out.startswith(f"saved {tmp_path}/run/last.pt   test accuracy ")
    assert done.out.count("\n") == 2
    assert {p.name for p in (tmp_path / "run").iterdir()} == {"config.toml", "metrics.jsonl", "last.pt", "best.pt"}


def test_averaged_weights_are_measured_as_any_checkpoint(landscape, tmp_path):
    done = landscape("train", "--epochs", 2, "--ema", 0.9, "--out", tmp_path / "run")
    assert f"saved {tmp_path}/run/ema.pt   test accuracy of the averaged weights " in done.out
    done = landscape("surface", tmp_path / "run/last.pt", tmp_path / "run/ema.pt", "--steps", 1)
    assert done.code == 0, done.err
    assert "ema" in done.out


def test_train_writes_events_for_tensorboard_where_it_is_there(landscape, tmp_path):
    pytest.importorskip("tensorboard", reason="tensorboard is not installed: pip install -e '.[tensorboard]'")
    words = ("train", "--epochs", 1, "--out", tmp_path / "run")
    for more in (("--tensorboard",), ("--tensorboard", "--resume")):
        done = landscape(*words, *more)
        assert done.code == 0, done.err
        assert len(list((tmp_path / "run/tensorboard").glob("events.out.tfevents.*"))) == 1
    assert landscape("report", tmp_path / "run").code == 3  # no results: events are none


def test_surface_measures_all_checkpoints_on_one_raw_plane(landscape, runs):
    done = landscape("surface", runs / "sgd/last.pt", runs / "sam/last.pt", *SMALL)
    assert done.code == 0, done.err
    one, other = ls.load(runs / "surface.npz")
    assert [one.checkpoint["label"], other.checkpoint["label"]] == ["sgd", "sam"]
    assert one.settings["seed"] == other.settings["seed"] == 0
    assert one.settings["labels"] == "20 % flipped, as trained"
    assert one.settings["split"] == "train"
    assert one.settings["num_examples"] == 1078
    assert one.checks["centre_ok"]
    assert other.checks["centre_ok"]


def test_the_centre_of_a_surface_is_what_training_measured(landscape, runs):
    landscape("surface", runs / "sgd/last.pt", *SMALL)
    last = json.loads((runs / "sgd/metrics.jsonl").read_text().splitlines()[-1])
    surface = ls.load(runs / "sgd/surface.npz")[0]
    assert surface.loss[1, 1] == pytest.approx(last["train_loss"], rel=1e-5)
    assert surface.accuracy[1, 1] == pytest.approx(last["train_accuracy"])


def test_test_labels_are_clean_whatever_the_training_noise(landscape, runs):
    landscape("surface", runs / "sgd/last.pt", *SMALL, "--split", "test")
    assert ls.load(runs / "sgd/surface.npz")[0].settings["labels"] == "clean"


def test_hessian_prints_each_number_with_its_residual_and_the_loss(landscape, runs):
    done = landscape("hessian", runs / "sgd/last.pt", runs / "sam/last.pt", "--top", 2, "--split", "val")
    assert done.code == 0, done.err
    lines = [line for line in done.out.splitlines() if line.startswith(("sgd ", "sam "))]
    for pairs, line in zip(ls.load(runs / "hessian.npz"), lines, strict=True):
        assert line.split()[0] == pairs.checkpoint["label"]
        assert float(line.split()[1]) == pytest.approx(pairs.loss, rel=0.01)
        assert float(line.split()[2]) == pytest.approx(pairs.values[0], rel=1e-3)
        assert pairs.converged.all()
        assert pairs.complete
        assert pairs.vectors is None
    assert "all converged" in done.out


def test_alignment_of_runs_is_their_recorded_trace(landscape, runs):
    done = landscape("alignment", runs / "sgd", runs / "sam")
    assert done.code == 0, done.err
    lines = [json.loads(line) for line in (runs / "sam/metrics.jsonl").read_text().splitlines()]
    trace = ls.load(runs / "alignment.npz")[1]
    assert trace.cosine_b.tolist() == [line["cosine_b"] for line in lines]
    assert trace.change_standard_error.tolist() == [line["change_standard_error"] for line in lines]


def test_alignment_of_a_checkpoint_is_measured_now(landscape, runs):
    done = landscape("alignment", runs / "sgd/last.pt")
    assert done.code == 0, done.err
    found = ls.load(runs / "sgd/alignment.npz")[0]
    assert -1 <= found.value <= 1
    assert found.standard_error > 0
    assert found.settings["num_validation_examples"] == 359


def test_report_joins_what_the_folders_hold(landscape, runs):
    for command in (("surface", *SMALL), ("hessian", "--top", 1, "--split", "test")):
        landscape(command[0], runs / "sgd/last.pt", *command[1:])
    done = landscape("report", runs)
    assert done.code == 0, done.err
    page = (runs / "report.html").read_text()
    train = f"landscape train --epochs 2 --label-noise 0.2 --out {runs}/sgd"
    surface = f"landscape surface {runs}/sgd/last.pt --steps 3"
    assert page.index(train) < page.index(surface) < page.index(f"landscape hessian {runs}")  # in their order
    assert "plotly" in page


def test_a_picture_has_the_width_of_a_column_or_two(landscape, trained, tmp_path):
    assert landscape("surface", trained / "sgd", *SMALL, "--out", tmp_path / "s.npz").code == 0
    widths = []
    for width in ("single", "double"):
        file = tmp_path / f"{width}.svg"
        assert landscape("export", tmp_path / "s.npz", "--to", "svg", "--width", width, "--out", file).code == 0
        widths.append(float(re.search(r'width="([\d.]+)pt"', file.read_text())[1]))
    assert widths == pytest.approx([72 * 3.25, 72 * 6.75], rel=0.1)
    refused = landscape("export", tmp_path / "s.npz", "--to", "csv", "--width", "single")
    assert refused.code == 2
    assert "--width is of pictures (png, svg, pdf), not of csv" in refused.err


def test_export_draws_each_plane_apart_and_says_what_it_leaves_out(landscape, trained, tmp_path):
    words = ("--steps", 3, "--planes", 2, "--split", "test")
    assert landscape("surface", trained / "sgd", *words, "--out", tmp_path / "s.npz").code == 0
    done = landscape("export", tmp_path / "s.npz", "--to", "svg", "--clip", 1e9, "--json")
    assert done.code == 0, done.err
    found = json.loads(done.out)["results"]
    assert [file.rpartition("/")[2] for file in found["files"]] == ["s-surface-plane-1.svg", "s-surface-plane-2.svg"]
    assert ["seed 0" in found["captions"][0], "seed 1" in found["captions"][1]] == [True, True]
    assert found["note"] == ""
    words = ("--top", 1, "--trace", "--split", "test", "--out", tmp_path / "h.npz")
    assert landscape("hessian", trained / "sgd/last.pt", *words).code == 0
    done = landscape("export", tmp_path / "h.npz", "--to", "png")
    assert "h.png: eigenvalues; hessian, test" in done.err
    assert "not drawn: trace (1), trace / λmax (1): --to csv and --to json have them" in done.err
    refused = landscape("export", tmp_path / "h.npz", "--to", "json", "--clip", 3)
    assert refused.code == 2
    assert "--clip is of pictures (png, svg, pdf), not of json" in refused.err


def test_export_writes_beside_the_file_or_where_it_is_told(landscape, trained, tmp_path):
    folder = tmp_path / "there"
    folder.mkdir()
    words = ("surface", trained / "sgd", trained / "sam", "--split", "test", "--steps", 3)
    assert landscape(*words, "--out", tmp_path / "s.npz").code == 0
    for out in ((), ("--out", folder), ("--out", f"{tmp_path / 'new'}/"), ("--out", tmp_path / "fig.v2")):
        done = landscape("export", tmp_path / "s.npz", "--to", "csv", *out)
        assert done.code == 0, done.err
    names = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.csv"))
    stems = ("fig.v2", "new/s", "s", "there/s")
    assert names == [f"{stem}-{n}-surface-{label}.csv" for stem in stems for n, label in enumerate(("sgd", "sam"))]
    done = landscape("export", tmp_path / "s.npz", "--to", "csv", "--out", folder)
    assert done.code == 6
    assert f"{folder / 's-0-surface-sgd.csv'} exists" in done.err


def test_the_page_spells_a_switch_as_the_command_line_takes_it(landscape, tmp_path):
    landscape("train", "--epochs", 1, "--nesterov", "--out", tmp_path / "run")
    landscape("surface", tmp_path / "run", "--steps", 1)
    landscape("report", tmp_path / "run")
    command = f"landscape train --epochs 1 --nesterov --out {tmp_path}/run"
    assert command in (tmp_path / "run/report.html").read_text()
    assert landscape(*command.split()[1:], "--resume").code == 0  # the settings are those of the run


def test_the_same_command_gives_the_same_bits(landscape, runs, tmp_path):
    for name in ("a", "b"):
        landscape("surface", runs / "sgd/last.pt", *SMALL, "--out", tmp_path / f"{name}.npz")
    with zipfile.ZipFile(tmp_path / "a.npz") as a, zipfile.ZipFile(tmp_path / "b.npz") as b:
        assert [name for name in a.namelist() if a.read(name) != b.read(name)] == ["run.npy"]


def test_a_results_file_says_what_made_it(landscape, runs):
    landscape("surface", runs / "sgd/last.pt", *SMALL, "--quiet", "--force")
    file = load_file(runs / "sgd/surface.npz")
    assert file.run["command"] == f"landscape surface {runs}/sgd/last.pt --steps 3"
    assert file.run["seconds"] > 0
    assert file.plan["steps"] == 3


def test_resume_keeps_an_equal_file_and_prints_its_table(landscape, runs):
    first = landscape("surface", runs / "sgd/last.pt", *SMALL)
    before = (runs / "sgd/surface.npz").stat().st_mtime_ns
    again = landscape("surface", runs / "sgd/last.pt", *SMALL, "--resume")
    assert (again.code, again.out) == (0, first.out)
    assert "is there already" in again.err
    assert (runs / "sgd/surface.npz").stat().st_mtime_ns == before


def test_resume_refuses_a_file_with_other_settings_and_names_them(landscape, runs):
    landscape("surface", runs / "sgd/last.pt", *SMALL)
    done = landscape("surface", runs / "sgd/last.pt", "--steps", 5, "--seed", 1, "--resume")
    assert done.code == 3
    assert "has other settings: seed, steps" in done.err


def test_resume_goes_on_with_an_unfinished_run(landscape, tmp_path):
    whole = landscape("train", "--epochs", 2, "--out", tmp_path / "whole")
    assert whole.code == 0
    again = landscape("train", "--epochs", 2, "--out", tmp_path / "whole", "--resume")
    assert again.code == 0
    assert "there already" in again.out


def test_json_is_one_document_and_stdout_holds_nothing_else(landscape_json, runs, tmp_path):
    lines = [
        ("train", "--epochs", 1, "--out", tmp_path / "run"),
        ("surface", runs / "sgd/last.pt", *SMALL),
        ("hessian", runs / "sgd/last.pt", "--top", 1, "--split", "val"),
        ("alignment", runs / "sgd"),
        ("report", runs),
    ]
    for argv in lines:
        done = landscape_json(*argv)
        assert done.code == 0, done.err
        assert done.document["ok"] is True
        assert done.document["command"] == argv[0]
        assert done.document["results"]
        assert done.err == ""


def test_the_json_of_a_table_holds_its_numbers(landscape_json, runs):
    done = landscape_json("hessian", runs / "sgd/last.pt", "--top", 2, "--split", "val")
    row = done.document["results"]["tables"][0]["rows"][0]
    pairs = ls.load(runs / "sgd/hessian.npz")[0]
    assert row["values"] == pairs.values.tolist()
    assert row["residuals"] == pairs.residuals.tolist()
    assert row["ln"] == pytest.approx(math.log(pairs.values[0]))


def test_the_next_useful_command_is_said(landscape, runs):
    done = landscape("surface", runs / "sgd/last.pt", "--steps", 1)
    assert done.err.splitlines()[-1] == f"next: landscape report {runs}/sgd"


def test_quiet_leaves_stderr_empty(landscape, runs):
    assert landscape("surface", runs / "sgd/last.pt", *SMALL, "--quiet").err == ""


def test_cells_that_are_not_finite_are_kept_and_exit_4(landscape, runs):
    done = landscape("surface", runs / "sgd/last.pt", *SMALL, "--extent", 1e20)
    assert done.code == 4
    assert "cells are not finite; try a smaller extent" in done.err
    surface = ls.load(runs / "sgd/surface.npz")[0]
    assert surface.num_nonfinite > 1
    assert np.isfinite(surface.loss[1, 1])
    allowed = ("--max-nonfinite", 1, "--force")
    assert landscape("surface", runs / "sgd/last.pt", *SMALL, "--extent", 1e20, *allowed).code == 0


def test_eigenvalues_that_did_not_converge_are_kept_and_exit_4(landscape, runs):
    done = landscape("hessian", runs / "sgd/last.pt", "--tolerance", 1e-12, "--max-matvecs", 40, "--split", "val")
    assert done.code == 4
    assert "did not converge" in done.err
    assert "NOT converged" in done.out
    assert not ls.load(runs / "sgd/hessian.npz")[0].converged.all()


def test_training_that_diverges_exits_4_and_keeps_the_last_good_checkpoint(landscape, tmp_path):
    done = landscape("train", "--lr", 1e30, "--epochs", 2, "--out", tmp_path / "run")
    assert done.code == 4
    assert "training diverged" in done.err
    assert landscape("surface", tmp_path / "run/last.pt", "--steps", 1).code == 0


@pytest.fixture(scope="module")
def demo(landscape, tmp_path_factory):
    """A small demo: its folder, and what it printed."""
    folder = tmp_path_factory.mktemp("demo")
    done = landscape("demo", "--out", folder, "--epochs", 1, "--steps", 3)
    assert done.code == 0, done.err
    return folder, done.out


def test_the_demo_makes_everything(demo):
    made = {path.name for path in demo[0].iterdir()}
    results = {"hessian.npz", "surface-train.npz", "surface-test.npz", "alignment.npz"}
    assert made == {"sgd", "sam", "agnostic-sam", "report.html", "demo.png"} | results


def test_the_demo_keeps_to_a_hundred_columns(demo):
    folder, out = demo
    printed = [line for line in out.splitlines() if str(folder) not in line]  # a folder has the name that it has
    assert len(printed) > 30
    assert max(map(len, printed)) <= 100


def test_the_demo_ends_with_a_table_of_all_checkpoints(demo):
    folder, out = demo
    table = out[out.index("All checkpoints:") :].splitlines()
    assert table[1].split() == ["test", "accuracy", "train", "loss", "lambda_1", "ln", "log10"]
    surfaces = {s.checkpoint["label"]: s for s in ls.load(folder / "surface-test.npz")}
    for line, label in zip(table[2:5], ("sgd", "sam", "agnostic-sam"), strict=True):
        assert line.split()[0] == label
        assert float(line.split()[1]) == pytest.approx(100 * surfaces[label].accuracy[1, 1], abs=0.06)


def test_a_second_demo_reuses_what_is_there(landscape, demo):
    made = {path: path.stat().st_mtime_ns for path in demo[0].rglob("*") if path.suffix in (".npz", ".pt", ".jsonl")}
    assert len(made) == 4 + 3 * 3
    assert landscape("demo", "--out", demo[0], "--epochs", 1, "--steps", 3).code == 0
    assert {path: path.stat().st_mtime_ns for path in made} == made


def test_each_command_that_the_demo_prints_can_be_run_alone(landscape, demo):
    lines = demo[1].replace(" \\\n", " ").splitlines()
    commands = [line.split()[2:] for line in lines if line.startswith("$ landscape ")]
    assert len(commands) == 7
    for command in commands:
        done = landscape(*command, "--resume")  # equal in every setting to what the demo made
        assert done.code == 0, done.err
        assert "there already" in done.out + done.err


def test_a_demo_with_other_settings_says_how_to_go_on(landscape, demo):
    done = landscape("demo", "--out", demo[0], "--epochs", 2, "--steps", 3)
    assert done.code == 3
    assert "epochs 1 there, 2 now" in done.err
    assert done.err.endswith("landscape demo --force makes it all anew, --out another folder beside it\n")


@pytest.mark.parametrize(
    ("number", "code", "word"), [(signal.SIGTERM, 143, "terminated"), (signal.SIGINT, 130, "interrupted")]
)
def test_a_signal_in_training_ends_it_after_the_step_and_the_printed_command_goes_on(tmp_path, number, code, word):
    words = ["--epochs", "3", "--batch-size", "64", "--seed", "5"]  # 16 steps an epoch
    command = [sys.executable, "-m", "cli", "train", *words, "--out"]
    process = subprocess.Popen(
        [*command, str(tmp_path / "run")],
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        preexec_fn=lambda: signal.signal(
            signal.SIGINT, signal.SIG_DFL
        ),  # ignored where the tests run in the background
    )
    wait_for(tmp_path / "run/best.pt")
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == code
    assert "Traceback" not in err
    assert not list((tmp_path / "run").glob(".*tmp*"))
    half = read(tmp_path / "run")
    assert half.step - 16 * half.epoch in range(1, 17)
    assert f"stopped after {half.epoch} whole epochs and step {half.step}, which last.pt holds" in err
    to_go_on = f"landscape train {' '.join(words)} --out {tmp_path}/run --resume"
    assert err.endswith(f"landscape: {word}. {to_go_on} goes on\n")
    for argv in (to_go_on.split()[2:], [*words, "--out", str(tmp_path / "whole")]):
        subprocess.run([*command[:4], *argv], check=True, capture_output=True, cwd=tmp_path)
    parts, whole = read(tmp_path / "run"), read(tmp_path / "whole")
    assert (content_hash(parts.model), parts.metrics) == (content_hash(whole.model), whole.metrics)


def wait_for(path):
    for _ in range(600):
        if path.exists():
            return
        time.sleep(0.1)
    raise AssertionError(f"{path} did not appear")


def test_a_closed_pipe_is_quiet(runs):
    command = f"{sys.executable} -m cli surface {runs}/sgd/last.pt --steps 1 --quiet | true"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, cwd=runs)
    assert done.stderr == ""


def test_help_needs_no_torch_and_is_therefore_quick():
    script = (
        "import sys, cli; code = cli.main(['--help']); assert code == 0 and 'torch' not in sys.modules; "
        "assert 'sklearn' not in sys.modules and 'plotly' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "landscape demo" in done.stdout


def test_no_command_shows_the_help(landscape):
    done = landscape()
    assert done.code == 2
    assert "landscape demo" in done.err
    assert done.out == ""


def test_every_command_explains_itself_with_two_examples(landscape):
    import cli

    assert sorted(cli.app.commands) == [
        *("alignment", "data", "demo", "export", "hessian", "merge", "report", "surface", "train"),
    ]
    for name in cli.app.commands:
        done = landscape(name, "--help")
        assert done.code == 0
        assert done.out.count(f"landscape {name}") >= 3  # usage, and two examples
        assert all(len(line) <= 100 for line in done.out.splitlines()), name


def test_no_color_codes_and_no_tracebacks_in_plain_output(landscape, runs):
    done = landscape("hessian", runs / "sgd/last.pt", "--top", 1, "--split", "val")
    assert "\x1b" not in done.out + done.err
    assert os.linesep in done.out
