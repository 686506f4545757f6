// SPDX-License-Identifier: Apache-2.0
/*
 * core/lua/uffd.c: fcvm.core.uffd, the bindings of core/uffd. Times are seconds, sizes bytes.
 *
 *   uffd.listen(path, mode)           descriptor | nil, err   a listening Unix socket (mode: 384, octal 600); the
 *                                                             caller closes it and removes the file
 *   uffd.serve{...}                   server | nil, err       the two descriptors stay the caller's
 *     listener=, memory=              descriptors, needed
 *     page_map=, working_set=         paths
 *     record=false, preload=false
 *     workers=, around=16, ratio=2.2, clients_max=4096
 *     spin=50e-6                      0: never
 *     handshake_timeout=5, kill_timeout=10, quiet=1
 *     server:fileno()                 descriptor              readable: something changed; uffd.drain it, then ask
 *     server:stats()                  {faults=, replayed=, around=, zero=, bytes=, removed=, living=, refused=,
 *                                      recording="none"|"running"|"settled", clients={client...}}
 *       client                        {id=, pid=, uid=, state=, faults=, replayed=, around=, zero=, bytes=, removed=,
 *                                      p50=, p99=, prefill_seconds=, recording=, recorded=, error=}
 *       state                         "handshake"|"prefill"|"serving"|"ended"|"failed"
 *     server:reap()                   {client...}             those that ended or failed, taken off the list
 *     server:recording{ out=path, pid=nil }   job | nil, err  its result: pages
 *     server:replay(path)             true | nil, err         for VMs that come from now on
 *     server:close()                  kills the VMs that live, waits, then closes their userfaultfds
 *   uffd.index(memory, out)           job | nil, err          paths; its result: zero pages, pages
 *   uffd.warm(memory, working_set)    job | nil, err          paths; its result: bytes read, bytes named
 *     job:fileno()                    descriptor              readable when it has ended
 *     job:result()                    nil (it works) | count, total | nil, err
 *     job:close()                     cancels it where it still works
 *   uffd.drain(descriptor)            reads an eventfd empty
 *   uffd.probe()                      {userfaultfd=bool, io_uring=bool, huge_pages=bool, features=,
 *                                      userfaultfd_error=, io_uring_error=}
 */
#include <limits.h>
#include <math.h>
#include <string.h>
#include <sys/eventfd.h>

#include "lua/common.h"
#include "uffd/job.h"
#include "uffd/page_server.h"

static const char SERVER[] = "fcvm.uffd.server";
static const char JOB[] = "fcvm.uffd.job";

/* A path: a string without a NUL, which would cut it. */
static const char *check_path(lua_State *L, int index) {
	size_t size;
	const char *path = luaL_checklstring(L, index, &size);
	luaL_argcheck(L, size > 0 && strlen(path) == size, index, "a path is not empty and has no zero byte");
	return path;
}

static const char *opt_path(lua_State *L, int index, const char *key) {
	const char *path = fcl_opt_string(L, index, key, NULL);
	lua_getfield(L, index, key);
	if (path && (!path[0] || strlen(path) != lua_rawlen(L, -1)))
		luaL_error(L, "'%s' is a path, which is not empty and has no zero byte", key);
	lua_pop(L, 1);
	return path;
}

/* Seconds as whole units of 1/scale, at least 1. */
static unsigned int opt_time(lua_State *L, const char *key, double scale, double most) {
	lua_Number seconds = fcl_opt_number(L, 1, key, -1);
	if (seconds == -1)
		return 0;
	/* False for a NaN too. */
	if (!(seconds > 0 && seconds <= most))
		luaL_error(L, "'%s' must be more than 0 and at most %f seconds", key, most);
	return (unsigned int)ceil(seconds * scale);
}

static int check_fd(lua_State *L, const char *key) {
	lua_Integer fd = fcl_opt_integer(L, 1, key, 0, INT_MAX, -1);
	if (fd < 0)
		luaL_error(L, "'%s' is missing: a descriptor", key);
	return (int)fd;
}

static void set_integer(lua_State *L, const char *key, uint64_t value) {
	lua_pushinteger(L, (lua_Integer)value);
	lua_setfield(L, -2, key);
}

static void set_number(lua_State *L, const char *key, double value) {
	lua_pushnumber(L, value);
	lua_setfield(L, -2, key);
}

static void set_boolean(lua_State *L, const char *key, int value) {
	lua_pushboolean(L, value);
	lua_setfield(L, -2, key);
}

static void set_error(lua_State *L, const char *key, const struct fc_error *error) {
	if (error->err == 0)
		return;
	fcl_error(L, error);
	lua_setfield(L, -3, key);
	lua_pop(L, 1);
}

static void set_counters(lua_State *L, const struct fc_page_counters *counters) {
	set_integer(L, "faults", counters->faults);
	set_integer(L, "replayed", counters->replayed);
	set_integer(L, "around", counters->around);
	set_integer(L, "zero", counters->zero);
	set_integer(L, "bytes", counters->bytes);
	set_integer(L, "removed", counters->removed);
}

/* Jobs. */

static struct fc_job **new_job(lua_State *L) {
	struct fc_job **self = lua_newuserdatauv(L, sizeof(struct fc_job *), 0);
	*self = NULL;
	luaL_setmetatable(L, JOB);
	return self;
}

static struct fc_job *check_job(lua_State *L) {
	struct fc_job **self = luaL_checkudata(L, 1, JOB);
	if (!*self)
		fcl_closed(L, "job");
	return *self;
}

static int job_fileno(lua_State *L) {
	lua_pushinteger(L, fc_job_fileno(check_job(L)));
	return 1;
}

static int job_result(lua_State *L) {
	struct fc_error error;
	uint64_t count;
	uint64_t total;
	int r = fc_job_result(check_job(L), &count, &total, &error);
	if (r < 0)
		return fcl_error(L, &error);
	if (r == 0) {
		lua_pushnil(L);
		return 1;
	}
	lua_pushinteger(L, (lua_Integer)count);
	lua_pushinteger(L, (lua_Integer)total);
	return 2;
}

static int job_close(lua_State *L) {
	struct fc_job **self = luaL_checkudata(L, 1, JOB);
	fc_job_free(*self);
	*self = NULL;
	return 0;
}

static int job_tostring(lua_State *L) {
	struct fc_job **self = luaL_checkudata(L, 1, JOB);
	if (*self)
		lua_pushfstring(L, "%s: %p", JOB, (void *)*self);
	else
		lua_pushfstring(L, "%s (closed)", JOB);
	return 1;
}

static int uffd_index(lua_State *L) {
	struct fc_error error;
	const char *memory = check_path(L, 1);
	const char *out = check_path(L, 2);
	if (fc_job_index(memory, out, new_job(L), &error) < 0)
		return fcl_error(L, &error);
	return 1;
}

static int uffd_warm(lua_State *L) {
	struct fc_error error;
	const char *memory = check_path(L, 1);
	const char *working_set = check_path(L, 2);
	if (fc_job_warm(memory, working_set, new_job(L), &error) < 0)
		return fcl_error(L, &error);
	return 1;
}

/* The server. */

static void read_tuning(lua_State *L, struct fc_page_server_options *options) {
	options->workers = (unsigned int)fcl_opt_integer(L, 1, "workers", 1, FC_PAGE_WORKERS_MAX, 0);
	options->around = (unsigned int)fcl_opt_integer(L, 1, "around", 1, 16, 0);
	options->clients_max = (unsigned int)fcl_opt_integer(L, 1, "clients_max", 1, FC_PAGE_CLIENTS_MAX, 0);
	lua_Number ratio = fcl_opt_number(L, 1, "ratio", 2.2);
	if (!(ratio >= 1 && ratio <= 100))
		luaL_error(L, "'ratio' must be 1 to 100");
	options->ratio_percent = (unsigned int)lround(ratio * 100);
	options->no_spin = fcl_opt_number(L, 1, "spin", 1) == 0;
	options->spin_us = options->no_spin ? 0 : opt_time(L, "spin", 1e6, 0.01);
	options->handshake_ms = opt_time(L, "handshake_timeout", 1e3, 3600);
	options->kill_ms = opt_time(L, "kill_timeout", 1e3, 3600);
	options->quiet_ms = opt_time(L, "quiet", 1e3, 3600);
}

static int uffd_serve(lua_State *L) {
	static const char *const known[] = {
	        "listener",          "memory",       "page_map", "working_set", "record", "preload",
	        "workers",           "around",       "ratio",    "spin",        "quiet",  "clients_max",
	        "handshake_timeout", "kill_timeout", NULL};
	struct fc_error error;
	struct fc_page_server_options options = {0};
	luaL_checktype(L, 1, LUA_TTABLE);
	lua_settop(L, 1);
	fcl_only_keys(L, 1, known);
	options.listener = check_fd(L, "listener");
	options.memory = check_fd(L, "memory");
	options.page_map = opt_path(L, 1, "page_map");
	options.working_set = opt_path(L, 1, "working_set");
	options.record = fcl_opt_boolean(L, 1, "record", 0);
	options.preload = fcl_opt_boolean(L, 1, "preload", 0);
	read_tuning(L, &options);
	struct fc_page_server **self = lua_newuserdatauv(L, sizeof(struct fc_page_server *), 0);
	*self = NULL;
	luaL_setmetatable(L, SERVER);
	if (fc_page_server_start(&options, self, &error) < 0)
		return fcl_error(L, &error);
	return 1;
}

static struct fc_page_server *check_server(lua_State *L) {
	struct fc_page_server **self = luaL_checkudata(L, 1, SERVER);
	if (!*self)
		fcl_closed(L, "server");
	return *self;
}

static int server_fileno(lua_State *L) {
	lua_pushinteger(L, fc_page_server_fileno(check_server(L)));
	return 1;
}

static void push_client(lua_State *L, const struct fc_page_client *client) {
	static const char *const states[] = {"handshake", "prefill", "serving", "ended", "failed"};
	lua_createtable(L, 0, 17);
	set_integer(L, "id", client->id);
	set_integer(L, "pid", (uint64_t)client->pid);
	set_integer(L, "uid", client->uid);
	lua_pushstring(L, states[client->state]);
	lua_setfield(L, -2, "state");
	set_counters(L, &client->counters);
	set_number(L, "p50", (double)client->p50_ns / 1e9);
	set_number(L, "p99", (double)client->p99_ns / 1e9);
	set_number(L, "prefill_seconds", (double)client->prefill_ns / 1e9);
	set_boolean(L, "recording", client->recording);
	set_integer(L, "recorded", client->recorded);
	set_error(L, "error", &client->error);
}

static void push_clients(lua_State *L, const struct fc_page_client *clients, size_t count) {
	lua_createtable(L, (int)count, 0);
	for (size_t i = 0; i < count; i++) {
		push_client(L, &clients[i]);
		lua_rawseti(L, -2, (lua_Integer)i + 1);
	}
}

/* Room for all clients there are and a few that may come meanwhile; Lua's, so that an error loses nothing. */
static struct fc_page_client *make_room(lua_State *L, struct fc_page_server *server, size_t *ret_room) {
	*ret_room = fc_page_server_clients(server, NULL, 0) + 8;
	return lua_newuserdatauv(L, *ret_room * sizeof(struct fc_page_client), 0);
}

static int server_stats(lua_State *L) {
	static const char *const recordings[] = {"none", "running", "settled"};
	struct fc_page_server *server = check_server(L);
	size_t room;
	struct fc_page_client *clients = make_room(L, server, &room);
	size_t count = fc_page_server_clients(server, clients, room);
	struct fc_page_server_stats stats = fc_page_server_stats(server);
	lua_createtable(L, 0, 10);
	set_counters(L, &stats.counters);
	set_integer(L, "living", stats.living);
	set_integer(L, "refused", stats.refused);
	lua_pushstring(L, recordings[stats.recording]);
	lua_setfield(L, -2, "recording");
	push_clients(L, clients, count < room ? count : room);
	lua_setfield(L, -2, "clients");
	return 1;
}

static int server_reap(lua_State *L) {
	struct fc_page_server *server = check_server(L);
	size_t room;
	struct fc_page_client *clients = make_room(L, server, &room);
	push_clients(L, clients, fc_page_server_reap(server, clients, room));
	return 1;
}

static int server_recording(lua_State *L) {
	static const char *const known[] = {"out", "pid", NULL};
	struct fc_error error;
	struct fc_page_server *server = check_server(L);
	luaL_checktype(L, 2, LUA_TTABLE);
	fcl_only_keys(L, 2, known);
	const char *out = opt_path(L, 2, "out");
	if (!out)
		return luaL_error(L, "'out' is missing: a path");
	pid_t pid = (pid_t)fcl_opt_integer(L, 2, "pid", 1, INT_MAX, 0);
	if (fc_page_server_recording(server, out, pid, new_job(L), &error) < 0)
		return fcl_error(L, &error);
	return 1;
}

static int server_replay(lua_State *L) {
	struct fc_error error;
	struct fc_page_server *server = check_server(L);
	if (fc_page_server_replay(server, check_path(L, 2), &error) < 0)
		return fcl_error(L, &error);
	lua_pushboolean(L, 1);
	return 1;
}

static int server_close(lua_State *L) {
	struct fc_page_server **self = luaL_checkudata(L, 1, SERVER);
	fc_page_server_free(*self);
	*self = NULL;
	return 0;
}

static int server_tostring(lua_State *L) {
	struct fc_page_server **self = luaL_checkudata(L, 1, SERVER);
	if (*self)
		lua_pushfstring(L, "%s: %p", SERVER, (void *)*self);
	else
		lua_pushfstring(L, "%s (closed)", SERVER);
	return 1;
}

/* The rest. */

static int uffd_listen(lua_State *L) {
	struct fc_error error;
	const char *path = check_path(L, 1);
	lua_Integer mode = luaL_optinteger(L, 2, 0600);
	luaL_argcheck(L, mode >= 0 && mode <= 0777, 2, "a mode is 0 to 511 (octal 777)");
	int fd = fc_page_listen(path, (mode_t)mode, &error);
	if (fd < 0)
		return fcl_error(L, &error);
	lua_pushinteger(L, fd);
	return 1;
}

static int uffd_drain(lua_State *L) {
	eventfd_t ignored;
	lua_Integer fd = luaL_checkinteger(L, 1);
	luaL_argcheck(L, fd >= 0 && fd <= INT_MAX, 1, "no descriptor");
	eventfd_read((int)fd, &ignored);
	return 0;
}

static int uffd_probe(lua_State *L) {
	struct fc_uffd_probe probe;
	fc_uffd_probe(&probe);
	lua_createtable(L, 0, 6);
	set_boolean(L, "userfaultfd", probe.userfaultfd);
	set_boolean(L, "io_uring", probe.io_uring);
	set_boolean(L, "huge_pages", probe.huge_pages);
	set_integer(L, "features", probe.features);
	set_error(L, "userfaultfd_error", &probe.userfaultfd_error);
	set_error(L, "io_uring_error", &probe.io_uring_error);
	return 1;
}

int fcl_open_uffd(lua_State *L) {
	static const luaL_Reg server_methods[] = {{"fileno", server_fileno},
	                                          {"stats", server_stats},
	                                          {"reap", server_reap},
	                                          {"recording", server_recording},
	                                          {"replay", server_replay},
	                                          {"close", server_close},
	                                          {NULL, NULL}};
	static const luaL_Reg server_meta[] = {
	        {"__gc", server_close}, {"__close", server_close}, {"__tostring", server_tostring}, {NULL, NULL}};
	static const luaL_Reg job_methods[] = {
	        {"fileno", job_fileno}, {"result", job_result}, {"close", job_close}, {NULL, NULL}};
	static const luaL_Reg job_meta[] = {
	        {"__gc", job_close}, {"__close", job_close}, {"__tostring", job_tostring}, {NULL, NULL}};
	static const luaL_Reg functions[] = {
	        {"listen", uffd_listen}, {"serve", uffd_serve}, {"index", uffd_index}, {"warm", uffd_warm},
	        {"drain", uffd_drain},   {"probe", uffd_probe}, {NULL, NULL}};
	fcl_type(L, SERVER, server_methods, server_meta);
	fcl_type(L, JOB, job_methods, job_meta);
	luaL_newlib(L, functions);
	return 1;
}
