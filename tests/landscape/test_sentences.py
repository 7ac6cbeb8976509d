"""What the page may claim: which measurement stands for a checkpoint, and what is compared with what."""

import math
import re
from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
from curvature_results import along_run, density, entries
from plain_results import pairs, sampled, seeds_of, surface, trace, valley

from landscape.grouping import checkpoints, data_sets, styles, surface_groups, without_copies
from landscape.page.captions import badge
from landscape.page.curvature import density_section
from landscape.page.sentences import caveat, headline, slice_sentence
from landscape.results import Estimate


def told(*results):
    return headline(checkpoints(results))


def reach(*results):
    return caveat(checkpoints(results))


def test_the_surface_over_most_examples_stands_for_a_checkpoint():
    few = [surface(name, split="test", accuracy=0.975, num_examples=40, data_hash="few") for name in ("a", "b")]
    all_of_them = [surface(name, split="test", accuracy=0.95, num_examples=360, data_hash="all") for name in ("a", "b")]
    for results in ((*few, *all_of_them), (*all_of_them, *few)):
        assert "95.0 ± 1.1 %" in told(*results)
        assert "97.5" not in told(*results)
        assert "; 360 test examples;" in reach(*results)


def test_the_caveat_counts_the_examples_of_the_curvature_too():
    of_64 = pairs(num_examples=64)
    assert "1,078 train examples, λmax over 64 train examples" in reach(surface(num_examples=1078), of_64)
    assert "λmax over" not in reach(surface(num_examples=64), of_64)
    apart = surface(num_examples=256), surface("sam", num_examples=1078)
    assert "256 to 1,078 train examples" in reach(*apart)


def test_a_checkpoints_own_statistics_stand_for_it_rather_than_recalibrated_ones():
    recalibrated = surface("a", split="test", accuracy=0.5, batch_norm="recalibrated", num_examples=400)
    rounded = surface("a", split="test", accuracy=0.4, batch_norm="frozen", precision="bf16")
    frozen = surface("a", split="test", accuracy=0.9, batch_norm="frozen")
    assert told(recalibrated, rounded, frozen) == "Test accuracy is 90.0 ± 3.0 % at a."
    assert told(recalibrated) == "Test accuracy is 50.0 ± 2.5 % at a, BatchNorm recalibrated at each point."


def test_other_statistics_of_batchnorm_are_not_compared():
    mixed = surface("a", split="test", batch_norm="frozen"), surface("b", split="test", batch_norm="recalibrated")
    words = "measured in different ways (BatchNorm frozen and recalibrated)"
    assert told(*mixed) == f"Test accuracies are {words} and not compared."
    both = [
        *seeds_of("sgd", lambda n: surface(split="test", accuracy=0.9 + 0.01 * n, batch_norm="frozen")),
        *seeds_of("sam", lambda n: surface(split="test", accuracy=0.9 + 0.01 * n, batch_norm="recalibrated")),
    ]
    assert told(*both) == f"Test accuracies are {words}, so methods are not compared."


def test_the_badge_says_what_the_centre_was_held_against():
    checks = {"centre_ok": True, "centre_error": 3e-8}
    assert "equals the checkpoint’s (relative" in badge(surface(checks=checks, batch_norm="frozen"))
    recalibrated = badge(surface(checks=checks, batch_norm="recalibrated"))
    assert "equals that of a plain loop with recalibrated statistics (relative" in recalibrated
    failed = badge(surface(checks={"centre_ok": False}, batch_norm="train"))
    assert "differs from that of a plain loop with the statistics of each batch" in failed


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"operator": "gauss-newton"}, "λmax of the Gauss-Newton matrix is"),
        ({"operator": "fisher", "kind": "mc"}, "λmax of the Fisher matrix (mc) is"),
        ({"protocol": "paper"}, "λmax of the sum of the batches' Hessians (protocol paper) is"),
        ({"layers": ["fc"]}, "λmax of the Hessian of fc alone is"),
        ({"batch_norm": "train"}, "λmax of the Hessian with BatchNorm in train mode is"),
        ({"batch_norm": "frozen"}, "λmax is"),
    ],
)
def test_the_largest_eigenvalue_of_another_matrix_is_called_so(settings, name):
    assert told(pairs(**settings)).startswith(f"{name} 4.00 at sgd")


def test_the_matrix_that_most_checkpoints_have_is_compared_and_of_equals_the_hessian():
    hessians = [
        *seeds_of("sgd", lambda n: pairs(values=(7.0 + n,))),
        *seeds_of("sam", lambda n: pairs(values=(2.0 + 0.1 * n,))),
    ]
    other = replace(pairs(values=(50.0,), operator="gauss-newton"), checkpoint=hessians[0].checkpoint)
    assert told(other, *hessians) == told(*hessians)
    assert told(pairs(values=(50.0,), operator="gauss-newton"), pairs()) == told(pairs())
    assert "at sgd" in told(pairs(num_examples=64), pairs(values=(3.0,), num_examples=1078))
    assert "λmax is 3.00" in told(pairs(num_examples=64), pairs(values=(3.0,), num_examples=1078))


def test_seeds_without_a_measure_are_never_counted_as_none_of_three():
    seeds = [
        *seeds_of("sgd", lambda n: surface(loss=0.5 + n)),
        *seeds_of("sam", lambda n: surface(loss=0.6 + n)),
    ]
    alone = replace(pairs(), checkpoint=seeds[0].checkpoint)
    assert told(*seeds, alone) == "λmax of one kind is known for 1 of 3 seeds of sgd and no seed of sam: " + (
        "methods not compared."
    )
    assert told(*seeds, pairs("other")) == "λmax is 4.00 at other (train loss 0.500)."


def test_a_second_sample_of_the_data_is_told_of():
    both = pairs(data_hash="A"), pairs(values=(5.0, 1.0), data_hash="B")
    assert told(*both).endswith("is 4.00 at sgd (train loss 0.500); on 1 other sample of the data as in the table.")
    shared = (*both, pairs("sam", values=(2.0,), data_hash="B"))
    assert "2.00 at sam (train loss 0.500) and 5.00 at sgd" in told(*shared)


def test_the_error_of_the_examples_is_of_the_same_data():
    two = pairs(data_hash="A"), pairs("sam", values=(5.0, 1.0), data_hash="A")
    elsewhere = [
        replace(sampled(one.checkpoint["label"], one.values, (9.0, 9.0)), settings=one.settings) for one in two
    ]
    elsewhere = [replace(one, settings={**one.settings, "data_hash": "B"}) for one in elsewhere]
    assert "residuals" in told(*two, *elsewhere)
    assert "not told apart" not in told(*two, *elsewhere)


def test_the_loss_of_a_spectrum_is_never_another_datas():
    unknown = replace(pairs(data_hash="A"), loss=math.nan)
    assert "λ" not in told(unknown, surface(data_hash="B"))
    assert "λmax is 4.00 at sgd (train loss 0.500)" in told(
        replace(unknown, settings={**unknown.settings, "num_examples": 100}), surface(data_hash="A")
    )


def test_a_centre_that_was_not_measured_is_not_called_infinite():
    even = surface("even", steps=4)
    assert told(even) == "1 checkpoint, measured"
    lost = replace(surface("lost"), loss=np.full((5, 5), np.inf), status=np.full((5, 5), 3, np.uint8))
    assert "No finite train loss at 1 checkpoint" in told(even, lost)


def test_train_losses_of_different_data_are_not_compared():
    apart = surface(data_hash="A", loss=0.1), surface("sam", data_hash="B", loss=0.7)
    assert told(*apart) == "Train losses are of different train data and not compared."
    sgd, sam = (seeds_of(name, lambda n: surface(loss=0.5 + 0.1 * n)) for name in ("sgd", "sam"))

    def on(data_hash, one):
        return replace(one, settings={**one.settings, "data_hash": data_hash})

    assert "so methods are not compared" in told(*(on("A", one) for one in sgd), *(on("B", one) for one in sam))
    own = told(*(on(f"split {n % 3}", one) for n, one in enumerate([*sgd, *sam])))
    assert own == "Train loss: sgd 0.60 ± 0.10, sam 0.60 ± 0.10 (± over seeds), each on its own split."


def told_slices(surfaces):
    known = styles(surfaces)
    (group,) = surface_groups(surfaces, known, data_sets(surfaces))
    return slice_sentence(group.sets["train"], group.columns, "train")


def test_what_is_told_of_a_slice_is_compared_as_it_is_told():
    same = told_slices([surface(f"c{n}", steps=7, loss=0.1 * n + 0.3) for n in range(5)])
    assert "at all 5 checkpoints alike: |x| = 0.224 (centre 0.300 to 0.700)" in same
    steep = told_slices([surface(f"c{n}", steps=41, curvature=(4000.0 + 2000 * n, 1.0)) for n in range(5)])
    assert "soonest c4 at |x| = 0.00408 (centre 0.500) and latest c0 at |x| = 0.00707 (centre 0.500), of 5" in steep
    assert steep.endswith("; below 0.0500, one step of the grid, it is taken for a bowl")


def test_a_copy_of_any_result_counts_once():
    trace_of = Estimate(quantity="trace", value=9.0, standard_error=math.nan, num_samples=3, num_matvecs=3)
    every = [surface(), valley(), pairs(), sampled(), trace("sgd"), density(), entries(), along_run(), trace_of]
    again = [deepcopy(one) for one in every]
    assert without_copies([*every, *again]) == every
    checked = replace(pairs(), checks={"pyhessian": {"eigenvalue": 4.0}})
    other = replace(pairs(), residuals=np.array([0.1, 0.1]))
    assert without_copies([pairs(), checked, other, replace(trace_of, value=8.0), trace_of])[1:3] == [checked, other]
    assert len(without_copies([pairs(), pairs("sam"), pairs(seed=1)])) == 3


def rank(one, value):
    number = {"value": value, "standard_error": 0.1, "num_samples": 4, "num_matvecs": 9}
    return Estimate(quantity="effective_rank", **number, checkpoint=one.checkpoint, settings=one.settings)


def test_traces_over_eigenvalues_of_different_data_or_matrices_are_not_compared():
    def title(*ones):
        results = [*ones, *(rank(one, 10.0 + n) for n, one in enumerate(ones))]
        return re.search(r"<h2>(.*?)</h2>", density_section(checkpoints(results)))[1].replace("\u00a0", " ")

    assert title(pairs("a"), pairs("b")) == "Trace / λmax: a 10.00 ± 0.10, b 11.00 ± 0.10"
    assert title(pairs("a", operator="fisher")) == "Trace / λmax of the Fisher matrix: a 10.00 ± 0.10"
    apart = title(pairs("a", data_hash="A"), pairs("b", data_hash="B"))
    assert apart == "Trace / λmax of these 2 checkpoints is of different train data and not compared"
    seeds = [
        *seeds_of("sgd", lambda n: pairs(values=(n + 2.0,), data_hash="A")),
        *seeds_of("sam", lambda n: pairs(values=(n + 3.0,), data_hash="B")),
    ]
    assert title(*seeds) == "Trace / λmax is of different train data, so methods are not compared"
    alike = [replace(one, settings=seeds[0].settings) for one in seeds]
    assert title(*alike).endswith(", more than the seeds explain")  # and no losses, for none is known


def test_an_uncertified_eigenvalue_is_told_to_be_one_and_hides_no_certified_one():
    sure = replace(pairs(values=(13.247,), data_hash="a"), residuals=np.array([0.005]))
    unsure = replace(
        pairs(values=(11.8, 3.0, 1.0), data_hash="a"), residuals=np.array([1.7, 1.0, 1.0]), converged=np.zeros(3, bool)
    )
    assert told(unsure) == "λmax is 11.8 ± 1.7, not certified, at sgd (train loss 0.500)."
    for results in ((sure, unsure), (unsure, sure)):
        assert len(checkpoints(results)[0].pairs) == 2
        assert told(*results) == "λmax is 13.2 at sgd (train loss 0.500)."
    other = pairs("sam", values=(2.0,), data_hash="a")
    assert "a ratio of" in told(sure, other)
    assert told(unsure, other) == (
        "λmax of these 2 checkpoints is not compared, for 1 is not certified: 2.00 at sam (train loss 0.500) and "
        "11.8 ± 1.7, not certified, at sgd (train loss 0.500)."
    )


def test_a_spectrum_that_is_not_sure_holds_only_those_of_larger_residuals():
    longer = replace(pairs(values=(4.0, 1.0, 0.5)), complete=False)
    vague = replace(pairs(values=(4.0,)), complete=False, residuals=np.array([0.1]))
    keen = replace(pairs(values=(4.0,)), complete=False, residuals=np.array([0.001]))
    assert len(checkpoints([longer, vague])[0].pairs) == 1
    assert len(checkpoints([longer, keen])[0].pairs) == 2
    assert len(checkpoints([replace(longer, complete=True), keen])[0].pairs) == 1


def test_the_mode_told_is_that_of_the_losses_told():
    lost, known = surface("a", loss=math.nan), surface("b", loss=0.5, batch_norm="train")
    assert "Train loss 0.500 ± 0.050 at b, BatchNorm in train mode." in told(lost, known)
    lost, known = surface("a", loss=math.nan, batch_norm="train"), surface("b", loss=0.5)
    assert "BatchNorm" not in told(lost, known)


def test_a_refusal_to_compare_has_no_mode():
    train = seeds_of("sgd", lambda n: surface(split="test", accuracy=0.9 + 0.01 * n, batch_norm="train"))
    frozen = seeds_of("sam", lambda n: surface(split="test", accuracy=0.9 + 0.01 * n))
    alike = seeds_of("sam", lambda n: surface(split="test", accuracy=0.9 + 0.01 * n, batch_norm="train"))
    assert told(*train, *frozen).endswith("(BatchNorm train and frozen), so methods are not compared.")
    assert told(*train, *alike).endswith(", BatchNorm in train mode.")


def test_a_surface_measured_at_the_checkpoint_stands_for_it_rather_than_a_larger_one_that_is_not():
    apart = surface("sgd", split="test", accuracy=0.5, num_examples=1000)
    apart = replace(apart, x=np.linspace(0.2, 1, 5), y=np.linspace(0.2, 1, 5))
    assert told(surface("sgd", split="test"), apart) == "Test accuracy is 90.0 ± 3.0 % at sgd."
    checked = replace(apart, checks={"centre_loss": 0.5, "centre_accuracy": 0.5})
    assert told(surface("sgd", split="test"), checked) == "Test accuracy is 50.0 ± 1.6 % at sgd."


def test_one_more_surface_of_one_checkpoint_takes_no_comparison_away():
    both = [surface(name, split="test", accuracy=0.9, num_examples=200, data_hash="200") for name in ("sgd", "sam")]
    larger = surface("sgd", split="test", accuracy=0.8, num_examples=360, data_hash="360")
    assert told(*both, larger) == told(*both) != ""
    assert "80.0" in told(larger, both[0])
