"""What is built is whole, and works outside the repository."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    out = tmp_path_factory.mktemp("dist")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    return next(out.glob("agnostic_landscape-*.whl"))


def test_the_wheel_holds_every_module_and_the_page(wheel):
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if ".dist-info" not in name}
    sources = {
        p.relative_to(ROOT).as_posix()
        for folder in ("train", "landscape")
        for p in (ROOT / folder).rglob("*")
        if p.is_file() and "__pycache__" not in p.parts
    }
    assert packed == sources | {"cli.py"}
    assert {"train/models/resnet.py", "landscape/page/report.html"} <= packed


def test_the_wheel_works_outside_the_repository(wheel, tmp_path):
    site = tmp_path / "site"
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(site), str(wheel)]
    subprocess.run(install, check=True, capture_output=True)
    script = (
        "import cli, landscape, train; from pathlib import Path; "
        f"assert all(Path(m.__file__).is_relative_to({str(site)!r}) for m in (cli, landscape, train)); "
        "raise SystemExit(cli.main(['train', '--epochs', '1', '--out', 'run']) or "
        "cli.main(['surface', 'run/last.pt', '--steps', '3']) or cli.main(['report', 'run']))"
    )
    environment = {**os.environ, "PYTHONPATH": str(site)}
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run/report.html").stat().st_size > 1_000_000


def test_a_file_that_stands_before_our_train_package_is_named(tmp_path):
    (tmp_path / "train.py").write_text("print('somebody else')\n")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    command = [sys.executable, "-m", "cli", "train", "--epochs", "1"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 2
    assert f"{tmp_path}/train.py stands before landscape's own package" in done.stderr
    assert "Traceback" not in done.stderr
