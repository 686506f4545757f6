-- SPDX-License-Identifier: Apache-2.0
--- Named networks (`--network NAME`): a bridge of the host's for each, whose ports lead into the namespaces of its members.
--
-- A guest knows nothing of them: its namespace has a further link and address for each, and sends what comes there on to it.
-- So a clone may be in other networks than its source was. A network comes to be with its first member and goes with its last.
local core = require "fcvm.core"
local dns_message = require "fcvm.dns_message"
local errors = require "fcvm.errors"
local json = require "fcvm.json"
local state = require "fcvm.state"
local uv = require "luv"

local M = {}

local NETWORKS_MAX = 8 -- of one VM
local IDS, MEMBERS_FIRST, MEMBERS_LAST = 256, 2, 254
local FRESH_NS = 1000000000 -- for which the members of a network are remembered

local function bridge_of(id) return "fcn" .. id end
local function alias_of(name) return "fcvm network " .. name end

--- The Ethernet address of a network's bridge, which it has from its birth on: the mark of one whose maker was killed before he
-- could write the note.
function M.mac_of(id) return ("02:fc:6c:61:6e:%02x"):format(id) end

-- Whether a bridge is the network's: by its note, or unfinished and by its address.
local function is_ours(link, one)
  return link.alias == alias_of(one.name) or not link.alias and link.mac == M.mac_of(one.id)
end
local function port_of(record, i) return ("fcm%dx%d"):format(record.slot, i) end

--- Checks what a user gave as `network`, a name or a list; returns a list, or nil for none.
function M.check(networks)
  if networks == nil then return nil end
  local list, seen = type(networks) == "table" and networks or { networks }, {}
  for _, name in ipairs(list) do
    local why = type(name) ~= "string" and "a network's name is a string"
      or not (#name <= 32 and name:match "^[%w][%w_-]*$") and "it is letters, digits, '-' and '_', at most 32"
      or seen[name] and "it is named twice" or #list > NETWORKS_MAX and ("%d are the most"):format(NETWORKS_MAX)
    if why then
      errors.raise { op = "join network", subject = tostring(name), name = "EINVAL", message = why, status = errors.status.usage }
    end
    seen[name] = true
  end
  return #list > 0 and list or nil
end

-- The smallest number from `first` to `last` that is not in `used`.
local function smallest(first, last, used)
  for number = first, last do
    if not used[number] then return number end
  end
end

--- Chooses a place in each network, under the lock of the state directory: `living` are the records that there are. Returns the
-- record's `networks`: {name=, id=, address=} each.
function M.choose(names, living)
  local ids, id_used, members = {}, {}, {}
  for _, record in ipairs(living) do
    for _, one in ipairs(record.networks or {}) do
      ids[one.name], id_used[one.id] = one.id, true
      members[one.name] = members[one.name] or {}
      members[one.name][tonumber(one.address:match "%d+$")] = true
    end
  end
  local list = json.array {}
  for i, name in ipairs(names) do
    local id = ids[name] or smallest(0, IDS - 1, id_used)
    local number = id and smallest(MEMBERS_FIRST, MEMBERS_LAST, members[name] or {})
    if not number then
      errors.raise { op = "join network", subject = name, name = "ENOSPC", status = errors.status.temporary,
        message = id and "it has no address left" or ("there are %d networks already"):format(IDS) }
    end
    id_used[id] = true
    list[i] = { name = name, id = id, address = ("10.232.%d.%d"):format(id, number) }
  end
  return list
end

local function find(host, name)
  for _, link in ipairs(errors.check(host:links())) do
    if link.name == name then return link end
  end
end

-- The bridge of a network: made, or there as ours.
local function need_bridge(host, one)
  local name = bridge_of(one.id)
  local ok, err = host:link_add_bridge(name, M.mac_of(one.id))
  if not ok and err.name ~= "EEXIST" then error(errors.new(err), 0) end
  local link = find(host, name)
  if link and is_ours(link, one) then
    errors.check(host:link_set(name, { alias = alias_of(one.name), up = true, ipv6 = false }))
  else
    errors.raise { op = "join network", subject = one.name, name = "EEXIST",
      message = ("the link %s is there, and is not fcvm's"):format(name), hint = "remove or rename it" }
  end
  return name
end

--- Makes the links of a record's networks, and their addresses in the namespace at `path`.
function M.join(record, path)
  if not record.networks then return end
  local inside <close> = errors.check(core.net.open(path))
  state.locked(function()
    local host <close> = errors.check(core.net.open())
    for i, one in ipairs(record.networks) do
      local bridge, port, link = need_bridge(host, one), port_of(record, i), "eth" .. i
      errors.check(host:link_add_veth(port, link, path))
      errors.check(host:link_set(port, { master = bridge, up = true, ipv6 = false, alias = "fcvm " .. record.vm_id }))
      errors.check(inside:address_add(link, one.address .. "/24"))
      errors.check(inside:link_set(link, { up = true, ipv6 = false }))
    end
  end)
end

--- Adds to the rules of the namespace what leads between its networks and the guest.
function M.rules(rules, record, guest_net, guest_address)
  for i, one in ipairs(record.networks or {}) do
    table.insert(rules.dnat, { address = one.address, to_address = guest_address })
    table.insert(rules.masquerade, { source = guest_net, out = "eth" .. i })
  end
end

-- Removes the bridge of a network that nobody is a port of.
local function drop_bridge(host, one)
  local name = bridge_of(one.id)
  local bridge = find(host, name)
  if not bridge or not is_ours(bridge, one) then return end
  for _, link in ipairs(errors.check(host:links())) do
    if link.master == bridge.index then return end
  end
  local ok, err = host:link_delete(name)
  if not ok and err.name ~= "ENODEV" then error(errors.new(err), 0) end
end

--- Takes a record's ports away, and networks of which it was the last member.
function M.leave(record)
  if not record.networks or uv.getuid() ~= 0 then return end
  state.locked(function()
    local host <close> = errors.check(core.net.open())
    for i, one in ipairs(record.networks) do
      local ok, err = host:link_delete(port_of(record, i))
      if not ok and err.name ~= "ENODEV" then error(errors.new(err), 0) end
      drop_bridge(host, one)
    end
  end)
end

local Members = { __name = "fcvm.members" }
Members.__index = Members

--- Who answers for the names of the members of a record's networks: `web`, and `web.NAME`. nil where it is in none.
function M.members(record)
  if not record.networks then return nil end
  return setmetatable({ networks = record.networks, read_at = 0, addresses = {} }, Members)
end

local function refresh(self)
  if uv.hrtime() - self.read_at < FRESH_NS then return end
  local mine = {}
  for _, one in ipairs(self.networks) do mine[one.name] = true end
  self.read_at, self.addresses = uv.hrtime(), {}
  for _, record in ipairs(state.vms()) do
    for _, one in ipairs(record.networks or {}) do
      if mine[one.name] then
        local name = record.name:lower()
        self.addresses[name .. "." .. one.name:lower()] = one.address
        -- Of two networks that both have it, the one that was named first.
        self.addresses[name] = self.addresses[name] or one.address
      end
    end
  end
end

--- The answer to a question for a member's name; nil where it is for something else. Called in no task; raises nothing.
function Members:answer(question)
  local name = dns_message.question(question)
  if not name then return nil end
  pcall(refresh, self)
  local address = self.addresses[name]
  return address and dns_message.answer(question, address)
end

return M
