#pragma once
// Values as byte strings, by the function that archives them: the heads of jobs and answers.

#include "espalier/base/archive.h"

namespace espalier {

template <class Value>
Bytes encoded(Value value, void (*archive_value)(Archive&, Value&)) {
  ByteArchive archive;
  archive_value(archive, value);
  return archive.take();
}

/// `bytes`: of encoded() with the same function.
template <class Value>
Value decoded(const Bytes& bytes, void (*archive_value)(Archive&, Value&)) {
  ByteArchive archive(bytes);
  Value value;
  archive_value(archive, value);
  return value;
}

}  // namespace espalier
