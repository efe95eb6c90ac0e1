"""Dream against its recorded outputs: what agrees, and that every kind of disagreement is found."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from dlmbench import InputError
from dlmbench.bench.verify.dream import check
from dlmbench.bench.verify.dream_draws import Recorded
from dlmbench.bench.verify.folder import RUNS, Folder, Item
from dlmbench.bench.verify.tally import Tally
from dlmbench.models.checkpoints import load_network
from dlmbench.models.dream import Dream
from dlmbench.models.generator import Request, Settings

GOLDEN = Path(__file__).parents[2] / "golden" / "dream"


@pytest.fixture
def copied(recording: Callable[[str], Any]) -> Callable[..., Path]:
    """A function that copies the recording, with a change of its tensors, and only those of its runs that are named."""

    def copy(*names: str, file: str = RUNS, change: Callable[[dict[str, Any]], None] | None = None) -> Path:
        folder = recording("dream")
        folder.keep_runs(*names)
        if file == "generate.json" and change:
            folder.edit_runs(change, names[0])
        elif change:
            folder.change(file, change)
        return Path(folder.path)

    return copy


def failed(path: Path) -> dict[str, Item]:
    folder = Folder(path)
    check(folder)
    return {item.name: item for item in folder.items if item.passed is False}


@pytest.fixture(scope="module")
def golden() -> Folder:
    folder = Folder(GOLDEN)
    check(folder)
    return folder


def test_everything_recorded_is_compared_and_agrees(golden: Folder) -> None:
    assert [item for item in golden.items if not item.passed] == []
    assert golden.left_over() == []


def test_every_run_is_repeated(golden: Folder) -> None:
    names = {item.name for item in golden.items}
    for run in golden.json("generate.json")["runs"]:
        assert {f"{run['name']}.tokens", f"{run['name']}.forwards"} <= names
        assert (f"{run['name']}.tokens, mask suppressed" in names) == run.get(
            "same_tokens_if_mask_logit_suppressed", False
        )


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("model.layers.1.self_attn.k_proj.bias", {"logits", "prefix_cache_logits", "dual_cache_logits"}),
        ("model.layers.0.self_attn.k_proj.bias", {"kv_cache_layer0_k", "hidden_layer1_in"}),
        ("model.norm.weight", {"hidden_final_norm", "logits_shifted", "leftpad_logits_valid_rows"}),
        ("model.embed_tokens.weight", {"hidden_embed", "kv_cache_layer0_v"}),
    ],
)
def test_another_weight_is_found(copied: Callable[..., Path], name: str, wrong: set[str]) -> None:
    def change(tensors: dict[str, Tensor]) -> None:
        tensors[name] = tensors[name] + 0.5 * torch.randn(
            tensors[name].shape, generator=torch.Generator().manual_seed(0)
        )

    assert wrong <= failed(copied(file="model.safetensors", change=change)).keys()


@pytest.mark.parametrize("field", ["tokens", "unmask_step"])
def test_another_token_or_step_is_found(copied: Callable[..., Path], field: str) -> None:
    def change(tensors: dict[str, Tensor]) -> None:
        tensors[f"entropy.n16s8.{field}"][0, -1] += 1

    assert failed(copied("entropy.n16s8", change=change)).keys() == {f"entropy.n16s8.{field}"}


@pytest.mark.parametrize(
    ("field", "value", "item"),
    [
        ("forwards", 7, "forwards"),
        ("forward_lengths", [22] * 7, "forward_lengths"),
        ("masks_left", 1, "masks_left"),
        ("masks_before_each_forward", [16] * 8, "masks_before"),
    ],
)
def test_another_course_is_found(copied: Callable[..., Path], field: str, value: Any, item: str) -> None:
    path = copied("entropy.n16s8", file="generate.json", change=lambda run: run.__setitem__(field, value))
    assert failed(path).keys() == {f"entropy.n16s8.{item}"}


@pytest.mark.parametrize(
    ("name", "kind", "lengths"),
    [
        ("origin.n16s8", "uniforms", "uniform_lengths"),
        ("maskgit_plus.temp0.8.n12s6", "multinomial", "multinomial_lengths"),
        ("entropy.algtemp0.5.n12s6", "multinomial", "multinomial_lengths"),
    ],
)
def test_missing_and_surplus_draws_are_found(
    copied: Callable[..., Path], tmp_path: Path, name: str, kind: str, lengths: str
) -> None:
    entry = f"{name}.{kind}_concat"
    path = copied(name)
    recorded, tensors = json.loads((path / "generate.json").read_text()), load_file(path / RUNS)
    run, draws = recorded["runs"][0], tensors[entry]
    assert failed(path) == {}

    def with_draws(drawn: Tensor | None, calls: list[int]) -> dict[str, Item]:
        kept = {key: value for key, value in tensors.items() if key != entry}
        save_file(kept if drawn is None else kept | {entry: drawn.contiguous()}, path / RUNS)
        (path / "generate.json").write_text(json.dumps({"runs": [run | {lengths: calls}]}))
        return failed(path)

    calls = run[lengths]
    assert "not recorded" in with_draws(None, calls)[name].note
    assert "recorded is none" in with_draws(draws[: -calls[-1]], calls[:-1])[name].note
    assert "add up to" in with_draws(draws[1:], calls)[name].note
    surplus = with_draws(torch.cat((draws, draws[:1])), [*calls, 1])
    assert surplus.keys() == {f"{name}.draws left over"}
    shifted = with_draws(draws, [calls[0] + 1, calls[1] - 1, *calls[2:]])
    assert shifted


def test_a_broken_run_does_not_end_the_check(copied: Callable[..., Path]) -> None:
    path = copied("entropy.n16s8", "entropy.n16s5", file="generate.json", change=lambda run: run.update(alg="unknown"))
    broken = failed(path)
    assert broken.keys() == {"entropy.n16s8"}
    assert "sampler 'unknown'" in broken["entropy.n16s8"].note


def test_runs_that_differ_on_purpose_are_skipped(copied: Callable[..., Path]) -> None:
    name = "block_dual.entropy.n16b8s8"
    for changes, reason in (
        ({"steps": 2, "masks_left": 14}, "one step a block"),
        ({"raises": "AssertionError"}, "the reference raises AssertionError"),
        ({"temperature": 0.5}, "draws for every position"),
    ):
        path = copied(name, file="generate.json", change=lambda run, changes=changes: run.update(changes))
        folder = Folder(path)
        check(folder)
        assert [reason in item.note for item in folder.items if item.passed is None] == [True]
        assert not [item for item in folder.items if item.passed is False]
        shutil.rmtree(path)


def test_other_sizes_are_checked_by_their_own_fields(copied: Callable[..., Path]) -> None:
    """A recording of ours under other sizes: nothing of the shipped one's is taken for granted."""
    generator = Dream(load_network(GOLDEN, torch.float32, "cpu"))
    prompt = torch.tensor([[3, 1, 4], [1, 5, 9], [2, 6, 5]])
    settings = Settings(
        sampler="topk_margin", steps=7, epsilon=0.02, top_k=9, top_p=0.8, suppress_mask=False, idle_steps="run"
    )
    generator.prepare(Request(prompt, 10, settings, 0).shape, settings)
    tokens = generator.generate(Request(prompt, 10, settings, 0), Tally())
    run = {"name": "x.y", "prompts": "all", "forwards": 7, "max_new_tokens": 10, "steps": 7, "alg": "topk_margin",
           "temperature": 0.0, "eps": 0.02, "top_k": 9, "top_p": 0.8}  # fmt: skip
    path = copied("entropy.n16s8", file="generate.json", change=lambda recorded: recorded.update(run))
    recorded = json.loads((path / "generate.json").read_text())
    recorded["runs"] = [run]
    (path / "generate.json").write_text(json.dumps(recorded))
    save_file({"prompts": prompt, "x.y.tokens": torch.cat((prompt, tokens), dim=1)}, path / RUNS)
    folder = Folder(path)
    check(folder)
    assert [item for item in folder.items if not item.passed] == []
    assert folder.left_over() == []
    recorded["runs"] = [run | {"eps": 0.9}]
    (path / "generate.json").write_text(json.dumps(recorded))
    assert "x.y.tokens" in failed(path)


def test_recorded_draws_are_replayed_in_order() -> None:
    draws = Recorded("run", [torch.tensor([0.25, 0.5]), torch.empty(0)], [torch.tensor([7, 8, 9]), torch.tensor([1])])
    assert draws.uniform(1, 2).tolist() == [[0.25, 0.5]]
    assert draws.uniform(1, 0).tolist() == [[]]
    # two parts of one call; within a part the order is that of the places
    assert draws.tokens(torch.ones(2, 10), torch.tensor([5, 4]), (1, 9)).tolist() == [8, 7]
    assert draws.left_over() == 2
    with pytest.raises(InputError, match="a call of 1"):
        draws.tokens(torch.ones(2, 10), torch.tensor([6, 7]), (1, 9))
    assert draws.tokens(torch.ones(1, 10), torch.tensor([6]), (1, 9)).tolist() == [9]
    with pytest.raises(InputError, match="only 1 are fed"):
        draws.positions(torch.ones(1, 1), 1)
    with pytest.raises(InputError, match="recorded is none"):
        draws.uniform(1, 1)
