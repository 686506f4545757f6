// SPDX-License-Identifier: Apache-2.0
/* core/uffd/uffd_files.c: what is common to the files beside a memory file: hash, fingerprint, whole reads. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

#include "uffd/uffd_internal.h"

enum { FINGERPRINT_PAGES = 64 };

uint64_t fcu_hash(uint64_t hash, const void *data, size_t size) {
	static const uint64_t prime = UINT64_C(0x100000001b3);
	const uint8_t *at = data;
	for (; size >= sizeof(uint64_t); at += sizeof(uint64_t), size -= sizeof(uint64_t)) {
		uint64_t word;
		memcpy(&word, at, sizeof word);
		hash = (hash ^ word) * prime;
		/* A word's high bytes would never reach the hash's low ones by multiplication alone. */
		hash ^= hash >> 29;
	}
	for (; size > 0; at++, size--)
		hash = (hash ^ *at) * prime;
	return hash;
}

int fcu_pread_full(int fd, void *data, size_t size, uint64_t offset) {
	size_t done = 0;
	while (done < size) {
		ssize_t n = pread(fd, (char *)data + done, size - done, (off_t)(offset + done));
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		if (n == 0)
			return -EIO;
		done += (size_t)n;
	}
	return 0;
}

/* In the middle of each stretch: a guest's first and last pages are alike in all its snapshots. */
static uint64_t sample_at(uint64_t pages, uint64_t samples, uint64_t i) {
	return (pages * (2 * i + 1) / (2 * samples)) * FCU_PAGE;
}

int fcu_fingerprint(int fd, uint64_t size, uint64_t *ret_fingerprint) {
	uint8_t page[FCU_PAGE];
	uint64_t pages = size / FCU_PAGE;
	uint64_t samples = pages < FINGERPRINT_PAGES ? pages : FINGERPRINT_PAGES;
	uint64_t hash = fcu_hash(FCU_HASH_SEED, &size, sizeof size);
	/* All are asked for before the first is waited for: on a cold disk that is one wait and not 64. */
	for (uint64_t i = 0; i < samples; i++)
		posix_fadvise(fd, (off_t)sample_at(pages, samples, i), FCU_PAGE, POSIX_FADV_WILLNEED);
	for (uint64_t i = 0; i < samples; i++) {
		int r = fcu_pread_full(fd, page, sizeof page, sample_at(pages, samples, i));
		if (r < 0)
			return r;
		hash = fcu_hash(hash, page, sizeof page);
	}
	*ret_fingerprint = hash;
	return 0;
}

bool fcu_is_zero(const void *data, size_t size) {
	/* Compares the data with itself moved by a byte, which memcmp does at the speed of memory. */
	const uint8_t *bytes = data;
	return bytes[0] == 0 && memcmp(bytes, bytes + 1, size - 1) == 0;
}
