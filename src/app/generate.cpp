// `espalier generate`: text from a language model, as it comes.

#include "espalier/train/generate.h"

#include <ATen/Parallel.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <fstream>
#include <iostream>
#include <iterator>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <thread>

#include "espalier/app/commands.h"
#include "espalier/app/isa.h"
#include "espalier/app/options.h"
#include "espalier/base/hdf5.h"
#include "espalier/data/text_codec.h"
#include "espalier/data/tokenizer.h"
#include "espalier/record/checkpoint.h"
#include "espalier/train/weights.h"

namespace espalier {
namespace {

namespace fs = std::filesystem;
using Seconds = std::chrono::duration<double>;
using Tokens = std::vector<std::int64_t>;

constexpr std::int64_t kMostTokens = 1'000'000'000;
constexpr std::int64_t kMostThreads = 1024;
constexpr const char* kInput = "model.ini";

struct GenerateRequest {
  fs::path model;
  std::optional<std::string> prompt;
  std::int64_t tokens = 100;
  Sampling sampling;
  fs::path tokenizer;
  std::int64_t context = 0;  ///< 0: the model's
  std::int64_t threads = 0;  ///< 0: one for each core
  bool ids = false;
  bool ignore_end = false;
  bool cached = true;
};

[[noreturn]] void refuse_value(const std::string& key, const char* wanted,
                               const std::string& value) {
  throw InputError(formatted("{} is {}, not '{}'", key, wanted, value));
}

std::int64_t whole_number(const std::string& key, const std::string& value, std::int64_t least,
                          std::int64_t most) {
  const auto number = parse_integer(value);
  if (!number || *number < least || *number > most) {
    refuse_value(key, formatted("a whole number from {} to {}", least, most).c_str(), value);
  }
  return *number;
}

GenerateRequest parse(const std::vector<std::string>& arguments) {
  GenerateRequest request;
  std::set<std::string> given;
  for (const std::string& word : arguments) {
    if (!word.starts_with("--")) {
      if (!request.model.empty()) {
        throw InputError(
            formatted("generate takes one model; '{}' or '{}'?", request.model.string(), word));
      }
      request.model = word;
      continue;
    }
    const std::size_t sign = word.find('=');
    const std::string key = word.substr(0, sign);
    const std::string value = sign == std::string::npos ? "" : word.substr(sign + 1);
    const bool is_flag = key == "--ids" || key == "--ignore_end" || key == "--no_cache";
    if (is_flag == (sign != std::string::npos)) {
      throw InputError(is_flag ? formatted("{} has no value", key)
                               : formatted("'{}' needs a value: {}=VALUE", key, key));
    }
    if (!given.insert(key).second) throw InputError(formatted("{} is given twice", key));
    if (key == "--prompt") {
      request.prompt = value;
    } else if (key == "--tokens") {
      request.tokens = whole_number(key, value, 1, kMostTokens);
    } else if (key == "--temperature") {
      const auto number = parse_real(value);
      if (!number || *number < 0 || *number > 1e6) {
        refuse_value(key, "a number from 0 (the most probable token) to 1000000", value);
      }
      request.sampling.temperature = *number;
    } else if (key == "--top_k") {
      request.sampling.top_k = whole_number(key, value, 0, kMostTokens);
    } else if (key == "--top_p") {
      const auto number = parse_real(value);
      if (!number || *number <= 0 || *number > 1) {
        refuse_value(key, "a number above 0 and at most 1", value);
      }
      request.sampling.top_p = *number;
    } else if (key == "--seed") {
      request.sampling.seed = whole_number(key, value, 0, 9'000'000'000'000'000);
    } else if (key == "--tokenizer") {
      if (value.empty()) throw InputError("--tokenizer needs a file: --tokenizer=tokenizer.json");
      request.tokenizer = value;
    } else if (key == "--context") {
      request.context = whole_number(key, value, 1, kMostTokens);
    } else if (key == "--threads") {
      request.threads = whole_number(key, value, 1, kMostThreads);
    } else if (key == "--ids") {
      request.ids = true;
    } else if (key == "--ignore_end") {
      request.ignore_end = true;
    } else if (key == "--no_cache") {
      request.cached = false;
    } else {
      throw InputError(
          formatted("generate has --prompt, --tokens, --temperature, --top_k, --top_p, --seed, "
                    "--tokenizer, --context, --threads, --ids, --ignore_end and --no_cache, not "
                    "'{}'",
                    key));
    }
  }
  if (request.model.empty()) {
    throw InputError("generate needs a model: espalier generate MODEL --prompt=TEXT");
  }
  if (!request.prompt) {
    throw InputError("generate needs --prompt=TEXT, or --prompt=- to read it from standard input");
  }
  if (*request.prompt == "-") {
    request.prompt = std::string(std::istreambuf_iterator<char>(std::cin), {});
  }
  const bool samples = request.sampling.temperature > 0;
  for (const char* key : {"--top_k", "--top_p", "--seed"}) {
    if (!samples && given.count(key) > 0) {
      throw InputError(formatted("{} needs --temperature above 0: at 0 nothing is drawn", key));
    }
  }
  return request;
}

/// A model with what turns its tokens into text.
struct LanguageModel {
  Model model;
  Parameters values;
  std::unique_ptr<TextCodec> codec;  ///< null: the model does not say what its tokens are
  std::set<std::int64_t> ends;       ///< tokens that end a text
  std::int64_t context = 0;
};

void refuse_other_model(const std::string& origin, const DataShape& shape) {
  if (!shape.next_token) {
    throw InputError(
        formatted("{} holds a model that does not predict the next token of a text: "
                  "take one of the family gpt or lstm",
                  origin));
  }
}

/// A model has learned, or states, how far it looks back: more would not be what was asked for.
void refuse_longer_context(const GenerateRequest& request, std::int64_t most) {
  if (request.context <= most) return;
  throw InputError(
      formatted("--context = {} is more than the {} tokens that {} looks back: set at "
                "most {}, or leave it out",
                request.context, most, request.model.string(), most));
}

LanguageModel from_checkpoint(const GenerateRequest& request, const OptionTable& options) {
  StoredModel stored = read_stored_model(request.model, options);
  const std::string origin = request.model.string();
  refuse_other_model(origin, stored.model.shape);
  LanguageModel result{std::move(stored.model), std::move(stored.values), nullptr, {}, 0};
  result.context = result.model.shape.sample[0];
  refuse_longer_context(request, result.context);
  if (request.context > 0) result.context = request.context;
  if (!stored.data.words.empty()) {
    result.codec = word_codec(stored.data.words);
  } else if (stored.data.name == "text" || stored.data.name == "leaf") {
    result.codec = byte_codec();
  }
  return result;
}

/// A JSON file of the folder; null if there is none.
nlohmann::json json_file(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) return nullptr;
  nlohmann::json content = nlohmann::json::parse(file, nullptr, /*allow_exceptions=*/false);
  if (!content.is_object()) throw DataError(formatted("{} is no JSON object", path.string()));
  return content;
}

std::int64_t positive(const nlohmann::json& object, const char* name) {
  if (!object.is_object()) return 0;
  const auto found = object.find(name);
  const bool usable = found != object.end() && found->is_number_integer();
  return usable ? std::max<std::int64_t>(0, found->get<std::int64_t>()) : 0;
}

void add_ends(const nlohmann::json& object, std::set<std::int64_t>& ends) {
  if (!object.is_object() || !object.contains("eos_token_id")) return;
  const nlohmann::json& value = object["eos_token_id"];
  for (const auto& item : value.is_array() ? value : nlohmann::json::array({value})) {
    if (item.is_number_integer()) ends.insert(item.get<std::int64_t>());
  }
}

bool ends_with_any(const std::string& name, std::initializer_list<const char*> endings) {
  return std::ranges::any_of(endings, [&](const char* end) { return name.ends_with(end); });
}

/// The shape of the texts, from the weights: rows of the embedding, and of the table of positions
/// if there is one.
DataShape shape_of(const std::vector<NamedTensor>& tensors, const GenerateRequest& request,
                   std::int64_t length) {
  DataShape shape{{length}, 0, 0, true};
  for (const NamedTensor& tensor : tensors) {
    if (tensor.shape.size() != 2) continue;
    if (ends_with_any(tensor.name, {"embed_tokens.weight", "wte.weight", "embedding.weight"})) {
      shape.vocabulary = shape.classes = tensor.shape[0];
    }
    if (ends_with_any(tensor.name, {"wpe.weight"})) {
      refuse_longer_context(request, tensor.shape[0]);
      shape.sample[0] = std::min(length, tensor.shape[0]);
    }
  }
  if (shape.vocabulary == 0) {
    throw DataError(formatted("{} has no embedding of tokens (embed_tokens.weight or wte.weight)",
                              request.model.string()));
  }
  return shape;
}

/// A folder with model.ini (the section [model] of an input), weights, and if they are
/// there tokenizer.json and Hugging Face's config.json and generation_config.json. `needed`: tokens
/// of the text, of which the tables of positions need no more.
LanguageModel from_folder(const GenerateRequest& request, const OptionTable& options,
                          std::unique_ptr<TextCodec> codec, std::int64_t needed) {
  const nlohmann::json sizes = json_file(request.model / "config.json");
  Config config(options);
  config.read_file(request.model / kInput);
  set_model_defaults(config);
  const std::vector<NamedTensor> tensors = read_weights(request.model);
  std::int64_t length = needed;
  if (const std::int64_t most = positive(sizes, "max_position_embeddings"); most > 0) {
    refuse_longer_context(request, most);
    length = std::min(length, most);
  }
  const DataShape shape = shape_of(tensors, request, length);
  LanguageModel result{build_model(config, shape), {}, std::move(codec), {}, shape.sample[0]};
  refuse_other_model(request.model.string(), result.model.shape);
  result.values = Parameters(std::make_shared<const BufferLayout>(
      result.model.layout, Submodel::full(*result.model.layout), Packing::aligned));
  place_weights(tensors, request.model.string(), /*partial=*/false, result.values);
  add_ends(json_file(request.model / "generation_config.json"), result.ends);
  add_ends(sizes, result.ends);
  return result;
}

/// "1, 2 3".
Tokens parse_ids(const std::string& text) {
  Tokens tokens;
  std::string word;
  const auto give = [&] {
    if (!word.empty()) tokens.push_back(whole_number("a token of --prompt", word, 0, kMostTokens));
    word.clear();
  };
  for (const char c : text) {
    if (c == ',' || c == ' ' || c == '\n' || c == '\r' || c == '\t') {
      give();
    } else {
      word += c;
    }
  }
  give();
  return tokens;
}

Tokens prompt_tokens(const GenerateRequest& request, const TextCodec* codec) {
  if (request.ids) return parse_ids(*request.prompt);
  if (codec == nullptr) {
    throw InputError(formatted(
        "{} does not say what its tokens are: add --tokenizer=FILE (a tokenizer.json), or "
        "--ids to give and to get numbers of tokens",
        request.model.string()));
  }
  return codec->encode(*request.prompt);
}

struct Prompted {
  LanguageModel language;
  Tokens prompt;
};

Prompted load(const GenerateRequest& request, const OptionTable& options) {
  if (!fs::exists(request.model)) {
    throw InputError(
        formatted("there is no {}: give a checkpoint (.h5), or a folder with model.ini "
                  "and model.safetensors",
                  request.model.string()));
  }
  std::unique_ptr<TextCodec> codec;
  const bool is_folder = fs::is_directory(request.model);
  if (is_folder && !fs::exists(request.model / kInput)) {
    if (fs::exists(request.model / "checkpoints")) refuse_folder(request.model);
    throw InputError(
        formatted("{} has no {}: a folder needs it beside its weights, as tools/get_model.py "
                  "writes them",
                  request.model.string(), kInput));
  }
  const fs::path own = request.model / "tokenizer.json";
  const fs::path file = !request.tokenizer.empty()     ? request.tokenizer
                        : is_folder && fs::exists(own) ? own
                                                       : fs::path();
  if (!file.empty()) codec = tokenizer_codec(file);
  Prompted result;
  if (is_folder) {
    result.prompt = prompt_tokens(request, codec.get());
    const std::int64_t most = std::ssize(result.prompt) + request.tokens;
    const std::int64_t length = request.context > 0 ? std::min(request.context, most) : most;
    result.language = from_folder(request, options, std::move(codec), length);
  } else {
    if (request.model.extension() != ".h5") {
      throw InputError(
          formatted("{} is neither a checkpoint (.h5) nor a folder with model.ini and "
                    "model.safetensors",
                    request.model.string()));
    }
    result.language = from_checkpoint(request, options);
    if (codec) result.language.codec = std::move(codec);
    result.prompt = prompt_tokens(request, result.language.codec.get());
  }
  const std::int64_t vocabulary = result.language.model.shape.vocabulary;
  const TextCodec* used = request.ids ? nullptr : result.language.codec.get();
  if (used != nullptr && used->vocabulary() > vocabulary) {
    throw InputError(
        formatted("the tokenizer has {} tokens and the model {}: they do not belong "
                  "together",
                  used->vocabulary(), vocabulary));
  }
  if (result.prompt.empty()) throw InputError("the prompt has no token; write at least one word");
  for (const std::int64_t token : result.prompt) {
    if (token >= vocabulary) {
      throw InputError(
          formatted("the prompt has the token {}, and the model has only {}", token, vocabulary));
    }
  }
  return result;
}

/// Prints tokens as they come.
class Printer {
 public:
  Printer(const GenerateRequest& request, const TextCodec* codec)
      : codec_(request.ids ? nullptr : codec) {}
  void token(std::int64_t token) {
    if (codec_ == nullptr) {
      put((first_ ? "" : " ") + std::to_string(token));
    } else if (!codec_->is_special(token)) {
      put(characters_.push(codec_->bytes_of(token, first_)));
    }
    first_ = false;
  }
  void finish() { put(characters_.finish() + "\n"); }

 private:
  void put(const std::string& text) {
    const std::size_t written = std::fwrite(text.data(), 1, text.size(), stdout);
    if (written != text.size() || std::fflush(stdout) != 0) {
      throw OutputError("the text cannot be written to standard output");
    }
  }
  const TextCodec* codec_;
  bool first_ = true;
  CharacterStream characters_;
};

}  // namespace

int generate_command(const Protocols& protocols, const std::vector<std::string>& arguments) {
  const GenerateRequest request = parse(arguments);
  apply_isa(best_isa());
  h5_quiet();
  const auto cores = static_cast<std::int64_t>(std::max(1U, std::thread::hardware_concurrency()));
  at::set_num_threads(static_cast<int>(request.threads > 0 ? request.threads : cores));
  const Prompted prompted = load(request, all_options(protocols));
  const LanguageModel& language = prompted.language;
  const Tokens& prompt = prompted.prompt;

  const std::int64_t needed = std::ssize(prompt) + request.tokens;
  TextReader reader(language.model, language.values, std::min(needed, language.context),
                    request.cached);
  const auto is_end = [&](std::int64_t token) {
    if (request.ignore_end) return false;
    if (!language.ends.empty()) return language.ends.count(token) > 0;
    return language.codec != nullptr && language.codec->is_special(token);
  };
  Printer printer(request, language.codec.get());
  using Clock = std::chrono::steady_clock;
  const auto begin = Clock::now();
  std::span<const float> logits = reader.read(prompt);
  const auto read = Clock::now();
  std::int64_t made = 0;
  while (made < request.tokens) {
    const std::int64_t token = choose_token(logits, request.sampling, std::ssize(prompt) + made);
    if (is_end(token)) break;
    printer.token(token);
    ++made;
    if (made == request.tokens) break;
    logits = reader.read({&token, 1});
  }
  printer.finish();
  const auto end = Clock::now();
  const auto rate = [](std::int64_t tokens, Seconds time) {
    return formatted("{} tokens in {:.2f} s ({:.1f} tokens/s)", tokens, time.count(),
                     static_cast<double>(tokens) / std::max(time.count(), 1e-9));
  };
  std::fprintf(stderr, "prompt: %s; text: %s; context %lld tokens, cache %.1f MB\n",
               rate(std::ssize(prompt), read - begin).c_str(), rate(made, end - read).c_str(),
               static_cast<long long>(std::min(needed, language.context)),
               static_cast<double>(reader.cache_bytes()) * 1e-6);
  return 0;
}

}  // namespace espalier
