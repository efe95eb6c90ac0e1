"""`--weights`: random, the pair's own, one checkpoint for both sides, or one a side; and `--set`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from dlmbench import InputError
from dlmbench.bench import plan as planning
from dlmbench.bench.options import RunOptions, named
from dlmbench.bench.plan import make_plan, one_checkpoint, pair_records, weights_of, with_weights
from dlmbench.models import checkpoints
from dlmbench.models.pairs import load_pair, pair_names

GOLDEN = Path(__file__).parents[1] / "golden"


def golden(system: str) -> str:
    return str(GOLDEN / system)


@pytest.mark.parametrize("name", pair_names())
def test_random_leaves_a_pair_as_it_is(name: str) -> None:
    pair = load_pair(name)
    assert with_weights(pair, "random") == pair
    assert weights_of(pair) == "random"


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        ("random", False), ("hub", False), ("ar=x", False), ("diffusion=x,ar=y", False), ("/a/folder", True),
        ("org/name", True), ("ar", True), ("arctic=x", True), ("", True),
    ],
)  # fmt: skip
def test_what_stands_for_both_sides(reference: str, expected: bool) -> None:
    assert one_checkpoint(reference) is expected


@pytest.mark.parametrize("system", ["mdlm", "sedd_absorb", "bd3lm", "llada", "dream", "sdar"])
def test_one_checkpoint_is_decoded_both_ways(system: str) -> None:
    """By the pair's AR generator, and as the checkpoint's own system decodes."""
    pair = with_weights(load_pair("small"), golden(system))
    generator = {"sedd_absorb": "sedd"}.get(system, system)
    assert (pair.name, pair.ar.generator, pair.diffusion.generator) == (system, "ar", generator)
    assert pair.ar.backbone == pair.diffusion.backbone
    assert pair.ar.weights == pair.diffusion.weights == golden(system)
    assert weights_of(pair) == golden(system)


def test_a_checkpoint_on_one_side_leaves_the_other() -> None:
    before = load_pair("mdlm-small")
    pair = with_weights(before, f"diffusion={golden('mdlm')}")
    assert pair.name == "mdlm-small"
    assert pair.ar == before.ar
    assert pair.diffusion.weights == golden("mdlm")
    assert (pair.diffusion.backbone.vocab_size, pair.diffusion.generator) == (97, "mdlm"), "its config wins"
    assert weights_of(pair) == f"ar=random,diffusion={golden('mdlm')}"


def test_sides_may_come_in_any_order_and_random_is_one_of_them() -> None:
    wanted = f"diffusion={golden('dream')},ar={golden('sdar')}"
    pair = with_weights(load_pair("dream-7b"), wanted)
    assert (pair.ar.weights, pair.diffusion.weights) == (golden("sdar"), golden("dream"))
    assert (pair.ar.generator, pair.diffusion.generator) == ("ar", "dream")
    assert with_weights(load_pair("dream-7b"), f"ar=random,diffusion={golden('dream')}").ar.weights == "random"


@pytest.mark.parametrize(
    ("pair", "system", "expected"),
    [
        ("small", "llada", "masked-diffusion"),  # two names of one sampler
        ("small", "mdlm", "mdlm"),  # a checkpoint of a system is decoded as that system does
        ("mdlm-small", "llada", "llada"),
        ("llada-8b", "llada_gqa", "llada"),
        ("sdar-4b", "dream", "dream"),
    ],
)
def test_a_sides_generator_is_one_for_its_checkpoint(pair: str, system: str, expected: str) -> None:
    assert with_weights(load_pair(pair), f"diffusion={golden(system)}").diffusion.generator == expected


@pytest.mark.parametrize(
    ("generator", "system", "kept"),
    [
        ("fast-dllm", "llada", True),
        ("masked-diffusion", "llada", True),
        ("fast-dllm", "dream", True),
        ("block-diffusion", "sdar", True),
        ("speculative", "dream", True),
        ("fast-dllm", "sdar", False),
        ("block-diffusion", "dream", False),
    ],
)
def test_another_generator_that_fits_the_checkpoint_is_kept(generator: str, system: str, kept: bool) -> None:
    pair = load_pair("small")
    pair = pair.model_copy(update={"diffusion": pair.diffusion.model_copy(update={"generator": generator})})
    found = with_weights(pair, f"diffusion={golden(system)}").diffusion.generator
    assert found == (generator if kept else system)


def test_hub_takes_each_sides_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """The names are resolved by the hub's client; here they lead to recorded checkpoints."""
    asked = []

    def resolve(reference: str) -> Path:
        asked.append(reference)
        return GOLDEN / ("dream" if "Dream" in reference else "sdar")

    monkeypatch.setattr(checkpoints, "resolve", resolve)
    pair = with_weights(load_pair("dream-7b"), "hub")
    assert asked == ["Qwen/Qwen2.5-7B", "Dream-org/Dream-v0-Base-7B"]
    assert (pair.ar.weights, pair.diffusion.weights) == (golden("sdar"), golden("dream"))
    assert pair.diffusion.hub == "Dream-org/Dream-v0-Base-7B"


@pytest.mark.parametrize("name", ["small", "mdlm-small"])
def test_hub_needs_a_name_on_each_side(name: str) -> None:
    with pytest.raises(InputError, match=f"--weights hub: pair {name} names no published checkpoint for its ar side"):
        with_weights(load_pair(name), "hub")


@pytest.mark.parametrize(
    "reference", ["ar=", "diffusion=", "ar=/a,", "ar=/a,colour=/b", "ar=/a,diffusion", "diffusion=/a,,ar=/b"]
)
def test_sides_that_make_no_sense_are_refused(reference: str) -> None:
    with pytest.raises(
        InputError, match=r"--weights .*: expected ar=CHECKPOINT,diffusion=CHECKPOINT or one of the two"
    ):
        with_weights(load_pair("small"), reference)


def test_the_same_side_twice_is_refused() -> None:
    with pytest.raises(InputError, match="--weights"):
        with_weights(load_pair("small"), f"ar={golden('sdar')},ar={golden('dream')}")


@pytest.mark.parametrize("reference", ["diffusion=./no/such", "ar=./no/such", "./no/such"])
def test_a_checkpoint_that_is_not_there_is_refused(reference: str) -> None:
    with pytest.raises(InputError, match=r"\./no/such: no such folder"):
        with_weights(load_pair("small"), reference)


def test_a_checkpoint_with_a_tensor_missing_is_refused_before_measuring(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    shutil.copy(GOLDEN / "mdlm" / "config.json", tmp_path)
    tensors = load_file(GOLDEN / "mdlm" / "model.safetensors")
    del tensors["backbone.output_layer.linear.bias"]
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(InputError, match=r"1 of 30 tensors missing: backbone\.output_layer\.linear\.bias"):
        with_weights(load_pair("mdlm-small"), f"diffusion={tmp_path}")


# A plan on such weights


@pytest.fixture
def _enough_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "available_b", lambda device: 64 * 10**9)


def planned(**fields: Any) -> planning.Plan:
    return make_plan(RunOptions(**{"suite": "lesson", "device": "cpu", "threads": 1, "lengths": (8,), **fields}))


@pytest.mark.usefixtures("_enough_memory")
def test_a_tokenizer_larger_than_the_checkpoints_vocabulary_is_refused() -> None:
    with pytest.raises(InputError, match="only 97; give --tokenizer one that fits"):
        planned(pairs=("mdlm-small",), weights=f"diffusion={golden('mdlm')}", prompt_lengths=(4,))


@pytest.mark.usefixtures("_enough_memory")
def test_the_record_says_where_each_side_came_from(tmp_path: Path) -> None:
    """A trained side beside a random one: the record keeps both, and the warning stays."""
    import torch

    from dlmbench.models.backbone import Backbone
    from dlmbench.models.checkpoints import save_checkpoint
    from dlmbench.models.weights import random_network

    network = random_network(load_pair("small").ar.backbone, 0, torch.float32, "cpu")
    assert isinstance(network, Backbone)
    save_checkpoint(network, tmp_path / "mine")
    plan = planned(weights=f"ar={tmp_path / 'mine'}", seed=7)
    (record,) = pair_records(plan)
    assert record.weights == f"ar={tmp_path / 'mine'},diffusion=random"
    assert record.weights_note.startswith(f"AR: {tmp_path / 'mine'}; diffusion: seed 7, drawn on cpu: normal(0, 0.02)")
    assert record.ar["weights"] == str(tmp_path / "mine")
    assert any("random" in warning for warning in plan.warnings)


@pytest.mark.usefixtures("_enough_memory")
def test_each_pair_of_shapes_says_whether_its_weights_are_the_same() -> None:
    (same,), (apart,) = pair_records(planned(weights="random")), pair_records(planned(pairs=("mdlm-small",)))
    assert same.weights_note.endswith("the same on both sides")
    assert apart.weights_note.endswith("each side its own shape")
    assert apart.weights == "random"
    assert json.loads(apart.model_dump_json())["diffusion"]["hub"] == "kuleshov-group/mdlm-owt"


# --set


def test_named_settings_are_read_in_their_type() -> None:
    entries = (
        "position_temperature=0.5", "epsilon=1e-5", "draw=gumbel32", "suppress_mask=false", "idle_steps=run",
    )  # fmt: skip
    assert named(entries) == {
        "position_temperature": 0.5, "epsilon": 1e-5, "draw": "gumbel32", "suppress_mask": False, "idle_steps": "run",
    }  # fmt: skip
    assert named(()) == {}
    assert named(("draw=exact", "draw=gumbel64")) == {"draw": "gumbel64"}, "the last one counts"


@pytest.mark.parametrize(
    ("entry", "match"),
    [
        ("draw", r"--set 'draw': expected NAME=VALUE with NAME one of position_temperature, epsilon, draw"),
        ("=3", r"--set '=3': expected NAME=VALUE"),
        ("", r"--set '': expected NAME=VALUE"),
        ("colour=red", r"--set 'colour=red': expected NAME=VALUE"),
        ("temperature=1", r"--set 'temperature=1': expected NAME=VALUE"),
        ("epsilon=small", r"--set 'epsilon=small': 'small' is no value of epsilon; see dlmbench run --help"),
        ("suppress_mask=yes", r"'yes' is no value of suppress_mask"),
        ("suppress_mask=", r"'' is no value of suppress_mask"),
        ("__class__=3", r"expected NAME=VALUE"),
    ],
)
def test_a_setting_that_is_none_is_refused(entry: str, match: str) -> None:
    with pytest.raises(InputError, match=match) as caught:
        named((entry,))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "entry", ["epsilon=2", "epsilon=0", "epsilon=nan", "epsilon=inf", "position_temperature=-1", "draw=gumbel16",
              "idle_steps=sometimes", "position_temperature=nan"],
)  # fmt: skip
def test_a_value_out_of_range_is_refused_by_its_key(entry: str) -> None:
    with pytest.raises(InputError, match=rf"grid\.0\.{entry.partition('=')[0]}"):
        planned(decode=(entry,))


def test_a_named_setting_reaches_every_cell() -> None:
    plan = planned(decode=("draw=gumbel64", "idle_steps=run"))
    found = [cell for pairing in plan.pairings for cell in pairing.cells if cell.side == "diffusion"]
    assert found
    assert all(cell.key.endswith("draw=gumbel64,idle_steps=run") for cell in found)
