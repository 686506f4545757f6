// SPDX-License-Identifier: Apache-2.0
/*
 * core/lua/disk.c: fcvm.core.disk, the bindings of core/disk. Sizes are bytes; all calls block as long as the disk
 * takes.
 *
 *   disk.clone(src, dst)             "reflink" | "copy" | nil, err   EOPNOTSUPP: use disk.copy
 *   disk.copy(src, dst)              copier | nil, err
 *     copier:step(bytes)             done, total | nil, err          whole when done == total
 *     copier:close()                 removes an unfinished dst
 *   disk.reflinks(dir)               true | false | nil, err
 *   disk.publish(tmp, final, how)    true | nil, err                 how: "replace" (default), "new", "exchange"
 *   disk.sync(path)                  true | nil, err
 *   disk.write(path, data, mode)     true | nil, err                 mode: 0600 (384) where it is not given
 *   disk.read(path, max_bytes)       string | nil, err               EFBIG where the file is longer
 */
#include "disk/disk.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "base/io.h"
#include "lua/common.h"

static const char COPIER[] = "fcvm.disk.copier";
static const char BUFFER[] = "fcvm.disk.buffer";

/* A path: a string without a NUL, which would cut it. */
static const char *check_path(lua_State *L, int index) {
	size_t size;
	const char *path = luaL_checklstring(L, index, &size);
	luaL_argcheck(L, size > 0 && strlen(path) == size, index, "a path is not empty and has no zero byte");
	return path;
}

static int push_result(lua_State *L, int r, const struct fc_error *error) {
	if (r < 0)
		return fcl_error(L, error);
	lua_pushboolean(L, 1);
	return 1;
}

static int disk_clone(lua_State *L) {
	struct fc_error error;
	int r = fc_disk_clone(check_path(L, 1), check_path(L, 2), &error);
	if (r < 0)
		return fcl_error(L, &error);
	lua_pushstring(L, r == FC_DISK_REFLINK ? "reflink" : "copy");
	return 1;
}

static int disk_reflinks(lua_State *L) {
	struct fc_error error;
	int r = fc_disk_reflinks(check_path(L, 1), &error);
	if (r < 0)
		return fcl_error(L, &error);
	lua_pushboolean(L, r);
	return 1;
}

static int disk_copy(lua_State *L) {
	struct fc_error error;
	const char *src = check_path(L, 1);
	const char *dst = check_path(L, 2);
	struct fc_disk_copier **self = lua_newuserdatauv(L, sizeof(struct fc_disk_copier *), 0);
	*self = NULL;
	luaL_setmetatable(L, COPIER);
	if (fc_disk_copy_open(src, dst, self, &error) < 0)
		return fcl_error(L, &error);
	return 1;
}

static int copier_step(lua_State *L) {
	struct fc_error error;
	struct fc_disk_progress at;
	struct fc_disk_copier **self = luaL_checkudata(L, 1, COPIER);
	lua_Integer bytes = luaL_checkinteger(L, 2);
	luaL_argcheck(L, bytes > 0, 2, "a step is at least one byte");
	if (!*self)
		return fcl_closed(L, "copier");
	if (fc_disk_copy_step(*self, (size_t)bytes, &at, &error) < 0)
		return fcl_error(L, &error);
	lua_pushinteger(L, (lua_Integer)at.done);
	lua_pushinteger(L, (lua_Integer)at.total);
	return 2;
}

static int copier_close(lua_State *L) {
	struct fc_disk_copier **self = luaL_checkudata(L, 1, COPIER);
	fc_disk_copier_free(*self);
	*self = NULL;
	return 0;
}

static int copier_tostring(lua_State *L) {
	struct fc_disk_copier **self = luaL_checkudata(L, 1, COPIER);
	if (*self)
		lua_pushfstring(L, "%s: %p", COPIER, (void *)*self);
	else
		lua_pushfstring(L, "%s (closed)", COPIER);
	return 1;
}

static int disk_publish(lua_State *L) {
	static const char *const ways[] = {"replace", "new", "exchange", NULL};
	static const enum fc_disk_publish values[] = {FC_DISK_REPLACE, FC_DISK_NEW, FC_DISK_EXCHANGE};
	struct fc_error error;
	const char *tmp = check_path(L, 1);
	const char *final = check_path(L, 2);
	int way = luaL_checkoption(L, 3, "replace", ways);
	return push_result(L, fc_disk_publish(tmp, final, values[way], &error), &error);
}

static int disk_sync(lua_State *L) {
	struct fc_error error;
	return push_result(L, fc_disk_sync(check_path(L, 1), &error), &error);
}

static int disk_write(lua_State *L) {
	struct fc_error error;
	size_t size;
	const char *path = check_path(L, 1);
	const char *data = luaL_checklstring(L, 2, &size);
	lua_Integer mode = luaL_optinteger(L, 3, 0600);
	luaL_argcheck(L, mode >= 0 && mode <= 0777, 3, "a mode is 0 to 511 (octal 777)");
	return push_result(L, fc_disk_write(path, data, size, (mode_t)mode, &error), &error);
}

/* What is read lives in a userdata until it is a Lua string, since making one may raise. */
static int disk_read(lua_State *L) {
	struct fc_error error;
	size_t size;
	const char *path = check_path(L, 1);
	lua_Integer max = luaL_checkinteger(L, 2);
	luaL_argcheck(L, max >= 0 && max < INT_MAX, 2, "at most 2 GiB are read");
	char **data = lua_newuserdatauv(L, sizeof(char *), 0);
	*data = NULL;
	luaL_setmetatable(L, BUFFER);
	if (fc_io_read_file(path, (size_t)max, data, &size, &error) < 0)
		return fcl_error(L, &error);
	lua_pushlstring(L, *data, size);
	free(*data);
	*data = NULL;
	return 1;
}

static int buffer_gc(lua_State *L) {
	char **data = luaL_checkudata(L, 1, BUFFER);
	free(*data);
	*data = NULL;
	return 0;
}

int fcl_open_disk(lua_State *L) {
	static const luaL_Reg copier_methods[] = {{"step", copier_step}, {"close", copier_close}, {NULL, NULL}};
	static const luaL_Reg copier_meta[] = {
	        {"__gc", copier_close}, {"__close", copier_close}, {"__tostring", copier_tostring}, {NULL, NULL}};
	static const luaL_Reg no_methods[] = {{NULL, NULL}};
	static const luaL_Reg buffer_meta[] = {{"__gc", buffer_gc}, {NULL, NULL}};
	static const luaL_Reg functions[] = {
	        {"clone", disk_clone}, {"copy", disk_copy},   {"reflinks", disk_reflinks}, {"publish", disk_publish},
	        {"sync", disk_sync},   {"write", disk_write}, {"read", disk_read},         {NULL, NULL},
	};
	fcl_type(L, COPIER, copier_methods, copier_meta);
	fcl_type(L, BUFFER, no_methods, buffer_meta);
	luaL_newlib(L, functions);
	return 1;
}
