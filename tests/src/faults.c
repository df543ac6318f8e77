/* Loaded into a daemon under test: counts the calls that change what is below one folder, and lets one of them fail, or
 * the process die just before it. Which one, the test says through a page of memory that both share:
 *
 *   control[0]  calls so far
 *   control[1]  the call at which it happens, counted from 1; 0: none
 *   control[2]  the errno to give; 0: the process is killed
 *   control[3]  not 0: every call from that one on fails, not only that one
 *
 * FAULT_CONTROL names the file with that page, FAULT_FOLDER the folder. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

static _Atomic uint64_t *control;
static char folder[PATH_MAX];
static size_t folder_len;

__attribute__((constructor)) static void begin(void) {
    const char *page = getenv("FAULT_CONTROL"), *below = getenv("FAULT_FOLDER");
    if (!page || !below)
        return;
    int fd = syscall(SYS_openat, AT_FDCWD, page, O_RDWR | O_CLOEXEC);
    void *mapped = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (fd < 0 || mapped == MAP_FAILED)
        abort();
    close(fd);
    folder_len = strlen(strcpy(folder, below));
    control = mapped;
}

static int fails_at(const char *path) {
    if (!control || strncmp(path, folder, folder_len) != 0)
        return 0;
    uint64_t call = atomic_fetch_add(&control[0], 1) + 1, at = control[1];
    if (at == 0 || call < at || (call > at && !control[3]))
        return 0;
    if (control[2] == 0) {
        kill(getpid(), SIGKILL);
        for (;;)
            pause();
    }
    errno = (int)control[2];
    return 1;
}

static int fails(int fd) {
    char link[64], path[PATH_MAX];
    if (!control)
        return 0;
    int before = errno;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t len = readlink(link, path, sizeof path - 1);
    errno = before;
    if (len < 0)
        return 0;
    path[len] = 0;
    return fails_at(path);
}

#define NEXT(name) \
    static __typeof__(&name) next; \
    if (!next) \
        next = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

#define ON_DESCRIPTOR(result, name, parameters, arguments) \
    result name parameters { \
        NEXT(name); \
        return fails(fd) ? -1 : next arguments; \
    }

ON_DESCRIPTOR(ssize_t, write, (int fd, const void *bytes, size_t len), (fd, bytes, len))
ON_DESCRIPTOR(ssize_t, pwrite64, (int fd, const void *bytes, size_t len, off64_t at), (fd, bytes, len, at))
ON_DESCRIPTOR(int, ftruncate64, (int fd, off64_t len), (fd, len))
ON_DESCRIPTOR(int, fdatasync, (int fd), (fd))
ON_DESCRIPTOR(int, fsync, (int fd), (fd))

int rename(const char *from, const char *to) {
    NEXT(rename);
    return fails_at(to) ? -1 : next(from, to);
}

int unlink(const char *path) {
    NEXT(unlink);
    return fails_at(path) ? -1 : next(path);
}

int mkdir(const char *path, mode_t mode) {
    NEXT(mkdir);
    return fails_at(path) ? -1 : next(path, mode);
}

int open64(const char *path, int flags, ...) {
    NEXT(open64);
    va_list more;
    va_start(more, flags);
    mode_t mode = (flags & O_CREAT) ? va_arg(more, mode_t) : 0;
    va_end(more);
    return (flags & O_CREAT) && fails_at(path) ? -1 : next(path, flags, mode);
}
