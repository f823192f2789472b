/* publish.c: room, groups, durable, latency: `chats` chats with `members` subscribers each, and `publishers` further
 * connections that publish FIFO messages to the chats in turn. One step for each rate: an open loop (message k is due
 * at start + k / rate, whatever the server does), or, at rate 0, as many as the window of unanswered publishes allows.
 * With no publishers it only listens (to sender.c): that is the generator's own ceiling. */
#include "load.h"

static struct connection *publishers;
static uint64_t serial;

static void publish_one(struct connection *c, uint64_t due) {
    char text[8192];
    if (c->stage != READY) die("a publishing connection was closed");
    websocket_send(c, text, dialect->publish((uint32_t)(serial % options.chats), due % STAMP_END, serial, text, sizeof text));
    c->in_flight++;
    serial++;
}

/* Sends what is due by now; returns when the next is. */
static uint64_t publish_due(uint32_t rate, uint64_t start, uint64_t first, uint64_t now) {
    if (rate) {
        double each = (double)SECOND / rate;
        uint64_t due;
        while ((due = start + (uint64_t)((serial - first) * each)) <= now)
            publish_one(&publishers[serial % options.publishers], due);
        for (uint32_t i = 0; i < options.publishers; i++) connection_flush(&publishers[i]);
        return due;
    }
    for (uint32_t i = 0; i < options.publishers; i++) {
        while (publishers[i].in_flight < options.window) publish_one(&publishers[i], now);
        connection_flush(&publishers[i]);
    }
    return now + 10 * MILLISECOND;
}

struct mark { uint64_t at, sent, acked, delivered; struct usage usage; };

static struct mark mark_now(void) {
    return (struct mark){clock_now(), serial, tally.acked, tally.delivered, usage_now()};
}

static uint64_t missing(struct mark start) {
    uint64_t wanted = (tally.acked - start.acked) * options.members, seen = tally.delivered - start.delivered + tally.gapped;
    return wanted > seen ? wanted - seen : 0;
}

/* Returns whether everything that was sent had been answered and heard, or told by `gap`, when the step was over. */
static bool run_step(uint32_t rate) {
    tally.holes = tally.repeats = tally.gap_frames = tally.gapped = tally.errors = tally.lost = 0;
    histogram_clear(&deliveries);
    histogram_clear(&acks);
    struct mark first = mark_now(), from = first, to = first;
    uint64_t warm = first.at + (uint64_t)(options.warmup * SECOND), stop = warm + (uint64_t)(options.duration * SECOND);
    uint64_t give_up = stop + (uint64_t)(options.drain * SECOND), latest = 0, next = first.at;
    tally.measure_from = warm;
    bool drained = false;
    while (!drained) {
        uint64_t now = clock_now();
        if (from.at == first.at && now >= warm) from = mark_now();
        if (now < stop && options.publishers) {
            if (rate && now > next && now - next > latest) latest = now - next;
            next = publish_due(rate, first.at, first.sent, now);
        } else if (now < stop) {
            next = now + MILLISECOND;
        } else {
            if (to.at == first.at) to = mark_now();
            drained = tally.acked - first.acked + tally.errors >= serial - first.sent && !missing(first);
            if (now > give_up) break;
            next = now + MILLISECOND;
        }
        if (!drained) poll_until(next < stop || now >= stop ? next : stop);
    }
    double seconds = (to.at - from.at) / 1e9;
    printf("{\"mode\":\"publish\",\"rate\":%u,\"seconds\":%.3f,\"sent\":%lu,\"acked\":%lu,\"acks_per_s\":%.1f,"
           "\"delivered\":%lu,\"deliveries_per_s\":%.1f,\"missing\":%lu,\"holes\":%lu,\"repeats\":%lu,\"gap_frames\":%lu,"
           "\"gapped\":%lu,\"errors\":%lu,\"lost\":%lu,\"drained\":%s,\"generator_late_ms\":%.3f,",
           rate, seconds, serial - first.sent, tally.acked - first.acked, (to.acked - from.acked) / seconds,
           tally.delivered - first.delivered, (to.delivered - from.delivered) / seconds, missing(first), tally.holes,
           tally.repeats, tally.gap_frames, tally.gapped, tally.errors, tally.lost, drained ? "true" : "false", latest / 1e6);
    histogram_print("delivery", &deliveries);
    printf(",");
    histogram_print("ack", &acks);
    printf(",");
    usage_print(from.usage, to.usage);
    printf("}\n");
    fflush(stdout);
    return drained;
}

void run_publish(void) {
    struct connection *members = fleet_make(options.chats * options.members, options.chats);
    fleet_open(members, options.chats * options.members);
    if (publisher_tokens.count) tokens = publisher_tokens;
    publishers = fleet_make(options.publishers, 0);
    fleet_open(publishers, options.publishers);
    if (tally.refused) die("%lu connections were refused", tally.refused);
    for (uint32_t i = 0; i < options.rate_count; i++)
        if (!run_step(options.rates[i])) break; /* the next would begin with this one's backlog */
}
