#pragma once
// Turns arrays into a dataset: checks, the test split, normalisation. For the formats of the user's
// own numbers.

#include <optional>
#include <string>
#include <vector>

#include "array_file.h"
#include "espalier/data/dataset.h"

namespace espalier {

struct ArraySet {
  std::vector<std::string> files;
  Array x;                      ///< samples
  Array y;                      ///< class of each sample; of each token for next-token data
  std::optional<Array> client;  ///< client of each sample, from 0
  std::optional<Array> split;   ///< 0 training, 1 test; else data.test_share are drawn
  bool tokens = false;          ///< x are tokens: integers [samples, length]
  std::int64_t vocabulary = 0;  ///< 0: data.vocabulary
  std::int64_t classes = 0;     ///< 0: data.classes
};

/// Whether the model reads tokens: its customary data are tokens.
bool reads_tokens(const Config& config);

/// Whether the data are tokens by an option with the choices auto, numbers and tokens; auto: if the
/// model reads tokens.
bool are_tokens(const Config& config, const std::string& key);

struct SplitRows {
  std::vector<std::uint32_t> train;
  std::vector<std::uint32_t> test;
};
/// The rows of each split of `count` samples: by the array `split`, else data.test_share of them
/// are drawn by run.seed; then the limits. DataError if a split has none.
SplitRows split_rows(const std::string& name, std::int64_t count, const std::optional<Array>& split,
                     const Config& config);

/// Uses data.classes, data.vocabulary, data.normalise (data.mean, data.deviation), data.test_share,
/// the limits and run.seed. DataError (array and row) for lengths that differ, values that are not
/// finite, labels or tokens out of range, classes without samples.
Dataset make_dataset(const std::string& name, const ArraySet& arrays, const Config& config);

}  // namespace espalier
