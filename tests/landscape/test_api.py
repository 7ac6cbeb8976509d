import subprocess
import sys
from pathlib import Path

import landscape as ls


def test_the_public_names_are_these():
    assert sorted(ls.__all__) == [
        "Congruence",
        "CongruenceTrace",
        "Curvature",
        "CurvatureTrace",
        "DataSpread",
        "Density",
        "Diagonal",
        "Eigenpairs",
        "Estimate",
        "HessianOptions",
        "Line",
        "Objective",
        "Plane",
        "Surface",
        "SymmetricOperator",
        "Trajectory",
        "along",
        "ascent_plane",
        "axis_line",
        "curvature",
        "curvature_trace",
        "data_error",
        "diagonal",
        "effective_rank",
        "eigenvector_plane",
        "figures",
        "filter_groups",
        "fisher",
        "frobenius_norm",
        "gauss_newton",
        "gradient_congruence",
        "hessian",
        "hessian_analysis",
        "line_between",
        "load",
        "loss_line",
        "loss_surface",
        "paired_difference",
        "paired_rise",
        "pca_plane",
        "per_layer",
        "plane_through",
        "project_run",
        "random_line",
        "random_plane",
        "save",
        "spectral_density",
        "top_eigenpairs",
        "trace",
        "write_report",
    ]
    for name in ls.__all__:
        assert getattr(ls, name).__doc__, name
    assert set(ls.__all__) <= set(dir(ls))


def test_what_draws_and_loads_needs_no_torch():
    script = (
        "import sys, landscape, landscape.report, landscape.figures, landscape.tables; landscape.load, landscape.save; "
        "bad = {'torch', 'train', 'cli'} & set(sys.modules); assert not bad, bad"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_no_module_hides_a_public_name():
    modules = {path.stem for path in Path(ls.__file__).parent.glob("*.py")}
    hidden = (modules & set(ls.__all__)) - {"figures"}  # which is itself the public name
    assert not hidden
