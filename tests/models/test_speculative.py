"""Speculative decoding: the target's own tokens or law, whatever the drafter; its forwards, rounds and schedules."""

import copy
import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from scipy import stats
from torch import Tensor

from dlmbench import InputError
from dlmbench.models import speculative
from dlmbench.models.autoregressive import Autoregressive
from dlmbench.models.backbone import Backbone
from dlmbench.models.config import BackboneConfig
from dlmbench.models.dit_config import DiTConfig
from dlmbench.models.generator import Costed, Generator, Request, Settings, Shape
from dlmbench.models.linear import Linear
from dlmbench.models.network import AttendFn, Network
from dlmbench.models.rejection import distribution
from dlmbench.models.speculative import Speculative
from dlmbench.models.weights import random_network

MakeNetwork = Callable[..., Backbone]
Prompts = Callable[..., Tensor]
Run = Callable[..., Any]

SMALL = {
    "vocab_size": 6, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2,
    "num_key_value_heads": 1, "head_dim": 8,
}  # fmt: skip
ROWS = 20_000


class Markov(Network):
    """Logits that depend on the token alone: row v of `table` [V, V] follows token v. No attention."""

    def __init__(self, table: Tensor, **changes: Any) -> None:
        super().__init__()
        size = table.shape[0]
        self.config = BackboneConfig(**(SMALL | {"vocab_size": size, "hidden_size": size} | changes))
        self.embedding = torch.nn.Parameter(torch.eye(size))
        self.head = Linear(size, size)
        self.head.weight = torch.nn.Parameter(table.t().contiguous())
        self.requires_grad_(False)

    def _run(
        self, ids: Tensor, cos: Tensor, sin: Tensor, attend_fn: AttendFn, condition: Tensor | None = None
    ) -> Tensor:
        return self.embedding[ids]


def table(seed: int, size: int = 6, scale: float = 1.5) -> Tensor:
    """A Markov chain's logits that never lead to the mask, the last id."""
    logits = torch.randn(size, size, generator=torch.Generator().manual_seed(seed)) * scale
    logits[:, -1] = -1e9
    return logits


def lively(seed: int, **changes: Any) -> Backbone:
    """A tiny network whose logits depend strongly on what it has seen."""
    network = random_network(BackboneConfig(**(SMALL | changes)), seed, torch.float32, "cpu")
    random = torch.Generator().manual_seed(seed)
    for name, parameter in network.named_parameters():
        if parameter.dim() == 2:
            scale = 1.0 if name == "embedding" else 0.45
            parameter.copy_(torch.randn(parameter.shape, generator=random) * scale)
    assert isinstance(network, Backbone)
    return network


def commits(seen: Any, rows: int) -> list[list[int]]:
    """Tokens that each row got at each write."""
    return [[write.ids.shape[1] if write.rows is None else int(write.rows[row].sum()) for write in seen.writes]
            for row in range(rows)]  # fmt: skip


# Greedy: the target's own tokens.


@pytest.mark.parametrize("cache", ["none", "prefix"])
@pytest.mark.parametrize("kind", ["bidirectional", "shifted", "block_causal"])
def test_greedy_tokens_are_the_targets(
    kind: str, cache: Any, make_network: MakeNetwork, prompts: Prompts, run: Run
) -> None:
    """Every k, every s, batches of 1 to 3 in turn, several prompts, in float64 (no ties): token for token AR's."""
    target = make_network().double()
    changes = {"bidirectional": {}, "shifted": {"shifted_logits": True}, "block_causal": {"block_size": 3}}[kind]
    drafter = copy.deepcopy(target)
    drafter.config = target.config.model_copy(update=changes)
    ragged = accepted = 0
    for k in (1, 2, 3, 4, 6, 12):
        for s in (s for s in range(1, k + 1) if s * 12 % k == 0):
            rows = 1 + (k + s) % 3
            prompt = prompts(rows, 1 + (k + s) % 5, seed=10 * k + s)
            settings = Settings(block_length=k, steps=s * 12 // k, cache=cache)
            tokens, seen = run(Speculative(target, drafter), prompt, 12, settings)
            expected, _ = run(Autoregressive(target), prompt, 12)
            assert torch.equal(tokens, expected), (k, s, rows)
            added = commits(seen, rows)
            assert [sum(row) for row in added] == [12] * rows
            ragged += any(len(set(column)) > 1 for column in zip(*added, strict=True))
            accepted += any(max(row) > 1 for row in added)
    assert accepted > 5
    assert ragged > 5, "no two rows stood at different positions: the test shows nothing of it"


def test_one_network_may_be_both(make_network: MakeNetwork, prompts: Prompts, run: Run) -> None:
    network = make_network().double()
    tokens, _ = run(Speculative(network, network), prompts(2), 9, Settings(block_length=3))
    assert torch.equal(tokens, run(Autoregressive(network), prompts(2), 9)[0])


def test_a_dit_may_draft(make_network: MakeNetwork, prompts: Prompts, run: Run) -> None:
    target = make_network().double()
    config = DiTConfig(vocab_size=61, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, cond_dim=8)
    drafter = random_network(config, 1, torch.float64, "cpu")
    for cache in ("none", "prefix"):
        tokens, _ = run(Speculative(target, drafter), prompts(2), 8, Settings(block_length=4, steps=4, cache=cache))
        assert torch.equal(tokens, run(Autoregressive(target), prompts(2), 8)[0])


def test_without_a_prompt_both_start_from_eos(make_network: MakeNetwork, run: Run) -> None:
    network, nothing = make_network(eos_token_id=4).double(), torch.empty((2, 0), dtype=torch.int64)
    tokens, _ = run(Speculative(network, network), nothing, 6, Settings(block_length=3))
    assert torch.equal(tokens, run(Autoregressive(network), nothing, 6)[0])


def test_natural_ends_rows_where_the_targets_end(make_network: MakeNetwork, prompts: Prompts, run: Run) -> None:
    """Each row up to and with its EOS is what AR alone writes; nothing is announced behind it; forwards are saved."""
    prompt = prompts(2)
    free, whole = run(Speculative(make_network().double(), make_network().double()), prompt, 16)
    saved = 0
    for eos in sorted(set(free.flatten().tolist())):
        network = make_network(eos_token_id=eos).double()
        natural = Settings(length_policy="natural")
        tokens, seen = run(Speculative(network, network), prompt, 16, natural)
        for row in range(2):
            ids = free[row].tolist()
            emitted = ids.index(eos) + 1 if eos in ids else 16
            assert torch.equal(tokens[row, :emitted], free[row, :emitted])
            assert sum(commits(seen, 2)[row]) == emitted
        saved += len(seen.forwards) < len(whole.forwards)
    assert saved, "no token ends both rows early; choose another prompt"


# Draws: the target's law.


@torch.inference_mode()
def joint(network: Network, prompt: Tensor, length: int, settings: Settings) -> Tensor:
    """Exact probabilities [V ** length] of the AR model's continuations of prompt [P], from forwards without cache."""
    size = network.config.vocab_size
    ids = torch.tensor(list(itertools.product(range(size), repeat=length)))
    whole = torch.cat((prompt.expand(len(ids), -1), ids), dim=1)
    network.rotary(whole.shape[1])
    logits = network.logits(network.trunk(whole, mask="causal"))[:, len(prompt) - 1 : -1]
    law = distribution(logits.flatten(0, 1), settings).double().view(len(ids), length, size)
    return law.gather(2, ids[:, :, None]).prod(dim=1)[:, 0]


def p_value(tokens: Tensor, law: Tensor, size: int) -> float:
    """Chi-square of drawn tokens [n, L] against `law` [size ** L]; cells that expect fewer than 8 are pooled."""
    powers = size ** torch.arange(tokens.shape[1] - 1, -1, -1)
    found = torch.bincount((tokens * powers).sum(dim=1), minlength=len(law)).double()
    expected = law * len(tokens)
    if found[law == 0].any():
        return 0.0
    rare = expected < 8
    found = torch.cat((found[~rare], found[rare].sum()[None]))
    expected = torch.cat((expected[~rare], expected[rare].sum()[None]))
    some = expected > 0
    return float(stats.chisquare(found[some].numpy(), expected[some].numpy(), sum_check=False).pvalue)


def drawn(
    run: Run, target: Network, drafter: Network, length: int, settings: Settings, seed: int = 5
) -> tuple[float, Any]:
    """p value of ROWS draws against the target's exact law, and what was announced."""
    prompt = torch.tensor([1, 3, 0])
    tokens, seen = run(Speculative(target, drafter), prompt.repeat(ROWS, 1), length, settings, seed=seed)
    return p_value(tokens, joint(target, prompt, length, settings), target.config.vocab_size), seen


CASES = [
    # k, s, L, cache, shifted, draws
    (1, 1, 3, "none", False, {}),
    (1, 1, 4, "prefix", False, {}),
    (2, 1, 4, "prefix", False, {}),
    (2, 2, 4, "none", False, {}),
    (2, 2, 4, "prefix", True, {}),
    (3, 1, 3, "none", False, {}),
    (3, 3, 3, "none", False, {}),
    (3, 3, 4, "prefix", True, {"temperature": 0.7}),
    (3, 1, 4, "prefix", False, {"temperature": 1.6, "top_k": 3}),
    (3, 3, 3, "prefix", False, {"top_p": 0.8}),
    (2, 2, 4, "prefix", False, {"temperature": 1.2, "top_k": 4, "top_p": 0.9}),
]


@pytest.mark.parametrize(("k", "s", "length", "cache", "shifted", "draws"), CASES)
def test_draws_have_the_targets_law(
    k: int, s: int, length: int, cache: Any, shifted: bool, draws: dict[str, Any], run: Run
) -> None:
    target, drafter = lively(2), lively(7, shifted_logits=shifted)
    steps = None if s == 1 else s * length // k
    settings = Settings(**({"temperature": 1.0, "block_length": k, "steps": steps, "cache": cache} | draws))
    value, seen = drawn(run, target, drafter, length, settings)
    drafts = sum(call[0] == "draft" for call in seen.forwards)
    assert drafts == s * sum(call[1] == "verify" for call in seen.forwards)
    assert value > 1e-3
    # Half-way between always and never: otherwise the test would show little.
    added = [row for write in seen.writes[1:2] for row in write.rows.sum(dim=1).tolist()]
    assert min(added) == 1 < max(added)
    assert 1.05 < sum(added) / len(added) < min(k + 1, length - 1)


@pytest.mark.parametrize("bug", ["accept always", "residual is p", "one uniform for all", "q of the next position"])
def test_a_planted_bug_is_found(bug: str, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    accept = speculative.accepted_drafts
    if bug == "accept always":
        monkeypatch.setattr(speculative, "accepted_drafts", lambda p, q, draft, u: torch.full_like(draft[:, 0], 3))
    elif bug == "residual is p":
        monkeypatch.setattr(speculative, "residual", lambda p, q, n: p[torch.arange(len(n)), n])
    elif bug == "one uniform for all":
        monkeypatch.setattr(
            speculative, "accepted_drafts", lambda p, q, draft, u: accept(p, q, draft, u[:, :1].expand(-1, 3))
        )
    else:
        monkeypatch.setattr(
            speculative, "accepted_drafts", lambda p, q, draft, u: accept(p, q.roll(1, dims=1), draft, u)
        )
    settings = Settings(temperature=1.0, block_length=3, steps=4)
    value, _ = drawn(run, lively(2), lively(7), 4, settings)
    assert value < 1e-6


@pytest.mark.parametrize("order", ["left to right", "right to left"])
def test_the_order_of_drafting_matters(order: str, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """The module's argument, tried: the draft drawn first is uniform, the other most likely repeats it. From the left
    the rule is exact; from the right, tested with the very probabilities that were drawn from, it is not."""
    target = Markov(table(1))
    uniform, chain = torch.full((6,), 0.2), torch.eye(6) * 0.75 + 0.05
    uniform[-1], chain[:, -1] = 0, 0
    generator = Speculative(target, target)

    def propose(canvas: Tensor, at: Tensor, *others: Any) -> tuple[Tensor, Tensor]:
        draws = others[3]
        rows = canvas.shape[0]
        first, where = uniform.expand(rows, 6), torch.arange(rows)
        one = draws.tokens(first, where, (rows, 1))
        two = draws.tokens(chain[one], where, (rows, 1))
        ids, laws = (one, two), (first, chain[one])
        if order == "right to left":
            ids, laws = ids[::-1], laws[::-1]
        draft = torch.stack(ids, dim=1)
        canvas.scatter_(1, at + torch.arange(2), draft)
        return draft, torch.stack(laws, dim=1)

    monkeypatch.setattr(generator.drafter, "propose", propose)
    prompt, settings = torch.tensor([1]), Settings(temperature=1.0, block_length=2)
    tokens, _ = run(generator, prompt.repeat(ROWS, 1), 3, settings)
    value = p_value(tokens, joint(target, prompt, 3, settings), 6)
    assert value > 1e-3 if order == "left to right" else value < 1e-6


# Forwards and rounds.


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize(("k", "length"), [(1, 8), (2, 8), (3, 12), (4, 16), (4, 17)])
def test_a_perfect_drafter_is_always_right(temperature: float, k: int, length: int, run: Run) -> None:
    """Shifted, in k steps, over the same Markov chain: q = p, nothing is refused. The prompt's forward gives one token,
    every round k + 1: 1 + ceil((L - 1) / (k + 1)) forwards of the target, e.g. L = 16, k = 4: 1 + 3; L = 17: 1 + 4."""
    target, drafter = Markov(table(3)), Markov(table(3), shifted_logits=True)
    steps = length if k > 1 else None
    settings = Settings(temperature=temperature, block_length=k, steps=steps)
    prompt = torch.tensor([[0, 1], [2, 3], [1, 4]])
    _, seen = run(Speculative(target, drafter), prompt, length, settings)
    rounds = -(-(length - 1) // (k + 1))
    assert [call[:2] for call in seen.forwards if call[0] == "target"] == [
        ("target", "prefill"), *[("target", "verify")] * rounds
    ]  # fmt: skip
    assert sum(call[0] == "draft" for call in seen.forwards) == rounds * k
    full = [1, *[k + 1] * (rounds - 1), length - 1 - (k + 1) * (rounds - 1)]
    assert commits(seen, 3) == [full] * 3


def test_announced_forwards_by_hand(make_network: MakeNetwork, prompts: Prompts, run: Run) -> None:
    """P = 5, L = 12, k = 4, s = 2, accepted + 1 = 3, 5, 3: known before the rounds 6, 9, 14.

    Without a cache a draft forward runs known + 4 positions, and 2 x B positions' logits; with one, the first runs
    6 + 4, later rounds start with 2 x 4 + 1, and second steps run the draft's 4.
    """
    network, rows = make_network(), 3
    settings = {"block_length": 4, "steps": 6, "commit_schedule": ((3, 5, 3),)}
    expected: dict[str, list[tuple[object, ...]]] = {"none": [], "prefix": []}
    for known, plain in ((6, 10), (9, 13), (14, 18)):
        verify = ("target", "verify", rows, 5, known + 4, rows * 5, "causal")
        draft = ("draft", "draft", rows, plain, plain, rows * 2, "bidirectional")
        expected["none"] += [draft, draft, verify]
        first = ("draft", "draft", rows, 9, plain, rows * 2, "bidirectional")
        if known == 6:
            first = ("draft", "cache_refresh", rows, 10, 10, rows * 2, "bidirectional")
        expected["prefix"] += [first, ("draft", "draft", rows, 4, plain, rows * 2, "bidirectional"), verify]
    for cache in ("none", "prefix"):
        computed: list[int] = []
        generator = Speculative(network, network)
        generator.prepare(Shape(rows, 5, 12), Settings(cache=cache, **settings))
        hook = network.head.register_forward_hook(lambda m, i, out, to=computed: to.append(out[..., 0].numel()))
        _, seen = run(generator, prompts(rows), 12, Settings(cache=cache, **settings))
        hook.remove()
        assert seen.forwards == [("target", "prefill", rows, 5, 5, rows, "causal"), *expected[cache]]
        assert computed == [call[5] for call in seen.forwards]


def test_a_block_causal_drafter_announces_its_blocks(make_network: MakeNetwork, prompts: Prompts, run: Run) -> None:
    _, seen = run(Speculative(make_network(), make_network(block_size=2)), prompts(), 4)
    assert {call[6] for call in seen.forwards if call[0] == "draft"} == {"block_causal:2"}


@torch.inference_mode()
def test_the_drafters_cache_changes_no_opening_and_no_block_causal_past(
    make_network: MakeNetwork, prompts: Prompts, run: Run
) -> None:
    """Blocks of one position: keys never change once known, so that the cache is exact, and so are the draws."""
    target, drafter = make_network(), make_network(block_size=1, shifted_logits=True)
    for s in (1, 2):
        each = [
            run(Speculative(target, drafter), prompts(), 12,
                Settings(temperature=1.5, block_length=2, steps=6 * s, cache=cache))
            for cache in ("none", "prefix")
        ]  # fmt: skip
        assert torch.equal(each[0][0], each[1][0])
        assert commits(each[0][1], 3) == commits(each[1][1], 3)


def test_writes_are_committed_in_order_and_final(make_network: MakeNetwork, prompts: Prompts, run: Run) -> None:
    network = make_network()
    tokens, seen = run(Speculative(network, network), prompts(), 16, Settings(temperature=0.8), seed=2)
    found = torch.full_like(tokens, -1)
    for number, write in enumerate(seen.writes):
        assert write.committed
        assert write.step == number
        window = found[:, write.offset : write.offset + write.ids.shape[1]]
        new = torch.ones_like(window, dtype=torch.bool) if write.rows is None else write.rows
        assert (window[new] == -1).all()
        window[new] = write.ids[new]
        known = found != -1
        assert torch.equal(known, known.long().cumprod(dim=1).bool())
    assert torch.equal(found, tokens)


def test_draws_follow_the_seed_and_leave_nothing_behind(make_network: MakeNetwork, prompts: Prompts, run: Run) -> None:
    generator, settings = Speculative(make_network(), make_network()), Settings(temperature=2.0)
    state = torch.get_rng_state()
    first, other, again = (run(generator, prompts(), 12, settings, seed=seed)[0] for seed in (1, 2, 1))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


# Replay.


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("policy", ["fixed", "natural"])
def test_a_schedule_replaces_the_outcome(
    temperature: float, policy: Any, make_network: MakeNetwork, prompts: Prompts, run: Run
) -> None:
    """L = 10: after the prompt's token 9 are due. Row 0: 1 3 1 4; row 1: 4 4 and 1 of 4; row 2 as row 0."""
    settings = Settings(
        temperature=temperature, block_length=3, commit_schedule=((1, 3, 1, 4, 2), (4, 4, 4)), length_policy=policy
    )
    generator = Speculative(make_network(), make_network())
    _, seen = run(generator, prompts(3), 10, settings)
    assert commits(seen, 3) == [[1, 1, 3, 1, 4], [1, 4, 4, 1, 0], [1, 1, 3, 1, 4]]
    target = [call for call in seen.forwards if call[0] == "target"]
    assert len(target) == 5 == generator.promised_nfe(Shape(3, 5, 10), settings)
    assert generator.promised_nfe(Shape(1, 5, 10), settings) == 5
    assert generator.promised_nfe(Shape(3, 5, 10), Settings()) is None


def test_one_token_needs_the_prompt_only(make_network: MakeNetwork, prompts: Prompts, run: Run) -> None:
    generator = Speculative(make_network(), make_network())
    _, seen = run(generator, prompts(3), 1)
    assert [call[1] for call in seen.forwards] == ["prefill"]
    assert generator.promised_nfe(Shape(3, 5, 1), Settings()) == 1


# What does not fit.


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (Settings(block_length=13), r"drafts of 13 exceed length L=12"),
        (Settings(steps=13), r"T=13 exceeds length L=12"),
        (
            Settings(steps=5, block_length=4),
            r"T=5 makes 1\.67 steps of each draft of 4 in L=12; choose a multiple of 3",
        ),
        (Settings(cache="dual"), r"cache 'dual': speculative decoding knows prefix and none"),
        (Settings(remasking="random"), r"remasking 'random'"),
        (Settings(threshold=0.9), r"threshold 0.9: speculative decoding does not know it; it knows cache, commit"),
        (Settings(draw="gumbel64"), r"draw 'gumbel64'"),
        (Settings(commit_schedule=()), r"commit_schedule has no rows"),
        (Settings(commit_schedule=((5, 6),)), r"row 0: a round adds 6 tokens; expected 1 to 5"),
        (Settings(commit_schedule=((5, 5, 1), (0,))), r"row 1: a round adds 0 tokens"),
        (Settings(commit_schedule=((5, 5),)), r"row 0: its rounds add 10 tokens; expected at least 11"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings: Settings, message: str, make_network: MakeNetwork) -> None:
    generator = Speculative(make_network(), make_network())
    with pytest.raises(InputError, match=message):
        generator.prepare(Shape(3, 5, 12), settings)
    with pytest.raises(InputError, match=message):
        generator.promised_nfe(Shape(3, 5, 12), settings)


def test_fewer_steps_than_rounds_are_one_a_round(make_network: MakeNetwork, prompts: Prompts, run: Run) -> None:
    schedule = ((4, 4, 3),)
    for steps in (None, 1, 2, 3):
        settings = Settings(block_length=4, steps=steps, commit_schedule=schedule)
        _, seen = run(Speculative(make_network(), make_network()), prompts(), 12, settings)
        assert [call[0] for call in seen.forwards] == ["target", *["draft", "target"] * 3]


def test_networks_that_do_not_fit_are_refused(make_network: MakeNetwork) -> None:
    target, size = make_network(), {"vocab_size": 61, "hidden_size": 32, "num_hidden_layers": 1}
    score = {"parameterization": "score", "time_conditioning": True, "num_attention_heads": 2}
    with pytest.raises(InputError, match="the drafter's vocabulary has 60 tokens, the target's 61"):
        Speculative(target, make_network(vocab_size=60))
    with pytest.raises(InputError, match="needs a mask token"):
        Speculative(target, random_network(DiTConfig(**size, **score, graph="uniform"), 0, torch.float32, "cpu"))
    with pytest.raises(InputError, match="head gives scores"):
        Speculative(target, random_network(DiTConfig(**size, **score), 0, torch.float32, "cpu"))


def test_requests_that_do_not_fit_are_refused(make_network: MakeNetwork, prompts: Prompts) -> None:
    generator = Speculative(make_network(), make_network())
    with pytest.raises(InputError, match=r"but prepare\(\) was called for None"):
        generator.generate(Request(prompts(), 8, Settings(), 0), None)  # type: ignore[arg-type]
    generator.prepare(Shape(3, 5, 8), Settings())
    padded = Request(prompts(), 8, Settings(), 0, prompt_mask=torch.ones(3, 5, dtype=torch.bool))
    with pytest.raises(InputError, match="prompt_mask"):
        generator.generate(padded, None)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="but prepare"):
        generator.generate(Request(prompts(), 8, Settings(block_length=2), 0), None)  # type: ignore[arg-type]


def test_it_is_a_generator_whose_costs_are_its_networks(make_network: MakeNetwork) -> None:
    target, drafter = make_network(), make_network(num_hidden_layers=1)
    generator = Speculative(target, drafter)
    assert isinstance(generator, Generator)
    assert isinstance(generator, Costed)
    assert generator.side == "diffusion"
    sizes = (2, 5, 9, 10)
    assert generator.forward_cost("target", *sizes, "causal") == target.forward_cost("target", *sizes, "causal")
    assert generator.forward_cost("draft", *sizes, "bidirectional") == drafter.forward_cost(
        "draft", *sizes, "bidirectional"
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_caches_may_have_a_dtype_of_their_own(
    dtype: Any, make_network: MakeNetwork, prompts: Prompts, run: Run
) -> None:
    target, drafter = make_network().to(dtype), make_network(shifted_logits=True).to(dtype)
    generator = Speculative(target, drafter, kv_dtype=torch.bfloat16)
    tokens, _ = run(generator, prompts(), 8, Settings(temperature=1.0, steps=4))
    assert ((tokens >= 0) & (tokens < 61)).all()
    half = target.forward_cost("target", 2, 5, 9, 10, "causal", "bfloat16")
    assert generator.forward_cost("target", 2, 5, 9, 10, "causal") == half
    assert generator.forward_cost("draft", 2, 5, 9, 10, "causal") == half


@pytest.mark.parametrize(
    ("engine", "device"),
    [
        ("compile", "cpu"),
        *(
            pytest.param(
                engine,
                "cuda",
                marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")],
            )
            for engine in ("eager", "compile", "cudagraph", "compile+cudagraph")
        ),
    ],
)
def test_every_engine_gives_the_same_tokens(
    engine: str, device: str, make_network: MakeNetwork, prompts: Prompts, run: Run
) -> None:
    target, drafter = (
        make_network(device, num_hidden_layers=1, shifted_logits=shifted).double() for shifted in (False, True)
    )
    prompt = prompts(2).to(device)
    expected, plain = run(Speculative(target, drafter), prompt, 8, Settings(block_length=2, steps=8))
    assert torch.equal(expected, run(Autoregressive(target), prompt, 8)[0])
    for cache in ("prefix", "none"):
        settings = Settings(block_length=2, steps=8, cache=cache)
        tokens, seen = run(Speculative(target, drafter, engine=engine), prompt, 8, settings)
        assert torch.equal(tokens, expected)
        if cache == "prefix":
            assert seen.forwards == plain.forwards
