"""Checkpoints made by transformers' own classes go in and come out; broken and hostile ones are refused in one line."""

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from huggingface_hub.utils._paths import filter_repo_objects
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from dlmbench import InputError
from dlmbench.models import checkpoints
from dlmbench.models.backbone import Backbone
from dlmbench.models.checkpoints import load_network, read_config, resolve, save_checkpoint
from dlmbench.models.config import BackboneConfig, Llama3Rope
from dlmbench.models.hf_config import from_hf
from dlmbench.models.weights import random_network

SIZES: dict[str, Any] = {
    "vocab_size": 61,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
LLAMA = SIZES | {"model_type": "llama", "architectures": ["LlamaForCausalLM"]}
QWEN2 = SIZES | {"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"]}
QWEN3 = SIZES | {"model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"]}
LLAMA3 = {
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}


@pytest.fixture(scope="session")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untied Llama checkpoint as transformers writes it; never changed."""
    path = tmp_path_factory.mktemp("llama")
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(**SIZES)).save_pretrained(path)
    return path


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    """A copy of `original` for a test to spoil."""
    return Path(shutil.copytree(original, tmp_path / "checkpoint"))


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    path = tmp_path / "sharded"
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(**SIZES)).save_pretrained(path, max_shard_size="20KB")
    return path


def load(path: Path, dtype: torch.dtype = torch.float32) -> Backbone:
    return load_network(path, dtype, "cpu")


def edit_config(path: Path, **changes: object) -> None:
    file = path / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def edit_tensors(path: Path, edit: Callable[[dict[str, Tensor]], object]) -> None:
    tensors = load_file(path / "model.safetensors")
    edit(tensors)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path / "model.safetensors")


def one_line(error: pytest.ExceptionInfo[InputError]) -> str:
    message = str(error.value)
    assert "\n" not in message
    return message


# --- the config ------------------------------------------------------------------------------------------------------


def test_absent_keys_take_transformers_defaults() -> None:
    bare = {key: value for key, value in LLAMA.items() if key != "num_key_value_heads"}
    config = from_hf(bare, "config.json")
    theirs = LlamaConfig(**{key: value for key, value in SIZES.items() if key != "num_key_value_heads"})
    assert config.num_key_value_heads == theirs.num_key_value_heads == 4
    assert config.head_dim == theirs.head_dim == 8
    assert config.rms_norm_eps == theirs.rms_norm_eps
    assert config.rope_theta == (theirs.rope_parameters or {})["rope_theta"]
    assert config.max_position_embeddings == theirs.max_position_embeddings
    assert config.tie_word_embeddings is theirs.tie_word_embeddings is False
    assert from_hf(QWEN3, "config.json").head_dim == 128  # Qwen3's own default, whatever hidden_size is
    assert from_hf(QWEN3 | {"head_dim": None}, "config.json").head_dim == 8


@pytest.mark.parametrize(
    "rope",
    [
        {"rope_theta": 5e5},
        {"rope_theta": 500000},
        {"rope_theta": 5e5, "rope_scaling": None},
        {"rope_theta": 5e5, "rope_scaling": {"type": "default"}},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}},
    ],
)
def test_rope_theta_in_either_place(rope: dict[str, object]) -> None:
    config = from_hf(LLAMA | rope, "config.json")
    assert config.rope_theta == 5e5
    assert config.rope_scaling is None


@pytest.mark.parametrize(
    "rope",
    [
        {"rope_scaling": {"rope_type": "llama3"} | LLAMA3},
        {"rope_scaling": {"type": "llama3"} | LLAMA3},
        {"rope_parameters": {"rope_type": "llama3", "rope_theta": 1e4} | LLAMA3},
    ],
)
def test_llama3_scaling_in_either_place(rope: dict[str, object]) -> None:
    assert from_hf(LLAMA | rope, "config.json").rope_scaling == Llama3Rope.model_validate(LLAMA3)


def test_eos_is_the_first_of_a_list_and_generation_config_wins(folder: Path) -> None:
    (folder / "generation_config.json").unlink()
    edit_config(folder, eos_token_id=[7, 8])
    assert read_config(folder).eos_token_id == 7
    (folder / "generation_config.json").write_text('{"eos_token_id": [9, 7]}')
    assert read_config(folder).eos_token_id == 9
    (folder / "generation_config.json").write_text('{"temperature": 0.7}')
    assert read_config(folder).eos_token_id == 7
    edit_config(folder, eos_token_id=None)
    assert read_config(folder).eos_token_id is None


def test_features_follow_the_family() -> None:
    llama, qwen2, qwen3 = (from_hf(raw, "config.json") for raw in (LLAMA, QWEN2, QWEN3))
    assert (llama.attention_bias, llama.qk_norm) == (False, False)
    assert (qwen2.attention_bias, qwen2.qk_norm) == (True, False)
    assert (qwen3.attention_bias, qwen3.qk_norm) == (False, True)
    by_architecture = {key: value for key, value in QWEN2.items() if key != "model_type"}
    assert from_hf(by_architecture, "config.json") == qwen2


@pytest.mark.parametrize(
    "harmless",
    [
        {"attention_dropout": 0.1, "torch_dtype": "float16", "dtype": "int8", "pretraining_tp": 2, "use_cache": False},
        {"auto_map": {"AutoModelForCausalLM": "modeling.Evil"}},
        {"sliding_window": 8},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 1.0}},
    ],
)
def test_keys_that_change_nothing_are_ignored(harmless: dict[str, object]) -> None:
    assert from_hf(LLAMA | harmless, "config.json") == from_hf(LLAMA, "config.json")


@pytest.mark.parametrize(
    "unused",
    [
        {"use_sliding_window": False, "sliding_window": 4, "max_window_layers": 0},
        {"use_sliding_window": True, "sliding_window": None, "max_window_layers": 0},
        {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 2},
        {"use_sliding_window": True, "sliding_window": 4},  # from layer 28 on, and there are 2
        {"layer_types": ["full_attention", "full_attention"]},
    ],
)
def test_a_sliding_window_that_no_layer_uses_is_accepted(unused: dict[str, Any]) -> None:
    theirs = Qwen2Config(**SIZES, **unused)
    assert set(theirs.layer_types or ()) == {"full_attention"}
    assert from_hf(QWEN2 | unused, "config.json") == from_hf(QWEN2, "config.json")


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (LLAMA | {"model_type": "gpt2"}, r"model_type is 'gpt2' .* expected one of llama .*, qwen2 .*, qwen3"),
        (LLAMA | {"model_type": ["llama"]}, r"model_type is \['llama'\]"),
        (SIZES, r"model_type is None .* expected one of llama"),
        (LLAMA | {"architectures": ["LlamaForSequenceClassification"]}, r"architectures is .*LlamaForSequence"),
        (LLAMA | {"vocab_size": "61"}, r"vocab_size is '61', expected a positive integer"),
        (LLAMA | {"hidden_size": 32.0}, r"hidden_size is 32\.0, expected a positive integer"),
        (LLAMA | {"num_attention_heads": 0}, r"num_attention_heads is 0, expected a positive"),
        (LLAMA | {"num_hidden_layers": True}, r"num_hidden_layers is True"),
        ({key: LLAMA[key] for key in LLAMA if key != "intermediate_size"}, r"intermediate_size is missing"),
        (LLAMA | {"num_attention_heads": 5}, r"hidden_size 32 is not a multiple of num_attention_heads 5"),
        (LLAMA | {"num_key_value_heads": 3}, r"num_attention_heads \(4\) must be a multiple"),
        (LLAMA | {"num_key_value_heads": "2"}, r"num_key_value_heads is '2'"),
        (LLAMA | {"rms_norm_eps": "small"}, r"rms_norm_eps is 'small'"),
        (LLAMA | {"rms_norm_eps": 0}, r"rms_norm_eps is 0"),
        (LLAMA | {"tie_word_embeddings": "yes"}, r"tie_word_embeddings is 'yes'"),
        (LLAMA | {"eos_token_id": 61}, r"eos_token_id \(61\) is outside the vocabulary of 61"),
        (LLAMA | {"eos_token_id": "</s>"}, r"eos_token_id is '</s>', expected a token id"),
        (LLAMA | {"hidden_act": "gelu"}, r"hidden_act is 'gelu', expected \"silu\""),
        (LLAMA | {"mlp_bias": True}, r"mlp_bias is True, expected false"),
        (LLAMA | {"attention_bias": True}, r"attention_bias is True, expected false"),
        (QWEN3 | {"attention_bias": True}, r"attention_bias is True, expected false"),
        (LLAMA | {"partial_rotary_factor": 0.5}, r"partial_rotary_factor is 0\.5"),
        (LLAMA | {"rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": 0.5}}, r"partial_rotary_factor is"),
        (LLAMA | {"quantization_config": {"quant_method": "gptq"}}, r"quantization_config is .*gptq.*not supported"),
        (LLAMA | {"rope_scaling": {"type": "linear", "factor": 2.0}}, r"rope_scaling\.rope_type is 'linear'"),
        (LLAMA | {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}, r"rope_type is 'dynamic'"),
        (LLAMA | {"rope_parameters": {"rope_type": "yarn", "factor": 4.0}}, r"rope_parameters\.rope_type is 'yarn'"),
        (LLAMA | {"rope_parameters": {"full_attention": {"rope_type": "default"}}}, r"rope_parameters is .*one object"),
        (LLAMA | {"rope_scaling": "llama3"}, r"rope_scaling is 'llama3', expected one object"),
        (LLAMA | {"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, r"rope_scaling\.low_freq_factor is None"),
        (LLAMA | {"rope_scaling": {"rope_type": "llama3"} | LLAMA3 | {"high_freq_factor": 0.5}}, "must exceed"),
        (LLAMA | {"rope_theta": None}, r"rope_theta is None"),
        (
            QWEN2 | {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1},
            r"use_sliding_window is true with max_window_layers 1 of 2 layers",
        ),
        (QWEN3 | {"layer_types": ["full_attention", "sliding_attention"]}, r"layer_types has 'sliding_attention'"),
    ],
)
def test_configs_that_the_backbone_cannot_be_are_refused(raw: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=r"^here/config\.json: .*" + message) as error:
        from_hf(raw, "here/config.json")
    one_line(error)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "not valid JSON"),
        (b"", "not valid JSON"),
        (b"\xff\xfe{}", "not valid JSON"),
        (b"[" * 100_000, "not valid JSON"),
        (b"[]", "holds a JSON list, expected an object"),
    ],
)
def test_a_broken_config_file_is_refused(folder: Path, content: bytes, message: str) -> None:
    (folder / "config.json").write_bytes(content)
    with pytest.raises(InputError, match=rf"config\.json: .*{message}") as error:
        load(folder)
    one_line(error)


def test_a_missing_config_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"config\.json: not found"):
        load(tmp_path)


# --- the weights -----------------------------------------------------------------------------------------------------


def test_every_tensor_lands_in_its_rows(original: Path) -> None:
    stored = load_file(original / "model.safetensors")
    network = load_network(original, torch.float32, "cpu")
    ours = network.state_dict()
    first = "model.layers.1.self_attn."
    fused = torch.cat([stored[first + f"{name}_proj.weight"] for name in "qkv"])
    assert torch.equal(ours["layers.1.qkv.weight"], fused)
    fused = torch.cat([stored[f"model.layers.0.mlp.{name}_proj.weight"] for name in ("gate", "up")])
    assert torch.equal(ours["layers.0.gate_up.weight"], fused)
    assert torch.equal(ours["head.weight"], stored["lm_head.weight"])
    assert not network.training
    assert sum(parameter.numel() for parameter in network.parameters()) == sum(t.numel() for t in stored.values())


def test_shards_hold_the_same_network(original: Path, sharded: Path) -> None:
    assert len(list(sharded.glob("*.safetensors"))) > 2
    one, many = load(original).state_dict(), load(sharded).state_dict()
    assert all(torch.equal(one[name], many[name]) for name in one)


def test_the_cast_is_torchs(original: Path) -> None:
    ours = load(original, torch.bfloat16).state_dict()
    stored = load_file(original / "model.safetensors")
    assert torch.equal(ours["embedding"], stored["model.embed_tokens.weight"].bfloat16())


def test_float64_and_half_checkpoints_load(folder: Path) -> None:
    edit_tensors(folder, lambda tensors: tensors.update({n: t.double() for n, t in tensors.items() if "mlp" in n}))
    edit_tensors(folder, lambda tensors: tensors.update({n: t.half() for n, t in tensors.items() if "attn" in n}))
    assert load(folder).state_dict()["embedding"].dtype is torch.float32


def test_a_tied_checkpoint_may_repeat_its_embedding(folder: Path) -> None:
    edit_config(folder, tie_word_embeddings=True)
    edit_tensors(folder, lambda t: t.update({"lm_head.weight": t["model.embed_tokens.weight"].clone()}))
    network = load_network(folder, torch.bfloat16, "cpu")
    assert network.head.weight is network.embedding

    edit_tensors(folder, lambda t: t["lm_head.weight"][3].add_(1))
    with pytest.raises(InputError, match=r"lm_head\.weight differs from model\.embed_tokens\.weight.*set tie_word"):
        load(folder)


def test_stored_rope_frequencies_are_ignored(folder: Path) -> None:
    edit_tensors(folder, lambda t: t.update({"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}))
    load(folder)


class Bomb:
    """Unpickling one creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "consolidated.00.pth"])
def test_a_pickle_is_never_opened(folder: Path, tmp_path: Path, name: str) -> None:
    (folder / name).write_bytes(pickle.dumps(Bomb(tmp_path / "executed")))
    load(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(InputError, match=rf"weights only as {name}.*safetensors is required.*convert") as error:
        load(folder)
    one_line(error)
    assert not (tmp_path / "executed").exists()


def test_no_weights_at_all(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"has no model\.safetensors and no model\.safetensors\.index\.json"):
        load(folder)


def drop(*names: str) -> Callable[[dict[str, Tensor]], object]:
    return lambda tensors: [tensors.pop(name) for name in names]


def put(name: str, value: Tensor) -> Callable[[dict[str, Tensor]], object]:
    return lambda tensors: tensors.update({name: value})


def poke(name: str, value: float) -> Callable[[dict[str, Tensor]], object]:
    return lambda tensors: tensors[name].view(-1)[5:6].fill_(value)


Q, DOWN = "model.layers.0.self_attn.q_proj.weight", "model.layers.1.mlp.down_proj.weight"


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (drop(Q), rf"1 of 21 tensors missing: {Q}; .*LlamaForCausalLM"),
        (drop("lm_head.weight"), r"missing: lm_head\.weight.*set tie_word_embeddings to true"),
        (drop(Q, DOWN, "model.norm.weight", "lm_head.weight"), r"4 of 21 tensors missing: .* and 1 more"),
        (put("model.layers.0.self_attn.q_proj.bias", torch.ones(32)), r"1 unexpected tensors: .*q_proj\.bias"),
        (put("model.layers.2.input_layernorm.weight", torch.ones(32)), r"1 unexpected tensors: model\.layers\.2"),
        (put(Q, torch.ones(32, 31)), rf"{Q} has shape \[32, 31\], expected \[32, 32\]"),
        (put(Q, torch.ones(1024)), r"has shape \[1024\], expected \[32, 32\]"),
        (put(DOWN, torch.ones(32, 48, dtype=torch.int8)), rf"{DOWN} has dtype I8, expected one of BF16, F16, F32"),
        (put(DOWN, torch.ones(32, 48, dtype=torch.float8_e4m3fn)), r"dtype F8_E4M3, .*quantised"),
        (poke(DOWN, float("nan")), rf"{DOWN} has NaN or infinite values \(1 of 1536\)"),
        (poke("model.norm.weight", float("-inf")), r"model\.norm\.weight has NaN or infinite values \(1 of 32\)"),
    ],
)
def test_weights_that_do_not_fit_the_config_are_refused(
    folder: Path, edit: Callable[[dict[str, Tensor]], object], message: str
) -> None:
    edit_tensors(folder, edit)
    with pytest.raises(InputError, match=message) as error:
        load(folder)
    assert str(folder) in one_line(error)


def test_values_that_overflow_the_dtype_are_refused(folder: Path) -> None:
    edit_tensors(folder, poke(Q, 1e6))
    load(folder, torch.bfloat16)
    with pytest.raises(
        InputError, match=r"q_proj\.weight has values up to 1e\+06, too large for float16.*use bfloat16"
    ):
        load(folder, torch.float16)


def test_a_config_that_claims_a_billion_layers_is_refused_at_once(folder: Path) -> None:
    edit_config(folder, num_hidden_layers=10**9)
    with pytest.raises(InputError, match=r"num_hidden_layers is 1000000000, but the weights hold only 21 tensors"):
        load(folder)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda content: content[:-4],
        lambda content: content[: len(content) // 2],
        lambda content: content[:20],
        lambda content: b"",
        lambda content: b"\xff" * len(content),
        lambda content: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 99\n",
        lambda content: content + b"more",
    ],
)
def test_a_file_that_is_not_whole_is_refused(folder: Path, spoil: Callable[[bytes], bytes]) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(spoil(file.read_bytes()))
    with pytest.raises(
        InputError, match=r"model\.safetensors: not a whole safetensors file .*download it again"
    ) as error:
        load(folder)
    one_line(error)


def test_a_missing_shard_is_refused(sharded: Path) -> None:
    gone = sorted(sharded.glob("*.safetensors"))[1]
    gone.unlink()
    with pytest.raises(InputError, match=rf"weight_map names the shard {gone.name}, which is missing"):
        load(sharded)


@pytest.mark.parametrize(
    "name", ["../outside.safetensors", "/tmp/outside.safetensors", "..\\x.safetensors", "a.bin", ".."]
)
def test_a_shard_outside_the_folder_is_refused(sharded: Path, name: str) -> None:
    shutil.copy(sorted(sharded.glob("*.safetensors"))[0], sharded.parent / "outside.safetensors")
    index = sharded / "model.safetensors.index.json"
    raw = json.loads(index.read_text())
    raw["weight_map"]["model.norm.weight"] = name
    index.write_text(json.dumps(raw))
    with pytest.raises(InputError, match=r"index\.json: weight_map names the shard .*expected the plain name"):
        load(sharded)


@pytest.mark.parametrize("weight_map", [None, {}, [], {"model.norm.weight": 3}])
def test_an_index_without_a_map_is_refused(sharded: Path, weight_map: object) -> None:
    (sharded / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(InputError, match="weight_map is missing or no object"):
        load(sharded)


def test_an_index_that_misplaces_a_tensor_is_refused(sharded: Path) -> None:
    index = sharded / "model.safetensors.index.json"
    raw = json.loads(index.read_text())
    shards = sorted(set(raw["weight_map"].values()))
    here = raw["weight_map"]["model.norm.weight"]
    raw["weight_map"]["model.norm.weight"] = next(shard for shard in shards if shard != here)
    index.write_text(json.dumps(raw))
    with pytest.raises(InputError, match=r"weight_map places model\.norm\.weight in .*which does not have it"):
        load(sharded)


# --- saving ----------------------------------------------------------------------------------------------------------


def config(**changes: Any) -> BackboneConfig:
    return BackboneConfig(**(SIZES | {"head_dim": 8, "eos_token_id": 5} | changes))


@pytest.mark.parametrize(
    ("shape", "architecture"),
    [
        (config(), "LlamaForCausalLM"),
        (config(tie_word_embeddings=True, rope_scaling=LLAMA3, rope_theta=5e5), "LlamaForCausalLM"),
        (config(head_dim=16, rms_norm_eps=1e-3), "LlamaForCausalLM"),
        (config(attention_bias=True, mask_token_id=6), "Qwen2ForCausalLM"),
        (config(qk_norm=True, head_dim=12, tie_word_embeddings=True), "Qwen3ForCausalLM"),
    ],
)
def test_transformers_loads_what_we_save(tmp_path: Path, shape: BackboneConfig, architecture: str) -> None:
    network = random_network(shape, 1, torch.float32, "cpu")
    for parameter in network.parameters():
        parameter.add_(torch.rand_like(parameter), alpha=0.3)
    save_checkpoint(network, tmp_path / "new" / "folder")
    loaded: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "new" / "folder", output_loading_info=True)
    model, report = loaded
    assert type(model).__name__ == architecture
    assert not any(report.values())
    assert model.config.eos_token_id == 5
    network.rotary(40)
    ids = torch.randint(61, (2, 40), generator=torch.Generator().manual_seed(0))
    ours = network.logits(network.trunk(ids, mask="causal"))
    torch.testing.assert_close(ours, model(ids).logits.detach(), atol=1e-5, rtol=1e-5)

    again = load_network(tmp_path / "new" / "folder", torch.float32, "cpu")
    assert again.config == shape
    assert all(torch.equal(again.state_dict()[name], tensor) for name, tensor in network.state_dict().items())


def test_the_saved_dtype_is_the_networks(tmp_path: Path) -> None:
    save_checkpoint(random_network(config(), 0, torch.bfloat16, "cpu"), tmp_path)
    assert AutoModelForCausalLM.from_pretrained(tmp_path, dtype="auto").dtype is torch.bfloat16


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        (config(attention_bias=True, qk_norm=True), "attention_bias and qk_norm are both true"),
        (config(hidden_size=34), "hidden_size 34 is not a multiple of num_attention_heads 4"),
    ],
)
def test_features_that_no_architecture_has_are_not_saved(tmp_path: Path, shape: BackboneConfig, message: str) -> None:
    with pytest.raises(InputError, match=message):
        save_checkpoint(random_network(shape, 0, torch.float32, "cpu"), tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_failed_save_leaves_the_folder_as_it_was(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {file.name: file.read_bytes() for file in folder.iterdir()}

    def full_disk(tensors: object, file: Path, **_: object) -> None:
        file.write_bytes(b"half")
        raise OSError("no space left")

    monkeypatch.setattr(checkpoints, "save_file", full_disk)
    with pytest.raises(OSError, match="no space left"):
        save_checkpoint(random_network(config(), 0, torch.float32, "cpu"), folder)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before


def test_a_file_in_the_folders_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("x")
    with pytest.raises(InputError, match="is a file, expected a folder"):
        save_checkpoint(random_network(config(), 0, torch.float32, "cpu"), tmp_path / "taken")


# --- references ------------------------------------------------------------------------------------------------------


def test_a_local_folder_is_itself(original: Path) -> None:
    assert resolve(str(original)) == original


def test_a_reference_that_can_be_neither_is_refused_without_the_hub(
    original: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: pytest.fail("asked the hub"))
    with pytest.raises(InputError, match="is a file, expected the checkpoint's folder"):
        resolve(str(original / "config.json"))
    for reference in ("./nowhere", "/no/where", "a/b/c", "~/nowhere/at/all", "two words", "line\n"):
        with pytest.raises(InputError, match="no such folder, and not a hub id"):
            resolve(reference)


def test_a_hub_failure_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: object, **__: object) -> str:
        raise ConnectionError("cannot\nreach it")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    with pytest.raises(InputError, match=r"^some/model: no such folder.*hub.*ConnectionError.*local folder") as error:
        resolve("some/model")
    one_line(error)


def test_only_data_is_fetched_from_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    def download(repo_id: str, **patterns: Any) -> str:
        asked.update(patterns, repo_id=repo_id)
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert resolve("some/model-1.5B") == tmp_path
    wanted = ["config.json", "model-00001-of-00002.safetensors", "model.safetensors.index.json", "tokenizer.json"]
    refused = ["pytorch_model.bin", "modeling_x.py", "original/params.json", "consolidated.safetensors", "onnx/m.json"]
    kept = filter_repo_objects(
        wanted + refused, allow_patterns=asked["allow_patterns"], ignore_patterns=asked["ignore_patterns"]
    )
    assert list(kept) == wanted
    assert asked["repo_id"] == "some/model-1.5B"


def test_qwen2_biases_are_read(tmp_path: Path) -> None:
    model = Qwen2ForCausalLM(Qwen2Config(**SIZES))
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter)
    model.save_pretrained(tmp_path)
    biases = [getattr(model.model.layers[1].self_attn, f"{name}_proj").bias for name in "qkv"]
    assert torch.equal(load(tmp_path).state_dict()["layers.1.qkv.bias"], torch.cat(biases))
