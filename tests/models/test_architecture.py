"""A shape from plain data: its family says which class it is, and survives being written down."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from dlmbench import InputError
from dlmbench.models.architecture import FAMILIES, Config, NetworkConfig, network_config
from dlmbench.models.certificate import Line, certificate
from dlmbench.models.config import BackboneConfig
from dlmbench.models.costs import forward_cost
from dlmbench.models.dit_config import DiTConfig
from dlmbench.models.gemma_config import GemmaConfig
from dlmbench.models.pairs import load_pair, pair_names

LLAMA: dict[str, Any] = {
    "vocab_size": 61, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8,
}  # fmt: skip
DIT: dict[str, Any] = {
    "family": "dit", "vocab_size": 61, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
}  # fmt: skip


def test_the_family_chooses_the_class_and_llama_is_the_default() -> None:
    assert isinstance(network_config(LLAMA), BackboneConfig)
    assert network_config({"family": "llama", **LLAMA}) == network_config(LLAMA)
    assert isinstance(network_config(DIT), DiTConfig)
    assert dict(FAMILIES) == {"llama": BackboneConfig, "dit": DiTConfig, "gemma": GemmaConfig}


@pytest.mark.parametrize("family", ["mamba", "", None, 3, ["dit"]])
def test_an_unknown_family_lists_the_choices(family: object) -> None:
    with pytest.raises(InputError, match=r"family .* is unknown; choose from llama, dit, gemma"):
        network_config(LLAMA | {"family": family})


@pytest.mark.parametrize("table", [LLAMA | {"family": "dit"}, DIT | {"family": "llama"}, DIT | {"rope_theta": 1e4}])
def test_the_fields_of_another_family_are_refused(table: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        network_config(table)


@pytest.mark.parametrize("name", pair_names())
@pytest.mark.parametrize("side", ["ar", "diffusion"])
def test_a_shape_survives_json(name: str, side: str) -> None:
    """As it is sent to a worker and kept in a record."""
    config: Config = getattr(load_pair(name), side).backbone
    adapter: TypeAdapter[Config] = TypeAdapter(NetworkConfig)
    again = adapter.validate_json(adapter.dump_json(config))
    assert again == config
    assert type(again) is type(config)
    assert network_config(config.model_dump()) == config


@pytest.mark.parametrize("name", pair_names())
@pytest.mark.parametrize("side", ["ar", "diffusion"])
def test_every_family_answers_the_questions_that_costs_ask(name: str, side: str) -> None:
    config: Config = getattr(load_pair(name), side).backbone
    assert 0 < config.active_parameters <= config.total_parameters
    assert 0 < config.non_embedding_parameters < config.total_parameters
    assert config.weight_bytes("bfloat16") == 2 * config.total_parameters == config.weight_bytes("float32") // 2
    assert config.kv_bytes_per_token("float32") == 2 * config.kv_bytes_per_token("bfloat16") > 0
    wide, narrow = (
        forward_cost(config, rows=1, q_len=8, kv_len=kv, logit_rows=8, mask="bidirectional", dtype="bfloat16")
        for kv in (64, 8)
    )
    assert wide.flops > narrow.flops > 0
    assert wide.bytes > narrow.bytes > 0


def test_families_are_told_apart_without_torch() -> None:
    code = "import sys; import dlmbench.models.architecture; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "False"


# Pairs and their certificates


def rows_of(name: str) -> dict[str, Line]:
    return {line.quantity: line for line in certificate(load_pair(name), dtype="bfloat16")}


@pytest.mark.parametrize("name", pair_names())
def test_every_shipped_pair_is_certified(name: str) -> None:
    """The last four rows are what a pair compares: attention, mask token, cache and algorithm."""
    lines = certificate(load_pair(name), dtype="bfloat16")
    assert [line.quantity for line in lines[-4:]] == ["attention mask", "mask token", "key-value cache", "generator"]
    for line in lines[-4:]:
        # Uniform-state diffusion has no mask token, and neither has its AR side.
        assert "by design" in line.verdict or (line.quantity == "mask token" and line.diffusion is None)
    assert {line.quantity for line in lines} >= {"conditioning", "logits", "positions", "norm", "MLP", "biases"}
    for line in lines:
        assert line.verdict
        if line.verdict == "equal":
            assert line.ar == line.diffusion


@pytest.mark.parametrize(
    ("name", "mask", "token", "cache"),
    [
        ("mdlm-small", "bidirectional", 50257, "none: the whole sequence at every step"),
        ("bd3lm-small", "block-causal", 50257, "static, exact: finished blocks are stored once"),
        ("sdar-4b", "block-causal", 151669, "static, exact: finished blocks are stored once"),
        ("dream-7b", "bidirectional", 151666, "prefix and dual reuse keys and values of earlier steps (approximate)"),
        ("llada-8b", "bidirectional", 126336, "none: the whole sequence at every step"),
        ("diffusiongemma-26b-a4b", "causal encoder, bidirectional canvas", None, "the encoder's, exact"),
    ],
)
def test_mask_and_cache_are_the_systems(name: str, mask: str, token: int | None, cache: str) -> None:
    rows = rows_of(name)
    assert (rows["attention mask"].ar, rows["attention mask"].diffusion) == ("causal", mask)
    assert (rows["mask token"].ar, rows["mask token"].diffusion) == (None, token)
    assert cache in str(rows["key-value cache"].diffusion)


def test_what_still_differs_is_said_in_words() -> None:
    mdlm, dream, sdar = rows_of("mdlm-small"), rows_of("dream-7b"), rows_of("sdar-4b")
    assert (mdlm["conditioning"].ar, mdlm["conditioning"].diffusion) == (
        "none", "adaLN of width 128, sigma held at 0",
    )  # fmt: skip
    # 169,627,218 / 162,246,482 = 1.0455
    assert mdlm["total parameters"].verdict == "diffusion has 4.55 % more"
    assert mdlm["hidden size"].verdict == "equal"
    assert {name for name, row in dream.items() if row.verdict != "equal" and "by design" not in row.verdict} == {
        "logits"
    }
    assert (sdar["tied embedding and head"].ar, sdar["tied embedding and head"].diffusion) == (True, False)
    # 389 / 4022.5
    assert sdar["total parameters"].difference_percent == pytest.approx(9.67, abs=0.005)


# Pair files


def write(folder: Path, text: str) -> str:
    path = folder / "mine.toml"
    path.write_text(text)
    return str(path)


TOML = """
[backbone]
family = "dit"
vocab_size = 61
hidden_size = 32
num_hidden_layers = 2
num_attention_heads = 4
"""


def test_a_side_may_have_a_family_of_its_own(tmp_path: Path) -> None:
    """Nothing is inherited across families: the fields do not mean the same."""
    llama = "\n".join(f"{key} = {value}" for key, value in LLAMA.items())
    pair = load_pair(write(tmp_path, f'{TOML}[ar.backbone]\nfamily = "llama"\n{llama}\n'))
    assert pair.ar.backbone == BackboneConfig(**LLAMA)
    assert pair.diffusion.backbone == DiTConfig(**DIT)
    line = next(line for line in certificate(pair, dtype="float32") if line.quantity == "norm")
    assert (line.ar, line.diffusion) == ("RMSNorm, eps 1e-05", "LayerNorm without bias, eps 1e-05")
    assert line.verdict == "differs"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (TOML.replace('"dit"', '"mamba"'), r"backbone \(ar side\): family 'mamba' is unknown; choose from llama, dit"),
        (TOML + '[ar.backbone]\nfamily = "mamba"\n', r"backbone \(ar side\): family 'mamba' is unknown"),
        (TOML + '[diffusion.backbone]\nfamily = "llama"\n', r"backbone\.vocab_size \(diffusion side\): Field required"),
        (TOML + "[diffusion.backbone]\ngraph = 3\n", r"backbone\.graph \(diffusion side\): .*found 3"),
        (TOML + "[ar.backbone]\nrope_theta = 1.0\n", r"backbone\.rope_theta \(ar side\): Extra inputs"),
        (TOML + "[diffusion]\nhub = 3\n", r"diffusion\.hub: expected a name, found 3"),
        (TOML + '[diffusion]\nweights = "random"\n', r"diffusion\.weights: unknown key; expected generator, hub"),
    ],
)
def test_a_broken_pair_is_refused_by_file_and_key(tmp_path: Path, text: str, message: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(InputError, match=message) as caught:
        load_pair(path)
    assert str(caught.value).startswith(path)
    assert "\n" not in str(caught.value)
