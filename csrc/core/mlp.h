// A network inside a step: layers that are fully connected, with one activation behind each but the last.
//
// Its weights lie as those of a chain of torch's Linear: of each layer the matrix [out, in], then the bias [out]. A step
// keeps of every hidden unit what its adjoint needs: the unit itself, but of relu what comes before it, whose sign at 0
// the unit does not tell. Sums run from the bias over the inputs in order; those of the adjoint over the outputs.
#pragma once

#include "model.h"

namespace hs {
namespace HS_ISA {

enum class Activation { tanh, sigmoid, relu };

template <Activation A, bool KNOWN, class V> HS_FN void keep_unit(V& kept, V z) {
  if constexpr (A == Activation::tanh) keep_tanh<KNOWN>(kept, z);
  else if constexpr (A == Activation::sigmoid) keep_sigmoid<KNOWN>(kept, z);
  else kept = z;
}
template <Activation A, class V> HS_FN V unit(V kept) {
  if constexpr (A == Activation::relu) return relu(kept);
  else return kept;
}
template <Activation A, class V> HS_FN V adj_unit(V kept, V d) {
  if constexpr (A == Activation::tanh) return adj_tanh(kept, kept, d);
  else if constexpr (A == Activation::sigmoid) return adj_sigmoid(kept, kept, d);
  else return select(kept >= V{}, d, V{});
}

// One output of a layer before its activation, and the adjoint of all: d_x made, d_w added to.
template <int N, int M, class V> HS_FN V layer(const V* w, const V* x, int o) {
  V z = w[N * M + o];
  for (int i = 0; i < N; ++i) z = fma(w[o * N + i], x[i], z);
  return z;
}
template <int N, int M, class V> HS_FN void adj_layer(const V* w, V* d_w, const V* x, const V* d, V* d_x) {
  for (int i = 0; i < N; ++i) {
    V sum{};
    for (int o = 0; o < M; ++o) {
      sum = fma(d[o], w[o * N + i], sum);
      d_w[o * N + i] = fma(d[o], x[i], d_w[o * N + i]);
    }
    d_x[i] = sum;
  }
  for (int o = 0; o < M; ++o) d_w[N * M + o] += d[o];
}

// Sizes: the inputs, the hidden layers, the outputs.
template <Activation A, int IN, int NEXT, int... REST> struct Mlp {
  using Behind = Mlp<A, NEXT, REST...>;
  static constexpr int HIDDEN = NEXT + Behind::HIDDEN, OWN = NEXT * (IN + 1), WEIGHTS = OWN + Behind::WEIGHTS;

  // The outputs y, and what is kept of the units [HIDDEN].
  template <bool KNOWN, class V> static HS_FN void forward(const V* w, const V* x, V* kept, V* y) {
    V value[NEXT];
    for (int o = 0; o < NEXT; ++o) {
      keep_unit<A, KNOWN>(kept[o], layer<IN, NEXT>(w, x, o));
      value[o] = unit<A>(kept[o]);
    }
    Behind::template forward<KNOWN>(w + OWN, value, kept + NEXT, y);
  }
  // The cotangents of x, and those of the weights added to d_w.
  template <class V> static HS_FN void adjoint(const V* w, V* d_w, const V* x, const V* kept, const V* d_y, V* d_x) {
    V value[NEXT], d[NEXT];
    for (int o = 0; o < NEXT; ++o) value[o] = unit<A>(kept[o]);
    Behind::adjoint(w + OWN, d_w + OWN, value, kept + NEXT, d_y, d);
    for (int o = 0; o < NEXT; ++o) d[o] = adj_unit<A>(kept[o], d[o]);
    adj_layer<IN, NEXT>(w, d_w, x, d, d_x);
  }
};

template <Activation A, int IN, int OUT> struct Mlp<A, IN, OUT> {
  static constexpr int HIDDEN = 0, WEIGHTS = OUT * (IN + 1);

  template <bool KNOWN, class V> static HS_FN void forward(const V* w, const V* x, V*, V* y) {
    for (int o = 0; o < OUT; ++o) y[o] = layer<IN, OUT>(w, x, o);
  }
  template <class V> static HS_FN void adjoint(const V* w, V* d_w, const V* x, const V*, const V* d_y, V* d_x) {
    adj_layer<IN, OUT>(w, d_w, x, d_y, d_x);
  }
};

}  // namespace HS_ISA
}  // namespace hs
