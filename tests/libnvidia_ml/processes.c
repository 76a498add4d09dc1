/* SPDX-License-Identifier: MPL-2.0 */
/* The lists of processes that use a GPU or a MIG instance, in the three layouts of their history.
 *
 * A key holds a list such as "1234:512 1235:-": process ids with MiB, or "-" where the driver does
 * not know. `processes_grow` says how often a buffer that is large enough turns out too small,
 * because another process came meanwhile. `process_record_bytes` of the driver is the size of the
 * records that the third form writes, whatever room its caller made: 16 (one report of 550.127),
 * 24, or 32 (535.43 to 535.86 add a field). */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fake.h"

#define NOT_AVAILABLE (~0ULL)

typedef struct {
    unsigned int pid;
    unsigned long long usedGpuMemory;
} nvmlProcessInfo_v1_t;

typedef struct {
    unsigned int pid;
    unsigned long long usedGpuMemory;
    unsigned int gpuInstanceId;
    unsigned int computeInstanceId;
} nvmlProcessInfo_v2_t;

/* The third has no new fields; only its name says that it will stay as it is. */
typedef nvmlProcessInfo_v2_t nvmlProcessInfo_v3_t;

/* As the drivers 535.43 to 535.86 write it under the name of the third. */
typedef struct {
    nvmlProcessInfo_v2_t known;
    unsigned long long usedGpuCcProtectedMemory;
} nvmlProcessInfo_535_t;

/* LAYOUT_V3 stands for whichever of the others this driver writes. */
enum layout { LAYOUT_V1, LAYOUT_V2, LAYOUT_535, LAYOUT_V3 };

struct list {
    unsigned int count;
    unsigned int room;
    enum layout layout;
    void *out;
};

static unsigned long long refusals;

static void put(struct list *list, const nvmlProcessInfo_v2_t *found)
{
    const bool fits = list->out != NULL && list->count < list->room;
    if (fits && list->layout == LAYOUT_V1)
        ((nvmlProcessInfo_v1_t *)list->out)[list->count] =
            (nvmlProcessInfo_v1_t){found->pid, found->usedGpuMemory};
    else if (fits && list->layout == LAYOUT_V2)
        ((nvmlProcessInfo_v2_t *)list->out)[list->count] = *found;
    else if (fits)
        ((nvmlProcessInfo_535_t *)list->out)[list->count] = (nvmlProcessInfo_535_t){*found, 0};
    list->count++;
}

static bool put_entry(struct list *list, const struct section *section, const char *text)
{
    char *end;
    nvmlProcessInfo_v2_t found = {
        .gpuInstanceId = (unsigned int)section_number_or(section, "gi", NVML_NO_INSTANCE),
        .computeInstanceId = (unsigned int)section_number_or(section, "ci", NVML_NO_INSTANCE),
    };
    found.pid = (unsigned int)strtoul(text, &end, 10);
    if (end == text || *end != ':')
        return false;
    const char *memory = end + 1;
    if (strcmp(memory, "-") == 0) {
        found.usedGpuMemory = NOT_AVAILABLE;
    } else {
        found.usedGpuMemory = strtoull(memory, &end, 10) << 20;
        if (end == memory || *end != '\0')
            return false;
    }
    put(list, &found);
    return true;
}

static nvmlReturn_t put_section(struct list *list, const struct section *section, const char *key)
{
    const char *text = section_text(section, key);
    if (text == NULL)
        return NVML_ERROR_NOT_SUPPORTED;
    char *copy = strdup(text), *rest = NULL;
    nvmlReturn_t status = copy != NULL ? NVML_SUCCESS : NVML_ERROR_MEMORY;
    for (char *word = copy; status == NVML_SUCCESS && (word = strtok_r(word, " ", &rest)) != NULL;
         word = NULL) {
        if (!put_entry(list, section, word)) {
            fprintf(stderr, "fake NVML: %s: %s is not PID:MIB\n", key, word);
            status = NVML_ERROR_UNKNOWN;
        }
    }
    free(copy);
    return status;
}

/* With MIG on, a whole GPU lists the processes of all its instances. */
static nvmlReturn_t put_instances(struct list *list, const struct section *gpu, const char *key)
{
    const struct section *section;
    for (size_t i = 0; (section = profile_section(i)) != NULL; i++) {
        if (section->kind != SECTION_MIG || section->gpu != gpu->gpu)
            continue;
        const nvmlReturn_t status = put_section(list, section, key);
        if (status != NVML_SUCCESS)
            return status;
    }
    return NVML_SUCCESS;
}

static enum layout newest_layout(void)
{
    switch (section_number_or(profile_driver(), "process_record_bytes", 0)) {
    case sizeof(nvmlProcessInfo_v1_t):
        return LAYOUT_V1;
    case sizeof(nvmlProcessInfo_535_t):
        return LAYOUT_535;
    default:
        return LAYOUT_V2;
    }
}

static nvmlReturn_t list_processes(struct call call, const char *key, enum layout layout,
                                   unsigned int *count, void *infos)
{
    nvmlReturn_t status = call_begin(&call);
    if (status != NVML_SUCCESS)
        return status;
    if (count == NULL)
        return call_end(NVML_ERROR_INVALID_ARGUMENT);
    struct list list = {.room = *count, .layout = layout, .out = infos};
    if (layout == LAYOUT_V3)
        list.layout = newest_layout();
    if (call.section->kind == SECTION_GPU && gpu_has_mig_on(call.section))
        status = put_instances(&list, call.section, key);
    else
        status = put_section(&list, call.section, key);
    if (status != NVML_SUCCESS)
        return call_end(status);
    const bool fits = list.count == 0 || (infos != NULL && list.count <= list.room);
    if (fits && infos != NULL &&
        refusals < section_number_or(profile_gpu(call.section->gpu), "processes_grow", 0)) {
        refusals++;
        *count = list.room + 1;
        return call_end(NVML_ERROR_INSUFFICIENT_SIZE);
    }
    *count = list.count;
    return call_end(fits ? NVML_SUCCESS : NVML_ERROR_INSUFFICIENT_SIZE);
}

FAKE_EXPORT nvmlReturn_t nvmlDeviceGetComputeRunningProcesses(nvmlDevice_t device,
                                                              unsigned int *count,
                                                              nvmlProcessInfo_v1_t *infos)
{
    return list_processes(ON_ANY(device), "compute_processes", LAYOUT_V1, count, infos);
}

FAKE_EXPORT nvmlReturn_t nvmlDeviceGetComputeRunningProcesses_v2(nvmlDevice_t device,
                                                                 unsigned int *count,
                                                                 nvmlProcessInfo_v2_t *infos)
{
    return list_processes(ON_ANY(device), "compute_processes", LAYOUT_V2, count, infos);
}

FAKE_EXPORT nvmlReturn_t nvmlDeviceGetGraphicsRunningProcesses(nvmlDevice_t device,
                                                               unsigned int *count,
                                                               nvmlProcessInfo_v1_t *infos)
{
    return list_processes(ON_ANY(device), "graphics_processes", LAYOUT_V1, count, infos);
}

FAKE_EXPORT nvmlReturn_t nvmlDeviceGetGraphicsRunningProcesses_v2(nvmlDevice_t device,
                                                                  unsigned int *count,
                                                                  nvmlProcessInfo_v2_t *infos)
{
    return list_processes(ON_ANY(device), "graphics_processes", LAYOUT_V2, count, infos);
}

FAKE_EXPORT nvmlReturn_t nvmlDeviceGetMPSComputeRunningProcesses(nvmlDevice_t device,
                                                                 unsigned int *count,
                                                                 nvmlProcessInfo_v1_t *infos)
{
    return list_processes(ON_ANY(device), "mps_processes", LAYOUT_V1, count, infos);
}

FAKE_EXPORT nvmlReturn_t nvmlDeviceGetMPSComputeRunningProcesses_v2(nvmlDevice_t device,
                                                                    unsigned int *count,
                                                                    nvmlProcessInfo_v2_t *infos)
{
    return list_processes(ON_ANY(device), "mps_processes", LAYOUT_V2, count, infos);
}

#ifndef DRIVER_470
FAKE_EXPORT nvmlReturn_t nvmlDeviceGetComputeRunningProcesses_v3(nvmlDevice_t device,
                                                                 unsigned int *count,
                                                                 nvmlProcessInfo_v3_t *infos)
{
    return list_processes(ON_ANY(device), "compute_processes", LAYOUT_V3, count, infos);
}

FAKE_EXPORT nvmlReturn_t nvmlDeviceGetGraphicsRunningProcesses_v3(nvmlDevice_t device,
                                                                  unsigned int *count,
                                                                  nvmlProcessInfo_v3_t *infos)
{
    return list_processes(ON_ANY(device), "graphics_processes", LAYOUT_V3, count, infos);
}

FAKE_EXPORT nvmlReturn_t nvmlDeviceGetMPSComputeRunningProcesses_v3(nvmlDevice_t device,
                                                                    unsigned int *count,
                                                                    nvmlProcessInfo_v3_t *infos)
{
    return list_processes(ON_ANY(device), "mps_processes", LAYOUT_V3, count, infos);
}
#endif
