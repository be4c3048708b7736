"""The time loop over any model, and its adjoint, in Triton: one lane is one cell.

The kernels take a model's `step` and `step_adj` as compile-time functions, and tuples for all that a model has several
of. A program is one warp, whose lanes are the components of a basin side by side, padded to WIDTH, a power of two, then
the next basin's: the mean over components is a sum inside the warp, whose order depends on the number of components
alone. Basins of more components than a warp are cut into groups, whose partial sums the caller adds in order.

Arrays over cells are [.., B, C]; all offsets are 64 bits wide. Values out of bounds are noted in `faults`, the first
place of each kind, and from there on all outputs of that cell are NaN, so that a result cannot be taken for one before
somebody has looked at the note.
"""

import triton
import triton.language as tl

from .math import scaling_sigmoid

NEVER = tl.constexpr(1 << 62)
NO_STEP = tl.constexpr((1 << 31) - 1)
# Sizes, for which Triton would compile a kernel anew where they are 1 or multiples of 16. Nothing is gained by that: a
# lane loads one number at a time.
ANY_SIZE = tuple("n_steps n_basins n_components n_groups group_size interval n_blocks rows n columns".split())


@triton.jit
def lanes(block, n_basins, n_components, n_groups, group_size, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    """Of every lane: its column (a basin's group), basin, component, and whether it is used; unused ones repeat."""
    i = tl.arange(0, BLOCK)
    column = (tl.zeros((BLOCK,), tl.int64) + block) * (BLOCK // WIDTH) + i // WIDTH
    g = i % WIDTH
    used = (column < n_basins * n_groups) & (g < group_size)
    column = tl.minimum(column, n_basins * n_groups - 1)
    c = (column % n_groups) * group_size + g
    used = used & (c < n_components)
    c = tl.minimum(c, n_components - 1)
    return column, column // n_groups, c, used, used & (g == 0)


@triton.jit
def over_components(x, used, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    """The sum over the used lanes of each column, in all of its lanes."""
    if WIDTH == 1:
        return x
    else:
        x = tl.where(used, x, 0.0)
        sums = tl.sum(tl.reshape(x, (BLOCK // WIDTH, WIDTH)), axis=1, keep_dims=True)
        return tl.reshape(tl.broadcast_to(sums, (BLOCK // WIDTH, WIDTH)), (BLOCK,))


@triton.jit
def zeros(n: tl.constexpr, like):
    out = ()
    for _ in tl.static_range(n):
        out = out + (tl.zeros_like(like),)
    return out


@triton.jit
def added(a, b):
    out = ()
    for i in tl.static_range(len(a)):
        out = out + (a[i] + b[i],)
    return out


@triton.jit
def rows(base, stride, at, n: tl.constexpr):
    """n arrays of cells that follow one another."""
    out = ()
    for i in tl.static_range(n):
        out = out + (tl.load(base + i * stride + at),)
    return out


@triton.jit
def put_rows(base, stride, at, values, used):
    for i in tl.static_range(len(values)):
        tl.store(base + i * stride + at, values[i], mask=used)


@triton.jit
def forcing_of(forcing, strides, b, t):
    """The forcing of step t."""
    out = ()
    for i in tl.static_range(len(forcing)):
        out = out + (tl.load(forcing[i] + t * strides[i][0] + b * strides[i][1]),)
    return out


@triton.jit
def given_parameter(parameters, strides, b, c, t, i: tl.constexpr):
    return tl.load(parameters[i] + t * strides[i][0] + b * strides[i][1] + c * strides[i][2])


@triton.jit
def parameters_of(p, parameters, strides, b, c, t, RANGE: tl.constexpr, PER_STEP: tl.constexpr, RAW: tl.constexpr):
    """The parameters as the step takes them: those that PER_STEP marks of step t, and the others from p.

    Raw ones come before the sigmoid and are scaled to their range.
    """
    out = ()
    for i in tl.static_range(len(parameters)):
        if PER_STEP[i]:
            x = given_parameter(parameters, strides, b, c, t, i)
            if RAW:
                x = scaling_sigmoid(x) * (RANGE[i][1] - RANGE[i][0]) + RANGE[i][0]
            out = out + (x,)
        else:
            out = out + (p[i],)
    return out


@triton.jit
def d_given(d, parameters, strides, b, c, t, i: tl.constexpr, RANGE: tl.constexpr, RAW: tl.constexpr):
    """The gradient of a parameter as it was given."""
    if RAW:
        u = scaling_sigmoid(given_parameter(parameters, strides, b, c, t, i))
        return d * (RANGE[i][1] - RANGE[i][0]) * (u * (1.0 - u))
    else:
        return d


@triton.jit
def all_within(values, BOUNDS: tl.constexpr, WHICH: tl.constexpr):
    """Whether each of the values that WHICH marks lies within its bounds; a NaN does not."""
    ok = values[0] == values[0]
    ok = ok | True
    for i in tl.static_range(len(values)):
        if WHICH[i]:
            # As numbers of x's own type: a bare one may be taken for a float64.
            lower = tl.full(values[i].shape, BOUNDS[i][0], values[i].dtype)
            upper = tl.full(values[i].shape, BOUNDS[i][1], values[i].dtype)
            ok = ok & (values[i] >= lower) & (values[i] <= upper)
    return ok


@triton.jit
def note(faults, kind: tl.constexpr, place, used):
    tl.atomic_min(
        faults + kind, tl.min(tl.where(used, place, NEVER)), mask=tl.min(tl.where(used, place, NEVER)) < NEVER
    )


@triton.jit(do_not_specialize=ANY_SIZE)
def forward(
    step: tl.constexpr,
    forcing,
    forcing_strides,
    parameters,
    parameter_strides,
    weights,
    weight_strides,
    initial_state,
    fluxes,
    final_state,
    checkpoints,
    faults,
    n_steps: "i64",
    n_basins: "i64",
    n_components: "i64",
    n_groups: "i64",
    group_size: "i64",
    interval: "i64",
    OUTPUTS: tl.constexpr,
    EACH: tl.constexpr,
    S: tl.constexpr,
    FORCING_BOUNDS: tl.constexpr,
    PARAMETER_BOUNDS: tl.constexpr,
    RANGE: tl.constexpr,
    PER_STEP: tl.constexpr,
    STATIC: tl.constexpr,
    RAW: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
):
    column, b, c, used, first = lanes(tl.program_id(0), n_basins, n_components, n_groups, group_size, WIDTH, BLOCK)
    cell, n_cells, n_columns = b * n_components + c, n_basins * n_components, n_basins * n_groups
    s = rows(initial_state, n_cells, cell, S)
    none = zeros(len(parameters), s[0])
    p = parameters_of(none, parameters, parameter_strides, b, c, 0, RANGE, STATIC, RAW)
    weight = tl.full((BLOCK,), 1.0, s[0].dtype) / n_components.to(s[0].dtype)
    if weights is not None:
        weight = tl.load(weights + b * weight_strides[0] + c * weight_strides[1])

    # The first store out of bounds, and the first step with a value out of bounds: of the forcing, of the parameters.
    bad_state = tl.full((BLOCK,), NO_STEP, tl.int32)
    for i in tl.static_range(S):
        within = all_within((s[i],), ((0.0, 1e30),), (True,))
        bad_state = tl.minimum(bad_state, tl.where(within, NO_STEP, i))
    weight_ok = (weight >= -1e30) & (weight <= 1e30)
    bad_forcing = tl.full((BLOCK,), NO_STEP, tl.int32)
    bad_parameter = tl.where(all_within(p, PARAMETER_BOUNDS, STATIC), bad_forcing, 0)
    good = (bad_state == NO_STEP) & weight_ok & (bad_parameter == NO_STEP)
    step_number = (n_steps * 0).to(tl.int32)

    f = forcing_of(forcing, forcing_strides, b, 0)
    f_next = forcing_of(forcing, forcing_strides, b, tl.minimum(1, n_steps - 1))
    next_checkpoint = n_steps * 0
    row = n_steps * 0
    for t in range(n_steps):
        # Two steps ahead, so that the memory's answer is there when it is wanted.
        f_ahead = forcing_of(forcing, forcing_strides, b, tl.minimum(t + 2, n_steps - 1))
        if checkpoints is not None:
            if t == next_checkpoint:
                put_rows(checkpoints + row * S * n_cells, n_cells, cell, s, used)
                next_checkpoint += interval
                row += 1
        p_t = parameters_of(p, parameters, parameter_strides, b, c, t, RANGE, PER_STEP, RAW)
        forcing_ok = all_within(f, FORCING_BOUNDS, (True,) * len(f))
        parameter_ok = all_within(p_t, PARAMETER_BOUNDS, PER_STEP)
        bad_forcing = tl.minimum(bad_forcing, tl.where(forcing_ok, NO_STEP, step_number))
        bad_parameter = tl.minimum(bad_parameter, tl.where(parameter_ok, NO_STEP, step_number))
        good = good & forcing_ok & parameter_ok
        step_number += 1
        s, q = step(f, p_t, s)
        q = q + s
        for o in tl.static_range(len(OUTPUTS)):
            value = tl.where(good, q[OUTPUTS[o]], float("nan"))
            if EACH:
                tl.store(fluxes + (o * n_steps + t) * n_cells + cell, value, mask=used)
            else:
                mean = over_components(weight * value, used, WIDTH, BLOCK)
                tl.store(fluxes + (o * n_steps + t) * n_columns + column, mean, mask=first)
        f = f_next
        f_next = f_ahead
    for i in tl.static_range(S):
        tl.store(final_state + i * n_cells + cell, tl.where(good, s[i], float("nan")), mask=used)
    note(faults, 0, tl.where(bad_forcing < NO_STEP, bad_forcing * n_cells + cell, NEVER), used)
    note(faults, 1, tl.where(bad_parameter < NO_STEP, bad_parameter * n_cells + cell, NEVER), used)
    note(faults, 2, tl.where(bad_state < NO_STEP, bad_state * n_cells + cell, NEVER), used)
    note(faults, 3, tl.where(weight_ok, NEVER, cell), used)


@triton.jit(do_not_specialize=ANY_SIZE)
def adjoint(
    step: tl.constexpr,
    step_adj: tl.constexpr,
    forcing,
    forcing_strides,
    parameters,
    parameter_strides,
    weights,
    weight_strides,
    checkpoints,
    tape,
    d_fluxes,
    d_flux_strides,
    d_final_state,
    d_forcing,
    d_parameters,
    d_initial_state,
    d_weights,
    n_steps: "i64",
    n_basins: "i64",
    n_components: "i64",
    n_groups: "i64",
    group_size: "i64",
    interval: "i64",
    n_blocks: "i64",
    OUTPUTS: tl.constexpr,
    EACH: tl.constexpr,
    S: tl.constexpr,
    Q: tl.constexpr,
    RANGE: tl.constexpr,
    PER_STEP: tl.constexpr,
    STATIC: tl.constexpr,
    BY_GROUP: tl.constexpr,
    RAW: tl.constexpr,
    FORCING: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
):
    n_cells, n_columns = n_basins * n_components, n_basins * n_groups
    # The tape holds a segment's states of the blocks at work alone: each program takes block after block.
    tape_row = tape + tl.program_id(0).to(tl.int64) * interval * S * BLOCK + tl.arange(0, BLOCK)
    for block in range(tl.program_id(0), n_blocks, tl.num_programs(0)):
        column, b, c, used, first = lanes(block, n_basins, n_components, n_groups, group_size, WIDTH, BLOCK)
        cell = b * n_components + c
        d_s = rows(d_final_state, n_cells, cell, S)
        zero = tl.zeros_like(d_s[0])
        p = parameters_of(zeros(len(parameters), zero), parameters, parameter_strides, b, c, 0, RANGE, STATIC, RAW)
        weight = tl.full((BLOCK,), 1.0, zero.dtype) / n_components.to(zero.dtype)
        if weights is not None:
            weight = tl.load(weights + b * weight_strides[0] + c * weight_strides[1])
        d_weight = zero
        d_p = zeros(len(parameters), zero)

        n_segments = (n_steps + interval - 1) // interval
        for segment in range(n_segments):
            begin = (n_segments - 1 - segment) * interval
            length = tl.minimum(interval, n_steps - begin)
            s = rows(checkpoints + (n_segments - 1 - segment) * S * n_cells, n_cells, cell, S)
            tl.debug_barrier()  # Triton does not promise that the lane which reads the tape is the one that wrote it
            for k in range(length):
                put_rows(tape_row + k * S * BLOCK, BLOCK, 0, s, True)
                f = forcing_of(forcing, forcing_strides, b, begin + k)
                p_t = parameters_of(p, parameters, parameter_strides, b, c, begin + k, RANGE, PER_STEP, RAW)
                s, _ = step(f, p_t, s)
            tl.debug_barrier()
            for k in range(length):
                t = begin + (length - 1 - k)
                s = rows(tape_row + (length - 1 - k) * S * BLOCK, BLOCK, 0, S)
                f = forcing_of(forcing, forcing_strides, b, t)
                p_t = parameters_of(p, parameters, parameter_strides, b, c, t, RANGE, PER_STEP, RAW)
                if d_weights is not None:
                    after, q = step(f, p_t, s)
                    q = q + after
                    # Barriers also part this step from its reversal: what both compute is dear to hold in between.
                    tl.debug_barrier()
                # The cotangents of the sums over components, or of the cells' own values.
                d_out = ()
                for o in tl.static_range(len(OUTPUTS)):
                    # Integers that come in a tuple have 32 bits, and so would their product with o.
                    d_row = d_fluxes + tl.full((), o, tl.int64) * d_flux_strides[0]
                    d_row += t * d_flux_strides[1] + b * d_flux_strides[2]
                    if EACH:
                        d_out = d_out + (tl.load(d_row + c * d_flux_strides[3]),)
                    else:
                        d_out = d_out + (tl.load(d_row),)
                    if d_weights is not None:
                        d_weight = tl.fma(d_out[o], q[OUTPUTS[o]], d_weight)
                if d_weights is not None:
                    tl.debug_barrier()
                    s = rows(tape_row + (length - 1 - k) * S * BLOCK, BLOCK, 0, S)
                # The cotangents of fluxes and states, in the order in which outputs name them.
                d_all = zeros(Q, zero) + d_s
                for o in tl.static_range(len(OUTPUTS)):
                    d_value = d_out[o] if EACH else weight * d_out[o]
                    d_all = d_all[: OUTPUTS[o]] + (d_all[OUTPUTS[o]] + d_value,) + d_all[OUTPUTS[o] + 1 :]
                d_s, d_f, d_p_t = step_adj(f, p_t, s, d_all[:Q], d_all[Q:])
                for i in tl.static_range(len(FORCING)):
                    if FORCING[i]:
                        d = over_components(d_f[i], used, WIDTH, BLOCK)
                        tl.store(d_forcing[i] + t * n_columns + column, d, mask=first)
                d_p_sum = ()
                for i in tl.static_range(len(PER_STEP)):
                    if PER_STEP[i]:
                        if d_parameters[i] is not None:
                            d = d_given(d_p_t[i], parameters, parameter_strides, b, c, t, i, RANGE, RAW)
                            if BY_GROUP[i]:
                                d = over_components(d, used, WIDTH, BLOCK)
                                tl.store(d_parameters[i] + t * n_columns + column, d, mask=first)
                            else:
                                tl.store(d_parameters[i] + t * n_cells + cell, d, mask=used)
                        d_p_sum = d_p_sum + (d_p[i],)
                    else:
                        d_p_sum = d_p_sum + (d_p[i] + d_p_t[i],)
                d_p = d_p_sum
        put_rows(d_initial_state, n_cells, cell, d_s, used)
        if d_weights is not None:
            tl.store(d_weights + cell, d_weight, mask=used)
        for i in tl.static_range(len(STATIC)):
            if STATIC[i]:
                if d_parameters[i] is not None:
                    d = d_given(d_p[i], parameters, parameter_strides, b, c, 0, i, RANGE, RAW)
                    tl.store(d_parameters[i] + cell, d, mask=used)


@triton.jit(do_not_specialize=ANY_SIZE)
def sum_middle(x, out, rows: "i64", n: "i64", columns: "i64", BLOCK: tl.constexpr):
    """The sums of x [rows, n, columns] over its middle axis, in order."""
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    used = i < rows * columns
    at = x + (i // columns) * (n * columns) + i % columns
    total = tl.load(at, mask=used, other=0.0)
    for k in range(1, n):
        total += tl.load(at + k * columns, mask=used, other=0.0)
    tl.store(out + i, total, mask=used)
