/* Stands between a process and its disk (LD_PRELOAD): writes down every change to the files of one directory, and
 * lets the disk fail on demand. For tests only.
 *
 * DISK_DIRECTORY  the directory whose files are watched (an absolute path without links)
 * DISK_RECORD     where the changes are written down; appended to
 * DISK_CONTROL    a file of two bytes, shared with the test:
 *                 [0] 'e' syncs fail with EIO, 'w' writes fail with EIO, 'r' as if mounted read-only,
 *                     'k' the process dies when it would sync, else nothing
 *                 [1] 'd' only the database, 'l' only its log, else every file
 *
 * A record is a header of three little-endian u32 (kind, file, 0) and two u64 (offset, length), and `length` bytes if
 * the kind carries any. A change is written down before it is made, a sync after it has succeeded, with the record's
 * length when it began: only what was written down before that is known to be on the disk. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum { CREATE = 1, WRITE, TRUNCATE, SYNC, SYNC_FAILED, UNLINK, RENAME, SYNC_DIRECTORY };
enum { DIRECTORY = -1, FDS = 65536, FILES = 4096 };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char directory[PATH_MAX];
static size_t directory_length;
static int record_fd = -1;
static volatile unsigned char *control;
/* 0: not ours; DIRECTORY: the directory itself; else the number of a file. */
static int file_of_fd[FDS];
static char name_of_file[FILES][128];
static int alive[FILES];
static int files;

static void die(const char *what) {
  perror(what);
  abort();
}

static uint64_t record_length(void) {
  struct stat status;
  if (fstat(record_fd, &status) != 0) die("disk.c: fstat");
  return (uint64_t)status.st_size;
}

/* Called with the lock held. */
static void record(uint32_t kind, uint32_t file, uint64_t offset, uint64_t length, const void *data) {
  struct __attribute__((packed)) {
    uint32_t kind, file, zero;
    uint64_t offset, length;
  } header = {kind, file, 0, offset, length};
  struct iovec parts[2] = {{&header, sizeof header}, {(void *)data, data ? length : 0}};
  ssize_t all = (ssize_t)(sizeof header + (data ? length : 0));
  if (syscall(SYS_writev, record_fd, parts, data ? 2 : 1) != all) die("disk.c: the record");
}

__attribute__((constructor)) static void begin(void) {
  const char *watched = getenv("DISK_DIRECTORY"), *to = getenv("DISK_RECORD"), *controlled = getenv("DISK_CONTROL");
  if (!watched || !to) return;
  snprintf(directory, sizeof directory, "%s", watched);
  directory_length = strlen(directory);
  if (controlled) {
    int fd = (int)syscall(SYS_openat, AT_FDCWD, controlled, O_RDWR | O_CLOEXEC, 0);
    if (fd < 0) die("disk.c: the control file");
    control = mmap(NULL, 2, PROT_READ, MAP_SHARED, fd, 0);
    if (control == MAP_FAILED) die("disk.c: the control file");
  }
  record_fd = (int)syscall(SYS_openat, AT_FDCWD, to, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
  if (record_fd < 0) die("disk.c: the record");
}

/* The name within the directory, or NULL. */
static const char *name_within(const char *path) {
  if (record_fd < 0 || strncmp(path, directory, directory_length) != 0) return NULL;
  if (path[directory_length] == 0) return "";
  return path[directory_length] == '/' ? path + directory_length + 1 : NULL;
}

static const char *own_name(const char *path, char *space) {
  if (record_fd < 0) return NULL;
  if (path[0] != '/') {
    char here[PATH_MAX / 2];
    if (!getcwd(here, sizeof here)) return NULL;
    while (path[0] == '.' && path[1] == '/') path += 2;
    snprintf(space, PATH_MAX, "%s/%s", here, path);
    path = space;
  }
  return name_within(path);
}

static int is_watched(int fd) { return fd >= 0 && fd < FDS && file_of_fd[fd] > 0; }

/* The WAL-index is shared memory: it never needs to survive. */
static int is_volatile(const char *name) {
  size_t length = strlen(name);
  return length > 4 && strcmp(name + length - 4, "-shm") == 0;
}

static int fails(int fd, char mode) {
  if (!control || control[0] != (unsigned char)mode || !is_watched(fd)) return 0;
  const char *name = name_of_file[file_of_fd[fd]];
  size_t length = strlen(name);
  int is_log = length > 4 && strcmp(name + length - 4, "-wal") == 0;
  return control[1] == 'l' ? is_log : control[1] == 'd' ? !is_log : 1;
}

static int number_of(const char *name) {
  for (int file = files; file > 0; file--)
    if (alive[file] && strcmp(name_of_file[file], name) == 0) return file;
  if (files + 1 >= FILES) die("disk.c: too many files");
  files++;
  snprintf(name_of_file[files], sizeof name_of_file[files], "%s", name);
  alive[files] = 1;
  return files;
}

static void opened(int fd, const char *name, int flags, int existed) {
  if (fd < 0 || fd >= FDS) return;
  if (*name == 0) {
    file_of_fd[fd] = DIRECTORY;
    return;
  }
  if (is_volatile(name)) return;
  int known = files;
  int file = number_of(name);
  file_of_fd[fd] = file;
  /* A file that an earlier process made is announced too; the offset says that it was there. */
  if (file > known) record(CREATE, (uint32_t)file, (uint64_t)existed, strlen(name), name);
  if (flags & O_TRUNC) record(TRUNCATE, (uint32_t)file, 0, 0, NULL);
}

static int open_path(int at, const char *path, int flags, mode_t mode) {
  char space[PATH_MAX];
  const char *name = at == AT_FDCWD || path[0] == '/' ? own_name(path, space) : NULL;
  if (!name || (flags & O_PATH)) return (int)syscall(SYS_openat, at, path, flags, mode);
  if (control && control[0] == 'r' && (flags & (O_CREAT | O_TRUNC)) && access(path, F_OK) != 0) {
    errno = EROFS;
    return -1;
  }
  pthread_mutex_lock(&lock);
  int existed = access(path, F_OK) == 0;
  int fd = (int)syscall(SYS_openat, at, path, flags, mode);
  int error = errno;
  opened(fd, name, flags, existed);
  pthread_mutex_unlock(&lock);
  errno = error;
  return fd;
}

#define MODE(flags) \
  mode_t mode = 0; \
  if ((flags) & (O_CREAT | O_TMPFILE)) { \
    va_list rest; \
    va_start(rest, flags); \
    mode = va_arg(rest, mode_t); \
    va_end(rest); \
  }

int open(const char *path, int flags, ...) { MODE(flags) return open_path(AT_FDCWD, path, flags, mode); }
int open64(const char *path, int flags, ...) { MODE(flags) return open_path(AT_FDCWD, path, flags, mode); }
int openat(int at, const char *path, int flags, ...) { MODE(flags) return open_path(at, path, flags, mode); }
int openat64(int at, const char *path, int flags, ...) { MODE(flags) return open_path(at, path, flags, mode); }

int close(int fd) {
  if (fd >= 0 && fd < FDS) file_of_fd[fd] = 0;
  return (int)syscall(SYS_close, fd);
}

static int refuses_writes(int fd) {
  if (fails(fd, 'w')) return EIO;
  return fails(fd, 'r') ? EROFS : 0;
}

static ssize_t write_at(int fd, const void *data, size_t length, off_t offset) {
  if (!is_watched(fd)) return syscall(SYS_pwrite64, fd, data, length, offset);
  int error = refuses_writes(fd);
  if (error) {
    errno = error;
    return -1;
  }
  pthread_mutex_lock(&lock);
  record(WRITE, (uint32_t)file_of_fd[fd], (uint64_t)offset, length, data);
  ssize_t written = syscall(SYS_pwrite64, fd, data, length, offset);
  if (written != (ssize_t)length) die("disk.c: a short write");
  pthread_mutex_unlock(&lock);
  return written;
}

ssize_t pwrite(int fd, const void *data, size_t length, off_t offset) { return write_at(fd, data, length, offset); }
ssize_t pwrite64(int fd, const void *data, size_t length, off64_t offset) { return write_at(fd, data, length, offset); }

ssize_t write(int fd, const void *data, size_t length) {
  if (!is_watched(fd)) return syscall(SYS_write, fd, data, length);
  off_t at = lseek(fd, 0, SEEK_CUR);
  ssize_t written = write_at(fd, data, length, at);
  if (written > 0) lseek(fd, at + written, SEEK_SET);
  return written;
}

static int truncate_fd(int fd, off_t length) {
  if (!is_watched(fd)) return (int)syscall(SYS_ftruncate, fd, length);
  int error = refuses_writes(fd);
  if (error) {
    errno = error;
    return -1;
  }
  pthread_mutex_lock(&lock);
  record(TRUNCATE, (uint32_t)file_of_fd[fd], (uint64_t)length, 0, NULL);
  int answer = (int)syscall(SYS_ftruncate, fd, length);
  pthread_mutex_unlock(&lock);
  return answer;
}

int ftruncate(int fd, off_t length) { return truncate_fd(fd, length); }
int ftruncate64(int fd, off64_t length) { return truncate_fd(fd, length); }

static int sync_fd(int fd, long call) {
  int file = fd >= 0 && fd < FDS ? file_of_fd[fd] : 0;
  if (file == 0) return (int)syscall(call, fd);
  pthread_mutex_lock(&lock);
  uint64_t began = record_length();
  pthread_mutex_unlock(&lock);
  if (fails(fd, 'k')) kill(getpid(), SIGKILL);
  int failing = fails(fd, 'e');
  int answer = failing ? -1 : (int)syscall(call, fd);
  int error = failing ? EIO : errno;
  pthread_mutex_lock(&lock);
  if (file == DIRECTORY) {
    if (answer == 0) record(SYNC_DIRECTORY, 0, began, 0, NULL);
  } else {
    record(answer == 0 ? SYNC : SYNC_FAILED, (uint32_t)file, began, 0, NULL);
  }
  pthread_mutex_unlock(&lock);
  errno = error;
  return answer;
}

int fsync(int fd) { return sync_fd(fd, SYS_fsync); }
int fdatasync(int fd) { return sync_fd(fd, SYS_fdatasync); }

int unlink(const char *path) {
  char space[PATH_MAX];
  const char *name = own_name(path, space);
  if (!name || is_volatile(name)) return (int)syscall(SYS_unlinkat, AT_FDCWD, path, 0);
  pthread_mutex_lock(&lock);
  int file = number_of(name);
  record(UNLINK, (uint32_t)file, 0, strlen(name), name);
  int answer = (int)syscall(SYS_unlinkat, AT_FDCWD, path, 0);
  int error = errno;
  if (answer == 0) alive[file] = 0;
  pthread_mutex_unlock(&lock);
  errno = error;
  return answer;
}

int rename(const char *from, const char *to) {
  char space[PATH_MAX];
  if (own_name(from, space) || own_name(to, space)) {
    /* The store renames nothing in its directory while it runs. Should it ever, the images must learn it. */
    fprintf(stderr, "disk.c: a rename in the watched directory is not recorded\n");
    abort();
  }
  return (int)syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, 0);
}

/* Ways to write that the store does not use; should it ever, this must learn them. */
#define REFUSE(name, fd) \
  if (is_watched(fd)) { \
    fprintf(stderr, "disk.c: " name " is not recorded\n"); \
    abort(); \
  }

ssize_t writev(int fd, const struct iovec *parts, int count) {
  REFUSE("writev", fd)
  return syscall(SYS_writev, fd, parts, count);
}

ssize_t pwritev(int fd, const struct iovec *parts, int count, off_t offset) {
  REFUSE("pwritev", fd)
  return syscall(SYS_pwritev, fd, parts, count, offset, 0);
}

int fallocate(int fd, int mode, off_t offset, off_t length) {
  REFUSE("fallocate", fd)
  return (int)syscall(SYS_fallocate, fd, mode, offset, length);
}

int posix_fallocate(int fd, off_t offset, off_t length) {
  REFUSE("posix_fallocate", fd)
  return syscall(SYS_fallocate, fd, 0, offset, length) == 0 ? 0 : errno;
}

int sync_file_range(int fd, off64_t offset, off64_t length, unsigned flags) {
  REFUSE("sync_file_range", fd)
  return (int)syscall(SYS_sync_file_range, fd, offset, length, flags);
}
