#include "espalier/train/weights.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <set>

#include "espalier/base/log.h"
#include "espalier/record/checkpoint.h"

namespace espalier {
namespace {

// How other programs name what is ours. To add a program: a prefix that wraps its whole model, a
// spelling of a piece of the name, or a suffix of what is no weight. A name that the model has as
// it stands is never changed.

/// Wrappers around a whole model, taken off as often as they come.
constexpr const char* kPrefixes[] = {"module.",      "model.", "_orig_mod.",
                                     "transformer.", "vit.",   "net."};

/// Replaced once each, in this order. Several tensors may be parts of one entry, which are stacked
/// along its first dimension.
struct Spelling {
  const char* theirs;
  const char* ours;
  int part = 0;
  int parts = 1;
};
constexpr Spelling kSpellings[] = {
    // Hugging Face's ViT, in timm's names.
    {"embeddings.cls_token", "cls_token"},
    {"embeddings.position_embeddings", "pos_embed"},
    {"embeddings.patch_embeddings.projection.", "patch_embed.proj."},
    {"encoder.layer.", "blocks."},
    {".layernorm_before.", ".norm1."},
    {".layernorm_after.", ".norm2."},
    {".attention.attention.query.", ".attn.qkv.", 0, 3},
    {".attention.attention.key.", ".attn.qkv.", 1, 3},
    {".attention.attention.value.", ".attn.qkv.", 2, 3},
    {".attention.output.dense.", ".attn.proj."},
    {".intermediate.dense.", ".mlp.fc1."},
    {".output.dense.", ".mlp.fc2."},
    {"layernorm.", "norm."},
    {"classifier.", "head."},
};

/// Stored as [in, out] by some programs (Hugging Face's GPT-2) and as [out, in] by others. Some are
/// square, so the shapes of the others decide for a file.
constexpr const char* kTransposable[] = {"c_attn.weight", "c_proj.weight", "c_fc.weight"};

/// No weights of their own: batch norm's counter, causal masks, output weights tied to the
/// embedding.
constexpr const char* kPassedOver[] = {"num_batches_tracked", ".attn.bias", ".attn.masked_bias",
                                       "position_ids", "lm_head.weight"};

bool ends_with_any(const std::string& name, std::span<const char* const> suffixes) {
  return std::ranges::any_of(suffixes, [&](const char* s) { return name.ends_with(s); });
}

/// Where a tensor belongs.
struct Match {
  int entry = -1;
  int part = 0;
  int parts = 1;
};

class Names {
 public:
  explicit Names(const Layout& layout) {
    for (std::size_t i = 0; i < layout.entries.size(); ++i) {
      entries_.emplace(layout.entries[i].name, static_cast<int>(i));
    }
  }
  /// entry -1 where the model has nothing of the kind.
  Match find(std::string name) const {
    Match match;
    if (has(name, match)) return match;
    for (bool again = true; again;) {
      again = false;
      for (const std::string prefix : kPrefixes) {
        if (!name.starts_with(prefix)) continue;
        name.erase(0, prefix.size());
        if (has(name, match)) return match;
        again = true;
      }
    }
    for (const Spelling& s : kSpellings) {
      const auto at = name.find(s.theirs);
      if (at == std::string::npos) continue;
      name.replace(at, std::string_view(s.theirs).size(), s.ours);
      if (s.parts > 1) {
        match.part = s.part;
        match.parts = s.parts;
      }
    }
    has(name, match);
    return match;
  }

 private:
  bool has(const std::string& name, Match& match) const {
    const auto found = entries_.find(name);
    if (found == entries_.end()) return false;
    match.entry = found->second;
    return true;
  }
  std::map<std::string, int> entries_;
};

using Shape = std::vector<std::int64_t>;

Shape without_ones(Shape shape) {
  std::erase(shape, 1);
  return shape;
}

/// The shape of one of `parts` equal parts along the first dimension, {0} where it has none.
Shape part_shape(Shape shape, int parts) {
  if (parts == 1) return shape;
  if (shape.empty() || shape[0] % parts != 0) return {0};
  shape[0] /= parts;
  return shape;
}

/// "a, b, c and 4 more".
std::string list_of(const std::vector<std::string>& names) {
  constexpr std::size_t kShown = 6;
  const std::size_t shown = names.size() <= kShown + 1 ? names.size() : kShown;
  std::string text = fmt::format("{}", fmt::join(names.begin(), names.begin() + shown, ", "));
  if (shown < names.size()) text += fmt::format(" and {} more", names.size() - shown);
  return text;
}

std::vector<float> transposed(const std::vector<float>& values, std::int64_t rows,
                              std::int64_t columns) {
  std::vector<float> result(values.size());
  for (std::int64_t r = 0; r < rows; ++r) {
    for (std::int64_t c = 0; c < columns; ++c) {
      result[static_cast<std::size_t>(c * rows + r)] =
          values[static_cast<std::size_t>(r * columns + c)];
    }
  }
  return result;
}

/// A tensor with its place; `turned`: stored with its two dimensions the other way round.
struct Placement {
  const NamedTensor* tensor = nullptr;
  Match match;
  bool turned = false;
};

bool transposable(const NamedTensor& tensor) {
  return tensor.shape.size() == 2 && ends_with_any(tensor.name, kTransposable);
}

bool turned_file(const std::vector<Placement>& placements, const Geometry& geometry) {
  return std::ranges::any_of(placements, [&](const Placement& p) {
    if (!transposable(*p.tensor) || p.match.parts > 1) return false;
    const Shape& stored = p.tensor->shape;
    const Shape& own = geometry.place(p.match.entry).shape;
    return own.size() == 2 && own[0] != own[1] && stored[0] == own[1] && stored[1] == own[0];
  });
}

void copy(const Placement& p, const Geometry::Place& place, float* model) {
  const std::int64_t count = place.count / p.match.parts;
  float* const to = model + place.offset + p.match.part * count;
  if (p.turned) {
    std::vector<float> values(static_cast<std::size_t>(count));
    p.tensor->read(values.data());
    values = transposed(values, p.tensor->shape[0], p.tensor->shape[1]);
    std::copy(values.begin(), values.end(), to);
  } else {
    p.tensor->read(to);
  }
}

std::string shape_text(const Shape& shape) { return fmt::format("[{}]", fmt::join(shape, ", ")); }

}  // namespace

void place_weights(const std::vector<NamedTensor>& tensors, const std::string& origin, bool partial,
                   Parameters& model) {
  const Geometry& geometry = model.geometry();
  const Layout& layout = geometry.layout();
  const Names names(layout);
  std::vector<Placement> placements;
  std::vector<std::string> unknown, other_shape, missing;
  std::set<int> misfits;  // entries
  for (const NamedTensor& tensor : tensors) {
    const Match match = names.find(tensor.name);
    if (match.entry >= 0) {
      placements.push_back({&tensor, match});
    } else if (!ends_with_any(tensor.name, kPassedOver)) {
      unknown.push_back(tensor.name);
    }
  }
  const bool turned = turned_file(placements, geometry);
  std::erase_if(placements, [&](Placement& p) {
    Shape stored = p.tensor->shape;
    p.turned = turned && transposable(*p.tensor);
    if (p.turned) std::swap(stored[0], stored[1]);
    const Shape needed = part_shape(geometry.place(p.match.entry).shape, p.match.parts);
    if (without_ones(stored) == without_ones(needed)) return false;
    other_shape.push_back(fmt::format("{} {} where {} is needed", p.tensor->name,
                                      shape_text(p.tensor->shape), shape_text(needed)));
    misfits.insert(p.match.entry);
    return true;
  });

  std::vector<std::vector<const Placement*>> sources(layout.entries.size());
  for (const Placement& p : placements) {
    auto& others = sources[static_cast<std::size_t>(p.match.entry)];
    for (const Placement* other : others) {
      if (other->match.part == p.match.part || other->match.parts != p.match.parts) {
        throw DataError(fmt::format("{} holds both {} and {}, which are the same weights", origin,
                                    other->tensor->name, p.tensor->name));
      }
    }
    others.push_back(&p);
  }
  std::size_t complete = 0;
  for (std::size_t entry = 0; entry < sources.size(); ++entry) {
    auto& own = sources[entry];
    if (!own.empty() && static_cast<int>(own.size()) == own.front()->match.parts) {
      ++complete;
    } else {
      if (!misfits.contains(static_cast<int>(entry))) {
        missing.push_back(layout.entries[entry].name);
      }
      own.clear();
    }
  }

  std::vector<std::string> faults;
  if (!missing.empty()) faults.push_back("it lacks " + list_of(missing));
  if (!other_shape.empty()) faults.push_back("it has " + list_of(other_shape));
  if (!unknown.empty()) faults.push_back("the model has no " + list_of(unknown));
  if (!faults.empty()) {
    const std::string what =
        fmt::format("{} does not fit the model: {}", origin, fmt::join(faults, "; "));
    if (!partial || complete == 0) {
      throw DataError(what + (complete == 0 ? "; nothing in it fits"
                                            : "; model.init_partial = true would load the rest"));
    }
    log_warning(what + "; the rest is loaded");
  }
  for (int block = 0; block < static_cast<int>(layout.blocks.size()); ++block) {
    for (std::size_t entry = 0; entry < sources.size(); ++entry) {
      if (layout.entries[entry].block != block || sources[entry].empty()) continue;
      const Geometry::Place& place = geometry.place(static_cast<int>(entry));
      for (const Placement* source : sources[entry]) copy(*source, place, model.data());
      const float* const values = model.data() + place.offset;
      if (!std::all_of(values, values + place.count, [](float v) { return std::isfinite(v); })) {
        throw DataError(fmt::format("{} of {} holds a value that is not finite",
                                    sources[entry].front()->tensor->name, origin));
      }
    }
  }
}

std::vector<NamedTensor> named_tensors(const Parameters& model) {
  std::vector<NamedTensor> tensors;
  const Geometry& geometry = model.geometry();
  for (std::size_t entry = 0; entry < geometry.layout().entries.size(); ++entry) {
    const Geometry::Place& place = geometry.place(static_cast<int>(entry));
    if (!place.present) continue;
    const float* const values = model.data() + place.offset;
    tensors.push_back(
        {geometry.layout().entries[entry].name, place.shape,
         [values, count = place.count](float* to) { std::copy(values, values + count, to); }});
  }
  return tensors;
}

StoredModel read_stored_model(const std::filesystem::path& checkpoint, const OptionTable& options) {
  CheckpointReader reader(checkpoint);
  Config config(options);
  config.read_text(reader.config_text(), "the configuration in " + checkpoint.string());
  StoredModel stored;
  const DataSource& source = data_sources().get(config.text("data.name")).value;
  stored.model = build_model(config, source.shape(config));
  const Layout& layout = *stored.model.layout;
  stored.values = Parameters(std::make_shared<const Geometry>(
      stored.model.layout, Submodel::full(layout), Packing::aligned));
  reader.read([&](Archive& archive) {
    archive.open("model");
    for (std::size_t entry = 0; entry < layout.entries.size(); ++entry) {
      const Geometry::Place& place = stored.values.geometry().place(static_cast<int>(entry));
      archive.value(layout.entries[entry].name.c_str(),
                    std::span<float>(stored.values.data() + place.offset,
                                     static_cast<std::size_t>(place.count)));
    }
    archive.close();
  });
  return stored;
}

void declare_weight_options(OptionTable& table) {
  table.add({"model.init", OptionType::text, "",
             "weights to start from: a .safetensors file or a checkpoint (.h5); empty = drawn by "
             "run.seed"});
  table.add({"model.init_partial", OptionType::boolean, "false",
             "model.init may lack weights, such as those of a new head, or hold others; what fits "
             "is loaded"});
}

Parameters first_model(const Config& config, const Experiment& experiment) {
  Parameters model(
      experiment.plans->geometry(Submodel::full(*experiment.model.layout), Packing::aligned));
  initialise(model, experiment.seed);
  const std::filesystem::path path = config.text("model.init");
  if (path.empty()) return model;
  const bool partial = config.boolean("model.init_partial");
  if (path.extension() == ".safetensors") {
    place_weights(read_safetensors(path), path.string(), partial, model);
  } else if (path.extension() == ".h5") {
    try {
      const StoredModel stored = read_stored_model(path, config.table());
      place_weights(named_tensors(stored.values), path.string(), partial, model);
    } catch (const OutputError& error) {
      throw DataError(error.what());  // it is input here
    }
  } else {
    throw InputError(
        fmt::format("model.init = {} is neither a .safetensors file nor a checkpoint "
                    "(.h5)",
                    path.string()));
  }
  return model;
}

}  // namespace espalier
