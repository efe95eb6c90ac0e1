"""transformers' generate behind our protocol: what it emits, what it announces, and that it leaves no trace."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import CompileConfig, GenerationConfig, GPT2Config, GPT2LMHeadModel

from dlmbench import InputError
from dlmbench.models.backbone import Backbone
from dlmbench.models.checkpoints import save_checkpoint
from dlmbench.models.config import BackboneConfig
from dlmbench.models.generator import Costed, Generator, Request, Settings, Shape
from dlmbench.models.hf_generate import Cache, HFGenerate
from dlmbench.models.weights import random_network

ROWS, PROMPT, LENGTH = 3, 5, 8
GREEDY = Settings()
NATURAL = Settings(length_policy="natural")
CACHES: list[Cache] = ["dynamic", "static"]


def config(**changes: Any) -> BackboneConfig:
    sizes = {
        "vocab_size": 61,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
    }
    return BackboneConfig(**(sizes | changes))


def network(**changes: Any) -> Backbone:
    backbone = random_network(config(**changes), 3, torch.float32, "cpu")
    for parameter in backbone.parameters():
        parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(4)), alpha=0.2)
    backbone.rotary(64)
    return backbone


class Recorder:
    """An observer that keeps what it is told."""

    def __init__(self) -> None:
        self.forwards: list[tuple[object, ...]] = []
        self.writes: list[tuple[list[bool] | None, list[int], int, int]] = []
        self.order = ""

    @contextlib.contextmanager
    def forward(self, *announced: object) -> Iterator[None]:
        assert not torch.compiler.is_compiling()
        self.forwards.append(announced)
        self.order += "("
        yield
        self.order += ")"

    def write(
        self, row_mask: Tensor | None, token_ids: Tensor, step: int, *, offset: int = 0, committed: bool = True
    ) -> None:
        assert committed
        assert token_ids.shape == (ROWS, 1)
        rows = None if row_mask is None else row_mask[:, 0].tolist()
        self.writes.append((rows, token_ids[:, 0].tolist(), step, offset))
        self.order += "w"


def prompts(seed: int = 0) -> Tensor:
    return torch.randint(61, (ROWS, PROMPT), generator=torch.Generator().manual_seed(seed))


def run(
    generator: HFGenerate,
    settings: Settings = GREEDY,
    *,
    prompt: Tensor | None = None,
    seed: int = 0,
    length: int = LENGTH,
) -> tuple[Tensor, Recorder]:
    request = Request(prompts() if prompt is None else prompt, length, settings, seed)
    generator.prepare(request.shape, settings)
    recorder = Recorder()
    return generator.generate(request, recorder), recorder


def greedy_by_hand(backbone: Backbone, ids: Tensor, length: int = LENGTH) -> Tensor:
    """The definition, with no cache: L full forwards."""
    start = ids.shape[1]
    for _ in range(length):
        ids = torch.cat([ids, backbone.logits(backbone.trunk(ids, mask="causal")[:, -1]).argmax(-1, keepdim=True)], 1)
    return ids[:, start:]


@pytest.mark.parametrize("cache", CACHES)
@pytest.mark.parametrize(
    "features",
    [
        {},
        {"tie_word_embeddings": True},
        {"attention_bias": True},
        {"qk_norm": True, "tie_word_embeddings": True},
        {
            "rope_scaling": {
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 16,
            }
        },
    ],
)
def test_greedy_tokens_are_those_of_the_backbone(cache: Cache, features: dict[str, object]) -> None:
    backbone = network(**features)
    generator = HFGenerate.from_backbone(backbone, cache)
    assert isinstance(generator, Generator)
    assert generator.side == "ar"
    for seed in range(2):  # the second on a cache that has been used
        tokens, _ = run(generator, prompt=prompts(seed))
        assert tokens.dtype is torch.int64
        assert torch.equal(tokens, greedy_by_hand(backbone, prompts(seed)))


def test_from_backbone_shares_the_memory() -> None:
    backbone = network(tie_word_embeddings=True)
    model = HFGenerate.from_backbone(backbone).model
    ours = {parameter.untyped_storage().data_ptr() for parameter in backbone.parameters()}
    assert {parameter.untyped_storage().data_ptr() for parameter in model.parameters()} == ours
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert all(buffer.device.type == "cpu" for buffer in model.buffers())


@pytest.mark.parametrize("cache", CACHES)
def test_forwards_and_writes_are_announced(cache: Cache) -> None:
    tokens, seen = run(HFGenerate.from_backbone(network(), cache))
    # Logits of one position per row: generate asks for no more, also in the prefill.
    prefill = [("target", "prefill", 3, 5, 5, 3, "causal")]
    decode = [("target", "decode", 3, 1, 5 + i, 3, "causal") for i in range(1, LENGTH)]
    assert seen.forwards == prefill + decode
    assert seen.order == "()w" * LENGTH
    assert seen.writes == [(None, tokens[:, i].tolist(), i, i) for i in range(LENGTH)]


@pytest.mark.parametrize("cache", CACHES)
def test_preparing_for_another_shape_serves_that_shape(cache: Cache) -> None:
    backbone = network()
    generator = HFGenerate.from_backbone(backbone, cache)
    for length in (4, 1, 9, 4):
        tokens, seen = run(generator, length=length)
        assert torch.equal(tokens, greedy_by_hand(backbone, prompts(), length))
        assert len(seen.forwards) == length
    with pytest.raises(InputError, match=r"generate\(\) got .* but prepare\(\) was called for"):
        generator.generate(Request(prompts(), 5, GREEDY, 0), Recorder())


def test_the_static_cache_is_as_long_as_the_request_and_reused() -> None:
    generator = HFGenerate.from_backbone(network(), "static")
    generator.prepare(Shape(ROWS, PROMPT, LENGTH), GREEDY)
    cache: Any = generator._static
    assert cache.layers[0].keys.shape == (ROWS, 2, PROMPT + LENGTH - 1, 8)
    keys = cache.layers[0].keys.data_ptr()
    run(generator)
    reused: Any = generator._static
    assert reused is cache
    assert reused.layers[0].keys.data_ptr() == keys
    assert int(reused.get_seq_length()) == PROMPT + LENGTH - 1


def test_natural_stops_each_row_at_its_eos_and_the_batch_at_the_last() -> None:
    backbone = network()
    free = greedy_by_hand(backbone, prompts())
    # Row 0's third token as EOS: that row ends after three tokens; the others where they first emit it, if ever.
    eos = int(free[0, 2])
    ends = [row.tolist().index(eos) if eos in row.tolist() else LENGTH for row in free]
    assert ends[0] <= 2
    generator = HFGenerate(HFGenerate.from_backbone(backbone).model, eos_id=eos)
    tokens, seen = run(generator, NATURAL)
    assert tokens.shape == (ROWS, LENGTH)
    steps = min(max(ends) + 1, LENGTH)
    assert len(seen.forwards) == len(seen.writes) == steps
    for row, end in enumerate(ends):
        assert tokens[row, : end + 1].tolist() == free[row, : end + 1].tolist()
        assert set(tokens[row, end + 1 :].tolist()) <= {eos}
        assert [write[0] and write[0][row] for write in seen.writes] == [step <= end for step in range(steps)]

    tokens, seen = run(generator, GREEDY)
    assert torch.equal(tokens, free)  # fixed: EOS is a token like any other
    assert len(seen.forwards) == LENGTH


def test_natural_ends_early_when_every_row_has_ended() -> None:
    backbone = network()
    prompt = prompts()[:1].expand(ROWS, -1).contiguous()
    free = greedy_by_hand(backbone, prompt)
    eos = int(free[0, 3])
    end = free[0].tolist().index(eos)
    tokens, seen = run(HFGenerate(HFGenerate.from_backbone(backbone).model, eos_id=eos), NATURAL, prompt=prompt)
    assert len(seen.forwards) == end + 1 < LENGTH
    assert tokens[:, end:].unique().tolist() == [eos]
    assert tokens.shape == (ROWS, LENGTH)


def test_an_eos_in_the_prompt_is_no_padding() -> None:
    backbone = network()
    prompt = prompts()
    prompt[:, 1::3] = 7
    tokens, _ = run(HFGenerate(HFGenerate.from_backbone(backbone).model, eos_id=7), NATURAL, prompt=prompt)
    assert tokens[:, 0].tolist() == greedy_by_hand(backbone, prompt)[:, 0].tolist()


def test_without_a_prompt_it_starts_from_eos() -> None:
    backbone = network(eos_token_id=9)
    tokens, seen = run(HFGenerate.from_backbone(backbone), prompt=torch.empty((ROWS, 0), dtype=torch.int64))
    assert torch.equal(tokens, greedy_by_hand(backbone, torch.full((ROWS, 1), 9)))
    assert seen.forwards[0] == ("target", "prefill", 3, 1, 1, 3, "causal")


@pytest.mark.parametrize("cache", CACHES)
def test_draws_follow_the_seed_and_nothing_else(cache: Cache) -> None:
    generator = HFGenerate.from_backbone(network(), cache)
    settings = Settings(temperature=2.0)
    state = torch.get_rng_state()
    first, _ = run(generator, settings, seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(10)
    again, _ = run(generator, settings, seed=1)
    other, _ = run(generator, settings, seed=2)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_draws_have_the_models_distribution() -> None:
    """1,536 first tokens against the softmax at this temperature, top-k and top-p, computed by hand."""
    backbone, rows = network(), 1536
    prompt = prompts()[:1].expand(rows, -1).contiguous()
    generator = HFGenerate.from_backbone(backbone)
    settings = Settings(temperature=0.7, top_k=20, top_p=0.8)
    generator.prepare(Shape(rows, PROMPT, 1), settings)
    tokens = generator._run(prompt, 1, settings, 5, None, eos_id=None)[:, 0]
    logits = backbone.logits(backbone.trunk(prompt[:1], mask="causal")[:, -1])[0] / 0.7
    order = logits.argsort(descending=True)[:20]
    mass = logits[order].softmax(-1)
    kept = order[mass.cumsum(-1) - mass < 0.8]
    expected = logits[kept].softmax(-1)
    assert 1 < len(kept) < 20
    assert set(tokens.tolist()) <= set(kept.tolist())
    found = torch.stack([(tokens == token).float().mean() for token in kept])
    deviation = (expected * (1 - expected) / rows).sqrt()
    assert ((found - expected).abs() < 4.5 * deviation).all()


@pytest.mark.parametrize("settings", [Settings(temperature=1.0, top_k=1), Settings(temperature=1.0, top_p=1e-6)])
def test_a_truncation_to_one_token_is_greedy(settings: Settings) -> None:
    backbone = network()
    assert torch.equal(run(HFGenerate.from_backbone(backbone), settings)[0], greedy_by_hand(backbone, prompts()))


def test_top_k_zero_truncates_nothing() -> None:
    """transformers' own default would keep 50 of the 61; at a high temperature the tail must appear."""
    generator = HFGenerate.from_backbone(network())
    settings = Settings(temperature=100.0)
    generator.prepare(Shape(600, PROMPT, 1), settings)
    tokens = generator._run(prompts()[:1].expand(600, -1).contiguous(), 1, settings, 0, None, eos_id=None)
    assert len(tokens.unique()) > 55


def test_the_checkpoints_generation_config_is_set_aside_and_put_back() -> None:
    backbone = network()
    model = HFGenerate.from_backbone(backbone).model
    theirs = GenerationConfig(  # type: ignore[no-untyped-call]
        do_sample=True, repetition_penalty=5.0, no_repeat_ngram_size=1, temperature=3.0, eos_token_id=[11, 12]
    )
    model.generation_config = theirs
    generator = HFGenerate(model)
    assert generator.eos_id == 11
    assert torch.equal(run(generator)[0], greedy_by_hand(backbone, prompts()))
    assert model.generation_config is theirs
    assert "forward" not in vars(model)


def test_a_failure_leaves_the_model_as_it_was() -> None:
    class Fails(Recorder):
        def write(self, *_: object, **__: object) -> None:
            raise RuntimeError("observer")

    generator = HFGenerate.from_backbone(network())
    generator.prepare(Shape(ROWS, PROMPT, LENGTH), GREEDY)
    before = generator.model.generation_config
    with pytest.raises(RuntimeError, match="observer"):
        generator.generate(Request(prompts(), LENGTH, GREEDY, 0), Fails())
    assert "forward" not in vars(generator.model)
    assert generator.model.generation_config is before


def test_cost_is_the_backbones_and_absent_for_other_models() -> None:
    backbone = network(qk_norm=True, tie_word_embeddings=True)
    generator = HFGenerate.from_backbone(backbone)
    assert isinstance(generator, Costed)
    announced = ("target", 3, 1, 9, 3, "causal")
    assert generator.forward_cost(*announced) == backbone.forward_cost(*announced)
    assert not isinstance(HFGenerate(gpt2()), Costed)


def gpt2() -> GPT2LMHeadModel:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"vocab_size": 61, "n_positions": 16, "n_embd": 16, "n_layer": 1, "n_head": 2}
    return GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=0, eos_token_id=1))


def test_any_causal_model_runs_within_its_positions() -> None:
    model = gpt2()
    tokens, seen = run(HFGenerate(model))
    ids = prompts()
    with torch.inference_mode():
        for _ in range(LENGTH):
            ids = torch.cat([ids, model(ids).logits[:, -1].argmax(-1, keepdim=True)], 1)
    assert torch.equal(tokens, ids[:, PROMPT:])
    assert len(seen.forwards) == LENGTH
    with pytest.raises(InputError, match=r"prompt 5 \+ length 12 exceeds the 16 positions of GPT2LMHeadModel"):
        HFGenerate(model).prepare(Shape(1, 5, 12), GREEDY)


def test_from_path_is_the_checkpoint(tmp_path: Path) -> None:
    backbone = network(eos_token_id=9)
    save_checkpoint(backbone, tmp_path)
    generator = HFGenerate.from_path(str(tmp_path), torch.float32, "cpu", "static")
    assert generator.eos_id == 9
    assert torch.equal(run(generator)[0], greedy_by_hand(backbone, prompts()))


def test_from_path_runs_no_code_of_the_checkpoint(tmp_path: Path) -> None:
    save_checkpoint(network(), tmp_path)
    config = (tmp_path / "config.json").read_text()
    (tmp_path / "modeling_own.py").write_text(f"open({str(tmp_path / 'executed')!r}, 'w')")
    auto_map = '"auto_map": {"AutoConfig": "modeling_own.C", "AutoModelForCausalLM": "modeling_own.M"},'
    (tmp_path / "config.json").write_text(config.replace("{", "{" + auto_map, 1).replace('"llama"', '"own"', 1))
    with pytest.raises(InputError, match=r"transformers cannot load it .* no code of its own") as error:
        HFGenerate.from_path(str(tmp_path), torch.float32, "cpu")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "executed").exists()


def test_from_path_refuses_pickles(tmp_path: Path) -> None:
    save_checkpoint(network(), tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(InputError, match="safetensors is required"):
        HFGenerate.from_path(str(tmp_path), torch.float32, "cpu")


def test_from_path_refuses_weights_with_gaps(tmp_path: Path) -> None:
    """transformers alone would fill the gap with random values and a warning."""
    save_checkpoint(network(), tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"1 tensors of LlamaForCausalLM missing: model\.layers\.1\.mlp\.up_proj"):
        HFGenerate.from_path(str(tmp_path), torch.float32, "cpu")


@pytest.mark.parametrize("settings", [Settings(steps=4), Settings(block_length=4)])
def test_diffusion_settings_are_refused(settings: Settings) -> None:
    with pytest.raises(InputError, match="belong to diffusion"):
        HFGenerate.from_backbone(network()).prepare(Shape(1, 4, 4), settings)


def test_nothing_is_compiled_unless_asked() -> None:
    model = HFGenerate.from_backbone(network()).model
    generator = HFGenerate(model, cache="static")
    assert generator._generation_config(4, GREEDY, None).disable_compile
    with pytest.raises(InputError, match="engine compile with a static cache on cpu"):
        HFGenerate(model, cache="static", engine="compile")
    unknown: Any = "paged"
    with pytest.raises(InputError, match="cache is 'paged', expected one of dynamic, static"):
        HFGenerate(model, cache=unknown)
    with pytest.raises(InputError, match="engine is 'paged', expected one of eager, compile"):
        HFGenerate(model, engine=unknown)


def test_a_compiled_decode_step_is_announced_from_outside_its_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    """On the CPU with a backend that only traces: the graph must neither contain the announcement nor break at it."""
    backbone = network()
    generator = HFGenerate.from_backbone(backbone, "static")
    generator.engine = "compile"  # refused by the constructor on a CPU
    plain = generator._generation_config

    def traced(*args: Any) -> GenerationConfig:
        built: GenerationConfig = plain(*args)
        built.compile_config = CompileConfig(backend="eager", mode="default")
        built.compile_config._compile_all_devices = True
        return built

    monkeypatch.setattr(generator, "_generation_config", traced)
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    for seed in range(2):
        tokens, seen = run(generator, prompt=prompts(seed))
        assert torch.equal(tokens, greedy_by_hand(backbone, prompts(seed)))
        assert [forward[1] for forward in seen.forwards] == ["prefill"] + ["decode"] * (LENGTH - 1)
        assert seen.order == "()w" * LENGTH
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
    assert not torch._dynamo.utils.counters["graph_break"]
    assert not {"forward", "get_compiled_call"} & vars(generator.model).keys()
