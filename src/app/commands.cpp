#include "espalier/app/commands.h"

#include <hdf5.h>
#include <torch/headeronly/version.h>

#include <cstdio>

#include "espalier/app/options.h"
#include "espalier/app/request.h"
#include "espalier/comm/environment.h"
#include "espalier/config/describe.h"
#include "espalier/data/dataset.h"
#include "espalier/device/device.h"
#include "espalier/method/register.h"
#include "espalier/record/compare.h"
#include "espalier/record/software.h"

namespace espalier {
namespace {

template <class Value>
void print_items(const Registry<Value>& registry) {
  for (const auto& item : registry.items()) {
    std::printf("%-22s %s\n", item.name.c_str(), item.help.c_str());
  }
}

void print_rules() {
  const Catalogue& all = catalogue();
  print_items(all.methods);
  std::printf("\nsubmodel rules (method.submodel)\n");
  print_items(all.submodels);
  std::printf("\nwindows (method.window)\n");
  print_items(all.windows);
  std::printf("\nmerge rules (method.merge)\n");
  print_items(all.merges);
  std::printf("\nobjectives (method.objective)\n");
  print_items(all.objectives);
}

void print_device(const DeviceClass& d) {
  const std::string memory = d.memory_mb > 0 ? fmt::format("{:g} MB", d.memory_mb) : "not capped";
  std::printf("%-22s memory %s, %g GFLOP/s, down %g Mbit/s, up %g Mbit/s, latency %g ms\n",
              d.name.c_str(), memory.c_str(), d.gflops, d.down_mbps, d.up_mbps, d.latency_ms);
}

}  // namespace

int list_command(const std::vector<std::string>& arguments) {
  const std::string what = arguments.empty() ? "methods" : arguments[0];
  if (what == "methods") {
    print_rules();
  } else if (what == "models") {
    print_items(model_families());
  } else if (what == "datasets") {
    print_items(data_sources());
  } else if (what == "devices") {
    for (const DeviceClass& device : device_classes(Config(all_options()))) print_device(device);
  } else if (what == "options") {
    std::fputs(list_options(all_options()).c_str(), stdout);
  } else {
    throw InputError("list knows methods, models, datasets, devices, options; not '" + what + "'");
  }
  return 0;
}

int explain_command(const std::vector<std::string>& arguments) {
  if (arguments.size() != 1)
    throw InputError("explain needs one name: an option, method, model or device");
  const std::string& name = arguments[0];
  if (const auto* method = catalogue().methods.find(name)) {
    const Method& m = method->value;
    std::printf("method %s: %s\nsubmodel %s, window %s, merge %s, objective %s\n", name.c_str(),
                method->help.c_str(), m.submodel.c_str(), m.window.c_str(), m.merge.c_str(),
                m.objective.c_str());
    for (const auto& [key, value] : m.defaults)
      std::printf("%s = %s\n", key.c_str(), value.c_str());
    return 0;
  }
  if (const auto* family = model_families().find(name)) {
    std::printf("model %s: %s\n", name.c_str(), family->help.c_str());
    OptionTable own;
    family->value.declare(own);
    std::fputs(list_options(own).c_str(), stdout);
    for (const auto& [key, value] : family->value.defaults)
      std::printf("%s = %s\n", key.c_str(), value.c_str());
    return 0;
  }
  for (const DeviceClass& device : device_classes(Config(all_options()))) {
    if (device.name == name) {
      print_device(device);
      return 0;
    }
  }
  std::fputs(explain_option(all_options(), name).c_str(), stdout);
  return 0;
}

int info_command(const std::vector<std::string>& arguments) {
  if (arguments.size() != 1) throw InputError("info needs one file: espalier info FILE.h5");
  std::fputs(describe_file(arguments[0]).c_str(), stdout);
  return 0;
}

int diff_command(const std::vector<std::string>& arguments) {
  DiffScope scope = DiffScope::normal;
  std::vector<std::string> files;
  for (const std::string& word : arguments) {
    if (word == "--values") {
      scope = DiffScope::values;
    } else if (word == "--all") {
      scope = DiffScope::all;
    } else if (word.starts_with("-")) {
      throw InputError("diff knows --values and --all, not '" + word + "'");
    } else {
      files.push_back(word);
    }
  }
  if (files.size() != 2) throw InputError("diff needs two files: espalier diff A.h5 B.h5");
  const auto difference = first_difference(files[0], files[1], scope);
  if (!difference) return 0;
  std::printf("%s\n", difference->c_str());
  return 1;
}

int version_command() {
  unsigned major = 0, minor = 0, release = 0;
  H5get_libversion(&major, &minor, &release);
  std::printf("espalier %s (%s, %s)\n", software_version().c_str(), software_git_sha().c_str(),
              ESPALIER_BUILD_TYPE);
  std::printf("LibTorch %s\nHDF5 %u.%u.%u\n%s, thread level funneled\nGPU support: none\n",
              TORCH_VERSION, major, minor, release, MpiEnvironment::library_version().c_str());
  return 0;
}

std::string usage() {
  std::string text =
      "Espalier: train large models together on many weak machines.\n\n"
      "espalier run INPUT.ini [FLAG ...] [--section.key=value ...]\n"
      "espalier list [methods|models|datasets|devices|options]\n"
      "espalier explain NAME            an option, a method, a model, a device\n"
      "espalier info FILE.h5            what is in a run or checkpoint file\n"
      "espalier diff [--values | --all] A.h5 B.h5\n"
      "espalier --version\n\n";
  text += describe_flags();
  return text;
}

}  // namespace espalier
