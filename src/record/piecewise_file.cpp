#include "piecewise_file.h"

#include <algorithm>
#include <cstring>

#if __has_include(<H5FDdevelop.h>)
#include <H5FDdevelop.h>
#endif

#include "espalier/base/bytes.h"
#include "espalier/base/error.h"
#include "h5_io.h"

namespace espalier::h5 {
namespace {

constexpr std::size_t kPageBytes = 4096;
// Arrays from here on are large. HDF5 writes them in one call, and smaller ones through a buffer.
constexpr std::size_t kLargeBytes = std::size_t{64} << 10;

using Page = std::array<std::byte, kPageBytes>;

}  // namespace

struct PiecewiseFile::Store {
  NewFile* target = nullptr;
  std::size_t may_copy = 0;
  std::map<std::uint64_t, std::unique_ptr<Page>> pages;  // by address / kPageBytes
  std::vector<std::pair<std::uint64_t, Bytes>> copies;   // by address
  std::uint64_t end = 0;
  std::exception_ptr failure;

  /// Calls `take(page, offset within it, data, bytes)` for the parts of a range.
  template <class Take>
  static void for_each_page(std::uint64_t address, std::size_t bytes, const Take& take) {
    for (std::size_t done = 0; done < bytes;) {
      const std::uint64_t at = address + done;
      const std::size_t offset = at % kPageBytes;
      const std::size_t count = std::min(bytes - done, kPageBytes - offset);
      take(at / kPageBytes, offset, done, count);
      done += count;
    }
  }

  void keep(std::uint64_t address, const std::byte* data, std::size_t bytes) {
    for_each_page(address, bytes,
                  [&](std::uint64_t number, std::size_t offset, std::size_t from, std::size_t n) {
                    std::unique_ptr<Page>& page = pages[number];
                    if (!page) page = std::make_unique<Page>();
                    std::memcpy(page->data() + offset, data + from, n);
                  });
  }

  /// Whole pages of a large array bypass the pages in memory, which its ends share with others.
  void write(std::uint64_t address, const std::byte* data, std::size_t bytes) {
    end = std::max(end, address + bytes);
    if (bytes < kLargeBytes) return keep(address, data, bytes);
    const std::size_t head = (kPageBytes - address % kPageBytes) % kPageBytes;
    const std::size_t body = (bytes - head) / kPageBytes * kPageBytes;
    keep(address, data, head);
    keep(address + head + body, data + head + body, bytes - head - body);
    if (body <= may_copy) {
      Bytes& copy = copies.emplace_back(address + head, Bytes(body)).second;
      std::memcpy(copy.data(), data + head, body);
      may_copy -= body;
    } else {
      target->write_at(static_cast<std::int64_t>(address + head), data + head, body);
    }
  }

  void read(std::uint64_t address, std::byte* data, std::size_t bytes) const {
    for_each_page(address, bytes,
                  [&](std::uint64_t number, std::size_t offset, std::size_t to, std::size_t n) {
                    const auto page = pages.find(number);
                    if (page == pages.end())
                      std::memset(data + to, 0, n);
                    else
                      std::memcpy(data + to, page->second->data() + offset, n);
                  });
  }
};

namespace {

using Store = PiecewiseFile::Store;

struct OpenFile {
  H5FD_t common;  // HDF5's own part, which must come first
  Store* store;
  haddr_t allocated;
};

OpenFile* of(H5FD_t* file) { return reinterpret_cast<OpenFile*>(file); }
const OpenFile* of(const H5FD_t* file) { return reinterpret_cast<const OpenFile*>(file); }

H5FD_t* open_store(const char*, unsigned, hid_t access, haddr_t) {
  auto* file = new (std::nothrow) OpenFile{};
  if (file == nullptr) return nullptr;
  file->store = *static_cast<Store* const*>(H5Pget_driver_info(access));
  return &file->common;
}

herr_t close_store(H5FD_t* file) {
  delete of(file);
  return 0;
}

herr_t query(const H5FD_t*, unsigned long* flags) {
  *flags = H5FD_FEAT_AGGREGATE_METADATA | H5FD_FEAT_AGGREGATE_SMALLDATA | H5FD_FEAT_DATA_SIEVE;
  return 0;
}

int compare(const H5FD_t* a, const H5FD_t* b) {
  return of(a)->store < of(b)->store ? -1 : (of(a)->store == of(b)->store ? 0 : 1);
}

haddr_t allocated_end(const H5FD_t* file, H5FD_mem_t) { return of(file)->allocated; }
herr_t set_allocated_end(H5FD_t* file, H5FD_mem_t, haddr_t address) {
  of(file)->allocated = address;
  return 0;
}
haddr_t written_end(const H5FD_t* file, H5FD_mem_t) { return of(file)->store->end; }

herr_t read_store(H5FD_t* file, H5FD_mem_t, hid_t, haddr_t address, std::size_t bytes, void* data) {
  of(file)->store->read(address, static_cast<std::byte*>(data), bytes);
  return 0;
}

/// HDF5 never learns of a failure, because it may not survive one; check() throws it.
herr_t write_store(H5FD_t* file, H5FD_mem_t, hid_t, haddr_t address, std::size_t bytes,
                   const void* data) {
  Store& store = *of(file)->store;
  if (store.failure) return 0;
  try {
    store.write(address, static_cast<const std::byte*>(data), bytes);
  } catch (...) {
    store.failure = std::current_exception();
  }
  return 0;
}

herr_t truncate_store(H5FD_t* file, hid_t, hbool_t) {
  of(file)->store->end = of(file)->allocated;
  return 0;
}

hid_t driver() {
  static const H5FD_class_t kClass = [] {
    H5FD_class_t c = {};
#ifdef H5FD_CLASS_VERSION
    c.version = H5FD_CLASS_VERSION;
    c.value = static_cast<H5FD_class_value_t>(401);  // drivers without a registered number
#endif
    c.name = "espalier_piecewise";
    c.maxaddr = static_cast<haddr_t>(INT64_MAX);
    c.fc_degree = H5F_CLOSE_STRONG;
    c.fapl_size = sizeof(Store*);
    c.open = open_store;
    c.close = close_store;
    c.cmp = compare;
    c.query = query;
    c.get_eoa = allocated_end;
    c.set_eoa = set_allocated_end;
    c.get_eof = written_end;
    c.read = read_store;
    c.write = write_store;
    c.truncate = truncate_store;
    const H5FD_mem_t map[] = H5FD_FLMAP_DICHOTOMY;
    std::copy(std::begin(map), std::end(map), std::begin(c.fl_map));
    return c;
  }();
  static const hid_t id = h5_check(H5FDregister(&kClass), "register a file driver");
  return id;
}

}  // namespace

PiecewiseFile::PiecewiseFile(NewFile& file, std::int64_t copied_bytes)
    : store_(std::make_unique<Store>()) {
  store_->target = &file;
  store_->may_copy = static_cast<std::size_t>(copied_bytes);
  const H5Handle access = access_list();
  // The older format takes half a kilobyte more for each group.
  h5_check(H5Pset_libver_bounds(access, H5F_LIBVER_V18, H5F_LIBVER_V18), "choose a file format");
  Store* const store = store_.get();
  h5_check(H5Pset_driver(access, driver(), static_cast<const void*>(&store)), "set a file driver");
  file_ = {h5_check(H5Fcreate("piecewise", H5F_ACC_TRUNC, H5P_DEFAULT, access), "create a file"),
           H5Fclose};
}

PiecewiseFile::~PiecewiseFile() = default;

void PiecewiseFile::check() const {
  if (store_->failure) std::rethrow_exception(store_->failure);
}

void PiecewiseFile::close() {
  file_.close();
  check();
}

std::int64_t PiecewiseFile::complete(NewFile& file) {
  for (const auto& [address, bytes] : store_->copies)
    file.write_at(static_cast<std::int64_t>(address), bytes.data(), bytes.size());
  for (const auto& [number, page] : store_->pages) {
    const std::uint64_t address = number * kPageBytes;
    const std::size_t bytes = std::min<std::uint64_t>(kPageBytes, store_->end - address);
    file.write_at(static_cast<std::int64_t>(address), page->data(), bytes);
  }
  return static_cast<std::int64_t>(store_->end);
}

}  // namespace espalier::h5
