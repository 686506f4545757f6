// SPDX-License-Identifier: Apache-2.0
/* core/lua/core.c: the whole core as one Lua module, `require "fcvm.core"`. */
#include "lua/common.h"

int luaopen_fcvm_core(lua_State *L) {
	static const luaL_Reg nouns[] = {
	        {"proc", fcl_open_proc}, {"net", fcl_open_net},     {"disk", fcl_open_disk}, {"http", fcl_open_http},
	        {"vmm", fcl_open_vmm},   {"guest", fcl_open_guest}, {"uffd", fcl_open_uffd}, {NULL, NULL},
	};
	lua_newtable(L);
	for (const luaL_Reg *noun = nouns; noun->name; noun++) {
		noun->func(L);
		lua_setfield(L, -2, noun->name);
	}
	return 1;
}
