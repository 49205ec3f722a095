// Reads files of any kind, many in one process, for tests/cli/damaged_files_slow_test.py. A line of
// stdin is a kind and its files, between tabs: `info FILE`, `diff FILE FILE`, `input FILE.ini`,
// `data FILE.ini`, `weights FILE`, `tokenizer FILE`. A line of stdout, in JSON, has the status with
// which the program would end, and its message. `crash`, `hang` and `memory` are faults that the
// test must notice.

#include <algorithm>
#include <atomic>
#include <csignal>
#include <iostream>
#include <nlohmann/json.hpp>
#include <numeric>
#include <sstream>

#include "espalier/app/options.h"
#include "espalier/base/error.h"
#include "espalier/base/log.h"
#include "espalier/data/dataset.h"
#include "espalier/data/tokenizer.h"
#include "espalier/method/register.h"
#include "espalier/model/model.h"
#include "espalier/record/compare.h"
#include "espalier/record/safetensors.h"

namespace espalier {
namespace {

const OptionTable& options() {
  static const OptionTable table = all_options(protocols());
  return table;
}

/// Loads the data of an input file, and uses every sample.
void use_data(const std::string& input) {
  Config config(options());
  config.read_file(input);
  set_model_defaults(config);
  const Dataset data = load_dataset(config);
  for (const Split* split : {data.train.get(), data.test.get()}) {
    std::vector<std::int64_t> all(static_cast<std::size_t>(split->size()));
    std::iota(all.begin(), all.end(), 0);
    split->inputs(all);
    split->labels(all);
  }
}

void use_weights(const std::string& file) {
  for (const NamedTensor& tensor : read_weights(file)) {
    std::vector<float> values(static_cast<std::size_t>(tensor.count()));
    tensor.read_all(values.data());
  }
}

void use_tokenizer(const std::string& file) {
  const Tokenizer tokenizer(file);
  tokenizer.decode(tokenizer.encode("It was a dark night, and 12 men's \u00e9lan \u6c34 sank."));
}

[[noreturn]] void hang() {
  for (std::atomic<int> i = 0;; ++i) {
  }
}

void use(const std::vector<std::string>& words) {
  const std::string& kind = words.at(0);
  if (kind == "info") {
    describe_file(words.at(1));
  } else if (kind == "diff") {
    first_difference(words.at(1), words.at(2), DiffScope::all);
  } else if (kind == "input") {
    Config(options()).read_file(words.at(1));
  } else if (kind == "data") {
    use_data(words.at(1));
  } else if (kind == "weights") {
    use_weights(words.at(1));
  } else if (kind == "tokenizer") {
    use_tokenizer(words.at(1));
  } else if (kind == "crash") {
    std::raise(SIGSEGV);
  } else if (kind == "hang") {
    hang();
  } else if (kind == "memory") {
    std::vector<char>(std::size_t{3} << 30, 'a').shrink_to_fit();
  }
}

nlohmann::json outcome(const std::vector<std::string>& words) {
  try {
    use(words);
  } catch (const Error& error) {
    return {static_cast<int>(error.status()), error.what()};
  } catch (const std::exception& error) {
    return {static_cast<int>(Status::internal), error.what()};
  }
  return {0, ""};
}

}  // namespace
}  // namespace espalier

int main() {
  espalier::set_verbosity(espalier::Verbosity::quiet);  // stdout is for the answers
  for (std::string line; std::getline(std::cin, line);) {
    std::vector<std::string> words;
    std::istringstream parts(line);
    for (std::string word; std::getline(parts, word, '\t');) words.push_back(word);
    std::cout << espalier::outcome(words).dump(-1, ' ', true,
                                               nlohmann::json::error_handler_t::replace)
              << std::endl;
  }
}
