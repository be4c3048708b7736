// How a run is cut into blocks of a GPU, and which of a model's kernels takes it: for nvcc's runtime (launch.cuh) and
// for the driver (bind_driver.cpp). A block is one warp: see cuda.cuh.
#pragma once

#include "run.h"

namespace hs {

constexpr int WARP = 32, SUM_THREADS = 256;  // the latter of a block that sums
// The tape of a block on the chip. A multiprocessor then holds six blocks (compute capability 8.0) or nine (9.0).
constexpr int64_t TAPE_BYTES = 24 * 1024;
// Blocks that work at a time where the tape is in global memory, more than any card holds: each has a tape of its own
// and takes one block of cells after another.
constexpr int64_t MAX_TAPES = 4096;

struct Shape {  // of a model: counts as in model.h, the flux that leaves, and what a step takes and leaves
  int F, K, P, S, outflow, heads;
};

// The run with what a GPU takes besides.
template <class Given> Given prepared(Given run) {
  for (run.width = 1; run.width < run.group_size;) run.width *= 2;
  for (signed char& slot : run.slot) slot = -1;
  for (int o = 0; o < run.n_outputs; ++o) run.slot[run.output[o]] = (signed char)o;
  return run;
}

// Of a run that is prepared.
inline int64_t n_blocks(const Run& run) {
  const int64_t columns = run.n_basins * run.n_groups, per_block = WARP / run.width;
  return (columns + per_block - 1) / per_block;
}
inline bool outflow_only(const Run& run, const Shape& model) {
  return run.n_outputs == 1 && run.output[0] == model.outflow && !run.d_weights;
}
inline bool is_moving(const Run& run, const Shape& model) {
  bool any = false;
  for (int i = 0; i < model.P; ++i) any |= run.per_step[i];
  return any;
}
inline bool wants_forcing(const Run& run, const Shape& model) {
  bool any = false;
  for (int i = 0; i < model.F; ++i) any |= run.d_forcing[i] != nullptr;
  return any;
}

struct Tapes {
  int64_t length;  // of one block's, in values: the last step of a segment needs no place
  int64_t n;       // in global memory; 0 where they fit on the chip

  Tapes(const Run& run, const Shape& model, int64_t value_bytes) {
    length = ((run.interval < run.n_steps ? run.interval : run.n_steps) - 1) * model.heads * WARP;
    n = length * value_bytes <= TAPE_BYTES ? 0 : n_blocks(run) < MAX_TAPES ? n_blocks(run) : MAX_TAPES;
  }
};

// A thread of the normal equations has one parameter, or several of more than 32.
inline int64_t least_squares_blocks(const LeastSquares& in, const Shape& model) {
  const int64_t cells = model.P + MAX_ROUTING <= WARP / 2 ? 2 : 1;
  return (in.n_basins * in.n_components + cells - 1) / cells;
}

}  // namespace hs
