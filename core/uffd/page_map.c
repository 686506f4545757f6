// SPDX-License-Identifier: Apache-2.0
/* core/uffd/page_map.c: the map of zero pages: finding, writing, reading. All numbers in the file are little-endian. */
#include "uffd/page_map_internal.h"

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/io.h"
#include "uffd/beside_internal.h"
#include "uffd/uffd_internal.h"

static const char MAGIC[8] = "FCVMPM1\n";

struct header {
	char magic[8];
	uint64_t checksum; /* fcu_hash of the header with 0 here, then of the bits */
	uint64_t memory_size;
	uint64_t fingerprint;
	uint64_t zero;
	uint64_t reserved[3];
};
_Static_assert(sizeof(struct header) == 64, "the header is part of the format");

enum { SCAN_BYTES = 1 << 20 };
/* 16 TiB of memory; keeps every sum far from its end. */
#define BITS_MAX ((size_t)512 << 20)

void fcu_page_map_clear(struct fcu_page_map *map) {
	free(map->bits);
	*map = (struct fcu_page_map){0};
}

static uint64_t checksum_of(const struct header *header, const uint64_t *bits, size_t size) {
	struct header copy = *header;
	copy.checksum = 0;
	return fcu_hash(fcu_hash(FCU_HASH_SEED, &copy, sizeof copy), bits, size);
}

static uint64_t count_bits(const uint64_t *bits, uint64_t pages) {
	uint64_t count = 0;
	for (size_t i = 0; i < fcu_words(pages); i++)
		count += (uint64_t)__builtin_popcountll(bits[i]);
	return count;
}

/* Fills the map from a whole file; what it says about itself must agree. */
static int from_file(const char *data, size_t size, struct fcu_page_map *map) {
	struct header header;
	if (size < sizeof header)
		return -EBADMSG;
	memcpy(&header, data, sizeof header);
	map->memory_size = le64toh(header.memory_size);
	map->fingerprint = le64toh(header.fingerprint);
	map->pages = map->memory_size / FCU_PAGE;
	size_t bytes = size - sizeof header;
	if (memcmp(header.magic, MAGIC, sizeof MAGIC) != 0 || map->memory_size % FCU_PAGE != 0 ||
	    map->pages > BITS_MAX * 8 || bytes != fcu_words(map->pages) * sizeof(uint64_t))
		return -EBADMSG;
	map->bits = fcu_set_new(map->pages);
	if (!map->bits)
		return -ENOMEM;
	memcpy(map->bits, data + sizeof header, bytes);
	if (checksum_of(&header, map->bits, bytes) != le64toh(header.checksum))
		return -EBADMSG;
	for (size_t i = 0; i < fcu_words(map->pages); i++)
		map->bits[i] = le64toh(map->bits[i]);
	map->zero = count_bits(map->bits, map->pages);
	return map->zero == le64toh(header.zero) ? 0 : -EBADMSG;
}

int fcu_page_map_read(const char *path, struct fcu_page_map *ret_map, struct fc_error *error) {
	_cleanup_free_ char *data = NULL;
	size_t size;
	struct fcu_page_map map = {0};
	int r = fc_io_read_file(path, BITS_MAX, &data, &size, error);
	if (r < 0)
		return r;
	r = from_file(data, size, &map);
	if (r == 0) {
		*ret_map = map;
		return 0;
	}
	fcu_page_map_clear(&map);
	return fc_error_set(error, -r, "read page map", path,
	                    r == -EBADMSG ? "remove it and take the snapshot again" : NULL,
	                    r == -EBADMSG ? "it is damaged" : NULL);
}

static void mark_zero(struct fcu_page_map *map, const uint8_t *data, uint64_t first, size_t pages) {
	for (size_t i = 0; i < pages; i++) {
		if (!fcu_is_zero(data + i * FCU_PAGE, FCU_PAGE))
			continue;
		fcu_add(map->bits, first + i);
		map->zero++;
	}
}

static int scan(int memory, const atomic_bool *cancelled, struct fcu_page_map *map, uint8_t *buffer) {
	for (uint64_t at = 0; at < map->memory_size; at += SCAN_BYTES) {
		uint64_t left = map->memory_size - at;
		size_t size = left < SCAN_BYTES ? (size_t)left : SCAN_BYTES;
		if (atomic_load(cancelled))
			return -ECANCELED;
		int r = fcu_pread_full(memory, buffer, size, at);
		if (r < 0)
			return r;
		mark_zero(map, buffer, at / FCU_PAGE, size / FCU_PAGE);
	}
	return fcu_fingerprint(memory, map->memory_size, &map->fingerprint);
}

int fcu_page_map_scan(int memory, uint64_t size, const atomic_bool *cancelled, struct fcu_page_map *ret_map,
                      struct fc_error *error) {
	struct fcu_page_map map = {.memory_size = size, .pages = size / FCU_PAGE, .bits = fcu_set_new(size / FCU_PAGE)};
	_cleanup_free_ uint8_t *buffer = malloc(SCAN_BYTES);
	int r = map.bits && buffer ? 0 : -ENOMEM;
	if (r == 0)
		r = scan(memory, cancelled, &map, buffer);
	if (r == 0) {
		*ret_map = map;
		return 0;
	}
	fcu_page_map_clear(&map);
	return fc_error_set(error, -r, "find zero pages", NULL, NULL,
	                    r == -EIO ? "the memory file could not be read to its end" : NULL);
}

int fcu_page_map_write(const struct fcu_page_map *map, const char *path, struct fc_error *error) {
	__attribute__((cleanup(fcu_beside_close))) struct fcu_beside beside = {.fd = -1};
	size_t bytes = fcu_words(map->pages) * sizeof(uint64_t);
	_cleanup_free_ uint64_t *bits = malloc(bytes + 1);
	if (!bits)
		return fc_error_set(error, ENOMEM, "write", path, NULL, NULL);
	for (size_t i = 0; i < fcu_words(map->pages); i++)
		bits[i] = htole64(map->bits[i]);
	struct header header = {.memory_size = htole64(map->memory_size),
	                        .fingerprint = htole64(map->fingerprint),
	                        .zero = htole64(map->zero)};
	memcpy(header.magic, MAGIC, sizeof MAGIC);
	header.checksum = htole64(checksum_of(&header, bits, bytes));
	int r = fcu_beside_open(&beside, path, error);
	if (r < 0)
		return r;
	r = fc_io_write_full(beside.fd, &header, sizeof header);
	if (r == 0)
		r = fc_io_write_full(beside.fd, bits, bytes);
	return r < 0 ? fc_error_set(error, -r, "write", path, NULL, NULL) : fcu_beside_publish(&beside, error);
}

bool fcu_page_map_zero(const struct fcu_page_map *map, uint64_t page, unsigned int shift) {
	if (!map->bits)
		return false;
	if (shift == FCU_PAGE_SHIFT)
		return fcu_has(map->bits, page);
	size_t words = ((size_t)1 << (shift - FCU_PAGE_SHIFT)) / FCU_WORD;
	for (size_t i = 0; i < words; i++) {
		if (~map->bits[page * words + i])
			return false;
	}
	return true;
}
