/* connection.c: sockets and one epoll. Bytes out are gathered until a flush; bytes in are handed to the protocol, and
 * what it does not use up (a frame that has not arrived whole) waits for the rest. */
#define _GNU_SOURCE
#include "load.h"
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <time.h>
#include <unistd.h>

enum { READ_MAX = 256 << 10, REST_MAX = 1 << 20, ROUND = 64 };

const struct protocol *protocol;
static int events_fd = -1;
static uint32_t opened;
static char input[REST_MAX + READ_MAX + 32]; /* more: a dialect may end a text with 0 and read a stamp at its end */

uint64_t clock_now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * SECOND + t.tv_nsec;
}

static void ask(struct connection *c, int operation, uint32_t events) {
    struct epoll_event event = {.events = events, .data.ptr = c};
    if (epoll_ctl(events_fd, operation, c->fd, &event)) die("epoll_ctl: %s", strerror(errno));
}

/* One destination has 28,000 ports for each source address, so sources go round 127.0.0.2, .3, … */
void connection_open(struct connection *c) {
    if (events_fd < 0) events_fd = epoll_create1(EPOLL_CLOEXEC);
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (c->fd < 0) die("socket: %s", strerror(errno));
    int yes = 1;
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
    setsockopt(c->fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &yes, sizeof yes);
    struct sockaddr_in source = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(0x7f000002 + opened++ % options.sources)};
    if (bind(c->fd, (struct sockaddr *)&source, sizeof source)) die("bind: %s", strerror(errno));
    struct sockaddr_in server = {.sin_family = AF_INET, .sin_port = htons(options.port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    c->started_at = clock_now();
    c->stage = CONNECTING;
    if (connect(c->fd, (struct sockaddr *)&server, sizeof server) && errno != EINPROGRESS) die("connect: %s", strerror(errno));
    ask(c, EPOLL_CTL_ADD, EPOLLIN | EPOLLOUT);
    c->awaits_room = true;
}

void connection_close(struct connection *c) {
    if (c->stage == UNUSED || c->stage == CLOSED) return;
    close(c->fd);
    c->stage = CLOSED;
    free(c->rest);
    free(c->out);
    c->rest = c->out = NULL;
    c->rest_size = c->out_size = c->out_room = 0;
}

static void drop(struct connection *c) {
    protocol->closed(c);
    connection_close(c);
}

char *connection_room(struct connection *c, size_t size) {
    if (c->out_size + size > c->out_room) {
        c->out_room = 2 * (c->out_size + size);
        c->out = realloc(c->out, c->out_room);
        if (!c->out) die("out of memory");
    }
    return c->out + c->out_size;
}

void connection_wrote(struct connection *c, size_t size) { c->out_size += size; }

void connection_flush(struct connection *c) {
    if (!c->out_size || c->stage == CLOSED) return;
    ssize_t sent = send(c->fd, c->out, c->out_size, MSG_NOSIGNAL);
    if (sent < 0 && errno != EAGAIN) return; /* the reading side will see the end */
    if (sent > 0) {
        memmove(c->out, c->out + sent, c->out_size - sent);
        c->out_size -= sent;
    }
    if (c->awaits_room != (c->out_size > 0)) {
        c->awaits_room = c->out_size > 0;
        ask(c, EPOLL_CTL_MOD, EPOLLIN | (c->awaits_room ? EPOLLOUT : 0));
    }
    if (!c->out_size && c->chat != NO_CHAT) { /* a subscriber hardly ever writes */
        free(c->out);
        c->out = NULL;
        c->out_room = 0;
    }
}

static void keep(struct connection *c, const char *bytes, size_t size) {
    if (size > REST_MAX) die("a frame or an answer of more than %d bytes", REST_MAX);
    if (!size) free(c->rest);
    if (size != c->rest_size) c->rest = size ? realloc(c->rest, size) : NULL;
    if (size) memcpy(c->rest, bytes, size);
    c->rest_size = size;
}

static void take(struct connection *c) {
    if (c->rest_size) memcpy(input, c->rest, c->rest_size);
    ssize_t got = recv(c->fd, input + c->rest_size, READ_MAX, 0);
    if (got <= 0) {
        if (got == 0 || errno != EAGAIN) drop(c);
        return;
    }
    size_t size = c->rest_size + got;
    size_t used = protocol->received(c, input, size, clock_now()); /* all that it brought was there by now */
    if (c->stage == CLOSED) return;
    keep(c, input + used, size - used);
}

static void serve(struct connection *c, uint32_t events) {
    if (c->stage == CONNECTING && events & (EPOLLOUT | EPOLLERR | EPOLLHUP)) {
        int error = 0;
        socklen_t size = sizeof error;
        getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &size);
        if (error) { drop(c); return; }
        protocol->connected(c);
        connection_flush(c);
    } else if (c->stage != CLOSED && events & EPOLLOUT) {
        connection_flush(c);
    }
    if (c->stage != CLOSED && events & (EPOLLIN | EPOLLERR | EPOLLHUP)) take(c);
}

void poll_until(uint64_t deadline) {
    struct epoll_event events[ROUND]; /* few, so that publishing keeps its pace */
    uint64_t now = clock_now(), left = deadline > now ? deadline - now : 0;
    struct timespec timeout = {.tv_sec = left / SECOND, .tv_nsec = left % SECOND};
    int count = epoll_pwait2(events_fd, events, ROUND, &timeout, NULL);
    if (count < 0 && errno != EINTR) die("epoll_pwait2: %s", strerror(errno));
    for (int i = 0; i < count; i++) serve(events[i].data.ptr, events[i].events);
}
