/* SPDX-License-Identifier: MPL-2.0 */
/* Opening and closing the library, and what it says about itself. */
#include "fake.h"

static unsigned int references;

bool session_is_open(void)
{
    return references > 0;
}

/* A driver without GPUs refuses an ordinary init on some systems; asking for no GPUs is how a
 * caller says that this is fine. */
static nvmlReturn_t refusal(unsigned int flags)
{
    if (profile_status() != NVML_SUCCESS)
        return profile_status();
    const nvmlReturn_t error =
        (nvmlReturn_t)section_number_or(profile_driver(), "init_error", NVML_SUCCESS);
    if (error == NVML_ERROR_GPU_NOT_FOUND && (flags & NVML_INIT_FLAG_NO_GPUS) != 0)
        return NVML_SUCCESS;
    return error;
}

static nvmlReturn_t open_session(const char *function, unsigned int flags)
{
    struct call call = {.function = function, .anytime = true};
    nvmlReturn_t status = call_begin(&call);
    if (status != NVML_SUCCESS)
        return status;
    if (references == 0)
        status = refusal(flags);
    if (status == NVML_SUCCESS)
        references++;
    return call_end(status);
}

FAKE_EXPORT nvmlReturn_t nvmlInitWithFlags(unsigned int flags)
{
    return open_session(__func__, flags);
}

FAKE_EXPORT nvmlReturn_t nvmlInit_v2(void)
{
    return open_session(__func__, 0);
}

/* NVML lets callers shut down more often than they initialised. */
FAKE_EXPORT nvmlReturn_t nvmlShutdown(void)
{
    struct call call = {.function = __func__, .anytime = true};
    const nvmlReturn_t status = call_begin(&call);
    if (status != NVML_SUCCESS)
        return status;
    if (references > 0 && --references == 0) {
        handles_retire();
        event_sets_retire();
    }
    return call_end(NVML_SUCCESS);
}

FAKE_EXPORT nvmlReturn_t nvmlSystemGetDriverVersion(char *version, unsigned int length)
{
    return get_text((struct call){.function = __func__}, "driver_version", version, length);
}

FAKE_EXPORT nvmlReturn_t nvmlSystemGetNVMLVersion(char *version, unsigned int length)
{
    return get_text((struct call){.function = __func__, .anytime = true}, "nvml_version", version,
                    length);
}

static nvmlReturn_t cuda_version(const char *function, int *version)
{
    return get_unsigned((struct call){.function = function}, "cuda_driver_version",
                        (unsigned int *)version);
}

FAKE_EXPORT nvmlReturn_t nvmlSystemGetCudaDriverVersion(int *version)
{
    return cuda_version(__func__, version);
}

FAKE_EXPORT nvmlReturn_t nvmlSystemGetCudaDriverVersion_v2(int *version)
{
    return cuda_version(__func__, version);
}

/* Needs neither the profile nor the lock: error texts must work whatever went wrong. */
FAKE_EXPORT const char *nvmlErrorString(nvmlReturn_t code)
{
    static const char *const texts[] = {
        [0] = "ok",
        [1] = "library not initialised",
        [2] = "bad argument",
        [3] = "not supported here",
        [4] = "permission denied",
        [5] = "already initialised",
        [6] = "no such object",
        [7] = "buffer too small",
        [8] = "power cables missing",
        [9] = "driver not running",
        [10] = "timed out",
        [11] = "interrupt trouble",
        [12] = "library missing",
        [13] = "function missing",
        [14] = "inforom damaged",
        [15] = "GPU lost",
        [16] = "GPU needs a reset",
        [17] = "blocked by the operating system",
        [18] = "library and driver differ",
        [19] = "GPU in use",
        [20] = "out of memory",
        [21] = "no data",
        [22] = "vGPU needs ECC off",
        [23] = "out of resources",
        [24] = "frequency not available",
        [25] = "struct version unknown",
        [26] = "function deprecated",
        [27] = "not ready",
        [28] = "no GPU found",
        [29] = "invalid state",
        [30] = "reset type not available",
    };
    if (code < 0 || code >= (nvmlReturn_t)(sizeof texts / sizeof *texts))
        return "unknown error";
    return texts[code];
}
