/* websocket.c: the client's side of RFC 6455: upgrade (4.1), frames (5.2), masks (5.3). Servers here send unfragmented
 * text of moderate size; anything else ends the run, as a benchmark of a broken stream is worth nothing. */
#define _GNU_SOURCE
#include "load.h"

enum { TEXT = 0x81, CLOSE = 0x88, PING = 0x89, PONG = 0x8a, REQUEST_MAX = 16 << 10 };

/* The key and the answer to it are the RFC's own example (1.3). */
static const char KEY[] = "dGhlIHNhbXBsZSBub25jZQ==", ACCEPT[] = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

static void connected(struct connection *c) {
    char target[REQUEST_MAX], bearer[REQUEST_MAX] = "";
    dialect->query(c, target, sizeof target);
    if (options.header && tokens.count)
        snprintf(bearer, sizeof bearer, "Authorization: Bearer %s\r\n", tokens.line[c->token]);
    char *out = connection_room(c, 2 * REQUEST_MAX);
    connection_wrote(c, snprintf(out, 2 * REQUEST_MAX,
        "GET %s HTTP/1.1\r\nHost: 127.0.0.1:%u\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n%s"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: %s\r\n\r\n", target, options.port, bearer, KEY));
    c->stage = UPGRADING;
}

static void frame(struct connection *c, uint8_t kind, const char *payload, size_t size) {
    static uint64_t random = 0x9e3779b97f4a7c15; /* a mask has to differ, not to be secret: nobody is between */
    random ^= random << 13, random ^= random >> 7, random ^= random << 17;
    char *out = connection_room(c, size + 14), *at = out;
    *at++ = (char)kind;
    if (size < 126) {
        *at++ = (char)(0x80 | size);
    } else if (size < 65536) {
        *at++ = (char)(0x80 | 126), *at++ = (char)(size >> 8), *at++ = (char)size;
    } else {
        die("a frame of %zu bytes is not for this program", size);
    }
    char mask[4];
    memcpy(mask, &random, 4);
    memcpy(at, mask, 4);
    at += 4;
    for (size_t i = 0; i < size; i++) at[i] = payload[i] ^ mask[i & 3];
    connection_wrote(c, at + size - out);
}

void websocket_send(struct connection *c, const char *text, size_t size) { frame(c, TEXT, text, size); }

static void closed(struct connection *c) {
    if (c->stage == READY) tally.lost++;
    else tally.refused++;
}

/* Returns the size of the answer to the upgrade, 0 while it is not whole. */
static size_t upgraded(struct connection *c, char *bytes, size_t size, uint64_t now) {
    char *end = memmem(bytes, size, "\r\n\r\n", 4);
    if (!end) return 0;
    if (memcmp(bytes, "HTTP/1.1 101", 12) || !memmem(bytes, end - bytes, ACCEPT, sizeof ACCEPT - 1)) {
        if (!tally.refused++) fprintf(stderr, "load: refused: %.*s\n", (int)(size < 400 ? size : 400), bytes);
        connection_close(c);
        return size;
    }
    c->stage = OPEN;
    dialect->opened(c, now);
    return end + 4 - bytes;
}

static size_t received(struct connection *c, char *bytes, size_t size, uint64_t now) {
    size_t used = 0;
    if (c->stage == UPGRADING && !(used = upgraded(c, bytes, size, now))) return 0;
    while (c->stage != CLOSED && size - used >= 2) {
        const uint8_t *head = (uint8_t *)bytes + used;
        size_t length = head[1], header = 2;
        if (length == 126) {
            if (size - used < (header = 4)) break;
            length = (size_t)head[2] << 8 | head[3];
        } else if (length == 127) {
            if (size - used < (header = 10)) break;
            length = (size_t)head[6] << 24 | (size_t)head[7] << 16 | (size_t)head[8] << 8 | head[9];
        }
        if (head[1] > 127) die("a masked frame from a server");
        if (size - used < header + length) break;
        char *payload = bytes + used + header;
        used += header + length;
        if (head[0] == TEXT) {
            dialect->heard(c, payload, length, now);
        } else if (head[0] == PING) {
            frame(c, PONG, payload, length);
            connection_flush(c);
        } else if (head[0] == CLOSE) {
            int code = length < 2 ? 0 : (uint8_t)payload[0] << 8 | (uint8_t)payload[1];
            if (!tally.lost) fprintf(stderr, "load: closed with %d %.*s\n", code, length > 2 ? (int)length - 2 : 0, payload + 2);
            closed(c);
            connection_close(c);
        } else if (head[0] != PONG) {
            die("a frame that begins with 0x%02x", head[0]);
        }
    }
    return used;
}

const struct protocol websocket = {.connected = connected, .received = received, .closed = closed};
