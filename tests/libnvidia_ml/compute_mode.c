/* SPDX-License-Identifier: MPL-2.0 */
/* The compute mode, which outlives whoever sets it: it is kept in a file beside the profile until
 * the driver is loaded again. Each change is one more line `<uuid> <mode>`, the last one counts. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "fake.h"

static bool modes_path(char *path, size_t room)
{
    const char *profile = getenv("FAKE_NVML_PROFILE");
    return profile != NULL && (size_t)snprintf(path, room, "%s.modes", profile) < room;
}

/* Leaves `mode` as it is where nobody has set one. */
static void read_mode(const char *uuid, unsigned int *mode)
{
    char path[4096], owner[128];
    unsigned int set;
    FILE *file = modes_path(path, sizeof path) ? fopen(path, "re") : NULL;
    if (file == NULL)
        return;
    while (fscanf(file, "%127s %u", owner, &set) == 2)
        if (strcmp(owner, uuid) == 0)
            *mode = set;
    fclose(file);
}

/* One write, so that lines of several processes never mix. */
static nvmlReturn_t write_mode(const char *uuid, unsigned int mode)
{
    char path[4096], line[160];
    if (!modes_path(path, sizeof path))
        return NVML_ERROR_UNKNOWN;
    const int file = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0644);
    if (file < 0)
        return NVML_ERROR_UNKNOWN;
    const int length = snprintf(line, sizeof line, "%s %u\n", uuid, mode);
    const bool written = write(file, line, (size_t)length) == length;
    close(file);
    return written ? NVML_SUCCESS : NVML_ERROR_UNKNOWN;
}

/* With MIG on, the mode is a matter of each instance. */
static bool has_mode(const struct section *section)
{
    const bool parent_of_instances = section->kind == SECTION_GPU && gpu_has_mig_on(section);
    return !parent_of_instances && section_text(section, "compute_mode") != NULL &&
           section_text(section, "uuid") != NULL;
}

FAKE_EXPORT nvmlReturn_t nvmlDeviceGetComputeMode(nvmlDevice_t device, unsigned int *mode)
{
    struct call call = ON_ANY(device);
    nvmlReturn_t status = call_begin(&call);
    if (status != NVML_SUCCESS)
        return status;
    if (mode == NULL)
        return call_end(NVML_ERROR_INVALID_ARGUMENT);
    if (!has_mode(call.section))
        return call_end(NVML_ERROR_NOT_SUPPORTED);
    status = section_unsigned(call.section, "compute_mode", mode);
    if (status == NVML_SUCCESS)
        read_mode(section_text(call.section, "uuid"), mode);
    return call_end(status);
}

FAKE_EXPORT nvmlReturn_t nvmlDeviceSetComputeMode(nvmlDevice_t device, unsigned int mode)
{
    struct call call = ON_ANY(device);
    const nvmlReturn_t status = call_begin(&call);
    if (status != NVML_SUCCESS)
        return status;
    if (mode >= NVML_COMPUTEMODE_COUNT)
        return call_end(NVML_ERROR_INVALID_ARGUMENT);
    if (call.section->kind == SECTION_MIG || !has_mode(call.section) ||
        mode == NVML_COMPUTEMODE_EXCLUSIVE_THREAD)
        return call_end(NVML_ERROR_NOT_SUPPORTED);
    return call_end(write_mode(section_text(call.section, "uuid"), mode));
}
