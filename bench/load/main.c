/* main.c: `load MODE --option value …` (run.py is the usual caller; every option is in the table below). */
#include "load.h"
#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <sys/prctl.h>
#include <sys/resource.h>

struct options options = {
    .sources = 16, .connections = 1, .chats = 1, .members = 1, .publishers = 4, .window = 64, .parallel = 256, .missed = 20,
    .payload = 150, .duration = 3, .warmup = .5, .drain = 5, .path = "/dvl", .prefix = "chat-", .run = "run",
    .counting = "\"messageId\"", .dialect = "tocsin",
    .rates = {0}, .rate_count = 1,
};
struct lines tokens, publisher_tokens;
const struct dialect *dialect = &tocsin;

void die(const char *format, ...) {
    va_list values;
    va_start(values, format);
    fputs("load: ", stderr);
    vfprintf(stderr, format, values);
    fputc('\n', stderr);
    exit(1);
}

struct lines lines_read(const char *file) {
    FILE *in = fopen(file, "r");
    if (!in) die("%s: %s", file, strerror(errno));
    struct lines lines = {0};
    char *line = NULL;
    size_t room = 0;
    for (ssize_t n; (n = getline(&line, &room, in)) > 0;) {
        if (line[n - 1] == '\n') line[n - 1] = 0;
        if ((lines.count & (lines.count - 1)) == 0) /* full at each power of two */
            lines.line = realloc(lines.line, 2 * (lines.count + 1) * sizeof *lines.line);
        lines.line[lines.count++] = strdup(line);
    }
    free(line);
    fclose(in);
    if (!lines.count) die("%s is empty", file);
    return lines;
}

static const struct { const char *name; uint32_t *number; double *seconds; const char **text; bool *flag; } table[] = {
    {"port", &options.port, 0, 0, 0},             /* of the server, on 127.0.0.1 */
    {"sources", &options.sources, 0, 0, 0},       /* how many source addresses from 127.0.0.2 on */
    {"connections", &options.connections, 0, 0, 0},
    {"parallel", &options.parallel, 0, 0, 0},     /* upgrades under way at a time */
    {"chats", &options.chats, 0, 0, 0},
    {"members", &options.members, 0, 0, 0},       /* subscribers of each chat */
    {"publishers", &options.publishers, 0, 0, 0}, /* connections that publish */
    {"window", &options.window, 0, 0, 0},         /* unanswered publishes on each, at rate 0 */
    {"missed", &options.missed, 0, 0, 0},         /* storm: messages in each chat while away */
    {"payload", &options.payload, 0, 0, 0},       /* bytes of the payload object */
    {"dedupe-every", &options.dedupe_every, 0, 0, 0},
    {"count", &options.count, 0, 0, 0},           /* http: how many requests; 0: for the duration */
    {"expect", &options.expect, 0, 0, 0},         /* http: how often each answer holds … */
    {"server-pid", &options.server_pid, 0, 0, 0},
    {"duration", 0, &options.duration, 0, 0},
    {"warmup", 0, &options.warmup, 0, 0},
    {"drain", 0, &options.drain, 0, 0},
    {"path", 0, 0, &options.path, 0},
    {"prefix", 0, 0, &options.prefix, 0},         /* chat i is called PREFIXi */
    {"tokens", 0, 0, &options.tokens, 0},         /* a file, one a line: connection i has line i modulo their number */
    {"tokens-again", 0, 0, &options.tokens_again, 0}, /* storm: for coming back */
    {"publisher-tokens", 0, 0, &options.publisher_tokens, 0},
    {"requests", 0, 0, &options.requests, 0},
    {"counting", 0, 0, &options.counting, 0},     /* … this text */
    {"dialect", 0, 0, &options.dialect, 0},       /* tocsin or centrifugo */
    {"run", 0, 0, &options.run, 0},               /* begins every messageDeduplicationId */
    {"header", 0, 0, 0, &options.header},         /* the token goes in Authorization, not in the query */
    {"hold", 0, 0, 0, &options.hold},
};

static const struct { const char *name; void (*run)(void); } modes[] = {
    {"publish", run_publish}, {"connect", run_connect}, {"storm", run_storm}, {"http", run_http}, {"sender", run_sender},
};

static void read_rates(char *list) {
    options.rate_count = 0;
    for (char *one = strtok(list, ","); one && options.rate_count < 32; one = strtok(NULL, ","))
        options.rates[options.rate_count++] = (uint32_t)strtoul(one, NULL, 10);
}

static void read_options(int count, char **words) {
    for (int i = 2; i < count; i++) {
        if (!strcmp(words[i], "--rates") && i + 1 < count) { read_rates(words[++i]); continue; }
        size_t k = 0;
        while (k < sizeof table / sizeof *table && (strncmp(words[i], "--", 2) || strcmp(words[i] + 2, table[k].name))) k++;
        if (k == sizeof table / sizeof *table || (!table[k].flag && i + 1 == count)) die("what is %s?", words[i]);
        if (table[k].flag) *table[k].flag = true;
        else if (table[k].number) *table[k].number = (uint32_t)strtoul(words[++i], NULL, 10);
        else if (table[k].seconds) *table[k].seconds = strtod(words[++i], NULL);
        else *table[k].text = words[++i];
    }
}

int main(int count, char **words) {
    read_options(count, words);
    prctl(PR_SET_TIMERSLACK, 1000); /* ns: publishes are paced more finely than the usual 50 us */
    signal(SIGPIPE, SIG_IGN);
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    protocol = &websocket;
    if (!strcmp(options.dialect, "centrifugo")) dialect = &centrifugo;
    if (options.tokens) tokens = lines_read(options.tokens);
    publisher_tokens = options.publisher_tokens ? lines_read(options.publisher_tokens) : tokens;
    for (size_t k = 0; k < sizeof modes / sizeof *modes; k++)
        if (count > 1 && !strcmp(words[1], modes[k].name)) { modes[k].run(); return 0; }
    die("load publish|connect|storm|http|sender --port P …");
}
