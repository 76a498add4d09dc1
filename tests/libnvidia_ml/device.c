/* SPDX-License-Identifier: MPL-2.0 */
/* Getters about a whole GPU that need more than one key, or a rule. */
#include <stdio.h>

#include "fake.h"

FAKE_EXPORT nvmlReturn_t nvmlDeviceGetPciInfo_v3(nvmlDevice_t device, nvmlPciInfo_t *info)
{
    struct call call = ON_GPU(device);
    const nvmlReturn_t status = call_begin(&call);
    if (status != NVML_SUCCESS)
        return status;
    if (info == NULL)
        return call_end(NVML_ERROR_INVALID_ARGUMENT);
    const char *text = section_text(call.section, "pci");
    unsigned int domain, bus, slot;
    if (text == NULL)
        return call_end(NVML_ERROR_NOT_SUPPORTED);
    if (sscanf(text, "%x:%x:%x", &domain, &bus, &slot) != 3)
        return call_end(NVML_ERROR_UNKNOWN);
    *info = (nvmlPciInfo_t){.domain = domain, .bus = bus & 0xFF, .device = slot & 0xFF};
    info->pciDeviceId = (unsigned int)section_number_or(call.section, "pci_device_id", 0);
    info->pciSubSystemId = (unsigned int)section_number_or(call.section, "pci_subsystem_id", 0);
    snprintf(info->busId, sizeof info->busId, "%08X:%02X:%02X.0", domain, info->bus, info->device);
    snprintf(info->busIdLegacy, sizeof info->busIdLegacy, "%04X:%02X:%02X.0", domain & 0xFFFF,
             info->bus, info->device);
    return call_end(NVML_SUCCESS);
}

/* Graphics and SM clocks move together on the parts that profiles describe. */
static nvmlReturn_t clock(struct call call, unsigned int type, const char *sm, const char *memory,
                          unsigned int *megahertz)
{
    if (type >= NVML_CLOCK_COUNT)
        megahertz = NULL;
    if (type == NVML_CLOCK_GRAPHICS || type == NVML_CLOCK_SM)
        return get_unsigned(call, sm, megahertz);
    return get_unsigned(call, type == NVML_CLOCK_MEM ? memory : "", megahertz);
}

FAKE_EXPORT nvmlReturn_t nvmlDeviceGetMaxClockInfo(nvmlDevice_t device, unsigned int type,
                                                   unsigned int *megahertz)
{
    return clock(ON_GPU(device), type, "max_sm_clock_mhz", "max_memory_clock_mhz", megahertz);
}

FAKE_EXPORT nvmlReturn_t nvmlDeviceGetClockInfo(nvmlDevice_t device, unsigned int type,
                                                unsigned int *megahertz)
{
    return clock(ON_GPU(device), type, "sm_clock_mhz", "memory_clock_mhz", megahertz);
}

FAKE_EXPORT nvmlReturn_t nvmlDeviceGetTemperature(nvmlDevice_t device, unsigned int sensor,
                                                  unsigned int *celsius)
{
    return get_unsigned(ON_GPU(device), "temperature_c",
                        sensor == NVML_TEMPERATURE_GPU ? celsius : NULL);
}

#ifndef DRIVER_470
FAKE_EXPORT nvmlReturn_t nvmlDeviceGetTemperatureV(nvmlDevice_t device, nvmlTemperature_t *reading)
{
    struct call call = ON_GPU(device);
    const nvmlReturn_t status = call_begin(&call);
    if (status != NVML_SUCCESS)
        return status;
    if (reading == NULL || reading->sensorType != NVML_TEMPERATURE_GPU)
        return call_end(NVML_ERROR_INVALID_ARGUMENT);
    if (reading->version != NVML_VERSIONED(nvmlTemperature_t, 1))
        return call_end(NVML_ERROR_ARGUMENT_VERSION_MISMATCH);
    unsigned int celsius = 0;
    const nvmlReturn_t read = section_unsigned(call.section, "temperature_c", &celsius);
    reading->temperature = (int)celsius;
    return call_end(read);
}
#endif

/* A GPU in MIG mode has no busy figures, neither as a whole nor per instance. */
static nvmlReturn_t begin_busy(struct call *call)
{
    const nvmlReturn_t status = call_begin(call);
    if (status != NVML_SUCCESS)
        return status;
    return gpu_has_mig_on(call->section) ? call_end(NVML_ERROR_NOT_SUPPORTED) : NVML_SUCCESS;
}

FAKE_EXPORT nvmlReturn_t nvmlDeviceGetUtilizationRates(nvmlDevice_t device,
                                                       nvmlUtilization_t *busy)
{
    struct call call = ON_GPU(device);
    nvmlReturn_t status = begin_busy(&call);
    if (status != NVML_SUCCESS)
        return status;
    if (busy == NULL)
        return call_end(NVML_ERROR_INVALID_ARGUMENT);
    status = section_unsigned(call.section, "gpu_utilization", &busy->gpu);
    if (status == NVML_SUCCESS)
        status = section_unsigned(call.section, "memory_utilization", &busy->memory);
    return call_end(status);
}

static nvmlReturn_t codec_busy(struct call call, const char *key, unsigned int *percent,
                               unsigned int *period_us)
{
    nvmlReturn_t status = begin_busy(&call);
    if (status != NVML_SUCCESS)
        return status;
    if (percent == NULL || period_us == NULL)
        return call_end(NVML_ERROR_INVALID_ARGUMENT);
    status = section_unsigned(call.section, key, percent);
    if (status == NVML_SUCCESS)
        *period_us = 167000;
    return call_end(status);
}

FAKE_EXPORT nvmlReturn_t nvmlDeviceGetEncoderUtilization(nvmlDevice_t device, unsigned int *percent,
                                                         unsigned int *period_us)
{
    return codec_busy(ON_GPU(device), "encoder_utilization", percent, period_us);
}

FAKE_EXPORT nvmlReturn_t nvmlDeviceGetDecoderUtilization(nvmlDevice_t device, unsigned int *percent,
                                                         unsigned int *period_us)
{
    return codec_busy(ON_GPU(device), "decoder_utilization", percent, period_us);
}

/* Both describe the silicon, so an instance answers like the GPU it is cut from. */
FAKE_EXPORT nvmlReturn_t nvmlDeviceGetCudaComputeCapability(nvmlDevice_t device, int *major,
                                                            int *minor)
{
    struct call call = ON_ANY(device);
    const nvmlReturn_t status = call_begin(&call);
    if (status != NVML_SUCCESS)
        return status;
    if (major == NULL || minor == NULL)
        return call_end(NVML_ERROR_INVALID_ARGUMENT);
    const char *text = section_text(profile_gpu(call.section->gpu), "compute_capability");
    if (text == NULL)
        return call_end(NVML_ERROR_NOT_SUPPORTED);
    const bool parsed = sscanf(text, "%d.%d", major, minor) == 2;
    return call_end(parsed ? NVML_SUCCESS : NVML_ERROR_UNKNOWN);
}

FAKE_EXPORT nvmlReturn_t nvmlDeviceGetArchitecture(nvmlDevice_t device, unsigned int *architecture)
{
    struct call call = ON_ANY(device);
    const nvmlReturn_t status = call_begin(&call);
    if (status != NVML_SUCCESS)
        return status;
    if (architecture == NULL)
        return call_end(NVML_ERROR_INVALID_ARGUMENT);
    const struct section *gpu = profile_gpu(call.section->gpu);
    return call_end(section_unsigned(gpu, "architecture", architecture));
}

FAKE_EXPORT nvmlReturn_t nvmlDeviceGetRemappedRows(nvmlDevice_t device, unsigned int *corrected,
                                                   unsigned int *uncorrected, unsigned int *pending,
                                                   unsigned int *failed)
{
    struct call call = ON_GPU(device);
    const nvmlReturn_t status = call_begin(&call);
    if (status != NVML_SUCCESS)
        return status;
    if (corrected == NULL || uncorrected == NULL || pending == NULL || failed == NULL)
        return call_end(NVML_ERROR_INVALID_ARGUMENT);
    const char *text = section_text(call.section, "remapped_rows");
    if (text == NULL || gpu_has_mig_on(call.section))
        return call_end(NVML_ERROR_NOT_SUPPORTED);
    const bool parsed = sscanf(text, "%u %u %u %u", corrected, uncorrected, pending, failed) == 4;
    return call_end(parsed ? NVML_SUCCESS : NVML_ERROR_UNKNOWN);
}
