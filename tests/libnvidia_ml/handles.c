/* SPDX-License-Identifier: MPL-2.0 */
/* Device handles, and the calls that hand them out. */
#define _GNU_SOURCE
#include <stdlib.h>
#include <string.h>

#include "fake.h"

static struct nvmlDevice_st *live;
/* Handles of closed sessions stay allocated, so that no later handle can get the address of a
 * stale one and make its use look correct. */
static struct nvmlDevice_st *retired;

/* Compares addresses only: a stale or invented handle must not be dereferenced. */
struct nvmlDevice_st *handle_find(nvmlDevice_t device)
{
    for (struct nvmlDevice_st *handle = live; handle != NULL; handle = handle->next)
        if (handle == device)
            return handle;
    return NULL;
}

/* The same device gives the same handle for a whole session, as in the real library. */
nvmlReturn_t handle_for(const struct section *section, nvmlDevice_t *device)
{
    const char *text = section_text(section, "uuid");
    const char *uuid = text != NULL ? text : "";
    for (struct nvmlDevice_st *handle = live; handle != NULL; handle = handle->next) {
        if (handle->gpu == section->gpu && handle->slot == section->slot &&
            (section->kind == SECTION_GPU || strcmp(handle->uuid, uuid) == 0)) {
            *device = handle;
            return NVML_SUCCESS;
        }
    }
    struct nvmlDevice_st *handle = malloc(sizeof *handle);
    char *copy = strdup(uuid);
    if (handle == NULL || copy == NULL) {
        free(handle);
        free(copy);
        return NVML_ERROR_MEMORY;
    }
    *handle = (struct nvmlDevice_st){section->gpu, section->slot, copy, live};
    live = handle;
    *device = handle;
    return NVML_SUCCESS;
}

void handles_retire(void)
{
    while (live != NULL) {
        struct nvmlDevice_st *handle = live;
        live = handle->next;
        handle->next = retired;
        retired = handle;
    }
}

bool gpu_is_present(const struct section *gpu)
{
    return gpu != NULL && section_number_or(gpu, "removed", 0) == 0;
}

bool gpu_has_mig_on(const struct section *gpu)
{
    return section_number_or(gpu, "mig_mode", 0) == 1;
}

/* Where a GPU stands among those that are there: by its `position`, or by its number. */
static unsigned long long place_of(const struct section *gpu)
{
    return section_number_or(gpu, "position", (unsigned long long)gpu->gpu);
}

static bool stands_before(const struct section *gpu, const struct section *other)
{
    const unsigned long long place = place_of(gpu), others = place_of(other);
    return place != others ? place < others : gpu->gpu < other->gpu;
}

static unsigned int index_of(const struct section *gpu)
{
    const struct section *section;
    unsigned int index = 0;
    for (size_t i = 0; (section = profile_section(i)) != NULL; i++)
        if (section->kind == SECTION_GPU && gpu_is_present(section) && stands_before(section, gpu))
            index++;
    return index;
}

/* NVML numbers the GPUs that are there without gaps. */
const struct section *gpu_by_index(unsigned int index)
{
    const struct section *section;
    for (size_t i = 0; (section = profile_section(i)) != NULL; i++)
        if (section->kind == SECTION_GPU && gpu_is_present(section) && index_of(section) == index)
            return section;
    return NULL;
}

static unsigned int present(void)
{
    const struct section *section;
    unsigned int count = 0;
    for (size_t i = 0; (section = profile_section(i)) != NULL; i++)
        if (section->kind == SECTION_GPU && gpu_is_present(section))
            count++;
    return count;
}

FAKE_EXPORT nvmlReturn_t nvmlDeviceGetCount_v2(unsigned int *count)
{
    struct call call = {.function = __func__};
    const nvmlReturn_t status = call_begin(&call);
    if (status != NVML_SUCCESS)
        return status;
    if (count == NULL)
        return call_end(NVML_ERROR_INVALID_ARGUMENT);
    /* `count` is what a driver says that has lost its wits, whatever it lists. */
    *count = (unsigned int)section_number_or(profile_driver(), "count", present());
    return call_end(NVML_SUCCESS);
}

static nvmlReturn_t look_up(struct call call, nvmlDevice_t *device)
{
    const nvmlReturn_t status = call_begin(&call);
    if (status != NVML_SUCCESS)
        return status;
    if (device == NULL)
        return call_end(NVML_ERROR_INVALID_ARGUMENT);
    return call_end(handle_for(call.section, device));
}

FAKE_EXPORT nvmlReturn_t nvmlDeviceGetHandleByIndex_v2(unsigned int index, nvmlDevice_t *device)
{
    return look_up((struct call){.function = __func__, .target = TARGET_INDEX, .index = index},
                   device);
}

FAKE_EXPORT nvmlReturn_t nvmlDeviceGetHandleByUUID(const char *uuid, nvmlDevice_t *device)
{
    return look_up((struct call){.function = __func__, .target = TARGET_UUID, .uuid = uuid},
                   device);
}

FAKE_EXPORT nvmlReturn_t nvmlDeviceGetIndex(nvmlDevice_t device, unsigned int *index)
{
    struct call call = ON_ANY(device);
    const nvmlReturn_t status = call_begin(&call);
    if (status != NVML_SUCCESS)
        return status;
    if (index == NULL)
        return call_end(NVML_ERROR_INVALID_ARGUMENT);
    *index = call.section->kind == SECTION_MIG ? (unsigned int)call.section->slot
                                              : index_of(call.section);
    return call_end(NVML_SUCCESS);
}
