// CIFAR-10's binary files: records of one label byte and 3072 pixels, all red, then green, then
// blue. Format: https://www.cs.toronto.edu/~kriz/cifar.html.

#include <algorithm>
#include <utility>

#include "espalier/base/error.h"
#include "files.h"
#include "splits.h"

namespace espalier {
namespace {

namespace fs = std::filesystem;

constexpr std::int64_t kPixels = 3 * 32 * 32;
constexpr std::int64_t kRecord = 1 + kPixels;
constexpr std::int64_t kClasses = 10;

const Normalisation& normalisation() {
  static const Normalisation kValues{{0.4914, 0.4822, 0.4465}, {0.2470, 0.2435, 0.2616}};
  return kValues;
}

struct Samples {
  std::vector<std::uint8_t> pixels;
  std::vector<std::uint8_t> labels;
};

/// Appends the file's samples, up to `limit` in all (0: no limit). What is left out is checked as
/// well.
void append_file(const fs::path& path, std::int64_t limit, Samples& samples) {
  const std::vector<std::uint8_t> raw = read_packed(path);
  const auto bytes = static_cast<std::int64_t>(raw.size());
  if (bytes == 0 || bytes % kRecord != 0) {
    throw DataError(
        fmt::format("{} is cut short or has bytes after its end: {} bytes are no whole number of "
                    "records of {}; fetch it again",
                    path.string(), bytes, kRecord));
  }
  for (std::int64_t i = 0; i < bytes / kRecord; ++i) {
    const auto record = raw.begin() + i * kRecord;
    if (*record >= kClasses) {
      throw DataError(
          fmt::format("{}: label {} of sample {} is out of range (0 to {}); fetch it again",
                      path.string(), *record, i, kClasses - 1));
    }
    if (limit > 0 && static_cast<std::int64_t>(samples.labels.size()) >= limit) continue;
    samples.labels.push_back(*record);
    samples.pixels.insert(samples.pixels.end(), record + 1, record + kRecord);
  }
}

DataShape shape(const Config&) { return {{3, 32, 32}, kClasses}; }

Dataset load(const Config& config, const fs::path& folder) {
  const fs::path inner = folder / "cifar-10-batches-bin";
  const fs::path& place = is_there(inner) ? inner : folder;
  Dataset dataset{"cifar10", {{3, 32, 32}, kClasses}, nullptr, nullptr, {}};
  Samples train;
  for (int batch = 1; batch <= 5; ++batch) {
    const fs::path path = place / fmt::format("data_batch_{}.bin", batch);
    if (!is_there(path)) continue;
    append_file(path, limits(config).train, train);
    dataset.files.push_back(path.string());
  }
  const fs::path test_path = place / "test_batch.bin";
  if (train.labels.empty() || !is_there(test_path)) {
    throw DataError(fmt::format(
        "{} is missing; looked in {} and {}: set data.dir or ESPALIER_DATA to the folder "
        "that holds CIFAR-10's binary files",
        train.labels.empty() ? "data_batch_1.bin (to 5)" : "test_batch.bin", folder.string(),
        inner.string()));
  }
  Samples test;
  append_file(test_path, limits(config).test, test);
  dataset.files.push_back(test_path.string());
  dataset.train = make_byte_split({3, 32, 32}, std::move(train.pixels), std::move(train.labels),
                                  normalisation());
  dataset.test =
      make_byte_split({3, 32, 32}, std::move(test.pixels), std::move(test.labels), normalisation());
  return dataset;
}

}  // namespace

DataSource cifar10_source() {
  return {[](OptionTable&) {}, shape, load};
}

}  // namespace espalier
