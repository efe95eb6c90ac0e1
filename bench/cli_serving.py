"""The commands `load` and `serve`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from .. import InputError
from .cli_app import INVALID, Json, app, console_of, print_json


@app.command()
def load(
    targets: Annotated[
        list[str] | None,
        typer.Argument(
            help="A base URL (http://127.0.0.1:8000/v1) or mercury, vllm, sglang, transformers, llamacpp, dlmbench; "
            "two of them are measured in turn. Or a TOML file that says it all."
        ),
    ] = None,
    preset: Annotated[str | None, typer.Option(help="How a URL is asked; one each, with a comma.")] = None,
    model: Annotated[str | None, typer.Option(help="The model; not needed where the server has one.")] = None,
    side: Annotated[str | None, typer.Option(help="ar or diffusion: what the model is.")] = None,
    api: Annotated[str | None, typer.Option(help="chat (default) or completions.")] = None,
    stream: Annotated[bool, typer.Option("--stream/--no-stream", help="As events, or in one answer.")] = True,
    diffusing: Annotated[
        bool, typer.Option("--diffusing", help="A stream whose chunks replace what was shown (Mercury).")
    ] = False,
    concurrency: Annotated[str | None, typer.Option(help="Closed loop: so many requests open: 1,8,32.")] = None,
    rate: Annotated[str | None, typer.Option(help="Open loop: so many requests begun a second: 0.5,2.")] = None,
    arrivals: Annotated[str | None, typer.Option(help="Of an open loop: poisson (default) or constant.")] = None,
    sweep: Annotated[bool, typer.Option("--sweep", help="Double the load until it brings nothing more.")] = False,
    requests: Annotated[int | None, typer.Option(help="Requests of a window that count.")] = None,
    duration: Annotated[float | None, typer.Option(help="Seconds after which a window begins no request (60).")] = None,
    ramp: Annotated[float | None, typer.Option(help="Seconds over which the load rises first; not counted.")] = None,
    warmup: Annotated[int | None, typer.Option(help="Requests that come first and do not count.")] = None,
    rounds: Annotated[int | None, typer.Option(help="Windows of each load; rates have intervals from five.")] = None,
    prompt_tokens: Annotated[int | None, typer.Option(help="Tokens of each prompt (128).")] = None,
    output_tokens: Annotated[int | None, typer.Option(help="The most tokens of an answer (128).")] = None,
    tokenizer: Annotated[
        str | None, typer.Option(help="What counts tokens: a tokenizer.json, its folder, embedded, source, or server.")
    ] = None,
    prompts: Annotated[Path | None, typer.Option(help="Prompt text: plain, or .jsonl with prompt or text.")] = None,
    send_ids: Annotated[bool, typer.Option("--send-ids", help="Prompts as token ids (--api completions).")] = False,
    temperature: Annotated[float | None, typer.Option(help="Sent with each request; else the server's own.")] = None,
    extra: Annotated[list[str] | None, typer.Option(help="NAME=JSON: a further field of every request.")] = None,
    objective: Annotated[
        list[str] | None,
        typer.Option(help="For goodput: ttft=0.5, first_final=0.5, latency=2, e2e_per_token=20ms, stall=0.2."),
    ] = None,
    timeout: Annotated[float | None, typer.Option(help="Seconds until a request counts as timed out (120).")] = None,
    retries: Annotated[int | None, typer.Option(help="Times that a failed request is sent again (none).")] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="A connection of its own for each request.")] = False,
    together: Annotated[float | None, typer.Option(help="Chunks within so many seconds are one block (0.001).")] = None,
    key_env: Annotated[str | None, typer.Option(help="The environment variable that holds the key.")] = None,
    key_file: Annotated[Path | None, typer.Option(help="A file that holds the key.")] = None,
    price_prompt: Annotated[float | None, typer.Option(help="Money a million prompt tokens.")] = None,
    price_output: Annotated[float | None, typer.Option(help="Money a million output tokens.")] = None,
    spend: Annotated[float | None, typer.Option(help="The most money that may be spent unasked.")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Spend what it may cost at a public address.")] = False,
    seed: Annotated[int | None, typer.Option(help="Seed of arrivals.")] = None,
    out: Annotated[Path | None, typer.Option(help="A new folder for the load.")] = None,
    resume: Annotated[Path | None, typer.Option(help="Go on with this unfinished load.")] = None,
    as_json: Json = False,
) -> None:
    """Put a server under load and measure what its users see; two servers are compared in turn."""
    from .load.command import load_command, resume_command
    from .load.given import extra_fields, levels, load_options, objectives, only_given

    servers = {
        "preset": preset,
        "model": model,
        "side": side,
        "api": api,
        "diffusing": diffusing,
        "key_env": key_env,
        "key_file": key_file,
        "extra": extra_fields(extra or ()) or None,
    }
    loads = {
        "tokenizer": tokenizer,
        "prompts": prompts,
        "prompt_tokens": prompt_tokens,
        "output_tokens": output_tokens,
        "send_ids": send_ids,
        "temperature": temperature,
        "concurrency": levels("--concurrency", concurrency),
        "rate": levels("--rate", rate),
        "arrivals": arrivals,
        "sweep": sweep,
        "requests": requests,
        "duration_s": duration,
        "ramp_s": ramp,
        "warmup": warmup,
        "rounds": rounds,
        "timeout_s": timeout,
        "retries": retries,
        "fresh": fresh,
        "objectives": objectives(objective or ()),
        "together_s": together,
        "price_prompt": price_prompt,
        "price_output": price_output,
        "spend": spend,
        "seed": seed,
    }
    if resume is None:
        options = load_options(targets or (), servers, loads, at_once=not stream)
        document, answered = load_command(options, ("dlmbench", *sys.argv[1:]), console_of(as_json), out=out, yes=yes)
    else:
        if targets or not stream or out is not None or only_given(servers | loads):
            raise InputError(
                f"--resume {resume}: a load goes on with what it was started with; leave all others out, or start anew"
            )
        document, answered = resume_command(resume, console_of(as_json), yes=yes)
    if as_json:
        print_json(document)
    if not answered:
        raise typer.Exit(INVALID)


@app.command()
def serve(
    pair: Annotated[str, typer.Option(help="The pair whose side is served.")] = "small",
    generator: Annotated[str, typer.Option(help="ar, masked-diffusion, block-diffusion, …; see list.")] = "ar",
    steps: Annotated[str | None, typer.Option(help="Denoising steps, T: L/4, 16.")] = None,
    block_length: Annotated[str | None, typer.Option(help="Diffusion block length: L, 32.")] = None,
    weights: Annotated[str | None, typer.Option(help="As in run.")] = None,
    dtype: Annotated[str | None, typer.Option(help="float32 or bfloat16; by the device by default.")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:N or auto.")] = "auto",
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of random weights.")] = 0,
    longest: Annotated[int, typer.Option(min=1, help="The most tokens of prompt and answer together.")] = 4096,
    waiting: Annotated[int, typer.Option(min=1, help="Requests in line, the running one too; others get 429.")] = 64,
    schedule: Annotated[
        str | None,
        typer.Option(help="No model: text on a schedule known beforehand: first=0.5,every=0.4,size=64 (s, s, tokens)."),
    ] = None,
    host: Annotated[str, typer.Option(help="The address to listen at.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8333,
    as_json: Json = False,
) -> None:
    """Serve a local generator behind the OpenAI-compatible protocol, its commits streamed as they happen."""
    from .serve.command import ServeOptions, say_ready, serve_command

    options = ServeOptions(
        pair=pair,
        generator=generator,
        steps=steps,
        block_length=block_length,
        weights=weights,
        dtype=dtype,
        device=device,
        threads=threads,
        seed=seed,
        longest=longest,
        waiting=waiting,
        schedule=schedule,
        host=host,
        port=port,
    )
    console = console_of(as_json)
    serve_command(options, console, say_ready(console, as_json=as_json))
