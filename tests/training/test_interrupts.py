"""Signals as requests and as exceptions; the handlers before them come back."""

import os
import signal
import threading

import pytest

from citrus_lirpa.errors import Interrupted, Terminated
from citrus_lirpa.training.interrupts import (
    Termination,
    interrupted_by,
    stop_requests,
    terminations,
)

INT, TERM = signal.SIGINT, signal.SIGTERM


def send(number: int) -> None:
    os.kill(os.getpid(), number)


@pytest.fixture(autouse=True)
def handlers():
    before = [signal.getsignal(number) for number in (INT, TERM)]
    yield
    assert [signal.getsignal(number) for number in (INT, TERM)] == before


@pytest.mark.parametrize("numbers", [[INT], [TERM], [TERM, TERM], [TERM, INT], [INT, TERM]])
def test_requests(numbers):
    """A scheduler's SIGTERM and the SIGINT of a sweep that got it too are not two Ctrl-C."""
    with stop_requests() as stop:
        assert stop() == 0
        for number in numbers:
            send(number)
        assert stop() == numbers[0]


def test_a_second_interruption_stops_at_once():
    with pytest.raises(KeyboardInterrupt), stop_requests():
        send(INT)
        send(INT)
        pytest.fail("it went on")


@pytest.mark.parametrize("late", [INT, TERM])
def test_termination_is_raised_and_what_comes_behind_it_is_ignored(late):
    cleaned = []
    with pytest.raises(Termination), terminations():
        try:
            send(TERM)
            pytest.fail("it went on")
        finally:
            send(late)
            cleaned.append(True)
    assert cleaned


def test_interruptions_stay_what_they_are_inside_terminations():
    with pytest.raises(KeyboardInterrupt) as caught, terminations():
        send(INT)
    assert not isinstance(caught.value, Termination)


def test_requests_inside_terminations():
    with terminations(), stop_requests() as stop:
        send(TERM)
        assert stop() == TERM


def test_other_threads_get_none():
    found = []

    def work() -> None:
        with stop_requests() as stop, terminations():
            found.append(stop())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [0]


def test_the_error_says_which_signal_it_was():
    assert type(interrupted_by(INT, "x")) is Interrupted
    assert type(interrupted_by(TERM, "x")) is Terminated
    assert interrupted_by(TERM, "x").exit_code == 130
