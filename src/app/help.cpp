#include "espalier/app/help.h"

#include <fmt/ranges.h>

#include <map>
#include <set>
#include <vector>

#include "espalier/app/request.h"
#include "espalier/config/describe.h"
#include "espalier/data/dataset.h"
#include "espalier/model/model.h"
#include "espalier/record/software.h"

namespace espalier {
namespace {

/// Names of things by the option that chooses one; built once, because protocols make their lists
/// anew at every call.
using NamesByOption = std::map<std::string, std::vector<std::string>>;

NamesByOption names_by_option(const Protocols& protocols) {
  NamesByOption names;
  for (const auto& item : model_families().items()) names["model.name"].push_back(item.name);
  for (const auto& item : data_sources().items()) names["data.name"].push_back(item.name);
  for (const Protocol& protocol : protocols) {
    for (const Listing& listing : protocol.list()) {
      const std::string key = listing.kind == "method" ? "method.name" : listing.kind;
      for (const Listing::Item& item : listing.items) names[key].push_back(item.name);
    }
  }
  return names;
}

/// Values that an option takes, if they are few and have names.
std::vector<std::string> named_values(const NamesByOption& names, const Option& option) {
  if (option.type == OptionType::boolean) return {"true", "false"};
  if (option.type == OptionType::choice) return option.choices;
  const auto found = names.find(option.key);
  return found == names.end() ? std::vector<std::string>() : found->second;
}

/// Text in which troff sees no command: a backslash, or a period or quote that begins a line.
std::string troff(const std::string& text) {
  std::string escaped;
  bool begins = true;
  for (const char c : text) {
    if (begins && (c == '.' || c == '\'')) escaped += "\\&";
    escaped += c == '\\' ? "\\e" : c == '-' ? "\\-" : std::string(1, c);
    begins = c == '\n';
  }
  return escaped;
}

struct Command {
  const char *name, *words, *help;
};
constexpr Command kCommands[] = {
    {"run", "INPUT.ini [FLAG] [--section.key=value ...]", "train, or resume"},
    {"list", "[WORD]", "methods, models, datasets, devices, options, files"},
    {"explain", "NAME", "an option, method, rule, model, data set, device"},
    {"info", "FILE.h5", "content of a run or checkpoint file"},
    {"diff", "[--values | --all] A.h5 B.h5", "the first value that differs"},
    {"export", "CKPT.h5 OUT [--dtype=TYPE ...]",
     "the global model, to a .safetensors file or a folder"},
    {"evaluate", "CKPT.h5 [--data.key=value ...]", "a model on test samples, of its run or others"},
    {"generate", "MODEL --prompt=TEXT [--tokens=N ...]", "text from a language model"},
    {"calibrate", "[NAME] [--quick] [-v]", "measure this machine, print a [device.NAME]"},
    {"completion", "bash | zsh", "a script for the shell"},
    {"man", "", "the manual page: espalier man | man -l -"},
    {"help", "", "this text; espalier run --help prints the flags of run"},
    {"--version", "", "release, commit, libraries"}};

/// One line for each.
std::string command_lines() {
  std::string text;
  for (const Command& command : kCommands) {
    const std::string call = formatted("espalier {} {}", command.name, command.words);
    text += formatted("{:<54} {}\n", call, command.help);
  }
  return text;
}

constexpr const char* kExamples =
    "espalier run inputs/quickstart.ini --train.lr=0.1 --run.name=faster\n"
    "tools/mpirun.sh -n 3 build/espalier run inputs/quickstart.ini\n"
    "espalier explain window.grace_s\n";

constexpr const char* kCompletion = R"(_espalier() {
  local word="${COMP_WORDS[COMP_CWORD]}" key=""
  # Bash splits words at "=": the key of a value is before it.
  if [[ $word == "=" ]]; then
    key="${COMP_WORDS[COMP_CWORD - 1]}" word=""
  elif (( COMP_CWORD > 1 )) && [[ ${COMP_WORDS[COMP_CWORD - 1]} == "=" ]]; then
    key="${COMP_WORDS[COMP_CWORD - 2]}"
  fi
  COMPREPLY=()
  if (( COMP_CWORD == 1 )); then
    COMPREPLY=($(compgen -W "$_espalier_commands" -- "$word"))
    return
  fi
  case "${COMP_WORDS[1]}" in
    run)
      if [[ -n $key ]]; then
        COMPREPLY=($(compgen -W "${_espalier_values[$key]}" -- "$word"))
      elif [[ $word == -* ]]; then
        COMPREPLY=($(compgen -W "$_espalier_flags" -- "$word")
                   $(compgen -S = -W "$_espalier_keys" -- "$word"))
        [[ ${#COMPREPLY[@]} == 1 && ${COMPREPLY[0]} == *= ]] && compopt -o nospace
      else
        COMPREPLY=($(compgen -f -X '!*.ini' -- "$word") $(compgen -S / -d -- "$word"))
        [[ ${#COMPREPLY[@]} == 1 && ${COMPREPLY[0]} == */ ]] && compopt -o nospace
      fi ;;
    list) COMPREPLY=($(compgen -W "methods models datasets devices options files" -- "$word")) ;;
    explain) COMPREPLY=($(compgen -W "$_espalier_names" -- "$word")) ;;
    completion) COMPREPLY=($(compgen -W "bash zsh" -- "$word")) ;;
    info | diff | export | evaluate | generate)
      COMPREPLY=($(compgen -f -X '!*.h5' -- "$word") $(compgen -S / -d -- "$word"))
      [[ ${#COMPREPLY[@]} == 1 && ${COMPREPLY[0]} == */ ]] && compopt -o nospace ;;
  esac
}
complete -F _espalier espalier
)";

}  // namespace

std::string usage() {
  return formatted(
      "Espalier: train large models together on many weak machines.\n\n{}\n{}\nExamples:\n{}",
      command_lines(), describe_flags(), kExamples);
}

std::string run_usage() {
  return formatted(
      "espalier {} {}: {}. An option replaces that of the input file; `espalier list options` "
      "prints all.\n\n{}\nExamples:\n{}",
      kCommands[0].name, kCommands[0].words, kCommands[0].help, describe_flags(), kExamples);
}

std::string bash_completion(const Protocols& protocols) {
  const OptionTable table = all_options(protocols);
  const NamesByOption by_option = names_by_option(protocols);
  std::vector<std::string> keys;
  std::set<std::string> names;  // that `espalier explain` knows
  for (const auto& [key, of_key] : by_option) names.insert(of_key.begin(), of_key.end());
  std::string values;
  for (const Option& option : table.options()) {
    if (option.key.find('*') != std::string::npos) continue;
    keys.push_back("--" + option.key);
    names.insert(option.key);
    const std::vector<std::string> named = named_values(by_option, option);
    if (!named.empty()) {
      values += formatted("  [--{}]=\"{}\"\n", option.key, fmt::join(named, " "));
    }
  }
  std::vector<std::string> commands;
  for (const Command& command : kCommands) commands.push_back(command.name);
  return formatted(
             "# Completion of espalier in bash: source <(espalier completion bash)\n"
             "_espalier_commands=\"{}\"\n_espalier_flags=\"{}\"\n_espalier_keys=\"{}\"\n"
             "_espalier_names=\"{}\"\ndeclare -A _espalier_values=(\n{})\n",
             fmt::join(commands, " "), fmt::join(flag_names(), " "), fmt::join(keys, " "),
             fmt::join(names, " "), values) +
         kCompletion;
}

std::string zsh_completion(const Protocols& protocols) {
  return "# Completion of espalier in zsh: source <(espalier completion zsh)\n"
         "autoload -Uz compinit bashcompinit && compinit && bashcompinit\n" +
         bash_completion(protocols);
}

std::string man_page(const Protocols& protocols) {
  std::string page = formatted(
      ".TH ESPALIER 1 \"\" \"espalier {}\" \"User commands\"\n"
      ".SH NAME\nespalier \\- train large models together on many weak machines\n"
      ".SH SYNOPSIS\n.nf\n{}.fi\n"
      ".SH DESCRIPTION\nRank 0 of an MPI job is the aggregation server; the other ranks emulate "
      "clients with little memory, slow processors and thin links. Clients train small submodels "
      "of one global model. Models and records go to HDF5 files in the run's folder.\n"
      ".SH FLAGS\n.nf\n{}.fi\n",
      software_version(), troff(command_lines()), troff(describe_flags()));
  page +=
      ".SH OPTIONS\nIn an input file an option stands in its section, "
      "as \"key = value\"; on the command line it is \\-\\-section.key=value.\n";
  const OptionTable table = all_options(protocols);
  for (const Option& option : table.options()) {
    page += formatted(
        ".TP\n.B {}\n{}; {}{}{}\n", troff(option.key), troff(option.help),
        troff(expected_value(option)), option.unit.empty() ? "" : troff(" (" + option.unit + ")"),
        option.default_value.empty() ? "" : troff(formatted("; default {}", option.default_value)));
  }
  page +=
      ".SH EXIT STATUS\n.TP\n.B 0\nthe run is finished\n.TP\n.B 2\nan option or input is wrong\n"
      ".TP\n.B 3\ndata are missing or damaged\n.TP\n.B 4\na file cannot be written or read\n"
      ".TP\n.B 5\na loss or all updates are not finite\n.TP\n.B 6\nno client can work\n"
      ".TP\n.B 70\nan internal error; please report it\n.TP\n.B 85\nstopped at a checkpoint; start "
      "again to resume\n";
  return page + ".SH EXAMPLES\n.nf\n" + troff(kExamples) + ".fi\n";
}

}  // namespace espalier
