-- SPDX-License-Identifier: Apache-2.0
--- Passes a guest's questions on to resolvers that only this host can ask (127.0.0.53 of systemd-resolved): between a socket of
-- the VM's namespace and one of the host's. What is in them is nobody's business here but for the number that an answer must
-- have of its question, so that there is nothing to parse.
local core = require "fcvm.core"
local errors = require "fcvm.errors"
local task = require "fcvm.task"
local uv = require "luv"

local M = {}

local PORT = 53
local QUESTIONS_MAX, CONNECTIONS_MAX = 256, 32 -- under way; more are dropped, and a resolver asks again
local NEXT_MS, END_MS = 2000, 6000             -- until the next resolver is asked too, and until it is given up
local IDLE_MS = 10000                          -- of a connection
local WAITING_MAX = 1 << 17                    -- bytes of a connection that the other side has not taken

local function close(handle) if not handle:is_closing() then handle:close() end end

-- A socket of the namespace at the address that the guest asks.
local function open(namespace, address, kind, new)
  local fd = errors.check(core.net.socket(namespace, nil, kind))
  local handle = new()
  errors.check_uv("open socket", nil, handle:open(fd))
  errors.check_uv("listen for names", address, handle:bind(address, PORT))
  task.defer(function() close(handle) end)
  return handle
end

-- One question: to the first resolver, and when that is silent to the next one as well.
local function ask(server, question, from, upstream, ended)
  local socket, timer, asked, waited = uv.new_udp(), uv.new_timer(), 0, 0
  local function finish()
    if socket:is_closing() then return end
    socket:close()
    timer:close()
    ended()
  end
  local function ask_next()
    asked = asked + 1
    if upstream.servers[asked] then socket:send(question, upstream.servers[asked], upstream.port or PORT, function() end) end
  end
  socket:recv_start(function(failed, answer, peer)
    if failed then return finish() end
    if not answer or not peer or answer:sub(1, 2) ~= question:sub(1, 2) then return end
    for i = 1, asked do
      if peer.ip == upstream.servers[i] and peer.port == (upstream.port or PORT) then
        server:send(answer, from.ip, from.port, function() end)
        return finish()
      end
    end
  end)
  timer:start(NEXT_MS, NEXT_MS, function()
    waited = waited + NEXT_MS
    if waited >= END_MS then finish() else ask_next() end
  end)
  ask_next()
  return finish
end

local function relay_datagrams(server, upstream)
  local under_way, count = {}, 0
  task.defer(function()
    for finish in pairs(under_way) do finish() end
  end)
  server:recv_start(function(failed, question, from)
    if failed or not question or not from or #question < 12 or count >= QUESTIONS_MAX then return end
    count = count + 1
    local finish
    finish = ask(server, question, from, upstream, function()
      count = count - 1
      if finish then under_way[finish] = nil end
    end)
    under_way[finish] = true
  end)
end

-- Two connections as one, until either ends or nothing comes.
local function join(client, peer, ended)
  local timer = uv.new_timer()
  local function finish()
    if timer:is_closing() then return end
    for _, handle in ipairs { timer, client, peer } do close(handle) end
    ended()
  end
  timer:start(IDLE_MS, 0, finish)
  local function pass(from, to)
    from:read_start(function(failed, data)
      if failed or not data or to:write_queue_size() > WAITING_MAX then return finish() end
      timer:start(IDLE_MS, 0, finish)
      to:write(data)
    end)
  end
  pass(client, peer)
  pass(peer, client)
  return finish
end

local function relay_connections(server, upstream)
  local under_way, count = {}, 0
  task.defer(function()
    for finish in pairs(under_way) do finish() end
  end)
  errors.check_uv("listen for names", nil, server:listen(CONNECTIONS_MAX, function()
    local client, peer = uv.new_tcp(), uv.new_tcp()
    if not server:accept(client) or count >= CONNECTIONS_MAX then
      close(client)
      return close(peer)
    end
    count = count + 1
    local finish
    local function ended()
      count = count - 1
      if finish then under_way[finish] = nil end
    end
    peer:connect(upstream.servers[1], upstream.port or PORT, function(failed)
      if failed then
        close(client)
        close(peer)
        return ended()
      end
      finish = join(client, peer, ended)
      under_way[finish] = true
    end)
  end))
end

--- Relays from `address` of the namespace at a path to `upstream.servers` (at `upstream.port`, 53), for the current scope.
function M.start(namespace, address, upstream)
  relay_datagrams(open(namespace, address, "udp", uv.new_udp), upstream)
  relay_connections(open(namespace, address, "tcp", uv.new_tcp), upstream)
end

return M
