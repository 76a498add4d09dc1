/* SPDX-License-Identifier: MPL-2.0 */
/* GPU instances and compute instances by id, and the profiles that they were made from: NVIDIA's
 * container toolkit asks for them to name a MIG device. */
#include "fake.h"

/* Which constant stands for a profile of so many slices; the same for both kinds of instance. */
static const unsigned int slices_of[] = {1, 2, 3, 4, 7, 8, 6};
enum { PROFILES = sizeof slices_of / sizeof slices_of[0] };

/* A handle is the numbers of its instance, and is never dereferenced. */
enum { GPU_SHIFT = 16, GI_SHIFT = 8, ID_MASK = 0xFF };

static uintptr_t handle_of(int gpu, unsigned int gi, unsigned int ci)
{
    return ((uintptr_t)(gpu + 1) << GPU_SHIFT) | (gi << GI_SHIFT) | ci;
}

static int handle_gpu(uintptr_t handle)
{
    return (int)(handle >> GPU_SHIFT) - 1;
}

/* The first MIG device of a GPU instance, or with `ci` that of one compute instance. */
static const struct section *instance(int gpu, unsigned int gi, const unsigned int *ci)
{
    const struct section *section;
    if (!gpu_is_present(profile_gpu(gpu)) || !gpu_has_mig_on(profile_gpu(gpu)))
        return NULL;
    for (size_t i = 0; (section = profile_section(i)) != NULL; i++)
        if (section->kind == SECTION_MIG && section->gpu == gpu &&
            section_number_or(section, "gi", ID_MASK) == gi &&
            (ci == NULL || section_number_or(section, "ci", ID_MASK) == *ci))
            return section;
    return NULL;
}

static unsigned int profile_of(const struct section *section, const char *slices_key)
{
    const unsigned long long slices = section_number_or(section, slices_key, 0);
    unsigned int profile = 0;
    while (profile < PROFILES && slices_of[profile] != slices)
        profile++;
    return profile;
}

FAKE_EXPORT nvmlReturn_t nvmlDeviceGetGpuInstanceById(nvmlDevice_t device, unsigned int id,
                                                      nvmlGpuInstance_t *found)
{
    struct call call = ON_GPU(device);
    const nvmlReturn_t status = call_begin(&call);
    if (status != NVML_SUCCESS)
        return status;
    if (!gpu_has_mig_on(call.section))
        return call_end(NVML_ERROR_NOT_SUPPORTED);
    if (found == NULL || id > ID_MASK)
        return call_end(NVML_ERROR_INVALID_ARGUMENT);
    if (instance(call.section->gpu, id, NULL) == NULL)
        return call_end(NVML_ERROR_NOT_FOUND);
    *found = (nvmlGpuInstance_t)handle_of(call.section->gpu, id, 0);
    return call_end(NVML_SUCCESS);
}

FAKE_EXPORT nvmlReturn_t nvmlGpuInstanceGetComputeInstanceById(nvmlGpuInstance_t gpu_instance,
                                                               unsigned int id,
                                                               nvmlComputeInstance_t *found)
{
    struct call call = {.function = __func__};
    const nvmlReturn_t status = call_begin(&call);
    if (status != NVML_SUCCESS)
        return status;
    const uintptr_t handle = (uintptr_t)gpu_instance;
    const int gpu = handle_gpu(handle);
    const unsigned int gi = (handle >> GI_SHIFT) & ID_MASK;
    if (found == NULL || id > ID_MASK || instance(gpu, gi, NULL) == NULL)
        return call_end(NVML_ERROR_INVALID_ARGUMENT);
    if (instance(gpu, gi, &id) == NULL)
        return call_end(NVML_ERROR_NOT_FOUND);
    *found = (nvmlComputeInstance_t)handle_of(gpu, gi, id);
    return call_end(NVML_SUCCESS);
}

FAKE_EXPORT nvmlReturn_t nvmlGpuInstanceGetInfo(nvmlGpuInstance_t gpu_instance,
                                                nvmlGpuInstanceInfo_t *info)
{
    struct call call = {.function = __func__};
    nvmlReturn_t status = call_begin(&call);
    if (status != NVML_SUCCESS)
        return status;
    const uintptr_t handle = (uintptr_t)gpu_instance;
    const unsigned int gi = (handle >> GI_SHIFT) & ID_MASK;
    const struct section *mig = instance(handle_gpu(handle), gi, NULL);
    if (info == NULL || mig == NULL)
        return call_end(NVML_ERROR_INVALID_ARGUMENT);
    *info = (nvmlGpuInstanceInfo_t){
        .id = gi,
        .profileId = profile_of(mig, "gi_slices"),
        .placement = {.size = (unsigned int)section_number_or(mig, "gi_slices", 0)},
    };
    status = handle_for(profile_gpu(mig->gpu), &info->device);
    return call_end(status);
}

FAKE_EXPORT nvmlReturn_t nvmlComputeInstanceGetInfo_v2(nvmlComputeInstance_t compute_instance,
                                                       nvmlComputeInstanceInfo_t *info)
{
    struct call call = {.function = __func__};
    nvmlReturn_t status = call_begin(&call);
    if (status != NVML_SUCCESS)
        return status;
    const uintptr_t handle = (uintptr_t)compute_instance;
    const unsigned int gi = (handle >> GI_SHIFT) & ID_MASK, ci = handle & ID_MASK;
    const struct section *mig = instance(handle_gpu(handle), gi, &ci);
    if (info == NULL || mig == NULL)
        return call_end(NVML_ERROR_INVALID_ARGUMENT);
    *info = (nvmlComputeInstanceInfo_t){
        .gpuInstance = (nvmlGpuInstance_t)handle_of(mig->gpu, gi, 0),
        .id = ci,
        .profileId = profile_of(mig, "ci_slices"),
        .placement = {.size = (unsigned int)section_number_or(mig, "ci_slices", 0)},
    };
    status = handle_for(profile_gpu(mig->gpu), &info->device);
    return call_end(status);
}

FAKE_EXPORT nvmlReturn_t nvmlDeviceGetGpuInstanceProfileInfo(nvmlDevice_t device,
                                                             unsigned int profile,
                                                             nvmlGpuInstanceProfileInfo_t *info)
{
    struct call call = ON_GPU(device);
    const nvmlReturn_t status = call_begin(&call);
    if (status != NVML_SUCCESS)
        return status;
    if (info == NULL)
        return call_end(NVML_ERROR_INVALID_ARGUMENT);
    if (!gpu_has_mig_on(call.section) || profile >= PROFILES)
        return call_end(NVML_ERROR_NOT_SUPPORTED);
    *info = (nvmlGpuInstanceProfileInfo_t){.id = profile, .sliceCount = slices_of[profile]};
    return call_end(NVML_SUCCESS);
}

FAKE_EXPORT nvmlReturn_t nvmlGpuInstanceGetComputeInstanceProfileInfo(
    nvmlGpuInstance_t gpu_instance, unsigned int profile, unsigned int engine_profile,
    nvmlComputeInstanceProfileInfo_t *info)
{
    struct call call = {.function = __func__};
    const nvmlReturn_t status = call_begin(&call);
    if (status != NVML_SUCCESS)
        return status;
    const uintptr_t handle = (uintptr_t)gpu_instance;
    const struct section *mig =
        instance(handle_gpu(handle), (handle >> GI_SHIFT) & ID_MASK, NULL);
    if (info == NULL || mig == NULL)
        return call_end(NVML_ERROR_INVALID_ARGUMENT);
    if (profile >= PROFILES || engine_profile != 0 ||
        slices_of[profile] > section_number_or(mig, "gi_slices", 0))
        return call_end(NVML_ERROR_NOT_SUPPORTED);
    *info = (nvmlComputeInstanceProfileInfo_t){.id = profile, .sliceCount = slices_of[profile]};
    return call_end(NVML_SUCCESS);
}
