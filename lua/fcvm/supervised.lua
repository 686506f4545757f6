-- SPDX-License-Identifier: Apache-2.0
--- What VMs and servers have in common for whoever uses them: each is a process of fcvm with a record. One that this process
-- started is followed over its socket, any other by its record; what can be asked of both is the same.
-- lua/fcvm/owner.lua is the other side.
local uv = require "luv"
local core = require "fcvm.core"
local errors = require "fcvm.errors"
local json = require "fcvm.json"
local log = require "fcvm.log"
local paths = require "fcvm.paths"
local state = require "fcvm.state"
local stream = require "fcvm.stream"
local task = require "fcvm.task"
local unix = require "fcvm.unix"

local M = {}

--- A fork server's socket, in the directory of the server that it belongs to.
M.fork_socket = "fork.sock"

local LINE_MAX = 1 << 20
local STOP_SECONDS = 40
local FORK_SECONDS = 5

-- `.id .kind` are the record's under other names; the rest of a record's fields are the object's.
local fields = { kind = "process_type" }

--- A class of such objects: fields of the record are read as the object's own.
function M.class(name)
  local class = setmetatable({ __name = name }, { __index = M.methods })
  function class.__index(self, key)
    local method = class[key]
    if method ~= nil then return method end
    local record = rawget(self, "record")
    if key == "id" then return state.id(record) end
    return record[fields[key] or key]
  end
  class.__close = function(self) self:stop() end
  -- A branch of fcvm.parallel that returns the object gives it to the caller's scope.
  class.__adopt = function(self, scope)
    local move = rawget(self, "move")
    if move then move(scope) end
  end
  return class
end

--- An object of `class` for the record of another process's.
function M.view(class, record) return setmetatable({ record = record, waiters = {} }, class) end

local function on_message(self, line)
  local message = json.decode(line, "the supervisor's word", LINE_MAX)
  if not message then return end
  if message.record then rawset(self, "record", message.record) end
  if message.event == "end" then
    rawset(self, "ended", { status = message.status, error = message.error and errors.new(message.error) })
  end
end

local function wake_all(self)
  local waiters = rawget(self, "waiters")
  rawset(self, "waiters", {})
  for _, wake in ipairs(waiters) do wake() end
end

-- Starts `fcvm COMMAND` as a child of ours.
local function spawn(self, command, stdio)
  local program = paths.prefix() .. "/bin/fcvm"
  local handle, pid = uv.spawn(program, { args = { command }, stdio = stdio, detached = true }, function(status, signal)
    rawset(self, "exit", { status = status, signal = signal })
    wake_all(self)
  end)
  if not handle then
    errors.raise { op = "start supervisor", subject = program, message = tostring(pid) }
  end
  rawset(self, "kill_own", function(number) uv.process_kill(handle, number) end)
  return pid
end

-- Asks the fork server at `dir` for a process with these descriptors; returns a handle on it and its PID, or nil where there
-- is none that answers.
local function ask_fork(dir, fds)
  local connection = unix.with_path(dir, M.fork_socket, function(path) return core.proc.fork_ask(path, fds) end)
  if not connection then return nil end
  local ok, process, pid = pcall(function()
    if task.readable_within(connection, FORK_SECONDS) then return core.proc.fork_answer(connection) end
  end)
  core.proc.close(connection)
  if not ok then error(process, 0) end
  return process, pid
end

-- The same by the fork server of a server of clones: a tenth of the time. Pipes of ours are connected as uv.spawn does it.
-- Returns nil where that server makes none.
local function fork(self, dir, stdio)
  local fds, pairs_made = {}, {}
  for i, what in ipairs(stdio) do
    if type(what) == "userdata" then
      local ends = errors.check_uv("make socket pair", nil, uv.socketpair("stream", nil, { nonblock = true }, {}))
      pairs_made[#pairs_made + 1] = { pipe = what, ours = ends[1], theirs = ends[2] }
      fds[i] = ends[2]
    else
      fds[i] = what
    end
  end
  local ok, process, pid = pcall(ask_fork, dir, fds)
  for _, made in ipairs(pairs_made) do
    core.proc.close(made.theirs)
    if ok and process then errors.check_uv("open pipe", nil, made.pipe:open(made.ours)) else core.proc.close(made.ours) end
  end
  if not ok then error(process, 0) end
  if not process then return nil end
  local poll = errors.check_uv("watch", self.name, uv.new_poll(process:fileno()))
  poll:start("r", function()
    poll:close()
    rawset(self, "exit", {})
    wake_all(self)
  end)
  rawset(self, "kill_own", function(number) return process:kill(number) end)
  return pid
end

-- Starts it one way or the other; returns its PID. `stdio` as of M.start.
local function begin(self, command, plan, stdio)
  local null = errors.check_uv("open", "/dev/null", uv.fs_open("/dev/null", "r+", 0))
  for i = 1, 6 do stdio[i] = stdio[i] or null end
  local ok, pid = pcall(function()
    return plan.clone and fork(self, paths.serves() .. "/" .. plan.clone.serve_id, stdio) or spawn(self, command, stdio)
  end)
  uv.fs_close(null)
  if not ok then error(pid, 0) end
  return pid
end

-- Waits in the current task until `ready()` gives something other than nil.
local function wait_until(self, ready)
  while true do
    local value = ready()
    if value ~= nil then return value end
    task.await(function(resume)
      self.waiters[#self.waiters + 1] = resume
    end)
  end
end

local function end_error(self)
  local ended = rawget(self, "ended")
  local exit = rawget(self, "exit")
  if ended and ended.error then return ended.error end
  if ended then return nil end
  return errors.new { op = "supervise", subject = self.name, name = "EIO", status = errors.status.guest,
    message = exit and exit.signal and exit.signal ~= 0 and ("its supervisor was ended by signal %d"):format(exit.signal)
      or "its supervisor ended without a word" }
end

--- Starts `fcvm COMMAND`, or for a clone a process of its server's fork server, as the supervisor of an object of `class`, with
-- what to do in `plan`. `stdio` has handles or descriptors for its descriptors 0 to 5 at 1 to 6, /dev/null for those left
-- out; 4 is the socket. Returns the object once its record is claimed; raises what kept it from that. It ends with the current
-- scope unless `plan.detach`. `started()` is called when the process is there.
function M.start(class, command, plan, stdio, started)
  local owner = uv.new_pipe(false)
  -- A detached process outlives whoever reads our stderr, and must not keep it open: it logs to a file of its own.
  if not plan.detach then stdio[3] = 2 end
  stdio[4] = owner
  local self = M.view(class, {})
  local ok, pid = pcall(begin, self, command, plan, stdio)
  if not ok then
    owner:close()
    error(pid, 0)
  end
  for key, value in pairs { owned = true, owner = owner } do rawset(self, key, value) end
  rawset(self, "record", { pid = pid, name = plan.name or command, status = "starting", health = "unknown" })
  local feed = stream.lines(LINE_MAX, function(line) on_message(self, line) end)
  owner:read_start(function(_, chunk)
    feed(chunk)
    if not chunk then
      owner:close()
      rawset(self, "silent", true)
    end
    wake_all(self)
  end)
  owner:write(json.encode(plan) .. "\n")
  if started then started() end
  if not plan.detach then rawset(self, "move", select(2, task.defer(function() self:stop() end))) end
  wait_until(self, function()
    if state.id(self.record) or rawget(self, "ended") or (rawget(self, "exit") and rawget(self, "silent")) then return true end
  end)
  if not state.id(self.record) then error(end_error(self), 0) end
  return self
end

-- For one of another process: its record is looked at again and again, and its supervisor's end seen.
local function follow_record(self, look)
  local handle, err = core.proc.pidfd(self.record)
  if not handle then
    if err.name ~= "ESRCH" then error(errors.new(err), 0) end
    rawset(self, "ended", {})
    return look()
  end
  task.defer(function() handle:close() end)
  while true do
    local value = look()
    if value ~= nil then return value end
    if task.readable_within(handle:fileno(), 0.05) then
      rawset(self, "ended", {})
      return look()
    end
  end
end

local methods = {}
M.methods = methods

--- The record as it is now. An ended one's last.
function methods:state()
  if not rawget(self, "owned") and not rawget(self, "ended") then
    local record = state.read(self.id)
    if record then rawset(self, "record", record) end
  end
  return self.record
end

--- Waits until `reached(record)` is true, at most `limit` seconds, or, without `reached`, until it has ended. `what` is for
-- errors. Raises where it ends first. Returns the object.
function methods:wait_for(what, reached, limit)
  local function look()
    if reached and reached(self:state()) then return true end
    if rawget(self, "owned") then
      if rawget(self, "exit") and (rawget(self, "ended") or rawget(self, "silent")) then return false end
    elseif rawget(self, "ended") then
      return false
    end
  end
  local got = task.timeout(limit, ("%s to be %s"):format(self.name, what), task.scope, function()
    if rawget(self, "owned") then return wait_until(self, look) end
    return follow_record(self, look)
  end)
  if got then return self end
  local err = rawget(self, "owned") and end_error(self)
  if err then error(err, 0) end
  if not reached then return self end
  errors.raise { op = "wait", subject = self.name, name = "ESRCH", status = errors.status.guest,
    message = ("it ended before it was %s"):format(what) }
end

--- The exit status once it has ended, for the process that started it; else nil.
function methods:exit_code()
  local ended = rawget(self, "ended")
  return ended and ended.status
end

--- Sends a signal (15) to the supervisor: TERM stops, a second one or QUIT forces. That it is gone is fine.
function methods:signal(number)
  if rawget(self, "exit") then return end
  if rawget(self, "kill_own") then
    rawget(self, "kill_own")(number or 15)
    return
  end
  local handle, err = core.proc.pidfd(self.record)
  if not handle then
    if err.name == "ESRCH" then return end
    error(errors.new(err), 0)
  end
  local ok, problem = handle:kill(number or 15)
  handle:close()
  if not ok and problem.name ~= "ESRCH" then error(errors.new(problem), 0) end
end

--- From now on this program's signals are its: the first stops it, and its status is then the program's.
function methods:take_signals()
  task.on_signal(function(_, count)
    if count == 1 then log.info "once more forces it" end
    if count > 2 then self:signal(3) else self:signal(15) end
    return count < 4
  end)
end

local function wait_ended(self)
  local ok, err = pcall(self.wait_for, self, "ended")
  if not ok and type(err) == "table" and (err.cancelled or err.timeout) then error(err, 0) end
end

--- Stops it and waits until nothing of it is left; past `options.timeout` seconds (40) it is forced.
function methods:stop(options)
  options = errors.options("stop", options or {}, { timeout = "number" })
  if rawget(self, "exit") then return end
  self:signal(15)
  local ok = pcall(task.timeout, options.timeout or STOP_SECONDS, self.name .. " to stop", wait_ended, self)
  if not ok then
    self:signal(3)
    task.timeout(STOP_SECONDS, self.name .. " to end", wait_ended, self)
  end
end

--- Ends it at once, without asking what runs in it; waits until nothing of it is left.
function methods:kill()
  self:signal(3)
  pcall(task.timeout, STOP_SECONDS, self.name .. " to end", wait_ended, self)
end

return M
