/* http.c: requests from a file over keep-alive connections, one in flight on each, for a time or a number of requests.
 * A line is `METHOD TARGET [BODY]`; lines are taken in turn. Serves history, grants and preloads. */
#define _GNU_SOURCE
#include "load.h"
#include <strings.h>

static struct { char *text; size_t size; } *requests;
static uint32_t request_count, next_request;
static uint64_t answered, wrong, sent;
static bool over;
static struct histogram latency;

static void prepare(void) {
    struct lines lines = lines_read(options.requests);
    requests = calloc(lines.count, sizeof *requests);
    request_count = lines.count;
    for (uint32_t i = 0; i < lines.count; i++) {
        char *target = strchr(lines.line[i], ' ');
        if (!target) die("line %u of %s: no target", i + 1, options.requests);
        *target++ = 0;
        char *body = strchr(target, ' ');
        if (body) *body++ = 0;
        size_t room = 512 + strlen(target) + strlen(tokens.line[0]) + (body ? strlen(body) : 0);
        requests[i].text = malloc(room);
        int n = snprintf(requests[i].text, room, "%s %s HTTP/1.1\r\nHost: 127.0.0.1:%u\r\nAuthorization: Bearer %s\r\n",
                         lines.line[i], target, options.port, tokens.line[0]);
        if (body) n += snprintf(requests[i].text + n, room - n, "Content-Type: application/json\r\nContent-Length: %zu\r\n", strlen(body));
        requests[i].size = n + snprintf(requests[i].text + n, room - n, "\r\n%s", body ? body : "");
    }
}

static void ask(struct connection *c) {
    if (over || (options.count && sent >= options.count)) return;
    uint32_t i = next_request++ % request_count;
    memcpy(connection_room(c, requests[i].size), requests[i].text, requests[i].size);
    connection_wrote(c, requests[i].size);
    sent++;
    c->started_at = clock_now();
    connection_flush(c);
}

static void connected(struct connection *c) {
    c->stage = OPEN;
    tally.ready++;
    ask(c);
}

static bool as_expected(char *body, size_t size) {
    uint32_t seen = 0;
    for (char *at = body; (at = find(at, body + size - at, options.counting)); ) seen++;
    return !options.expect || seen == options.expect;
}

/* Returns where the body ends, NULL while it is not whole; its messages can be counted with the chunks' heads in it. */
static char *body_end(char *head, char *body, char *end) {
    size_t length = SIZE_MAX;
    bool chunked = false;
    for (char *line = head; line < body; line = (char *)memchr(line, '\n', body - line) + 1) {
        if (!strncasecmp(line, "content-length:", 15)) length = strtoul(line + 15, NULL, 10);
        if (!strncasecmp(line, "transfer-encoding: chunked", 26)) chunked = true;
    }
    if (length != SIZE_MAX) return (size_t)(end - body) >= length ? body + length : NULL;
    if (!chunked) die("an answer of unknown length: %.*s", (int)(body - head), head);
    for (char *line; (line = memmem(body, end - body, "\r\n", 2));) {
        size_t chunk = strtoul(body, NULL, 16);
        body = line + 2 + chunk + 2;
        if (body > end) return NULL;
        if (!chunk) return body;
    }
    return NULL;
}

static size_t received(struct connection *c, char *bytes, size_t size, uint64_t now) {
    char *body = memmem(bytes, size, "\r\n\r\n", 4), *end;
    if (!body || !(end = body_end(bytes, body += 4, bytes + size))) return 0;
    answered++;
    histogram_add(&latency, now - c->started_at);
    if ((bytes[9] != '2' || !as_expected(body, end - body)) && !wrong++)
        fprintf(stderr, "load: an answer that was not expected: %.*s\n", (int)(size < 600 ? size : 600), bytes);
    ask(c);
    return end - bytes;
}

static void closed(struct connection *c) {
    (void)c;
    if (!over) die("the server closed a connection after %lu answers", answered);
}

static const struct protocol http = {.connected = connected, .received = received, .closed = closed};

void run_http(void) {
    prepare();
    protocol = &http;
    struct connection *fleet = fleet_make(options.connections, 0);
    struct usage from = usage_now();
    uint64_t started = clock_now(), stop = started + (uint64_t)(options.duration * SECOND);
    for (uint32_t i = 0; i < options.connections; i++) connection_open(&fleet[i]);
    while (options.count ? answered < options.count : clock_now() < stop) poll_until(clock_now() + 10 * MILLISECOND);
    over = true;
    double seconds = (clock_now() - started) / 1e9;
    printf("{\"mode\":\"http\",\"requests\":%lu,\"wrong\":%lu,\"seconds\":%.3f,\"per_s\":%.1f,", answered, wrong, seconds, answered / seconds);
    histogram_print("latency", &latency);
    printf(",");
    usage_print(from, usage_now());
    printf("}\n");
}
