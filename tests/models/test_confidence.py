"""Dream's predictions and their three measures: by hand, against a plain second implementation, and as laws."""

import math

import pytest
import torch
from scipy import stats
from torch import Tensor

from dlmbench.models import confidence as module
from dlmbench.models.confidence import Measure, predict
from dlmbench.models.draws import ExactDraws
from dlmbench.models.generator import Settings

MEASURES: tuple[Measure, ...] = ("probability", "margin", "entropy")
P = [0.1, 0.4, 0.2, 0.3]


def ask(
    logits: Tensor,
    measure: Measure | None,
    settings: Settings | None = None,
    suppress: int | None = None,
    seed: int = 0,
) -> tuple[Tensor, Tensor | None]:
    draws = ExactDraws(torch.Generator().manual_seed(seed))
    where = torch.arange(len(logits))
    return predict(
        logits.clone(), settings or Settings(), draws, where, (1, len(logits)), measure=measure, suppress=suppress
    )


@pytest.mark.parametrize(
    ("measure", "expected"),
    [
        ("probability", 0.4),
        ("margin", 0.4 - 0.3),
        ("entropy", sum(p * math.log(p) for p in P)),
    ],
)
def test_measures_by_hand(measure: Measure, expected: float) -> None:
    ids, confidence = ask(torch.tensor([P]).log() + 7, measure)
    assert confidence is not None
    assert (ids.tolist(), confidence.item()) == ([1], pytest.approx(expected, abs=1e-6))


@pytest.mark.parametrize("measure", MEASURES)
def test_a_certain_prediction_has_the_highest_confidence_there_is(measure: Measure) -> None:
    _, confidence = ask(torch.tensor([[0.0, 500.0, 0.0], [0.0, 0.0, 0.0]]), measure)
    assert confidence is not None
    assert confidence[0].item() == (0.0 if measure == "entropy" else 1.0)
    assert confidence[1].item() == pytest.approx({"probability": 1 / 3, "margin": 0, "entropy": -math.log(3)}[measure])


def plain(logits: Tensor, settings: Settings) -> Tensor:
    """Probabilities after temperature, top-p and then top-k, in float64 and row by row."""
    result = []
    for row in logits.double() / (settings.temperature or 1):
        p = row.softmax(dim=0)
        order = p.argsort(descending=True)
        kept, mass = [], 0.0
        for index in order.tolist():
            if settings.top_p < 1 and mass >= settings.top_p:
                break
            kept.append(index)
            mass += p[index].item()
        kept = kept[: settings.top_k or None]
        cut = torch.zeros_like(p)
        cut[kept] = p[kept] / p[kept].sum()
        result.append(cut)
    return torch.stack(result)


@pytest.mark.parametrize(
    "settings",
    [
        Settings(),
        Settings(top_p=0.7),
        Settings(top_k=3),
        Settings(top_p=0.9, top_k=4),
        Settings(temperature=0.6),
        Settings(temperature=1.4, top_p=0.8, top_k=6),
    ],
)
def test_measures_against_a_plain_implementation(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    # 40 rows of 150 logits, three rows (1,800 bytes) at a time
    monkeypatch.setattr(module, "BLOCK_BYTES", {"cpu": 2000})
    logits = torch.randn(40, 150, generator=torch.Generator().manual_seed(1)) * 2
    p = plain(logits, settings)
    for measure in MEASURES:
        ids, confidence = ask(logits, measure, settings)
        assert confidence is not None
        if settings.temperature == 0:
            assert torch.equal(ids, logits.argmax(dim=-1))
        chosen = p.gather(1, ids[:, None])[:, 0]
        assert (chosen > 0).all()
        best = p.topk(2, dim=-1).values
        expected = {"probability": chosen, "margin": best[:, 0] - best[:, 1], "entropy": p.xlogy(p).sum(dim=-1)}
        assert torch.allclose(confidence.double(), expected[measure], atol=1e-5)


def test_top_p_comes_before_top_k() -> None:
    # top-p 0.55 keeps 0.4 and 0.3; of these two, 0.4 has 4/7. The other way round top-k 2 leaves 4/7 and 3/7, of which
    # top-p 0.55 keeps only the first.
    _, confidence = ask(torch.tensor([P]).log(), "probability", Settings(top_p=0.55, top_k=2))
    assert confidence is not None
    assert confidence.item() == pytest.approx(4 / 7)


def test_the_mask_has_no_probability() -> None:
    logits = torch.tensor([P]).log()
    for measure, expected in (("probability", 0.5), ("margin", 0.5 - 1 / 3)):
        ids, confidence = ask(logits, measure, suppress=1)  # type: ignore[arg-type]
        assert confidence is not None
        # without the 0.4 there are 0.3 / 0.6 and 0.2 / 0.6
        assert (ids.item(), confidence.item()) == (3, pytest.approx(expected))
    _, confidence = ask(logits, "entropy", suppress=1)
    assert confidence is not None
    assert confidence.item() == pytest.approx(sum(p * math.log(p) for p in (1 / 6, 1 / 3, 1 / 2)))


@pytest.mark.parametrize("measure", [None, *MEASURES])
def test_draws_follow_the_tempered_law(measure: Measure | None) -> None:
    settings = Settings(temperature=2.0)
    logits = torch.tensor([P]).log().expand(4000, -1)
    ids, _ = ask(logits, measure, settings, seed=5)
    weights = torch.tensor(P).double().sqrt()
    expected = 4000 * weights / weights.sum()
    assert stats.chisquare(ids.bincount(minlength=4).tolist(), expected.tolist()).pvalue > 1e-3


def test_what_is_drawn_does_not_depend_on_the_measure_or_on_the_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    logits = torch.randn(30, 20, generator=torch.Generator().manual_seed(2))
    whole, _ = ask(logits, "entropy", Settings(temperature=1.0))
    monkeypatch.setattr(module, "BLOCK_BYTES", {"cpu": 4 * 20 * 7})
    for measure in (None, *MEASURES):
        assert torch.equal(ask(logits, measure, Settings(temperature=1.0))[0], whole)


def test_half_precision_logits_are_measured_in_float32() -> None:
    logits = torch.randn(5, 300, generator=torch.Generator().manual_seed(3)).bfloat16()
    for measure in MEASURES:
        ours, theirs = ask(logits, measure)[1], ask(logits.float(), measure)[1]
        assert ours is not None
        assert theirs is not None
        assert ours.dtype == torch.float32
        assert torch.equal(ours, theirs)


def test_no_rows_give_no_predictions() -> None:
    for measure in (None, *MEASURES):
        for temperature in (0.0, 1.0):
            ids, confidence = ask(torch.empty(0, 7), measure, Settings(temperature=temperature))
            assert len(ids) == 0
            assert (confidence is None) == (measure is None)
