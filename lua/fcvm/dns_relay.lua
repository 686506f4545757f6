-- SPDX-License-Identifier: Apache-2.0
--- Passes a guest's questions on to resolvers that only this host can ask (127.0.0.53 of systemd-resolved): between a socket of
-- the VM's namespace and one of the host's. What is in them is nobody's business here but for the number that an answer must
-- have of its question, so that there is nothing to parse. Where an egress policy has names, `names` looks at them
-- (lua/fcvm/egress_names.lua).
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
local function ask(server, question, from, upstream, names, ended)
  local socket, timer, asked, waited = uv.new_udp(), uv.new_timer(), 0, 0
  -- Where an answer gives rights, its number is not one that the guest has chosen: who forges one has to guess it.
  local number = names and uv.random(2) or question:sub(1, 2)
  local function finish()
    if socket:is_closing() then return end
    socket:close()
    timer:close()
    ended()
  end
  local function ask_next()
    asked = asked + 1
    if not upstream.servers[asked] then return end
    socket:send(number .. question:sub(3), upstream.servers[asked], upstream.port or PORT, function() end)
  end
  socket:recv_start(function(failed, answer, peer)
    if failed then return finish() end
    if not answer or not peer or answer:sub(1, 2) ~= number then return end
    for i = 1, asked do
      if peer.ip == upstream.servers[i] and peer.port == (upstream.port or PORT) then
        if names then names:learn(answer) end
        server:send(question:sub(1, 2) .. answer:sub(3), from.ip, from.port, function() end)
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

-- What is answered here instead of being passed on; nil for what is passed on.
local function own_answer(question, names, members)
  local own = members and members:answer(question)
  if own and names then names:learn(own) end
  return own or names and names:refuse(question)
end

local function relay_datagrams(server, upstream, names, members)
  local under_way, count = {}, 0
  task.defer(function()
    for finish in pairs(under_way) do finish() end
  end)
  server:recv_start(function(failed, question, from)
    if failed or not question or not from or #question < 12 or count >= QUESTIONS_MAX then return end
    local own = own_answer(question, names, members)
    if own then return server:send(own, from.ip, from.port, function() end) end
    count = count + 1
    local finish
    finish = ask(server, question, from, upstream, names, function()
      count = count - 1
      if finish then under_way[finish] = nil end
    end)
    under_way[finish] = true
  end)
end

-- A function that takes pieces of a connection and calls `fn` with each whole message, as it is and with its length.
local function messages(fn)
  local text = ""
  return function(data)
    text = text .. data
    while #text >= 2 and #text >= 2 + (">I2"):unpack(text) do
      local size = (">I2"):unpack(text)
      fn(text:sub(3, 2 + size), text:sub(1, 2 + size))
      text = text:sub(3 + size)
    end
  end
end

-- Two connections as one, until either ends or nothing comes.
local function join(client, peer, names, members, ended)
  local timer = uv.new_timer()
  local function finish()
    if timer:is_closing() then return end
    for _, handle in ipairs { timer, client, peer } do close(handle) end
    ended()
  end
  timer:start(IDLE_MS, 0, finish)
  local question = (names or members) and messages(function(message, whole)
    local own = own_answer(message, names, members)
    if own then client:write((">s2"):pack(own)) else peer:write(whole) end
  end)
  local answer = names and messages(function(message, whole)
    names:learn(message)
    client:write(whole)
  end)
  local function pass(from, to, take)
    from:read_start(function(failed, data)
      local waiting = client:write_queue_size() + peer:write_queue_size()
      if failed or not data or waiting > WAITING_MAX then return finish() end
      timer:start(IDLE_MS, 0, finish)
      if take then take(data) else to:write(data) end
    end)
  end
  pass(client, peer, question)
  pass(peer, client, answer)
  return finish
end

local function relay_connections(server, upstream, names, members)
  local under_way, count = {}, 0
  task.defer(function()
    for finish in pairs(under_way) do finish() end
  end)
  errors.check_uv("listen for names", nil, server:listen(CONNECTIONS_MAX, function()
    local client, peer = uv.new_tcp(), uv.new_tcp()
    if not server:accept(client) or count >= CONNECTIONS_MAX or not upstream.servers[1] then
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
      finish = join(client, peer, names, members, ended)
      under_way[finish] = true
    end)
  end))
end

--- Relays from `address` of the namespace at a path to `upstream.servers` (at `upstream.port`, 53), for the current scope.
-- `names`, and `members` that answer for themselves (lua/fcvm/lan.lua), may be nil.
function M.start(namespace, address, upstream, names, members)
  relay_datagrams(open(namespace, address, "udp", uv.new_udp), upstream, names, members)
  relay_connections(open(namespace, address, "tcp", uv.new_tcp), upstream, names, members)
end

return M
