/* SPDX-License-Identifier: MPL-2.0 */
/* Meets the fake MPS daemon of CUDA_MPS_PIPE_DIRECTORY and prints its answer, a line of JSON. Linked
 * statically, to run in an image that has no library. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

int main(void)
{
    const char *pipes = getenv("CUDA_MPS_PIPE_DIRECTORY");
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    const int link = socket(AF_UNIX, SOCK_STREAM, 0);
    if (pipes == NULL || link < 0)
        return 1;
    snprintf(address.sun_path, sizeof address.sun_path, "%s/control", pipes);
    if (connect(link, (const struct sockaddr *)&address, sizeof address) != 0) {
        perror(address.sun_path);
        return 1;
    }
    dprintf(link, "{\"client\": {\"pid\": %d, \"uid\": %d, \"name\": \"mps-client\", \"wanted\": null}}\n",
            (int)getpid(), (int)getuid());
    char byte;
    while (read(link, &byte, 1) == 1 && byte != '\n')
        putchar(byte);
    putchar('\n');
    return 0;
}
