// The arguments of a run, passed by value into every kernel. The type of the numbers is the kernel's own, so pointers are
// untyped here, and bounds are in double. All strides are in elements; a size-1 axis has stride 0.
#pragma once

#include "portable.h"

namespace hs {

// What the largest models in sight need, with some room. Forcings: precipitation and temperature of CemaNeige's 5 layers,
// evaporation, day of the year: 12. Inputs: 5 elevations, that of the station, latitude, mean annual snowfall: 8.
// Parameters: 16 of SAC-SMA, 11 of Snow-17 and its 11 ordinates of areal depletion: 38. States: 5 of each layer of
// CemaNeige with hysteresis, 3 of GR6J: 28; the 58 contents of GR's delay lines are rows behind them and no states.
// Outputs: fluxes and states together.
constexpr int MAX_FORCINGS = 16, MAX_INPUTS = 16, MAX_PARAMETERS = 48, MAX_STATES = 32, MAX_OUTPUTS = 96;
constexpr int MAX_NETWORKS = 8;
constexpr int MAX_ROUTING = 2;  // parameters of a hydrograph: gamma's and Nash's
constexpr int MOST_ORDINATES = 16;  // of one in the normal equations on a GPU, where they stay in registers

template <class T> HS_FN const T* as(const void* p) { return static_cast<const T*>(p); }
template <class T> HS_FN T* as(void* p) { return static_cast<T*>(p); }

struct View {  // an array [T, B], [B], [B, C] or [T, B, C]
  const void* data = nullptr;
  int64_t t_stride = 0, b_stride = 0, c_stride = 0;
};

struct Interval {
  double lower, upper;
};

// Where the first value out of bounds is, by kind: the caller finds the place and says it.
// Or, FAULT_PASSES, a loop of the step with more passes than it may make.
enum Fault : int {
  FAULT_NONE = 0, FAULT_FORCING = 1, FAULT_PARAMETER = 2, FAULT_STATE = 4, FAULT_WEIGHTS = 8, FAULT_PASSES = 16
};

struct Run {
  bool is_double;           // the type of all numbers that are pointed to
  int64_t n_steps, n_basins, n_components;
  int64_t group_size, n_groups;  // components are summed in groups of group_size, then the groups: see drive.h
  double dt;                     // length of a step, days
  View forcing[MAX_FORCINGS], input[MAX_INPUTS], parameter[MAX_PARAMETERS], weights;
  View network[MAX_NETWORKS];  // the weights of a network inside the step, [W] or [B, W]: t_stride is that over W
  // What values must lie within, both ends included; in the type of the numbers, so that narrowing changes nothing.
  Interval forcing_bounds[MAX_FORCINGS], input_bounds[MAX_INPUTS], parameter_bounds[MAX_PARAMETERS];
  Interval state_bounds[MAX_STATES];  // of the initial state
  bool raw;                 // parameters come before the sigmoid, and a step takes them scaled to their range
  Interval parameter_range[MAX_PARAMETERS];
  double octaves[MAX_PARAMETERS];  // log2 of upper / lower where the range has a log scale, else 0
  bool per_step[MAX_PARAMETERS];  // it has a value for every step
  bool by_group[MAX_PARAMETERS];  // per-step, with one value for all components: its gradient is summed over them
  const void* initial_state;      // [S, B, C]; here and below with the rows of delay lines behind the states (model.h)

  int n_outputs;
  int output[MAX_OUTPUTS];  // index of a flux, or n_fluxes + index of a state (its value at the end of the step)
  bool each;                // outputs [n_outputs, T, C, B]; else their weighted sums by group [n_outputs, T, B, G]
  void* fluxes;
  void* final_state;        // [S, B, C]

  int n_threads = 1;        // that share the blocks of a run on a CPU
  int64_t interval;         // steps between checkpoints; 0: none are kept
  void* checkpoints;        // [ceil(T / interval), S, C, B]: the state before every interval-th step

  // The adjoint's own. Every d_ array has the layout of what it is the cotangent or gradient of, save the two kinds
  // that are summed over components: a forcing's gradient and that of a per-step parameter of one component are
  // [T, B, G], one partial sum per group. A null pointer: not wanted.
  View d_fluxes;            // [n_outputs, T, B] or [n_outputs, T, B, C], any strides
  int64_t d_fluxes_stride;  // over the outputs
  const void* d_final_state;       // [S, B, C]
  void* d_forcing[MAX_FORCINGS];      // [T, B, G]
  void* d_parameter[MAX_PARAMETERS];  // static [B, C]; per-step [T, B, C], or [T, B, G] if by_group
  void* d_initial_state;    // [S, B, C]
  void* d_network[MAX_NETWORKS];      // [B, G, W]: what joins basins and groups is summed afterwards
  void* d_weights;          // [B, C]

  int64_t* faults;  // [5], by kind in the order of Fault: the least t * B * C + cell with a value out of bounds;
                    // of the initial state t is the store. On a CPU [6], of FAULT_PASSES alone, where it is wanted,
                    // and behind it the bits of what was noted there

  // On a GPU alone, where arrays over cells are [.., B, C] and not [.., C, B], and nobody waits for a kernel's answer.
  void* tape;       // memory for the states of a segment, where they do not fit on the chip
  int width;        // lanes that a group of components takes: a power of two, so that it stays inside a warp
  signed char slot[MAX_OUTPUTS];  // the inverse of output: the place of a flux or state among the outputs, or -1
};

// One derivative of a run, along a direction given for any of its inputs. Its outputs are not written.
struct Tangent : Run {
  // Along the direction; a null pointer: it does not move. Layouts and strides of their own, axes those of the input.
  View t_forcing[MAX_FORCINGS], t_parameter[MAX_PARAMETERS], t_weights, t_network[MAX_NETWORKS];
  const void* t_initial_state;  // [S, B, C]
  void *t_fluxes, *t_final_state;  // as the run's
};

// The normal equations of a calibration: see least_squares.h.
enum Transform { IDENTITY, ROOT, LOGARITHM, BOX_COX };

// Its parameters are static, and its outputs are not used.
struct LeastSquares : Run {
  // The ordinates of the unit hydrograph, strides over ordinates, basins and components; and their derivatives along its
  // parameters, of which there may be none.
  int64_t length;
  int n_routing;
  View ordinates, d_ordinates[MAX_ROUTING];  // [length, B, C]
  bool along[MAX_PARAMETERS];  // the parameters along which derivatives are carried; on a GPU along all
  View target, weight, shift;  // [T, B], [T, B], [B]
  int transform;
  double exponent;             // l of Box and Cox
  void* normal;                // [N (N + 1) / 2 + N + 1, B, C]: the upper triangle by rows, the gradient, the cost;
                               // N is the parameters along which there are derivatives, and the hydrograph's
  void *flow, *jacobian;       // [T, C, B] and [N, T, C, B]: y and dy, where they are wanted
};

}  // namespace hs
