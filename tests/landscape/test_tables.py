"""What a table says of numbers that are known."""

import dataclasses

import numpy as np
import pytest
from curvature_results import density
from plain_results import pairs as spectrum
from plain_results import surface

from landscape.results import Congruence, CongruenceTrace, Eigenpairs, Surface, status_of
from landscape.tables import summary_table, tables


def pairs(converged, *, complete=True):
    count = len(converged)
    return Eigenpairs(
        values=np.arange(count, 0.0, -1.0),
        vectors=None,
        residuals=np.full(count, 0.01),
        converged=np.array(converged),
        complete=complete,
        num_matvecs=9,
        checkpoint={"label": "sgd", "hash": "sgd"},
    )


@pytest.mark.parametrize(
    ("one", "marked"),
    [
        (pairs([True, True, True]), []),
        (pairs([True, True, False]), ["lambda_3"]),
        (pairs([True, False, False]), ["lambda_2", "lambda_3"]),
        (pairs([True, True, True], complete=False), ["lambda_1"]),
    ],
)
def test_the_eigenvalue_that_is_not_certified_is_marked_and_no_other(one, marked):
    (table,) = tables([one])
    assert [name for name, cell in zip(table.header, table.rows[0], strict=True) if cell.endswith(" (!)")] == marked


def test_quantiles_of_a_bulk_have_no_digit_that_the_resolution_does_not_carry():
    nodes = np.array([[0.00105, 0.00115], [0.00117, 0.0012]])
    (coarse,) = tables([density(nodes=nodes, weights=np.full((2, 2), 0.5), kernel_width=4.37)])
    (fine,) = tables([density(nodes=nodes, weights=np.full((2, 2), 0.5), kernel_width=2e-5)])
    assert coarse.rows[0][2:6] == ["0.0", "0.0", "0.0", "4.37"]
    assert fine.rows[0][2:5] == ["0.001050", "0.001150", "0.001200"]


def test_the_last_eigenvalue_of_a_layer_with_fewer_is_not_shown_as_another():
    blocks = [dataclasses.replace(pairs([True] * num), settings={"layer": f"l{num}"}) for num in (3, 2)]
    (found,) = tables([*blocks])
    assert found.header[3] == "lambda_3"
    assert [row[3] for row in found.rows] == ["1.00", ""]


def trace(label, change):
    some = np.array([0.5, 0.6])
    error = {f"{name}_standard_error": np.full(2, 0.01) for name in ("cosine_b", "cosine_a", "change")}
    return CongruenceTrace(
        epoch=np.array([1, 2]),
        cosine_b=some,
        cosine_a=some + change,
        change=np.full(2, change),
        learning_rate=some,
        num_probes=np.ones(2, int),
        checkpoint={"label": label, "hash": label},
        **error,
    )


def test_a_step_is_said_to_change_the_congruence_only_beyond_two_standard_errors():
    (table,) = tables([trace("up", 0.1), trace("down", -0.1), trace("flat", 0.01)])
    assert table.notes[-1] == "a step, by more than two standard errors, raises it: up; lowers it: down"
    (table,) = tables([trace("flat", 0.01)])
    assert table.notes[-1] == "a step, by more than two standard errors, changes it for none"


def test_columns_that_would_be_empty_are_not_there():
    x = np.array([0.5, 1.0])
    loss = np.ones((2, 2))
    one = Surface(
        x=x, y=x, loss=loss, standard_error=loss, accuracy=loss, status=status_of(loss), settings={"steps": 2}
    )
    assert list(tables([one])[0].header) == ["", "loss", "accuracy", "not finite"]
    ok, failed = (
        Congruence(value=0.5, standard_error=0.1),
        Congruence(value=np.nan, standard_error=np.nan, status="zero"),
    )
    for some, header in (([ok], ["", "cosine"]), ([ok, failed], ["", "cosine", "status"])):
        settings = {"num_examples": 4, "num_validation_examples": 4}
        found = [Congruence(**{**vars(r), "settings": settings}) for r in some]
        assert list(tables(found)[0].header) == header


def test_the_summary_speaks_of_the_measurement_that_stands_for_each_checkpoint():
    few = surface(split="test", accuracy=0.5, num_examples=40)
    frozen = surface(split="test", accuracy=0.9, num_examples=360)
    recalibrated = surface(split="test", accuracy=0.7, num_examples=360, batch_norm="recalibrated")
    results = few, frozen, recalibrated, spectrum(operator="fisher"), spectrum(values=(3.0, 1.0))
    (record,) = summary_table(results).records
    assert (record["test_accuracy"], record["lambda_1"]) == (0.9, 3.0)
