"""Streams: the same everywhere, whatever their length; and the program that shows them."""

from __future__ import annotations

import hashlib
import subprocess
import sys

import numpy as np
import pytest

from dlmbench.models.source import Source, __main__


def test_the_stream_of_a_seed_is_fixed(source: Source) -> None:
    """Weights are trained on these: another hash is another corpus, and the cards of shipped weights are then wrong."""
    ids = source.stream(20_000, 1)
    assert ids.dtype == np.int32
    assert (
        hashlib.sha256(ids.astype("<i4").tobytes()).hexdigest()
        == "184553de0855c49ccc351fa868b79a1d96a33cf1c493b7252418ed8df6caa3c1"
    )


def test_a_longer_stream_begins_like_a_shorter_one(source: Source) -> None:
    longer = source.stream(40_000, 3)
    for tokens in (0, 1, 7, 1000, 20_000):
        np.testing.assert_array_equal(source.stream(tokens, 3), longer[:tokens])
    assert not np.array_equal(longer, source.stream(40_000, 4))


def test_rows_are_independent_and_begin_with_a_document(source: Source) -> None:
    ids = source.texts(6, 50, 3)
    assert ids.shape == (6, 50)
    np.testing.assert_array_equal(source.texts(3, 50, 3), ids[:3])
    assert len({row.tobytes() for row in ids}) == 6
    assert source.score(ids).valid.all()
    assert set(ids[:, 0]) == set(source.tokenizer.encode("this"))
    assert source.texts(0, 50, 3).shape == (0, 50)


def test_show(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, source: Source) -> None:
    monkeypatch.setattr(sys, "argv", ["source", "--show", "2", "--seed", "1"])
    __main__.main()
    shown = capsys.readouterr().out
    assert f"384 tokens, {source.entropy_rate:.4f} nats per token" in shown
    assert shown.count("this ") >= 2
    assert shown.count("log-probability -") == 2


def test_neither_torch_nor_transformers_is_imported() -> None:
    code = (
        "import sys; from dlmbench.models.source import embedded_source; embedded_source().texts(1, 9, 0); "
        "sys.exit(bool({'torch', 'transformers', 'scipy', 'pandas'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
