/* Loaded in front of the C library of a real process (LD_PRELOAD): its syncs fail while the harness wants them to.

   The file that CHAOS_CONTROL names is mapped; tests/chaos/control.py has its fields. A process without that variable
   behaves as without this file. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

struct control {
    volatile int64_t ahead_ms, names_fail, names_ms;
    volatile int64_t syncs_fail;   /* not 0: fsync and fdatasync answer EIO, and sync nothing */
    volatile int64_t syncs_failed; /* how many were answered so */
    volatile int64_t names_met;
};

static struct control *control;
static int (*real_fsync)(int);
static int (*real_fdatasync)(int);

__attribute__((constructor)) static void begin(void)
{
    real_fsync = dlsym(RTLD_NEXT, "fsync");
    real_fdatasync = dlsym(RTLD_NEXT, "fdatasync");
    const char *path = getenv("CHAOS_CONTROL");
    int fd = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
    if (fd < 0)
        return;
    void *mapped = mmap(NULL, sizeof(struct control), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (mapped != MAP_FAILED)
        control = mapped;
}

static int fails(void)
{
    if (!control || !control->syncs_fail)
        return 0;
    __sync_fetch_and_add(&control->syncs_failed, 1);
    errno = EIO;
    return 1;
}

int fsync(int fd)
{
    return fails() ? -1 : real_fsync(fd);
}

int fdatasync(int fd)
{
    return fails() ? -1 : real_fdatasync(fd);
}
