// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/io.h"

static void error_reads_as_a_sentence(void **state) {
	(void)state;
	struct fc_error error;
	char text[1024];
	assert_int_equal(fc_error_set(&error, ENOENT, "open", "/x", "make it", NULL), -ENOENT);
	assert_string_equal(fc_error_format(&error, text, sizeof text), "open /x: No such file or directory (make it)");
	assert_int_equal(fc_error_wrap(&error, "start", "other"), -ENOENT);
	assert_string_equal(fc_error_format(&error, text, sizeof text),
	                    "start: open /x: No such file or directory (make it)");
}

static void error_is_cut_to_size(void **state) {
	(void)state;
	struct fc_error error;
	char large[2048];
	memset(large, 'x', sizeof large - 1);
	large[sizeof large - 1] = '\0';
	assert_int_equal(fc_error_set(&error, EIO, large, large, large, "%s", large), -EIO);
	assert_int_equal(strlen(error.op), sizeof error.op - 1);
	assert_int_equal(fc_error_wrap(&error, "outer", NULL), -EIO);
	assert_memory_equal(error.op, "outer: xxx", 10);
}

static void no_failure_reads_as_success(void **state) {
	(void)state;
	struct fc_error error;
	assert_int_equal(fc_error_set(&error, 0, "op", NULL, NULL, NULL), -EIO);
	assert_int_equal(fc_error_set(NULL, ENOSPC, "op", NULL, NULL, NULL), -ENOSPC);
	assert_int_equal(fc_error_wrap(NULL, "op", NULL), -EIO);
}

static void files_are_read_whole_and_bounded(void **state) {
	(void)state;
	struct fc_error error;
	_cleanup_free_ char *data = NULL;
	size_t size = 0;
	assert_int_equal(fc_io_read_file("/proc/self/status", 1 << 20, &data, &size, &error), 0);
	assert_int_equal(size, strlen(data));
	assert_non_null(strstr(data, "Name:"));
	char *none = NULL;
	assert_int_equal(fc_io_read_file("/proc/self/status", 10, &none, &size, &error), -EFBIG);
	assert_null(none);
	assert_int_equal(fc_io_read_file("/nonexistent/x", 10, &none, &size, &error), -ENOENT);
	assert_string_equal(error.subject, "/nonexistent/x");
}

static void one_descriptor_passes(void **state) {
	(void)state;
	int pair[2];
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
	_cleanup_close_ int a = pair[0];
	_cleanup_close_ int b = pair[1];
	assert_int_equal(fc_io_send_fd(a, "hi", 2, STDIN_FILENO), 0);
	char buffer[8];
	int fd = -1;
	assert_int_equal(fc_io_recv_fd(b, buffer, sizeof buffer, &fd), 2);
	assert_true(fd >= 0);
	assert_true(fcntl(fd, F_GETFD) & FD_CLOEXEC);
	close(fd);
	assert_int_equal(fc_io_write_full(a, "x", 1), 0);
	assert_int_equal(fc_io_recv_fd(b, buffer, sizeof buffer, &fd), 1);
	assert_int_equal(fd, -1);
}

static void two_descriptors_are_refused(void **state) {
	(void)state;
	int pair[2];
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
	_cleanup_close_ int a = pair[0];
	_cleanup_close_ int b = pair[1];
	union {
		char buffer[CMSG_SPACE(2 * sizeof(int))];
		struct cmsghdr align;
	} control = {.buffer = {0}};
	struct iovec part = {.iov_base = (char[]){'x'}, .iov_len = 1};
	struct msghdr message = {.msg_iov = &part,
	                         .msg_iovlen = 1,
	                         .msg_control = control.buffer,
	                         .msg_controllen = sizeof control.buffer};
	struct cmsghdr *header = CMSG_FIRSTHDR(&message);
	header->cmsg_level = SOL_SOCKET;
	header->cmsg_type = SCM_RIGHTS;
	header->cmsg_len = CMSG_LEN(2 * sizeof(int));
	memcpy(CMSG_DATA(header), (int[]){a, b}, 2 * sizeof(int));
	assert_int_equal(sendmsg(a, &message, 0), 1);
	int before = dup(a);
	close(before);
	char buffer[8];
	int fd = -1;
	assert_int_equal(fc_io_recv_fd(b, buffer, sizeof buffer, &fd), -EPROTO);
	assert_int_equal(fd, -1);
	int after = dup(a);
	close(after);
	assert_int_equal(before, after); /* neither descriptor stayed open */
}

int main(void) {
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(error_reads_as_a_sentence),   cmocka_unit_test(error_is_cut_to_size),
	        cmocka_unit_test(no_failure_reads_as_success), cmocka_unit_test(files_are_read_whole_and_bounded),
	        cmocka_unit_test(one_descriptor_passes),       cmocka_unit_test(two_descriptors_are_refused),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
