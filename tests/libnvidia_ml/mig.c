/* SPDX-License-Identifier: MPL-2.0 */
/* MIG mode, and the instances of a GPU that is in it. */
#include "fake.h"

enum { MOST_INSTANCES = 7 };

FAKE_EXPORT nvmlReturn_t nvmlDeviceGetMigMode(nvmlDevice_t device, unsigned int *mode,
                                              unsigned int *pending)
{
    struct call call = ON_GPU(device);
    nvmlReturn_t status = call_begin(&call);
    if (status != NVML_SUCCESS)
        return status;
    if (mode == NULL || pending == NULL)
        return call_end(NVML_ERROR_INVALID_ARGUMENT);
    status = section_unsigned(call.section, "mig_mode", mode);
    if (status == NVML_SUCCESS)
        *pending = (unsigned int)section_number_or(call.section, "mig_mode_pending", *mode);
    return call_end(status);
}

/* Zero unless MIG is on, also on parts that know no MIG at all. */
static unsigned int slots(const struct section *gpu)
{
    if (!gpu_has_mig_on(gpu))
        return 0;
    return (unsigned int)section_number_or(gpu, "mig_slots", MOST_INSTANCES);
}

FAKE_EXPORT nvmlReturn_t nvmlDeviceGetMaxMigDeviceCount(nvmlDevice_t device, unsigned int *count)
{
    struct call call = ON_GPU(device);
    const nvmlReturn_t status = call_begin(&call);
    if (status != NVML_SUCCESS)
        return status;
    if (count == NULL)
        return call_end(NVML_ERROR_INVALID_ARGUMENT);
    *count = slots(call.section);
    return call_end(NVML_SUCCESS);
}

FAKE_EXPORT nvmlReturn_t nvmlDeviceGetMigDeviceHandleByIndex(nvmlDevice_t device,
                                                             unsigned int index,
                                                             nvmlDevice_t *instance)
{
    struct call call = ON_GPU(device);
    nvmlReturn_t status = call_begin(&call);
    if (status != NVML_SUCCESS)
        return status;
    if (section_text(call.section, "mig_mode") == NULL)
        return call_end(NVML_ERROR_NOT_SUPPORTED);
    if (instance == NULL || index >= slots(call.section))
        return call_end(NVML_ERROR_INVALID_ARGUMENT);
    const struct section *mig = profile_mig(call.section->gpu, (int)index);
    if (mig == NULL)
        return call_end(NVML_ERROR_NOT_FOUND);
    status = call_fault(mig, call.function);
    return call_end(status != NVML_SUCCESS ? status : handle_for(mig, instance));
}

FAKE_EXPORT nvmlReturn_t nvmlDeviceIsMigDeviceHandle(nvmlDevice_t device, unsigned int *is_mig)
{
    struct call call = ON_ANY(device);
    const nvmlReturn_t status = call_begin(&call);
    if (status != NVML_SUCCESS)
        return status;
    if (is_mig == NULL)
        return call_end(NVML_ERROR_INVALID_ARGUMENT);
    *is_mig = call.section->kind == SECTION_MIG;
    return call_end(NVML_SUCCESS);
}

/* Questions that only an instance can answer. Which error a whole GPU gives differs between parts
 * that know MIG and parts that do not, and callers have to accept both. */
static nvmlReturn_t begin_on_instance(struct call *call)
{
    const nvmlReturn_t status = call_begin(call);
    if (status != NVML_SUCCESS || call->section->kind == SECTION_MIG)
        return status;
    const bool knows_mig = section_text(call->section, "mig_mode") != NULL;
    return call_end(knows_mig ? NVML_ERROR_INVALID_ARGUMENT : NVML_ERROR_NOT_SUPPORTED);
}

FAKE_EXPORT nvmlReturn_t nvmlDeviceGetDeviceHandleFromMigDeviceHandle(nvmlDevice_t instance,
                                                                      nvmlDevice_t *device)
{
    struct call call = ON_ANY(instance);
    const nvmlReturn_t status = begin_on_instance(&call);
    if (status != NVML_SUCCESS)
        return status;
    if (device == NULL)
        return call_end(NVML_ERROR_INVALID_ARGUMENT);
    return call_end(handle_for(profile_gpu(call.section->gpu), device));
}

static nvmlReturn_t instance_number(struct call call, const char *key, unsigned int *number)
{
    const nvmlReturn_t status = begin_on_instance(&call);
    if (status != NVML_SUCCESS)
        return status;
    if (number == NULL)
        return call_end(NVML_ERROR_INVALID_ARGUMENT);
    return call_end(section_unsigned(call.section, key, number));
}

FAKE_EXPORT nvmlReturn_t nvmlDeviceGetGpuInstanceId(nvmlDevice_t instance, unsigned int *id)
{
    return instance_number(ON_ANY(instance), "gi", id);
}

FAKE_EXPORT nvmlReturn_t nvmlDeviceGetComputeInstanceId(nvmlDevice_t instance, unsigned int *id)
{
    return instance_number(ON_ANY(instance), "ci", id);
}

FAKE_EXPORT nvmlReturn_t nvmlDeviceGetAttributes_v2(nvmlDevice_t instance,
                                                    nvmlDeviceAttributes_t *attributes)
{
    struct call call = ON_ANY(instance);
    nvmlReturn_t status = call_begin(&call);
    if (status != NVML_SUCCESS)
        return status;
    if (attributes == NULL)
        return call_end(NVML_ERROR_INVALID_ARGUMENT);
    const struct section *mig = call.section;
    *attributes = (nvmlDeviceAttributes_t){
        .sharedCopyEngineCount = (unsigned int)section_number_or(mig, "copy_engines", 0),
        .sharedDecoderCount = (unsigned int)section_number_or(mig, "decoders", 0),
        .sharedEncoderCount = (unsigned int)section_number_or(mig, "encoders", 0),
        .sharedJpegCount = (unsigned int)section_number_or(mig, "jpegs", 0),
        .sharedOfaCount = (unsigned int)section_number_or(mig, "ofas", 0),
        .gpuInstanceSliceCount = (unsigned int)section_number_or(mig, "gi_slices", 0),
        .computeInstanceSliceCount = (unsigned int)section_number_or(mig, "ci_slices", 0),
        .memorySizeMB = section_number_or(mig, "memory_total_mib", 0),
    };
    /* A whole GPU has no such key, and so no attributes. */
    status = section_unsigned(mig, "multiprocessors", &attributes->multiprocessorCount);
    return call_end(status);
}
