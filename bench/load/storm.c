/* storm.c: everybody drops, misses some messages, and comes back at once with lastSequence. Whole = replayed without a
 * hole up to the head, and told so. */
#include "load.h"

static void publish_missed(struct connection *publishers, uint32_t count) {
    char text[8192];
    uint64_t serial = 0, acked = tally.acked, deadline = clock_now() + 60 * SECOND;
    for (uint32_t round = 0; round < options.missed; round++)
        for (uint32_t chat = 0; chat < options.chats; chat++) {
            struct connection *c = &publishers[chat % count];
            websocket_send(c, text, dialect->publish(chat, clock_now() % STAMP_END, serial++, text, sizeof text));
            c->in_flight++;
        }
    for (uint32_t i = 0; i < count; i++) connection_flush(&publishers[i]);
    while (tally.acked - acked + tally.errors < serial) {
        poll_until(clock_now() + 10 * MILLISECOND);
        if (clock_now() > deadline) die("%lu of %lu publishes acknowledged in 60 s", tally.acked - acked, serial);
    }
}

void run_storm(void) {
    struct connection *clients = fleet_make(options.connections, options.chats);
    struct connection *publishers = fleet_make(options.publishers, 0);
    fleet_open(clients, options.connections);
    uint64_t *expected = calloc(options.connections, sizeof *expected);
    for (uint32_t i = 0; i < options.connections; i++) expected[i] = clients[i].last + options.missed;
    fleet_close(clients, options.connections);

    struct lines first = tokens;
    tokens = publisher_tokens;
    for (uint32_t i = 0; i < options.publishers; i++) publishers[i].token = i % tokens.count;
    fleet_open(publishers, options.publishers);
    publish_missed(publishers, options.publishers);
    fleet_close(publishers, options.publishers);

    tokens = options.tokens_again ? lines_read(options.tokens_again) : first;
    for (uint32_t i = 0; i < options.connections; i++) clients[i].resuming = true, clients[i].token = i % tokens.count;
    uint64_t ready = tally.ready;
    histogram_clear(&connects);
    tally.delivered = 0;
    struct usage from = usage_now();
    double seconds = fleet_open(clients, options.connections) / 1e9;
    struct usage to = usage_now();
    uint64_t whole = 0;
    for (uint32_t i = 0; i < options.connections; i++) whole += clients[i].stage == READY && clients[i].last == expected[i];
    printf("{\"mode\":\"storm\",\"clients\":%u,\"missed\":%u,\"seconds\":%.3f,\"whole\":%lu,\"incomplete\":%lu,"
           "\"resumed\":%lu,\"delivered\":%lu,\"holes\":%lu,\"repeats\":%lu,\"errors\":%lu,\"refused\":%lu,\"lost\":%lu,",
           options.connections, options.missed, seconds, whole, tally.incomplete, tally.ready - ready, tally.delivered,
           tally.holes, tally.repeats, tally.errors, tally.refused, tally.lost);
    histogram_print("connect", &connects);
    printf(",");
    usage_print(from, to);
    printf("}\n");
}
