// SPDX-License-Identifier: Apache-2.0
/*
 * agent/loop.h: one epoll loop for descriptors and timers. One thread; nothing in it blocks but fc_loop_turn.
 *
 * Sources and timers lie in their owners' structures. An owner may be freed from any callback, its own included, once
 * its sources are unwatched and its timers stopped: the loop then holds nothing of it.
 */
#ifndef FCVM_AGENT_LOOP_H
#define FCVM_AGENT_LOOP_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/epoll.h>

#include "base/error.h"

struct fc_source {
	int fd;          /* borrowed while watched */
	uint32_t events; /* what it is watched for; 0 where it is not */
	void (*ready)(struct fc_source *source, uint32_t events);
};

struct fc_timer {
	uint64_t due_ms;
	bool armed;
	struct fc_timer *next;
	void (*fire)(struct fc_timer *timer);
};

enum { FC_LOOP_BATCH = 64 };

struct fc_loop {
	int epoll;
	struct fc_timer *timers;
	struct epoll_event batch[FC_LOOP_BATCH];
	int batch_count;
};

/* The object that `member` is part of. */
#define fc_container_of(pointer, type, member) ((type *)(void *)((char *)(pointer)-offsetof(type, member)))

int fc_loop_open(struct fc_loop *loop, struct fc_error *error);
void fc_loop_close(struct fc_loop *loop);

/*
 * Watches source->fd for EPOLLIN, EPOLLOUT, EPOLLRDHUP; 0 stops watching (no hang-up is reported then either). Returns
 * 0 or -errno of epoll_ctl(2).
 */
int fc_loop_watch(struct fc_loop *loop, struct fc_source *source, uint32_t events);

/* Fires once, `ms` from now; an armed timer is set anew. */
void fc_timer_start(struct fc_loop *loop, struct fc_timer *timer, uint64_t ms);
void fc_timer_stop(struct fc_loop *loop, struct fc_timer *timer);

/* Waits for something to happen, at most `most_ms` (-1: no limit), and calls what it concerns. */
int fc_loop_turn(struct fc_loop *loop, int most_ms, struct fc_error *error);

#endif
