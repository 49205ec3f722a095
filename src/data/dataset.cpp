#include "espalier/data/dataset.h"

#include <algorithm>
#include <cstdlib>
#include <limits>

#include "espalier/base/archive.h"
#include "files.h"
#include "splits.h"

namespace espalier {
namespace {

Registry<DataSource> make_sources() {
  Registry<DataSource> sources("dataset");
  sources.add("digits",
              "5,000 + 1,000 handwritten digits (a part of MNIST) that come with the program",
              digits_source());
  sources.add("mnist",
              "handwritten digits, 60,000 + 10,000 images of 28 x 28 (IDX files, gzipped or not)",
              mnist_source());
  sources.add("fashion-mnist", "images of clothes in MNIST's format, 60,000 + 10,000 (IDX files)",
              fashion_mnist_source());
  sources.add("cifar10", "CIFAR-10, colour images of 32 x 32 in 10 classes (binary files)",
              cifar10_source());
  sources.add("cifar100", "CIFAR-100, colour images of 32 x 32 in 100 classes (binary files)",
              cifar100_source());
  sources.add("synthetic", "class means plus noise, of any size and shape; needs no files",
              synthetic_source());
  sources.add("text", "a text file for language models, as bytes or words", text_source());
  sources.add("tokens",
              "a folder of tokens for language models, with documents, clients and a split",
              tokens_source());
  sources.add("agnews", "AG News, titles and descriptions as words in 4 classes (csv files)",
              agnews_source());
  sources.add("arrays", "your own arrays x and y (client, split) in an HDF5 file or npy files",
              arrays_source());
  sources.add("leaf",
              "the LEAF benchmark's JSON files with their users as clients: Shakespeare, FEMNIST",
              leaf_source());
  sources.add("csv", "your own table of features or tokens, with a column for the class",
              csv_source());
  return sources;
}

}  // namespace

const Registry<DataSource>& data_sources() {
  static const Registry<DataSource> kSources = make_sources();
  return kSources;
}

void declare_data_options(OptionTable& table) {
  std::vector<std::string> names;
  for (const auto& item : data_sources().items()) names.push_back(item.name);
  table.add_choice("data.name", "digits", "data set to train on", names);
  table.add(
      {.key = "data.dir",
       .type = OptionType::text,
       .default_value = "",
       .help = "folder of the data; empty = the environment variable ESPALIER_DATA, else 'data'",
       .on_resume = OnResume::place});
  table.add({.key = "data.file",
             .type = OptionType::text,
             .default_value = "",
             .help =
                 "text, arrays, csv, leaf, tokens: the file or folder, relative to the data folder "
                 "or the working directory; empty = tinyshakespeare/input.txt, arrays.h5 (or "
                 "x.npy, y.npy, ...), data.csv, the folders leaf and tokens"});
  table.add({.key = "data.length",
             .type = OptionType::integer,
             .default_value = "64",
             .help = "text, tokens, agnews, csv of texts: tokens of a sample",
             .unit = "tokens",
             .minimum = 1,
             .maximum = 1e6});
  table.add({.key = "data.stride",
             .type = OptionType::integer,
             .default_value = "0",
             .help = "text, tokens: tokens from one test window to the next; where windows "
                     "overlap, a token is predicted once, with the most tokens before it; 0 = "
                     "data.length",
             .unit = "tokens",
             .minimum = 0,
             .maximum = 1e6});
  table.add(
      {.key = "data.vocabulary",
       .type = OptionType::integer,
       .default_value = "10000",
       .help = "text (words), agnews, csv of texts, arrays and csv of tokens: number of different "
               "tokens; of words, 0 is padding and 1 any word outside the vocabulary; tokens: only "
               "for --check without the files",
       .unit = "tokens",
       .minimum = 3,
       .maximum = 1e7});
  table.add_choice("data.partition", "iid", "division of the training samples among the clients",
                   {"iid", "dirichlet", "shards", "dominant", "long_tail", "given", "file"});
  table.add({.key = "data.partition_file",
             .type = OptionType::text,
             .default_value = "",
             .help = "data.partition = file: a text file with the client of each training sample, "
                     "one number from 0 on each line"});
  table.add(
      {.key = "data.alpha",
       .type = OptionType::real,
       .default_value = "0.5",
       .help = "concentration of the Dirichlet partition; with small values clients differ more",
       .minimum = 1e-3});
  table.add({.key = "data.dirichlet_parts",
             .type = OptionType::real_list,
             .default_value = "",
             .help = "Dirichlet partition: number of drawn parts that make up each client's data, "
                     "one number for all or one for each client in order; more parts make it "
                     "larger and more even; empty = 1"});
  table.add({.key = "data.samples_per_client",
             .type = OptionType::integer,
             .default_value = "0",
             .help = "samples that each client draws, independently of the others; 0 = all samples "
                     "are divided among the clients",
             .minimum = 0});
  table.add({.key = "data.min_per_client",
             .type = OptionType::integer,
             .default_value = "1",
             .help = "fewest samples of a client if data.samples_per_client is 0",
             .minimum = 1});
  table.add({.key = "data.shards_per_client",
             .type = OptionType::integer,
             .default_value = "2",
             .help = "shards of each client in the shards partition",
             .minimum = 1});
  table.add(
      {.key = "data.dominant_share",
       .type = OptionType::real,
       .default_value = "0.8",
       .help = "dominant partition: fraction of a client's samples that have its dominant class",
       .minimum = 0,
       .maximum = 1});
  table.add({.key = "data.imbalance",
             .type = OptionType::real,
             .default_value = "100",
             .help = "long_tail partition: samples of the first class for each sample of the last; "
                     "sizes fall exponentially between them",
             .minimum = 1,
             .maximum = 1e9});
  table.add_choice("data.long_tail_split", "iid", "division of the long tail among the clients",
                   {"iid", "dirichlet"});
  table.add({.key = "data.local_test",
             .type = OptionType::real,
             .default_value = "0",
             .help = "fraction of each client's samples that is kept for local tests",
             .minimum = 0,
             .maximum = 0.9});
  table.add_choice(
      "data.augment", "none",
      "changes of training images: crop_flip moves them by up to 4 pixels and mirrors half of them",
      {"none", "crop_flip"});
  table.add({.key = "data.mask_rate",
             .type = OptionType::real,
             .default_value = "0",
             .help = "texts: fraction of the tokens of each text that are hidden and predicted, in "
                     "place of the next tokens; 0 = none",
             .minimum = 0,
             .maximum = 1});
  table.add({.key = "data.train_limit",
             .type = OptionType::integer,
             .default_value = "0",
             .help = "number of training samples that are used, from the first; 0 = all",
             .minimum = 0});
  table.add({.key = "data.test_limit",
             .type = OptionType::integer,
             .default_value = "0",
             .help = "number of test samples that are used, from the first; 0 = all",
             .minimum = 0});
  table.add({.key = "data.calibration",
             .type = OptionType::integer,
             .default_value = "1000",
             .help = "training samples on which the statistics of batch norms are computed before "
                     "an evaluation",
             .minimum = 1});
  for (const auto& item : data_sources().items()) item.value.declare(table);
}

namespace {

/// The training samples without data.train_limit.
std::int64_t unlimited_samples(const Config& config) {
  Config unlimited = config;
  unlimited.set("data.train_limit", "0", "the partition");
  return data_sources()
      .get(config.text("data.name"))
      .value.load(unlimited, data_folder(config))
      .train->size();
}

/// Sets the client of each training sample from data.partition_file.
void read_clients(const Config& config, Dataset& data) {
  if (config.text("data.partition_file").empty()) {
    throw InputError("data.partition = file needs data.partition_file");
  }
  const std::filesystem::path path =
      named_file(config, "data.partition_file", data_folder(config), "");
  const MappedFile file(path);
  const auto bytes = file.bytes();
  std::string_view rest(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  rest.remove_prefix(mark_of_utf8(bytes, path));
  const auto refuse = [&](std::int64_t line, std::string_view text) {
    throw DataError(formatted("{} line {} is '{}': write the number of a client, from 0",
                              path.string(), line, text.substr(0, 40)));
  };
  const std::int64_t samples = data.train->size();
  data.client_of.clear();
  std::int64_t lines = 0;
  for (; !rest.empty(); ++lines) {
    const std::size_t end = std::min(rest.find('\n'), rest.size());
    const std::string_view text = trimmed(rest.substr(0, end));
    rest.remove_prefix(std::min(end + 1, rest.size()));
    const auto client = parse_integer(text);
    if (!client || *client < 0 || *client > std::numeric_limits<std::int32_t>::max()) {
      refuse(lines + 1, text);
    }
    if (lines < samples) data.client_of.push_back(static_cast<std::int32_t>(*client));
  }
  const std::int64_t all = lines == samples ? samples : unlimited_samples(config);
  if (lines != samples && lines != all) {
    throw DataError(formatted(
        "{} has {} lines, and {} has {} training samples{}: write one for each", path.string(),
        lines, data.name, all,
        all > samples ? formatted(", of which data.train_limit leaves {}", samples) : ""));
  }
  data.files.push_back(path.string());
}

}  // namespace

void archive_format(Archive& archive, Dataset& data) {
  DataShape& shape = data.shape;
  archive.value("sample_shape", shape.sample);
  archive.value("classes", shape.classes);
  archive.value("vocabulary", shape.vocabulary);
  archive_flags(archive, "next_token", {&shape.next_token});
  archive.value("unit", data.normalisation.unit);
  archive.value("mean", data.normalisation.mean);
  archive.value("deviation", data.normalisation.deviation);
  archive.value("words", data.words);
}

std::filesystem::path data_folder(const Config& config) {
  const std::string given = config.text("data.dir");
  if (!given.empty()) return given;
  const char* environment = std::getenv("ESPALIER_DATA");
  return environment && *environment ? environment : "data";
}

Dataset load_dataset(const Config& config) {
  const DataSource& source = data_sources().get(config.text("data.name")).value;
  Dataset data = source.load(config, data_folder(config));
  if (config.text("data.partition") == "file") read_clients(config, data);
  if (config.text("data.augment") == "crop_flip") {
    data.train = make_augmented(std::move(data.train), data.shape);
  }
  make_masked(config, data);
  return data;
}

}  // namespace espalier
