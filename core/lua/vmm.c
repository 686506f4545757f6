// SPDX-License-Identifier: Apache-2.0
/*
 * core/lua/vmm.c: fcvm.core.vmm, the binding of core/vmm. The timeout is in seconds.
 *
 *   vmm.request(socket, method, path, json|nil, timeout=30)   call | nil, err
 *     call:fileno()    descriptor: readable means "call step"
 *     call:step()      nil (under way) | {status=, headers=, body=}, body | nil, err with Firecracker's own words
 *     call:close()     ends it; Firecracker may carry it out nonetheless
 */
#include "vmm/vmm.h"

#include <string.h>

#include "lua/answer.h"
#include "lua/common.h"

static const char CALL[] = "fcvm.vmm.call";

static const char *check_text(lua_State *L, int index) {
	size_t size;
	const char *text = luaL_checklstring(L, index, &size);
	luaL_argcheck(L, size > 0 && strlen(text) == size, index, "it is not empty and has no zero byte");
	return text;
}

static int vmm_request(lua_State *L) {
	struct fc_error error;
	size_t size = 0;
	const char *socket = check_text(L, 1);
	const char *method = check_text(L, 2);
	const char *path = check_text(L, 3);
	const char *json = luaL_optlstring(L, 4, NULL, &size);
	int64_t timeout = fcl_timeout_ms(L, luaL_optnumber(L, 5, 30));
	struct fc_vmm_call **self = lua_newuserdatauv(L, sizeof(struct fc_vmm_call *), 0);
	*self = NULL;
	luaL_setmetatable(L, CALL);
	if (fc_vmm_call_start(socket, method, path, json, size, timeout, self, &error) < 0)
		return fcl_error(L, &error);
	return 1;
}

static struct fc_vmm_call *check_open(lua_State *L) {
	struct fc_vmm_call **self = luaL_checkudata(L, 1, CALL);
	if (!*self)
		fcl_closed(L, "call");
	return *self;
}

static int call_fileno(lua_State *L) {
	lua_pushinteger(L, fc_vmm_call_fileno(check_open(L)));
	return 1;
}

static int call_step(lua_State *L) {
	struct fc_error error;
	struct fc_vmm_call *call = check_open(L);
	int r = fc_vmm_call_step(call, &error);
	if (r < 0)
		return fcl_error(L, &error);
	if (r == 0) {
		lua_pushnil(L);
		return 1;
	}
	struct fc_http_answer answer = fc_vmm_call_answer(call);
	fcl_push_answer(L, &answer);
	lua_getfield(L, -1, "body");
	return 2;
}

static int call_close(lua_State *L) {
	struct fc_vmm_call **self = luaL_checkudata(L, 1, CALL);
	fc_vmm_call_free(*self);
	*self = NULL;
	return 0;
}

static int call_tostring(lua_State *L) {
	struct fc_vmm_call **self = luaL_checkudata(L, 1, CALL);
	if (*self)
		lua_pushfstring(L, "%s: %p", CALL, (void *)*self);
	else
		lua_pushfstring(L, "%s (closed)", CALL);
	return 1;
}

int fcl_open_vmm(lua_State *L) {
	static const luaL_Reg methods[] = {
	        {"fileno", call_fileno}, {"step", call_step}, {"close", call_close}, {NULL, NULL}};
	static const luaL_Reg meta[] = {
	        {"__gc", call_close}, {"__close", call_close}, {"__tostring", call_tostring}, {NULL, NULL}};
	static const luaL_Reg functions[] = {{"request", vmm_request}, {NULL, NULL}};
	fcl_type(L, CALL, methods, meta);
	luaL_newlib(L, functions);
	return 1;
}
