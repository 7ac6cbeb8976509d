"""What a result is of, in words: its checkpoint, its data, its loss, its matrix."""

from __future__ import annotations

import math

from landscape.results import Record, Result


def operator_title(settings: Record, *, whole: bool = False) -> str:
    """What is known of the operator; of a bare matvec, nothing is."""
    parameters = settings.get("num_parameters")
    parts = [f"Largest eigenvalues of {settings.get('operator', 'an operator')}"]
    if "loss" in settings:
        matrix = {"hessian": "Hessian", "gauss-newton": "Gauss-Newton matrix", "fisher": "Fisher matrix"}
        kind = f" ({settings['kind']})" if "kind" in settings else ""
        name = matrix.get(str(settings.get("operator")), str(settings.get("operator"))) + kind
        mode = "BatchNorm in train mode" if settings.get("batch_norm") == "train" else f"{settings.get('mode')} mode"
        parts = [f"{name} of the mean {loss_name(settings)}", data_words(settings), mode]
    layers, kept = settings.get("layers"), settings.get("num_kept")
    if settings.get("protocol") == "paper":
        return (
            f"Sum of the Hessians of the mean cross-entropies of {settings.get('num_batches')} batches, "
            f"{data_words(settings)}, eval mode, the {kept:,} parameters of two dimensions or more, "
            f"{settings.get('dtype')} (protocol paper)"
        )
    if isinstance(layers, list):
        parts += [f"the {kept:,} parameters of {', '.join(map(str, layers))}", str(settings.get("dtype"))]
    elif isinstance(parameters, int) and not whole:
        parts += [f"all {parameters:,} parameters", str(settings.get("dtype"))]
    return ", ".join([*parts, *_engine_words(settings)])


def matrix_words(settings: Record) -> str:
    """Of which matrix eigenvalues are, after their name; nothing where it is the whole Hessian in eval mode."""
    operator, layers = str(settings.get("operator", "hessian")), settings.get("layers")
    matrix = {"hessian": "the Hessian", "gauss-newton": "the Gauss-Newton matrix", "fisher": "the Fisher matrix"}
    kind = f" ({settings['kind']})" if "kind" in settings else ""
    moving = f" of {', '.join(map(str, layers))} alone" if isinstance(layers, list) else ""
    mode = " with BatchNorm in train mode" if settings.get("batch_norm") == "train" else ""
    if settings.get("protocol") == "paper":
        return " of the sum of the batches' Hessians (protocol paper)"
    told = f" of {matrix.get(operator, operator)}{kind}{moving}{mode}"
    return "" if told == " of the Hessian" else told


def _engine_words(settings: Record) -> list[str]:
    """How the products were made, where not in the usual way."""
    engine = settings.get("engine", "retained")
    processes = settings.get("num_processes")
    return [
        *([f"products by {str(engine).replace('-', ' ')}"] if engine != "retained" else []),
        *(["products as usual, for compiling failed"] if "engine_reason" in settings else []),
        *([f"{processes} processes"] if isinstance(processes, int) else []),
    ]


def mode_words(settings: Record) -> str:
    """How the loss was measured, where it was not in the usual way."""
    statistics = {"recalibrated": ", BatchNorm recalibrated at each point", "train": ", BatchNorm in train mode"}
    precision = settings.get("precision", "fp32")
    told = statistics.get(str(settings.get("batch_norm")), "")
    return told + ("" if precision == "fp32" else f", forward pass in {precision}")


def plain_loop(settings: Record) -> str:
    """What the loss at a centre was held against, where that is not the checkpoint's own loss."""
    statistics = {
        "recalibrated": "a plain loop with recalibrated statistics",
        "train": "a plain loop with the statistics of each batch",
    }
    return statistics.get(str(settings.get("batch_norm")), "")


def label(result: Result) -> str:
    """The checkpoint of a result, or the start of its hash."""
    return str(result.checkpoint.get("label") or str(result.checkpoint.get("hash", ""))[:8] or "checkpoint")


def data_words(settings: Record) -> str:
    """The examples that were measured on, and their labels."""
    labels = settings.get("labels")
    noise = f", labels {labels}" if labels and labels != "clean" else ""
    known = count_words(settings, "num_examples")
    return " ".join(filter(None, [known, str(settings.get("split") or ""), f"examples{noise}"]))


def count_words(settings: Record, name: str) -> str:
    """A count among the settings."""
    count = settings.get(name)
    return f"{count:,}" if isinstance(count, int) else "an unknown number of"


def loss_name(settings: Record) -> str:
    """The loss, as one says it."""
    name = str(settings.get("loss"))
    return "cross-entropy" if name in ("CrossEntropyLoss", "cross_entropy") else name


def number_of(value: object) -> float:
    """What a record holds, NaN where that is no number."""
    return float(value) if isinstance(value, int | float) else math.nan
