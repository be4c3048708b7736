"""The delay lines of a program, in Triton.

They are four times as many rows of lanes as there are ordinates: the ordinates, the contents with a zero behind each
line's last, and the cotangents of both. A tuple of them would fill the registers, so they lie in memory and are moved
by loops. Barriers, since Triton does not promise that the lane which reads a number is the one that wrote it.
"""

import triton
import triton.language as tl


@triton.constexpr_function
def total(slots):
    return sum(slots)


@triton.constexpr_function
def before(slots, line):
    return sum(slots[:line])


@triton.jit
def load_lines(lines, source, stride, at, SLOTS: tl.constexpr, BLOCK: tl.constexpr):
    """The contents of all lines from rows of a state tensor, and the zeros behind them."""
    row = 0
    for i in tl.static_range(len(SLOTS)):
        to = lines + before(SLOTS, i) * BLOCK
        for j in range(SLOTS[i] - 1):
            tl.store(to + j * BLOCK, tl.load(source + (row + j) * stride + at))
        tl.store(to + (SLOTS[i] - 1) * BLOCK, tl.zeros_like(tl.load(to)))
        row += SLOTS[i] - 1
    tl.debug_barrier()


@triton.jit
def store_lines(lines, target, stride, at, used, good, SLOTS: tl.constexpr, BLOCK: tl.constexpr):
    row = 0
    for i in tl.static_range(len(SLOTS)):
        source = lines + before(SLOTS, i) * BLOCK
        for j in range(SLOTS[i] - 1):
            value = tl.where(good, tl.load(source + j * BLOCK), float("nan"))
            tl.store(target + (row + j) * stride + at, value, mask=used)
        row += SLOTS[i] - 1


@triton.jit
def first_rows(lines, PART: tl.constexpr, SLOTS: tl.constexpr, BLOCK: tl.constexpr):
    """The first ordinate (PART 0) or content (PART 1) of each line."""
    out = ()
    for i in tl.static_range(len(SLOTS)):
        out = out + (tl.load(lines + (PART * total(SLOTS) + before(SLOTS, i)) * BLOCK),)
    return out


@triton.jit
def move_lines(lines, x, SLOTS: tl.constexpr, BLOCK: tl.constexpr):
    """Moves the contents on by a step that put x into the lines."""
    for i in tl.static_range(len(SLOTS)):
        w = lines + before(SLOTS, i) * BLOCK
        m = w + total(SLOTS) * BLOCK
        for j in range(SLOTS[i] - 1):
            moved = tl.fma(tl.load(w + (j + 1) * BLOCK), x[i], tl.load(m + (j + 1) * BLOCK))
            tl.store(m + j * BLOCK, moved)
    tl.debug_barrier()


@triton.jit
def adj_put(lines, x, SLOTS: tl.constexpr, BLOCK: tl.constexpr):
    """The cotangents of x; adds to those of the ordinates but the first."""
    d_x = ()
    for i in tl.static_range(len(SLOTS)):
        w = lines + before(SLOTS, i) * BLOCK
        d_w, d_m = w + 2 * total(SLOTS) * BLOCK, w + 3 * total(SLOTS) * BLOCK
        sum = tl.zeros_like(x[i])
        for j in range(SLOTS[i] - 1):
            d = tl.load(d_m + j * BLOCK)
            sum = tl.fma(tl.load(w + (j + 1) * BLOCK), d, sum)
            tl.store(d_w + (j + 1) * BLOCK, tl.fma(x[i], d, tl.load(d_w + (j + 1) * BLOCK)))
        d_x = d_x + (sum,)
    return d_x


@triton.jit
def adj_move(lines, d_head, d_first, SLOTS: tl.constexpr, BLOCK: tl.constexpr):
    """The contents' cotangents go back by a step, and those of what the step was given join them."""
    for i in tl.static_range(len(SLOTS)):
        d_w = lines + (2 * total(SLOTS) + before(SLOTS, i)) * BLOCK
        d_m = d_w + total(SLOTS) * BLOCK
        for j in range(SLOTS[i] - 2):
            to = d_m + (SLOTS[i] - 2 - j) * BLOCK
            tl.store(to, tl.load(to - BLOCK))
        if SLOTS[i] > 1:
            tl.store(d_m, d_head[i])
        tl.store(d_w, tl.load(d_w) + d_first[i])
    tl.debug_barrier()
