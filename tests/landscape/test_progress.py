import io
import sys

from landscape import progress


def test_the_time_that_is_left_is_reckoned_from_what_this_process_did(monkeypatch, capsys):
    clock = iter([0.0, 11.0, 22.0, 33.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    with progress.counting() as count:
        for epoch in (31, 32, 33):  # resumed at 30
            count("train", "epochs", epoch, 40)
    told = capsys.readouterr().err.splitlines()
    assert told == [
        "train: 31/40 epochs",
        "train: 32/40 epochs, about 88 s left",
        "train: 33/40 epochs, about 77 s left",
    ]


def test_a_terminal_has_a_bar_and_no_lines(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setattr(sys, "stderr", Terminal())
    with progress.counting() as count:
        for done in (1, 2):
            count(f"surface sgd, loss {done}", "points", done, 4)
        count("eigenvectors", "products", 3, None)
    told = sys.stderr.getvalue()
    assert "1/4" in told
    assert "surface sgd, loss" in told
    assert "3 products" in told
    assert "\n" not in told.rstrip("\n")


def test_quiet_is_quiet(monkeypatch, capsys):
    monkeypatch.setattr(progress, "_EVERY", 0.0)
    with progress.counting(quiet=True) as count:
        count("train", "epochs", 1, 2)
    assert capsys.readouterr().err == ""
