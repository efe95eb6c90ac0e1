"""What a load may be asked for, when its requests are due, and what it may cost before somebody is asked."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlmbench import InputError
from dlmbench.bench.load.arrivals import due_times
from dlmbench.bench.load.given import extra_fields, levels, load_options, objectives, read_load_file
from dlmbench.bench.load.options import LoadOptions, TargetOptions, planned
from dlmbench.bench.load.spend import check_spending
from dlmbench.bench.load.targets import Place, place_of
from dlmbench.profiles.serving.record import Load

OPTIONS = LoadOptions(targets=(TargetOptions(url="http://127.0.0.1:1/v1"),))
TWO = (TargetOptions(url="http://a/v1"), TargetOptions(url="http://b/v1"))


def options(**fields: Any) -> LoadOptions:
    return OPTIONS.model_copy(update=fields)


def place(public: bool = True) -> Place:
    return Place(OPTIONS.targets[0], "http://8.8.8.8/v1", None, None, public)


def test_defaults_are_a_short_closed_loop() -> None:
    plan = planned(OPTIONS)
    assert [load.key for load in plan.levels] == ["concurrency=1"]
    assert (plan.requests, plan.rounds, plan.retries, plan.duration_s) == (100, 1, 0, 60.0)
    pair = planned(options(targets=TWO))
    assert (pair.requests, pair.rounds) == (20, 5)
    assert planned(options(concurrency=(2.0, 64.0))).requests == 256
    open_loop = planned(options(rate=(0.5, 2.0), arrivals="constant"))
    assert [load.key for load in open_loop.levels] == ["rate=0.5 (constant)", "rate=2 (constant)"]
    assert open_loop.requests is None


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"concurrency": (0.0,)}, "--concurrency 0"), ({"concurrency": (1.5,)}, "whole numbers"),
        ({"concurrency": (1.0, 1.0)}, "twice"), ({"concurrency": (1.0,), "rate": (1.0,)}, "closed or open"),
        ({"rate": (math.nan,)}, "nan"), ({"rate": ()}, "a number at least"),
        ({"rate": (-1.0,)}, "-1"), ({"rate": (1e5,), "duration_s": 1e4}, "shorten"), ({"arrivals": "x"}, "--arrivals"),
        ({"targets": (TargetOptions(url="a", api="x"),)}, "--api"), ({"send_ids": True}, "--send-ids"),
        ({"requests": 0}, "--requests"),
        ({"duration_s": 0}, "--duration"), ({"timeout_s": math.nan}, "--timeout"), ({"retries": 99}, "--retries"),
        ({"prompt_tokens": 0}, "--prompt-tokens"), ({"price_prompt": 1.0}, "give both"), ({"warmup": -1}, "--warmup"),
        ({"sweep": True, "targets": TWO}, "--sweep"),
        ({"sweep": True, "concurrency": (1.0, 2.0)}, "--sweep"),
        ({"objectives": {"speed": 1.0}}, "--objective"), ({"objectives": {"ttft": 0.0}}, "--objective"),
        ({"temperature": math.inf}, "--temperature"),
    ],
)  # fmt: skip
def test_what_cannot_be_asked_is_refused_by_its_flag(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said.replace("(", r"\(")):
        planned(options(**fields))


def test_objectives_and_extra_fields() -> None:
    assert objectives(["ttft=0.5,latency=2s", "e2e_per_token=20ms"]) == {
        "ttft": 0.5, "latency": 2.0, "e2e_per_token": pytest.approx(0.02)
    }  # fmt: skip
    assert extra_fields(["top_k=5", "stop=none", 'a={"b": [1]}']) == {"top_k": 5, "stop": "none", "a": {"b": [1]}}
    for wrong in ("ttft", "ttft=1.2.3", "ttft=5 min", ""):
        with pytest.raises(InputError, match="--objective"):
            objectives([wrong])
    with pytest.raises(InputError, match="NAME=VALUE"):
        extra_fields(["nothing"])


def test_levels_are_numbers_with_commas() -> None:
    assert levels("--rate", "0.5, 2") == (0.5, 2.0)
    assert levels("--rate", None) is None
    for wrong in ("x", "1,", "nan", "1;2"):
        with pytest.raises(InputError, match="--rate"):
            levels("--rate", wrong)


@given(st.sampled_from(["poisson", "constant"]), st.floats(0.5, 200), st.floats(0, 5), st.integers(0, 1 << 20))
def test_requests_are_due_in_order_and_within_the_window(kind: Any, rate: float, ramp: float, seed: int) -> None:
    due = due_times(Load(kind=kind, value=rate), 10.0, ramp, None, str(seed))
    assert due == sorted(due)
    assert all(0 <= at <= ramp + 10 for at in due)
    assert due == due_times(Load(kind=kind, value=rate), 10.0, ramp, None, str(seed))


def test_arrivals_follow_their_law() -> None:
    constant = due_times(Load(kind="constant", value=4), 10.0, 0.0, None, "0")
    assert constant == pytest.approx([0.25 * (i + 1) for i in range(40)])
    gaps = np.diff([0.0, *due_times(Load(kind="poisson", value=100), 200.0, 0.0, None, "1")])
    assert gaps.mean() == pytest.approx(0.01, rel=0.03)
    assert gaps.std() == pytest.approx(0.01, rel=0.05)  # exponential: mean and standard deviation are one
    assert abs(np.corrcoef(gaps[1:], gaps[:-1])[0, 1]) < 0.03
    ramp = due_times(Load(kind="constant", value=10), 0.1, 10.0, None, "0")
    early, late = sum(at < 5 for at in ramp), sum(5 <= at < 10 for at in ramp)
    assert (early, late) == (12, 37)  # 10 t^2 / 20: a quarter of 50 by half-time
    counted = due_times(Load(kind="constant", value=10), 100.0, 1.0, 7, "0")
    assert sum(at >= 1.0 for at in counted) == 7


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"requests": 1000}, "128,000 output tokens"),
        ({"requests": None, "concurrency": (1.0,), "sweep": True}, "nothing bounds"),
        ({"requests": 10, "ramp_s": 600.0, "concurrency": (8.0,)}, "nothing bounds"),
        ({"requests": 10, "ramp_s": 600.0, "rate": (8.0,)}, "output tokens"),
        ({"requests": 1000, "price_prompt": 1.0, "price_output": 10.0, "spend": 1.0}, r"1\.41, more than --spend 1"),
        ({"requests": 10, "spend": 1.0}, "needs --price-prompt"),
    ],
)
def test_a_public_server_is_not_sent_much_unasked(fields: dict[str, Any], said: str) -> None:
    asked = options(warmup=0, **fields)
    with pytest.raises(InputError, match=said):
        check_spending(asked, planned(asked), [place()])
    check_spending(asked, planned(asked), [place(public=False)])


def test_little_is_sent_unasked_and_so_is_what_is_within_the_price() -> None:
    little = options(requests=50, warmup=0)
    check_spending(little, planned(little), [place()])
    priced = options(requests=1000, warmup=0, price_prompt=1.0, price_output=10.0, spend=2.0)
    check_spending(priced, planned(priced), [place()])


FILE = """
[load]
concurrency = [1, 8]
output_tokens = 32
objectives = { ttft = 0.5 }
prompts = "texts.txt"

[[load.endpoint]]
url = "http://127.0.0.1:8000/v1"
side = "ar"
extra = { top_k = 5 }

[[load.endpoint]]
url = "mercury"
diffusing = true
key_file = "key"
"""


def test_a_file_says_what_flags_say(tmp_path: Path) -> None:
    file = tmp_path / "load.toml"
    file.write_text(FILE)
    found = read_load_file(file)
    first, second = found.targets
    assert (first.url, first.side, first.extra) == ("http://127.0.0.1:8000/v1", "ar", {"top_k": 5})
    assert (second.url, second.diffusing, second.key_file) == ("mercury", True, tmp_path / "key")
    assert (found.concurrency, found.output_tokens, found.prompts) == ((1, 8), 32, tmp_path / "texts.txt")
    assert planned(found).objectives == {"ttft": 0.5}
    merged = load_options(
        [str(file)], {"model": None}, {"rate": (2.0,), "output_tokens": 64, "warmup": 0, "sweep": False}
    )
    assert (merged.rate, merged.concurrency, merged.output_tokens, merged.warmup) == ((2,), None, 64, 0)
    file.write_text(f"description = 'a suite'\n{FILE}\n[[grid]]\npairs = ['small']\n")
    assert read_load_file(file) == found  # of a suite, its load
    with pytest.raises(InputError, match="says it of each endpoint"):
        load_options([str(file)], {"model": "m"}, {})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("seed = 1\n[load]\n[[load.endpoint]]\nurl = 'x'", "seed: only a suite"),
        ("[load]\nconcurrency = []\n[[load.endpoint]]\nurl = 'x'", "--concurrency: expected a number"),
        ("", "expected a table"), ("[loads]\n", "expected a table"), ("[load]\n", "load.endpoint"),
        ("[load]\nspeed = 1\n[[load.endpoint]]\nurl = 'x'", "load.speed"), ("x", "not valid TOML"),
        ("[load]\nsweep = 1\n[[load.endpoint]]\nurl = 'x'", "load.sweep"),
        ("[load]\nrequests = 1.5\n[[load.endpoint]]\nurl = 'x'", "load.requests"),
        ("[load]\n[[load.endpoint]]\nurl = 3", "load.endpoint.0.url"),
        ("[load]\n[[load.endpoint]]\nurl = 'x'\nkey = 'sk'", "load.endpoint.0.key"),
    ],
)  # fmt: skip
def test_what_is_no_file_of_a_load(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "load.toml"
    file.write_text(text)
    with pytest.raises(InputError, match=said):
        planned(read_load_file(file))


def test_flags_of_two_servers() -> None:
    found = load_options(["http://a/v1", "http://b/v1"], {"model": "m, n", "side": "ar,diffusion", "api": "chat"}, {})
    assert [(t.model, t.side, t.api, t.stream) for t in found.targets] == [
        ("m", "ar", "chat", True), ("n", "diffusion", "chat", True)
    ]  # fmt: skip
    assert not load_options(["http://a/v1"], {}, {}, at_once=True).targets[0].stream
    for count in (0, 3):
        with pytest.raises(InputError, match=f"{count} targets"):
            load_options(["http://a/v1"] * count, {}, {})


def test_a_key_goes_to_one_server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("A_KEY", "B_KEY", "INCEPTION_API_KEY"):
        monkeypatch.setenv(name, f"sk-{name}-0123456789")
    file = tmp_path / "key"
    file.write_text("sk-0123456789")
    two = ["http://127.0.0.1:1/v1", "http://127.0.0.1:2/v1"]
    for flags in ({"key_env": "A_KEY"}, {"key_file": file}):
        with pytest.raises(InputError, match="would send one key to two servers"):
            load_options(two, flags, {})

    def origins(places: list[str], **flags: Any) -> list[str | None]:
        found = [place_of(given).key for given in load_options(places, flags, {}).targets]
        return [None if key is None else key.origin for key in found]

    assert origins(two, key_env="A_KEY,B_KEY") == ["environment variable A_KEY", "environment variable B_KEY"]
    assert origins(two, key_env=",B_KEY") == [None, "environment variable B_KEY"]
    assert origins([two[0], f"{two[0]}/"], key_file=file) == ["file key", "file key"]
    assert origins(["mercury"]) == ["environment variable INCEPTION_API_KEY"]
    # Asked as Mercury is, but not Mercury.
    assert origins(two[:1], preset="mercury") == [None]


@pytest.mark.parametrize("name", ["max_tokens", "n", "stream", "model"])
def test_what_has_a_flag_is_no_extra_field(name: str) -> None:
    with pytest.raises(InputError, match="a flag of its own"):
        place_of(TargetOptions(url="http://127.0.0.1:1/v1", extra={name: 5}))
