#include "espalier/app/request.h"

#include <fmt/format.h>

#include <boost/program_options.hpp>
#include <sstream>

#include "espalier/base/error.h"

namespace espalier {
namespace {

namespace po = boost::program_options;

po::options_description flags() {
  po::options_description list("Flags of run");
  list.add_options()                                                                         //
      ("overwrite", po::bool_switch(), "delete what another run left in the folder")         //
      ("check", po::bool_switch(), "build everything, train nothing, print what would run")  //
      ("print-config", po::bool_switch(), "print an input file with every value")            //
      ("quiet,q", po::bool_switch(), "print the last line only")                             //
      ("verbose,v", po::bool_switch(), "print more");
  return list;
}

/// Takes --section.key=value out of `words`; Boost would refuse one with an empty value.
std::vector<std::pair<std::string, std::string>> take_settings(std::vector<std::string>& words) {
  std::vector<std::pair<std::string, std::string>> settings;
  std::erase_if(words, [&](const std::string& word) {
    const std::string key = word.substr(0, word.find('='));
    if (!key.starts_with("--") || key.find('.') == std::string::npos) return false;
    if (key.size() == word.size()) {
      throw InputError(fmt::format("'{}' needs a value: {}=VALUE", word, word));
    }
    settings.emplace_back(key.substr(2), word.substr(key.size() + 1));
    return true;
  });
  return settings;
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
    throw InputError(fmt::format("{}; `espalier --help` lists the flags", error.what()));
  }
  r.overwrite = given["overwrite"].as<bool>();
  r.check = given["check"].as<bool>();
  r.print_config = given["print-config"].as<bool>();
  if (given["quiet"].as<bool>()) r.verbosity = Verbosity::quiet;
  if (given["verbose"].as<bool>()) r.verbosity = Verbosity::verbose;
  if (given.count("input") == 0) {
    throw InputError("run needs an input file: espalier run INPUT.ini");
  }
  const auto& inputs = given["input"].as<std::vector<std::string>>();
  if (inputs.size() > 1) {
    throw InputError(fmt::format("one input file at a time: '{}' or '{}'?", inputs[0], inputs[1]));
  }
  r.input = inputs[0];
  return r;
}

std::string describe_flags() {
  std::ostringstream text;
  text << flags();
  return text.str();
}

}  // namespace espalier
