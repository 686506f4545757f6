// SPDX-License-Identifier: Apache-2.0
#include "console.h"

#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <unistd.h>

static int console = -1;

void fc_console_open(void) {
	int null = open("/dev/null", O_RDWR | O_NOCTTY);
	for (int fd = 0; null >= 0 && fd < 3; fd++)
		if (null != fd)
			dup2(null, fd);
	if (null > 2)
		close(null);
	console = open("/dev/console", O_WRONLY | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);
}

void fc_console_say(const char *format, ...) {
	char line[512];
	va_list arguments;
	va_start(arguments, format);
	int start = snprintf(line, sizeof line, "fc-agent: ");
	int n = vsnprintf(line + start, sizeof line - (size_t)start - 2, format, arguments);
	va_end(arguments);
	if (n < 0 || console < 0)
		return;
	size_t size = (size_t)start;
	for (; line[size]; size++)
		if ((unsigned char)line[size] < ' ' || line[size] == 0x7f)
			line[size] = '?';
	line[size++] = '\r';
	line[size++] = '\n';
	ssize_t ignored = write(console, line, size);
	(void)ignored;
}
