// One step of one reach, for the Muskingum family of routing schemes, each beside its adjoint. V is a pack of reaches.
//
// In: i0, i1   the sum of the upstream discharges at the begin and at the end of the step
//     mean     the sum of what the upstream reaches publish of the step besides (AUX); each scheme says what that is
//     ql       lateral inflow over the step;  all in m3/s
// State: o, the discharge at the outlet, m3/s, and with STORES = 2 the storage s, m3.
// PAIRED: the step is a chain of operations so long that two packs of reaches run beside one another (see core/pair.h).
// c: constants of a reach, made of its parameters in hybridsolve/routing/muskingum.py, whose adjoint torch knows.
//
// Linear Muskingum (McCarthy 1938; RAPID: David et al. 2011, J. Hydrometeorol. 12:913):
//     O1 = c0 I1 + c1 I0 + c2 O0 + c3 ql.
#pragma once

#include "../core/math.h"

namespace hs {
namespace HS_ISA {

template <class V> struct Inflow {
  V i0, i1, mean, ql;
};

struct Linear {
  static constexpr const char* name = "linear";
  static constexpr int CONSTANTS = 4, STORES = 1;
  static constexpr bool AUX = false, PAIRED = false;

  template <class V, class T> HS_FN static void step(const V* c, T, const Inflow<V>& in, V* s, V&) {
    s[0] = fma(c[0], in.i1, fma(c[1], in.i0, fma(c[2], s[0], c[3] * in.ql)));
  }
  // d_s comes as the cotangent of the state after the step and leaves as that of the state before.
  template <class V, class T>
  HS_FN static void step_adj(const V* c, T, const Inflow<V>& in, const V* s, V, V* d_s, Inflow<V>& d, V* d_c) {
    const V d_o = d_s[0];
    d_c[0] = fma(d_o, in.i1, d_c[0]), d_c[1] = fma(d_o, in.i0, d_c[1]);
    d_c[2] = fma(d_o, s[0], d_c[2]), d_c[3] = fma(d_o, in.ql, d_c[3]);
    d = {c[1] * d_o, c[0] * d_o, V{}, c[3] * d_o};
    d_s[0] = c[2] * d_o;
  }
};

// Muskingum-Cunge as in ddr (Bindas et al. 2024, Water Resour. Res. 60, doi 10.1029/2023WR035337), its clamps included.
// What a reach publishes besides is its discharge before the last clamp, `raw`: the linear system there is solved with
// it. From the discharge O0, with e = 3 / (5 + 3 q'), a = log2(n (q' + 1) / (p sqrt(S0) + 1e-8)), r = sqrt(S0) / n:
//     d = max(2^(e (log2 O0 + a)), 0.01)      W = p d^q'      z = clip(W q' / 2d, 0.5, 50)      B = max(W - 2 z d, 0.01)
//     A = (W + B) d / 2     Pw = B + 2 d sqrt(1 + z^2)     R = A / Pw     v = r R^(2/3)
//     K = L / (5/3 clip(v, 0.01, 15))      g = 1 / (2 K (1 - x) + dt)
//     raw = g [(dt - 2 K x) I1 + (dt + 2 K x) I0 + (2 K (1 - x) - dt) O0 + 2 dt max(ql, 1e-4)]      O1 = max(raw, 1e-4)
// Adjoint: of the last line d_K = 2 g d_raw [x (I0 - I1) + (1 - x)(O0 - raw)], d_x = 2 K g d_raw [I0 - I1 - O0 + raw];
// of the section each line reversed. A clamp passes the gradient where it does not act, ends included.
struct Ddr {
  static constexpr const char* name = "ddr";
  enum { A, E, Q, LOG2_P, R, LENGTH, X, CONSTANTS };
  static constexpr int STORES = 1;
  static constexpr bool AUX = true, PAIRED = true;

  template <class V> struct Section {
    V log2_o, d, log2_d, width, z_raw, z, bottom_raw, bottom, root, perimeter, radius, velocity, celerity;
    typename Lane<V>::bits deep;  // the depth is not clamped
  };
  template <class V> HS_FN static Section<V> section(const V* c, V o) {
    using T = typename Lane<V>::scalar;
    Section<V> s;
    s.log2_o = log2(at_least(o, T(1e-30)));
    const V log2_d = c[E] * (s.log2_o + c[A]), depth = exp2(log2_d);
    s.deep = depth >= T(0.01);
    s.d = at_least(depth, T(0.01));
    s.log2_d = select(s.deep, log2_d, splat<V>(T(-6.6438561897747246957)));
    s.width = exp2(fma(c[Q], s.log2_d, c[LOG2_P]));
    s.z_raw = s.width * c[Q] / (s.d + s.d);
    s.z = at_most(at_least(s.z_raw, T(0.5)), T(50));
    s.bottom_raw = s.width - (s.z + s.z) * s.d;
    s.bottom = at_least(s.bottom_raw, T(0.01));
    s.root = square_root(fma(s.z, s.z, splat<V>(T(1))));
    s.perimeter = s.bottom + (s.d + s.d) * s.root;
    s.radius = (s.width + s.bottom) * s.d * T(0.5) / s.perimeter;
    s.velocity = exp2(log2(s.radius) * T(2.0 / 3)) * c[R];
    s.celerity = at_most(at_least(s.velocity, T(0.01)), T(15)) * T(5.0 / 3);
    return s;
  }

  template <class V, class T> HS_FN static void step(const V* c, T dt, const Inflow<V>& in, V* s, V& raw) {
    const V k = c[LENGTH] / section(c, s[0]).celerity;
    raw = solve(c, dt, k, in, s[0]);
    s[0] = at_least(raw, T(1e-4));
  }
  template <class V, class T> HS_FN static V solve(const V* c, T dt, V k, const Inflow<V>& in, V o) {
    const V kx = (k + k) * c[X], ky = (k + k) - kx;
    const V inflow = (dt - kx) * in.mean + (dt + kx) * in.i0 + (2 * dt) * at_least(in.ql, T(1e-4));
    return (inflow + (ky - dt) * o) / (ky + dt);
  }

  template <class V, class T>
  HS_FN static void step_adj(const V* c, T dt, const Inflow<V>& in, const V* s0, V d_mean, V* d_s, Inflow<V>& d,
                             V* d_c) {
    constexpr T LN2 = T(0.69314718055994530942);
    const V o = s0[0];
    const Section<V> s = section(c, o);
    const V k = c[LENGTH] / s.celerity, raw = solve(c, dt, k, in, o);
    const V d_raw = d_mean + select(raw >= T(1e-4), d_s[0], V{});
    const V kx = (k + k) * c[X], ky = (k + k) - kx, g = d_raw / (ky + dt);
    d = {g * (dt + kx), V{}, g * (dt - kx), select(in.ql >= T(1e-4), g * (2 * dt), V{})};
    V d_o = g * (ky - dt);
    const V d_k = (g + g) * (c[X] * (in.i0 - in.mean) + (T(1) - c[X]) * (o - raw));
    d_c[X] += (k + k) * g * (in.i0 - in.mean - o + raw);
    d_c[LENGTH] += d_k / s.celerity;
    const V d_celerity = -d_k * k / s.celerity;
    const V d_velocity = select((s.velocity >= T(0.01)) & (s.velocity <= T(15)), d_celerity * T(5.0 / 3), V{});
    const V d_log = d_velocity * s.velocity;  // of ln v
    d_c[R] += d_log / c[R];
    const V d_radius = d_log * T(2.0 / 3) / s.radius;
    const V d_area = d_radius / s.perimeter, d_perimeter = -d_radius * s.radius / s.perimeter;
    V d_bottom = d_perimeter + d_area * s.d * T(0.5), d_width = d_area * s.d * T(0.5);
    V d_d = d_area * (s.width + s.bottom) * T(0.5) + d_perimeter * T(2) * s.root;
    V d_z = d_perimeter * T(2) * s.d * s.z / s.root;
    d_bottom = select(s.bottom_raw >= T(0.01), d_bottom, V{});
    d_width += d_bottom, d_z -= d_bottom * T(2) * s.d, d_d -= d_bottom * T(2) * s.z;
    d_z = select((s.z_raw >= T(0.5)) & (s.z_raw <= T(50)), d_z, V{});
    const V per_d = d_z / (s.d + s.d);
    d_width += per_d * c[Q], d_d -= d_z * s.z_raw / s.d;
    const V d_log_width = d_width * s.width;  // of ln W, which is ln 2 log2 W
    d_c[Q] += per_d * s.width + d_log_width * LN2 * s.log2_d;
    d_c[LOG2_P] += d_log_width * LN2;
    d_d += d_log_width * c[Q] / s.d;
    const V d_log_d = select(s.deep, d_d * s.d, V{});  // of ln d
    d_c[E] += d_log_d * LN2 * (s.log2_o + c[A]);
    d_c[A] += d_log_d * LN2 * c[E];
    d_s[0] = d_o + d_log_d * c[E] / o;
  }
};

// Muskingum-Cunge by Todini (2007, Hydrol. Earth Syst. Sci. 11:1645), conserving mass, with the storage carried along.
// The top width is a power of the depth, W = p d^q', the flow uniform, and the hydraulic radius that of a wide channel,
// A / W = d / (q' + 1), so that with e = 3 / (5 + 3 q')
//     A = p d^(q'+1) / (q' + 1),  d = (n (q' + 1)^(5/3) Q / (p sqrt(S0)))^e,  c = dQ/dA = Q / (e d W),
//     beta = c A / Q = 1 / (e (q' + 1)),
// and the corrected Courant and cell Reynolds numbers of a sub-step of dt / n are powers of the reference discharge Q:
//     C = v dt / (n L) = 2^(f log2 Q + g),   D = e^2 (q' + 1) d / (S0 L) = 2^(e log2 Q + h).
// A step has n = clip(ceil(C), 1, 8) sub-steps, C that of the whole step (n = 1) at Q = (I1 + O0)/2, unless their number
// is given: so n follows from the state and from the step at hand alone, and has no gradient.
// In a sub-step of length w, the inflow runs linearly from I0 to I1 with the mean m. The storage after it is both
// S1 = S0 + w (m + ql - (O0 + O1)/2) and w/(2C) [(1 - D) I1 + (1 + D) O1], hence
//     O1 = [C (2 (S0/w + m + ql) - O0) - (1 - D) I1] / (1 + C + D),
// with C and D at Q = (I1 + O1)/2, first guessed with O1 = O0 + I1 - I0 and then taken once more. Where D < |1 - C| the
// scheme would answer a rising inflow with a falling outflow: D is taken as |1 - C| there. An outflow below zero is
// zero; the storage, from the balance, holds whatever either rule has changed. Q is 1e-4 m3/s at least, for C and D.
// A reach publishes besides the mean outflow of the step, that downstream as much water comes in as has gone out here
// whatever the sub-steps of both are: m = I(t) + mean - (I0 + I1)/2.
// Adjoint: of O1 and S1 each line reversed; d ln C = f d ln Q, d ln D = e d ln Q.
struct Todini {
  static constexpr const char* name = "todini";
  // G is that of n = 1. LIMIT is the discharge above which n is more than 1 or, where below zero, minus the n that is
  // given, 2 to MOST; it has no gradient.
  enum { F, G, E, H, LIMIT, CONSTANTS };
  static constexpr int STORES = 2, MOST = 16;
  static constexpr bool AUX = true, PAIRED = true;

  template <class V> struct Numbers {
    V log2_q, c, d_raw, d, o;
    typename Lane<V>::bits flows, diffuse;  // Q and D as they are, not at their least
    typename Lane<V>::bits positive;
  };
  // The outflow of a sub-step with C and D at the mean of i1 and `guess`; `per` is 1 / n.
  template <class V> HS_FN static Numbers<V> outflow(const V* c, V per, V i1, V guess, V volume, V o0) {
    using T = typename Lane<V>::scalar;
    Numbers<V> r;
    const V q = (i1 + guess) * T(0.5);
    r.flows = q >= T(1e-4);
    r.log2_q = log2(at_least(q, T(1e-4)));
    r.c = exp2(fma(c[F], r.log2_q, c[G])) * per;
    r.d_raw = exp2(fma(c[E], r.log2_q, c[H]));
    const V least = above(r.c - T(1), T(1) - r.c);
    r.diffuse = r.d_raw >= least;
    r.d = select(r.diffuse, r.d_raw, least);
    const V o = (r.c * (volume + volume - o0) - (T(1) - r.d) * i1) / (T(1) + r.c + r.d);
    r.positive = o >= V{};
    r.o = relu(o);
    return r;
  }
  // d_volume and d_o0 are added to; returns the cotangent of the guess, and adds to that of i1.
  template <class V>
  HS_FN static V adj_outflow(const V* c, const Numbers<V>& r, V i1, V guess, V volume, V o0, V d_o, V& d_i1, V& d_volume,
                             V& d_o0, V* d_c) {
    using T = typename Lane<V>::scalar;
    constexpr T LN2 = T(0.69314718055994530942);
    const V g = select(r.positive, d_o, V{}) / (T(1) + r.c + r.d);
    V d_courant = g * (volume + volume - o0 - r.o), d_d = g * (i1 - r.o);
    d_volume += g * (r.c + r.c), d_o0 -= g * r.c, d_i1 -= g * (T(1) - r.d);
    d_courant += select(r.diffuse, V{}, select(r.c - T(1) >= T(1) - r.c, d_d, -d_d));
    const V d_ln_c = d_courant * r.c, d_ln_d = select(r.diffuse, d_d * r.d_raw, V{});
    d_c[F] += d_ln_c * LN2 * r.log2_q, d_c[G] += d_ln_c * LN2;
    d_c[E] += d_ln_d * LN2 * r.log2_q, d_c[H] += d_ln_d * LN2;
    const V q = (i1 + guess) * T(0.5);
    const V half = select(r.flows, (d_ln_c * c[F] + d_ln_d * c[E]) / q, V{}) * T(0.5);
    d_i1 += half;
    return half;
  }

  template <class V> struct Substeps {
    V n, per;  // of each lane, and 1 / n
    int most;  // of any lane
  };
  // Counts how many of 1, 2, ... lie below C, by its logarithm: all steps of a reach wait for this.
  template <class V> HS_FN static Substeps<V> substeps(const V* c, V i1, V o0) {
    using T = typename Lane<V>::scalar;
    constexpr T LOG2[] = {0, 0, 1, T(1.5849625007211561815), 2, T(2.3219280948873623479), T(2.5849625007211561815),
                          T(2.8073549220576041074)};
    constexpr int BY_STATE = 8;
    Substeps<V> r{splat<V>(T(1)), splat<V>(T(1)), 1};
    const V q = at_least((i1 + o0) * T(0.5), T(1e-4));
    auto more = q > c[LIMIT];  // decides in every lane, so that a reach's bits do not depend on its neighbours
    if (!any(more)) return r;
    // Below that of 1 where n is given.
    const V log2_c = select(c[LIMIT] < V{}, splat<V>(T(-1)), fma(c[F], log2(q), c[G]));
    for (int k = 2; any(more); ++k) {
      r.n = select(more, splat<V>(T(k)), r.n), r.per = select(more, splat<V>(T(1) / T(k)), r.per), r.most = k;
      if (k == MOST) break;
      auto given = -c[LIMIT] > splat<V>(T(k));
      more = more & (k < BY_STATE ? given | (log2_c > splat<V>(LOG2[k])) : given);
    }
    return r;
  }

  template <class V> struct Sub {  // the inflow of a sub-step
    V i0, i1, mean;
  };
  template <class V> HS_FN static Sub<V> inflow(const Inflow<V>& in, V per, int j) {
    using T = typename Lane<V>::scalar;
    const V slope = (in.i1 - in.i0) * per;
    Sub<V> r;
    r.i0 = in.i0 + slope * T(j), r.i1 = in.i0 + slope * T(j + 1);
    r.mean = (r.i0 + r.i1 + (in.mean + in.mean - in.i0 - in.i1)) * T(0.5);
    return r;
  }

  template <class V, class T> HS_FN static void step(const V* c, T dt, const Inflow<V>& in, V* s, V& mean) {
    const Substeps<V> sub = substeps(c, in.i1, s[0]);
    const V w = dt * sub.per, per_w = sub.n * (T(1) / dt);
    V total = V{};
    for (int j = 0; j < sub.most; ++j) {
      const Sub<V> i = inflow(in, sub.per, j);
      const V volume = s[1] * per_w + i.mean + in.ql;
      const V first = outflow(c, sub.per, i.i1, s[0] + i.i1 - i.i0, volume, s[0]).o;
      const V o = outflow(c, sub.per, i.i1, first, volume, s[0]).o, both = (s[0] + o) * T(0.5);
      const auto used = sub.n > splat<V>(T(j));
      total = select(used, total + both, total);
      s[1] = select(used, w * (volume - both), s[1]);
      s[0] = select(used, o, s[0]);
    }
    mean = total * sub.per;
  }

  template <class V, class T>
  HS_FN static void step_adj(const V* c, T dt, const Inflow<V>& in, const V* s0, V d_mean, V* d_s, Inflow<V>& d,
                             V* d_c) {
    const Substeps<V> sub = substeps(c, in.i1, s0[0]);
    const V per = sub.per, w = dt * per, per_w = sub.n * (T(1) / dt);
    V o[MOST], s[MOST];  // before each sub-step
    V state[2] = {s0[0], s0[1]};
    for (int j = 0; j < sub.most; ++j) {
      o[j] = state[0], s[j] = state[1];
      if (j + 1 == sub.most) break;
      const Sub<V> i = inflow(in, per, j);
      const V volume = s[j] * per_w + i.mean + in.ql;
      const V first = outflow(c, per, i.i1, o[j] + i.i1 - i.i0, volume, o[j]).o;
      const V next = outflow(c, per, i.i1, first, volume, o[j]).o;
      const auto used = sub.n > splat<V>(T(j));
      state[1] = select(used, w * (volume - (o[j] + next) * T(0.5)), s[j]);
      state[0] = select(used, next, o[j]);
    }
    d = {V{}, V{}, V{}, V{}};
    const V d_both = d_mean * per;
    for (int j = sub.most - 1; j >= 0; --j) {
      const auto used = sub.n > splat<V>(T(j));
      const Sub<V> i = inflow(in, per, j);
      const V volume = s[j] * per_w + i.mean + in.ql, guess = o[j] + i.i1 - i.i0;
      const Numbers<V> first = outflow(c, per, i.i1, guess, volume, o[j]);
      const Numbers<V> last = outflow(c, per, i.i1, first.o, volume, o[j]);
      const V d_s1 = select(used, d_s[1] * w, V{});
      const V half = select(used, (d_both - d_s1) * T(0.5), V{});
      V d_volume = d_s1, d_o0 = half, d_i1 = V{};
      const V d_o1 = select(used, d_s[0] + half, V{});
      const V d_first = adj_outflow(c, last, i.i1, first.o, volume, o[j], d_o1, d_i1, d_volume, d_o0, d_c);
      const V d_guess = adj_outflow(c, first, i.i1, guess, volume, o[j], d_first, d_i1, d_volume, d_o0, d_c);
      d_o0 += d_guess, d_i1 += d_guess;
      const V d_i0 = -d_guess;
      // volume = s / w + mean + ql, with the mean's parts
      d.ql += d_volume, d.mean += d_volume;
      const V d_each = d_volume * T(0.5);
      const V d_begin = d_i0 + d_each, d_end = d_i1 + d_each;
      const V d_slope = (d_begin * T(j) + d_end * T(j + 1)) * per;
      d.i0 += d_begin + d_end - d_each - d_slope, d.i1 += d_slope - d_each;
      d_s[1] = select(used, d_volume * per_w, d_s[1]);
      d_s[0] = select(used, d_o0, d_s[0]);
    }
  }
};

}  // namespace HS_ISA
}  // namespace hs
