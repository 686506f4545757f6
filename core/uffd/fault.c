// SPDX-License-Identifier: Apache-2.0
/*
 * core/uffd/fault.c: UFFDIO_COPY and UFFDIO_ZEROPAGE with all that they may answer.
 *
 * Facts of the kernel (mm/userfaultfd.c, fs/userfaultfd.c) that this stands on:
 * - A copy over a page that is there fails with EEXIST and wakes nobody: who waits must be woken by UFFDIO_WAKE.
 * - While a removal (or another change of the mapping) has not been read from the userfaultfd, every copy fails with
 *   EAGAIN; after a part of it was done, the field `copy` says how much.
 * - A copy cut short by an existing page also says EAGAIN with what was done; the next try says EEXIST.
 * - ENOENT: nothing is registered there (any more). ESRCH: the address space is gone. EFAULT: the source cannot be
 * read.
 * - Huge pages are copied whole and have no UFFDIO_ZEROPAGE.
 */
#include "uffd/fault_internal.h"

#include <errno.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "uffd/uffd_internal.h"

enum {
	SPANS_MAX = 16,
	ZERO_IS_CHEAPER = 8,
	RECORDED_MOST = 32, /* pages: about 40 us */
};

/* Never written, so it costs no memory but page tables. */
static uint8_t zeros[FCU_HUGE_PAGE];

static uint64_t page_size(const struct fcu_client *client) {
	return client->regions.page_size;
}

static void wake(const struct fcu_client *client, uint64_t address) {
	struct uffdio_range range = {.start = address, .len = page_size(client)};
	ioctl(client->uffd, UFFDIO_WAKE, &range);
}

static int copy_once(int uffd, uint64_t address, const uint8_t *source, uint64_t size, bool with_wake,
                     uint64_t *ret_done) {
	struct uffdio_copy copy = {.dst = address,
	                           .src = (uint64_t)(uintptr_t)source,
	                           .len = size,
	                           .mode = with_wake ? 0 : UFFDIO_COPY_MODE_DONTWAKE};
	int r = ioctl(uffd, UFFDIO_COPY, &copy) < 0 ? -errno : 0;
	*ret_done = r == 0 ? size : copy.copy > 0 ? (uint64_t)copy.copy : 0;
	return r;
}

static int zero_once(int uffd, uint64_t address, uint64_t size, bool with_wake, uint64_t *ret_done) {
	struct uffdio_zeropage zero = {.range = {.start = address, .len = size},
	                               .mode = with_wake ? 0 : UFFDIO_ZEROPAGE_MODE_DONTWAKE};
	int r = ioctl(uffd, UFFDIO_ZEROPAGE, &zero) < 0 ? -errno : 0;
	*ret_done = r == 0 ? size : zero.zeropage > 0 ? (uint64_t)zero.zeropage : 0;
	return r;
}

static void note_put(struct fcu_client *client, uint64_t page, uint64_t count, const uint8_t *source) {
	for (uint64_t i = 0; i < count; i++)
		fcu_add(client->present, page + i);
	if (!source)
		fcu_count(&client->counters.zero, count);
	/* A huge page of zeros is memory like any other. */
	if (source || page_size(client) != FCU_PAGE)
		fcu_count(&client->counters.bytes, count * page_size(client));
}

/* One page that cannot be put. Returns 0 where that is as good as done. */
static int pass_over(struct fcu_client *client, uint64_t page, uint64_t address, bool with_wake, int err) {
	if (err != EEXIST && err != ENOENT)
		return -err;
	if (err == EEXIST)
		fcu_add(client->present, page);
	else
		fcu_add(client->removed, page);
	/* Whoever waits there finds the page, or a mapping that is gone, by itself. */
	if (with_wake)
		wake(client, address);
	return 0;
}

/* A stretch of pages of one region, all of one kind. */
struct span {
	uint64_t page;
	uint64_t count;
	const uint8_t *source; /* NULL: zeros */
};

/* Puts a span in place; *ret_put counts the pages that are new. 0, FCU_LATER or -errno, after what was done. */
static int put(struct fcu_client *client, const struct span *span, bool with_wake, uint64_t *ret_put) {
	const struct fcu_region *region = fcu_region_of_page(&client->regions, span->page);
	uint64_t address = region->base + (span->page << client->regions.shift) - region->offset;
	uint64_t size = page_size(client);
	uint64_t at = 0;
	*ret_put = 0;
	while (at < span->count) {
		uint64_t bytes = (span->count - at) * size;
		uint64_t done;
		int r;
		if (span->source)
			r = copy_once(client->uffd, address + at * size, span->source + at * size, bytes, with_wake,
			              &done);
		else if (size == FCU_PAGE)
			r = zero_once(client->uffd, address + at * size, bytes, with_wake, &done);
		else
			r = copy_once(client->uffd, address + at * size, zeros, size, with_wake, &done);
		uint64_t pages = done / size;
		note_put(client, span->page + at, pages, span->source);
		*ret_put += pages;
		at += pages;
		if (r == 0 || pages > 0)
			continue;
		if (r == -EAGAIN)
			return FCU_LATER;
		r = pass_over(client, span->page + at, address + at * size, with_wake, -r);
		if (r < 0)
			return r;
		at++;
	}
	return 0;
}

static bool is_zero(const struct fcu_client *client, uint64_t page) {
	return fcu_has(client->removed, page) || fcu_page_map_zero(client->map, page, client->regions.shift);
}

static const uint8_t *source_of(const struct fcu_client *client, uint64_t page) {
	return is_zero(client, page) ? NULL : client->memory->map + (page << client->regions.shift);
}

static bool readable(const struct fcu_client *client, uint64_t page) {
	uint64_t offset = page << client->regions.shift;
	return fcu_memory_missing(client->memory, offset, page_size(client)) >= offset + page_size(client);
}

/* Whether a neighbour may be brought: not there, not given back, and its contents at hand. */
static bool wanted(const struct fcu_client *client, uint64_t page) {
	return !fcu_has(client->present, page) && !fcu_has(client->removed, page) &&
	       (is_zero(client, page) || readable(client, page));
}

/* The pages around the faulted one. */
struct window {
	uint64_t page;
	uint64_t first;
	uint64_t end;
	uint64_t probe; /* left out */
};

static struct window make_window(struct fcu_client *client, uint64_t page) {
	uint32_t size = fcu_around_window(&client->around);
	const struct fcu_region *region = fcu_region_of_page(&client->regions, page);
	uint64_t region_first = region->offset >> client->regions.shift;
	uint64_t region_end = (region->offset + region->size) >> client->regions.shift;
	struct window window = {.page = page, .first = page & ~(uint64_t)(size - 1)};
	window.end = window.first + size;
	if (window.first < region_first)
		window.first = region_first;
	if (window.end > region_end)
		window.end = region_end;
	window.probe = UINT64_MAX;
	if (size > 1)
		window.probe =
		        fcu_around_probe(&client->around, window.first, (uint32_t)(window.end - window.first), page);
	return window;
}

/* The window as spans of one kind each: what is wanted of it and, where it is not there yet, the page itself. */
static size_t find_spans(const struct fcu_client *client, const struct window *window, struct span *spans) {
	size_t count = 0;
	for (uint64_t page = window->first; page < window->end; page++) {
		if (page == window->probe || (page != window->page && !wanted(client, page)) ||
		    (page == window->page && fcu_has(client->present, page)))
			continue;
		const uint8_t *source = source_of(client, page);
		struct span *last = count ? &spans[count - 1] : NULL;
		if (last && last->page + last->count == page && !last->source == !source)
			last->count++;
		else
			spans[count++] = (struct span){.page = page, .count = 1, .source = source};
	}
	return count;
}

static void count_neighbours(struct fcu_client *client, const struct span *span, uint64_t pages) {
	fcu_count(&client->counters.around, pages);
	if (span->source)
		fcu_around_brought(&client->around, pages);
}

/* Puts the neighbours; that some could not be put is no failure, they will fault where they are needed. */
static void put_neighbours(struct fcu_client *client, const struct span *spans, size_t count, uint64_t page) {
	for (size_t i = 0; i < count; i++) {
		uint64_t pages = 0;
		if (page - spans[i].page < spans[i].count)
			continue;
		int r = put(client, &spans[i], false, &pages);
		count_neighbours(client, &spans[i], pages);
		if (r != 0)
			return;
	}
}

static int serve_first(struct fcu_client *client, const struct window *window, uint64_t since) {
	struct span spans[SPANS_MAX];
	struct span alone = {.page = window->page, .count = 1, .source = source_of(client, window->page)};
	uint64_t pages;
	int r = put(client, &alone, true, &pages);
	if (r != 0)
		return r;
	fcu_client_latency(client, fcu_now() - since);
	if (window->end - window->first > 1)
		put_neighbours(client, spans, find_spans(client, window, spans), window->page);
	return FCU_DONE;
}

static int serve_last(struct fcu_client *client, const struct window *window, uint64_t since) {
	struct span spans[SPANS_MAX];
	uint64_t pages;
	size_t count = find_spans(client, window, spans);
	put_neighbours(client, spans, count, window->page);
	for (size_t i = 0; i < count; i++) {
		if (window->page - spans[i].page >= spans[i].count)
			continue;
		int r = put(client, &spans[i], true, &pages);
		if (pages > 1)
			count_neighbours(client, &spans[i], pages - 1);
		if (r != 0 && !fcu_has(client->present, window->page))
			return r;
	}
	fcu_client_latency(client, fcu_now() - since);
	return FCU_DONE;
}

static bool is_clear(const struct fcu_client *client, uint64_t page) {
	return !fcu_has(client->present, page) && !fcu_has(client->removed, page);
}

/*
 * The part of the recorded run around a page that a VM wants before its replay has come to it: at most RECORDED_MOST
 * pages, what is clear of them, of one region, with contents that are at hand. False: the page is not among them.
 */
static bool find_recorded(const struct fcu_client *client, uint64_t page, struct span *span) {
	const struct fcu_place *place = fcu_replay_find(client->replay, page);
	if (!place)
		return false;
	const struct fcu_region *region = fcu_region_of_page(&client->regions, page);
	uint64_t first = page;
	uint64_t end = page + 1;
	uint64_t region_first = region->offset >> client->regions.shift;
	uint64_t limit = (region->offset + region->size) >> client->regions.shift;
	if (limit > place->page + place->count)
		limit = place->page + place->count;
	if (!place->zero) {
		uint64_t ready = fcu_replay_ready(client->replay);
		uint64_t there = ready == UINT64_MAX || ready < place->data_at ? 0 : ready - place->data_at;
		if (limit > place->page + there / page_size(client))
			limit = place->page + there / page_size(client);
	}
	if (page >= limit)
		return false;
	while (end < limit && end - page < RECORDED_MOST / 2 && is_clear(client, end))
		end++;
	while (first > place->page && first > region_first && end - first < RECORDED_MOST &&
	       is_clear(client, first - 1))
		first--;
	*span = (struct span){.page = first, .count = end - first};
	if (!place->zero)
		span->source =
		        fcu_replay_data(client->replay, place->data_at + (first - place->page) * page_size(client));
	return true;
}

/*
 * Many VMs that start at once fault while they wait for their turn to be replayed. Page by page that would be as slow
 * as no replay at all: each fault brings what was recorded around it.
 */
static int serve_recorded(struct fcu_client *client, const struct span *span, uint64_t page, uint64_t since) {
	uint64_t pages;
	int r = put(client, span, true, &pages);
	fcu_count(&client->counters.replayed, pages);
	if (r != 0 && !fcu_has(client->present, page))
		return r;
	fcu_client_latency(client, fcu_now() - since);
	fcu_count(&client->counters.faults, 1);
	atomic_store_explicit(&client->last_fault, since, memory_order_relaxed);
	return FCU_DONE;
}

int fcu_fault_serve(struct fcu_client *client, uint64_t page, uint64_t since, enum fcu_manner manner, bool force,
                    uint64_t *ret_offset, uint64_t *ret_size) {
	bool before = fcu_has(client->present, page);
	struct span recorded;
	if (client->replay && !client->record && page_size(client) == FCU_PAGE && is_clear(client, page) &&
	    find_recorded(client, page, &recorded))
		return serve_recorded(client, &recorded, page, since);
	if (!force && !is_zero(client, page) && !readable(client, page)) {
		*ret_size = page_size(client) < FCU_BLOCK ? FCU_BLOCK : page_size(client);
		*ret_offset = (page << client->regions.shift) & ~(*ret_size - 1);
		return FCU_WAIT;
	}
	struct window window = {.page = page, .first = page, .end = page + 1, .probe = UINT64_MAX};
	/* While it is replayed the neighbours come by themselves. A page that was there or was given back has none. */
	if (!client->replay && !client->record && !before && !fcu_has(client->removed, page))
		window = make_window(client, page);
	/* That the page is there by our books may be wrong (a removal without an event): the kernel is asked, always.
	 */
	if (before)
		manner = FCU_WAKE_FIRST;
	int r = manner == FCU_WAKE_FIRST ? serve_first(client, &window, since) : serve_last(client, &window, since);
	if (r != FCU_DONE)
		return r;
	fcu_count(&client->counters.faults, 1);
	atomic_store_explicit(&client->last_fault, since, memory_order_relaxed);
	if (!before) {
		fcu_around_fault(&client->around, page);
		fcu_client_touched(client, page);
	}
	return FCU_DONE;
}

static void replay_advance(struct fcu_client *client, const struct fcu_run *run, uint64_t pages) {
	client->run_done += (uint32_t)pages;
	if (!run->zero)
		client->data_done += pages * page_size(client);
	if (client->run_done == run->count) {
		client->run++;
		client->run_done = 0;
	}
}

/* How many pages from `page` on, at most `most`, have no bit in either set; where the first has one: how many have. */
static uint64_t same_pages(const struct fcu_client *client, uint64_t page, uint64_t most, bool *ret_clear) {
	uint64_t count = 0;
	*ret_clear = !fcu_has(client->present, page) && !fcu_has(client->removed, page);
	while (count < most &&
	       (!fcu_has(client->present, page + count) && !fcu_has(client->removed, page + count)) == *ret_clear)
		count++;
	return count;
}

/* The next piece of the replay: pages of one run, one region, that have come. 0: they have not come. */
static uint64_t next_piece(const struct fcu_client *client, const struct fcu_run *run, uint64_t most,
                           uint64_t *ret_page) {
	uint64_t page = run->page + client->run_done;
	uint64_t count = run->count - client->run_done;
	*ret_page = page;
	if (run->zero)
		most *= ZERO_IS_CHEAPER;
	if (count > most)
		count = most;
	if (!run->zero) {
		uint64_t ready = fcu_replay_ready(client->replay);
		uint64_t there = ready > client->data_done ? (ready - client->data_done) / page_size(client) : 0;
		if (count > there)
			count = there;
	}
	const struct fcu_region *region = fcu_region_of_page(&client->regions, page);
	if (!region)
		return count;
	uint64_t left = ((region->offset + region->size) >> client->regions.shift) - page;
	return count > left ? left : count;
}

/* Replays at most *count pages from `page` on; *count then says how many it went on by. */
static int replay_piece(struct fcu_client *client, const struct fcu_run *run, uint64_t page, uint64_t *count) {
	bool clear;
	uint64_t pages = 0;
	if (!fcu_region_of_page(&client->regions, page)) {
		*count = 1;
		replay_advance(client, run, 1);
		return 0;
	}
	*count = same_pages(client, page, *count, &clear);
	if (!clear) {
		replay_advance(client, run, *count);
		return 0;
	}
	struct span span = {.page = page, .count = *count};
	if (!run->zero)
		span.source = fcu_replay_data(client->replay, client->data_done);
	int r = put(client, &span, true, &pages);
	fcu_count(&client->counters.replayed, pages);
	for (uint64_t i = 0; i < pages && client->record; i++)
		fcu_client_touched(client, page + i);
	/* What was not put is there already or is tried again; in both cases by the books, which put has kept. */
	if (r == 0)
		replay_advance(client, run, *count);
	return r;
}

int fcu_fault_replay(struct fcu_client *client, uint32_t pages) {
	const struct fcu_working_set *set = fcu_replay_set(client->replay);
	uint64_t used = 0;
	if (fcu_replay_ready(client->replay) == UINT64_MAX)
		return FCU_DONE;
	while (client->run < set->run_count && used < pages) {
		const struct fcu_run *run = &set->runs[client->run];
		uint64_t page;
		uint64_t count = next_piece(client, run, pages - used, &page);
		if (count == 0)
			return FCU_WAIT;
		int r = replay_piece(client, run, page, &count);
		if (r != 0)
			return r;
		/* Short runs cost a call each, as much as a page. */
		used += 1 + (run->zero ? count / ZERO_IS_CHEAPER : count);
	}
	return client->run == set->run_count ? FCU_DONE : FCU_MORE;
}

/* Pages of [start, end) are gone: whole ones only, as the kernel removes no other. */
static void note_removed(struct fcu_client *client, uint64_t start, uint64_t end) {
	for (size_t i = 0; i < client->regions.count; i++) {
		const struct fcu_region *region = &client->regions.at[i];
		uint64_t from = start > region->base ? start : region->base;
		uint64_t to = end < region->base + region->size ? end : region->base + region->size;
		if (from >= to)
			continue;
		uint64_t page = (from - region->base + region->offset) >> client->regions.shift;
		uint64_t last = (to - region->base + region->offset + page_size(client) - 1) >> client->regions.shift;
		fcu_count(&client->counters.removed, last - page);
		for (; page < last; page++) {
			fcu_add(client->removed, page);
			fcu_remove(client->present, page);
		}
	}
}

int fcu_fault_event(struct fcu_client *client, const struct uffd_msg *event, struct fc_error *error) {
	switch (event->event) {
	case UFFD_EVENT_REMOVE:
	case UFFD_EVENT_UNMAP:
		note_removed(client, event->arg.remove.start, event->arg.remove.end);
		return 0;
	case UFFD_EVENT_REMAP:
		return fcu_regions_move(&client->regions, event->arg.remap.from, event->arg.remap.to,
		                        event->arg.remap.len, error);
	case UFFD_EVENT_FORK:
		/* A copy of the address space with a userfaultfd of its own, which is in this message. A monitor does
		 * not fork its guest; nobody could say whom to kill for it. */
		close((int)event->arg.fork.ufd);
		return fc_error_set(error, EPROTO, "serve", NULL, NULL, "the VM's monitor forked with its memory");
	default:
		return fc_error_set(error, EPROTO, "serve", NULL, NULL, "event %#x is unknown", event->event);
	}
}
