// What Python hands to routing along a network, for the bindings of all compiled backends.
#pragma once

#include "bind_arguments.h"
#include "routing/network.h"

namespace hs {

struct RouteArguments {
  std::string scheme;
  bool is_double = false, reverse = false;
  std::array<int64_t, 6> sizes{};  // steps, reaches, levels, outputs, repeat, tile
  double dt = 0;
  std::array<Address, 14> arrays{};  // in the order of Reaches
  int n_threads = 1;
  Address level = 0, initial = 0, scratch = 0;  // a GPU's own, see routing/network_cuda.cuh

  template <class T> Reaches<T> reaches() const {
    const auto& n = sizes;
    const auto& a = arrays;
    return {n[0],           n[1],           n[2],           n[3],           n[4],        n[5],        T(dt),
            at<int64_t>(a[0]), at<int32_t>(a[1]), at<int32_t>(a[2]), at<int32_t>(a[3]), at<T>(a[4]), at<T>(a[5]), to<T>(a[6]),
            to<T>(a[7]),    to<T>(a[8]),    at<T>(a[9]),    to<T>(a[10]),   to<T>(a[11]), to<T>(a[12]), to<T>(a[13])};
  }
};

// module_local: each extension registers the type for itself.
inline void bind_route_arguments(pybind11::module_& m) {
  auto c = pybind11::class_<RouteArguments>(m, "RouteArguments", pybind11::module_local()).def(pybind11::init<>());
#define HS_FIELD(name) c.def_readwrite(#name, &RouteArguments::name)
  HS_FIELD(scheme), HS_FIELD(is_double), HS_FIELD(reverse), HS_FIELD(sizes), HS_FIELD(dt), HS_FIELD(arrays);
  HS_FIELD(n_threads), HS_FIELD(level), HS_FIELD(initial), HS_FIELD(scratch);
#undef HS_FIELD
}

}  // namespace hs
