"""The servers that a load goes to: from a preset or a URL and flags to an endpoint, and what it says of itself."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from ... import InputError
from ...models.endpoints.endpoint import Endpoint, Side, base_url, is_public
from ...models.endpoints.key import key_from
from ...models.endpoints.presets import GENERIC, Preset, preset, presets
from ...profiles.serving.record import EndpointRecord
from .options import LoadOptions

_ASK_S = 10.0
_ANSWER_B = 1 << 20


@dataclass(frozen=True, slots=True)
class Target:
    """An endpoint, its preset, and what it said of itself."""

    endpoint: Endpoint
    preset: Preset
    about: dict[str, Any]
    public: bool

    def record(self) -> EndpointRecord:
        """What is kept of it: of the key, where it came from."""
        endpoint = self.endpoint
        return EndpointRecord(
            url=endpoint.url,
            model=endpoint.model,
            side=endpoint.side,
            style=endpoint.style,
            stream=endpoint.stream,
            preset=endpoint.preset,
            ignore_eos=endpoint.ignore_eos,
            replaces=endpoint.replaces,
            extra=dict(endpoint.extra),
            key=None if endpoint.key is None else endpoint.key.origin,
            public=self.public,
            about=self.about,
        )


def targets_of(options: LoadOptions) -> list[Target]:
    """All targets. Raises InputError for what cannot be asked: no such preset, no URL, no model."""
    count = len(options.targets)
    named = [_each(flag, text, count) for flag, text in (
        ("--preset", options.preset), ("--model", options.model), ("--side", options.side),
        ("--key-env", options.key_env),
    )]  # fmt: skip
    extra = extra_fields(options.extra)
    return [
        _target(place, options, extra, *(values[number] for values in named))
        for number, place in enumerate(options.targets)
    ]


def _each(flag: str, text: str | None, count: int) -> list[str | None]:
    """One value a target: the same for all, or one each, with a comma."""
    if text is None:
        return [None] * count
    parts = [part.strip() for part in text.split(",")]
    if len(parts) == 1:
        return [parts[0]] * count
    if len(parts) != count or not all(parts):
        raise InputError(f"{flag} {text[:80]!r}: expected one value, or one for each of {count} targets")
    return [*parts]


def _target(
    place: str,
    options: LoadOptions,
    extra: dict[str, Any],
    preset_name: str | None,
    model: str | None,
    side: str | None,
    key_env: str | None,
) -> Target:
    known = None if "://" in place else preset(place) if place in presets() else None
    if known is None and "://" not in place:
        names = ", ".join(presets())
        raise InputError(f"{place[:80]!r}: expected a URL such as http://127.0.0.1:8000/v1, or one of {names}")
    if preset_name is not None and known is not None:
        raise InputError(f"--preset {preset_name}: {place} is a preset already; give a URL with it")
    url = base_url(place if known is None else _url(known))
    chosen = known or (preset(preset_name) if preset_name is not None else None)
    key = key_from(key_env or (chosen.key_env if chosen else None), options.key_file)
    if key is None and key_env is not None:
        raise InputError(f"--key-env {key_env[:60]}: the variable is not set; export the key there")
    listed = _models(url, None if key is None else key.header())
    about: dict[str, Any] = next((entry["dlmbench"] for entry in listed if isinstance(entry.get("dlmbench"), dict)), {})
    if chosen is None:
        chosen = preset("dlmbench" if about else GENERIC)
        key = key or key_from(chosen.key_env, None)
    found = model or chosen.model or _only(listed, url)
    if side is not None and side not in ("ar", "diffusion"):
        raise InputError(f"--side {side[:40]!r}: expected ar or diffusion")
    if options.diffusing and chosen.diffusing is None:
        raise InputError(f"--diffusing: {chosen.title} has no such stream")
    sided: Side | None = side or chosen.side or about.get("side")  # type: ignore[assignment]
    endpoint = Endpoint(
        url=url,
        model=found,
        side=sided,
        style="completions" if options.api == "completions" else "chat",
        stream=options.stream,
        ignore_eos=chosen.ignore_eos,
        replaces=options.diffusing,
        diffusing=chosen.diffusing,
        extra={**({"dlmbench_stamps": True} if about else {}), **extra},
        key=key,
        preset=chosen.name,
    )
    public = is_public(url)
    if key is not None and public and urlsplit(url).scheme == "http":
        raise InputError(f"{url}: a key would go over the open network unencrypted; use https")
    return Target(endpoint, chosen, about, public)


def _url(known: Preset) -> str:
    if known.url is None:
        raise InputError(f"{known.name}: names no server; give a URL, with --preset {known.name} if you like")
    return known.url


def extra_fields(given: Sequence[str]) -> dict[str, Any]:
    """`name=JSON` fields of every request; what is no JSON is a text. Raises InputError."""
    found: dict[str, Any] = {}
    for entry in given:
        name, separator, value = entry.partition("=")
        if not separator or not name.strip():
            raise InputError(f"--extra {entry[:60]!r}: expected NAME=VALUE, a field of every request")
        try:
            found[name.strip()] = json.loads(value)
        except (ValueError, RecursionError):
            found[name.strip()] = value
    return found


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """The key would go with them."""

    def redirect_request(self, *_: Any) -> None:
        return None


def _models(url: str, authorization: str | None) -> list[dict[str, Any]]:
    """What `/models` lists; nothing where the server has no such list or does not answer: the load will tell."""
    request = urllib.request.Request(f"{url}/models", headers={"Accept": "application/json"})
    if authorization is not None:
        request.add_unredirected_header("Authorization", authorization)
    opener = urllib.request.build_opener(_NoRedirects, urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=_ASK_S) as answer:
            data = json.loads(answer.read(_ANSWER_B))["data"]
        return [entry for entry in data if isinstance(entry, dict)]
    except (OSError, urllib.error.URLError, ValueError, KeyError, TypeError, RecursionError):
        return []


def _only(listed: Sequence[dict[str, Any]], url: str) -> str:
    """The one model that a server has. Raises InputError where it has several, or does not say."""
    names: list[str] = [entry["id"] for entry in listed if isinstance(entry.get("id"), str)]
    if len(names) == 1:
        return names[0]
    if not names:
        raise InputError(f"{url}: does not say what models it has (is it running?); give --model")
    shown = ", ".join(names[:8]) + (", …" if len(names) > 8 else "")
    raise InputError(f"{url}: has {len(names)} models; give --model, one of {shown}")
