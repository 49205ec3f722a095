#include "espalier/protocol/regions/network.h"

#include <gtest/gtest.h>

namespace espalier::regions {
namespace {

using Kind = Network::Event::Kind;

DeviceClass device(double down_mbps, double up_mbps, double latency_ms) {
  return {.name = "region", .down_mbps = down_mbps, .up_mbps = up_mbps, .latency_ms = latency_ms};
}

ServerResources server_of(const std::string& text) {
  OptionTable table;
  declare_resource_options(table);
  Config config(std::move(table));
  config.read_text("[server]\n" + text, "the test");
  return ServerResources(config);
}

/// All events, in order, with what only waits at the server's link left out.
std::vector<Network::Event> drained(Network& network) {
  std::vector<Network::Event> events;
  while (network.next_time()) {
    if (const auto event = network.take()) events.push_back(*event);
  }
  return events;
}

TEST(Network, RingTimeIsThatOfAnAllReduceAtTheSlowestLink) {
  const std::vector<DeviceClass> devices{device(8, 4, 3), device(2, 16, 7), device(0, 0, 5)};
  // 2 (M - 1) / M = 4 / 3 of 3 MB at 2 Mbit/s, and the largest latency.
  EXPECT_EQ(ring_time(devices, 3'000'000), 7'000'000 + 16'000'000'000);
  EXPECT_EQ(ring_time(std::vector{device(0, 0, 5), device(0, 0, 1)}, 3'000'000), 5'000'000);
  EXPECT_EQ(ring_time(std::vector{device(1, 1, 5)}, 3'000'000), 5'000'000) << "alone";
}

TEST(Network, ARingServesOneExchangeAfterTheOther) {
  Network network(std::vector<DeviceClass>(4, device(8, 8, 10)), ServerResources());
  // 2 3 / 4 of 2 MB at 8 Mbit/s take 3 s, and 10 ms.
  const Nanoseconds ring = 3'010'000'000;
  const std::vector<std::int64_t> all{0, 1, 2, 3}, two{1, 3};
  network.all_reduce(0, all, 2'000'000, 300);
  network.all_reduce(1, all, 2'000'000, 1003);
  network.all_reduce(2, two, 2'000'000, 100 * ring);
  const auto events = drained(network);
  ASSERT_EQ(events.size(), 3U);
  for (std::size_t i = 0; i < 3; ++i) {
    EXPECT_EQ(events[i].kind, Kind::averaged);
    EXPECT_EQ(events[i].exchange, static_cast<std::int64_t>(i));
  }
  EXPECT_EQ(events[0].time, 300 + ring);
  EXPECT_EQ(events[1].time, 300 + 2 * ring) << "waits for the first";
  // Among two: 2 1 / 2 of 2 MB, 2 s.
  EXPECT_EQ(events[2].time, 100 * ring + 2'010'000'000) << "the ring was free";
}

TEST(Network, ACopyForAJoiningRegionPassesItsLink) {
  Network network({device(4, 2, 3), device(8, 1, 5)}, ServerResources());
  network.send_down(6, 1, 1'000'000, 100);
  network.send_copy(1, 2'000'000, 200);
  const auto events = drained(network);
  ASSERT_EQ(events.size(), 2U);
  EXPECT_EQ(events[1].kind, Kind::joined);
  EXPECT_EQ(events[1].region, 1);
  EXPECT_EQ(events[1].time, 100 + 3'005'000'000) << "after the fragment";
}

TEST(Network, StarPassesTheRegionsLinkInOrderOfHandingOver) {
  Network network({device(4, 2, 3), device(8, 1, 5)}, ServerResources());
  // 1 MB takes 4 s up and 2 s down for region 0, 8 s and 1 s for region 1.
  network.hand_over(7, 0, 1'000'000, 10);
  network.hand_over(8, 0, 500'000, 20);
  network.hand_over(7, 1, 1'000'000, 30);
  auto events = drained(network);
  ASSERT_EQ(events.size(), 3U);
  const auto expect = [&](std::size_t i, Kind kind, std::int64_t exchange, std::int64_t region,
                          Nanoseconds time) {
    EXPECT_EQ(events[i].kind, kind) << i;
    EXPECT_EQ(events[i].exchange, exchange) << i;
    EXPECT_EQ(events[i].region, region) << i;
    EXPECT_EQ(events[i].time, time) << i;
  };
  expect(0, Kind::received, 7, 0, 10 + 4'003'000'000);
  expect(1, Kind::received, 8, 0, 10 + 6'003'000'000);  // the latency does not hold up the link
  expect(2, Kind::received, 7, 1, 30 + 8'005'000'000);
  network.merge(7, 1000, 50);
  network.send_down(7, 0, 1'000'000, 100);
  network.send_down(8, 0, 1'000'000, 200);
  network.send_down(7, 1, 1'000'000, 300);
  events = drained(network);
  ASSERT_EQ(events.size(), 4U);
  expect(0, Kind::averaged, 7, 0, 50);
  expect(1, Kind::arrived, 7, 1, 300 + 1'005'000'000);
  expect(2, Kind::arrived, 7, 0, 100 + 2'003'000'000);
  expect(3, Kind::arrived, 8, 0, 100 + 4'003'000'000);
}

TEST(Network, ServersLinksAndProcessorAreQueues) {
  // 1 MB takes 2 s into the server and 1 s out of it, 1 MFLOP 1 s on its processor.
  Network network(std::vector<DeviceClass>(3, device(0, 0, 1)),
                  server_of("up_mbps = 4\ndown_mbps = 8\ngflops = 0.001\n"));
  for (std::int64_t region = 0; region < 3; ++region) {
    network.hand_over(0, region, 1'000'000, 500);
  }
  std::vector<Nanoseconds> times;
  for (const auto& event : drained(network)) times.push_back(event.time);
  const Nanoseconds s = 1'000'000'000, first = 500 + 1'000'000;
  EXPECT_EQ(times, (std::vector<Nanoseconds>{first + 2 * s, first + 4 * s, first + 6 * s}));

  network.merge(0, 1'000'000, 7 * s);
  network.merge(1, 1'000'000, 7 * s);
  for (std::int64_t region = 0; region < 3; ++region) {
    network.send_down(0, region, 1'000'000, 9 * s);
  }
  times.clear();
  for (const auto& event : drained(network)) times.push_back(event.time);
  EXPECT_EQ(times, (std::vector<Nanoseconds>{8 * s, 9 * s, 10 * s + 1'000'000, 11 * s + 1'000'000,
                                             12 * s + 1'000'000}));
}

TEST(Network, GoesOnFromItsState) {
  const auto make = [] {
    return Network(std::vector<DeviceClass>(3, device(4, 2, 3)), server_of("up_mbps = 4\n"));
  };
  const std::vector<std::int64_t> all{0, 1, 2};
  Network first = make();
  for (std::int64_t region = 0; region < 3; ++region) {
    first.hand_over(0, region, 1'000'000, 10 * region);
  }
  first.all_reduce(4, all, 1'000'000, 20);
  first.take();
  ByteArchive saved;
  first.archive(saved);
  const Bytes bytes = saved.take();
  Network second = make();
  ByteArchive loaded(bytes);
  second.archive(loaded);
  EXPECT_TRUE(loaded.at_end());
  for (Network* network : {&first, &second}) {
    network->hand_over(1, 2, 1'000'000, 90);
    network->all_reduce(5, all, 1'000'000, 90);
    network->send_copy(2, 1'000'000, 95);
  }
  const auto events = drained(first);
  EXPECT_GE(events.size(), 7U);
  EXPECT_EQ(events, drained(second));
}

}  // namespace
}  // namespace espalier::regions
