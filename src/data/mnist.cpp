// The IDX files of MNIST and Fashion-MNIST: a big-endian magic number (0x0000'08'nn: unsigned
// bytes, nn dimensions), the extents, the bytes. Format: http://yann.lecun.com/exdb/mnist/.

#include <algorithm>
#include <utility>

#include "espalier/base/error.h"
#include "espalier/base/shipped.h"
#include "files.h"
#include "splits.h"

namespace espalier {
namespace {

namespace fs = std::filesystem;

constexpr std::int64_t kSide = 28;
constexpr std::int64_t kClasses = 10;

// Mean and deviation of the training images, as is usual for each set.
const Normalisation kMnist{{0.1307}, {0.3081}};
const Normalisation kFashion{{0.2860}, {0.3530}};

std::int64_t big_endian(const std::vector<std::uint8_t>& bytes, std::size_t at) {
  std::int64_t value = 0;
  for (std::size_t i = 0; i < 4; ++i) value = value << 8 | bytes[at + i];
  return value;
}

struct Idx {
  fs::path path;
  std::vector<std::int64_t> extents;
  std::vector<std::uint8_t> bytes;
};

Idx read_idx(const fs::path& path, std::size_t dimensions) {
  std::vector<std::uint8_t> raw = read_packed(path);
  const std::size_t header = 4 + 4 * dimensions;
  if (raw.size() < header) {
    throw DataError(formatted(
        "{} is cut short: it has {} bytes, and an IDX header alone has {}; fetch it again",
        path.string(), raw.size(), header));
  }
  const std::int64_t magic = 0x0800 + static_cast<std::int64_t>(dimensions);
  if (big_endian(raw, 0) != magic) {
    throw DataError(
        formatted("{} is not the IDX file expected: its magic number is {}, not {}; fetch it again",
                  path.string(), big_endian(raw, 0), magic));
  }
  Idx idx{path, {}, {}};
  const auto present = static_cast<std::int64_t>(raw.size() - header);
  std::int64_t expected = 1;
  bool too_large = false;
  for (std::size_t d = 0; d < dimensions; ++d) {
    const std::int64_t extent = big_endian(raw, 4 + 4 * d);
    idx.extents.push_back(extent);
    // Extents are below 2^32, so this product of a checked and a new one cannot overflow.
    expected = too_large ? expected : expected * extent;
    too_large = too_large || expected > (std::int64_t{1} << 31);
  }
  if (too_large || expected != present) {
    throw DataError(
        formatted("{} {}: its header announces {} bytes, it has {}; fetch it again", path.string(),
                  too_large || present < expected ? "is cut short" : "has bytes after its end",
                  expected, present));
  }
  raw.erase(raw.begin(), raw.begin() + static_cast<std::ptrdiff_t>(header));
  idx.bytes = std::move(raw);
  return idx;
}

/// `name` or `name`.gz in the first folder that has one of them; empty if no folder has.
fs::path find_file(const std::vector<fs::path>& folders, const std::string& name) {
  for (const fs::path& folder : folders) {
    for (const char* ending : {"", ".gz"}) {
      fs::path path = folder / (name + ending);
      if (is_available(path)) return path;
    }
  }
  return {};
}

std::unique_ptr<Split> load_split(const std::vector<fs::path>& folders, const std::string& prefix,
                                  const Normalisation& normalisation, std::int64_t limit,
                                  const std::string& advice, std::vector<std::string>& files) {
  fs::path paths[2];
  const std::string names[2] = {prefix + "-images-idx3-ubyte", prefix + "-labels-idx1-ubyte"};
  for (int i = 0; i < 2; ++i) {
    paths[i] = find_file(folders, names[i]);
    if (paths[i].empty()) {
      std::string searched;
      for (const fs::path& folder : folders)
        searched += (searched.empty() ? "" : ", ") + folder.string();
      throw MissingDataError(
          formatted("{} (or .gz) is missing; looked in {}: {}", names[i], searched, advice));
    }
    files.push_back(paths[i].string());
  }
  Idx images = read_idx(paths[0], 3);
  Idx labels = read_idx(paths[1], 1);
  const std::int64_t count = labels.extents[0];
  if (images.extents[1] != kSide || images.extents[2] != kSide) {
    throw DataError(formatted("{} has images of {} x {} instead of {} x {}: fetch it again",
                              images.path.string(), images.extents[1], images.extents[2], kSide,
                              kSide));
  }
  if (images.extents[0] != count) {
    throw DataError(formatted("{} has {} images but {} has {} labels: fetch both again",
                              images.path.string(), images.extents[0], labels.path.string(),
                              count));
  }
  if (count == 0)
    throw DataError(formatted("{} has no samples: fetch it again", labels.path.string()));
  for (std::int64_t i = 0; i < count; ++i) {
    if (labels.bytes[i] >= kClasses) {
      throw DataError(
          formatted("{}: label {} of sample {} is out of range (0 to {}); fetch it again",
                    labels.path.string(), labels.bytes[i], i, kClasses - 1));
    }
  }
  const std::int64_t kept = limited(count, limit);
  images.bytes.resize(kept * kSide * kSide);
  images.bytes.shrink_to_fit();
  labels.bytes.resize(kept);
  return make_byte_split({1, kSide, kSide}, std::move(images.bytes), std::move(labels.bytes),
                         normalisation);
}

Dataset load_idx_folder(const std::string& name, const std::vector<fs::path>& folders,
                        const Normalisation& normalisation, Limits limits,
                        const std::string& advice) {
  Dataset dataset{name, {{1, kSide, kSide}, kClasses}, nullptr, nullptr, {}};
  dataset.normalisation = normalisation;
  dataset.train = load_split(folders, "train", normalisation, limits.train, advice, dataset.files);
  dataset.test = load_split(folders, "t10k", normalisation, limits.test, advice, dataset.files);
  return dataset;
}

DataShape shape(const Config&) { return {{1, kSide, kSide}, kClasses}; }

Dataset load_mnist(const Config& config, const fs::path& folder) {
  return load_idx_folder(
      "mnist", {folder, folder / "mnist"}, kMnist, limits(config),
      "set data.dir or ESPALIER_DATA to the folder that holds MNIST's four files, or use "
      "data.name = digits, which is part of the program");
}

Dataset load_fashion_mnist(const Config& config, const fs::path& folder) {
  // Its files have MNIST's names, so only its own folder is searched if it exists.
  const fs::path inner = folder / "fashion-mnist";
  return load_idx_folder(
      "fashion-mnist", {is_available(inner) ? inner : folder}, kFashion, limits(config),
      "set data.dir or ESPALIER_DATA to the folder that holds Fashion-MNIST's four files");
}

Dataset load_digits(const Config& config, const fs::path&) {
  const fs::path folder = config.text("data.dir");
  if (!folder.empty()) {
    return load_idx_folder("digits", {folder, folder / "digits"}, kMnist, limits(config),
                           "remove data.dir, or set it to the folder inputs/digits of the program");
  }
  return load_idx_folder(
      "digits", shipped_places("digits"), kMnist, limits(config),
      "start the program from its source folder, or set data.dir to its folder inputs/digits");
}

}  // namespace

DataSource digits_source() {
  return {[](OptionTable&) {}, shape, load_digits};
}
DataSource fashion_mnist_source() {
  return {[](OptionTable&) {}, shape, load_fashion_mnist};
}
DataSource mnist_source() {
  return {[](OptionTable&) {}, shape, load_mnist};
}

}  // namespace espalier
