"""The panels of the whole spectrum, of layers and tensors, of the sample, and of curvature through training as HTML."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from landscape.formatting import counted, plus_minus, rounded, short
from landscape.grouping import Checkpoint, spectrum_kind
from landscape.page.markup import escape, missing, numbers, section, table
from landscape.page.sentences import rank_sentence
from landscape.readings import QUANTITIES, bulk_quantile, by_trace, largest, shown_tensors
from landscape.results import Diagonal, Estimate, t_factor
from landscape.spectra import layers_height


def density_section(checkpoints: Sequence[Checkpoint]) -> str:
    """The density of all eigenvalues, and the numbers that sum them up."""
    densities = [(c, one) for c in checkpoints for one in c.densities]
    estimates = [(c, one) for c in checkpoints for one in c.estimates]
    if not densities and not estimates:
        text = missing("No density and no trace", "landscape hessian CKPT --budget 100")
        return section("Density", "All eigenvalues, not only the largest", text)
    kinds = list(dict.fromkeys([spectrum_kind(d) for _, d in densities] + [spectrum_kind(e) for _, e in estimates]))
    body = f'<p class="note">Of: {escape("; ".join(kinds))}. '
    if densities:
        probes = sorted({len(one.nodes) for _, one in densities})
        body += (
            "Sticks are outliers, eigenvalues found by themselves, with bars of their residual; the curve is all "
            f"others, smoothed, and its band a 95 % interval over {' or '.join(map(str, probes))} random probes. A "
            "stick is as high as the smoothing makes one eigenvalue. Eigenvalues nearer to each other than the "
            "resolution look like one. "
        )
    if factors := sorted({f"{t_factor(e.num_samples):.1f}" for _, e in estimates if e.standard_error > 0}, key=float):
        body += f"± of a value is one standard error over the probes; 95 % takes {' or '.join(factors)} of them."
    body += "</p>"
    body += "".join(
        f'<p class="warn">{escape(c.style.name)}: {escape(one.note)}.</p>'
        for c, one in densities
        if one.note and len(one.nodes)
    )
    rows = []
    for c, one in densities:
        quantiles = [bulk_quantile(one, share) for share in (0.01, 0.5, 0.99)]
        cells = ["—" if math.isnan(value) else rounded(value, one.kernel_width) for value in quantiles]
        rows.append([c.style.name, spectrum_kind(one), str(len(one.sticks)), *cells, short(one.kernel_width)])
    if densities:
        chart = '<div class="chart" id="density" role="group" aria-label="Density of the eigenvalues"></div>'
        head = ["checkpoint", "of", "outliers", "1 %", "50 %", "99 % of the bulk below", "resolution"]
        body += f"<figure>{chart}</figure>" + numbers(table(head, rows, text=2), "Numbers of the density")
    if estimates:
        told = [
            [
                c.style.name,
                spectrum_kind(one),
                QUANTITIES.get(one.quantity, one.quantity),
                _value(one),
                str(one.num_samples),
            ]
            for c, one in estimates
        ]
        body += numbers(table(["checkpoint", "of", "quantity", "value", "probes"], told, text=3), "Trace and norm")
    return section("Density", rank_sentence(checkpoints), body)


def following_section(checkpoints: Sequence[Checkpoint]) -> str:
    """Curvature through training; nothing where no run was followed."""
    traces = [(c, one) for c in checkpoints for one in c.curvature_traces]
    if not traces:
        return ""
    rows = [
        [
            c.style.name,
            str(one.epoch[t]),
            short(float(one.loss[t])),
            plus_minus(float(one.values[t, 0]), float(one.residuals[t, 0])),
            *(_known(float(column[t])) for column in (one.along_gradient, one.along_sam, one.overlap)),
            _known(float(one.stability_limit[t])),
            "yes" if one.converged[t].all() and one.complete[t] else "NO",
        ]
        for c, one in traces
        for t in range(len(one.epoch))
    ]
    kinds = list(dict.fromkeys(spectrum_kind(one) for _, one in traces))
    body = (
        f'<p class="note">Of: {escape("; ".join(kinds))}. λ1 is the largest eigenvalue, with a bar of its residual; '
        "along the gradient and along SAM’s step it is v′Hv for the unit vector v. The grey line, of SGD runs alone, "
        "is the largest curvature at which descent with the epoch’s learning rate is stable on a quadratic loss: "
        "theory of full batches. Right: the share of the space of the top eigenvectors that was there at the "
        "checkpoint before.</p>"
        '<figure><div class="chart double" id="curvature-trace" role="group" '
        'aria-label="Curvature through training"></div></figure>'
    )
    head = ["checkpoint", "epoch", "loss", "λ1", "along the gradient", "along SAM’s step", "kept", "limit", "certified"]
    told = [
        f"{c.style.name} from {short(float(one.values[0, 0]))} to {short(float(one.values[-1, 0]))}"
        for c, one in traces
    ]
    more = f" and {counted(len(told) - 3, 'other')}" if len(told) > 3 else ""
    title = f"λmax through training: {', '.join(told[:3])}{more}"
    return section("Curvature through training", title, body + numbers(table(head, rows)))


def blocks_section(checkpoints: Sequence[Checkpoint]) -> str:
    """The eigenvalues of each layer's own block; nothing where no block was measured."""
    found = [(c, one) for c in checkpoints for one in c.layers]
    if not found:
        return ""
    rows = [
        [
            c.style.name,
            str(one.settings["layer"]),
            f"{count:,}" if isinstance(count := one.settings.get("num_kept"), int) else "—",
            plus_minus(largest(one), float(one.residuals[0])) if math.isfinite(largest(one)) else "—",
            "yes" if one.converged.all() and one.complete else "NO",
        ]
        for c, one in found
        if len(one.values)
    ]
    head = ["checkpoint", "layer", "parameters", "λ1", "certified"]
    made = numbers(table(head, rows, text=2, sortable=True), "Largest eigenvalue of each layer")
    top: dict[str, tuple[float, str]] = {}
    for c, one in found:
        value = (largest(one), str(one.settings["layer"]))
        if math.isfinite(value[0]):
            top[c.style.name] = max(top.get(c.style.name, value), value)
    told = [f"{layer} at {name} ({short(value)})" for name, (value, layer) in top.items()]
    kinds = list(dict.fromkeys(spectrum_kind(one) for _, one in found))
    note = (
        f'<p class="note">Of: {escape("; ".join(kinds))}. The block of the matrix that belongs to the parameters of '
        "one layer. What lies between layers is in none of them: the whole has a largest eigenvalue at least as large "
        "as each. Bars are the residual; an open marker is not certified.</p>"
    )
    height = layers_height([one for _, one in found])
    chart = (
        f'<div class="chart" id="layers" style="--height: {height}px" role="group" aria-label="Each layer’s own block">'
    )
    body = f"{note}<figure>{chart}</div></figure>{made}"
    more = f" and {counted(len(told) - 3, 'other')}" if len(told) > 3 else ""
    return section("Layers", f"The layer of most curvature by itself: {', '.join(told[:3])}{more}", body)


def tensors_section(checkpoints: Sequence[Checkpoint]) -> str:
    """The largest traces of tensors of theta, a column for each diagonal; nothing where none was measured."""
    found = [(c, one) for c in checkpoints for one in c.diagonals]
    if not found:
        return ""
    kinds = list(dict.fromkeys(spectrum_kind(one) for _, one in found))
    heads = [c.style.name + (f", {spectrum_kind(one)}" if len(kinds) > 1 else "") for c, one in found]
    sizes = {name: math.prod(shape) for _, one in found for name, shape in zip(one.names, one.shapes, strict=True)}
    names = shown_tensors([one for _, one in found], 12)
    columns = [_traces(one) for _, one in found]
    rows = [[name, f"{sizes[name]:,}", *(column.get(name, "—") for column in columns)] for name in names]
    totals = [plus_minus(one.trace, one.trace_standard_error) for _, one in found]
    rows.append(["all", f"{sum(sizes.values()):,}", *totals])
    note = (
        f'<p class="note">Of: {escape("; ".join(kinds))}. The sum of the diagonal over each tensor of the parameters, '
        "those of the largest sums from input to output, ± one standard error over the random probes. The results file "
        "has each entry.</p>"
    )
    made = table(["tensor", "entries", *heads], rows, sortable=True)
    body = f'{note}<div class="scroll" tabindex="0" role="region" aria-label="Trace of each tensor">{made}</div>'
    told = [_largest_trace(one, f" at {c.style.name}") for c, one in found]
    more = f" and {counted(len(told) - 3, 'other')}" if len(told) > 3 else ""
    return section("Diagonal", f"Largest trace of a tensor: {'; '.join(told[:3])}{more}", body)


def _largest_trace(one: Diagonal, where: str) -> str:
    """The tensor of the trace of largest magnitude, and those whose traces the probes do not tell apart from it."""
    first, *others = by_trace(one)
    size, error, traces = np.abs(one.tensor_traces), one.tensor_standard_errors, _traces(one)
    alike = [
        n for n in others if size[first] - size[n] <= t_factor(one.num_samples) * math.hypot(error[first], error[n])
    ]
    told = [f"{one.names[n]} {traces[one.names[n]]}" for n in (first, *alike[:1])]
    more = f" and {counted(len(alike) - 1, 'other')}" if len(alike) > 1 else ""
    return f"{told[0]}{where}" + (f", not told apart from {told[1]}{more}" if alike else "")


def _traces(one: Diagonal) -> dict[str, str]:
    told = [plus_minus(*pair) for pair in zip(one.tensor_traces, one.tensor_standard_errors, strict=True)]
    return dict(zip(one.names, told, strict=True))


def sample_section(checkpoints: Sequence[Checkpoint]) -> str:
    """What the largest eigenvalue owes to the sample of examples; nothing where that was not measured."""
    found = [(c, one) for c in checkpoints for one in c.data_spreads]
    if not found:
        return ""
    rows = []
    for c, one in found:
        wanted, (low, high) = one.examples_for(0.05), one.examples_interval(0.05)
        cells = [
            plus_minus(float(one.values[0]), float(one.standard_error[0])),
            plus_minus(one.bias, one.bias_standard_error),
            f"{wanted:,.0f} ({low:,.0f} to {high:,.0f})" if math.isfinite(wanted) else "—",
        ]
        rows.append([c.style.name, f"{one.num_examples:,.0f}", *cells])
    head = ["checkpoint", "examples", "λ1", "its bias", "examples for 5 %"]
    note = (
        '<p class="note">± is one standard error over new draws of as many examples, at fixed vectors: a lower bound. '
        "The largest eigenvalue of a sample is too large on average: the bias is by how much, from its halves and "
        "quarters. The last column is how many examples bring both below 5 % of λ1.</p>"
    )
    made = table(head, rows, sortable=True)
    body = f'{note}<div class="scroll" tabindex="0" role="region" aria-label="Errors from the sample">{made}</div>'
    told = [f"{c.style.name} {plus_minus(float(one.values[0]), float(one.standard_error[0]))}" for c, one in found]
    more = f" and {counted(len(told) - 3, 'other')}" if len(told) > 3 else ""
    return section("Sample", f"λ1 with the error that the choice of examples leaves: {', '.join(told[:3])}{more}", body)


def _value(one: Estimate) -> str:
    return short(one.value) if math.isnan(one.standard_error) else plus_minus(one.value, one.standard_error)


def _known(value: float) -> str:
    return "—" if math.isnan(value) else short(value)
