-- SPDX-License-Identifier: Apache-2.0
--- Who resolves names for a guest: what its user said, else the host's own resolvers.
--
-- A guest knows them by addresses of its own network, which a snapshot's memory may hold: where they lead is the namespace's
-- business (lua/fcvm/network.lua), and another one's for each clone.
local core = require "fcvm.core"
local errors = require "fcvm.errors"
local ipv4 = require "fcvm.ipv4"
local json = require "fcvm.json"

local M = {}

local FILE_MAX = 65536
local SERVERS_MAX, SEARCH_MAX, HOSTS_MAX = 3, 6, 256 -- of resolv.conf(5) the first two

--- The addresses that a guest asks: its gateway, and two that no network uses (link-local).
M.guest = { "172.16.0.1", "169.254.0.2", "169.254.0.3" }

local function is_domain(text)
  return #text <= 253 and text:match "^[%w_][%w._-]*$" ~= nil
end

--- Reads resolv.conf(5): {servers=, search=}, of what is there the first three addresses of IPv4 and six domains.
function M.read(text)
  local servers, search = {}, {}
  for line in text:gmatch "[^\n]+" do
    local server = line:match "^%s*nameserver%s+(%S+)"
    if server and ipv4.is_address(server) and #servers < SERVERS_MAX then servers[#servers + 1] = server end
    local domains = line:match "^%s*search%s+(.*)$" or line:match "^%s*domain%s+(.*)$"
    if domains then
      search = {} -- the last line counts
      for domain in domains:gmatch "%S+" do
        if is_domain(domain) and #search < SEARCH_MAX then search[#search + 1] = domain end
      end
    end
  end
  return { servers = servers, search = search }
end

-- Those that can be reached from elsewhere; where there are none, all, which only this host can ask.
local function sort(servers)
  local others = {}
  for _, address in ipairs(servers) do
    if not ipv4.is_loopback(address) then others[#others + 1] = address end
  end
  if #others > 0 then return { servers = json.array(others) } end
  return { servers = json.array(servers), relay = #servers > 0 or nil }
end

--- The host's: {servers=, relay= (true where they are its loopback's alone), search=}. `files` are for tests.
function M.of_host(files)
  local first
  -- The second is systemd-resolved's: whom it asks itself, where the first names nobody but it.
  for _, path in ipairs(files or { "/etc/resolv.conf", "/run/systemd/resolve/resolv.conf" }) do
    local read = M.read(core.disk.read(path, FILE_MAX) or "")
    local found = sort(read.servers)
    found.search = first and first.search or read.search
    first = first or found
    if #found.servers > 0 and not found.relay then return found end
  end
  return first
end

local function refuse(what, text, message)
  errors.raise { op = what, subject = tostring(text), name = "EINVAL", message = message, status = errors.status.usage }
end

--- Checks what a user gave: `dns` (addresses), `dns_search` (domains), `add_host` ("NAME:ADDRESS"), each a text, a list or nil.
-- Returns them as lists, and hosts as addresses by name; nil for what was not given.
function M.check(options)
  local function list(value) return type(value) == "table" and value or value ~= nil and { value } or nil end
  local dns, search, given = list(options.dns), list(options.dns_search), list(options.add_host)
  for i, address in ipairs(dns or {}) do
    if not ipv4.is_address(address) then refuse("dns", address, "that is no IPv4 address") end
    if i > SERVERS_MAX then refuse("dns", address, "three resolvers are the most") end
  end
  for i, domain in ipairs(search or {}) do
    if type(domain) ~= "string" or not is_domain(domain) then refuse("dns-search", domain, "that is no domain") end
    if i > SEARCH_MAX then refuse("dns-search", domain, "six domains are the most") end
  end
  local hosts
  for i, entry in ipairs(given or {}) do
    local name, address = tostring(entry):match "^([^:]+):(.+)$"
    if address == "host-gateway" then
      refuse("add-host", entry, "a guest opens no connection to its host")
    end
    if not name or not is_domain(name) or not ipv4.is_address(address) then refuse("add-host", entry, "it is NAME:ADDRESS") end
    if i > HOSTS_MAX then refuse("add-host", entry, ("%d are the most"):format(HOSTS_MAX)) end
    hosts = hosts or {}
    hosts[name] = address
  end
  return { dns = dns and #dns > 0 and dns or nil, dns_search = search and #search > 0 and search or nil, hosts = hosts }
end

--- Whom the guest's questions reach: {servers=, relay=} of those given, else of the host's.
function M.choose(dns)
  if dns then return sort(dns) end
  local host = M.of_host()
  return { servers = host.servers, relay = host.relay }
end

return M
