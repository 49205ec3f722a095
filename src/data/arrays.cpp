// The user's own arrays `x`, `y`, and optionally `client` and `split`, in an HDF5 file or as npy
// files. Samples stay in the mapped files; labels are copied, as small numbers.

#include "arrays.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "espalier/base/error.h"
#include "espalier/base/log.h"
#include "espalier/base/random.h"
#include "espalier/config/lists.h"
#include "files.h"
#include "splits.h"

namespace espalier {
namespace {

const Purpose kSplit = register_purpose("data.split");

namespace fs = std::filesystem;

/// A value v of channel c becomes v scale[c] + shift[c].
struct Affine {
  std::vector<double> scale;
  std::vector<double> shift;
};

/// The common part of the training and the test split.
struct Samples {
  std::vector<std::int64_t> shape;  ///< of one sample; the first extent counts channels
  Array x;
  std::vector<std::int32_t> labels;  ///< empty for next-token data
  Array y;                           ///< for next-token data
  Affine affine;                     ///< unless x are tokens
};

class ArraySplit final : public Split {
 public:
  ArraySplit(std::shared_ptr<const Samples> samples, std::vector<std::uint32_t> rows)
      : samples_(std::move(samples)), rows_(std::move(rows)) {}

  std::int64_t size() const override { return static_cast<std::int64_t>(rows_.size()); }
  std::int64_t label(std::int64_t index) const override {
    return samples_->labels.empty() ? 0 : samples_->labels[row(index)];
  }
  at::Tensor labels(std::span<const std::int64_t> indices) const override {
    return samples_->labels.empty() ? tokens(samples_->y, indices) : Split::labels(indices);
  }
  at::Tensor inputs(std::span<const std::int64_t> indices, Stream*) const override {
    const Array& x = samples_->x;
    const Affine& affine = samples_->affine;
    if (affine.scale.empty()) return tokens(x, indices);
    std::vector<std::int64_t> extents{static_cast<std::int64_t>(indices.size())};
    extents.insert(extents.end(), samples_->shape.begin(), samples_->shape.end());
    at::Tensor batch = at::empty(extents, at::kFloat);
    float* out = batch.data_ptr<float>();
    const std::int64_t plane = x.per_row() / static_cast<std::int64_t>(affine.scale.size());
    visit(x, [&](const auto& value) {
      for (const std::int64_t index : indices) {
        std::int64_t next = static_cast<std::int64_t>(row(index)) * x.per_row();
        for (std::size_t channel = 0; channel < affine.scale.size(); ++channel) {
          const double scale = affine.scale[channel];
          const double shift = affine.shift[channel];
          for (const std::int64_t end = next + plane; next < end; ++next) {
            *out++ = static_cast<float>(static_cast<double>(value(next)) * scale + shift);
          }
        }
      }
    });
    return batch;
  }

 private:
  std::size_t row(std::int64_t index) const {
    ESPALIER_CHECK(index >= 0 && index < size(), "sample {} of {}", index, size());
    return rows_[static_cast<std::size_t>(index)];
  }
  at::Tensor tokens(const Array& array, std::span<const std::int64_t> indices) const {
    const std::int64_t length = array.per_row();
    at::Tensor batch = at::empty({static_cast<std::int64_t>(indices.size()), length}, at::kLong);
    std::int64_t* out = batch.data_ptr<std::int64_t>();
    visit(array, [&](const auto& value) {
      for (const std::int64_t index : indices) {
        const std::int64_t first = static_cast<std::int64_t>(row(index)) * length;
        for (std::int64_t i = 0; i < length; ++i) {
          const auto token = static_cast<double>(value(first + i));  // exact: far below 2^53
          *out++ = static_cast<std::int64_t>(token);
        }
      }
    });
    return batch;
  }

  std::shared_ptr<const Samples> samples_;
  std::vector<std::uint32_t> rows_;
};

/// The end of a refusal of a number below 0, and of one that is too large.
struct RangeAdvice {
  std::string below;
  std::string above;
};

/// DataError for the first number outside [0, bound).
void check_range(const Array& array, std::int64_t bound, const std::string& what,
                 const RangeAdvice& advice) {
  if (!array.is_integer()) {
    throw DataError(formatted("{} holds {}; {} must be integers", array.name,
                              element_name(array.element), what));
  }
  visit(array, [&](const auto& value) {
    for (std::int64_t i = 0; i < array.rows() * array.per_row(); ++i) {
      const auto number = static_cast<double>(value(i));  // exact if it is near the bound
      if (number >= 0 && number < static_cast<double>(bound)) continue;
      throw DataError(formatted("{}: row {} (from 0) has {}; {} must be from 0 to {}{}", array.name,
                                i / array.per_row(), number, what, bound - 1,
                                number < 0 ? advice.below : advice.above));
    }
  });
}

std::vector<std::int32_t> small_numbers(const Array& array, const std::string& what,
                                        std::int64_t bound, const std::string& advice = "") {
  if (array.per_row() != 1) {
    throw DataError(
        formatted("{} has {} numbers a row instead of one", array.name, array.per_row()));
  }
  check_range(array, bound, what, {advice, advice});
  std::vector<std::int32_t> numbers;
  numbers.reserve(static_cast<std::size_t>(array.rows()));
  visit(array, [&](const auto& value) {
    for (std::int64_t i = 0; i < array.rows(); ++i) {
      numbers.push_back(static_cast<std::int32_t>(value(i)));
    }
  });
  return numbers;
}

/// Labels, and their number of classes: data.classes, or the largest label + 1.
std::int64_t take_labels(const Array& y, std::int64_t declared, std::vector<std::int32_t>& labels) {
  constexpr std::int64_t kMost = 1'000'000;
  labels = small_numbers(y, "classes", declared > 0 ? declared : kMost,
                         declared > 0 ? " (data.classes)" : "");
  if (declared > 0) return declared;
  std::vector<bool> used(static_cast<std::size_t>(*std::max_element(labels.begin(), labels.end())) +
                         1);
  for (const std::int32_t label : labels) used[static_cast<std::size_t>(label)] = true;
  for (std::size_t c = 0; c < used.size(); ++c) {
    if (used[c]) continue;
    throw DataError(formatted(
        "{}: class {} has no sample, though {} has: number the classes from 0 without gaps, or set "
        "data.classes",
        y.name, c, used.size() - 1));
  }
  if (used.size() < 2) {
    throw DataError(formatted("{}: every label is 0; at least two classes are needed", y.name));
  }
  return static_cast<std::int64_t>(used.size());
}

void check_finite(const Array& x) {
  if (x.is_integer()) return;
  visit(x, [&](const auto& value) {
    for (std::int64_t i = 0; i < x.rows() * x.per_row(); ++i) {
      // As a float: a double may be too large for one.
      if (std::isfinite(static_cast<float>(value(i)))) continue;
      throw DataError(formatted("{}: row {} (from 0) has {}, which is not a finite float", x.name,
                                i / x.per_row(), static_cast<double>(value(i))));
    }
  });
}

/// The shape that a model gets for numbers whose samples have the extents `shape` in the file: grey
/// images get their channel. If the model takes signals, one row is a signal of one channel, and
/// several are the channels of one.
std::vector<std::int64_t> shape_of_numbers(std::vector<std::int64_t> shape, const Config& config) {
  const bool signals =
      model_families().get(config.text("model.name")).value.takes == Takes::signals;
  if (shape.empty()) shape = {1};
  if (shape.size() == (signals ? 1 : 2)) shape.insert(shape.begin(), 1);
  return shape;
}

/// Bytes are pixels, and divided by 255, if a sample is an image.
bool are_pixels(const Array& x, const std::vector<std::int64_t>& shape) {
  return x.element == Element::u8 && shape.size() > 2;
}

/// Warns if the rows of a table of bytes may be images.
void note_of_bytes(const Array& x, const std::vector<std::int64_t>& shape, const Config& config) {
  if (x.element != Element::u8 || are_pixels(x, shape) || config.text("data.normalise") != "none")
    return;
  const std::uint8_t* end = x.data + x.rows() * x.per_row();
  if (std::none_of(x.data, end, [](std::uint8_t byte) { return byte > 1; })) return;
  log_note(formatted(
      "{}: bytes of a table or signal are taken as numbers from 0 to 255; bytes of images "
      "[samples, channels, height, width] are divided by 255; data.normalise = computed "
      "scales both",
      x.name));
}

}  // namespace

SplitRows split_rows(const std::string& name, std::int64_t count, const std::optional<Array>& split,
                     const Config& config) {
  SplitRows rows;
  std::vector<std::int32_t> test(static_cast<std::size_t>(count));
  if (split) {
    test = small_numbers(*split, "splits (0 training, 1 test)", 2);
  } else {
    const auto test_count =
        static_cast<std::int64_t>(config.real("data.test_share") * static_cast<double>(count));
    Stream random(config.integer("run.seed"), kSplit);
    for (const std::int64_t row : random.choose(test_count, count)) {
      test[static_cast<std::size_t>(row)] = 1;
    }
  }
  for (std::int64_t row = 0; row < count; ++row) {
    (test[static_cast<std::size_t>(row)] == 1 ? rows.test : rows.train)
        .push_back(static_cast<std::uint32_t>(row));
  }
  if (rows.train.empty() || rows.test.empty()) {
    throw DataError(formatted("{} leaves no {} samples: correct {}", name,
                              rows.train.empty() ? "training" : "test",
                              split ? split->name : "data.test_share, or bring more samples"));
  }
  const auto cut = [](std::vector<std::uint32_t>& list, std::int64_t limit) {
    list.resize(static_cast<std::size_t>(limited(static_cast<std::int64_t>(list.size()), limit)));
  };
  cut(rows.train, limits(config).train);
  cut(rows.test, limits(config).test);
  return rows;
}

namespace {

/// The largest deviation, relative to the mean, that rounding alone may give a constant: one
/// rounding of the number's type, for doubles and integers a thousand.
double rounding(Element element) {
  switch (element) {
    case Element::f16:
      return 0x1p-11;
    case Element::f32:
      return 0x1p-23;
    default:
      return 0x1p-42;
  }
}

/// Mean and deviation of each channel over the given rows.
Normalisation computed(const Array& x, double unit, std::int64_t channels,
                       const std::vector<std::uint32_t>& rows) {
  Normalisation result{std::vector<double>(static_cast<std::size_t>(channels)),
                       std::vector<double>(static_cast<std::size_t>(channels))};
  const std::int64_t plane = x.per_row() / channels;
  const double count = static_cast<double>(plane) * static_cast<double>(rows.size());
  visit(x, [&](const auto& value) {
    const auto mean_of = [&](const auto& term) {
      std::vector<double> sums(static_cast<std::size_t>(channels));
      for (const std::uint32_t row : rows) {
        std::int64_t next = row * x.per_row();
        for (std::int64_t channel = 0; channel < channels; ++channel) {
          for (const std::int64_t end = next + plane; next < end; ++next) {
            sums[channel] += term(static_cast<double>(value(next)) * unit, channel);
          }
        }
      }
      for (double& sum : sums) sum /= count;
      return sums;
    };
    const auto off_mean = [&](double number, std::int64_t channel) {
      return number - result.mean[channel];
    };
    result.mean = mean_of([](double number, std::int64_t) { return number; });
    // A long sum has many rounding errors; subtracting the mean of the differences from the first
    // mean removes them.
    const std::vector<double> left = mean_of(off_mean);
    for (std::size_t c = 0; c < left.size(); ++c) result.mean[c] += left[c];
    result.deviation = mean_of([&](double number, std::int64_t channel) {
      return off_mean(number, channel) * off_mean(number, channel);
    });
  });
  for (std::size_t c = 0; c < result.deviation.size(); ++c) {
    double& deviation = result.deviation[c];
    deviation = std::sqrt(deviation);
    // A constant is only shifted to 0.
    if (deviation <= rounding(x.element) * std::abs(result.mean[c])) deviation = 1;
  }
  return result;
}

/// data.mean and data.deviation, one for all channels or one for each.
Normalisation given(const Config& config, std::int64_t channels) {
  Normalisation result{config.reals("data.mean"), config.reals("data.deviation")};
  for (auto* list : {&result.mean, &result.deviation}) {
    if (list->size() == 1) list->resize(static_cast<std::size_t>(channels), list->front());
    if (static_cast<std::int64_t>(list->size()) == channels) continue;
    throw InputError(formatted(
        "data.{} has {} numbers: with data.normalise = given it needs one, or one for each of the "
        "{} channels",
        list == &result.mean ? "mean" : "deviation", list->size(), channels));
  }
  for (const double deviation : result.deviation) {
    if (!(deviation > 0)) throw InputError("data.deviation must be above 0");
  }
  return result;
}

Normalisation choose_normalisation(const Array& x, const std::vector<std::int64_t>& shape,
                                   const std::vector<std::uint32_t>& rows, const Config& config) {
  const double unit = are_pixels(x, shape) ? 1.0 / 255 : 1.0;
  const std::int64_t channels = shape[0];
  const std::string kind = config.text("data.normalise");
  if (kind == "none") return {{}, {}, unit};
  Normalisation values =
      kind == "given" ? given(config, channels) : computed(x, unit, channels, rows);
  values.unit = unit;
  return values;
}

Affine affine_of(const Normalisation& values) {
  if (values.mean.empty()) return {{values.unit}, {0}};
  Affine affine;
  for (std::size_t c = 0; c < values.mean.size(); ++c) {
    affine.scale.push_back(values.unit / values.deviation[c]);
    affine.shift.push_back(-values.mean[c] / values.deviation[c]);
  }
  return affine;
}

void check_lengths(const ArraySet& arrays) {
  const Array& x = arrays.x;
  if (x.rows() == 0 || x.per_row() == 0) throw DataError(formatted("{} is empty", x.name));
  if (x.rows() > std::numeric_limits<std::uint32_t>::max()) {
    throw DataError(formatted("{} has {} rows, too many to number", x.name, x.rows()));
  }
  for (const Array* other : {&arrays.y, arrays.client ? &*arrays.client : nullptr,
                             arrays.split ? &*arrays.split : nullptr}) {
    if (other == nullptr || other->rows() == x.rows()) continue;
    throw DataError(formatted("{} has {} rows but {} has {}: they must belong together", x.name,
                              x.rows(), other->name, other->rows()));
  }
}

/// A class for each number of a row, for a language model.
bool labels_of_positions(const Array& x, const Array& y) {
  return y.is_integer() && x.shape.size() == 2 && y.shape == x.shape && x.per_row() > 1;
}

/// The files that data.file names, else arrays.h5 or x.npy, y.npy, ... in the folder.
ArraySet open_arrays(const Config& config, const fs::path& folder) {
  const std::vector<std::string> names{"x", "y", "client", "split"};
  ArraySet set;
  std::map<std::string, OpenArray> arrays;
  const std::string given = config.text("data.file");
  const auto npy = [](const fs::path& prefix, const std::string& name) {
    return fs::path(prefix.string() + name + ".npy");
  };
  // A folder of npy files, or the beginning of their names.
  std::vector<fs::path> prefixes{folder / given};
  if (!given.empty()) prefixes.emplace_back(given);
  for (fs::path& prefix : prefixes) {
    if (fs::is_directory(prefix)) prefix /= "";
  }
  const auto prefix = std::find_if(prefixes.begin(), prefixes.end(), [&](const fs::path& begin) {
    return is_available(npy(begin, "x"));
  });
  if (given.empty() && prefix != prefixes.end() && is_available(folder / "arrays.h5")) {
    throw InputError(
        formatted("both {} and {} exist: set data.file to arrays.h5, or to . for the npy files",
                  (folder / "arrays.h5").string(), npy(*prefix, "x").string()));
  }
  if (prefix != prefixes.end()) {
    for (const std::string& name : names) {
      const fs::path path = npy(*prefix, name);
      if (!is_available(path)) continue;
      arrays.emplace(name, open_npy(path));
      set.files.push_back(path.string());
    }
  } else {
    const fs::path path = named_file(config, "data.file", folder, "arrays.h5");
    if (fs::is_directory(path)) {
      throw DataError(formatted("{} holds no x.npy", path.string()));
    }
    arrays = open_hdf5(path, names);
    set.files.push_back(path.string());
  }
  for (const char* needed : {"x", "y"}) {
    if (!arrays.contains(needed)) {
      throw DataError(
          formatted("{} has no `{}`: write samples into x, labels into y", set.files[0], needed));
    }
  }
  const auto fill_in = [&](const auto& array_of) {
    set.x = array_of(arrays.at("x"));
    set.y = array_of(arrays.at("y"));
    if (arrays.contains("client")) set.client = array_of(arrays.at("client"));
    if (arrays.contains("split")) set.split = array_of(arrays.at("split"));
  };
  fill_in([](const OpenArray& open) { return open.array; });
  check_lengths(set);
  fill_in([](const OpenArray& open) { return read(open); });
  const bool may_be_tokens =
      set.x.is_integer() && set.x.element != Element::boolean && set.x.shape.size() == 2;
  set.tokens = are_tokens(config, "data.array_values");
  if (config.text("data.array_values") == "auto") {
    set.tokens = may_be_tokens && (set.tokens || labels_of_positions(set.x, set.y));
  }
  return set;
}

std::vector<std::int64_t> stated_shape(const Config& config) {
  return whole_numbers(config, "data.shape", "size");
}

DataShape declared_shape(const Config& config) {
  DataShape shape{stated_shape(config), config.integer("data.classes")};
  if (shape.sample.empty() || shape.classes == 0) {
    throw DataError(
        "the shape of arrays is known from their files; for --check without them, set data.shape "
        "and data.classes");
  }
  if (shape.sample.size() == 1 && are_tokens(config, "data.array_values")) {
    shape.vocabulary = config.integer("data.vocabulary");
  } else {
    shape.sample = shape_of_numbers(shape.sample, config);
  }
  return shape;
}

Dataset with_stated_shape(Dataset dataset, const Config& config) {
  const std::vector<std::int64_t> stated = stated_shape(config);
  const bool numbers = dataset.shape.vocabulary == 0;
  const auto meant = numbers ? shape_of_numbers(stated, config) : stated;
  if (!stated.empty() && meant != dataset.shape.sample) {
    throw DataError(formatted(
        "{} holds samples of shape {}, and data.shape is {}; correct one of them", dataset.files[0],
        fmt::join(dataset.shape.sample, ", "), fmt::join(stated, ", ")));
  }
  return dataset;
}

}  // namespace

bool reads_tokens(const Config& config) {
  return model_families().get(config.text("model.name")).value.customary.vocabulary > 0;
}

bool are_tokens(const Config& config, const std::string& key) {
  const std::string choice = config.text(key);
  return choice == "auto" ? reads_tokens(config) : choice == "tokens";
}

Dataset make_dataset(const std::string& name, const ArraySet& arrays, const Config& config) {
  check_lengths(arrays);
  const Array& x = arrays.x;
  auto samples = std::make_shared<Samples>();
  samples->x = x;
  samples->shape.assign(x.shape.begin() + 1, x.shape.end());
  Dataset dataset{name, {}, nullptr, nullptr, arrays.files};
  DataShape& shape = dataset.shape;
  if (arrays.tokens) {
    if (!x.is_integer() || x.shape.size() != 2) {
      throw DataError(
          formatted("{} holds {} in {} dimensions, but tokens are integers [samples, length]",
                    x.name, element_name(x.element), x.shape.size()));
    }
    shape.vocabulary =
        arrays.vocabulary > 0 ? arrays.vocabulary : config.integer("data.vocabulary");
    check_range(x, shape.vocabulary, "tokens",
                {"; if these are numbers, set data.array_values = numbers and take mlp",
                 "; raise data.vocabulary if that is right"});
    shape.next_token = labels_of_positions(x, arrays.y);
  } else {
    check_finite(x);
    samples->shape = shape_of_numbers(samples->shape, config);
    note_of_bytes(x, samples->shape, config);
  }
  if (shape.next_token) {
    check_range(arrays.y, shape.vocabulary, "tokens",
                {"", "; raise data.vocabulary if that is right"});
    shape.classes = shape.vocabulary;
    samples->y = arrays.y;
  } else {
    shape.classes =
        take_labels(arrays.y, arrays.classes > 0 ? arrays.classes : config.integer("data.classes"),
                    samples->labels);
  }
  shape.sample = samples->shape;
  SplitRows rows = split_rows(arrays.x.name, arrays.x.rows(), arrays.split, config);
  if (!arrays.tokens) {
    dataset.normalisation = choose_normalisation(x, samples->shape, rows.train, config);
    samples->affine = affine_of(dataset.normalisation);
  }
  if (arrays.client) {
    const std::vector<std::int32_t> client =
        small_numbers(*arrays.client, "clients", std::numeric_limits<std::int32_t>::max());
    for (const std::uint32_t row : rows.train) dataset.client_of.push_back(client[row]);
  }
  dataset.train = std::make_unique<ArraySplit>(samples, std::move(rows.train));
  dataset.test = std::make_unique<ArraySplit>(samples, std::move(rows.test));
  return dataset;
}

DataSource arrays_source() {
  const auto declare = [](OptionTable& table) {
    table.add_choice("data.array_values", "auto",
                     "arrays: content of x, numbers or the tokens of a text; auto = tokens if x "
                     "holds integers [samples, length] and the model reads tokens (gpt, encoder, "
                     "lstm) or y has the shape of x, else numbers",
                     {"auto", "numbers", "tokens"});
    table.add_choice(
        "data.normalise", "none",
        "arrays, csv, leaf: normalisation by a mean and a deviation for each channel or feature: "
        "none "
        "(bytes of images are divided by 255), computed from the training samples, or given",
        {"none", "computed", "given"});
    table.add(
        {.key = "data.mean",
         .type = OptionType::real_list,
         .default_value = "",
         .help =
             "arrays, csv: means for data.normalise = given, one for all or one for each channel"});
    table.add({.key = "data.deviation",
               .type = OptionType::real_list,
               .default_value = "",
               .help = "arrays, csv: deviations for data.normalise = given"});
    table.add({.key = "data.classes",
               .type = OptionType::integer,
               .default_value = "0",
               .help = "arrays, csv, leaf: number of classes; 0 = the largest label + 1",
               .minimum = 0,
               .maximum = 1e6});
    table.add({.key = "data.shape",
               .type = OptionType::real_list,
               .default_value = "",
               .help = "arrays, leaf: shape of one sample, e.g. 3, 32, 32; needed only for --check "
                       "without the file, and for images of leaf that are not square and grey"});
    table.add({.key = "data.test_share",
               .type = OptionType::real,
               .default_value = "0.1",
               .help =
                   "arrays, csv, leaf: fraction of the samples that is drawn for the test split, "
                   "if the data has no test split",
               .minimum = 0,
               .maximum = 1});
  };
  const auto load = [](const Config& config, const fs::path& folder) {
    return with_stated_shape(make_dataset("arrays", open_arrays(config, folder), config), config);
  };
  return {declare, declared_shape, load};
}

}  // namespace espalier
