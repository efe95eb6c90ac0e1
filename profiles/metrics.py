"""Every metric, declared once: name, unit, direction, formula and source.

Tables, help, exports and the gate read the declarations; nothing else may define a metric. "AR" and "diffusion" follow
the same formulas; where one side has no such quantity, the value is null with a reason.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Direction = Literal["lower", "higher", "neutral"]


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric's declaration.

    `unit` is the stored SI unit ("1" for a ratio or a count); `direction` says which way is better; `kind` says whether
    the value depends on a clock (`time`) or only on the work done (`counter`), joins the two sides (`pair`) or says
    what the generated texts are worth (`quality`).
    """

    name: str
    header: str
    unit: str
    direction: Direction
    kind: Literal["time", "counter", "pair", "quality"]
    formula: str
    note: str = ""


_DECLARED = (
    Metric("latency_s", "latency", "s", "lower", "time",
           "last committed token on the host - request ids on the device",
           "End to end, one generation of the whole batch; profilers off."),
    Metric("throughput_tok_s", "throughput", "tok/s", "higher", "time",
           "output_tokens / latency_s",
           "The headline. Prompt, padding and positions after EOS never count."),
    Metric("tok_s_user", "tok/s/user", "tok/s", "higher", "time",
           "throughput_tok_s / batch"),
    Metric("ttft_s", "TTFT", "s", "lower", "time",
           "time until position 0 is committed (median over rows)",
           "For a full-canvas sampler this is often near the latency; time_to_k_s compares both sides better."),
    Metric("ttfb_s", "first block", "s", "lower", "time",
           "time until the first block is committed (median over rows)",
           "AR: a block is one token. Diffusion: block_length tokens."),
    Metric("time_to_k_s", "time to k", "s", "lower", "time",
           "time until the committed contiguous prefix has k tokens (median over rows)",
           "A curve, one value a k (stored as time_to_k_s[k]); needs no definition of an inter-token latency."),
    Metric("block_latency_s", "block gap", "s", "lower", "time",
           "median gap between consecutive block commits",
           "Never divided by the block's length: that would not be an inter-token latency."),
    Metric("itl_s", "ITL", "s", "lower", "time",
           "median gap between consecutive commits (AR only)"),
    Metric("itl_p99_s", "ITL p99", "s", "lower", "time",
           "99th percentile of the gaps between consecutive commits of one sample (AR only)"),
    Metric("e2e_per_token_s", "E2E/token", "s", "lower", "time",
           "latency_s / output tokens per row"),
    Metric("tpot_s", "TPOT", "s", "lower", "time",
           "(latency_s - ttft_s) / (output tokens per row - 1)",
           "The serving world's definition, for comparison only: it is biased low for blocks, whose first "
           "tokens are in the denominator while their time is not in the numerator."),
    Metric("prefill_s", "prefill", "s", "lower", "time",
           "sum of forwards in phases prefill and encode, device clock"),
    Metric("forward_s", "forward", "s", "lower", "time",
           "sum of all other forwards, device clock"),
    Metric("sampling_s", "sampling", "s", "lower", "time",
           "from the end of a forward to the write that it led to, device clock"),
    Metric("idle_s", "idle", "s", "lower", "time",
           "latency_s - prefill_s - forward_s - sampling_s",
           "The device waits for the host. On CUDA a lower bound: gaps inside a forward count as forward."),
    Metric("prepare_s", "prepare", "s", "lower", "time",
           "allocate caches, compile and capture graphs, before the first request of a shape",
           "Outside the latency. The first process compiles cold; later ones find the compiler's cache on disk."),
    Metric("output_tokens", "output tokens", "1", "neutral", "counter",
           "tokens emitted under the length policy, summed over rows",
           "fixed: batch x L on both sides; natural: up to and with the first EOS."),
    Metric("canvas_tokens", "canvas tokens", "1", "neutral", "counter",
           "positions generated, needed or not, summed over rows"),
    Metric("nfe", "NFE", "1", "lower", "counter",
           "forwards of the target network, every phase"),
    Metric("draft_nfe", "draft NFE", "1", "lower", "counter",
           "forwards of the draft network", "Speculative decoding only; they count in forward_tokens."),
    Metric("forward_tokens", "forward tokens", "1", "lower", "counter",
           "sum over forwards of rows x q_len",
           "The work that the NFE hides."),
    Metric("tokens_per_forward", "tok/forward", "1", "higher", "counter",
           "emitted tokens per row / nfe"),
    Metric("model_flops", "FLOPs", "FLOP", "lower", "counter",
           "analytic, multiply-add = 2: matrix products and attention; causal attention counts the lower "
           "triangle, the head only the rows computed"),
    Metric("model_bytes", "bytes", "B", "lower", "counter",
           "analytic: weights read once per forward + KV read and written + logits written"),
    Metric("arithmetic_intensity", "intensity", "FLOP/B", "neutral", "counter",
           "model_flops / model_bytes"),
    Metric("mfu", "MFU", "1", "higher", "time",
           "model_flops / latency_s / measured matrix-product peak",
           "Peak measured beside the pairing on the same device, threads and dtype."),
    Metric("mbu", "MBU", "1", "higher", "time",
           "model_bytes / latency_s / measured read bandwidth",
           "Bandwidth of reading a block as large as the weights, so that a model that fits a cache is held to it."),
    Metric("roofline_fraction", "of roofline", "1", "higher", "time",
           "sum over forwards of max(flops/peak, bytes/peak) / latency_s",
           "Below 0.5 the cell is overhead-bound: it measures the framework, not the method."),
    Metric("floor_latency_s", "floor", "s", "lower", "time",
           "sum over forwards of max(flops / peak, bytes / peak)",
           "What physics allows: the latency at the measured peaks with nothing but the forwards' arithmetic and "
           "traffic."),
    Metric("ceiling_tok_s", "ceiling", "tok/s", "higher", "time",
           "output_tokens / floor_latency_s"),
    Metric("mfu_datasheet", "MFU (datasheet)", "1", "higher", "time",
           "model_flops / latency_s / dense matrix rate that the maker states for the dtype",
           "profiles/devices.toml names the source; null for a device that it does not know."),
    Metric("mbu_datasheet", "MBU (datasheet)", "1", "higher", "time",
           "model_bytes / latency_s / memory bandwidth that the maker states"),
    Metric("kernel_busy", "kernel busy", "1", "higher", "time",
           "time with at least one kernel running / wall time, under the torch profiler",
           "A replay, slowed by the profiler. CPU: time inside any operator, so the rest is the interpreter's."),
    Metric("launches_per_token", "launches/token", "1", "lower", "counter",
           "kernels launched (CPU: operators called that call no other) / output tokens",
           "A graph's kernels count one by one."),
    Metric("profiler_overhead", "profiler's overhead", "1", "lower", "time",
           "latency under the torch profiler / median timed latency - 1",
           "How far kernel_busy and the kernel table stand from an undisturbed generation."),
    Metric("gpu_util_nvml", "GPU util (NVML)", "1", "neutral", "time",
           "share of NVML's sample periods in which some kernel was resident, mean over the window",
           "Says nothing about how much of the device the kernel used: shown to teach the difference."),
    Metric("sm_active", "SM active", "1", "higher", "time",
           "share of cycles with at least one warp on an SM, mean over SMs (NVML GPM)", "Hopper and later."),
    Metric("sm_occupancy", "SM occupancy", "1", "neutral", "time",
           "resident warps / the most that fit, mean over SMs and time (NVML GPM)", "Hopper and later."),
    Metric("tensor_active", "tensor active", "1", "higher", "time",
           "share of cycles in which the tensor cores' pipe worked (NVML GPM, any precision)", "Hopper and later."),
    Metric("dram_active", "DRAM active", "1", "higher", "time",
           "share of the memory's peak traffic (NVML GPM)", "Hopper and later."),
    Metric("fp32_active", "FP32 pipe", "1", "neutral", "time",
           "share of cycles in which the FP32 pipe worked (NVML GPM)", "Hopper and later."),
    Metric("fp16_active", "FP16 pipe", "1", "neutral", "time",
           "share of cycles in which the FP16 pipe worked, tensor cores apart (NVML GPM)", "Hopper and later."),
    Metric("fp64_active", "FP64 pipe", "1", "neutral", "time",
           "share of cycles in which the FP64 pipe worked (NVML GPM)",
           "Hopper and later. Noise drawn in float64 shows here."),
    Metric("power_w", "power", "W", "lower", "time",
           "energy over the window / its length",
           "GPU: NVML's energy counter between its first and last update inside the window. CPU: RAPL, packages and "
           "DRAM where readable: everything that ran on the machine counts."),
    Metric("power_idle_w", "idle power", "W", "neutral", "time",
           "power with the model loaded and nothing running", "Part of power_w: never subtracted."),
    Metric("energy_j", "energy", "J", "lower", "time",
           "power_w x window / generations in it",
           "One generation of the whole batch, idle draw included. From replays back to back."),
    Metric("energy_per_token_j", "energy/token", "J/tok", "lower", "time",
           "energy_j / output tokens of one generation"),
    Metric("energy_integrated_ratio", "energy, integrated", "1", "neutral", "time",
           "power readings integrated over the window / energy counter",
           "A cross-check of two counters: far from 1, neither is to be trusted."),
    Metric("sm_clock_mhz", "SM clock", "MHz", "neutral", "time", "mean over the window"),
    Metric("memory_clock_mhz", "memory clock", "MHz", "neutral", "time", "mean over the window"),
    Metric("temperature_c", "temperature", "°C", "neutral", "time", "highest reading in the window"),
    Metric("memory_weights_b", "weights", "B", "neutral", "counter",
           "bytes of the parameters of the cell's networks and of every layout kept of them"),
    Metric("memory_kv_b", "KV", "B", "neutral", "counter",
           "bytes of the cell's caches of keys and values as allocated",
           "A cache that grows in a generation (transformers' dynamic one) counts as long as it ends."),
    Metric("memory_logits_b", "logits", "B", "neutral", "counter",
           "largest logits of a forward: rows computed x vocabulary x width"),
    Metric("memory_activations_b", "activations", "B", "neutral", "counter",
           "peak of one replay - weights - KV - logits - rest",
           "What a forward and sampling hold beside the logits; on a CPU also freed memory that the C library keeps."),
    Metric("memory_rest_b", "rest", "B", "neutral", "counter",
           "CPU: resident before the replay beside weights and caches: interpreter, libraries, compiled code. CUDA: 0",
           "Also what earlier replays left (the profiler). CUDA's context and libraries are on the device too, but "
           "the allocator sees none of them."),
    Metric("memory_predicted_b", "predicted memory", "B", "neutral", "counter",
           "sum of the same parts, from shapes alone"),
    Metric("memory_peak_b", "peak memory", "B", "lower", "counter",
           "peak of weights, KV, logits and activations during the cell",
           "Of the warm-up. CUDA: the allocator's peak, and the whole pools of captured graphs. CPU: the worker's peak "
           "resident size, interpreter and libraries included. Of cells that are open together, each counts alone: "
           "what only others hold is taken off."),
    Metric("observer_share", "observer", "1", "lower", "time",
           "observer events x measured unit cost / latency_s"),
    Metric("outlier_share", "outliers", "1", "neutral", "time",
           "samples further than 3 interquartile ranges from their process's quartiles / samples that count",
           "Kept: medians bear them. Many say that the machine, or the generator, has more than one state."),
    Metric("discarded_share", "discarded", "1", "neutral", "time",
           "samples taken and not counted, since others used the processors or the clocks were held / samples taken"),
    Metric("cache_logit_distance", "cache error", "1", "lower", "counter",
           "root mean square of (approximate - exact logits) / standard deviation of the exact logits, at candidates",
           "Approximate caches only, from a replay: what stale keys and values do to the prediction."),
    Metric("cache_argmax_changed", "argmax changed", "1", "lower", "counter",
           "share of candidate positions whose first choice differs from the exact forward's",
           "Approximate caches only, from a replay."),
    Metric("cache_tokens_changed", "tokens changed", "1", "lower", "counter",
           "share of output tokens that differ from those of the same generation without the cache",
           "Approximate caches only, from a replay with the same seed."),
    Metric("speedup", "speed-up", "1", "higher", "pair",
           "throughput of this cell / throughput of the pair's fastest AR cell at the same shape",
           "From the per-round log-ratios of alternating samples, so that a drift of the machine cancels."),
    Metric("crossover_steps", "crossover T*", "NFE", "neutral", "pair",
           "the NFE at which diffusion's latency equals the fastest AR cell's, interpolated in log NFE and speed-up",
           "Below T* diffusion is faster. Only under the fixed length policy."),
    Metric("crossover_batch", "crossover B*", "1", "neutral", "pair",
           "the batch at which the speed-up at this L and T crosses 1, interpolated in log batch",
           "Only under the fixed length policy."),
    Metric("quality.validity", "valid texts", "1", "higher", "quality",
           "texts whose every judged token is possible under the source / texts",
           "Interval: Wilson 1927, over texts. Longer texts have more occasions to fail: compare at equal length."),
    Metric("quality.valid_prefix", "valid prefix", "1", "higher", "quality",
           "mean over texts of judged tokens before the first impossible one / judged tokens"),
    Metric("quality.violations", "violations", "1", "lower", "quality",
           "texts whose first impossible token is of this kind / texts",
           "One value a kind (stored as quality.violations[agreement]); with validity they add up to 1."),
    Metric("quality.cross_entropy", "cross-entropy", "nats/tok", "neutral", "quality",
           "mean of -log p(token | all before it) under the exact source, up to each text's first impossible token",
           "An impossible token costs infinitely many nats and is counted by validity instead. Below the source's own "
           "entropy it is no merit. Interval over texts: linearised ratio (Cochran 1977, section 6.4)."),
    Metric("quality.cross_entropy_gap", "gap to the source", "nats/tok", "neutral", "quality",
           "quality.cross_entropy - the source's entropy at the same positions (or its entropy rate)",
           "0 for the source's own texts; below 0 only the likeliest words are written, as by a low temperature."),
    Metric("quality.source_entropy", "source's entropy", "nats/tok", "neutral", "quality",
           "entropy rate of the source, exact: what its own texts cost"),
    Metric("quality.word_kl", "word KL", "nats", "lower", "quality",
           "KL(words generated || the source's exact word frequencies), bias-corrected (Miller 1955, over texts)",
           "0 only for the source's own frequencies; a low temperature raises it. Interval: bootstrap over texts."),
    Metric("quality.rule_kl", "rule KL", "nats", "lower", "quality",
           "sum over the grammar's choices of share of use x KL(alternatives taken || exact), bias-corrected",
           "Conditional divergence (Cover and Thomas 2006, section 2.5), of each text's part before its first "
           "violation. Interval: bootstrap over texts."),
    Metric("quality.unigram_entropy", "words' entropy", "nats", "neutral", "quality",
           "entropy of the pooled judged tokens, bias-corrected (Miller 1955, over texts)",
           "Below the source's own the texts repeat themselves, which flatters perplexity (Zheng et al. 2024)."),
    Metric("quality.source_unigram_entropy", "source's words' entropy", "nats", "neutral", "quality",
           "entropy of the source's exact word frequencies"),
    Metric("quality.distinct_1", "distinct-1", "1", "neutral", "quality",
           "different words / tokens, in samples of equally many tokens",
           "Li et al. 2016. It falls as a sample grows, so only equal sizes compare; noise raises it."),
    Metric("quality.distinct_2", "distinct-2", "1", "neutral", "quality",
           "different pairs of neighbouring words / tokens, in samples of equally many tokens", "Li et al. 2016."),
    Metric("quality.distinct_3", "distinct-3", "1", "neutral", "quality",
           "different triples of neighbouring words / tokens, in samples of equally many tokens",
           "After Li et al. 2016."),
    Metric("quality.gen_ppl", "gen. perplexity", "1", "neutral", "quality",
           "exp(mean of -log p(token | all before it) of all judged tokens under a judge)",
           "One exponential over all texts, first EOS counted, no second tokenisation: MDLM's definition (Sahoo et al. "
           "2024); SEDD's averages perplexities of texts, BD3LM's leaves EOS out. A low temperature lowers it."),
    Metric("quality.judge_ppl", "judge's perplexity", "1", "neutral", "quality",
           "exp(mean of -log p(token | all before it) over all tokens of all texts) under another AR checkpoint, per "
           "token of that checkpoint",
           "--judge. One exponential over all texts, like MDLM's (Sahoo et al. 2024); SEDD (Lou et al. 2024) averages "
           "one perplexity a text, never lower at equal lengths; BD3LM (Arriola et al. 2025) leaves EOS out. Prompts "
           "are given and not scored. A low temperature or repetition flatters it (Zheng et al. 2024); perplexities "
           "under two judges do not compare. Interval over texts."),
    Metric("quality.cache_validity_change", "cache's change of validity", "1", "higher", "quality",
           "quality.validity of this cell - quality.validity of the same cell without the cache",
           "Approximate caches only (prefix, dual): what cache_speedup cost. Interval: Newcombe 1998, method 10, over "
           "texts; too wide rather than too narrow, since both write behind the same prompts."),
    Metric("quality.heldout_nats", "held-out loss", "nats/tok", "lower", "quality",
           "mean of -log p on texts not trained on: exact by the chain rule (AR), an upper bound (diffusion)",
           "A bound below AR's exact value shows the better model; a bound above it shows nothing."),
    Metric("quality.heldout_mc_nats", "its Monte Carlo error", "nats/tok", "lower", "quality",
           "standard deviation of the bound over draws of noise / sqrt(draws)",
           "Diffusion only; shrinks with more draws."),
    Metric("speedup_at_equal_quality", "speed-up at equal quality", "1", "higher", "pair",
           "the largest speedup among the settings whose quality is shown not to be worse than AR's by an allowance: a "
           "share of valid texts at most 0.05 (absolute) below AR's",
           "Non-inferiority at a level that holds for all settings at once (Bonferroni). Null where none is shown."),
    Metric("steps_at_equal_quality", "steps at equal quality", "1", "lower", "pair",
           "the fewest denoising steps T whose quality is shown not to be worse than AR's by an allowance: a share of "
           "valid texts at most 0.05 (absolute) below AR's",
           "Null where none is shown. The interval's lower end: the fewest steps not shown to be worse."),
    Metric("aup", "AUP", "1", "higher", "pair",
           "rho_1 y_1 + sum of (rho_i - rho_(i-1)) (y_i W_i + y_(i-1) W_(i-1)) / 2, "
           "W = min(exp(-3 (1 - y / y_max)), 1)",
           "Accuracy under parallelism (Qian et al. 2026), one value a generator (stored as aup[GENERATOR]): rho = "
           "tokens_per_forward, y = valid texts in %, over settings that differ in T alone (at equal T the fastest), "
           "without points more than 5 below the first; y_max the best y compared, AR's included. AR is one point and "
           "scores y x rho, however fast its forwards. It hides that forwards differ in cost, moves when a competitor "
           "is added, and its first term carries no weight. Interval: y over texts, y_max as measured."),
    Metric("cache_speedup", "cache's speed-up", "1", "higher", "pair",
           "throughput of this cell / throughput of the same cell without the cache",
           "Approximate caches only (prefix, dual), where the texts of both were judged. From the per-round log-ratios "
           "of alternating samples; interval over processes. Read it beside quality.cache_validity_change."),
)  # fmt: skip

METRICS: dict[str, Metric] = {metric.name: metric for metric in _DECLARED}


def declared(name: str) -> Metric:
    """The declaration behind a stored name; a curve's point `time_to_k_s[8]` belongs to `time_to_k_s`."""
    return METRICS[name.partition("[")[0]]
