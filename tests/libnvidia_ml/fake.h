/* SPDX-License-Identifier: MPL-2.0 */
/* What the fake's source files share. Everything here needs the state lock unless it says so. */
#ifndef FAKE_NVML_FAKE_H
#define FAKE_NVML_FAKE_H

#include <stdbool.h>
#include <stddef.h>

#include "nvml_abi.h"

/* Helpers stay out of the dynamic symbol table, as they do in the real library. */
#pragma GCC visibility push(hidden)

/* ---- profile.c: the text file that describes the machine ---- */

enum section_kind { SECTION_DRIVER, SECTION_GPU, SECTION_MIG };

struct entry {
    char *key;
    char *value;
};

struct section {
    enum section_kind kind;
    int gpu;
    int slot;
    struct entry *entries;
    size_t count;
};

/* Rereads the profile if it changed. Section pointers taken before are dead afterwards. */
void profile_refresh(void);
/* Changes whenever the profile does. */
unsigned long profile_version(void);
/* NVML_SUCCESS while a usable profile is loaded, else what the driver should answer. */
nvmlReturn_t profile_status(void);
const struct section *profile_driver(void);
const struct section *profile_gpu(int gpu);
const struct section *profile_mig(int gpu, int slot);
/* Sections in (kind, gpu, slot) order; NULL past the end. */
const struct section *profile_section(size_t position);

const char *section_text(const struct section *section, const char *key);
nvmlReturn_t section_number(const struct section *section, const char *key,
                            unsigned long long *number);
nvmlReturn_t section_unsigned(const struct section *section, const char *key, unsigned int *number);
unsigned long long section_number_or(const struct section *section, const char *key,
                                     unsigned long long fallback);
/* Looks up PREFIX.FUNCTION, the form of per-function switches. */
unsigned long long section_switch(const struct section *section, const char *prefix,
                                  const char *function);

/* ---- session.c ---- */

bool session_is_open(void);

/* ---- handles.c ---- */

struct nvmlDevice_st {
    int gpu;
    int slot; /* -1 for a whole GPU */
    char *uuid;
    struct nvmlDevice_st *next;
};

struct nvmlDevice_st *handle_find(nvmlDevice_t device);
nvmlReturn_t handle_for(const struct section *section, nvmlDevice_t *device);
void handles_retire(void);
bool gpu_is_present(const struct section *gpu);
const struct section *gpu_by_index(unsigned int index);
bool gpu_has_mig_on(const struct section *gpu);

/* ---- events.c ---- */

void event_sets_retire(void);

/* ---- call.c: what every exported function does first and last ---- */

enum call_target { TARGET_NONE, TARGET_DEVICE, TARGET_INDEX, TARGET_UUID };

struct call {
    const char *function;
    enum call_target target;
    nvmlDevice_t device;
    unsigned int index;
    const char *uuid;
    bool anytime;  /* allowed before nvmlInit */
    bool gpu_only; /* MIG handles answer NotSupported */
    /* Set by call_begin: the profile section behind the target. */
    const struct section *section;
};

/* Takes and releases the lock itself: on success it is held, on any error it is not. */
nvmlReturn_t call_begin(struct call *call);
/* Releases the lock and passes `status` through. */
nvmlReturn_t call_end(nvmlReturn_t status);
/* The code that the profile injects into this call now, NVML_SUCCESS for none. */
nvmlReturn_t call_fault(const struct section *section, const char *function);
/* Sleeps with the lock released, then rereads the profile. */
void call_pause(unsigned long long milliseconds);
/* The same, but returns as soon as the profile may have changed: what waiting costs must not look
 * like a cost of the program that waits. A real library sleeps in the kernel. */
void call_pause_for_profile(unsigned long long milliseconds);
unsigned long long monotonic_ms(void);

/* ---- getters.c ---- */

/* These two take the lock themselves, like every exported function. */
nvmlReturn_t get_unsigned(struct call call, const char *key, unsigned int *number);
nvmlReturn_t get_text(struct call call, const char *key, char *buffer, unsigned int length);
nvmlReturn_t copy_text(const char *text, char *buffer, unsigned int length);

#define ON_GPU(handle)                                                                             \
    (struct call){.function = __func__, .target = TARGET_DEVICE, .device = (handle), .gpu_only = true}
#define ON_ANY(handle)                                                                             \
    (struct call){.function = __func__, .target = TARGET_DEVICE, .device = (handle)}

#pragma GCC visibility pop

#endif
