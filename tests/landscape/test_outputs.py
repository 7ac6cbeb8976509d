import pytest

import landscape as ls
from landscape import journal, outputs, survey
from landscape.journal import opened
from landscape.results import save

PLAN = {"command": "hessian", "steps": 3}


@pytest.fixture
def out(tmp_path):
    save(
        [ls.Estimate(quantity="trace", value=1.0, standard_error=0.0, num_samples=1, num_matvecs=1)],
        tmp_path / "h.npz",
        plan=PLAN,
    )
    return tmp_path / "h.npz"


def test_results_of_an_equal_plan_are_kept(out):
    (found,) = outputs.finished(out, PLAN, resume=True)
    assert found.value == 1.0
    assert outputs.finished(out, PLAN, force=True) is None
    assert outputs.finished(out.with_name("other.npz"), PLAN) is None


def test_results_are_neither_replaced_nor_taken_for_others_unasked(out):
    with pytest.raises(outputs.OutputExistsError, match=r"h\.npz exists") as error:
        outputs.finished(out, PLAN)
    assert error.value.hint == "--force replaces it, --resume keeps it if it is the same"
    with pytest.raises(outputs.OtherSettingsError, match=r"h\.npz has other settings: steps"):
        outputs.finished(out, {**PLAN, "steps": 5}, resume=True)
    with pytest.raises(outputs.NotAFileError, match="is a folder; give --out a file name"):
        outputs.finished(out.parent, PLAN)


@pytest.mark.parametrize("unfinished", [outputs.EARLY, outputs.FAILED])
def test_results_that_lack_something_are_made_again(out, unfinished):
    results = outputs.finished(out, PLAN, resume=True)
    save(results, out, plan={**PLAN, unfinished: True})
    assert outputs.finished(out, PLAN, resume=True) is None


def test_a_folder_that_cannot_be_written_to_is_told_before_the_work(tmp_path, monkeypatch):
    monkeypatch.setattr("os.access", lambda path, mode: path != tmp_path)
    with pytest.raises(outputs.UnwritableError, match="a/b cannot be written to"):
        outputs.finished(tmp_path / "a/b/h.npz", PLAN)


def test_a_page_is_made_anew_and_nothing_else_is_replaced_unasked(tmp_path):
    page = tmp_path / "page.html"
    outputs.refuse_to_replace(page)
    page.write_text("my notes")
    with pytest.raises(outputs.OutputExistsError, match="exists, and is not a page of ours"):
        outputs.refuse_to_replace(page)
    outputs.refuse_to_replace(page, force=True)
    ls.write_report([], page)
    outputs.refuse_to_replace(page)
    with pytest.raises(outputs.NotAFileError, match="is a folder"):
        outputs.refuse_to_replace(tmp_path, force=True)


def test_a_journal_is_gone_on_with_by_its_own_shards_alone(tmp_path):
    out = tmp_path / "s.npz"
    folder = survey.begin(out, PLAN)
    assert folder == journal.folder_of(out)
    journal.write_plan(folder, {"decided": PLAN, "surfaces": []})
    with opened(folder, (1, 2), 1):
        pass
    with pytest.raises(outputs.OutputExistsError, match="holds a surface that was not finished"):
        survey.begin(out, PLAN, (1, 2))
    assert survey.begin(out, PLAN, (2, 2)) == survey.begin(out, PLAN, (1, 2), resume=True) == folder
    with pytest.raises(outputs.OtherSettingsError, match=r"was begun with other shards \(1-of-2\)"):
        survey.begin(out, PLAN, (1, 3), resume=True)
    survey.begin(out, {**PLAN, "steps": 5}, force=True)
    assert not folder.exists()
