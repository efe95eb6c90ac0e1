"""Suites: what ships, what an axis means, what a cell is called, and how bad suites are refused."""

from __future__ import annotations

import datetime
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dlmbench import InputError
from dlmbench.bench.suites import Pairing, checked_suite, expand, load_suite, relative, suite_names
from dlmbench.models.pairs import Pair, load_pair

SMALL = load_pair("small")


def suite_of(grid: dict[str, Any], **settings: Any) -> dict[str, Any]:
    return {"name": "mine", **settings, "grid": [{"pairs": ["small"], "lengths": [8], "steps": ["L"], **grid}]}


def expanded(grid: dict[str, Any], device: str = "cpu", **settings: Any) -> list[Pairing]:
    return expand(checked_suite(suite_of(grid, **settings), "mine.toml"), {"small": SMALL}, device)


def keys(grid: dict[str, Any], device: str = "cpu") -> list[str]:
    return [cell.key for pairing in expanded(grid, device) for cell in pairing.cells]


def load(tmp_path: Path, text: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    load_suite(str(path))


# What ships


@pytest.mark.parametrize("name", suite_names())
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_every_shipped_suite_expands(name: str, device: str) -> None:
    suite = load_suite(name)
    pairs = {reference: load_pair(reference).default for grid in suite.grid for reference in grid.pairs}
    pairings = expand(suite, pairs, device)
    seen = [cell.key for pairing in pairings for cell in pairing.cells]
    assert len(seen) == len(set(seen))
    for pairing in pairings:
        sides = [cell.side for cell in pairing.cells]
        assert sides == sorted(sides), "AR first"
        assert {"ar", "diffusion"} == set(sides), f"{pairing.name} has one side only"
        assert len({cell.shape for cell in pairing.cells}) == 1
    assert suite.description


def test_the_suites_that_the_design_names_ship() -> None:
    assert {"lesson", "quick", "standard", "ci"} <= set(suite_names())


def test_the_lesson_has_these_cells_under_these_names() -> None:
    """Keys are what baselines are found by: a changed key is a lost baseline."""
    pairing, long = expand(load_suite("lesson"), {"small": SMALL}, "cpu")
    assert pairing.name == "small/P=16,L=16,B=1,float32"
    assert [cell.key for cell in pairing.cells] == [
        "small/ar/L=16,P=16,temperature=1.0",
        "small/ar/L=16,P=16,engine=compile,temperature=1.0",
        *(
            f"small/masked-diffusion/L=16,T={t},P=16,{engine}temperature=1.0,remasking=random"
            for engine in ("", "engine=compile,")
            for t in (16, 8, 4, 2, 1)
        ),
        *(
            f"small/masked-diffusion/L=16,T={t},P=16,{engine}temperature=1.0"
            for engine in ("", "engine=compile,")
            for t in (16, 8, 4)
        ),
    ]
    assert [cell.key for cell in long.cells] == [
        "small/ar/L=96,P=16,temperature=1.0",
        "small/ar/L=96,P=16,engine=compile,temperature=1.0",
        *(
            f"small/masked-diffusion/L=96,T={t},P=16,{engine}temperature=1.0,remasking=random"
            for engine in ("", "engine=compile,")
            for t in (96, 24, 8)
        ),
    ]


# Axes


@pytest.mark.parametrize(
    ("expression", "length", "expected"),
    [("L", 64, 64), ("L/4", 64, 16), ("L/1", 7, 7), ("L/64", 64, 1), ("16", 64, 16), (16, 64, 16), ("16", 4, 16)],
)
def test_relative(expression: int | str, length: int, expected: int) -> None:
    assert relative(expression, length) == expected


@pytest.mark.parametrize(
    "expression", ["l", "L/0", "L/-2", "L/2.0", "2L", "L*2", "", " L", "L ", "0", "-1", "1.5", "٣"]
)
def test_relative_refuses_what_is_not_an_entry(expression: str) -> None:
    with pytest.raises(InputError, match="positive integer, L or L/n"):
        relative(expression, 64)


def test_relative_never_rounds() -> None:
    with pytest.raises(InputError, match=r"'L/4' is not a whole number at L=10"):
        relative("L/4", 10)


def test_tokens_per_step_is_a_divisor_of_l() -> None:
    # 8 / 1, 8 / 2, 8 / 4 steps.
    grid = {"steps": [], "tokens_per_step": [1, 2, 4]}
    assert keys(grid)[1:] == [f"small/masked-diffusion/L=8,T={steps}" for steps in (8, 4, 2)]
    with pytest.raises(InputError, match="L/3"):
        keys({"steps": [], "tokens_per_step": [3]})


def test_steps_that_come_to_the_same_are_one_cell() -> None:
    assert keys({"steps": ["L", "8", 8, "L/2", 4], "tokens_per_step": [2]}) == [
        "small/ar/L=8",
        "small/masked-diffusion/L=8,T=8",
        "small/masked-diffusion/L=8,T=4",
    ]


def test_grids_that_meet_in_a_shape_share_its_pairing() -> None:
    grid = {"pairs": ["small"], "lengths": [8], "steps": [8]}
    suite = checked_suite({"name": "mine", "grid": [grid, {**grid, "steps": [4, 8]}]}, "mine.toml")
    (pairing,) = expand(suite, {"small": SMALL}, "cpu")
    assert [cell.steps for cell in pairing.cells] == [None, 8, 4]


@pytest.mark.parametrize(
    ("grid", "expected"),
    [
        ({}, "small/masked-diffusion/L=8,T=8"),
        ({"batches": [4]}, "small/masked-diffusion/L=8,T=8,B=4"),
        ({"prompt_lengths": [0]}, "small/masked-diffusion/L=8,T=8,P=0"),
        ({"block_lengths": ["L/2"]}, "small/masked-diffusion/L=8,T=8,block=4"),
        ({"block_lengths": ["L"]}, "small/masked-diffusion/L=8,T=8"),
        ({"dtypes": ["bfloat16"]}, "small/masked-diffusion/L=8,T=8,dtype=bfloat16"),
        ({"kv_dtype": "bfloat16"}, "small/masked-diffusion/L=8,T=8,kv_dtype=bfloat16"),
        ({"engines": ["compile"]}, "small/masked-diffusion/L=8,T=8,engine=compile"),
        ({"attention": ["math"]}, "small/masked-diffusion/L=8,T=8,attention=math"),
        ({"remasking": ["random"]}, "small/masked-diffusion/L=8,T=8,remasking=random"),
        ({"caches": ["none"]}, "small/masked-diffusion/L=8,T=8"),
        ({"cfg_scale": 1.5}, "small/masked-diffusion/L=8,T=8,cfg=1.5"),
        ({"draw": "gumbel64"}, "small/masked-diffusion/L=8,T=8,draw=gumbel64"),
        ({"suppress_mask": False}, "small/masked-diffusion/L=8,T=8,suppress_mask=False"),
        ({"idle_steps": "run"}, "small/masked-diffusion/L=8,T=8,idle_steps=run"),
        (
            {"temperature": 0.7, "top_k": 5, "top_p": 0.9},
            "small/masked-diffusion/L=8,T=8,temperature=0.7,top_k=5,top_p=0.9",
        ),
        ({"length_policy": "natural"}, "small/masked-diffusion/L=8,T=8,policy=natural"),
    ],
)
def test_a_key_lists_only_the_axes_that_leave_their_defaults(grid: dict[str, Any], expected: str) -> None:
    assert keys(grid)[-1] == expected


def test_remasking_does_not_multiply_ar() -> None:
    assert [k for k in keys({"remasking": ["low_confidence", "random"]}) if "/ar/" in k] == ["small/ar/L=8"]


def test_automatic_axes_follow_the_device() -> None:
    assert keys({}, "cpu") == ["small/ar/L=8", "small/masked-diffusion/L=8,T=8"]
    assert keys({}, "cuda") == [
        "small/ar/L=8,dtype=bfloat16",
        "small/ar/L=8,dtype=bfloat16,engine=cudagraph",
        "small/masked-diffusion/L=8,T=8,dtype=bfloat16",
        "small/masked-diffusion/L=8,T=8,dtype=bfloat16,engine=cudagraph",
    ]


def test_foreign_generators_run_on_their_own_engine_only() -> None:
    found = keys({"engines": ["eager", "compile"], "generators": ["hf"]})
    assert [key for key in found if "/hf/" in key] == ["small/hf/L=8"]


def test_a_grid_may_override_processes_and_budget() -> None:
    grid = {"pairs": ["small"], "lengths": [8], "steps": [8]}
    table = {"name": "mine", "processes": 5, "budget_s": 3.0, "grid": [grid, {**grid, "lengths": [16], "processes": 1}]}
    first, second = expand(checked_suite(table, "mine.toml"), {"small": SMALL}, "cpu")
    assert (first.processes, first.budget_s) == (5, 3.0)
    assert (second.processes, second.budget_s) == (1, 3.0)


# Exclusions


def test_an_exclusion_leaves_out_cells_that_match_all_its_fields() -> None:
    grid = {"lengths": [8, 16], "steps": ["L", "L/2"], "exclude": [{"length": 16, "steps": 16}, {"length": 8}]}
    assert keys(grid) == ["small/ar/L=16", "small/masked-diffusion/L=16,T=8"]


def test_excluding_everything_is_refused() -> None:
    with pytest.raises(InputError, match="no cell is left"):
        expanded({"exclude": [{"length": 8}]})
    with pytest.raises(InputError, match="empty exclusion"):
        expanded({"exclude": [{}]})


# Refusals: file, key, what was found, what was expected


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("length = [16]", ["mine.toml", "grid.0.length", "Extra inputs"]),
        ("batches = 4", ["mine.toml", "grid.0.batches", "tuple", "found 4"]),
        ("batches = ['x']", ["mine.toml", "grid.0.batches.0", "integer", "found 'x'"]),
        ("batches = [0]", ["mine.toml", "grid.0.batches.0", "greater than or equal to 1", "found 0"]),
        ("batches = []", ["mine.toml", "grid.0.batches", "at least 1 item"]),
        ("dtypes = ['int3']", ["mine.toml", "grid.0.dtypes.0", "bfloat16", "found 'int3'"]),
        ("block_lengths = ['L/0']", ["mine.toml", "grid.0.block_lengths.0", "positive integer, L or L/n"]),
        ("block_lengths = [1.5]", ["mine.toml", "grid.0.block_lengths", "integers or strings"]),
        ("temperature = -1", ["mine.toml", "grid.0.temperature", "found -1"]),
        ("temperature = nan", ["mine.toml", "grid.0.temperature", "found nan"]),
        ("caches = ['stale']", ["mine.toml", "grid.0.caches.0", "'prefix'", "found 'stale'"]),
        ("samplers = [3]", ["mine.toml", "grid.0.samplers.0", "string", "found 3"]),
        ("threshold = 1.5", ["mine.toml", "grid.0.threshold", "less than or equal to 1", "found 1.5"]),
        ("factor = 0", ["mine.toml", "grid.0.factor", "greater than 0", "found 0"]),
        ("entropy_bound = inf", ["mine.toml", "grid.0.entropy_bound", "finite", "found inf"]),
        ("cfg_scale = -1", ["mine.toml", "grid.0.cfg_scale", "found -1"]),
        ("epsilon = 1.0", ["mine.toml", "grid.0.epsilon", "equal to 0.99", "found 1.0"]),
        ("draw = 'gumbel'", ["mine.toml", "grid.0.draw", "gumbel64", "found 'gumbel'"]),
        ("suppress_mask = 0", ["mine.toml", "grid.0.suppress_mask", "boolean", "found 0"]),
        ("idle_steps = true", ["mine.toml", "grid.0.idle_steps", "'skip'", "found True"]),
        ("exclude = [{colour = 'red'}]", ["mine.toml", "grid.0.exclude.0.colour", "Extra inputs"]),
        ("budget_s = 0", ["mine.toml", "grid.0.budget_s", "greater than 0"]),
    ],
)
def test_a_bad_key_is_named_with_what_was_found_and_expected(tmp_path: Path, line: str, words: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        load(tmp_path, f"[[grid]]\npairs = ['small']\nlengths = [8]\nsteps = ['L']\n{line}\n")
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ["grid", "required"]),
        ("grid = []", ["grid", "at least 1 item"]),
        ("[[grid]]\npairs = ['small']\nlengths = [8]\n", ["grid.0", "steps or tokens_per_step"]),
        ("[[grid]]\npairs = ['small']\nlengths = [8]\nsteps = [4.0]\n", ["steps", "integers or strings such as 'L/4'"]),
        ("[[grid]]\npairs = []\nlengths = [8]\nsteps = [4]\n", ["grid.0.pairs", "at least 1 item"]),
        ("[[grid]]\nlengths = [8]\nsteps = [4]\n", ["grid.0.pairs", "required"]),
        ("name = 'other'\n", ["name", "named by its file"]),
        ("processes = 0\n", ["processes", "found 0"]),
        ("processes = 'many'\n", ["processes", "found 'many'"]),
        ("target_ci = 1.5\n", ["target_ci", "less than 1", "found 1.5"]),
        ("colour = 'red'\n[[grid]]\npairs = ['small']\nlengths = [8]\nsteps = [4]\n", ["colour"]),
        ("min_samples = 9\nmax_samples = 3\n[[grid]]\npairs = ['a']\nlengths = [8]\nsteps = [4]\n", ["max_samples"]),
        ("grid = [", ["mine.toml", "not valid TOML"]),
        ("a = 1\na = 2\n", ["mine.toml", "not valid TOML"]),
    ],
)
def test_a_bad_suite_is_refused_in_one_line(tmp_path: Path, text: str, words: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        load(tmp_path, text)
    assert "mine.toml" in str(caught.value)
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("grid", "words"),
    [
        ({"steps": [9]}, ["grid 0", "T=9", "L=8", "choose T <= L"]),
        ({"lengths": [10], "block_lengths": [4]}, ["L=10", "not divisible by 4"]),
        ({"lengths": [16], "block_lengths": [4], "steps": [6]}, ["T=6", "4 blocks", "multiple of 4"]),
        ({"lengths": [4090]}, ["prompt 32 + length 4090", "4096 positions", "small"]),
        ({"generators": ["nosuch"]}, ["generator 'nosuch'", "choose from"]),
    ],
)
def test_cells_that_no_sampler_can_run_are_refused(grid: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        expanded(grid)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    "name", ["nosuch", "", "../suites/quick", "..", "/etc/passwd", "..\\quick", "quick.tom", "QUICK"]
)
def test_an_unknown_or_path_like_name_is_refused_with_the_names_that_exist(name: str) -> None:
    with pytest.raises(
        InputError, match="choose from ci, continuum, gpu, gpu-systems, lesson, quick, schedules, standard"
    ):
        load_suite(name)


@pytest.mark.parametrize("name", ["nosuch", "", "../pairs/small", "..", "..\\small"])
def test_an_unknown_or_path_like_pair_is_refused(name: str) -> None:
    with pytest.raises(InputError, match=r"choose from .*small"):
        load_pair(name)


@pytest.mark.parametrize("content", [None, b"\xff\xfe[[grid]]", b"\0"])
def test_a_suite_file_that_cannot_be_read_is_refused(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "mine.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=r"mine\.toml"):
        load_suite(str(path))


def test_a_folder_is_not_a_suite_file(tmp_path: Path) -> None:
    (tmp_path / "folder.toml").mkdir()
    with pytest.raises(InputError, match=r"folder\.toml: cannot be read"):
        load_suite(str(tmp_path / "folder.toml"))


def test_a_name_longer_than_any_file_name_is_unknown() -> None:
    with pytest.raises(InputError, match="unknown"):
        load_suite("a" * 5000)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("budget_s = " + "9" * 5000, id="5000 digits"),
        pytest.param("a = " + "[" * 5000 + "]" * 5000, id="5000 brackets"),
        pytest.param("processes = 1" + "0" * 400, id="10^400"),
    ],
)
def test_absurd_toml_is_refused_like_any_other(tmp_path: Path, text: str) -> None:
    with pytest.raises(InputError, match=r"mine\.toml"):
        load(tmp_path, text)


def test_an_axis_entry_of_5000_digits_is_refused() -> None:
    with pytest.raises(InputError):
        expanded({"steps": ["9" * 5000]})


@pytest.mark.parametrize("name", ["budget_s", "hang_s", "warmup_s", "foreign_limit"])
def test_settings_must_be_finite(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=name):
        load(tmp_path, f"{name} = inf\n[[grid]]\npairs = ['small']\nlengths = [8]\nsteps = [4]\n")


@pytest.mark.parametrize("line", ["batches = [true]", "top_k = true", "batches = ['4']", "temperature = '1'"])
def test_a_value_of_another_type_is_not_taken_for_a_number(tmp_path: Path, line: str) -> None:
    with pytest.raises(InputError):
        load(tmp_path, f"[[grid]]\npairs = ['small']\nlengths = [8]\nsteps = [4]\n{line}\n")


# Whatever TOML can hold

_scalars = st.one_of(
    st.booleans(),
    st.integers(-4, 40),
    st.integers(),
    st.floats(),
    st.sampled_from(["L", "L/2", "L/0", "small", "auto", "float32", "ar", "natural", "random", "hf", "eager", "٣"]),
    st.text(max_size=6),
    st.dates(),
    st.datetimes(timezones=st.just(datetime.UTC)),
)
_values = st.recursive(
    _scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
_grid_keys = st.sampled_from(
    ["pairs", "lengths", "steps", "tokens_per_step", "block_lengths", "batches", "prompt_lengths", "dtypes", "kv_dtype",
     "engines", "attention", "remasking", "temperature", "top_k", "top_p", "length_policy", "generators", "exclude",
     "processes", "budget_s", "surprise", "samplers", "caches", "threshold", "factor", "entropy_bound",
     "commit_schedule", "cfg_scale", "position_temperature", "epsilon", "draw", "suppress_mask", "idle_steps"]
)  # fmt: skip
_suite_keys = st.sampled_from(
    ["description", "processes", "budget_s", "target_ci", "min_samples", "max_samples", "warmup_s", "hang_s",
     "foreign_limit", "seed", "grid", "surprise"]
)  # fmt: skip
_exclusion = st.dictionaries(st.sampled_from(["length", "steps", "batch", "side", "engine"]), _values, max_size=2)
_grid = st.dictionaries(_grid_keys, _values | st.lists(_exclusion, max_size=2), max_size=3)


def _expand_or_refuse(table: dict[str, Any]) -> None:
    pairs: dict[str, Pair] = defaultdict(lambda: SMALL)
    try:
        suite = checked_suite(table, "mine.toml")
        for pairing in expand(suite, pairs, "cpu"):
            assert pairing.cells
    except InputError:
        return


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(_grid, st.dictionaries(_suite_keys, _values, max_size=2))
def test_any_table_gives_a_suite_or_an_input_error(grid: dict[str, Any], top: dict[str, Any]) -> None:
    _expand_or_refuse({**suite_of({}), **top})
    _expand_or_refuse({**suite_of(grid), **{name: value for name, value in top.items() if name != "grid"}})


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=60) | st.text("[]{}=\"'\n,.#_aL10 ", max_size=60).map(str.encode))
def test_any_bytes_give_a_suite_or_an_input_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "mine.toml"
    path.write_bytes(content)
    with pytest.raises(InputError):
        load_suite(str(path))
