"""Power from a stepping counter, against energies worked out by hand."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from dlmbench.profiles.energy_counter import MeanPower, mean_power


def readings(
    energy_j: Callable[[float], float], *, until_s: float = 4.0, every_s: float = 0.05, renewed_s: float = 0.1
) -> list[tuple[float, float | None]]:
    """A counter that holds the energy at its last renewal, read from 0.01 s on."""
    times = [0.01 + every_s * n for n in range(int(until_s / every_s))]
    return [(at, energy_j(int(at / renewed_s) * renewed_s)) for at in times]


def found(*arguments: object) -> MeanPower:
    answer = mean_power(*arguments)  # type: ignore[arg-type]
    assert isinstance(answer, MeanPower), answer
    return answer


def test_by_hand() -> None:
    # Renewed at 1.1 s (to 40 J), at 2.1 s (to 50 J) and at 3.1 s (to 70 J): 30 J in 2 s, 10 W in the first half of them
    # and 20 W in the second. What was drawn before 1.1 s belongs to the first step and is not counted.
    coarse = [(1.0, 30.0), (1.2, 40.0), (2.0, 40.0), (2.2, 50.0), (3.0, 50.0), (3.2, 70.0), (3.4, 70.0)]
    assert "known to 200 ms" in str(mean_power(coarse, 1.0, 3.4))  # 10 % of the stretch: too much
    fine = [(1.09, 30.0), (1.11, 40.0), (2.09, 40.0), (2.11, 50.0), (3.09, 50.0), (3.11, 70.0)]
    power = found(fine, 1.0, 3.4)
    assert (power.watts, power.seconds) == (pytest.approx(15.0), pytest.approx(2.0))
    assert power.halves == (pytest.approx(10.0), pytest.approx(20.0))


@pytest.mark.parametrize("renewed_s", [0.005, 0.02, 0.1, 0.13])
def test_constant_power_whatever_the_counters_period(renewed_s: float) -> None:
    power = found(readings(lambda t: 250.0 * t, renewed_s=renewed_s), 1.0, 3.0)
    assert power.watts == pytest.approx(250.0, rel=0.03)
    assert 1.6 < power.seconds <= 2.0


def test_a_ramp_gives_its_mean_and_its_halves() -> None:
    # P = 100 + 50 t over [1, 3]: 200 W; its halves are 175 and 225 W.
    power = found(readings(lambda t: 100 * t + 25 * t * t, every_s=0.01, renewed_s=0.02), 1.0, 3.0)
    assert power.watts == pytest.approx(200.0, rel=0.01)
    assert power.halves == (pytest.approx(175.0, rel=0.02), pytest.approx(225.0, rel=0.02))


def test_nothing_from_outside_the_window_enters() -> None:
    # 1000 W before 1 s and after 3 s, 100 W between.
    def energy_j(t: float) -> float:
        return 1000 * min(t, 1.0) + 100 * min(max(t - 1, 0), 2.0) + 1000 * max(t - 3, 0)

    for renewed_s in (0.02, 0.1):
        power = found(readings(energy_j, every_s=0.02, renewed_s=renewed_s), 1.0, 3.0)
        assert power.watts == pytest.approx(100.0, rel=0.03)


def test_gaps_in_the_readings_are_bridged() -> None:
    whole = readings(lambda t: 300.0 * t)
    gappy = [(at, None if 1.5 < at < 2.2 or at < 1.2 else joules) for at, joules in whole]
    assert found(gappy, 1.0, 3.0).watts == pytest.approx(300.0, rel=0.04)


@pytest.mark.parametrize("most", [2**32 / 1000, 2000.0])
def test_a_counter_that_goes_back_is_no_energy(most: float) -> None:
    wrapped = [
        (at, (joules + most - 600.0) % most) for at, joules in readings(lambda t: 300.0 * t) if joules is not None
    ]
    why = mean_power(wrapped, 1.0, 3.0)
    assert isinstance(why, str)
    assert why.endswith("J: it wrapped or was reset")
    # At 2 s it goes back: the second before knows nothing of that.
    assert found(wrapped, 0.0, 1.9).watts == pytest.approx(300.0, rel=0.05)


def test_too_short_a_window_says_how_long_is_enough() -> None:
    whole = readings(lambda t: 300.0 * t)
    why = mean_power(whole, 1.0, 1.4)
    assert isinstance(why, str)
    # 0.05 s between readings must be 5 % of the stretch, and a step of 0.1 s may be lost at each end: 1.0 + 0.2.
    assert why.endswith("one of 1.2 s or more is needed")
    assert found(whole, 1.0, 2.25).watts == pytest.approx(300.0, rel=0.05)
    why = mean_power(whole, 1.0, 1.08)
    assert isinstance(why, str)
    assert why.startswith("the energy counter moved ")
    assert why.endswith("a window of 1.2 s or more is needed")


def test_a_counter_that_stands_still_is_not_said_to_need_a_longer_window() -> None:
    assert mean_power([(at, 5.0) for at, _ in readings(lambda _: 0.0)], 0.0, 4.0) == (
        "the energy counter moved 0 times in 80 readings over 4 s"
    )


def test_a_counter_that_stops_early_does_not_speak_for_the_window() -> None:
    stopped = [(at, joules if at < 1.5 else None) for at, joules in readings(lambda t: 300.0 * t, every_s=0.01)]
    assert mean_power(stopped, 1.0, 3.0) == ("the energy counter could be followed for only 0.3 s of the window's 2 s")


def test_no_reading_at_all_is_a_reason() -> None:
    assert isinstance(mean_power([], 0.0, 2.0), str)
    assert isinstance(mean_power([(1.0, None)], 0.0, 2.0), str)
