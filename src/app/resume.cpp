#include "espalier/app/resume.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <map>
#include <utility>

#include "espalier/app/failure.h"
#include "espalier/base/error.h"
#include "espalier/data/fingerprint.h"

namespace espalier {
namespace {

using Lines = std::map<std::string, std::string>;

OnResume on_resume(const OptionTable& table, const std::string& key) {
  const Option* option = table.find(key);
  ESPALIER_CHECK(option != nullptr, "option {} is not declared", key);
  return option->on_resume;
}

/// A stored configuration, with defaults for options that are newer than its run.
Config stored_config(const OptionTable& table, const std::string& stored,
                     const std::string& origin) {
  Config config(table);
  config.read_text(stored, origin);
  return config;
}

/// The options that a resume compares.
Lines compared_lines(const Config& config) {
  Lines lines = option_lines(config.resolved());
  std::erase_if(lines, [&](const auto& item) {
    return on_resume(config.table(), item.first) == OnResume::place;
  });
  return lines;
}

void refuse(const std::vector<std::string>& differences, const std::string& place,
            const std::string& advice) {
  if (differences.empty()) return;
  throw InputError(
      formatted("{} holds another run: {}; {}", place, fmt::join(differences, ", "), advice));
}

/// `stored` with the values that `requested` gives. InputError, with the name of each option that
/// differs and may not.
Config merged(const Config& requested, const Config& stored, const std::filesystem::path& folder) {
  Config result = stored;
  const Lines before = option_lines(stored.resolved()), now = option_lines(requested.resolved());
  std::vector<std::string> differences;
  for (const std::string& key : requested.given_keys()) {
    const std::string wanted = now.contains(key) ? now.at(key) : "";
    const std::string kept = before.contains(key) ? before.at(key) : "";
    if (wanted == kept) continue;
    if (on_resume(requested.table(), key) == OnResume::fixed) {
      differences.push_back(formatted("{} is '{}' there and '{}' here", key, kept, wanted));
    } else {
      result.set(key, wanted, "this request");
    }
  }
  refuse(differences, folder.string(), "choose another run.name or add --overwrite");
  return result;
}

}  // namespace

Intent broadcast(const MpiEnvironment& mpi, Intent intent) {
  auto kind = static_cast<int>(intent.kind);
  ESPALIER_MPI(MPI_Bcast(&kind, 1, MPI_INT, 0, mpi.communicator()));
  return {static_cast<Intent::Kind>(kind), broadcast_text(mpi, std::move(intent.text))};
}

Intent intent(const Config& requested, const Request& request,
              const std::filesystem::path& folder) {
  if (request.overwrite) return {};
  const auto found = RunDirectory::find(folder);
  if (!found) {
    if (request.resume == Resume::require) {
      throw InputError(
          formatted("{} holds no run to resume; leave --resume=require out", folder.string()));
    }
    return {};
  }
  if (request.resume == Resume::never) {
    throw InputError(
        formatted("{} holds a run, and --resume=never does not resume it; choose another "
                  "run.name or add --overwrite",
                  folder.string()));
  }
  const Config stored =
      stored_config(requested.table(), found->config, (folder / "config.ini").string());
  const Config wanted = merged(requested, stored, folder);
  if (!found->closing_line.empty() && compared_lines(wanted) == compared_lines(stored)) {
    return {Intent::Kind::report, found->closing_line};
  }
  return {Intent::Kind::resume, wanted.resolved()};
}

std::optional<RecordsMark> records_mark(CheckpointReader& checkpoint) {
  if (!checkpoint.holds("wall/records_bytes")) return std::nullopt;
  RecordsMark mark;
  checkpoint.read([&](Archive& archive) {
    archive.open("wall");
    archive_mark(archive, mark);
    archive.close();
  });
  return mark;
}

Newest newest_checkpoint(const RunDirectory& directory, const Config& config) {
  Newest newest;
  const auto paths = directory.checkpoints();
  const Lines wanted = compared_lines(config);
  for (const auto& path : paths) {
    try {
      auto reader = std::make_unique<CheckpointReader>(path);
      const Lines stored =
          compared_lines(stored_config(config.table(), reader->config_text(), path.string()));
      std::vector<std::string> differences;
      for (const auto& [key, value] : wanted) {
        const bool is_equal = stored.contains(key) && stored.at(key) == value;
        if (!is_equal && on_resume(config.table(), key) == OnResume::fixed) {
          differences.push_back(key);
        }
      }
      refuse(differences, path.string(), "remove it");
      if (const auto mark = records_mark(*reader)) check_records(directory.journal(), *mark);
      newest.checkpoint = std::move(reader);
      return newest;
    } catch (const OutputError& error) {
      // The records may be at fault, for all checkpoints alike.
      const std::string warning = error.what();
      if (std::ranges::find(newest.warnings, warning) == newest.warnings.end()) {
        newest.warnings.push_back(warning);
      }
    }
  }
  if (!paths.empty()) {
    throw OutputError(
        formatted("no checkpoint in {} can be used; add --overwrite to begin again: {}",
                  directory.path().string(), fmt::join(newest.warnings, "; ")));
  }
  return newest;
}

void refuse_other_data(const Dataset& data, const std::string& there, const std::string& here,
                       const std::string& whose, const std::string& advice) {
  const std::vector<std::string> differences = differing(there, here);
  if (differences.empty()) return;
  const std::string where =
      data.files.empty() ? data.name : formatted("{}", fmt::join(data.files, ", "));
  throw InputError(formatted("the data ({}) differs from the data {}; different: {}; {}", where,
                             whose, fmt::join(differences, ", "), advice));
}

void refuse_other_data(const Dataset& data, const std::string& here, CheckpointReader& checkpoint) {
  if (!checkpoint.holds(kDataPrint)) return;
  std::string stored;
  checkpoint.read([&](Archive& archive) { archive.value(kDataPrint, stored); });
  refuse_other_data(data, stored, here, "with which this run was begun",
                    "restore the data, choose another run.name or add --overwrite");
}

}  // namespace espalier
