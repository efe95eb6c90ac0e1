"""Generators by name: the built-in ones, `hf:` checkpoints, a user's file or module, and installed entry points.

A plug-in is a factory: a class or function that takes a `Context` and returns a `Generator`, and that says by an
attribute `side` ("ar" or "diffusion") which side it belongs to. It is named `path/to/file.py:factory`,
`package.module:factory`, or by an entry point of the group `dlmbench.generators`. Naming one runs its code.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from .. import InputError
from .names import BUILT_IN, HF_DYNAMIC, HF_STATIC

if TYPE_CHECKING:
    from .catalog import Context
    from .generator import Generator

ENTRY_POINTS = "dlmbench.generators"

Factory = Callable[["Context"], "Generator"]


def side_of(name: str) -> Literal["ar", "diffusion"]:
    """Which side a generator belongs to; raises InputError where the name leads to none."""
    kind = name.partition(":")[0]
    if name in BUILT_IN or kind in (HF_DYNAMIC, HF_STATIC):
        return BUILT_IN[kind].side
    side: Any = getattr(load_factory(name), "side", None)
    if side not in ("ar", "diffusion"):
        raise InputError(
            f"generator {name!r}: its factory has no attribute `side`; set it to 'ar' or 'diffusion' "
            f"(a class attribute, or factory.side = 'ar' below a function)"
        )
    return "ar" if side == "ar" else "diffusion"


def load_factory(name: str) -> Factory:
    """The factory that a plug-in's name leads to. Raises InputError with the place and what was expected."""
    place, _, attribute = name.rpartition(":")
    if not place:
        installed = {entry.name: entry for entry in entry_points(group=ENTRY_POINTS)}
        if name not in installed:
            known = ", ".join((*BUILT_IN, *installed))
            raise InputError(f"generator {name!r} is unknown; choose from {known}, or give FILE.py:FACTORY")
        try:
            found = installed[name].load()
        except (Exception, SystemExit) as error:
            text = f"{type(error).__name__}: {error}"
            raise InputError(f"generator {name!r}: its entry point cannot be loaded ({text})") from error
    else:
        module = _file_module(Path(place)) if place.endswith(".py") else _named_module(place, name)
        found = getattr(module, attribute, None)
    if not callable(found):
        raise InputError(f"generator {name!r}: {attribute!r} is not a callable in {place}; name a factory")
    factory: Factory = found
    return factory


def _file_module(path: Path) -> object:
    if not path.is_file():
        raise InputError(f"generator file {path}: no such file; give FILE.py:FACTORY")
    # Registered under its path: pickling and dataclasses look a class's module up, and a second load gets the first.
    name = f"dlmbench_plugin:{path.resolve()}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise InputError(f"generator file {path}: fails on import ({type(error).__name__}: {error})") from error
    return module


def _named_module(place: str, name: str) -> object:
    try:
        return importlib.import_module(place)
    except (Exception, SystemExit) as error:
        text = f"{type(error).__name__}: {error}"
        raise InputError(f"generator {name!r}: module {place} cannot be imported ({text})") from error
