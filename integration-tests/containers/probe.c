/* A program of one file that has nothing to do with Grapevine: whether a container runs at all.
 *
 * Without an argument it listens at PORT. With one it is asked inside a container that runs already, and says what address that
 * name leads to. */
#include <arpa/inet.h>
#include <netdb.h>
#include <stdio.h>
#include <unistd.h>

static int look_up(const char *name) {
    struct addrinfo hints = {.ai_family = AF_INET, .ai_socktype = SOCK_STREAM}, *found;
    int error = getaddrinfo(name, NULL, &hints, &found);
    if (error) {
        fprintf(stderr, "%s: %s\n", name, gai_strerror(error));
        return 1;
    }
    puts(inet_ntoa(((struct sockaddr_in *)found->ai_addr)->sin_addr));
    return 0;
}

int main(int argc, char **argv) {
    if (argc > 1)
        return look_up(argv[1]);
    struct sockaddr_in here = {.sin_family = AF_INET, .sin_port = htons(PORT)};
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    if (listener < 0 || bind(listener, (struct sockaddr *)&here, sizeof here) || listen(listener, 8)) {
        perror("probe");
        return 1;
    }
    for (;;)
        close(accept(listener, NULL, NULL));
}
