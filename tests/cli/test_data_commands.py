"""landscape data: list, path, check; and training on data that is absent or wrong."""

import numpy as np
import pytest


def refused(done, code, *words):
    line = done.err.strip().splitlines()[-1]
    assert done.code == code, (done.code, done.err)
    assert line.startswith("landscape: ")
    assert "Traceback" not in done.err
    for word in words:
        assert str(word) in line, line


def test_list_shows_every_set_with_its_state_sizes_and_licence(landscape, landscape_json, tmp_path):
    done = landscape("data", "list", "--data-root", tmp_path)
    assert done.code == 0
    assert all(len(line) <= 100 for line in done.out.splitlines())
    lines = {line.split()[0]: line for line in done.out.splitlines()}
    assert lines["digits"].split()[1:6] == ["present", "1,078", "359", "360", "10"]
    assert "absent" in lines["cifar10"]
    assert "45,000" in lines["cifar10"]
    document = landscape_json("data", "list", "--data-root", tmp_path).document
    assert document["ok"] is True
    assert document["command"] == "data"
    states = {one["name"]: one["state"] for one in document["results"]["data"]}
    assert states["digits32"] == "present"
    assert states["imagenet"] == "absent"


def test_path_prints_the_folder_alone(landscape, landscape_json, tmp_path, monkeypatch):
    done = landscape("data", "path", "cifar10", "--data-root", tmp_path)
    assert (done.code, done.out) == (0, f"{tmp_path}/cifar-10-batches-py\n")
    monkeypatch.setenv("LANDSCAPE_DATA", "/elsewhere")
    assert landscape("data", "path", "pets").out == "/elsewhere/oxford-iiit-pet\n"
    assert landscape_json("data", "path", "pets").document["results"]["folder"] == "/elsewhere/oxford-iiit-pet"


def test_check_reads_all_and_says_what_is_wrong(landscape, landscape_json, tmp_path):
    done = landscape("data", "check", "digits")
    assert (done.code, done.out) == (0, "digits is whole; checksums: none published\n")
    np.savez(tmp_path / "d.npz", x=np.zeros((9, 8, 8), "u1"), y=np.arange(9) % 3)
    assert landscape("data", "check", f"npz:{tmp_path}/d.npz").code == 0
    refused(landscape("data", "check", "cifar10", "--data-root", tmp_path), 3, "cifar10 is expected in", tmp_path)
    assert landscape_json("data", "check", "cifar10", "--data-root", tmp_path).document["error"]["code"] == 3


@pytest.mark.parametrize("command", [("data", "check"), ("data", "path"), ("train", "--data")], ids=" ".join)
def test_an_unknown_name_exits_2_with_the_nearest(landscape, command):
    refused(landscape(*command, "cifar"), 2, "data must be one of digits,", "Did you mean 'cifar10' or 'cifar100'")
    refused(landscape(*command, "npz:"), 2, "npz:PATH")


def test_training_on_absent_data_names_the_folder_and_the_fix(landscape, tmp_path):
    out = ("--out", tmp_path / "run")
    refused(
        landscape("train", "--data", "stanford-cars", "--data-root", tmp_path, *out),
        3,
        f"stanford-cars is expected in {tmp_path}/stanford_cars",
        "can no longer be downloaded",
    )
    refused(landscape("train", "--data", f"npz:{tmp_path}/no.npz", *out), 3, "there is no file")
    refused(landscape("train", "--data", "imagenet", "--download", "--data-root", tmp_path, *out), 3, "Register at")
    assert not (tmp_path / "run").exists()


def test_an_npz_with_objects_is_refused_for_safety(landscape, tmp_path):
    np.savez(tmp_path / "d.npz", x=np.array([{}], dtype=object), y=np.zeros(1, int))
    refused(landscape("train", "--data", f"npz:{tmp_path}/d.npz", "--out", tmp_path / "run"), 6, "Python objects")


def test_surfaces_are_measured_on_bytes_and_on_files(landscape, tmp_path):
    from PIL import Image

    rng = np.random.default_rng(0)
    np.savez(tmp_path / "d.npz", x=rng.integers(0, 256, (60, 8, 8), dtype=np.uint8), y=np.arange(60) % 2)
    for n in range(60):
        path = tmp_path / f"images/{'ab'[n % 2]}/{n}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(path)
    for name in (f"npz:{tmp_path}/d.npz", f"imagefolder:{tmp_path}/images"):
        run = tmp_path / name.partition(":")[0]
        options = ("--epochs", 1, "--batch-size", 8, "--augment", "paper")
        done = landscape("train", "--data", name, *options, "--out", run)
        assert done.code == 0, done.err
        done = landscape("surface", run / "last.pt", "--steps", 1)
        assert done.code == 0, done.err
