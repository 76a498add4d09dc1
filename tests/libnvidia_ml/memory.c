/* SPDX-License-Identifier: MPL-2.0 */
/* Memory sizes and memory errors, of GPUs and of MIG instances. */
#include "fake.h"

#define MIB(count) ((count) * 1024ULL * 1024ULL)

struct sizes {
    unsigned long long total;
    unsigned long long reserved;
    unsigned long long used;
};

static nvmlReturn_t read_sizes(const struct section *section, struct sizes *sizes)
{
    unsigned long long total;
    const nvmlReturn_t status = section_number(section, "memory_total_mib", &total);
    if (status != NVML_SUCCESS)
        return status;
    sizes->total = MIB(total);
    sizes->reserved = MIB(section_number_or(section, "memory_reserved_mib", 0));
    sizes->used = MIB(section_number_or(section, "memory_used_mib", 0));
    return NVML_SUCCESS;
}

/* The old form has no word for what the driver keeps for itself and counts it as used. */
FAKE_EXPORT nvmlReturn_t nvmlDeviceGetMemoryInfo(nvmlDevice_t device, nvmlMemory_t *memory)
{
    struct call call = ON_ANY(device);
    nvmlReturn_t status = call_begin(&call);
    if (status != NVML_SUCCESS)
        return status;
    if (memory == NULL)
        return call_end(NVML_ERROR_INVALID_ARGUMENT);
    struct sizes sizes;
    status = read_sizes(call.section, &sizes);
    if (status == NVML_SUCCESS) {
        memory->total = sizes.total;
        memory->used = sizes.used + sizes.reserved;
        memory->free = sizes.total - memory->used;
    }
    return call_end(status);
}

#ifndef DRIVER_470
FAKE_EXPORT nvmlReturn_t nvmlDeviceGetMemoryInfo_v2(nvmlDevice_t device, nvmlMemory_v2_t *memory)
{
    struct call call = ON_ANY(device);
    nvmlReturn_t status = call_begin(&call);
    if (status != NVML_SUCCESS)
        return status;
    if (memory == NULL)
        return call_end(NVML_ERROR_INVALID_ARGUMENT);
    if (memory->version != NVML_VERSIONED(nvmlMemory_v2_t, 2))
        return call_end(NVML_ERROR_ARGUMENT_VERSION_MISMATCH);
    struct sizes sizes;
    status = read_sizes(call.section, &sizes);
    if (status == NVML_SUCCESS) {
        memory->total = sizes.total;
        memory->reserved = sizes.reserved;
        memory->used = sizes.used;
        memory->free = sizes.total - sizes.used - sizes.reserved;
    }
    return call_end(status);
}
#endif

FAKE_EXPORT nvmlReturn_t nvmlDeviceGetBAR1MemoryInfo(nvmlDevice_t device, nvmlBAR1Memory_t *bar1)
{
    struct call call = ON_ANY(device);
    nvmlReturn_t status = call_begin(&call);
    if (status != NVML_SUCCESS)
        return status;
    if (bar1 == NULL)
        return call_end(NVML_ERROR_INVALID_ARGUMENT);
    unsigned long long total;
    status = section_number(call.section, "bar1_total_mib", &total);
    if (status == NVML_SUCCESS) {
        bar1->bar1Total = MIB(total);
        bar1->bar1Used = MIB(section_number_or(call.section, "bar1_used_mib", 0));
        bar1->bar1Free = bar1->bar1Total - bar1->bar1Used;
    }
    return call_end(status);
}

enum { ECC_PLACES = 4 };

/* Second index: the NVML error type, 0 corrected and 1 uncorrected. */
static const struct {
    unsigned int location;
    const char *keys[NVML_MEMORY_ERROR_TYPE_COUNT];
} ecc_places[ECC_PLACES] = {
    {NVML_MEMORY_LOCATION_L1_CACHE, {"ecc_l1_corrected", "ecc_l1"}},
    {NVML_MEMORY_LOCATION_L2_CACHE, {"ecc_l2_corrected", "ecc_l2"}},
    {NVML_MEMORY_LOCATION_DEVICE_MEMORY, {"ecc_memory_corrected", "ecc_memory"}},
    {NVML_MEMORY_LOCATION_SRAM, {"ecc_sram_corrected", "ecc_sram"}},
};

/* An instance knows only what happened in its own SRAM since the driver was loaded. */
static nvmlReturn_t count_errors(const struct section *section, unsigned int type,
                                 unsigned int counter, unsigned int place,
                                 unsigned long long *count)
{
    if (section->kind == SECTION_MIG &&
        (counter != NVML_VOLATILE_ECC || type != NVML_MEMORY_ERROR_TYPE_UNCORRECTED ||
         ecc_places[place].location != NVML_MEMORY_LOCATION_SRAM))
        return NVML_ERROR_NOT_SUPPORTED;
    return section_number(section, ecc_places[place].keys[type], count);
}

FAKE_EXPORT nvmlReturn_t nvmlDeviceGetMemoryErrorCounter(nvmlDevice_t device, unsigned int type,
                                                         unsigned int counter,
                                                         unsigned int location,
                                                         unsigned long long *count)
{
    struct call call = ON_ANY(device);
    const nvmlReturn_t status = call_begin(&call);
    if (status != NVML_SUCCESS)
        return status;
    if (count == NULL || type >= NVML_MEMORY_ERROR_TYPE_COUNT ||
        counter >= NVML_ECC_COUNTER_TYPE_COUNT || location >= NVML_MEMORY_LOCATION_COUNT)
        return call_end(NVML_ERROR_INVALID_ARGUMENT);
    for (unsigned int place = 0; place < ECC_PLACES; place++)
        if (ecc_places[place].location == location)
            return call_end(count_errors(call.section, type, counter, place, count));
    return call_end(NVML_ERROR_NOT_SUPPORTED);
}

FAKE_EXPORT nvmlReturn_t nvmlDeviceGetTotalEccErrors(nvmlDevice_t device, unsigned int type,
                                                     unsigned int counter,
                                                     unsigned long long *count)
{
    struct call call = ON_GPU(device);
    nvmlReturn_t status = call_begin(&call);
    if (status != NVML_SUCCESS)
        return status;
    if (count == NULL || type >= NVML_MEMORY_ERROR_TYPE_COUNT ||
        counter >= NVML_ECC_COUNTER_TYPE_COUNT)
        return call_end(NVML_ERROR_INVALID_ARGUMENT);
    status = NVML_ERROR_NOT_SUPPORTED;
    unsigned long long sum = 0, part;
    for (unsigned int place = 0; place < ECC_PLACES; place++) {
        if (count_errors(call.section, type, counter, place, &part) == NVML_SUCCESS) {
            sum += part;
            status = NVML_SUCCESS;
        }
    }
    if (status == NVML_SUCCESS)
        *count = sum;
    return call_end(status);
}
