-- SPDX-License-Identifier: Apache-2.0
--- What fcvm's processes ask of each other: requests over a Unix socket, one line of JSON each way.
--
-- A supervisor listens beside its VM, a server beside its socket of pages; both directories are their user's alone. A request is
-- {op=, arguments=}; its answer {result=} or {error=}, before it any number of {progress=}. A connection that ends cancels what
-- it asked for, and tells each side that the other is gone, whatever killed it.
local errors = require "fcvm.errors"
local json = require "fcvm.json"
local stream = require "fcvm.stream"
local task = require "fcvm.task"
local unix = require "fcvm.unix"
local uv = require "luv"

local M = { socket = "control.sock" }

local LINE_MAX = 1 << 20
local WAITING_MAX = 16 -- requests of one connection that wait for their turn

local function plain(err)
  err = errors.wrap(err, "ask")
  return { op = err.op:gsub("^ask: ", ""), subject = err.subject, errno = err.errno, name = err.name, message = err.message,
    hint = err.hint, status = errors.exit_status(err) }
end

local function send(pipe, message)
  if pipe:is_closing() then return end
  pipe:write(json.encode(message) .. "\n")
end

local Peer = { __name = "fcvm.peer" }
Peer.__index = Peer

--- Tells the one who asks how far it is.
function Peer:progress(what) send(self.pipe, { progress = what }) end

--- Has `fn` called when the connection ends.
function Peer:on_close(fn) self.closers[#self.closers + 1] = fn end

-- Answers one line. A request that cannot be read ends the connection: what follows it could not be told apart.
local function answer(self, line)
  local request, err = json.decode(line, "a request", LINE_MAX)
  local handler = type(request) == "table" and type(request.op) == "string" and self.handlers[request.op]
  local reply
  if not handler then
    reply = { error = plain(err or errors.new { op = "ask", name = "EINVAL", message = "there is no such request" }) }
  else
    local ok, result = pcall(handler, self.object, type(request.arguments) == "table" and request.arguments or {}, self)
    reply = ok and { result = result == nil and json.object {} or result } or { error = plain(result) }
  end
  send(self.pipe, reply)
  if not handler then self.pipe:shutdown() end
end

local function close_peer(self)
  if not self.pipe:is_closing() then self.pipe:close() end
  local closers = self.closers
  self.closers = {}
  for _, fn in ipairs(closers) do fn() end
end

local function serve_peer(self)
  local waiting = stream.queue()
  local feed = stream.lines(LINE_MAX, function(line) waiting:push(line) end)
  self.pipe:read_start(function(_, chunk)
    if chunk then feed(chunk) end
    if chunk and waiting:size() <= WAITING_MAX then return end
    waiting:finish()
    close_peer(self)
    if self.task then self.task:cancel() end
  end)
  for line in function() return (waiting:pop()) end do
    answer(self, line)
    -- A handler that was cancelled has ended, and who asked is not there any more.
    if self.pipe:is_closing() then return end
  end
end

--- Serves the requests of `handlers` {op = function(object, arguments, peer)} at `dir` in the current scope, each connection in
-- a task of its own. `object` is what is asked; a handler returns its result or raises.
function M.serve(dir, handlers, object)
  local peers = {}
  local server = unix.listen(dir, M.socket, function(pipe)
    local self = setmetatable({ pipe = pipe, handlers = handlers, object = object, closers = {} }, Peer)
    peers[self] = true
    self.task = task.spawn(function()
      local ok = pcall(serve_peer, self)
      close_peer(self)
      peers[self] = nil
      return ok
    end)
  end)
  task.defer(function()
    server:close()
    uv.fs_unlink(dir .. "/" .. M.socket)
    for peer in pairs(peers) do
      close_peer(peer)
      peer.task:cancel()
      peer.task:wait()
    end
  end)
end

local Connection = { __name = "fcvm.connection" }
Connection.__index = Connection

--- Connects to the process that serves at `dir`; `who` names it in errors. The caller closes the connection.
function M.connect(dir, who)
  local pipe, text = unix.connect(dir, M.socket)
  if not pipe then
    errors.raise { op = "reach", subject = who, name = text:match "^%u+", message = "it does not answer: " .. text,
      status = errors.status.temporary }
  end
  local self = setmetatable({ pipe = pipe, who = who, lines = stream.queue() }, Connection)
  local feed = stream.lines(LINE_MAX, function(line) self.lines:push(line) end)
  pipe:read_start(function(_, chunk)
    if chunk then return feed(chunk) end
    self.lines:finish()
    if self.on_gone then self.on_gone() end
  end)
  return self
end

--- Asks and waits for the answer at most `options.timeout` seconds (10); `options.on_progress` gets what comes before it.
-- Returns the result or raises the error of the other side.
function Connection:ask(op, arguments, options)
  options = options or {}
  return task.timeout(options.timeout or 10, ("%s to answer '%s'"):format(self.who, op), function()
    send(self.pipe, { op = op, arguments = arguments or json.object {} })
    while true do
      local line = self.lines:pop()
      if not line then
        errors.raise { op = op, subject = self.who, name = "EPIPE", message = "its process ended before it answered",
          status = errors.status.guest }
      end
      local message = json.decode(line, "an answer", LINE_MAX)
      if type(message) ~= "table" then
        errors.raise { op = op, subject = self.who, name = "EPROTO", message = "its answer makes no sense" }
      end
      if message.error then error(errors.new(message.error), 0) end
      if message.result ~= nil then return message.result end
      if options.on_progress and message.progress ~= nil then options.on_progress(message.progress) end
    end
  end)
end

function Connection:close()
  if not self.pipe:is_closing() then self.pipe:close() end
  self.lines:finish()
end
Connection.__close = Connection.close

--- Connects, asks once and closes.
function M.call(dir, who, op, arguments, options)
  local connection <close> = M.connect(dir, who)
  return connection:ask(op, arguments, options)
end

return M
