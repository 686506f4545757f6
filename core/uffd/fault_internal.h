// SPDX-License-Identifier: Apache-2.0
/*
 * core/uffd/fault_internal.h: pages put into a VM: because it faulted, because a recording says so; and pages that it
 * gave back. All of it is called by the client's worker alone, and none of it waits for anybody but the kernel.
 */
#ifndef FCVM_UFFD_FAULT_INTERNAL_H
#define FCVM_UFFD_FAULT_INTERNAL_H

#include <linux/userfaultfd.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "uffd/client_internal.h"

/* How an attempt went; failures are -errno. */
enum fcu_outcome {
	FCU_DONE, /* served; of a replay: all of it is done */
	FCU_MORE, /* of a replay: the slice is used up */
	FCU_WAIT, /* contents must come first: fcu_fault_serve says which; of a replay: from the loading thread */
	FCU_LATER /* the kernel refuses while a removal is queued: read the events, then try again */
};

/* What a fault is answered with, beside the page itself. */
enum fcu_manner {
	FCU_WAKE_FIRST, /* a CPU is free: the page first and its thread woken, then the neighbours while that runs */
	FCU_WAKE_LAST   /* none is: the whole window, then one wake-up */
};

/*
 * Answers the fault of `page`, which was read from the userfaultfd at `since`. FCU_WAIT: the memory file's bytes from
 * *ret_offset, *ret_size long, must be read into the page cache first; where `force`, they are read by the copy itself.
 * -EFAULT: the memory file was cut short; -ENOMEM; -ESRCH: the VM is gone; others of ioctl_userfaultfd(2).
 */
int fcu_fault_serve(struct fcu_client *client, uint64_t page, uint64_t since, enum fcu_manner manner, bool force,
                    uint64_t *ret_offset, uint64_t *ret_size);

/* Goes on with the replay by about `pages` pages. Errors as above. */
int fcu_fault_replay(struct fcu_client *client, uint32_t pages);

/*
 * Any event that is no fault: pages removed or unmapped, memory moved, a child forked. 0, or -EPROTO with *error where
 * the VM cannot be served any more.
 */
int fcu_fault_event(struct fcu_client *client, const struct uffd_msg *event, struct fc_error *error);

#endif
