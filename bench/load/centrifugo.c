/* centrifugo.c: the peer's client protocol in JSON, with the same payloads: commands with an id, replies with the same
 * id, pushes without one; several in a frame, a line each; an empty one is a ping. */
#include "load.h"

enum { CONNECT = 1, SUBSCRIBE = 2, FIRST_PUBLISH = 3, LONGEST_EPOCH = 16, MOST_CHATS = 4096 };
static uint64_t stamps[1 << 20];                 /* of publishes under way, by id: an id has but 32 bits */
static char epochs[MOST_CHATS][LONGEST_EPOCH];   /* each channel has its own */
static struct { uint32_t number, stamp; } places[4096];

static size_t query(const struct connection *c, char *out, size_t room) {
    (void)c;
    return snprintf(out, room, "/connection/websocket");
}

static void opened(struct connection *c, uint64_t now) {
    char text[8192];
    (void)now;
    size_t n = snprintf(text, sizeof text, "{\"id\":%u,\"connect\":{\"token\":\"%s\"}}", CONNECT, tokens.line[c->token]);
    if (c->chat != NO_CHAT) {
        n += snprintf(text + n, sizeof text - n, "\n{\"id\":%u,\"subscribe\":{\"channel\":\"%s%u\"", SUBSCRIBE, options.prefix, c->chat);
        if (c->resuming)
            n += snprintf(text + n, sizeof text - n, ",\"recover\":true,\"offset\":%lu,\"epoch\":\"%s\"", c->last, epochs[c->chat % MOST_CHATS]);
        n += snprintf(text + n, sizeof text - n, "}}");
    }
    websocket_send(c, text, n);
    connection_flush(c);
}

/* What was missed is in the reply, beside the "offset" that was asked for. */
static void heard_subscribed(struct connection *c, char *line, size_t size, uint64_t now) {
    char *epoch = find(line, size, "\"epoch\":\""), *at = line;
    uint64_t asked = c->last;
    if (epoch) snprintf(epochs[c->chat % MOST_CHATS], LONGEST_EPOCH, "%.*s", (int)strcspn(epoch, "\""), epoch);
    if (c->resuming && !find(line, size, "\"recovered\":true")) tally.incomplete++;
    while ((at = find(at, line + size - at, "\"offset\":"))) {
        uint64_t number = number_at(at);
        if (!c->resuming) c->last = number;
        else if (number != asked) count_message(c, number, NULL, now);
    }
    count_ready(c, now);
}

static void heard_line(struct connection *c, char *line, size_t size, uint64_t now) {
    uint64_t id = strncmp(line, "{\"id\":", 6) ? 0 : number_at(line + 6);
    if (!id && !find(line, size, "\"push\":")) {
        websocket_send(c, "{}", 2);
        connection_flush(c);
    } else if (!id) {
        char *stamp = find_again(line, size, &places[size & 4095].stamp, "\"content\":\"t=");
        if (!stamp) return; /* joined, left, … */
        count_message(c, number_at(find_again(line, size, &places[size & 4095].number, "\"offset\":")), stamp, now);
    } else if (find(line, size, "\"error\":")) {
        count_error(c, line, size);
        if (id < FIRST_PUBLISH) die("not taken: %.*s", (int)size, line);
    } else if (id == CONNECT) {
        if (c->chat == NO_CHAT) count_ready(c, now);
    } else if (id == SUBSCRIBE) {
        heard_subscribed(c, line, size, now);
    } else {
        count_ack(c, stamps[id & ((1 << 20) - 1)], now);
    }
}

static void heard(struct connection *c, char *text, size_t size, uint64_t now) {
    for (char *line = text, *end = text + size, *next; line < end && c->stage != CLOSED; line = next + 1) {
        next = memchr(line, '\n', end - line);
        if (!next) next = end;
        char kept = *next;
        *next = 0;
        if (next > line) heard_line(c, line, next - line, now);
        *next = kept;
    }
}

static size_t publish(uint32_t chat, uint64_t stamp, uint64_t serial, char *out, size_t room) {
    uint32_t id = FIRST_PUBLISH + (uint32_t)(serial % 4000000000u);
    stamps[id & ((1 << 20) - 1)] = stamp;
    size_t n = snprintf(out, room, "{\"id\":%u,\"publish\":{\"channel\":\"%s%u\",\"data\":", id, options.prefix, chat);
    n += payload_write(chat, stamp, out + n, room - n);
    return n + snprintf(out + n, room - n, "}}");
}

const struct dialect centrifugo = {.query = query, .opened = opened, .heard = heard, .publish = publish};
