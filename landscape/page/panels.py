"""The panels of spectrum and gradient congruence as HTML. What is missing is said in its place."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from landscape.formatting import plus_minus, short, signed
from landscape.grouping import Checkpoint, spectrum_kind
from landscape.page.markup import escape, missing, numbers, section, table
from landscape.page.sentences import MOST_NAMED, change_sentence, curvature_sentence
from landscape.readings import places


def spectrum_section(checkpoints: Sequence[Checkpoint]) -> str:
    """Eigenvalues, their density, curvature along runs, and what is wrong with them."""
    parts = [_eigenvalues_html(checkpoints), _density_html(checkpoints), _curvature_html(checkpoints)]
    if not any(parts):
        return section("Spectrum", "Curvature at the checkpoints", missing("No spectrum", "landscape hessian CKPT"))
    sentence = curvature_sentence(checkpoints)
    return section("Spectrum", sentence or "Eigenvalues; the loss they belong to was not recorded", "".join(parts))


def _density_html(checkpoints: Sequence[Checkpoint]) -> str:
    found = [(c.style.name, one) for c in checkpoints for one in c.densities]
    if not found:
        return ""
    widths = ", ".join(f"{name} {short(one.kernel_width)}" for name, one in found[:MOST_NAMED])
    kinds = "; ".join(dict.fromkeys(spectrum_kind(one) for _, one in found))
    notes = "".join(f'<p class="warn">{escape(f"{name}: {one.note}")}</p>' for name, one in found if one.note)
    text = (
        f"Density of all eigenvalues of: {kinds}. The curve is the bulk, from random probes, smoothed by Gaussians "
        f"(standard deviation: {widths}); the band is an interval for the mean over probes and holds neither the error "
        "of the quadrature nor that of the smoothing. Sticks are single eigenvalues found by themselves, with bars of "
        "their residuals; their height means nothing."
    )
    chart = '<div class="chart" id="density" role="group" aria-label="Density of the eigenvalues"></div>'
    return f'<figure><figcaption><p class="note">{escape(text)}</p>{notes}</figcaption>{chart}</figure>'


def _curvature_html(checkpoints: Sequence[Checkpoint]) -> str:
    found = [(c.style.name, one) for c in checkpoints for one in c.curvatures]
    if not found:
        return ""
    text = (
        "Largest eigenvalues along the run, with bands of ± their residuals, and the curvature v′Hv for unit vectors "
        "along the gradient and along SAM’s step. Dotted, for the SGD family alone: the largest curvature at which "
        "descent on the full batch is stable at the epoch’s learning rate, in theory. Overlap: the share of the space "
        "of these eigenvectors that lies in that of the checkpoint before."
    )
    rows = [
        [name, str(one.epoch[t]), short(one.loss[t]), plus_minus(one.values[t, 0], one.residuals[t, 0])]
        + [short(float(value[t])) for value in (one.stability_limit, one.overlap)]
        + ["yes" if one.converged[t].all() and one.complete[t] else "NO", str(one.num_matvecs[t])]
        for name, one in found
        for t in range(len(one.epoch))
    ]
    head = ["checkpoint", "epoch", "loss", "λmax", "stability limit", "overlap", "converged, complete", "products"]
    chart = '<div class="chart double" id="curvature" role="group" aria-label="Curvature along the run"></div>'
    caption = f'<figcaption><h3>Curvature along the run</h3><p class="note">{escape(text)}</p></figcaption>'
    return f"<figure>{caption}{chart}</figure>{numbers(table(head, rows))}"


def _eigenvalues_html(checkpoints: Sequence[Checkpoint]) -> str:
    pairs = [(c, one) for c in checkpoints for one in c.pairs]
    if not pairs:
        return ""
    kinds = list(dict.fromkeys(spectrum_kind(one) for _, one in pairs))
    rows = []
    for c, one in pairs:
        for n, (place, value, residual) in enumerate(zip(places(one), one.values, one.residuals, strict=True)):
            rows.append(
                [
                    c.style.name,
                    spectrum_kind(one),
                    str(place).replace("-", "−"),
                    plus_minus(value, residual),
                    "yes" if one.converged[n] else "NO",
                ]
            )
    warnings = []
    for c, one in pairs:
        if not one.converged.all():
            warnings.append(
                f"{c.style.name}: {int((~one.converged).sum())} of {len(one.values)} eigenvalues have not converged"
            )
        if not one.complete:
            warnings.append(
                f"{c.style.name}: larger eigenvalues may have been missed (the second search did not confirm)"
            )
        if one.checks.get("repeatable") is False:
            warnings.append(f"{c.style.name}: the loss is not repeatable, so its curvature is not either")
    lost = [c.style.name for c in checkpoints if not c.pairs]
    body = (
        f'<p class="note">Eigenvalues of: {escape("; ".join(kinds))}. Bars are the residual ‖Hv − λv‖: an '
        "eigenvalue lies within it. Open markers have not converged. Curvature falls with the loss itself, so read "
        "each beside its loss.</p>"
    )
    body += "".join(f'<p class="warn">{escape(text)}.</p>' for text in warnings)
    body += missing(f"No spectrum of {', '.join(lost)}", "landscape hessian CKPT") if lost else ""
    chart = '<div class="chart" id="eigenvalues" role="group" aria-label="Top eigenvalues with residual bars"></div>'
    return (
        body
        + f"<figure>{chart}</figure>"
        + numbers(table(["checkpoint", "of", "index", "eigenvalue", "converged"], rows, text=2))
    )


def congruence_section(checkpoints: Sequence[Checkpoint]) -> str:
    """Gradient congruence before and after a step, along training."""
    traces = [(c, one) for c in checkpoints for one in c.traces]
    if not traces:
        return section(
            "Gradient congruence", "Gradient congruence along training", missing("No trace", "landscape alignment RUN")
        )
    rows = []
    for c, one in traces:
        probed = np.flatnonzero(np.isfinite(one.change))
        for e in probed[np.unique(np.linspace(0, len(probed) - 1, min(6, len(probed))).astype(int))]:
            values = [
                plus_minus(one.cosine_b[e], one.cosine_b_standard_error[e]),
                plus_minus(one.cosine_a[e], one.cosine_a_standard_error[e]),
                signed(float(one.change[e]), float(one.change_standard_error[e])),
            ]
            rows.append([c.style.name, str(one.epoch[e]), *values, str(one.num_probes[e])])
    radii = {str(one.settings.get("radius")) for _, one in traces} - {"None"}
    radius = f" Probe radius {escape(' or '.join(sorted(radii)))}." if radii else ""
    mixed = " The radii differ, so these traces do not compare." if len(radii) > 1 else ""
    body = (
        '<p class="note">Cosine between the gradient on one part of a batch and the gradient on the other part, the '
        "latter at a point shifted uphill; before a step, after it on the same examples, and the difference, also "
        "divided by the learning rate. Train mode, mean and band of ± one standard error over the probes of an "
        f"epoch.{radius}{mixed}</p>"
        '<figure><div class="chart fourfold" id="congruence" role="group" aria-label="Gradient congruence per epoch">'
        "</div></figure>"
    )
    body += numbers(table(["checkpoint", "epoch", "before", "after", "change", "probes"], rows))
    return section("Gradient congruence", change_sentence(checkpoints), body)
