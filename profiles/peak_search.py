"""How a peak is found: sizes are tried upwards until the rate grows no more; the best is run after a rest, then held.

A short burst after a rest shows what the device does while it is cool and within its power; the second half of a long
hold shows what it keeps up once its clocks have settled. Nothing here knows what the work is: the clock, the rest and
the work are passed in.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .clocks import Clock
from .hardware import Peak

# A larger size is better only if it is faster by this; after so many that are not, no larger one is tried.
_FASTER, _PATIENCE = 1.02, 2
_STRETCHES = 3
# A smallest size that takes longer runs on no kernel that anybody would call a peak.
_TOO_SLOW_S = 1.0
# A first call, one that tells how many make a stretch, and the stretches of one call each.
_FEWEST_CALLS = 2 + _STRETCHES


@dataclass(frozen=True, slots=True)
class Task:
    """Work in sizes, ascending: what `prepare(size)` returns does `amount(size)` (FLOP or bytes) each time."""

    sizes: tuple[int, ...]
    amount: Callable[[int], float]
    prepare: Callable[[int], Callable[[], object]]


@dataclass(frozen=True, slots=True)
class Effort:
    """Seconds for one peak. A stretch is timed as one; sizes that would not be done within `search_s` are left out."""

    search_s: float
    rest_s: float
    stretch_s: float
    hold_s: float

    @classmethod
    def within(cls, seconds: float, longest_hold_s: float = 2.0) -> Effort:
        """An effort of about `seconds` in all."""
        hold = min(longest_hold_s, 0.45 * seconds)
        return cls(search_s=0.4 * seconds, rest_s=min(0.25, 0.05 * seconds), stretch_s=hold / 16, hold_s=hold)


def find_peak(task: Task, effort: Effort, clock: Clock, rest: Callable[[float], None]) -> Peak | str:
    """The peak of a task, or in one line why there is none. What its smallest size raises is not caught.

    `burst` is the fastest stretch at the best size, `sustained` the mean of the second half of the hold.
    """
    timer = _Timer(clock)
    size = _best_size(task, effort, timer)
    if isinstance(size, str):
        return size
    run, amount = task.prepare(size), task.amount(size)
    repeats = _repeats(effort, timer.warm(run))
    rest(effort.rest_s)
    bursts = [timer.seconds(run, repeats) for _ in range(_STRETCHES)]
    held: list[float] = []
    while sum(held) < effort.hold_s:
        held.append(timer.seconds(run, repeats))
    settled = held[len(held) // 2 :]
    return Peak(
        burst=amount * repeats / min(bursts + held),
        sustained=amount * repeats * len(settled) / sum(settled),
        size=size,
    )


def _best_size(task: Task, effort: Effort, timer: _Timer) -> int | str:
    best, fastest, last, misses = 0, 0.0, 0.0, 0
    for size in task.sizes:
        amount = task.amount(size)
        if last and timer.spent + _FEWEST_CALLS * amount / last > effort.search_s:
            break
        try:
            run = task.prepare(size)
            once = timer.warm(run)
        except RuntimeError:  # no kernel for the dtype, or no memory
            if not best:
                raise
            break
        if not best and once > _TOO_SLOW_S:
            return f"no fast kernel: the smallest size took {once:.2g} s"
        repeats = _repeats(effort, once)
        last = amount * repeats / min(timer.seconds(run, repeats) for _ in range(_STRETCHES))
        if last > _FASTER * fastest:
            best, fastest, misses = size, last, 0
        else:
            misses += 1
        if misses == _PATIENCE:
            break
    return best or "no size of it fits into the free memory"


def _repeats(effort: Effort, once_s: float) -> int:
    return max(1, round(effort.stretch_s / once_s))


class _Timer:
    """Times calls on a device that was idle before, and knows the seconds spent so far."""

    def __init__(self, clock: Clock) -> None:
        self._clock, self.spent = clock, 0.0

    def seconds(self, run: Callable[[], object], repeats: int) -> float:
        self._clock.settle()
        begin = self._clock.mark()
        for _ in range(repeats):
            run()
        taken = max(1e-9, self._clock.seconds([begin, self._clock.mark()])[1])
        self.spent += taken
        return taken

    def warm(self, run: Callable[[], object]) -> float:
        """Seconds of the second call: the first does what is done once (choosing kernels, first use of memory)."""
        self.seconds(run, 1)
        return self.seconds(run, 1)
