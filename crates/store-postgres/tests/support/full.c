/* Stands between a database server and its disk (LD_PRELOAD): while the file that FULL_DISK names is there, no file can
 * grow (ENOSPC), as on a disk that has no room; what is there can be written over. For tests only. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

static int has_no_room(int fd, off_t end) {
  const char *full = getenv("FULL_DISK");
  struct stat status;
  if (!full || syscall(SYS_access, full, F_OK) != 0) return 0;
  if (fstat(fd, &status) != 0 || !S_ISREG(status.st_mode) || end <= status.st_size) return 0;
  errno = ENOSPC;
  return 1;
}

ssize_t pwrite(int fd, const void *data, size_t length, off_t offset) {
  if (has_no_room(fd, offset + (off_t)length)) return -1;
  return syscall(SYS_pwrite64, fd, data, length, offset);
}

ssize_t pwrite64(int fd, const void *data, size_t length, off64_t offset) { return pwrite(fd, data, length, offset); }

ssize_t pwritev(int fd, const struct iovec *parts, int count, off_t offset) {
  off_t end = offset;
  for (int part = 0; part < count; part++) end += (off_t)parts[part].iov_len;
  if (has_no_room(fd, end)) return -1;
  return syscall(SYS_pwritev, fd, parts, count, offset, (long)0);
}

ssize_t pwritev64(int fd, const struct iovec *parts, int count, off64_t offset) {
  return pwritev(fd, parts, count, offset);
}

int posix_fallocate(int fd, off_t offset, off_t length) {
  if (has_no_room(fd, offset + length)) return ENOSPC;
  return syscall(SYS_fallocate, fd, 0, offset, length) == 0 ? 0 : errno;
}

int posix_fallocate64(int fd, off64_t offset, off64_t length) { return posix_fallocate(fd, offset, length); }
