"""The README and docs/ are run: their shell lines as commands, their Python as programs, their links as files."""

import re
import shlex
from pathlib import Path

import pytest

import cli

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text()
PAGES = sorted((ROOT / "docs").glob("*.md"))


def blocks(language, text=TEXT):
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


def run_lines(text, capsys):
    lines = [line for block in blocks("console", text) for line in block.splitlines() if line.startswith("$ ")]
    for line in lines:
        program, *argv = shlex.split(line.removeprefix("$ "))
        assert program == "landscape"
        assert cli.main(argv) == 0, (line, capsys.readouterr().err)
    return len(lines)


@pytest.mark.slow
def test_every_shell_line_runs_in_its_order(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run_lines(TEXT, capsys) >= 5
    assert (tmp_path / "runs/sam/report.html").exists()


@pytest.fixture(scope="module")
def two_runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("docs")
    for method in ("sgd", "sam"):
        run = ["--method", method, "--epochs", "3", "--save-every", "1", "--out", str(folder / "runs" / method)]
        assert cli.main(["train", *run]) == 0
    return folder


@pytest.mark.slow
@pytest.mark.filterwarnings("default::landscape.surface.StatisticsWarning")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_shell_line_of_the_docs_runs(page, two_runs, monkeypatch, capsys):
    monkeypatch.chdir(two_runs)
    assert run_lines(page.read_text(), capsys) >= 2


def test_every_page_of_the_docs_is_linked_from_the_readme():
    assert len(PAGES) >= 5
    for page in PAGES:
        assert f"(docs/{page.name})" in TEXT


@pytest.mark.parametrize("index", range(len(blocks("python"))))
def test_every_python_block_runs(index, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(blocks("python")[index], "README.md", "exec"), {"__name__": "readme"})


def test_the_python_blocks_are_there():
    assert len(blocks("python")) == 2
    assert len([line for line in blocks("python")[0].splitlines() if line.strip()]) <= 12


@pytest.mark.parametrize("document", [*sorted(ROOT.glob("*.md")), *PAGES], ids=lambda page: page.name)
def test_every_link_to_a_file_has_its_file(document):
    for target in re.findall(r"\]\(([^)#]+)\)", document.read_text()):
        if "://" not in target:
            assert (document.parent / target).exists(), target


def test_every_file_that_the_architecture_names_exists():
    named = set(
        re.findall(
            r"`((?:train|landscape)/[\w/]+\.py|cli\.py|landscape/page/)`", (ROOT / "ARCHITECTURE.md").read_text()
        )
    )
    assert len(named) > 15
    for name in named:
        assert (ROOT / name).exists(), name
    modules = {
        str(p.relative_to(ROOT))
        for folder in ("train", "landscape", "landscape/page")
        for p in (ROOT / folder).glob("*.py")
    }
    assert {m for m in modules if not m.endswith("__init__.py")} - named <= {"train/streams.py", "train/metrics.py"}


def options_of(command):
    return {name for option in command.params for name in option.opts if name.startswith("--")}


@pytest.mark.parametrize("document", [ROOT / "README.md", *PAGES], ids=lambda page: page.name)
def test_every_option_that_is_named_exists(document):
    others = {"--help", "--no-python", "--nproc-per-node", "--array", "--wrap"}  # the last of torchrun and sbatch
    known = others.union(*map(options_of, cli.app.commands.values()))
    assert set(re.findall(r"(?<![\w-])--[a-z][\w-]*", document.read_text())) <= known


def test_every_command_is_in_the_readme():
    for name in cli.app.commands:
        assert f"landscape {name}" in TEXT, name
