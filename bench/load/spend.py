"""What a load may cost at most, and when that is asked about before anything is sent."""

from __future__ import annotations

from collections.abc import Sequence

from ... import InputError
from ...profiles.serving.summary import Price
from .options import LoadOptions, LoadPlan
from .targets import Place

# Tokens that may go to a public address unasked, where no price tells what they cost.
FREE_TOKENS = 20_000


def check_spending(options: LoadOptions, plan: LoadPlan, places: Sequence[Place]) -> None:
    """Raise InputError where a public server might be sent more than may be spent unasked; `--yes` allows it.

    The most: every request with its whole prompt and all the tokens that it may be answered with.
    """
    public = [place.url for place in places if place.public]
    if not public:
        return
    where = " and ".join(public)
    requests = plan.most_requests
    if requests is None:
        raise InputError(
            f"{where}: a public address, and nothing bounds the number of requests; give --requests, or --yes if it "
            "may cost whatever it comes to"
        )
    requests *= len(public)
    prompt, output = requests * options.prompt_tokens, requests * options.output_tokens
    price = price_of(options)
    said = f"{where}: a public address, up to {requests:,} requests, {prompt:,} prompt and {output:,} output tokens"
    if price is not None and options.spend is not None:
        cost = (prompt * price.prompt + output * price.output) * 1e-6
        if cost > options.spend:
            raise InputError(f"{said}: {cost:.2f}, more than --spend {options.spend:g}; --yes allows it")
        return
    if options.spend is not None:
        raise InputError("--spend: needs --price-prompt and --price-output to tell what a token costs")
    if prompt + output > FREE_TOKENS:
        raise InputError(
            f"{said}; more than {FREE_TOKENS:,} tokens need --yes, or a limit: --spend with --price-prompt and "
            "--price-output"
        )


def price_of(options: LoadOptions) -> Price | None:
    """The prices given, in money a million tokens."""
    if options.price_prompt is None or options.price_output is None:
        return None
    return Price(options.price_prompt, options.price_output)
