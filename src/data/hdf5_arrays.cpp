// Datasets of an HDF5 file. The numbers of a dataset may be in another file (by a link), in raw
// files, or in other datasets. A dataset is mapped only if its numbers are in the file itself, in
// the form that is used; else HDF5 reads it. HDF5 does so in child processes: one looks at the
// datasets, and one for each dataset that is not mapped writes its numbers into shared memory.

#include <sys/mman.h>

#include <bit>
#include <nlohmann/json.hpp>
#include <string_view>

#include "array_file.h"
#include "espalier/base/child.h"
#include "espalier/base/hdf5.h"
#include "files.h"

namespace espalier {
namespace {

namespace fs = std::filesystem;

/// Calls a function of HDF5 that fills in a text of unknown length.
template <class Call>
std::string h5_text(const Call& call) {
  const auto length = h5_check(call(nullptr, 0), "read a name");
  std::string text(static_cast<std::size_t>(length), '\0');
  h5_check(call(text.data(), text.size() + 1), "read a name");
  return text;
}

/// The file of an HDF5 object, which a link may make another file than the one opened.
fs::path file_of(hid_t object) {
  return h5_text([&](char* text, std::size_t size) { return H5Fget_name(object, text, size); });
}

/// DataError if the file cannot be opened.
H5Handle open_file(const fs::path& path) {
  const H5Handle access(H5Pcreate(H5P_FILE_ACCESS), H5Pclose);
  h5_check(H5Pset_file_locking(access, false, true), "turn HDF5 file locking off");
  try {
    return {H5Fopen(path.c_str(), H5F_ACC_RDONLY, access), H5Fclose};
  } catch (const OutputError& error) {
    // HDF5's own reason is a list of its function names.
    if (std::string_view(error.what()).find("already open for") != std::string_view::npos) {
      throw DataError(
          formatted("{} is still marked open for writing: wait for its writer to end; if the "
                    "writer crashed, check that the file is whole and run `h5clear -s {}`",
                    path.string(), path.string()));
    }
    throw DataError(formatted(
        "{} cannot be read: it is not an HDF5 file, or is damaged or cut short", path.string()));
  }
}

/// Whether h5py wrote truth values: an enumeration of FALSE and TRUE.
bool is_boolean(hid_t type) {
  if (H5Tget_size(type) != 1 || H5Tget_nmembers(type) != 2) return false;
  std::int8_t no = -1;
  std::int8_t yes = -1;
  return H5Tenum_valueof(type, "FALSE", &no) >= 0 && H5Tenum_valueof(type, "TRUE", &yes) >= 0 &&
         no == 0 && yes == 1;
}

Element hdf5_element(hid_t type, const std::string& name) {
  const bool is_enum = H5Tget_class(type) == H5T_ENUM;
  if (is_enum && is_boolean(type)) return Element::boolean;
  const H5Handle base(is_enum ? H5Tget_super(type) : H5Tcopy(type), H5Tclose);
  const H5T_class_t kind = H5Tget_class(base);
  const std::size_t bytes = H5Tget_size(base);
  // HDF5 1.10 has no type for half floats in memory, but converts them to floats, exactly.
  if (kind == H5T_FLOAT && (bytes == 2 || bytes == 4)) return Element::f32;
  if (kind == H5T_FLOAT && bytes == 8) return Element::f64;
  if (kind == H5T_INTEGER && bytes <= 8 && std::has_single_bit(bytes)) {
    constexpr Element kSigned[] = {Element::i8, Element::i16, Element::i32, Element::i64};
    constexpr Element kUnsigned[] = {Element::u8, Element::u16, Element::u32, Element::u64};
    const auto size = std::countr_zero(bytes);
    return H5Tget_sign(base) == H5T_SGN_2 ? kSigned[size] : kUnsigned[size];
  }
  throw DataError(formatted("{} holds no plain numbers: write it as {}", name, kPlainNumbers));
}

hid_t native_type(Element element) {
  switch (element) {
    case Element::boolean:
    case Element::u8:
      return H5T_NATIVE_UINT8;
    case Element::i8:
      return H5T_NATIVE_INT8;
    case Element::u16:
      return H5T_NATIVE_UINT16;
    case Element::i16:
      return H5T_NATIVE_INT16;
    case Element::u32:
      return H5T_NATIVE_UINT32;
    case Element::i32:
      return H5T_NATIVE_INT32;
    case Element::u64:
      return H5T_NATIVE_UINT64;
    case Element::i64:
      return H5T_NATIVE_INT64;
    case Element::f16:
    case Element::f32:
      return H5T_NATIVE_FLOAT;
    case Element::f64:
      return H5T_NATIVE_DOUBLE;
  }
  ESPALIER_CHECK(false, "element type {}", static_cast<int>(element));
}

/// The target of a link, for messages; empty if it is not a link.
std::string target_of(hid_t file, const std::string& dataset) {
  H5L_info_t link;
  h5_check(H5Lget_info(file, dataset.c_str(), &link, H5P_DEFAULT), "look at it");
  if (link.type != H5L_TYPE_SOFT && link.type != H5L_TYPE_EXTERNAL) return "";
  std::vector<char> value(link.u.val_size + 1);
  h5_check(H5Lget_val(file, dataset.c_str(), value.data(), value.size(), H5P_DEFAULT), "follow it");
  if (link.type == H5L_TYPE_SOFT) return value.data();
  const char* other = nullptr;
  const char* object = nullptr;
  h5_check(H5Lunpack_elink_val(value.data(), link.u.val_size, nullptr, &other, &object),
           "follow it");
  return formatted("{} of the file {}", object, other);
}

/// Checks the raw files that may hold the numbers of a dataset, because HDF5 reads zeros for
/// missing bytes. Returns whether they are beside the HDF5 file rather than in the working
/// directory.
bool find_raw_files(hid_t object, hid_t created, const std::string& name) {
  const fs::path folder = file_of(object).parent_path();
  const H5Handle type(H5Dget_type(object), H5Tclose);
  const H5Handle space(H5Dget_space(object), H5Sclose);
  std::int64_t bytes = h5_check(H5Sget_simple_extent_npoints(space), "count its numbers") *
                       static_cast<std::int64_t>(H5Tget_size(type));
  bool beside = true;
  const auto files = static_cast<unsigned>(H5Pget_external_count(created));
  for (unsigned i = 0; i < files && bytes > 0; ++i) {
    std::vector<char> given(4096);
    off_t offset = 0;
    hsize_t size = 0;
    h5_check(H5Pget_external(created, i, given.size() - 1, given.data(), &offset, &size),
             "read the name of its raw file");
    fs::path path = folder / given.data();
    if (!is_available(path)) {
      path = given.data();
      beside = false;
    }
    std::error_code error;
    const auto available = static_cast<std::int64_t>(fs::file_size(path, error)) - offset;
    if (error) {
      throw DataError(formatted("{} is in the raw file {}, which is missing", name, given.data()));
    }
    const std::int64_t part =
        size > static_cast<hsize_t>(bytes) ? bytes : static_cast<std::int64_t>(size);
    if (available < part) {
      throw DataError(formatted("{} is in the raw file {}, which is cut short: copy it again", name,
                                path.string()));
    }
    bytes -= part;
  }
  return beside;
}

bool check_parts(hid_t object, const std::string& name);

/// Checks the sources of a virtual dataset, because HDF5 reads zeros for missing ones.
void check_sources(hid_t object, hid_t created, const std::string& name) {
  const fs::path folder = file_of(object).parent_path();
  std::size_t sources = 0;
  h5_check(H5Pget_virtual_count(created, &sources), "count its sources");
  for (std::size_t i = 0; i < sources; ++i) {
    const std::string file = h5_text([&](char* text, std::size_t size) {
      return H5Pget_virtual_filename(created, i, text, size);
    });
    const std::string dataset = h5_text([&](char* text, std::size_t size) {
      return H5Pget_virtual_dsetname(created, i, text, size);
    });
    // A source with % in its name is any number of datasets.
    if ((file + dataset).find('%') != std::string::npos) continue;
    const bool own = file == ".";
    const fs::path path = own || is_available(folder / file) ? folder / file : fs::path(file);
    if (!own && !is_available(path)) {
      throw DataError(formatted("{} is put together from {}, which is missing", name, file));
    }
    const H5Handle place = own ? H5Handle(H5Iget_file_id(object), H5Fclose) : open_file(path);
    const std::string source_name =
        formatted("{}: {}", (own ? file_of(object) : path).string(), dataset);
    if (H5Oexists_by_name(place, dataset.c_str(), H5P_DEFAULT) <= 0) {
      throw DataError(formatted("{} is put together from {}, which is missing", name, source_name));
    }
    const H5Handle source(H5Dopen2(place, dataset.c_str(), H5P_DEFAULT), H5Dclose);
    check_parts(source, source_name);
  }
}

/// The filter of a dataset that this HDF5 lacks; empty if there is none.
std::string missing_filter(hid_t created) {
  const int filters = H5Pget_nfilters(created);
  for (int i = 0; i < filters; ++i) {
    char filter_name[64] = "";
    unsigned flags = 0;
    std::size_t values = 0;
    const H5Z_filter_t filter = H5Pget_filter2(created, static_cast<unsigned>(i), &flags, &values,
                                               nullptr, sizeof(filter_name), filter_name, nullptr);
    if (filter >= 0 && H5Zfilter_avail(filter) <= 0)
      return formatted("{} ({})", filter_name, filter);
  }
  return "";
}

/// DataError if a raw file or a source is missing. Returns whether the numbers are in raw files
/// beside the HDF5 file.
bool check_parts(hid_t object, const std::string& name) {
  const H5Handle created(H5Dget_create_plist(object), H5Pclose);
  if (H5Pget_layout(created) == H5D_VIRTUAL) check_sources(object, created, name);
  return H5Pget_external_count(created) > 0 && find_raw_files(object, created, name);
}

/// What the child that looks at a dataset tells. The other children find it by its name.
struct Found {
  Element element = Element::f32;
  std::vector<std::int64_t> shape;
  std::int64_t offset = -1;  ///< of its numbers in the file; -1: HDF5 reads them
};

Found look_at(hid_t file, const std::string& dataset, const std::string& name) {
  if (H5Oexists_by_name(file, dataset.c_str(), H5P_DEFAULT) <= 0) {
    const std::string target = target_of(file, dataset);
    if (!target.empty()) {
      throw DataError(formatted("{} is a link to {}, which is missing", name, target));
    }
  }
  const H5Handle object(H5Dopen2(file, dataset.c_str(), H5P_DEFAULT), H5Dclose);
  const H5Handle type(H5Dget_type(object), H5Tclose);
  const H5Handle space(H5Dget_space(object), H5Sclose);
  const H5Handle created(H5Dget_create_plist(object), H5Pclose);
  Found found{hdf5_element(type, name), {}};
  std::vector<hsize_t> extents(
      static_cast<std::size_t>(h5_check(H5Sget_simple_extent_ndims(space), "read its extents")));
  h5_check(H5Sget_simple_extent_dims(space, extents.data(), nullptr), "read its extents");
  found.shape.assign(extents.begin(), extents.end());
  if (!bytes_of(found.shape, found.element)) {
    throw DataError(formatted("{} has an impossible size", name));
  }
  check_parts(object, name);
  if (!extents_fit(object)) {
    throw DataError(
        formatted("{} announces more numbers than its file holds: it is damaged, cut short, or was "
                  "not written to its end",
                  name));
  }
  const haddr_t offset = H5Dget_offset(object);
  const bool plain =
      found.element == Element::boolean || H5Tequal(type, native_type(found.element)) > 0;
  // The offset counts from the beginning of the file that has the numbers.
  const bool in_this_file = H5Pget_layout(created) == H5D_CONTIGUOUS &&
                            H5Pget_external_count(created) == 0 && file_of(object) == file_of(file);
  if (offset != HADDR_UNDEF && plain && in_this_file) {
    found.offset = static_cast<std::int64_t>(std::min<haddr_t>(offset, INT64_MAX));
  }
  return found;
}

/// Reads the numbers of a dataset through HDF5 into `values`.
void read_dataset(const fs::path& path, const std::string& dataset, const Array& array,
                  void* values) {
  const H5Handle file = open_file(path);
  H5Handle object(H5Dopen2(file, dataset.c_str(), H5P_DEFAULT), H5Dclose);
  const H5Handle created(H5Dget_create_plist(object), H5Pclose);
  if (check_parts(object, array.name)) {
    const H5Handle access(H5Pcreate(H5P_DATASET_ACCESS), H5Pclose);
    h5_check(H5Pset_efile_prefix(access, "${ORIGIN}"), "look for its raw files");
    object.close();
    object = H5Handle(H5Dopen2(file, dataset.c_str(), access), H5Dclose);
  }
  const hid_t type = native_type(array.element);
  if (H5Dread(object, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, values) >= 0) return;
  H5Eclear2(H5E_DEFAULT);
  const std::string filter = missing_filter(created);
  throw DataError(filter.empty()
                      ? formatted("{} cannot be read: it is damaged or cut short", array.name)
                      : formatted("{} is compressed by the filter {}, which this HDF5 does not "
                                  "have: write it with gzip or uncompressed",
                                  array.name, filter));
}

/// Calls `work` in a child process with limits for the file and `more_bytes`, with HDF5's errors
/// about `name` as the user's.
std::string with_hdf5(const fs::path& path, std::int64_t more_bytes, const std::string& name,
                      const std::function<std::string()>& work) {
  std::error_code ignored;
  const auto bytes = static_cast<std::int64_t>(fs::file_size(path, ignored));
  return in_child(path, Status::data, limits_for(bytes + more_bytes), [&] {
    h5_quiet();
    try {
      return work();
    } catch (const OutputError&) {
      throw DataError(
          formatted("{} cannot be read: it is not a dataset, or is damaged or cut short", name));
    }
  });
}

/// Memory that child processes share.
std::shared_ptr<void> shared_memory(std::size_t bytes, const std::string& name) {
  void* const start =
      mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (start == MAP_FAILED) {
    throw DataError(
        formatted("{} has {} bytes, for which there is no memory: write it uncompressed and "
                  "contiguous, so that it is mapped",
                  name, bytes));
  }
  return {start, [bytes](void* memory) { munmap(memory, bytes); }};
}

void fill(const fs::path& path, const std::string& dataset, Array& array) {
  const std::int64_t bytes = *bytes_of(array.shape, array.element);
  if (bytes == 0) return;
  const std::shared_ptr<void> memory = shared_memory(static_cast<std::size_t>(bytes), array.name);
  with_hdf5(path, bytes, array.name, [&] {
    read_dataset(path, dataset, array, memory.get());
    return std::string();
  });
  array.data = static_cast<const std::uint8_t*>(memory.get());
  array.owner = memory;
}

}  // namespace

std::map<std::string, OpenArray> open_hdf5(const fs::path& path,
                                           const std::vector<std::string>& names) {
  const auto mapped = std::make_shared<const MappedFile>(path);
  std::string name = path.string();
  const auto looked = nlohmann::json::parse(with_hdf5(path, 0, name, [&] {
    const H5Handle file = open_file(path);
    nlohmann::json all = nlohmann::json::object();
    for (const std::string& dataset : names) {
      name = path.string();
      if (h5_check(H5Lexists(file, dataset.c_str(), H5P_DEFAULT), "look for it") == 0) continue;
      name = formatted("{}: {}", path.string(), dataset);
      const Found found = look_at(file, dataset, name);
      all[dataset] = {static_cast<int>(found.element), found.shape, found.offset};
    }
    return all.dump();
  }));
  std::map<std::string, OpenArray> arrays;
  for (const auto& [dataset, found] : looked.items()) {
    Array array{formatted("{}: {}", path.string(), dataset), found[0].get<Element>(),
                found[1].get<std::vector<std::int64_t>>(), nullptr, nullptr};
    const auto offset = found[2].get<std::int64_t>();
    if (offset < 0) {
      arrays[dataset] = {std::move(array),
                         [path, dataset = dataset](Array& whole) { fill(path, dataset, whole); }};
      continue;
    }
    const auto size = static_cast<std::int64_t>(mapped->bytes().size());
    const std::int64_t bytes = *bytes_of(array.shape, array.element);
    if (offset > size || bytes > size - offset) {
      throw DataError(formatted("{} is cut short: copy the file again", array.name));
    }
    array.data = mapped->bytes().data() + offset;
    array.owner = mapped;
    arrays[dataset] = {std::move(array), nullptr};
  }
  return arrays;
}

}  // namespace espalier
