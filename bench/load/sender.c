/* sender.c: no server, only a source of frames as Tocsin's, for measuring the generator itself: it takes `connections`
 * upgrades, then writes `rate` messages a second to each of them, gathered over 10 ms, all the same bytes. */
#include "load.h"
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static void write_all(int fd, const char *bytes, size_t size) {
    while (size) {
        ssize_t n = send(fd, bytes, size, MSG_NOSIGNAL);
        if (n < 0) exit(0); /* the listener has gone: done */
        bytes += n, size -= n;
    }
}

static int text_frame(char *out, const char *text, size_t size) {
    out[0] = (char)0x81, out[1] = 126, out[2] = (char)(size >> 8), out[3] = (char)size;
    memcpy(out + 4, text, size);
    return (int)size + 4;
}

static int message_frame(char *out, uint64_t number) {
    char text[1024];
    int n = snprintf(text, sizeof text,
        "{\"type\":\"message\",\"messageId\":\"0192d0f5-7c1b-7abc-8def-0123456789ab\",\"messageType\":\"fifo\",\"targetChannel\":\"WebSocket\","
        "\"timestamp\":\"2025-10-01T00:00:00.000Z\",\"senderId\":\"publisher\",\"sequenceNumber\":%lu,\"payload\":{\"chatId\":\"room-0\","
        "\"eventType\":\"bench\",\"content\":\"t=%016lu%*s\"}}", number, clock_now() % STAMP_END, (int)options.payload - 70, "");
    return text_frame(out, text, n);
}

static int answer_upgrade(char *out) {
    char text[] = "{\"type\":\"subscribed\",\"chatId\":\"room-0\",\"headSequence\":0,\"oldestSequence\":1,\"epoch\":\"e\",\"recovered\":true}";
    int n = sprintf(out, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                         "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n");
    return n + text_frame(out + n, text, sizeof text - 1);
}

void run_sender(void) {
    int listener = socket(AF_INET, SOCK_STREAM, 0), yes = 1;
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(options.port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    if (bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, 4096)) die("cannot listen on %u", options.port);
    puts("listening");
    fflush(stdout);
    int *sockets = calloc(options.connections, sizeof *sockets);
    char *blob = malloc(64 << 20), request[8192];
    for (uint32_t i = 0; i < options.connections; i++) {
        sockets[i] = accept(listener, NULL, NULL);
        setsockopt(sockets[i], IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
        for (size_t size = 0; !size || memcmp(request + size - 4, "\r\n\r\n", 4);) {
            ssize_t n = recv(sockets[i], request + size, sizeof request - size, 0);
            if (n <= 0) die("no upgrade");
            size += n;
        }
        write_all(sockets[i], blob, answer_upgrade(blob));
    }
    uint64_t start = clock_now(), number = 0;
    for (;;) {
        uint64_t due = (uint64_t)((clock_now() - start) / 1e9 * options.rates[0]);
        size_t size = 0;
        while (number < due && size < (63u << 20)) size += message_frame(blob + size, ++number);
        for (uint32_t i = 0; i < options.connections; i++) write_all(sockets[i], blob, size);
        nanosleep(&(struct timespec){.tv_nsec = 10 * MILLISECOND}, NULL);
    }
}
