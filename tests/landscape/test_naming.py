from pathlib import Path

import pytest

from landscape.naming import common_folder, labels_of, nearest_path


@pytest.mark.parametrize(
    ("paths", "labels"),
    [
        (["runs/sgd/last.pt"], ["sgd"]),
        (["runs/sgd/last.pt", "runs/sam/last.pt"], ["sgd", "sam"]),
        (["a/sgd/last.pt", "b/sgd/last.pt"], ["a/sgd", "b/sgd"]),
        (["runs/sgd/last.pt", "runs/sgd/best.pt"], ["sgd", "sgd/best.pt"]),
        (["runs/sgd", "runs/sam"], ["sgd", "sam"]),
    ],
)
def test_a_label_is_as_much_of_a_path_as_tells_it_from_the_others(paths, labels):
    assert labels_of([Path(path) for path in paths]) == labels


def test_one_file_given_twice_has_two_labels():
    first, second = labels_of([Path("a/last.pt"), Path("a/last.pt")])
    assert first.endswith("a (1)")
    assert second.endswith("a (2)")


def test_a_link_keeps_its_name(tmp_path):
    (tmp_path / "sgd").mkdir()
    (tmp_path / "baseline").symlink_to(tmp_path / "sgd")
    assert labels_of([tmp_path / "baseline/last.pt"]) == ["baseline"]


def test_results_go_to_the_deepest_folder_of_all(tmp_path, monkeypatch):
    for name in ("runs/sgd", "runs/sam"):
        (tmp_path / name).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert common_folder([Path("runs/sgd/last.pt"), Path("runs/sam")]) == Path("runs")
    assert common_folder([Path("runs/sgd")]) == Path("runs/sgd")
    monkeypatch.chdir(tmp_path / "runs/sgd")
    assert common_folder([tmp_path / "runs/sam/last.pt", Path("last.pt")]) == tmp_path / "runs"


def test_a_path_that_is_not_there_names_those_that_are_near_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("runs/sgd").mkdir(parents=True)
    Path("runs/sgd/last.pt").touch()
    for path in ("runs/sgd/lsat.pt", "runs/sdg/last.pt"):
        assert nearest_path(Path(path)) == ". Did you mean runs/sgd/last.pt?"
    assert nearest_path(Path("runs/surface.npz")) == ""
