// What Python hands to a run or its adjoint, for the bindings of all compiled backends: raw addresses, sizes and
// strides, checked by hybridsolve/solve/backends.py. No torch header is needed.
#pragma once

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <stdexcept>
#include <string>
#include <vector>

#include "core/params.h"

namespace hs {

using Address = uintptr_t;
using Strided = std::array<int64_t, 4>;  // address, strides over T, B, C
using Limits = std::array<double, 2>;

template <class T> const T* at(Address a) { return reinterpret_cast<const T*>(a); }
template <class T> T* to(Address a) { return reinterpret_cast<T*>(a); }
template <class T> View<T> view(const Strided& s) { return {at<T>(Address(s[0])), s[1], s[2], s[3]}; }

struct Arguments {
  std::string model;
  bool is_double = false;
  std::array<int64_t, 3> sizes{};  // T, B, C
  int64_t group_size = 0;
  std::vector<Strided> forcing, parameters;
  std::vector<Limits> forcing_bounds, parameter_bounds, parameter_range;
  bool raw = false;
  std::vector<bool> per_step, by_group;
  Strided weights{};
  Address initial_state = 0;
  std::vector<int> outputs;
  bool each = false;
  int64_t interval = 0;
  Address checkpoints = 0, fluxes = 0, final_state = 0;
  // The adjoint's own.
  Strided d_fluxes{};
  int64_t d_fluxes_stride = 0;
  Address d_final_state = 0;
  std::vector<Address> d_forcing, d_parameters;
  Address d_initial_state = 0, d_weights = 0;
  // Of derivatives carried forward: the tangents of the inputs, an address of 0 where one does not move; results are
  // those of fluxes and final state.
  std::vector<Strided> t_forcing, t_parameters;
  Strided t_weights{};
  Address t_state = 0;
  // Of least squares: the unit hydrograph's a and b, target, weight, shift; results are normal, flow, jacobian.
  std::vector<Strided> observed;
  int transform = 0;
  double exponent = 1;
  std::array<Address, 3> results{};
  // A GPU's own.
  Address faults = 0, tape = 0;

  template <class T> Run<T> run() const {
    if (forcing.size() > MAX_FORCINGS || parameters.size() > MAX_PARAMETERS || outputs.size() > MAX_OUTPUTS)
      throw std::invalid_argument("a run takes at most " + std::to_string(MAX_OUTPUTS) + " outputs; " +
                                  std::to_string(outputs.size()) + " were asked for: ask for fewer at a time.");
    Run<T> r{};
    r.n_steps = sizes[0], r.n_basins = sizes[1], r.n_components = sizes[2];
    r.group_size = group_size, r.n_groups = (r.n_components + group_size - 1) / group_size;
    for (size_t i = 0; i < forcing.size(); ++i) {
      r.forcing[i] = view<T>(forcing[i]);
      r.forcing_bounds[i] = {T(forcing_bounds[i][0]), T(forcing_bounds[i][1])};
    }
    for (size_t i = 0; i < parameters.size(); ++i) {
      r.parameter[i] = view<T>(parameters[i]);
      r.parameter_bounds[i] = {T(parameter_bounds[i][0]), T(parameter_bounds[i][1])};
      r.parameter_range[i] = {T(parameter_range[i][0]), T(parameter_range[i][1] - parameter_range[i][0])};
      r.per_step[i] = per_step[i], r.by_group[i] = by_group[i];
    }
    r.raw = raw;
    r.weights = view<T>(weights);
    r.initial_state = at<T>(initial_state);
    r.n_outputs = int(outputs.size());
    for (size_t i = 0; i < outputs.size(); ++i) r.output[i] = outputs[i];
    r.each = each;
    r.fluxes = to<T>(fluxes), r.final_state = to<T>(final_state);
    r.interval = interval, r.checkpoints = to<T>(checkpoints);
    r.d_fluxes = view<T>(d_fluxes), r.d_fluxes_stride = d_fluxes_stride;
    r.d_final_state = at<T>(d_final_state);
    for (size_t i = 0; i < d_forcing.size(); ++i) r.d_forcing[i] = to<T>(d_forcing[i]);
    for (size_t i = 0; i < d_parameters.size(); ++i) r.d_parameter[i] = to<T>(d_parameters[i]);
    r.d_initial_state = to<T>(d_initial_state), r.d_weights = to<T>(d_weights);
    r.faults = to<int64_t>(faults), r.tape = to<T>(tape);
    return r;
  }

  template <class T> Tangent<T> tangent() const {
    Tangent<T> t{};
    t.run = run<T>();
    for (size_t i = 0; i < t_forcing.size(); ++i) t.forcing[i] = view<T>(t_forcing[i]);
    for (size_t i = 0; i < t_parameters.size(); ++i) t.parameter[i] = view<T>(t_parameters[i]);
    t.weights = view<T>(t_weights), t.initial_state = at<T>(t_state);
    t.fluxes = to<T>(results[0]), t.final_state = to<T>(results[1]);
    return t;
  }

  template <class T> LeastSquares<T> least_squares() const {
    LeastSquares<T> l{};
    l.run = run<T>();
    l.a = view<T>(observed.at(0)), l.b = view<T>(observed.at(1));
    l.target = view<T>(observed.at(2)), l.weight = view<T>(observed.at(3)), l.shift = view<T>(observed.at(4));
    l.transform = transform, l.exponent = T(exponent);
    l.normal = to<T>(results[0]), l.flow = to<T>(results[1]), l.jacobian = to<T>(results[2]);
    return l;
  }
};

// module_local: each extension registers the type for itself.
inline void bind_arguments(pybind11::module_& m) {
  auto c = pybind11::class_<Arguments>(m, "Arguments", pybind11::module_local()).def(pybind11::init<>());
#define HS_FIELD(name) c.def_readwrite(#name, &Arguments::name)
  HS_FIELD(model), HS_FIELD(is_double), HS_FIELD(sizes), HS_FIELD(group_size);
  HS_FIELD(forcing), HS_FIELD(parameters), HS_FIELD(forcing_bounds), HS_FIELD(parameter_bounds);
  HS_FIELD(parameter_range), HS_FIELD(raw), HS_FIELD(per_step), HS_FIELD(by_group), HS_FIELD(weights);
  HS_FIELD(initial_state), HS_FIELD(outputs), HS_FIELD(each), HS_FIELD(interval), HS_FIELD(checkpoints);
  HS_FIELD(fluxes), HS_FIELD(final_state), HS_FIELD(d_fluxes), HS_FIELD(d_fluxes_stride), HS_FIELD(d_final_state);
  HS_FIELD(d_forcing), HS_FIELD(d_parameters), HS_FIELD(d_initial_state), HS_FIELD(d_weights);
  HS_FIELD(t_forcing), HS_FIELD(t_parameters), HS_FIELD(t_weights), HS_FIELD(t_state), HS_FIELD(observed);
  HS_FIELD(transform), HS_FIELD(exponent), HS_FIELD(results);
  HS_FIELD(faults), HS_FIELD(tape);
#undef HS_FIELD
}

}  // namespace hs
