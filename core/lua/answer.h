// SPDX-License-Identifier: Apache-2.0
/* core/lua/answer.h: what the bindings of core/http and core/vmm share; both are in core/lua/http.c. */
#ifndef FCVM_LUA_ANSWER_H
#define FCVM_LUA_ANSWER_H

#include <lua.h>
#include <stdint.h>

#include "http/http.h"

/* Seconds as milliseconds, rounded up. Raises where they are not in what core/http allows. */
int64_t fcl_timeout_ms(lua_State *L, lua_Number seconds);

/* Pushes {status=, headers={lowercase name = value}, body=}. */
void fcl_push_answer(lua_State *L, const struct fc_http_answer *answer);

#endif
