-- SPDX-License-Identifier: Apache-2.0
--- Egress: where a VM may go. What `--egress` means, the rules that come of it, and what they have counted.
--
-- A policy, as a record and a snapshot keep it, is nil (all is allowed), "deny" (nothing is), "ask" (a recipe's function decides,
-- lua/fcvm/verdicts.lua), or a list of what is allowed and nothing else: {"10.0.0.0/8", "1.2.3.4/32:443/tcp", "example.org:443"}.
-- The rules are of the VM's own namespace (core/net/firewall_egress.c), which the guest does not see.
local errors = require "fcvm.errors"

local M = {}

local LIST_MAX, ENTRY_MAX = 1024, 300 -- entries; bytes of one
local NAMES_MAX, NAMES_SECONDS = 4096, 86400 -- addresses by names: how many, and how long one is allowed
local DNS_PORT = 53

local function refuse(text, message)
  errors.raise { op = "read egress policy", subject = text, name = "EINVAL", message = message, status = errors.status.usage,
    hint = "deny, allow, or a list of 10.0.0.0/8, 1.2.3.4:443, 10.0.0.0/8:53/udp, example.org, example.org:443" }
end

-- "10.0.0.0/8" or "10.0.0.1" as "10.0.0.0/8", "10.0.0.1/32"; nil for what does not look like one.
local function network_of(text, word)
  local address, length = word:match "^([%d.]+)/?(%d*)$"
  if not address then return nil end
  local bytes, value = { address:match "^(%d%d?%d?)%.(%d%d?%d?)%.(%d%d?%d?)%.(%d%d?%d?)$" }, 0
  for _, byte in ipairs(bytes) do
    if tonumber(byte) > 255 or byte:match "^0%d" then bytes = {} end
    value = value << 8 | math.tointeger(tonumber(byte))
  end
  length = word:find("/", 1, true) and (length:match "^%d%d?$" and not length:match "^0%d"
    and tonumber(length) or 33) or 32
  if #bytes ~= 4 or length > 32 then refuse(text, ("'%s' is no IPv4 address or network"):format(word)) end
  length = math.tointeger(length)
  if value & ((1 << (32 - length)) - 1) ~= 0 then
    refuse(text, ("'%s' is no network: bits of %s lie behind its length"):format(word, address))
  end
  return ("%s/%d"):format(address, length)
end

-- A host name in lower case; raises where it cannot be one.
local function name_of(text, word)
  local name = word:lower()
  if #name > 253 or not (name .. "."):match "^[%w.-]+%.$" or name:find("..", 1, true) then
    refuse(text, ("'%s' is no host name, address or network"):format(word))
  end
  local last
  for label in (name .. "."):gmatch "([^.]*)%." do
    if #label == 0 or #label > 63 or label:match "^%-" or label:match "%-$" then
      refuse(text, ("'%s' is no host name"):format(word))
    end
    last = label
  end
  if not last:match "%a" then refuse(text, ("'%s' is no IPv4 address, and no host name"):format(word)) end
  return name
end

-- One entry as {network= or name=, port=, protocol=, text=}; no protocol stands for TCP and UDP, no port for everything.
local function entry_of(text)
  if #text > ENTRY_MAX then refuse(text:sub(1, 64), "that is no destination") end
  if text:find("[", 1, true) or text:match ":.*:" then refuse(text, "guests have IPv4 alone, and so have their destinations") end
  local host, tail = text:match "^([^:]*):?(.*)$"
  local port, protocol = tail:match "^(%d+)$", nil
  if not port then port, protocol = tail:match "^(%d+)/(%a+)$" end
  if text:find(":", 1, true) and not port then refuse(text, ("'%s' is no port"):format(tail)) end
  if protocol and protocol ~= "tcp" and protocol ~= "udp" then refuse(text, "the protocol is tcp or udp") end
  port = port and math.tointeger(tonumber(port))
  if tail ~= "" and (not port or port < 1 or port > 65535) then refuse(text, ("'%s' is no port"):format(tail)) end
  local network = network_of(text, host)
  local name = not network and name_of(text, host) or nil
  return { network = network, name = name, port = port, protocol = protocol,
    text = (network or name) .. (port and ":" .. port or "") .. (protocol and "/" .. protocol or "") }
end

--- Checks a policy as it is kept (see above) and returns its list's entries {network= or name=, port=, protocol=, text=}; none
-- for a policy that is no list. Raises EINVAL.
function M.entries(policy)
  if policy == nil or policy == "deny" or policy == "ask" then return {} end
  if type(policy) ~= "table" or #policy == 0 then refuse(tostring(policy), "that is no policy") end
  if #policy > LIST_MAX then
    errors.raise { op = "read egress policy", name = "E2BIG", status = errors.status.usage,
      message = ("%d destinations, over the limit of %d"):format(#policy, LIST_MAX) }
  end
  local list = {}
  for i, text in ipairs(policy) do
    if type(text) ~= "string" then refuse(tostring(text), "it is no string") end
    list[i] = entry_of(text)
  end
  return list
end

--- What a user gave as `egress` (a text with commas, a list of such, or a function), checked, as a supervisor takes it: nil where
-- nothing was given, else "allow" or a policy.
function M.read(given)
  if given == nil then return nil end
  if type(given) == "function" then return "ask" end
  local words = {}
  for _, text in ipairs(type(given) == "table" and given or { given }) do
    if type(text) ~= "string" then refuse(tostring(text), "it is no string") end
    for word in (text .. ","):gmatch "([^,]*)," do words[#words + 1] = word:match "^%s*(.*%S)" or "" end
  end
  if #words == 0 then return nil end
  if #words == 1 and (words[1] == "deny" or words[1] == "allow") then return words[1] end
  for i, word in ipairs(words) do
    if word == "deny" or word == "allow" or word == "" then
      refuse(table.concat(words, ",", 1, math.min(i, 8)), ("'%s' stands for itself alone"):format(word))
    end
  end
  local policy = {}
  for i, entry in ipairs(M.entries(words)) do policy[i] = entry.text end
  return policy
end

--- The policy of a clone: what was asked for, else that of the VM which the snapshot is of. A function does not outlive its
-- process: in its place nothing is allowed.
function M.inherit(asked, source)
  if asked == "allow" then return nil end
  if asked ~= nil then return asked end
  M.entries(source)
  return source == "ask" and "deny" or source
end

-- What entries of the same ports have in common: the end of their sets' names, and the rules' protocols and port.
local function group_of(entry)
  if not entry.port then return "", { {} } end
  if entry.protocol then return ("_%s_%d"):format(entry.protocol, entry.port), { { entry.protocol, entry.port } } end
  return "_" .. entry.port, { { "tcp", entry.port }, { "udp", entry.port } }
end

--- The names that a policy allows, and for each the set of the VM's table that takes the addresses which a forwarder answers:
-- a list of {name=, set=}, where a name may be more than once.
function M.names(policy)
  local list = {}
  for _, entry in ipairs(M.entries(policy)) do
    if entry.name then list[#list + 1] = { name = entry.name, set = "names" .. group_of(entry) } end
  end
  return list
end

--- The rules of a policy, as `egress` of nat_apply, for what comes by `link`; nil where all is allowed. Where the policy has
-- names, the guest's `resolvers` (a list of addresses) may be asked.
function M.rules(policy, link, resolvers)
  if policy == nil then return nil end
  local rules, sets = { link = link, ask = policy == "ask", sets = {}, allow = {} }, {}
  local entries = M.entries(policy)
  if #M.names(policy) > 0 then
    for _, address in ipairs(resolvers) do
      entries[#entries + 1] = { network = tostring(address) .. "/32", port = DNS_PORT }
    end
  end
  for _, entry in ipairs(entries) do
    local suffix, ports = group_of(entry)
    local name = (entry.name and "names" or "to") .. suffix
    local set = sets[name]
    if not set then
      set = entry.name and { name = name, size = NAMES_MAX, timeout = NAMES_SECONDS } or { name = name, networks = {} }
      sets[name], rules.sets[#rules.sets + 1] = set, set
      for _, port in ipairs(ports) do
        rules.allow[#rules.allow + 1] = { set = name, protocol = port[1], port = port[2] }
      end
    end
    if entry.network then table.insert(set.networks, entry.network) end
  end
  return rules
end

--- A policy as people write it.
function M.text(policy)
  if policy == nil then return "allow" end
  return type(policy) == "table" and table.concat(policy, ",") or policy == "ask" and "a recipe's function" or policy
end

--- What the table `name` in the namespace of `handle` (fcvm.core.net) has denied: {denied= packets, destinations= {{address=,
-- protocol=, port=, packets=, bytes=}, …} with the most first, others= packets to destinations that are not listed any more}.
function M.counts(handle, name)
  local list, total, listed = errors.check(handle:set_list(name, "denied")), 0, 0
  for _, one in ipairs(errors.check(handle:set_list(name, "denied_total"))) do total = total + one.packets end
  for _, destination in ipairs(list) do
    listed = listed + destination.packets
    if destination.port == 0 then destination.port = nil end
  end
  table.sort(list, function(a, b)
    if a.packets ~= b.packets then return a.packets > b.packets end
    if a.address ~= b.address then return a.address < b.address end
    return a.protocol .. (a.port or 0) < b.protocol .. (b.port or 0)
  end)
  return { denied = total, destinations = list, others = math.max(0, total - listed) }
end

return M
