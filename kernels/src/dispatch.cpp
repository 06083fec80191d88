// Which instruction set serves.
#include "dispatch.hpp"

#include <atomic>
#include <cstdlib>
#include <cstring>

#if defined(GNX_X86)
#include <cpuid.h>
#endif

namespace gnx {
namespace {

std::atomic<const Path *> chosen{nullptr};

bool runs_here(const Path &path) {
#if defined(GNX_X86)
  __builtin_cpu_init();
  unsigned eax, ebx, ecx, edx;
  // Older compilers cannot ask for F16C by name.
  if (!__get_cpuid(1, &eax, &ebx, &ecx, &edx) || !(ecx & bit_F16C)) return &path == &PORTABLE;
  if (&path == &AVX2) return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  if (&path == &AVX512)
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
#endif
  return &path == &PORTABLE;
}

#if defined(GNX_X86)
const Path *const PATHS[] = {&AVX512, &AVX2, &PORTABLE};
#else
const Path *const PATHS[] = {&PORTABLE};
#endif

const Path *find(const char *name) {
  for (const Path *path : PATHS) {
    if ((!name || std::strcmp(path->name, name) == 0) && runs_here(*path)) return path;
  }
  return nullptr;
}

}  // namespace

const Path *current_path() {
  const Path *path = chosen.load();
  if (path) return path;
  const char *name = std::getenv("GNNEXPORT_KERNELS");
  path = find(name && *name ? name : nullptr);
  if (path) chosen.store(path);
  return path;
}

bool use_path(const char *name) {
  const Path *path = find(name);
  if (path) chosen.store(path);
  return path != nullptr;
}

}  // namespace gnx
