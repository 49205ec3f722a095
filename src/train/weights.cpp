#include "espalier/train/weights.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <span>

#include "espalier/base/log.h"
#include "espalier/record/checkpoint.h"
#include "espalier/train/evaluate.h"

namespace espalier {
namespace {

// The names of other programs for our entries. To add a program, add a prefix of its whole model, a
// spelling of a part of a name, or the suffix of a tensor that is not a weight. A name that the
// model has is never changed.

/// Prefixes of a whole model, each removed as often as it occurs.
constexpr const char* kPrefixes[] = {"module.",      "model.", "_orig_mod.",
                                     "transformer.", "vit.",   "net."};

/// Each is replaced once, in this order.
struct Spelling {
  const char* theirs;
  const char* ours;
};
constexpr Spelling kSpellings[] = {
    // Hugging Face's ViT, in timm's names.
    {"embeddings.cls_token", "cls_token"},
    {"embeddings.position_embeddings", "pos_embed"},
    {"embeddings.patch_embeddings.projection.", "patch_embed.proj."},
    {"encoder.layer.", "blocks."},
    {".layernorm_before.", ".norm1."},
    {".layernorm_after.", ".norm2."},
    {".attention.attention.query.", ".attn.q_proj."},
    {".attention.attention.key.", ".attn.k_proj."},
    {".attention.attention.value.", ".attn.v_proj."},
    {".attention.output.dense.", ".attn.proj."},
    // From transformers 5 on.
    {"layers.", "blocks."},
    {".attention.q_proj.", ".attn.q_proj."},
    {".attention.k_proj.", ".attn.k_proj."},
    {".attention.v_proj.", ".attn.v_proj."},
    {".attention.o_proj.", ".attn.proj."},
    {".intermediate.dense.", ".mlp.fc1."},
    {".output.dense.", ".mlp.fc2."},
    {"layernorm.", "norm."},
    {"classifier.", "head."},
};

/// One tensor in some programs; three in others, stacked along the first dimension.
constexpr const char* kFused[] = {".attn.qkv.", ".attn.c_attn."};
constexpr const char* kThirds[] = {".attn.q_proj.", ".attn.k_proj.", ".attn.v_proj."};

/// Stored as [in, out] by some programs (Hugging Face's GPT-2) and as [out, in] by others. The
/// shape of a square tensor does not tell which, so the other tensors of the file decide.
constexpr const char* kTransposable[] = {"c_attn.weight", "c_proj.weight", "c_fc.weight"};

/// Tables of positions; a model for shorter texts uses their first rows.
constexpr const char* kLongerTables[] = {"wpe.weight"};

/// Tensors that are not weights of their own: batch norm's counter, causal masks, output weights
/// tied to the embedding.
constexpr const char* kIgnored[] = {"num_batches_tracked", ".attn.bias", ".attn.masked_bias",
                                    "position_ids", "lm_head.weight"};

bool ends_with_any(const std::string& name, std::span<const char* const> suffixes) {
  return std::ranges::any_of(suffixes, [&](const char* s) { return name.ends_with(s); });
}

/// The part of an entry that a tensor holds: slice `slice` of the tensor's `slices` is part `part`
/// of the entry's `parts`.
struct Match {
  int entry = -1;
  int part = 0, parts = 1;
  int slice = 0, slices = 1;
};

std::string replaced(std::string name, std::string_view from, std::string_view to) {
  const auto at = name.find(from);
  return at == std::string::npos ? std::string() : name.replace(at, from.size(), to);
}

class Names {
 public:
  explicit Names(const Layout& layout) {
    for (std::size_t i = 0; i < layout.entries.size(); ++i) {
      entries_.emplace(layout.entries[i].name, static_cast<int>(i));
    }
  }
  /// The entries, or parts of entries, of a tensor; empty if the model has none.
  std::vector<Match> find(std::string name) const {
    if (entry(name) >= 0) return {{entry(name)}};
    for (bool again = true; again;) {
      again = false;
      for (const std::string_view prefix : kPrefixes) {
        if (!name.starts_with(prefix)) continue;
        name.erase(0, prefix.size());
        if (entry(name) >= 0) return {{entry(name)}};
        again = true;
      }
    }
    for (const Spelling& s : kSpellings) {
      if (std::string other = replaced(name, s.theirs, s.ours); !other.empty()) name = other;
    }
    if (entry(name) >= 0) return {{entry(name)}};
    for (const char* fused : kFused) {
      std::vector<Match> thirds;
      for (int i = 0; i < 3; ++i) {
        if (const int whole = entry(replaced(name, kThirds[i], fused)); whole >= 0) {
          return {{whole, i, 3}};
        }
        const int third = entry(replaced(name, fused, kThirds[i]));
        if (third >= 0) thirds.push_back({third, 0, 1, i, 3});
      }
      if (thirds.size() == 3) return thirds;
    }
    return {};
  }

 private:
  int entry(const std::string& name) const {
    const auto found = entries_.find(name);
    return found == entries_.end() ? -1 : found->second;
  }
  std::map<std::string, int> entries_;
};

using Shape = std::vector<std::int64_t>;

Shape without_ones(Shape shape) {
  std::erase(shape, 1);
  return shape;
}

/// The shape that a tensor must have for the match; {0} if the entry cannot be cut into these
/// parts.
Shape needed_shape(const Match& match, Shape entry) {
  if (match.parts == 1 && match.slices == 1) return entry;
  if (entry.empty() || entry[0] % match.parts != 0) return {0};
  entry[0] = entry[0] / match.parts * match.slices;
  return entry;
}

/// Whether `stored` is a table of positions with more rows than `needed`.
bool is_longer_table(const std::string& name, const Shape& stored, const Shape& needed) {
  return ends_with_any(name, kLongerTables) && stored.size() == 2 && needed.size() == 2 &&
         stored[0] > needed[0] && stored[1] == needed[1];
}

/// "a, b, c and 4 more".
std::string list_of(const std::vector<std::string>& names) {
  constexpr std::size_t kShown = 6;
  const std::size_t shown = names.size() <= kShown + 1 ? names.size() : kShown;
  std::string text = formatted("{}", fmt::join(names.begin(), names.begin() + shown, ", "));
  if (shown < names.size()) text += formatted(" and {} more", names.size() - shown);
  return text;
}

std::vector<float> transpose(const std::vector<float>& values, std::int64_t rows,
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

/// A tensor and its place. `transposed`: the file has its two dimensions in the other order.
/// `direct`: the place gets all of its values in their order.
struct Placement {
  const NamedTensor* tensor = nullptr;
  Match match;
  bool transposed = false;
  bool direct = true;
};

bool is_transposable(const NamedTensor& tensor) {
  return tensor.shape.size() == 2 && ends_with_any(tensor.name, kTransposable);
}

bool is_transposed_file(const std::vector<Placement>& placements,
                        const BufferLayout& buffer_layout) {
  return std::ranges::any_of(placements, [&](const Placement& p) {
    if (!is_transposable(*p.tensor)) return false;
    const Shape& stored = p.tensor->shape;
    const Shape needed = needed_shape(p.match, buffer_layout.place(p.match.entry).shape);
    return needed.size() == 2 && needed[0] != needed[1] && stored[0] == needed[1] &&
           stored[1] == needed[0];
  });
}

void copy(const Placement& p, const BufferLayout::Place& place, float* model) {
  const std::int64_t count = place.count / p.match.parts;
  float* const to = model + place.offset + p.match.part * count;
  if (p.direct) {
    p.tensor->read(to);
    return;
  }
  std::vector<float> values(static_cast<std::size_t>(p.tensor->count()));
  p.tensor->read(values.data());
  if (p.transposed) values = transpose(values, p.tensor->shape[0], p.tensor->shape[1]);
  std::copy_n(values.data() + p.match.slice * count, count, to);
}

std::string shape_text(const Shape& shape) { return formatted("[{}]", fmt::join(shape, ", ")); }

/// The source of each entry, and the tensors and entries without a match.
struct Matching {
  std::vector<std::vector<Placement>> sources;  ///< of each entry; empty: the entry is not changed
  std::size_t complete = 0;                     ///< entries with sources
  std::vector<std::string> missing, other_shape, unknown;

  /// "it lacks a; it has b [2] instead of [3]; the model has no c"; empty if all fit.
  std::string problems() const {
    std::vector<std::string> texts;
    if (!missing.empty()) texts.push_back("it lacks " + list_of(missing));
    if (!other_shape.empty()) texts.push_back("it has " + list_of(other_shape));
    if (!unknown.empty()) texts.push_back("the model has no " + list_of(unknown));
    return formatted("{}", fmt::join(texts, "; "));
  }
};

Matching match_all(const std::vector<NamedTensor>& tensors, const std::string& origin,
                   const BufferLayout& buffer_layout) {
  const Names names(buffer_layout.layout());
  Matching result;
  std::vector<Placement> placements;
  for (const NamedTensor& tensor : tensors) {
    const std::vector<Match> matches = names.find(tensor.name);
    for (const Match& match : matches) placements.push_back({&tensor, match});
    if (matches.empty() && !ends_with_any(tensor.name, kIgnored)) {
      result.unknown.push_back(tensor.name);
    }
  }
  const std::size_t entries = buffer_layout.layout().entries.size();
  result.sources.resize(entries);
  std::vector<bool> misfit(entries, false);
  const bool transposed = is_transposed_file(placements, buffer_layout);
  for (Placement& p : placements) {
    const auto entry = static_cast<std::size_t>(p.match.entry);
    Shape stored = p.tensor->shape;
    p.transposed = transposed && is_transposable(*p.tensor);
    if (p.transposed) std::swap(stored[0], stored[1]);
    const Shape needed = needed_shape(p.match, buffer_layout.place(p.match.entry).shape);
    const bool longer = is_longer_table(p.tensor->name, stored, needed);
    p.direct = !p.transposed && !longer && p.match.slices == 1;
    if (!longer && without_ones(stored) != without_ones(needed)) {
      result.other_shape.push_back(formatted("{} {} instead of {}", p.tensor->name,
                                             shape_text(p.tensor->shape), shape_text(needed)));
      misfit[entry] = true;
      continue;
    }
    for (const Placement& other : result.sources[entry]) {
      if (other.match.part == p.match.part || other.match.parts != p.match.parts) {
        throw DataError(formatted("{} has both {} and {}, which are the same weights", origin,
                                  other.tensor->name, p.tensor->name));
      }
    }
    result.sources[entry].push_back(p);
  }
  for (std::size_t entry = 0; entry < entries; ++entry) {
    auto& own = result.sources[entry];
    if (!own.empty() && static_cast<int>(own.size()) == own.front().match.parts) {
      ++result.complete;
      continue;
    }
    own.clear();
    const Entry& wanted = buffer_layout.layout().entries[entry];
    // Missing statistics are no error: they are computed before they are needed.
    if (misfit[entry] || wanted.kind == Kind::statistic || wanted.adapter) continue;
    result.missing.push_back(wanted.name);
  }
  return result;
}

}  // namespace

void place_weights(const std::vector<NamedTensor>& tensors, const std::string& origin, bool partial,
                   Parameters& model) {
  const BufferLayout& buffer_layout = model.buffer_layout();
  const Layout& layout = buffer_layout.layout();
  const Matching matching = match_all(tensors, origin, buffer_layout);
  if (const std::string problems = matching.problems(); !problems.empty()) {
    const std::string what = formatted("{} does not fit the model: {}", origin, problems);
    if (matching.complete == 0) throw DataError(what + "; no tensor in it fits");
    if (!partial) throw DataError(what + "; model.init_partial = true loads the rest");
    log_warning(what + "; the rest is loaded");
  }
  bool has_statistics = true;
  for (int block = 0; block < static_cast<int>(layout.blocks.size()); ++block) {
    for (std::size_t entry = 0; entry < layout.entries.size(); ++entry) {
      const std::vector<Placement>& sources = matching.sources[entry];
      if (layout.entries[entry].kind == Kind::statistic && sources.empty()) has_statistics = false;
      if (layout.entries[entry].block != block || sources.empty()) continue;
      const BufferLayout::Place& place = buffer_layout.place(static_cast<int>(entry));
      for (const Placement& source : sources) copy(source, place, model.data());
      const float* const values = model.data() + place.offset;
      if (!std::all_of(values, values + place.count, [](float v) { return std::isfinite(v); })) {
        throw DataError(formatted("{} of {} has a value that is not finite",
                                  sources.front().tensor->name, origin));
      }
    }
  }
  if (!has_statistics) forget_statistics(model);  // statistics of only some norms have no use
}

std::vector<NamedTensor> named_tensors(const Parameters& model) {
  std::vector<NamedTensor> tensors;
  const BufferLayout& buffer_layout = model.buffer_layout();
  for (std::size_t entry = 0; entry < buffer_layout.layout().entries.size(); ++entry) {
    const BufferLayout::Place& place = buffer_layout.place(static_cast<int>(entry));
    if (!place.present) continue;
    const float* const values = model.data() + place.offset;
    tensors.push_back(
        {buffer_layout.layout().entries[entry].name, place.shape,
         [values, count = place.count](float* to) { std::copy(values, values + count, to); }});
  }
  return tensors;
}

StoredModel read_stored_model(const std::filesystem::path& checkpoint, const OptionTable& options) {
  CheckpointReader reader(checkpoint);
  Config config(options);
  config.read_text(reader.config_text(), "the configuration in " + checkpoint.string());
  StoredModel stored;
  stored.data.name = config.text("data.name");
  if (reader.holds("data")) {
    reader.read([&](Archive& archive) {
      archive.open("data");
      archive_format(archive, stored.data);
      archive.close();
    });
    // The group does not hold this number, which follows from the configuration.
    DataShape& shape = stored.data.shape;
    if (shape.vocabulary > 0) shape.masked = masked_tokens(config, shape.sample[0]);
  } else {
    stored.data.shape =
        masked_shape(config, data_sources().get(stored.data.name).value.shape(config));
  }
  stored.model = build_model(config, stored.data.shape);
  const Layout& layout = *stored.model.layout;
  stored.values = Parameters(std::make_shared<const BufferLayout>(
      stored.model.layout, Submodel::full(layout), Packing::aligned));
  reader.read([&](Archive& archive) {
    archive.open("model");
    for (std::size_t entry = 0; entry < layout.entries.size(); ++entry) {
      const BufferLayout::Place& place =
          stored.values.buffer_layout().place(static_cast<int>(entry));
      archive.value(layout.entries[entry].name.c_str(),
                    std::span<float>(stored.values.data() + place.offset,
                                     static_cast<std::size_t>(place.count)));
    }
    archive.close();
  });
  return stored;
}

void declare_weight_options(OptionTable& table) {
  table.add(
      {"model.init", OptionType::text, "",
       "initial weights: a .safetensors file or a checkpoint (.h5); empty = drawn by run.seed"});
  table.add(
      {"model.init_partial", OptionType::boolean, "false",
       "load the weights of model.init that fit, if others are missing (such as a new head) or "
       "left over"});
}

Parameters first_model(const Config& config, const Experiment& experiment) {
  Parameters model(
      experiment.plans->buffer_layout(Submodel::full(*experiment.model.layout), Packing::aligned));
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
      throw DataError(error.what());  // here the checkpoint is an input
    }
  } else {
    throw InputError(
        formatted("model.init = {} is neither a .safetensors file nor a checkpoint "
                  "(.h5)",
                  path.string()));
  }
  return model;
}

}  // namespace espalier
