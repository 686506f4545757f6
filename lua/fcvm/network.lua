-- SPDX-License-Identifier: Apache-2.0
--- A VM's network: a namespace of its own with a TAP of a fixed name and fixed addresses inside. Outside is, for root, a veth
-- pair with a /30 of its own (bridged, by routing); else a process of the user's (lua/fcvm/usernet.lua). docs/networking.md has
-- the pictures.
local core = require "fcvm.core"
local dns_relay = require "fcvm.dns_relay"
local egress = require "fcvm.egress"
local errors = require "fcvm.errors"
local lan = require "fcvm.lan"
local paths = require "fcvm.paths"
local resolvers = require "fcvm.resolvers"
local usernet = require "fcvm.usernet"
local uv = require "luv"

local M = {
  tap = "tap0",                  -- the same in every namespace: a snapshot's memory holds it
  guest_mac = "02:fc:00:00:00:01",
  tap_mac = "02:fc:00:00:00:02", -- as well: with another one a clone's first packets would go nowhere, until its kernel asks anew
  guest_address = "172.16.0.2",
  guest_gateway = "172.16.0.1",
  guest_netmask = "255.255.255.252",
}

local GUEST_NET = "172.16.0.0/30"
local USERS = 0x78000000 -- above what systemd and subuid ranges give away

--- What a slot stands for: the /30's two ends, the veth's name on the host, and the user id of the VM's Firecracker.
function M.of_slot(slot)
  local base = ("10.231.%d."):format(slot >> 6)
  local low = (slot & 63) << 2
  return { net = base .. low .. "/30", host = base .. (low + 1), vm = base .. (low + 2), link = "fcv" .. slot,
    uid = USERS + slot }
end

local function namespace_of(id) return paths.run() .. "/netns/" .. id end

--- A function that says whether a slot's addresses and link are unused on this host, by one look at the host.
function M.free_slots()
  local host <close> = errors.check(core.net.open())
  local used = {}
  for _, link in ipairs(errors.check(host:links())) do used[link.name] = true end
  for _, entry in ipairs(errors.check(host:addresses())) do used[entry.address:match "^[%d.]+"] = true end
  return function(slot)
    local place = M.of_slot(slot)
    return not used[place.link] and not used[place.host] and not used[place.vm]
  end
end

--- The mode of a VM's network: "bridged" for root, else "pasta" or, where that is missing, "slirp4netns". `wanted` is one of
-- these, "rootless", "auto" or nil; raises where it cannot be had.
function M.mode(wanted)
  local root = uv.getuid() == 0
  local choices = { auto = root and { "bridged" } or { "pasta", "slirp4netns" }, rootless = { "pasta", "slirp4netns" },
    bridged = { "bridged" }, pasta = { "pasta" }, slirp4netns = { "slirp4netns" } }
  local kinds = choices[wanted or "auto"]
  local function refuse(name, message, hint)
    errors.raise { op = "choose network", subject = wanted, name = name, message = message, hint = hint,
      status = errors.status.usage }
  end
  if not kinds then refuse("EINVAL", "that is no mode", "auto, bridged, rootless, pasta or slirp4netns") end
  if root ~= (kinds[1] == "bridged") then
    refuse("EPERM", root and "VMs of root are bridged" or "links of the host take root", "--network-mode auto chooses")
  end
  if root then return "bridged" end
  for _, kind in ipairs(kinds) do
    if usernet.is_there(kind) then return kind end
  end
  errors.raise { op = "choose network", name = "ENOENT", status = errors.status.missing_part,
    message = ("there is no %s"):format(table.concat(kinds, " and no ")),
    hint = "install the package passt (pasta) or slirp4netns; or run as root" }
end

-- Names are asked of addresses that all guests have alike; here they are those of resolvers.
local function lead_questions(rules, dns)
  for i, server in ipairs(dns.servers) do
    if dns.relay then server = resolvers.guest[1] end
    for _, protocol in ipairs { "udp", "tcp" } do
      rules.dnat[#rules.dnat + 1] = { protocol = protocol, address = resolvers.guest[i], port = 53, to_address = server }
    end
  end
end

-- The TAP and the way between it and eth0, which leads outside and has the address `outside`.
local function set_up_inside(path, record, outside, uid, gid, names)
  local inside <close> = errors.check(core.net.open(path))
  local check = errors.check
  check(inside:link_set("lo", { up = true }))
  check(inside:link_add_tap(M.tap, { uid = uid, gid = gid }))
  check(inside:address_add(M.tap, M.guest_gateway .. "/30"))
  check(inside:link_set(M.tap, { mac = M.tap_mac, up = true, ipv6 = false,
    route_localnet = record.network_mode == "pasta" or nil }))
  inside:forwarding(true)
  local rules = { table = "fcvm-" .. record.vm_id, comment = "fcvm " .. record.vm_id,
    masquerade = { { source = GUEST_NET, out = "eth0" } },
    dnat = { { address = outside, to_address = M.guest_address } },
    -- A guest that forges its address is forwarded nowhere.
    drop_source = { { link = M.tap, source = GUEST_NET } },
    egress = egress.rules(record.egress, M.tap, { resolvers.guest[1] }) }
  if record.network_mode == "pasta" then
    -- Connections from the host's loopback come to the namespace's.
    rules.dnat[2] = { address = "127.0.0.1", to_address = M.guest_address }
    rules.masquerade[2] = { source = "127.0.0.0/8", out = M.tap }
  end
  lead_questions(rules, record.dns)
  lan.rules(rules, record, GUEST_NET, M.guest_address)
  check(inside:nat_apply(rules))
  if record.dns.relay then dns_relay.start(path, resolvers.guest[1], record.dns, names, lan.members(record)) end
end

local function furnish_veth(path, place, record, names)
  local inside <close> = errors.check(core.net.open(path))
  errors.check(inside:address_add("eth0", place.vm .. "/30"))
  errors.check(inside:link_set("eth0", { up = true, ipv6 = false }))
  errors.check(inside:route_add { to = "0.0.0.0/0", via = place.host, link = "eth0" })
  set_up_inside(path, record, place.vm, place.uid, place.uid, names)
end

--- Makes the namespace of a record (its vm_id and slot), with nothing in it: what runs there may start now, and use the
-- network after M.furnish. Returns {namespace=, and if bridged address=, host_address=, uid=}.
function M.create(record)
  local place, path = M.of_slot(record.slot), namespace_of(record.vm_id)
  paths.ensure(paths.run() .. "/netns", 493)
  errors.check(core.net.namespace_create(path))
  if record.network_mode ~= "bridged" then return { namespace = path } end
  return { namespace = path, address = place.vm, host_address = place.host, uid = place.uid }
end

-- What the host's table of a VM says of its published ports: connections to them go to the VM's address, where the table of
-- its namespace sends them on. Those from the host's own loopback addresses come to the guest from the host's end of the
-- link, since nothing could be answered to 127.0.0.1 from there.
local function publish(rules, place, ports)
  rules.dnat = {}
  for i, port in ipairs(ports) do
    rules.dnat[i] = { protocol = port.protocol, address = port.ip, port = port.host_port, to_address = place.vm,
      to_port = port.guest_port }
  end
  table.insert(rules.masquerade, { source = "127.0.0.0/8", out = place.link })
  -- Lets a packet from 127.0.0.1 leave by this link. What comes in by it for 127.0.0.1 is dropped (drop_input), but for answers.
  local path = "/proc/sys/net/ipv4/conf/" .. place.link .. "/route_localnet"
  local file, message = io.open(path, "w")
  if not file or not file:write "1" or not file:close() then
    errors.raise { op = "publish", subject = path, message = tostring(message) }
  end
end

local function furnish_bridged(record, path, names)
  local place = M.of_slot(record.slot)
  local host <close> = errors.check(core.net.open())
  errors.check(host:link_add_veth(place.link, "eth0", path))
  lan.join(record, path)
  furnish_veth(path, place, record, names)
  errors.check(host:address_add(place.link, place.host .. "/30"))
  errors.check(host:link_set(place.link, { up = true, ipv6 = false, alias = "fcvm " .. record.vm_id }))
  host:forwarding(true)
  local rules = { table = "fcvm-" .. record.vm_id, comment = "fcvm " .. record.vm_id .. " pid " .. record.pid,
    masquerade = { { source = place.net } },
    drop_forward = { { in_prefix = "fcv", out_prefix = "fcv" } },
    drop_input = { place.link } }
  if record.ports and #record.ports > 0 then publish(rules, place, record.ports) end
  errors.check(host:nat_apply(rules))
end

--- Makes what the namespace of a record needs: links, addresses, routes, rules, and without root the process that leads outside,
-- in the current scope. The record's `ports` are as of publish.hold, and `release()` lets go of them; `names` sees what the
-- guest asks of the relay (lua/fcvm/egress_names.lua), and may be nil. Returns a function that waits for that process's end and
-- gives the error that this is; nil if bridged.
function M.furnish(record, release, names)
  local path = namespace_of(record.vm_id)
  if record.network_mode == "bridged" then return furnish_bridged(record, path, names) end
  release()
  local wait = usernet.start(record.network_mode, path, record.ports or {}, paths.vm(record.vm_id))
  set_up_inside(path, record, usernet.places[record.network_mode].address, uv.getuid(), uv.getgid(), names)
  return wait
end

--- Where a record's namespace is, as the process that supervises the VM sees it, and the name of its table there.
function M.inside(record) return namespace_of(record.vm_id), "fcvm-" .. record.vm_id end

--- How a VM of a record is reached: its address, and, where that is one of its namespace alone, a function that makes a TCP
-- socket in there (a descriptor, the caller's to close).
function M.reach(record)
  if record.address then return record.address end
  local path, of_other = namespace_of(record.vm_id), record.pid ~= math.tointeger(uv.os_getpid())
  local proc = ("/proc/%d"):format(record.pid)
  return M.guest_address, function()
    -- Its supervisor sees the namespace's mount; who is outside goes by way of that process.
    return errors.check(core.net.socket(of_other and proc .. "/root" .. path or path, of_other and proc .. "/ns/user" or nil))
  end
end

--- Removes the network of a record; what is gone already is fine. Raises what could not be removed. The link to the namespace
-- goes with that, a moment later: to delete it would wait for that moment, tens of milliseconds in which the kernel lets nobody
-- else change a link. fcvm gc knows it by its note, should anything have kept it.
function M.remove(record)
  local function gone(value, err)
    if not value and err.name ~= "ENOENT" and err.name ~= "ENODEV" then error(errors.new(err), 0) end
  end
  if uv.getuid() == 0 then
    local host <close> = errors.check(core.net.open())
    gone(host:table_delete("fcvm-" .. record.vm_id))
    lan.leave(record)
  end
  local path = namespace_of(record.vm_id)
  if uv.fs_stat(path) then gone(core.net.namespace_remove(path)) end
end

return M
