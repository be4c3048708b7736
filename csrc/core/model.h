// What a header of models offers, and what its functions are given.
//
//     struct Name : Defaults {
//       static constexpr int F, P, S, Q, OUTFLOW;             // forcings, parameters, states, fluxes; the flux that leaves
//       static constexpr const char *forcing_names, *parameter_names, *state_names, *flux_names;
//       template <class V> struct Kept { .. };                // values of V, and structs of such, nothing else
//       template <bool KNOWN = false, class V> static HS_FN void step(const Given<V>& in, V* s, V* q, Kept<V>& kept);
//       template <class V> static HS_FN void step_adj(const Given<V>& in, const V* s, const Kept<V>& kept, const V* d_q,
//                                                     V* d_s, const Cotangents<V>& d);
//     };
//
// `step` makes of the states s those after it, and the fluxes q. What it keeps is costly and wanted again: in the
// adjoint, and, KNOWN, in the same step on dual numbers, which then takes the values from `kept` and makes the tangents
// (the keep_ functions of math.h). `step_adj` has in d_s the cotangents of the states after the step and leaves those of
// the states before it; it adds (+=) to those in d.
//
// Of what the defaults say there is none, a model that has some says how many, and how they are made:
//   K       static inputs: numbers of a basin that nobody learns                       input_names
//   D       numbers that depend on inputs and parameters alone, made once for a run where these do not vary by step:
//             template <class V> static HS_FN void prepare(const Given<V>& in, V* d);
//             template <class V> static HS_FN void prepare_adj(const Given<V>& in, const Cotangents<V>& d);
//           the latter adds to d.p what follows from d.d
//   LINES   delay lines, with SLOTS[line] ordinates at most                            line_names
//             template <class V> static HS_FN void ordinates(const Given<V>& in, V* w);
//             template <class V> static HS_FN void ordinates_adj(const Given<V>& in, const V* d_w, const Cotangents<V>& d);
//           with those of all lines behind one another; the latter adds to d.p and d.d
//   NETWORKS inside the step, of NETWORK_WEIGHTS[network] weights (mlp.h), WEIGHTS in all          network_names
//           whose weights are in in.n behind one another, and whose cotangents step_adj adds to in d.n
//   LOOPS   whether a step has loops or solves equations (root.h): these raise in.beyond, where it is given, for lanes that
//           are to make more passes than a loop may to 1, for those without a root to the residual
//
//   STAGES  parts of `step`, and ADJOINT_STAGES of `step_adj`, which a CPU runs one after another, each over many units:
//             template <int STAGE, bool KNOWN = false, class V, class Fluxes>
//             static HS_FN void stage(const Given<V>& in, V* s, Fluxes& q, Kept<V>& kept, Between<V>& m);
//             template <int STAGE, class V>
//             static HS_FN void stage_adj(const Given<V>& in, const V* s, const Kept<V>& kept, const V* d_q, V* d_s,
//                                         const Cotangents<V>& d, BetweenAdjoint<V>& m);
//           with what one leaves to later ones in structs Between and BetweenAdjoint, made of values as Kept is; Fluxes
//           is V* or OutflowAlone. All in order are the step; of dual numbers only with DUAL_STAGES
//
//   LINEAR  whether it says how a step moves with the parameters, by coefficients that it makes once:
//             template <class V> static HS_FN void linear(const Given<V>& in, const V* slope, const V* s,
//                                                         const Kept<V>& kept, Linear<V>& m);
//             template <class V> static HS_FN void tangent(int parameter, const Linear<V>& m, V* s, V& q);
//           The latter makes of the tangents of states before the step those after it, and that of the outflow where it
//           moves. slope [SLOPES]: how number SLOPE_OF[i][0] of what is prepared, the ordinates behind the D others, moves
//           with parameter SLOPE_OF[i][1]
//
// A delay line with ordinates w_0 .. w_{n-1} holds contents M_0 .. M_{n-2}. A step that puts x into it gets M_0 + w_0 x
// out of it; it finds M_0 in s[S + line] and w_0 in in.w[line], and leaves x in s[S + line]. Then the driver moves the
// contents, M_j <- M_{j+1} + w_{j+1} x. They are rows of the state behind the S states. Being linear they need no tape:
// with x and M_0 of every step, the adjoint is the same movement back.
#pragma once

#include "dual.h"
#include "table.h"

namespace hs {
namespace HS_ISA {

struct Defaults {
  static constexpr int K = 0, D = 0, LINES = 0, NETWORKS = 0, WEIGHTS = 0;
  static constexpr bool LOOPS = false;
  static constexpr int STAGES = 0, ADJOINT_STAGES = 0;
  static constexpr bool DUAL_STAGES = true;
  template <class V> struct Between {};
  template <class V> struct BetweenAdjoint {};
  template <class V> struct Linear {};
  static constexpr bool LINEAR = false;
  static constexpr int SLOPES = 0, SLOPE_OF[1][2] = {{0, 0}};
  static constexpr int SLOTS[1] = {0}, NETWORK_WEIGHTS[1] = {0};
  static constexpr const char *input_names = "", *line_names = "", *network_names = "", *identity = "";
};

template <class V> struct Given {
  const V *f, *k, *p, *d;           // forcing of the step, inputs, parameters, what `prepare` made
  const V* w;                       // of each delay line the first ordinate
  typename Lane<V>::scalar dt;      // length of the step, days
  V* beyond = nullptr;              // see LOOPS
  const V* n = nullptr;             // weights of networks
};

template <class V> struct Cotangents {
  V *f, *p, *d, *w, *n = nullptr;
};

// Where a stage puts its fluxes if the outflow is all that is wanted.
template <class Model, class V> struct OutflowAlone {
  V& outflow;
  V rest;
  HS_FN V& operator[](int i) { return i == Model::OUTFLOW ? outflow : rest; }
};

// How many of everything there are. Arrays of none have one element, which nobody uses.
template <class Model> struct Counts {
  static HS_FN constexpr int some(int n) { return n ? n : 1; }
  static HS_FN constexpr int first_ordinate(int line) {
    int n = 0;
    for (int l = 0; l < line; ++l) n += Model::SLOTS[l];
    return n;
  }
  static HS_FN constexpr int first_content(int line) { return first_ordinate(line) - line; }
  static constexpr int W = first_ordinate(Model::LINES), M = first_content(Model::LINES);
  static constexpr int ROWS = Model::S + M;         // of a state tensor
  static constexpr int HEADS = Model::S + Model::LINES;  // what a step takes and leaves

  static_assert(Model::F <= MAX_FORCINGS && Model::P <= MAX_PARAMETERS && Model::K <= MAX_INPUTS &&
                    Model::S <= MAX_STATES && Model::Q + Model::S <= MAX_OUTPUTS && Model::NETWORKS <= MAX_NETWORKS,
                "raise the counts in core/run.h");
};

template <class Model> constexpr Names names_of() {
  return {Model::forcing_names, Model::input_names, Model::parameter_names, Model::state_names,
          Model::line_names,    Model::flux_names,  Model::network_names,   Model::OUTFLOW,
          Counts<Model>::ROWS,  Model::identity};
}

// What the kernels of a model compare with and scale by, in the type of their numbers.
template <class T> struct Bounds {
  T lower, upper;
};
template <class T> struct Range {
  T lower, span;
  T octaves;  // of a parameter with a log scale, else 0
};
template <class Model, class T> struct Limits {
  Bounds<T> forcing[Model::F], input[Counts<Model>::some(Model::K)] = {}, parameter[Model::P], state[Model::S];
  Range<T> range[Model::P];
  T dt;

  explicit Limits(const Run& run) {
    const auto narrow = [](Interval x) { return Bounds<T>{T(x.lower), T(x.upper)}; };
    for (int i = 0; i < Model::F; ++i) forcing[i] = narrow(run.forcing_bounds[i]);
    for (int i = 0; i < Model::K; ++i) input[i] = narrow(run.input_bounds[i]);
    for (int i = 0; i < Model::S; ++i) state[i] = narrow(run.state_bounds[i]);
    for (int i = 0; i < Model::P; ++i) {
      const Interval x = run.parameter_range[i];
      parameter[i] = narrow(run.parameter_bounds[i]);
      range[i] = {T(x.lower), T(x.upper - x.lower), T(run.octaves[i])};
    }
    dt = T(run.dt);
  }
};

// A parameter from what comes before the sigmoid, and the gradient back.
template <class V> HS_FN V ranged(V x, const Range<typename Lane<V>::scalar>& range) {
  if (range.octaves) return exp2(scaling_sigmoid(x) * range.octaves) * range.lower;
  return scaled(x, range.lower, range.span);
}
template <class V> HS_FN V adj_ranged(V x, const Range<typename Lane<V>::scalar>& range, V d_r) {
  using T = typename Lane<V>::scalar;
  if (!range.octaves) return adj_scaled(x, range.span, d_r);
  const V u = scaling_sigmoid(x);
  const V value = exp2(u * range.octaves) * range.lower;
  return d_r * value * T(range.octaves * T(0.69314718055994530942)) * (u * (T(1) - u));
}

// What was kept with values, as that of duals whose tangents are not made yet.
template <class Model, class D, class V>
HS_FN typename Model::template Kept<D> known(const typename Model::template Kept<V>& kept) {
  using Of = typename Model::template Kept<D>;
  constexpr int n = sizeof(kept) / sizeof(V);
  static_assert(n == sizeof(Of) / sizeof(D), "Kept<V> holds values of V alone");
  Of r{};
  for (int i = 0; i < n; ++i) reinterpret_cast<D*>(&r)[i].v = reinterpret_cast<const V*>(&kept)[i];
  return r;
}

// A delay line: how many ordinates it has at most, and where its own begin among those of all lines.
template <class Model, int LINE> struct Line {
  static constexpr int number = LINE, slots = Model::SLOTS[LINE];
  static constexpr int ordinate = Counts<Model>::first_ordinate(LINE), content = Counts<Model>::first_content(LINE);
};
template <class Model, int LINE = 0, class Work> HS_FN void each_line(const Work& work) {
  if constexpr (LINE < Model::LINES) {
    work(Line<Model, LINE>{});
    each_line<Model, LINE + 1>(work);
  }
}

// A network: how many weights it has, and where they begin among those of all.
template <int NETWORK, int FIRST, int N> struct NetworkOf {
  static constexpr int number = NETWORK, first = FIRST, weights = N;
};
template <class Model, int NETWORK = 0, int FIRST = 0, class Work> HS_FN void each_network(const Work& work) {
  if constexpr (NETWORK < Model::NETWORKS) {
    constexpr int n = Model::NETWORK_WEIGHTS[NETWORK];
    work(NetworkOf<NETWORK, FIRST, n>{});
    each_network<Model, NETWORK + 1, FIRST + n>(work);
  }
}

// What a step is given of the lines with contents m and ordinates w: M_0 behind its states, and w_0.
template <class Model, class V> HS_FN void first_ordinates(const V* w, V* first) {
  each_line<Model>([=](auto line) { first[line.number] = w[line.ordinate]; });
}
template <class Model, class V> HS_FN void heads(const V* m, const V* w, V* head, V* first) {
  each_line<Model>([=](auto line) {
    if constexpr (line.slots > 1) head[line.number] = m[line.content];
    else head[line.number] = V{};
  });
  first_ordinates<Model>(w, first);
}

// How many slots of each line are in use: up to the last of which empty(slot, content) does not say that it holds
// nothing, by the places of its ordinate and of the content that it adds to.
template <class Model, class Empty> void count_slots(int* in_use, const Empty& empty) {
  each_line<Model>([&](auto line) {
    int& n = in_use[line.number];
    for (n = line.slots; n > 1 && empty(line.ordinate + n - 1, line.content + n - 2);) --n;
  });
}

// Moves the contents on by a step that put x into the lines. in_use: how many ordinates of each, or null: all.
template <class Model, class V> HS_FN void move_lines(V* m, const V* w, const V* x, const int* in_use) {
  each_line<Model>([=](auto line) {
    V* content = m + line.content;
    const V* ordinate = w + line.ordinate;
    const int n = in_use ? in_use[line.number] : line.slots;
    int j = 0;
    for (; j + 2 < n; ++j) content[j] = fma(ordinate[j + 1], x[line.number], content[j + 1]);
    if (j + 1 < n) content[j] = ordinate[j + 1] * x[line.number];
  });
}
// Its adjoint, first part, before that of the step: the cotangents of x, and of the ordinates but the first. `d_m` says
// where those of a line's contents are.
template <class Model, class V, class Contents>
HS_FN void adj_put(const Contents& d_m, const V* w, const V* x, V* d_x, V* d_w, const int* in_use) {
  each_line<Model>([&](auto line) {
    V sum{};
    const V* const d_of_line = d_m(line);
    const int n = in_use ? in_use[line.number] : line.slots;
    for (int j = 0; j + 1 < n; ++j) {
      const V d = d_of_line[j];
      const int i = line.ordinate + j + 1;
      sum = fma(w[i], d, sum);
      d_w[i] = fma(x[line.number], d, d_w[i]);
    }
    d_x[line.number] = sum;
  });
}
// The contents' tangents, of a step that put x into the lines and d_x along the tangent.
template <class Model, class V>
HS_FN void move_contents(V* d_m, const V* w, const V* d_w, const V* x, const V* d_x, const int* in_use) {
  each_line<Model>([=](auto line) {
    V* d_content = d_m + line.content;
    const int n = in_use[line.number];
    for (int j = 0; j + 1 < n; ++j) {
      const int i = line.ordinate + j + 1;
      const V more = w[i] * d_x[line.number];
      d_content[j] = fma(d_w[i], x[line.number], j + 2 < n ? fma(w[i], d_x[line.number], d_content[j + 1]) : more);
    }
  });
}
// Second part, after that of the step, which has found the cotangents of what it was given: the contents' go back.
template <class Model, class V> HS_FN void adj_move(V* d_m, V* d_w, const V* d_head, const V* d_first) {
  each_line<Model>([=](auto line) {
    for (int j = line.slots - 2; j > 0; --j) d_m[line.content + j] = d_m[line.content + j - 1];
    if constexpr (line.slots > 1) d_m[line.content] = d_head[line.number];
    d_w[line.ordinate] += d_first[line.number];
  });
}

}  // namespace HS_ISA
}  // namespace hs
