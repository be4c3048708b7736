// The models that a binding knows: those that are linked to it and those of libraries that it was told to load.
#pragma once

#include <dlfcn.h>
#include <pybind11/pybind11.h>

#include <mutex>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "core/table.h"

namespace hs {

template <class Model> class Models {
 public:
  // `backend`: as an error names it.
  Models(std::vector<const Table<Model>*> built_in, const char* backend) : tables(built_in), backend(backend) {}

  // Of tables with one name that which was loaded last, of those that have what is asked for.
  template <class Has> const Model& find(const std::string& name, const std::string& target, const Has& has) const {
    const std::lock_guard<std::mutex> lock(mutex);
    for (auto table = tables.rbegin(); table != tables.rend(); ++table)
      if (target == (*table)->target)
        for (int i = 0; i < (*table)->n_models; ++i)
          if (name == (*table)->models[i].name && has((*table)->models[i])) return (*table)->models[i];
    throw std::invalid_argument("model '" + name + "' has no " + backend + " kernel in this build; reinstall hybridsolve.");
  }

  const Model& find(const std::string& name, const std::string& target) const {
    return find(name, target, [](const Model&) { return true; });
  }

  // What the headers say, by name of model; names of variables of one kind as one text.
  pybind11::dict names(const std::string& target) const {
    using pybind11::arg;
    pybind11::dict found;
    for (const Table<Model>* table : tables)
      for (int i = 0; target == table->target && i < table->n_models; ++i) {
        const Names& names = table->models[i].names;
        found[table->models[i].name] = pybind11::dict(
            arg("forcing_names") = names.forcings, arg("input_names") = names.inputs,
            arg("parameter_names") = names.parameters, arg("state_names") = names.states,
            arg("line_names") = names.lines, arg("flux_names") = names.fluxes, arg("network_names") = names.networks,
            arg("outflow") = names.outflow, arg("rows") = names.rows, arg("identity") = names.identity);
      }
    return found;
  }

  // Opens a library and takes its tables, of which each symbol names one, for the target beside it. It stays open: a
  // kernel may be in use.
  void load(const std::string& path, const std::vector<std::pair<std::string, std::string>>& symbols) {
    void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (!library) {
      const std::string why = dlerror();
      throw std::runtime_error("the kernels in '" + path + "' cannot be loaded (" + why + "): build them again.");
    }
    std::vector<const Table<Model>*> found;
    for (const auto& [symbol, target] : symbols) {
      const auto table = static_cast<const Table<Model>* const*>(dlsym(library, symbol.c_str()));
      if (!table)
        throw std::runtime_error("'" + path + "' must be a library of " + backend + " kernels; found no " + symbol +
                                 " in it: build it with hybridsolve's own setting.");
      if (!((*table)->stamp == Table<Model>::STAMP))
        throw std::runtime_error("the kernels in '" + path +
                                 "' must be of this build of hybridsolve; found those of another: build them again.");
      if (target != (*table)->target)
        throw std::runtime_error("the kernels in '" + path + "' must be for " + target + "; found those for " +
                                 (*table)->target + ": build them for the former.");
      found.push_back(*table);
    }
    const std::lock_guard<std::mutex> lock(mutex);
    tables.insert(tables.end(), found.begin(), found.end());
  }

 private:
  mutable std::mutex mutex;  // a run may look for its model while another thread loads one
  std::vector<const Table<Model>*> tables;
  const char* backend;
};

}  // namespace hs
