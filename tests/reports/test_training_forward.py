"""A training forward's FLOPs from a certificate: by hand, and against what the models' own formula says."""

from typing import Any

import pytest

from dlmbench.models.certificate import certificate
from dlmbench.models.costs import forward_cost
from dlmbench.models.pairs import load_pair
from dlmbench.profiles.record import CertificateRow
from dlmbench.reports.training_forward import training_forward_flops


def rows(stated: dict[str, Any]) -> list[CertificateRow]:
    return [
        CertificateRow(quantity=name, unit="1", ar=value, diffusion=None, difference_percent=None, verdict="differs")
        for name, value in stated.items()
    ]


SHAPE = {
    "total parameters": 1000, "active parameters": 700, "non-embedding parameters": 900, "hidden size": 10,
    "vocabulary": 10, "layers": 2, "query heads": 3, "head size": 5,
}  # fmt: skip


def test_by_hand() -> None:
    # A token takes 900 - 300 idle + 100 of the head = 700 multiply-adds; 4 positions. They make 4 + 3 + 2 + 1 pairs of
    # 2 multiply-adds in each of 2 x 3 x 5 dimensions. Two rows; a multiply-add is 2.
    assert training_forward_flops(rows(SHAPE), 2, 4) == 2 * 2 * (4 * 700 + 10 * 2 * 30)


@pytest.mark.parametrize("missing", SHAPE)
def test_without_the_shape_there_is_none(missing: str) -> None:
    assert training_forward_flops(rows({name: n for name, n in SHAPE.items() if name != missing}), 2, 4) is None
    assert training_forward_flops(rows(SHAPE | {missing: "as its code says"}), 2, 4) is None


@pytest.mark.parametrize("name", ["small", "mdlm-small", "8b", "dream-7b", "diffusiongemma-26b-a4b"])
def test_it_is_the_models_own_count_but_for_norms_and_biases(name: str) -> None:
    pair = load_pair(name)
    stored = rows({line.quantity: line.ar for line in certificate(pair, dtype="bfloat16")})
    shape = {"rows": 2, "q_len": 96, "kv_len": 96, "logit_rows": 192, "mask": "causal", "dtype": "bfloat16"}
    assert training_forward_flops(stored, 2, 96) == pytest.approx(
        forward_cost(pair.ar.backbone, **shape).flops, rel=0.005
    )
