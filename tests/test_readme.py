"""The README is run: its shell lines as commands, its Python as programs, its links as files."""

import re
import shlex
from pathlib import Path

import pytest

import cli

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text()


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", TEXT, flags=re.DOTALL)


@pytest.mark.slow
def test_every_shell_line_runs_in_its_order(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    lines = [line for block in blocks("console") for line in block.splitlines() if line.startswith("$ ")]
    assert len(lines) >= 5
    for line in lines:
        program, *argv = shlex.split(line.removeprefix("$ "))
        assert program == "landscape"
        assert cli.main(argv) == 0, (line, capsys.readouterr().err)
    assert (tmp_path / "runs/sam/report.html").exists()


@pytest.mark.parametrize("index", range(len(blocks("python"))))
def test_every_python_block_runs(index, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(blocks("python")[index], "README.md", "exec"), {"__name__": "readme"})


def test_the_python_blocks_are_there():
    assert len(blocks("python")) == 2
    assert len([line for line in blocks("python")[0].splitlines() if line.strip()]) <= 12


@pytest.mark.parametrize("document", sorted(p.name for p in ROOT.glob("*.md")))
def test_every_link_to_a_file_has_its_file(document):
    for target in re.findall(r"\]\(([^)#]+)\)", (ROOT / document).read_text()):
        if "://" not in target:
            assert (ROOT / target).exists(), target


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


def test_every_command_is_in_the_readme():
    for name in cli.app.commands:
        assert f"landscape {name}" in TEXT, name
