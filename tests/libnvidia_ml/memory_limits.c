/* SPDX-License-Identifier: MPL-2.0 */
/* The limits of memory that the driver holds a cgroup to, since 615. Each one that is set becomes a
 * line of FAKE_NVML_LIMITS: the GPU's UUID, the cgroup, the soft and the hard limit in bytes. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "fake.h"

enum { MOST_BYTES = 4096 };
static const unsigned long long MIB = 1024ULL * 1024;

static nvmlReturn_t write_down(const char *uuid, const nvmlSetMemoryLimits_v1_t *limits)
{
    const char *path = getenv("FAKE_NVML_LIMITS");
    if (path == NULL)
        return NVML_ERROR_UNKNOWN;
    const int file = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0644);
    if (file < 0)
        return NVML_ERROR_UNKNOWN;
    char line[MOST_BYTES];
    const int length = snprintf(line, sizeof line, "%s %s %llu %llu\n", uuid, limits->nameSpace,
                                limits->softLimit, limits->hardLimit);
    const bool whole = length < MOST_BYTES && write(file, line, (size_t)length) == length;
    close(file);
    return whole ? NVML_SUCCESS : NVML_ERROR_UNKNOWN;
}

FAKE_EXPORT nvmlReturn_t nvmlDeviceSetMemoryLimits_v1(nvmlDevice_t device,
                                                      nvmlSetMemoryLimits_v1_t *limits)
{
    struct call call = ON_GPU(device);
    const nvmlReturn_t status = call_begin(&call);
    if (status != NVML_SUCCESS)
        return status;
    const char *uuid = section_text(call.section, "uuid");
    const unsigned long long total =
        section_number_or(call.section, "memory_total_mib", 0) * MIB;
    if (uuid == NULL || limits == NULL || limits->nameSpace == NULL ||
        limits->softLimit > limits->hardLimit ||
        (limits->hardLimit > total && limits->hardLimit != NVML_DEVICE_MEMORY_LIMIT_MAX))
        return call_end(NVML_ERROR_INVALID_ARGUMENT);
    if (access(limits->nameSpace, F_OK) != 0)
        return call_end(NVML_ERROR_OPERATING_SYSTEM);
    return call_end(write_down(uuid, limits));
}
