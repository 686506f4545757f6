-- SPDX-License-Identifier: Apache-2.0
--- Published ports: what `-p` means, and the host's ports held while a VM has them.
--
-- A port is one of the host's while a socket of the supervisor is bound to it: no other VM and no other program can take it
-- then, and the kernel lets go of it with the process, however that ends. No packet reaches the socket: the host's rules
-- (lua/fcvm/network.lua) send it to the guest before anything of the host sees it.
local core = require "fcvm.core"
local errors = require "fcvm.errors"
local ipv4 = require "fcvm.ipv4"
local state = require "fcvm.state"
local task = require "fcvm.task"
local uv = require "luv"

local M = {}

local PORTS_MAX = 1024 -- of one VM
local ANY = "0.0.0.0"

local function refuse(text, message)
  errors.raise { op = "publish", subject = text, name = "EINVAL", message = message, status = errors.status.usage,
    hint = "[IP:]HOST:GUEST[/tcp|udp], as 8080:80, 127.0.0.1:8080:80, 53:53/udp or 8000-8009:8000-8009; HOST 0 is a free port" }
end

-- "80" or "80-89" as first and last.
local function range(text, word, least)
  local first, last = word:match "^(%d+)%-(%d+)$"
  if not first then first, last = word, word end
  first, last = math.tointeger(tonumber(first)), math.tointeger(tonumber(last))
  if not word:match "^%d+" or not first or not last or first < least or last > 65535 or first > last then
    refuse(text, ("'%s' is no port or range of ports"):format(word))
  end
  return first, last
end

-- One `-p` as a list of {protocol=, ip= (nil: every address), host_port=, guest_port=}.
local function parse(text)
  if type(text) ~= "string" then refuse(tostring(text), "it is no string") end
  local rest, protocol = text:match "^(.-)/(%a+)$"
  rest, protocol = rest or text, protocol or "tcp"
  if protocol ~= "tcp" and protocol ~= "udp" then refuse(text, "the protocol is tcp or udp") end
  if rest:find "[%[%]]" then refuse(text, "guests have IPv4 alone, and so have published ports") end
  local ip, host, guest = rest:match "^([%d.]+):([%d-]*):([%d-]+)$"
  if not ip then host, guest = rest:match "^([%d-]+):([%d-]+)$" end
  if not guest then refuse(text, "that is no port to publish") end
  if ip and not ipv4.is_address(ip) then refuse(text, ("'%s' is no IPv4 address"):format(ip)) end
  if ip == ANY then ip = nil end
  local host_first, host_last = range(text, host == "" and "0" or host, 0)
  local guest_first, guest_last = range(text, guest, 1)
  local count = guest_last - guest_first + 1
  if host_first == 0 and host_last > 0 then refuse(text, "port 0 stands for a free one and begins no range") end
  if host_first > 0 and host_last - host_first + 1 ~= count then refuse(text, "its two ranges are not of the same length") end
  local list = {}
  for i = 0, count - 1 do
    list[#list + 1] = { protocol = protocol, ip = ip, host_port = host_first > 0 and host_first + i or 0,
      guest_port = guest_first + i }
  end
  return list
end

--- Reads a list of texts as `-p` takes them; raises EINVAL. Returns a list of {protocol=, ip=, host_port=, guest_port=}, where
-- no ip stands for every address of this host and host_port 0 for a free one.
function M.parse(texts)
  local list = {}
  for _, text in ipairs(texts or {}) do
    for _, port in ipairs(parse(text)) do list[#list + 1] = port end
  end
  if #list > PORTS_MAX then
    errors.raise { op = "publish", name = "E2BIG", message = ("%d ports, over the limit of %d"):format(#list, PORTS_MAX),
      status = errors.status.usage }
  end
  return list
end

--- What a user gave as `publish`, one text or a list of them, checked and as the supervisor takes it; nil for none.
function M.list(publish)
  if publish == nil then return nil end
  local texts = {}
  for i, text in ipairs(type(publish) == "table" and publish or { publish }) do
    texts[i] = type(text) == "number" and ("%d:%d"):format(text, text) or text
  end
  M.parse(texts)
  return #texts > 0 and texts or nil
end

--- A port as people write it: "127.0.0.1:8080->80/tcp".
function M.text(port)
  return ("%s:%d->%d/%s"):format(port.ip or ANY, port.host_port, port.guest_port, port.protocol)
end

-- The process that has a socket on this port, as "nginx (process 12)", or nil. Another user's sockets are seen by root alone.
local function holder(port)
  local inodes = {}
  for _, family in ipairs { "", "6" } do
    local table_of = core.disk.read("/proc/net/" .. port.protocol .. family, 4 << 20) or ""
    for number, inode in table_of:gmatch "\n *%d+: %x+:(%x%x%x%x) %x+:%x+ %x%x %x+:%x+ %x+:%x+ %x+ +%d+ +%d+ (%d+)" do
      if tonumber(number, 16) == port.host_port then inodes["socket:[" .. inode .. "]"] = true end
    end
  end
  if not next(inodes) then return nil end
  local scan = uv.fs_scandir "/proc"
  for pid in function() return scan and uv.fs_scandir_next(scan) end do
    local fds = pid:match "^%d+$" and uv.fs_scandir("/proc/" .. pid .. "/fd")
    for fd in function() return fds and uv.fs_scandir_next(fds) end do
      if inodes[uv.fs_readlink("/proc/" .. pid .. "/fd/" .. fd) or ""] then
        local name = core.disk.read("/proc/" .. pid .. "/comm", 64) or "?"
        return ("%s (process %s)"):format(name:gsub("%s+$", ""), pid)
      end
    end
  end
end

-- Whether two ports cannot be one VM's and another's.
local function collide(a, b)
  return a.protocol == b.protocol and a.host_port == b.host_port and (not a.ip or not b.ip or a.ip == b.ip)
end

local function taken(port, code)
  local by
  for _, record in ipairs(state.vms()) do
    for _, other in ipairs(record.ports or {}) do
      if collide(port, other) then by = "the VM " .. record.name end
    end
  end
  by = by or holder(port)
  local where = M.text(port)
  if code == "EADDRINUSE" then
    errors.raise { op = "publish", subject = where, name = code, status = errors.status.temporary,
      message = ("port %d is in use%s"):format(port.host_port, by and " by " .. by or ""),
      hint = "choose another, or 0 for a free one" }
  elseif code == "EADDRNOTAVAIL" then
    errors.raise { op = "publish", subject = where, name = code, status = errors.status.usage,
      message = ("this host has no address %s"):format(port.ip) }
  end
  errors.raise { op = "publish", subject = where, name = code, message = "the port cannot be taken: " .. tostring(code),
    hint = code == "EACCES" and "ports below net.ipv4.ip_unprivileged_port_start (1024) are for root" or nil }
end

local function bind_tcp(port, ip)
  local socket = uv.new_tcp()
  local ok, _, code = socket:bind(ip, port.host_port)
  -- libuv binds with SO_REUSEADDR; only a socket that listens has the port to itself.
  if ok then ok, _, code = socket:listen(1, function()
    local peer = uv.new_tcp()
    socket:accept(peer)
    peer:close()
  end) end
  return socket, ok, code
end

local function bind_udp(port, ip)
  local socket = uv.new_udp()
  local ok, _, code = socket:bind(ip, port.host_port)
  return socket, ok, code
end

-- Takes one port; returns it with its number.
local function hold(port)
  local socket, ok, code = (port.protocol == "tcp" and bind_tcp or bind_udp)(port, port.ip or ANY)
  socket:unref()
  task.defer(function() if not socket:is_closing() then socket:close() end end)
  if not ok then taken(port, code) end
  local name = errors.check_uv("look at", M.text(port), socket:getsockname())
  return { protocol = port.protocol, ip = port.ip, host_port = name.port, guest_port = port.guest_port }, socket
end

--- Takes the ports of M.parse for the current scope. Returns them with their numbers, and a function that lets go of them
-- before its end; raises EADDRINUSE with who has one.
function M.hold(ports)
  local held, sockets = {}, {}
  for i, port in ipairs(ports) do held[i], sockets[i] = hold(port) end
  return held, function()
    for _, socket in ipairs(sockets) do
      if not socket:is_closing() then socket:close() end
    end
  end
end

return M
