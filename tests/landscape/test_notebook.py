from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from curvature_results import along_run, density, entries
from plain_results import bowl, run, spectrum, trace, valley

from landscape.results import Congruence, DataSpread, Estimate

HOSTILE = '"><script>alert(1)</script><img src=x onerror=alert(2)>'


def estimate():
    return Estimate(quantity="effective_rank", value=10.28, standard_error=0.17, num_samples=4, num_matvecs=60)


def spread():
    return DataSpread(
        values=np.array([4.0, 1.0]),
        standard_error=np.array([0.5, 0.25]),
        trace=9.0,
        trace_standard_error=0.5,
        subset_sizes=np.array([25.0, 50.0, 100.0]),
        subset_values=np.array([6.0, 5.0, 4.5]),
        bias=0.5,
        num_examples=100.0,
        num_parts=4,
        num_matvecs=12,
        loss=0.5,
    )


class Page(HTMLParser):
    """The tags and cells of a piece of HTML, each tag closed where it has to be."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.cells, self.said = [], [], [], []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        assert not [name for name, _ in attributes if name.startswith("on")]
        if tag not in ("br", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, text):
        self.said.append(text)
        if self.open and self.open[-1] == "td":
            self.cells.append(text)


SHOWN = {
    "surface": (replace(bowl(), trajectory=run()), ["0.500 ± 0.050", "1.900 ± 0.019"]),
    "line": (valley(), ["0.50 ± 0.10"]),
    "eigenvalues": (spectrum(), ["4.000 ± 0.040", "1.000 ± 0.010"]),
    "a layer's": (replace(spectrum(), settings={"layer": "stem", "operator": "hessian"}), ["4.000 ± 0.040"]),
    "density": (density(), ["sgd"]),
    "curvature": (along_run(), ["4.000 ± 0.010", "8.000 ± 0.010"]),
    "diagonal": (entries(), ["-8.00 ± 0.40"]),
    "estimate": (estimate(), ["10.28 ± 0.17"]),
    "spread": (spread(), ["4.00 ± 0.50"]),
    "congruence": (Congruence(value=0.25, standard_error=0.01), ["0.250 ± 0.010"]),
    "trace": (trace(), ["0.1500 ± 0.0071"]),
}


@pytest.mark.parametrize("kind", SHOWN)
def test_a_notebook_shows_the_numbers_with_their_uncertainty(kind):
    one, numbers = SHOWN[kind]
    page = Page(one._repr_html_())
    assert set(numbers) <= set(page.cells), page.cells


@pytest.mark.parametrize("kind", SHOWN)
def test_hostile_names_are_text_in_a_notebook(kind):
    one, _ = SHOWN[kind]
    settings = {name: HOSTILE if isinstance(value, str) else value for name, value in one.settings.items()}
    settings |= {"split": HOSTILE, "loss": HOSTILE, "unit": HOSTILE, "labels": HOSTILE}
    page = Page(replace(one, checkpoint={"label": HOSTILE}, settings=settings)._repr_html_())
    assert "script" not in page.tags
    assert page.tags.count("img") <= 1
    assert HOSTILE in "".join(page.said)


def test_a_notebook_flags_what_did_not_converge():
    page = Page(spectrum(converged=[True, False])._repr_html_())
    assert page.cells[-3:] == ["2", "1.000 ± 0.010", "NO"]
    assert "1 eigenvalues did not converge; allow more products" in "".join(page.said)


def test_a_notebook_counts_the_eigenvalues_that_it_leaves_out():
    page = Page(spectrum(values=np.arange(30.0, 0, -1))._repr_html_())
    assert "and 10 more" in page.said


def test_a_result_without_a_name_is_called_in_its_title_as_in_its_table():
    page = Page(replace(spectrum(), checkpoint={"hash": "0123456789abcdef"})._repr_html_())
    assert "Eigenpairs at 01234567" in page.said
    assert "01234567" in page.cells
