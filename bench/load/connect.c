/* connect.c: how fast connections are taken (token, permission, upgrade, `subscribed`), and holding them: with --hold
 * they stay, answering pings, until standard input ends, so that the server's memory can be read meanwhile. */
#include "load.h"
#include <poll.h>
#include <unistd.h>

void run_connect(void) {
    struct connection *fleet = fleet_make(options.connections, options.chats);
    struct usage from = usage_now();
    double seconds = fleet_open(fleet, options.connections) / 1e9;
    printf("{\"mode\":\"connect\",\"connections\":%lu,\"refused\":%lu,\"lost\":%lu,\"seconds\":%.3f,\"per_s\":%.1f,",
           tally.ready, tally.refused, tally.lost, seconds, tally.ready / seconds);
    histogram_print("connect", &connects);
    printf(",");
    usage_print(from, usage_now());
    printf("}\n");
    fflush(stdout);
    struct pollfd input = {.fd = STDIN_FILENO, .events = POLLIN};
    while (options.hold && poll(&input, 1, 0) == 0) poll_until(clock_now() + 50 * MILLISECOND);
    if (tally.lost) fprintf(stderr, "load: %lu connections were closed by the server\n", tally.lost);
}
