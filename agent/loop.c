// SPDX-License-Identifier: Apache-2.0
#include "loop.h"

#include <errno.h>
#include <limits.h>
#include <string.h>
#include <unistd.h>

#include "clock.h"

int fc_loop_open(struct fc_loop *loop, struct fc_error *error) {
	memset(loop, 0, sizeof *loop);
	loop->epoll = epoll_create1(EPOLL_CLOEXEC);
	return loop->epoll < 0 ? fc_error_set(error, errno, "open loop", NULL, NULL, NULL) : 0;
}

void fc_loop_close(struct fc_loop *loop) {
	if (loop->epoll >= 0)
		close(loop->epoll);
	loop->epoll = -1;
	loop->timers = NULL;
}

/* What is still to be delivered of this turn must not reach a source that may be gone by then. */
static void forget(struct fc_loop *loop, const struct fc_source *source) {
	for (int i = 0; i < loop->batch_count; i++)
		if (loop->batch[i].data.ptr == source)
			loop->batch[i].data.ptr = NULL;
}

int fc_loop_watch(struct fc_loop *loop, struct fc_source *source, uint32_t events) {
	if (source->events == events)
		return 0;
	int op = !events ? EPOLL_CTL_DEL : !source->events ? EPOLL_CTL_ADD : EPOLL_CTL_MOD;
	struct epoll_event event = {.events = events, .data.ptr = source};
	int r = epoll_ctl(loop->epoll, op, source->fd, &event);
	int problem = r < 0 ? errno : 0;
	if (!events)
		forget(loop, source);
	if (r < 0 && events)
		return -problem;
	source->events = events;
	return 0;
}

void fc_timer_stop(struct fc_loop *loop, struct fc_timer *timer) {
	if (!timer->armed)
		return;
	struct fc_timer **at = &loop->timers;
	while (*at && *at != timer)
		at = &(*at)->next;
	if (*at)
		*at = timer->next;
	timer->armed = false;
}

void fc_timer_start(struct fc_loop *loop, struct fc_timer *timer, uint64_t ms) {
	fc_timer_stop(loop, timer);
	timer->due_ms = fc_clock_ms() + ms;
	timer->armed = true;
	struct fc_timer **at = &loop->timers;
	while (*at && (*at)->due_ms <= timer->due_ms)
		at = &(*at)->next;
	timer->next = *at;
	*at = timer;
}

static int time_left(const struct fc_loop *loop, int most_ms) {
	if (!loop->timers)
		return most_ms;
	uint64_t now = fc_clock_ms();
	uint64_t left = loop->timers->due_ms > now ? loop->timers->due_ms - now : 0;
	if (most_ms >= 0 && left > (uint64_t)most_ms)
		return most_ms;
	return left > INT_MAX ? INT_MAX : (int)left;
}

static void fire_due(struct fc_loop *loop) {
	uint64_t now = fc_clock_ms();
	while (loop->timers && loop->timers->due_ms <= now) {
		struct fc_timer *timer = loop->timers;
		fc_timer_stop(loop, timer);
		timer->fire(timer);
	}
}

int fc_loop_turn(struct fc_loop *loop, int most_ms, struct fc_error *error) {
	int n = epoll_wait(loop->epoll, loop->batch, FC_LOOP_BATCH, time_left(loop, most_ms));
	if (n < 0 && errno != EINTR)
		return fc_error_set(error, errno, "wait for events", NULL, NULL, NULL);
	loop->batch_count = n > 0 ? n : 0;
	for (int i = 0; i < loop->batch_count; i++) {
		struct fc_source *source = loop->batch[i].data.ptr;
		loop->batch[i].data.ptr = NULL;
		if (source)
			source->ready(source, loop->batch[i].events);
	}
	loop->batch_count = 0;
	fire_due(loop);
	return 0;
}
