"""The command line. Importing it imports neither torch nor pandas nor matplotlib: each command imports its own.

Exit codes: 0 done, 1 a failed check, 2 bad input, 3 inconclusive, 4 invalid measurement, 70 a bug, 130 interrupted.
`--json` prints one document on standard output; people read standard error.
"""

from __future__ import annotations

import os
import sys
import traceback
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from .. import CANNOT_WRITE, InputError, __version__
from . import cli_serving  # noqa: F401 - its commands join the application
from .cli_app import (
    BAD_INPUT,
    BUG,
    FAILED,
    INCONCLUSIVE,
    INTERRUPTED,
    INVALID,
    Json,
    app,
    console_of,
    items,
    numbers,
    plain_json,
    print_json,
    unread,
)

__all__ = ["app", "main"]


@app.command()
def run(
    suite: Annotated[
        str | None, typer.Argument(help="lesson, quick (default), standard, continuum, ci, or a .toml.")
    ] = None,
    pair: Annotated[str | None, typer.Option(help="Pairs, comma-separated, or .toml files.")] = None,
    lengths: Annotated[str | None, typer.Option(help="New tokens per row, L: 16,64,256.")] = None,
    steps: Annotated[str | None, typer.Option(help="Denoising steps, T: L,L/4,16.")] = None,
    batches: Annotated[str | None, typer.Option(help="Rows generated together: 1,8.")] = None,
    prompt_lengths: Annotated[str | None, typer.Option(help="Prompt tokens per row: 32,256; 0 for none.")] = None,
    block_lengths: Annotated[str | None, typer.Option(help="Diffusion block lengths: L,32.")] = None,
    dtype: Annotated[str | None, typer.Option(help="float32, bfloat16, float16 or auto.")] = None,
    engine: Annotated[str | None, typer.Option(help="eager, compile, cudagraph, compile+cudagraph; several.")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:N or auto.")] = "auto",
    threads: Annotated[int | None, typer.Option(help="CPU threads; one fewer than the cores by default.")] = None,
    length_policy: Annotated[str | None, typer.Option(help="fixed or natural (stop at EOS).")] = None,
    remasking: Annotated[str | None, typer.Option(help="low_confidence or random.")] = None,
    sampler: Annotated[str | None, typer.Option(help="Samplers of the system: ddpm_cache; see list.")] = None,
    cache: Annotated[str | None, typer.Option(help="Diffusion caches: none, prefix, dual, kv.")] = None,
    threshold: Annotated[float | None, typer.Option(help="Commit where confidence reaches this.")] = None,
    factor: Annotated[float | None, typer.Option(help="Fast-dLLM's factor rule.")] = None,
    entropy_bound: Annotated[float | None, typer.Option(help="Commit within this entropy, nats.")] = None,
    commit_schedule: Annotated[
        str | None,
        typer.Option(help="constant:K, recorded:RULE, a schedule's file or a run: replaces a data-dependent rule."),
    ] = None,
    cfg_scale: Annotated[float | None, typer.Option(help="Classifier-free guidance; 0 is off.")] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="NAME=VALUE: position_temperature, epsilon, draw (exact, gumbel64, gumbel32), "
            "suppress_mask (true, false), idle_steps (skip, run).",
        ),
    ] = None,
    temperature: Annotated[float | None, typer.Option(help="0 is greedy.")] = None,
    top_k: Annotated[int | None, typer.Option(help="0 keeps the whole vocabulary.")] = None,
    top_p: Annotated[float | None, typer.Option(help="1 keeps the whole vocabulary.")] = None,
    generator: Annotated[
        list[str] | None, typer.Option(help="Measure this one too: hf, hf-static, hf:PATH, FILE.py:FACTORY.")
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(
            help="trained (default where they ship), random, hub (the pair's own), a folder, a hub id, or "
            "ar=ONE,diffusion=OTHER."
        ),
    ] = None,
    prompts: Annotated[Path | None, typer.Option(help="Prompt text: plain, or .jsonl with prompt or text.")] = None,
    tokenizer: Annotated[Path | None, typer.Option(help="A tokenizer.json or the folder that holds it.")] = None,
    judge: Annotated[
        str | None, typer.Option(help="An AR checkpoint (folder or hub id) that scores the texts: judge perplexity.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of weights and draws.")] = None,
    processes: Annotated[int | None, typer.Option(help="Fresh process sets; intervals need five.")] = None,
    target_ci: Annotated[float | None, typer.Option(help="Relative half-width at which a cell is done.")] = None,
    budget: Annotated[float | None, typer.Option(help="Sampling time of the whole run, in seconds.")] = None,
    out: Annotated[Path | None, typer.Option(help="A new folder for the run.")] = None,
    resume: Annotated[Path | None, typer.Option(help="Go on with this unfinished run.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show cells, time and memory; measure nothing.")] = False,
    device_memory: Annotated[
        str | None,
        typer.Option(help="With --dry-run: plan for a GPU with this much memory, here or not (or --device cpu): 80GB."),
    ] = None,
    yes: Annotated[
        bool, typer.Option("--yes", help="Spend what the suite's load may cost at a public address.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Measure matched AR and diffusion generators and report them."""
    from .options import RunOptions, memory_size

    if device_memory is not None and not dry_run:
        raise InputError(f"--device-memory {device_memory!r}: plans only, it measures nothing; give --dry-run too")
    options = RunOptions(
        suite=suite or "quick",
        pairs=items(pair),
        lengths=numbers("--lengths", lengths),
        steps=items(steps),
        batches=numbers("--batches", batches),
        prompt_lengths=numbers("--prompt-lengths", prompt_lengths, least=0),
        block_lengths=items(block_lengths),
        dtype=dtype,
        engines=items(engine),
        device=device,
        threads=threads,
        length_policy=length_policy,
        remasking=remasking,
        samplers=items(sampler),
        caches=items(cache),
        threshold=threshold,
        factor=factor,
        entropy_bound=entropy_bound,
        commit_schedule=commit_schedule,
        cfg_scale=cfg_scale,
        decode=tuple(set_ or ()),
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        generators=tuple(generator or ()),
        weights=weights,
        prompts=prompts,
        tokenizer=tokenizer,
        judge=judge,
        seed=seed,
        processes=processes,
        target_ci=target_ci,
        budget_s=budget,
        out=out,
    )
    from .run_command import dry_run_command, run_command

    if dry_run:
        planned = None if device_memory is None else memory_size("--device-memory", device_memory)
        document = dry_run_command(options, console_of(as_json), planned, yes=yes)
    else:
        document = run_command(
            options, resume, suite is not None, ("dlmbench", *sys.argv[1:]), console_of(as_json), quiet=False, yes=yes
        )
    if as_json:
        print_json(document)
    if document.get("ok_cells") == 0 or document.get("load_answered") is False:
        raise typer.Exit(INVALID)


@app.command()
def profile(
    suite: Annotated[str, typer.Argument(help="The suite whose settings are the defaults.")] = "quick",
    pair: Annotated[str | None, typer.Option(help="The pair.")] = None,
    side: Annotated[str, typer.Option(help="ar, diffusion or both.")] = "both",
    length: Annotated[int, typer.Option(min=1, help="New tokens per row, L.")] = 16,
    steps: Annotated[str, typer.Option(help="Denoising steps, T: 4 or L/4.")] = "L/4",
    batch: Annotated[int, typer.Option(min=1, help="Rows generated together.")] = 1,
    prompt_length: Annotated[int, typer.Option(min=0, help="Prompt tokens per row.")] = 32,
    dtype: Annotated[str | None, typer.Option(help="float32, bfloat16, float16 or auto.")] = None,
    engine: Annotated[str, typer.Option(help="eager, compile, cudagraph or compile+cudagraph.")] = "eager",
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:N or auto.")] = "auto",
    threads: Annotated[int | None, typer.Option(help="CPU threads; one fewer than the cores by default.")] = None,
    weights: Annotated[str | None, typer.Option(help="As in run.")] = None,
    rows: Annotated[int, typer.Option(min=1, max=30, help="Kernels shown.")] = 12,
    out: Annotated[Path | None, typer.Option(help="A new folder for the profile.")] = None,
    as_json: Json = False,
) -> None:
    """Profile one shape: kernel table, flame graph, Perfetto trace with forwards, commits and counters."""
    from .options import RunOptions
    from .profile_command import profile_command

    options = RunOptions(
        suite=suite,
        pairs=items(pair) or ("small",),
        lengths=(length,),
        steps=items(steps),
        batches=(batch,),
        prompt_lengths=(prompt_length,),
        dtype=dtype,
        engines=items(engine),
        device=device,
        threads=threads,
        weights=weights,
        processes=1,
        out=out,
    )
    command = ("dlmbench", *sys.argv[1:])
    document = profile_command(options, side, command, console_of(as_json), rows=rows)
    if as_json:
        print_json(document)
    if document["ok_cells"] == 0:
        raise typer.Exit(INVALID)


@app.command()
def show(
    run: Annotated[Path, typer.Argument(help="A run's folder.")],
    certificate: Annotated[bool, typer.Option("--certificate", help="The match certificates too.")] = False,
    as_json: Json = False,
) -> None:
    """Show a run, or a load, as tables in the terminal."""
    from ..profiles.serving.store import is_load, read_load

    if is_load(run):
        from .load.command import document, show_load

        loaded = read_load(run)
        if as_json:
            print_json(document(loaded))
        else:
            show_load(loaded, console_of())
        return
    from .run_command import run_document, show_all, stored_run

    stored = stored_run(run)
    if as_json:
        print_json(run_document(stored))
        return
    from ..reports.terminal import show_certificate

    show_all(stored, console_of())
    if certificate:
        for pair in stored.run.pairs:
            show_certificate(pair, console_of())


@app.command()
def report(
    run: Annotated[Path, typer.Argument(help="A run's folder.")],
    archive: Annotated[Path | None, typer.Option(help="Also pack the folder into this .zip or .tar.gz.")] = None,
    as_json: Json = False,
) -> None:
    """Write a run's report: HTML, PNG, Markdown, CSV, Parquet, pytest-benchmark JSON."""
    from ..profiles.serving.store import is_load, read_load

    if is_load(run):
        from .load.command import write_load_report

        files = write_load_report(read_load(run))
    else:
        from .run_command import export_report, stored_run, write_report

        stored = stored_run(run)
        files = [*write_report(stored), *export_report(stored)]
    document: dict[str, Any] = {"run": str(run), "files": [str(path) for path in files]}
    if archive is not None:
        from ..reports.archive import pack

        packed = pack(run, archive)
        document |= {"archive": str(packed.path), "left_out": [str(name) for name in packed.left_out]}
        files.append(packed.path)
    if as_json:
        print_json(document)
        return
    for path in files:
        console_of().print(Text(str(path)), soft_wrap=True)
    for name in document.get("left_out", ()):
        console_of().print(Text(f"left out: {name}"), soft_wrap=True)


@app.command()
def compare(
    runs: Annotated[list[Path], typer.Argument(help="Two or more run folders; the first is the reference.")],
    as_json: Json = False,
) -> None:
    """Compare runs side by side, with intervals."""
    from dataclasses import asdict

    from ..reports.compare import compare_runs, show_comparison
    from .run_command import stored_run

    comparison = compare_runs([stored_run(path) for path in runs])
    if as_json:
        print_json(plain_json(asdict(comparison)))
    else:
        show_comparison(comparison, console_of())


@app.command()
def trend(
    folder: Annotated[Path, typer.Argument(help="A folder with run folders in it, at any depth.")],
    metric: Annotated[str | None, typer.Option(help="throughput_tok_s by default; see list metrics.")] = None,
    out: Annotated[Path | None, typer.Option(help="Where trend.html goes; the folder itself by default.")] = None,
    as_json: Json = False,
) -> None:
    """Follow each cell over a folder of runs: levels, steps, what changed there."""
    from .trend_command import trend_command

    command = ("dlmbench", *sys.argv[1:])
    document = trend_command(folder, metric, out, command, None if as_json else console_of())
    if as_json:
        print_json(document)


@app.command()
def gate(
    suite: Annotated[str, typer.Argument(help="What is measured: ci (default) or another suite.")] = "ci",
    baseline: Annotated[
        list[Path] | None,
        typer.Option(help="A stored run to compare with, or pytest-benchmark's JSON, a file a process: repeat it."),
    ] = None,
    current: Annotated[list[Path] | None, typer.Option(help="The stored run, or the files, to judge.")] = None,
    against: Annotated[
        str | None, typer.Option(help="A git ref: measure it and the working tree, each installed on its own.")
    ] = None,
    merge_base: Annotated[
        bool, typer.Option("--merge-base", help="Against where the branch left the ref, not its tip.")
    ] = False,
    install: Annotated[
        list[str] | None, typer.Option(help="How a side is installed: a command with {python}, {checkout}.")
    ] = None,
    base_cmd: Annotated[str | None, typer.Option(help="A command that starts a worker of the base.")] = None,
    head_cmd: Annotated[str | None, typer.Option(help="A command that starts a worker of the head.")] = None,
    counters: Annotated[
        Path | None,
        typer.Option(help="A committed file of NFE, tokens, FLOPs and bytes: count, read no clock; seconds, exact."),
    ] = None,
    renew: Annotated[
        bool, typer.Option("--renew", help="Write the file of --counters anew: the work has changed on purpose.")
    ] = False,
    learn_margins: Annotated[
        bool, typer.Option("--learn-margins", help="Measure a side against itself and write a policy it can keep.")
    ] = False,
    policy: Annotated[Path | None, typer.Option(help="A TOML file with the table [gate].")] = None,
    margin: Annotated[list[str] | None, typer.Option(help="How much worse is allowed: 5%, ttft_s=0.1.")] = None,
    floor: Annotated[list[str] | None, typer.Option(help="What never matters: latency_s=0.0001.")] = None,
    looks: Annotated[str | None, typer.Option(help="After how many pairs to look: 6,9,13,18.")] = None,
    alpha: Annotated[float | None, typer.Option(help="Chance of a false FAIL of the whole gate.")] = None,
    accept_changed: Annotated[
        bool, typer.Option("--accept-changed", help="Less work than the baseline passes.")
    ] = False,
    budget: Annotated[float | None, typer.Option(help="Seconds after which no further pair is begun.")] = None,
    pair: Annotated[str | None, typer.Option(help="Pairs, comma-separated, or .toml files.")] = None,
    lengths: Annotated[str | None, typer.Option(help="New tokens per row, L: 16,64,256.")] = None,
    steps: Annotated[str | None, typer.Option(help="Denoising steps, T: L,L/4,16.")] = None,
    batches: Annotated[str | None, typer.Option(help="Rows generated together: 1,8.")] = None,
    dtype: Annotated[str | None, typer.Option(help="float32, bfloat16, float16 or auto.")] = None,
    engine: Annotated[str | None, typer.Option(help="eager, compile, cudagraph, compile+cudagraph; several.")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:N or auto.")] = "auto",
    threads: Annotated[int | None, typer.Option(help="CPU threads; one fewer than the cores by default.")] = None,
    generator: Annotated[
        list[str] | None, typer.Option(help="Gate this one too: FILE.py:FACTORY, MODULE:FACTORY, an entry point.")
    ] = None,
    only_generators: Annotated[
        bool, typer.Option("--only", help="Gate the generators given and none of the suite's own.")
    ] = False,
    weights: Annotated[str | None, typer.Option(help="As in run.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of weights, draws and of the order of measuring.")] = None,
    out: Annotated[Path | None, typer.Option(help="A new folder for the verdict and both sides' runs.")] = None,
    resume: Annotated[Path | None, typer.Option(help="Go on with the gate in this folder.")] = None,
    junit: Annotated[Path | None, typer.Option(help="Write JUnit XML here too.")] = None,
    markdown: Annotated[Path | None, typer.Option(help="Write the summary here too.")] = None,
    as_json: Json = False,
) -> None:
    """Judge a change: is anything slower than its base, beyond doubt and margin? Exit 0, 1, 3 (undecided), 4 (invalid).

    Give --baseline and --current, or --against, or --base-cmd and --head-cmd, or --counters.
    """
    from .gate.command import gate_command, renew_command
    from .gate.options import GateOptions
    from .options import RunOptions

    options = GateOptions(
        run=RunOptions(
            suite=suite,
            pairs=items(pair),
            lengths=numbers("--lengths", lengths),
            steps=items(steps),
            batches=numbers("--batches", batches),
            dtype=dtype,
            engines=items(engine),
            device=device,
            threads=threads,
            generators=tuple(generator or ()),
            weights=weights,
            seed=seed,
        ),
        only_generators=only_generators,
        baseline=tuple(baseline or ()),
        current=tuple(current or ()),
        against=against,
        merge_base=merge_base,
        install=None if install is None else tuple(install),
        base_cmd=base_cmd,
        head_cmd=head_cmd,
        counters=counters,
        renew=renew,
        learn_margins=learn_margins,
        policy=policy,
        margins=tuple(margin or ()),
        floors=tuple(floor or ()),
        looks=looks,
        alpha=alpha,
        accept_changed=accept_changed,
        budget_s=budget,
        resume=resume,
        out=out,
        junit=junit,
        markdown=markdown,
    )
    if renew:
        renewed = renew_command(options, console_of(as_json))
        if as_json:
            print_json(renewed)
        return
    document, code = gate_command(options, ("dlmbench", *sys.argv[1:]), console_of(as_json))
    if as_json:
        print_json(document.model_dump(mode="json"))
    if code:
        raise typer.Exit(code)


@app.command("list")
def list_(
    what: Annotated[str, typer.Argument(help="suites, pairs, generators, endpoints, devices or metrics.")] = "all",
    as_json: Json = False,
) -> None:
    """List what can be measured: suites, pairs, generators, endpoints, devices, metrics."""
    from .listing import listing, show_listing

    document = listing(what)
    if as_json:
        print_json(document)
    else:
        show_listing(document, console_of())


@app.command()
def doctor(
    threads: Annotated[int | None, typer.Option(help="Threads that a run would use.")] = None,
    self_test: Annotated[
        bool,
        typer.Option("--self-test", help="Measure the harness too: its clock, its cost, its false alarms, its power."),
    ] = False,
    pairs: Annotated[
        int,
        typer.Option(min=6, max=1000, help="--self-test: pairs of fresh processes, each of equal and of unequal ones."),
    ] = 12,
    slowdown: Annotated[
        float, typer.Option(min=0.001, max=1.0, help="--self-test: the slowdown planted; 0.05 is 5 %.")
    ] = 0.05,
    as_json: Json = False,
) -> None:
    """Examine this machine for what would spoil a measurement."""
    from .doctor_command import doctor_command, self_test_command

    console = console_of(as_json)
    document = doctor_command(threads, console)
    if self_test:
        document |= self_test_command(pairs, slowdown, console)
    if as_json:
        print_json(document)


@app.command()
def calibrate(
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:N or auto.")] = "auto",
    threads: Annotated[int | None, typer.Option(help="CPU threads; one fewer than the cores by default.")] = None,
    dtype: Annotated[str | None, typer.Option(help="float32, bfloat16, float16; several, all by default.")] = None,
    as_json: Json = False,
) -> None:
    """Measure what this device can do: matrix products, reads, copies; against its datasheet and the last time."""
    from .calibrate_command import calibrate_command

    document = calibrate_command(device, threads, items(dtype), console_of(as_json))
    if as_json:
        print_json(document)
    if not document["peaks"]:
        raise typer.Exit(INVALID)


@app.command()
def demo(
    text: Annotated[str | None, typer.Option(help="A sentence to mask.")] = None,
    pair: Annotated[str, typer.Option(help="The pair to generate with.")] = "small",
    weights: Annotated[
        str | None, typer.Option(help="trained (default where they ship), random, a checkpoint folder, or a hub id.")
    ] = None,
    length: Annotated[int, typer.Option(min=1, help="New tokens, L.")] = 16,
    steps: Annotated[int, typer.Option(min=1, help="Denoising steps, T.")] = 4,
    seed: Annotated[int, typer.Option(min=0, help="Seed of weights, masks and draws.")] = 0,
    seconds: Annotated[float, typer.Option(min=0.0, help="How long the replay lasts.")] = 6.0,
    as_json: Json = False,
) -> None:
    """Show forward masking and denoising in the terminal, the AR side beside it."""
    from .demo import DemoOptions, run_demo

    options = DemoOptions(
        text=text, pair=pair, weights=weights, length=length, steps=steps, seed=seed, replay_s=seconds
    )
    document = run_demo(options, console_of(as_json))
    if as_json:
        print_json(document)


@app.command()
def train(
    out: Annotated[Path | None, typer.Option(help="A new folder for the trained models.")] = None,
    model: Annotated[list[str] | None, typer.Option(help="ar, mdlm, sedd or block-diffusion; all by default.")] = None,
    steps: Annotated[int | None, typer.Option(help="Optimiser steps of each model.")] = None,
    batch: Annotated[int | None, typer.Option(help="Rows of a step.")] = None,
    length: Annotated[int | None, typer.Option(help="Tokens of a row.")] = None,
    lr: Annotated[float | None, typer.Option(help="Highest learning rate.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of weights, batches and noise.")] = None,
    hidden: Annotated[int | None, typer.Option(help="Width, a multiple of 32.")] = None,
    layers: Annotated[int | None, typer.Option(help="Depth.")] = None,
    threads: Annotated[
        int | None, typer.Option(help="CPU threads of a model: all for a single one, else one each.")
    ] = None,
    jobs: Annotated[int | None, typer.Option(help="Models trained side by side; as many as cores by default.")] = None,
    corpus: Annotated[Path | None, typer.Option(help="Your own text instead of the embedded source.")] = None,
    tokenizer: Annotated[Path | None, typer.Option(help="Its tokenizer.json; the embedded one by default.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="A few minutes in all, for the recipe's shape.")] = False,
    dtype: Annotated[str | None, typer.Option(help="Of the saved weights: fp32 (default) or bf16.")] = None,
    save_every: Annotated[int | None, typer.Option(help="Steps between states that --resume goes on from.")] = None,
    resume: Annotated[Path | None, typer.Option(help="Go on with this unfinished training.")] = None,
    as_json: Json = False,
) -> None:
    """Train the small matched models from scratch, on the same tokens."""
    from .train_plan import TrainOptions

    options = TrainOptions(
        out=out,
        resume=resume,
        models=tuple(model or ()),
        steps=steps,
        batch=batch,
        length=length,
        lr=lr,
        seed=seed,
        hidden=hidden,
        layers=layers,
        save_every=save_every,
        corpus=corpus,
        tokenizer=tokenizer,
        quick=quick,
        dtype=dtype,
        threads=threads,
        jobs=jobs,
    )
    from .train_command import train_command
    from .train_view import show_summary

    document = train_command(options, console_of(to_stderr=True), quiet=as_json)
    if as_json:
        print_json(document)
    else:
        show_summary(document, console_of())


@app.command()
def verify(
    folder: Annotated[Path, typer.Argument(help="A checkpoint beside recorded outputs, or noise schedules.")],
    as_json: Json = False,
) -> None:
    """Check this program against outputs recorded from the original implementations."""
    from .verify.command import verify_command

    document = verify_command(folder, console_of(as_json))
    if as_json:
        print_json(document)
    if document["failed"]:
        raise typer.Exit(FAILED)
    if not document["passed"]:
        raise typer.Exit(INCONCLUSIVE)


def _version(value: bool) -> None:
    if value:
        typer.echo(f"dlmbench {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Global options."""


def main() -> None:
    """Run a command; turn what goes wrong into one clear line and an exit code."""
    if sys.stdout is None:  # started with its output closed
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - lives as long as the process
    sys.exit(_guarded())


def _guarded() -> int:
    try:
        code = app(standalone_mode=False)
        if code == INTERRUPTED:  # typer makes Ctrl-C an exit code
            _say("interrupted")
        try:
            sys.stdout.flush()
        except BrokenPipeError:
            unread(sys.stdout)
        return code if isinstance(code, int) else 0
    except InputError as error:
        _say(str(error))
        return BAD_INPUT
    except KeyboardInterrupt:
        _say("interrupted")
        return INTERRUPTED
    except OSError as error:
        if error.errno not in CANNOT_WRITE:
            return _bug()
        _say(
            f"{error.filename or 'the output'}: cannot be written ({error.strerror}); make room and repeat the command"
        )
        unread(sys.stdout)
        return BAD_INPUT
    except Exception as error:
        if hasattr(error, "format_message"):  # what typer says of the command line itself
            _say(f"{error.format_message()} See dlmbench --help.")
            return BAD_INPUT
        if type(error).__name__ == "InterruptedRunError":
            _say(f"interrupted; what was finished is kept, go on with: {error}")
            return INTERRUPTED
        return _bug()


def _bug() -> int:
    traceback.print_exc()
    _say("this is a bug, please report the lines above, the command, and what `dlmbench list devices` prints")
    return BUG


def _say(message: str) -> None:
    message = f"dlmbench: {message}"
    text = "".join(c if c.isprintable() else "?" for c in message)
    Console(stderr=True, highlight=False).print(Text(text), soft_wrap=True)


if __name__ == "__main__":
    main()
