// SPDX-License-Identifier: Apache-2.0
/*
 * core/lua/guest.c: fcvm.core.guest, the frames of core/guest/protocol.h.
 *
 * guest.version, .version_least; guest.types (name to number); guest.limits {payload, window, sessions, plan, ...};
 * guest.ports {agent, ready}.
 */
#include <string.h>

#include "guest/frames.h"
#include "lua/common.h"

static const char DECODER[] = "fcvm.decoder";

struct decoder {
	struct fc_decoder decoder;
	int closed;
};

static struct decoder *check_decoder(lua_State *L) {
	struct decoder *self = luaL_checkudata(L, 1, DECODER);
	if (self->closed)
		fcl_closed(L, "decoder");
	return self;
}

/*
 * guest.encode(type, stream, payload) -> string
 *
 * One frame. Raises where `payload` is over limits.payload or a number is no byte.
 */
static int l_encode(lua_State *L) {
	lua_Integer type = luaL_checkinteger(L, 1);
	lua_Integer stream = luaL_checkinteger(L, 2);
	size_t size;
	const char *payload = luaL_optlstring(L, 3, "", &size);
	luaL_argcheck(L, type >= 1 && type <= 255, 1, "a type is 1 to 255");
	luaL_argcheck(L, stream >= 0 && stream <= 255, 2, "a stream is 0 to 255");
	luaL_argcheck(L, size <= FC_GUEST_PAYLOAD_MAX, 3, "the payload is over the limit");
	unsigned char header[FC_GUEST_HEADER_SIZE];
	fc_frame_header(header, (uint8_t)type, (uint8_t)stream, (uint32_t)size);
	luaL_Buffer buffer;
	luaL_buffinitsize(L, &buffer, sizeof header + size);
	luaL_addlstring(&buffer, (const char *)header, sizeof header);
	luaL_addlstring(&buffer, payload, size);
	luaL_pushresult(&buffer);
	return 1;
}

/* guest.hello() -> string: the payload of this side's HELLO. */
static int l_hello(lua_State *L) {
	unsigned char payload[FC_GUEST_HELLO_SIZE];
	fc_hello_write(payload);
	lua_pushlstring(L, (const char *)payload, sizeof payload);
	return 1;
}

/* guest.check_hello(payload) -> the version to speak | nil, err (EPROTO, EPROTONOSUPPORT) */
static int l_check_hello(lua_State *L) {
	size_t size;
	const char *payload = luaL_checklstring(L, 1, &size);
	struct fc_error error;
	int version = fc_hello_check(payload, size, &error);
	if (version < 0)
		return fcl_error(L, &error);
	lua_pushinteger(L, version);
	return 1;
}

/* guest.decoder() -> decoder */
static int l_decoder(lua_State *L) {
	struct decoder *self = lua_newuserdatauv(L, sizeof *self, 0);
	memset(self, 0, sizeof *self);
	luaL_setmetatable(L, DECODER);
	return 1;
}

/*
 * decoder:feed(bytes) -> true | nil, err (ENOMEM, EPROTO, ENOBUFS)
 *
 * Takes bytes as they came, at most 1 MiB at once; take the frames out by next() before more is fed.
 */
static int decoder_feed(lua_State *L) {
	struct decoder *self = check_decoder(L);
	size_t size;
	const char *bytes = luaL_checklstring(L, 2, &size);
	struct fc_error error;
	if (fc_decoder_feed(&self->decoder, bytes, size, &error) < 0)
		return fcl_error(L, &error);
	lua_pushboolean(L, 1);
	return 1;
}

/* decoder:next() -> type, stream, payload | nil (more is needed) | nil, err (EPROTO: it stays broken) */
static int decoder_next(lua_State *L) {
	struct decoder *self = check_decoder(L);
	struct fc_error error;
	struct fc_frame frame;
	int r = fc_decoder_next(&self->decoder, &frame, &error);
	if (r < 0)
		return fcl_error(L, &error);
	if (r == 0) {
		lua_pushnil(L);
		return 1;
	}
	lua_pushinteger(L, frame.type);
	lua_pushinteger(L, frame.stream);
	lua_pushlstring(L, (const char *)frame.payload, frame.size);
	return 3;
}

/* decoder:close(): frees what it holds; more than once is fine. */
static int decoder_close(lua_State *L) {
	struct decoder *self = luaL_checkudata(L, 1, DECODER);
	self->closed = 1;
	fc_decoder_clear(&self->decoder);
	return 0;
}

static int decoder_tostring(lua_State *L) {
	struct decoder *self = luaL_checkudata(L, 1, DECODER);
	lua_pushfstring(L, self->closed ? "decoder (closed)" : "decoder (%d bytes held)",
	                (int)(self->decoder.end - self->decoder.begin));
	return 1;
}

static void set_integer(lua_State *L, const char *key, lua_Integer value) {
	lua_pushinteger(L, value);
	lua_setfield(L, -2, key);
}

static void push_types(lua_State *L) {
	lua_newtable(L);
#define FC_GUEST_FIELD(name, number) set_integer(L, #name, (number));
	FC_GUEST_TYPES(FC_GUEST_FIELD)
#undef FC_GUEST_FIELD
}

static void push_limits(lua_State *L) {
	lua_newtable(L);
	set_integer(L, "payload", FC_GUEST_PAYLOAD_MAX);
	set_integer(L, "window", FC_GUEST_STDIN_WINDOW);
	set_integer(L, "sessions", FC_GUEST_SESSIONS_MAX);
	set_integer(L, "arguments", FC_GUEST_ARGUMENTS_MAX);
	set_integer(L, "plan", FC_GUEST_PLAN_MAX);
	set_integer(L, "grace", FC_GUEST_GRACE_MAX);
	set_integer(L, "quiet", FC_GUEST_QUIET_SECONDS);
	set_integer(L, "entropy_least", FC_GUEST_ENTROPY_LEAST);
	set_integer(L, "entropy", FC_GUEST_ENTROPY_MAX);
	set_integer(L, "files", FC_GUEST_FILES_MAX);
}

int fcl_open_guest(lua_State *L) {
	static const luaL_Reg functions[] = {
	        {"encode", l_encode},   {"hello", l_hello}, {"check_hello", l_check_hello},
	        {"decoder", l_decoder}, {NULL, NULL},
	};
	static const luaL_Reg methods[] = {
	        {"feed", decoder_feed}, {"next", decoder_next}, {"close", decoder_close}, {NULL, NULL}};
	static const luaL_Reg meta[] = {
	        {"__gc", decoder_close}, {"__close", decoder_close}, {"__tostring", decoder_tostring}, {NULL, NULL}};
	fcl_type(L, DECODER, methods, meta);
	luaL_newlib(L, functions);
	push_types(L);
	lua_setfield(L, -2, "types");
	push_limits(L);
	lua_setfield(L, -2, "limits");
	lua_newtable(L);
	set_integer(L, "agent", FC_GUEST_PORT);
	set_integer(L, "ready", FC_GUEST_READY_PORT);
	lua_setfield(L, -2, "ports");
	set_integer(L, "version", FC_GUEST_VERSION);
	set_integer(L, "version_least", FC_GUEST_VERSION_LEAST);
	return 1;
}
