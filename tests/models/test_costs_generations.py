"""What generators announce is what they run: the products of whole generations, counted by torch, against the sum of
the announced forwards' analytic cost.

Nothing else of a generation is a matrix product, neither sampling nor bookkeeping, except where `outside` says so.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from dlmbench.models.catalog import Context, NetworkSource, build
from dlmbench.models.config import BackboneConfig
from dlmbench.models.costs import Cost
from dlmbench.models.dit_config import DiTConfig
from dlmbench.models.gemma_config import GemmaConfig
from dlmbench.models.generator import Costed, Request, Settings
from dlmbench.models.names import BUILT_IN, RANDOM
from dlmbench.models.network import Network
from dlmbench.profiles.clocks import HostClock
from dlmbench.profiles.observer import Forward, Recorder

Count = Callable[[Callable[[], object]], Any]
Config = BackboneConfig | DiTConfig | GemmaConfig

LLAMA = BackboneConfig(
    vocab_size=61, hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=4,
    num_key_value_heads=2, head_dim=4, eos_token_id=1,
)  # fmt: skip
DREAM = LLAMA.model_copy(update={"shifted_logits": True, "attention_bias": True})
MDLM = DiTConfig(vocab_size=61, hidden_size=16, num_hidden_layers=1, num_attention_heads=4, cond_dim=8, eos_token_id=1)
TIMED = MDLM.model_copy(update={"time_conditioning": True})
SEDD = TIMED.model_copy(update={"parameterization": "score"})
GEMMA = GemmaConfig(
    vocab_size=40, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, head_dim=4, global_head_dim=8, num_global_key_value_heads=1, sliding_window=6,
    num_experts=5, top_k_experts=2, moe_intermediate_size=8, canvas_length=8, eos_token_id=1,
)  # fmt: skip
# One noise level that never changes, evaluated once a canvas: 8 x (256 + 8 + 8 x 16) multiply-adds.
SIGMA = 2 * 8 * (256 + 8 + 8 * 16)


@dataclass(frozen=True)
class Case:
    """A generation of `rows` x 12 tokens after prompts of 5. `outside`: FLOPs of no announced forward.

    `ragged`: rows stand at different positions or are `padded`, so that masks hide more than what is announced.
    """

    label: str
    generator: str
    config: Config
    settings: Settings
    rows: int = 2
    partner: Config | None = None
    padded: bool = False
    ragged: bool = False
    outside: int = 0
    prompt: int = 5

    def __str__(self) -> str:
        return f"{self.generator}: {self.label}"


def case(label: str, generator: str, config: Config, how: dict[str, Any] | None = None, **more: Any) -> Case:
    return Case(label, generator, config, Settings(**(how or {})), **more)


HOT = {"temperature": 1.0}
# One row accepts two tokens a round, the other alternately none and two.
APART = {"commit_schedule": ((3,) * 4, (1, 3) * 6), **HOT}
CASES = [
    case("Llama", "ar", LLAMA, HOT),
    case("DiT", "ar", MDLM.model_copy(update={"adaln": False})),
    case("no prompt", "ar", LLAMA, prompt=0),
    case("ends at EOS", "ar", LLAMA, {"length_policy": "natural", **HOT}),
    case("blocks", "masked-diffusion", LLAMA, {"steps": 6, "block_length": 4}),
    case("random remasking", "masked-diffusion", LLAMA, {"steps": 4, "remasking": "random"}),
    case("DiT", "masked-diffusion", MDLM, {"steps": 4}),
    case("guidance doubles rows", "llada", LLAMA, {"steps": 6, "block_length": 4, "cfg_scale": 1.5}),
    case("mask may be predicted", "llada", LLAMA, {"steps": 6, "suppress_mask": False, **HOT}),
    case("no cache", "fast-dllm", LLAMA, {"steps": 6, "block_length": 4}),
    case("prefix", "fast-dllm", LLAMA, {"steps": 6, "block_length": 4, "cache": "prefix"}),
    case("dual", "fast-dllm", MDLM, {"steps": 6, "block_length": 4, "cache": "dual"}),
    case("dual, threshold", "fast-dllm", LLAMA, {"block_length": 4, "cache": "dual", "threshold": 0.03}),
    case("origin", "dream", DREAM, {"steps": 6, **HOT}),
    case("entropy", "dream", DREAM, {"steps": 6, "sampler": "entropy"}),
    case("threshold", "dream", DREAM, {"steps": 6, "sampler": "maskgit_plus", "threshold": 0.03}),
    case("padded prompts", "dream", DREAM, {"steps": 6, "sampler": "entropy"}, padded=True, ragged=True),
    case("prefix", "dream", DREAM, {"steps": 6, "block_length": 4, "cache": "prefix"}),
    case("dual", "dream", DREAM, {"steps": 6, "block_length": 4, "cache": "dual"}),
    case("ddpm_cache", "mdlm", MDLM, {"steps": 8, **HOT}, outside=SIGMA),
    case("ddpm, Llama", "mdlm", LLAMA, {"steps": 8, "sampler": "ddpm", **HOT}),
    case("time-conditioned", "mdlm", TIMED, {"steps": 70, **HOT}),
    case(
        "windows", "mdlm", MDLM.model_copy(update={"max_position_embeddings": 10}),
        {"steps": 4, "sampler": "analytic", **HOT}, outside=3 * SIGMA,
    ),
    case("race", "mdlm", MDLM, {"steps": 8, "draw": "gumbel64", **HOT}, outside=SIGMA),
    case("absorbing", "sedd", SEDD, {"steps": 8, **HOT}),
    case("uniform", "sedd", SEDD.model_copy(update={"graph": "uniform"}), {"steps": 8, "sampler": "euler", **HOT}),
    case("first hitting", "bd3lm", MDLM, {"block_length": 4, **HOT}),
    case("ddpm", "bd3lm", MDLM, {"block_length": 4, "sampler": "ddpm", "steps": 24, **HOT}),
    case("no cache, shifted logits", "bd3lm", DREAM, {"block_length": 4, "cache": "none", **HOT}),
    case("no prompt", "bd3lm", MDLM, {"block_length": 4, **HOT}, prompt=0),
    case("dynamic", "sdar", LLAMA, {"block_length": 4, "threshold": 0.03}),
    case("every step runs", "sdar", LLAMA, {"block_length": 4, "sampler": "sequential", "idle_steps": "run"}),
    case("entropy", "sdar", DREAM, {"block_length": 4, "sampler": "entropy_bounded", "entropy_bound": 9.0}),
    case("no cache", "block-diffusion", LLAMA, {"block_length": 4, "cache": "none", "steps": 12}),
    case("one token a block", "block-diffusion", LLAMA, {"block_length": 1}),
    case("one row", "speculative", LLAMA, {"block_length": 3, **HOT}, rows=1),
    case("no cache", "speculative", LLAMA, {"block_length": 3, "cache": "none", **APART}, ragged=True),
    case("rows apart", "speculative", LLAMA, {"block_length": 4, "steps": 6, **APART}, ragged=True, partner=DREAM),
    case(
        "block-causal draft", "speculative", LLAMA.model_copy(update={"block_size": 4}), {"block_length": 3, **HOT},
        rows=1, partner=LLAMA,
    ),
    case("two canvases", "diffusion-gemma", GEMMA, {"steps": 6}),
    case("Llama", "hf", LLAMA, HOT),
    case("Llama", "hf-static", LLAMA),
    case("Gemma", "hf-static", GEMMA),
]  # fmt: skip


def test_every_built_in_generator_with_known_cost_is_here() -> None:
    """GPT-2 is transformers' and has none: its FLOPs are null, not a guess."""
    assert {case.generator for case in CASES} == set(BUILT_IN) - {"gpt2"}


def prepared(case: Case, prompt_ids: torch.Tensor) -> tuple[Any, Request]:
    """The generator, built as a run builds it and ready for the request."""
    source = None if case.partner is None else NetworkSource(case.partner, RANDOM)
    generator = build(case.generator, Context(case.config, RANDOM, torch.float32, "cpu", seed=3, partner=source))
    if isinstance(case.config, GemmaConfig):
        generator.model.set_experts_implementation("eager")  # the counter does not see into grouped products
    pads = torch.ones_like(prompt_ids, dtype=torch.bool)
    pads[0, :2] = False
    request = Request(prompt_ids, 12, case.settings, seed=4, prompt_mask=pads if case.padded else None)
    generator.prepare(request.shape, request.settings)
    return generator, request


@pytest.mark.parametrize("case", CASES, ids=str)
def test_announced_forwards_are_all_the_products(case: Case, count: Count, monkeypatch: pytest.MonkeyPatch) -> None:
    prompt_ids = torch.randint(2, 38, (case.rows, case.prompt), generator=torch.Generator().manual_seed(0))
    generator, request = prepared(case, prompt_ids)
    recorder = Recorder(HostClock())
    recorder.start()
    with monkeypatch.context() as timed:
        for costed in (generator, Network, GemmaConfig):
            timed.setattr(costed, "forward_cost", not_now)
        found = count(lambda: generator.generate(request, recorder))
    recorder.stop()
    forwards = recorder.trace().forwards
    assert isinstance(generator, Costed)
    announced = [
        generator.forward_cost(f.network, f.rows, f.q_len, f.kv_len, f.logit_rows, f.mask).flops for f in forwards
    ]
    analytic = sum(announced) + case.outside
    if not case.ragged:
        assert found.live == analytic
    else:
        assert found.live < analytic <= found.square
        assert found.square == sum(unmasked(generator, f).flops for f in forwards) + case.outside


def not_now(*_: object, **__: object) -> Cost:
    raise AssertionError("costs are counted after a generation, not inside its timed region")


def unmasked(generator: Any, forward: Forward) -> Cost:
    """A forward's cost by torch's convention: attention over the whole rectangle."""
    shape = (forward.network, forward.rows, forward.q_len, forward.kv_len, forward.logit_rows)
    cost: Cost = generator.forward_cost(*shape, "bidirectional")
    return cost
