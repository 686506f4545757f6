-- SPDX-License-Identifier: Apache-2.0
--- A VM's network, bridged by routing: a namespace of its own with a TAP of a fixed name and fixed addresses inside, and
-- a veth pair with a /30 of its own outside. docs/networking.md has the picture.
local core = require "fcvm.core"
local errors = require "fcvm.errors"
local paths = require "fcvm.paths"
local uv = require "luv"

local M = {
  tap = "tap0",                  -- the same in every namespace: a snapshot's memory holds it
  guest_mac = "02:fc:00:00:00:01",
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

local function set_up_inside(path, place, id)
  local inside <close> = errors.check(core.net.open(path))
  local check = errors.check
  check(inside:link_set("lo", { up = true }))
  check(inside:link_add_tap(M.tap, { uid = place.uid, gid = place.uid }))
  check(inside:address_add(M.tap, M.guest_gateway .. "/30"))
  check(inside:link_set(M.tap, { up = true, ipv6 = false }))
  check(inside:address_add("eth0", place.vm .. "/30"))
  check(inside:link_set("eth0", { up = true, ipv6 = false }))
  check(inside:route_add { to = "0.0.0.0/0", via = place.host, link = "eth0" })
  inside:forwarding(true)
  check(inside:nat_apply { table = "fcvm-" .. id, comment = "fcvm " .. id,
    masquerade = { { source = GUEST_NET, out = "eth0" } },
    dnat = { { address = place.vm, to_address = M.guest_address } },
    -- A guest that forges its address is forwarded nowhere.
    drop_source = { { link = M.tap, source = GUEST_NET } } })
end

--- Makes the namespace of a record (its vm_id and slot), with nothing in it: what runs there may start now, and use the
-- network after M.furnish. Returns {namespace=, address=, host_address=, uid=}.
function M.create(record)
  local place, path = M.of_slot(record.slot), namespace_of(record.vm_id)
  paths.ensure(paths.run() .. "/netns", 493)
  errors.check(core.net.namespace_create(path))
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

--- Makes the links, addresses, routes and rules of a record whose namespace is there; its `ports` are as of publish.hold.
function M.furnish(record)
  local place, path = M.of_slot(record.slot), namespace_of(record.vm_id)
  local host <close> = errors.check(core.net.open())
  errors.check(host:link_add_veth(place.link, "eth0", path))
  set_up_inside(path, place, record.vm_id)
  errors.check(host:address_add(place.link, place.host .. "/30"))
  errors.check(host:link_set(place.link, { up = true, ipv6 = false }))
  host:forwarding(true)
  local rules = { table = "fcvm-" .. record.vm_id, comment = "fcvm " .. record.vm_id .. " pid " .. record.pid,
    masquerade = { { source = place.net } },
    drop_forward = { { in_prefix = "fcv", out_prefix = "fcv" } },
    drop_input = { place.link } }
  if record.ports and #record.ports > 0 then publish(rules, place, record.ports) end
  errors.check(host:nat_apply(rules))
end

--- Removes the network of a record; what is gone already is fine. Raises what could not be removed.
function M.remove(record)
  local function gone(value, err)
    if not value and err.name ~= "ENOENT" and err.name ~= "ENODEV" then error(errors.new(err), 0) end
  end
  local host <close> = errors.check(core.net.open())
  gone(host:table_delete("fcvm-" .. record.vm_id))
  if record.slot then gone(host:link_delete(M.of_slot(record.slot).link)) end
  local path = namespace_of(record.vm_id)
  if uv.fs_stat(path) then gone(core.net.namespace_remove(path)) end
end

--- The host's resolvers that a guest can reach, at most three: loopback ones are only of use to the host itself.
function M.resolvers()
  local list = {}
  for _, file in ipairs { "/etc/resolv.conf", "/run/systemd/resolve/resolv.conf" } do
    local text = core.disk.read(file, 65536) or ""
    for address in text:gmatch "nameserver%s+(%d+%.%d+%.%d+%.%d+)" do
      if not address:match "^127%." and #list < 3 then list[#list + 1] = address end
    end
    if #list > 0 then break end
  end
  return list
end

return M
