// Run tasks on the host's threads, or on our own where there is no host.
#pragma once

#include <cstddef>

#include "gnnexport/kernels.h"

namespace gnx {

using Task = void (*)(void *data, size_t index);

// Call task(data, i) once for each i < count. Whoever is free takes the next one.
void run_tasks(const gnx_threads *threads, size_t count, Task task, void *data);

template <class Each>
void for_each(const gnx_threads *threads, size_t count, Each each) {
  run_tasks(threads, count, [](void *data, size_t index) { (*static_cast<Each *>(data))(index); }, &each);
}

}  // namespace gnx
