/* SPDX-License-Identifier: MPL-2.0 */
/* Reads the machine description named by FAKE_NVML_PROFILE and notices when it is replaced. */
#define _GNU_SOURCE
#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "fake.h"

struct profile {
    struct section *sections;
    size_t count;
};

/* What identifies one version of the file. Tests replace it by rename, so the inode usually moves
 * too; the time alone would miss two writes within one clock tick. */
struct stamp {
    ino_t inode;
    off_t size;
    struct timespec modified;
};

static struct profile current;
static struct stamp loaded;
static bool have_profile;
static unsigned long version;
static nvmlReturn_t problem = NVML_ERROR_DRIVER_NOT_LOADED;

static const struct section no_section = {.kind = SECTION_DRIVER, .gpu = -1, .slot = -1};

static void *must(void *memory)
{
    if (memory == NULL) {
        fputs("fake NVML: out of memory\n", stderr);
        abort();
    }
    return memory;
}

static void profile_free(struct profile *profile)
{
    for (size_t i = 0; i < profile->count; i++) {
        for (size_t j = 0; j < profile->sections[i].count; j++) {
            free(profile->sections[i].entries[j].key);
            free(profile->sections[i].entries[j].value);
        }
        free(profile->sections[i].entries);
    }
    free(profile->sections);
    *profile = (struct profile){0};
}

static char *trim(char *text)
{
    while (isspace((unsigned char)*text))
        text++;
    size_t length = strlen(text);
    while (length > 0 && isspace((unsigned char)text[length - 1]))
        text[--length] = '\0';
    return text;
}

/* Values may hold bytes that no text file should: \xNN stands for one byte, \\ for a backslash. */
static void unescape(char *text)
{
    char *out = text;
    while (*text != '\0') {
        if (text[0] == '\\' && text[1] == '\\') {
            *out++ = '\\';
            text += 2;
        } else if (text[0] == '\\' && text[1] == 'x' && isxdigit((unsigned char)text[2]) &&
                   isxdigit((unsigned char)text[3])) {
            const char digits[3] = {text[2], text[3], '\0'};
            *out++ = (char)strtoul(digits, NULL, 16);
            text += 4;
        } else {
            *out++ = *text++;
        }
    }
    *out = '\0';
}

static bool add_section(struct profile *profile, const char *title)
{
    struct section section = {.gpu = -1, .slot = -1};
    int used = 0;
    if (strcmp(title, "driver") == 0)
        section.kind = SECTION_DRIVER;
    else if (sscanf(title, "gpu %d%n", &section.gpu, &used) == 1 && title[used] == '\0')
        section.kind = SECTION_GPU;
    else if (sscanf(title, "mig %d.%d%n", &section.gpu, &section.slot, &used) == 2 &&
             title[used] == '\0')
        section.kind = SECTION_MIG;
    else
        return false;
    profile->sections =
        must(realloc(profile->sections, (profile->count + 1) * sizeof *profile->sections));
    profile->sections[profile->count++] = section;
    return true;
}

static bool add_entry(struct profile *profile, char *line)
{
    char *equals = strchr(line, '=');
    if (equals == NULL || profile->count == 0)
        return false;
    *equals = '\0';
    struct section *section = &profile->sections[profile->count - 1];
    section->entries =
        must(realloc(section->entries, (section->count + 1) * sizeof *section->entries));
    char *value = trim(equals + 1);
    unescape(value);
    section->entries[section->count++] = (struct entry){
        .key = must(strdup(trim(line))),
        .value = must(strdup(value)),
    };
    return true;
}

static bool add_line(struct profile *profile, char *line)
{
    line = trim(line);
    if (*line == '\0' || *line == '#' || *line == ';')
        return true;
    if (*line != '[')
        return add_entry(profile, line);
    char *close = strchr(line, ']');
    if (close == NULL || close[1] != '\0')
        return false;
    *close = '\0';
    return add_section(profile, line + 1);
}

static int compare_sections(const void *left, const void *right)
{
    const struct section *a = left, *b = right;
    if (a->kind != b->kind)
        return (int)a->kind - (int)b->kind;
    return a->gpu != b->gpu ? a->gpu - b->gpu : a->slot - b->slot;
}

/* A profile that cannot be understood must not pass for a machine without GPUs, so say where it
 * went wrong and let every call fail with Unknown. */
static nvmlReturn_t parse(FILE *file, const char *path, struct profile *profile)
{
    char *line = NULL;
    size_t room = 0;
    unsigned long number = 0;
    nvmlReturn_t status = NVML_SUCCESS;
    while (getline(&line, &room, file) != -1) {
        number++;
        if (!add_line(profile, line)) {
            fprintf(stderr, "fake NVML: %s:%lu: not a section and not key=value\n", path, number);
            status = NVML_ERROR_UNKNOWN;
            break;
        }
    }
    free(line);
    if (profile->count > 0)
        qsort(profile->sections, profile->count, sizeof *profile->sections, compare_sections);
    return status;
}

static bool same_stamp(const struct stamp *a, const struct stamp *b)
{
    return a->inode == b->inode && a->size == b->size &&
           a->modified.tv_sec == b->modified.tv_sec && a->modified.tv_nsec == b->modified.tv_nsec;
}

static struct stamp stamp_of(const struct stat *status)
{
    return (struct stamp){status->st_ino, status->st_size, status->st_mtim};
}

static void load(const char *path)
{
    FILE *file = fopen(path, "re");
    struct stat status;
    if (file == NULL)
        return;
    /* Stamp the file that is open, not the path: it may be replaced in between. */
    if (fstat(fileno(file), &status) == 0) {
        struct profile fresh = {0};
        problem = parse(file, path, &fresh);
        profile_free(&current);
        current = fresh;
        loaded = stamp_of(&status);
        have_profile = true;
        version++;
    }
    fclose(file);
}

void profile_refresh(void)
{
    const char *path = getenv("FAKE_NVML_PROFILE");
    struct stat status;
    if (path == NULL || stat(path, &status) != 0)
        return;
    const struct stamp now = stamp_of(&status);
    if (!have_profile || !same_stamp(&now, &loaded))
        load(path);
}

unsigned long profile_version(void)
{
    return version;
}

nvmlReturn_t profile_status(void)
{
    return problem;
}

const struct section *profile_section(size_t position)
{
    return position < current.count ? &current.sections[position] : NULL;
}

static const struct section *find_section(enum section_kind kind, int gpu, int slot)
{
    for (size_t i = 0; i < current.count; i++) {
        const struct section *section = &current.sections[i];
        if (section->kind == kind && section->gpu == gpu && section->slot == slot)
            return section;
    }
    return NULL;
}

const struct section *profile_driver(void)
{
    const struct section *driver = find_section(SECTION_DRIVER, -1, -1);
    return driver != NULL ? driver : &no_section;
}

const struct section *profile_gpu(int gpu)
{
    return find_section(SECTION_GPU, gpu, -1);
}

const struct section *profile_mig(int gpu, int slot)
{
    return find_section(SECTION_MIG, gpu, slot);
}

const char *section_text(const struct section *section, const char *key)
{
    for (size_t i = 0; i < section->count; i++)
        if (strcmp(section->entries[i].key, key) == 0)
            return section->entries[i].value;
    return NULL;
}

nvmlReturn_t section_number(const struct section *section, const char *key,
                            unsigned long long *number)
{
    const char *text = section_text(section, key);
    if (text == NULL)
        return NVML_ERROR_NOT_SUPPORTED;
    char *end;
    errno = 0;
    const unsigned long long parsed = strtoull(text, &end, 0);
    if (end == text || *end != '\0' || errno != 0) {
        fprintf(stderr, "fake NVML: %s=%s is not a number\n", key, text);
        return NVML_ERROR_UNKNOWN;
    }
    *number = parsed;
    return NVML_SUCCESS;
}

nvmlReturn_t section_unsigned(const struct section *section, const char *key, unsigned int *number)
{
    unsigned long long wide;
    const nvmlReturn_t status = section_number(section, key, &wide);
    if (status == NVML_SUCCESS)
        *number = (unsigned int)wide;
    return status;
}

unsigned long long section_number_or(const struct section *section, const char *key,
                                     unsigned long long fallback)
{
    unsigned long long number;
    return section_number(section, key, &number) == NVML_SUCCESS ? number : fallback;
}

unsigned long long section_switch(const struct section *section, const char *prefix,
                                  const char *function)
{
    char key[128];
    snprintf(key, sizeof key, "%s.%s", prefix, function);
    return section_number_or(section, key, 0);
}
