"""What a cell's texts are worth: written on the timed settings, judged by the source, joined with speed."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dlmbench.bench.equal_quality import add_equal_quality
from dlmbench.bench.quality import ROWS, _emitted, source_of, text_quality
from dlmbench.models.catalog import Context, NetworkSource
from dlmbench.models.config import BackboneConfig
from dlmbench.models.prompts import default_prompts
from dlmbench.models.source import Source, embedded_source
from dlmbench.models.tokenizer import embedded_tokenizer
from dlmbench.profiles.record import Cell, Measurement, Value


@pytest.fixture(scope="module")
def source() -> Source:
    return embedded_source()


@pytest.fixture(scope="module")
def context(source: Source) -> Context:
    config = BackboneConfig(
        vocab_size=source.vocab_size, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=1,
        num_key_value_heads=1, head_dim=32, eos_token_id=source.tokenizer.eos_id,
        mask_token_id=source.tokenizer.mask_id,
    )  # fmt: skip
    # Random numbers, said to be a checkpoint's: what is tested is the judging.
    made = Context(config, "somewhere", torch.float32, "cpu", 0, partner=NetworkSource(config, "somewhere"))
    network = NetworkSource(config, "random").make(0, torch.float32, "cpu")
    made._networks[NetworkSource(config, "somewhere")] = network
    return made


def cell(**fields: Any) -> Cell:
    given = {"pair": "small", "side": "ar", "generator": "ar", "length": 16, "prompt_length": 8, **fields}
    return Cell.model_validate(given | {"decode": {"temperature": 1.0}})


DIFFUSION = {"side": "diffusion", "generator": "masked-diffusion"}


@pytest.mark.parametrize("fields", [{}, {**DIFFUSION, "steps": 4}, {**DIFFUSION, "steps": 16, "block_length": 4}])
def test_random_weights_write_nothing_valid_and_are_told_so(
    context: Context, source: Source, fields: dict[str, Any]
) -> None:
    found = text_quality(cell(**fields), context, source, texts=64, seed=1, limit_s=60.0)
    assert found.texts == 64
    assert found.metrics["quality.validity"].value == 0.0
    kinds = [v.value for name, v in found.metrics.items() if name.startswith("quality.violations[")]
    assert sum(kinds) == pytest.approx(1.0)
    perplexity = found.metrics["quality.gen_ppl"].value
    assert perplexity is not None
    assert 100 < perplexity < 1000, "near the vocabulary's size: nothing has been learned"
    assert len(found.examples) == 2
    prompt = source.tokenizer.decode(source.texts(64, 8, 1)[0].tolist())
    assert found.examples[0].startswith(prompt)


def test_the_sources_own_texts_are_found_flawless(
    context: Context, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dlmbench.bench import quality

    own = source.texts(256, 72, 5).astype(np.int64)
    monkeypatch.setattr(quality, "_written", lambda *_: own)
    found = text_quality(cell(length=64), context, source, texts=256, seed=5, limit_s=60.0)
    assert found.metrics["quality.validity"].value == 1.0
    gap = found.metrics["quality.cross_entropy_gap"]
    assert gap.low is not None
    assert gap.high is not None
    assert gap.low - 0.02 < 0 < gap.high + 0.02
    assert found.flattered is None


def test_a_time_limit_leaves_one_generation(context: Context, source: Source) -> None:
    assert text_quality(cell(), context, source, texts=96, seed=0, limit_s=0.0).texts == ROWS["ar"]


def test_under_the_natural_policy_a_text_ends_with_its_first_eos() -> None:
    tokens = np.array([[1, 9, 2, 9], [1, 2, 3, 4], [9, 1, 1, 1]])
    assert _emitted(cell(length_policy="natural"), tokens, 9).tolist() == [2, 4, 1]
    assert _emitted(cell(), tokens, 9).tolist() == [4, 4, 4]


def test_only_weights_with_the_sources_words_are_judged(source: Source) -> None:
    assert source_of(source.tokenizer, "folder") is source
    assert source_of(source.tokenizer, "random") is None
    assert source_of(embedded_tokenizer(), "folder") is None


def test_prompts_of_the_sources_words_are_its_own_texts(source: Source) -> None:
    prompts = default_prompts(source.tokenizer)
    rows = prompts.batch(3, 2, 24)
    assert rows == [source.texts(1, 24, seed=number)[0].tolist() for number in (3, 4)]
    assert source.score(np.array(rows)).valid.all()
    assert prompts.batch(0, 2, 0) == [[], []]


# Joined with speed


def measured(key: str, validity: float | None, speedup: float = 1.0, steps: int | None = None) -> Measurement:
    side = "ar" if steps is None else "diffusion"
    metrics = {"speedup": Value(value=speedup, low=speedup * 0.9, high=speedup * 1.1, n=5, level=0.95)}
    if validity is not None:
        metrics["quality.validity"] = Value(value=validity, low=validity, high=validity, n=20_000, level=0.95)
    at = Cell(pair="small", side=side, generator="ar" if steps is None else "masked-diffusion", length=16, steps=steps)
    return Measurement(cell=at, key=key, status="ok", metrics=metrics)


def test_speed_counts_only_at_equal_quality() -> None:
    rivals = [measured("t2", 0.3, 4.0, 2), measured("t8", 0.88, 2.0, 8), measured("t16", 0.9, 1.1, 16)]
    found = {m.key: m for m in [measured("ar", 0.9), *rivals]}
    add_equal_quality(found, {"ar": rivals})
    metrics = found["ar"].metrics
    assert metrics["speedup_at_equal_quality"].value == 2.0
    assert metrics["steps_at_equal_quality"].value == 8
    assert "speedup_at_equal_quality" not in found["t8"].metrics


def test_a_setting_whose_words_have_collapsed_is_no_equal_of_an_honest_one() -> None:
    rivals = [measured("cold", 0.95, 4.0, 2), measured("t16", 0.9, 1.1, 16)]
    found = {m.key: m for m in [measured("ar", 0.9), *rivals]}
    add_equal_quality(found, {"ar": rivals}, {"cold"})
    assert found["ar"].metrics["speedup_at_equal_quality"].value == 1.1
    add_equal_quality(found, {"ar": rivals}, {"cold", "t16"})
    gone = found["ar"].metrics["steps_at_equal_quality"]
    assert gone.value is None
    assert "collapsed" in (gone.why or "")
    add_equal_quality(found, {"ar": rivals}, {"cold", "ar"})
    assert found["ar"].metrics["speedup_at_equal_quality"].value == 4.0, "two cold sides may be compared"


def test_without_judged_texts_nothing_is_joined() -> None:
    rivals = [measured("t2", None, 4.0, 2)]
    found = {m.key: m for m in [measured("ar", 0.9), *rivals]}
    add_equal_quality(found, {"ar": rivals})
    assert "speedup_at_equal_quality" not in found["ar"].metrics


@pytest.mark.slow
def test_a_run_on_trained_weights_judges_its_texts(command: Any, tmp_path: Path) -> None:
    """From `train` to `run`, by the commands."""
    models = tmp_path / "models"
    outcome = command(
        "train", "--model", "ar", "--model", "mdlm", "--steps", "2", "--batch", "2", "--hidden", "32", "--layers", "1",
        "--threads", "1", "--out", models, "--json",
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    suite = tmp_path / "tiny.toml"
    suite.write_text(
        "processes = 1\nbudget_s = 0.05\nmax_samples = 3\nwarmup_s = 0.3\nforeign_limit = 1000\nquality_texts = 32\n"
        '[[grid]]\npairs = ["small"]\nlengths = [8]\nsteps = ["L/2"]\ntemperature = 1.0\n'
    )
    outcome = command(
        "run", suite, "--device", "cpu", "--threads", "1", "--json", "--out", tmp_path / "run",
        "--weights", f"ar={models / 'ar'},diffusion={models / 'mdlm'}",
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    document = json.loads(outcome.out)
    assert document["ok_cells"] == 2
    for measurement in document["measurements"]:
        assert measurement["metrics"]["quality.validity"]["n"] == 32
    assert (tmp_path / "run" / "figures" / "pareto.png").exists()


def test_a_judge_adds_its_own_perplexity(context: Context, source: Source) -> None:
    class Judge:
        def perplexity(self, texts: Any, tokenizer: Any) -> Value:
            assert tokenizer is source.tokenizer
            return Value(value=float(len(texts.ids)))

    judge: Any = Judge()
    found = text_quality(cell(), context, source, texts=64, seed=0, limit_s=0.0, judge=judge)
    assert found.metrics["quality.judge_ppl"].value == 64
    assert "quality.judge_ppl" not in text_quality(cell(), context, source, texts=64, seed=0, limit_s=0.0).metrics
