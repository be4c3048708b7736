// HBV 1.0 and 1.1p: degree-day snow, soil moisture with a power-law response, two groundwater boxes.
//
// Papers: Bergstrom (1976, SMHI RHO 7; 1992, SMHI RH 4) and Seibert and Vis (2012, HESS 16:3315) for the model; Aghakouchak
// and Habib (2010) for the sequential form; Feng et al. (2022, WRR 58, e2022WR032404) for BETAET and the bounds; Song et
// al. (2024, HESS 28:3051) for the capillary rise of 1.1p.
//
// One step of one day; stores in mm, forcing and rates in mm/d, temperature in degC. "<-" updates in place, in this order:
//    1  R = P where T >= TT else 0;  Sn = P - R                                 rain, snowfall
//    2  Sp <- Sp + Sn                                                           snowpack
//    3  M = min([CFMAX (T - TT)]+, Sp);  Sw <- Sw + M;  Sp <- Sp - M            melt into the pack's liquid water
//    4  F = min([CFR CFMAX (TT - T)]+, Sw);  Sp <- Sp + F;  Sw <- Sw - F        refreezing
//    5  I = [Sw - CWH Sp]+;  Sw <- Sw - I                                       infiltration: what the pack cannot hold
//    6  Rg = (R + I) clip((SM/FC)^BETA, 0, 1);  SM <- SM + R + I - Rg           recharge
//    7  X = [SM - FC]+;  SM <- SM - X                                           excess
//    8  e = clip((SM/(LP FC))^BETAET, 0, 1);  ET = min(SM, PET e);  SM <- max(SM - ET, eps)
//    8b C_r = min(SLZ, C SLZ (1 - min(SM/FC, 1)));  SM <- max(SM + C_r, eps);  SLZ <- max(SLZ - C_r, eps)   (1.1p only)
//    9  SUZ <- SUZ + Rg + X;  PC = min(SUZ, PERC);  SUZ <- SUZ - PC             percolation
//   10  Q0 = K0 [SUZ - UZL]+;  SUZ <- SUZ - Q0
//   11  Q1 = K1 SUZ;  SUZ <- SUZ - Q1
//   12  SLZ <- SLZ + PC;  Q2 = K2 SLZ;  SLZ <- SLZ - Q2
// with eps = 1e-5 mm. The floors of 8 and 8b make water: at most eps a step each, and only where a store is empty.
//
// Where this code differs in form, not in value: the max in 8b's SM is left out (SM >= eps and C_r >= 0 there); SM/FC and
// SM/(LP FC) share one division; line 6 adds R + I - Rg as one number, which is 0 where the soil is full, and line 7 sets
// SM to FC where there is excess, so that a full soil is at FC exactly and the ties of 7, 8 and 8b are met; 8b adds
// C_r - ET as one number where no floor acts, since in float the rounding of SM, once more a day, is most of the error of
// a dry basin's floods.
//
// The adjoint is the reverse of the twelve lines: with y = f(x), d_x += d_y df/dx, read from the last line to the first.
// Cotangents of the two power laws come out as those of ln SM and ln FC (d_ln below): d(x^b) = x^b (ln x db + b d ln x).
#pragma once

#include "../core/model.h"

namespace hs {
namespace HS_ISA {

template <bool BETAET, bool CAPILLARY> struct Hbv : Defaults {
  static constexpr int F = 3, P = 12 + BETAET + CAPILLARY, S = 5, Q = 15 + CAPILLARY;
  static constexpr const char* forcing_names = "prcp tmean pet";
  static constexpr const char* parameter_names = CAPILLARY
      ? "beta fc k0 k1 k2 lp perc uzl tt cfmax cfr cwh betaet c"
      : BETAET ? "beta fc k0 k1 k2 lp perc uzl tt cfmax cfr cwh betaet" : "beta fc k0 k1 k2 lp perc uzl tt cfmax cfr cwh";
  static constexpr const char* state_names = "snowpack meltwater sm suz slz";
  static constexpr const char* flux_names = CAPILLARY
      ? "streamflow q0 q1 q2 aet swe recharge excess infiltration percolation evapfactor rain snowfall melt refreezing capillary"
      : "streamflow q0 q1 q2 aet swe recharge excess infiltration percolation evapfactor rain snowfall melt refreezing";
  enum Forcing { PRCP, TMEAN, PET };
  enum Parameter { BETA, FC, K0, K1, K2, LP, PERC, UZL, TT, CFMAX, CFR, CWH, BETA_ET, C };
  enum State { SNOWPACK, MELTWATER, SM, SUZ, SLZ };
  enum Flux { STREAMFLOW, Q0, Q1, Q2, AET, SWE, RECHARGE, EXCESS, INFILTRATION, PERCOLATION, EVAPFACTOR, RAIN, SNOWFALL,
              MELT, REFREEZING, CAPILLARY_RISE };
  static constexpr int OUTFLOW = STREAMFLOW;
  static constexpr double eps = 1e-5;

  // The costly part of a step. The adjoint's recomputation of the states passes it on to the reversal.
  template <class V> struct Kept {
    V per_lp_fc;
    Pow01<V> wetness, dryness;
  };
  // Everything else one step computes. step() and step_adj() both start from evaluate(), so the physics stands once.
  template <class V> struct Trace {
    V rain, snowfall, melt_potential, melt, freeze_potential, refreezing, infiltration;
    V snowpack_1, snowpack_2, snowpack_3, meltwater_1, meltwater_2, meltwater_3;
    V per_fc, relative, water, recharge, excess, evapfactor, aet, capillary;
    V sm_1, sm_2, sm_3, sm_4, fill, capillary_potential;
    V suz_1, suz_2, suz_3, suz_4, slz_1, slz_2, slz_3, above_uzl, percolation, q0, q1, q2;
  };

  template <bool KNOWN, class V> static HS_FN Trace<V> evaluate(const V* f, const V* p, const V* s, Kept<V>& kept) {
    using T = typename Lane<V>::scalar;
    Trace<V> r;
    const V warmth = f[TMEAN] - p[TT];
    r.rain = select(f[TMEAN] >= p[TT], f[PRCP], V{});
    r.snowfall = f[PRCP] - r.rain;
    r.snowpack_1 = s[SNOWPACK] + r.snowfall;

    r.melt_potential = p[CFMAX] * warmth;
    r.melt = min(relu(r.melt_potential), r.snowpack_1);
    r.meltwater_1 = s[MELTWATER] + r.melt;
    r.snowpack_2 = r.snowpack_1 - r.melt;

    r.freeze_potential = -p[CFR] * r.melt_potential;
    r.refreezing = min(relu(r.freeze_potential), r.meltwater_1);
    r.snowpack_3 = r.snowpack_2 + r.refreezing;
    r.meltwater_2 = r.meltwater_1 - r.refreezing;

    r.infiltration = relu(fma(-p[CWH], r.snowpack_3, r.meltwater_2));
    r.meltwater_3 = r.meltwater_2 - r.infiltration;

    keep_reciprocal<KNOWN>(kept.per_lp_fc, p[LP] * p[FC]);
    r.per_fc = p[LP] * kept.per_lp_fc;
    r.water = r.rain + r.infiltration;
    keep_pow01<KNOWN>(kept.wetness, quotient(s[SM], p[FC], r.per_fc), p[BETA]);
    r.recharge = r.water * kept.wetness.value;
    r.sm_1 = s[SM] + (r.water - r.recharge);
    r.excess = relu(r.sm_1 - p[FC]);
    r.sm_2 = select(r.sm_1 >= p[FC], p[FC], r.sm_1);

    r.relative = quotient(r.sm_2, p[LP] * p[FC], kept.per_lp_fc);
    if constexpr (BETAET) {
      keep_pow01<KNOWN>(kept.dryness, r.relative, p[BETA_ET]);
      r.evapfactor = kept.dryness.value;
    } else {
      r.evapfactor = at_most(r.relative, 1);
    }
    r.aet = min(r.sm_2, f[PET] * r.evapfactor);
    r.sm_3 = at_least(r.sm_2 - r.aet, T(eps));

    r.sm_4 = r.sm_3;
    r.slz_1 = s[SLZ];
    if constexpr (CAPILLARY) {
      r.fill = quotient(r.sm_3, p[FC], r.per_fc);
      r.capillary_potential = p[C] * s[SLZ] * (T(1) - at_most(r.fill, 1));
      r.capillary = min(s[SLZ], r.capillary_potential);
      r.sm_4 = select(r.sm_2 - r.aet >= splat<V>(T(eps)), r.sm_2 - (r.aet - r.capillary), r.sm_3 + r.capillary);
      r.slz_1 = at_least(s[SLZ] - r.capillary, T(eps));
    }

    r.suz_1 = s[SUZ] + r.recharge + r.excess;
    r.percolation = min(r.suz_1, p[PERC]);
    r.suz_2 = r.suz_1 - r.percolation;
    r.above_uzl = r.suz_2 - p[UZL];
    r.q0 = p[K0] * relu(r.above_uzl);
    r.suz_3 = r.suz_2 - r.q0;
    r.q1 = p[K1] * r.suz_3;
    r.suz_4 = r.suz_3 - r.q1;
    r.slz_2 = r.slz_1 + r.percolation;
    r.q2 = p[K2] * r.slz_2;
    r.slz_3 = r.slz_2 - r.q2;
    return r;
  }

  template <bool KNOWN = false, class V> static HS_FN void step(const Given<V>& in, V* s, V* q, Kept<V>& kept) {
    const Trace<V> r = evaluate<KNOWN>(in.f, in.p, s, kept);
    s[SNOWPACK] = r.snowpack_3, s[MELTWATER] = r.meltwater_3, s[SM] = r.sm_4, s[SUZ] = r.suz_4, s[SLZ] = r.slz_3;
    q[STREAMFLOW] = r.q0 + r.q1 + r.q2, q[Q0] = r.q0, q[Q1] = r.q1, q[Q2] = r.q2;
    q[AET] = r.aet, q[SWE] = r.snowpack_3, q[RECHARGE] = r.recharge, q[EXCESS] = r.excess;
    q[INFILTRATION] = r.infiltration, q[PERCOLATION] = r.percolation, q[EVAPFACTOR] = r.evapfactor;
    q[RAIN] = r.rain, q[SNOWFALL] = r.snowfall, q[MELT] = r.melt, q[REFREEZING] = r.refreezing;
    if constexpr (CAPILLARY) q[CAPILLARY_RISE] = r.capillary;
  }

  // d_s comes in as the cotangent of the stores after the step and leaves as that of the stores before it.
  template <class V>
  static HS_FN void step_adj(const Given<V>& in, const V* s, Kept<V> kept, const V* d_q, V* d_s,
                             const Cotangents<V>& d) {
    using T = typename Lane<V>::scalar;
    const V *f = in.f, *p = in.p;
    V *d_f = d.f, *d_p = d.p;
    const Trace<V> r = evaluate<true>(f, p, s, kept);

    const V d_q2 = d_q[Q2] + d_q[STREAMFLOW] - d_s[SLZ];  // 12
    d_p[K2] = fma(d_q2, r.slz_2, d_p[K2]);
    const V d_slz_2 = fma(p[K2], d_q2, d_s[SLZ]);
    V d_slz = d_slz_2;
    V d_percolation = d_q[PERCOLATION] + d_slz_2;

    const V d_q1 = d_q[Q1] + d_q[STREAMFLOW] - d_s[SUZ];  // 11
    d_p[K1] = fma(d_q1, r.suz_3, d_p[K1]);
    const V d_suz_3 = fma(p[K1], d_q1, d_s[SUZ]);

    const V d_q0 = d_q[Q0] + d_q[STREAMFLOW] - d_suz_3;  // 10
    d_p[K0] = fma(d_q0, relu(r.above_uzl), d_p[K0]);
    const V d_above_uzl = adj_relu(r.above_uzl, d_q0 * p[K0]);
    d_p[UZL] -= d_above_uzl;
    const V d_suz_2 = d_suz_3 + d_above_uzl;

    d_percolation -= d_suz_2;  // 9
    V d_suz_1 = d_suz_2;
    adj_min(r.suz_1, p[PERC], d_percolation, d_suz_1, d_p[PERC]);
    V d_recharge = d_q[RECHARGE] + d_suz_1;
    V d_excess = d_q[EXCESS] + d_suz_1;

    V d_sm_3 = d_s[SM];  // 8b
    V d_ln_fc = V{};     // cotangent of -ln FC, summed over the lines that hold SM/FC or SM/(LP FC)
    if constexpr (CAPILLARY) {
      d_slz = select(s[SLZ] - r.capillary >= splat<V>(T(eps)), d_slz_2, V{});
      const V d_capillary = d_q[CAPILLARY_RISE] + d_s[SM] - d_slz;
      V d_potential = V{};
      adj_min(s[SLZ], r.capillary_potential, d_capillary, d_slz, d_potential);
      const V deficit = T(1) - at_most(r.fill, 1);
      d_p[C] = fma(d_potential * s[SLZ], deficit, d_p[C]);
      d_slz = fma(d_potential * p[C], deficit, d_slz);
      const V d_fill = select(r.fill <= splat<V>(1), -d_potential * p[C] * s[SLZ], V{});
      d_sm_3 = fma(d_fill, r.per_fc, d_sm_3);
      d_ln_fc = d_fill * r.fill;
    }

    V d_sm_2 = select(r.sm_2 - r.aet >= splat<V>(T(eps)), d_sm_3, V{});  // 8
    const V d_aet = d_q[AET] - d_sm_2;
    V d_demand = V{};
    adj_min(r.sm_2, f[PET] * r.evapfactor, d_aet, d_sm_2, d_demand);
    d_f[PET] = fma(d_demand, r.evapfactor, d_f[PET]);
    const V d_evapfactor = fma(d_demand, f[PET], d_q[EVAPFACTOR]);
    V d_ln_relative;
    if constexpr (BETAET) {
      d_ln_relative = adj_pow01(kept.dryness, p[BETA_ET], d_evapfactor, d_p[BETA_ET]);
      d_sm_2 += ratio(d_ln_relative, at_least(r.relative, Format<T>::tiny)) * kept.per_lp_fc;
    } else {
      const V d_relative = select(r.relative <= splat<V>(1), d_evapfactor, V{});
      d_ln_relative = d_relative * r.relative;
      d_sm_2 = fma(d_relative, kept.per_lp_fc, d_sm_2);
    }
    d_ln_fc += d_ln_relative;
    d_p[LP] = fma(-d_ln_relative, p[FC] * kept.per_lp_fc, d_p[LP]);

    d_excess -= d_sm_2;  // 7
    const V d_above_fc = adj_relu(r.sm_1 - p[FC], d_excess);
    const V d_sm_1 = d_sm_2 + d_above_fc;

    d_recharge -= d_sm_1;  // 6
    const V d_water = fma(d_recharge, kept.wetness.value, d_sm_1);
    const V d_ln_wetness = adj_pow01(kept.wetness, p[BETA], d_recharge * r.water, d_p[BETA]);
    d_ln_fc += d_ln_wetness;
    d_p[FC] = d_p[FC] - d_above_fc - d_ln_fc * r.per_fc;
    const V d_sm = d_sm_1 + ratio(d_ln_wetness, at_least(s[SM] * r.per_fc, Format<T>::tiny)) * r.per_fc;

    const V d_infiltration = d_q[INFILTRATION] + d_water - d_s[MELTWATER];  // 5
    const V d_free = adj_relu(fma(-p[CWH], r.snowpack_3, r.meltwater_2), d_infiltration);
    d_p[CWH] = fma(-d_free, r.snowpack_3, d_p[CWH]);
    const V d_meltwater_2 = d_s[MELTWATER] + d_free;
    V d_snowpack = d_s[SNOWPACK] + d_q[SWE] - d_free * p[CWH];

    const V d_refreezing = d_q[REFREEZING] + d_snowpack - d_meltwater_2;  // 4
    V d_freeze_potential = V{}, d_meltwater = d_meltwater_2;
    adj_min(relu(r.freeze_potential), r.meltwater_1, d_refreezing, d_freeze_potential, d_meltwater);
    d_freeze_potential = adj_relu(r.freeze_potential, d_freeze_potential);
    d_p[CFR] = fma(-d_freeze_potential, r.melt_potential, d_p[CFR]);

    const V d_melt = d_q[MELT] + d_meltwater - d_snowpack;  // 3
    V d_melt_potential = V{};
    adj_min(relu(r.melt_potential), r.snowpack_1, d_melt, d_melt_potential, d_snowpack);
    d_melt_potential = fma(-d_freeze_potential, p[CFR], adj_relu(r.melt_potential, d_melt_potential));
    d_p[CFMAX] = fma(d_melt_potential, f[TMEAN] - p[TT], d_p[CFMAX]);
    const V d_warmth = d_melt_potential * p[CFMAX];
    d_f[TMEAN] += d_warmth;
    d_p[TT] -= d_warmth;  // through melt and refreezing; the threshold of line 1 has no gradient

    const V d_snowfall = d_q[SNOWFALL] + d_snowpack;  // 2, 1
    const V d_rain = d_q[RAIN] + d_water - d_snowfall;
    d_f[PRCP] += d_snowfall + select(f[TMEAN] >= p[TT], d_rain, V{});

    d_s[SNOWPACK] = d_snowpack, d_s[MELTWATER] = d_meltwater, d_s[SM] = d_sm, d_s[SUZ] = d_suz_1, d_s[SLZ] = d_slz;
  }
};

}  // namespace HS_ISA
}  // namespace hs

#define HS_MODELS(KERNEL)           \
  KERNEL(hbv10, Hbv<false, false>)  \
  KERNEL(hbv10_betaet, Hbv<true, false>) \
  KERNEL(hbv11p, Hbv<true, true>)
