// The toy model of the tests: equations, with their numbers, in toy.py.
#pragma once

#include "core/model.h"

namespace hs {
namespace HS_ISA {

struct Toy : Defaults {
  static constexpr int F = 2, K = 1, P = 7, D = 2, S = 2, Q = 7, LINES = 1;
  static constexpr int SLOTS[] = {4};
  static constexpr const char* forcing_names = "rainfall demand";
  static constexpr const char* input_names = "slope";
  static constexpr const char* parameter_names = "capacity shape leak k kx lag pumping";
  static constexpr const char* state_names = "soil level";
  static constexpr const char* line_names = "channel";
  static constexpr const char* flux_names = "evaporation overflow percolation discharge exchange pumped baseflow";
  enum Forcing { RAINFALL, DEMAND };
  enum Input { SLOPE };
  enum Parameter { CAPACITY, SHAPE, LEAK, RECESSION, KX, LAG, PUMPING };
  enum Derived { DRAIN, DRYNESS };
  enum State { SOIL, LEVEL, CHANNEL };
  enum Flux { EVAPORATION, OVERFLOW, PERCOLATION, DISCHARGE, EXCHANGE, PUMPED, BASEFLOW };
  static constexpr int OUTFLOW = DISCHARGE;
  static constexpr double bottom = -50, top = 500;

  template <class V> struct Kept {
    Pow01<V> power;
  };
  template <class V> struct Trace {
    V filled, evaporation, soil_1, overflow, soil_2, percolation, soil_3, exchange, level_1, pumped, lowered;
    V level_2, baseflow, level_3, spill, level_4;
  };

  template <class V> static HS_FN void prepare(const Given<V>& in, V* d) {  // (0)
    using T = typename Lane<V>::scalar;
    d[DRAIN] = in.p[RECESSION] * at_most(in.k[SLOPE] * T(10), 1);
    d[DRYNESS] = T(1) / in.p[CAPACITY];
  }
  template <class V> static HS_FN void prepare_adj(const Given<V>& in, const Cotangents<V>& d) {
    using T = typename Lane<V>::scalar;
    d.p[RECESSION] = fma(d.d[DRAIN], at_most(in.k[SLOPE] * T(10), 1), d.p[RECESSION]);
    d.p[CAPACITY] = d.p[CAPACITY] - d.d[DRYNESS] * in.d[DRYNESS] * in.d[DRYNESS];
  }

  template <class V> static HS_FN void ordinates(const Given<V>& in, V* w) {
    using T = typename Lane<V>::scalar;
    for (int j = 0; j < SLOTS[0]; ++j)
      w[j] = relu(T(1) - relu(T(j) - in.p[LAG]) - relu(in.p[LAG] + T(-j)));
  }
  template <class V>
  static HS_FN void ordinates_adj(const Given<V>& in, const V* d_w, const Cotangents<V>& d) {
    using T = typename Lane<V>::scalar;
    for (int j = 0; j < SLOTS[0]; ++j) {
      const V late = T(j) - in.p[LAG], early = in.p[LAG] + T(-j);
      const V d_share = adj_relu(T(1) - relu(late) - relu(early), d_w[j]);
      d.p[LAG] = d.p[LAG] + adj_relu(late, d_share) - adj_relu(early, d_share);
    }
  }

  template <bool KNOWN, class V> static HS_FN Trace<V> evaluate(const Given<V>& in, const V* s, Kept<V>& kept) {
    using T = typename Lane<V>::scalar;
    const V *f = in.f, *p = in.p;
    Trace<V> r;
    r.filled = s[SOIL] * in.d[DRYNESS];  // 1
    keep_pow01<KNOWN>(kept.power, at_most(r.filled, 1), p[SHAPE]);
    r.evaporation = min(s[SOIL], f[DEMAND] * kept.power.value);  // 2
    r.soil_1 = s[SOIL] - r.evaporation + f[RAINFALL];
    r.overflow = relu(r.soil_1 - p[CAPACITY]);  // 3
    r.soil_2 = min(p[CAPACITY], r.soil_1);
    r.percolation = min(r.soil_2, p[LEAK]);  // 4
    r.soil_3 = r.soil_2 - r.percolation;
    r.exchange = -(p[KX] * s[LEVEL]);  // 6
    r.level_1 = s[LEVEL] + r.exchange + r.percolation;
    r.pumped = min(r.level_1 + T(-bottom), p[PUMPING] * in.dt);  // 7
    r.lowered = r.level_1 - r.pumped;
    r.level_2 = at_least(r.lowered, T(bottom));
    r.baseflow = in.d[DRAIN] * relu(r.level_2);  // 8
    r.level_3 = r.level_2 - r.baseflow;
    r.spill = relu(r.level_3 + T(-top));  // 9
    const V full = splat<V>(T(top));
    r.level_4 = select(full <= r.level_3, full, r.level_3);
    return r;
  }

  template <bool KNOWN = false, class V> static HS_FN void step(const Given<V>& in, V* s, V* q, Kept<V>& kept) {
    const Trace<V> r = evaluate<KNOWN>(in, s, kept);
    const V arriving = fma(in.w[0], r.overflow, s[CHANNEL]);  // 5
    s[SOIL] = r.soil_3, s[LEVEL] = r.level_4, s[CHANNEL] = r.overflow;
    q[EVAPORATION] = r.evaporation, q[OVERFLOW] = r.overflow, q[PERCOLATION] = r.percolation;
    q[DISCHARGE] = arriving + r.baseflow + r.spill;  // 10
    q[EXCHANGE] = r.exchange, q[PUMPED] = r.pumped, q[BASEFLOW] = r.baseflow;
  }

  template <class V>
  static HS_FN void step_adj(const Given<V>& in, const V* s, Kept<V> kept, const V* d_q, V* d_s,
                             const Cotangents<V>& d) {
    using T = typename Lane<V>::scalar;
    const V *f = in.f, *p = in.p;
    const Trace<V> r = evaluate<true>(in, s, kept);

    const V d_discharge = d_q[DISCHARGE];  // 10
    const V d_spill = d_discharge;  // 9
    V d_level = select(splat<V>(T(top)) <= r.level_3, V{}, d_s[LEVEL]) + adj_relu(r.level_3 + T(-top), d_spill);
    const V d_baseflow = d_q[BASEFLOW] + d_discharge - d_level;  // 8
    d.d[DRAIN] = fma(d_baseflow, relu(r.level_2), d.d[DRAIN]);
    d_level += adj_relu(r.level_2, d_baseflow * in.d[DRAIN]);
    d_level = select(r.lowered >= splat<V>(T(bottom)), d_level, V{});  // 7
    const V d_pumped = d_q[PUMPED] - d_level;
    V d_wanted = V{};
    adj_min(r.level_1 + T(-bottom), p[PUMPING] * in.dt, d_pumped, d_level, d_wanted);
    d.p[PUMPING] = fma(d_wanted, splat<V>(in.dt), d.p[PUMPING]);
    const V d_exchange = d_q[EXCHANGE] + d_level;  // 6
    V d_percolation = d_q[PERCOLATION] + d_level;
    d.p[KX] = d.p[KX] - d_exchange * s[LEVEL];
    d_level = d_level - d_exchange * p[KX];

    const V d_overflow = d_q[OVERFLOW] + d_s[CHANNEL] + d_discharge * in.w[0];  // 5
    d.w[0] = fma(d_discharge, r.overflow, d.w[0]);
    const V d_head = d_discharge;

    V d_soil = d_s[SOIL];  // 4
    d_percolation -= d_soil;
    adj_min(r.soil_2, p[LEAK], d_percolation, d_soil, d.p[LEAK]);
    V d_soil_1 = adj_relu(r.soil_1 - p[CAPACITY], d_overflow);  // 3
    d.p[CAPACITY] -= d_soil_1;
    adj_min(p[CAPACITY], r.soil_1, d_soil, d.p[CAPACITY], d_soil_1);
    d.f[RAINFALL] += d_soil_1;  // 2
    const V d_evaporation = d_q[EVAPORATION] - d_soil_1;
    V d_demand = V{};
    adj_min(s[SOIL], f[DEMAND] * kept.power.value, d_evaporation, d_soil_1, d_demand);
    d.f[DEMAND] = fma(d_demand, kept.power.value, d.f[DEMAND]);
    const V d_ln_wetness = adj_pow01(kept.power, p[SHAPE], d_demand * f[DEMAND], d.p[SHAPE]);
    const V wetness = at_most(r.filled, 1);
    V d_used = ratio(d_ln_wetness, at_least(wetness, Format<T>::tiny));  // 1
    d_used = select(r.filled <= splat<V>(1), d_used, V{});
    d.d[DRYNESS] = fma(d_used, s[SOIL], d.d[DRYNESS]);
    d_s[SOIL] = fma(d_used, in.d[DRYNESS], d_soil_1), d_s[LEVEL] = d_level, d_s[CHANNEL] = d_head;
  }
};

}  // namespace HS_ISA
}  // namespace hs

#define HS_MODELS(KERNEL) KERNEL(toy, Toy)
