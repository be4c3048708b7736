// The arguments of a run, passed by value into every kernel. All strides are in elements; a size-1 axis has stride 0.
#pragma once

#include <stdint.h>

namespace hs {

constexpr int MAX_FORCINGS = 4, MAX_PARAMETERS = 32, MAX_STATES = 32, MAX_OUTPUTS = 64;

template <class T> struct View {  // an input [T, B], [B, C] or [T, B, C]
  const T* data = nullptr;
  int64_t t_stride = 0, b_stride = 0, c_stride = 0;
};

// What an input's values must lie within, both ends included; written so that a NaN is outside.
template <class T> struct Bounds {
  T lower, upper;
};
template <class T> struct Range {
  T lower, span;
};

// Where the first value out of bounds is, by kind: the caller finds the place and says it.
enum Fault : int { FAULT_NONE = 0, FAULT_FORCING = 1, FAULT_PARAMETER = 2, FAULT_STATE = 4, FAULT_WEIGHTS = 8 };

template <class T> struct Run {
  int64_t n_steps, n_basins, n_components;
  int64_t group_size, n_groups;  // components are summed in groups of group_size, then the groups: see drive.h
  View<T> forcing[MAX_FORCINGS], parameter[MAX_PARAMETERS], weights;
  Bounds<T> forcing_bounds[MAX_FORCINGS], parameter_bounds[MAX_PARAMETERS];
  bool raw;                         // parameters come before the sigmoid, and a step takes them scaled to their range
  Range<T> parameter_range[MAX_PARAMETERS];
  bool per_step[MAX_PARAMETERS];    // it has a value for every step
  bool by_group[MAX_PARAMETERS];    // per-step, with one value for all components: its gradient is summed over them
  const T* initial_state;  // [S, B, C]

  int n_outputs;
  int output[MAX_OUTPUTS];  // index of a flux, or n_fluxes + index of a state (its value at the end of the step)
  bool each;                // outputs [n_outputs, T, C, B]; else their weighted sums by group [n_outputs, T, B, G]
  T* fluxes;
  T* final_state;           // [S, B, C]

  int64_t interval;         // steps between checkpoints; 0: none are kept
  T* checkpoints;           // [ceil(T / interval), S, C, B]: the state before every interval-th step

  // The adjoint's own. Every d_ array has the layout of what it is the cotangent or gradient of, save the two kinds
  // that are summed over components: a forcing's gradient and that of a per-step parameter of one component are
  // [T, B, G], one partial sum per group. A null pointer: not wanted.
  View<T> d_fluxes;         // [n_outputs, T, B] or [n_outputs, T, B, C], any strides
  int64_t d_fluxes_stride;  // over the outputs
  const T* d_final_state;   // [S, B, C]
  T* d_forcing[MAX_FORCINGS];      // [T, B, G]
  T* d_parameter[MAX_PARAMETERS];  // static [B, C]; per-step [T, B, C], or [T, B, G] if by_group
  T* d_initial_state;       // [S, B, C]
  T* d_weights;             // [B, C]

  // On a GPU alone, where arrays over cells are [.., B, C] and not [.., C, B], and nobody waits for a kernel's answer.
  int64_t* faults;  // [4], by kind in the order of Fault: the least t * B * C + cell with a value out of bounds;
                    // of the initial state t is the store
  T* tape;          // memory for the states of a segment, where they do not fit on the chip
  int width;        // lanes that a group of components takes: a power of two, so that it stays inside a warp
  signed char slot[MAX_OUTPUTS];  // the inverse of output: the place of a flux or state among the outputs, or -1
};

// One derivative of a run, along a direction given for any of its inputs.
template <class T> struct Tangent {
  Run<T> run;  // its outputs are not written
  // Along the direction; a null pointer: it does not move. Layouts and strides of their own, axes those of the input.
  View<T> forcing[MAX_FORCINGS], parameter[MAX_PARAMETERS], weights;
  const T* initial_state;  // [S, B, C]
  T* fluxes;               // as the run's
  T* final_state;
};

// The normal equations of a calibration: see least_squares.h.
enum Transform { IDENTITY, ROOT, LOGARITHM, BOX_COX };

template <class T> struct LeastSquares {
  Run<T> run;          // static parameters; its outputs are not used
  View<T> a, b;        // the unit hydrograph's [B, C]
  View<T> target, weight, shift;  // [T, B], [T, B], [B]
  int transform;
  T exponent;          // l of Box and Cox
  T* normal;           // [N (N + 1) / 2 + N + 1, B, C]: the upper triangle by rows, the gradient, the cost
  T* flow;             // [T, C, B] and [N, T, C, B]: y and dy, where they are wanted
  T* jacobian;
};

}  // namespace hs
