#include "espalier/app/request.h"

#include <algorithm>
#include <boost/program_options.hpp>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <sstream>

#include "espalier/base/error.h"
#include "espalier/base/log.h"
#include "espalier/config/options.h"

namespace espalier {
namespace {

namespace po = boost::program_options;

po::options_description flags() {
  po::options_description list("Flags of run");
  list.add_options()  //
      ("resume", po::value<std::string>()->default_value("auto"),
       "resume an existing run: auto (if there is one), never, require")                    //
      ("overwrite", po::bool_switch(), "delete another run in the folder")                  //
      ("wall", po::value<std::string>(), "stop at a checkpoint after hh:mm:ss")             //
      ("check", po::bool_switch(), "build everything, train nothing, print a description")  //
      ("print-config", po::bool_switch(), "print an input file with every value")           //
      ("quiet,q", po::bool_switch(),
       "print the last line only; with --check, the line on memory")  //
      ("verbose,v", po::bool_switch(),
       "print a line for every version; with --check, the labels of each client");
  return list;
}

/// Removes --section.key=value from `words` and returns it; Boost would refuse an empty value.
std::vector<std::pair<std::string, std::string>> take_settings(std::vector<std::string>& words) {
  std::vector<std::pair<std::string, std::string>> settings;
  std::erase_if(words, [&](const std::string& word) {
    const std::string key = word.substr(0, word.find('='));
    if (!key.starts_with("--") || key.find('.') == std::string::npos) return false;
    if (key.size() == word.size()) {
      throw InputError(formatted("'{}' needs a value: {}=VALUE", word, word));
    }
    settings.emplace_back(key.substr(2), word.substr(key.size() + 1));
    return true;
  });
  return settings;
}

Resume parse_resume(const std::string& text) {
  if (text == "auto") return Resume::automatic;
  if (text == "never") return Resume::never;
  if (text == "require") return Resume::require;
  throw InputError(formatted("--resume is auto, never or require, not '{}'", text));
}

std::chrono::seconds parse_wall(const std::string& text) {
  int hours = 0, minutes = 0, seconds = 0, read = 0;
  const int fields = std::sscanf(text.c_str(), "%d:%2d:%2d%n", &hours, &minutes, &seconds, &read);
  const bool whole = fields == 3 && static_cast<std::size_t>(read) == text.size();
  if (!whole || hours < 0 || minutes < 0 || minutes > 59 || seconds < 0 || seconds > 59) {
    throw InputError(formatted("--wall needs hh:mm:ss, not '{}'", text));
  }
  return std::chrono::hours(hours) + std::chrono::minutes(minutes) + std::chrono::seconds(seconds);
}

}  // namespace

Request parse_request(std::vector<std::string> arguments) {
  Request r;
  r.settings = take_settings(arguments);
  po::options_description all = flags();
  all.add_options()("input", po::value<std::vector<std::string>>());
  po::positional_options_description positional;
  positional.add("input", -1);
  const int style = po::command_line_style::default_style & ~po::command_line_style::allow_guessing;
  po::variables_map given;
  try {
    po::store(
        po::command_line_parser(arguments).options(all).positional(positional).style(style).run(),
        given);
  } catch (const po::error& error) {
    throw InputError(formatted("{}; `espalier --help` lists the flags", error.what()));
  }
  r.overwrite = given["overwrite"].as<bool>();
  r.resume = parse_resume(given["resume"].as<std::string>());
  if (given.count("wall") != 0) r.wall = parse_wall(given["wall"].as<std::string>());
  r.check = given["check"].as<bool>();
  r.print_config = given["print-config"].as<bool>();
  if (given["quiet"].as<bool>()) r.verbosity = Verbosity::quiet;
  if (given["verbose"].as<bool>()) r.verbosity = Verbosity::verbose;
  if (given.count("input") == 0) {
    throw InputError("run needs an input file: espalier run INPUT.ini");
  }
  const auto& inputs = given["input"].as<std::vector<std::string>>();
  if (inputs.size() > 1) {
    throw InputError(formatted("one input file at a time: '{}' or '{}'?", inputs[0], inputs[1]));
  }
  r.input = inputs[0];
  return r;
}

std::optional<std::chrono::steady_clock::time_point> stop_time(
    const Request& request, std::chrono::steady_clock::time_point begun) {
  constexpr std::int64_t kMostForSaving_s = 60;
  std::optional<std::chrono::steady_clock::time_point> stop;
  if (request.wall) stop = begun + *request.wall;
  const char* end = std::getenv("SLURM_JOB_END_TIME");  // seconds since 1970
  if (end == nullptr) return stop;
  const std::int64_t left = parse_integer(end).value_or(0) - std::time(nullptr);
  if (left <= 0) {
    log_warning("SLURM_JOB_END_TIME has passed: it seems to be of another job, and is ignored");
    return stop;
  }
  const auto last = std::chrono::steady_clock::now() +
                    std::chrono::seconds(left - std::min(kMostForSaving_s, left / 10));
  return stop ? std::min(*stop, last) : last;
}

std::vector<std::string> flag_names() {
  std::vector<std::string> names;
  const po::options_description list = flags();
  for (const auto& option : list.options()) names.push_back("--" + option->long_name());
  return names;
}

std::string describe_flags() {
  std::ostringstream text;
  text << flags();
  return text.str();
}

}  // namespace espalier
