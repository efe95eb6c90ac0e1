"""Kernels and operators by their names, as PyTorch's builds for CUDA and for CPUs give them; long ones are cut."""

from __future__ import annotations

import pytest

from dlmbench.profiles.hardware import KernelCategory
from dlmbench.profiles.kernels import LONGEST_NAME, SpanKind, categorise, clean_name, kind_of

KERNELS: dict[KernelCategory, list[str]] = {
    "matmul": [
        "void cutlass::Kernel2<cutlass_80_tensorop_bf16_s16816gemm_relu_bf16_64x64_64x6_tn_align8>(Params)",
        "ampere_bf16_s16816gemm_bf16_128x64_ldg8_f2f_stages_64x4_tn",
        "sm90_xmma_gemm_bf16bf16_bf16f32_f32_tn_n_tilesize64x64x64_warpgroupsize1x1x1_execute_segment_k_off_kernel",
        "nvjet_hsh_128x256_64x4_2x1_v_bz_coopA_TNT",
        "void gemv2T_kernel_val<int, int, __nv_bfloat16, __nv_bfloat16, __nv_bfloat16, float, 128, 16, 4, 4, false>",
        "void gemvNSP_kernel<__nv_bfloat16, __nv_bfloat16, __nv_bfloat16, float, 1, 32, 4, 1024>",
        "void internal::gemvx::kernel<int, int, __nv_bfloat16, __nv_bfloat16, __nv_bfloat16, float, false, true>",
        "void cublasLt::splitKreduce_kernel<32, 16, int, float, __nv_bfloat16, float, __nv_bfloat16, true>",
        "void dot_kernel<float, 128, 0, cublasDotParams<cublasGemvTensorStridedBatched<float const>>>",
        "triton_tem_fused_addmm_relu_3",
        "triton_tem_fused_mm_5",
    ],
    "attention": [
        "void flash_fwd_kernel<Flash_fwd_kernel_traits<128, 64>>",
        "void pytorch_flash::flash_fwd_splitkv_kernel<Flash_fwd_kernel_traits<128, 64, 128, 4>, false, false, true>",
        "void pytorch_flash::flash_fwd_splitkv_combine_kernel<Flash_fwd_kernel_traits<128, 64, 128, 4>, 8, 2, true>",
        "fmha_cutlassF_bf16_aligned_64x128_rf_sm80(PyTorchMemEffAttention::AttentionKernel<cutlass::bfloat16_t>)",
        "cudnn_generated_fort_native_sdpa_sm90_flash_fprop_wgmma_f16_knob_7_64x128x128_4x1x1_kernel0_0",
        "triton_tem_fused_flex_attention_0",
    ],
    "normalisation": [
        "void at::native::(anonymous namespace)::vectorized_layer_norm_kernel<c10::BFloat16, float, true>(int, float)",
        "void at::native::(anonymous namespace)::RowwiseMomentsCUDAKernel<float>(long, float, float const*)",
        "triton_red_fused__to_copy_mean_mul_pow_rsqrt_2",
        "triton_per_fused__to_copy_add_mean_mul_pow_rsqrt_1",
        "triton_per_fused_add_native_layer_norm_4",
    ],
    "sampling": [
        "void at::native::sbtopk::gatherTopK<float, unsigned int, 2, false>(at::cuda::detail::TensorInfo<float const>)",
        "void at::native::mbtopk::radixFindKthValues<float, unsigned int, unsigned int, 1>",
        "void at::native::bitonicSortKVInPlace<2, -1, 16, 16, float, long, at::native::GTOp<float, true>, int>",
        "void at_cuda_detail::cub::DeviceRadixSortOnesweepKernel<at_cuda_detail::cub::DeviceRadixSortPolicy<float>>",
        "void at::native::tensor_kernel_scan_innermost_dim<float, std::plus<float> >(float*, float const*, int)",
        "void at::native::(anonymous namespace)::distribution_elementwise_grid_stride_kernel<float, 4, exponential>",
        "void at::native::(anonymous namespace)::sampleMultinomialOnce<float, float>(long*, long, int, float const*)",
        "void at::native::reduce_kernel<512, 1, at::native::ReduceOp<float, at::native::ArgMaxOps<float>, int>>",
        "triton_red_fused_argmax_4",
        "triton_poi_fused_rand_1",
    ],
    "copy": [
        "void at::native::unrolled_elementwise_kernel<at::native::direct_copy_kernel_cuda(at::TensorIteratorBase&)>",
        "void at::native::vectorized_elementwise_kernel<4, at::native::FillFunctor<int>, std::array<char*, 1ul>>",
        "void at::native::(anonymous namespace)::CatArrayBatchedCopy_contig<OpaqueType<2u>, unsigned int, 4, 128, 1>",
        "void at::native::(anonymous namespace)::indexSelectLargeIndex<c10::BFloat16, long, unsigned int, 2, 2, -2>",
        "void at::native::index_elementwise_kernel<128, 4, at::native::gpu_index_kernel<index_kernel_impl<Opaque>>>",
        "void at::native::vectorized_gather_kernel<16, long>(char*, char*, long*, int, long, long, long, long, bool)",
        "void at::native::_scatter_gather_elementwise_kernel<128, 8, at::native::_cuda_scatter_gather_internal_kernel>",
        "triton_poi_fused__to_copy_1",
        "triton_poi_fused_embedding_0",
        "triton_poi_fused_index_put_3",
    ],
    "other": [
        "void at::native::vectorized_elementwise_kernel<4, at::native::CUDAFunctor_add<c10::BFloat16>, std::array>",
        "void at::native::vectorized_elementwise_kernel<4, at::native::(anonymous namespace)::silu_kernel(Iterator)>",
        "void at::native::elementwise_kernel<128, 4, at::native::gpu_kernel_impl_nocast<MulFunctor<float>>>",
        "void at::native::vectorized_elementwise_kernel<4, at::native::GeluCUDAKernelImpl(TensorIteratorBase&)>",
        "void at::native::(anonymous namespace)::cunn_SoftMaxForward<8, c10::BFloat16, float, c10::BFloat16>",
        "void at::native::vectorized_elementwise_kernel<4, at::native::compare_scalar_kernel<long>(OpType)>",
        "triton_poi_fused_mul_silu_6",
        "triton_poi_fused_add_cat_mul_2",  # a rotation: the concatenation is not what it is for
        "ncclDevKernel_AllReduce_Sum_bf16_RING_LL",
        "",
    ],
}
OPERATORS: dict[KernelCategory, list[str]] = {
    "matmul": ["aten::mm", "aten::addmm", "aten::bmm", "aten::linear", "aten::matmul", "mkldnn::_linear_pointwise"],
    "attention": ["aten::scaled_dot_product_attention", "aten::_scaled_dot_product_flash_attention_for_cpu"],
    "normalisation": ["aten::rms_norm", "aten::native_layer_norm", "aten::rsqrt"],
    "sampling": ["aten::argmax", "aten::topk", "aten::sort", "aten::exponential_", "aten::rand", "aten::cumsum"],
    "copy": ["aten::copy_", "aten::cat", "aten::to", "aten::index_select", "aten::embedding", "aten::zeros"],
    "other": ["aten::add", "aten::mul", "aten::silu", "aten::softmax", "aten::normalize", "aten::addcmul"],
}


@pytest.mark.parametrize(("category", "name"), [(c, name) for c, names in KERNELS.items() for name in names])
def test_kernels(category: KernelCategory, name: str) -> None:
    assert categorise(name, "kernel") == category


@pytest.mark.parametrize(("category", "name"), [(c, name) for c, names in OPERATORS.items() for name in names])
def test_operators(category: KernelCategory, name: str) -> None:
    assert categorise(name, "op") == category


@pytest.mark.parametrize("name", ["Memcpy DtoH (Device -> Pageable)", "Memset (Device)", "gemm"])
def test_the_profilers_copies_are_copies(name: str) -> None:
    assert categorise(name, "copy") == "copy"


@pytest.mark.parametrize(
    ("name", "activity", "on_device", "annotation", "kind"),
    [
        ("aten::mm", "cpu_op", False, False, "op"),
        ("nvjet", "kernel", True, False, "kernel"),
        ("Memcpy DtoD", "gpu_memcpy", True, False, "copy"),
        ("Memset (Device)", "gpu_memset", True, False, "copy"),
        ("cudaGraphLaunch", "cuda_runtime", False, False, "launch"),
        ("cuLaunchKernelEx", "cuda_driver", False, False, "launch"),
        ("dlmbench.generation", "user_annotation", False, True, "region"),
        ("dlmbench.generation", "gpu_user_annotation", True, True, None),  # a region's echo on the GPU
        ("Context Sync", "cuda_sync", True, False, None),
        ("## Call CompiledFxGraph f1 ##", "cpu_op", False, False, "op"),
        ("Torch-Compiled Region: 0/0", "cpu_op", False, False, "region"),
        # A torch that does not tell: by name.
        ("aten::mm", None, False, False, "op"),
        ("cudaLaunchKernel", None, False, False, "launch"),
        ("nvjet", None, True, False, "kernel"),
        ("Memcpy DtoD (Device -> Device)", None, True, False, "copy"),
        ("dlmbench.write", None, False, True, "region"),
        ("dlmbench.write", None, True, True, None),
        ("Activity Buffer Request", None, False, False, None),
    ],
)
def test_kinds_of_events(
    name: str, activity: str | None, on_device: bool, annotation: bool, kind: SpanKind | None
) -> None:
    assert kind_of(name, activity, on_device, annotation) == kind


def test_names_are_one_clean_line() -> None:
    assert clean_name("a\tb\n  c") == "a b c"
    assert clean_name("\x1b[31mred\x1b[0m \u202eright\x00") == "red right"
    assert clean_name(" \n") == "(unnamed)"
    # A long one keeps both ends: templates differ in their last arguments.
    long = clean_name("begin" + "x" * 500 + "end")
    assert len(long) == LONGEST_NAME
    assert (long[:5], long[-3:], "…" in long) == ("begin", "end", True)
