/* SPDX-License-Identifier: MPL-2.0 */
/* Field values: many questions in one call, each with its own return code. */
#include <time.h>

#include "fake.h"

static const char *key_of(unsigned int field)
{
    switch (field) {
    case NVML_FI_DEV_POWER_AVERAGE:
    case NVML_FI_DEV_POWER_INSTANT:
        return "power_usage_mw";
#ifndef DRIVER_470
    case NVML_FI_DEV_GET_GPU_RECOVERY_ACTION:
        return "recovery_action";
#endif
    default:
        return NULL;
    }
}

static void answer(const struct section *section, nvmlFieldValue_t *field)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    field->timestamp = (int64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000;
    field->latencyUsec = 0;
    field->valueType = NVML_VALUE_TYPE_UNSIGNED_INT;
    const char *key = key_of(field->fieldId);
    if (key == NULL || section->kind == SECTION_MIG)
        field->nvmlReturn = NVML_ERROR_NOT_SUPPORTED;
    else
        field->nvmlReturn = section_unsigned(section, key, &field->value.uiVal);
}

FAKE_EXPORT nvmlReturn_t nvmlDeviceGetFieldValues(nvmlDevice_t device, int count,
                                                  nvmlFieldValue_t *fields)
{
    struct call call = ON_ANY(device);
    const nvmlReturn_t status = call_begin(&call);
    if (status != NVML_SUCCESS)
        return status;
    if (fields == NULL || count <= 0)
        return call_end(NVML_ERROR_INVALID_ARGUMENT);
    for (int i = 0; i < count; i++)
        answer(call.section, &fields[i]);
    return call_end(NVML_SUCCESS);
}
