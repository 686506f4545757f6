-- SPDX-License-Identifier: Apache-2.0
--- Sessions with a guest's agent over its vsock, which Firecracker gives the host as a Unix socket in the VM's directory.
--
-- The host connects to vsock.sock and says "CONNECT 5200"; the guest connects to what listens at vsock.sock_5201. Both
-- carry the frames of core/guest/protocol.h; docs/guest-protocol.md tells who says what when. The guest is not trusted:
-- the core's decoder bounds every length, and here every wait is limited.
local uv = require "luv"
local core = require "fcvm.core"
local errors = require "fcvm.errors"
local json = require "fcvm.json"
local stream = require "fcvm.stream"
local task = require "fcvm.task"

local M = {}
local types = core.guest.types
local names = {}
for name, number in pairs(types) do names[number] = name end

local ANSWER_SECONDS = 10
local WINDOW = 65536       -- of stdin that the agent takes before it asks for more
local QUEUE_HIGH = 256     -- frames that wait here before reading pauses
local JSON_MAX = 65536

local Session = { __name = "fcvm.session" }
Session.__index = Session

local function broken(what, name, message)
  return errors.new { op = "talk to agent", subject = what, name = name, message = message, status = errors.status.guest }
end

-- Unix socket paths have room for 107 bytes, so long ones go by way of a descriptor of their directory.
local function with_short_path(root, name, fn)
  local path = root .. "/" .. name
  if #path <= 107 then return fn(path) end
  local dir = errors.check_uv("open", root, uv.fs_open(root, "r", 0))
  task.defer(function() uv.fs_close(dir) end)
  return fn(("/proc/self/fd/%d/%s"):format(dir, name))
end

local function connect_pipe(root)
  local pipe = uv.new_pipe(false)
  local failure = task.scope(with_short_path, root, "vsock.sock", function(path)
    local stat = uv.fs_lstat(path)
    -- A Firecracker that was taken over might leave a link to another socket of the host there.
    if not stat or stat.type ~= "socket" then return "ENOENT: there is no such socket" end
    return task.await(function(resume)
      local ok, text = pipe:connect(path, resume)
      if not ok then resume(text) end
      return function() pipe:close() end
    end)
  end)
  if failure then
    if not pipe:is_closing() then pipe:close() end
    error(broken(root, tostring(failure):match "^%u+", "connect to its vsock: " .. tostring(failure)), 0)
  end
  return pipe
end

-- Makes a session of a connected pipe: frames that arrive go to a queue; `greeting` bytes before them are left out.
local function session_of(pipe, subject)
  local self = setmetatable({ pipe = pipe, subject = subject, frames = stream.queue(), decoder = core.guest.decoder() }, Session)
  return self
end

local function take(self, bytes)
  self.decoder:feed(bytes)
  while true do
    local kind, number, payload = self.decoder:next()
    if kind == nil then
      if number then self.frames:finish(broken(self.subject, "EPROTO", tostring(number.message))) end
      return
    end
    self.frames:push { kind = kind, stream = number, payload = payload }
  end
end

-- Reads from now on; `line(text)` gets what comes up to the first newline, where it is given.
local function start_reading(self, line)
  local head = line and "" or nil
  self.on_data = function(failure, chunk)
    if not chunk then
      self.frames:finish(broken(self.subject, "EPIPE", failure and tostring(failure) or "the guest closed the connection"))
      return
    end
    if head then
      head = head .. chunk
      local at = head:find("\n", 1, true)
      if not at and #head < 64 then return end
      line(at and head:sub(1, at - 1) or head)
      chunk = at and head:sub(at + 1) or ""
      head = nil
    end
    if chunk ~= "" then take(self, chunk) end
    if self.frames:size() > QUEUE_HIGH and not self.paused then
      self.paused = true
      self.pipe:read_stop()
    end
  end
  self.pipe:read_start(self.on_data)
end

--- The next frame: {kind=, stream=, payload=}. Raises where the connection ends.
function Session:receive()
  local frame, err = self.frames:pop()
  if not frame then error(err, 0) end
  if self.paused and self.frames:size() == 0 and not self.pipe:is_closing() then
    self.paused = false
    self.pipe:read_start(self.on_data)
  end
  if frame.kind == types.ERROR then
    local what = json.decode(frame.payload, "the agent's error", JSON_MAX) or {}
    error(errors.new { op = type(what.op) == "string" and "agent: " .. what.op or "agent", subject = self.subject,
      errno = math.tointeger(what.errno), message = tostring(what.message), status = errors.status.guest }, 0)
  end
  return frame
end

--- Sends a frame; `payload` is a string, or a table that goes as JSON. Waits until it is written.
function Session:send(kind, payload, number)
  if type(payload) == "table" then payload = json.encode(payload) end
  local frame = core.guest.encode(kind, number or 0, payload or "")
  if self.pipe:is_closing() then error(broken(self.subject, "EPIPE", "the session is closed"), 0) end
  local failure = task.await(function(resume)
    local ok, text = self.pipe:write(frame, resume)
    if not ok then resume(text) end
  end)
  if failure then error(broken(self.subject, tostring(failure):match "^%u+", tostring(failure)), 0) end
end

--- Ends the session; more than once is fine.
function Session:close()
  if not self.pipe:is_closing() then self.pipe:close() end
  self.frames:finish(broken(self.subject, "EPIPE", "the session was closed"))
end
Session.__close = Session.close

local function expect(self, kind)
  local frame = self:receive()
  if frame.kind ~= kind then
    error(broken(self.subject, "EPROTO", ("it said %s, not %s"):format(names[frame.kind] or frame.kind, names[kind])), 0)
  end
  return frame
end

local function greet(self)
  start_reading(self, function(line)
    if not line:match "^OK %d+$" then
      self.frames:finish(broken(self.subject, "ECONNREFUSED", "its vsock port is not served: " .. line:sub(1, 40)))
    end
  end)
  self.pipe:write "CONNECT 5200\n"
  self:send(types.HELLO, core.guest.hello())
  errors.check(core.guest.check_hello(expect(self, types.HELLO).payload))
end

--- Connects to the agent of the VM whose Firecracker has this root; both sides have said HELLO when it returns.
function M.connect(root)
  return task.timeout(ANSWER_SECONDS, "the agent's greeting", function()
    local pipe = connect_pipe(root)
    local self = session_of(pipe, root:match "([^/]+)/root$" or root)
    local ok, err = pcall(greet, self)
    if not ok then
      self:close()
      error(err, 0)
    end
    return self
  end)
end

local Ready = { __name = "fcvm.ready" }
Ready.__index = Ready

--- Listens for the one connection by which the agent says that it serves. Begin before the guest starts.
-- `.path` is the socket, which the VM's user must be let connect to.
function M.listen_ready(root)
  local self = setmetatable({ path = root .. "/vsock.sock_5201", server = uv.new_pipe(false) }, Ready)
  task.scope(with_short_path, root, "vsock.sock_5201", function(path)
    errors.check_uv("listen", self.path, self.server:bind(path))
  end)
  self.arrived = stream.queue()
  errors.check_uv("listen", self.path, self.server:listen(1, function()
    local pipe = uv.new_pipe(false)
    if not self.server:accept(pipe) then return pipe:close() end
    if self.session then return pipe:close() end
    self.session = session_of(pipe, root:match "([^/]+)/root$" or root)
    start_reading(self.session)
    self.arrived:push(true)
  end))
  return self
end

--- Waits for the agent's word at most `seconds`; raises its error where the guest's boot failed. Returns the seconds from
-- the guest kernel's start to that word, by the guest's clock, or nil where it does not say.
function Ready:wait(seconds)
  return task.timeout(seconds, "the guest's agent", function()
    self.arrived:pop()
    local frame = self.session:receive()
    while frame.kind == types.HELLO do frame = self.session:receive() end
    if frame.kind ~= types.READY then
      error(broken(self.session.subject, "EPROTO", "its first word was " .. (names[frame.kind] or frame.kind)), 0)
    end
    local word = json.decode(frame.payload, "the agent's word", JSON_MAX)
    local ns = type(word) == "table" and math.tointeger(word.boot_ns)
    return ns and ns > 0 and ns < 1e12 and ns / 1e9 or nil
  end)
end

function Ready:close()
  if not self.server:is_closing() then self.server:close() end
  if self.session then self.session:close() end
  uv.fs_unlink(self.path)
end
Ready.__close = Ready.close

local Attached = { __name = "fcvm.attached" }
Attached.__index = Attached

--- Attaches to the container: `:next()` gives {stream=1 or 2, data=} or an event {event=, …}, in the order of the guest.
function M.attach(root)
  local session = M.connect(root)
  session:send(types.ATTACH, json.object {})
  return setmetatable({ session = session }, Attached)
end

function Attached:next()
  while true do
    local frame = self.session:receive()
    if frame.kind == types.OUTPUT then return { stream = frame.stream, data = frame.payload } end
    if frame.kind == types.EVENT then
      local event = json.decode(frame.payload, "the agent's event", JSON_MAX)
      if type(event) == "table" and type(event.event) == "string" then return M.check_event(event) end
    end
  end
end

function Attached:close() self.session:close() end
Attached.__close = Attached.close

local function integer_in(value, least, most)
  local n = math.tointeger(value)
  return n and n >= least and n <= most and n or nil
end

--- An event of the agent with its numbers in range: a guest may say anything.
function M.check_event(event)
  if event.event == "container-exited" then
    event.signal = integer_in(event.signal, 1, 64)
    event.exit_status = integer_in(event.exit_status, 0, 255) or (not event.signal and 255) or nil
    if event.error ~= nil then event.error = tostring(event.error):sub(1, 4096) end
  end
  return event
end

-- Sends `source` (a string, or a function that gives the next piece and nil at the end) as the command's stdin, within
-- the window that the agent grants.
local function send_stdin(self, source, credit)
  local pieces = type(source) == "function" and source or nil
  local rest = pieces and pieces() or source
  while rest do
    while rest ~= "" do
      while credit.left == 0 do
        task.await(function(resume) credit.wake = resume end)
        credit.wake = nil
      end
      local piece = rest:sub(1, math.min(credit.left, 32768))
      credit.left = credit.left - #piece
      rest = rest:sub(#piece + 1)
      self:send(types.STDIN, piece)
    end
    rest = pieces and pieces()
  end
  self:send(types.STDIN, "")
end

local function run_exec(self, options, sinks)
  local credit = { left = WINDOW }
  if options.stdin then task.spawn(send_stdin, self, options.stdin, credit) end
  while true do
    local frame = self:receive()
    if frame.kind == types.OUTPUT then
      sinks[frame.stream == 2 and 2 or 1](frame.payload)
    elseif frame.kind == types.WINDOW then
      local more = #frame.payload == 4 and string.unpack("<I4", frame.payload) or 0
      credit.left = math.min(WINDOW, credit.left + more)
      if credit.wake then credit.wake() end
    elseif frame.kind == types.EXITED then
      return json.decode(frame.payload, "the agent's answer", JSON_MAX) or {}
    end
  end
end

--- Runs a command in the guest; what VM:exec gives is described there.
function M.exec(root, argv, options)
  local began = task.now()
  local parts, sizes = { {}, {} }, { 0, 0 }
  local function sink(number, fn)
    return function(data)
      if fn then return fn(data) end
      sizes[number] = sizes[number] + #data
      if sizes[number] > (options.max_output or 8 << 20) then
        errors.raise { op = "exec", subject = argv[1], name = "EFBIG", message = "its output is over the limit" }
      end
      parts[number][#parts[number] + 1] = data
    end
  end
  local env
  for key, value in pairs(options.env or {}) do
    env = env or {}
    env[key] = tostring(value)
  end
  local answer = task.timeout(options.timeout, ("'%s' in the VM"):format(argv[1]), task.scope, function()
    local session = M.connect(root)
    task.defer(function() session:close() end)
    session:send(types.EXEC, { argv = json.array(argv), env = env, cwd = options.cwd, user = options.user,
      vm = options.vm or false, stdin = options.stdin ~= nil })
    return run_exec(session, options, { sink(1, options.on_stdout), sink(2, options.on_stderr) })
  end)
  return { status = integer_in(answer.status, 0, 255) or (not answer.signal and 255) or nil,
    signal = integer_in(answer.signal, 1, 64), error = answer.error and tostring(answer.error):sub(1, 4096),
    stdout = table.concat(parts[1]), stderr = table.concat(parts[2]), seconds = task.now() - began }
end

local function ask(root, kind, payload)
  return task.timeout(ANSWER_SECONDS, "the agent's answer", task.scope, function()
    local session = M.connect(root)
    task.defer(function() session:close() end)
    session:send(kind, payload)
    local ok, frame = pcall(session.receive, session)
    if ok then return frame end
    -- The agent may end the connection as its answer to SHUTDOWN.
    if frame.name ~= "EPIPE" then error(frame, 0) end
  end)
end

--- Has the agent stop the container: its stop signal, and SIGKILL after `grace` seconds.
function M.stop(root, grace) ask(root, types.STOP, { grace = grace }) end

--- Sends a signal to the container's first process.
function M.signal(root, number) ask(root, types.SIGNAL, { signal = number }) end

--- Has the guest power off.
function M.shutdown(root) ask(root, types.SHUTDOWN, json.object {}) end

--- The agent's state: a table as docs/guest-protocol.md has it.
function M.status(root)
  local frame = ask(root, types.STATUS, json.object {})
  return frame and json.decode(frame.payload, "the agent's state", JSON_MAX)
end

return M
