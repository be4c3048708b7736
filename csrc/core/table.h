// How the kernels of models become known to the bindings. A header of csrc/models, or of anybody, lists its kernels:
//
//     #define HS_MODELS(KERNEL) KERNEL(name, Type) KERNEL(other_name, OtherType<true>)
//
// models_cpu.cpp and models_cuda.cu make of it a table, for one instruction set or type of number. The tables of
// csrc/models are linked to the binding, which setup.py tells their names; those of other headers are in libraries of
// their own, which `load` of the binding opens. A table is constant data: no code for an instruction set runs before
// the binding has looked at the processor.
#pragma once

#include "run.h"

namespace hs {

// Raised by hand where what the kernels or the fields mean has changed though the structs are as large as before.
constexpr int64_t INTERFACE = 2;

// What a library must have been built with to be called: of another build its structs may lie otherwise.
struct Stamp {
  int64_t interface, run, tangent, least_squares, model;

  constexpr bool operator==(const Stamp& o) const {
    return interface == o.interface && run == o.run && tangent == o.tangent && least_squares == o.least_squares &&
           model == o.model;
  }
};

// What of a header's table must be as in Python: see hybridsolve/solve/compiled.py.
struct Names {
  const char *forcings, *inputs, *parameters, *states, *lines, *fluxes, *networks;
  int outflow;
  int64_t rows;  // of a state tensor
  const char* identity;  // of a generated model what it was made of (hybridsolve/compiler/identity.py), else empty
};

template <class Model> struct Table {
  static constexpr Stamp STAMP{INTERFACE, sizeof(Run), sizeof(Tangent), sizeof(LeastSquares), sizeof(Model)};

  Stamp stamp;
  const char* target;  // the instruction set, or the type of number
  const Model* models;
  int n_models;
};

}  // namespace hs

#define HS_STRING_(x) #x
#define HS_STRING(x) HS_STRING_(x)
#define HS_JOIN_(a, b) a##b
#define HS_JOIN(a, b) HS_JOIN_(a, b)

// A library's table can be found by name; one that is linked to the binding has the name of its header.
#if defined(HS_PLUGIN)
#define HS_TABLE plugin_models
#define HS_EXPORT_TABLE(Model, name)                               \
  extern "C" __attribute__((visibility("default"))) const hs::Table<Model>* const name; \
  const hs::Table<Model>* const name = &HS_TABLE;
#else
#define HS_TABLE HS_JOIN(HS_NAME, _models)
#define HS_EXPORT_TABLE(Model, name)
#endif
