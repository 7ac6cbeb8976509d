"""The panels of spectrum and gradient congruence as HTML. What is missing is said in its place."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from landscape.formatting import counted, plus_minus, short, signed
from landscape.grouping import Checkpoint, spectrum_kind
from landscape.page.markup import escape, missing, numbers, section, table
from landscape.page.sentences import change_sentence, curvature_sentence, repeats
from landscape.readings import loss_of_spectrum, places, sample_errors, standing_spectra
from landscape.results import Eigenpairs
from landscape.subjects import matrix_words

_AGREES = 0.01  # relative: two programs, one number


def spectrum_section(checkpoints: Sequence[Checkpoint]) -> str:
    """The eigenvalues that were sought, and what is wrong with them."""
    pairs = [(c, one) for c in checkpoints for one in c.pairs]
    if not pairs:
        return section("Spectrum", "Curvature at the checkpoints", missing("No spectrum", "landscape hessian CKPT"))
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
    if any(np.isfinite(sample_errors(one, c.data_spreads)).any() for c, one in pairs):
        body += (
            '<p class="note">A broad bar is ± one standard error over new draws of as many examples, at fixed vectors: '
            "a lower bound.</p>"
        )
    if len(repeats(checkpoints)) > 1:
        body += '<p class="note">± in the title is the standard deviation over seeds: Methods, in the definitions.</p>'
    body += "".join(f'<p class="warn">{escape(text)}.</p>' for text in warnings)
    body += _cross_check(checkpoints)
    body += missing(f"No spectrum of {', '.join(lost)}", "landscape hessian CKPT") if lost else ""
    chart = '<div class="chart" id="eigenvalues" role="group" aria-label="Top eigenvalues with residual bars"></div>'
    body += f"<figure>{chart}</figure>" + numbers(
        table(["checkpoint", "of", "index", "eigenvalue", "converged"], rows, text=2)
    )
    return section("Spectrum", curvature_sentence(checkpoints) or _other_end(checkpoints), body)


def _other_end(checkpoints: Sequence[Checkpoint]) -> str:
    """The smallest eigenvalues with their losses, where the largest were not sought."""
    standing = zip(checkpoints, standing_spectra(checkpoints), strict=True)
    found = [(c, one, loss_of_spectrum(one, c)) for c, one in standing if one and -1 in places(one)]
    found = [(c, one, loss) for c, one, loss in found if math.isfinite(loss)]
    if not found:
        return "Eigenvalues; the loss they belong to was not recorded"
    told = [
        f"{_smallest(one)} at {c.style.name} ({one.settings.get('split') or 'mean'} loss {short(loss)})"
        for c, one, loss in found
    ]
    more = f" and {counted(len(told) - 3, 'other')}" if len(told) > 3 else ""
    return f"λmin{matrix_words(found[0][1].settings)} is {', '.join(told[:3])}{more}"


def _smallest(one: Eigenpairs) -> str:
    value, residual = float(one.values[-1]), float(one.residuals[-1])
    sure = one.complete and bool(one.converged[-1])
    return (short(value) if sure else f"{plus_minus(value, residual)}, not certified,").replace("-", "−", 1)


def _cross_check(checkpoints: Sequence[Checkpoint]) -> str:
    """What another program found on the same data; nothing where none was asked."""
    told, worst = [], 0.0
    for c in checkpoints:
        for one in c.checked:
            check: Any = one.checks["pyhessian"]
            apart = float(check["difference"])
            verdict = "the other end of the spectrum, which does not compare"
            told.append(
                f"{short(check['eigenvalue'])} at {c.style.name} "
                f"({verdict if math.isnan(apart) else f'{short(100 * apart)} % apart'})"
            )
            worst = max(worst, 0.0 if math.isnan(apart) else apart)
    if not told:
        return ""
    agrees = worst <= _AGREES
    text = f"{'✓' if agrees else '✗'} PyHessian on the same data finds {', '.join(told)}."
    text += "" if agrees else f" More than {100 * _AGREES:g} % apart: do not believe either before it is known why."
    return f'<p class="badge{"" if agrees else " warn"}">{escape(text)}</p>'


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
