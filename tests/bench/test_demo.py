"""The demo: masks that nest, every position fixed once, and a terminal that is left as it was found."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from rich.cells import cell_len
from rich.console import Console, Group

from dlmbench import InputError
from dlmbench.bench import demo
from dlmbench.bench.demo import SENTENCE, DemoOptions, forward_masking, pieces, run_demo
from dlmbench.bench.demo_view import Piece, Scene, Stage, Track, frame, show_masking, show_steps, show_summary
from dlmbench.models.source import embedded_source
from dlmbench.models.tokenizer import embedded_tokenizer
from dlmbench.models.trained import shipped_names
from dlmbench.profiles.record import Commit, ForwardSpan, Side, Timeline

TINY = DemoOptions(length=6, steps=3, prompt_length=4, weights="random")
TRAINED = replace(TINY, weights=None)
shipped = pytest.mark.skipif(
    not {"ar", "mdlm", "block-diffusion"} <= set(shipped_names()), reason="the trained models do not ship here"
)
# Each of these would break a terminal, a grid or a line if it were printed as it is.
HOSTILE = [
    "\x1b[2J", "\x1b]0;title\x07", "\n\n", "\r", "\t", "", " ", "\x9b31m", "\u202e", "\ufe0f", "\u0301",
    "[red]evil[/red]", ":smile:", "日本語日本語日本語", "🎉", "x" * 90,
]  # fmt: skip


@dataclass(frozen=True)
class Words:
    """A tokenizer of one text an id; the demo needs nothing else of it."""

    texts: list[str]

    def decode(self, ids: list[int]) -> str:
        return "".join(self.texts[index] for index in ids)


@dataclass
class FakeTime:
    """A clock that only sleeping moves."""

    at: float = 0.0
    naps: int = 0

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.at += seconds
        self.naps += 1

    def now(self) -> float:
        return self.at


def printed(show: Callable[[Console], object], width: int = 80, terminal: bool = False, **options: Any) -> str:
    file = io.StringIO()
    show(Console(file=file, width=width, height=24, force_terminal=terminal, **options))
    return file.getvalue()


def hostile_scene() -> Scene:
    """Diffusion fixes the even positions at 1 ms and the odd ones at 2 ms; AR one position every millisecond."""
    tokens = pieces(Words(HOSTILE), range(len(HOSTILE)))  # type: ignore[arg-type]
    count = len(tokens)
    halves = [tuple(range(0, count, 2)), tuple(range(1, count, 2))]
    single = [(i,) for i in range(count)]
    stage = Stage(
        pair="[red]", reference="[red]", random=True, weights="random", parameters=1, weight_bytes=4, free_bytes=None,
        dtype="float32", device="cpu", threads=1, length=count, steps=2, temperature=1.0, seed=0, prompt=tokens,
    )  # fmt: skip
    return Scene(stage, (_track("diffusion", tokens, halves), _track("ar", tokens, single)))


def _track(side: Side, tokens: tuple[Piece, ...], groups: list[tuple[int, ...]]) -> Track:
    commits = tuple(
        Commit(at_s=1e-3 * (step + 1), step=step, positions=group, tokens=group) for step, group in enumerate(groups)
    )
    forwards = tuple(
        ForwardSpan(
            phase="denoise", network="target", begin_s=c.at_s - 1e-3, end_s=c.at_s - 1e-4, rows=1, q_len=1, kv_len=1,
            logit_rows=1, mask="bidirectional",
        )
        for c in commits
    )  # fmt: skip
    end_s = commits[-1].at_s + 1e-4
    line = Timeline(sample_order=0, latency_s=end_s, length=len(tokens), forwards=forwards, commits=commits)
    return Track(side, side, tokens, line, commits, prepare_s=0.0)


@pytest.fixture(scope="module")
def piped() -> tuple[str, dict[str, Any]]:
    documents: list[dict[str, Any]] = []
    return printed(lambda console: documents.append(run_demo(TINY, console))), documents[0]


def test_a_position_is_masked_when_its_uniform_is_below_t_so_masks_nest() -> None:
    masking = forward_masking(embedded_tokenizer(), SENTENCE, seed=3)
    assert [t for t, _ in masking.levels] == [0, 0.25, 0.5, 0.75, 1]
    for t, masked in masking.levels:
        assert sum(masked) == sum(u < t for u in masking.uniforms)
    for (_, lower), (_, higher) in zip(masking.levels, masking.levels[1:], strict=False):
        assert all(after for before, after in zip(lower, higher, strict=True) if before)
    assert not any(masking.levels[0][1])
    assert all(masking.levels[-1][1])


def test_the_share_masked_is_t_over_many_sentences() -> None:
    # 400 sentences of 9 tokens: 3600 draws at t = 1/4 have mean 900 and standard deviation sqrt(3600 * 3/16) = 26.0.
    tokenizer = embedded_source().tokenizer
    masked = sum(sum(forward_masking(tokenizer, SENTENCE, seed).levels[1][1]) for seed in range(400))
    assert len(tokenizer.encode(SENTENCE)) == 9
    assert abs(masked - 900) < 4.5 * 26.0


def test_words_of_a_tokenizer_of_whole_words_stand_apart_and_signs_do_not() -> None:
    masking = forward_masking(embedded_source().tokenizer, SENTENCE, seed=3)
    lines = printed(lambda console: show_masking(masking, console), width=200).splitlines()
    assert lines[1].endswith("  large language models process vast amounts of text.")
    assert lines[5].endswith("  ▒▒▒▒▒ ▒▒▒▒▒▒▒▒ ▒▒▒▒▒▒ ▒▒▒▒▒▒▒ ▒▒▒▒ ▒▒▒▒▒▒▒ ▒▒ ▒▒▒▒▒")


def test_masking_moves_no_word() -> None:
    masking = forward_masking(embedded_tokenizer(), "Das 日本語 naïve 🎉 text", seed=0)
    lines = printed(lambda console: show_masking(masking, console), width=200).splitlines()[1:]
    assert len(lines) == 5
    # A comma or a space of the sentence stays where it is, whatever is masked around it.
    assert len({cell_len(line) for line in lines}) == 1


def test_piped_output_is_plain_and_fixes_every_position_once(piped: tuple[str, dict[str, Any]]) -> None:
    text, document = piped
    assert "\x1b" not in text
    assert "random weights: gibberish text, real timing" in text
    diffusion, ar = text.split("\ndiffusion: ")[1].split("\nAR: ")
    for part, side in ((diffusion, "diffusion"), (ar.split("NFE")[0], "ar")):
        tokens = [token for commit in document["denoising"]["sides"][side]["commits"] for token in commit["tokens"]]
        for token in set(tokens):
            assert part.count(f"[{token}]") == tokens.count(token)


def test_the_document_serialises_and_commits_every_position_once(piped: tuple[str, dict[str, Any]]) -> None:
    _, document = piped
    assert json.loads(json.dumps(document, allow_nan=False)) == document
    sides = document["denoising"]["sides"]
    for side, nfe in (("diffusion", 3), ("ar", 6)):
        commits = sides[side]["commits"]
        assert sorted(p for commit in commits for p in commit["positions"]) == list(range(6))
        times = [commit["at_s"] for commit in commits]
        assert times == sorted(times)
        assert 0 < times[0] <= times[-1] <= sides[side]["latency_s"]
        assert sides[side]["nfe"] == nfe == len(commits)
    assert [commit["positions"] for commit in sides["ar"]["commits"]] == [[i] for i in range(6)]
    assert [len(commit["positions"]) for commit in sides["diffusion"]["commits"]] == [2, 2, 2]
    for level in document["masking"]["levels"]:
        assert level["masked"] == level["tokens"].count(None)


def test_the_same_seed_shows_the_same_text(piped: tuple[str, dict[str, Any]]) -> None:
    _, first = piped
    second = run_demo(TINY, Console(file=io.StringIO(), width=80))
    assert second["masking"] == first["masking"]
    for side, shown in first["denoising"]["sides"].items():
        again = second["denoising"]["sides"][side]["commits"]
        assert [commit["ids"] for commit in again] == [commit["ids"] for commit in shown["commits"]]


def test_hostile_tokens_become_inert_text_of_at_least_one_column() -> None:
    shown = [piece.text for piece in pieces(Words(HOSTILE), range(len(HOSTILE)))]  # type: ignore[arg-type]
    assert shown[:11] == ["#0", "#1", "↵", "↵", "␣", "#5", "␣", "#7", "#8", "#9", "◌\u0301"]
    assert shown[11:13] == ["[red]evil[/red]", ":smile:"]
    assert all(cell_len(text) > 0 for text in shown)


def test_a_character_spelt_by_several_tokens_is_shown_once() -> None:
    tokenizer = embedded_tokenizer()
    ids = tokenizer.encode("a本b")
    assert len(ids) == 5  # the embedded vocabulary has no such character: three bytes
    assert [piece.text for piece in pieces(tokenizer, ids)] == ["a", "·", "·", "本", "b"]
    assert [piece.text for piece in pieces(tokenizer, ids[1:3])] == ["\ufffd", "\ufffd"]


@pytest.mark.parametrize("width", [10, 40, 80, 99, 100, 200])
def test_no_line_is_wider_than_the_screen_and_the_grid_stands(width: int) -> None:
    scene = hostile_scene()

    def everything(console: Console) -> None:
        show_steps(scene, console)
        for at_s in (0.0, 1.5e-3, scene.end_s):
            console.print(frame(scene, at_s, width, 24, 100.0))
        if width >= 40:
            show_summary(scene, console)

    text = printed(everything, width, terminal=True, color_system=None)
    assert max(cell_len(line) for line in text.splitlines()) <= width
    assert "\x1b" not in text
    framed = [line for line in text.splitlines() if line.startswith(("│", "╭", "╰"))]
    assert framed
    assert {cell_len(line) for line in framed} == {width // 2 * 2 if width >= 100 else width}


def test_a_frame_shows_what_had_been_fixed_by_then() -> None:
    scene = hostile_scene()

    def counters(at_s: float) -> list[str]:
        text = printed(lambda console: console.print(frame(scene, at_s, 80)))
        return re.findall(r"(?:step|token) +\d+/\d+ · NFE \d+ · +[\d.]+ ms(?: ✓)?", text)

    assert counters(0.0) == ["step 0/2 · NFE 0 ·  0.00 ms", "token  0/16 · NFE 0 ·  0.00 ms"]
    assert counters(1.5e-3) == ["step 1/2 · NFE 1 ·  1.50 ms", "token  1/16 · NFE 1 ·  1.50 ms"]
    # Diffusion has ended at 2.1 ms; its clock stands there while AR goes on.
    assert counters(5.05e-3) == ["step 2/2 · NFE 2 ·  2.10 ms ✓", "token  5/16 · NFE 5 ·  5.05 ms"]
    assert counters(scene.end_s)[1] == "token 16/16 · NFE 16 · 16.10 ms ✓"


def test_the_replay_lasts_as_long_as_asked_and_sleeps_between_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[float] = []

    def counted(scene: Scene, at_s: float, *rest: Any) -> Group:
        drawn.append(at_s)
        return frame(scene, at_s, *rest)

    monkeypatch.setattr(demo, "frame", counted)
    time = FakeTime()
    options = replace(TINY, replay_s=1.0, animate=True)
    text = printed(lambda console: run_demo(options, console, sleep=time.sleep, now=time.now), terminal=True)
    assert time.at == pytest.approx(1.0, abs=0.01)
    assert 20 <= time.naps <= 22
    assert drawn == sorted(drawn)
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h") == 1


def test_an_interrupt_leaves_the_cursor_visible() -> None:
    def interrupted(_: float) -> None:
        raise KeyboardInterrupt

    file = io.StringIO()
    console = Console(file=file, width=80, height=24, force_terminal=True)
    with pytest.raises(KeyboardInterrupt):
        run_demo(replace(TINY, animate=True), console, sleep=interrupted, now=lambda: 0.0)
    assert file.getvalue().rfind("\x1b[?25h") > file.getvalue().rfind("\x1b[?25l")
    assert "shown" in file.getvalue()


def test_no_colour_where_none_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    text = printed(lambda console: console.print(frame(hostile_scene(), 2.0, 80)), terminal=True)
    assert not re.search(r"\x1b\[[\d;]*(?:3[0-9]|4[0-9])(?:;|m)", text)
    assert "¹" in text  # the step is still told: by its number


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"text": "x"}, "--text"),
        ({"text": ""}, "--text"),
        ({"text": "\udcff\udcfe"}, "UTF-8"),
        ({"text": "large walruses process text."}, "--text: found 'walruses'"),
        ({"text": "large walruses process text."}, "--pair 5m"),
        ({"steps": 7}, "T=7 exceeds length L=6"),
        ({"steps": 0}, "--steps"),
        ({"length": 0}, "--length"),
        ({"length": 5000}, "1 to 1024"),
        ({"prompt_length": -1}, "--prompt-length"),
        ({"seed": -1}, "--seed"),
        ({"replay_s": -1.0}, "replay"),
        ({"replay_s": float("nan")}, "replay"),
        ({"pair": "nope"}, "nope"),
    ],
)
def test_bad_options_get_one_line_and_print_nothing(changed: dict[str, Any], named: str) -> None:
    file = io.StringIO()
    with pytest.raises(InputError, match=re.escape(named)) as caught:
        run_demo(replace(TINY, **changed), Console(file=file))
    assert "\n" not in str(caught.value)
    assert not file.getvalue()


def demonstrated(options: DemoOptions) -> tuple[str, dict[str, Any]]:
    documents: list[dict[str, Any]] = []
    text = printed(lambda console: documents.append(run_demo(options, console)), width=200)
    return text, json.loads(json.dumps(documents[0], allow_nan=False))


@shipped
def test_trained_weights_write_the_masked_sentence_again() -> None:
    text, document = demonstrated(TRAINED)
    study = document["sentence"]
    assert study["text"] == "large language models process vast amounts of text."
    shown = [level["tokens"] for level in document["masking"]["levels"]]
    assert [level["tokens"] for level in study["levels"]] == shown, "the masks are those on the screen"
    for regeneration in study["regenerations"]:
        assert " ".join(regeneration["tokens"]) in text
    assert text.index("forward masking") < text.index("written again from each level") < text.index("denoising beside")
    assert document["sentence_why"] is None


@shipped
def test_another_sentence_of_the_source_is_written_again() -> None:
    _, document = demonstrated(replace(TRAINED, text="Huge neural networks read giant volumes of data."))
    assert document["sentence"]["text"] == "huge neural networks read giant volumes of data."


@shipped
@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"text": "models of text text"}, "the source cannot write 'models of text text'"),
        ({"pair": "small-block", "length": 4, "steps": 2}, "block-diffusion is no masked diffusion"),
    ],
)
def test_where_there_are_no_candidates_the_demo_says_why_and_goes_on(changed: dict[str, Any], why: str) -> None:
    text, document = demonstrated(replace(TRAINED, **changed))
    assert document["sentence"] is None
    assert why in document["sentence_why"]
    assert why in text
    assert "denoising beside AR" in text


def test_random_weights_have_no_candidates_worth_showing(piped: tuple[str, dict[str, Any]]) -> None:
    text, document = piped
    assert document["sentence"] is None
    assert "written again" not in text


def test_a_checkpoint_is_decoded_both_ways(tmp_path: Path) -> None:
    import torch

    from dlmbench.models.checkpoints import save_checkpoint
    from dlmbench.models.pairs import load_pair
    from dlmbench.models.weights import random_network

    config = load_pair("small").ar.backbone.model_copy(update={"num_hidden_layers": 1})
    save_checkpoint(random_network(config, 0, torch.float32, "cpu"), tmp_path / "trained")
    options = replace(TINY, weights=str(tmp_path / "trained"), prompt_length=0)
    documents: list[dict[str, Any]] = []
    text = printed(lambda console: documents.append(run_demo(options, console)), width=200)
    assert "gibberish" not in text
    assert documents[0]["denoising"]["temperature"] == 0
    assert documents[0]["denoising"]["parameters"] == config.total_parameters
