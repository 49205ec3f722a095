#pragma once
// A dataset is loaded once per process, kept compact (bytes where the source has bytes) and turned
// into normalised float batches on demand. Every rank loads the same files and checks what it
// reads.

#include <ATen/ATen.h>

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "espalier/base/registry.h"
#include "espalier/config/config.h"
#include "espalier/model/model.h"

namespace espalier {

/// One split (train or test) of samples with labels in [0, classes).
class Split {
 public:
  virtual ~Split() = default;
  virtual std::int64_t size() const = 0;
  /// The class of a sample; 0 where labels are those of positions (DataShape::next_token).
  virtual std::int64_t label(std::int64_t index) const = 0;
  /// [indices.size(), shape...], newly allocated in the current memory scope: normalised floats, or
  /// int64 tokens. `augment`: where given, samples are changed at random if the split is set to.
  virtual at::Tensor inputs(std::span<const std::int64_t> indices,
                            Stream* augment = nullptr) const = 0;
  /// int64 [indices.size()], or [indices.size(), length] for next-token data.
  virtual at::Tensor labels(std::span<const std::int64_t> indices) const;
};

struct Dataset {
  std::string name;
  DataShape shape;
  std::unique_ptr<Split> train;
  std::unique_ptr<Split> test;
  std::vector<std::string> files;  ///< which files were read, for the record and the user
};

/// How to load one dataset; `shape` answers without the files (for --check with absent data).
struct DataSource {
  std::function<void(OptionTable&)> declare;
  std::function<DataShape(const Config&)> shape;
  /// DataError (file and what is wrong) where data is missing or damaged.
  std::function<Dataset(const Config&, const std::filesystem::path& folder)> load;
};
/// digits, mnist, cifar10, synthetic.
const Registry<DataSource>& data_sources();
/// data.name, data.dir, data.partition, data.alpha, ... and the sources' own options.
void declare_data_options(OptionTable& table);
/// data.dir, else $ESPALIER_DATA, else "data"; `digits` comes from the program's own inputs/ folder
/// (beside or above the executable, or in the working directory) unless data.dir is given.
std::filesystem::path data_folder(const Config& config);
/// Loads "data.name", cut to the first data.train_limit and data.test_limit samples. Errors: as
/// DataSource::load.
Dataset load_dataset(const Config& config);

/// A split kept as bytes, planes of `shape[0]` channels per sample; a byte b of channel c becomes
/// (b / 255 - mean[c]) / deviation[c].
struct Normalisation {
  std::vector<double> mean;
  std::vector<double> deviation;
};
std::unique_ptr<Split> make_byte_split(std::vector<std::int64_t> shape,
                                       std::vector<std::uint8_t> pixels,
                                       std::vector<std::uint8_t> labels,
                                       const Normalisation& normalisation);

/// The content of a file, unpacked if it is gzipped. DataError if it cannot be read, or is damaged
/// or cut short.
std::vector<std::uint8_t> read_packed(const std::filesystem::path& path);

// One loader per file format, so that a new one is one more file. `limits` as data.train_limit,
// data.test_limit.
struct Limits {
  std::int64_t train = 0;  ///< 0: all
  std::int64_t test = 0;
};
/// MNIST's IDX files, in `folder` or `folder/mnist`.
Dataset load_mnist(const std::filesystem::path& folder, Limits limits);
/// The program's own part of MNIST, in `folder` or `folder/digits`; an empty `folder`: where the
/// program keeps it.
Dataset load_digits(const std::filesystem::path& folder, Limits limits);
/// CIFAR-10's binary files, in `folder` or `folder/cifar-10-batches-bin`; uses those training
/// batches that are there.
Dataset load_cifar10(const std::filesystem::path& folder, Limits limits);
/// Class means plus noise, made from keyed streams: data.synthetic_... and run.seed.
void declare_synthetic_options(OptionTable& table);
DataShape synthetic_shape(const Config& config);
Dataset make_synthetic(const Config& config);

}  // namespace espalier
