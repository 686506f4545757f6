// SPDX-License-Identifier: Apache-2.0
/*
 * core/lua/proc.c: fcvm.core.proc: programs, processes, locks, descriptors.
 *
 * Descriptors are plain numbers here and the caller's to close, since luv takes and gives them as such; children,
 * pidfds and locks are objects, which end with their last reference.
 */
#include <errno.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <unistd.h>

#include "lua/common.h"
#include "proc/descriptor.h"
#include "proc/fork_server.h"
#include "proc/identity.h"
#include "proc/lock.h"
#include "proc/spawn.h"
#include "proc/userns.h"

static const char CHILD[] = "fcvm.child";
static const char PIDFD[] = "fcvm.pidfd";
static const char LOCK[] = "fcvm.lock";

enum {
	FD_MAX = 1 << 20,
	SIGNAL_MAX = 64,
	RANDOM_MAX = 256, /* what getrandom(2) gives whole */
	READ_MAX = 16 << 20,
};

static const int MODE_MAX = 07777;

static int push_system_error(lua_State *L, const char *op) {
	struct fc_error error;
	fc_error_set(&error, errno, op, NULL, NULL, NULL);
	return fcl_error(L, &error);
}

static int check_signal(lua_State *L, int index) {
	lua_Integer number = luaL_checkinteger(L, index);
	luaL_argcheck(L, number >= 1 && number <= SIGNAL_MAX, index, "no signal has that number");
	return (int)number;
}

static int check_fd(lua_State *L, int index) {
	lua_Integer fd = luaL_checkinteger(L, index);
	luaL_argcheck(L, fd >= 0 && fd <= FD_MAX, index, "no descriptor has that number");
	return (int)fd;
}

/* A string for the kernel, which would end it at its first NUL byte. */
static const char *check_text(lua_State *L, int index) {
	size_t size;
	const char *text = luaL_checklstring(L, index, &size);
	luaL_argcheck(L, strlen(text) == size, index, "it has a NUL byte in it");
	return text;
}

/* The same from a field of the options; NULL where it is missing. The string is the options' own. */
static const char *opt_text(lua_State *L, const char *key) {
	const char *text = fcl_opt_string(L, 1, key, NULL);
	if (!text)
		return NULL;
	lua_getfield(L, 1, key);
	if (strlen(text) != lua_rawlen(L, -1))
		luaL_error(L, "'%s' has a NUL byte in it", key);
	lua_pop(L, 1);
	return text;
}

/* What a descriptor-holding object is: the number, or -1 once it is closed. */
struct holder {
	int fd;
};

static struct holder *new_holder(lua_State *L, const char *type) {
	struct holder *holder = lua_newuserdatauv(L, sizeof *holder, 0);
	holder->fd = -1;
	luaL_setmetatable(L, type);
	return holder;
}

/* ---- children ---- */

struct child {
	struct fc_child *handle; /* NULL: not started yet, or closed */
	lua_Integer pid;
};

static struct child *check_child(lua_State *L) {
	struct child *child = luaL_checkudata(L, 1, CHILD);
	if (!child->handle)
		fcl_closed(L, "child");
	return child;
}

/* The array `key` of the options as a NULL-terminated vector, which is pushed; its strings belong to the options. */
static char **check_vector(lua_State *L, const char *key) {
	if (lua_getfield(L, 1, key) != LUA_TTABLE)
		luaL_error(L, "'%s' must be a list of strings, not a %s", key, luaL_typename(L, -1));
	lua_Unsigned count = lua_rawlen(L, -1);
	char **vector = lua_newuserdatauv(L, (count + 1) * sizeof *vector, 0);
	for (lua_Unsigned i = 0; i < count; i++) {
		size_t size;
		if (lua_rawgeti(L, -2, (lua_Integer)i + 1) != LUA_TSTRING)
			luaL_error(L, "'%s' must be a list of strings; item %I is a %s", key, (lua_Integer)i + 1,
			           luaL_typename(L, -1));
		const char *text = lua_tolstring(L, -1, &size);
		if (strlen(text) != size)
			luaL_error(L, "item %I of '%s' has a NUL byte in it", (lua_Integer)i + 1, key);
		vector[i] = (char *)(uintptr_t)text;
		lua_pop(L, 1);
	}
	vector[count] = NULL;
	lua_remove(L, -2);
	return vector;
}

static int check_fd_number(lua_State *L, int index) {
	int exact;
	lua_Integer number = lua_tointegerx(L, index, &exact);
	if (!exact || lua_type(L, index) != LUA_TNUMBER || number < 0 || number > FD_MAX)
		luaL_error(L, "'fds' must be a table of descriptors: the child's number = ours");
	return (int)number;
}

/* Reads `fds` into an array, which is pushed. */
static void check_fds(lua_State *L, struct fc_spawn_plan *plan) {
	int type = lua_getfield(L, 1, "fds");
	if (type == LUA_TNIL)
		return;
	if (type != LUA_TTABLE)
		luaL_error(L, "'fds' must be a table, not a %s", lua_typename(L, type));
	size_t count = 0;
	for (lua_pushnil(L); lua_next(L, -2); lua_pop(L, 1)) {
		check_fd_number(L, -2);
		check_fd_number(L, -1);
		count++;
	}
	struct fc_spawn_fd *list = lua_newuserdatauv(L, (count + 1) * sizeof *list, 0);
	size_t i = 0;
	for (lua_pushnil(L); lua_next(L, -3) && i < count; lua_pop(L, 1)) {
		list[i].child = check_fd_number(L, -2);
		list[i].parent = check_fd_number(L, -1);
		i++;
	}
	plan->fds = list;
	plan->fd_count = i;
}

/* Keys are where, values what: strings of the table, which is kept. */
static void check_binds(lua_State *L, struct fc_spawn_plan *plan) {
	int type = lua_getfield(L, 1, "binds");
	if (type == LUA_TNIL)
		return;
	if (type != LUA_TTABLE)
		luaL_error(L, "'binds' must be a table, not a %s", lua_typename(L, type));
	size_t count = 0;
	for (lua_pushnil(L); lua_next(L, -2); lua_pop(L, 1)) {
		if (lua_type(L, -2) != LUA_TSTRING || lua_type(L, -1) != LUA_TSTRING)
			luaL_error(L, "'binds' must have strings alone");
		count++;
	}
	struct fc_spawn_bind *list = lua_newuserdatauv(L, (count + 1) * sizeof *list, 0);
	size_t i = 0;
	for (lua_pushnil(L); lua_next(L, -3) && i < count; lua_pop(L, 1)) {
		list[i].to = lua_tostring(L, -2);
		list[i++].from = lua_tostring(L, -1);
	}
	plan->binds = list;
	plan->bind_count = i;
}

/***
Starts a program.
@table options argv (a list; the first is looked for in PATH where it has no slash), env (a list of "K=V"; ours), cwd,
fds (the child's number = ours; 0 to 2 are /dev/null where not listed, all others closed), session (in one of its own),
 contain (below an init in a PID namespace: all that it starts ends with it and with us, whatever its user), netns (a
 namespace's path), umask (an integer), proc_mount (with contain: a /proc of its own), capabilities (the bits of those
of ours that it keeps though its user is not root), root (a directory that it is closed into, with binds in it:
where = what of ours it sees there).
 It is killed when we end.
@return the child
@raise where an option is of the wrong type or unknown
@return nil, err where a step fails, `execute` included: ENOENT, EACCES, EPERM, ...
*/
static int proc_spawn(lua_State *L) {
	static const char *const known[] = {"argv",    "env",   "cwd",   "fds",        "session",
	                                    "contain", "netns", "umask", "proc_mount", "capabilities",
	                                    "root",    "binds", NULL};
	luaL_checktype(L, 1, LUA_TTABLE);
	lua_settop(L, 1);
	fcl_only_keys(L, 1, known);
	struct fc_spawn_plan plan = {
	        .cwd = opt_text(L, "cwd"),
	        .root = opt_text(L, "root"),
	        .netns = opt_text(L, "netns"),
	        .umask = (int)fcl_opt_integer(L, 1, "umask", 0, MODE_MAX, -1),
	        .session = fcl_opt_boolean(L, 1, "session", 0),
	        .contain = fcl_opt_boolean(L, 1, "contain", 0),
	        .proc_mount = fcl_opt_boolean(L, 1, "proc_mount", 0),
	        .capabilities = (uint64_t)fcl_opt_integer(L, 1, "capabilities", 0, LUA_MAXINTEGER, 0),
	};
	plan.argv = check_vector(L, "argv");
	if (lua_getfield(L, 1, "env") != LUA_TNIL)
		plan.env = check_vector(L, "env");
	check_fds(L, &plan);
	check_binds(L, &plan);
	struct child *child = lua_newuserdatauv(L, sizeof *child, 0);
	*child = (struct child){.handle = NULL};
	luaL_setmetatable(L, CHILD);
	struct fc_error error;
	if (fc_spawn(&plan, &child->handle, &error) < 0)
		return fcl_error(L, &error);
	child->pid = fc_child_pid(child->handle);
	return 1;
}

/***
A descriptor of the child (not to be closed) that is readable when `wait` has an answer.
*/
static int child_fileno(lua_State *L) {
	lua_pushinteger(L, fc_child_fileno(check_child(L)->handle));
	return 1;
}

/***
Whether the child has ended, and how; never blocks. A contained one has ended when all that it started has, too.
@return nil while it runs; {status=N} or {signal=N} after, again and again
@raise where somebody else in this process waited for it
*/
static int child_wait(lua_State *L) {
	struct child *child = check_child(L);
	struct fc_error error;
	struct fc_exit how;
	int r = fc_child_wait(child->handle, &how, &error);
	if (r < 0)
		return luaL_error(L, "wait: %s", error.message);
	if (r == 0) {
		lua_pushnil(L);
		return 1;
	}
	lua_createtable(L, 0, 1);
	lua_pushinteger(L, how.code);
	lua_setfield(L, -2, how.signalled ? "signal" : "status");
	return 1;
}

/***
Sends a signal to the program itself.
@return true, or nil, err: ESRCH where it has ended, EPERM
*/
static int child_kill(lua_State *L) {
	struct child *child = check_child(L);
	int number = check_signal(L, 2);
	struct fc_error error;
	if (fc_child_kill(child->handle, number, &error) < 0)
		return fcl_error(L, &error);
	lua_pushboolean(L, 1);
	return 1;
}

/***
Ends the child where it still runs (SIGKILL, everything that a contained one started as well), and waits for its end.
*/
static int child_close(lua_State *L) {
	struct child *child = luaL_checkudata(L, 1, CHILD);
	struct fc_child *handle = child->handle;
	child->handle = NULL;
	fc_child_free(handle);
	return 0;
}

static int child_tostring(lua_State *L) {
	const struct child *child = luaL_checkudata(L, 1, CHILD);
	lua_pushfstring(L, "child (PID %I%s)", child->pid, child->handle ? "" : ", closed");
	return 1;
}

/* child.pid is the one field, and stays after close; the rest are methods, in the upvalue. */
static int child_index(lua_State *L) {
	const struct child *child = luaL_checkudata(L, 1, CHILD);
	if (lua_type(L, 2) == LUA_TSTRING && strcmp(lua_tostring(L, 2), "pid") == 0) {
		lua_pushinteger(L, child->pid);
		return 1;
	}
	lua_pushvalue(L, 2);
	lua_rawget(L, lua_upvalueindex(1));
	return 1;
}

/* ---- identities and pidfds ---- */

static void check_identity(lua_State *L, int index, struct fc_identity *identity) {
	luaL_checktype(L, index, LUA_TTABLE);
	memset(identity, 0, sizeof *identity);
	identity->pid = (pid_t)fcl_opt_integer(L, index, "pid", 1, INT32_MAX, 0);
	lua_Integer start = fcl_opt_integer(L, index, "start_time", 0, INT64_MAX, -1);
	const char *boot = fcl_opt_string(L, index, "boot_id", NULL);
	luaL_argcheck(L, identity->pid && start >= 0 && boot, index, "an identity has pid, start_time and boot_id");
	identity->start_time = (uint64_t)start;
	/* One that does not fit is no boot's id, and none is what it becomes. */
	if (strlen(boot) == FC_BOOT_ID_LENGTH)
		memcpy(identity->boot_id, boot, FC_BOOT_ID_LENGTH);
}

/***
What tells a process from every other that ever had or will have its number.
@param pid (nil: our own)
@return {pid=, start_time=, boot_id=}, or nil, err: ESRCH where there is none, or a dead one
*/
static int proc_identity(lua_State *L) {
	lua_Integer pid = luaL_optinteger(L, 1, 0);
	luaL_argcheck(L, lua_isnoneornil(L, 1) || (pid >= 1 && pid <= INT32_MAX), 1, "no process has that number");
	struct fc_identity identity;
	struct fc_error error;
	if (fc_identity_read((pid_t)pid, &identity, &error) < 0)
		return fcl_error(L, &error);
	lua_createtable(L, 0, 3);
	lua_pushinteger(L, identity.pid);
	lua_setfield(L, -2, "pid");
	lua_pushinteger(L, (lua_Integer)identity.start_time);
	lua_setfield(L, -2, "start_time");
	lua_pushstring(L, identity.boot_id);
	lua_setfield(L, -2, "boot_id");
	return 1;
}

/***
Whether that very process lives; a zombie, another with its number and one of another boot do not.
@param identity a table with pid, start_time and boot_id (and whatever else)
*/
static int proc_alive(lua_State *L) {
	struct fc_identity identity;
	check_identity(L, 1, &identity);
	lua_pushboolean(L, fc_identity_alive(&identity));
	return 1;
}

/***
A handle on that very process.
@param identity a table with pid, start_time and boot_id
@return the handle, or nil, err: ESRCH where it has ended
*/
static int proc_pidfd(lua_State *L) {
	struct fc_identity identity;
	check_identity(L, 1, &identity);
	struct holder *holder = new_holder(L, PIDFD);
	struct fc_error error;
	int fd = fc_identity_open(&identity, &error);
	if (fd < 0)
		return fcl_error(L, &error);
	holder->fd = fd;
	return 1;
}

static struct holder *check_pidfd(lua_State *L) {
	struct holder *holder = luaL_checkudata(L, 1, PIDFD);
	if (holder->fd < 0)
		fcl_closed(L, "process handle");
	return holder;
}

/***
A descriptor of the handle (not to be closed) that is readable when the process has ended.
*/
static int pidfd_fileno(lua_State *L) {
	lua_pushinteger(L, check_pidfd(L)->fd);
	return 1;
}

/***
Sends a signal.
@return true, or nil, err: ESRCH where it has ended, EPERM
*/
static int pidfd_kill(lua_State *L) {
	const struct holder *holder = check_pidfd(L);
	int number = check_signal(L, 2);
	struct fc_error error;
	if (fc_pidfd_kill(holder->fd, number, &error) < 0)
		return fcl_error(L, &error);
	lua_pushboolean(L, 1);
	return 1;
}

/***
Lets go of the process, which goes on.
*/
static int pidfd_close(lua_State *L) {
	struct holder *holder = luaL_checkudata(L, 1, PIDFD);
	int fd = holder->fd;
	holder->fd = -1;
	if (fd >= 0)
		close(fd);
	return 0;
}

static int pidfd_tostring(lua_State *L) {
	const struct holder *holder = luaL_checkudata(L, 1, PIDFD);
	lua_pushstring(L, holder->fd >= 0 ? "process handle" : "process handle (closed)");
	return 1;
}

/* ---- processes by fork ---- */

/***
Becomes a fork server at `path`: makes a process of this one for whoever asks there (proc.fork_ask). It must have no
other thread and no event loop.
@return true in each new process, with the descriptors and the environment that were asked for; nil, err in the server
where it cannot serve, and else nothing
*/
static int proc_fork_serve(lua_State *L) {
	const char *path = check_text(L, 1);
	struct fc_error error;
	int listener = fc_fork_listen(path, &error);
	if (listener < 0)
		return fcl_error(L, &error);
	if (fc_fork_serve(listener, &error) < 0) {
		close(listener);
		return fcl_error(L, &error);
	}
	lua_pushboolean(L, 1);
	return 1;
}

/***
Asks a fork server for a process, with our environment; never blocks.
@param path the server's socket
@param fds a list of six descriptors (borrowed): the new process's 0 to 5
@return a descriptor, the caller's, which can be read when proc.fork_answer has an answer; or nil, err: ENOENT and
ECONNREFUSED where no server is there, EAGAIN, E2BIG over 64 KiB of environment
*/
static int proc_fork_ask(lua_State *L) {
	int fds[FC_FORK_FDS];
	const char *path = check_text(L, 1);
	luaL_checktype(L, 2, LUA_TTABLE);
	for (int i = 0; i < FC_FORK_FDS; i++) {
		lua_rawgeti(L, 2, i + 1);
		fds[i] = check_fd_number(L, -1);
		lua_pop(L, 1);
	}
	luaL_Buffer env;
	luaL_buffinit(L, &env);
	for (char *const *variable = environ; *variable; variable++)
		luaL_addlstring(&env, *variable, strlen(*variable) + 1);
	luaL_pushresult(&env);
	struct fc_error error;
	int fd = fc_fork_ask(path, fds, lua_tostring(L, -1), lua_rawlen(L, -1), &error);
	if (fd < 0)
		return fcl_error(L, &error);
	lua_pushinteger(L, fd);
	return 1;
}

/***
Reads a fork server's answer; never blocks.
@param fd what proc.fork_ask gave; it stays the caller's
@return a handle on the new process and its PID as the server sees it; or nil, err: the server's own error, EAGAIN where
nothing came yet, EPIPE where the server is gone
*/
static int proc_fork_answer(lua_State *L) {
	int connection = check_fd(L, 1);
	struct holder *holder = new_holder(L, PIDFD);
	struct fc_error error;
	int32_t pid;
	int fd = fc_fork_answer_read(connection, &pid, &error);
	if (fd < 0)
		return fcl_error(L, &error);
	holder->fd = fd;
	lua_pushinteger(L, pid);
	return 2;
}

/* ---- locks ---- */

/***
Locks a file, which is made where it is missing; never waits. The lock ends with `close`, its last reference, or us.
@param path
@param options shared (with others that share), mode (of a new file, 0600)
@return the lock, or nil, err: EAGAIN where it is held
*/
static int proc_lock(lua_State *L) {
	static const char *const known[] = {"shared", "mode", NULL};
	const char *path = check_text(L, 1);
	int shared = 0;
	lua_Integer mode = 0600;
	if (!lua_isnoneornil(L, 2)) {
		luaL_checktype(L, 2, LUA_TTABLE);
		fcl_only_keys(L, 2, known);
		shared = fcl_opt_boolean(L, 2, "shared", 0);
		mode = fcl_opt_integer(L, 2, "mode", 0, MODE_MAX, mode);
	}
	struct holder *holder = new_holder(L, LOCK);
	struct fc_error error;
	int fd = fc_lock_acquire(path, shared, (mode_t)mode, &error);
	if (fd < 0)
		return fcl_error(L, &error);
	holder->fd = fd;
	return 1;
}

/***
Releases the lock.
*/
static int lock_close(lua_State *L) {
	struct holder *holder = luaL_checkudata(L, 1, LOCK);
	int fd = holder->fd;
	holder->fd = -1;
	if (fd >= 0)
		fc_lock_release(fd);
	return 0;
}

static int lock_tostring(lua_State *L) {
	const struct holder *holder = luaL_checkudata(L, 1, LOCK);
	lua_pushstring(L, holder->fd >= 0 ? "lock" : "lock (released)");
	return 1;
}

/* ---- small ones ---- */

/***
Moves this process, which must have one thread, into a user and a mount namespace of its own.
@return true, or nil, err: EPERM, ENOSPC, EINVAL
*/
static int proc_userns_enter(lua_State *L) {
	struct fc_error error;
	if (fc_userns_enter(&error) < 0)
		return fcl_error(L, &error);
	lua_pushboolean(L, 1);
	return 1;
}

/***
Has this process sent a signal when the thread that started it ends (PR_SET_PDEATHSIG); 0 for none.
@return true, or nil, err: EINVAL
*/
static int proc_parent_death(lua_State *L) {
	lua_Integer number = luaL_checkinteger(L, 1);
	if (number < 0 || number > SIGNAL_MAX || prctl(PR_SET_PDEATHSIG, (unsigned long)number) < 0) {
		errno = EINVAL;
		return push_system_error(L, "watch parent");
	}
	lua_pushboolean(L, 1);
	return 1;
}

/***
A pipe, both ends close-on-exec.
@return the reading and the writing descriptor, or nil, err
*/
static int proc_pipe(lua_State *L) {
	int reader;
	int writer;
	struct fc_error error;
	if (fc_pipe_open(&reader, &writer, &error) < 0)
		return fcl_error(L, &error);
	lua_pushinteger(L, reader);
	lua_pushinteger(L, writer);
	return 2;
}

/***
Closes a descriptor.
@return true, or nil, err: EBADF
*/
static int proc_close(lua_State *L) {
	if (close(check_fd(L, 1)) < 0 && errno != EINTR)
		return push_system_error(L, "close");
	lua_pushboolean(L, 1);
	return 1;
}

/***
A sealed file in memory, close-on-exec, its offset 0.
@param name shows in /proc alone
@param data its bytes
@return the descriptor, or nil, err
*/
static int proc_memfd(lua_State *L) {
	const char *name = check_text(L, 1);
	size_t size;
	const char *data = luaL_checklstring(L, 2, &size);
	struct fc_error error;
	int fd = fc_memfd_open(name, data, size, &error);
	if (fd < 0)
		return fcl_error(L, &error);
	lua_pushinteger(L, fd);
	return 1;
}

/***
Reads from a descriptor once: what is there, at most `max` bytes; blocks where nothing is (and it is a blocking one).
@return the bytes, "" at the end, or nil, err: EAGAIN, EBADF, ...
*/
static int proc_read_fd(lua_State *L) {
	int fd = check_fd(L, 1);
	lua_Integer max = luaL_checkinteger(L, 2);
	luaL_argcheck(L, max >= 1 && max <= READ_MAX, 2, "1 to 16 MiB can be read at once");
	luaL_Buffer buffer;
	char *place = luaL_buffinitsize(L, &buffer, (size_t)max);
	ssize_t n;
	do
		n = read(fd, place, (size_t)max);
	while (n < 0 && errno == EINTR);
	if (n < 0)
		return push_system_error(L, "read");
	luaL_pushresultsize(&buffer, (size_t)n);
	return 1;
}

/***
Random bytes from the kernel.
@param n how many, 1 to 256
@return 2n lower-case hexadecimal digits, or nil, err
*/
static int proc_random_hex(lua_State *L) {
	static const char digits[] = "0123456789abcdef";
	lua_Integer n = luaL_checkinteger(L, 1);
	if (n < 1 || n > RANDOM_MAX)
		return luaL_argerror(L, 1, "1 to 256 bytes");
	unsigned char bytes[RANDOM_MAX];
	char text[2 * RANDOM_MAX];
	if (getrandom(bytes, (size_t)n, 0) != n)
		return push_system_error(L, "get random bytes");
	for (lua_Integer i = 0; i < n; i++) {
		text[2 * i] = digits[bytes[i] >> 4];
		text[2 * i + 1] = digits[bytes[i] & 15];
	}
	lua_pushlstring(L, text, 2 * (size_t)n);
	return 1;
}

/* The table signal_names: numbers by name, with and without SIG. */
static void push_signal_names(lua_State *L) {
	lua_newtable(L);
	for (int number = 1; number <= SIGNAL_MAX; number++) {
		const char *name = sigabbrev_np(number);
		if (!name)
			continue;
		lua_pushinteger(L, number);
		lua_setfield(L, -2, name);
		lua_pushfstring(L, "SIG%s", name);
		lua_pushinteger(L, number);
		lua_rawset(L, -3);
	}
}

static void make_types(lua_State *L) {
	static const luaL_Reg child_methods[] = {{"fileno", child_fileno},
	                                         {"wait", child_wait},
	                                         {"kill", child_kill},
	                                         {"close", child_close},
	                                         {NULL, NULL}};
	static const luaL_Reg child_meta[] = {
	        {"__gc", child_close}, {"__close", child_close}, {"__tostring", child_tostring}, {NULL, NULL}};
	static const luaL_Reg pidfd_methods[] = {
	        {"fileno", pidfd_fileno}, {"kill", pidfd_kill}, {"close", pidfd_close}, {NULL, NULL}};
	static const luaL_Reg pidfd_meta[] = {
	        {"__gc", pidfd_close}, {"__close", pidfd_close}, {"__tostring", pidfd_tostring}, {NULL, NULL}};
	static const luaL_Reg lock_methods[] = {{"close", lock_close}, {NULL, NULL}};
	static const luaL_Reg lock_meta[] = {
	        {"__gc", lock_close}, {"__close", lock_close}, {"__tostring", lock_tostring}, {NULL, NULL}};
	fcl_type(L, CHILD, child_methods, child_meta);
	fcl_type(L, PIDFD, pidfd_methods, pidfd_meta);
	fcl_type(L, LOCK, lock_methods, lock_meta);
	luaL_getmetatable(L, CHILD);
	if (lua_getfield(L, -1, "__index") == LUA_TTABLE) { /* else it is done already, in this state */
		lua_pushcclosure(L, child_index, 1);
		lua_setfield(L, -2, "__index");
	} else {
		lua_pop(L, 1);
	}
	lua_pop(L, 1);
}

int fcl_open_proc(lua_State *L) {
	static const luaL_Reg functions[] = {
	        {"spawn", proc_spawn},
	        {"identity", proc_identity},
	        {"alive", proc_alive},
	        {"pidfd", proc_pidfd},
	        {"fork_serve", proc_fork_serve},
	        {"fork_ask", proc_fork_ask},
	        {"fork_answer", proc_fork_answer},
	        {"lock", proc_lock},
	        {"parent_death", proc_parent_death},
	        {"userns_enter", proc_userns_enter},
	        {"pipe", proc_pipe},
	        {"close", proc_close},
	        {"memfd", proc_memfd},
	        {"read_fd", proc_read_fd},
	        {"random_hex", proc_random_hex},
	        {NULL, NULL},
	};
	make_types(L);
	luaL_newlib(L, functions);
	push_signal_names(L);
	lua_setfield(L, -2, "signal_names");
	return 1;
}
