"""The tables of the page: what stands in one row, and the same numbers over seeds in every form."""

import csv
from dataclasses import replace

import numpy as np
import pytest
from plain_results import bowl, pairs, seeds_of, surface, trace

from landscape.grouping import checkpoints
from landscape.page.measures import measures, over_seeds, rows_of
from landscape.page.table import table_csv, table_latex, table_section
from landscape.results import Estimate


def trace_of(value, label="sgd", **settings):
    of = {"checkpoint": {"label": label, "hash": f"hash of {label}"}, "settings": pairs(**settings).settings}
    return Estimate(quantity="trace", value=value, standard_error=1.0, num_samples=8, num_matvecs=8, **of)


def written(*results):
    return list(csv.DictReader(table_csv(checkpoints(results)).splitlines()))


def test_a_trace_stands_beside_the_eigenvalues_of_its_own_data():
    results = pairs(data_hash="A" * 40), pairs(values=(8.0,), data_hash="B" * 40)
    traces = trace_of(119.6, data_hash="A" * 40), trace_of(126.9, data_hash="B" * 40)
    for order in (traces, traces[::-1]):
        assert [(row["lambda_1"], row["trace"]) for row in written(*results, *order)] == [
            ("4.0", "119.6"),
            ("8.0", "126.9"),
        ]
    kinds = [row["spectrum_of"] for row in written(*results, *traces)]
    assert kinds == ["hessian, train, data AAAAAAAA", "hessian, train, data BBBBBBBB"]
    html, latex = table_section(checkpoints([*results, *traces])), table_latex(checkpoints([*results, *traces]))
    for text in (html, latex):
        assert text.index("AAAAAAAA") < text.index("119.6") < text.index("BBBBBBBB") < text.index("126.9")


def test_a_trace_of_other_data_or_another_matrix_has_a_row_of_its_own():
    (one,) = checkpoints([pairs(data_hash="A"), trace_of(9.0, data_hash="B"), trace_of(5.0, operator="fisher")])
    rows = rows_of(one)
    assert [row.pairs is None for row in rows] == [False, True, True]
    assert "trace" not in measures(rows[0])
    assert [measures(row).get("trace") for row in rows[1:]] == [(9.0, 1.0), (5.0, 1.0)]
    assert len(rows_of(checkpoints([bowl()])[0])) == 1


def test_two_estimates_of_one_data_both_stay():
    both = pairs(), trace_of(10.0), replace(trace_of(12.0), settings={**trace_of(0.0).settings, "seed": 1})
    (row,) = written(*both)
    assert (row["trace"], row["trace_2"], row["trace_2_se"]) == ("10.0", "12.0", "1.0")
    assert "10.0 ± 1.0; 12.0 ± 1.0" in table_section(checkpoints(both))


def test_over_seeds_page_and_csv_hold_the_same_measures():
    def spectra_on(data_hash, shift):
        return [
            *seeds_of("sgd", lambda n: pairs(values=(4.0 + n + shift,), data_hash=data_hash)),
            *seeds_of("sam", lambda n: pairs(values=(3.0 + n + shift,), data_hash=data_hash)),
        ]

    results = [one for both in zip(spectra_on("A", 0.0), spectra_on("B", 2.0), strict=True) for one in both]
    found = {row["row"]: row for row in written(*results) if row["checkpoint"] == "sgd"}
    assert found["number of seeds"]["lambda_1"] == "3"
    assert float(found["mean over seeds"]["lambda_1"]) == 5.0
    assert float(found["standard deviation over seeds"]["lambda_1"]) == pytest.approx(1.0)
    html = table_section(checkpoints(results))
    assert "5.0 ± 1.0" in html
    assert "Of different data" not in html


def test_a_seed_whose_spectrum_is_of_another_matrix_keeps_its_other_measures():
    results = []
    for method in ("sgd", "sam"):
        results += seeds_of(method, lambda n: surface(split="test", accuracy=0.9 + 0.01 * n))
        results += seeds_of(method, lambda n: pairs(values=(4.0 + n,), num_examples=100))
    results[-1] = replace(results[-1], settings={**results[-1].settings, "num_examples": 50})
    sam = {row["row"]: row for row in written(*results) if row["checkpoint"] == "sam"}
    assert float(sam["mean over seeds"]["test_accuracy"]) == pytest.approx(0.91)
    assert (sam["number of seeds"]["test_accuracy"], sam["number of seeds"]["lambda_1"]) == ("3", "")
    assert "lambda_1" not in over_seeds(checkpoints(results))[1].values
    assert "91.0 ± 1.0 %" in table_section(checkpoints(results))


def test_the_smallest_eigenvalues_have_names_of_their_own():
    ends = pairs(values=(4.0, 1.0, -1.0, -2.0), which="both", k=2)
    (row,) = written(ends)
    names = ("lambda_1", "lambda_2", "lambda_min_2", "lambda_min")
    assert [float(row[name]) for name in names] == [4.0, 1.0, -1.0, -2.0]


def test_losses_that_are_not_the_checkpoints_own_are_marked():
    results = surface("a", batch_norm="recalibrated"), surface("b", batch_norm="frozen")
    words = "Not the checkpoint itself, train: BatchNorm recalibrated at each point at a."
    assert words in table_section(checkpoints(results))
    assert f"% {words}" in table_latex(checkpoints(results))
    assert [row["train_mode"] for row in written(*results)] == ["BatchNorm recalibrated at each point", ""]
    assert "Not the checkpoint itself" not in table_section(checkpoints(results[1:]))


def test_what_differs_from_seed_to_seed_is_said():
    results = [
        *seeds_of("sgd", lambda n: surface(batch_norm="recalibrated" if n else "frozen")),
        *seeds_of("sam", lambda n: pairs(data_hash=str(n))),
        *seeds_of("sam", lambda n: surface(data_hash=str(n))),
    ]
    html = table_section(checkpoints(results))
    assert "Measured in different ways (BatchNorm frozen and recalibrated) from seed to seed: train" in html
    assert "Of different data from seed to seed: λ" in html


def test_a_loss_that_is_not_finite_is_no_seed_of_the_mean():
    def lost(n):
        one = surface(loss=0.5 + n)
        return one if n else replace(one, loss=np.full_like(one.loss, np.inf))

    results = [*seeds_of("sgd", lost), *seeds_of("sam", lambda n: surface(loss=0.5 + n))]
    sgd = {row["row"]: row for row in written(*results) if row["checkpoint"] == "sgd"}
    assert (sgd["mean over seeds"]["train_loss"], sgd["number of seeds"]["train_loss"]) == ("2.0", "2")
    assert "(2 of 3 finite)" in table_section(checkpoints(results))


def test_methods_of_which_the_table_knows_nothing_have_no_rows():
    traces = [*seeds_of("sgd", lambda n: trace()), *seeds_of("sam", lambda n: trace())]
    assert "Over seeds" not in table_section(checkpoints(traces))
