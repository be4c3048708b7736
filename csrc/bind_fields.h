// What Python hands to the kernels, for the bindings of all compiled backends: the fields of the structs that the kernels
// take, written by name. Addresses, sizes and strides are checked in hybridsolve/solve/. No torch header is needed.
#pragma once

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <vector>

#include "core/run.h"
#include "routing/network.h"
#include "routing/convolve.h"

namespace hs {

using Address = uintptr_t;

template <class T> const T* at(Address a) { return reinterpret_cast<const T*>(a); }
template <class T> T* to(Address a) { return reinterpret_cast<T*>(a); }

// How Python gives a value of each type, and what is made of it.
template <class T> struct FromPython {
  using type = T;
  static T take(T x) { return x; }
};
template <class T> struct FromPython<T*> {
  using type = Address;
  static T* take(Address a) { return reinterpret_cast<T*>(a); }
};
template <> struct FromPython<View> {
  using type = std::array<int64_t, 4>;  // address, strides over T, B, C
  static View take(const type& x) { return {at<void>(Address(x[0])), x[1], x[2], x[3]}; }
};
template <> struct FromPython<Interval> {
  using type = std::array<double, 2>;
  static Interval take(const type& x) { return {x[0], x[1]}; }
};

// Fields that can be written, not read. One that is an array takes a list of at most its length.
template <class Class, class C, class T> void field(Class& c, const char* name, T C::*member) {
  using Python = FromPython<T>;
  c.def_property(name, nullptr, [member](C& x, const typename Python::type& value) { x.*member = Python::take(value); });
}
template <class Class, class C, class T, size_t N> void field(Class& c, const char* name, T (C::*member)[N]) {
  using Python = FromPython<T>;
  c.def_property(name, nullptr, [name, member](C& x, const std::vector<typename Python::type>& values) {
    if (values.size() > N)
      throw std::invalid_argument("a run takes at most " + std::to_string(N) + " of " + name + "; found " +
                                  std::to_string(values.size()) + ": ask for fewer at a time.");
    for (size_t i = 0; i < values.size(); ++i) (x.*member)[i] = Python::take(values[i]);
  });
}

// Whether a GPU's kernels can take a run: they count steps in 32 bits, and know an output by its flux.
inline void check_run(const Run& run) {
  if (run.n_steps > INT32_MAX)
    throw std::invalid_argument("a run takes fewer than 2^31 steps; found " + std::to_string(run.n_steps) +
                                ": cut it into windows.");
  if (run.group_size < 1 || run.group_size > 32)
    throw std::invalid_argument("group_size must be 1 to 32; found " + std::to_string(run.group_size) +
                                ": cut the components into groups that a warp holds.");
  for (int o = 0; o < run.n_outputs; ++o)
    for (int other = 0; other < o; ++other)
      if (run.output[o] == run.output[other])
        throw std::invalid_argument("an output may be asked for once; found number " + std::to_string(run.output[o]) +
                                    " twice: leave one out.");
}

// module_local: each extension registers the types for itself.
inline void bind_run(pybind11::module_& m) {
  using pybind11::class_;
  using pybind11::init;
  auto run = class_<Run>(m, "Run", pybind11::module_local()).def(init([] { return Run{}; })).def(init<const Run&>());
#define HS_FIELD(name) field(run, #name, &Run::name)
  HS_FIELD(is_double), HS_FIELD(n_steps), HS_FIELD(n_basins), HS_FIELD(n_components), HS_FIELD(group_size);
  HS_FIELD(n_groups), HS_FIELD(dt), HS_FIELD(forcing), HS_FIELD(input), HS_FIELD(parameter), HS_FIELD(weights);
  HS_FIELD(forcing_bounds), HS_FIELD(input_bounds), HS_FIELD(state_bounds), HS_FIELD(octaves);
  HS_FIELD(parameter_bounds), HS_FIELD(raw), HS_FIELD(parameter_range), HS_FIELD(per_step), HS_FIELD(by_group);
  HS_FIELD(initial_state), HS_FIELD(n_outputs), HS_FIELD(output), HS_FIELD(each), HS_FIELD(fluxes);
  HS_FIELD(final_state), HS_FIELD(interval), HS_FIELD(checkpoints), HS_FIELD(d_fluxes), HS_FIELD(d_fluxes_stride);
  HS_FIELD(d_final_state), HS_FIELD(d_forcing), HS_FIELD(d_parameter), HS_FIELD(d_initial_state);
  HS_FIELD(d_weights), HS_FIELD(faults), HS_FIELD(tape), HS_FIELD(network), HS_FIELD(d_network);
#undef HS_FIELD
  auto tangent = class_<Tangent, Run>(m, "Tangent", pybind11::module_local()).def(init([] { return Tangent{}; }));
  tangent.def(init<const Tangent&>());
#define HS_FIELD(name) field(tangent, #name, &Tangent::name)
  HS_FIELD(t_forcing), HS_FIELD(t_parameter), HS_FIELD(t_weights), HS_FIELD(t_initial_state), HS_FIELD(t_fluxes);
  HS_FIELD(t_final_state), HS_FIELD(t_network);
#undef HS_FIELD
  auto least = class_<LeastSquares, Run>(m, "LeastSquares", pybind11::module_local());
  least.def(init([] { return LeastSquares{}; })).def(init<const LeastSquares&>());
#define HS_FIELD(name) field(least, #name, &LeastSquares::name)
  HS_FIELD(length), HS_FIELD(n_routing), HS_FIELD(ordinates), HS_FIELD(d_ordinates), HS_FIELD(along), HS_FIELD(target);
  HS_FIELD(weight), HS_FIELD(shift), HS_FIELD(transform), HS_FIELD(exponent), HS_FIELD(normal), HS_FIELD(flow), HS_FIELD(jacobian);
#undef HS_FIELD
}

// Of routing there is a struct for each type of number, named after it.
template <class T> std::string typed(const char* name) { return name + std::to_string(8 * sizeof(T)); }

template <class T> void bind_convolution(pybind11::module_& m) {
  using C = Convolution<T>;
  auto c = pybind11::class_<C>(m, typed<T>("Convolution").c_str(), pybind11::module_local());
  c.def(pybind11::init([] { return C{}; }));
#define HS_FIELD(name) field(c, #name, &C::name)
  HS_FIELD(n_steps), HS_FIELD(n_series), HS_FIELD(length), HS_FIELD(inflow), HS_FIELD(ordinates), HS_FIELD(memory);
  HS_FIELD(outflow), HS_FIELD(d_outflow), HS_FIELD(d_inflow), HS_FIELD(d_ordinates), HS_FIELD(d_memory);
  HS_FIELD(t_inflow), HS_FIELD(t_ordinates), HS_FIELD(t_memory);
#undef HS_FIELD
}

template <class T> void bind_reaches(pybind11::module_& m) {
  using R = Reaches<T>;
  auto c = pybind11::class_<R>(m, typed<T>("Reaches").c_str(), pybind11::module_local());
  c.def(pybind11::init([] { return R{}; }));
#define HS_FIELD(name) field(c, #name, &R::name)
  HS_FIELD(n_steps), HS_FIELD(n_reaches), HS_FIELD(n_levels), HS_FIELD(n_outputs), HS_FIELD(repeat), HS_FIELD(tile);
  HS_FIELD(dt), HS_FIELD(level_start), HS_FIELD(first), HS_FIELD(downstream), HS_FIELD(column), HS_FIELD(constants);
  HS_FIELD(lateral), HS_FIELD(state), HS_FIELD(discharge), HS_FIELD(checkpoints), HS_FIELD(d_discharge);
  HS_FIELD(d_state), HS_FIELD(d_constants), HS_FIELD(d_lateral), HS_FIELD(d_inflow), HS_FIELD(level);
  HS_FIELD(initial), HS_FIELD(scratch), HS_FIELD(given), HS_FIELD(given_series), HS_FIELD(n_given), HS_FIELD(published);
#undef HS_FIELD
}

}  // namespace hs
