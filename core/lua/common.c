// SPDX-License-Identifier: Apache-2.0
#include "lua/common.h"

#include <string.h>

static const char ERROR_TYPE[] = "fcvm.error";

static int error_tostring(lua_State *L) {
	const char *part[4];
	static const char *const keys[] = {"op", "subject", "message", "hint"};
	for (int i = 0; i < 4; i++) {
		lua_getfield(L, 1, keys[i]);
		part[i] = lua_tostring(L, -1);
	}
	lua_pushfstring(L, "%s%s%s: %s", part[0] ? part[0] : "fcvm", part[1] && part[1][0] ? " " : "",
	                part[1] ? part[1] : "", part[2] ? part[2] : "failed");
	if (part[3] && part[3][0])
		lua_pushfstring(L, " (%s)", part[3]);
	else
		lua_pushliteral(L, "");
	lua_concat(L, 2);
	return 1;
}

static void set_text(lua_State *L, const char *key, const char *text) {
	if (!text[0])
		return;
	lua_pushstring(L, text);
	lua_setfield(L, -2, key);
}

int fcl_error(lua_State *L, const struct fc_error *error) {
	lua_pushnil(L);
	lua_createtable(L, 0, 6);
	set_text(L, "op", error->op);
	set_text(L, "subject", error->subject);
	set_text(L, "message", error->message[0] ? error->message : strerror(error->err));
	set_text(L, "hint", error->hint);
	lua_pushinteger(L, error->err);
	lua_setfield(L, -2, "errno");
	const char *name = strerrorname_np(error->err);
	set_text(L, "name", name ? name : "EUNKNOWN");
	if (luaL_newmetatable(L, ERROR_TYPE)) {
		lua_pushcfunction(L, error_tostring);
		lua_setfield(L, -2, "__tostring");
	}
	lua_setmetatable(L, -2);
	return 2;
}

int fcl_closed(lua_State *L, const char *noun) {
	return luaL_error(L, "this %s is closed", noun);
}

void fcl_type(lua_State *L, const char *name, const luaL_Reg *methods, const luaL_Reg *meta) {
	if (luaL_newmetatable(L, name)) {
		luaL_setfuncs(L, meta, 0);
		lua_newtable(L);
		luaL_setfuncs(L, methods, 0);
		lua_setfield(L, -2, "__index");
	}
	lua_pop(L, 1);
}

const char *fcl_opt_string(lua_State *L, int index, const char *key, const char *missing) {
	int type = lua_getfield(L, index, key);
	if (type != LUA_TNIL && type != LUA_TSTRING)
		luaL_error(L, "'%s' must be a string, not a %s", key, lua_typename(L, type));
	/* The string lives as long as the table holds it, which is the caller's argument. */
	const char *value = type == LUA_TNIL ? missing : lua_tostring(L, -1);
	lua_pop(L, 1);
	return value;
}

lua_Integer fcl_opt_integer(lua_State *L, int index, const char *key, lua_Integer least, lua_Integer most,
                            lua_Integer missing) {
	if (lua_getfield(L, index, key) == LUA_TNIL) {
		lua_pop(L, 1);
		return missing;
	}
	int exact;
	lua_Integer value = lua_tointegerx(L, -1, &exact);
	if (!exact || lua_type(L, -1) != LUA_TNUMBER)
		luaL_error(L, "'%s' must be an integer", key);
	if (value < least || value > most)
		luaL_error(L, "'%s' is %I, which is not in %I to %I", key, value, least, most);
	lua_pop(L, 1);
	return value;
}

int fcl_opt_boolean(lua_State *L, int index, const char *key, int missing) {
	int type = lua_getfield(L, index, key);
	if (type != LUA_TNIL && type != LUA_TBOOLEAN)
		luaL_error(L, "'%s' must be true or false, not a %s", key, lua_typename(L, type));
	int value = type == LUA_TNIL ? missing : lua_toboolean(L, -1);
	lua_pop(L, 1);
	return value;
}

lua_Number fcl_opt_number(lua_State *L, int index, const char *key, lua_Number missing) {
	int type = lua_getfield(L, index, key);
	if (type != LUA_TNIL && type != LUA_TNUMBER)
		luaL_error(L, "'%s' must be a number, not a %s", key, lua_typename(L, type));
	lua_Number value = type == LUA_TNIL ? missing : lua_tonumber(L, -1);
	lua_pop(L, 1);
	return value;
}

void fcl_only_keys(lua_State *L, int index, const char *const *known) {
	lua_pushnil(L);
	while (lua_next(L, index < 0 ? index - 1 : index)) {
		lua_pop(L, 1);
		if (lua_type(L, -1) != LUA_TSTRING)
			luaL_error(L, "options have names; a %s is none", luaL_typename(L, -1));
		const char *key = lua_tostring(L, -1);
		const char *const *name = known;
		while (*name && strcmp(*name, key) != 0)
			name++;
		if (!*name)
			luaL_error(L, "unknown option '%s'", key);
	}
}
