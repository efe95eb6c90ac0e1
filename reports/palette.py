"""The colours of every figure and page, light and dark: AR is warm and diffusion is cool, everywhere.

Within a side a ramp runs from light to deep: few steps to many, early to late. The two families stay apart under the
common colour-vision deficiencies (orange against blue), and colour is never the only mark: lines and bars are named.

Kernel categories, and the parts of memory that belong to them (weights: matmul, KV: attention, logits: sampler), are
dark on light and light on dark, so that a number in the paper's colour reads on each of them in both themes; on `other`
and `idle`, which are pale, ink does. Their lightness tells them apart under red-green deficiencies.
"""

from __future__ import annotations

RAMP_LEVELS = 8


def _ramp(side: str, anchors: tuple[str, str, str]) -> dict[str, str]:
    """RAMP_LEVELS colours through three anchors: `ar-0` (light, few or early) to `ar-7` (deep, many or late)."""
    colours = {}
    for level in range(RAMP_LEVELS):
        at = 2 * level / (RAMP_LEVELS - 1)
        first, second = (anchors[0], anchors[1]) if at < 1 else (anchors[1], anchors[2])
        mix = at if at < 1 else at - 1
        channels = (round(int(first[i : i + 2], 16) * (1 - mix) + int(second[i : i + 2], 16) * mix) for i in (1, 3, 5))
        colours[f"{side}-{level}"] = "#" + "".join(f"{channel:02x}" for channel in channels)
    return colours


LIGHT = {
    "ink": "#1c2230",
    "muted": "#5d6678",
    "grid": "#e4e7ee",
    "paper": "#fefefe",
    "ar": "#c8500a",
    "diffusion": "#0b6cb8",
    "prefill": "#a3adc2",
    "forward": "#55617b",
    "sampling": "#c76aa3",
    "idle": "#dfe3eb",
    "matmul": "#3b6cc0",
    "attention": "#0d5c56",
    "normalisation": "#8f6a00",
    "sampler": "#c03a8e",
    "copy": "#232a38",
    "other": "#a9b1c1",
    **_ramp("ar", ("#f2a91d", "#d96a05", "#8f2f06")),
    **_ramp("diffusion", ("#17a398", "#1478c8", "#4b2f9e")),
}
DARK = {
    "ink": "#e8ebf2",
    "muted": "#a0a9bb",
    "grid": "#2b3240",
    "paper": "#161a22",
    "ar": "#ff9650",
    "diffusion": "#62b2ff",
    "prefill": "#5f6b85",
    "forward": "#93a1c0",
    "sampling": "#e58fc2",
    "idle": "#313949",
    "matmul": "#8db4ff",
    "attention": "#2f9d8f",
    "normalisation": "#e3c25c",
    "sampler": "#f0a3d2",
    "copy": "#f0f3f8",
    "other": "#5a6377",
    **_ramp("ar", ("#ffd778", "#ff9a4d", "#e0582f")),
    **_ramp("diffusion", ("#6fe6d6", "#5aa9f5", "#a68bfa")),
}
_ROLE = {colour: role for role, colour in LIGHT.items()}


def side_colour(side: str, level: float | None = None) -> str:
    """The colour of a side; with `level` in [0, 1], its place on the side's ramp."""
    if level is None:
        return LIGHT[side]
    return LIGHT[f"{side}-{round(min(max(level, 0.0), 1.0) * (RAMP_LEVELS - 1))}"]


def palette_css(palette: dict[str, str]) -> str:
    """The palette as CSS custom properties: `--c-ar: #c8500a; …`."""
    return " ".join(f"--c-{role}: {colour};" for role, colour in palette.items())


def css_variable(colour: str) -> str:
    """The CSS variable behind a colour of the light palette; any other colour is returned as it is."""
    return f"var(--c-{_ROLE[colour]})" if colour in _ROLE else colour
