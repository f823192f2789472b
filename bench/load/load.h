/* load.h: what the files of the load generator share.
 *
 *   main.c        options -> one mode; a mode prints JSON lines on stdout, complaints go to stderr
 *   connection.c  sockets and one epoll: bytes out, bytes in; knows neither HTTP nor WebSocket
 *   websocket.c   the upgrade and the frames (RFC 6455)
 *   dialect.c     what is found in a frame, and what it counts for
 *   tocsin.c      what the frames say (centrifugo.c: the same for a peer)
 *   fleet.c       opens many connections, so many at a time
 *   publish.c connect.c storm.c http.c sender.c   the modes
 *   report.c      latencies, the server's processor and memory
 *
 * Rules: one thread; every frame that arrives is parsed and its number checked, none is sampled; a time is nanoseconds
 * of CLOCK_MONOTONIC and travels inside the message; a latency starts when the message was *due*, so that a server
 * (or a generator) that falls behind cannot hide it.
 */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SECOND 1000000000ul
#define MILLISECOND 1000000ul
#define NO_CHAT UINT32_MAX

struct options {
    uint32_t port, sources, connections, chats, members, publishers, window, parallel, missed;
    uint32_t payload, dedupe_every, expect, count, server_pid;
    uint32_t rates[32], rate_count; /* publishes a second; 0 = as fast as the window allows */
    double duration, warmup, drain; /* seconds */
    bool hold, header;
    const char *path, *prefix, *tokens, *tokens_again, *publisher_tokens, *requests, *counting, *run, *dialect;
};
extern struct options options;
_Noreturn void die(const char *format, ...) __attribute__((format(printf, 1, 2)));

struct lines { char **line; uint32_t count; };
struct lines lines_read(const char *file);
extern struct lines tokens, publisher_tokens;

/* ---- connection.c ---- */
enum stage { UNUSED, CONNECTING, UPGRADING, OPEN, READY, CLOSED };
struct connection {
    int fd;
    uint8_t stage;
    bool awaits_room;           /* the socket was full: EPOLLOUT is asked for */
    bool resuming;              /* the upgrade carries lastSequence */
    uint32_t chat;              /* the one it subscribes to; NO_CHAT: it publishes */
    uint32_t token;             /* which line of the token file */
    uint32_t in_flight;         /* publishes not yet answered */
    uint32_t rest_size, out_size, out_room;
    uint64_t last;              /* highest number heard */
    uint64_t started_at;        /* of the connect; of the request in HTTP */
    char *rest;                 /* what has not arrived whole; NULL mostly */
    char *out;                  /* what the socket has not taken */
};
struct protocol {
    void (*connected)(struct connection *c);
    size_t (*received)(struct connection *c, char *bytes, size_t size, uint64_t now); /* returns how many were used up */
    void (*closed)(struct connection *c);                                             /* by the other side */
};
extern const struct protocol *protocol;
uint64_t clock_now(void);
void connection_open(struct connection *c);
void connection_close(struct connection *c);
char *connection_room(struct connection *c, size_t size); /* where `size` bytes may be written … */
void connection_wrote(struct connection *c, size_t size); /* … and how many were; sent at the next flush */
void connection_flush(struct connection *c);
void poll_until(uint64_t deadline);                       /* one round of events, or none until the deadline */

/* ---- websocket.c ---- */
extern const struct protocol websocket;
void websocket_send(struct connection *c, const char *text, size_t size);

/* ---- a dialect: what the frames say ---- */
struct dialect {
    size_t (*query)(const struct connection *c, char *out, size_t room); /* the upgrade's request target */
    void (*opened)(struct connection *c, uint64_t now);
    void (*heard)(struct connection *c, char *text, size_t size, uint64_t now);
    size_t (*publish)(uint32_t chat, uint64_t stamp, uint64_t serial, char *out, size_t room);
};
extern const struct dialect tocsin, centrifugo, *dialect;

/* ---- dialect.c ---- */
struct tally {
    uint64_t ready, refused, lost;      /* connections: in place; never opened; closed by the server */
    uint64_t delivered, holes, repeats; /* messages; numbers skipped in silence; numbers heard again */
    uint64_t gap_frames, gapped;        /* `gap`: how often, how many messages */
    uint64_t acked, errors, incomplete; /* incomplete: resumed, and did not get everything */
    uint64_t measure_from;              /* latencies of what was due before are not kept */
};
extern struct tally tally;
char *find(char *text, size_t size, const char *key); /* behind the key, or NULL */
char *find_again(char *text, size_t size, uint32_t *place, const char *key); /* tries where it was before */
uint64_t number_at(const char *digits);
void count_ready(struct connection *c, uint64_t now);
void count_message(struct connection *c, uint64_t number, const char *stamp, uint64_t now); /* number 0: has none */
void count_ack(struct connection *c, uint64_t stamp, uint64_t now);
void count_error(struct connection *c, const char *text, size_t size);

/* A stamp is the time a message was due, in 16 decimal digits (it wraps after 115 days), in its content. */
#define STAMP_END 10000000000000000ul
size_t payload_write(uint32_t chat, uint64_t stamp, char *out, size_t room);

/* ---- fleet.c ---- */
struct connection *fleet_make(uint32_t count, uint32_t chats);             /* chats 0: all publish */
uint64_t fleet_open(struct connection *fleet, uint32_t count);             /* all in place or refused; returns ns */
void fleet_close(struct connection *fleet, uint32_t count);

/* ---- report.c ---- */
struct histogram { uint64_t count, largest, slots[44 * 128]; };            /* up to 2^42 ns, each kept within 1 % */
extern struct histogram deliveries, acks, connects;
void histogram_add(struct histogram *h, uint64_t value);
void histogram_clear(struct histogram *h);
void histogram_print(const char *name, const struct histogram *h);         /* "name":{"p50":… } in milliseconds */
struct usage { double server, generator; uint64_t at; };                   /* processor seconds so far */
struct usage usage_now(void);
void usage_print(struct usage from, struct usage to);

/* ---- the modes ---- */
void run_publish(void);
void run_connect(void);
void run_storm(void);
void run_http(void);
void run_sender(void);
