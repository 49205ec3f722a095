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

#include "espalier/base/error.h"
#include "espalier/base/registry.h"
#include "espalier/config/config.h"
#include "espalier/model/model.h"

namespace espalier {

class Archive;

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

/// What a model gets for a number of channel c of a file: (number * unit - mean[c]) / deviation[c].
/// Of features each is a channel. Both lists are empty where they would be 0 and 1.
struct Normalisation {
  std::vector<double> mean{};
  std::vector<double> deviation{};
  double unit = 1.0 / 255;  ///< that of bytes
};

struct Dataset {
  std::string name;
  DataShape shape;
  std::unique_ptr<Split> train;
  std::unique_ptr<Split> test;
  std::vector<std::string> files;  ///< which files were read, for the record and the user
  /// The client of each training sample, from 0, where the data says so; else empty.
  std::vector<std::int32_t> client_of{};
  /// As used. None where samples are tokens, or numbers that are used as they are.
  Normalisation normalisation{{}, {}, 1};
  /// Where tokens are words: that of each token from 0, one a line.
  std::string words{};
};

/// What a model of the data needs to be used without it: shape, normalisation and words, as values
/// of their own.
void archive_format(Archive& archive, Dataset& data);

/// A file of the data is not where it was looked for; what it holds is not wrong.
struct MissingDataError : DataError {
  using DataError::DataError;
};

/// How to load one dataset; `shape` answers without the files (for --check with absent data).
struct DataSource {
  std::function<void(OptionTable&)> declare;
  std::function<DataShape(const Config&)> shape;
  /// MissingDataError where data is not there, DataError (file and what is wrong) where it is
  /// damaged or unfit.
  std::function<Dataset(const Config&, const std::filesystem::path& folder)> load;
};
/// What data.name can be.
const Registry<DataSource>& data_sources();
/// One function for each; sets of one format share a file of src/data.
DataSource digits_source();
DataSource mnist_source();
DataSource fashion_mnist_source();
DataSource cifar10_source();
DataSource cifar100_source();
DataSource synthetic_source();
DataSource text_source();
DataSource agnews_source();
DataSource arrays_source();
DataSource csv_source();
/// data.name, data.dir, data.partition, data.alpha, ... and the sources' own options.
void declare_data_options(OptionTable& table);
/// data.dir, else $ESPALIER_DATA, else "data"; `digits` comes from the program's own inputs/ folder
/// (beside or above the executable, or in the working directory) unless data.dir is given.
std::filesystem::path data_folder(const Config& config);
/// Loads "data.name", cut to the first data.train_limit and data.test_limit samples. Errors: as
/// DataSource::load.
Dataset load_dataset(const Config& config);

}  // namespace espalier
