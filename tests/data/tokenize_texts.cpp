// Turns texts into tokens and back. Reads from stdin for each text its length in bytes (int32) and
// its bytes; writes to stdout the number of its tokens and the tokens (int32), then the length and
// the bytes of the text that they decode to. Argument: a tokenizer.json. Driven by
// tests/cli/tokenizer_test.py.

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <iostream>
#include <iterator>
#include <string>

#include "espalier/base/error.h"
#include "espalier/data/tokenizer.h"

int main(int argc, char** argv) {
  if (argc != 2) return 2;
  try {
    const espalier::Tokenizer tokenizer(argv[1]);
    const std::string input(std::istreambuf_iterator<char>(std::cin), {});
    const auto put = [](const void* data, std::size_t count, std::size_t each) {
      const auto number = static_cast<std::int32_t>(count);
      std::fwrite(&number, sizeof number, 1, stdout);
      std::fwrite(data, each, count, stdout);
    };
    double seconds = 0;
    for (std::size_t at = 0; at < input.size();) {
      std::int32_t length = 0;
      std::memcpy(&length, input.data() + at, sizeof length);
      at += sizeof length;
      const auto text = std::string_view(input).substr(at, static_cast<std::size_t>(length));
      at += text.size();
      const auto begin = std::chrono::steady_clock::now();
      const auto tokens = tokenizer.encode(text);
      seconds += std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
      const std::string decoded = tokenizer.decode(tokens, /*special=*/true);
      put(tokens.data(), tokens.size(), sizeof tokens[0]);
      put(decoded.data(), decoded.size(), 1);
    }
    std::fprintf(stderr, "%.1f MB in %.2f s\n", static_cast<double>(input.size()) * 1e-6, seconds);
    return 0;
  } catch (const espalier::Error& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return static_cast<int>(error.status());
  }
}
