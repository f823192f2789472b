/* tocsin.c: Tocsin's frames (and the baseline's): what is sent, what is heard and what it counts for. */
#define _GNU_SOURCE
#include "load.h"

struct tally tally;
static char epoch[128]; /* of the store, as the last `subscribed` had it */

/* Frames of one length mostly have their fields at the same places, so a search starts where it last ended. */
struct layout { uint32_t number, stamp; };
static struct layout layouts[4096];

static inline char *after(char *text, size_t size, uint32_t *hint, const char *key, size_t key_size) {
    if (*hint + key_size <= size && !memcmp(text + *hint, key, key_size)) return text + *hint + key_size;
    char *at = memmem(text, size, key, key_size);
    if (!at) return NULL;
    *hint = (uint32_t)(at - text);
    return at + key_size;
}

#define AFTER(text, size, hint, key) after(text, size, hint, key, sizeof(key) - 1)

static char *find(char *text, size_t size, const char *key) {
    char *at = memmem(text, size, key, strlen(key));
    return at ? at + strlen(key) : NULL;
}

static uint64_t number_at(const char *digits) {
    uint64_t value = 0;
    while (digits && *digits >= '0' && *digits <= '9') value = 10 * value + (*digits++ - '0');
    return value;
}

static uint64_t number_of(char *text, size_t size, const char *key) { return number_at(find(text, size, key)); }

/* Eight digits at once: pairs, fours, eights. */
static uint64_t eight(const char *digits) {
    uint64_t v;
    memcpy(&v, digits, 8);
    v = (v & 0x0f0f0f0f0f0f0f0f) * 2561 >> 8;
    v = (v & 0x00ff00ff00ff00ff) * 6553601 >> 16;
    return (v & 0x0000ffff0000ffff) * 42949672960001 >> 32;
}

uint64_t stamp_read(const char *digits) { return eight(digits) * 100000000 + eight(digits + 8); }

static size_t query(const struct connection *c, char *out, size_t room) {
    size_t n = snprintf(out, room, "%s?load=1", options.path); /* unknown parameters are ignored */
    if (!options.header) n += snprintf(out + n, room - n, "&token=%s", tokens.line[c->token]);
    if (c->chat != NO_CHAT) n += snprintf(out + n, room - n, "&chatId=%s%u", options.prefix, c->chat);
    if (c->resuming) n += snprintf(out + n, room - n, "&lastSequence=%lu", c->last);
    if (c->resuming && *epoch) n += snprintf(out + n, room - n, "&epoch=%s", epoch);
    return n;
}

static void ready(struct connection *c, uint64_t now) {
    c->stage = READY;
    tally.ready++;
    histogram_add(&connects, now - c->started_at);
}

static void opened(struct connection *c, uint64_t now) {
    if (c->chat == NO_CHAT) ready(c, now);
}

static void heard_message(struct connection *c, char *text, size_t size, uint64_t now) {
    struct layout *layout = &layouts[size & 4095];
    char *digits = AFTER(text, size, &layout->number, "\"sequenceNumber\":");
    char *stamp = AFTER(text, size, &layout->stamp, "\"content\":\"t=");
    tally.delivered++;
    uint64_t number = number_at(digits);
    if (number == c->last + 1) c->last = number;
    else if (number <= c->last) tally.repeats++;
    else tally.holes += number - c->last - 1, c->last = number;
    if (!stamp || stamp + STAMP > text + size) return;
    uint64_t age = stamp_age(stamp_read(stamp), now);
    if (now - age >= tally.measure_from) histogram_add(&deliveries, age);
}

static void heard_subscribed(struct connection *c, char *text, size_t size, uint64_t now) {
    uint64_t head = number_of(text, size, "\"headSequence\":");
    char *name = find(text, size, "\"epoch\":\"");
    if (name) {
        size_t n = strcspn(name, "\"");
        snprintf(epoch, sizeof epoch, "%.*s", (int)n, name);
    }
    if (c->resuming && (c->last != head || !find(text, size, "\"recovered\":true"))) tally.incomplete++;
    c->last = head;
    ready(c, now);
}

static void heard_gap(struct connection *c, char *text, size_t size) {
    uint64_t from = number_of(text, size, "\"from\":"), to = number_of(text, size, "\"to\":");
    tally.gap_frames++;
    if (!from || to < from) return; /* unnumbered messages only */
    if (from != c->last + 1) tally.holes++;
    tally.gapped += to - from + 1;
    c->last = to;
}

static void heard_ack(struct connection *c, char *text, size_t size, uint64_t now) {
    char *stamp = find(text, size, "\"requestId\":\"");
    tally.acked++;
    c->in_flight--;
    if (!stamp || stamp + STAMP > text + size) return;
    uint64_t age = stamp_age(stamp_read(stamp), now);
    if (now - age >= tally.measure_from) histogram_add(&acks, age);
}

static void heard(struct connection *c, char *text, size_t size, uint64_t now) {
    static const char message[] = "{\"type\":\"message\"";
    if (size >= sizeof message - 1 && !memcmp(text, message, sizeof message - 1)) {
        heard_message(c, text, size, now);
        return;
    }
    char kept = text[size]; /* the input buffer is larger than any frame: a text can be ended for the searches */
    text[size] = 0;
    char *type = find(text, size, "\"type\":\"");
    if (!type) die("a frame without a type: %.300s", text);
    if (!strncmp(type, "ack\"", 4)) heard_ack(c, text, size, now);
    else if (!strncmp(type, "message\"", 8)) heard_message(c, text, size, now);
    else if (!strncmp(type, "subscribed\"", 11)) heard_subscribed(c, text, size, now);
    else if (!strncmp(type, "gap\"", 4)) heard_gap(c, text, size);
    else if (!strncmp(type, "error\"", 6)) {
        if (!tally.errors++) fprintf(stderr, "load: %s\n", text);
        if (c->in_flight) c->in_flight--;
    }
    text[size] = kept;
}

static size_t publish(uint32_t chat, uint64_t due, uint64_t serial, char *out, size_t room) {
    static char padding[4096];
    if (!*padding) memset(padding, 'x', sizeof padding - 1);
    char dedupe[128] = "";
    if (options.dedupe_every && serial % options.dedupe_every == 0)
        snprintf(dedupe, sizeof dedupe, "\"messageDeduplicationId\":\"%s-%lu\",", options.run, serial);
    static const char payload[] = "{\"chatId\":\"%s%u\",\"eventType\":\"bench\",\"content\":\"t=%016lu%.*s\"}";
    uint64_t stamp = due % STAMP_END;
    int bare = snprintf(NULL, 0, payload, options.prefix, chat, stamp, 0, padding);
    int fill = (int)options.payload > bare ? (int)options.payload - bare : 0;
    size_t n = snprintf(out, room, "{\"action\":\"sendMessage\",\"requestId\":\"%016lu\",\"messageType\":\"fifo\",%s\"payload\":",
                        stamp, dedupe);
    n += snprintf(out + n, room - n, payload, options.prefix, chat, stamp, fill, padding);
    n += snprintf(out + n, room - n, "}");
    return n;
}

const struct dialect tocsin = {.query = query, .opened = opened, .heard = heard, .publish = publish};
