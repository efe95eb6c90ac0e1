"""Checks of how a GPU is set: persistence, power limit, clocks, compute mode, slices (MIG), error correction (ECC)."""

from __future__ import annotations

from collections.abc import Callable

from .check_remedies import on_host
from .finding import Document, Finding, Findings, look, number, records, size

Smi = Callable[[str], str]

# Stacked memory (HBM) is 1024 bits wide or more and has bits of its own for error correction; GDDR, 512 at most, takes
# a sixteenth of its capacity and some of its bandwidth.
_STACKED_BITS = 1024


def check_gpu_settings(gpu: Document, subject: str, index: str, environment: Document) -> Findings:
    """Everything that a command can set. `index` is NVML's and nvidia-smi's."""

    def smi(arguments: str) -> str:
        return on_host(environment, f"sudo nvidia-smi -i {index} {arguments}")

    if look(gpu, "persistence") is False:
        yield Finding(
            "gpu.persistence",
            "warning",
            subject,
            "persistence mode is off",
            "the driver unloads when no process uses the GPU: prepare_s grows by seconds, clocks fall between cells, "
            "and locked clocks or a power limit may be reset unseen",
            smi("-pm 1"),
        )
    yield from _power_limit(gpu, subject, smi)
    yield from _application_clocks(gpu, subject, smi)
    if look(gpu, "compute_mode") in ("exclusive_process", "exclusive_thread", "prohibited"):
        mode = look(gpu, "compute_mode")
        yield Finding(
            "gpu.compute_mode",
            "warning",
            subject,
            f"compute mode {mode}",
            "no process may compute on it: every cell fails"
            if mode == "prohibited"
            else "the two sides of a pair need two live processes on the GPU: the second one fails",
            smi("-c DEFAULT"),
        )
    yield from _slices(gpu, subject, index, environment)
    yield from _ecc(gpu, subject, smi)


def _power_limit(gpu: Document, subject: str, smi: Smi) -> Findings:
    limit, default = number(gpu, "power_limit_w"), number(gpu, "power_limit_default_w")
    top = number(gpu, "power_limit_max_w")
    code = "gpu.power_limit"
    if limit is None:
        return
    if default is not None and limit < default - 1:
        yield Finding(
            code,
            "warning",
            subject,
            f"power limit {limit:.0f} W, default {default:.0f} W",
            "compute-bound forwards (prefill, denoising) slow before memory-bound ones (decoding): speedup falls, and "
            "energy_per_token_j is not that of the card as sold",
            smi(f"-pl {default:.0f}"),
        )
    elif top is not None and limit < top - 1:
        yield Finding(
            code,
            "info",
            subject,
            f"power limit {limit:.0f} W" + (" (default)" if limit == default else "") + f"; up to {top:.0f} W allowed",
            "throughput_tok_s of compute-bound forwards (prefill, denoising) and energy_per_token_j hold for this "
            "limit only: compare cards at the same one",
            f"for the most that the card can do: {smi(f'-pl {top:.0f}')}",
        )
    elif top is not None or default is not None:
        yield Finding(code, "ok", subject, f"power limit {limit:.0f} W: not lowered")


def _application_clocks(gpu: Document, subject: str, smi: Smi) -> Findings:
    kinds = (
        ("clock", "sm_clock_max_mhz", "graphics", "compute-bound forwards (prefill, denoising)", "speedup falls"),
        ("memory_clock", "memory_clock_max_mhz", "memory", "memory-bound forwards (decoding)", "speedup rises"),
    )
    for kind, maximum, name, slowed, ratio in kinds:
        mhz, default = number(gpu, f"application_{kind}_mhz"), number(gpu, f"application_{kind}_default_mhz")
        top = number(gpu, maximum)
        # The default may lie below the maximum: a card left at it still boosts. Only a clock that was set holds it.
        if mhz and default and top and mhz < top and mhz != default:
            yield Finding(
                f"gpu.application_{kind}",
                "warning",
                subject,
                f"application {name} clock set to {mhz:.0f} MHz (default {default:.0f}, maximum {top:.0f})",
                f"{slowed} take up to {top / mhz:.2f} times as long, the others hardly longer: {ratio}",
                smi("-rac"),
            )


def _slices(gpu: Document, subject: str, index: str, environment: Document) -> Findings:
    if look(gpu, "mig") is not True:
        return
    slices = [
        str(look(s, "name") or "?") + (f" ({size(m)})" if (m := number(s, "memory_b")) is not None else "")
        for s in records(look(gpu, "mig_slices"))
    ]
    whole = " && sudo nvidia-smi ".join(
        ("sudo nvidia-smi mig -dci -i " + index, f"mig -dgi -i {index}", f"-i {index} -mig 0")
    )
    yield Finding(
        "gpu.mig",
        "warning",
        subject,
        "split into slices (MIG)" + (f": {', '.join(slices)}" if slices else ""),
        "throughput_tok_s is that of a slice, whose peaks are a part of the datasheet's (mfu, mbu: only against peaks "
        "measured in the same run); power_w and energy_j are the whole card's, neighbours included",
        f"for the whole card, once nothing runs on any slice: {on_host(environment, whole)}",
    )


def _ecc(gpu: Document, subject: str, smi: Smi) -> Findings:
    on, pending, bits = look(gpu, "ecc"), look(gpu, "ecc_pending"), number(gpu, "memory_bus_bits")
    if not isinstance(on, bool):
        return
    code, stacked = "gpu.ecc", bits is not None and bits >= _STACKED_BITS
    state = f"memory error correction (ECC) is {'on' if on else 'off'}"
    kind = "" if bits is None else f" ({bits:.0f}-bit {'HBM' if stacked else 'GDDR'})"
    if isinstance(pending, bool) and pending != on:
        yield Finding(
            code,
            "warning",
            subject,
            f"{state}, and will be {'on' if pending else 'off'} after a reboot{kind}",
            "runs before and after the reboot differ in memory and, with GDDR, in bandwidth: a stored baseline expires",
            f"to keep it as it is: {smi(f'-e {int(on)}')}",
        )
    elif on and bits is not None and not stacked:
        yield Finding(
            code,
            "info",
            subject,
            state + kind,
            "a sixteenth of the memory and some per cent of the bandwidth are spent on it: memory-bound forwards "
            "(decoding) take that much longer than on such a card without it",
            f"only to compare with a card without it (then reboot): {smi('-e 0')}",
        )
    elif on:
        yield Finding(code, "ok", subject, state + kind)
    elif stacked:
        yield Finding(
            code,
            "info",
            subject,
            state + kind,
            "speed is the same with HBM, but a flipped bit in weights or KV goes unnoticed: quality is unprotected",
            f"to protect them (then reboot): {smi('-e 1')}",
        )
    else:
        yield Finding(
            code,
            "info",
            subject,
            state + kind,
            "with GDDR memory, bandwidth is some per cent higher and memory a fifteenth larger than with it on: "
            "memory-bound forwards (decoding) are not comparable with such a card",
            f"for figures to compare (then reboot): {smi('-e 1')}",
        )
