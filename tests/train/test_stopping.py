import signal

import pytest

from train.stopping import Terminated, signals_noted, terminate


def test_a_second_signal_ends_at_once_and_an_ignored_one_stays_ignored(monkeypatch):
    seen = []

    def signalled(*numbers):
        with signals_noted() as stop:
            for number in numbers:
                signal.raise_signal(number)
                seen.append(stop())

    handlers = {signal.SIGTERM: signal.SIG_IGN, signal.SIGINT: signal.default_int_handler}
    previous = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        signalled(signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            signalled(signal.SIGTERM, signal.SIGINT)  # raised at the end
        with pytest.raises(KeyboardInterrupt):
            signalled(signal.SIGINT, signal.SIGINT, signal.SIGTERM)  # the second at once
        assert seen == [False, False, True, True]
        assert {number: signal.getsignal(number) for number in handlers} == handlers
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def test_a_termination_is_raised_as_one():
    previous = signal.signal(signal.SIGTERM, terminate)
    try:
        with pytest.raises(Terminated), signals_noted():
            signal.raise_signal(signal.SIGTERM)
        with pytest.raises(Terminated):
            signal.raise_signal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, previous)
