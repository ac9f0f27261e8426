// A shim between a process and the C library, loaded by LD_PRELOAD, which injects faults into calls
// on files whose path contains a given text. faults/shim.py compiles it and sets the fault.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

// CHANGE is what else changes the disk: such calls only count for KILL.
enum Kind { NONE, WRITE, SHORT_WRITE, FLUSH, CLOSE, RENAME, LOST_RENAME, READ, KILL, CHANGE };

static int kind = NONE;       // what fails
static long first = 0;        // number of the first call that fails, from 1
static int once = 0;          // whether only that call fails
static int error = 0;         // errno of a failure
static char text[512] = "";   // part of the paths that are concerned
static long seen = 0, failed = 0;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;

// Set the fault; return the number of calls that the last fault has made fail.
__attribute__((visibility("default"))) long dcrf_set_fault(int new_kind, long new_first,
                                                           int new_once, int new_error,
                                                           const char* new_text) {
  pthread_mutex_lock(&mutex);
  const long before = failed;
  kind = new_kind;
  first = new_first;
  once = new_once;
  error = new_error;
  strncpy(text, new_text, sizeof text - 1);
  seen = failed = 0;
  pthread_mutex_unlock(&mutex);
  return before;
}

static int concerns_path(const char* path) { return path && text[0] && strstr(path, text) != NULL; }

static int concerns_fd(int fd) {
  char link[64], path[1024];
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  const ssize_t n = readlink(link, path, sizeof path - 1);
  if (n <= 0) return 0;
  path[n] = 0;
  return concerns_path(path);
}

static int concerns_at(int folder, const char* path) {
  return concerns_path(path) || (path && path[0] != '/' && folder != AT_FDCWD && concerns_fd(folder));
}

// Whether this call of kind `of` fails. KILL counts every call that may change the disk.
static int fails(int of) {
  if (kind == NONE) return 0;
  if (kind == KILL) {
    if (of == READ || of == SHORT_WRITE || of == LOST_RENAME) return 0;
  } else if (kind != of) {
    return 0;
  }
  pthread_mutex_lock(&mutex);
  ++seen;
  const int now = once ? seen == first : seen >= first;
  if (now) ++failed;
  pthread_mutex_unlock(&mutex);
  if (now && kind == KILL) raise(SIGKILL);
  return now;
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))
#define FAIL(value)   \
  do {                \
    errno = error;    \
    return (value);   \
  } while (0)

ssize_t write(int fd, const void* data, size_t count) {
  if (kind != NONE && concerns_fd(fd)) {
    if (fails(WRITE)) FAIL(-1);
    if (count > 1 && fails(SHORT_WRITE)) count /= 2;
  }
  return REAL(write)(fd, data, count);
}
ssize_t pwrite(int fd, const void* data, size_t count, off_t at) {
  if (kind != NONE && concerns_fd(fd)) {
    if (fails(WRITE)) FAIL(-1);
    if (count > 1 && fails(SHORT_WRITE)) count /= 2;
  }
  return REAL(pwrite)(fd, data, count, at);
}
ssize_t pwrite64(int fd, const void* data, size_t count, off64_t at) {
  if (kind != NONE && concerns_fd(fd)) {
    if (fails(WRITE)) FAIL(-1);
    if (count > 1 && fails(SHORT_WRITE)) count /= 2;
  }
  return REAL(pwrite64)(fd, data, count, at);
}
ssize_t writev(int fd, const struct iovec* parts, int count) {
  if (kind != NONE && concerns_fd(fd) && fails(WRITE)) FAIL(-1);
  return REAL(writev)(fd, parts, count);
}
size_t fwrite(const void* data, size_t size, size_t count, FILE* file) {
  if (kind != NONE && concerns_fd(fileno(file)) && fails(WRITE)) FAIL(0);
  return REAL(fwrite)(data, size, count, file);
}
// Creating or emptying a file counts as writing.
#define OPENING(name, parameters, arguments, at)                                       \
  int name parameters {                                                                \
    mode_t mode = 0;                                                                   \
    if (flags & (O_CREAT | O_TMPFILE)) {                                               \
      va_list more;                                                                    \
      va_start(more, flags);                                                           \
      mode = va_arg(more, mode_t);                                                     \
      va_end(more);                                                                    \
    }                                                                                  \
    if (kind != NONE && flags & (O_CREAT | O_TRUNC) && concerns_at(at, path) &&        \
        fails(WRITE))                                                                  \
      FAIL(-1);                                                                        \
    return REAL(name) arguments;                                                       \
  }
OPENING(open, (const char* path, int flags, ...), (path, flags, mode), AT_FDCWD)
OPENING(open64, (const char* path, int flags, ...), (path, flags, mode), AT_FDCWD)
OPENING(openat, (int at, const char* path, int flags, ...), (at, path, flags, mode), at)
OPENING(openat64, (int at, const char* path, int flags, ...), (at, path, flags, mode), at)
FILE* fopen(const char* path, const char* mode) {
  if (kind != NONE && mode[0] != 'r' && concerns_path(path) && fails(WRITE)) FAIL(NULL);
  return REAL(fopen)(path, mode);
}
FILE* fopen64(const char* path, const char* mode) {
  if (kind != NONE && mode[0] != 'r' && concerns_path(path) && fails(WRITE)) FAIL(NULL);
  return REAL(fopen64)(path, mode);
}
int mkdir(const char* path, mode_t mode) {
  if (kind != NONE && concerns_path(path) && fails(WRITE)) FAIL(-1);
  return REAL(mkdir)(path, mode);
}
int mkdirat(int at, const char* path, mode_t mode) {
  if (kind != NONE && concerns_at(at, path) && fails(WRITE)) FAIL(-1);
  return REAL(mkdirat)(at, path, mode);
}
int posix_fallocate(int fd, off_t at, off_t size) {
  if (kind != NONE && concerns_fd(fd) && fails(WRITE)) return error;
  return REAL(posix_fallocate)(fd, at, size);
}
int posix_fallocate64(int fd, off64_t at, off64_t size) {
  if (kind != NONE && concerns_fd(fd) && fails(WRITE)) return error;
  return REAL(posix_fallocate64)(fd, at, size);
}
int unlink(const char* path) {
  if (kind == KILL && concerns_path(path)) fails(CHANGE);
  return REAL(unlink)(path);
}
int unlinkat(int at, const char* path, int flags) {
  if (kind == KILL && concerns_at(at, path)) fails(CHANGE);
  return REAL(unlinkat)(at, path, flags);
}
int rmdir(const char* path) {
  if (kind == KILL && concerns_path(path)) fails(CHANGE);
  return REAL(rmdir)(path);
}
int ftruncate(int fd, off_t size) {
  if (kind != NONE && concerns_fd(fd) && fails(WRITE)) FAIL(-1);
  return REAL(ftruncate)(fd, size);
}
int ftruncate64(int fd, off64_t size) {
  if (kind != NONE && concerns_fd(fd) && fails(WRITE)) FAIL(-1);
  return REAL(ftruncate64)(fd, size);
}
int fflush(FILE* file) {
  if (kind != NONE && file && concerns_fd(fileno(file)) && fails(FLUSH)) FAIL(EOF);
  return REAL(fflush)(file);
}
int fsync(int fd) {
  if (kind != NONE && concerns_fd(fd) && fails(FLUSH)) FAIL(-1);
  return REAL(fsync)(fd);
}
int fdatasync(int fd) {
  if (kind != NONE && concerns_fd(fd) && fails(FLUSH)) FAIL(-1);
  return REAL(fdatasync)(fd);
}
int close(int fd) {
  if (kind != NONE && concerns_fd(fd) && fails(CLOSE)) {
    REAL(close)(fd);
    FAIL(-1);
  }
  return REAL(close)(fd);
}
int fclose(FILE* file) {
  if (kind != NONE && concerns_fd(fileno(file)) && fails(CLOSE)) {
    REAL(fclose)(file);
    FAIL(EOF);
  }
  return REAL(fclose)(file);
}
static int renaming(const char* to) {
  if (!concerns_path(to)) return 0;
  if (fails(RENAME)) return RENAME;
  return fails(LOST_RENAME) ? LOST_RENAME : 0;
}
int rename(const char* from, const char* to) {
  const int fault = kind == NONE ? 0 : renaming(to);
  if (fault == RENAME) FAIL(-1);
  return fault ? 0 : REAL(rename)(from, to);
}
int renameat(int in, const char* from, int out, const char* to) {
  const int fault = kind == NONE ? 0 : renaming(to);
  if (fault == RENAME) FAIL(-1);
  return fault ? 0 : REAL(renameat)(in, from, out, to);
}
ssize_t read(int fd, void* data, size_t count) {
  if (kind == READ && concerns_fd(fd) && fails(READ)) FAIL(-1);
  return REAL(read)(fd, data, count);
}
ssize_t pread(int fd, void* data, size_t count, off_t at) {
  if (kind == READ && concerns_fd(fd) && fails(READ)) FAIL(-1);
  return REAL(pread)(fd, data, count, at);
}
ssize_t pread64(int fd, void* data, size_t count, off64_t at) {
  if (kind == READ && concerns_fd(fd) && fails(READ)) FAIL(-1);
  return REAL(pread64)(fd, data, count, at);
}
size_t fread(void* data, size_t size, size_t count, FILE* file) {
  if (kind == READ && concerns_fd(fileno(file)) && fails(READ)) FAIL(0);
  return REAL(fread)(data, size, count, file);
}
