// SPDX-License-Identifier: Apache-2.0
/* core/lua/core.c: the whole core as one Lua module, `require "fcvm.core"`. */
#include "lua/common.h"

int luaopen_fcvm_core(lua_State *L) {
	lua_newtable(L);
	return 1;
}
