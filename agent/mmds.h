// SPDX-License-Identifier: Apache-2.0
/* agent/mmds.h: the plan out of Firecracker's metadata service, version 2 (docs/mmds of Firecracker 1.12). */
#ifndef FCVM_AGENT_MMDS_H
#define FCVM_AGENT_MMDS_H

#include "base/error.h"
#include "text.h"

/*
 * Reads /plan into *plan, trying again for `seconds`: the service answers from the first moment, the interface may not
 * be up yet. Blocks until then at most. Returns 0, or the last failure.
 */
int fc_mmds_read_plan(unsigned seconds, struct fc_text *plan, struct fc_error *error);

#endif
