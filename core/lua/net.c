// SPDX-License-Identifier: Apache-2.0
/*
 * core/lua/net.c: fcvm.core.net. docs/core-net.md is its page.
 *
 * Raises: wrong types, unknown options, closed handles. Returns nil, err: all that the kernel may refuse, and
 * addresses, names and ports that cannot be, since those come from users.
 */
#include <arpa/inet.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lua/common.h"
#include "net/address.h"
#include "net/firewall.h"
#include "net/firewall_set.h"
#include "net/link.h"
#include "net/netns.h"

static const char HANDLE[] = "fcvm.net";
static const char BUFFER[] = "fcvm.net.buffer";

struct handle {
	struct fc_netns *netns; /* NULL when closed */
};

static struct fc_netns *open_handle(lua_State *L) {
	struct handle *handle = luaL_checkudata(L, 1, HANDLE);
	if (!handle->netns)
		fcl_closed(L, "network handle");
	return handle->netns;
}

/* A string without a zero byte, which would cut it. */
static const char *check_text(lua_State *L, int index) {
	size_t size;
	const char *text = luaL_checklstring(L, index, &size);
	luaL_argcheck(L, strlen(text) == size, index, "a zero byte in a name or path");
	return text;
}

static const char *opt_text(lua_State *L, int index) {
	return lua_isnoneornil(L, index) ? NULL : check_text(L, index);
}

/*
 * Fields of options that outlive their reading are held: pushed on the stack's table at `anchor`, so that they stay
 * whatever the options' own table does.
 */
static const char *held(lua_State *L, int options, const char *key, int anchor) {
	int type = lua_getfield(L, options, key);
	if (type != LUA_TNIL && type != LUA_TSTRING)
		luaL_error(L, "'%s' must be a string, not a %s", key, lua_typename(L, type));
	size_t size = 0;
	const char *value = type == LUA_TNIL ? NULL : lua_tolstring(L, -1, &size);
	if (value && strlen(value) != size)
		luaL_error(L, "'%s' has a zero byte", key);
	if (value)
		lua_rawseti(L, anchor, (lua_Integer)lua_rawlen(L, anchor) + 1);
	else
		lua_pop(L, 1);
	return value;
}

static const char *held_needed(lua_State *L, int options, const char *key, int anchor) {
	const char *value = held(L, options, key, anchor);
	if (!value)
		luaL_error(L, "'%s' is missing", key);
	return value;
}

static int outcome(lua_State *L, int r, const struct fc_error *error) {
	if (r < 0)
		return fcl_error(L, error);
	lua_pushboolean(L, 1);
	return 1;
}

/* A malloc'd array on loan to Lua: collected where pushing its contents raises. */
static int buffer_free(lua_State *L) {
	void **buffer = luaL_checkudata(L, 1, BUFFER);
	free(*buffer);
	*buffer = NULL;
	return 0;
}

static void **push_buffer(lua_State *L) {
	void **buffer = lua_newuserdatauv(L, sizeof *buffer, 0);
	*buffer = NULL;
	luaL_setmetatable(L, BUFFER);
	return buffer;
}

static void done_with(void **buffer) {
	free(*buffer);
	*buffer = NULL;
}

static void set_string(lua_State *L, const char *key, const char *value) {
	if (!value[0])
		return;
	lua_pushstring(L, value);
	lua_setfield(L, -2, key);
}

static void set_integer(lua_State *L, const char *key, lua_Integer value) {
	lua_pushinteger(L, value);
	lua_setfield(L, -2, key);
}

/* net.namespace_create(path) -> true | nil, err */
static int net_namespace_create(lua_State *L) {
	struct fc_error error;
	return outcome(L, fc_netns_create(check_text(L, 1), &error), &error);
}

/* net.namespace_remove(path) -> true | nil, err */
static int net_namespace_remove(lua_State *L) {
	struct fc_error error;
	return outcome(L, fc_netns_remove(check_text(L, 1), &error), &error);
}

/* net.open([path]) -> handle | nil, err. Without a path: this process's own namespace. */
static int net_open(lua_State *L) {
	struct fc_error error;
	const char *path = opt_text(L, 1);
	struct handle *handle = lua_newuserdatauv(L, sizeof *handle, 0);
	handle->netns = NULL;
	luaL_setmetatable(L, HANDLE);
	return fc_netns_open(path, &handle->netns, &error) < 0 ? fcl_error(L, &error) : 1;
}

/* net.socket(netns [, userns [, "udp"]]) -> descriptor | nil, err: a socket made in that namespace; the caller's to
 * close. */
static int net_socket(lua_State *L) {
	struct fc_error error;
	int fd;
	static const char *const kinds[] = {"tcp", "udp", NULL};
	const char *netns = check_text(L, 1), *userns = opt_text(L, 2);
	int type = luaL_checkoption(L, 3, "tcp", kinds) == 0 ? SOCK_STREAM : SOCK_DGRAM;
	if (fc_netns_socket(userns, netns, type, &fd, &error) < 0)
		return fcl_error(L, &error);
	lua_pushinteger(L, fd);
	return 1;
}

/* handle:close() -> true; again is fine. Also __gc and __close. */
static int handle_close(lua_State *L) {
	struct handle *handle = luaL_checkudata(L, 1, HANDLE);
	fc_netns_close(handle->netns);
	handle->netns = NULL;
	lua_pushboolean(L, 1);
	return 1;
}

static int handle_tostring(lua_State *L) {
	const struct handle *handle = luaL_checkudata(L, 1, HANDLE);
	lua_pushfstring(L, handle->netns ? "network handle (%p)" : "network handle (closed)", (const void *)handle);
	return 1;
}

/* handle:link_add_tap(name, {uid=, gid=}) -> true | nil, err */
static int link_add_tap(lua_State *L) {
	static const char *const known[] = {"uid", "gid", NULL};
	struct fc_error error;
	struct fc_netns *netns = open_handle(L);
	const char *name = check_text(L, 2);
	lua_Integer uid = -1, gid = -1;
	if (!lua_isnoneornil(L, 3)) {
		luaL_checktype(L, 3, LUA_TTABLE);
		fcl_only_keys(L, 3, known);
		uid = fcl_opt_integer(L, 3, "uid", 0, UINT_MAX - 1, -1);
		gid = fcl_opt_integer(L, 3, "gid", 0, UINT_MAX - 1, -1);
	}
	return outcome(L, fc_link_add_tap(netns, name, (uid_t)uid, (gid_t)gid, &error), &error);
}

/* handle:link_add_veth(name, peer [, peer_namespace_path]) -> true | nil, err */
static int link_add_veth(lua_State *L) {
	struct fc_error error;
	struct fc_netns *netns = open_handle(L);
	const char *name = check_text(L, 2), *peer = check_text(L, 3), *path = opt_text(L, 4);
	return outcome(L, fc_link_add_veth(netns, name, peer, path, &error), &error);
}

/* handle:link_add_bridge(name [, mac]) -> true | nil, err */
static int link_add_bridge(lua_State *L) {
	struct fc_error error;
	struct fc_netns *netns = open_handle(L);
	const char *name = check_text(L, 2), *mac = opt_text(L, 3);
	return outcome(L, fc_link_add_bridge(netns, name, mac, &error), &error);
}

/* handle:link_set(name, {up=, mtu=, mac=, route_localnet=, ipv6=, master=, alias=}) -> true | nil, err */
static int link_set(lua_State *L) {
	static const char *const known[] = {"up", "mtu", "mac", "route_localnet", "ipv6", "master", "alias", NULL};
	struct fc_error error;
	struct fc_link_settings settings = FC_LINK_KEEP;
	struct fc_netns *netns = open_handle(L);
	const char *name = check_text(L, 2);
	luaL_checktype(L, 3, LUA_TTABLE);
	fcl_only_keys(L, 3, known);
	settings.up = fcl_opt_boolean(L, 3, "up", -1);
	settings.route_localnet = fcl_opt_boolean(L, 3, "route_localnet", -1);
	settings.ipv6 = fcl_opt_boolean(L, 3, "ipv6", -1);
	settings.mtu = (unsigned)fcl_opt_integer(L, 3, "mtu", 1, INT_MAX, 0);
	lua_settop(L, 3);
	lua_newtable(L);
	settings.mac = held(L, 3, "mac", 4);
	settings.master = held(L, 3, "master", 4);
	settings.alias = held(L, 3, "alias", 4);
	return outcome(L, fc_link_set(netns, name, &settings, &error), &error);
}

/* handle:link_delete(name) -> true | nil, err */
static int link_delete(lua_State *L) {
	struct fc_error error;
	struct fc_netns *netns = open_handle(L);
	return outcome(L, fc_link_delete(netns, check_text(L, 2), &error), &error);
}

static void push_link(lua_State *L, const struct fc_link *link) {
	lua_createtable(L, 0, 6);
	set_string(L, "name", link->name);
	set_integer(L, "index", link->index);
	set_string(L, "kind", link->kind);
	set_integer(L, "mtu", link->mtu);
	set_string(L, "mac", link->mac);
	set_string(L, "alias", link->alias);
	set_integer(L, "master", link->master);
	lua_pushboolean(L, link->up);
	lua_setfield(L, -2, "up");
}

/* handle:links() -> { {name=, index=, kind=, up=, mtu=, mac=, master=, alias=}, ... } | nil, err */
static int links(lua_State *L) {
	struct fc_error error;
	struct fc_netns *netns = open_handle(L);
	void **buffer = push_buffer(L);
	struct fc_link *list = NULL;
	size_t count = 0;
	int r = fc_link_list(netns, &list, &count, &error);
	*buffer = list;
	if (r < 0)
		return fcl_error(L, &error);
	lua_createtable(L, (int)count, 0);
	for (size_t i = 0; i < count; i++) {
		push_link(L, &list[i]);
		lua_rawseti(L, -2, (lua_Integer)i + 1);
	}
	done_with(buffer);
	return 1;
}

/* handle:address_add(name, "10.0.0.1/30") -> true | nil, err */
static int address_add(lua_State *L) {
	struct fc_error error;
	struct fc_netns *netns = open_handle(L);
	const char *name = check_text(L, 2), *prefix = check_text(L, 3);
	return outcome(L, fc_link_address_add(netns, name, prefix, &error), &error);
}

/* handle:addresses() -> { {link=, address="a.b.c.d/n"}, ... } | nil, err */
static int addresses(lua_State *L) {
	struct fc_error error;
	char text[FC_PREFIX_TEXT];
	struct fc_netns *netns = open_handle(L);
	void **buffer = push_buffer(L);
	struct fc_link_address *list = NULL;
	size_t count = 0;
	int r = fc_link_address_list(netns, &list, &count, &error);
	*buffer = list;
	if (r < 0)
		return fcl_error(L, &error);
	lua_createtable(L, (int)count, 0);
	for (size_t i = 0; i < count; i++) {
		lua_createtable(L, 0, 2);
		set_string(L, "link", list[i].link);
		set_string(L, "address", fc_prefix_format(&list[i].prefix, text));
		lua_rawseti(L, -2, (lua_Integer)i + 1);
	}
	done_with(buffer);
	return 1;
}

/* handle:route_add{ to="0.0.0.0/0", via="10.0.0.1", link="eth0" } -> true | nil, err */
static int route_add(lua_State *L) {
	static const char *const known[] = {"to", "via", "link", NULL};
	struct fc_error error;
	struct fc_netns *netns = open_handle(L);
	luaL_checktype(L, 2, LUA_TTABLE);
	lua_settop(L, 2);
	fcl_only_keys(L, 2, known);
	lua_newtable(L);
	const char *to = held_needed(L, 2, "to", 3), *via = held(L, 2, "via", 3), *link = held(L, 2, "link", 3);
	return outcome(L, fc_link_route_add(netns, to, via, link, &error), &error);
}

/* handle:forwarding([wanted]) -> what it was | nil, err */
static int forwarding(lua_State *L) {
	struct fc_error error;
	bool former = false;
	struct fc_netns *netns = open_handle(L);
	int wanted = -1;
	if (!lua_isnoneornil(L, 2)) {
		luaL_checktype(L, 2, LUA_TBOOLEAN);
		wanted = lua_toboolean(L, 2);
	}
	if (fc_netns_forwarding(netns, wanted, &former, &error) < 0)
		return fcl_error(L, &error);
	lua_pushboolean(L, former);
	return 1;
}

/* The lists of nat_apply. The options' table is at 2, the anchor at 3; each item's table is on top while it is read. */

enum { OPTIONS = 2, ANCHOR = 3 };

/* The zeroed array for the list `key`, kept by the anchor, with the list itself left on the stack; NULL where none. */
static void *list_begin(lua_State *L, const char *key, size_t size, size_t *ret_count) {
	int type = lua_getfield(L, OPTIONS, key);
	if (type != LUA_TNIL && type != LUA_TTABLE)
		luaL_error(L, "'%s' must be a list, not a %s", key, lua_typename(L, type));
	size_t count = type == LUA_TNIL ? 0 : lua_rawlen(L, -1);
	if (count > FC_FIREWALL_RULES_MAX)
		luaL_error(L, "'%s' has more than %d entries", key, FC_FIREWALL_RULES_MAX);
	*ret_count = count;
	if (count == 0)
		return NULL;
	void *items = lua_newuserdatauv(L, count * size, 0);
	memset(items, 0, count * size);
	lua_rawseti(L, ANCHOR, (lua_Integer)lua_rawlen(L, ANCHOR) + 1);
	return items;
}

/* Pushes item `index` of the list on top, which must be a table with known keys alone; returns its place. */
static int list_item(lua_State *L, const char *key, size_t index, const char *const *known) {
	if (lua_rawgeti(L, -1, (lua_Integer)index + 1) != LUA_TTABLE)
		luaL_error(L, "entry %d of '%s' must be a table, not a %s", (int)index + 1, key, luaL_typename(L, -1));
	fcl_only_keys(L, -1, known);
	return lua_gettop(L);
}

static void read_masquerade(lua_State *L, struct fc_firewall *firewall) {
	static const char *const known[] = {"source", "out", NULL};
	struct fc_firewall_masquerade *items = list_begin(L, "masquerade", sizeof *items, &firewall->masquerade_count);
	for (size_t i = 0; i < firewall->masquerade_count; i++) {
		int item = list_item(L, "masquerade", i, known);
		items[i].source = held_needed(L, item, "source", ANCHOR);
		items[i].out = held(L, item, "out", ANCHOR);
		lua_pop(L, 1);
	}
	firewall->masquerade = items;
	lua_pop(L, 1);
}

static void read_forward(lua_State *L, struct fc_firewall *firewall) {
	static const char *const known[] = {"from", "to", NULL};
	struct fc_firewall_forward *items = list_begin(L, "forward", sizeof *items, &firewall->forward_count);
	for (size_t i = 0; i < firewall->forward_count; i++) {
		int item = list_item(L, "forward", i, known);
		items[i].from = held(L, item, "from", ANCHOR);
		items[i].to = held(L, item, "to", ANCHOR);
		lua_pop(L, 1);
	}
	firewall->forward = items;
	lua_pop(L, 1);
}

static void read_dnat(lua_State *L, struct fc_firewall *firewall) {
	static const char *const known[] = {"protocol", "address", "port", "to_address", "to_port", NULL};
	struct fc_firewall_dnat *items = list_begin(L, "dnat", sizeof *items, &firewall->dnat_count);
	for (size_t i = 0; i < firewall->dnat_count; i++) {
		int item = list_item(L, "dnat", i, known);
		items[i].protocol = held(L, item, "protocol", ANCHOR);
		items[i].address = held(L, item, "address", ANCHOR);
		items[i].to_address = held_needed(L, item, "to_address", ANCHOR);
		items[i].port = (uint16_t)fcl_opt_integer(L, item, "port", 1, 65535, 0);
		items[i].to_port = (uint16_t)fcl_opt_integer(L, item, "to_port", 1, 65535, 0);
		lua_pop(L, 1);
	}
	firewall->dnat = items;
	lua_pop(L, 1);
}

static void read_drop_forward(lua_State *L, struct fc_firewall *firewall) {
	static const char *const known[] = {"in_prefix", "out_prefix", NULL};
	struct fc_firewall_drop_forward *items =
	        list_begin(L, "drop_forward", sizeof *items, &firewall->drop_forward_count);
	for (size_t i = 0; i < firewall->drop_forward_count; i++) {
		int item = list_item(L, "drop_forward", i, known);
		items[i].in_prefix = held(L, item, "in_prefix", ANCHOR);
		items[i].out_prefix = held(L, item, "out_prefix", ANCHOR);
		lua_pop(L, 1);
	}
	firewall->drop_forward = items;
	lua_pop(L, 1);
}

static void read_drop_source(lua_State *L, struct fc_firewall *firewall) {
	static const char *const known[] = {"link", "source", NULL};
	struct fc_firewall_drop_source *items =
	        list_begin(L, "drop_source", sizeof *items, &firewall->drop_source_count);
	for (size_t i = 0; i < firewall->drop_source_count; i++) {
		int item = list_item(L, "drop_source", i, known);
		items[i].link = held_needed(L, item, "link", ANCHOR);
		items[i].source = held_needed(L, item, "source", ANCHOR);
		lua_pop(L, 1);
	}
	firewall->drop_source = items;
	lua_pop(L, 1);
}

static void read_drop_input(lua_State *L, struct fc_firewall *firewall) {
	const char **items = list_begin(L, "drop_input", sizeof *items, &firewall->drop_input_count);
	for (size_t i = 0; i < firewall->drop_input_count; i++) {
		if (lua_rawgeti(L, -1, (lua_Integer)i + 1) != LUA_TSTRING)
			luaL_error(L, "entry %d of 'drop_input' must be a link's name", (int)i + 1);
		items[i] = check_text(L, -1);
		lua_rawseti(L, ANCHOR, (lua_Integer)lua_rawlen(L, ANCHOR) + 1);
	}
	firewall->drop_input = items;
	lua_pop(L, 1);
}

/*
 * Egress. Its lists stand in its own table, which list_begin finds at OPTIONS: it is put there while they are read.
 */

static void read_networks(lua_State *L, int item, struct fc_egress_set *set) {
	int type = lua_getfield(L, item, "networks");
	if (type != LUA_TNIL && type != LUA_TTABLE)
		luaL_error(L, "'networks' must be a list, not a %s", lua_typename(L, type));
	size_t count = type == LUA_TNIL ? 0 : lua_rawlen(L, -1);
	if (count > FC_FIREWALL_RULES_MAX)
		luaL_error(L, "'networks' has more than %d entries", FC_FIREWALL_RULES_MAX);
	const char **networks = count ? lua_newuserdatauv(L, count * sizeof *networks, 0) : NULL;
	if (networks)
		lua_rawseti(L, ANCHOR, (lua_Integer)lua_rawlen(L, ANCHOR) + 1);
	for (size_t i = 0; i < count; i++) {
		if (lua_rawgeti(L, -1, (lua_Integer)i + 1) != LUA_TSTRING)
			luaL_error(L, "entry %d of 'networks' must be a string", (int)i + 1);
		networks[i] = check_text(L, -1);
		lua_rawseti(L, ANCHOR, (lua_Integer)lua_rawlen(L, ANCHOR) + 1);
	}
	set->networks = networks;
	set->network_count = count;
	lua_pop(L, 1);
}

static void read_egress_sets(lua_State *L, struct fc_egress *egress) {
	static const char *const known[] = {"name", "networks", "size", "timeout", NULL};
	struct fc_egress_set *items = list_begin(L, "sets", sizeof *items, &egress->set_count);
	for (size_t i = 0; i < egress->set_count; i++) {
		int item = list_item(L, "sets", i, known);
		items[i].name = held_needed(L, item, "name", ANCHOR);
		items[i].size = (uint32_t)fcl_opt_integer(L, item, "size", 1, 1 << 20, 0);
		items[i].timeout = (uint32_t)fcl_opt_integer(L, item, "timeout", 1, 1 << 30, 0);
		read_networks(L, item, &items[i]);
		lua_pop(L, 1);
	}
	egress->sets = items;
	lua_pop(L, 1);
}

static void read_allow(lua_State *L, struct fc_egress *egress) {
	static const char *const known[] = {"set", "protocol", "port", NULL};
	struct fc_egress_allow *items = list_begin(L, "allow", sizeof *items, &egress->allow_count);
	for (size_t i = 0; i < egress->allow_count; i++) {
		int item = list_item(L, "allow", i, known);
		items[i].set = held_needed(L, item, "set", ANCHOR);
		items[i].protocol = held(L, item, "protocol", ANCHOR);
		items[i].port = (uint16_t)fcl_opt_integer(L, item, "port", 1, 65535, 0);
		lua_pop(L, 1);
	}
	egress->allow = items;
	lua_pop(L, 1);
}

static void read_egress(lua_State *L, struct fc_firewall *firewall, struct fc_egress *egress) {
	static const char *const known[] = {"link", "sets", "allow", "ask", NULL};
	int type = lua_getfield(L, OPTIONS, "egress");
	if (type == LUA_TNIL) {
		lua_pop(L, 1);
		return;
	}
	if (type != LUA_TTABLE)
		luaL_error(L, "'egress' must be a table, not a %s", lua_typename(L, type));
	fcl_only_keys(L, -1, known);
	lua_replace(L, OPTIONS);
	egress->link = held_needed(L, OPTIONS, "link", ANCHOR);
	egress->ask = fcl_opt_boolean(L, OPTIONS, "ask", 0);
	read_egress_sets(L, egress);
	read_allow(L, egress);
	firewall->egress = egress;
}

/* handle:nat_apply{ table=, comment=, masquerade=, forward=, dnat=, drop_forward=, drop_source=, drop_input=, egress= }
 */
static int nat_apply(lua_State *L) {
	static const char *const known[] = {"table",        "comment",     "masquerade", "forward", "dnat",
	                                    "drop_forward", "drop_source", "drop_input", "egress",  NULL};
	struct fc_error error;
	struct fc_egress egress = {.link = NULL};
	struct fc_firewall firewall = {.table = NULL};
	struct fc_netns *netns = open_handle(L);
	luaL_checktype(L, OPTIONS, LUA_TTABLE);
	lua_settop(L, OPTIONS);
	fcl_only_keys(L, OPTIONS, known);
	lua_newtable(L);
	firewall.table = held_needed(L, OPTIONS, "table", ANCHOR);
	firewall.comment = held(L, OPTIONS, "comment", ANCHOR);
	read_masquerade(L, &firewall);
	read_forward(L, &firewall);
	read_dnat(L, &firewall);
	read_drop_forward(L, &firewall);
	read_drop_source(L, &firewall);
	read_drop_input(L, &firewall);
	read_egress(L, &firewall, &egress); /* the last: it takes the place of the options */
	return outcome(L, fc_firewall_apply(netns, &firewall, &error), &error);
}

/* handle:table_delete(name) -> true | nil, err */
static int table_delete(lua_State *L) {
	struct fc_error error;
	struct fc_netns *netns = open_handle(L);
	return outcome(L, fc_firewall_delete(netns, check_text(L, 2), &error), &error);
}

/* handle:tables() -> { {name=, comment=}, ... } | nil, err */
static int tables(lua_State *L) {
	struct fc_error error;
	struct fc_netns *netns = open_handle(L);
	void **buffer = push_buffer(L);
	struct fc_firewall_table *list = NULL;
	size_t count = 0;
	int r = fc_firewall_list(netns, &list, &count, &error);
	*buffer = list;
	if (r < 0)
		return fcl_error(L, &error);
	lua_createtable(L, (int)count, 0);
	for (size_t i = 0; i < count; i++) {
		lua_createtable(L, 0, 2);
		set_string(L, "name", list[i].name);
		set_string(L, "comment", list[i].comment);
		lua_rawseti(L, -2, (lua_Integer)i + 1);
	}
	done_with(buffer);
	return 1;
}

/* handle:egress_settle(table) -> true | nil, err */
static int egress_settle(lua_State *L) {
	struct fc_error error;
	struct fc_netns *netns = open_handle(L);
	return outcome(L, fc_firewall_egress_settle(netns, check_text(L, 2), &error), &error);
}

/* Protocols by their name where everybody knows it, else by their number, as a string in either case. */
static const struct {
	const char *name;
	uint8_t number;
} PROTOCOLS[] = {{"tcp", IPPROTO_TCP}, {"udp", IPPROTO_UDP}, {"icmp", IPPROTO_ICMP}};

static void set_protocol(lua_State *L, uint8_t number) {
	char text[4];
	const char *name = text;
	snprintf(text, sizeof text, "%u", (unsigned)number);
	for (size_t i = 0; i < sizeof PROTOCOLS / sizeof PROTOCOLS[0]; i++) {
		if (PROTOCOLS[i].number == number)
			name = PROTOCOLS[i].name;
	}
	set_string(L, "protocol", name);
}

static uint8_t read_protocol(lua_State *L, const char *text) {
	for (size_t i = 0; i < sizeof PROTOCOLS / sizeof PROTOCOLS[0]; i++) {
		if (strcmp(PROTOCOLS[i].name, text) == 0)
			return PROTOCOLS[i].number;
	}
	int whole = 0;
	lua_Integer number = lua_stringtonumber(L, text) ? lua_tointegerx(L, -1, &whole) : -1;
	if (!whole || number < 0 || number > 255)
		luaL_error(L, "'%s' is no protocol", text);
	lua_pop(L, 1);
	return (uint8_t)number;
}

static void push_destination(lua_State *L, const struct fc_destination *item) {
	char text[INET_ADDRSTRLEN];
	inet_ntop(AF_INET, &item->address, text, sizeof text);
	lua_createtable(L, 0, 5);
	set_string(L, "address", text);
	if (!item->whole)
		return;
	set_protocol(L, item->protocol);
	set_integer(L, "port", item->port);
	set_integer(L, "packets", (lua_Integer)item->packets);
	set_integer(L, "bytes", (lua_Integer)item->bytes);
}

/* handle:set_list(table, set) -> { {address=, protocol=, port=, packets=, bytes=}, ... } | nil, err */
static int set_list(lua_State *L) {
	struct fc_error error;
	struct fc_netns *netns = open_handle(L);
	const char *table = check_text(L, 2), *set = check_text(L, 3);
	void **buffer = push_buffer(L);
	struct fc_destination *list = NULL;
	size_t count = 0;
	int r = fc_firewall_set_list(netns, table, set, &list, &count, &error);
	*buffer = list;
	if (r < 0)
		return fcl_error(L, &error);
	lua_createtable(L, (int)count, 0);
	for (size_t i = 0; i < count; i++) {
		push_destination(L, &list[i]);
		lua_rawseti(L, -2, (lua_Integer)i + 1);
	}
	done_with(buffer);
	return 1;
}

/* Reads the item at the top. */
static void read_destination(lua_State *L, struct fc_destination *to) {
	static const char *const known[] = {"address", "protocol", "port", NULL};
	if (lua_type(L, -1) != LUA_TTABLE)
		luaL_error(L, "an element must be a table, not a %s", luaL_typename(L, -1));
	fcl_only_keys(L, -1, known);
	int item = lua_gettop(L);
	to->port = (uint16_t)fcl_opt_integer(L, item, "port", 0, 65535, 0);
	if (lua_getfield(L, item, "protocol") != LUA_TNIL) {
		to->whole = true;
		to->protocol = read_protocol(L, check_text(L, -1));
	}
	lua_getfield(L, item, "address");
	if (fc_address_parse(check_text(L, -1), &to->address) < 0)
		luaL_error(L, "'%s' is no IPv4 address", lua_tostring(L, -1));
	lua_settop(L, item);
}

/* handle:set_add(table, set, { {address=, protocol=, port=}, ... } [, {replace=}]) -> true | nil, err */
static int set_add(lua_State *L) {
	static const char *const known[] = {"replace", NULL};
	struct fc_error error;
	struct fc_netns *netns = open_handle(L);
	const char *table = check_text(L, 2), *set = check_text(L, 3);
	bool replace = false;
	luaL_checktype(L, 4, LUA_TTABLE);
	if (!lua_isnoneornil(L, 5)) {
		luaL_checktype(L, 5, LUA_TTABLE);
		fcl_only_keys(L, 5, known);
		replace = fcl_opt_boolean(L, 5, "replace", 0);
	}
	size_t count = lua_rawlen(L, 4);
	luaL_argcheck(L, count <= FC_EGRESS_VERDICTS_MAX, 4, "too many");
	struct fc_destination *items = lua_newuserdatauv(L, (count + 1) * sizeof *items, 0);
	memset(items, 0, (count + 1) * sizeof *items);
	for (size_t i = 0; i < count; i++) {
		lua_rawgeti(L, 4, (lua_Integer)i + 1);
		read_destination(L, &items[i]);
		lua_pop(L, 1);
	}
	return outcome(L, fc_firewall_set_add(netns, table, set, items, count, replace, &error), &error);
}

int fcl_open_net(lua_State *L) {
	static const luaL_Reg functions[] = {
	        {"namespace_create", net_namespace_create},
	        {"namespace_remove", net_namespace_remove},
	        {"open", net_open},
	        {"socket", net_socket},
	        {NULL, NULL},
	};
	static const luaL_Reg methods[] = {
	        {"close", handle_close},
	        {"link_add_tap", link_add_tap},
	        {"link_add_veth", link_add_veth},
	        {"link_add_bridge", link_add_bridge},
	        {"link_set", link_set},
	        {"link_delete", link_delete},
	        {"links", links},
	        {"address_add", address_add},
	        {"addresses", addresses},
	        {"route_add", route_add},
	        {"forwarding", forwarding},
	        {"nat_apply", nat_apply},
	        {"table_delete", table_delete},
	        {"tables", tables},
	        {"egress_settle", egress_settle},
	        {"set_list", set_list},
	        {"set_add", set_add},
	        {NULL, NULL},
	};
	static const luaL_Reg meta[] = {
	        {"__gc", handle_close},
	        {"__close", handle_close},
	        {"__tostring", handle_tostring},
	        {NULL, NULL},
	};
	static const luaL_Reg none[] = {{NULL, NULL}};
	static const luaL_Reg buffer_meta[] = {{"__gc", buffer_free}, {NULL, NULL}};
	fcl_type(L, HANDLE, methods, meta);
	fcl_type(L, BUFFER, none, buffer_meta);
	luaL_newlib(L, functions);
	return 1;
}
