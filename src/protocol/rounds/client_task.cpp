#include "espalier/protocol/rounds/client_task.h"

#include "espalier/base/archive.h"

namespace espalier::rounds {
namespace {

/// `layout`: to decode submodels.
void archive_task(Archive& archive, const Layout* layout, ClientTask& task,
                  std::vector<std::int64_t>& submodel) {
  archive.value("task", task.task);
  archive.value("client", task.client);
  archive.value("nth_task", task.nth_task);
  archive.value("base_version", task.base_version);
  archive.value("finish", task.finish);
  bool unused = false;  // so that the next flag has its place in files
  bool searches = task.search > 0;
  bool has_peers = !task.peers.empty();
  archive_flags(archive, "flags",
                {&task.answers_twice, &task.not_finite, &unused, &searches, &has_peers});
  archive.value("submodel", submodel);
  archive.value("state", task.state);
  if (searches) archive.value("search", task.search);
  if (has_peers) {
    archive_list(archive, "peers", task.peers,
                 [layout](Archive& a, PeerModel& peer) { archive_peer(a, layout, peer); });
  }
}

void archive_result(Archive& archive, ClientResult& result) {
  bool unused = false;  // so that the next flags have their places in files
  bool searched = result.search_peak_bytes > 0;
  bool tested = result.local.samples > 0;
  archive.value("task", result.task);
  archive_flags(archive, "flags",
                {&result.out_of_memory, &unused, &searched, &tested, &result.failed_in_step});
  archive.value("samples", result.samples);
  archive.value("steps", result.steps);
  archive.value("train_loss", result.train_loss);
  if (tested) {
    archive.value("local_samples", result.local.samples);
    archive.value("local_loss", result.local.loss);
    archive.value("local_top1", result.local.top1);
    archive.value("local_top5", result.local.top5);
  }
  archive.value("peak_bytes", result.peak_bytes);
  archive.value("cap_bytes", result.cap_bytes);
  archive.value("asked_bytes", result.asked_bytes);
  archive.value("wall_compute_s", result.wall_compute_s);
  archive.value("state", result.state);
  if (searched) {
    archive.value("search_peak_bytes", result.search_peak_bytes);
    archive.value("found", result.found);
  }
}

}  // namespace

void archive_peer(Archive& archive, const Layout* layout, PeerModel& peer) {
  std::vector<std::int64_t> code;
  if (!archive.loading()) code = peer.submodel.encode();
  archive.value("submodel", code);
  if (!archive.loading()) {
    archive.value("values", const_cast<Bytes&>(*peer.values));  // only read
    return;
  }
  Bytes values;
  archive.value("values", values);
  peer = {Submodel::decode(*layout, code), to_shared(std::move(values))};
}

Bytes ClientTask::encode() const {
  ByteArchive archive;
  ClientTask copy = *this;
  std::vector<std::int64_t> code = submodel.encode();
  archive_task(archive, nullptr, copy, code);
  return archive.take();
}

ClientTask ClientTask::decode(const Layout& layout, std::span<const std::byte> bytes) {
  ByteArchive archive(bytes);
  ClientTask task;
  std::vector<std::int64_t> code;
  archive_task(archive, &layout, task, code);
  task.submodel = Submodel::decode(layout, code);
  return task;
}

Bytes ClientResult::encode() const {
  ByteArchive archive;
  ClientResult copy = *this;
  archive_result(archive, copy);
  return archive.take();
}

ClientResult ClientResult::decode(std::span<const std::byte> bytes) {
  ByteArchive archive(bytes);
  ClientResult result;
  archive_result(archive, result);
  return result;
}

std::int64_t answer_bytes() {
  static const auto size = static_cast<std::int64_t>(ClientResult{}.encode().size());
  return size;
}

}  // namespace espalier::rounds
