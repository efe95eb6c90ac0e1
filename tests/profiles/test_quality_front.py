"""Who is on the Pareto front."""

from dlmbench.profiles.quality import Point, pareto_front
from dlmbench.profiles.record import Side, Value


def point(name: str, throughput: float | None, quality: float | None, side: Side = "diffusion") -> Point:
    return Point(name, side, Value(value=throughput, why="failed"), Value(value=quality, why="no trained weights"))


def test_validity_against_throughput() -> None:
    points = [
        point("ar", 100, 0.99, "ar"),
        point("T=64", 80, 0.97),  # slower and worse than AR
        point("T=16", 300, 0.90),
        point("T=16 other", 250, 0.90),  # as good as T=16, slower
        point("T=4", 900, 0.20),
    ]
    placed = {p.point.name: p for p in pareto_front(points, higher_is_better=True)}
    assert [name for name, p in placed.items() if p.on_front] == ["ar", "T=16", "T=4"]
    assert placed["T=64"].dominated_by == ("ar",)
    assert placed["T=16 other"].dominated_by == ("T=16",)


def test_a_divergence_is_better_when_lower() -> None:
    points = [point("a", 100, 0.01), point("b", 200, 0.5), point("c", 150, 0.6)]
    front = pareto_front(points, higher_is_better=False)
    assert [p.on_front for p in front] == [True, True, False]
    assert front[2].dominated_by == ("b",)


def test_equal_points_are_both_on_the_front() -> None:
    assert all(p.on_front for p in pareto_front([point("a", 1, 1), point("b", 1, 1)], higher_is_better=True))


def test_a_missing_value_has_no_place_and_dominates_nothing() -> None:
    front = pareto_front([point("a", 900, None), point("b", 1, 0.1), point("c", None, 0.9)], higher_is_better=True)
    assert [p.on_front for p in front] == [False, True, False]
    assert [p.why for p in front] == ["no trained weights", None, "failed"]
