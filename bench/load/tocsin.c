/* tocsin.c: Tocsin's frames (and the baseline's): what is sent, what is heard. */
#include "load.h"

static char epoch[128]; /* of the store, as the last `subscribed` had it */

/* Frames of one length mostly have their fields at the same places, so a search begins where it ended before. */
static struct { uint32_t number, stamp; } places[4096];

static size_t query(const struct connection *c, char *out, size_t room) {
    size_t n = snprintf(out, room, "%s?load=1", options.path); /* unknown parameters are ignored */
    if (!options.header) n += snprintf(out + n, room - n, "&token=%s", tokens.line[c->token]);
    if (c->chat != NO_CHAT) n += snprintf(out + n, room - n, "&chatId=%s%u", options.prefix, c->chat);
    if (c->resuming) n += snprintf(out + n, room - n, "&lastSequence=%lu", c->last);
    if (c->resuming && *epoch) n += snprintf(out + n, room - n, "&epoch=%s", epoch);
    return n;
}

static void opened(struct connection *c, uint64_t now) {
    if (c->chat == NO_CHAT) count_ready(c, now);
}

static void heard_message(struct connection *c, char *text, size_t size, uint64_t now) {
    char *number = find_again(text, size, &places[size & 4095].number, "\"sequenceNumber\":");
    char *stamp = find_again(text, size, &places[size & 4095].stamp, "\"content\":\"t=");
    count_message(c, number_at(number), stamp, now);
}

static void heard_subscribed(struct connection *c, char *text, size_t size, uint64_t now) {
    uint64_t head = number_at(find(text, size, "\"headSequence\":"));
    char *name = find(text, size, "\"epoch\":\"");
    if (name) snprintf(epoch, sizeof epoch, "%.*s", (int)strcspn(name, "\""), name);
    if (c->resuming && (c->last != head || !find(text, size, "\"recovered\":true"))) tally.incomplete++;
    c->last = head;
    count_ready(c, now);
}

static void heard_gap(struct connection *c, char *text, size_t size) {
    uint64_t from = number_at(find(text, size, "\"from\":")), to = number_at(find(text, size, "\"to\":"));
    tally.gap_frames++;
    if (!from || to < from) return; /* unnumbered messages only */
    if (from != c->last + 1) tally.holes++;
    tally.gapped += to - from + 1;
    c->last = to;
}

static void heard(struct connection *c, char *text, size_t size, uint64_t now) {
    static const char message[] = "{\"type\":\"message\"";
    if (size >= sizeof message - 1 && !memcmp(text, message, sizeof message - 1)) {
        heard_message(c, text, size, now);
        return;
    }
    char kept = text[size]; /* there is always one byte more */
    text[size] = 0;
    char *type = find(text, size, "\"type\":\"");
    if (!type) die("a frame without a type: %.300s", text);
    if (!strncmp(type, "ack\"", 4)) count_ack(c, number_at(find(text, size, "\"requestId\":\"")), now);
    else if (!strncmp(type, "message\"", 8)) heard_message(c, text, size, now);
    else if (!strncmp(type, "subscribed\"", 11)) heard_subscribed(c, text, size, now);
    else if (!strncmp(type, "gap\"", 4)) heard_gap(c, text, size);
    else if (!strncmp(type, "error\"", 6)) count_error(c, text, size);
    text[size] = kept;
}

/* The requestId is the stamp, so that the ack brings it back. */
static size_t publish(uint32_t chat, uint64_t stamp, uint64_t serial, char *out, size_t room) {
    size_t n = snprintf(out, room, "{\"action\":\"sendMessage\",\"requestId\":\"%016lu\",\"messageType\":\"fifo\",", stamp);
    if (options.dedupe_every && serial % options.dedupe_every == 0)
        n += snprintf(out + n, room - n, "\"messageDeduplicationId\":\"%s-%lu\",", options.run, serial);
    n += snprintf(out + n, room - n, "\"payload\":");
    n += payload_write(chat, stamp, out + n, room - n);
    return n + snprintf(out + n, room - n, "}");
}

const struct dialect tocsin = {.query = query, .opened = opened, .heard = heard, .publish = publish};
