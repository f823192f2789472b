/* A program that is started with this before it (LD_PRELOAD) listens on 127.0.0.1, though it asks for every address.

   DynamoDB Local has no setting for it, and its licence lets nobody compile anything against it. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <netinet/in.h>

int bind(int fd, const struct sockaddr *address, socklen_t length) {
    int (*next)(int, const struct sockaddr *, socklen_t) = dlsym(RTLD_NEXT, "bind");
    if (address->sa_family != AF_INET) return next(fd, address, length);
    struct sockaddr_in local = *(const struct sockaddr_in *)address;
    local.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return next(fd, (struct sockaddr *)&local, sizeof local);
}
