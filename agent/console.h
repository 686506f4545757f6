// SPDX-License-Identifier: Apache-2.0
/* agent/console.h: short lines for who looks at the guest's console. Never blocks: what it does not take is lost. */
#ifndef FCVM_AGENT_CONSOLE_H
#define FCVM_AGENT_CONSOLE_H

/* Opens /dev/console and makes it stdin, stdout and stderr; without it lines go nowhere. */
void fc_console_open(void);

/* Writes "fc-agent: ..." as one line; control characters in it become '?'. */
void fc_console_say(const char *format, ...) __attribute__((format(printf, 1, 2)));

#endif
