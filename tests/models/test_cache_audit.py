"""The audit's three figures, on logits small enough to work out by hand."""

import pytest
import torch
from torch import Tensor

from dlmbench.models.cache_audit import CacheAudit, exact_logits
from dlmbench.models.generator import Silent


def audit_of(exact: list[list[float]], suppress: int | None = None) -> CacheAudit:
    return CacheAudit(lambda canvas, columns: torch.tensor(exact), suppress)


CANVAS, COLUMNS = torch.zeros(1, 5, dtype=torch.int64), torch.tensor([[2, 4]])
TOKENS = torch.tensor([[1, 2, 3, 4]])


def test_figures_by_hand() -> None:
    """Row 1: exact (0, 2), deviation 1, off by (3, 4): RMS sqrt(25/2). Row 2: exact (2, 6), deviation 2, off by (0, 2):
    RMS sqrt(2), argmax kept."""
    audit = audit_of([[0.0, 2.0], [2.0, 6.0]])
    audit(CANVAS, COLUMNS, torch.tensor([[3.0, -2.0], [2.0, 8.0]]))
    figures = audit.figures(TOKENS, torch.tensor([[1, 2, 0, 4]]))
    assert figures["cache_logit_distance"] == pytest.approx((12.5**0.5 / 1 + 2**0.5 / 2) / 2)
    assert figures["cache_argmax_changed"] == 0.5
    assert figures["cache_tokens_changed"] == 0.25


def test_only_candidates_count_over_all_forwards() -> None:
    """Three candidates in two forwards: one off by its whole deviation, two not at all."""
    audit = audit_of([[0.0, 2.0], [2.0, 6.0]])
    audit(CANVAS, COLUMNS, torch.tensor([[1.0, 3.0], [99.0, -9.0]]), torch.tensor([[True, False]]))
    audit(CANVAS, COLUMNS, torch.tensor([[0.0, 2.0], [2.0, 6.0]]))
    assert audit.figures(TOKENS, TOKENS) == {
        "cache_logit_distance": pytest.approx(1 / 3), "cache_argmax_changed": 0.0, "cache_tokens_changed": 0.0
    }  # fmt: skip


def test_a_suppressed_id_is_no_argmax() -> None:
    """The last id wins on one side only; without it, both choose the first."""
    ours = torch.tensor([[2.0, 0.0, 3.0]])
    for suppress, changed in ((None, 1.0), (2, 0.0)):
        audit = audit_of([[2.0, 0.0, 1.0]], suppress)
        audit(CANVAS, COLUMNS[:, :1], ours)
        assert audit.figures(TOKENS, TOKENS)["cache_argmax_changed"] == changed
    assert ours.tolist() == [[2.0, 0.0, 3.0]]


def test_what_was_not_compared_is_left_out() -> None:
    audit = audit_of([[0.0, 2.0], [2.0, 6.0]])
    audit(CANVAS, COLUMNS, torch.zeros(2, 2), torch.zeros(1, 2, dtype=torch.bool))
    assert audit.figures(TOKENS, TOKENS) == {"cache_tokens_changed": 0.0}


@pytest.mark.parametrize("shifted", [False, True])
def test_exact_logits_are_the_full_forwards(shifted: bool, make_network, prompts) -> None:  # type: ignore[no-untyped-def]
    network = make_network(shifted_logits=shifted)
    canvas: Tensor = prompts(2, 6)
    columns = torch.tensor([[0, 3], [5, 1]])
    with torch.inference_mode():
        everything = network.logits(network.trunk(canvas, mask="bidirectional"))
        found = exact_logits(network)(canvas, columns)
    # Shifted: the row before; the first has none and takes its own.
    places = [[0, 2], [4, 0]] if shifted else [[0, 3], [5, 1]]
    expected = torch.stack([everything[row, place] for row in range(2) for place in places[row]])
    torch.testing.assert_close(found, expected)


def test_the_silent_observer_takes_anything() -> None:
    silent = Silent()
    with silent.forward("target", "denoise", 1, 1, 1, 1, "bidirectional"):
        silent.write(None, TOKENS, 0)
