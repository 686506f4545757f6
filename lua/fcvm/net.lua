-- SPDX-License-Identifier: Apache-2.0
--- `fcvm.net`: namespaces, links, addresses, routes, bridges, rules, ports and policies for recipes that want a network and no
-- VM, or one beside their VMs. All of it as root.
--
--     local lab <close> = fcvm.net.namespace "lab"
--     local host <close> = fcvm.net.host()
--     host:veth { name = "lab0", peer = "eth0", namespace = lab }
--     host:address("lab0", "10.9.0.1/30")
--     lab:address("eth0", "10.9.0.2/30")
--     lab:route { to = "0.0.0.0/0", via = "10.9.0.1" }
--     host:nat { masquerade = { { source = "10.9.0.0/30" } } }
--     host:publish { "127.0.0.1:8080:80", to = "10.9.0.2" }
--
-- Each object has a record with its owner's process, so that what it made is gone when the owner is: with its scope, by
-- `:close()` or `<close>`, and after a SIGKILL by the next start or `fcvm gc`.
local core = require "fcvm.core"
local egress = require "fcvm.egress"
local errors = require "fcvm.errors"
local paths = require "fcvm.paths"
local publish = require "fcvm.publish"
local state = require "fcvm.state"
local task = require "fcvm.task"
local uv = require "luv"

local M = {}

local Net = { __name = "fcvm.net" }
Net.__index = Net

local function path_of(id) return paths.run() .. "/netns/" .. id end

local function gone_is_fine(ok, err)
  if not ok and err.name ~= "ENOENT" and err.name ~= "ENODEV" then error(errors.new(err), 0) end
end

--- Frees what the owner of a record (process_type "net") made: also that of a dead one.
function M.release(record)
  local host <close> = errors.check(core.net.open())
  for _, link in ipairs(errors.check(host:links())) do
    if link.alias == "fcvm " .. record.net_id then gone_is_fine(host:link_delete(link.name)) end
  end
  gone_is_fine(host:table_delete("fcvm-" .. record.net_id))
  if uv.fs_lstat(path_of(record.net_id)) then gone_is_fine(core.net.namespace_remove(path_of(record.net_id))) end
end

local function make(label, of_host)
  if uv.getuid() ~= 0 then
    errors.raise { op = "make network", subject = label, name = "EPERM", status = errors.status.permission,
      message = "links and rules of the host take root", hint = "a rootless VM has a network of its own: fcvm.run" }
  end
  require("fcvm.resources").sweep()
  local self = setmetatable({ record = state.claim_net { label = label, process_type = "net" }, rules = {} }, Net)
  self.id = self.record.net_id
  task.defer(function() self:close() end)
  if not of_host then
    self.path = path_of(self.id)
    paths.ensure(paths.run() .. "/netns", 493)
    errors.check(core.net.namespace_create(self.path))
  end
  self.handle = errors.check(core.net.open(self.path))
  if self.path then errors.check(self.handle:link_set("lo", { up = true })) end
  return self
end

--- A network namespace, with its loopback up; `label` is for people. `.path` is where it is mounted (spawn's `netns`).
function M.namespace(label)
  if type(label) ~= "string" then errors.raise { op = "make network", name = "EINVAL", message = "a label is a string" } end
  return make(label, false)
end

--- The host's own namespace, to make things there.
function M.host() return make("host", true) end

local function open(self)
  if self.handle then return self.handle end
  errors.raise { op = "use network", subject = self.record.label, name = "EBADF", message = "it is closed" }
end

-- What is made in the host's namespace carries its owner's mark; in one of its own it goes with that.
local function mark(self, link)
  if not self.path then errors.check(self.handle:link_set(link, { alias = "fcvm " .. self.id })) end
end

--- A TAP, up. Options: uid, gid: who may open it.
function Net:tap(name, options)
  options = errors.options("tap", options or {}, { uid = "integer", gid = "integer" })
  errors.check(open(self):link_add_tap(name, options))
  mark(self, name)
  errors.check(self.handle:link_set(name, { up = true }))
end

--- A pair of links, both up: `name` here, `peer` in `namespace` (another object; here without).
function Net:veth(options)
  options = errors.options("veth", options, { name = "string", peer = "string", namespace = "table" })
  local other = options.namespace
  errors.check(open(self):link_add_veth(options.name, options.peer, other and other.path))
  mark(self, options.name)
  errors.check(self.handle:link_set(options.name, { up = true }))
  errors.check(open(other or self):link_set(options.peer, { up = true }))
end

--- A bridge, up; `ports` are links of this namespace.
function Net:bridge(name, ports)
  errors.check(open(self):link_add_bridge(name))
  mark(self, name)
  errors.check(self.handle:link_set(name, { up = true }))
  for _, port in ipairs(ports or {}) do errors.check(self.handle:link_set(port, { master = name })) end
end

--- Changes a link: up, mtu, mac, master (a bridge, "" for none), ipv6, route_localnet.
function Net:set(name, options)
  errors.check(open(self):link_set(name, errors.options("set link", options, { up = "boolean", mtu = "integer", mac = "string",
    master = "string", ipv6 = "boolean", route_localnet = "boolean" })))
end

--- Gives a link an address, as "10.9.0.1/30".
function Net:address(name, prefix) errors.check(open(self):address_add(name, prefix)) end

--- Adds a route: to, via, link.
function Net:route(options)
  errors.check(open(self):route_add(errors.options("route", options, { to = "string", via = "string", link = "string" })))
end

--- Whether packets are forwarded between the links here; returns how it was before.
function Net:forwarding(wanted) return errors.check({ open(self):forwarding(wanted) })[1] end

--- All links that are here.
function Net:links() return errors.check(open(self):links()) end

--- All addresses that are here.
function Net:addresses() return errors.check(open(self):addresses()) end

local function apply(self)
  local rules = { table = "fcvm-" .. self.id, comment = ("fcvm %s pid %d"):format(self.id, self.record.pid) }
  for key, value in pairs(self.rules) do rules[key] = value end
  if self.ports then
    rules.dnat = table.move(self.ports, 1, #self.ports, #(rules.dnat or {}) + 1, { table.unpack(rules.dnat or {}) })
  end
  errors.check(open(self):nat_apply(rules))
end

--- Address translation and filters here: masquerade, dnat, forward, drop_forward, drop_source, drop_input, lists as of
-- docs/core-net.md. In place of those of an earlier call, in one transaction.
function Net:nat(rules)
  local known = { masquerade = "table", dnat = "table", forward = "table", drop_forward = "table", drop_source = "table",
    drop_input = "table" }
  errors.options("nat", rules, known)
  for key in pairs(known) do self.rules[key] = rules[key] end
  apply(self)
end

--- Ports of this host that lead to the address `to`, as texts of -p in the list part. Held as a VM's are. Returns them:
-- {{protocol=, ip=, host_port=, guest_port=}, ...}. Only of fcvm.net.host().
function Net:publish(options)
  local texts = { table.unpack(options) }
  local to = options.to
  if self.path or type(to) ~= "string" then
    errors.raise { op = "publish", name = "EINVAL", message = "it is for fcvm.net.host(), and needs an address in `to`" }
  end
  local held = publish.hold(publish.parse(texts))
  self.ports = self.ports or {}
  for _, port in ipairs(held) do
    self.ports[#self.ports + 1] = { protocol = port.protocol, address = port.ip, port = port.host_port, to_address = to,
      to_port = port.guest_port }
  end
  apply(self)
  return held
end

--- Where what comes by `link` may go: `allow` as --egress has it (addresses and networks), "deny" or "allow".
function Net:policy(options)
  options = errors.options("policy", options, { link = "string", allow = "string table" })
  local policy = egress.read(options.allow)
  if type(policy) == "table" and #egress.names(policy) > 0 then
    errors.raise { op = "policy", name = "EINVAL", message = "names are for VMs, whose questions are seen" }
  end
  self.rules.egress = policy ~= "allow" and egress.rules(policy, options.link, {}) or nil
  apply(self)
end

--- What a policy has denied: {denied=, destinations=, others=}, as of vm:egress().
function Net:denied() return egress.counts(open(self), "fcvm-" .. self.id) end

--- Removes all that was made by it. More than once is fine.
function Net:close()
  if self.closed then return end
  self.closed = true
  if self.handle then self.handle:close() end
  self.handle = nil
  M.release(self.record)
  state.remove(self.id)
end
Net.__close = Net.close

return M
