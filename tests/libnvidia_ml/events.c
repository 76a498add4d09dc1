/* SPDX-License-Identifier: MPL-2.0 */
/* Event sets. Events come from the `events` key: serial:type:data[:gi:ci], serials ascending. */
#include <stdlib.h>

#include "fake.h"

/* How long the end of a session may stay unseen by a waiting thread. */
enum { EVENT_POLL_MS = 200 };

struct registration {
    nvmlDevice_t device;
    int gpu;
    unsigned long long types;
    unsigned long long last_serial;
    struct registration *next;
};

struct nvmlEventSet_st {
    struct registration *registrations;
    struct nvmlEventSet_st *next;
};

struct event {
    unsigned long long serial;
    nvmlEventData_t data;
};

static struct nvmlEventSet_st *live;
/* Kept for the same reason as retired device handles: no address is ever used twice. */
static struct nvmlEventSet_st *retired;

static struct nvmlEventSet_st **find_set(nvmlEventSet_t set)
{
    struct nvmlEventSet_st **link = &live;
    while (*link != NULL && *link != set)
        link = &(*link)->next;
    return *link != NULL ? link : NULL;
}

static void retire(struct nvmlEventSet_st **link)
{
    struct nvmlEventSet_st *set = *link;
    *link = set->next;
    set->next = retired;
    retired = set;
}

void event_sets_retire(void)
{
    while (live != NULL)
        retire(&live);
}

static unsigned long long field(const char **cursor, unsigned long long fallback)
{
    if (**cursor == ':')
        ++*cursor;
    char *end;
    const unsigned long long number = strtoull(*cursor, &end, 0);
    if (end == *cursor)
        return fallback;
    *cursor = end;
    return number;
}

/* Moves the cursor past one event; false at the end of the text. */
static bool parse_event(const char **cursor, struct event *event)
{
    while (**cursor == ' ' || **cursor == ',')
        ++*cursor;
    if (**cursor < '0' || **cursor > '9')
        return false;
    event->serial = field(cursor, 0);
    event->data.eventType = field(cursor, 0);
    event->data.eventData = field(cursor, 0);
    event->data.gpuInstanceId =
        **cursor == ':' ? (unsigned int)field(cursor, NVML_NO_INSTANCE) : NVML_NO_INSTANCE;
    event->data.computeInstanceId =
        **cursor == ':' ? (unsigned int)field(cursor, NVML_NO_INSTANCE) : NVML_NO_INSTANCE;
    return true;
}

static const char *event_text(int gpu)
{
    const struct section *section = profile_gpu(gpu);
    const char *text = section != NULL ? section_text(section, "events") : NULL;
    return text != NULL ? text : "";
}

static unsigned long long newest_serial(int gpu)
{
    const char *cursor = event_text(gpu);
    struct event event;
    unsigned long long newest = 0;
    while (parse_event(&cursor, &event))
        newest = event.serial > newest ? event.serial : newest;
    return newest;
}

/* The oldest event that this registration wants and has not had. */
static bool next_event(const struct registration *wanted, struct event *found)
{
    const char *cursor = event_text(wanted->gpu);
    struct event event;
    bool any = false;
    while (parse_event(&cursor, &event)) {
        if (event.serial > wanted->last_serial && (event.data.eventType & wanted->types) != 0 &&
            (!any || event.serial < found->serial)) {
            *found = event;
            any = true;
        }
    }
    return any;
}

FAKE_EXPORT nvmlReturn_t nvmlDeviceGetSupportedEventTypes(nvmlDevice_t device,
                                                          unsigned long long *types)
{
    struct call call = ON_GPU(device);
    const nvmlReturn_t status = call_begin(&call);
    if (status != NVML_SUCCESS)
        return status;
    if (types == NULL)
        return call_end(NVML_ERROR_INVALID_ARGUMENT);
    return call_end(section_number(call.section, "supported_events", types));
}

FAKE_EXPORT nvmlReturn_t nvmlEventSetCreate(nvmlEventSet_t *set)
{
    struct call call = {.function = __func__};
    const nvmlReturn_t status = call_begin(&call);
    if (status != NVML_SUCCESS)
        return status;
    if (set == NULL)
        return call_end(NVML_ERROR_INVALID_ARGUMENT);
    struct nvmlEventSet_st *fresh = calloc(1, sizeof *fresh);
    if (fresh == NULL)
        return call_end(NVML_ERROR_MEMORY);
    fresh->next = live;
    live = fresh;
    *set = fresh;
    return call_end(NVML_SUCCESS);
}

static nvmlReturn_t add_registration(struct nvmlEventSet_st *set, nvmlDevice_t device, int gpu,
                                     unsigned long long types)
{
    for (struct registration *known = set->registrations; known != NULL; known = known->next) {
        if (known->gpu == gpu) {
            known->types |= types;
            return NVML_SUCCESS;
        }
    }
    struct registration *fresh = malloc(sizeof *fresh);
    if (fresh == NULL)
        return NVML_ERROR_MEMORY;
    *fresh = (struct registration){device, gpu, types, newest_serial(gpu), set->registrations};
    set->registrations = fresh;
    return NVML_SUCCESS;
}

FAKE_EXPORT nvmlReturn_t nvmlDeviceRegisterEvents(nvmlDevice_t device, unsigned long long types,
                                                  nvmlEventSet_t set)
{
    struct call call = ON_GPU(device);
    nvmlReturn_t status = call_begin(&call);
    if (status != NVML_SUCCESS)
        return status;
    struct nvmlEventSet_st **link = find_set(set);
    if (link == NULL)
        return call_end(NVML_ERROR_INVALID_ARGUMENT);
    unsigned long long supported;
    status = section_number(call.section, "supported_events", &supported);
    if (status == NVML_SUCCESS && (types & ~supported) != 0)
        status = NVML_ERROR_NOT_SUPPORTED;
    if (status == NVML_SUCCESS)
        status = add_registration(*link, device, call.section->gpu, types);
    return call_end(status);
}

/* An injected error wins over a pending event: that is what a wedged driver looks like. */
static nvmlReturn_t injected(const struct call *call, const struct nvmlEventSet_st *set)
{
    const nvmlReturn_t fault = call_fault(NULL, call->function);
    if (fault != NVML_SUCCESS)
        return fault;
    for (const struct registration *each = set->registrations; each != NULL; each = each->next) {
        const struct section *gpu = profile_gpu(each->gpu);
        const nvmlReturn_t error =
            gpu != NULL ? (nvmlReturn_t)section_number_or(gpu, "wait_error", 0) : NVML_SUCCESS;
        if (error != NVML_SUCCESS)
            return error;
    }
    return (nvmlReturn_t)section_number_or(profile_driver(), "wait_error", NVML_SUCCESS);
}

/* One look at the set: an event, an error, or NVML_ERROR_TIMEOUT for nothing yet. */
static nvmlReturn_t look(const struct call *call, nvmlEventSet_t set, nvmlEventData_t *data)
{
    if (!session_is_open())
        return NVML_ERROR_UNINITIALIZED;
    struct nvmlEventSet_st **link = find_set(set);
    if (link == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    const nvmlReturn_t status = injected(call, *link);
    if (status != NVML_SUCCESS)
        return status;
    struct registration *source = NULL;
    struct event oldest = {0}, event;
    for (struct registration *each = (*link)->registrations; each != NULL; each = each->next) {
        if (next_event(each, &event) && (source == NULL || event.serial < oldest.serial)) {
            source = each;
            oldest = event;
        }
    }
    if (source == NULL)
        return NVML_ERROR_TIMEOUT;
    source->last_serial = oldest.serial;
    *data = oldest.data;
    data->device = source->device;
    return NVML_SUCCESS;
}

FAKE_EXPORT nvmlReturn_t nvmlEventSetWait_v2(nvmlEventSet_t set, nvmlEventData_t *data,
                                             unsigned int timeout_ms)
{
    const unsigned long long deadline = monotonic_ms() + timeout_ms;
    struct call call = {.function = __func__};
    nvmlReturn_t status = call_begin(&call);
    if (status != NVML_SUCCESS)
        return status;
    if (data == NULL)
        return call_end(NVML_ERROR_INVALID_ARGUMENT);
    for (;;) {
        const unsigned long looked_at = profile_version();
        status = look(&call, set, data);
        unsigned long long now = monotonic_ms();
        while (status == NVML_ERROR_TIMEOUT && now < deadline && session_is_open() &&
               looked_at == profile_version()) {
            call_pause_for_profile(deadline - now < EVENT_POLL_MS ? deadline - now
                                                                 : EVENT_POLL_MS);
            now = monotonic_ms();
        }
        if (status != NVML_ERROR_TIMEOUT || now >= deadline)
            return call_end(status);
    }
}

FAKE_EXPORT nvmlReturn_t nvmlEventSetFree(nvmlEventSet_t set)
{
    struct call call = {.function = __func__};
    const nvmlReturn_t status = call_begin(&call);
    if (status != NVML_SUCCESS)
        return status;
    struct nvmlEventSet_st **link = find_set(set);
    if (link == NULL)
        return call_end(NVML_ERROR_INVALID_ARGUMENT);
    retire(link);
    return call_end(NVML_SUCCESS);
}
