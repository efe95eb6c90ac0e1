"""A load from the command line, from a TOML file, or from a file with flags that win over it. The file may be a suite
that has cells too.

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
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pydantic import ValidationError

from ... import InputError
from ...models.tables import read_table
from ...profiles.versioned import first_problem
from .options import LoadOptions


def load_options(
    places: Sequence[str], servers: Mapping[str, Any], load: Mapping[str, Any], *, at_once: bool = False
) -> LoadOptions:
    """The options of a command line. `places` are URLs, presets, or one TOML file; `servers` and `load` are the flags
    that were given (None, False and {} are not), by the names of `TargetOptions` and `LoadOptions`.

    A flag of servers may hold one value for each, separated by a comma; `at_once` asks all for no stream. Raises
    InputError.
    """
    servers, load = only_given(servers), only_given(load)
    if len(places) == 1 and places[0].endswith(".toml") and "://" not in places[0]:
        if servers or at_once:
            name = next(iter(servers), "no-stream").replace("_", "-")
            raise InputError(f"--{name}: {places[0]} says it of each endpoint; change it there")
        return _merged(read_load_file(Path(places[0])), load)
    if not 1 <= len(places) <= 2:
        raise InputError(f"{len(places)} targets: expected one, or two to be measured in turn")
    targets: list[dict[str, Any]] = [{"url": place, "stream": not at_once} for place in places]
    _own_keys(places, servers)
    for name, value in servers.items():
        values = _each(name, value, len(places)) if isinstance(value, str) else [value] * len(places)
        for target, own in zip(targets, values, strict=True):
            if own != "":
                target[name] = own
    try:
        return LoadOptions.model_validate({"targets": targets, **load})
    except ValidationError as error:
        raise InputError(f"{first_problem(error)}; see dlmbench load --help") from None


def _own_keys(places: Sequence[str], servers: Mapping[str, Any]) -> None:
    """Raise InputError where one key would go to two servers, of which one has no business with it."""
    hosts = {urlsplit(place).netloc or place for place in places}
    if len(hosts) > 1 and "key_file" in servers:
        raise InputError("--key-file: would send one key to two servers; give a TOML file with key_file of each")
    if len(hosts) > 1 and "key_env" in servers and "," not in str(servers["key_env"]):
        raise InputError("--key-env: would send one key to two servers; name one each, with a comma (A, or ,B for one)")


def only_given(flags: Mapping[str, Any]) -> dict[str, Any]:
    """Without what was not given; 0 was."""
    return {name: value for name, value in flags.items() if value is not None and value is not False and value != {}}


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
    _, table, place = read_table(str(path), kind="load", package=__package__, folder="")
    if "load" not in table:
        raise InputError(f"{place}: expected a table [load]; found {', '.join(map(repr, table)) or 'none'}")
    others = [name for name in table if name != "load"]
    if others and "grid" not in table:
        raise InputError(f"{place}: {others[0]}: only a suite, with cells, has keys beside [load]; move it there")
    try:
        return LoadOptions.model_validate(table["load"]).beside(path.parent)
    except ValidationError as error:
        raise InputError(f"{place}: load.{first_problem(error)}; see dlmbench load --help") from None


def _merged(options: LoadOptions, flags: Mapping[str, Any]) -> LoadOptions:
    """The file's options, flags first. A closed loop's flag takes the place of a file's open loop, and the reverse."""
    other = {"concurrency": "rate", "rate": "concurrency"}
    return options.model_copy(update={other[name]: None for name in flags if name in other} | dict(flags))


def levels(flag: str, text: str | None) -> tuple[float, ...] | None:
    """`1,8,32` as numbers. Raises InputError."""
    if text is None:
        return None
    values = [_number(part) for part in text.split(",")]
    for part, value in zip(text.split(","), values, strict=True):
        if value is None:
            raise InputError(f"{flag} {part.strip()[:40]!r}: expected numbers, with commas")
    return tuple(value for value in values if value is not None)


def objectives(given: Sequence[str]) -> dict[str, float]:
    """`ttft=0.5` and the like, in seconds (`e2e_per_token` in seconds a token). Raises InputError."""
    found: dict[str, float] = {}
    for part in ",".join(given).split(",") if given else ():
        match = re.fullmatch(r"\s*([a-z0-9_]+)\s*=\s*([0-9.]+(?:e[+-]?[0-9]+)?)\s*(ms|s)?\s*", part)
        value = None if match is None else _number(match[2])
        if match is None or value is None:
            raise InputError(f"--objective {part[:60]!r}: expected NAME=SECONDS, such as ttft=0.5 or ttft=500ms")
        found[match[1]] = value * (1e-3 if match[3] == "ms" else 1)
    return found


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


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
