#include "espalier/comm/doorbell.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <ctime>
#include <new>
#include <numeric>
#include <random>

#include "espalier/base/error.h"
#include "espalier/comm/environment.h"

namespace espalier {

/// What the ranks of a node share: a number that tells this memory from any other, then a
/// semaphore for each rank.
struct Doorbell::Bells {
  std::uint64_t mark;
  sem_t first;
  sem_t* of(int rank) { return &first + rank; }
};

namespace {

/// Where the other ranks of a node find the memory of its first rank; no mark = nowhere.
struct Place {
  std::uint64_t mark = 0;
  std::int64_t process = 0;
  std::int64_t file = -1;
};

/// Null where the file cannot be mapped.
void* mapped(int file, std::size_t bytes) {
  void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  return memory == MAP_FAILED ? nullptr : memory;
}

/// An open file that is closed at the end of its scope.
struct File {
  int number = -1;
  ~File() {
    if (number >= 0) close(number);
  }
};

/// The file of the rank that `place` names, if this process may open it and sees the same processes
/// under the same numbers (in containers it may not).
void* mapped(const Place& place, std::size_t bytes) {
  if (place.mark == 0) return nullptr;
  const File file{
      open(formatted("/proc/{}/fd/{}", place.process, place.file).c_str(), O_RDWR | O_CLOEXEC)};
  struct stat found {};
  if (file.number < 0 || fstat(file.number, &found) != 0 || !S_ISREG(found.st_mode) ||
      found.st_size != static_cast<off_t>(bytes)) {
    return nullptr;
  }
  void* memory = mapped(file.number, bytes);
  if (memory != nullptr && std::memcmp(memory, &place.mark, sizeof(place.mark)) != 0) {
    munmap(memory, bytes);
    return nullptr;
  }
  return memory;
}

std::uint64_t random_mark() {
  std::random_device device;
  return (static_cast<std::uint64_t>(device()) << 32 | device()) | 1;
}

/// Whether all ranks of `node` say so.
bool all_say(bool mine, MPI_Comm node) {
  int value = mine ? 1 : 0;
  ESPALIER_MPI(MPI_Allreduce(MPI_IN_PLACE, &value, 1, MPI_INT, MPI_MIN, node));
  return value == 1;
}

}  // namespace

/// Sets `shared_`, on all ranks of the node or on none. The first rank makes memory without a name,
/// and the others open it as that process's file.
void Doorbell::share(MPI_Comm node, int ranks) {
  int rank = 0;
  ESPALIER_MPI(MPI_Comm_rank(node, &rank));
  bytes_ = sizeof(Bells) + sizeof(sem_t) * static_cast<std::size_t>(ranks);
  Place place;
  File file;
  void* memory = nullptr;
  if (rank == 0) {
    file.number = memfd_create("espalier-bells", MFD_CLOEXEC);
    // Reserved here: memory that is missing later would be a signal.
    if (file.number >= 0 && posix_fallocate(file.number, 0, static_cast<off_t>(bytes_)) == 0) {
      memory = mapped(file.number, bytes_);
    }
    if (memory != nullptr) {
      place = {random_mark(), getpid(), file.number};
      auto* bells = new (memory) Bells{.mark = place.mark, .first = {}};
      for (int i = 0; i < ranks; ++i) {
        ESPALIER_CHECK(sem_init(bells->of(i), 1, 0) == 0, "sem_init failed ({})", errno);
      }
    }
  }
  ESPALIER_MPI(MPI_Bcast(&place, sizeof(place), MPI_BYTE, 0, node));
  if (rank != 0) memory = mapped(place, bytes_);
  const bool is_shared = all_say(memory != nullptr, node);  // until then the file stays open
  if (is_shared) {
    shared_ = static_cast<Bells*>(memory);
  } else if (memory != nullptr) {
    munmap(memory, bytes_);
  }
}

Doorbell::Doorbell(MPI_Comm communicator) {
  int size = 0;
  int rank = 0;
  ESPALIER_MPI(MPI_Comm_size(communicator, &size));
  ESPALIER_MPI(MPI_Comm_rank(communicator, &rank));
  bells_.assign(static_cast<std::size_t>(size), nullptr);
  ESPALIER_CHECK(sem_init(&alone_, 0, 0) == 0, "sem_init failed ({})", errno);
  bells_[static_cast<std::size_t>(rank)] = own_;

  MPI_Comm node = MPI_COMM_NULL;
  int node_size = 0;
  ESPALIER_MPI(MPI_Comm_split_type(communicator, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &node));
  ESPALIER_MPI(MPI_Comm_size(node, &node_size));
  share(node, node_size);
  reaches_all_ = size == 1 || (shared_ != nullptr && node_size == size);
  if (shared_ != nullptr) {
    MPI_Group all = MPI_GROUP_NULL;
    MPI_Group here = MPI_GROUP_NULL;
    ESPALIER_MPI(MPI_Comm_group(communicator, &all));
    ESPALIER_MPI(MPI_Comm_group(node, &here));
    std::vector<int> ranks(static_cast<std::size_t>(node_size));
    std::iota(ranks.begin(), ranks.end(), 0);
    std::vector<int> of_all(ranks.size());
    ESPALIER_MPI(MPI_Group_translate_ranks(here, node_size, ranks.data(), all, of_all.data()));
    MPI_Group_free(&all);
    MPI_Group_free(&here);
    for (int i : ranks) {
      bells_[static_cast<std::size_t>(of_all[static_cast<std::size_t>(i)])] = shared_->of(i);
    }
    own_ = bells_[static_cast<std::size_t>(rank)];
  }
  MPI_Comm_free(&node);
}

Doorbell::~Doorbell() {
  if (shared_ != nullptr) munmap(shared_, bytes_);
}

void Doorbell::ring(int rank) const {
  // Fails only after 2^31 rings that the other rank has not cleared.
  if (sem_t* bell = bells_[static_cast<std::size_t>(rank)]; bell != nullptr) sem_post(bell);
}

std::int64_t Doorbell::clear() const {
  std::int64_t rings = 0;
  while (sem_trywait(own_) == 0) ++rings;
  return rings;
}

void Doorbell::sleep(std::chrono::microseconds at_most) const {
  timespec until{};
  clock_gettime(CLOCK_MONOTONIC, &until);
  const auto end = std::chrono::nanoseconds(until.tv_nsec) + at_most;
  until.tv_sec += end / std::chrono::seconds(1);
  until.tv_nsec = (end % std::chrono::seconds(1)).count();
  // Decreasing the semaphore would hide the ring from clear(), so it is put back.
  if (sem_clockwait(own_, CLOCK_MONOTONIC, &until) == 0) sem_post(own_);
}

}  // namespace espalier
