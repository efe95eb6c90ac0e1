"""`dlmbench demo`: what diffusion does to a text, and what it costs beside AR, in a few seconds in the terminal.

First the forward process: the tokens of a sentence are masked independently with probability t (the loglinear or linear
schedule of masked diffusion, alpha_t = 1 - t: Sahoo et al. 2024, section 3; Nie et al. 2025, section 2.1). On a pair
with trained weights the sentence is then written again from each level, beside what else could have stood at each
position (see `sentence`). Then the reverse, timed: a pair's two generators are recorded one after the other, each after
a warm-up, and *replayed* side by side on one slowed clock. The replay is thus free to draw: nothing is displayed while
a generation is being timed.

    run_demo(DemoOptions(pair="small", length=32, steps=8), Console())
"""

from __future__ import annotations

import gc
import os
import time
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from rich.console import Console
from rich.live import Live

from .. import InputError
from ..models.catalog import Context, build
from ..models.checkpoints import load_network, resolve
from ..models.config import BackboneConfig
from ..models.generator import Generator, Request, Settings, Shape
from ..models.names import BUILT_IN, RANDOM
from ..models.pairs import Pair, SideSpec, load_pair
from ..models.prompts import default_prompts
from ..models.schedule import steps_per_block
from ..models.source import embedded_source
from ..models.tokenizer import Tokenizer
from ..models.trained import is_shipped
from ..profiles.clocks import Clock, clock_for
from ..profiles.host import usable_cpus
from ..profiles.observer import Recorder
from ..profiles.record import Commit
from ..profiles.reduction import timeline
from ..profiles.studies import SentenceStudy
from ..reports.plain import plain
from .demo_view import (
    Masking,
    Piece,
    Scene,
    Stage,
    Track,
    frame,
    show_masking,
    show_sentence,
    show_stage,
    show_steps,
    show_summary,
)
from .estimate import available_b
from .plan import own_tokenizer, weights_of, with_weights
from .sentence import LEVELS, position_uniforms, sentence_study
from .tokenizers import tokenizer_of

SENTENCE = "Large language models process vast amounts of text."

_MAX_LENGTH = 1024  # positions that a terminal can still show
_FRAME_S = 0.05
# The warm-up's prompt and draws are not those of the recorded generation.
_WARMUP = 1 << 24
_BROKEN = "\ufffd"  # what a tokenizer decodes half a character to
_FRAGMENT = "·"


@dataclass(frozen=True)
class DemoOptions:
    """What a user may ask of the demo. `length` is L, `steps` is T, `prompt_length` is in tokens.

    `text` is the sentence to mask (None: a built-in one), `weights` what `--weights` may be (see `plan.with_weights`).
    `replay_s` is how long the replay of both generations lasts, in seconds; `animate` None animates on a terminal.
    """

    text: str | None = None
    pair: str = "small"
    weights: str | None = None
    length: int = 16
    steps: int = 4
    prompt_length: int = 16
    seed: int = 0
    replay_s: float = 6.0
    animate: bool | None = None


def run_demo(
    options: DemoOptions,
    console: Console,
    *,
    sleep: Callable[[float], None] = time.sleep,
    now: Callable[[], float] = time.perf_counter,
) -> dict[str, Any]:
    """Show the demo on `console`; return what was shown as a document for JSON. Raises InputError before it prints.

    `sleep` and `now` pace the replay, in seconds; the generations are timed by the device's own clock.
    """
    _check(options)
    pair, tokenizer = _material(options)
    masking = forward_masking(tokenizer, SENTENCE if options.text is None else options.text, options.seed)
    study, why = _written_again(options, pair)
    prompt_ids = default_prompts(tokenizer).batch(options.seed, 1, options.prompt_length)
    stage = _stage(options, pair, pieces(tokenizer, prompt_ids[0]))
    live = console.is_interactive and not console.is_dumb_terminal
    show_masking(masking, console)
    show_sentence(study, why, console)
    show_stage(stage, console)
    scene = Scene(stage, _record(options, pair, tokenizer, stage, prompt_ids))
    if not live:
        show_steps(scene, console)
    else:
        # A pipe that asks for colour (FORCE_COLOR in CI) is no place for a moving picture.
        if console.file.isatty() if options.animate is None else options.animate:
            _replay(scene, options.replay_s, console, sleep, now)
        console.print(frame(scene, scene.end_s, console.width))
    show_summary(scene, console)
    written = {"sentence": None if study is None else study.model_dump(mode="json"), "sentence_why": why}
    return _document(options, masking, scene) | written


def forward_masking(tokenizer: Tokenizer, text: str, seed: int) -> Masking:
    """The tokens of `text` at every noise level. One uniform u a position, masked when u < t, so that masks nest."""
    try:
        ids = tokenizer.encode(text)
    except InputError as error:
        found = str(error).removeprefix("text: ")
        raise InputError(f"--text: {found}, or choose a pair of a larger vocabulary, as --pair 5m") from None
    except (TypeError, UnicodeEncodeError):  # half a surrogate pair, from bytes on the command line that are no UTF-8
        raise InputError("--text: found bytes that are not UTF-8; expected Unicode text; type it again") from None
    if len(ids) < 2:
        raise InputError(f"--text: found {len(ids)} token(s), expected at least 2; give a sentence")
    uniforms = position_uniforms(len(ids), seed)
    levels = tuple((t, tuple(u < t for u in uniforms)) for t in LEVELS)
    return Masking(pieces(tokenizer, ids), uniforms, levels)


def _written_again(options: DemoOptions, pair: Pair) -> tuple[SentenceStudy | None, str | None]:
    """The sentence written again by the pair's diffusion network; None where that cannot be, with the reason.

    Only a shipped network is known to speak the source's words, and only one that sees the whole canvas and no noise
    level is run so.
    """
    side = pair.diffusion
    if not is_shipped(side.weights):
        return None, None
    generator = BUILT_IN.get(side.generator)
    if generator is None or generator.mask != "bidirectional" or not isinstance(side.backbone, BackboneConfig):
        return None, f"No candidates are shown: {side.generator} is no masked diffusion over the whole sentence."
    network = load_network(resolve(side.weights), torch.float32, "cpu")
    try:
        text = SENTENCE if options.text is None else options.text
        return sentence_study(network, embedded_source(), seed=options.seed, text=text), None
    except InputError as error:
        return None, f"No candidates are shown: {error}."


def pieces(tokenizer: Tokenizer, ids: Sequence[int]) -> tuple[Piece, ...]:
    """Each token as inert text. Where several byte-level tokens spell one character, the last of them shows it."""
    texts = [tokenizer.decode([index]) for index in ids]
    begin = 0
    while begin < len(ids):
        end = begin + 1
        for tried in range(begin + 1, min(begin + 4, len(ids)) + 1):  # UTF-8 has at most four bytes a character
            whole = tokenizer.decode(list(ids[begin:tried]))
            if _BROKEN not in whole:
                texts[begin:tried] = [_FRAGMENT] * (tried - begin - 1) + [whole]
                end = tried
                break
        begin = end
    spaced = [text[:1].isspace() for text in texts]
    # Whole words carry no space of their own: what stands between two of them shows when they are decoded together.
    for i in range(1, len(ids)):
        spaced[i] = spaced[i] or tokenizer.decode(list(ids[i - 1 : i + 1])) == f"{texts[i - 1]} {texts[i]}"
    parts = zip(ids, texts, spaced, strict=True)
    return tuple(Piece(index, _inert(text, index), space) for index, text, space in parts)


def _inert(text: str, index: int) -> str:
    """`text` as at least one visible column, with nothing that a terminal obeys; `#index` for what shows nothing."""
    # A variation selector changes the width of the character before it, in some terminals and not in others.
    visible = "".join(c for c in plain(text) if not "\ufe00" <= c <= "\ufe0f")
    if not visible:
        return f"#{index}" if not text or not text.isspace() else "↵" if "\n" in text or "\r" in text else "␣"
    # A lone combining mark would sit on whatever stands before it.
    return f"◌{visible}" if unicodedata.category(visible[0]).startswith("M") else visible


def _check(options: DemoOptions) -> None:
    """Everything that can be refused without loading anything."""
    for name, least, most in (("length", 1, _MAX_LENGTH), ("steps", 1, None), ("prompt_length", 0, None)):
        value = getattr(options, name)
        if value < least or (most is not None and value > most):
            wanted = f"at least {least}" if most is None else f"{least} to {most}"
            raise InputError(f"--{name.replace('_', '-')} {value}: expected {wanted}")
    if not 0 <= options.seed < 1 << 32:
        raise InputError(f"--seed {options.seed}: expected 0 to {(1 << 32) - 1}")
    if not 0 <= options.replay_s <= 3600:
        raise InputError(f"replay of {options.replay_s} s: expected 0 to 3600 seconds")
    steps_per_block(options.length, options.steps, options.length)


def _material(options: DemoOptions) -> tuple[Pair, Tokenizer]:
    """The pair, on the checkpoint's shape if there is one, and the tokenizer that goes with it."""
    pair = with_weights(load_pair(options.pair), options.weights)
    tokenizer = tokenizer_of(own_tokenizer((pair,)))
    if tokenizer.vocab_size > pair.vocabulary:
        raise InputError(
            f"tokenizer {tokenizer.name} has {tokenizer.vocab_size} ids, pair {pair.name} only {pair.vocabulary}; "
            "choose a pair or a checkpoint whose vocabulary holds them"
        )
    return pair, tokenizer


def _stage(options: DemoOptions, pair: Pair, prompt: tuple[Piece, ...]) -> Stage:
    """What the generations will run on."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = "bfloat16" if device == "cuda" else "float32"
    shapes = [pair.ar.backbone, pair.diffusion.backbone]
    # Sides of one shape share their weights; each is measured alone, so that neither notices.
    networks = shapes[:1] if (shapes[0], pair.ar.weights) == (shapes[1], pair.diffusion.weights) else shapes
    return Stage(
        pair=plain(pair.name),
        reference=plain(options.pair),
        random=RANDOM in (pair.ar.weights, pair.diffusion.weights),
        weights=plain(weights_of(pair)),
        parameters=max(shape.total_parameters for shape in shapes),
        weight_bytes=sum(shape.weight_bytes(dtype) for shape in networks),
        free_bytes=available_b(device),
        dtype=dtype,
        device=device,
        # One core fewer than there are, so that the rest of the system does not preempt the generation.
        threads=max(1, len(usable_cpus() or range(os.cpu_count() or 1)) - 1) if device == "cpu" else None,
        length=options.length,
        steps=options.steps,
        # Greedy decoding of random weights repeats one word, and the shipped ones are to show their source's variety.
        temperature=1.0 if pair.diffusion.weights == RANDOM or is_shipped(pair.diffusion.weights) else 0.0,
        seed=options.seed,
        prompt=prompt,
    )


def _record(
    options: DemoOptions, pair: Pair, tokenizer: Tokenizer, stage: Stage, prompt_ids: list[list[int]]
) -> tuple[Track, ...]:
    """Both sides' generations, recorded one after the other on the same prompt."""
    prompts = default_prompts(tokenizer).batch(_WARMUP + options.seed, 1, options.prompt_length), prompt_ids
    clock = clock_for(stage.device)
    contexts: list[Context] = []

    def context(side: SideSpec) -> Context:
        for known in contexts:
            if (known.config, known.weights) == (side.backbone, side.weights):
                return known
        dtype = getattr(torch, stage.dtype)
        contexts.append(Context(side.backbone, side.weights, dtype, stage.device, options.seed))
        return contexts[-1]

    def track(side: SideSpec, settings: Settings) -> Track:
        generator = build(side.generator, context(side))
        shape = Shape(1, options.prompt_length, options.length)
        begin = time.perf_counter()
        generator.prepare(shape, settings)
        clock.settle()
        prepare_s = time.perf_counter() - begin
        warmup, request = (
            Request(
                torch.tensor(ids, dtype=torch.int64, device=stage.device).view(1, -1), options.length, settings, seed
            )
            for ids, seed in zip(prompts, (_WARMUP + options.seed, options.seed), strict=True)
        )
        _generate(generator, warmup, Recorder(clock), clock)
        recorder = Recorder(clock)
        tokens = _generate(generator, request, recorder, clock)
        line = timeline(recorder.trace(), 0, options.length)
        shown = pieces(tokenizer, tokens[0].tolist())
        return Track(generator.side, plain(side.generator), shown, line, tuple(_fixing(line.commits)), prepare_s)

    try:
        with _threads(stage.threads):
            return (
                track(pair.diffusion, Settings(temperature=stage.temperature, steps=options.steps)),
                track(pair.ar, Settings(temperature=stage.temperature)),
            )
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        # torch's CPU allocator has no exception class of its own.
        if isinstance(error, RuntimeError) and "memory" not in str(error):
            raise
        raise InputError(
            f"pair {stage.pair}: {stage.weight_bytes / 1e9:.2f} GB of weights in {stage.dtype} do not fit into the "
            f"memory of this {stage.device}; choose a smaller pair"
        ) from None


def _generate(generator: Generator, request: Request, recorder: Recorder, clock: Clock) -> torch.Tensor:
    """Tokens [1, L] on the host. Timed as `dlmbench run` times a sample: from ids on the device to tokens here."""
    gc.collect()
    gc.disable()
    try:
        clock.settle()
        recorder.start()
        tokens = generator.generate(request, recorder).cpu()
        recorder.stop()
    finally:
        gc.enable()
    return tokens


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    """Compute on `count` CPU threads (None: as it is), then as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(before if count is None else count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _fixing(commits: Sequence[Commit]) -> Iterator[Commit]:
    """The commits that fixed a position for good, each with the positions that no earlier one had fixed."""
    seen: set[int] = set()
    for commit in commits:
        new = [(p, token) for p, token in zip(commit.positions, commit.tokens, strict=True) if p not in seen]
        if commit.final and new:
            seen.update(p for p, _ in new)
            positions, tokens = zip(*new, strict=True)
            yield commit.model_copy(update={"positions": positions, "tokens": tokens})


def _replay(
    scene: Scene, replay_s: float, console: Console, sleep: Callable[[float], None], now: Callable[[], float]
) -> None:
    """Both generations on one clock, slowed (or hurried) to last `replay_s` seconds. Leaves nothing on the screen."""
    if not replay_s:
        return
    slowdown = replay_s / scene.end_s
    begin = now()
    # Without a refresh thread and transient: an interrupt then finds nothing running and nothing half drawn.
    with Live(console=console, auto_refresh=False, transient=True) as live:
        while (elapsed := now() - begin) < replay_s:
            live.update(frame(scene, elapsed / slowdown, console.width, console.height, slowdown), refresh=True)
            sleep(min(_FRAME_S, max(replay_s - elapsed, 0.001)))


def _document(options: DemoOptions, masking: Masking, scene: Scene) -> dict[str, Any]:
    """Everything that was shown, in JSON's types: times in seconds, token texts as they were made inert."""
    stage = scene.stage
    count = len(masking.pieces)
    return {
        "masking": {
            "text": SENTENCE if options.text is None else plain(options.text),
            "seed": options.seed,
            "tokens": [{"id": piece.id, "text": piece.text, "u": u} for piece, u in masking.tokens],
            "levels": [
                {
                    "t": t,
                    "masked": sum(masked),
                    "share": sum(masked) / count,
                    "expected_share": t,
                    "tokens": [None if hidden else p.text for p, hidden in zip(masking.pieces, masked, strict=True)],
                }
                for t, masked in masking.levels
            ],
        },
        "denoising": {
            "pair": stage.pair,
            "weights": stage.weights,
            "note": stage.note,
            "parameters": stage.parameters,
            "weight_bytes": stage.weight_bytes,
            "dtype": stage.dtype,
            "device": stage.device,
            "threads": stage.threads,
            "engine": "eager",
            "temperature": stage.temperature,
            "seed": stage.seed,
            "length": stage.length,
            "steps": stage.steps,
            "prompt": [{"id": piece.id, "text": piece.text} for piece in stage.prompt],
            "sides": {track.side: _side(track) for track in scene.tracks},
        },
    }


def _side(track: Track) -> dict[str, Any]:
    return {
        "generator": track.generator,
        "nfe": track.nfe,
        "latency_s": track.latency_s,
        "throughput_tok_s": track.throughput_tok_s,
        "prepare_s": track.prepare_s,
        "commits": [
            {
                "step": commit.step,
                "at_s": commit.at_s,
                "positions": list(commit.positions),
                "ids": list(commit.tokens),
                "tokens": [track.pieces[p].text for p in commit.positions],
            }
            for commit in track.fixing
        ],
    }
