"""The time loop over any model, and its adjoint, in Triton: one lane is one cell.

The kernels take a model's functions at compile time, and tuples for all that a model has several of. What a function is
given is the tuple (f, k, p, d, w, dt): the forcing of the step, static inputs, parameters, what `prepare` made, the
first ordinate of each delay line, and the step's length in days, as in csrc/core/model.h.

A program is one warp, whose lanes are the components of a basin side by side, padded to WIDTH, a power of two, then the
next basin's: the mean over components is a sum inside the warp, whose order depends on the number of components alone.
Basins of more components than a warp are cut into groups, whose partial sums the caller adds in order.

Ordinates and contents of delay lines are many: see lines.py.

Arrays over cells are [.., B, C]; all offsets are 64 bits wide. Values out of bounds are noted in `faults`, the first
place of each kind, and from there on all outputs of that cell are NaN, so that a result cannot be taken for one before
somebody has looked at the note.
"""

import triton
import triton.language as tl

from .lines import adj_move, adj_put, first_rows, load_lines, move_lines, store_lines, total
from .math import exp2, scaling_sigmoid

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

    Raw ones come before the sigmoid and are scaled to RANGE: lower, upper, and on a log scale the octaves between.
    """
    out = ()
    for i in tl.static_range(len(parameters)):
        if PER_STEP[i]:
            x = given_parameter(parameters, strides, b, c, t, i)
            if RAW:
                if RANGE[i][2] != 0.0:
                    x = exp2(scaling_sigmoid(x) * RANGE[i][2]) * RANGE[i][0]
                else:
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
        if RANGE[i][2] != 0.0:
            d = d * (exp2(u * RANGE[i][2]) * RANGE[i][0]) * (RANGE[i][2] * 0.6931471805599453)
            return d * (u * (1.0 - u))
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
def inputs_of(inputs, strides, b, K: tl.constexpr):
    """The static inputs of each lane's basin."""
    out = ()
    for i in tl.static_range(K):
        out = out + (tl.load(inputs[i] + b * strides[i][0]),)
    return out


@triton.jit
def prepared(prepare: tl.constexpr, ordinates: tl.constexpr, k, p, lines, DT, D, SLOTS, OPTIONS, BLOCK: tl.constexpr):
    """What follows from inputs and parameters; the ordinates go to the first rows of `lines`."""
    d = ()
    if D > 0:
        d = prepare(((), k, p, (), (), DT), OPTIONS)
    if len(SLOTS) > 0:
        put_rows(lines, BLOCK, 0, ordinates(((), k, p, d, (), DT), OPTIONS), True)
        tl.debug_barrier()
    return d


@triton.jit
def adj_prepared(
    prepare_adj: tl.constexpr,
    ordinates_adj: tl.constexpr,
    k,
    p,
    d,
    d_d,
    d_p,
    lines,
    DT,
    D: tl.constexpr,
    SLOTS: tl.constexpr,
    OPTIONS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Adds to d_p what follows from the cotangents of what was prepared, and leaves those of the ordinates 0."""
    n: tl.constexpr = total(SLOTS)
    if len(SLOTS) > 0:
        d_w = rows(lines + 2 * n * BLOCK, BLOCK, 0, n)
        more_p, more_d = ordinates_adj(((), k, p, d, (), DT), d_w, OPTIONS)
        d_p, d_d = added(d_p, more_p), added(d_d, more_d)
        put_rows(lines + 2 * n * BLOCK, BLOCK, 0, zeros(n, d_p[0]), True)
        tl.debug_barrier()
    if D > 0:
        d_p = added(d_p, prepare_adj(((), k, p, d, (), DT), d_d, OPTIONS))
    return d_p


@triton.jit
def note(faults, kind: tl.constexpr, place, used):
    tl.atomic_min(
        faults + kind, tl.min(tl.where(used, place, NEVER)), mask=tl.min(tl.where(used, place, NEVER)) < NEVER
    )


@triton.jit(do_not_specialize=ANY_SIZE)
def forward(
    step: tl.constexpr,
    prepare: tl.constexpr,
    ordinates: tl.constexpr,
    forcing,
    forcing_strides,
    inputs,
    input_strides,
    parameters,
    parameter_strides,
    weights,
    weight_strides,
    lines,
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
    OPTIONS: tl.constexpr,
    OUTPUTS: tl.constexpr,
    EACH: tl.constexpr,
    BEYOND: tl.constexpr,
    S: tl.constexpr,
    K: tl.constexpr,
    D: tl.constexpr,
    SLOTS: tl.constexpr,
    DT: tl.constexpr,
    FORCING_BOUNDS: tl.constexpr,
    INPUT_BOUNDS: tl.constexpr,
    STATE_BOUNDS: tl.constexpr,
    PARAMETER_BOUNDS: tl.constexpr,
    RANGE: tl.constexpr,
    PER_STEP: tl.constexpr,
    STATIC: tl.constexpr,
    MOVING: tl.constexpr,
    RAW: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
):
    column, b, c, used, first = lanes(tl.program_id(0), n_basins, n_components, n_groups, group_size, WIDTH, BLOCK)
    cell, n_cells, n_columns = b * n_components + c, n_basins * n_components, n_basins * n_groups
    s = rows(initial_state, n_cells, cell, S)
    ROWS: tl.constexpr = S + total(SLOTS) - len(SLOTS)
    k = inputs_of(inputs, input_strides, b, K)
    none = zeros(len(parameters), s[0])
    p = parameters_of(none, parameters, parameter_strides, b, c, 0, RANGE, STATIC, RAW)
    weight = tl.full((BLOCK,), 1.0, s[0].dtype) / n_components.to(s[0].dtype)
    if weights is not None:
        weight = tl.load(weights + b * weight_strides[0] + c * weight_strides[1])

    # The first store out of bounds, and the first step with a value out of bounds: of the forcing, of the parameters.
    bad_state = tl.full((BLOCK,), NO_STEP, tl.int32)
    for i in tl.static_range(S):
        within = all_within((s[i],), (STATE_BOUNDS[i],), (True,))
        bad_state = tl.minimum(bad_state, tl.where(within, NO_STEP, i))
    d = ()
    if len(SLOTS) > 0:
        lines += tl.program_id(0).to(tl.int64) * 4 * total(SLOTS) * BLOCK + tl.arange(0, BLOCK)
        load_lines(lines + total(SLOTS) * BLOCK, initial_state + S * n_cells, n_cells, cell, SLOTS, BLOCK)
        for i in range(S, ROWS):
            content = tl.load(initial_state + i * n_cells + cell)
            within = (content >= -1e30) & (content <= 1e30)
            bad_state = tl.minimum(bad_state, tl.where(within, NO_STEP, i))
    if D + len(SLOTS) > 0:
        d = prepared(prepare, ordinates, k, p, lines, DT, D, SLOTS, OPTIONS, BLOCK)
    weight_ok = (weight >= -1e30) & (weight <= 1e30)
    bad_forcing = tl.full((BLOCK,), NO_STEP, tl.int32)
    bad_parameter = tl.where(all_within(p, PARAMETER_BOUNDS, STATIC), bad_forcing, 0)
    bad_passes = bad_forcing  # of a loop of the step, which has a flux that says so
    if K > 0:
        bad_forcing = tl.where(all_within(k, INPUT_BOUNDS, (True,) * K), bad_forcing, 0)
    good = (bad_state == NO_STEP) & weight_ok & (bad_parameter == NO_STEP) & (bad_forcing == NO_STEP)
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
                to = checkpoints + row * ROWS * n_cells
                put_rows(to, n_cells, cell, s, used)
                if len(SLOTS) > 0:
                    store_lines(lines + total(SLOTS) * BLOCK, to + S * n_cells, n_cells, cell, used, True, SLOTS, BLOCK)
                next_checkpoint += interval
                row += 1
        p_t = parameters_of(p, parameters, parameter_strides, b, c, t, RANGE, PER_STEP, RAW)
        forcing_ok = all_within(f, FORCING_BOUNDS, (True,) * len(f))
        parameter_ok = all_within(p_t, PARAMETER_BOUNDS, PER_STEP)
        bad_forcing = tl.minimum(bad_forcing, tl.where(forcing_ok, NO_STEP, step_number))
        bad_parameter = tl.minimum(bad_parameter, tl.where(parameter_ok, NO_STEP, step_number))
        good = good & forcing_ok & parameter_ok
        if MOVING and D + len(SLOTS) > 0:
            d = prepared(prepare, ordinates, k, p_t, lines, DT, D, SLOTS, OPTIONS, BLOCK)
        w = first_rows(lines, 0, SLOTS, BLOCK)
        s, q = step((f, k, p_t, d, w, DT), s + first_rows(lines, 1, SLOTS, BLOCK), OPTIONS)
        if len(SLOTS) > 0:
            move_lines(lines, s[S:], SLOTS, BLOCK)
            s = s[:S]
        if BEYOND >= 0:
            passes_ok = q[BEYOND] == 0.0
            bad_passes = tl.minimum(bad_passes, tl.where(passes_ok, NO_STEP, step_number))
            good = good & passes_ok
        step_number += 1
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
    if len(SLOTS) > 0:
        store_lines(lines + total(SLOTS) * BLOCK, final_state + S * n_cells, n_cells, cell, used, good, SLOTS, BLOCK)
    note(faults, 0, tl.where(bad_forcing < NO_STEP, bad_forcing * n_cells + cell, NEVER), used)
    note(faults, 1, tl.where(bad_parameter < NO_STEP, bad_parameter * n_cells + cell, NEVER), used)
    note(faults, 2, tl.where(bad_state < NO_STEP, bad_state * n_cells + cell, NEVER), used)
    note(faults, 3, tl.where(weight_ok, NEVER, cell), used)
    if BEYOND >= 0:
        note(faults, 4, tl.where(bad_passes < NO_STEP, bad_passes * n_cells + cell, NEVER), used)


@triton.jit(do_not_specialize=ANY_SIZE)
def adjoint(
    step: tl.constexpr,
    step_adj: tl.constexpr,
    prepare: tl.constexpr,
    prepare_adj: tl.constexpr,
    ordinates: tl.constexpr,
    ordinates_adj: tl.constexpr,
    forcing,
    forcing_strides,
    inputs,
    input_strides,
    parameters,
    parameter_strides,
    weights,
    weight_strides,
    lines,
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
    OPTIONS: tl.constexpr,
    OUTPUTS: tl.constexpr,
    EACH: tl.constexpr,
    S: tl.constexpr,
    Q: tl.constexpr,
    K: tl.constexpr,
    D: tl.constexpr,
    SLOTS: tl.constexpr,
    DT: tl.constexpr,
    RANGE: tl.constexpr,
    PER_STEP: tl.constexpr,
    STATIC: tl.constexpr,
    MOVING: tl.constexpr,
    BY_GROUP: tl.constexpr,
    RAW: tl.constexpr,
    FORCING: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
):
    n_cells, n_columns = n_basins * n_components, n_basins * n_groups
    # The tape holds a segment's states of the blocks at work alone: each program takes block after block.
    # Of each step the states with the delay lines' heads, and what was put into the lines.
    LINES: tl.constexpr = len(SLOTS)
    N: tl.constexpr = S + 2 * LINES
    ROWS: tl.constexpr = S + total(SLOTS) - LINES
    tape_row = tape + tl.program_id(0).to(tl.int64) * interval * N * BLOCK + tl.arange(0, BLOCK)
    if LINES > 0:
        lines += tl.program_id(0).to(tl.int64) * 4 * total(SLOTS) * BLOCK + tl.arange(0, BLOCK)
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
        k = inputs_of(inputs, input_strides, b, K)
        d, d_d = (), zeros(D, zero)
        if LINES > 0:
            load_lines(lines + 3 * total(SLOTS) * BLOCK, d_final_state + S * n_cells, n_cells, cell, SLOTS, BLOCK)
            put_rows(lines + 2 * total(SLOTS) * BLOCK, BLOCK, 0, zeros(total(SLOTS), zero), True)
        if D + LINES > 0:
            d = prepared(prepare, ordinates, k, p, lines, DT, D, SLOTS, OPTIONS, BLOCK)

        n_segments = (n_steps + interval - 1) // interval
        for segment in range(n_segments):
            begin = (n_segments - 1 - segment) * interval
            length = tl.minimum(interval, n_steps - begin)
            source = checkpoints + (n_segments - 1 - segment) * ROWS * n_cells
            s = rows(source, n_cells, cell, S)
            if LINES > 0:
                load_lines(lines + total(SLOTS) * BLOCK, source + S * n_cells, n_cells, cell, SLOTS, BLOCK)
            tl.debug_barrier()  # Triton does not promise that the lane which reads the tape is the one that wrote it
            for i in range(length):
                s = s + first_rows(lines, 1, SLOTS, BLOCK)
                put_rows(tape_row + i * N * BLOCK, BLOCK, 0, s, True)
                f = forcing_of(forcing, forcing_strides, b, begin + i)
                p_t = parameters_of(p, parameters, parameter_strides, b, c, begin + i, RANGE, PER_STEP, RAW)
                if MOVING and D + LINES > 0:
                    d = prepared(prepare, ordinates, k, p_t, lines, DT, D, SLOTS, OPTIONS, BLOCK)
                s, _ = step((f, k, p_t, d, first_rows(lines, 0, SLOTS, BLOCK), DT), s, OPTIONS)
                if LINES > 0:
                    put_rows(tape_row + (i * N + S + LINES) * BLOCK, BLOCK, 0, s[S:], True)
                    move_lines(lines, s[S:], SLOTS, BLOCK)
                    s = s[:S]
            tl.debug_barrier()
            for i in range(length):
                t = begin + (length - 1 - i)
                s_t = rows(tape_row + (length - 1 - i) * N * BLOCK, BLOCK, 0, S + LINES)
                f = forcing_of(forcing, forcing_strides, b, t)
                p_t = parameters_of(p, parameters, parameter_strides, b, c, t, RANGE, PER_STEP, RAW)
                if MOVING and D + LINES > 0:
                    d = prepared(prepare, ordinates, k, p_t, lines, DT, D, SLOTS, OPTIONS, BLOCK)
                given = (f, k, p_t, d, first_rows(lines, 0, SLOTS, BLOCK), DT)
                if d_weights is not None:
                    after, q = step(given, s_t, OPTIONS)
                    q = q + after[:S]
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
                    s_t = rows(tape_row + (length - 1 - i) * N * BLOCK, BLOCK, 0, S + LINES)
                # The cotangents of fluxes and states, in the order in which outputs name them.
                d_all = zeros(Q, zero) + d_s
                for o in tl.static_range(len(OUTPUTS)):
                    d_value = d_out[o] if EACH else weight * d_out[o]
                    d_all = d_all[: OUTPUTS[o]] + (d_all[OUTPUTS[o]] + d_value,) + d_all[OUTPUTS[o] + 1 :]
                if D + LINES > 0:
                    d_q, d_s = d_all[:Q], d_all[Q:]
                    if LINES > 0:
                        x = rows(tape_row + ((length - 1 - i) * N + S + LINES) * BLOCK, BLOCK, 0, LINES)
                        d_s = d_s + adj_put(lines, x, SLOTS, BLOCK)
                    d_s, d_f, d_p_t, d_d_t, d_first = step_adj(given, s_t, d_q, d_s, OPTIONS)
                    d_d = added(d_d, d_d_t)
                    if LINES > 0:
                        adj_move(lines, d_s[S:], d_first, SLOTS, BLOCK)
                        d_s = d_s[:S]
                    if MOVING:
                        d_p_t = adj_prepared(
                            prepare_adj, ordinates_adj, k, p_t, d, d_d, d_p_t, lines, DT, D, SLOTS, OPTIONS, BLOCK
                        )
                        d_d = zeros(D, zero)
                else:
                    d_s, d_f, d_p_t = step_adj(given, s_t, d_all[:Q], d_all[Q:], OPTIONS)
                for m in tl.static_range(len(FORCING)):
                    if FORCING[m]:
                        d_sum = over_components(d_f[m], used, WIDTH, BLOCK)
                        tl.store(d_forcing[m] + t * n_columns + column, d_sum, mask=first)
                d_p_sum = ()
                for m in tl.static_range(len(PER_STEP)):
                    if PER_STEP[m]:
                        if d_parameters[m] is not None:
                            d_x = d_given(d_p_t[m], parameters, parameter_strides, b, c, t, m, RANGE, RAW)
                            if BY_GROUP[m]:
                                d_x = over_components(d_x, used, WIDTH, BLOCK)
                                tl.store(d_parameters[m] + t * n_columns + column, d_x, mask=first)
                            else:
                                tl.store(d_parameters[m] + t * n_cells + cell, d_x, mask=used)
                        d_p_sum = d_p_sum + (d_p[m],)
                    else:
                        d_p_sum = d_p_sum + (d_p[m] + d_p_t[m],)
                d_p = d_p_sum
        if not MOVING and D + LINES > 0:
            # Loaded again behind a barrier: what `prepared` computed of it is dear to hold during the time loop.
            tl.debug_barrier()
            k = inputs_of(inputs, input_strides, b, K)
            p = parameters_of(zeros(len(parameters), zero), parameters, parameter_strides, b, c, 0, RANGE, STATIC, RAW)
            d_p = adj_prepared(prepare_adj, ordinates_adj, k, p, d, d_d, d_p, lines, DT, D, SLOTS, OPTIONS, BLOCK)
        put_rows(d_initial_state, n_cells, cell, d_s, used)
        if LINES > 0:
            store_lines(
                lines + 3 * total(SLOTS) * BLOCK, d_initial_state + S * n_cells, n_cells, cell, used, True, SLOTS, BLOCK
            )
        if d_weights is not None:
            tl.store(d_weights + cell, d_weight, mask=used)
        for i in tl.static_range(len(STATIC)):
            if STATIC[i]:
                if d_parameters[i] is not None:
                    d_x = d_given(d_p[i], parameters, parameter_strides, b, c, 0, i, RANGE, RAW)
                    tl.store(d_parameters[i] + cell, d_x, mask=used)


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
