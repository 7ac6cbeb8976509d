"""Several gloo processes against one process that has all their examples, in float64."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))  # the processes import it by this name too

import distributed_cases as cases
from distributed_cases import MAKERS, NUM_STEPS

from train.batches import MicroBatches
from train.checkpoint import content_hash, read, restore
from train.config import TrainConfig
from train.distributed import Workers, joined, workers
from train.metrics import evaluate
from train.shards import Parts, check_pieces, my_rows


@pytest.fixture(scope="module", params=[2, 3])
def found(request, tmp_path_factory):
    """What each process found, by rank."""
    folder = tmp_path_factory.mktemp("processes")
    torch.multiprocessing.start_processes(
        cases.everything, args=(request.param, str(folder)), nprocs=request.param, start_method="spawn"
    )
    return [
        torch.load(folder / f"found-{rank}.pt", weights_only=True) | {"folder": folder} for rank in range(request.param)
    ]


def apart(a, b):
    """Largest difference of two lists of parameters, relative to their size."""
    return max(float((x - y).abs().max() / x.abs().max()) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("name", MAKERS)
def test_global_is_the_step_of_one_process_whatever_the_shares(found, name):
    params, losses, skipped = cases.run(name, cases.examples)
    for rank in found:
        assert apart(rank[f"global {name}"][0], params) < 1e-12
        assert rank[f"global {name}"][1] == pytest.approx(losses, rel=1e-12)
        assert rank[f"global {name}"][2] == skipped == 0


@pytest.mark.parametrize("name", MAKERS)
def test_local_climbs_on_each_share_by_itself(found, name):
    size = len(found)

    def shares(step):
        x, y = cases.examples(step)
        return MicroBatches([(x[a:b], y[a:b]) for a, b in cases.bounds(size)], accumulation="per-micro-batch")

    params, losses, _ = cases.run(name, shares)
    assert apart(found[0][f"local {name}"][0], params) < 1e-12
    assert found[0][f"local {name}"][1] == pytest.approx(losses, rel=1e-12)
    if name != "sgd":
        assert apart(found[0][f"local {name}"][0], found[0][f"global {name}"][0]) > 1e-4


@pytest.mark.parametrize("name", [name for name in MAKERS if name != "sgd"])
def test_m_does_not_depend_on_the_number_of_processes(found, name):
    params, losses, _ = cases.run(name, cases.examples, m=4)
    assert apart(found[0][f"chunks {name}"][0], params) < 1e-12
    assert found[0][f"chunks {name}"][1] == pytest.approx(losses, rel=1e-12)


def test_exact_accumulation_in_several_processes_is_the_step_on_all_examples(found):
    params, losses, _ = cases.run("sam", cases.examples)
    assert apart(found[0]["accumulated"][0], params) < 1e-12
    assert found[0]["accumulated"][1] == pytest.approx(losses, rel=1e-12)


def test_all_processes_have_the_same_bits(found):
    for name, value in found[0].items():
        if name.startswith(("global", "local", "chunks")):
            for rank in found[1:]:
                assert all(torch.equal(a, b) for a, b in zip(value[0], rank[name][0], strict=True))


def test_a_step_that_is_not_finite_in_one_process_is_skipped_in_all(found):
    for rank in found:
        (first, none), (second, one), (third, still_one) = rank["skipped"]
        assert (none, one, still_one) == (0, 1, 1)
        assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
        assert not any(torch.equal(a, b) for a, b in zip(second[:4], third[:4], strict=True))


def test_the_scale_backs_off_in_all_processes_alike(found):
    for rank in found:
        scales, skipped, params = rank["scaled"]
        assert (scales, skipped) == ([2.0**9] * NUM_STEPS, 1)
        assert all(torch.equal(a, b) for a, b in zip(params, found[0]["scaled"][2], strict=True))


def test_a_parameter_that_no_process_uses_has_no_gradient(found):
    start = cases.Net().side.weight
    for rank in found:
        absent, params = rank["unused"]
        assert absent
        assert torch.equal(params[4], start)


def test_a_parameter_that_one_process_uses_is_moved_in_all(found):
    for rank in found:
        absent, params = rank["unused by some"]
        assert not absent
        assert torch.equal(params[4], found[0]["unused by some"][1][4])
        assert not torch.equal(params[4], cases.Net().side.weight)


def test_around_distributed_data_parallel_the_step_is_the_global_one(found):
    size = len(found)
    even = cases.NUM_EXAMPLES // size * size
    model = cases.Net()
    del model.side
    method = cases.SAM(model, cases.optimizer_of(model), rho=0.3)
    for step in range(NUM_STEPS):
        x, y = cases.examples(step)
        method.step(cases.loss, (x[:even], y[:even]))
    assert apart(found[0]["wrapped"], [p.detach() for p in model.parameters()]) < 1e-12


def test_errors_reach_all_processes_and_are_told_once(found):
    last = len(found) - 1
    for rank, one in enumerate(found):
        errors = one["refused"]
        assert errors["chunks"][0] == "ValueError"
        assert "sync 'global' perturbs once" in errors["chunks"][1]
        assert "give its .module, or no sync" in errors["wrapped"][1]
        told = ("ToldError", f"process {last} failed: ValueError: mine alone")
        assert errors["one"] == (("ValueError", "mine alone") if rank == last else told)
        told = ("ToldError", "process 0 failed: ValueError: by 0")
        assert errors["all"] == (("ValueError", "by 0") if rank == 0 else told)
        assert errors["first"] == (
            ("OSError", "no disk") if rank == 0 else ("ToldError", "process 0 failed: OSError: no disk")
        )
        assert errors["fine"] == {"rank": 0}
        assert errors["together"] == rank


def test_chunks_that_do_not_divide_evenly_end_in_one_model(found):
    """Two processes with two chunks and one: their counters of batches differ until they agree."""
    if len(found) != 2:
        return
    status, tracked, loss = found[0]["uneven"]
    assert found[1]["uneven"] == found[0]["uneven"]
    assert (status, tracked) == ("finished", 22)  # 11 steps of two chunks
    assert loss > 0


def test_a_run_of_two_processes_is_written_once_and_resumes_bit_for_bit(found):
    if len(found) != 2:
        return  # its examples are those of two processes
    whole, stopped, again = found[0]["runs"][0]
    assert found[1]["runs"][0] == found[0]["runs"][0]  # both measure the same model, and say so
    assert [one["runs"][1] for one in found] == ["OutputExistsError", "ToldError"]
    assert (whole[0], whole[2]) == (stopped[0], stopped[2]) == ("finished", False)
    assert (whole[1], whole[3]) == (stopped[1], "") == (again[1], "")
    assert again[2]
    folder = found[0]["folder"]
    last, other = read(folder / "whole"), read(folder / "stopped")
    for part in ("model", "optimizer", "rng"):
        assert content_hash(flat(getattr(last, part))) == content_hash(flat(getattr(other, part)))
    assert {"cpu", "cpu of process 1"} == set(last.rng)
    assert not torch.equal(last.rng["cpu"], last.rng["cpu of process 1"])
    assert last.versions["processes"] == "2"
    model, splits = restore(last)
    loss, accuracy = evaluate(model, splits.train)
    assert whole[1]["train_loss"] == pytest.approx(loss, rel=1e-6)
    assert whole[1]["train_accuracy"] == accuracy


def flat(value, name=""):
    """The tensors of nested dictionaries, by their path."""
    if isinstance(value, torch.Tensor):
        return {name: value}
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return {path: leaf for key, inner in items for path, leaf in flat(inner, f"{name}/{key}").items()}


def test_plain_descent_is_never_cut_into_chunks():
    check_pieces(TrainConfig(method="sgd", m=1), 2)
    rows = torch.arange(8)
    assert torch.equal(my_rows(TrainConfig(method="sgd", m=8), rows, Workers(1, 2)), rows[4:])


def test_a_process_by_itself_is_all_of_them():
    assert workers() == Workers(0, 1)
    with joined("cpu") as alone:
        assert alone == Workers(0, 1)
    rows = torch.arange(10)
    assert my_rows(TrainConfig(method="agnostic-sam"), rows, Workers()) is rows
    assert alone.from_first(lambda: 3) == alone.together(lambda: 3) == 3
    assert alone.gathered("x") == ["x"]
    with pytest.raises(ValueError, match="sync must be one of"):
        cases.SAM(cases.Net(), None, sync="lokal")


@pytest.mark.parametrize("size", [1, 2, 3, 5])
@pytest.mark.parametrize("sync", ["global", "local"])
@pytest.mark.parametrize("m", [0, 7])
@pytest.mark.parametrize("method", ["sgd", "sam", "sam-subset", "agnostic-sam", "agnostic-sam-nonoverlap"])
def test_every_row_is_trained_on_by_one_process(size, sync, m, method):
    if m and method == "agnostic-sam-nonoverlap":
        with pytest.raises(ValueError, match="m must be 0 with agnostic-sam-nonoverlap"):
            TrainConfig(method=method, m=m)
        return
    config, rows = TrainConfig(method=method, m=m, sam_sync=sync, batch_size=64), torch.arange(64)
    parts = [my_rows(config, rows, Workers(rank, size)) for rank in range(size)]
    whole = [torch.cat([p.first, p.second]) if isinstance(p, Parts) else p for p in parts]
    assert torch.equal(torch.cat(whole).sort().values, rows)
    if isinstance(parts[0], Parts):
        assert torch.equal(torch.cat([part.first for part in parts]), rows[:45])  # floor(0.7 * 64 + 1/2)
    if m and method != "sgd":
        assert all(int(part[0]) % m == 0 for part in whole)


@pytest.mark.parametrize(
    ("settings", "size", "message"),
    [
        ({"batch_size": 4}, 3, "3 processes cut a batch of 4 into pieces as small as 1, and BatchNorm needs 2"),
        ({"batch_size": 8, "method": "agnostic-sam"}, 3, "3 processes cut a batch of 8 into pieces as small as 1"),
        ({"batch_size": 9, "method": "sam", "m": 4}, 1, "m 4 cut a batch of 9 into pieces as small as 1"),
        ({"batch_size": 9, "method": "sam", "m": 9}, 2, "m 9 cut a batch of 9 into pieces as small as 0"),
        ({"batch_size": 12, "method": "agnostic-sam", "m": 3}, 1, "a batch of 3 cannot be split at 0.7"),
        ({"batch_size": 3, "method": "sgd", "m": 1}, 2, "2 processes cut a batch of 3 into pieces as small as 1"),
    ],
)
def test_pieces_that_are_too_small_are_refused(settings, size, message):
    with pytest.raises(ValueError, match=message):
        check_pieces(TrainConfig(**settings), size)
