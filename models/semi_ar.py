"""Outputs longer than the model: MDLM's semi-autoregressive extension (Sahoo et al. 2024).

A first window as long as the model is denoised; then the window moves on by a stride, what it still covers becomes
context, and the stride's new positions are denoised beside it. (The published code steps each window by 1/1000 of the
time; here a window has T steps, as any canvas.) Arithmetic only: no data.
"""

from __future__ import annotations

from dataclasses import dataclass

from .. import InputError


@dataclass(frozen=True, slots=True)
class Window:
    """A stretch of prompt and output, from position `start`: `given` positions of context, then `new` ones."""

    start: int
    given: int
    new: int


def windows(prompt_length: int, length: int, model_length: int, stride: int | None = None) -> list[Window]:
    """The windows that cover prompt and output in turn, all of one size, so that one compiled forward serves them.

    Where both fit into the model there is one. Else a window has the model's length; the first denoises all that the
    prompt leaves free in it, each later one `stride` positions (default: half the model's length), the last one what
    is left, with more context.

    >>> [(w.start, w.given, w.new) for w in windows(2, 19, 8, 4)]
    [(0, 2, 6), (4, 4, 4), (8, 4, 4), (12, 4, 4), (13, 7, 1)]
    """
    total = prompt_length + length
    if total <= model_length:
        if stride is not None and stride < length:
            raise InputError(
                f"block length {stride}: MDLM denoises a canvas of {length} whole; it moves in strides only where "
                f"prompt and output exceed the model's {model_length} positions; leave block_length out"
            )
        return [Window(0, prompt_length, length)]
    if prompt_length >= model_length:
        raise InputError(
            f"prompt length {prompt_length} leaves nothing to denoise in a window of the model's {model_length} "
            f"positions; choose a prompt of at most {model_length - 1}"
        )
    stride = max(1, model_length // 2) if stride is None else stride
    if stride >= model_length:
        raise InputError(
            f"block length {stride}: a stride must leave context in the model's window of {model_length} positions; "
            f"choose 1 to {model_length - 1}"
        )
    found = [Window(0, prompt_length, model_length - prompt_length)]
    done = model_length
    while done < total:
        new = min(stride, total - done)
        found.append(Window(done + new - model_length, model_length - new, new))
        done += new
    return found
