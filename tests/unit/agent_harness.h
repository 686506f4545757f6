// SPDX-License-Identifier: Apache-2.0
/*
 * The agent's server over socket pairs, with programs of the tests in podman's and crun's place.
 *
 * The false podman takes the options that the agent gives, runs the plan's last word by a shell as the "container", and
 * leaves an exit file as conmon does. The false crun shows the description that it got.
 */
#ifndef FCVM_TESTS_AGENT_HARNESS_H
#define FCVM_TESTS_AGENT_HARNESS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>

#include "server.h"

enum { LIMIT_MS = 20000 };

extern char dir[64], path_podman[96], path_crun[96], path_run[96], path_exits[96], path_bundles[96];
extern struct fc_config config;
extern struct fc_server server;

struct peer {
	int fd;
	struct fc_decoder decoder;
	bool closed;
	uint8_t last;              /* type of the last frame */
	char text[65537];          /* its payload */
	char out[2][1 << 16];      /* what came of each stream, as far as it fits */
	size_t out_size[2], total; /* all of it */
	char events[8192];         /* the events, a line each */
	uint32_t granted;
};

void write_file(const char *path, const char *text, mode_t mode);

/* Group setup and teardown: the false programs and their directories. */
int make_files(void **state);
int remove_files(void **state);

/* Setup and teardown of each test; no child outlives it. */
int open_server(void **state);
int close_server(void **state);

/* One turn of the loop, 20 ms at most. */
void turn(void);

/* A connection to the server that has said nothing yet. */
struct peer *new_peer(void);
void free_peer(struct peer *peer);
void say_bytes(struct peer *peer, const void *data, size_t size);
void say(struct peer *peer, uint8_t type, const void *payload, size_t size);
void say_text(struct peer *peer, uint8_t type, const char *text);
void say_hello(struct peer *peer);

/* A peer that said HELLO and asked. */
struct peer *asking(uint8_t type, const char *json);

/* Takes what came, without waiting. */
void hear(struct peer *peer);

/* Each turns the server until it has come, for LIMIT_MS. */
void expect(struct peer *peer, uint8_t type);
void expect_text(struct peer *peer, uint8_t type, const char *part);
void expect_event(struct peer *peer, const char *part);
void expect_closed(struct peer *peer);
void wait_for(bool (*done)(void));

/* A plan whose container is this line of shell; `more` are members of JSON, each after a comma. */
void plan_for(const char *command, const char *more);

/* Starts the container of such a plan. */
void start(const char *command);

/* For wait_for. */
bool runs(void);
bool exited(void);
bool has_output(void);
bool is_done(void);
bool no_sessions(void);

#define SERVED(name) cmocka_unit_test_setup_teardown(name, open_server, close_server)

#endif
