"""Pairs from TOML: the shipped ones have their sources' sizes, and a broken file is refused by name."""

import subprocess
import sys
from pathlib import Path

import pytest

from dlmbench import InputError
from dlmbench.models.pairs import Pair, load_pair, pair_names
from dlmbench.models.systems import System

BACKBONE = """
[backbone]
vocab_size = 32
hidden_size = 8
intermediate_size = 12
num_hidden_layers = 2
num_attention_heads = 4
num_key_value_heads = 2
head_dim = 4
"""


def write(folder: Path, text: str) -> str:
    path = folder / "mine.toml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_shipped_pairs_load_and_come_smallest_first() -> None:
    names = pair_names()
    assert {"small", "5m", "gpt2-size", "1b", "8b", "llada-8b"} <= set(names)
    pairs = [load_pair(name) for name in names]
    assert [pair.name for pair in pairs] == names
    sizes = [pair.ar.backbone.total_parameters for pair in pairs]
    assert sizes == sorted(sizes)
    for pair in pairs:
        assert pair.description
        assert pair.source
        for side in (pair.ar.backbone, pair.diffusion.backbone):
            assert side.eos_token_id is not None
            assert side.mask_id != side.eos_token_id


@pytest.mark.parametrize(
    ("name", "side", "parameters"),
    [
        # Counts of the published checkpoints' tensors (Hugging Face: Meta-Llama-3-8B, Llama-3.2-1B; LLaDA-8B-Base).
        ("8b", "ar", 8_030_261_248),
        ("8b", "diffusion", 8_030_261_248),
        ("llada-8b", "ar", 8_030_261_248),
        ("llada-8b", "diffusion", 8_015_581_184),
        ("1b", "ar", 1_235_814_400),
        ("1b", "diffusion", 1_235_814_400),
    ],
)
def test_published_shapes_have_their_published_sizes(name: str, side: str, parameters: int) -> None:
    assert getattr(load_pair(name), side).backbone.total_parameters == parameters


def test_own_shapes_have_the_sizes_that_they_claim() -> None:
    # GPT-2 small has 124.4M parameters, of which 0.8M are the learned positions that RoPE does without.
    assert load_pair("gpt2-size").ar.backbone.total_parameters == pytest.approx(124e6, rel=0.01)
    assert load_pair("5m").ar.backbone.total_parameters == pytest.approx(5e6, rel=0.1)
    assert load_pair("small").ar.backbone.total_parameters == 480_352


@pytest.mark.parametrize("name", ["small", "5m", "gpt2-size", "1b", "8b"])
def test_the_matched_pairs_differ_in_the_decoding_only(name: str) -> None:
    pair = load_pair(name)
    assert pair.ar.backbone == pair.diffusion.backbone
    assert (pair.ar.generator, pair.diffusion.generator) == ("ar", "masked-diffusion")


def test_llada_has_an_mlp_and_a_vocabulary_of_its_own() -> None:
    pair = load_pair("llada-8b")
    changed = {
        key: value
        for key, value in pair.diffusion.backbone.model_dump().items()
        if value != pair.ar.backbone.model_dump()[key]
    }
    assert changed == {
        "vocab_size": 126464,
        "intermediate_size": 12288,
        "num_key_value_heads": 32,
        "max_position_embeddings": 4096,
        "eos_token_id": 126081,
        "mask_token_id": 126336,
    }
    assert pair.vocabulary == 126464


def test_a_file_of_ones_own(tmp_path: Path) -> None:
    text = (
        BACKBONE + '[ar]\ngenerator = "mine.py:make"\n[diffusion.backbone]\nintermediate_size = 16\nvocab_size = 30\n'
    )
    pair = load_pair(write(tmp_path, text))
    assert pair.name == "mine"
    assert pair.ar.generator == "mine.py:make"
    assert pair.diffusion.generator == "masked-diffusion"
    assert (pair.ar.backbone.intermediate_size, pair.diffusion.backbone.intermediate_size) == (12, 16)
    assert pair.vocabulary == 30


def test_on_a_checkpoint_both_sides_take_its_shape() -> None:
    shape = load_pair("small").ar.backbone
    moved = load_pair("llada-8b").on_checkpoint("mine", System("qwen3", shape, "hf", "masked-diffusion"), "/a/folder")
    assert isinstance(moved, Pair)
    assert moved.name == "mine"
    assert moved.ar.backbone == moved.diffusion.backbone == shape
    assert (moved.ar.generator, moved.diffusion.generator) == ("ar", "llada")
    assert (moved.ar.weights, moved.diffusion.weights) == ("/a/folder", "/a/folder")
    dream = load_pair("small").on_checkpoint("mine", System("dream", shape, "hf", "dream"), "/a/folder")
    assert dream.diffusion.generator == "dream", "a checkpoint of a system is decoded as that system does"


def test_an_unknown_name_lists_the_choices() -> None:
    with pytest.raises(InputError, match=r"pair '9b' is unknown; choose from .*llada-8b.*small"):
        load_pair("9b")


@pytest.mark.parametrize("name", ["", "../pairs/8b", "pairs", "8B "])
def test_only_names_are_names(name: str) -> None:
    with pytest.raises(InputError, match=r"is unknown; choose from"):
        load_pair(name)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[backbone", r"not valid TOML"),
        ('description = "x"\n', r"\[backbone\] is missing; expected a table"),
        ("backbone = 3\n", r"\[backbone\] is missing; expected a table"),
        (BACKBONE.replace("hidden_size = 8\n", ""), r"backbone\.hidden_size \(ar side\): Field required"),
        (BACKBONE + "colour = 3\n", r"backbone\.colour \(ar side\): Extra inputs are not permitted, found 3"),
        (BACKBONE.replace("= 12", '= "wide"'), r"backbone\.intermediate_size \(ar side\): .*integer.*found 'wide'"),
        (BACKBONE.replace("key_value_heads = 2", "key_value_heads = 3"), r"must be a multiple of num_key_value_heads"),
        (BACKBONE + "[diffusion.backbone]\nhead_dim = 3\n", r"\(diffusion side\): .*head_dim \(3\) must be even"),
        (BACKBONE + "[ar]\nengine = 1\n", r"ar\.engine: unknown key; expected generator, hub, trained or backbone"),
        (BACKBONE + "[ar]\nbackbone = 3\n", r"ar\.backbone: expected a table"),
        ("ar = 3\n" + BACKBONE, r"ar: expected a table, found 3"),
        ("colour = 3\n" + BACKBONE, r"colour: Extra inputs are not permitted"),
        ("description = 3\n" + BACKBONE, r"description: Input should be a valid string"),
    ],
)
def test_a_broken_file_is_refused_by_file_and_key(tmp_path: Path, text: str, message: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(InputError, match=message) as caught:
        load_pair(path)
    assert str(caught.value).startswith(path)
    assert "\n" not in str(caught.value)


def test_a_wrong_generator_is_not_blamed_on_the_backbone(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="generator") as caught:
        load_pair(write(tmp_path, BACKBONE + "[ar]\ngenerator = 5\n"))
    assert "backbone.generator" not in str(caught.value)


def test_an_unreadable_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"missing\.toml: cannot be read"):
        load_pair(str(tmp_path / "missing.toml"))
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match=r"binary\.toml: cannot be read"):
        load_pair(str(tmp_path / "binary.toml"))
    (tmp_path / "folder.toml").mkdir()
    with pytest.raises(InputError, match=r"folder\.toml: cannot be read"):
        load_pair(str(tmp_path / "folder.toml"))


def test_pairs_are_read_without_torch() -> None:
    """`dlmbench list` and a dry run start at once."""
    code = (
        "import sys; from dlmbench.models.pairs import load_pair, pair_names; "
        "from dlmbench.models.certificate import certificate; "
        "[certificate(load_pair(n), dtype='float32') for n in pair_names()]; "
        "print([m for m in ('torch', 'transformers', 'pandas', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"
