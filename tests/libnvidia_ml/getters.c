/* SPDX-License-Identifier: MPL-2.0 */
/* Getters that hand out one profile key as it stands. */
#include <string.h>

#include "fake.h"

nvmlReturn_t get_unsigned(struct call call, const char *key, unsigned int *number)
{
    const nvmlReturn_t status = call_begin(&call);
    if (status != NVML_SUCCESS)
        return status;
    if (number == NULL)
        return call_end(NVML_ERROR_INVALID_ARGUMENT);
    const struct section *section = call.section != NULL ? call.section : profile_driver();
    return call_end(section_unsigned(section, key, number));
}

nvmlReturn_t copy_text(const char *text, char *buffer, unsigned int length)
{
    if (buffer == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    if (text == NULL)
        return NVML_ERROR_NOT_SUPPORTED;
    if (strlen(text) >= length)
        return NVML_ERROR_INSUFFICIENT_SIZE;
    memcpy(buffer, text, strlen(text) + 1);
    return NVML_SUCCESS;
}

nvmlReturn_t get_text(struct call call, const char *key, char *buffer, unsigned int length)
{
    const nvmlReturn_t status = call_begin(&call);
    if (status != NVML_SUCCESS)
        return status;
    const struct section *section = call.section != NULL ? call.section : profile_driver();
    return call_end(copy_text(section_text(section, key), buffer, length));
}

FAKE_EXPORT nvmlReturn_t nvmlDeviceGetName(nvmlDevice_t device, char *name, unsigned int length)
{
    return get_text(ON_ANY(device), "name", name, length);
}

FAKE_EXPORT nvmlReturn_t nvmlDeviceGetUUID(nvmlDevice_t device, char *uuid, unsigned int length)
{
    return get_text(ON_ANY(device), "uuid", uuid, length);
}

FAKE_EXPORT nvmlReturn_t nvmlDeviceGetMinorNumber(nvmlDevice_t device, unsigned int *minor)
{
    return get_unsigned(ON_GPU(device), "minor_number", minor);
}

FAKE_EXPORT nvmlReturn_t nvmlDeviceGetMaxPcieLinkGeneration(nvmlDevice_t device,
                                                            unsigned int *generation)
{
    return get_unsigned(ON_GPU(device), "pcie_gen", generation);
}

FAKE_EXPORT nvmlReturn_t nvmlDeviceGetMaxPcieLinkWidth(nvmlDevice_t device, unsigned int *width)
{
    return get_unsigned(ON_GPU(device), "pcie_width", width);
}

FAKE_EXPORT nvmlReturn_t nvmlDeviceGetPowerUsage(nvmlDevice_t device, unsigned int *milliwatts)
{
    return get_unsigned(ON_GPU(device), "power_usage_mw", milliwatts);
}

FAKE_EXPORT nvmlReturn_t nvmlDeviceGetTotalEnergyConsumption(nvmlDevice_t device,
                                                             unsigned long long *millijoules)
{
    struct call call = ON_GPU(device);
    const nvmlReturn_t status = call_begin(&call);
    if (status != NVML_SUCCESS)
        return status;
    if (millijoules == NULL)
        return call_end(NVML_ERROR_INVALID_ARGUMENT);
    return call_end(section_number(call.section, "energy_mj", millijoules));
}

FAKE_EXPORT nvmlReturn_t nvmlDeviceGetEnforcedPowerLimit(nvmlDevice_t device,
                                                         unsigned int *milliwatts)
{
    return get_unsigned(ON_GPU(device), "enforced_power_limit_mw", milliwatts);
}

FAKE_EXPORT nvmlReturn_t nvmlDeviceGetPowerManagementLimit(nvmlDevice_t device,
                                                           unsigned int *milliwatts)
{
    return get_unsigned(ON_GPU(device), "power_limit_mw", milliwatts);
}

FAKE_EXPORT nvmlReturn_t nvmlDeviceGetDisplayMode(nvmlDevice_t device, unsigned int *mode)
{
    return get_unsigned(ON_GPU(device), "display_mode", mode);
}

FAKE_EXPORT nvmlReturn_t nvmlDeviceGetDisplayActive(nvmlDevice_t device, unsigned int *active)
{
    return get_unsigned(ON_GPU(device), "display_active", active);
}

FAKE_EXPORT nvmlReturn_t nvmlDeviceGetPersistenceMode(nvmlDevice_t device, unsigned int *mode)
{
    return get_unsigned(ON_GPU(device), "persistence_mode", mode);
}

FAKE_EXPORT nvmlReturn_t nvmlDeviceGetVirtualizationMode(nvmlDevice_t device, unsigned int *mode)
{
    return get_unsigned(ON_GPU(device), "virtualization_mode", mode);
}

FAKE_EXPORT nvmlReturn_t nvmlDeviceGetRetiredPagesPendingStatus(nvmlDevice_t device,
                                                                unsigned int *pending)
{
    return get_unsigned(ON_GPU(device), "retired_pages_pending", pending);
}

#ifndef DRIVER_470
FAKE_EXPORT nvmlReturn_t nvmlDeviceGetGpuMaxPcieLinkGeneration(nvmlDevice_t device,
                                                               unsigned int *generation)
{
    return get_unsigned(ON_GPU(device), "gpu_pcie_gen", generation);
}

FAKE_EXPORT nvmlReturn_t nvmlDeviceGetNumaNodeId(nvmlDevice_t device, unsigned int *node)
{
    return get_unsigned(ON_GPU(device), "memory_numa_node", node);
}
#endif
