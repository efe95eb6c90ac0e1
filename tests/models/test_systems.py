"""Checkpoints of every system: recognised by their config, loaded tensor by tensor, refused in one line otherwise."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from dlmbench import InputError
from dlmbench.models.backbone import Backbone
from dlmbench.models.checkpoints import checked, load_network, save_checkpoint
from dlmbench.models.config import BackboneConfig
from dlmbench.models.dit_config import DiTConfig
from dlmbench.models.gemma_config import GemmaConfig
from dlmbench.models.layouts import DERIVED
from dlmbench.models.systems import read_system, system_of

GOLDEN = Path(__file__).parents[1] / "golden"
SYSTEMS = ("mdlm", "sedd_absorb", "sedd_uniform", "bd3lm", "llada", "llada_gqa", "dream", "sdar")


def config_of(system: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((GOLDEN / system / "config.json").read_text())
    return content


def without(raw: dict[str, Any], key: str) -> dict[str, Any]:
    """`raw` less a key, `model.length` being a key of a section."""
    section, _, inner = key.rpartition(".")
    if section:
        return raw | {section: without(raw[section], inner)}
    return {name: value for name, value in raw.items() if name != key}


def refused(raw: dict[str, Any], match: str) -> None:
    with pytest.raises(InputError, match=match) as caught:
        system_of(raw, "config.json")
    assert str(caught.value).startswith("config.json: ")
    assert "\n" not in str(caught.value)


# What a config says


def test_mdlm_by_hand() -> None:
    found = read_system(GOLDEN / "mdlm")
    assert (found.name, found.layout, found.generator) == ("mdlm", "dit", "mdlm")
    assert found.config == DiTConfig(
        vocab_size=97, hidden_size=40, num_hidden_layers=2, num_attention_heads=4, cond_dim=16,
        max_position_embeddings=22,
    )  # fmt: skip
    assert found.config.mask_id == 96


def test_bd3lm_by_hand() -> None:
    found = read_system(GOLDEN / "bd3lm")
    assert (found.name, found.layout, found.generator) == ("bd3lm", "dit", "bd3lm")
    assert found.config == DiTConfig(
        vocab_size=97, hidden_size=48, num_hidden_layers=2, num_attention_heads=4, cond_dim=16,
        max_position_embeddings=16, block_size=4,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("graph", "expected"),
    [
        # The absorbing graph adds the mask to its 96 tokens, the uniform one has none.
        ("absorb", {"vocab_size": 97, "scale_by_sigma": True, "noise": "loglinear", "sigma_min": 1e-4}),
        ("uniform", {"vocab_size": 96, "scale_by_sigma": False, "noise": "geometric", "sigma_min": 1e-3}),
    ],
)
def test_sedd_by_hand(graph: Any, expected: dict[str, Any]) -> None:
    found = read_system(GOLDEN / f"sedd_{graph}")
    assert (found.name, found.layout, found.generator) == ("sedd", "dit", "sedd")
    assert found.config == DiTConfig(
        hidden_size=40, num_hidden_layers=2, num_attention_heads=4, cond_dim=16, max_position_embeddings=22,
        time_conditioning=True, parameterization="score", graph=graph, sigma_max=20.0, **expected,
    )  # fmt: skip
    assert found.config.mask_id == (96 if graph == "absorb" else None)


@pytest.mark.parametrize(("system", "kv_heads"), [("llada", 4), ("llada_gqa", 2)])
def test_llada_by_hand(system: str, kv_heads: int) -> None:
    found = read_system(GOLDEN / system)
    assert (found.name, found.layout, found.generator) == ("llada", "llada", "llada")
    assert found.config == BackboneConfig(
        vocab_size=96, hidden_size=64, intermediate_size=112, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=kv_heads, head_dim=16, rms_norm_eps=1e-5, rope_theta=5e5, max_position_embeddings=128,
        mask_token_id=91, eos_token_id=88,
    )  # fmt: skip


DREAM = BackboneConfig(
    vocab_size=96, hidden_size=64, intermediate_size=112, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, head_dim=16, rms_norm_eps=1e-6, rope_theta=1e6, max_position_embeddings=256,
    mask_token_id=90, eos_token_id=86, attention_bias=True, shifted_logits=True,
)  # fmt: skip


def test_dream_and_sdar_by_hand() -> None:
    """Qwen2 with its biases and shifted logits; Qwen3 with its QK-norms and blocks of four."""
    dream, sdar = read_system(GOLDEN / "dream"), read_system(GOLDEN / "sdar")
    assert (dream.name, dream.layout, dream.generator) == ("dream", "hf", "dream")
    assert dream.config == DREAM
    assert (sdar.name, sdar.layout, sdar.generator) == ("sdar", "hf", "sdar")
    changes = {"attention_bias": False, "shifted_logits": False, "qk_norm": True, "block_size": 4}
    assert sdar.config == DREAM.model_copy(update=changes)


def test_llada_has_as_many_logits_as_embedding_rows() -> None:
    raw = config_of("llada") | {"vocab_size": 90, "embedding_size": 96}
    assert system_of(raw, "config.json").config.vocab_size == 96
    assert system_of(without(raw, "embedding_size") | {"mask_token_id": 89}, "config.json").config.vocab_size == 90


def test_lladas_key_heads_default_to_all() -> None:
    found = system_of(without(config_of("llada_gqa"), "n_kv_heads"), "config.json").config
    assert isinstance(found, BackboneConfig)
    assert found.num_key_value_heads == 4


def test_sdars_blocks_go_by_either_name_and_are_four_by_default() -> None:
    raw = without(config_of("sdar"), "block_size")
    found = [system_of(raw | more, "c").config for more in ({}, {"block_length": 8}, {"block_size": 16})]
    assert [config.block_size for config in found if isinstance(config, BackboneConfig)] == [4, 8, 16]


def test_a_generation_config_names_the_end(tmp_path: Path) -> None:
    shutil.copy(GOLDEN / "dream" / "config.json", tmp_path)
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [7, 8]}')
    assert read_system(tmp_path).config.eos_token_id == 7
    (tmp_path / "generation_config.json").write_text('{"temperature": 1.0}')
    assert read_system(tmp_path).config.eos_token_id == 86


def test_the_gemmas_are_for_other_classes(tmp_path: Path) -> None:
    """Their shape is read, their weights are not: transformers runs them."""
    recipe = json.loads((GOLDEN / "diffusion_gemma" / "verified_recipe.json").read_text())
    raw = {"model_type": "diffusion_gemma", "text_config": recipe["text_config"], "canvas_length": 16}
    found = system_of(raw, "config.json")
    assert isinstance(found.config, GemmaConfig)
    assert found.generator == "diffusion-gemma"
    (tmp_path / "config.json").write_text(json.dumps(raw))
    save_file({"x": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(InputError, match="diffusion_gemma runs in transformers' classes only"):
        load_network(tmp_path, torch.float32, "cpu")


# What a config must say

REQUIRED = {
    "mdlm": ("vocab_size", "model_length", "hidden_dim", "cond_dim", "n_blocks", "n_heads", "time_conditioning"),
    "bd3lm": ("vocab_size", "model_length", "hidden_dim", "cond_dim", "n_blocks", "n_heads", "time_conditioning",
              "block_size"),
    "sedd_absorb": ("noise", "model", "graph.type", "noise.type", "model.hidden_size", "model.cond_dim",
                    "model.length", "model.n_blocks", "model.n_heads", "model.scale_by_sigma"),
    "llada": ("d_model", "n_heads", "n_layers", "mlp_hidden_size", "vocab_size", "mask_token_id", "rope_theta",
              "rms_norm_eps", "weight_tying"),
    "dream": ("mask_token_id", "num_key_value_heads", "rope_theta", "rms_norm_eps", "hidden_size", "vocab_size",
              "intermediate_size", "num_hidden_layers", "num_attention_heads"),
    "sdar": ("mask_token_id", "num_key_value_heads", "rope_theta", "rms_norm_eps", "head_dim", "hidden_size",
             "vocab_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
}  # fmt: skip


@pytest.mark.parametrize(("system", "key"), [(system, key) for system, keys in REQUIRED.items() for key in keys])
def test_a_missing_field_is_named(system: str, key: str) -> None:
    """Every one of them: the classes' own defaults (cond_dim 129, LLaDA's mlp_ratio, …) are not the models'."""
    refused(without(config_of(system), key), rf"{key.rpartition('.')[2]} is missing")


@pytest.mark.parametrize("key", ["layer_norm_type", "rope", "block_type", "include_bias"])
def test_a_missing_field_whose_default_is_another_network_is_named(key: str) -> None:
    refused(without(config_of("llada"), key), f"{key} is missing")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("activation_type", "gelu"),
        ("alibi", True),
        ("attention_layer_norm", True),
        ("block_type", "sequential"),
        ("include_bias", True),
        ("include_qkv_bias", True),
        ("input_emb_norm", True),
        ("layer_norm_type", "default"),
        ("multi_query_attention", True),
        ("rope", False),
        ("scale_logits", True),
    ],
)
def test_a_llada_that_is_another_network_is_refused(key: str, value: object) -> None:
    refused(config_of("llada") | {key: value}, rf"{key} is {value!r}, expected .*: LLaDA's network has no other here")


@pytest.mark.parametrize("system", ["llada", "dream", "sdar"])
def test_a_mask_outside_the_vocabulary_is_refused(system: str) -> None:
    refused(config_of(system) | {"mask_token_id": 96}, r"mask_token_id \(96\) is outside the vocabulary of 96")
    refused(config_of(system) | {"mask_token_id": -1}, "mask_token_id")
    eos = config_of(system)["eos_token_id"]
    refused(config_of(system) | {"mask_token_id": eos}, f"mask_token_id and eos_token_id are both {eos}")


@pytest.mark.parametrize(
    ("system", "changes", "match"),
    [
        ("bd3lm", {"causal": True}, "causal is true, expected false"),
        ("bd3lm", {"block_size": 0}, "block_size: .*greater than or equal to 1"),
        ("bd3lm", {"adaln": False, "time_conditioning": True}, "time_conditioning needs adaln"),
        ("mdlm", {"n_heads": 3}, r"hidden_size \(40\) must be an even multiple of num_attention_heads \(3\)"),
        ("mdlm", {"n_blocks": "many"}, "num_hidden_layers: .*integer"),
        ("sedd_absorb", {"tokens": "96"}, "tokens is '96', expected a number of tokens"),
        ("sedd_absorb", {"tokens": True}, "tokens is True, expected a number of tokens"),
        ("sedd_absorb", {"graph": "absorb"}, "graph is 'absorb', expected an object"),
        ("sedd_absorb", {"graph": {"type": "ring"}}, "graph: Input should be 'absorb' or 'uniform'"),
        ("sedd_uniform", {"graph": {"type": "absorb"}, "model": None}, "model is missing"),
        ("llada", {"d_model": 63}, "d_model 63 is not a multiple of n_heads 4"),
        ("llada", {"n_heads": 0}, "d_model 64 is not a multiple of n_heads 0"),
        ("llada", {"n_kv_heads": 3}, r"num_attention_heads \(4\) must be a multiple of num_key_value_heads \(3\)"),
        ("dream", {"use_sliding_window": True, "sliding_window": 16, "max_window_layers": 0}, "use_sliding_window"),
        ("sdar", {"attention_bias": True}, "attention_bias is True, expected false"),
        ("sdar", {"block_size": 0}, "block_size"),
        ("dream", {"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, "rope_type is 'yarn'"),
        ("dream", {"model_type": "mamba"}, "model_type is 'mamba', expected one of .*llada.*Dream.*mdlm"),
        ("dream", {"model_type": 3}, "model_type is 3"),
    ],
)
def test_an_impossible_config_is_refused(system: str, changes: dict[str, Any], match: str) -> None:
    refused(config_of(system) | changes, match)


@pytest.mark.parametrize("name", [["llada"], {"a": 1}])
def test_a_model_type_that_is_no_text_is_refused(name: object) -> None:
    refused(config_of("llada") | {"model_type": name}, "model_type is")


@pytest.mark.parametrize("value", ["tiny", None, []])
def test_a_noise_level_that_is_no_number_is_refused(value: object) -> None:
    refused(config_of("sedd_uniform") | {"noise": {"type": "geometric", "sigma_min": value}}, "sigma_min")


_values = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 200) | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=4), inner, max_size=2),
    max_leaves=4,
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data(), system=st.sampled_from(SYSTEMS))
def test_any_value_anywhere_gives_a_system_or_an_input_error(data: st.DataObject, system: str) -> None:
    raw = config_of(system)
    sections = [raw, *(value for value in raw.values() if isinstance(value, dict))]
    section = data.draw(st.sampled_from(sections))
    key = data.draw(st.sampled_from(sorted(section)))
    if key in ("model_type", "sigma_min", "sigma_max"):  # see the two tests above
        return
    section[key] = data.draw(_values)
    try:
        assert system_of(raw, "config.json").config.total_parameters > 0
    except InputError as error:
        message = str(error)
    else:
        return
    assert message.startswith("config.json: ")


# Tensors


def folder_of(system: str, tmp_path: Path) -> Path:
    """A copy of a checkpoint, without what was recorded beside it, for a test to spoil."""
    for name in ("config.json", "model.safetensors"):
        shutil.copy(GOLDEN / system / name, tmp_path)
    return tmp_path


def edit(path: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    tensors = load_file(path / "model.safetensors")
    change(tensors)
    save_file(tensors, path / "model.safetensors")


def load_refused(path: Path, match: str) -> None:
    with pytest.raises(InputError, match=match) as caught:
        load_network(path, torch.float32, "cpu")
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("system", SYSTEMS)
def test_every_stored_tensor_is_in_its_place(system: str) -> None:
    """Each tensor of the file is the piece of the network that it is said to be, and nothing of the network is left."""
    found = checked(GOLDEN / system)
    parameters = dict(load_network(GOLDEN / system, torch.float32, "cpu").named_parameters())
    stored = load_file(GOLDEN / system / "model.safetensors")
    assert {name for name in stored if not DERIVED.fullmatch(name)} == set(found.wanted)
    for name, piece in found.wanted.items():
        assert torch.equal(piece.of(parameters), stored[name]), name
        piece.of(parameters).fill_(torch.nan)
    assert all(parameter.isnan().all() for parameter in parameters.values())


def test_names_without_their_prefix_are_the_same_checkpoint(tmp_path: Path) -> None:
    shutil.copy(GOLDEN / "mdlm" / "config.json", tmp_path)
    shutil.copy(GOLDEN / "mdlm" / "model_bare.safetensors", tmp_path / "model.safetensors")
    bare, prefixed = (load_network(path, torch.float32, "cpu") for path in (tmp_path, GOLDEN / "mdlm"))
    for ours, theirs in zip(bare.parameters(), prefixed.parameters(), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("system", SYSTEMS)
def test_loading_casts(system: str) -> None:
    """The recorded weights are exact in bfloat16."""
    narrow, wide = (load_network(GOLDEN / system, dtype, "cpu") for dtype in (torch.bfloat16, torch.float32))
    for ours, theirs in zip(narrow.parameters(), wide.parameters(), strict=True):
        assert ours.dtype == torch.bfloat16
        assert torch.equal(ours.float(), theirs)


@pytest.mark.parametrize("system", ["llada", "llada_gqa", "dream", "sdar"])
def test_a_network_saved_as_its_relative_comes_back(system: str, tmp_path: Path) -> None:
    """LLaDA goes out as a Llama, Dream as a Qwen2, SDAR as a Qwen3: one shape, one set of weights."""
    network = load_network(GOLDEN / system, torch.float32, "cpu")
    assert isinstance(network, Backbone)
    save_checkpoint(network, tmp_path)
    again = load_network(tmp_path, torch.float32, "cpu")
    kept = {"shifted_logits": False, "block_size": None}
    assert again.config == network.config.model_copy(update=kept)
    for ours, theirs in zip(again.parameters(), network.parameters(), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("system", SYSTEMS)
def test_each_missing_tensor_is_named(system: str, tmp_path: Path) -> None:
    path = folder_of(system, tmp_path)
    wanted = list(checked(path).wanted)
    for name in (wanted[0], wanted[len(wanted) // 2], wanted[-1]):
        folder_of(system, tmp_path)
        edit(path, lambda tensors, name=name: tensors.pop(name))  # type: ignore[misc]
        load_refused(path, rf"1 of {len(wanted)} tensors missing: {name}; expected the names of")


@pytest.mark.parametrize("system", SYSTEMS)
def test_a_tensor_too_many_is_named(system: str, tmp_path: Path) -> None:
    path = folder_of(system, tmp_path)
    edit(path, lambda tensors: tensors.__setitem__("blocks.0.extra.weight", torch.zeros(3)))
    load_refused(path, r"1 unexpected tensors: blocks\.0\.extra\.weight")


@pytest.mark.parametrize("system", SYSTEMS)
def test_a_tensor_of_another_shape_is_named(system: str, tmp_path: Path) -> None:
    path = folder_of(system, tmp_path)
    name = list(checked(path).wanted)[-1]
    shape = list(load_file(path / "model.safetensors")[name].shape)
    edit(path, lambda tensors: tensors.__setitem__(name, torch.zeros(shape[0] + 1, *shape[1:])))
    wider = [shape[0] + 1, *shape[1:]]
    load_refused(path, rf"{name} has shape {wider}, expected {shape}".replace("[", r"\[").replace("]", r"\]"))


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_a_weight_that_is_no_number_is_named(value: float, tmp_path: Path) -> None:
    path = folder_of("mdlm", tmp_path)
    name = "backbone.blocks.1.adaLN_modulation.bias"
    edit(path, lambda tensors: tensors[name].__setitem__(7, value))
    load_refused(path, rf"{name} has NaN or infinite values \(1 of 240\)")


@pytest.mark.parametrize(
    ("weights", "config"),
    [
        ("mdlm", "llada"), ("mdlm", "bd3lm"), ("mdlm", "sedd_uniform"), ("bd3lm", "sedd_absorb"), ("llada", "dream"),
        ("llada", "llada_gqa"), ("dream", "sdar"), ("sdar", "dream"), ("dream", "llada"), ("sedd_absorb", "sdar"),
    ],
)  # fmt: skip
def test_the_config_of_another_system_is_refused(weights: str, config: str, tmp_path: Path) -> None:
    path = folder_of(weights, tmp_path)
    shutil.copy(GOLDEN / config / "config.json", path)
    load_refused(path, "tensors missing|has shape|unexpected tensors")


def test_more_layers_than_tensors_are_refused_before_they_are_counted(tmp_path: Path) -> None:
    path = folder_of("mdlm", tmp_path)
    (path / "config.json").write_text(json.dumps(config_of("mdlm") | {"n_blocks": 10**12}))
    load_refused(path, "num_hidden_layers is 1000000000000, but the weights hold only 31 tensors")
