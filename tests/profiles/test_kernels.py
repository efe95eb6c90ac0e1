"""What a profile says: kinds by name, busy time and gaps by hand, and a real generation on this machine."""

from __future__ import annotations

import pytest
import torch

from dlmbench.profiles.hardware import KernelCategory
from dlmbench.profiles.kernels import Profiled, Span, categorise, kernel_profile, profiled


@pytest.mark.parametrize(
    ("name", "category"),
    [
        ("void cutlass::Kernel2<cutlass_80_tensorop_bf16_s16816gemm_relu_bf16>", "matmul"),
        ("nvjet_hsh_128x256_64x4_2x1_v_bz_coopA_TNT", "matmul"),
        ("sm90_xmma_gemm_bf16bf16_bf16f32_f32_tn_n_tilesize64x64x64", "matmul"),
        ("triton_tem_fused_addmm_relu_3", "matmul"),
        ("void flash_fwd_kernel<Flash_fwd_kernel_traits<128, 64>>", "attention"),
        ("fmha_cutlassF_bf16_aligned_64x128_rf_sm80", "attention"),
        ("triton_red_fused__to_copy_mean_mul_pow_rsqrt_2", "normalisation"),
        ("void at::native::(anonymous namespace)::vectorized_layer_norm_kernel<float>", "normalisation"),
        ("at::native::distribution_elementwise_grid_stride_kernel<exponential>", "sampling"),
        ("void at::native::reduce_kernel<512, 1, ReduceOp<float, ArgMaxOps<float>>>", "sampling"),
        ("Memcpy DtoH (Device -> Pageable)", "copy"),
        ("void at::native::elementwise_kernel<128, 4, silu_kernel>", "other"),
    ],
)
def test_kernels_by_name(name: str, category: KernelCategory) -> None:
    assert categorise(name, "kernel") == category


def kernel(name: str, begin: float, end: float, stream: int = 7) -> Span:
    return Span(name, "kernel", categorise(name, "kernel"), begin, end, end - begin, stream)


def test_busy_time_and_gaps_by_hand() -> None:
    """Two streams: 0-2 and 1-3 overlap, then 4-5, then 9-10, in a region of 12: busy 5; gaps 1 and 4 between them."""
    spans = (
        kernel("gemm_a", 0.0, 2.0),
        kernel("flash_fwd", 1.0, 3.0, stream=8),
        kernel("gemm_a", 4.0, 5.0),
        kernel("rms_norm", 9.0, 10.0),
    )
    seen = Profiled("cuda", 12.0, 0.0, spans)
    found = kernel_profile(seen, device="cuda", output_tokens=4, forwards=2, median_latency_s=10.0)
    assert found.busy_s == pytest.approx(5.0)
    assert (found.launches, found.wall_s, found.output_tokens) == (4, 12.0, 4)
    assert found.overhead == pytest.approx(0.2)
    assert found.categories["matmul"].seconds == pytest.approx(3.0)
    assert found.categories["matmul"].launches == 2
    assert found.categories["attention"].seconds == pytest.approx(2.0)
    assert (found.kernels[0].name, found.kernels[0].launches) == ("gemm_a", 2)
    assert found.gaps is not None
    assert (found.gaps.count, found.gaps.longest_s) == (2, pytest.approx(4.0))
    assert found.gaps.total_s == pytest.approx(5.0)


def test_nothing_ran() -> None:
    found = kernel_profile(
        Profiled("cuda", 1.0, 0.0, ()), device="cuda", output_tokens=0, forwards=0, median_latency_s=None
    )
    assert (found.busy_s, found.launches, found.overhead, found.gaps, found.kernels) == (0.0, 0, None, None, ())


def test_operators_have_their_own_time_only() -> None:
    """A linear layer calls a product: together they take no longer than the whole, and nothing counts twice."""
    layer, x = torch.nn.Linear(256, 256), torch.randn(64, 256)

    def work() -> torch.Tensor:
        with torch.inference_mode():
            for _ in range(20):
                y = torch.softmax(layer(x), -1)
        return y

    y, seen = profiled(work, "cpu")
    assert y.shape == (64, 256)
    found = kernel_profile(seen, device="cpu", output_tokens=20, forwards=20, median_latency_s=None)
    assert 0 < found.busy_s <= found.wall_s
    assert sum(part.seconds for part in found.categories.values()) == pytest.approx(found.busy_s, rel=0.02)
    assert any("addmm" in kernel.name for kernel in found.kernels)
    assert found.categories["matmul"].launches >= 20
    assert sum(seconds for _, seconds in seen.stacks()) == pytest.approx(found.busy_s, rel=0.02)
