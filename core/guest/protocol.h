// SPDX-License-Identifier: Apache-2.0
/*
 * core/guest/protocol.h: what host and guest say to each other over vsock. Shared by the core and fc-agent, so that
 * there is one truth; docs/guest-protocol.md tells who says what when.
 *
 * A frame is a header of 8 bytes and `size` bytes of payload:
 *
 *     u32 size (little-endian, at most FC_GUEST_PAYLOAD_MAX) | u8 type | u8 stream | u16 zero
 *
 * `stream` is 1 (stdout) or 2 (stderr) in OUTPUT and zero in all others. Numbers in binary payloads are little-endian;
 * the other payloads are one JSON object in UTF-8, or empty.
 */
#ifndef FCVM_GUEST_PROTOCOL_H
#define FCVM_GUEST_PROTOCOL_H

enum {
	FC_GUEST_VERSION = 1,       /* of this file */
	FC_GUEST_VERSION_LEAST = 1, /* the oldest that this side still speaks */

	FC_GUEST_PORT = 5200,       /* the agent listens here */
	FC_GUEST_READY_PORT = 5201, /* the host listens here; the agent says READY or ERROR, once */

	FC_GUEST_HEADER_SIZE = 8,
	FC_GUEST_PAYLOAD_MAX = 65536,  /* bytes */
	FC_GUEST_HELLO_SIZE = 8,       /* "FCVM", u16 version, u16 least version */
	FC_GUEST_STDIN_WINDOW = 65536, /* bytes of STDIN that may be under way before a WINDOW frame grants more */

	FC_GUEST_SESSIONS_MAX = 64,
	FC_GUEST_ARGUMENTS_MAX = 1024, /* words of an EXEC's argv, and as many variables in its env */
	FC_GUEST_SIGNAL_MAX = 64,
	FC_GUEST_GRACE_MAX = 86400, /* seconds */
	FC_GUEST_PLAN_MAX = 256 * 1024,

	FC_GUEST_QUIET_SECONDS = 30,  /* from QUIESCE's OK, by the guest's clock, until the agent goes on by itself */
	FC_GUEST_RESUME_SECONDS = 30, /* from the silence's end until a command that is not resumed is killed */
	FC_GUEST_ENTROPY_LEAST = 32,  /* bytes in a RESTORE */
	FC_GUEST_ENTROPY_MAX = 256,
	FC_GUEST_FILES_MAX = 64, /* in a RESTORE, whose frame bounds their data */
};

#define FC_GUEST_MAGIC "FCVM"

/* Name, number, and who sends it: the one list that C, Lua and the documentation follow. */
#define FC_GUEST_TYPES(X)                                                                                              \
	X(HELLO, 0x01)    /* both, first: FC_GUEST_MAGIC, u16 version, u16 least version */                            \
	X(READY, 0x02)    /* guest: {"name", "boot_ns"}, to FC_GUEST_READY_PORT */                                     \
	X(ERROR, 0x03)    /* guest: {"op", "message", "errno"}; the session ends */                                    \
	X(OK, 0x04)       /* guest: done; answers STOP, SIGNAL, SHUTDOWN, QUIESCE and WAKE */                          \
	X(ATTACH, 0x10)   /* host: {"from"?} an offset or "end"; OUTPUT and EVENT frames follow */                     \
	X(EXEC, 0x11)     /* host: {"argv", "env"?, "cwd"?, "user"?, "vm"?, "stdin"?, "timeout"?} */                   \
	X(STATUS, 0x12)   /* host: {}; STATE follows */                                                                \
	X(STOP, 0x13)     /* host: {"grace"?} seconds until SIGKILL */                                                 \
	X(SIGNAL, 0x14)   /* host: {"signal"} for the container's first process */                                     \
	X(SHUTDOWN, 0x15) /* host: {} */                                                                               \
	X(QUIESCE, 0x16)  /* host: {}; after its OK the guest says nothing until WAKE or RESTORE */                    \
	X(WAKE, 0x17)     /* host: {} */                                                                               \
	X(RESTORE, 0x18)  /* host, to a clone: {"generation", "hostname", ...}; RESTORED follows */                    \
	X(CLOCK, 0x19)    /* host: {"time_ns"?}; TIME follows */                                                       \
	X(RESUME, 0x1a)   /* host: {"exec"}; a command's session goes on in this one */                                \
	X(STDIN, 0x20)    /* host, after EXEC with "stdin": bytes; empty is their end */                               \
	X(OUTPUT, 0x21)   /* guest: bytes of stream 1 or 2 */                                                          \
	X(WINDOW, 0x22)   /* guest: u32, bytes of STDIN that may be sent beyond those granted before */                \
	X(EXITED, 0x23)   /* guest, ends EXEC: {"status"} or {"signal"}, and "error" where it did not start */         \
	X(EVENT, 0x24)    /* guest: {"event", ...} */                                                                  \
	X(STATE, 0x25)    /* guest, answers STATUS */                                                                  \
	X(RESTORED, 0x26) /* guest, answers RESTORE: {"generation", "hostname", "machine_id", "time_ns", ...} */       \
	X(TIME, 0x27)     /* guest, answers CLOCK: {"time_ns", "boot_ns"} */

enum fc_guest_type {
#define FC_GUEST_ENUM(name, number) FC_GUEST_##name = (number),
	FC_GUEST_TYPES(FC_GUEST_ENUM)
#undef FC_GUEST_ENUM
};

#endif
