"""Names of the built-in generators and of the random weights, apart from their code: naming them imports no torch."""

AR = "ar"
MASKED_DIFFUSION = "masked-diffusion"
HF_DYNAMIC = "hf"
HF_STATIC = "hf-static"

BUILT_IN = {
    AR: "autoregressive, prefill then decode on a static key-value cache",
    MASKED_DIFFUSION: "masked diffusion, semi-autoregressive blocks, low-confidence or random remasking",
    HF_DYNAMIC: "transformers' generate with a dynamic cache, on the pair's own weights; hf:PATH for a checkpoint",
    HF_STATIC: "transformers' generate with a static cache, likewise; hf-static:PATH for a checkpoint",
}

RANDOM = "random"
RANDOM_DISTRIBUTION = (
    "normal(0, 0.02); output projections of attention and MLP normal(0, 0.02 / sqrt(2 layers)); norms 1; biases 0"
)
