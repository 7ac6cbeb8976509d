import fcntl
import json
import math
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest

from landscape import journal
from landscape.journal import JournalBusyError, JournalError, folder_of, merged, opened, parse_shard, read_plan

SUMS = np.array([0.1, 1 / 3, 1e-300, math.nan, math.inf, -math.inf, 21.0, -0.0])


@pytest.fixture
def folder(tmp_path):
    folder = folder_of(tmp_path / "surface.npz")
    assert journal.write_plan(folder, {"steps": 3}) == {"steps": 3}
    return folder


def same(a, b):
    return a.dtype == b.dtype == np.float64 and a.tobytes() == b.tobytes()


def test_numbers_come_back_bit_for_bit(folder):
    with opened(folder, (1, 1), 2) as (first, second):
        assert first.known() == {}
        first.add({4: SUMS, 0: SUMS}, 64)
        second.add({1: SUMS[::-1]}, 64)
    with opened(folder, (1, 1), 2) as (first, second):
        assert list(first.known()) == [4, 0]
        assert same(first.known()[4], SUMS)
        assert same(second.known()[1], SUMS[::-1])
    found = merged(folder, 2)
    assert [sorted(one.points) for one in found] == [[0, 4], [1]]
    assert [one.micro_batches for one in found] == [[64], [64]]


def test_a_torn_last_line_is_dropped_and_written_anew(folder):
    with opened(folder, (1, 1), 1) as (memory,):
        memory.add({0: SUMS}, 64)
        memory.add({1: SUMS}, 64)
    path = folder / "1-of-1.jsonl"
    whole = path.read_bytes()
    for cut in (1, 5, 40):
        path.write_bytes(whole[:-cut])
        with opened(folder, (1, 1), 1) as (memory,):
            assert list(memory.known()) == [0]
            memory.add({1: SUMS}, 64)
        assert path.read_bytes() == whole


def test_a_last_line_whose_content_is_damaged_is_dropped_too(folder):
    with opened(folder, (1, 1), 1) as (memory,):
        memory.add({0: SUMS}, 64)
    path = folder / "1-of-1.jsonl"
    path.write_bytes(path.read_bytes().replace(b"AAAA", b"AAAB"))
    with opened(folder, (1, 1), 1) as (memory,):
        assert memory.known() == {}


def test_a_damaged_line_in_the_middle_is_refused_with_its_number(folder):
    with opened(folder, (1, 1), 1) as (memory,):
        for point in range(3):
            memory.add({point: SUMS}, 64)
    path = folder / "1-of-1.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + lines[1].replace(b"AAAA", b"AAAB") + lines[2])
    with pytest.raises(JournalError, match="line 2 is damaged"), opened(folder, (1, 1), 1):
        pass
    with pytest.raises(JournalError, match="line 2 is damaged"):
        merged(folder, 1)


def test_a_shard_has_one_writer_and_another_shard_another(folder):
    refused = pytest.raises(JournalBusyError, match=r"another process writes .*1-of-2.jsonl")
    with opened(folder, (1, 2), 1), opened(folder, (2, 2), 1), refused, opened(folder, (1, 2), 1):
        pass
    with opened(folder, (1, 2), 1):
        pass


def test_a_journal_that_is_written_is_not_removed(folder):
    with opened(folder, (2, 2), 1) as (memory,):
        memory.add({0: SUMS}, 64)
        with pytest.raises(JournalBusyError, match=r"another process writes .*2-of-2.jsonl"):
            journal.remove(folder)
        with pytest.raises(JournalBusyError, match=r"another process writes .*2-of-2.jsonl"):
            journal.reset(folder, (2, 2))
    assert list(merged(folder, 1)[0].points) == [0]
    journal.reset(folder, (2, 2))
    assert not merged(folder, 1)[0].points
    journal.remove(folder)
    assert not folder.exists()


def test_a_lock_on_a_file_that_was_deleted_meanwhile_is_none(folder, monkeypatch):
    real = fcntl.flock

    def deletes_first(file, how):
        monkeypatch.undo()
        (folder / "1-of-1.jsonl").unlink()
        real(file, how)

    monkeypatch.setattr(fcntl, "flock", deletes_first)
    with opened(folder, (1, 1), 1) as (memory,):
        memory.add({0: SUMS}, 64)
    assert list(merged(folder, 1)[0].points) == [0]


def test_an_error_of_the_writer_is_its_own(folder):
    with pytest.raises(FileNotFoundError, match="data"), opened(folder, (1, 1), 1):
        raise FileNotFoundError("data")


def test_a_writer_that_was_killed_leaves_its_lines_and_no_lock(folder):
    script = (
        "import os, sys, numpy; from pathlib import Path; from landscape.journal import opened\n"
        "with opened(Path(sys.argv[1]), (1, 1), 1) as (memory,):\n"
        "    memory.add({7: numpy.ones(8)}, 64); os.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(folder)], check=False)
    assert done.returncode == -9
    with opened(folder, (1, 1), 1) as (memory,):
        assert list(memory.known()) == [7]
        assert same(memory.known()[7], np.ones(8))


def test_the_first_plan_stays(folder):
    assert journal.write_plan(folder, {"steps": 5}) == {"steps": 3}


def test_shards_that_disagree_are_refused(folder):
    with opened(folder, (1, 2), 1) as (memory,):
        memory.add({0: SUMS}, 64)
    with opened(folder, (2, 2), 1) as (memory,):
        memory.add({0: SUMS}, 64)
    assert same(merged(folder, 1)[0].points[0], SUMS)
    with opened(folder, (2, 2), 1) as (memory,):
        memory.add({0: np.array([0.2, *SUMS[1:]])}, 32)
    with pytest.raises(JournalError, match="other numbers for point 0"):
        merged(folder, 1)
    with pytest.raises(JournalError, match=r"points of surface 0, and the plan has 0"):
        merged(folder, 0)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"plan": {}}', '{"format": 1, "plan": 3}', '{"format": "1"}'])
def test_what_is_no_plan_is_refused(folder, content):
    (folder / "plan.json").write_text(content)
    with pytest.raises(JournalError, match="is not the plan of a journal"):
        read_plan(folder)


def test_a_plan_of_a_newer_format_is_refused(folder):
    (folder / "plan.json").write_text(json.dumps({"format": 3, "plan": {}}))
    with pytest.raises(JournalError, match="format 3, made by a newer landscape"):
        read_plan(folder)


def test_a_plan_of_an_older_format_is_refused(folder):
    (folder / "plan.json").write_text(json.dumps({"format": 1, "plan": {}}))
    with pytest.raises(JournalError, match="an older landscape: go on with that, or --force starts anew"):
        read_plan(folder)


def test_a_row_takes_its_numbers_in_memory_and_little_more_on_the_disk(folder):
    rows = {point: np.random.default_rng(point).normal(size=1024) for point in range(50)}
    with opened(folder, (1, 1), 1) as (memory,):
        for point, row in rows.items():
            memory.add({point: row}, 64)
    assert (folder / "1-of-1.jsonl").stat().st_size < 1.4 * 50 * 1024 * 8
    tracemalloc.start()
    (found,) = merged(folder, 1)
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert taken < 1.2 * 50 * 1024 * 8
    assert all(same(found.points[point], row) for point, row in rows.items())


def test_removing_leaves_what_is_not_the_journals(folder):
    with opened(folder, (1, 1), 1):
        pass
    (folder / "notes.txt").write_text("mine")
    journal.remove(folder)
    assert [path.name for path in folder.iterdir()] == ["notes.txt"]
    (folder / "notes.txt").unlink()
    journal.remove(folder)
    assert not folder.exists()


@pytest.mark.parametrize("text", ["0/3", "4/3", "1", "a/b", "1/0", "-1/3", "1/3/4", ""])
def test_a_shard_that_is_none_is_refused(text):
    with pytest.raises(ValueError, match="shard must be i/n with 1 <= i <= n, or slurm"):
        parse_shard(text, {})


def test_slurm_without_a_job_array_is_refused():
    with pytest.raises(ValueError, match=r"needs a job array \(sbatch --array\): .*SLURM_ARRAY_TASK_COUNT is not set"):
        parse_shard("slurm", {"SLURM_ARRAY_TASK_ID": "3"})
    every_second = {"SLURM_ARRAY_TASK_ID": "5", "SLURM_ARRAY_TASK_MIN": "1", "SLURM_ARRAY_TASK_COUNT": "4"}
    assert parse_shard("slurm", {**every_second, "SLURM_ARRAY_TASK_STEP": "2"}) == (3, 4)
    assert parse_shard("slurm", {**every_second, "SLURM_ARRAY_TASK_STEP": "2", "SLURM_ARRAY_TASK_MAX": "7"}) == (3, 4)


@pytest.mark.parametrize(("task", "last", "step"), [(7, 7, 1), (1, 7, 1), (2, 5, 2), (0, 3, 1), (3, 7, None)])
def test_a_slurm_array_with_gaps_is_refused(task, last, step):
    array = {"ID": task, "MIN": 1, "COUNT": 3, "MAX": last, "STEP": step}
    environment = {f"SLURM_ARRAY_TASK_{name}": str(value) for name, value in array.items() if value is not None}
    with pytest.raises(ValueError, match=f"an array without gaps, got task {task} of 3, .*: use --array=1-3"):
        parse_shard("slurm", environment)


def test_a_slurm_task_beyond_its_array_is_refused_without_its_last():
    with pytest.raises(ValueError, match="an array without gaps"):
        parse_shard("slurm", {f"SLURM_ARRAY_TASK_{n}": v for n, v in {"ID": "7", "MIN": "1", "COUNT": "3"}.items()})


def test_what_is_left_of_this_work_is_forgotten_and_other_work_is_not(tmp_path):
    folder, decided = folder_of(tmp_path / "surface.npz"), {"command": "surface", "steps": 3}
    journal.write_plan(folder, {"decided": decided})
    journal.forget(folder, {**decided, "steps": 5})
    assert folder.exists()
    with opened(folder, (1, 1), 1):
        journal.forget(folder, decided)  # somebody writes there
    assert folder.exists()
    journal.forget(folder, decided)
    assert not folder.exists()
    journal.forget(folder, decided)  # nothing there
