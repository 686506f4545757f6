-- SPDX-License-Identifier: Apache-2.0
--- VMs as objects: plain views of their state records. One that this process started is followed over its supervisor's
-- socket, any other by its record; what can be asked of both is the same.
local uv = require "luv"
local core = require "fcvm.core"
local errors = require "fcvm.errors"
local firecracker = require "fcvm.firecracker"
local guest = require "fcvm.guest"
local health = require "fcvm.health"
local http = require "fcvm.http"
local json = require "fcvm.json"
local logfile = require "fcvm.logfile"
local machine = require "fcvm.machine"
local paths = require "fcvm.paths"
local state = require "fcvm.state"
local stream = require "fcvm.stream"
local task = require "fcvm.task"

local M = {}

local VM = { __name = "fcvm.vm" }
local LINE_MAX = 1 << 20
local STOP_SECONDS = 40

-- `.id .pid .name .address .kind .status .health` are the record's.
local fields = { id = "vm_id", kind = "process_type" }
function VM.__index(self, key)
  local method = rawget(VM, key)
  if method ~= nil then return method end
  return rawget(self, "record")[fields[key] or key]
end

function VM:__tostring() return ("vm %s (%s, PID %d)"):format(self.name, self.status, self.pid) end

--- The record as it is now. An ended VM's last one.
function VM:state()
  if not rawget(self, "owned") and not self.ended then
    local record = state.read(self.record.vm_id)
    if record then rawset(self, "record", record) end
  end
  return self.record
end

local OPTIONS = { image = "string", name = "string", cmd = "table", entrypoint = "table string", env = "table",
  cpu = "integer", mem = "string integer", health = "string table", labels = "table", detach = "boolean",
  on_output = "function", output = "string", timeout = "number", pull = "string" }

local function check_list(what, list)
  for i = 1, #list do
    if type(list[i]) ~= "string" and type(list[i]) ~= "number" then
      errors.raise { op = "run", name = "EINVAL", message = ("%s[%d] must be a string"):format(what, i) }
    end
  end
  local out = {}
  for i, word in ipairs(list) do out[i] = tostring(word) end
  return json.array(out)
end

local function plan(options)
  errors.options("run", options, OPTIONS)
  if not options.image then errors.raise { op = "run", name = "EINVAL", message = "it needs an image" } end
  machine.shape(options.mem, options.cpu)
  health.read(options.health)
  local env
  for key, value in pairs(options.env or {}) do
    if type(key) ~= "string" or not key:match "^[%a_][%w_]*$" then
      errors.raise { op = "run", subject = tostring(key), name = "EINVAL", message = "that is no name of a variable" }
    end
    env = env or {}
    env[key] = tostring(value)
  end
  local entrypoint = options.entrypoint
  if type(entrypoint) == "string" then entrypoint = { entrypoint } end
  return { image = options.image, name = options.name, cmd = options.cmd and check_list("cmd", options.cmd),
    entrypoint = entrypoint and check_list("entrypoint", entrypoint), env = env, cpu = options.cpu, mem = options.mem,
    health = options.health, labels = options.labels, detach = options.detach, pull = options.pull }
end

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

-- Reads a pipe of ours that the supervisor writes to, to its end, for on_output.
local function listen(pipe, name, fn)
  pipe:read_start(function(_, chunk)
    if chunk then fn(name, chunk) else pipe:close() end
  end)
end

-- Starts the supervisor; returns its handle, its PID and our end of the socket. The container's output goes to
-- descriptors of ours ("inherit"), to a function, or nowhere but the log that `fcvm logs` reads.
local function start_supervisor(options)
  local owner = uv.new_pipe(false)
  local out, bad
  local stdio = { nil, nil, 2, owner, nil, nil }
  if options.output == "inherit" then
    stdio[2], stdio[6] = 1, 2
  elseif options.on_output then
    out, bad = uv.new_pipe(false), uv.new_pipe(false)
    stdio[2], stdio[6] = out, bad
  end
  local null = errors.check_uv("open", "/dev/null", uv.fs_open("/dev/null", "r+", 0))
  for i = 1, 6 do stdio[i] = stdio[i] or null end
  local self = setmetatable({ owned = true, waiters = {}, record = {} }, VM)
  local handle, pid = uv.spawn(paths.prefix() .. "/bin/fcvm", { args = { "supervise" }, stdio = stdio, detached = true },
    function(status, signal)
      rawset(self, "exit", { status = status, signal = signal })
      wake_all(self)
    end)
  uv.fs_close(null)
  if not handle then
    owner:close()
    errors.raise { op = "start supervisor", subject = paths.prefix() .. "/bin/fcvm", message = tostring(pid) }
  end
  if out then
    listen(out, "stdout", options.on_output)
    listen(bad, "stderr", options.on_output)
  end
  rawset(self, "handle", handle)
  rawset(self, "owner", owner)
  rawset(self, "record", { pid = pid, name = options.name or "vm", status = "starting", health = "unknown" })
  return self
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
  return errors.new { op = "supervise", subject = self.record.name, name = "EIO", status = errors.status.guest,
    message = exit and exit.signal and exit.signal ~= 0 and ("its supervisor was ended by signal %d"):format(exit.signal)
      or "its supervisor ended without a word" }
end

--- Starts a VM; see API.md of the docs for the options. Returns the VM once its name is claimed; raises what kept it
-- from that. It ends with the current scope unless it is detached.
function M.run(options)
  local what = plan(options)
  local self = start_supervisor(options)
  local owner = rawget(self, "owner")
  local feed = stream.lines(LINE_MAX, function(line) on_message(self, line) end)
  owner:read_start(function(_, chunk)
    feed(chunk)
    if not chunk then
      owner:close()
      rawset(self, "silent", true)
    end
    wake_all(self)
  end)
  owner:write(json.encode(what) .. "\n")
  if not options.detach then task.defer(function() self:stop() end) end
  if options.output == "inherit" then
    -- In the foreground signals are the VM's: the first stops its container, whose status is then the program's.
    task.on_signal(function(_, count)
      if count > 2 then self:signal(3) else self:signal(15) end
      return count < 4
    end)
  end
  wait_until(self, function()
    if self.record.vm_id or rawget(self, "ended") or (rawget(self, "exit") and rawget(self, "silent")) then return true end
  end)
  if not self.record.vm_id then error(end_error(self), 0) end
  return self
end

--- The running VM that a name, a PID or an id means. Raises ENOENT.
function M.find(key)
  return setmetatable({ record = state.find(key), waiters = {} }, VM)
end

--- The running VMs, by name; with `labels`, those that have all of them.
function M.list(filter)
  local list = {}
  for _, record in ipairs((state.scan())) do
    local fits = true
    for key, value in pairs(filter and filter.labels or {}) do
      fits = fits and record.labels and record.labels[key] == value
    end
    if fits then list[#list + 1] = setmetatable({ record = record, waiters = {} }, VM) end
  end
  return list
end

local reached = {
  running = function(record) return record.status == "running" or nil end,
  healthy = function(record) return record.health == "healthy" or nil end,
}

-- For a VM of another process: its record is looked at again whenever its directory changes, and its supervisor's end seen.
local function follow_record(self, look)
  local handle = errors.check(core.proc.pidfd(self.record))
  task.defer(function() handle:close() end)
  while true do
    local value = look()
    if value ~= nil then return value end
    local gone = pcall(task.readable, handle:fileno(), 0.05, "its end")
    if gone then
      rawset(self, "ended", {})
      return look()
    end
  end
end

--- Waits until the VM is "running", "healthy" or "exited". Raises where it ends first, and ETIMEDOUT after
-- `options.timeout` seconds (300; none for "exited"), with the last health failure. Returns the VM.
function VM:wait(status, options)
  options = errors.options("wait", options or {}, { timeout = "number" })
  local test = reached[status]
  if not test and status ~= "exited" then
    errors.raise { op = "wait", subject = tostring(status), name = "EINVAL", message = "it is running, healthy or exited" }
  end
  local function look()
    if test and test(self:state()) then return true end
    if self.owned and rawget(self, "exit") and (rawget(self, "ended") or rawget(self, "silent")) then return false end
    if not self.owned and rawget(self, "ended") then return false end
  end
  local limit = options.timeout or (test and 300) or nil
  local ok, got = pcall(task.timeout, limit, ("%s to be %s"):format(self.name, status), task.scope, function()
    if self.owned then return wait_until(self, look) end
    return follow_record(self, look)
  end)
  if not ok then
    if type(got) == "table" and got.timeout and self.record.health_failure then
      got.message = got.message .. "; last: " .. self.record.health_failure
    end
    error(got, 0)
  end
  if got then return self end
  local err = self.owned and end_error(self)
  if err then error(err, 0) end
  if status == "exited" then return self end
  errors.raise { op = "wait", subject = self.name, name = "ESRCH", status = errors.status.guest,
    message = ("it ended before it was %s"):format(status) .. (self.exit_status and ", with status " .. self.exit_status or "") }
end

--- The container's exit status once the VM has ended, for the process that started it; else nil.
function VM:exit_code()
  local ended = rawget(self, "ended")
  return ended and ended.status
end

--- Sends a signal (15) to the supervisor: TERM stops the VM, a second one or QUIT forces. That it is gone is fine.
function VM:signal(number)
  if rawget(self, "exit") then return end
  if rawget(self, "handle") then
    uv.process_kill(rawget(self, "handle"), number or 15)
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

--- Stops the VM and waits until nothing of it is left; past `options.timeout` seconds (40) it is forced.
function VM:stop(options)
  options = errors.options("stop", options or {}, { timeout = "number" })
  local function ended()
    local ok, err = pcall(self.wait, self, "exited")
    if not ok and type(err) == "table" and (err.cancelled or err.timeout) then error(err, 0) end
  end
  if rawget(self, "exit") then return end
  self:signal(15)
  local ok = pcall(task.timeout, options.timeout or STOP_SECONDS, self.name .. " to stop", ended)
  if not ok then
    self:signal(3)
    task.timeout(STOP_SECONDS, self.name .. " to end", ended)
  end
end

--- Ends the VM at once, without asking its container; waits until nothing of it is left.
function VM:kill()
  self:signal(3)
  pcall(self.wait, self, "exited", { timeout = STOP_SECONDS })
end

VM.__close = function(self) self:stop() end

local EXEC = { stdin = "string function", env = "table", user = "string", cwd = "string", timeout = "number", vm = "boolean",
  on_stdout = "function", on_stderr = "function", max_output = "integer" }

--- Runs a command in the container (with vm = true in the guest itself). Options beside the vector: stdin, env, user,
-- cwd, timeout (seconds), on_stdout, on_stderr (then not collected), max_output (8 MiB each).
-- Returns {status=, signal=, stdout=, stderr=, seconds=}; raises where it could not be run.
function VM:exec(options)
  local argv, rest = {}, {}
  for key, value in pairs(options) do
    if math.type(key) == "integer" then argv[key] = tostring(value) else rest[key] = value end
  end
  errors.options("exec", rest, EXEC)
  if #argv == 0 then errors.raise { op = "exec", name = "EINVAL", message = "it needs a command" } end
  return guest.exec(firecracker.root(self.record.vm_id), argv, rest)
end

--- Makes an HTTP request to a port of the VM. Options: port (80), path ("/"), method, headers {name = value}, body,
-- timeout (10). Returns {status=, headers=, body=}.
function VM:request(options)
  options = errors.options("request", options or {}, { port = "integer", path = "string", method = "string",
    headers = "table", body = "string", timeout = "number" })
  local headers = {}
  for name, value in pairs(options.headers or {}) do headers[#headers + 1] = name .. ": " .. tostring(value) end
  return http.request { url = ("http://%s:%d%s"):format(self:state().address, options.port or 80, options.path or "/"),
    method = options.method, headers = headers, body = options.body, timeout = options.timeout or 10 }
end

--- Calls `options.on_output(stream, data)` ("stdout" or "stderr") for all that the container wrote; with follow, until
-- the VM ends. Without on_output returns both as strings.
function VM:logs(options)
  options = errors.options("logs", options or {}, { follow = "boolean", on_output = "function" })
  local parts = { {}, {} }
  local names = { "stdout", "stderr" }
  local function take(number, data)
    if options.on_output then options.on_output(names[number], data) else parts[number][#parts[number] + 1] = data end
  end
  local follow = options.follow and function()
    local ok, gone = pcall(task.readable, self.watch_fd, 0.1, "more output")
    return not (ok and gone == nil)
  end
  task.scope(function()
    if follow then
      local handle = errors.check(core.proc.pidfd(self.record))
      task.defer(function() handle:close() end)
      rawset(self, "watch_fd", handle:fileno())
    end
    logfile.read(firecracker.directory(self.record.vm_id), take, follow)
  end)
  return table.concat(parts[1]), table.concat(parts[2])
end

--- What the VM uses now: memory {private=, shared=, pss=} of its Firecracker in bytes, cpu seconds.
function VM:stats()
  return require("fcvm.stats").of(self:state())
end

M.VM = VM
return M
