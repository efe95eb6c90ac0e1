"""From a user's options to a plan: suite, pairs, device, cells, and everything that can be refused before measuring.

Nothing is written here. Every refusal is an InputError with one line.
"""

from __future__ import annotations

import filecmp
import os
import platform
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from .. import InputError
from ..models.certificate import certificate
from ..models.names import BUILT_IN, HUB, RANDOM, RANDOM_DISTRIBUTION, TRAINED
from ..models.pairs import Pair, Side, load_pair
from ..models.prompts import PromptSource, default_prompts, load_prompts
from ..models.tokenizer import Tokenizer, shown
from ..models.trained import fingerprint, is_shipped, shipped_folder
from ..profiles.environment import capture_environment
from ..profiles.finding import default_threads
from ..profiles.host import usable_cpus
from ..profiles.record import CertificateRow, PairRecord
from .estimate import Fit, available_b, cuda_devices, memory_b
from .options import RunOptions, overridden, with_budget
from .suites import Pairing, Suite, expand, load_suite
from .tokenizers import SOURCE, default_tokenizer, tokenizer_of

_SIDES: tuple[Side, ...] = ("ar", "diffusion")


@dataclass(frozen=True, slots=True)
class Plan:
    """What will be measured. `unfit` maps a cell's key to why this device cannot hold it.

    `memory_b` are the bytes that workers may take (None: unknown): those free now, or what a user plans for; then the
    device need not be `present`.
    """

    suite: Suite
    pairings: tuple[Pairing, ...]
    pairs: dict[str, Pair]
    device: str
    threads: int
    prompts: PromptSource
    prompts_path: str | None
    tokenizer: str
    judge: str | None
    unfit: dict[str, str]
    blockwise: frozenset[str]
    warnings: tuple[str, ...]
    memory_b: int | None = None
    present: bool = True

    @property
    def trials(self) -> int:
        return sum(len(pairing.cells) * pairing.processes for pairing in self.pairings)


def make_plan(options: RunOptions, planned_b: int | None = None) -> Plan:
    """Resolve the options against suites, pairs, weights, prompts and this machine, or a device with `planned_b` bytes
    of memory that need not be here."""
    suite = overridden(load_suite(options.suite), options)
    device = choose_device(options.device) if planned_b is None else planned_device(options.device)
    have = available_b(device) if planned_b is None else planned_b
    threads = choose_threads(options.threads)
    references = dict.fromkeys(reference for grid in suite.grid for reference in grid.pairs)
    pairs = {reference: with_weights(load_pair(reference), options.weights) for reference in references}
    if one_checkpoint(options.weights):
        # It takes the place of every pair: its shape is the pair's shape.
        first = suite.grid[0].pairs[0]
        suite = suite.model_copy(
            update={"grid": tuple(grid.model_copy(update={"pairs": (first,)}) for grid in suite.grid)}
        )
    _check_remasking(options, pairs.values())
    pairings = expand(suite, pairs, device)
    if options.budget_s is not None:
        suite = with_budget(suite, options.budget_s, sum(len(p.cells) * p.processes for p in pairings))
        pairings = expand(suite, pairs, device)
    by_name = {pair.name: pair for pair in pairs.values()}
    chosen = choose_tokenizer(options, list(pairs.values()))
    tokenizer = tokenizer_of(chosen)
    prompts = default_prompts(tokenizer) if options.prompts is None else load_prompts(options.prompts, tokenizer)
    try:
        _check_prompts(prompts, tokenizer, pairings, by_name)
    except InputError as error:
        if options.prompts is None or chosen != SOURCE:
            raise
        raise InputError(
            f"--prompts {shown(options.prompts)}: {error}; or choose a pair that knows more words (--pair 5m)"
        ) from None
    unfit, blockwise = _fits(pairings, by_name, device, have)
    return Plan(
        suite=suite,
        pairings=tuple(pairings),
        pairs=by_name,
        device=device,
        threads=threads,
        prompts=prompts,
        prompts_path=None if options.prompts is None else str(options.prompts.resolve()),
        tokenizer=chosen,
        judge=_judge(options.judge, list(pairs.values()), chosen, suite.quality_texts),
        unfit=unfit,
        blockwise=blockwise,
        warnings=(*_warnings(suite, pairings, by_name, device), *_block_warnings(blockwise)),
        memory_b=have,
        present=device == "cpu" or bool(cuda_devices()),
    )


def _check_remasking(options: RunOptions, pairs: Iterable[Pair]) -> None:
    """A suite's remasking is for the generators that have one; a user's must be for one of those measured."""
    names = {name for pair in pairs for name in (pair.diffusion.generator, *pair.rivals)} | set(options.generators)
    knowing = [name for name, entry in BUILT_IN.items() if "remasking" in entry.rules]
    if options.remasking == "random" and not names & set(knowing) and names <= BUILT_IN.keys():
        measured = ", ".join(sorted(name for name in names if BUILT_IN[name].side == "diffusion"))
        raise InputError(f"--remasking random does not fit generator {measured!r}; it fits {', '.join(knowing)}")


def planned_device(wanted: str) -> str:
    """The device of a plan for memory that is not here: a GPU unless the CPU is asked for."""
    _device_name(wanted)
    return "cuda" if wanted == "auto" else wanted


def _device_name(wanted: str) -> re.Match[str]:
    match = re.fullmatch(r"auto|cpu|cuda(?::([0-9]{1,3}))?", wanted)
    if match is None:
        raise InputError(f"--device {wanted!r}: unknown device; choose cpu, cuda, cuda:N or auto")
    return match


def choose_device(wanted: str) -> str:
    """ "auto" takes the first CUDA device that torch can use, else the CPU."""
    match = _device_name(wanted)
    if wanted == "cpu":
        return wanted
    count = len(cuda_devices())
    if wanted == "auto":
        return "cuda" if count else "cpu"
    if not count:
        raise InputError(f"--device {wanted!r}: torch can use no CUDA device here; choose --device cpu")
    if match[1] and int(match[1]) >= count:
        raise InputError(f"--device {wanted!r}: torch can use {count} devices here, numbered from 0")
    return wanted


def with_weights(pair: Pair, reference: str | None) -> Pair:
    """`pair` on the weights that `--weights` names: random, the trained ones that ship, each side's own hub id, one
    checkpoint on both sides, or `ar=ONE,diffusion=OTHER`; None: trained where they ship, else random.

    Raises InputError where there are none such, or a checkpoint is not what its config says.
    """
    if reference is None:
        return pair.default
    if reference == RANDOM:
        return pair
    if reference == TRAINED:
        return pair.on_trained(*_SIDES)
    from ..models.checkpoints import checked, resolve  # imports torch, which only a checkpoint needs here

    if one_checkpoint(reference):
        folder = resolve(reference).resolve()
        return pair.on_checkpoint(folder.name or reference, checked(folder).system, str(folder))
    wanted: dict[Side, str] = {}
    for side in _SIDES:
        hub = (pair.ar if side == "ar" else pair.diffusion).hub
        if reference == HUB and hub is None:
            raise InputError(f"--weights hub: pair {pair.name} names no published checkpoint for its {side} side")
        if reference == HUB and hub is not None:
            wanted[side] = hub
    for part in reference.split(",") if reference != HUB else ():
        name, _, value = part.partition("=")
        if name not in _SIDES or not value:
            raise InputError(f"--weights {reference!r}: expected ar=CHECKPOINT,diffusion=CHECKPOINT or one of the two")
        if name in wanted:
            raise InputError(f"--weights {reference!r}: names the {name} side twice; give one checkpoint for each")
        hub = (pair.ar if name == "ar" else pair.diffusion).hub
        if value == HUB and hub is None:
            raise InputError(
                f"--weights {reference!r}: pair {pair.name} names no published checkpoint for its {name} side"
            )
        wanted[_SIDES[_SIDES.index(name)]] = hub if value == HUB and hub else value
    for side, value in wanted.items():
        if value == TRAINED:
            pair = pair.on_trained(side)
        elif value != RANDOM:
            folder = resolve(value).resolve()
            pair = pair.with_side(side, checked(folder).system, str(folder))
    return pair


def one_checkpoint(reference: str | None) -> bool:
    """Whether `--weights` names a single checkpoint, for both sides."""
    return reference not in (None, RANDOM, HUB, TRAINED) and not re.match(r"(ar|diffusion)=", reference)


def choose_threads(wanted: int | None) -> int:
    """One fewer than the cores this process may use, so that the rest of the system does not preempt the sample."""
    if wanted is None:
        return default_threads(capture_environment()) or 1
    cores = len(usable_cpus() or ()) or os.cpu_count() or 1
    if not 1 <= wanted <= cores:
        raise InputError(f"--threads {wanted}: this process may use {cores} cores; choose 1 to {cores}")
    return wanted


def choose_tokenizer(options: RunOptions, pairs: Sequence[Pair]) -> str:
    """A reference to the tokenizer that the user named, or to the pairs' own."""
    return own_tokenizer(pairs) if options.tokenizer is None else str(options.tokenizer.resolve())


def _judge(reference: str | None, pairs: Sequence[Pair], tokenizer: str, texts: int) -> str | None:
    """The judge's checkpoint as workers find it. Raises InputError where it cannot judge, or has nothing to judge."""
    if reference is None:
        return None
    if all(RANDOM in (pair.ar.weights, pair.diffusion.weights) for pair in pairs):
        raise InputError("--judge: texts of random weights are worth nothing; give --weights too, or leave it out")
    if not texts:
        raise InputError("--judge: this suite judges no texts (quality_texts = 0); choose another, or leave it out")
    if tokenizer != SOURCE:
        raise InputError(
            f"--judge: texts are judged in the words of the embedded source ({SOURCE}), the pairs speak {tokenizer}; "
            f"leave it out"
        )
    taking_part = [side.weights for pair in pairs for side in (pair.ar, pair.diffusion)]
    if any(_same_weights(reference, weights) for weights in taking_part):
        raise InputError(f"--judge {reference}: it is measured in this run itself; give one that takes no part")
    from .judge import Judge  # imports torch

    Judge.load(reference, "cpu")
    return reference if is_shipped(reference) or not Path(reference).is_dir() else str(Path(reference).resolve())


def _same_weights(one: str, other: str) -> bool:
    if one == other:
        return True
    files = [(shipped_folder(name) if is_shipped(name) else Path(name)) / "model.safetensors" for name in (one, other)]
    return all(file.is_file() for file in files) and filecmp.cmp(files[0], files[1], shallow=False)


def own_tokenizer(pairs: Sequence[Pair]) -> str:
    """A reference to the first pair's checkpoint's own tokenizer, or to one that ships and fits all pairs."""
    checkpoint = pairs[0].diffusion.weights
    if is_shipped(checkpoint):
        return SOURCE
    if checkpoint != RANDOM and (Path(checkpoint) / "tokenizer.json").is_file():
        return str(Path(checkpoint).resolve())
    return default_tokenizer(min(pair.vocabulary for pair in pairs))


def _check_prompts(
    prompts: PromptSource, tokenizer: Tokenizer, pairings: list[Pairing], pairs: dict[str, Pair]
) -> None:
    """Every length asked for must exist in the text, and every id in every vocabulary."""
    cells = [cell for pairing in pairings for cell in pairing.cells]
    for name, pair in pairs.items():
        if tokenizer.vocab_size > pair.vocabulary:
            raise InputError(
                f"tokenizer {tokenizer.name} has {tokenizer.vocab_size} ids, pair {name} only {pair.vocabulary}; "
                f"give --tokenizer one that fits"
            )
    prompts.batch(0, 1, max(cell.prompt_length for cell in cells))


def _fits(
    pairings: list[Pairing], pairs: dict[str, Pair], device: str, have: int | None
) -> tuple[dict[str, str], frozenset[str]]:
    """Cells that do not fit into `have` bytes alone, and pairings whose workers fit only one at a time."""
    unfit: dict[str, str] = {}
    blockwise = set()
    for pairing in pairings:
        largest: dict[str, int] = {}
        for cell in pairing.cells:
            need = memory_b(cell, pairs[cell.pair], device)
            fit = Fit(need, have)
            if not fit.fits:
                unfit[cell.key] = fit.message
            else:
                largest[cell.generator] = max(need, largest.get(cell.generator, 0))
        if have is not None and sum(largest.values()) > have:
            blockwise.add(pairing.name)
    return unfit, frozenset(blockwise)


def _warnings(suite: Suite, pairings: list[Pairing], pairs: dict[str, Pair], device: str) -> tuple[str, ...]:
    found = []
    random = any(RANDOM in (pair.ar.weights, pair.diffusion.weights) for pair in pairs.values())
    if random:
        found.append(
            "Weights are random: speed at fixed T is real, the text is not; power draw may differ from trained weights."
        )
    if any(grid.length_policy == "natural" for grid in suite.grid) and random:
        found.append("Random weights almost never emit EOS: under the natural length policy they run to L.")
    replayed = sorted({c.generator for p in pairings for c in p.cells if c.decode.commit_schedule is not None})
    found += [
        f"{name}: a commit schedule says how many tokens each step commits, not the data: the rule runs, and its "
        f"outcome is discarded."
        for name in replayed
    ]
    few = sorted({pairing.processes for pairing in pairings if pairing.processes < 5})
    if few:
        found.append(
            "Cells measured in fewer than five processes have an interval within one process, with no confidence level."
        )
    engines = {(c.pair, c.side, c.engine) for pairing in pairings for c in pairing.cells}
    compiled = {name for name, side, engine in engines if side == "ar" and engine == "compile"}
    found += [
        f"{name}: engine compile was not measured: on a CPU it can make AR decoding two to three times as fast where a "
        f"cell is overhead-bound (add --engine eager,compile)."
        for name in sorted({name for name, _, _ in engines} - compiled)
        if device == "cpu"
    ]
    for name, side, engine in sorted(engines):
        other = "diffusion" if side == "ar" else "ar"
        if (name, other, engine) not in engines:
            found.append(f"{name}: engine {engine} was measured on the {'AR' if side == 'ar' else side} side only.")
    if device == "cpu":
        found.append(f"Measured on a CPU ({platform.machine()}): ratios need not carry over to a GPU.")
    return tuple(found)


def _block_warnings(blockwise: frozenset[str]) -> list[str]:
    return [
        f"{name}: both sides do not fit in memory together; they alternated in blocks, so that a drift of the machine "
        f"does not cancel in their ratio."
        for name in sorted(blockwise)
    ]


def only(plan: Plan, generators: Sequence[str]) -> Plan:
    """The plan with the cells of these generators alone. Raises InputError where it has none."""
    pairings = []
    for pairing in plan.pairings:
        cells = tuple(cell for cell in pairing.cells if cell.generator in generators)
        if cells:
            pairings.append(pairing.model_copy(update={"cells": cells}))
    if not pairings:
        raise InputError("--only: there is no cell of a generator that was given; name one with --generator")
    return replace(plan, pairings=tuple(pairings))


def whole(plan: Plan) -> None:
    """Raise InputError for a gate's plan of which this device cannot hold a cell, or a gate has no verdict."""
    if plan.suite.load is not None:
        raise InputError(f"suite {plan.suite.name}: load: a gate judges cells, not servers; give a suite without it")
    if plan.unfit:
        key, why = next(iter(plan.unfit.items()))
        raise InputError(f"gate: {key} {why}; leave it out: a gate with missing cells is invalid")


def ar_generators(pairs: Sequence[PairRecord]) -> dict[str, str]:
    """Each pair's own AR generator, by the pair's name."""
    return {pair.name: str(pair.ar.get("generator")) for pair in pairs}


def pair_records(plan: Plan) -> tuple[PairRecord, ...]:
    """The pairs as the run's record keeps them, with their match certificates."""
    records = []
    for pair in plan.pairs.values():
        cell = next(cell for pairing in plan.pairings for cell in pairing.cells if cell.pair == pair.name)
        lines = certificate(pair, dtype=cell.dtype, kv_dtype=cell.kv_dtype)
        rows = tuple(
            CertificateRow(
                quantity=line.quantity, unit=line.unit, ar=line.ar, diffusion=line.diffusion,
                difference_percent=line.difference_percent, verdict=line.verdict,
            )
            for line in lines
        )  # fmt: skip
        records.append(
            PairRecord(
                name=pair.name,
                description=pair.description,
                weights=weights_of(pair),
                weights_note=weights_note(plan, pair),
                ar=_side(pair, "ar"),
                diffusion=_side(pair, "diffusion"),
                certificate=rows,
            )
        )
    return tuple(records)


def weights_of(pair: Pair) -> str:
    """The weights of both sides, in one text."""
    if pair.ar.weights == pair.diffusion.weights:
        return pair.ar.weights
    return f"ar={pair.ar.weights},diffusion={pair.diffusion.weights}"


def weights_note(plan: Plan, pair: Pair) -> str:
    """Where the weights came from, so that they can be made again."""
    drawn = f"seed {plan.suite.seed}, drawn on {plan.device}: {RANDOM_DISTRIBUTION}"
    if pair.ar.weights == pair.diffusion.weights:
        if pair.ar.weights != RANDOM:
            return f"loaded from {pair.ar.weights} on both sides"
        same = pair.ar.backbone == pair.diffusion.backbone
        return f"{drawn}; {'the same on both sides' if same else 'each side its own shape'}"
    sides = (
        f"{name}: {drawn if s.weights == RANDOM else _named(s.weights)}"
        for name, s in (("AR", pair.ar), ("diffusion", pair.diffusion))
    )
    return "; ".join(sides)


def _named(weights: str) -> str:
    """A checkpoint, with the fingerprint of one that ships: a later version may train another under its name."""
    return f"{weights} (sha256 {fingerprint(weights)}…)" if is_shipped(weights) else weights


def _side(pair: Pair, side: str) -> dict[str, Any]:
    spec = pair.ar if side == "ar" else pair.diffusion
    return spec.model_dump()
