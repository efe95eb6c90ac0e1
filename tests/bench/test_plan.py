"""What is refused before anything is measured or written, and what a plan says."""

from __future__ import annotations

import json
import math
import platform
import shutil
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from dlmbench import InputError
from dlmbench.bench import plan as planning
from dlmbench.bench.estimate import memory_b
from dlmbench.bench.options import RunOptions
from dlmbench.bench.plan import choose_device, choose_threads, make_plan, pair_records
from dlmbench.models.pairs import load_pair
from dlmbench.models.trained import fingerprint, shipped_folder

GB = 10**9


@pytest.fixture(autouse=True)
def _enough_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "available_b", lambda device: 64 * GB)


def options(**fields: Any) -> RunOptions:
    return RunOptions(**{"suite": "lesson", "device": "cpu", "threads": 1, **fields})


def write_checkpoint(folder: Path, **changes: Any) -> Path:
    """A config.json in the shape of pair `small`, without weights."""
    from dlmbench.models.hf_config import to_hf

    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(to_hf(load_pair("small").ar.backbone) | changes))
    return folder


def write_weights(folder: Path, **changes: Any) -> Path:
    """A whole checkpoint in the shape of pair `small`, with `changes` to its config."""
    import torch

    from dlmbench.models.checkpoints import save_checkpoint
    from dlmbench.models.weights import random_network

    config = load_pair("small").ar.backbone.model_copy(update=changes)
    save_checkpoint(random_network(config, 0, torch.float32, "cpu"), folder)
    return folder


def test_a_plan_of_the_lesson() -> None:
    plan = make_plan(options())
    assert plan.trials == (18 + 8) * 5
    assert (plan.device, plan.threads, plan.pairs["small"].ar.weights) == ("cpu", 1, "trained:ar")
    assert plan.unfit == {}
    assert plan.blockwise == frozenset()
    assert plan.prompts_path is None
    assert not any("random" in warning for warning in plan.warnings)
    assert any("random" in warning for warning in make_plan(options(weights="random")).warnings)
    assert any(platform.machine() in warning for warning in plan.warnings)


def test_few_processes_are_warned_of() -> None:
    assert any("fewer than five" in warning for warning in make_plan(options(processes=4)).warnings)
    assert not any("fewer than five" in warning for warning in make_plan(options(processes=5)).warnings)


def test_the_budget_is_spread_over_cells_and_processes() -> None:
    # 26 cells in 5 processes: 260 / 130 = 2 s a trial.
    plan = make_plan(options(budget_s=260.0))
    assert {pairing.budget_s for pairing in plan.pairings} == {2.0}
    assert sum(len(p.cells) * p.processes * p.budget_s for p in plan.pairings) == pytest.approx(260.0)


@pytest.mark.parametrize(
    "budget",
    [
        0.0,
        -3.0,
        pytest.param(math.nan),
        pytest.param(math.inf),
    ],
)
def test_a_budget_that_is_no_time_is_refused(budget: float) -> None:
    with pytest.raises(InputError, match="--budget"):
        make_plan(options(budget_s=budget))


@pytest.mark.parametrize("threads", [0, -1, 10_000])
def test_threads_outside_the_machine_are_refused_with_the_choice(threads: int) -> None:
    with pytest.raises(InputError, match=r"--threads .*choose 1 to \d+"):
        choose_threads(threads)


def test_threads_default_to_one_at_least() -> None:
    assert choose_threads(None) >= 1


@pytest.mark.parametrize("name", ["tpu", "", "CPU", "cpu:0", "cuda:", "cuda:x", "cuda:-1", "gpu", "cuda:\x1b[31m"])
def test_an_unknown_device_is_refused_with_the_choice(name: str) -> None:
    with pytest.raises(InputError, match="choose cpu, cuda, cuda:N or auto"):
        choose_device(name)


def test_a_device_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "cuda_devices", lambda: ())
    assert choose_device("auto") == "cpu"
    with pytest.raises(InputError, match="no CUDA device"):
        choose_device("cuda")
    monkeypatch.setattr(planning, "cuda_devices", lambda: (1 << 30, 1 << 30))
    assert choose_device("auto") == "cuda"
    assert choose_device("cuda:1") == "cuda:1"
    with pytest.raises(InputError, match="2 devices"):
        choose_device("cuda:2")


@pytest.mark.parametrize("index", ["²", "٣", "9" * 5000])
def test_a_device_number_in_other_digits_is_refused(monkeypatch: pytest.MonkeyPatch, index: str) -> None:
    monkeypatch.setattr(planning, "cuda_devices", lambda: (1 << 30,) * 8)
    with pytest.raises(InputError, match="--device"):
        choose_device(f"cuda:{index}")


def test_cells_that_do_not_fit_are_named_with_the_amount(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "available_b", lambda device: 100 * 2**20)
    plan = make_plan(options())
    assert set(plan.unfit) == {cell.key for pairing in plan.pairings for cell in pairing.cells}
    assert all("GB too much" in why and "0.10 GB are free" in why for why in plan.unfit.values())


def test_only_the_cells_that_do_not_fit_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = options(lengths=(16,), batches=(1, 512))
    plan = make_plan(wanted)
    small, large = (
        max(memory_b(cell, plan.pairs["small"], "cpu") for cell in pairing.cells) for pairing in plan.pairings
    )
    assert small < large
    monkeypatch.setattr(planning, "available_b", lambda device: (small + large) // 2)
    unfit = make_plan(wanted).unfit
    assert unfit
    assert all("B=512" in key for key in unfit)


def test_sides_that_fit_only_one_at_a_time_alternate_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = options(lengths=(16,))
    plan = make_plan(wanted)
    needs = [memory_b(cell, plan.pairs["small"], "cpu") for cell in plan.pairings[0].cells]
    monkeypatch.setattr(planning, "available_b", lambda device: max(needs) + min(needs) // 2)
    plan = make_plan(wanted)
    assert plan.unfit == {}
    assert plan.blockwise == {plan.pairings[0].name}


def test_unknown_memory_counts_as_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "available_b", lambda device: None)
    plan = make_plan(options())
    assert (plan.unfit, plan.blockwise) == ({}, frozenset())


def test_a_batch_beyond_any_number_does_not_fit_or_is_refused() -> None:
    try:
        plan = make_plan(options(lengths=(16,), batches=(10**400,)))
    except InputError:
        return
    assert len(plan.unfit) == 10


def test_prompts_too_short_for_a_length_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "short.txt"
    path.write_text("Three words only.")
    with pytest.raises(InputError, match=r"short\.txt.*at least 16"):
        make_plan(options(pairs=("5m",), prompts=path))
    assert make_plan(options(pairs=("5m",), prompts=path, prompt_lengths=(0,))).prompts_path == str(path)


def test_prompts_in_words_that_the_pair_does_not_know_are_refused_with_a_way_out(tmp_path: Path) -> None:
    path = tmp_path / "mine.txt"
    path.write_text("Three words only.")
    with pytest.raises(InputError, match=r"--prompts .*mine\.txt: .*found '\w+'.*or choose a pair .*--pair 5m"):
        make_plan(options(prompts=path))


def test_the_longest_prompt_decides(tmp_path: Path) -> None:
    path = tmp_path / "short.txt"
    path.write_text("word " * 40)
    make_plan(options(pairs=("5m",), prompts=path, prompt_lengths=(16,)))
    with pytest.raises(InputError, match="at least 300"):
        make_plan(options(pairs=("5m",), prompts=path, prompt_lengths=(16, 300)))


def test_a_tokenizer_with_more_ids_than_the_model_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = write_weights(tmp_path / "narrow", vocab_size=256, eos_token_id=254, mask_token_id=255)
    with pytest.raises(InputError, match="384 ids, pair narrow only 256"):
        make_plan(options(weights=str(folder)))


def test_weights_take_the_place_of_every_pair(tmp_path: Path) -> None:
    plan = make_plan(options(suite="quick", weights=str(write_weights(tmp_path / "mine"))))
    assert set(plan.pairs) == {"mine"}
    assert {cell.pair for pairing in plan.pairings for cell in pairing.cells} == {"mine"}


@pytest.mark.parametrize("reference", ["./no/such/folder", "/no/such/folder", "~nobody/x/y", "a b", "\x1b[31m"])
def test_weights_that_are_no_folder_are_refused(reference: str) -> None:
    with pytest.raises(InputError, match="no such folder"):
        make_plan(options(weights=reference))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "config.json: not found"),
        ("", "config.json"),
        ("[]", "config.json"),
        ("{}", "config.json"),
        ('{"model_type": "mamba"}', "config.json"),
    ],
)
def test_weights_with_a_bad_config_are_refused(tmp_path: Path, content: str | None, words: str) -> None:
    folder = tmp_path / "bad"
    folder.mkdir()
    if content is not None:
        (folder / "config.json").write_text(content)
    with pytest.raises(InputError, match=words):
        make_plan(options(weights=str(folder)))


def test_weights_that_are_not_there_are_refused_before_measuring(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"model\.safetensors"):
        make_plan(options(weights=str(write_checkpoint(tmp_path / "hollow"))))


def test_a_plan_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make_plan(options(out=tmp_path / "run"))
    with pytest.raises(InputError):
        make_plan(options(out=tmp_path / "run", lengths=(10**6,)))
    assert list(tmp_path.iterdir()) == []


def test_pair_records_carry_the_certificate_and_where_the_weights_came_from() -> None:
    (record,) = pair_records(make_plan(options(seed=7, weights="random")))
    assert "seed 7" in record.weights_note
    rows = {row.quantity: row for row in record.certificate}
    # `small` ties its head: 384 x 96 embedding, 4 layers of 4 x 96 x 96 attention, 3 x 96 x 256 MLP, 2 x 96 norms and
    # 2 x 32 norms of queries and keys, and a last norm of 96.
    layer = 4 * 96 * 96 + 3 * 96 * 256 + 2 * 96 + 2 * 32
    assert rows["total parameters"].ar == rows["total parameters"].diffusion == 384 * 96 + 4 * layer + 96


def test_trained_weights_that_ship_are_the_default_and_are_named_with_a_fingerprint() -> None:
    (record,) = pair_records(make_plan(options()))
    assert record.weights == "ar=trained:ar,diffusion=trained:mdlm"
    for name in ("ar", "mdlm"):
        assert f"trained:{name} (sha256 {fingerprint(f'trained:{name}')}" in record.weights_note


@pytest.mark.parametrize("name", [pytest.param("a\0.toml"), "\0"])
def test_a_pair_name_that_no_file_can_have_is_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(f"[[grid]]\npairs = [{json.dumps(name)}]\nlengths = [8]\nsteps = [4]\n")
    with pytest.raises(InputError):
        make_plan(options(suite=str(path)))


@pytest.mark.parametrize(
    "name",
    [
        ".x:f",
        ":f",
        "x:",
        "a..b:f",
        "nosuch.module:f",
        "json:nosuch",
        "nosuch.py:f",
    ],
)
def test_a_generator_that_leads_nowhere_is_refused(name: str) -> None:
    with pytest.raises(InputError, match="generator"):
        make_plan(options(generators=(name,)))


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("def f(context): ...", id="no side"),
        pytest.param("raise SystemExit(0)", id="exits"),
        pytest.param("import nosuchmodule", id="bad import"),
        pytest.param("f = 3", id="no factory"),
        pytest.param("def f(:", id="syntax"),
        pytest.param("f = object", id="class without side"),
    ],
)
def test_a_plug_in_file_that_cannot_serve_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "plug.py"
    path.write_text(text)
    with pytest.raises(InputError, match="generator"):
        make_plan(options(generators=(f"{path}:f",)))


def test_a_judge_needs_texts_and_must_be_able_to_judge(tmp_path: Path) -> None:
    assert make_plan(options()).judge is None
    other = tmp_path / "other"
    shutil.copytree(shipped_folder("trained:ar"), other)
    with pytest.raises(InputError, match="it is measured in this run itself"):
        make_plan(options(judge=str(other)))
    tensors = load_file(other / "model.safetensors")
    save_file({name: 1.01 * tensor for name, tensor in tensors.items()}, other / "model.safetensors")
    assert make_plan(options(judge=str(other))).judge == str(other)
    with pytest.raises(InputError, match="it is measured in this run itself"):
        make_plan(options(judge="trained:ar"))
    with pytest.raises(InputError, match="judges no texts"):
        make_plan(options(suite="ci", judge=str(other)))
    with pytest.raises(InputError, match="--judge: texts of random weights are worth nothing"):
        make_plan(options(judge="trained:ar", weights="random"))
    with pytest.raises(InputError, match="judge: "):
        make_plan(options(judge="trained:sedd"))
    with pytest.raises(InputError):
        make_plan(options(judge=str(tmp_path)))


def test_a_suites_remasking_is_for_generators_that_have_one_and_a_users_must_fit_one() -> None:
    for pair in ("small-block", "small-sedd"):
        cells = [c for p in make_plan(options(pairs=(pair,))).pairings for c in p.cells]
        assert {c.decode.remasking for c in cells} == {"low_confidence"}
        with pytest.raises(InputError, match=r"--remasking random does not fit generator .*it fits masked-diffusion"):
            make_plan(options(pairs=(pair,), remasking="random"))
    both = make_plan(options(generators=("sdar",), remasking="random"))
    found = {(c.generator, c.decode.remasking) for p in both.pairings for c in p.cells if c.side == "diffusion"}
    assert found == {("masked-diffusion", "random"), ("sdar", "low_confidence")}
