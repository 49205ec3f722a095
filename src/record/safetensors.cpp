#include "espalier/record/safetensors.h"

#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>
#include <fcntl.h>
#include <fmt/ranges.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <fstream>
#include <iterator>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <utility>

#include "espalier/base/error.h"
#include "espalier/base/new_file.h"
#include "espalier/record/software.h"

namespace espalier {
namespace {

static_assert(std::endian::native == std::endian::little, "the format is little-endian");

constexpr std::int64_t kLengthBytes = 8;
constexpr std::int64_t kMostHeaderBytes = 100'000'000;
constexpr const char* kMetadata = "__metadata__";
constexpr const char* kIndexEnding = ".safetensors.index.json";
constexpr std::int64_t kValuesAtOnce = 1 << 20;  // that are read or written in one piece

struct ElementType {
  const char* name;
  std::int64_t bytes;
};
constexpr ElementType kTypes[] = {{"F32", 4},  {"F16", 2}, {"BF16", 2},    {"F64", 8},
                                  {"I64", 8},  {"I32", 4}, {"I16", 2},     {"I8", 1},
                                  {"U64", 8},  {"U32", 4}, {"U16", 2},     {"U8", 1},
                                  {"BOOL", 1}, {"C64", 8}, {"F8_E4M3", 1}, {"F8_E5M2", 1}};

/// A file's bytes, mapped for reading as long as this lives.
class MappedFile {
 public:
  explicit MappedFile(const std::filesystem::path& path) : path_(path) {
    const int file = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
    struct stat status {};
    const bool readable = file >= 0 && ::fstat(file, &status) == 0 && S_ISREG(status.st_mode);
    const int reason = file < 0 ? errno : EISDIR;
    if (readable && status.st_size > 0) {
      bytes_ = status.st_size;
      data_ = ::mmap(nullptr, static_cast<std::size_t>(bytes_), PROT_READ, MAP_PRIVATE, file, 0);
    }
    if (file >= 0) ::close(file);
    if (!readable || data_ == MAP_FAILED) {
      throw DataError(formatted("cannot read {}: {}", path.string(),
                                readable ? "it cannot be mapped" : std::strerror(reason)));
    }
  }
  ~MappedFile() {
    if (data_ != nullptr) ::munmap(data_, static_cast<std::size_t>(bytes_));
  }
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  const std::byte* data() const { return static_cast<const std::byte*>(data_); }
  /// Gives back the memory of the pages that hold these bytes; they are read again when needed. The
  /// process would otherwise hold a file of weights beside the weights themselves.
  void release(const std::byte* begin, const std::byte* end) const {
    const auto page = static_cast<std::uintptr_t>(::sysconf(_SC_PAGESIZE));
    const auto first = reinterpret_cast<std::uintptr_t>(begin) / page * page;
    const auto last = reinterpret_cast<std::uintptr_t>(end);
    if (last > first) ::madvise(reinterpret_cast<void*>(first), last - first, MADV_DONTNEED);
  }
  std::int64_t size() const { return bytes_; }
  [[noreturn]] void refuse(const std::string& why) const {
    throw DataError(formatted("{} is no sound safetensors file: {}", path_.string(), why));
  }
  std::string name() const { return path_.string(); }

 private:
  std::filesystem::path path_;
  void* data_ = nullptr;
  std::int64_t bytes_ = 0;
};

/// A tensor's line in the header, checked by itself.
struct Description {
  std::string name;
  ElementType type{};
  std::vector<std::int64_t> shape;
  std::int64_t begin = 0, end = 0;  ///< within the values
};

/// A whole number that fits, or nothing.
std::optional<std::int64_t> whole(const nlohmann::json& value) {
  if (!value.is_number_unsigned()) return std::nullopt;
  const auto number = value.get<std::uint64_t>();
  if (number > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max())) {
    return std::nullopt;
  }
  return static_cast<std::int64_t>(number);
}

/// The product, or nothing where it is past 64 bits.
std::optional<std::int64_t> product(std::span<const std::int64_t> sizes, std::int64_t bytes) {
  std::int64_t result = bytes;
  for (const std::int64_t size : sizes) {
    if (__builtin_mul_overflow(result, size, &result)) return std::nullopt;
  }
  return result;
}

/// Finds a key that an object has twice, of which the parser keeps the last. (The parser's own
/// callback would take a time that grows with the square of the number of tensors.)
struct KeyWatch final : nlohmann::json_sax<nlohmann::json> {
  std::vector<std::set<std::string>> open;  // the keys of the objects that are open
  std::string twice;

  bool null() override { return true; }
  bool boolean(bool) override { return true; }
  bool number_integer(number_integer_t) override { return true; }
  bool number_unsigned(number_unsigned_t) override { return true; }
  bool number_float(number_float_t, const string_t&) override { return true; }
  bool string(string_t&) override { return true; }
  bool binary(binary_t&) override { return true; }
  bool start_object(std::size_t) override {
    open.emplace_back();
    return true;
  }
  bool key(string_t& name) override {
    if (!open.back().insert(name).second) twice = name;
    return true;
  }
  bool end_object() override {
    open.pop_back();
    return true;
  }
  bool start_array(std::size_t) override { return true; }
  bool end_array() override { return true; }
  bool parse_error(std::size_t, const std::string&, const nlohmann::detail::exception&) override {
    return false;
  }
};

nlohmann::json parse_header(const MappedFile& file, std::int64_t bytes) {
  const auto* text = reinterpret_cast<const char*>(file.data() + kLengthBytes);
  KeyWatch watch;
  if (!nlohmann::json::sax_parse(text, text + bytes, &watch)) {
    file.refuse("its header is not valid JSON");
  }
  if (!watch.twice.empty()) file.refuse(formatted("'{}' is given twice", watch.twice));
  nlohmann::json header = nlohmann::json::parse(text, text + bytes);
  if (!header.is_object()) file.refuse("its header is not a JSON object");
  return header;
}

Description describe(const MappedFile& file, const std::string& name, const nlohmann::json& line,
                     std::int64_t value_bytes) {
  const auto refuse = [&](const std::string& why) {
    file.refuse(formatted("tensor '{}' {}", name, why));
  };
  for (const char* key : {"dtype", "shape", "data_offsets"}) {
    if (!line.is_object() || !line.contains(key)) refuse(formatted("has no {}", key));
  }
  Description d;
  d.name = name;
  const std::string dtype = line["dtype"].is_string() ? line["dtype"].get<std::string>() : "";
  const auto* type = std::ranges::find(kTypes, dtype, &ElementType::name);
  if (type == std::end(kTypes)) {
    refuse(formatted("has the unknown element type {}", line["dtype"].dump()));
  }
  d.type = *type;
  const nlohmann::json& offsets = line["data_offsets"];
  if (!line["shape"].is_array()) refuse("has a shape that is no list");
  for (const nlohmann::json& size : line["shape"]) {
    if (!whole(size)) refuse("has a size that is no whole number");
    d.shape.push_back(*whole(size));
  }
  if (!offsets.is_array() || offsets.size() != 2 || !whole(offsets[0]) || !whole(offsets[1])) {
    refuse("has data_offsets that are not two whole numbers");
  }
  d.begin = *whole(offsets[0]);
  d.end = *whole(offsets[1]);
  if (d.begin > d.end || d.end > value_bytes) {
    refuse(formatted("lies at bytes {} to {} of {}", d.begin, d.end, value_bytes));
  }
  if (product(d.shape, d.type.bytes) != d.end - d.begin) {
    refuse(formatted("has {} bytes, which is not what {} of [{}] needs", d.end - d.begin, dtype,
                     fmt::join(d.shape, ", ")));
  }
  return d;
}

template <class Stored>
void convert(const std::byte* from, std::int64_t count, float* values) {
  for (std::int64_t i = 0; i < count; ++i) {
    Stored value;
    std::memcpy(&value, from + static_cast<std::size_t>(i) * sizeof(Stored), sizeof(Stored));
    values[i] = static_cast<float>(value);
  }
}

void convert(std::string_view type, const std::byte* from, std::int64_t count, float* values) {
  if (type == "F32") {
    std::memcpy(values, from, static_cast<std::size_t>(count) * sizeof(float));
  } else if (type == "F64") {
    convert<double>(from, count, values);
  } else if (type == "F16") {
    convert<c10::Half>(from, count, values);
  } else {
    convert<c10::BFloat16>(from, count, values);
  }
}

/// Values [first, first + count) of the tensor whose values begin at `begin`.
void read_values(const MappedFile& file, const Description& d, const std::byte* begin,
                 std::int64_t first, std::int64_t count, float* values) {
  const std::string_view type = d.type.name;
  if (type != "F32" && type != "F64" && type != "F16" && type != "BF16") {
    throw DataError(
        formatted("tensor '{}' of {} has elements of type {}; weights are F32, F16, "
                  "BF16 or F64",
                  d.name, file.name(), type));
  }
  ESPALIER_CHECK(first >= 0 && count >= 0 && (first + count) * d.type.bytes <= d.end - d.begin,
                 "values {} to {} of tensor '{}'", first, first + count, d.name);
  for (std::int64_t done = 0; done < count; done += kValuesAtOnce) {
    const std::int64_t part = std::min(kValuesAtOnce, count - done);
    const std::byte* const from = begin + (first + done) * d.type.bytes;
    convert(type, from, part, values + done);
    file.release(from, from + part * d.type.bytes);
  }
}

const char* stored_name(FloatType type) {
  return type == FloatType::float32 ? "F32" : type == FloatType::bfloat16 ? "BF16" : "F16";
}

std::int64_t bytes_of(FloatType type) { return type == FloatType::float32 ? 4 : 2; }

/// Appends the values as `Stored`. OutputError if one is finite and the type has none near it.
template <class Stored>
void append(std::span<const float> values, const std::string& name, FloatType type,
            std::vector<std::byte>& bytes) {
  bytes.resize(values.size() * sizeof(Stored));
  for (std::size_t i = 0; i < values.size(); ++i) {
    const Stored stored(values[i]);  // c10's conversions round to nearest, halves to even
    if (!std::isfinite(static_cast<float>(stored)) && std::isfinite(values[i])) {
      throw OutputError(
          formatted("{} has the value {}, which is beyond {}: export it as bfloat16 or float32",
                    name, values[i], float_type_name(type)));
    }
    std::memcpy(bytes.data() + i * sizeof(Stored), &stored, sizeof(Stored));
  }
}

}  // namespace

std::int64_t NamedTensor::count() const {
  std::int64_t values = 1;
  for (const std::int64_t size : shape) values *= size;
  return values;
}

std::vector<NamedTensor> read_safetensors(const std::filesystem::path& path) {
  const auto file = std::make_shared<const MappedFile>(path);
  if (file->size() < kLengthBytes) file->refuse(formatted("it has {} bytes", file->size()));
  std::uint64_t length = 0;
  std::memcpy(&length, file->data(), sizeof(length));
  if (length > static_cast<std::uint64_t>(file->size() - kLengthBytes)) {
    file->refuse(
        formatted("its header would have {} bytes, the whole file has {}", length, file->size()));
  }
  if (length > static_cast<std::uint64_t>(kMostHeaderBytes)) {
    file->refuse(formatted("its header has {} bytes, more than the {} of the format", length,
                           kMostHeaderBytes));
  }
  const auto header_bytes = static_cast<std::int64_t>(length);
  const std::int64_t value_bytes = file->size() - kLengthBytes - header_bytes;
  const nlohmann::json header = parse_header(*file, header_bytes);

  std::vector<Description> descriptions;
  for (const auto& [name, line] : header.items()) {
    if (name != kMetadata) descriptions.push_back(describe(*file, name, line, value_bytes));
  }
  std::ranges::sort(descriptions, [](const Description& a, const Description& b) {
    return std::pair(a.begin, a.end) < std::pair(b.begin, b.end);
  });
  std::int64_t position = 0;
  for (const Description& d : descriptions) {
    if (d.begin != position) {
      file->refuse(formatted("tensor '{}' begins at byte {} where the one before it ends at {}",
                             d.name, d.begin, position));
    }
    position = d.end;
  }
  if (position != value_bytes) {
    file->refuse(
        formatted("its tensors have {} bytes, but {} follow the header", position, value_bytes));
  }

  std::vector<NamedTensor> tensors;
  for (const Description& d : descriptions) {
    const std::byte* from = file->data() + kLengthBytes + header_bytes + d.begin;
    tensors.push_back(
        {d.name, d.shape, [file, d, from](std::int64_t first, std::int64_t count, float* values) {
           read_values(*file, d, from, first, count, values);
         }});
  }
  return tensors;
}

namespace {

/// The tensors of all files; two of one name are an error.
std::vector<NamedTensor> tensors_of(const std::vector<std::filesystem::path>& files) {
  std::vector<NamedTensor> all;
  std::map<std::string, const std::filesystem::path*> owners;
  for (const std::filesystem::path& file : files) {
    std::vector<NamedTensor> own = read_safetensors(file);
    for (const NamedTensor& tensor : own) {
      const auto [owner, is_new] = owners.emplace(tensor.name, &file);
      if (is_new) continue;
      throw DataError(formatted("{} and {} both have a tensor '{}'", owner->second->string(),
                                file.string(), tensor.name));
    }
    std::ranges::move(own, std::back_inserter(all));
  }
  return all;
}

/// The tensors of the files that the index names, which are beside it.
std::vector<NamedTensor> indexed_tensors(const std::filesystem::path& index) {
  const auto refuse = [&](const std::string& why) {
    throw DataError(
        formatted("{} is no sound index of safetensors files: {}", index.string(), why));
  };
  std::ifstream text(index);
  if (!text) throw DataError(formatted("cannot read {}", index.string()));
  const nlohmann::json content = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!content.is_object() || !content.contains("weight_map") ||
      !content["weight_map"].is_object() || content["weight_map"].empty()) {
    refuse("it has no weight_map, an object with the file of each tensor");
  }
  std::map<std::string, std::set<std::string>> names;  // by file
  for (const auto& [name, file] : content["weight_map"].items()) {
    if (!file.is_string() || std::filesystem::path(file.get<std::string>()).has_parent_path()) {
      refuse(formatted("the file of tensor '{}' is {}, which is no name of a file beside it", name,
                       file.dump()));
    }
    names[file.get<std::string>()].insert(name);
  }
  std::vector<std::filesystem::path> files;
  for (const auto& [file, unused] : names) files.push_back(index.parent_path() / file);
  std::vector<NamedTensor> tensors = tensors_of(files);
  std::set<std::string_view> held;
  for (const NamedTensor& tensor : tensors) held.insert(tensor.name);
  for (const auto& [file, own] : names) {
    for (const std::string& name : own) {
      if (!held.contains(name)) {
        refuse(formatted("it places tensor '{}' in {}, which has no such tensor", name, file));
      }
    }
  }
  return tensors;
}

}  // namespace

bool is_weights_path(const std::filesystem::path& path) {
  std::error_code ignored;
  return path.extension() == ".safetensors" || path.string().ends_with(kIndexEnding) ||
         std::filesystem::is_directory(path, ignored);
}

std::vector<NamedTensor> read_weights(const std::filesystem::path& path) {
  namespace fs = std::filesystem;
  std::error_code error;
  if (path.string().ends_with(kIndexEnding)) return indexed_tensors(path);
  if (!fs::is_directory(path, error)) return read_safetensors(path);
  if (const fs::path index = path / formatted("model{}", kIndexEnding); fs::exists(index, error)) {
    return indexed_tensors(index);
  }
  if (const fs::path single = path / "model.safetensors"; fs::exists(single, error)) {
    return read_safetensors(single);
  }
  std::vector<fs::path> files;
  for (const auto& entry : fs::directory_iterator(path, error)) {
    if (entry.path().extension() == ".safetensors") files.push_back(entry.path());
  }
  if (error) throw DataError(formatted("cannot read {}: {}", path.string(), error.message()));
  if (files.empty()) {
    throw DataError(
        formatted("{} has no safetensors files: give the folder of the weights, or one "
                  "file",
                  path.string()));
  }
  std::ranges::sort(files);
  return tensors_of(files);
}

std::optional<FloatType> float_type(std::string_view name) {
  for (const FloatType type : {FloatType::float32, FloatType::bfloat16, FloatType::float16}) {
    if (name == float_type_name(type)) return type;
  }
  return std::nullopt;
}

const char* float_type_name(FloatType type) {
  return type == FloatType::float32    ? "float32"
         : type == FloatType::bfloat16 ? "bfloat16"
                                       : "float16";
}

void write_safetensors(const std::filesystem::path& path, std::span<const NamedTensor> tensors,
                       FloatType type) {
  const auto line_of = [](const std::string& name, const nlohmann::ordered_json& value) {
    return formatted("{}:{}", nlohmann::json(name).dump(), value.dump());
  };
  // Programs of the PyTorch world look for this format's name.
  std::string text =
      "{" + line_of(kMetadata, {{"format", "pt"}, {"software", "espalier " + software_version()}});
  std::set<std::string_view> names{kMetadata};
  std::int64_t position = 0;
  for (const NamedTensor& tensor : tensors) {
    const std::int64_t end = position + tensor.count() * bytes_of(type);
    ESPALIER_CHECK(names.insert(tensor.name).second, "two tensors are called '{}'", tensor.name);
    text += "," + line_of(tensor.name, {{"dtype", stored_name(type)},
                                        {"shape", tensor.shape},
                                        {"data_offsets", {position, end}}});
    position = end;
  }
  text += "}";
  text.resize((text.size() + 7) / 8 * 8, ' ');  // so that the values are aligned
  const std::uint64_t length = text.size();

  NewFile file(path);
  file.write(&length, sizeof(length));
  file.write(text.data(), text.size());
  std::vector<float> values;
  std::vector<std::byte> bytes;
  for (const NamedTensor& tensor : tensors) {
    for (std::int64_t first = 0; first < tensor.count(); first += kValuesAtOnce) {
      values.resize(static_cast<std::size_t>(std::min(kValuesAtOnce, tensor.count() - first)));
      tensor.read(first, std::ssize(values), values.data());
      if (type == FloatType::float32) {
        file.write(values.data(), values.size() * sizeof(float));
        continue;
      }
      if (type == FloatType::bfloat16) append<c10::BFloat16>(values, tensor.name, type, bytes);
      if (type == FloatType::float16) append<c10::Half>(values, tensor.name, type, bytes);
      file.write(bytes.data(), bytes.size());
    }
  }
  file.put_in_place();
}

}  // namespace espalier
