"""Generators by name: a user's file or module, and one clear line for each way that a name can lead nowhere."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from dlmbench import InputError
from dlmbench.models.autoregressive import Autoregressive
from dlmbench.models.catalog import Context, build
from dlmbench.models.config import BackboneConfig
from dlmbench.models.generator import Costed, Generator
from dlmbench.models.hf_generate import HFGenerate
from dlmbench.models.masked_diffusion import MaskedDiffusion
from dlmbench.models.plugins import load_factory, side_of

PLUGIN = '''
"""A generator of one's own: it counts up from the last prompt token."""

import torch


class Counting:
    side = "ar"

    def __init__(self, context):
        self.vocabulary = context.config.vocab_size

    def prepare(self, shape, settings):
        pass

    def generate(self, request, observer):
        column = request.prompt_ids[:, -1:]
        start, columns = request.prompt_ids.shape[1], []
        for i in range(request.length):
            phase, new = ("decode", 1) if i else ("prefill", start)
            with observer.forward("target", phase, len(column), new, start + i, len(column), "causal"):
                column = (column + 1) % self.vocabulary
            columns.append(column)
            observer.write(None, column, i, offset=i)
        return torch.cat(columns, dim=1)


def make(context):
    return Counting(context)


make.side = "ar"
sideless = lambda context: None
odd = lambda context: None
odd.side = "left"
number = 3
'''

CONFIG = BackboneConfig(
    vocab_size=10,
    hidden_size=8,
    intermediate_size=12,
    num_hidden_layers=1,
    num_attention_heads=2,
    num_key_value_heads=1,
    head_dim=4,
)


def context(**changes: object) -> Context:
    fields = {"config": CONFIG, "weights": "random", "dtype": torch.float32, "device": "cpu", "seed": 0}
    return Context(**(fields | changes))  # type: ignore[arg-type]


@pytest.fixture
def plugin(tmp_path: Path) -> Path:
    path = tmp_path / "counting.py"
    path.write_text(PLUGIN, encoding="utf-8")
    return path


@pytest.mark.parametrize("factory", ["Counting", "make"])
def test_a_file_of_thirty_lines_is_a_generator(plugin: Path, factory: str, run: Callable[..., object]) -> None:
    name = f"{plugin}:{factory}"
    assert side_of(name) == "ar"
    generator = build(name, context())
    assert isinstance(generator, Generator)
    assert not isinstance(generator, Costed)
    tokens, seen = run(generator, torch.tensor([[1, 4], [3, 8]]), 3)  # type: ignore[misc]
    assert tokens.tolist() == [[5, 6, 7], [9, 0, 1]]
    assert seen.order == "()w" * 3


def test_a_module_on_the_path_is_found(plugin: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(plugin.parent)
    monkeypatch.delitem(sys.modules, "counting", raising=False)
    assert side_of("counting:Counting") == "ar"
    assert build("counting:make", context()).side == "ar"
    del sys.modules["counting"]


def test_a_file_is_run_once(plugin: Path) -> None:
    """Two workers' loads in one process must agree on the classes."""
    assert load_factory(f"{plugin}:Counting") is load_factory(f"{plugin}:Counting")


def test_files_whose_paths_look_alike_are_kept_apart(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    for path, value in ((tmp_path / "a" / "b.py", "ar"), (tmp_path / "a_b.py", "diffusion")):
        path.write_text(f"def make(context): ...\nmake.side = {value!r}\n", encoding="utf-8")
    assert side_of(f"{tmp_path / 'a' / 'b.py'}:make") == "ar"
    assert side_of(f"{tmp_path / 'a_b.py'}:make") == "diffusion"


@pytest.mark.parametrize("attribute", ["sideless", "odd"])
def test_a_factory_must_say_its_side(plugin: Path, attribute: str) -> None:
    with pytest.raises(InputError, match=r"has no attribute `side`; set it to 'ar' or 'diffusion'"):
        side_of(f"{plugin}:{attribute}")


@pytest.mark.parametrize("attribute", ["number", "absent", ""])
def test_a_factory_must_be_callable(plugin: Path, attribute: str) -> None:
    with pytest.raises(InputError, match=rf"'{attribute}' is not a callable in .*counting\.py; name a factory"):
        load_factory(f"{plugin}:{attribute}")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"generator file .*nowhere\.py: no such file; give FILE\.py:FACTORY"):
        load_factory(f"{tmp_path}/nowhere.py:make")


@pytest.mark.parametrize(
    ("source", "reason"),
    [("import nonsense_xyz", "ModuleNotFoundError: No module"), ("1 / 0", "ZeroDivisionError"), ("def", "SyntaxError")],
)
def test_a_file_that_fails_says_why_and_can_be_mended(tmp_path: Path, source: str, reason: str) -> None:
    path = tmp_path / "broken.py"
    path.write_text(source, encoding="utf-8")
    with pytest.raises(InputError, match=rf"broken\.py: fails on import \({reason}"):
        load_factory(f"{path}:make")
    # Another size, so that no cached bytecode can stand in for it.
    path.write_text("def make(context):\n    return context\n", encoding="utf-8")
    assert callable(load_factory(f"{path}:make"))


def test_a_missing_module_is_named() -> None:
    with pytest.raises(InputError, match=r"module nonsense_xyz cannot be imported"):
        load_factory("nonsense_xyz:make")


def test_a_module_that_fails_is_refused_like_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_module_xyz.py").write_text("1 / 0", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InputError, match=r"broken_module_xyz.*ZeroDivisionError"):
        load_factory("broken_module_xyz:make")


@pytest.mark.parametrize("name", ["banana", "", ":make"])
def test_an_unknown_name_lists_the_choices(name: str) -> None:
    choices = r"is unknown; choose from ar, masked-diffusion, llada,.* hf, .*hf-static.*FILE\.py:FACT"
    with pytest.raises(InputError, match=choices):
        build(name, context())


def test_built_in_names_need_no_import() -> None:
    sides = {name: side_of(name) for name in ("ar", "masked-diffusion", "hf", "hf-static", "hf:x/y", "hf-static:x/y")}
    assert sides == {name: "diffusion" if name == "masked-diffusion" else "ar" for name in sides}


def test_built_in_generators_share_the_contexts_network() -> None:
    here = context(kv_dtype=torch.bfloat16)
    ar, diffusion = build("ar", here), build("masked-diffusion", here.for_cell("eager", None))
    assert isinstance(ar, Autoregressive)
    assert isinstance(diffusion, MaskedDiffusion)
    assert ar.network is diffusion.network is here.network()
    assert ar.kv_dtype is torch.bfloat16
    for name, kind in (("hf", "dynamic"), ("hf-static", "static")):
        reference = build(name, here.for_cell("eager", None))
        assert isinstance(reference, HFGenerate)
        assert reference.cache == kind


@pytest.mark.parametrize("name", ["ar", "masked-diffusion"])
def test_an_engine_that_cannot_run_here_is_refused_before_weights_are_made(name: str) -> None:
    here = context(engine="cudagraph")
    with pytest.raises(InputError, match="needs a CUDA device"):
        build(name, here)
    assert here._networks == {}
