#include "espalier/protocol/regions/exchange.h"

#include <limits>

#include "espalier/protocol/regions/tables.h"

namespace espalier::regions {

Exchange::Exchange(std::int64_t number, std::int64_t fragment, std::int64_t slot,
                   const std::vector<bool>& present)
    : number(number), fragment(fragment), slot(slot) {
  for (const bool takes_part : present) handed.push_back(takes_part ? kWaiting : kNever);
  applied = handed;
  for (auto* waiting : {&sent_step, &arrived, &applied_step}) {
    waiting->assign(present.size(), kWaiting);
  }
  for (auto* counts : {&lost, &received, &tokens, &steps}) counts->assign(present.size(), 0);
  norms.assign(present.size(), 0);
  weights.assign(present.size(), 0);
  values.resize(present.size());
}

std::vector<std::int64_t> Exchange::contributors() const {
  std::vector<std::int64_t> regions;
  for (std::size_t i = 0; i < handed.size(); ++i) {
    if (contributes(i)) regions.push_back(static_cast<std::int64_t>(i));
  }
  return regions;
}

void Exchange::archive(Archive& archive) {
  archive.value("number", number);
  archive.value("fragment", fragment);
  archive.value("slot", slot);
  archive.value("handed", handed);
  archive.value("sent_step", sent_step);
  archive.value("arrived", arrived);
  archive.value("applied", applied);
  archive.value("applied_step", applied_step);
  archive.value("lost", lost);
  archive.value("received", received);
  archive.value("tokens", tokens);
  archive.value("steps", steps);
  archive.value("norms", norms);
  archive.value("weights", weights);
  archive.value("is_begun", is_begun);
  archive.value("is_merged", is_merged);
  archive.value("merged", merged);
  values.resize(handed.size());
  for (Bytes& bytes : values) archive.value("values", bytes);
}

void archive_exchanges(Archive& archive, Exchanges& exchanges) {
  std::vector<Exchange> list;
  for (auto& [number, exchange] : exchanges) list.push_back(std::move(exchange));
  archive_list(archive, "exchanges", list,
               [](Archive& a, Exchange& exchange) { exchange.archive(a); });
  exchanges.clear();
  for (Exchange& exchange : list) exchanges.emplace(exchange.number, std::move(exchange));
}

Row exchange_row(const Exchange& exchange, std::int64_t region, std::int64_t up, std::int64_t down,
                 Nanoseconds stall) {
  const auto i = static_cast<std::size_t>(region);
  const auto seconds_or_none = [](Nanoseconds time) {
    return time >= 0 ? seconds(time) : std::numeric_limits<double>::quiet_NaN();
  };
  const bool has_sent = exchange.handed[i] >= 0;
  const bool is_applied = exchange.applied[i] >= 0;
  Row row(exchanges_schema());
  row.set("exchange", exchange.number)
      .set("fragment", exchange.fragment)
      .set("region", region)
      .set("sent_step", has_sent ? exchange.sent_step[i] : -1)
      .set("applied_step", is_applied ? exchange.applied_step[i] : -1)
      .set("sent_s", seconds_or_none(exchange.handed[i]))
      .set("arrived_s", seconds_or_none(exchange.arrived[i]))
      .set("applied_s", seconds_or_none(exchange.applied[i]))
      .set("stall_s", seconds(stall))
      .set("lost", has_sent ? exchange.lost[i] : 0)
      .set("bytes_up", has_sent ? up : 0)
      .set("bytes_down", exchange.arrived[i] >= 0 ? down : 0)
      .set("norm", exchange.norms[i])
      .set("weight", exchange.weights[i]);
  return row;
}

}  // namespace espalier::regions
