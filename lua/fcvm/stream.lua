-- SPDX-License-Identifier: Apache-2.0
--- Byte streams: lines out of chunks, and writing to descriptors that others share, without blocking the loop.
local uv = require "luv"
local errors = require "fcvm.errors"
local task = require "fcvm.task"

local M = {}

--- A function that takes chunks and calls `fn(line)` for each line (without its end). A line longer than `limit` bytes is
-- given in pieces of that size. Called with nil it gives what is left.
function M.lines(limit, fn)
  local rest = ""
  return function(chunk)
    if not chunk then
      if rest ~= "" then fn(rest) end
      rest = ""
      return
    end
    rest = rest .. chunk
    local from = 1
    while true do
      local at = rest:find("\n", from, true)
      if not at then break end
      local line = rest:sub(from, at - 1):gsub("\r+$", "")
      for piece = 1, math.max(1, #line), limit do fn(line:sub(piece, piece + limit - 1)) end
      from = at + 1
    end
    rest = rest:sub(from)
    while #rest > limit do
      fn(rest:sub(1, limit))
      rest = rest:sub(limit + 1)
    end
  end
end

local Sink = { __name = "fcvm.sink" }
Sink.__index = Sink

--- Something to write to the descriptor `fd` (borrowed) with: `sink:write(data)` waits in its task until the data is
-- taken. A reader that went away makes the sink `broken`: what follows is dropped, as a shell's pipeline does.
function M.sink(fd)
  local kind = uv.guess_handle(fd)
  local self = setmetatable({ kind = kind, fd = fd }, Sink)
  if kind == "tty" then
    self.handle = uv.new_tty(fd, false)
  elseif kind == "pipe" then
    -- A description of our own where there can be one: O_NONBLOCK would else be set for all who share this one.
    local own = uv.fs_open("/proc/self/fd/" .. fd, "a", 0)
    self.handle = uv.new_pipe(false)
    errors.check_uv("open", "descriptor " .. fd, self.handle:open(own or fd))
  end
  return self
end

--- Writes `data`; waits until it is taken. Returns false once the reader is gone.
function Sink:write(data)
  if self.broken or data == "" then return not self.broken end
  if self.handle then
    local failure = task.await(function(resume)
      local ok, text = self.handle:write(data, resume)
      if not ok then resume(text) end
    end)
    self.broken = failure ~= nil
  elseif self.kind == "file" or self.kind == "unknown" then
    -- Regular files and /dev/null never wait for a reader.
    local ok, text, name = uv.fs_write(self.fd, data, -1)
    if not ok and name == "ENOSPC" then
      errors.raise { op = "write output", name = "ENOSPC", message = text, status = errors.status.cannot_create }
    end
    self.broken = not ok
  else
    self.broken = true
  end
  return not self.broken
end

--- Ends the sink; the descriptor that it was made from stays open.
function Sink:close()
  if self.handle and not self.handle:is_closing() then self.handle:close() end
  self.handle, self.broken = nil, true
end

--- A function that gives the next piece read from the descriptor `fd` (borrowed), and nil at its end; for VM:exec's stdin.
function M.source(fd)
  local kind = uv.guess_handle(fd)
  if kind == "file" or kind == "unknown" then
    return function()
      local chunk = uv.fs_read(fd, 32768, -1)
      return chunk ~= "" and chunk or nil
    end
  end
  local handle
  if kind == "tty" then
    handle = uv.new_tty(fd, true)
  else
    local own = uv.fs_open("/proc/self/fd/" .. fd, "r", 0)
    handle = uv.new_pipe(false)
    errors.check_uv("open", "descriptor " .. fd, handle:open(own or fd))
  end
  return function()
    if handle:is_closing() then return nil end
    local chunk = task.await(function(resume)
      handle:read_start(function(_, data)
        handle:read_stop()
        resume(data)
      end)
      return function() handle:read_stop() end
    end)
    if not chunk then handle:close() end
    return chunk
  end
end

local Queue = { __name = "fcvm.queue" }
Queue.__index = Queue

--- A queue between callbacks and one task: `push` from anywhere, `pop` waits. `finish(err)` ends it: pop then gives what
-- is left, and after it nil and the error.
function M.queue() return setmetatable({ first = 1, last = 0 }, Queue) end

--- Adds a value; from anywhere.
function Queue:push(value)
  self.last = self.last + 1
  self[self.last] = value
  if self.wake then self.wake() end
end

--- How many values wait.
function Queue:size() return self.last - self.first + 1 end

--- Ends the queue; `err` is what pop gives with nil once it is empty.
function Queue:finish(err)
  if self.ended then return end
  self.ended, self.failure = true, err
  if self.wake then self.wake() end
end

--- The next value; waits for it in its task. At the end nil and the error.
function Queue:pop()
  while self.first > self.last do
    if self.ended then return nil, self.failure end
    task.await(function(resume)
      self.wake = resume
      return function() self.wake = nil end
    end)
    self.wake = nil
  end
  local value = self[self.first]
  self[self.first] = nil
  self.first = self.first + 1
  return value
end

return M
