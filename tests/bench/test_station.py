"""What a worker answers when a generator misbehaves, asked in this process."""

from __future__ import annotations

import gzip
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dlmbench.bench.opened import ClocksDisagreeError, OpenCell, agree
from dlmbench.models.pairs import load_pair
from dlmbench.profiles.perfetto import trace_tracks
from dlmbench.profiles.record import Cell

PLUG = """
import torch
from dlmbench import InputError

class Good:
    side = "ar"
    forwards = None
    def __init__(self, context): pass
    def prepare(self, shape, settings): pass
    def generate(self, request, observer):
        rows, length = request.prompt_ids.shape[0], request.length
        out = torch.full((rows, length), request.seed % 100, dtype=torch.int64)
        for i in range(length):
            with observer.forward("target", "decode", rows, 1, i + 1, rows, "causal"):
                pass
            observer.write(None, out[:, i : i + 1], i, offset=i)
        return self.finish(out)
    def finish(self, out): return out

class Raises(Good):
    def finish(self, out): raise RuntimeError("boom\\non two lines \\x1b[31m")
class Refuses(Good):
    def prepare(self, shape, settings): raise InputError("not this shape")
class Wants(Good):
    def finish(self, out): return torch.empty(1 << 60, dtype=torch.uint8)
class Host(Good):
    def finish(self, out): raise MemoryError("too much")
class Short(Good):
    def finish(self, out): return out[:, :-1]
class Undecodable(Good):
    def finish(self, out): raise OSError("\\udcff.bin")
class Silent(Good):
    def generate(self, request, observer):
        return torch.zeros(request.prompt_ids.shape[0], request.length, dtype=torch.int64)
class Masked(Good):
    side = "diffusion"
    def finish(self, out): return torch.full_like(out, 383)
"""


@pytest.fixture
def ask(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """`ask(factory, operation…)`: a worker with a cell of that plug-in; the reply as the parent would read it."""
    from dlmbench.bench.station import Worker, answer

    plug = tmp_path / "plug.py"
    plug.write_text(PLUG)
    worker = Worker()

    def request(operation: str, **fields: Any) -> dict[str, Any]:
        return json.loads(json.dumps(answer(worker, {"op": operation, **fields})))

    assert request(
        "load", config=load_pair("small").ar.backbone.model_dump(), weights="random", seed=0,
        dtype="float32", device="cpu", threads=1, prompts=None, tokenizer="source",
    )["ok"]  # fmt: skip

    def sampled(factory: str, **cell: Any) -> dict[str, Any]:
        values = {"pair": "small", "side": "ar", "generator": f"{plug}:{factory}", "length": 4, **cell}
        opened = request("open", id="c", cell=Cell(**values).model_dump())
        if not opened["ok"]:
            return opened
        return request("sample", id="c", order=0, round=0, prompt=0, seed=3, started_s=0.0)

    return sampled


def test_a_plug_in_that_keeps_to_the_protocol_is_measured(ask: Callable[..., dict[str, Any]]) -> None:
    sample = ask("Good", batch=2)["sample"]
    assert (sample["nfe"], sample["output_tokens"], sample["rows_tokens"]) == (4, 8, [4, 4])
    assert list(sample["time_to_k_s"]) == ["1", "2", "4"]


@pytest.mark.parametrize(
    ("factory", "code", "words"),
    [
        ("Raises", "crash", "RuntimeError: boom on two lines"),
        ("Refuses", "input", "not this shape"),
        ("Wants", "out_of_memory", "allocate memory"),
        ("Host", "out_of_memory", "MemoryError: too much"),
        ("Short", "work", "returned tokens (1, 3), expected (1, 4)"),
        ("Silent", "work", "announced 0 of 4 tokens"),
        ("Undecodable", "crash", "OSError"),
    ],
)
def test_what_goes_wrong_has_a_code_and_one_line(
    ask: Callable[..., dict[str, Any]], factory: str, code: str, words: str
) -> None:
    reply = ask(factory)
    assert (reply["ok"], reply["code"]) == (False, code)
    assert words in reply["message"]
    assert "\n" not in reply["message"]


def test_masks_left_in_the_output_are_other_work(ask: Callable[..., dict[str, Any]]) -> None:
    reply = ask("Masked", side="diffusion", steps=4)
    assert (reply["code"], reply["message"]) == ("work", "left masked positions in its output")


@pytest.mark.parametrize(("side", "generator", "steps"), [("ar", "ar", None), ("diffusion", "masked-diffusion", 2)])
def test_the_built_in_generators_do_the_work_that_their_cell_promises(
    tmp_path: Path, side: str, generator: str, steps: int | None
) -> None:
    from dlmbench.bench.station import Worker

    worker = Worker()
    worker.load(
        config=load_pair("small").ar.backbone.model_dump(), weights="random", seed=0,
        dtype="float32", device="cpu", threads=1, prompts=None, tokenizer="source",
    )  # fmt: skip
    cell = Cell(pair="small", side=side, generator=generator, length=4, steps=steps, batch=2)
    worker.open(id="c", cell=cell.model_dump())
    sample = worker.sample(id="c", order=0, round=0, prompt=0, seed=1, started_s=0.0)["sample"]
    assert sample["nfe"] == (steps or 4)
    assert sample["output_tokens"] == sample["canvas_tokens"] == 8
    # AR: 2 rows of 32 + 3 positions. Diffusion: 2 forwards of 2 rows of 36.
    assert sample["forward_tokens"] == (2 * 35 if side == "ar" else 2 * 2 * 36)


def test_one_judgement_does_for_all_engines_and_batches_of_a_setting() -> None:
    """On the weights that ship, as `dlmbench run` loads them."""
    from dlmbench.bench.station import Worker, answer

    worker, pair = Worker(), load_pair("small").default

    def request(operation: str, **fields: Any) -> dict[str, Any]:
        reply = json.loads(json.dumps(answer(worker, {"op": operation, **fields})))
        assert reply["ok"], reply
        return reply

    request(
        "load", config=pair.ar.backbone.model_dump(), weights=pair.ar.weights, seed=0, dtype="float32", device="cpu",
        threads=1, prompts=None, tokenizer="source",
    )  # fmt: skip
    base = Cell(pair="small", side="ar", generator="ar", length=4, prompt_length=8)
    found = {}
    for name, cell in {"one": base, "many": base.model_copy(update={"batch": 4}),
                       "longer": base.model_copy(update={"length": 8})}.items():  # fmt: skip
        request("open", id=name, cell=cell.model_dump())
        found[name] = request("quality", id=name, texts=64, seed=0, limit_s=0.1)["quality"]
    assert found["one"] == found["many"] != found["longer"]
    assert found["one"]["metrics"]["quality.heldout_nats"] == found["longer"]["metrics"]["quality.heldout_nats"]
    assert found["one"]["metrics"]["quality.heldout_nats"]["value"] == pytest.approx(1.8, abs=0.1)


def test_a_profile_that_was_kept_becomes_a_trace_with_the_readings_of_its_time(tmp_path: Path) -> None:
    """Readings every millisecond, at 100 W until the generation begins, 300 W until it ends, 50 W from then on."""
    from dlmbench.bench.station import Worker, answer

    worker = Worker()

    def request(operation: str, **fields: Any) -> dict[str, Any]:
        reply = json.loads(json.dumps(answer(worker, {"op": operation, **fields})))
        assert reply["ok"], reply
        return reply

    request(
        "load", config=load_pair("small").ar.backbone.model_dump(), weights="random", seed=0,
        dtype="float32", device="cpu", threads=1, prompts=None, tokenizer="source",
    )  # fmt: skip
    request("open", id="c", cell=Cell(pair="small", side="ar", generator="ar", length=4, batch=2).model_dump())
    request("sample", id="c", order=0, round=0, prompt=0, seed=1, started_s=0.0)
    before = time.monotonic()
    assert request("observe", id="c", counted=[0], keep=False)["kept"] is None
    kept = request("observe", id="c", counted=[0], keep=True)["kept"]
    begin, end = kept["begin_s"], kept["end_s"]
    assert before < begin < end < time.monotonic()

    times = [begin - 0.25 + 0.001 * n for n in range(round(1000 * (end - begin + 0.5)))]
    watts = [100.0 if at < begin else 300.0 if at <= end else 50.0 for at in times]
    series = {"at_s": [at - times[0] for at in times], "power_w": watts, "temperature_c": [50.0] * len(times)}
    telemetry = {"source": "m", "window_s": end - begin + 0.5, "generations": 0, "series": series}
    file = tmp_path / "traces" / "t.json.gz"
    request("trace", id="c", file=str(file), telemetry=telemetry, telemetry_begin_s=times[0])

    tracks = trace_tracks(file)
    assert tracks["counters/power (W)"] == tracks["counters/temperature (°C)"] == len(times)
    assert tracks["generation/forwards"] == 4
    events = json.loads(gzip.decompress(file.read_bytes()))["traceEvents"]
    forwards = [event for event in events if event.get("cat") == "forward"]
    first, last = min(f["ts"] for f in forwards), max(f["ts"] + f["dur"] for f in forwards)
    power = [(event["ts"], event["args"]["value"]) for event in events if event["name"] == "power (W)"]
    while_it_ran = [value for at, value in power if first <= at <= last]
    assert set(while_it_ran) == {300.0}
    assert {value for at, value in power if at < first - 10_000} == {100.0}
    assert {value for at, value in power if at > last + 10_000} >= {50.0}
    assert list((tmp_path / "traces").iterdir()) == [file]


def test_peaks_need_no_model_and_are_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dlmbench.bench.station import Worker, answer
    from dlmbench.profiles.hardware import DevicePeaks

    monkeypatch.setenv("DLMBENCH_CACHE", str(tmp_path))
    monkeypatch.setattr("dlmbench.profiles.peaks.kept_waiting_s", lambda: 0.0)  # nobody else uses the machine
    worker = Worker()
    request = {"op": "peaks", "device": "cpu", "threads": 1, "dtypes": ["float32"], "max_age_s": 600.0, "budget_s": 0.3}
    first, second = (json.loads(json.dumps(answer(worker, dict(request)))) for _ in range(2))
    assert (first["ok"], first["remembered"], first["notes"]) == (True, False, [])
    assert second["remembered"]
    found = DevicePeaks.model_validate(first["peaks"])
    assert (found.threads, set(found.matmul), found.device) == (1, {"float32"}, "cpu")
    assert found.missing == {"datasheet": "a processor's maker states no rate of matrix products"}
    assert DevicePeaks.model_validate(second["peaks"]) == found


def test_a_device_that_torch_does_not_see_is_bad_input() -> None:
    import torch

    from dlmbench.bench.station import Worker, answer

    if torch.cuda.is_available():
        pytest.skip("there is one")
    reply = answer(Worker(), {"op": "peaks", "device": "cuda", "threads": 1, "dtypes": ["float32"], "max_age_s": 0.0})
    assert (reply["ok"], reply["code"]) == (False, "input")
    assert "sees no CUDA device" in reply["message"]


@pytest.mark.gpu
@pytest.mark.parametrize("device", ["cuda", "cuda:0"])
def test_a_worker_takes_a_gpu_by_either_name(device: str) -> None:
    import torch

    from dlmbench.bench.station import Worker

    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    worker = Worker()
    worker.load(
        config=load_pair("small").ar.backbone.model_dump(), weights="random", seed=0,
        dtype="bfloat16", device=device, threads=1, prompts=None, tokenizer="source",
    )  # fmt: skip
    assert worker.calibrate(dtype="bfloat16")["calibration"]["matrix"] == 8192


def test_a_device_that_counts_more_time_than_went_by_is_not_believed() -> None:
    agree(0.1, 0.1)
    agree(0.1 + 9e-5, 0.1)  # what two clocks may differ by
    agree(0.05, 0.1)  # the host waited besides
    with pytest.raises(ClocksDisagreeError, match=r"0\.103000 s by the device's events, but only 0\.100000 s"):
        agree(0.103, 0.1)


def test_a_clock_that_is_not_believed_makes_a_sample_invalid(
    ask: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise ClocksDisagreeError("2 s, but only 1 s")

    monkeypatch.setattr(OpenCell, "generate", refuse)
    assert ask("Good")["code"] == "clock"
