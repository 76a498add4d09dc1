// SPDX-License-Identifier: MPL-2.0
/* A pretended libcuda.so.1: one GPU for tests/gpu/cuda_client.py, strict about what it is called
 * with. Handles and addresses need 64 bits, so that one cut to 32 is not recognised.
 *
 *   FAKE_CUDA_CALLS       file that gets the name of each call, one per line
 *   FAKE_CUDA_FAULT       NAME=NUMBER: that function answers so
 *   FAKE_CUDA_MEMORY_MIB  total memory (8192)
 *   FAKE_CUDA_SUM         what the kernel writes (16)
 *   CUDA_MPS_PINNED_DEVICE_MEM_LIMIT=0=<n>M and CUDA_MPS_ACTIVE_THREAD_PERCENTAGE=<n> limit it, as
 *   NVIDIA's server would
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { OK = 0, INVALID = 1, NO_MEMORY = 2, NOT_INITIALIZED = 3, BAD_PTX = 218, NO_CONTEXT = 201,
       BAD_HANDLE = 400, NOT_FOUND = 500, ILLEGAL_ADDRESS = 700 };
enum { SMS = 100, CONTEXT_MIB = 300, SMALL = 1 << 20 };
#define FMA_PER_SM_S 2.0e11
#define MIB ((uint64_t)1 << 20)

static char context, module, saturate, trespass;
static int initialised, current, sticky;
static uint64_t used, next_address = (uint64_t)0x7a << 40;
static double pending_s;
static char *ptx;

static int called(const char *name)
{
    const char *calls = getenv("FAKE_CUDA_CALLS"), *fault = getenv("FAKE_CUDA_FAULT");
    FILE *file = calls ? fopen(calls, "a") : NULL;
    if (file) {
        fprintf(file, "%s\n", name);
        fclose(file);
    }
    size_t length = strlen(name);
    return fault && !strncmp(fault, name, length) && fault[length] == '=' ? atoi(fault + length + 1)
                                                                         : OK;
}

#define ENTER(condition, error)                        \
    do {                                               \
        int fault_ = called(__func__);                 \
        if (fault_)                                    \
            return fault_;                             \
        if (sticky)                                    \
            return sticky;                             \
        if (!(condition))                              \
            return error;                              \
    } while (0)

static uint64_t total(void)
{
    const char *mib = getenv("FAKE_CUDA_MEMORY_MIB");
    return (mib ? strtoull(mib, NULL, 10) : 8192) * MIB;
}

static uint64_t limit(void)
{
    const char *text = getenv("CUDA_MPS_PINNED_DEVICE_MEM_LIMIT");
    unsigned long long mib;
    return text && sscanf(text, "0=%lluM", &mib) == 1 ? mib * MIB : total();
}

static int sms(void)
{
    const char *percent = getenv("CUDA_MPS_ACTIVE_THREAD_PERCENTAGE");
    return percent ? SMS * atoi(percent) / 100 : SMS;
}

int cuInit(unsigned flags)
{
    ENTER(flags == 0, INVALID);
    initialised = 1;
    return OK;
}

int cuDriverGetVersion(int *version)
{
    ENTER(version, INVALID);
    *version = 13000;
    return OK;
}

int cuDeviceGetCount(int *count)
{
    ENTER(initialised, NOT_INITIALIZED);
    *count = 1;
    return OK;
}

int cuDeviceGet(int *device, int ordinal)
{
    ENTER(initialised, NOT_INITIALIZED);
    *device = ordinal;
    return ordinal ? 101 : OK;
}

int cuDeviceGetName(char *name, int length, int device)
{
    ENTER(initialised && length > 0 && device == 0, INVALID);
    snprintf(name, length, "Fake GPU");
    return OK;
}

int cuDeviceGetUuid_v2(unsigned char *uuid, int device)
{
    ENTER(initialised && device == 0, INVALID);
    memset(uuid, 0xab, 16);
    return OK;
}

int cuDeviceGetAttribute(int *value, int attribute, int device)
{
    ENTER(initialised && device == 0, INVALID);
    switch (attribute) {
    case 16: *value = sms(); return OK;
    case 20: *value = 0; return OK;
    case 75: *value = 9; return OK;
    case 76: *value = 0; return OK;
    default: return INVALID;
    }
}

int cuDevicePrimaryCtxRetain(void **handle, int device)
{
    ENTER(initialised && device == 0, NOT_INITIALIZED);
    if (CONTEXT_MIB * MIB > limit())
        return NO_MEMORY;
    used += CONTEXT_MIB * MIB;
    *handle = &context;
    return OK;
}

int cuDevicePrimaryCtxRelease_v2(int device)
{
    ENTER(current && device == 0, NO_CONTEXT);
    current = 0;
    return OK;
}

int cuCtxSetCurrent(void *handle)
{
    ENTER(handle == &context, NO_CONTEXT);
    current = 1;
    return OK;
}

int cuCtxSynchronize(void)
{
    ENTER(current, NO_CONTEXT);
    struct timespec rest = {(time_t)pending_s, (long)((pending_s - (time_t)pending_s) * 1e9)};
    pending_s = 0;
    nanosleep(&rest, NULL);
    return OK;
}

int cuMemGetInfo_v2(size_t *free, size_t *all)
{
    ENTER(current, NO_CONTEXT);
    *free = limit() - used;
    *all = total();
    return OK;
}

int cuMemAlloc_v2(uint64_t *address, size_t size)
{
    ENTER(current, NO_CONTEXT);
    if (!size)
        return INVALID;
    if (used + size > limit())
        return NO_MEMORY;
    used += size;
    *address = next_address;
    if (size <= SMALL)
        *address = (uint64_t)(uintptr_t)calloc(1, size);
    else
        next_address += size;
    return OK;
}

int cuMemcpyDtoH_v2(void *to, uint64_t from, size_t size)
{
    ENTER(current, NO_CONTEXT);
    memcpy(to, (void *)(uintptr_t)from, size);
    return OK;
}

int cuModuleLoadDataEx(void **handle, const char *image, unsigned count, int *options, void **values)
{
    int fault = called(__func__);
    if (count != 2 || options[0] != 5 || options[1] != 6 || (uintptr_t)values[1] < 16)
        return INVALID;
    if (fault) {
        snprintf(values[0], (uintptr_t)values[1], "line 1: no");
        return fault;
    }
    if (!current)
        return NO_CONTEXT;
    if (strncmp(image, ".version ", 9))
        return BAD_PTX;
    ptx = strdup(image);
    *handle = &module;
    return OK;
}

int cuModuleGetFunction(void **handle, void *from, const char *name)
{
    ENTER(from == &module, BAD_HANDLE);
    char entry[64];
    snprintf(entry, sizeof entry, ".entry %s(", name);
    if (!strstr(ptx, entry))
        return NOT_FOUND;
    *handle = strcmp(name, "trespass") ? &saturate : &trespass;
    return OK;
}

int cuLaunchKernel(void *kernel, unsigned grid_x, unsigned grid_y, unsigned grid_z,
                   unsigned block_x, unsigned block_y, unsigned block_z, unsigned shared,
                   void *stream, void **parameters, void **extra)
{
    ENTER(current, NO_CONTEXT);
    if (!grid_x || grid_y != 1 || grid_z != 1 || !block_x || block_x > 1024 || block_y != 1 ||
        block_z != 1 || shared || stream || !parameters || extra)
        return INVALID;
    uint64_t out = *(uint64_t *)parameters[0];
    unsigned rounds = *(unsigned *)parameters[1];
    if (kernel == &trespass) {
        sticky = ILLEGAL_ADDRESS;
        return OK;
    }
    if (kernel != &saturate || !rounds)
        return BAD_HANDLE;
    const char *sum = getenv("FAKE_CUDA_SUM");
    uint64_t threads = (uint64_t)grid_x * block_x, words = threads < 65536 ? threads : 65536;
    for (uint64_t word = 0; word < words; word++)
        ((float *)(uintptr_t)out)[word] = sum ? strtof(sum, NULL) : 16.0f;
    pending_s += threads * 32.0 * rounds / (FMA_PER_SM_S * sms());
    return OK;
}

int cuGetErrorName(int error, const char **name)
{
    static const struct { int error; const char *name; } names[] = {
        {NO_MEMORY, "CUDA_ERROR_OUT_OF_MEMORY"},
        {BAD_PTX, "CUDA_ERROR_INVALID_PTX"},
        {ILLEGAL_ADDRESS, "CUDA_ERROR_ILLEGAL_ADDRESS"},
        {805, "CUDA_ERROR_MPS_CONNECTION_FAILED"},
    };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (names[i].error == error) {
            *name = names[i].name;
            return OK;
        }
    return INVALID;
}
