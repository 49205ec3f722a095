#pragma once
// A dataset is loaded once per process, kept compact (bytes if the source has bytes) and turned
// into normalised float batches on demand. Every rank loads and checks the same files.

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

/// The label of a token of a test that another window predicts; losses leave it out (ATen's
/// ignore_index).
inline constexpr std::int64_t kNoLabel = -100;

/// The samples of one pass.
struct Batch {
  at::Tensor inputs;
  at::Tensor labels;  ///< [...]: one for each sample, or for each predicted token of a text
};

/// One split (train or test) of samples with labels in [0, classes).
class Split {
 public:
  virtual ~Split() = default;
  virtual std::int64_t size() const = 0;
  /// The class of a sample; 0 if tokens are predicted (DataShape::predicts_tokens).
  virtual std::int64_t label(std::int64_t index) const = 0;
  /// [indices.size(), shape...], newly allocated in the current memory scope: normalised floats, or
  /// int64 tokens. `augment`: changes samples at random if it is given and the split has an
  /// augmentation, and draws the tokens to hide (fixed ones without it).
  virtual at::Tensor inputs(std::span<const std::int64_t> indices,
                            Stream* augment = nullptr) const = 0;
  /// int64 [indices.size()], or [indices.size(), length] if tokens are predicted: every token that
  /// may be a label, and kNoLabel where overlapping windows of a test predict the same one.
  virtual at::Tensor labels(std::span<const std::int64_t> indices) const;
  /// inputs() and their labels. If tokens are hidden, only these are labels: [indices.size(),
  /// DataShape::masked], in order.
  virtual Batch batch(std::span<const std::int64_t> indices, Stream* augment = nullptr) const;
};

/// A model gets (number * unit - mean[c]) / deviation[c] for a number of channel c of a file. Each
/// feature of a table is a channel. Both lists are empty if they would be 0 and 1.
struct Normalisation {
  std::vector<double> mean{};
  std::vector<double> deviation{};
  double unit = 1.0 / 255;  ///< the unit of bytes
};

struct Dataset {
  std::string name;
  DataShape shape;
  std::unique_ptr<Split> train;
  std::unique_ptr<Split> test;
  std::vector<std::string> files;  ///< the files that were read, for the record and the user
  /// The client of each training sample, from 0; empty if the data does not name clients.
  std::vector<std::int32_t> client_of{};
  /// None if samples are tokens or numbers that stay as they are.
  Normalisation normalisation{{}, {}, 1};
  /// If tokens are words: the word of each token from 0, one a line.
  std::string words{};
};

/// The part of a dataset that a model needs when it is used without the data: shape, normalisation
/// and words.
void archive_format(Archive& archive, Dataset& data);

/// A file of the data is missing (a DataError of another kind means that its content is wrong).
struct MissingDataError : DataError {
  using DataError::DataError;
};

/// How to load one dataset; `shape` answers without the files (for --check with absent data).
struct DataSource {
  std::function<void(OptionTable&)> declare;
  std::function<DataShape(const Config&)> shape;
  /// MissingDataError if data is missing, DataError (file and mistake) if it is damaged or unfit.
  std::function<Dataset(const Config&, const std::filesystem::path& folder)> load;
};
/// The values of data.name.
const Registry<DataSource>& data_sources();
/// One function for each; data sets of one format are in one file of src/data.
DataSource digits_source();
DataSource mnist_source();
DataSource fashion_mnist_source();
DataSource cifar10_source();
DataSource cifar100_source();
DataSource synthetic_source();
DataSource text_source();
DataSource tokens_source();
DataSource agnews_source();
DataSource arrays_source();
DataSource leaf_source();
DataSource csv_source();
/// data.name, data.dir, data.partition, data.alpha, ... and the sources' own options.
void declare_data_options(OptionTable& table);
/// Tokens that data.mask_rate hides of a text of `length` tokens.
std::int64_t masked_tokens(const Config& config, std::int64_t length);
/// The shape of next-token data after data.mask_rate. InputError for other data, unless that is 0.
DataShape masked_shape(const Config& config, DataShape shape);
/// data.dir, else $ESPALIER_DATA, else "data"; `digits` is read from the program's own inputs/
/// folder (beside or above the executable, or in the working directory) unless data.dir is given.
std::filesystem::path data_folder(const Config& config);
/// Loads "data.name", cut to the first data.train_limit and data.test_limit samples. Errors: as
/// DataSource::load.
Dataset load_dataset(const Config& config);

}  // namespace espalier
