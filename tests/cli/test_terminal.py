"""What a person at a terminal sees: pictures in characters, completion in three shells, quick answers."""

import json
import subprocess
import sys

import pytest

import cli
from landscape.results import load_file

SMALL = ("--steps", 5, "--split", "test")


def test_show_draws_the_surfaces_below_their_table(landscape, runs):
    words = ("surface", runs / "sgd", runs / "sam", *SMALL, "--out", runs / "s.npz")
    plain = landscape(*words)
    shown = landscape(*words, "--resume", "--show")
    assert shown.code == 0, shown.err
    assert shown.out.startswith(plain.out)
    picture = shown.out.removeprefix(plain.out)
    assert picture.startswith("\nsgd")
    assert "mean loss, log scale" in picture
    assert picture.count("\n\n") == 0
    assert max(map(len, shown.out.splitlines())) <= 100


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("surface", "sgd", *SMALL, "--line"), "+ the checkpoint"),
        (("hessian", "sgd", "--top", 2, "--examples", 100), "Eigenvalues, largest first"),
        (("alignment", "sgd", "sam"), "Gradient congruence, epochs"),
    ],
)
def test_show_draws_what_a_command_measures(landscape, runs, monkeypatch, words, told):
    monkeypatch.chdir(runs)
    done = landscape(*words, "--show")
    assert done.code == 0, done.err
    assert told in done.out
    assert done.out.isascii() or "±" in done.out  # blocks are for terminals that say that they can


def test_a_number_alone_has_no_picture_and_that_is_said(landscape, runs):
    done = landscape("alignment", runs / "sgd/last.pt", "--show")
    assert done.code == 0
    assert "single numbers have no picture" in done.err


def test_show_adds_nothing_to_a_document_and_changes_no_number(landscape, runs):
    out = ("--out", runs / "s.npz")
    done = landscape("surface", runs / "sgd", *SMALL, "--json", "--show", *out)
    assert set(json.loads(done.out)["results"]) == {"file", "tables"}
    assert "--show" not in load_file(runs / "s.npz").run["command"]
    assert landscape("surface", runs / "sgd", *SMALL, "--resume", *out).code == 0  # the same plan


def test_a_document_has_what_the_table_says_also_where_a_number_failed_its_check(landscape, runs):
    words = ("hessian", runs / "sgd", "--top", 2, "--examples", 100, "--max-matvecs", 26, "--tolerance", 1e-12)
    shown = landscape(*words)
    done = landscape(*words, "--resume", "--json")
    assert shown.code == done.code == 4
    document = json.loads(done.out)
    assert document["ok"] is False
    (table,) = document["results"]["tables"]
    said = " ".join(shown.out.split())
    assert table["title"] in said
    assert all(note in said for note in table["notes"])
    assert "NOT converged" in table["notes"][0]


COMPLETED = [
    ("landscape al", {"alignment"}),
    ("landscape hessian --per", {"--per-layer"}),
    ("landscape hessian --operator g", {"gauss-newton"}),
    ("landscape train --recipe cifar100-wrn", {"cifar100-wrn28x10"}),
    ("landscape train --method as", {"asam"}),
    ("landscape train --model wrn28", {"wrn28_10"}),
    ("landscape surface --directions p", {"pca"}),
    ("landscape data check cifar100", {"cifar100"}),
]


@pytest.fixture
def completed(monkeypatch, capsys):
    return lambda shell, line: complete(monkeypatch, capsys, shell, line)


def complete(monkeypatch, capsys, shell, line):
    """What a shell is told at the end of `line`."""
    monkeypatch.setenv("_LANDSCAPE_COMPLETE", f"{shell}_complete")
    monkeypatch.setenv("COMP_WORDS", line)
    words = line.split(" ")
    monkeypatch.setenv("COMP_CWORD", words[-1] if shell == "fish" else str(len(words) - 1))
    assert cli.main([]) == 0
    done = capsys.readouterr()
    assert done.err == ""
    return done.out


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
@pytest.mark.parametrize(("line", "expected"), COMPLETED)
def test_each_shell_completes_commands_options_choices_and_names(completed, shell, line, expected):
    told = completed(shell, line).splitlines()
    if shell == "bash":
        found = {one.removeprefix("plain,") for one in told}
    elif shell == "zsh":
        found = set(told[1::3])
        assert set(told[::3]) == {"plain"}
    else:
        found = {one.removeprefix("plain,").split("\t")[0] for one in told}
    assert found == expected


@pytest.mark.parametrize("line", ["hessian ru", "report ru", "train --weights ru", "surface --directions ./ru"])
def test_a_path_is_left_to_the_shell(completed, line):
    assert completed("bash", f"landscape {line}").startswith("file,")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_gets_its_script(monkeypatch, capsys, shell):
    monkeypatch.setenv("_LANDSCAPE_COMPLETE", f"{shell}_source")
    assert cli.main([]) == 0
    script = capsys.readouterr().out
    assert "_landscape_completion" in script
    assert f"_LANDSCAPE_COMPLETE={shell}_complete" in script


def test_bash_completes_by_the_script_that_it_sources(tmp_path):
    program = tmp_path / "landscape"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m cli "$@"\n')
    program.chmod(0o755)
    script = """
        eval "$(_LANDSCAPE_COMPLETE=bash_source landscape)"
        COMP_WORDS=(landscape hessian --operator g); COMP_CWORD=3
        _landscape_completion landscape; echo "${COMPREPLY[@]}"
        """
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "PYTHONPATH": ":".join(sys.path)}
    done = subprocess.run(["bash", "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("gauss-newton\n", "")


@pytest.mark.parametrize("words", [["hessian", "--help"], ["surface", "--help"], ["train", "--list-recipes"], []])
def test_help_and_completion_need_no_torch_and_are_therefore_quick(words):
    completing = {"_LANDSCAPE_COMPLETE": "bash_complete", "COMP_WORDS": "landscape train --recipe c", "COMP_CWORD": "3"}
    script = (
        f"import sys, os; os.environ.update({completing if not words else {}!r}); import cli; "
        f"assert cli.main({words!r}) == 0; found = {{'torch', 'plotly', 'sklearn', 'scipy'}} & set(sys.modules); "
        "assert not found, found"
    )
    subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
