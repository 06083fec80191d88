// Which instruction set serves.
#include "dispatch.hpp"

#include <atomic>
#include <cstdlib>
#include <cstring>

#if defined(GNX_X86)
#include <cpuid.h>
#endif
#if defined(GNX_AMX)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace gnx {
namespace {

std::atomic<const Path *> chosen{nullptr};

Path with(const Path &path, const Levels &levels) {
  Path made = path;
  made.levels = levels;
  return made;
}

const Path &portable() {
  static const Path path = with(PORTABLE, PORTABLE_LEVELS);
  return path;
}

#if defined(GNX_X86)
const Path &avx2() {
  static const Path path = with(AVX2, AVX2_LEVELS);
  return path;
}

// The first processors with AVX-512 lack its products of bytes: theirs are those of AVX2.
const Path &avx512() {
  static const Path path = [] {
    Path made = with(AVX512, AVX512_LEVELS);
    made.levels.product = AVX2_LEVELS.product;
#if defined(GNX_VNNI)
    if (__builtin_cpu_supports("avx512vnni")) made.levels.product = VNNI;
#endif
    return made;
  }();
  return path;
}
#endif

#if defined(GNX_AMX)
// The vectors of AVX-512, and products of dense matrices on tiles.
const Path &amx() {
  static const Path path = [] {
    Path made = avx512();
    made.name = "amx";
    made.products[GNX_DENSE] = AMX;
    made.levels.product = AMX_LEVELS;
    return made;
  }();
  return path;
}

// The processor has tiles of bfloat16 and bytes, and the system keeps them for this process: it has to be asked.
bool has_tiles() {
  constexpr unsigned TILES = 1u << 24, BYTES = 1u << 25, BFLOAT16 = 1u << 22, ALL = TILES | BYTES | BFLOAT16;
  constexpr long REQUEST = 0x1023, TILE_DATA = 18;
  unsigned eax, ebx, ecx, edx;
  if (!__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) || (edx & ALL) != ALL) return false;
  return syscall(SYS_arch_prctl, REQUEST, TILE_DATA) == 0;
}
#endif

bool runs_here(const Path &path) {
#if defined(GNX_X86)
  __builtin_cpu_init();
  unsigned eax, ebx, ecx, edx;
  // Older compilers cannot ask for F16C by name.
  if (!__get_cpuid(1, &eax, &ebx, &ecx, &edx) || !(ecx & bit_F16C)) return &path == &portable();
  if (&path == &avx2()) return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#if defined(GNX_AMX)
  if (&path == &amx()) return runs_here(avx512()) && has_tiles();
#endif
  if (&path == &avx512())
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
#endif
  return &path == &portable();
}

const Path *find(const char *name) {
  static const Path *const paths[] = {
#if defined(GNX_AMX)
      &amx(),
#endif
#if defined(GNX_X86)
      &avx512(), &avx2(),
#endif
      &portable()};
  for (const Path *path : paths) {
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
