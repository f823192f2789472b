/* fleet.c: many connections, so many at a time. */
#include "load.h"

/* `count` connections over `chats` chats in turn; chats 0: they subscribe to nothing, for publishing. */
struct connection *fleet_make(uint32_t count, uint32_t chats) {
    struct connection *fleet = calloc(count ? count : 1, sizeof *fleet);
    if (!fleet) die("out of memory");
    for (uint32_t i = 0; i < count; i++) {
        fleet[i].chat = chats ? i % chats : NO_CHAT;
        fleet[i].token = i % (tokens.count ? tokens.count : 1);
    }
    return fleet;
}

uint64_t fleet_open(struct connection *fleet, uint32_t count) {
    uint64_t before = tally.ready + tally.refused, started = clock_now(), moved = started;
    for (uint32_t next = 0, done = 0; done < count;) {
        while (next < count && next - done < options.parallel) connection_open(&fleet[next++]);
        poll_until(clock_now() + 100 * MILLISECOND);
        uint32_t was = done;
        done = (uint32_t)(tally.ready + tally.refused - before);
        if (done != was) moved = clock_now();
        if (clock_now() - moved > 30 * SECOND) die("%u of %u connections in place, and none more in 30 s", done, count);
    }
    return clock_now() - started;
}

void fleet_close(struct connection *fleet, uint32_t count) {
    for (uint32_t i = 0; i < count; i++) connection_close(&fleet[i]);
}
