#include "espalier/app/commands.h"

#include <fmt/ranges.h>
#include <hdf5.h>
#include <torch/headeronly/version.h>

#include <cstdio>
#include <filesystem>

#include "espalier/app/help.h"
#include "espalier/app/options.h"
#include "espalier/app/request.h"
#include "espalier/comm/environment.h"
#include "espalier/config/describe.h"
#include "espalier/data/dataset.h"
#include "espalier/device/device.h"
#include "espalier/engine/tables.h"
#include "espalier/model/adapter.h"
#include "espalier/model/cost.h"
#include "espalier/model/unit_window.h"
#include "espalier/record/compare.h"
#include "espalier/record/software.h"
#include "espalier/train/evaluate.h"
#include "espalier/train/llama.h"
#include "espalier/train/weights.h"

namespace espalier {
namespace {

template <class Value>
void print_items(const Registry<Value>& registry) {
  for (const auto& item : registry.items()) {
    std::printf("%-22s %s\n", item.name.c_str(), item.help.c_str());
  }
}

/// Prints the methods of each protocol with their rules, then the rules that can replace these.
void print_methods(const Protocols& protocols) {
  const char* between = "";
  for (const Protocol& protocol : protocols) {
    std::printf("%sprotocol %s: %s\n", between, protocol.name.c_str(), protocol.help.c_str());
    between = "\n";
    const std::vector<Listing> listings = protocol.list();
    for (const Listing& listing : listings) {
      const bool are_methods = &listing == &listings.front();
      std::printf("\n%s\n", listing.title.c_str());
      for (const Listing::Item& item : listing.items) {
        std::printf("%-22s %s\n", item.name.c_str(), item.help.c_str());
        const std::string parts = item.details.substr(0, item.details.find('\n'));
        if (are_methods) std::printf("%-22s   %s\n", "", parts.c_str());
      }
    }
  }
}

void print_tables(const std::vector<const TableSchema*>& tables) {
  const auto type_name = [](ColumnType type) {
    if (type == ColumnType::text) return "text";
    return type == ColumnType::integer ? "integer" : "real";
  };
  for (const TableSchema* table : tables) {
    std::printf("\n%s\n", table->path.c_str());
    for (const Column& column : table->columns) {
      std::printf("%-22s %-8s %-8s %-5s %s\n", column.name.c_str(), type_name(column.type),
                  column.unit.empty() ? "-" : column.unit.c_str(), column.wall ? "wall" : "-",
                  column.description.c_str());
    }
  }
}

/// Per column: name, type, unit, whether it may differ between equal runs (wall), description.
void print_files(const Protocols& protocols) {
  std::printf("every run file\n");
  print_tables(engine_tables());
  for (const Protocol& protocol : protocols) {
    std::printf("\nprotocol %s: %s\n", protocol.name.c_str(), protocol.help.c_str());
    print_tables(protocol.tables);
  }
}

/// Prints one line for each block of the family at its default sizes, on its customary data,
/// batch 1.
void print_blocks(const std::string& name, const DataShape& shape) {
  Config config(all_options({}));
  config.set("model.name", name, "the list of models");
  set_model_defaults(config);
  const Model model = build_model(config, shape);
  const TrainingCost full = training_cost(model, Submodel::full(*model.layout), 1, 0);
  const TrainingCost half = training_cost(model, window_submodel(*model.layout, 0.5, 0), 1, 0);
  std::printf("  for one sample of %s, %lld classes; full width, then half\n",
              formatted("{}", fmt::join(shape.sample, "x")).c_str(),
              static_cast<long long>(shape.classes));
  const auto line = [](const std::string& block, const BlockCost& a, const BlockCost& b) {
    const auto side = [](const BlockCost& c) {
      return formatted("{:>11} {:>13} {:>12} {:>10}", c.parameters, c.forward_flops, c.weight_bytes,
                       c.saved_bytes);
    };
    std::printf("  %-12s %s   %s\n", block.c_str(), side(a).c_str(), side(b).c_str());
  };
  const std::string head =
      formatted("{:>11} {:>13} {:>12} {:>10}", "parameters", "forward FLOP", "weight B", "saved B");
  std::printf("  %-12s %s   %s\n", "block", head.c_str(), head.c_str());
  const auto total = [](const TrainingCost& cost) {
    BlockCost sum;
    for (const BlockCost& block : cost.blocks) {
      sum.parameters += block.parameters;
      sum.forward_flops += block.forward_flops;
      sum.weight_bytes += block.weight_bytes;
      sum.saved_bytes += block.saved_bytes;
    }
    return sum;
  };
  for (std::size_t i = 0; i < full.blocks.size(); ++i) {
    line(model.blocks[i].name, full.blocks[i], half.blocks[i]);
  }
  line("total", total(full), total(half));
}

void print_device(const DeviceClass& d) {
  const std::string memory = d.memory_mb > 0 ? formatted("{:g} MB", d.memory_mb) : "not capped";
  std::string compute = formatted("{:g} GFLOP/s", d.gflops);
  const auto add = [&](double value, const char* part, const char* unit) {
    if (value > 0) compute += formatted(", {} {:g} {}", part, value, unit);
  };
  add(d.gflops_conv, "convolutions", "GFLOP/s");
  add(d.gflops_matmul, "matrix products", "GFLOP/s");
  add(d.gflops_attention, "attention", "GFLOP/s");
  add(d.memory_gbps, "bandwidth", "GB/s");
  add(d.overhead_us, "per block", "us");
  std::printf("%-22s memory %s, %s, down %g Mbit/s, up %g Mbit/s, latency %g ms\n", d.name.c_str(),
              memory.c_str(), compute.c_str(), d.down_mbps, d.up_mbps, d.latency_ms);
}

void print_values(const std::vector<std::pair<std::string, std::string>>& defaults) {
  for (const auto& [key, value] : defaults) std::printf("%s = %s\n", key.c_str(), value.c_str());
}

template <class Value>
void print_own_options(const Value& value) {
  OptionTable own;
  value.declare(own);
  std::fputs(list_options(own).c_str(), stdout);
}

// Each of these functions prints a description of `name`, and returns whether it knows the name.

/// Prints the item's kind, name and help, and returns it; null if the registry lacks `name`.
template <class Value>
const Value* explain_item(const Registry<Value>& registry, const char* kind,
                          const std::string& name) {
  const auto* item = registry.find(name);
  if (item == nullptr) return nullptr;
  std::printf("%s %s: %s\n", kind, name.c_str(), item->help.c_str());
  return &item->value;
}

bool explain_rules(const Protocols& protocols, const std::string& name) {
  bool is_known = false;
  for (const Protocol& protocol : protocols) {
    const std::vector<Listing> listings = protocol.list();
    for (const Listing& listing : listings) {
      for (const Listing::Item& item : listing.items) {
        if (item.name != name) continue;
        std::printf("%s %s: %s\n%s", listing.kind.c_str(), name.c_str(), item.help.c_str(),
                    item.details.c_str());
        is_known = true;
      }
    }
  }
  return is_known;
}

bool explain_model(const std::string& name) {
  const ModelFamily* family = explain_item(model_families(), "model", name);
  if (family == nullptr) return false;
  print_own_options(*family);
  print_values(family->defaults);
  return true;
}

bool explain_dataset(const std::string& name) {
  const DataSource* source = explain_item(data_sources(), "data set", name);
  if (source != nullptr) print_own_options(*source);
  return source != nullptr;
}

bool explain_device(const std::string& name) {
  for (const DeviceClass& device : catalogue_classes(all_options({}))) {
    if (device.name != name) continue;
    print_device(device);
    return true;
  }
  return false;
}

}  // namespace

int list_command(const Protocols& protocols, const std::vector<std::string>& arguments) {
  const std::string kind = arguments.empty() ? "methods" : arguments[0];
  const bool has_more = kind == "models" || kind == "options";
  const bool verbose = arguments.size() == 2 && has_more && arguments[1] == "-v";
  if (arguments.size() > 1 && !verbose) {
    throw InputError("list takes one word, or: espalier list models -v, espalier list options -v");
  }
  if (kind == "methods") {
    print_methods(protocols);
  } else if (kind == "models") {
    for (const auto& item : model_families().items()) {
      std::printf("%-22s %s\n", item.name.c_str(), item.help.c_str());
      if (verbose) print_blocks(item.name, item.value.customary);
    }
  } else if (kind == "datasets") {
    print_items(data_sources());
  } else if (kind == "devices") {
    for (const DeviceClass& device : catalogue_classes(all_options({}))) print_device(device);
  } else if (kind == "options") {
    const OptionTable table = all_options(protocols);
    const std::string text = verbose ? explain_options(table) : list_options(table);
    std::fputs(text.c_str(), stdout);
  } else if (kind == "files") {
    print_files(protocols);
  } else {
    throw InputError("list prints methods, models, datasets, devices, options or files; not '" +
                     kind + "'");
  }
  return 0;
}

int explain_command(const Protocols& protocols, const std::vector<std::string>& arguments) {
  if (arguments.size() != 1)
    throw InputError("explain needs one name: an option, method, rule, model, data set or device");
  const std::string& name = arguments[0];
  // Several things may have the same name: `dynamic` is a merge rule and an objective.
  bool is_known = explain_rules(protocols, name);
  is_known |= explain_model(name);
  is_known |= explain_dataset(name);
  is_known |= explain_device(name);
  if (!is_known) std::fputs(explain_option(all_options(protocols), name).c_str(), stdout);
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
      throw InputError("diff has the flags --values and --all, not '" + word + "'");
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

int export_command(const Protocols& protocols, const std::vector<std::string>& arguments) {
  constexpr std::string_view kType = "--dtype=";
  bool overwrite = false;
  FloatType type = FloatType::float32;
  bool merges = true;
  std::vector<std::string> files;
  for (const std::string& word : arguments) {
    if (word == "--overwrite") {
      overwrite = true;
    } else if (word.starts_with(kType)) {
      const auto given = float_type(word.substr(kType.size()));
      if (!given) throw InputError("--dtype is float32, bfloat16 or float16; not " + word);
      type = *given;
    } else if (word == "--adapters=merge" || word == "--adapters=keep") {
      merges = word == "--adapters=merge";
    } else if (word.starts_with("-")) {
      throw InputError(
          "export has the flags --dtype=TYPE, --adapters=merge, --adapters=keep and --overwrite, "
          "not '" +
          word + "'");
    } else {
      files.push_back(word);
    }
  }
  const std::filesystem::path target = files.size() == 2 ? files[1] : "";
  const bool is_file = target.extension() == ".safetensors";
  // A folder's name may have a dot if the folder exists, or the name ends with a slash.
  const bool is_folder = !target.has_extension() || std::filesystem::is_directory(target);
  if (target.empty()) {
    throw InputError(
        "export needs two files: espalier export CKPT.h5 OUT.safetensors (or a folder, for a model "
        "of Llama's architecture)");
  }
  if (!is_file && !is_folder) {
    throw InputError(formatted(
        "export writes a file whose name ends in .safetensors, or a folder for a model of "
        "Llama's architecture; not {}",
        target.string()));
  }
  if (!is_file && !merges) {
    throw InputError("--adapters=keep needs a file, because Llama's folders have no adapters");
  }
  const std::filesystem::path weights = is_file ? target : target / "model.safetensors";
  if (!overwrite && std::filesystem::exists(weights)) {
    throw InputError(weights.string() + " exists; choose another name or add --overwrite");
  }
  StoredModel stored = read_stored_model(files[0], all_options(protocols));
  refuse_without_statistics(stored, files[0], "export");
  if (merges) merge_adapters(stored.values);
  const std::vector<NamedTensor> tensors =
      is_file ? named_tensors(stored.values, /*with_adapters=*/!merges)
              : llama_tensors(stored.values);
  if (is_file) {
    write_safetensors(target, tensors, type);
  } else {
    write_llama_folder(target, stored, type);
  }
  std::int64_t values = 0;
  for (const NamedTensor& tensor : tensors) values += tensor.count();
  std::printf("%s: %s, %zu tensors, %lld values of %s\n", weights.c_str(),
              stored.model.name.c_str(), tensors.size(), static_cast<long long>(values),
              float_type_name(type));
  return 0;
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

int completion_command(const Protocols& protocols, const std::vector<std::string>& arguments) {
  const std::string shell = arguments.size() == 1 ? arguments[0] : "";
  if (shell != "bash" && shell != "zsh") {
    throw InputError("completion needs a shell: espalier completion bash, or zsh");
  }
  const std::string script =
      shell == "bash" ? bash_completion(protocols) : zsh_completion(protocols);
  std::fputs(script.c_str(), stdout);
  return 0;
}

int man_command(const Protocols& protocols, const std::vector<std::string>& arguments) {
  if (!arguments.empty()) throw InputError("man takes no word: espalier man | man -l -");
  std::fputs(man_page(protocols).c_str(), stdout);
  return 0;
}

}  // namespace espalier
