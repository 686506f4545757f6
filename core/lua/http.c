// SPDX-License-Identifier: Apache-2.0
/*
 * core/lua/http.c: fcvm.core.http, the binding of core/http. Times are seconds, sizes bytes.
 *
 *   http.request{ url=, unix=nil, socket=nil, method=nil, headers={"K: V"}, body=nil, timeout=30, max_body=4 MiB,
 * follow=false, proxy=false }     request | nil, err request:fileno()              descriptor: readable means "call
 * step" request:step()                nil (under way) | {status=, headers={lowercase name = value}, body=} | nil, err
 *     request:close()               ends it, wherever it is
 *
 * Where a header came more than once, its values are joined by ", ".
 */
#include "http/http.h"

#include <limits.h>
#include <math.h>
#include <string.h>

#include "lua/answer.h"
#include "lua/common.h"

static const char REQUEST[] = "fcvm.http.request";

int64_t fcl_timeout_ms(lua_State *L, lua_Number seconds) {
	/* The comparison is false for a NaN too. */
	if (!(seconds > 0 && seconds * 1000 <= (lua_Number)FC_HTTP_TIMEOUT_MAX_MS))
		luaL_error(L, "a timeout is more than 0 seconds and at most a day");
	return (int64_t)ceil(seconds * 1000);
}

void fcl_push_answer(lua_State *L, const struct fc_http_answer *answer) {
	lua_createtable(L, 0, 3);
	lua_pushinteger(L, answer->status);
	lua_setfield(L, -2, "status");
	lua_createtable(L, 0, 8);
	for (size_t i = 0; i < answer->header_count; i++) {
		const struct fc_http_header *header = &answer->headers[i];
		if (lua_getfield(L, -1, header->name) == LUA_TSTRING) {
			lua_pushfstring(L, "%s, %s", lua_tostring(L, -1), header->value);
			lua_remove(L, -2);
		} else {
			lua_pop(L, 1);
			lua_pushstring(L, header->value);
		}
		lua_setfield(L, -2, header->name);
	}
	lua_setfield(L, -2, "headers");
	lua_pushlstring(L, answer->body, answer->body_size);
	lua_setfield(L, -2, "body");
}

/* Reads a text that goes into the request's head: a zero byte would cut it. */
static const char *head_text(lua_State *L, const char *key) {
	const char *text = fcl_opt_string(L, 1, key, NULL);
	lua_getfield(L, 1, key);
	if (text && strlen(text) != lua_rawlen(L, -1))
		luaL_error(L, "'%s' has a zero byte in it", key);
	lua_pop(L, 1);
	return text;
}

/* Reads the header lines into an array that stays on the stack (or nil), as the strings stay in their table. */
static void read_headers(lua_State *L, struct fc_http_options *options) {
	int type = lua_getfield(L, 1, "headers");
	if (type == LUA_TNIL)
		return;
	if (type != LUA_TTABLE)
		luaL_error(L, "'headers' must be a list of strings, not a %s", lua_typename(L, type));
	int list = lua_gettop(L);
	lua_Unsigned count = lua_rawlen(L, list);
	if (count == 0)
		return;
	if (count > FC_HTTP_HEADERS_MAX)
		luaL_error(L, "more than %d headers", (int)FC_HTTP_HEADERS_MAX);
	const char **lines = lua_newuserdatauv(L, (size_t)count * sizeof *lines, 0);
	for (lua_Unsigned i = 0; i < count; i++) {
		if (lua_rawgeti(L, list, (lua_Integer)i + 1) != LUA_TSTRING)
			luaL_error(L, "'headers' must be a list of strings");
		lines[i] = lua_tostring(L, -1);
		if (strlen(lines[i]) != lua_rawlen(L, -1))
			luaL_error(L, "header %d has a zero byte in it", (int)i + 1);
		lua_pop(L, 1);
	}
	options->headers = lines;
	options->header_count = (size_t)count;
}

static void read_body(lua_State *L, struct fc_http_options *options) {
	options->body = fcl_opt_string(L, 1, "body", NULL);
	lua_getfield(L, 1, "body");
	options->body_size = lua_rawlen(L, -1);
	lua_pop(L, 1);
}

static int http_request(lua_State *L) {
	static const char *const known[] = {"url",      "unix",   "method", "headers", "body", "timeout",
	                                    "max_body", "follow", "proxy",  "socket",  NULL};
	struct fc_error error;
	struct fc_http_options options = {0};
	luaL_checktype(L, 1, LUA_TTABLE);
	lua_settop(L, 1);
	fcl_only_keys(L, 1, known);
	options.url = head_text(L, "url");
	if (!options.url)
		return luaL_error(L, "'url' is missing");
	options.unix_path = head_text(L, "unix");
	options.socket = (int)fcl_opt_integer(L, 1, "socket", 1, INT_MAX, 0);
	options.method = head_text(L, "method");
	options.timeout_ms = fcl_timeout_ms(L, fcl_opt_number(L, 1, "timeout", 30));
	options.max_body = (size_t)fcl_opt_integer(L, 1, "max_body", 1, (lua_Integer)1 << 40, FC_HTTP_BODY_DEFAULT);
	options.follow = fcl_opt_boolean(L, 1, "follow", 0);
	options.proxy = fcl_opt_boolean(L, 1, "proxy", 0);
	read_body(L, &options);
	read_headers(L, &options);
	struct fc_http **self = lua_newuserdatauv(L, sizeof(struct fc_http *), 0);
	*self = NULL;
	luaL_setmetatable(L, REQUEST);
	if (fc_http_start(&options, self, &error) < 0)
		return fcl_error(L, &error);
	return 1;
}

static struct fc_http *check_open(lua_State *L) {
	struct fc_http **self = luaL_checkudata(L, 1, REQUEST);
	if (!*self)
		fcl_closed(L, "request");
	return *self;
}

static int request_fileno(lua_State *L) {
	lua_pushinteger(L, fc_http_fileno(check_open(L)));
	return 1;
}

static int request_step(lua_State *L) {
	struct fc_error error;
	struct fc_http *http = check_open(L);
	int r = fc_http_step(http, &error);
	if (r < 0)
		return fcl_error(L, &error);
	if (r == 0) {
		lua_pushnil(L);
		return 1;
	}
	struct fc_http_answer answer = fc_http_answer(http);
	fcl_push_answer(L, &answer);
	return 1;
}

static int request_close(lua_State *L) {
	struct fc_http **self = luaL_checkudata(L, 1, REQUEST);
	fc_http_free(*self);
	*self = NULL;
	return 0;
}

static int request_tostring(lua_State *L) {
	struct fc_http **self = luaL_checkudata(L, 1, REQUEST);
	if (*self)
		lua_pushfstring(L, "%s: %p", REQUEST, (void *)*self);
	else
		lua_pushfstring(L, "%s (closed)", REQUEST);
	return 1;
}

/* prepare(): what the first request would load, loaded now, for the processes that are forked from here. True. */
static int http_prepare(lua_State *L) {
	struct fc_error error = {0};
	int r = fc_http_init(&error);
	if (r < 0)
		return fcl_error(L, &error);
	lua_pushboolean(L, 1);
	return 1;
}

int fcl_open_http(lua_State *L) {
	static const luaL_Reg methods[] = {
	        {"fileno", request_fileno}, {"step", request_step}, {"close", request_close}, {NULL, NULL}};
	static const luaL_Reg meta[] = {
	        {"__gc", request_close}, {"__close", request_close}, {"__tostring", request_tostring}, {NULL, NULL}};
	static const luaL_Reg functions[] = {{"request", http_request}, {"prepare", http_prepare}, {NULL, NULL}};
	fcl_type(L, REQUEST, methods, meta);
	luaL_newlib(L, functions);
	return 1;
}
