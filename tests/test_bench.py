"""The benchmark's tables: which step of a scenario is its figure."""

from bench.report import best, reached
from bench.scenarios import REACH, Figure

GOAL = REACH["durable"][1]


def durable(step: str, value: float, *faults: str, closed_loop: bool = False) -> Figure:
    return Figure(
        scenario="durable", step=step, value=value, unit="publishes/s", faults=faults, closed_loop=closed_loop
    )


def test_the_best_step_is_one_of_the_open_loop_however_much_a_window_brought() -> None:
    window = durable("window", GOAL * 2, closed_loop=True)
    sound, late = durable("20,000", GOAL / 2), durable("40,000", GOAL, "p99 over 50 ms")
    assert best([window, sound, late]) == [sound]
    assert best([window, late]) == [late]


def test_a_window_alone_is_shown_and_has_reached_nothing() -> None:
    window = durable("window", GOAL * 2, closed_loop=True)
    assert best([window]) == [window]
    assert [reached(figure) for figure in (window, durable("30,000", GOAL))] == [False, True]
