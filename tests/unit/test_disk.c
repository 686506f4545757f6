// SPDX-License-Identifier: Apache-2.0
// link: -Wl,--wrap=ioctl -Wl,--wrap=lseek -Wl,--wrap=pwrite -Wl,--wrap=pwrite64
/* tests/unit/test_disk.c: core/disk in a directory of its own; a full disk is a small tmpfs, which takes root. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/io.h"
#include "disk/disk.h"

enum { MIB = 1 << 20 };

static char directory[] = "/tmp/fcvm-test-disk-XXXXXX";

/* What the wrapped calls do; 0: what they do else. */
static int ioctl_errno;       /* of FICLONE; -1: it works, and nothing is done */
static int lseek_errno;       /* of SEEK_DATA and SEEK_HOLE */
static size_t pwrite_at_most; /* bytes a call */

int __real_ioctl(int fd, unsigned long request, ...);
int __wrap_ioctl(int fd, unsigned long request, ...);
int __wrap_ioctl(int fd, unsigned long request, ...) {
	va_list arguments;
	va_start(arguments, request);
	void *argument = va_arg(arguments, void *);
	va_end(arguments);
	if (request != FICLONE || ioctl_errno == 0)
		return __real_ioctl(fd, request, argument);
	if (ioctl_errno == -1)
		return 0;
	errno = ioctl_errno;
	return -1;
}

off_t __real_lseek(int fd, off_t offset, int whence);
off_t __wrap_lseek(int fd, off_t offset, int whence);
off_t __wrap_lseek(int fd, off_t offset, int whence) {
	if (lseek_errno && (whence == SEEK_DATA || whence == SEEK_HOLE)) {
		errno = lseek_errno;
		return -1;
	}
	return __real_lseek(fd, offset, whence);
}

ssize_t __real_pwrite(int fd, const void *data, size_t size, off_t offset);
ssize_t __wrap_pwrite(int fd, const void *data, size_t size, off_t offset);
ssize_t __wrap_pwrite(int fd, const void *data, size_t size, off_t offset) {
	return __real_pwrite(fd, data, pwrite_at_most && pwrite_at_most < size ? pwrite_at_most : size, offset);
}

static int setup_directory(void **state) {
	(void)state;
	return mkdtemp(directory) && chdir(directory) == 0 ? 0 : -1;
}

static int remove_directory(void **state) {
	(void)state;
	return chdir("/") == 0 && rmdir(directory) == 0 ? 0 : -1;
}

static int reset(void **state) {
	(void)state;
	ioctl_errno = lseek_errno = 0;
	pwrite_at_most = 0;
	return 0;
}

/* A test that failed may have left its small disk mounted; elsewhere there is nothing to unmount. */
static int unmount_small(void **state) {
	(void)state;
	umount2("small", MNT_DETACH | UMOUNT_NOFOLLOW);
	return 0;
}

static void put(const char *path, off_t offset, const char *text) {
	int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0640);
	assert_true(fd >= 0);
	assert_int_equal(pwrite(fd, text, strlen(text), offset), strlen(text));
	close(fd);
}

static void put_size(const char *path, off_t size) {
	put(path, 0, "");
	assert_int_equal(truncate(path, size), 0);
}

static void expect_content(const char *path, const char *expected) {
	char *data;
	size_t size;
	assert_int_equal(fc_io_read_file(path, 4096, &data, &size, NULL), 0);
	assert_string_equal(data, expected);
	free(data);
}

static int exists(const char *path) {
	return access(path, F_OK) == 0;
}

static void expect_empty(const char *path) {
	DIR *dir = opendir(path);
	assert_non_null(dir);
	const struct dirent *entry;
	while ((entry = readdir(dir))) {
		if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
			fail_msg("%s was left in %s", entry->d_name, path);
	}
	closedir(dir);
}

/* Copies to the end in steps of `bytes`, checking that progress never goes back or too far. */
static void copy_all(const char *src, const char *dst, size_t bytes) {
	struct fc_disk_copier *copier = NULL;
	struct fc_disk_progress at = {0};
	struct fc_error error;
	assert_int_equal(fc_disk_copy_open(src, dst, &copier, &error), 0);
	do {
		uint64_t before = at.done;
		assert_int_equal(fc_disk_copy_step(copier, bytes, &at, &error), 0);
		assert_true(at.done <= at.total && (at.done > before || at.done == at.total));
	} while (at.done < at.total);
	fc_disk_copier_free(copier);
}

static void expect_same(const char *a, const char *b) {
	int fds[2] = {open(a, O_RDONLY | O_CLOEXEC), open(b, O_RDONLY | O_CLOEXEC)};
	static char blocks[2][MIB];
	ssize_t n;
	do {
		n = fc_io_read_full(fds[0], blocks[0], MIB);
		assert_int_equal(n, fc_io_read_full(fds[1], blocks[1], MIB));
		assert_memory_equal(blocks[0], blocks[1], (size_t)n);
	} while (n == MIB);
	close(fds[0]);
	close(fds[1]);
}

/* Data, a hole of 8 MiB, data across a step's end, a hole at the end. */
static void make_sparse(const char *path) {
	put(path, 0, "begin");
	put(path, 8 * MIB + 100, "middle");
	put(path, 9 * MIB - 3, "across");
	assert_int_equal(truncate(path, 16 * MIB + 5), 0);
}

static void sparse_copy(void **state) {
	(void)state;
	static const size_t steps[] = {1000, 4096, 64 * MIB};
	struct stat from;
	struct stat to;
	make_sparse("src");
	for (size_t i = 0; i < 3; i++) {
		copy_all("src", "dst", steps[i]);
		expect_same("src", "dst");
		assert_int_equal(stat("src", &from), 0);
		assert_int_equal(stat("dst", &to), 0);
		assert_int_equal(to.st_size, 16 * MIB + 5);
		assert_true(to.st_blocks <= from.st_blocks + 8);
		assert_int_equal(to.st_mode & 07777, 0600);
		unlink("dst");
	}
	unlink("src");
}

static void copy_where_holes_are_unknown(void **state) {
	(void)state;
	make_sparse("src");
	lseek_errno = EINVAL;
	copy_all("src", "dst", MIB);
	expect_same("src", "dst");
	unlink("dst");
	unlink("src");
}

static void copy_with_short_writes(void **state) {
	(void)state;
	put("src", 0, "0123456789");
	pwrite_at_most = 3;
	copy_all("src", "dst", 4);
	expect_content("dst", "0123456789");
	unlink("dst");
	unlink("src");
}

static void copy_of_nothing_and_of_a_hole(void **state) {
	(void)state;
	struct stat stat_of;
	put_size("src", 0);
	copy_all("src", "dst", 1);
	assert_true(exists("dst"));
	unlink("dst");
	put_size("src", 3 * MIB);
	copy_all("src", "dst", 1);
	assert_int_equal(stat("dst", &stat_of), 0);
	assert_int_equal(stat_of.st_size, 3 * MIB);
	assert_int_equal(stat_of.st_blocks, 0);
	unlink("dst");
	unlink("src");
}

static void copy_refuses(void **state) {
	(void)state;
	struct fc_disk_copier *copier = NULL;
	struct fc_error error;
	put("src", 0, "new");
	put("there", 0, "old");
	assert_int_equal(symlink("nowhere", "link"), 0);
	assert_int_equal(mkfifo("fifo", 0600), 0);
	assert_int_equal(fc_disk_copy_open("src", "there", &copier, &error), -EEXIST);
	assert_string_equal(error.subject, "there");
	assert_int_equal(fc_disk_copy_open("src", "link", &copier, &error), -EEXIST);
	assert_int_equal(fc_disk_copy_open("src", "src", &copier, &error), -EEXIST);
	assert_int_equal(fc_disk_copy_open("src", ".", &copier, &error), -EINVAL);
	assert_int_equal(fc_disk_copy_open("src", "no/dst", &copier, &error), -ENOENT);
	assert_int_equal(fc_disk_copy_open("no", "dst", &copier, &error), -ENOENT);
	assert_int_equal(fc_disk_copy_open("fifo", "dst", &copier, &error), -EINVAL);
	assert_int_equal(fc_disk_copy_open(".", "dst", &copier, &error), -EINVAL);
	assert_false(exists("dst"));
	assert_null(copier);
	expect_content("there", "old");
	expect_content("src", "new");
	unlink("fifo");
	unlink("link");
	unlink("there");
	unlink("src");
}

static void unfinished_copy_is_removed(void **state) {
	(void)state;
	struct fc_disk_copier *copier = NULL;
	struct fc_disk_progress at;
	put("src", 0, "0123456789");
	assert_int_equal(mkdir("sub", 0700), 0);
	assert_int_equal(fc_disk_copy_open("src", "sub/dst", &copier, NULL), 0);
	assert_int_equal(fc_disk_copy_step(copier, 4, &at, NULL), 0);
	assert_int_equal(at.done, 4);
	assert_int_equal(at.total, 10);
	/* Neither another working directory nor a moved parent hides it. */
	assert_int_equal(rename("sub", "moved"), 0);
	assert_int_equal(chdir("/"), 0);
	fc_disk_copier_free(copier);
	assert_int_equal(chdir(directory), 0);
	assert_int_equal(rmdir("moved"), 0);
	fc_disk_copier_free(NULL);
	unlink("src");
}

static void removal_spares_what_took_its_place(void **state) {
	(void)state;
	struct fc_disk_copier *copier = NULL;
	put("src", 0, "0123456789");
	assert_int_equal(fc_disk_copy_open("src", "dst", &copier, NULL), 0);
	unlink("dst");
	put("dst", 0, "another's");
	fc_disk_copier_free(copier);
	expect_content("dst", "another's");
	unlink("dst");
	unlink("src");
}

static void source_that_becomes_shorter(void **state) {
	(void)state;
	struct fc_disk_copier *copier = NULL;
	struct fc_disk_progress at;
	struct fc_error error;
	put("src", 0, "0123456789");
	assert_int_equal(fc_disk_copy_open("src", "dst", &copier, NULL), 0);
	assert_int_equal(fc_disk_copy_step(copier, 4, &at, NULL), 0);
	assert_int_equal(truncate("src", 6), 0);
	assert_int_equal(fc_disk_copy_step(copier, 100, &at, &error), -EIO);
	assert_non_null(strstr(error.message, "shorter"));
	fc_disk_copier_free(copier);
	assert_false(exists("dst"));
	unlink("src");
}

static void mount_small(const char *path) {
	assert_int_equal(mkdir(path, 0700), 0);
	assert_int_equal(mount("none", path, "tmpfs", MS_NOSUID | MS_NODEV, "size=1m"), 0);
}

static void full_disk(void **state) {
	(void)state;
	struct fc_disk_copier *copier = NULL;
	struct fc_disk_progress at;
	struct fc_error error;
	static char data[2 * MIB];
	if (geteuid() != 0) {
		print_message("skipped: only root can mount a tmpfs\n");
		skip();
	}
	memset(data, 'd', sizeof data);
	assert_int_equal(fc_disk_write("src", data, sizeof data, 0600, NULL), 0);
	mount_small("small");
	put("small/ballast", 0, "b");
	assert_int_equal(fc_disk_copy_open("src", "small/dst", &copier, &error), 0);
	assert_int_equal(fc_disk_copy_step(copier, sizeof data, &at, &error), -ENOSPC);
	assert_non_null(strstr(error.hint, "free space"));
	assert_string_equal(error.subject, "small/dst");
	fc_disk_copier_free(copier);
	assert_false(exists("small/dst"));
	put("small/record", 0, "old");
	assert_int_equal(fc_disk_write("small/record", data, sizeof data, 0600, &error), -ENOSPC);
	expect_content("small/record", "old");
	unlink("small/record");
	unlink("small/ballast");
	expect_empty("small");
	assert_int_equal(umount("small"), 0);
	assert_int_equal(rmdir("small"), 0);
	unlink("src");
}

/* A step that failed for want of room goes on where it was once there is room. */
static void copy_goes_on_once_there_is_room(void **state) {
	(void)state;
	struct fc_disk_copier *copier = NULL;
	struct fc_disk_progress at;
	static char data[MIB / 2];
	if (geteuid() != 0) {
		print_message("skipped: only root can mount a tmpfs\n");
		skip();
	}
	memset(data, 'd', sizeof data);
	assert_int_equal(fc_disk_write("src", data, sizeof data, 0600, NULL), 0);
	mount_small("small");
	assert_int_equal(fc_disk_write("small/ballast", data, sizeof data, 0600, NULL), 0);
	put("small/ballast2", 0, "b");
	assert_int_equal(fc_disk_copy_open("src", "small/dst", &copier, NULL), 0);
	assert_int_equal(fc_disk_copy_step(copier, sizeof data, &at, NULL), -ENOSPC);
	unlink("small/ballast");
	assert_int_equal(fc_disk_copy_step(copier, sizeof data, &at, NULL), 0);
	assert_int_equal(at.done, at.total);
	fc_disk_copier_free(copier);
	expect_same("src", "small/dst");
	assert_int_equal(umount("small"), 0);
	assert_int_equal(rmdir("small"), 0);
	unlink("src");
}

static void clone_of_a_small_file(void **state) {
	(void)state;
	static const int errors[] = {EOPNOTSUPP, ENOTTY, EXDEV, EINVAL};
	put("src", 0, "content");
	for (size_t i = 0; i < 4; i++) {
		ioctl_errno = errors[i];
		assert_int_equal(fc_disk_clone("src", "dst", NULL), FC_DISK_COPY);
		expect_content("dst", "content");
		unlink("dst");
	}
	ioctl_errno = -1;
	assert_int_equal(fc_disk_clone("src", "dst", NULL), FC_DISK_REFLINK);
	assert_true(exists("dst"));
	unlink("dst");
	unlink("src");
}

static void clone_that_fails_leaves_nothing(void **state) {
	(void)state;
	struct fc_error error;
	put_size("src", FC_DISK_SMALL + 1);
	ioctl_errno = EXDEV;
	assert_int_equal(fc_disk_clone("src", "dst", &error), -EOPNOTSUPP);
	assert_non_null(strstr(error.hint, "btrfs"));
	assert_false(exists("dst"));
	ioctl_errno = ENOSPC;
	assert_int_equal(fc_disk_clone("src", "dst", &error), -ENOSPC);
	assert_false(exists("dst"));
	put("dst", 0, "old");
	ioctl_errno = -1;
	assert_int_equal(fc_disk_clone("src", "dst", &error), -EEXIST);
	expect_content("dst", "old");
	assert_int_equal(fc_disk_clone("no", "dst2", &error), -ENOENT);
	assert_int_equal(fc_disk_clone(".", "dst2", &error), -EINVAL);
	assert_false(exists("dst2"));
	unlink("dst");
	unlink("src");
}

static void reflinks_are_tried(void **state) {
	(void)state;
	struct fc_error error;
	ioctl_errno = -1;
	assert_int_equal(fc_disk_reflinks(".", NULL), 1);
	ioctl_errno = EOPNOTSUPP;
	assert_int_equal(fc_disk_reflinks(".", NULL), 0);
	ioctl_errno = EDQUOT;
	assert_int_equal(fc_disk_reflinks(".", &error), -EDQUOT);
	assert_int_equal(fc_disk_reflinks("no", &error), -ENOENT);
	expect_empty(".");
}

static void publish_a_file(void **state) {
	(void)state;
	struct fc_error error;
	put("tmp", 0, "new");
	put("final", 0, "old");
	assert_int_equal(fc_disk_publish("tmp", "final", FC_DISK_NEW, &error), -EEXIST);
	expect_content("final", "old");
	expect_content("tmp", "new");
	assert_int_equal(fc_disk_publish("tmp", "final", FC_DISK_EXCHANGE, &error), 0);
	expect_content("final", "new");
	expect_content("tmp", "old");
	assert_int_equal(fc_disk_publish("tmp", "final", FC_DISK_REPLACE, &error), 0);
	expect_content("final", "old");
	assert_false(exists("tmp"));
	assert_int_equal(fc_disk_publish("tmp", "final", FC_DISK_REPLACE, &error), -ENOENT);
	assert_int_equal(fc_disk_publish("final", "no/final", FC_DISK_REPLACE, &error), -ENOENT);
	assert_int_equal(fc_disk_publish("final", "other", FC_DISK_EXCHANGE, &error), -ENOENT);
	assert_int_equal(fc_disk_publish("final", "other", FC_DISK_NEW, &error), 0);
	unlink("other");
}

static void publish_a_directory(void **state) {
	(void)state;
	struct fc_error error;
	assert_int_equal(mkdir("tmp", 0700), 0);
	assert_int_equal(mkdir("tmp/sub", 0700), 0);
	assert_int_equal(mkfifo("tmp/fifo", 0600), 0);
	assert_int_equal(symlink("nowhere", "tmp/link"), 0);
	put("tmp/file", 0, "content");
	assert_int_equal(fc_disk_publish("tmp", "final", FC_DISK_NEW, &error), 0);
	expect_content("final/file", "content");
	assert_int_equal(mkdir("tmp", 0700), 0);
	assert_int_equal(fc_disk_publish("tmp", "final", FC_DISK_REPLACE, &error), -ENOTEMPTY);
	expect_content("final/file", "content");
	assert_int_equal(fc_disk_publish("tmp", "final", FC_DISK_EXCHANGE, &error), 0);
	expect_content("tmp/file", "content");
	rmdir("final");
	unlink("tmp/file");
	unlink("tmp/link");
	unlink("tmp/fifo");
	rmdir("tmp/sub");
	rmdir("tmp");
}

static void write_whole(void **state) {
	(void)state;
	struct fc_error error;
	struct stat stat_of;
	mode_t mask = umask(0077);
	assert_int_equal(fc_disk_write("record", "one", 3, 0644, &error), 0);
	umask(mask);
	expect_content("record", "one");
	assert_int_equal(stat("record", &stat_of), 0);
	assert_int_equal(stat_of.st_mode & 07777, 0644);
	/* Another link keeps the old content: the file is replaced, not written into. */
	assert_int_equal(link("record", "old"), 0);
	assert_int_equal(fc_disk_write("record", "", 0, 0600, &error), 0);
	expect_content("record", "");
	expect_content("old", "one");
	assert_int_equal(mkdir("dir", 0700), 0);
	assert_int_equal(fc_disk_write("dir", "x", 1, 0600, &error), -EISDIR);
	assert_int_equal(fc_disk_write("dir/", "x", 1, 0600, &error), -EINVAL);
	assert_int_equal(fc_disk_write("no/record", "x", 1, 0600, &error), -ENOENT);
	assert_true(strncmp(error.op, "write", 5) == 0);
	assert_int_equal(fc_disk_write("dir/record", "x", 1, 0600, &error), 0);
	expect_content("dir/record", "x");
	unlink("dir/record");
	rmdir("dir");
	unlink("old");
	unlink("record");
}

static void sync_files(void **state) {
	(void)state;
	struct fc_error error;
	put("file", 0, "x");
	assert_int_equal(fc_disk_sync("file", &error), 0);
	assert_int_equal(fc_disk_sync(".", &error), 0);
	assert_int_equal(fc_disk_sync("no", &error), -ENOENT);
	unlink("file");
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, reset, unmount_small)

int main(void) {
	const struct CMUnitTest tests[] = {
	        TEST(sparse_copy),
	        TEST(copy_where_holes_are_unknown),
	        TEST(copy_with_short_writes),
	        TEST(copy_of_nothing_and_of_a_hole),
	        TEST(copy_refuses),
	        TEST(unfinished_copy_is_removed),
	        TEST(removal_spares_what_took_its_place),
	        TEST(source_that_becomes_shorter),
	        TEST(full_disk),
	        TEST(copy_goes_on_once_there_is_room),
	        TEST(clone_of_a_small_file),
	        TEST(clone_that_fails_leaves_nothing),
	        TEST(reflinks_are_tried),
	        TEST(publish_a_file),
	        TEST(publish_a_directory),
	        TEST(write_whole),
	        TEST(sync_files),
	};
	return cmocka_run_group_tests(tests, setup_directory, remove_directory);
}
