"""What a side finds where: its own copy before any that the parent environment has in any way, and never the user's."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path
from typing import Any

import pytest

from dlmbench.bench.gate import overlay
from dlmbench.bench.gate.overlay import Places

# An editable install that finds its package by an import hook, put in front of everything as some build tools do.
HOOK = """
import importlib.util, os, sys
class Editable:
    def find_spec(self, name, path=None, target=None):
        for source in SOURCES:
            for ending in (".py", "/__init__.py"):
                place = f"{source}/{name.replace('.', '/')}{ending}"
                if os.path.exists(place):
                    return importlib.util.spec_from_file_location(name, place)
sys.meta_path.insert(0, Editable())
"""


def tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What modules a Python of the side base finds. `kern` lies in the user's tree, which the parent has four times:
    as a normal copy, as a path in a site file, by an import hook, and by PYTHONPATH. The hook also knows a checkout
    that is not the user's."""
    root = tmp_path_factory.mktemp("overlay").resolve()
    user = tree(root / "user", {"src/kern/__init__.py": "X = 'head'", "src/kern/new.py": "", "src/fresh.py": ""})
    tree(user / ".venv/lib/site-packages", {"vendored.py": ""})
    another = tree(root / "another", {"kern/elsewhere.py": "", "space/common.py": ""})
    parent = tree(
        root / "parent",
        {
            "kern/__init__.py": "X = 'installed head'",
            "kern/new.py": "",
            "heavy/__init__.py": "",
            "other/__init__.py": "",
            "kern.pth": f"{user}/src\n",
            "hook.pth": "import hook\n",
            "hook.py": HOOK.replace("SOURCES", repr([f"{user}/src", str(another)])),
            "first.pth": f"import sys; sys.path.insert(0, {str(user / 'src')!r})\n",
            "environment.pth": f"{user}/.venv/lib/site-packages\n",
        },
    )
    own, checkout = root / "environment", tree(root / "checkout", {"mine.py": "", "src/only_base.py": ""})
    venv.EnvBuilder(symlinks=True, with_pip=False).create(own)
    site = Path(sysconfig.get_path("purelib", "venv", {"base": str(own)}))
    tree(site, {"kern/__init__.py": "X = 'base'", "kern/old.py": "", "space/kern.py": ""})
    told = {
        "tree": str(user),
        "own": [str(checkout), str(own)],
        "paths": [str(checkout), str(user / "src")],
        "sites": [str(parent)],
    }
    shutil.copyfile(overlay.__file__, site / "told.py")
    tree(site, {"told.json": json.dumps(told), "zz.pth": "import told; told.main()\n"})
    code = """
import importlib, json, sys
def where(name):
    try: return importlib.import_module(name).__file__
    except ModuleNotFoundError: return None
names = ("kern", "kern.old", "kern.new", "kern.elsewhere", "fresh", "only_base", "mine", "heavy", "other", "vendored",
         "space.kern", "space.common", "json")
import kern
print(json.dumps({"value": kern.X, "path": sys.path, **{name: where(name) for name in names}}))
"""
    python = Path(sysconfig.get_path("scripts", "venv", {"base": str(own)})) / "python"
    done = subprocess.run([python, "-P", "-c", code], capture_output=True, text=True, env={}, cwd=user / "src")
    assert done.stderr == ""
    shown: dict[str, Any] = json.loads(done.stdout)
    relative = {n: v and str(Path(v).relative_to(root)) for n, v in shown.items() if n in ("heavy", "other", "mine")}
    return shown | relative | {"root": str(root), "site": str(site), "user": str(user)}


def test_the_sides_own_copy_wins_over_every_kind_of_install(found: dict[str, Any]) -> None:
    assert found["value"] == "base"
    assert found["kern"] == f"{found['site']}/kern/__init__.py"
    assert found["kern.old"] == f"{found['site']}/kern/old.py"


def test_what_only_the_other_side_has_is_not_found(found: dict[str, Any]) -> None:
    """Neither a module below the package, which the parent's copy and hook have, nor one beside it."""
    assert (found["kern.new"], found["kern.elsewhere"], found["fresh"]) == (None, None, None)
    assert not [p for p in found["path"] if p.startswith(found["user"]) and "site-packages" not in p]


def test_the_parents_libraries_and_the_checkout_are_found(found: dict[str, Any]) -> None:
    assert (found["heavy"], found["other"]) == ("parent/heavy/__init__.py", "parent/other/__init__.py")
    assert found["mine"] == "checkout/mine.py"
    # A path into the user's tree leads to the same place in the checkout.
    assert found["only_base"] == f"{found['root']}/checkout/src/only_base.py"
    # A namespace is shared: the parent's part of it is found beside the side's.
    assert found["space.kern"] == f"{found['site']}/space/kern.py"
    assert found["space.common"] == f"{found['root']}/another/space/common.py"
    # An environment that lies in the user's tree is no part of it.
    assert found["vendored"] == f"{found['user']}/.venv/lib/site-packages/vendored.py"
    assert found["json"].startswith(sysconfig.get_path("stdlib"))


def test_places(tmp_path: Path) -> None:
    root = tmp_path.resolve()
    for folder in ("tree/src", "tree/tmp/checkout", "treehouse"):
        (root / folder).mkdir(parents=True)
    (root / "alias").symlink_to(root / "tree")
    # The side lies in the user's tree, as it does where TMPDIR does.
    places = Places(f"{root}/tree", [f"{root}/tree/tmp/checkout"])
    assert places.mapped(f"{root}/alias/src") == f"{root}/tree/tmp/checkout/src"
    assert places.mapped(f"{root}/tree") == f"{root}/tree/tmp/checkout"
    for unchanged in ("tree/tmp/checkout/src", "treehouse", "tree/v/lib/site-packages/x", "tree/d/dist-packages"):
        assert places.mapped(f"{root}/{unchanged}") == f"{root}/{unchanged}"
    assert places.of_side(f"{root}/tree/tmp/checkout/a.py")
    assert not places.of_user(f"{root}/tree/tmp/checkout/a.py")
    assert places.of_user(f"{root}/alias/src/a.py")


def test_the_overlay_needs_nothing_but_the_standard_library() -> None:
    """It runs in every Python of a side, before anything of the parent's can be found."""
    code = f"import runpy; runpy.run_path({overlay.__file__!r})"
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
