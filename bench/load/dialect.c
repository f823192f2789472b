/* dialect.c: what all dialects share: finding fields in a frame, and what is counted of it. */
#define _GNU_SOURCE
#include "load.h"

struct tally tally;

char *find(char *text, size_t size, const char *key) {
    char *at = memmem(text, size, key, strlen(key));
    return at ? at + strlen(key) : NULL;
}

char *find_again(char *text, size_t size, uint32_t *place, const char *key) {
    size_t length = strlen(key);
    if (*place + length <= size && !memcmp(text + *place, key, length)) return text + *place + length;
    char *at = memmem(text, size, key, length);
    if (!at) return NULL;
    *place = (uint32_t)(at - text);
    return at + length;
}

uint64_t number_at(const char *digits) {
    uint64_t value = 0;
    while (digits && *digits >= '0' && *digits <= '9') value = 10 * value + (*digits++ - '0');
    return value;
}

/* Eight digits at once: pairs, fours, eights. */
static uint64_t eight(const char *digits) {
    uint64_t v;
    memcpy(&v, digits, 8);
    v = (v & 0x0f0f0f0f0f0f0f0f) * 2561 >> 8;
    v = (v & 0x00ff00ff00ff00ff) * 6553601 >> 16;
    return (v & 0x0000ffff0000ffff) * 42949672960001 >> 32;
}

static void time_one(struct histogram *h, uint64_t stamp, uint64_t now) {
    uint64_t age = (now % STAMP_END + STAMP_END - stamp) % STAMP_END;
    if (now - age >= tally.measure_from) histogram_add(h, age);
}

void count_ready(struct connection *c, uint64_t now) {
    c->stage = READY;
    tally.ready++;
    histogram_add(&connects, now - c->started_at);
}

static void count_number(struct connection *c, uint64_t number) {
    if (!number) return; /* a peer that was told not to number */
    if (number <= c->last) { tally.repeats++; return; }
    tally.holes += number - c->last - 1;
    c->last = number;
}

void count_message(struct connection *c, uint64_t number, const char *stamp, uint64_t now) {
    tally.delivered++;
    count_number(c, number);
    if (stamp) time_one(&deliveries, eight(stamp) * 100000000 + eight(stamp + 8), now);
}

void count_ack(struct connection *c, uint64_t stamp, uint64_t now) {
    tally.acked++;
    c->in_flight--;
    time_one(&acks, stamp, now);
}

void count_error(struct connection *c, const char *text, size_t size) {
    if (!tally.errors++) fprintf(stderr, "load: %.*s\n", (int)size, text);
    if (c->in_flight) c->in_flight--;
}

/* {"chatId":…,"eventType":…,"content":"t=<stamp>xxx…"}, filled up to the wanted size. */
size_t payload_write(uint32_t chat, uint64_t stamp, char *out, size_t room) {
    static char padding[4096];
    if (!*padding) memset(padding, 'x', sizeof padding - 1);
    size_t n = snprintf(out, room, "{\"chatId\":\"%s%u\",\"eventType\":\"bench\",\"content\":\"t=%016lu", options.prefix, chat, stamp);
    size_t fill = options.payload > n + 2 ? options.payload - n - 2 : 0;
    return n + snprintf(out + n, room - n, "%.*s\"}", (int)fill, padding);
}
