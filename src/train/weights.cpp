#include "espalier/train/weights.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <ranges>
#include <span>

#include "espalier/base/log.h"
#include "espalier/config/option_text.h"
#include "espalier/record/checkpoint.h"
#include "espalier/train/evaluate.h"
#include "espalier/train/llama.h"

namespace espalier {
namespace {

// The names of other programs for our entries. To add a program, add a prefix of its whole model, a
// dialect, or the suffix of a tensor that is not a weight. A name that the model has is never
// changed.

/// Prefixes of a whole model, each removed as often as it occurs.
constexpr const char* kPrefixes[] = {"module.",      "model.", "_orig_mod.",
                                     "transformer.", "vit.",   "net."};

/// Each is replaced once, in this order.
struct Spelling {
  const char* theirs;
  const char* ours;
};

/// Hugging Face's ViT, in timm's names.
constexpr Spelling kViT[] = {
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

/// Hugging Face's Llama, in GPT-2's names. Read backwards it gives their names for ours, so no
/// spelling of ours may be a part of an earlier one.
constexpr Spelling kLlama[] = {
    {"embed_tokens.", "wte."},
    {"layers.", "h."},
    {".input_layernorm.", ".ln_1."},
    {".post_attention_layernorm.", ".ln_2."},
    {".self_attn.", ".attn."},
    {".attn.o_proj.", ".attn.c_proj."},
    {".mlp.up_proj.", ".mlp.c_fc."},
    {".mlp.down_proj.", ".mlp.c_proj."},
    {"norm.", "ln_f."},
};

/// The customary names of one program, of which one file has all. The first has no spellings: the
/// names as they are.
constexpr std::span<const Spelling> kDialects[] = {{}, kViT, kLlama};

/// One tensor in some programs; three in others, stacked along the first dimension.
constexpr const char* kFused[] = {".attn.qkv.", ".attn.c_attn."};
constexpr const char* kThirds[] = {".attn.q_proj.", ".attn.k_proj.", ".attn.v_proj."};

/// Stored as [in, out] by some programs (Hugging Face's GPT-2) and as [out, in] by others. The
/// shape of a square tensor does not tell which, so the other tensors of the file decide.
constexpr const char* kTransposable[] = {"c_attn.weight", "c_proj.weight", "c_fc.weight"};

/// Tables of positions; a model for shorter texts uses their first rows.
constexpr const char* kLongerTables[] = {"wpe.weight"};

/// An output layer; a model without one uses the embedding's weights.
constexpr const char* kOutput = "lm_head.weight";
constexpr const char* kEmbedding = "wte.weight";

/// Tensors that are not weights of their own: batch norm's counter, causal masks, output weights
/// tied to the embedding.
constexpr const char* kIgnored[] = {"num_batches_tracked", ".attn.bias",
                                    ".attn.masked_bias",   "position_ids",
                                    "rotary_emb.inv_freq", kOutput};

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
    for (const std::span<const Spelling> dialect : kDialects) {
      std::string own = name;
      for (const Spelling& s : dialect) {
        if (std::string other = replaced(own, s.theirs, s.ours); !other.empty()) own = other;
      }
      if (std::vector<Match> matches = find_own(own); !matches.empty()) return matches;
    }
    return {};
  }
  int entry(const std::string& name) const {
    const auto found = entries_.find(name);
    return found == entries_.end() ? -1 : found->second;
  }

 private:
  /// Of a name in our spelling.
  std::vector<Match> find_own(const std::string& name) const {
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

/// A tensor and its place. `transposed`: the file has its two dimensions in the other order.
struct Placement {
  const NamedTensor* tensor = nullptr;
  Match match;
  bool transposed = false;
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
  if (!p.transposed) {
    p.tensor->read(p.match.slice * count, count, to);
    return;
  }
  // A row of the file is a column of the whole; the entry has some of its rows.
  const std::int64_t inputs = p.tensor->shape[0], outputs = p.tensor->shape[1];
  const std::int64_t rows = outputs / p.match.slices;
  std::vector<float> row(static_cast<std::size_t>(rows));
  for (std::int64_t in = 0; in < inputs; ++in) {
    p.tensor->read(in * outputs + p.match.slice * rows, rows, row.data());
    for (std::int64_t out = 0; out < rows; ++out) {
      to[out * inputs + in] = row[static_cast<std::size_t>(out)];
    }
  }
}

/// Whether both have the same bits; `values` has as many as the tensor.
bool equals(const NamedTensor& tensor, const float* values) {
  constexpr std::int64_t kAtOnce = 1 << 16;
  std::vector<float> part(kAtOnce);
  for (std::int64_t first = 0; first < tensor.count(); first += kAtOnce) {
    const std::int64_t count = std::min(kAtOnce, tensor.count() - first);
    tensor.read(first, count, part.data());
    if (std::memcmp(part.data(), values + first, count * sizeof(float)) != 0) return false;
  }
  return true;
}

std::string shape_text(const Shape& shape) { return formatted("[{}]", fmt::join(shape, ", ")); }

/// The source of each entry, and the tensors and entries without a match.
struct Matching {
  std::vector<std::vector<Placement>> sources;  ///< of each entry; empty: the entry is not changed
  std::size_t complete = 0;                     ///< entries with sources
  std::vector<std::string> missing, other_shape, unknown;
  const NamedTensor* output = nullptr;  ///< an output layer that the model has not

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
    if (!matches.empty()) continue;
    if (tensor.name.ends_with(kOutput)) result.output = &tensor;
    if (!ends_with_any(tensor.name, kIgnored)) result.unknown.push_back(tensor.name);
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

/// Refuses a file whose output layer is not its embedding, for a model in which the two are one.
void refuse_other_output(const Matching& matching, const std::string& origin,
                         const Parameters& model) {
  const int embedding = Names(model.buffer_layout().layout()).entry(kEmbedding);
  if (matching.output == nullptr || embedding < 0) return;
  const BufferLayout::Place& place = model.buffer_layout().place(embedding);
  if (matching.sources[static_cast<std::size_t>(embedding)].empty() ||
      (matching.output->shape == place.shape &&
       equals(*matching.output, model.data() + place.offset))) {
    return;
  }
  throw DataError(
      formatted("{} of {} is an output layer of its own, with other values than the embedding, and "
                "the model uses the embedding: set model.tied = false",
                matching.output->name, origin));
}

}  // namespace

std::vector<bool> place_weights(const std::vector<NamedTensor>& tensors, const std::string& origin,
                                bool partial, Parameters& model) {
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
  refuse_other_output(matching, origin, model);
  if (!has_statistics) forget_statistics(model);  // statistics of only some norms have no use
  std::vector<bool> placed;
  for (std::size_t entry = 0; entry < layout.entries.size(); ++entry) {
    const bool forgotten = !has_statistics && layout.entries[entry].kind == Kind::statistic;
    placed.push_back(!matching.sources[entry].empty() || forgotten);
  }
  return placed;
}

std::vector<NamedTensor> named_tensors(const Parameters& model, bool with_adapters) {
  std::vector<NamedTensor> tensors;
  const BufferLayout& buffer_layout = model.buffer_layout();
  for (std::size_t entry = 0; entry < buffer_layout.layout().entries.size(); ++entry) {
    const BufferLayout::Place& place = buffer_layout.place(static_cast<int>(entry));
    if (!place.present) continue;
    if (buffer_layout.layout().entries[entry].adapter && !with_adapters) continue;
    const float* const values = model.data() + place.offset;
    tensors.push_back({buffer_layout.layout().entries[entry].name, place.shape,
                       [values](std::int64_t first, std::int64_t count, float* to) {
                         std::copy_n(values + first, count, to);
                       }});
  }
  return tensors;
}

std::vector<NamedTensor> llama_tensors(const Parameters& model) {
  std::vector<NamedTensor> tensors;
  const auto add = [&](std::string name, NamedTensor tensor) {
    for (const Spelling& s : std::views::reverse(kLlama)) {
      if (std::string other = replaced(name, s.ours, s.theirs); !other.empty()) name = other;
    }
    tensor.name = name == kOutput ? name : "model." + name;
    tensors.push_back(std::move(tensor));
  };
  for (NamedTensor& tensor : named_tensors(model, /*with_adapters=*/false)) {
    const std::string name = tensor.name;
    if (replaced(name, kFused[1], "").empty()) {
      add(name, std::move(tensor));
      continue;
    }
    for (int i = 0; i < 3; ++i) {
      NamedTensor third{"", tensor.shape, nullptr};
      third.shape[0] /= 3;
      third.read = [read = tensor.read, begin = i * third.count()](std::int64_t first,
                                                                   std::int64_t count, float* to) {
        read(begin + first, count, to);
      };
      add(replaced(name, kFused[1], kThirds[i]), std::move(third));
    }
  }
  return tensors;
}

StoredModel read_stored_model(const std::filesystem::path& checkpoint, const OptionTable& options) {
  CheckpointReader reader(checkpoint);
  StoredModel stored{.config = Config(options)};
  Config& config = stored.config;
  config.read_text(reader.config_text(), "the configuration in " + checkpoint.string());
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

void refuse_without_statistics(const StoredModel& stored, const std::filesystem::path& checkpoint,
                               const char* verb) {
  if (!lacks_statistics(stored.values)) return;
  throw OutputError(formatted(
      "{} has no norm statistics: its run was stopped before they were computed; start the run "
      "again, or {} another checkpoint",
      checkpoint.string(), verb));
}

void declare_weight_options(OptionTable& table) {
  table.add(
      {"model.init", OptionType::text, "",
       "initial weights: a .safetensors file, a folder of such files, their index (.json), or a "
       "checkpoint (.h5); empty = drawn by run.seed"});
  table.add(
      {"model.init_partial", OptionType::boolean, "false",
       "load the weights of model.init that fit, if others are missing (such as a new head) or "
       "left over"});
}

namespace {

/// Options on which a model's values depend, but no shape of a tensor.
constexpr const char* kNotInShapes[] = {
    "model.norm",         "model.groups",    "model.heads",       "model.activation",
    "model.norm_epsilon", "model.positions", "model.rotary_base", "model.attention_scale",
    "model.pooling",      "model.patch",     "model.stem",        "model.first_stride",
    "model.pool"};

/// A warning that names the options by which the same weights are another function here than in the
/// checkpoint's run. It is no error, because training may go on with other ones.
void warn_of_other_function(Config here, const std::string& origin, const StoredModel& stored,
                            const Layout& layout) {
  if (here.text("model.name") != stored.model.name) return;
  std::vector<std::string> differences;
  const auto compare = [&](const char* option, const std::string& there, const std::string& now) {
    if (there != now)
      differences.push_back(formatted("{} = {} there, {} here", option, there, now));
  };
  for (const char* option : kNotInShapes) {
    compare(option, option_text(stored.config, option), option_text(here, option));
  }
  const Layout& from = *stored.model.layout;
  if (!from.adapters.empty() && !layout.adapters.empty() &&
      from.adapter_choice.scale != layout.adapter_choice.scale) {
    compare("model.adapter_alpha", option_text(stored.config, "model.adapter_alpha"),
            option_text(here, "model.adapter_alpha"));
  }
  if (differences.empty()) return;
  log_warning(formatted("the weights of {} are another function with the options of this run: {}",
                        origin, fmt::to_string(fmt::join(differences, "; "))));
}

}  // namespace

Parameters first_model(const Config& config, const Experiment& experiment) {
  Parameters model(
      experiment.plans->buffer_layout(Submodel::full(*experiment.model.layout), Packing::aligned));
  const std::filesystem::path path = config.text("model.init");
  const bool partial = config.boolean("model.init_partial");
  std::vector<bool> placed;
  std::error_code ignored;
  if (path.empty()) {
    // Everything is drawn.
  } else if (std::filesystem::exists(path / "checkpoints", ignored)) {
    refuse_folder(path);
  } else if (path.extension() == ".h5") {
    try {
      const StoredModel stored = read_stored_model(path, config.table());
      placed = place_weights(named_tensors(stored.values), path.string(), partial, model);
      warn_of_other_function(config, path.string(), stored, *experiment.model.layout);
    } catch (const OutputError& error) {
      throw DataError(error.what());  // here the checkpoint is an input
    }
  } else if (is_weights_path(path)) {
    refuse_other_llama(config, path, partial);
    placed = place_weights(read_weights(path), path.string(), partial, model);
  } else {
    throw InputError(formatted(
        "model.init = {} {}: give a .safetensors file, a folder of such files, their index "
        "(.json), or a checkpoint (.h5)",
        path.string(),
        std::filesystem::exists(path, ignored) ? "is no file of weights" : "does not exist"));
  }
  initialise(model, experiment.seed, placed);
  return model;
}

}  // namespace espalier
