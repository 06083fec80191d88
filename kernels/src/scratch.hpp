// Memory that a thread keeps between tasks.
#pragma once

#include <cstddef>
#include <cstdint>
#include <exception>
#include <vector>

namespace gnx {

constexpr size_t LINE_FLOATS = 64 / sizeof(float);  // in a line of the cache

inline size_t up_to_line(size_t count) { return (count + LINE_FLOATS - 1) / LINE_FLOATS * LINE_FLOATS; }

inline float *at_line(float *memory) {
  return reinterpret_cast<float *>((reinterpret_cast<uintptr_t>(memory) + 63) & ~static_cast<uintptr_t>(63));
}

// Room for `count` floats, where a line begins; null where there is none. What was there before is lost.
inline float *scratch(size_t count) {
  thread_local std::vector<float> own;
  try {
    if (own.size() < count + LINE_FLOATS) own.resize(count + LINE_FLOATS);
  } catch (const std::exception &) {
    return nullptr;
  }
  return at_line(own.data());
}

}  // namespace gnx
