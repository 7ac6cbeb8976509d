"""A measurement that is stopped goes on with the bits of one that was not, and no product is made twice."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from problems import a_run, objective_of

import landscape as ls
from landscape import journal, ledger
from landscape.engines import DoubleBackward
from landscape.following import curvature_trace
from landscape.journal import JournalBusyError, JournalError
from landscape.operators import SymmetricOperator, hessian
from landscape.outputs import OutputExistsError
from landscape.results import taken_apart

PLAN = {"command": "hessian", "seed": 0}
SIZE = 60


class StoppedError(Exception):
    pass


def counted(limit=10**6, dtype=torch.float64, several=True):
    """A random symmetric operator, the products made with it, and an end of them."""
    matrix = torch.randn(SIZE, SIZE, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)
    matrix, made = matrix + matrix.T, []

    def matvec(v):
        if len(made) == limit:
            raise StoppedError
        made.append(v)
        checks["last"] = len(made)
        return matrix @ v

    checks = {}
    many = (lambda vectors: torch.stack([matvec(v) for v in vectors])) if several else None
    return SymmetricOperator(matvec, SIZE, dtype, checks=checks, matvecs=many), made


def everything(operator, replayed):
    found = replayed(operator)
    pairs = ls.top_eigenpairs(found, 3)
    return [pairs, ls.spectral_density(found, pairs=pairs, num_steps=9), ls.trace(found, pairs=pairs, num_matvecs=12)]


def run(folder, operator, plan=PLAN, anew=False):
    with ledger.opened(folder, plan, anew=anew) as kept:
        return kept.step("one", lambda replayed: everything(operator, replayed))


def assert_equal(found, expected):
    for one, other in zip(found, expected, strict=True):
        arrays, settings = taken_apart(one)
        others, their_settings = taken_apart(other)
        assert repr(settings) == repr(their_settings)  # NaN is itself there
        for name, array in arrays.items():
            np.testing.assert_array_equal(array, others[name])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("several", [True, False])
def test_a_stopped_measurement_goes_on_with_the_bits_of_one_that_was_not(tmp_path, dtype, several):
    operator, made = counted(dtype=dtype, several=several)
    expected, num = everything(operator, lambda same: same), len(made)
    seen = 0
    for limit in (1, 7, 30, 10):  # each is one more run that is stopped
        operator, made = counted(limit, dtype, several)
        with pytest.raises(StoppedError):
            run(tmp_path / "journal", operator)
        seen += len(made)
    operator, made = counted(dtype=dtype, several=several)
    last = dataclasses.replace(operator, checks={})
    found = run(tmp_path / "journal", last)
    assert num <= len(made) + seen <= num + (4 * 8 if several else 0)  # a pass for several vectors is kept whole
    assert len(made) < num - 30
    for one in found:
        one.checks.pop("last", None)
    for one in expected:
        one.checks.pop("last", None)
    assert_equal(found, expected)
    assert not (tmp_path / "journal").exists()


def test_what_the_operator_noted_at_a_product_comes_back_with_it(tmp_path):
    operator, made = counted(20)
    with pytest.raises(StoppedError):
        run(tmp_path / "journal", operator)
    again, _ = counted(0)
    with pytest.raises(StoppedError):
        run(tmp_path / "journal", again)
    assert again.checks["last"] == len(made) == 20


def test_a_finished_step_is_read_and_not_measured(tmp_path):
    operator, made = counted()
    with pytest.raises(StoppedError), ledger.opened(tmp_path / "journal", PLAN, anew=False) as kept:  # noqa: PT012
        expected = kept.step("one", lambda replayed: everything(operator, replayed))
        raise StoppedError
    assert [path.suffix for path in (tmp_path / "journal").glob("one-*")] == [".step"]
    num = len(made)
    assert_equal(run(tmp_path / "journal", operator), expected)
    assert len(made) == num


def stopped_after(folder, num):
    operator, _ = counted(num)
    with pytest.raises(StoppedError):
        run(folder, operator)
    return next(folder.glob("one-*.products"))


def test_a_torn_last_product_is_made_again(tmp_path):
    expected = everything(counted()[0], lambda same: same)
    for cut in (1, 8 * SIZE, 8 * SIZE + 1, 8 * SIZE + 50):  # within the product, at its start, in its line
        products = stopped_after(tmp_path / "journal", 10)
        content = products.read_bytes()
        products.write_bytes(content[:-cut])
        operator, _ = counted(0)
        with pytest.raises(StoppedError):
            run(tmp_path / "journal", operator)
        assert products.stat().st_size == pytest.approx(len(content) * 9 / 10, abs=20)
        found = run(tmp_path / "journal", (operator := counted())[0])
        for one in (*found, *expected):
            one.checks.pop("last", None)
        assert_equal(found, expected)
        assert len(operator[1]) + 9 == sum(one.num_matvecs for one in found)


def test_from_a_damaged_product_on_they_are_made_again(tmp_path):
    products = stopped_after(tmp_path / "journal", 10)
    content = bytearray(products.read_bytes())
    content[len(content) // 2] ^= 1
    products.write_bytes(content)
    operator, made = counted()
    found = run(tmp_path / "journal", operator)
    assert 4 <= sum(one.num_matvecs for one in found) - len(made) <= 5


def test_products_with_other_vectors_are_refused(tmp_path):
    stopped_after(tmp_path / "journal", 10)
    operator, _ = counted()
    with (
        pytest.raises(JournalError, match="product 1 is of another vector or engine than is asked for now"),
        ledger.opened(tmp_path / "journal", PLAN, anew=False) as kept,
    ):
        kept.step("one", lambda replayed: [ls.top_eigenpairs(replayed(operator), 3, seed=1)])
    assert [*(tmp_path / "journal").glob("one-*.products")]
    operator = dataclasses.replace(operator, settings={"engine": "recomputed"})
    with pytest.raises(JournalError, match="product 1 is of another vector or engine"):
        run(tmp_path / "journal", operator)


def test_other_settings_are_refused_by_name_unless_it_is_begun_anew(tmp_path):
    stopped_after(tmp_path / "journal", 10)
    other = {"command": "hessian", "seed": 1, "top": 2}
    with pytest.raises(JournalError, match=r"other settings: seed, top\. landscape hessian --force starts anew"):
        run(tmp_path / "journal", counted()[0], other)
    operator, made = counted()
    found = run(tmp_path / "journal", operator, other, anew=True)
    assert len(made) == sum(one.num_matvecs for one in found)


def test_one_process_at_a_time_writes_a_ledger(tmp_path):
    with (
        ledger.opened(tmp_path / "journal", PLAN, anew=False),
        pytest.raises(JournalBusyError, match="another process writes"),
    ):
        run(tmp_path / "journal", counted()[0])


def test_what_was_measured_is_gone_on_with_or_replaced_only_when_that_is_said(tmp_path):
    out, folder = tmp_path / "h.npz", tmp_path / "h.npz.journal"
    assert ledger.begin(out) == folder
    with pytest.raises(StoppedError):
        run(folder, counted(9)[0])
    with pytest.raises(OutputExistsError, match=r"h.npz.journal holds a measurement that was not finished"):
        ledger.begin(out)
    assert ledger.begin(out, resume=True) == ledger.begin(out, force=True) == folder
    with ledger.opened(folder, PLAN, anew=False), pytest.raises(JournalBusyError, match="another process writes"):
        ledger.begin(out)


def test_an_end_before_anything_was_kept_leaves_nothing(tmp_path):
    with pytest.raises(StoppedError):
        run(tmp_path / "journal", counted(0)[0])
    assert not (tmp_path / "journal").exists()
    (tmp_path / "journal").mkdir()
    (tmp_path / "journal/mine.txt").write_text("a stranger's")
    run(tmp_path / "journal", counted()[0])
    assert [path.name for path in (tmp_path / "journal").iterdir()] == ["mine.txt"]


def test_a_full_disk_ends_the_keeping_and_not_the_measurement(tmp_path, monkeypatch):
    usage = ledger.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(ledger.shutil, "disk_usage", lambda _: usage._replace(free=10 * 8 * SIZE - 1))
    expected = everything(counted()[0], lambda same: same)
    with pytest.warns(ledger.LedgerWarning, match="No space left on device, so products are no longer kept"):
        found = run(tmp_path / "journal", counted()[0])
    assert_equal(found, expected)


class Device:
    """What a product may need: examples of a piece at once, and our kernels."""

    def __init__(self, monkeypatch):
        self.examples, self.kernels, graph = math.inf, True, DoubleBackward.graph

        def limited(rule, piece):
            if len(piece.batch[1]) > self.examples:
                raise torch.OutOfMemoryError("no more")
            if rule.kernels and not self.kernels:
                raise RuntimeError("no kernel")
            return graph(rule, piece)

        monkeypatch.setattr(DoubleBackward, "graph", limited)


def stopping(operator, limit):
    made = []

    def matvec(v):
        if len(made) == limit:
            raise StoppedError
        made.append(v)
        return operator.matvec(v)

    return dataclasses.replace(operator, matvec=matvec, matvecs=None)


@pytest.mark.parametrize("lack", [{"examples": 3}, {"kernels": False}], ids=["memory", "kernels"])
def test_what_a_device_lacked_is_gone_on_without_when_another_has_it(tmp_path, monkeypatch, lack):
    objective, device = objective_of("conv_net", dtype=torch.float32), Device(monkeypatch)
    plentiful = ls.top_eigenpairs(hessian(objective), 2)
    vars(device).update(lack)
    expected = ls.top_eigenpairs(hessian(objective), 2)
    assert {"micro_batch_that_fits": 2}.items() <= expected.checks.items() or "kernels" in expected.checks
    assert not np.array_equal(expected.vectors, plentiful.vectors)

    def measured(limit):
        with ledger.opened(tmp_path / "journal", PLAN, anew=False) as kept:
            operator = stopping(hessian(objective), limit)
            return kept.step("one", lambda replayed: [ls.top_eigenpairs(replayed(operator), 2)])

    with pytest.raises(StoppedError):
        measured(7)
    device.examples, device.kernels = math.inf, True
    assert_equal(measured(10**6), [expected])


def test_a_run_goes_on_at_the_checkpoint_where_it_was(tmp_path):
    run_of, made = a_run(), []

    def through(keep, limit=10**6):
        def operator_of(objective):
            operator = hessian(objective)

            def matvec(v):
                if len(made) == limit:
                    raise StoppedError
                made.append(v)
                return operator.matvec(v)

            return dataclasses.replace(operator, matvec=matvec, matvecs=None)

        return curvature_trace(run_of, k=2, operator_of=operator_of, keep=keep)

    expected = through(ledger.unkept)
    num = len(made)
    assert num == sum(expected.num_matvecs)
    made.clear()
    limit = int(expected.num_matvecs[0]) + 5
    with pytest.raises(StoppedError), ledger.opened(tmp_path / "journal", PLAN, anew=False) as kept:
        through(kept.step, limit)
    assert [*(tmp_path / "journal").glob("epoch-2-*.step")]
    with ledger.opened(tmp_path / "journal", PLAN, anew=False) as kept:
        found = through(kept.step)
    assert len(made) == num
    assert_equal([found], [expected])


def test_products_whose_plan_is_gone_are_not_taken_for_those_of_other_work(tmp_path):
    folder = tmp_path / "journal"
    operator, _ = counted(20)
    with pytest.raises(StoppedError):
        run(folder, operator)
    (folder / "plan.json").unlink()
    with pytest.raises(JournalError, match=r"plan.json is not the plan of a journal: --force starts anew"):
        run(folder, counted()[0], plan={**PLAN, "seed": 1})
    (folder / "plan.json").write_text('{"format": 2, "plan": {"decided": {"command": "hessian", "seed": 1}}}')
    other, made = counted()
    run(folder, other, plan={**PLAN, "seed": 1})
    assert len(made) > 40  # none of them was read


def test_a_surface_does_not_take_the_folder_of_a_curvature_that_is_measured(tmp_path):
    folder = tmp_path / "journal"
    with ledger.opened(folder, PLAN, anew=False) as kept:
        kept.step("one", lambda replayed: everything(counted()[0], replayed))
        with pytest.raises(JournalBusyError, match=r"products\.lock: wait for it, or give another --out"):
            journal.remove(folder)
        assert (folder / "plan.json").exists()
    assert not folder.exists()


def test_a_surface_that_starts_anew_removes_the_products_of_a_curvature(tmp_path):
    folder = tmp_path / "journal"
    with pytest.raises(StoppedError):
        run(folder, counted(20)[0])
    journal.remove(folder)
    assert not folder.exists()


def test_what_differs_is_named_to_the_leaf(tmp_path):
    folder = tmp_path / "journal"
    with pytest.raises(StoppedError):
        run(folder, counted(20)[0], plan={**PLAN, "versions": {"threads": 1, "torch": "2"}})
    with pytest.raises(JournalError, match=r"is of other settings: threads 1 -> 2\. landscape hessian --force"):
        run(folder, counted()[0], plan={**PLAN, "versions": {"threads": 2, "torch": "2"}})
    with pytest.raises(JournalError, match="is that of a hessian: landscape surface --force starts anew"):
        journal.refuse_other_work(folder, {"command": "surface", "seed": 0})
