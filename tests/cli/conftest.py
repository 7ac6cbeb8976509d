import errno
import io
import json
import os
import shutil
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from types import SimpleNamespace

import pytest

import cli


def call(*argv):
    """Run a command line in this process: its exit code, stdout and stderr."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = cli.main([str(word) for word in argv])
    return SimpleNamespace(code=code, out=out.getvalue(), err=err.getvalue())


@pytest.fixture(scope="session")
def landscape():
    return call


@pytest.fixture
def landscape_json():
    def run(*argv):
        done = call(*argv, "--json")
        return SimpleNamespace(code=done.code, err=done.err, document=json.loads(done.out))

    return run


@pytest.fixture
def full_for(monkeypatch):
    """Makes the disk too full for files whose names end so."""
    replace = Path.replace

    def refuse(*endings):
        def replaced(path, target):
            if target.name.endswith(endings):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
            return replace(path, target)

        monkeypatch.setattr(Path, "replace", replaced)

    return refuse


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """Two small runs, trained once: never written to."""
    folder = tmp_path_factory.mktemp("runs")
    for method in ("sgd", "sam"):
        done = call("train", "--method", method, "--epochs", 2, "--label-noise", 0.2, "--out", folder / method)
        assert done.code == 0, done.err
    return folder


@pytest.fixture
def runs(trained, tmp_path):
    """A copy of the runs that a test may spoil."""
    return shutil.copytree(trained, tmp_path / "runs")
