// SPDX-License-Identifier: Apache-2.0
/*
 * core/disk/disk.h: files as fcvm keeps them: disks cloned or copied with their holes, records and snapshots published
 * whole or not at all.
 *
 * Nothing here follows a symlink in the last part of a path that it creates, and nothing replaces a file unless its
 * description says so. What is made is readable and writable by its owner alone (0600) unless a mode is given.
 * All calls block for as long as the disk takes; the copier alone does its work in steps that the caller sizes. Any
 * thread; one copier in one thread at a time. Sizes and offsets are bytes.
 */
#ifndef FCVM_DISK_DISK_H
#define FCVM_DISK_DISK_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/error.h"

/* Up to this size fc_disk_clone copies where the file system cannot share blocks. */
#define FC_DISK_SMALL ((off_t)1 << 20)

enum fc_disk_clone {
	FC_DISK_REFLINK, /* the clone shares the source's blocks until one of them is written (FICLONE) */
	FC_DISK_COPY     /* the file was small and was copied */
};

/*
 * Makes `dst` a clone of the regular file `src`, by FICLONE, or, where that cannot be done and the file is small, by a
 * copy. Returns an enum fc_disk_clone or -errno; a failed clone leaves no `dst`.
 * EEXIST: there is something at `dst`. EINVAL: `src` is no regular file. EOPNOTSUPP: the file is not small and the file
 * system cannot share blocks, or `dst` is on another one: fc_disk_copy_open is the way. Else what open(2), ioctl(2),
 * read(2) and write(2) say.
 */
int fc_disk_clone(const char *src, const char *dst, struct fc_error *error);

/*
 * Whether files in the directory `dir` can share blocks, found by trying it there with two files that have no name a
 * moment later. Returns 1, 0 or -errno (the directory is missing, not writable, full).
 */
int fc_disk_reflinks(const char *dir, struct fc_error *error);

/*
 * A copy in progress. It ends as a whole file or as none: an unfinished one is removed when the copier is freed. Holes
 * of the source stay holes.
 */
struct fc_disk_copier;

/* Where a copy is. */
struct fc_disk_progress {
	uint64_t done;  /* bytes of the source that are dealt with; holes count */
	uint64_t total; /* the source's size when the copy began */
};

/* Begins the copy of the regular file `src` to `dst`. EEXIST, EINVAL as above. The caller frees *ret_copier. */
int fc_disk_copy_open(const char *src, const char *dst, struct fc_disk_copier **ret_copier, struct fc_error *error);

/*
 * Copies at most `bytes` (1 or more) of data, passing over holes, and says where the copy is: done == total means that
 * the file is whole. EIO: the source became shorter meanwhile. ENOSPC, EDQUOT: the disk is full; the step may be tried
 * again.
 */
int fc_disk_copy_step(struct fc_disk_copier *copier, size_t bytes, struct fc_disk_progress *ret_progress,
                      struct fc_error *error);

/* Ends the copy; removes `dst` unless it is whole or something else stands in its place by now. NULL is fine. */
void fc_disk_copier_free(struct fc_disk_copier *copier);

/* Waits until the file or directory at `path` is on the disk (fsync). */
int fc_disk_sync(const char *path, struct fc_error *error);

enum fc_disk_publish {
	FC_DISK_REPLACE, /* what rename(2) may replace is replaced: a file by a file, an empty directory by a directory
	                  */
	FC_DISK_NEW,     /* EEXIST where there is something at the final name */
	FC_DISK_EXCHANGE /* the two names change places; ENOENT where there is nothing at the final name */
};

/*
 * Gives what is at `tmp` the name `final`, in the same file system, so that neither a reader nor a loss of power ever
 * sees half of it: syncs it, renames it, syncs the directories of both names. Of a directory, the regular files
 * directly in it and itself are synced; the caller syncs what lies deeper.
 */
int fc_disk_publish(const char *tmp, const char *final, enum fc_disk_publish how, struct fc_error *error);

/*
 * Writes the whole file at `path`, with exactly `mode`, by publishing: readers see the old file or the new one. The
 * interim file is ".fcvm-XXXXXX" in the same directory; it is removed on failure and stays only where the process is
 * killed meanwhile.
 */
int fc_disk_write(const char *path, const void *data, size_t size, mode_t mode, struct fc_error *error);

#endif
