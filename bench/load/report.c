/* report.c: latencies in a histogram, and what the server and this program used of a processor. */
#include "load.h"
#include <sys/resource.h>
#include <unistd.h>

struct histogram deliveries, acks, connects;

/* 128 slots for each power of two: a value is kept to within 1 %. */
void histogram_add(struct histogram *h, uint64_t value) {
    int shift = value < 128 ? -1 : 56 - __builtin_clzll(value);
    uint32_t slot = shift < 0 ? value : ((uint32_t)(shift + 1) << 7) + ((value >> shift) & 127);
    h->slots[slot < 44 * 128 ? slot : 44 * 128 - 1]++;
    h->count++;
    if (value > h->largest) h->largest = value;
}

void histogram_clear(struct histogram *h) { memset(h, 0, sizeof *h); }

static double milliseconds_at(const struct histogram *h, double share) {
    uint64_t wanted = (uint64_t)(share * h->count), seen = 0;
    for (uint32_t slot = 0; slot < 44 * 128; slot++) {
        seen += h->slots[slot];
        if (seen > wanted) return (slot < 128 ? slot : (uint64_t)(128 + (slot & 127)) << ((slot >> 7) - 1)) / 1e6;
    }
    return h->largest / 1e6;
}

void histogram_print(const char *name, const struct histogram *h) {
    if (!h->count) { printf("\"%s\":null", name); return; }
    printf("\"%s\":{\"count\":%lu,\"p50\":%.3f,\"p90\":%.3f,\"p99\":%.3f,\"p999\":%.3f,\"max\":%.3f}", name, h->count,
           milliseconds_at(h, .5), milliseconds_at(h, .9), milliseconds_at(h, .99), milliseconds_at(h, .999),
           h->largest / 1e6);
}

static double server_seconds(void) {
    char path[64], text[1024];
    snprintf(path, sizeof path, "/proc/%u/stat", options.server_pid);
    FILE *file = options.server_pid ? fopen(path, "r") : NULL;
    if (!file) return 0;
    text[fread(text, 1, sizeof text - 1, file)] = 0;
    fclose(file);
    unsigned long user = 0, kernel = 0;
    char *fields = strrchr(text, ')'); /* a program's name may hold spaces */
    if (fields) sscanf(fields, ") %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu", &user, &kernel);
    return (double)(user + kernel) / sysconf(_SC_CLK_TCK);
}

static double server_mib(void) {
    char path[64];
    unsigned long pages = 0;
    snprintf(path, sizeof path, "/proc/%u/statm", options.server_pid);
    FILE *file = options.server_pid ? fopen(path, "r") : NULL;
    if (file) {
        if (fscanf(file, "%*u %lu", &pages) != 1) pages = 0;
        fclose(file);
    }
    return pages * (double)sysconf(_SC_PAGESIZE) / (1 << 20);
}

struct usage usage_now(void) {
    struct rusage own;
    getrusage(RUSAGE_SELF, &own);
    double generator = own.ru_utime.tv_sec + own.ru_stime.tv_sec + (own.ru_utime.tv_usec + own.ru_stime.tv_usec) / 1e6;
    return (struct usage){.server = server_seconds(), .generator = generator, .at = clock_now()};
}

/* As a share of one processor over the time between. */
void usage_print(struct usage from, struct usage to) {
    double seconds = (to.at - from.at) / 1e9;
    printf("\"server_cpu\":%.3f,\"generator_cpu\":%.3f,\"server_mib\":%.1f", (to.server - from.server) / seconds,
           (to.generator - from.generator) / seconds, server_mib());
}
