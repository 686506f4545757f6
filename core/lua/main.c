// SPDX-License-Identifier: Apache-2.0
/*
 * core/lua/main.c: the fcvm binary: a Lua state with the core in it, which runs lua/fcvm/cli.lua (a fork server:
 * lua/fcvm/fork_server.lua).
 *
 * Its Lua files lie beside it, found from the binary's own place (PREFIX/bin/fcvm -> PREFIX/share/fcvm/lua), so that a
 * staged tree, an installed one and a copied one all work without a setting.
 */
#include <errno.h>
#include <lauxlib.h>
#include <limits.h>
#include <lua.h>
#include <lualib.h>
#include <malloc.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "lua/common.h"

/* The traceback is for those who write fcvm: a user's errors are tables, which cli.lua prints as sentences. */
static int on_error(lua_State *L) {
	if (lua_type(L, 1) == LUA_TSTRING)
		luaL_traceback(L, L, lua_tostring(L, 1), 1);
	return 1;
}

static int find_prefix(char *prefix, size_t size) {
	ssize_t n = readlink("/proc/self/exe", prefix, size - 1);
	if (n < 0)
		return -errno;
	prefix[n] = '\0';
	for (int up = 0; up < 2; up++) {
		char *slash = strrchr(prefix, '/');
		if (!slash)
			return -ENOENT;
		*slash = '\0';
	}
	return 0;
}

/* Puts fcvm's own Lua files before the system's, and takes LUA_PATH and LUA_CPATH out of play: a root tool does not run
 * code that an environment names. */
static void set_path(lua_State *L, const char *prefix) {
	lua_getglobal(L, "package");
	lua_pushfstring(L,
	                "%s/share/fcvm/lua/?.lua;%s/share/fcvm/lua/?/init.lua;/usr/share/lua/5.4/?.lua;/usr/share/lua/"
	                "5.4/?/init.lua",
	                prefix, prefix);
	lua_setfield(L, -2, "path");
	lua_getfield(L, -1, "cpath");
	lua_setfield(L, -2, "cpath");
	lua_pop(L, 1);
}

static int run(lua_State *L) {
	int argc = (int)lua_tointeger(L, 1);
	char **argv = lua_touserdata(L, 2);
	const char *prefix = lua_tostring(L, 3);
	lua_pushboolean(L, 1);
	lua_setfield(L, LUA_REGISTRYINDEX, "LUA_NOENV");
	luaL_openlibs(L);
	set_path(L, prefix);
	luaL_getsubtable(L, LUA_REGISTRYINDEX, LUA_PRELOAD_TABLE);
	lua_pushcfunction(L, luaopen_fcvm_core);
	lua_setfield(L, -2, "fcvm.core");
	lua_createtable(L, argc, 1);
	for (int i = 0; i < argc; i++) {
		lua_pushstring(L, argv[i]);
		lua_rawseti(L, -2, i);
	}
	lua_pushstring(L, prefix);
	lua_setfield(L, -2, "prefix");
	lua_setglobal(L, "arg");
	lua_pushcfunction(L, on_error);
	lua_getglobal(L, "require");
	/* The command line opens an event loop, which a fork server's processes must not share. */
	lua_pushstring(L, argc > 1 && strcmp(argv[1], "fork-server") == 0 ? "fcvm.fork_server" : "fcvm.cli");
	if (lua_pcall(L, 1, 1, -3) != LUA_OK)
		return lua_error(L);
	lua_getfield(L, -1, "main");
	lua_getglobal(L, "arg");
	if (lua_pcall(L, 1, 1, -4) != LUA_OK)
		return lua_error(L);
	return 1;
}

int main(int argc, char **argv) {
	/* One arena: the loop is one thread, and each further arena would keep memory that a supervisor has no use for.
	 */
	mallopt(M_ARENA_MAX, 1);
	signal(SIGPIPE, SIG_IGN);
	/* A parent may leave it ignored, and the status of a child would then be lost. */
	signal(SIGCHLD, SIG_DFL);
	char prefix[PATH_MAX];
	int r = find_prefix(prefix, sizeof prefix);
	lua_State *L = luaL_newstate();
	if (r < 0 || !L) {
		fprintf(stderr, "fcvm: start: %s\n", strerror(r < 0 ? -r : ENOMEM));
		return 70;
	}
	lua_pushcfunction(L, run);
	lua_pushinteger(L, argc);
	lua_pushlightuserdata(L, argv);
	lua_pushstring(L, prefix);
	int status = 70;
	if (lua_pcall(L, 3, 1, 0) == LUA_OK)
		status = (int)lua_tointeger(L, -1);
	else
		fprintf(stderr, "fcvm: %s\n", luaL_tolstring(L, -1, NULL));
	lua_close(L);
	return status;
}
