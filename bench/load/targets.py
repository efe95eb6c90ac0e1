"""The servers that a load goes to: from a preset or a URL and flags to an endpoint, and what it says of itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from ... import InputError
from ...models.endpoints.endpoint import RESERVED, Endpoint, Side, base_url, is_public
from ...models.endpoints.key import Key, key_from
from ...models.endpoints.presets import GENERIC, Preset, preset, presets
from ...models.endpoints.untrusted import ask_json, clean
from ...profiles.serving.record import EndpointRecord
from .options import TargetOptions

_ASK_S = 10.0
_ANSWER_B = 1 << 20


@dataclass(frozen=True, slots=True)
class Place:
    """Where a target is, before it has been asked anything. `public`: outside this machine and its private networks."""

    given: TargetOptions
    url: str
    preset: Preset | None
    key: Key | None
    public: bool


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


def place_of(given: TargetOptions) -> Place:
    """Where a target is. Raises InputError for what cannot be asked: no such preset, no URL, no key that was named."""
    known = preset(given.url) if given.url in presets() else None
    if known is None and "://" not in given.url:
        names = ", ".join(presets())
        raise InputError(f"{given.url[:80]!r}: expected a URL such as http://127.0.0.1:8000/v1, or one of {names}")
    if given.preset is not None and known is not None:
        raise InputError(f"--preset {given.preset}: {given.url} is a preset already; give a URL with it")
    url = base_url(given.url if known is None else _url(known))
    public = is_public(url)
    chosen = known or (preset(given.preset) if given.preset is not None else None)
    if given.side is not None and given.side not in ("ar", "diffusion"):
        raise InputError(f"--side {given.side[:40]!r}: expected ar or diffusion")
    if given.diffusing and not given.stream:
        raise InputError("--diffusing: is a kind of stream; leave out --no-stream")
    if reserved := [name for name in given.extra if name in RESERVED]:
        raise InputError(f"--extra {reserved[0]}: is said by a flag of its own, which the record and the budget know")
    return Place(given, url, chosen, _key(given, chosen, url, public), public)


def target_of(place: Place) -> Target:
    """Ask a server what it is. Raises InputError where it has no model that it could be asked for."""
    given, key = place.given, place.key
    listed = _models(place.url, key)
    about: dict[str, Any] = next((entry["dlmbench"] for entry in listed if isinstance(entry.get("dlmbench"), dict)), {})
    chosen = place.preset or preset("dlmbench" if about else GENERIC)
    if given.diffusing and chosen.diffusing is None:
        raise InputError(f"--diffusing: {chosen.title} has no such stream")
    sided: Side | None = given.side or chosen.side or _side(about)  # type: ignore[assignment]
    endpoint = Endpoint(
        url=place.url,
        model=given.model or chosen.model or _only(listed, place.url),
        side=sided,
        style="completions" if given.api == "completions" else "chat",
        stream=given.stream,
        ignore_eos=chosen.ignore_eos,
        replaces=given.diffusing,
        diffusing=chosen.diffusing,
        extra={**({"dlmbench_stamps": True} if about else {}), **given.extra},
        key=key,
        preset=chosen.name,
    )
    return Target(endpoint, chosen, about, place.public)


def _key(given: TargetOptions, chosen: Preset | None, url: str, public: bool) -> Key | None:
    """The key for a server: named by the user, or by the preset that the user named. No other variable is read: a key
    is sent to whom it belongs, and not to whatever server is measured next."""
    name = given.key_env
    if name is None and given.key_file is None and chosen is not None:
        # A public service's key is for that service; the variables of software that anybody may run are for any URL.
        owner = chosen.url is None or not is_public(chosen.url) or chosen.url == url
        name = chosen.key_env if owner else None
    key = key_from(name, given.key_file)
    if key is None and given.key_env is not None:
        raise InputError(f"--key-env {given.key_env[:60]}: the variable is not set; export the key there")
    if key is not None and public and urlsplit(url).scheme == "http":
        raise InputError(f"{url}: a key would go over the open network unencrypted; use https")
    return key


def _side(about: dict[str, Any]) -> str | None:
    side = about.get("side")
    return side if side in ("ar", "diffusion") else None


def _url(known: Preset) -> str:
    if known.url is None:
        raise InputError(f"{known.name}: names no server; give a URL, with --preset {known.name} if you like")
    return known.url


def _models(url: str, key: Key | None) -> list[dict[str, Any]]:
    """What `/models` lists; nothing where the server has no such list or does not answer: the load will tell."""
    answer = ask_json(f"{url}/models", key, limit_s=_ASK_S, most_b=_ANSWER_B)
    data = answer.get("data") if isinstance(answer, dict) else None
    return [clean(entry) for entry in data if isinstance(entry, dict)] if isinstance(data, list) else []


def _only(listed: Sequence[dict[str, Any]], url: str) -> str:
    """The one model that a server has. Raises InputError where it has several, or does not say."""
    names: list[str] = [entry["id"] for entry in listed if isinstance(entry.get("id"), str)]
    if len(names) == 1:
        return names[0]
    if not names:
        raise InputError(f"{url}: does not say what models it has (is it running?); give --model")
    shown = ", ".join(names[:8]) + (", …" if len(names) > 8 else "")
    raise InputError(f"{url}: has {len(names)} models; give --model, one of {shown}")
