"""Triton kernels of the chunked log-probs; `logprobs_triton` launches them and says how far they are tested.

Suffixes are those of `logprobs`, in lower case for one program's block: `logits_nv` is a block of n tokens by v
vocabulary entries. A block's place in memory is a 64-bit number, since a vocabulary by a hidden size passes 2**31;
offsets within the block are 32-bit and do not change along a loop, which saves registers.

Exponentials are kept relative to a power of two per token and block of the vocabulary, 2**power with a whole `power`
just above the block's maximum. Bringing blocks to a common maximum then only shifts exponents, so that what was stored
in 16 bits is not rounded a second time.
"""

import triton
import triton.language as tl

# ln 2 in two parts, the first short enough that its product with a power below 2**8 is exact in float32.
LN2_HIGH = tl.constexpr(0.693145751953125)
LN2_LOW = tl.constexpr(1.428606820309417e-06)
LOWEST_POWER = tl.constexpr(-(2.0**30))
# Stored tiles are lifted by this factor, which moves the smallest float16 from 6e-8 to 2e-12; it fits float16 still.
LIFT = tl.constexpr(2.0**15)


@triton.jit
def _block_position(n_rows, n_columns, BLOCK_ROWS: tl.constexpr, BLOCK_COLUMNS: tl.constexpr, GROUP: tl.constexpr):
    """Row and column block of this program; GROUP row blocks go through the columns together, sharing them in L2."""
    row_blocks = tl.cdiv(n_rows, BLOCK_ROWS)
    column_blocks = tl.cdiv(n_columns, BLOCK_COLUMNS)
    group = tl.program_id(0) // (GROUP * column_blocks)
    within = tl.program_id(0) % (GROUP * column_blocks)
    rows_in_group = tl.minimum(row_blocks - group * GROUP, GROUP)
    return group * GROUP + within % rows_in_group, within // rows_in_group


@triton.jit
def _logits(
    hidden_ptr, weight_ptr, bias_ptr, token_start, entry_start, n_tokens, n_entries, width, hidden_stride,
    weight_stride, inner, outer, BIASED: tl.constexpr, SOFTCAP: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_V: tl.constexpr, BLOCK_D: tl.constexpr,
):
    """One block of float32 logits, -inf beyond the vocabulary, and their slope over its maximum (1 without a cap)."""
    token_n = tl.arange(0, BLOCK_N)
    entry_v = tl.arange(0, BLOCK_V)
    depth_d = tl.arange(0, BLOCK_D)
    hidden_ptr += token_start.to(tl.int64) * hidden_stride
    weight_ptr += entry_start.to(tl.int64) * weight_stride
    hidden_nd = token_n[:, None] * hidden_stride + depth_d[None, :]
    weight_dv = entry_v[None, :] * weight_stride + depth_d[:, None]
    in_tokens_n = token_n < n_tokens - token_start
    in_vocab_v = entry_v < n_entries - entry_start
    logits_nv = tl.zeros((BLOCK_N, BLOCK_V), tl.float32)
    for start in range(0, width, BLOCK_D):
        inside_d = depth_d < width - start
        left_nd = tl.load(hidden_ptr + hidden_nd, mask=in_tokens_n[:, None] & inside_d[None, :], other=0.0)
        right_dv = tl.load(weight_ptr + weight_dv, mask=in_vocab_v[None, :] & inside_d[:, None], other=0.0)
        logits_nv = tl.dot(left_nd, right_dv, logits_nv, input_precision="ieee")
        hidden_ptr += BLOCK_D
        weight_ptr += BLOCK_D
    if BIASED:
        logits_nv += tl.load(bias_ptr + entry_start + entry_v, mask=in_vocab_v, other=0.0).to(tl.float32)[None, :]
    slope_nv = 1.0
    if SOFTCAP:
        # tanh by exponentials: its error of about 1e-7 is one unit in the last place of a logit near the cap.
        scaled_nv = logits_nv * inner
        decay_nv = tl.exp(-2.0 * tl.abs(scaled_nv))
        tanh_nv = (1.0 - decay_nv) / (1.0 + decay_nv)
        slope_nv = 1.0 - tanh_nv * tanh_nv
        logits_nv = tl.where(scaled_nv < 0.0, -tanh_nv, tanh_nv) * outer
    else:
        logits_nv *= inner
    return tl.where(in_vocab_v[None, :], logits_nv, float("-inf")), slope_nv


@triton.jit(do_not_specialize=["first_entry"])
def statistics_kernel(
    hidden_ptr, weight_ptr, bias_ptr, target_ptr, power_ptr, sum_ptr, target_logit_ptr, exp_ptr,
    n_tokens, n_entries, width, first_entry, hidden_stride, weight_stride, partial_stride, exp_stride, inner, outer,
    BIASED: tl.constexpr, SOFTCAP: tl.constexpr, KEEP_EXP: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_V: tl.constexpr, BLOCK_D: tl.constexpr, GROUP: tl.constexpr,
):
    """Per token and block of the vocabulary: the power just above the maximum, and the sum of exponentials over it.

    The block that holds a token's target stores its logit. KEEP_EXP also stores the lifted exponentials, times slope.
    """
    token_block, vocab_block = _block_position(n_tokens, n_entries, BLOCK_N, BLOCK_V, GROUP)
    token_start = token_block * BLOCK_N
    entry_start = vocab_block * BLOCK_V
    tokens_n = token_start + tl.arange(0, BLOCK_N)
    entries_v = entry_start + tl.arange(0, BLOCK_V)
    in_tokens_n = tokens_n < n_tokens
    logits_nv, slope_nv = _logits(
        hidden_ptr, weight_ptr, bias_ptr, token_start, entry_start, n_tokens, n_entries, width, hidden_stride,
        weight_stride, inner, outer, BIASED, SOFTCAP, BLOCK_N, BLOCK_V, BLOCK_D)

    target_n = tl.load(target_ptr + tokens_n, mask=in_tokens_n, other=-1) - first_entry
    entry_stop = tl.minimum(entry_start + BLOCK_V, n_entries)
    found_n = tl.sum(tl.where(entries_v[None, :] == target_n[:, None], logits_nv, 0.0), 1)
    is_here_n = (target_n >= entry_start) & (target_n < entry_stop)
    tl.store(target_logit_ptr + tokens_n, found_n, mask=in_tokens_n & is_here_n)

    # A block of nothing but -inf (masked entries) has no power; the lowest one keeps it from giving nan.
    log2_n = tl.max(logits_nv, 1) * 1.4426950408889634  # pyright: ignore[reportOperatorIssue]
    power_n = tl.maximum(tl.ceil(log2_n), LOWEST_POWER)
    exp_nv = tl.exp((logits_nv - (power_n * LN2_HIGH)[:, None]) - (power_n * LN2_LOW)[:, None])
    partial_n = vocab_block.to(tl.int64) * partial_stride + tokens_n
    tl.store(power_ptr + partial_n, power_n, mask=in_tokens_n)
    tl.store(sum_ptr + partial_n, tl.sum(exp_nv, 1), mask=in_tokens_n)
    if KEEP_EXP:
        exp_nv *= slope_nv
        exp_nv *= LIFT
        inside_nv = in_tokens_n[:, None] & (entries_v < n_entries)[None, :]
        offset_nv = tl.arange(0, BLOCK_N)[:, None] * exp_stride + entries_v[None, :]
        exp_ptr += token_start.to(tl.int64) * exp_stride
        tl.store(exp_ptr + offset_nv, exp_nv.to(exp_ptr.dtype.element_ty), mask=inside_nv)


@triton.jit(do_not_specialize=["first_entry"])
def gradient_kernel(
    hidden_ptr, weight_ptr, bias_ptr, target_ptr, upstream_ptr, log_normaliser_ptr, grad_ptr, grad_bias_ptr,
    n_tokens, n_entries, width, first_entry, hidden_stride, weight_stride, grad_stride, partial_stride, inner, outer,
    BIASED: tl.constexpr, SOFTCAP: tl.constexpr, BIAS_TRAINS: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_V: tl.constexpr, BLOCK_D: tl.constexpr, GROUP: tl.constexpr,
):
    """Upstream * (one-hot - probability) * slope of one block, stored in the inputs' dtype for the products to come.

    BIAS_TRAINS also stores its sum over the block's tokens, taken before the rounding to that dtype.
    """
    token_block, vocab_block = _block_position(n_tokens, n_entries, BLOCK_N, BLOCK_V, GROUP)
    token_start = token_block * BLOCK_N
    entry_start = vocab_block * BLOCK_V
    tokens_n = token_start + tl.arange(0, BLOCK_N)
    entries_v = entry_start + tl.arange(0, BLOCK_V)
    in_tokens_n = tokens_n < n_tokens
    in_vocab_v = entries_v < n_entries
    logits_nv, slope_nv = _logits(
        hidden_ptr, weight_ptr, bias_ptr, token_start, entry_start, n_tokens, n_entries, width, hidden_stride,
        weight_stride, inner, outer, BIASED, SOFTCAP, BLOCK_N, BLOCK_V, BLOCK_D)

    target_n = tl.load(target_ptr + tokens_n, mask=in_tokens_n, other=-1) - first_entry
    upstream_n = tl.load(upstream_ptr + tokens_n, mask=in_tokens_n, other=0.0)
    # Tokens beyond the end have logits too (the bias): an infinite normaliser makes nothing of them.
    log_normaliser_n = tl.load(log_normaliser_ptr + tokens_n, mask=in_tokens_n, other=float("inf"))
    one_hot_nv = (entries_v[None, :] == target_n[:, None]).to(tl.float32)
    grad_nv = (one_hot_nv - tl.exp(logits_nv - log_normaliser_n[:, None])) * (upstream_n[:, None] * slope_nv)
    if BIAS_TRAINS:
        partial_v = token_block.to(tl.int64) * partial_stride + entries_v
        tl.store(grad_bias_ptr + partial_v, tl.sum(grad_nv, 0), mask=in_vocab_v)
    offset_nv = tl.arange(0, BLOCK_N)[:, None] * grad_stride + entries_v[None, :]
    grad_ptr += token_start.to(tl.int64) * grad_stride
    inside_nv = in_tokens_n[:, None] & in_vocab_v[None, :]
    tl.store(grad_ptr + offset_nv, grad_nv.to(grad_ptr.dtype.element_ty), mask=inside_nv)


@triton.jit
def product_kernel(
    left_ptr, right_ptr, sum_ptr, factor_ptr, rescale_ptr,
    n_rows, n_inner, width, left_row_stride, left_inner_stride, right_stride, sum_stride, factor_stride,
    SHIFTED: tl.constexpr, FACTOR_WIDTH: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_K: tl.constexpr, GROUP: tl.constexpr,
):
    """Sum [rows, width] += left [rows, inner] @ right [inner, width], the sum in float32.

    SHIFTED first multiplies the sum's rows by `rescale`, and each row's blocks of FACTOR_WIDTH inner entries by
    `factor` [blocks, rows]: powers of two, so the product with a 16-bit number is exact.
    """
    row_block, width_block = _block_position(n_rows, width, BLOCK_M, BLOCK_D, GROUP)
    row_start = row_block * BLOCK_M
    row_m = tl.arange(0, BLOCK_M)
    columns_d = width_block * BLOCK_D + tl.arange(0, BLOCK_D)
    inner_k = tl.arange(0, BLOCK_K)
    in_rows_m = row_m < n_rows - row_start
    in_width_d = columns_d < width
    left_ptr += row_start.to(tl.int64) * left_row_stride
    left_mk = row_m[:, None] * left_row_stride + inner_k[None, :] * left_inner_stride
    right_kd = inner_k[:, None] * right_stride + columns_d[None, :]
    total_md = tl.zeros((BLOCK_M, BLOCK_D), tl.float32)
    for start in range(0, n_inner, BLOCK_K):
        inside_k = inner_k < n_inner - start
        block_mk = tl.load(left_ptr + left_mk, mask=in_rows_m[:, None] & inside_k[None, :], other=0.0)
        block_kd = tl.load(right_ptr + right_kd, mask=inside_k[:, None] & in_width_d[None, :], other=0.0)
        if SHIFTED:
            factor_start = factor_ptr + row_start + start // FACTOR_WIDTH * factor_stride
            factor_m = tl.load(factor_start + row_m, mask=in_rows_m, other=0.0)
            block_mk = (block_mk.to(tl.float32) * factor_m[:, None]).to(left_ptr.dtype.element_ty)
        total_md = tl.dot(block_mk, block_kd, total_md, input_precision="ieee")
        left_ptr += BLOCK_K * left_inner_stride
        right_ptr += BLOCK_K * right_stride
    sum_ptr += row_start.to(tl.int64) * sum_stride
    sum_md = row_m[:, None] * sum_stride + columns_d[None, :]
    inside_md = in_rows_m[:, None] & in_width_d[None, :]
    before_md = tl.load(sum_ptr + sum_md, mask=inside_md, other=0.0)
    if SHIFTED:
        before_md *= tl.load(rescale_ptr + row_start + row_m, mask=in_rows_m, other=0.0)[:, None]
    tl.store(sum_ptr + sum_md, before_md + total_md, mask=inside_md)
