/* SPDX-License-Identifier: MPL-2.0 */
/* The common start of every exported function: lock, log, hang, delay, resolve, inject. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <libgen.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <time.h>
#include <unistd.h>

#include "fake.h"

/* How often a hung call looks whether it may go on. */
enum { HANG_POLL_MS = 5 };

static pthread_mutex_t state_lock = PTHREAD_MUTEX_INITIALIZER;

unsigned long long monotonic_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (unsigned long long)now.tv_sec * 1000 + (unsigned long long)now.tv_nsec / 1000000;
}

void call_pause(unsigned long long milliseconds)
{
    struct timespec left = {
        .tv_sec = (time_t)(milliseconds / 1000),
        .tv_nsec = (long)(milliseconds % 1000) * 1000000,
    };
    pthread_mutex_unlock(&state_lock);
    while (nanosleep(&left, &left) != 0)
        ;
    pthread_mutex_lock(&state_lock);
    profile_refresh();
}

/* Tells of files that are put into the directory of the profile; -1 if the kernel cannot. Made once
 * per thread that waits, and read by it alone. */
static int profile_news(void)
{
    static __thread int news = -2;
    const char *path = getenv("FAKE_NVML_PROFILE");
    if (news != -2 || path == NULL)
        return news;
    char *copy = strdup(path);
    news = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
    if (copy == NULL || news < 0 ||
        inotify_add_watch(news, dirname(copy), IN_MOVED_TO) < 0)
        news = -1;
    free(copy);
    return news;
}

void call_pause_for_profile(unsigned long long milliseconds)
{
    const int news = profile_news();
    if (news < 0) {
        call_pause(milliseconds < 5 ? milliseconds : 5);
        return;
    }
    char heard[4096];
    struct pollfd wanted = {.fd = news, .events = POLLIN};
    pthread_mutex_unlock(&state_lock);
    if (poll(&wanted, 1, (int)milliseconds) > 0)
        while (read(news, heard, sizeof heard) > 0)
            ;
    pthread_mutex_lock(&state_lock);
    profile_refresh();
}

/* One write per line to a file opened for appending: lines of several processes never mix. */
static void log_call(const struct call *call)
{
    const char *path = getenv("FAKE_NVML_CALLS");
    if (path == NULL)
        return;
    const int file = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0644);
    if (file < 0)
        return;
    char where[32] = "-";
    if (call->section != NULL && call->section->kind == SECTION_GPU)
        snprintf(where, sizeof where, "%d", call->section->gpu);
    else if (call->section != NULL)
        snprintf(where, sizeof where, "%d.%d", call->section->gpu, call->section->slot);
    char line[160];
    const int length =
        snprintf(line, sizeof line, "%ld %s %s\n", (long)getpid(), call->function, where);
    if (write(file, line, (size_t)length) != length)
        fputs("fake NVML: the call log could not be written\n", stderr);
    close(file);
}

static const struct section *section_by_uuid(const char *uuid)
{
    const struct section *section;
    for (size_t i = 0; (section = profile_section(i)) != NULL; i++) {
        const char *text = section_text(section, "uuid");
        const struct section *gpu = profile_gpu(section->gpu);
        if (section->kind == SECTION_DRIVER || text == NULL || strcmp(text, uuid) != 0)
            continue;
        if (!gpu_is_present(gpu) || (section->kind == SECTION_MIG && !gpu_has_mig_on(gpu)))
            continue;
        return section;
    }
    return NULL;
}

/* A whole GPU that went away reads as lost. A MIG handle is tied to the instance it was made for:
 * when that is gone or recreated under another UUID, the handle means nothing any more. */
static nvmlReturn_t section_by_handle(struct call *call)
{
    const struct nvmlDevice_st *handle = handle_find(call->device);
    if (handle == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    const struct section *gpu = profile_gpu(handle->gpu);
    if (!gpu_is_present(gpu))
        return NVML_ERROR_GPU_IS_LOST;
    if (handle->slot < 0) {
        call->section = gpu;
        return NVML_SUCCESS;
    }
    const struct section *mig = profile_mig(handle->gpu, handle->slot);
    const char *uuid = mig != NULL ? section_text(mig, "uuid") : NULL;
    if (!gpu_has_mig_on(gpu) || uuid == NULL || strcmp(uuid, handle->uuid) != 0)
        return NVML_ERROR_INVALID_ARGUMENT;
    call->section = mig;
    return NVML_SUCCESS;
}

static nvmlReturn_t resolve(struct call *call)
{
    call->section = NULL;
    if (profile_status() == NVML_ERROR_UNKNOWN)
        return NVML_ERROR_UNKNOWN;
    if (!call->anytime && !session_is_open())
        return NVML_ERROR_UNINITIALIZED;
    switch (call->target) {
    case TARGET_DEVICE:
        return section_by_handle(call);
    case TARGET_INDEX:
        call->section = gpu_by_index(call->index);
        return call->section != NULL ? NVML_SUCCESS : NVML_ERROR_INVALID_ARGUMENT;
    case TARGET_UUID:
        if (call->uuid == NULL)
            return NVML_ERROR_INVALID_ARGUMENT;
        call->section = section_by_uuid(call->uuid);
        return call->section != NULL ? NVML_SUCCESS : NVML_ERROR_NOT_FOUND;
    default:
        return NVML_SUCCESS;
    }
}

static unsigned long long switched(const struct section *section, const char *prefix,
                                   const char *function)
{
    const unsigned long long own = section != NULL ? section_switch(section, prefix, function) : 0;
    return own != 0 ? own : section_switch(profile_driver(), prefix, function);
}

nvmlReturn_t call_fault(const struct section *section, const char *function)
{
    return (nvmlReturn_t)switched(section, "fault", function);
}

/* Both waits drop the lock, so the target has to be looked up again after each. */
static nvmlReturn_t obey_waits(struct call *call)
{
    nvmlReturn_t status = NVML_SUCCESS;
    while (status == NVML_SUCCESS && switched(call->section, "hang", call->function) != 0) {
        call_pause(HANG_POLL_MS);
        status = resolve(call);
    }
    if (status != NVML_SUCCESS)
        return status;
    const unsigned long long delay = switched(call->section, "slow", call->function);
    if (delay == 0)
        return NVML_SUCCESS;
    call_pause(delay);
    return resolve(call);
}

/* Which faults that happen once have happened in this process. */
struct once {
    unsigned long long serial;
    struct once *next;
};

static struct once *happened;

/* `once.FUNCTION` is SERIAL:CODE; no two have the same serial, so one that is set again counts. */
static nvmlReturn_t fault_once(const struct section *section, const char *function)
{
    char key[128];
    unsigned long long serial;
    nvmlReturn_t code;
    snprintf(key, sizeof key, "once.%s", function);
    const char *text = section != NULL ? section_text(section, key) : NULL;
    if (text == NULL || sscanf(text, "%llu:%d", &serial, &code) != 2)
        return NVML_SUCCESS;
    for (const struct once *each = happened; each != NULL; each = each->next)
        if (each->serial == serial)
            return NVML_SUCCESS;
    struct once *fresh = malloc(sizeof *fresh);
    if (fresh == NULL)
        return NVML_ERROR_MEMORY;
    *fresh = (struct once){serial, happened};
    happened = fresh;
    return code;
}

static nvmlReturn_t verdict(const struct call *call)
{
    nvmlReturn_t fault = call_fault(call->section, call->function);
    if (fault == NVML_SUCCESS)
        fault = fault_once(call->section, call->function);
    if (fault == NVML_SUCCESS)
        fault = fault_once(profile_driver(), call->function);
    if (fault != NVML_SUCCESS || call->section == NULL)
        return fault;
    if (section_number_or(profile_gpu(call->section->gpu), "lost", 0) != 0)
        return NVML_ERROR_GPU_IS_LOST;
    if (call->gpu_only && call->section->kind == SECTION_MIG)
        return NVML_ERROR_NOT_SUPPORTED;
    return NVML_SUCCESS;
}

nvmlReturn_t call_begin(struct call *call)
{
    pthread_mutex_lock(&state_lock);
    profile_refresh();
    nvmlReturn_t status = resolve(call);
    /* Logged before any wait, so that a test can see a call go in that does not come back. */
    log_call(call);
    if (status == NVML_SUCCESS)
        status = obey_waits(call);
    if (status == NVML_SUCCESS)
        status = verdict(call);
    return status == NVML_SUCCESS ? NVML_SUCCESS : call_end(status);
}

nvmlReturn_t call_end(nvmlReturn_t status)
{
    pthread_mutex_unlock(&state_lock);
    return status;
}
