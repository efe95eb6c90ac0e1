"""The match certificate says what differs, by how much, and nothing that was typed in."""

import pytest

from dlmbench.models.certificate import Line, certificate
from dlmbench.models.pairs import Pair, load_pair

BY_DESIGN = ["attention mask", "mask token", "key-value cache", "generator"]


def lines(pair: Pair, **options: object) -> dict[str, Line]:
    found = certificate(pair, **({"dtype": "bfloat16"} | options))  # type: ignore[arg-type]
    assert len({line.quantity for line in found}) == len(found)
    return {line.quantity.partition(" of one forward")[0]: line for line in found}


def changed(pair: Pair, **changes: object) -> Pair:
    """`pair` with another shape on its diffusion side."""
    shape = pair.diffusion.backbone.model_copy(update=changes)
    return pair.model_copy(update={"diffusion": pair.diffusion.model_copy(update={"backbone": shape})})


@pytest.mark.parametrize("name", ["small", "5m", "gpt2-size", "1b", "8b"])
def test_a_matched_pair_is_equal_but_for_what_it_compares(name: str) -> None:
    for quantity, line in lines(load_pair(name)).items():
        if quantity in BY_DESIGN:
            assert line.verdict.startswith("differs by design")
            assert line.difference_percent is None
        else:
            assert line.verdict == "equal"
            assert line.ar == line.diffusion
            numeric = isinstance(line.ar, int | float) and not isinstance(line.ar, bool)
            assert line.difference_percent == (0.0 if numeric else None)


def test_llada_against_llama_by_hand() -> None:
    found = lines(load_pair("llada-8b"), rows=1, q_len=256)

    # Vocabulary 126,464 for 128,256; embedding and head are 4,096 wide: 2 x 4096 x -1,792 = -14,680,064 parameters.
    total = found["total parameters"]
    assert (total.ar, total.diffusion) == (8_030_261_248, 8_030_261_248 - 14_680_064)
    assert total.difference_percent == pytest.approx(-100 * 14_680_064 / 8_030_261_248)
    assert total.verdict == "diffusion has 0.183 % less"

    # Keys and values are 3 x 1,024 wider, two matrices: +6,144 x 4,096. The MLP is 2,048 narrower, three matrices:
    # -6,144 x 4,096. The layers are exactly as large.
    body = found["non-embedding parameters"]
    assert body.ar == body.diffusion == 32 * (4096 * 10_240 + 3 * 4096 * 14_336 + 2 * 4096) + 4096
    assert body.verdict == "equal"

    weights = found["weight bytes"]
    assert weights.ar == 2 * 8_030_261_248
    assert weights.difference_percent == pytest.approx(total.difference_percent)

    # 32 key-value heads for 8.
    cache = found["KV bytes per token"]
    assert (cache.ar, cache.diffusion) == (2 * 32 * 1024 * 2, 2 * 32 * 4096 * 2)
    assert cache.difference_percent == pytest.approx(300.0)
    assert cache.verdict == "diffusion has 300 % more"
    assert found["key-value heads"].difference_percent == pytest.approx(300.0)
    assert found["MLP size"].difference_percent == pytest.approx(100 * (12_288 / 14_336 - 1))

    # One forward of 256 tokens: equal layers and attention, the head 1,792 columns narrower.
    flops = found["FLOPs"]
    assert isinstance(flops.ar, float)
    assert isinstance(flops.diffusion, float)
    assert flops.ar - flops.diffusion == 2 * 256 * 4096 * 1792
    matrices, head = 2 * 256 * (32 * 4096 * (10_240 + 3 * 14_336)), 2 * 256 * 4096 * 128_256
    assert flops.ar == matrices + head + 4 * 32 * 4096 * 256 * 256


def test_the_numbers_follow_the_shape() -> None:
    pair = load_pair("small")  # 4 layers, 96 wide, 3 heads of 32, tied head of 384
    wider = lines(changed(pair, intermediate_size=257))
    more = wider["total parameters"].diffusion - wider["total parameters"].ar  # type: ignore[operator]
    assert more == 4 * 3 * 96
    assert wider["KV bytes per token"].verdict == "equal"

    grouped = lines(changed(pair, num_key_value_heads=1))
    assert grouped["KV bytes per token"].difference_percent == pytest.approx(-200 / 3)
    assert grouped["KV bytes per token"].verdict == "diffusion has 66.7 % less"

    untied = lines(changed(pair, tie_word_embeddings=False))
    assert untied["tied embedding and head"].verdict == "differs"
    assert untied["tied embedding and head"].difference_percent is None
    assert untied["non-embedding parameters"].verdict == "equal"
    # The second matrix is stored, but a forward reads the head once either way.
    assert untied["weight bytes"].diffusion - untied["weight bytes"].ar == 2 * 384 * 96  # type: ignore[operator]
    assert untied["bytes"].verdict == "equal"

    normed = lines(changed(pair, qk_norm=False))
    assert normed["norm"].verdict == "differs"
    assert "QK-norm" in str(normed["norm"].ar)
    assert "QK-norm" not in str(normed["norm"].diffusion)

    assert lines(changed(pair, mask_token_id=7))["mask token"].diffusion == 7


def test_dtypes_count() -> None:
    pair = load_pair("small")
    narrow, wide = lines(pair, dtype="bfloat16"), lines(pair, dtype="float32")
    assert wide["weight bytes"].ar == 2 * narrow["weight bytes"].ar  # type: ignore[operator]
    mixed = lines(pair, dtype="float32", kv_dtype="bfloat16")
    assert mixed["KV bytes per token"].ar == narrow["KV bytes per token"].ar
    assert mixed["weight bytes"].ar == wide["weight bytes"].ar


def test_rope_scalings_that_differ_are_not_called_equal() -> None:
    pair = load_pair("1b")
    scaling = pair.ar.backbone.rope_scaling
    assert scaling is not None
    other = changed(pair, rope_scaling=scaling.model_copy(update={"low_freq_factor": 2.0}))
    assert lines(other)["positions"].verdict == "differs"
