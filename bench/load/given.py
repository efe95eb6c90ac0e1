"""A load from the command line, from a TOML file, or from a file with flags that win over it.

[load]
concurrency = [1, 8, 32]            # or rate = [0.5, 2]; all other names are those of the flags
output_tokens = 256
objectives = { ttft = 0.5 }         # seconds

[[load.endpoint]]                   # one server, or two that are measured in turn
url = "http://127.0.0.1:8000/v1"
preset = "vllm"
side = "ar"

[[load.endpoint]]
url = "mercury"
diffusing = true
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ... import InputError
from ...profiles.versioned import first_problem
from .options import LoadOptions, TargetOptions

_Number = int | float


class _Closed(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class _Endpoint(_Closed):
    url: str
    preset: str | None = None
    model: str | None = None
    side: str | None = None
    api: str = "chat"
    stream: bool = True
    diffusing: bool = False
    key_env: str | None = None
    key_file: str | None = None
    extra: dict[str, Any] = Field(default_factory=dict)


class _Load(_Closed):
    endpoint: list[_Endpoint] = Field(min_length=1, max_length=2)
    concurrency: int | list[int] | None = None
    rate: _Number | list[_Number] | None = None
    objectives: dict[str, _Number] = Field(default_factory=dict)
    arrivals: str | None = None
    sweep: bool | None = None
    requests: int | None = None
    duration: _Number | None = None
    ramp: _Number | None = None
    warmup: int | None = None
    rounds: int | None = None
    prompt_tokens: int | None = None
    output_tokens: int | None = None
    tokenizer: str | None = None
    prompts: str | None = None
    send_ids: bool | None = None
    temperature: _Number | None = None
    timeout: _Number | None = None
    retries: int | None = None
    fresh: bool | None = None
    together: _Number | None = None
    price_prompt: _Number | None = None
    price_output: _Number | None = None
    spend: _Number | None = None
    seed: int | None = None


_RENAMED = {"duration": "duration_s", "ramp": "ramp_s", "timeout": "timeout_s", "together": "together_s"}


def load_options(
    places: Sequence[str], servers: Mapping[str, Any], load: Mapping[str, Any], *, at_once: bool = False
) -> LoadOptions:
    """The options of a command line. `places` are URLs, presets, or one TOML file; `servers` and `load` are the flags
    that were given (None, False and () are not), by the names of `TargetOptions` and `LoadOptions`.

    A flag of servers may hold one value for each, separated by a comma; `at_once` asks all for no stream. Raises
    InputError.
    """
    servers, load = _only_given(servers), _only_given(load)
    if len(places) == 1 and places[0].endswith(".toml") and "://" not in places[0]:
        if servers or at_once:
            name = next(iter(servers), "no-stream").replace("_", "-")
            raise InputError(f"--{name}: {places[0]} says it of each endpoint; change it there")
        return _merged(read_load_file(Path(places[0])), load)
    targets: list[dict[str, Any]] = [{"url": place, "stream": not at_once} for place in places]
    _own_keys(places, servers)
    for name, value in servers.items():
        values = _each(name, value, len(places)) if isinstance(value, str) else [value] * len(places)
        for target, own in zip(targets, values, strict=True):
            if own != "":
                target[name] = own
    return LoadOptions(targets=tuple(TargetOptions(**target) for target in targets), **load)


def _own_keys(places: Sequence[str], servers: Mapping[str, Any]) -> None:
    """Raise InputError where one key would go to two servers, of which one has no business with it."""
    hosts = {urlsplit(place).netloc or place for place in places}
    if len(hosts) > 1 and "key_file" in servers:
        raise InputError("--key-file: would send one key to two servers; give a TOML file with key_file of each")
    if len(hosts) > 1 and "key_env" in servers and "," not in str(servers["key_env"]):
        raise InputError("--key-env: would send one key to two servers; name one each, with a comma (A, or ,B for one)")


def _only_given(flags: Mapping[str, Any]) -> dict[str, Any]:
    """Without what was not given; 0 was."""
    return {name: value for name, value in flags.items() if value is not None and value is not False and value != ()}


def _each(name: str, text: str, count: int) -> list[str]:
    """One value a server: the same for all, or one each, with a comma."""
    parts = [part.strip() for part in text.split(",")]
    if len(parts) == 1:
        return parts * count
    if len(parts) != count:
        flag = f"--{name.replace('_', '-')}"
        raise InputError(f"{flag} {text[:80]!r}: expected one value, or one for each of {count} targets")
    return parts


def read_load_file(path: Path) -> LoadOptions:
    """The options in a TOML file. Raises InputError naming the file, the key and what was expected."""
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{str(path)[:200]}: cannot be read ({error}); give a readable TOML file") from None
    if set(table) != {"load"}:
        raise InputError(f"{path}: expected one table, [load]; found {', '.join(map(repr, table)) or 'none'}")
    try:
        found = _Load.model_validate(table["load"])
    except ValidationError as error:
        raise InputError(f"{path}: load.{first_problem(error)}; see dlmbench load --help") from None
    fields = found.model_dump(exclude_none=True, exclude={"endpoint", "concurrency", "rate", "objectives", "prompts"})
    options: dict[str, Any] = {_RENAMED.get(name, name): value for name, value in fields.items()}
    for name in ("concurrency", "rate"):
        value = getattr(found, name)
        if value is not None:
            options[name] = ",".join(map(repr, value if isinstance(value, list) else [value]))
    if found.prompts is not None:
        options["prompts"] = path.parent / found.prompts
    options["objectives"] = tuple(f"{name}={value!r}" for name, value in found.objectives.items())
    targets = []
    for endpoint in found.endpoint:
        own = endpoint.model_dump()
        if endpoint.key_file is not None:
            own["key_file"] = path.parent / endpoint.key_file
        targets.append(TargetOptions(**own))
    return LoadOptions(targets=tuple(targets), **options)


def _merged(options: LoadOptions, flags: Mapping[str, Any]) -> LoadOptions:
    """The file's options, flags first. A closed loop's flag takes the place of a file's open loop, and the reverse."""
    other = {"concurrency": "rate", "rate": "concurrency"}
    merged: dict[str, Any] = {other[name]: None for name in flags if name in other}
    return replace(options, **(merged | dict(flags)))


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
