"""DiffusionGemma behind our protocol: transformers' tokens, every forward announced, and the AR twin's same weights."""

import contextlib
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoConfig, DiffusionGemmaForBlockDiffusion

from dlmbench import InputError
from dlmbench.models.checkpoints import save_checkpoint
from dlmbench.models.diffusion_gemma import DiffusionGemma, gemma_twin
from dlmbench.models.gemma_config import UNCONDITIONED, GemmaConfig
from dlmbench.models.gemma_hf import gemma_to_hf
from dlmbench.models.generator import Costed, Generator, Request, Settings
from dlmbench.models.hf_generate import HFGenerate

Run = Callable[..., tuple[Tensor, Any]]
Prompts = Callable[..., Tensor]

CANVAS, VOCABULARY = 16, 96
CONFIG = GemmaConfig(
    vocab_size=VOCABULARY,
    hidden_size=64,
    intermediate_size=96,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=16,
    global_head_dim=32,
    num_global_key_value_heads=1,
    sliding_window=8,
    num_experts=4,
    top_k_experts=2,
    moe_intermediate_size=32,
    max_position_embeddings=512,
    canvas_length=CANVAS,
    self_conditioning=True,
    eos_token_id=1,
)


def lively(model: Any) -> Any:
    """Weights of another size: with the usual 0.02, predictions are nearly flat."""
    random = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0.0, 0.2, generator=random)
    return model


@pytest.fixture(scope="module")
def generator() -> DiffusionGemma:
    made = DiffusionGemma.from_config(CONFIG, 0, torch.float32, "cpu")
    lively(made.model)
    return made


def theirs(model: Any, prompt: Tensor, seed: int, **arguments: Any) -> Tensor:
    """New tokens of transformers' generate, called as its documentation says."""
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        return model.generate(prompt, **arguments).sequences[:, prompt.shape[1] :]


def fixed(steps: int) -> dict[str, Any]:
    """transformers' arguments for exactly this many steps a canvas: no adaptive stop, EOS a token like any other."""
    return {"max_denoising_steps": steps, "stability_threshold": None, "eos_token_id": None}


@pytest.mark.parametrize("length", [16, 20, 48])
def test_tokens_are_those_of_transformers(generator: DiffusionGemma, run: Run, prompts: Prompts, length: int) -> None:
    assert isinstance(generator, Generator)
    assert generator.side == "diffusion"
    canvases = -(-length // CANVAS)
    tokens, _ = run(generator, prompts(), length, Settings(steps=4 * canvases), seed=5)
    whole = theirs(generator.model, prompts(), 5, max_new_tokens=length, **fixed(4))
    # transformers returns whole canvases; what lies beyond L is cut off.
    assert whole.shape == (3, canvases * CANVAS)
    assert tokens.dtype is torch.int64
    assert torch.equal(tokens, whole[:, :length])


def test_every_forward_is_announced(generator: DiffusionGemma, run: Run, prompts: Prompts) -> None:
    """L = 20 takes two canvases of 16; T = 6 gives each three steps: 2 x (1 + 3) forwards.

    The first step of a canvas has no prediction to be conditioned on.
    """
    _, seen = run(generator, prompts(), 20, Settings(steps=6))
    assert seen.forwards == [
        ("target", "encode", 3, 5, 5, 0, "causal"),
        ("target", "denoise", 3, 16, 21, 48, UNCONDITIONED),
        *[("target", "denoise", 3, 16, 21, 48, "bidirectional")] * 2,
        ("target", "encode", 3, 16, 21, 0, "causal"),
        ("target", "denoise", 3, 16, 37, 48, UNCONDITIONED),
        *[("target", "denoise", 3, 16, 37, 48, "bidirectional")] * 2,
    ]
    assert seen.order == "()" + "()w" * 3 + "w()" + "()w" * 3 + "w"


def test_forwards_run_inside_their_announcements(generator: DiffusionGemma, prompts: Prompts) -> None:
    inside: list[str] = []

    class Watch:
        @contextlib.contextmanager
        def forward(self, _: str, phase: str, *shape: object) -> Any:
            inside.append(phase)
            yield
            inside.append("end")

        def write(self, *_: object, **__: object) -> None: ...

    model: Any = generator.model
    hooks = [
        module.register_forward_hook(lambda *_, name=name: inside.append(name))
        for name, module in (
            ("encoder", model.model.encoder.language_model),
            ("decoder", model.model.decoder),
            ("head", model.lm_head),
        )
    ]
    request = Request(prompts(), CANVAS, Settings(steps=2), 0)
    generator.prepare(request.shape, request.settings)
    generator.generate(request, Watch())  # type: ignore[arg-type]
    for hook in hooks:
        hook.remove()
    assert inside == ["encode", "encoder", "end"] + ["denoise", "decoder", "head", "end"] * 2


def test_canvases_are_drafts_until_their_last_step(generator: DiffusionGemma, run: Run, prompts: Prompts) -> None:
    tokens, seen = run(generator, prompts(), 20, Settings(steps=6))
    assert [(write.step, write.offset, write.ids.shape[1], write.committed) for write in seen.writes] == [
        (0, 0, 16, False), (1, 0, 16, False), (2, 0, 16, False), (2, 0, 16, True),
        (3, 16, 4, False), (4, 16, 4, False), (5, 16, 4, False), (5, 16, 4, True),
    ]  # fmt: skip
    assert all(write.rows is None for write in seen.writes)
    final = [write.ids for write in seen.writes if write.committed]
    assert torch.equal(torch.cat(final, dim=1), tokens)
    assert torch.equal(seen.writes[2].ids, final[0])
    assert not torch.equal(seen.writes[0].ids, final[0])


def test_what_is_announced_is_the_most_likely_canvas(generator: DiffusionGemma, run: Run, prompts: Prompts) -> None:
    """Of a single step, whose prediction can be computed by hand: no self-conditioning yet, canvas from the seed."""
    tokens, _ = run(generator, prompts(), CANVAS, Settings(steps=1), seed=8)
    with torch.random.fork_rng([]):
        torch.manual_seed(8)
        noise = torch.randint(VOCABULARY, (3, CANVAS))
    with torch.inference_mode():
        logits = generator.model(input_ids=prompts(), decoder_input_ids=noise).logits
    assert torch.equal(tokens, logits.argmax(-1))


def test_draws_follow_the_seed_and_nothing_else(generator: DiffusionGemma, run: Run, prompts: Prompts) -> None:
    settings = Settings(steps=4)
    state = torch.get_rng_state()
    first, _ = run(generator, prompts(), CANVAS, settings, seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(10)
    again, _ = run(generator, prompts(), CANVAS, settings, seed=1)
    other, _ = run(generator, prompts(), CANVAS, settings, seed=2)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_the_entropy_bound_is_transformers(
    generator: DiffusionGemma, run: Run, prompts: Prompts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own bound is 0.1; with 1,000 nats, every position is accepted at once, and nothing is drawn anew."""
    default, _ = run(generator, prompts(), CANVAS, Settings(steps=4))
    stated, _ = run(generator, prompts(), CANVAS, Settings(steps=4, entropy_bound=0.1))
    assert torch.equal(default, stated)
    inputs: list[Tensor] = []
    hook = generator.model.model.decoder.register_forward_pre_hook(
        lambda module, args, inputs_: inputs.append(inputs_["decoder_input_ids"]), with_kwargs=True
    )
    drawn: list[Tensor] = []
    plain = torch.multinomial

    def keeping(*args: Any, **kwargs: Any) -> Tensor:
        drawn.append(plain(*args, **kwargs))
        return drawn[-1]

    monkeypatch.setattr(torch, "multinomial", keeping)
    run(generator, prompts(), CANVAS, Settings(steps=4, entropy_bound=1000.0))
    hook.remove()
    assert len(inputs) == len(drawn) == 4
    for canvas, sample in zip(inputs[1:], drawn[:-1], strict=True):
        assert torch.equal(canvas, sample.view(3, CANVAS))


def test_the_checkpoints_generation_config_is_set_aside(generator: DiffusionGemma, run: Run, prompts: Prompts) -> None:
    expected, _ = run(generator, prompts(), CANVAS, Settings(steps=3))
    model = generator.model
    before = model.generation_config
    model.generation_config = type(before)(
        max_denoising_steps=2, max_new_tokens=64, t_max=9.0, t_min=8.0, eos_token_id=[int(expected[0, 0])],
        pad_token_id=0, cache_implementation="static", stability_threshold=0, confidence_threshold=1e9,
    )  # fmt: skip
    try:
        tokens, seen = run(generator, prompts(), CANVAS, Settings(steps=3))
    finally:
        model.generation_config = before
    assert torch.equal(tokens, expected)
    assert len(seen.forwards) == 1 + 3


def test_the_model_is_left_as_it_was(generator: DiffusionGemma, prompts: Prompts) -> None:
    class FailsError(Exception):
        pass

    class Fails:
        def forward(self, *_: object) -> Any:
            return contextlib.nullcontext()

        def write(self, *_: object, **__: object) -> None:
            raise FailsError

    request = Request(prompts(), CANVAS, Settings(steps=2), 0)
    generator.prepare(request.shape, request.settings)
    with pytest.raises(FailsError):
        generator.generate(request, Fails())  # type: ignore[arg-type]
    model = generator.model
    assert not {"forward", "_denoising_step"} & (vars(model).keys() | vars(model.model.encoder).keys())


def test_natural_ends_with_the_canvas_in_which_every_row_has_an_eos(
    generator: DiffusionGemma, run: Run, prompts: Prompts
) -> None:
    prompt = prompts()[:1].expand(3, -1).contiguous()
    settings = Settings(steps=12, length_policy="natural")
    free, seen = run(generator, prompt, 48, replace(settings, length_policy="fixed"))
    assert len(seen.forwards) == 3 * (1 + 4)
    # An id that every row has in its first two canvases, but not every row in its first.
    canvases = [[set(row[begin : begin + CANVAS].tolist()) for row in free] for begin in (0, CANVAS)]
    early = [set.union(*pair) for pair in zip(*canvases, strict=True)]
    eos = min(set.intersection(*early) - set.intersection(*canvases[0]))
    ended = DiffusionGemma(generator.model, eos_id=eos)
    tokens, seen = run(ended, prompt, 48, settings)
    assert len(seen.forwards) == 2 * (1 + 4)
    assert torch.equal(tokens[:, :32], free[:, :32])
    assert tokens[:, 32:].unique().tolist() == [eos]
    assert max(write.offset for write in seen.writes) == CANVAS


def test_without_t_a_canvas_stops_once_it_is_stable_and_confident(run: Run, prompts: Prompts) -> None:
    """A model of one certain prediction: the second step repeats the first. With T, or under `fixed`, all are run."""
    made = DiffusionGemma.from_config(CONFIG, 0, torch.float32, "cpu")
    model: Any = made.model
    with torch.no_grad():
        # Every hidden state is all ones (the norm of it), which the head turns into token 7.
        for layer in model.model.decoder.layers:
            layer.layer_scalar.zero_()
        model.model.decoder.norm.register_forward_hook(lambda module, args, out: torch.ones_like(out))
        model.lm_head.weight[7] = 10.0
    tokens, seen = run(made, prompts(), 32, Settings(length_policy="natural"))
    assert [call[1] for call in seen.forwards] == ["encode", "denoise", "denoise"] * 2
    assert tokens.unique().tolist() == [7]
    _, seen = run(made, prompts(), CANVAS, Settings())
    assert len(seen.forwards) == 1 + 48
    _, seen = run(made, prompts(), CANVAS, Settings(steps=5, length_policy="natural"))
    assert len(seen.forwards) == 1 + 5


def test_without_a_prompt_it_starts_from_eos(generator: DiffusionGemma, run: Run) -> None:
    tokens, seen = run(generator, torch.empty((2, 0), dtype=torch.int64), CANVAS, Settings(steps=2), seed=3)
    expected = theirs(generator.model, torch.ones((2, 1), dtype=torch.int64), 3, max_new_tokens=CANVAS, **fixed(2))
    assert torch.equal(tokens, expected)
    assert seen.forwards[0] == ("target", "encode", 2, 1, 1, 0, "causal")


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        (
            Settings(steps=7),
            r"T=7 is not divisible by the 3 canvases of 16 positions that L=40 takes; .* multiple of 3",
        ),
        (Settings(steps=2), r"T=2 is not divisible by the 3 canvases"),
        (Settings(temperature=1.0), r"temperature 1\.0: .* expects 0\.0; its sampler has a schedule of its own"),
        (Settings(top_k=5), "top_k 5"),
        (Settings(top_p=0.9), r"top_p 0\.9"),
        (Settings(remasking="random"), "remasking 'random'"),
        (Settings(block_length=8), "block_length 8: DiffusionGemma expects 16"),
        (Settings(cache="prefix"), "cache 'prefix'"),
        (Settings(cache="none"), "cache 'none'"),
        (Settings(threshold=0.9), r"threshold 0\.9: DiffusionGemma does not know it; it knows cache, entropy_bound"),
    ],
)
def test_settings_without_a_place_are_refused(generator: DiffusionGemma, settings: Settings, problem: str) -> None:
    shape = Request(torch.zeros((1, 4), dtype=torch.int64), 40, settings, 0).shape
    with pytest.raises(InputError, match=problem):
        generator.prepare(shape, settings)


def test_other_shapes_padded_prompts_and_recorded_draws_are_refused(
    generator: DiffusionGemma, prompts: Prompts
) -> None:
    request = Request(prompts(), CANVAS, Settings(steps=2), 0)
    generator.prepare(request.shape, request.settings)
    with pytest.raises(InputError, match=r"generate\(\) got Shape.*but prepare\(\) was called for"):
        generator.generate(replace(request, length=CANVAS + 1), None)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="takes no padded prompts"):
        generator.generate(replace(request, prompt_mask=prompts() > 0), None)  # type: ignore[arg-type]


def test_cost_is_the_configs(generator: DiffusionGemma) -> None:
    assert isinstance(generator, Costed)
    found = generator.forward_cost("target", 2, 16, 24, 32, "bidirectional")
    shape = {"rows": 2, "q_len": 16, "kv_len": 24, "logit_rows": 32, "mask": "bidirectional"}
    assert found == CONFIG.forward_cost(**shape, dtype="float32")


# ---- weights ----


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_random_weights_are_the_shapes_and_the_seeds(dtype: torch.dtype) -> None:
    state = torch.get_rng_state()
    models: list[Any] = [DiffusionGemma.from_config(CONFIG, seed, dtype, "cpu").model for seed in (0, 0, 1)]
    assert torch.equal(torch.get_rng_state(), state)
    first, again, other = (dict(model.named_parameters()) for model in models)
    assert sum(parameter.numel() for parameter in first.values()) == CONFIG.total_parameters
    assert {parameter.dtype for parameter in first.values()} == {dtype}
    assert all(torch.equal(parameter, again[name]) for name, parameter in first.items())
    assert all((parameter.dim() == 1) == torch.equal(parameter, other[name]) for name, parameter in first.items())
    # As names.RANDOM_DISTRIBUTION says: 0.02, for output projections 0.02 / sqrt(2 x 3 layers).
    experts = "model.encoder.language_model.layers.0.experts"
    assert first[f"{experts}.gate_up_proj"].float().std() == pytest.approx(0.02, rel=0.05)
    assert first[f"{experts}.down_proj"].float().std() == pytest.approx(0.02 / 6**0.5, rel=0.05)


def test_buffers_are_those_that_transformers_makes() -> None:
    ours: Any = DiffusionGemma.from_config(CONFIG, 0, torch.bfloat16, "cpu").model
    raw = gemma_to_hf(CONFIG)
    config = AutoConfig.for_model(str(raw.pop("model_type")), **raw)
    plain: Any = DiffusionGemmaForBlockDiffusion._from_config(config, dtype=torch.bfloat16)
    expected = {name: buffer for name, buffer in plain.named_buffers() if "vision" not in name}
    found = dict(ours.named_buffers())
    assert found.keys() == expected.keys()
    for name, buffer in expected.items():
        assert found[name].dtype == buffer.dtype
        assert torch.equal(found[name], buffer)
    assert ours.final_logit_softcapping == plain.final_logit_softcapping == 30.0


def test_from_config_wants_self_conditioning() -> None:
    with pytest.raises(InputError, match="self_conditioning is false"):
        DiffusionGemma.from_config(CONFIG.model_copy(update={"self_conditioning": False}), 0, torch.float32, "cpu")


def memory(module: Any) -> set[int]:
    return {parameter.untyped_storage().data_ptr() for parameter in module.parameters()}


def test_the_twin_shares_the_memory(generator: DiffusionGemma) -> None:
    twin = gemma_twin(generator.model)
    model: Any = generator.model
    extra = memory(model.model.decoder.self_conditioning)
    assert memory(twin) == memory(model) - extra
    assert all(not buffer.is_meta for buffer in twin.buffers())
    assert not any(parameter.requires_grad for parameter in twin.parameters())
    ar = CONFIG.model_copy(update={"self_conditioning": False})
    # The module's own count would see the tied head twice: its tensors are views of one.
    by_memory = {p.untyped_storage().data_ptr(): p.numel() for p in twin.parameters()}
    assert sum(by_memory.values()) == ar.total_parameters


def test_the_twins_hidden_states_are_the_encoders(generator: DiffusionGemma, prompts: Prompts) -> None:
    twin: Any = gemma_twin(generator.model)
    encoder: Any = generator.model.model.encoder
    ids = prompts(length=20)  # longer than the window
    with torch.inference_mode():
        assert torch.equal(twin.model(ids).last_hidden_state, encoder(ids).last_hidden_state)


@pytest.mark.parametrize("cache", ["dynamic", "static"])
def test_the_twin_generates_as_without_a_cache(
    generator: DiffusionGemma, run: Run, prompts: Prompts, cache: Any
) -> None:
    twin: Any = gemma_twin(generator.model)
    ar = HFGenerate(twin, cache=cache)
    assert ar.eos_id == 1
    tokens, seen = run(ar, prompts(), 12)
    ids = prompts()
    with torch.inference_mode():
        for _ in range(12):
            ids = torch.cat([ids, twin(ids, use_cache=False).logits[:, -1].argmax(-1, keepdim=True)], 1)
    assert torch.equal(tokens, ids[:, 5:])
    assert len(tokens.unique()) > 1
    assert seen.forwards[-1] == ("target", "decode", 3, 1, 16, 3, "causal")
    assert isinstance(ar, Costed)
    shape = {"rows": 3, "q_len": 1, "kv_len": 16, "logit_rows": 3, "mask": "causal"}
    assert ar.forward_cost("target", 3, 1, 16, 3, "causal") == CONFIG.forward_cost(**shape, dtype="float32")


# ---- checkpoints ----


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A checkpoint that transformers wrote, with a vision tower in it, and the model that it holds."""
    raw = gemma_to_hf(CONFIG)
    config = AutoConfig.for_model(str(raw.pop("model_type")), **raw)
    model = lively(DiffusionGemmaForBlockDiffusion(config)).eval()
    with torch.no_grad():
        for part in (model.model.encoder.language_model, model.model.decoder):
            for index, layer in enumerate(part.layers):
                layer.layer_scalar.fill_(0.5 + 0.2 * index)
    model.generation_config.eos_token_id = [9, 12]
    path = tmp_path_factory.mktemp("gemma")
    model.save_pretrained(path)
    return path, model


@pytest.fixture
def folder(checkpoint: tuple[Path, Any], tmp_path: Path) -> Path:
    """A copy of the checkpoint, to be spoilt."""
    copy = tmp_path / "copy"
    shutil.copytree(checkpoint[0], copy)
    return copy


def test_from_path_is_the_checkpoint(checkpoint: tuple[Path, Any], run: Run, prompts: Prompts) -> None:
    path, model = checkpoint
    loaded = DiffusionGemma.from_path(str(path), torch.float32, "cpu")
    assert loaded.config == CONFIG.model_copy(update={"layer_types": CONFIG.layers})
    assert loaded.eos_id == 9
    assert sum(parameter.numel() for parameter in loaded.model.parameters()) == CONFIG.total_parameters
    tokens, _ = run(loaded, prompts(), 32, Settings(steps=8), seed=2)
    assert torch.equal(tokens, theirs(model, prompts(), 2, max_new_tokens=32, **fixed(4)))
    twin: Any = gemma_twin(loaded.model)
    assert HFGenerate(twin).eos_id == 9
    with torch.inference_mode():
        expected = model.lm_head(model.model.encoder(prompts()).last_hidden_state)
        assert torch.equal(twin(prompts()).logits, 30 * torch.tanh(expected / 30))


def test_from_path_refuses_another_model(tmp_path: Path, make_network: Callable[..., Any]) -> None:
    save_checkpoint(make_network(), tmp_path)
    with pytest.raises(InputError, match=r"config\.json: model_type is 'llama', expected 'diffusion_gemma'"):
        DiffusionGemma.from_path(str(tmp_path), torch.float32, "cpu")


def test_from_path_refuses_missing_tensors(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    dropped = next(name for name in tensors if "self_conditioning" in name)
    del tensors[dropped]
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(InputError, match=f"1 tensors of DiffusionGemmaForBlockDiffusion missing: {dropped}"):
        DiffusionGemma.from_path(str(folder), torch.float32, "cpu")


def test_from_path_refuses_pickles(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(InputError, match="safetensors is required"):
        DiffusionGemma.from_path(str(folder), torch.float32, "cpu")


def test_from_path_names_what_transformers_cannot_load(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    name = next(name for name in tensors if "embed_tokens" in name)
    save_file(tensors | {name: tensors[name][:50].contiguous()}, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(InputError, match=r"copy: transformers cannot load it \(\w+: ") as error:
        DiffusionGemma.from_path(str(folder), torch.float32, "cpu")
    assert "\n" not in str(error.value)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_a_gpu_it_is_drawn_there_and_runs(run: Run, prompts: Prompts) -> None:
    made = DiffusionGemma.from_config(CONFIG, 0, torch.bfloat16, "cuda")
    tensors: list[Tensor] = [*made.model.parameters(), *made.model.buffers()]
    assert all(tensor.is_cuda for tensor in tensors)
    state = torch.cuda.get_rng_state()
    tokens, seen = run(made, prompts().cuda(), 20, Settings(steps=6), seed=1)
    assert torch.equal(tokens, run(made, prompts().cuda(), 20, Settings(steps=6), seed=1)[0])
    assert torch.equal(torch.cuda.get_rng_state(), state)
    assert tokens.is_cuda
    assert tokens.shape == (3, 20)
    assert len(seen.forwards) == 8
    assert run(HFGenerate(gemma_twin(made.model)), prompts().cuda(), 4)[0].shape == (3, 4)
