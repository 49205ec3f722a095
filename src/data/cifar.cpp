// CIFAR-10's and CIFAR-100's binary files: records of the label (CIFAR-100: the coarse label, then
// the fine one, which is used) and 3072 pixels, all red, then green, then blue. Format:
// https://www.cs.toronto.edu/~kriz/cifar.html.

#include <utility>

#include "espalier/base/error.h"
#include "espalier/base/log.h"
#include "files.h"
#include "splits.h"

namespace espalier {
namespace {

namespace fs = std::filesystem;

constexpr std::int64_t kPixels = 3 * 32 * 32;

struct Kind {
  std::string name;
  std::string folder;
  std::vector<std::string> train_files;
  std::string test_file;
  std::int64_t records_of_train_file;
  std::int64_t label_bytes;
  std::int64_t classes;
  Normalisation normalisation;  // of the training images
};

constexpr std::int64_t kTestRecords = 10000;

const Kind& cifar10() {
  static const Kind kKind{"cifar10",
                          "cifar-10-batches-bin",
                          {"data_batch_1.bin", "data_batch_2.bin", "data_batch_3.bin",
                           "data_batch_4.bin", "data_batch_5.bin"},
                          "test_batch.bin",
                          10000,
                          1,
                          10,
                          {{0.4914, 0.4822, 0.4465}, {0.2470, 0.2435, 0.2616}}};
  return kKind;
}

const Kind& cifar100() {
  static const Kind kKind{"cifar100",    "cifar-100-binary",
                          {"train.bin"}, "test.bin",
                          50000,         2,
                          100,           {{0.5071, 0.4865, 0.4409}, {0.2673, 0.2564, 0.2762}}};
  return kKind;
}

struct Samples {
  std::vector<std::uint8_t> pixels;
  std::vector<std::uint8_t> labels;
};

/// Appends the file's samples, up to `limit` in all (0: no limit). Samples beyond the limit are
/// checked too.
void append_file(const Kind& kind, const fs::path& path, std::int64_t records, std::int64_t limit,
                 Samples& samples) {
  const MappedFile file(path);
  const std::span<const std::uint8_t> bytes = file.bytes();
  const std::int64_t size = kind.label_bytes + kPixels;
  const auto available = static_cast<std::int64_t>(bytes.size());
  if (available != records * size) {
    throw DataError(formatted(
        "{} {}: it has {} bytes, but {} records of {} bytes are {}; fetch it again", path.string(),
        available < records * size ? "is cut short" : "has bytes after its end", available, records,
        size, records * size));
  }
  const auto before = static_cast<std::int64_t>(samples.labels.size());
  const std::int64_t kept = limited(before + records, limit) - before;
  samples.labels.reserve(static_cast<std::size_t>(before + kept));
  samples.pixels.reserve(static_cast<std::size_t>((before + kept) * kPixels));
  for (std::int64_t i = 0; i < records; ++i) {
    const std::uint8_t* pixels = bytes.data() + i * size + kind.label_bytes;
    const std::uint8_t label = pixels[-1];
    if (label >= kind.classes) {
      throw DataError(
          formatted("{}: label {} of sample {} is out of range (0 to {}); fetch it again",
                    path.string(), label, i, kind.classes - 1));
    }
    if (i >= kept) continue;
    samples.labels.push_back(label);
    samples.pixels.insert(samples.pixels.end(), pixels, pixels + kPixels);
  }
}

Dataset load(const Kind& kind, const Config& config, const fs::path& folder) {
  const fs::path inner = folder / kind.folder;
  const fs::path& place = is_available(inner) ? inner : folder;
  Dataset dataset{kind.name, {{3, 32, 32}, kind.classes}, nullptr, nullptr, {}};
  dataset.normalisation = kind.normalisation;
  Samples train;
  std::string absent;
  for (const std::string& name : kind.train_files) {
    const fs::path path = place / name;
    if (!is_available(path)) {
      absent += (absent.empty() ? "" : ", ") + name;
      continue;
    }
    append_file(kind, path, kind.records_of_train_file, limits(config).train, train);
    dataset.files.push_back(path.string());
  }
  const fs::path test_path = place / kind.test_file;
  if (dataset.files.empty() || !is_available(test_path)) {
    throw MissingDataError(
        formatted("{} of {} is missing; looked in {} and {}: set data.dir or ESPALIER_DATA to "
                  "the folder that holds its binary files",
                  dataset.files.empty() ? kind.train_files[0] : kind.test_file, kind.name,
                  folder.string(), inner.string()));
  }
  if (!absent.empty()) {
    log_note(
        formatted("{}: {} has no {}; training on the other images ({} of {})", kind.name,
                  place.string(), absent, train.labels.size(),
                  kind.records_of_train_file * static_cast<std::int64_t>(kind.train_files.size())));
  }
  Samples test;
  append_file(kind, test_path, kTestRecords, limits(config).test, test);
  dataset.files.push_back(test_path.string());
  const std::vector<std::int64_t>& shape = dataset.shape.sample;
  dataset.train =
      make_byte_split(shape, std::move(train.pixels), std::move(train.labels), kind.normalisation);
  dataset.test =
      make_byte_split(shape, std::move(test.pixels), std::move(test.labels), kind.normalisation);
  return dataset;
}

DataSource source(const Kind& kind) {
  return {
      [](OptionTable&) {},
      [&kind](const Config&) {
        return DataShape{{3, 32, 32}, kind.classes};
      },
      [&kind](const Config& config, const fs::path& folder) { return load(kind, config, folder); }};
}

}  // namespace

DataSource cifar10_source() { return source(cifar10()); }
DataSource cifar100_source() { return source(cifar100()); }

}  // namespace espalier
