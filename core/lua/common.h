// SPDX-License-Identifier: Apache-2.0
/*
 * core/lua/common.h: what the bindings share. One file a noun; each checks its arguments, calls libfcvm, pushes
 * results.
 *
 * Any call of the Lua API may longjmp: hold no descriptor, lock or allocation across one. Make the userdata empty with
 * its metatable, acquire, store, push. Misuse raises; what can go wrong with right arguments is `nil, err`.
 */
#ifndef FCVM_LUA_COMMON_H
#define FCVM_LUA_COMMON_H

#include <lauxlib.h>
#include <lua.h>

#include "base/error.h"

/* Pushes nil and the error as a table {op, subject, errno, name, message, hint} with __tostring. Returns 2. */
int fcl_error(lua_State *L, const struct fc_error *error);

/* Raises "NOUN is closed". Does not return; the int is for `return fcl_closed(...)`. */
int fcl_closed(lua_State *L, const char *noun);

/*
 * Makes the metatable `name` with `methods` as __index (and __name) and `meta` as metamethods, once per state.
 * Leaves nothing on the stack. Both lists end with {NULL, NULL}.
 */
void fcl_type(lua_State *L, const char *name, const luaL_Reg *methods, const luaL_Reg *meta);

/* Field readers of an options table at `index`; each raises on a wrong type and leaves the stack as it was. */
const char *fcl_opt_string(lua_State *L, int index, const char *key, const char *missing);
lua_Integer fcl_opt_integer(lua_State *L, int index, const char *key, lua_Integer least, lua_Integer most,
                            lua_Integer missing);
int fcl_opt_boolean(lua_State *L, int index, const char *key, int missing);
lua_Number fcl_opt_number(lua_State *L, int index, const char *key, lua_Number missing);

/* Raises where the table at `index` has a key that is not in `known` (NULL-terminated), naming it. */
void fcl_only_keys(lua_State *L, int index, const char *const *known);

int fcl_open_proc(lua_State *L);
int fcl_open_net(lua_State *L);
int fcl_open_disk(lua_State *L);
int fcl_open_http(lua_State *L);
int fcl_open_vmm(lua_State *L);
int fcl_open_guest(lua_State *L);
int fcl_open_uffd(lua_State *L);

/* The whole core as one table; what `require "fcvm.core"` gives. */
__attribute__((visibility("default"))) int luaopen_fcvm_core(lua_State *L);

#endif
