-- SPDX-License-Identifier: Apache-2.0
--- Sessions with a guest's agent over its vsock, which Firecracker gives the host as a Unix socket in the VM's directory.
--
-- The host connects to vsock.sock and says "CONNECT 5200"; the guest connects to what listens at vsock.sock_5201. Both
-- carry the frames of core/guest/protocol.h; docs/guest-protocol.md tells who says what when. The guest is not trusted:
-- the core's decoder bounds every length, and here every wait is limited.
local uv = require "luv"
local base64 = require "fcvm.base64"
local core = require "fcvm.core"
local errors = require "fcvm.errors"
local json = require "fcvm.json"
local stream = require "fcvm.stream"
local task = require "fcvm.task"
local unix = require "fcvm.unix"

local M = {}
local types = core.guest.types
local names = {}
for name, number in pairs(types) do names[number] = name end

local ANSWER_SECONDS = 10
local WINDOW = 65536       -- of stdin that the agent takes before it asks for more
local QUEUE_HIGH = 256     -- frames that wait here before reading pauses
local JSON_MAX = 65536
local CLOCK_BOUND = 25000000 -- ns: a clock that is surely within this of ours is right
local CLOCK_TRIES = 5
local ENTROPY_SIZE = 64      -- bytes for a clone's kernel
local MARKER_POLL = 0.02     -- seconds
local RESTORE_SECONDS = 120 -- fifty at once on a slow host
local PROBE_SECONDS, RETRY_SECONDS = 0.05, 0.005
local FIRST_SECONDS = 0.25   -- for Firecracker's OK, at first
local BUSY_TRIES = 5         -- sessions that came just when a snapshot began

local Session = { __name = "fcvm.session" }
Session.__index = Session

local function broken(what, name, message)
  return errors.new { op = "talk to agent", subject = what, name = name, message = message, status = errors.status.guest }
end

local function integer_in(value, least, most)
  local n = math.tointeger(value)
  return n and n >= least and n <= most and n or nil
end

-- The wall clock.
local function now_ns()
  local seconds, micros = uv.gettimeofday()
  return seconds * 1000000000 + micros * 1000
end

local function connect_pipe(root)
  local pipe = uv.new_pipe(false)
  local failure = unix.with_path(root, "vsock.sock", function(path)
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

-- What an ERROR frame says, as an error of ours.
local function agent_error(subject, what)
  if type(what) ~= "table" then what = {} end
  local errno = integer_in(what.errno, 1, 4095)
  return errors.new { op = type(what.op) == "string" and "agent: " .. what.op:sub(1, 256) or "agent", subject = subject,
    errno = errno, name = errno and uv.translate_sys_error(errno):match "^(E%u+):", message = tostring(what.message):sub(1, 4096),
    status = errors.status.guest }
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
    local what = json.decode(frame.payload, "the agent's error", JSON_MAX)
    error(agent_error(self.subject, what), 0)
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

-- Says who we are, without waiting for the agent's word: a silent agent (M.quiesce) gives it with its answer.
local function introduce(self)
  start_reading(self, function(line)
    self.served = line:match "^OK %d+$" ~= nil
    if not self.served then
      self.frames:finish(broken(self.subject, "ECONNREFUSED", "its vsock port is not served: " .. line:sub(1, 40)))
    end
  end)
  self.pipe:write "CONNECT 5200\n"
  self:send(types.HELLO, core.guest.hello())
end

local function check_greeting(self)
  errors.check(core.guest.check_hello(expect(self, types.HELLO).payload))
end

local function object_of(frame, what, subject)
  local object = errors.check(json.decode(frame.payload, what, JSON_MAX))
  return type(object) == "table" and object or error(broken(subject, "EPROTO", what .. " is no object"), 0)
end

-- While a snapshot is made, this file stands beside the VM's socket (M.quiesce), so that no other process begins anything:
-- a packet that is on its way then could be lost, and with it, on Firecracker below 1.16, the guest's vsock for ever.
local MARKER = "vsock.quiet"
local MARKER_SECONDS = core.guest.limits.quiet + 5 -- the agent goes on by itself before that

-- Waits while a snapshot is made. A marker that is older than any snapshot is nobody's.
local function wait_for_snapshot(root)
  local deadline = task.now() + MARKER_SECONDS
  while task.now() < deadline do
    local stat = uv.fs_lstat(root .. "/" .. MARKER)
    if not stat or math.abs(os.time() - stat.mtime.sec) > MARKER_SECONDS then return end
    task.sleep(MARKER_POLL)
  end
end

local function mark(root)
  local path = root .. "/" .. MARKER
  uv.fs_unlink(path)
  -- "wx" follows no link that a Firecracker which was taken over may have laid.
  local fd = errors.check_uv("create", path, uv.fs_open(path, "wx", 384))
  uv.fs_close(fd)
end

local function unmark(root) uv.fs_unlink(root .. "/" .. MARKER) end

-- A session after `fn(session)`, which says and hears what is wanted; closed where that fails or takes too long.
local function open(root, what, fn, seconds)
  return task.timeout(seconds or ANSWER_SECONDS, what, function()
    local pipe = connect_pipe(root)
    local self = session_of(pipe, root:match "([^/]+)/root$" or root)
    local ok, err = pcall(function()
      introduce(self)
      fn(self)
    end)
    if not ok then
      self:close()
      error(err, 0)
    end
    return self
  end)
end

--- Connects to the agent of the VM whose Firecracker has this root; both sides have said HELLO when it returns. Where a
-- snapshot is being made, it waits for its end.
function M.connect(root)
  wait_for_snapshot(root)
  return open(root, "the agent's greeting", check_greeting)
end

-- Asks a guest that has just begun to run again. Its kernel may still be about to hear that vsock was reset, and then
-- ends our new connection too, without a word to us. Whoever says more is told so: HELLO again, which the agent passes
-- over once it was asked. And it may still know a connection of the base's with the number that ours got, and pass ours
-- over: then Firecracker's OK does not come. Or the agent has heard us before that reset, and tells us to come again
-- (EAGAIN). In each case we open another, which gets the next number, for `seconds` at most; what is asked must bear to be
-- asked twice.
local function ask_awakening(root, kind, payload, answer, seconds)
  local times, frame = {}, nil
  local patience = FIRST_SECONDS
  local function try(session)
    times.sent = now_ns()
    session:send(kind, type(payload) == "function" and payload() or payload)
    local prober = task.spawn(function()
      local deadline = task.now() + patience
      while session.served or task.now() < deadline do
        task.sleep(PROBE_SECONDS)
        if session.served and not pcall(session.send, session, types.HELLO, core.guest.hello()) then return end
      end
      session:close()
    end)
    check_greeting(session)
    frame = expect(session, answer)
    times.answered = now_ns()
    prober:cancel()
  end
  task.timeout(seconds, "the guest to go on", function()
    repeat
      local ok, result = pcall(open, root, "the agent's answer", try, seconds)
      if ok then
        result:close()
      elseif type(result) ~= "table" or result.cancelled or (result.name ~= "EPIPE" and result.name ~= "EAGAIN") then
        error(result, 0)
      else
        task.sleep(RETRY_SECONDS)
        if result.name == "EPIPE" then patience = patience * 2 end
      end
    until ok
  end)
  return frame, times.sent, times.answered
end

local Ready = { __name = "fcvm.ready" }
Ready.__index = Ready

--- Listens for the one connection by which the agent says that it serves. Begin before the guest starts.
-- `.path` is the socket, which the VM's user must be let connect to.
function M.listen_ready(root)
  local self = setmetatable({ path = root .. "/vsock.sock_5201", server = uv.new_pipe(false) }, Ready)
  unix.with_path(root, "vsock.sock_5201", function(path)
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

-- Calls `fn`, and again where the agent was just told of a snapshot.
local function unless_busy(fn, ...)
  for try = 1, BUSY_TRIES do
    local out = table.pack(pcall(fn, ...))
    if out[1] then return table.unpack(out, 2, out.n) end
    if try == BUSY_TRIES or type(out[2]) ~= "table" or out[2].name ~= "EBUSY" then error(out[2], 0) end
    task.sleep(MARKER_POLL)
  end
end

-- A session whose first answer is the event `name`, which is given too.
local function begin(root, kind, payload, name)
  return unless_busy(function()
    local session = M.connect(root)
    local ok, event = pcall(task.timeout, ANSWER_SECONDS, "the agent's answer", function()
      session:send(kind, payload)
      return object_of(expect(session, types.EVENT), "the agent's answer", session.subject)
    end)
    if ok and event.event ~= name then
      ok, event = false, broken(session.subject, "EPROTO", "its answer is no '" .. name .. "'")
    end
    if ok then return session, event end
    session:close()
    error(event, 0)
  end)
end

local function attach(self, from)
  local session, event = begin(self.root, types.ATTACH, json.object { from = from }, "attached")
  local offset = integer_in(event.from, 0, math.maxinteger)
  if not offset then
    session:close()
    error(broken(session.subject, "EPROTO", "its output begins nowhere"), 0)
  end
  self.session, self.offset = session, offset
  return event
end

--- Attaches to the container: `:next()` gives {stream=1 or 2, data=} or an event {event=, …}, in the order of the guest.
-- Options: from, an offset in its output or "end" (what it writes from now on); by default all that the agent keeps.
-- `.offset` is where the next byte of output stands; `.lost` counts what was not kept for us.
--
-- A snapshot ends all sessions (docs/guest-protocol.md). One that is made by M.quiesce is not noticed here: `:next()` comes
-- back by itself once it is made, and neither output nor events come twice.
function M.attach(root, options)
  options = errors.options("attach", options or {}, { from = "integer string" })
  local self = setmetatable({ root = root, events = 0, skip = 0, lost = 0 }, Attached)
  self.first = attach(self, options.from)
  return self
end

--- Attaches anew where the last session left off.
function Attached:reattach()
  local before = self.offset
  self.session:close()
  self.skip = self.events
  attach(self, before)
  self.lost = self.lost + math.max(0, self.offset - before)
end

local function take_event(self, payload)
  local event = json.decode(payload, "the agent's event", JSON_MAX)
  if type(event) ~= "table" or type(event.event) ~= "string" then return nil end
  if event.event == "quiet" then
    -- At once: the agent waits for that before it falls silent.
    self.session:close()
    wait_for_snapshot(self.root)
    self:reattach()
    return nil
  end
  if self.skip > 0 then
    self.skip = self.skip - 1
    return nil
  end
  self.events = self.events + 1
  return M.check_event(event)
end

function Attached:next()
  if self.first then
    local event = self.first
    self.first = nil
    return event
  end
  while true do
    local frame = self.session:receive()
    if frame.kind == types.OUTPUT then
      self.offset = self.offset + #frame.payload
      return { stream = frame.stream, data = frame.payload }
    end
    local event = frame.kind == types.EVENT and take_event(self, frame.payload)
    if event then return event end
  end
end

function Attached:close() self.session:close() end
Attached.__close = Attached.close

--- An event of the agent with its numbers in range: a guest may say anything.
function M.check_event(event)
  if event.event == "container-exited" then
    event.signal = integer_in(event.signal, 1, 64)
    event.exit_status = integer_in(event.exit_status, 0, 255) or (not event.signal and 255) or nil
    if event.error ~= nil then event.error = tostring(event.error):sub(1, 4096) end
  end
  return event
end

-- The host's side of one command: its session, which a snapshot may replace, and its input. `kept` is what was sent from
-- `granted` on: what a session that ended may have lost.
local Command = { __name = "fcvm.command" }
Command.__index = Command

local function wake_sender(self)
  if self.wake then self.wake() end
end

-- Waits until there is a session, and room for input in it.
local function await_room(self)
  while self.away or self.sent - self.granted >= WINDOW do
    task.await(function(resume) self.wake = resume end)
    self.wake = nil
  end
end

-- Sends a piece of input. A session that ends meanwhile is no failure: what it lost is sent again in the next.
local function send_piece(self, piece)
  local session = self.session
  self.sent, self.kept = self.sent + #piece, self.kept .. piece
  self.ended = piece == ""
  local ok, err = pcall(session.send, session, types.STDIN, piece)
  if not ok and (err.cancelled or (session == self.session and not self.away)) then error(err, 0) end
end

-- Sends `source` (a string, or a function that gives the next piece and nil at the end) as the command's stdin, within
-- the window that the agent grants.
local function send_stdin(self, source)
  local pieces = type(source) == "function" and source or nil
  local rest = pieces and pieces() or source
  while rest do
    while rest ~= "" do
      await_room(self)
      local piece = rest:sub(1, math.min(WINDOW - (self.sent - self.granted), 32768))
      rest = rest:sub(#piece + 1)
      send_piece(self, piece)
    end
    rest = pieces and pieces()
  end
  await_room(self)
  send_piece(self, "")
end

local function take_window(self, payload)
  local more = #payload == 4 and string.unpack("<I4", payload) or 0
  more = math.min(more, self.sent - self.granted)
  self.granted, self.kept = self.granted + more, self.kept:sub(more + 1)
  wake_sender(self)
end

-- Goes on in another session, whose agent has the first `taken` bytes of the input, and its end where `ended`.
local function go_on(self, session, taken, ended)
  self.session:close()
  self.session = session
  if not taken then error(broken(session.subject, "EPROTO", "it took input that was not sent"), 0) end
  local lost = self.kept:sub(taken - self.granted + 1)
  for at = 1, #lost, 32768 do session:send(types.STDIN, lost:sub(at, at + 32767)) end
  if self.ended and not ended then session:send(types.STDIN, "") end
  self.away = false
  wake_sender(self)
end

local function start_session(self)
  local session = M.connect(self.root)
  local ok, err = pcall(session.send, session, types.EXEC, self.request)
  if ok then return session end
  session:close()
  error(err, 0)
end

-- The next frame. Where the command was refused since a snapshot has just begun, it is asked for again.
local function next_frame(self)
  for _ = 1, BUSY_TRIES do
    local ok, frame = pcall(self.session.receive, self.session)
    if ok then return frame end
    if type(frame) ~= "table" or frame.name ~= "EBUSY" or self.answered then error(frame, 0) end
    self.away = true
    task.sleep(MARKER_POLL)
    go_on(self, start_session(self), 0, false)
  end
  return self.session:receive()
end

local function run_exec(self, options, sinks)
  if options.stdin then task.spawn(send_stdin, self, options.stdin) end
  while true do
    local frame = next_frame(self)
    self.answered = true
    if frame.kind == types.OUTPUT then
      sinks[frame.stream == 2 and 2 or 1](frame.payload)
    elseif frame.kind == types.WINDOW then
      take_window(self, frame.payload)
    elseif frame.kind == types.EVENT then
      local event = object_of(frame, "the agent's event", self.session.subject)
      local id = event.event == "quiet" and integer_in(event.exec, 1, 0xffffffff)
      if id then
        self.away = true
        self.session:close()
        wait_for_snapshot(self.root)
        local session, resumed = begin(self.root, types.RESUME, { exec = id }, "resumed")
        go_on(self, session, integer_in(resumed.stdin, self.granted, self.sent), resumed.stdin_ended == true)
      end
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
    local self = setmetatable({ root = root, sent = 0, granted = 0, kept = "", request = { argv = json.array(argv), env = env,
      cwd = options.cwd, user = options.user, vm = options.vm or false, stdin = options.stdin ~= nil } }, Command)
    self.session = start_session(self)
    task.defer(function() self.session:close() end)
    return run_exec(self, options, { sink(1, options.on_stdout), sink(2, options.on_stderr) })
  end)
  return { status = integer_in(answer.status, 0, 255) or (not answer.signal and 255) or nil,
    signal = integer_in(answer.signal, 1, 64), error = answer.error and tostring(answer.error):sub(1, 4096),
    stdout = table.concat(parts[1]), stderr = table.concat(parts[2]), seconds = task.now() - began }
end

-- Asks one thing and gives the answer, a frame of type `answer`; while a snapshot is made, it waits.
local function ask(root, kind, payload, answer)
  local frame
  wait_for_snapshot(root)
  local session = open(root, "the agent's answer", function(session)
    session:send(kind, payload)
    check_greeting(session)
    frame = expect(session, answer)
  end)
  session:close()
  return frame
end

--- Has the agent stop the container: its stop signal, and SIGKILL after `grace` seconds.
function M.stop(root, grace) ask(root, types.STOP, { grace = grace }, types.OK) end

--- Sends a signal to the container's first process.
function M.signal(root, number) ask(root, types.SIGNAL, { signal = number }, types.OK) end

--- Has the guest power off.
function M.shutdown(root)
  local ok, err = pcall(ask, root, types.SHUTDOWN, json.object {}, types.OK)
  -- The agent may end the connection as its answer.
  if not ok and (type(err) ~= "table" or err.name ~= "EPIPE") then error(err, 0) end
end

--- The agent's state: a table as docs/guest-protocol.md has it.
function M.status(root)
  return object_of(ask(root, types.STATUS, json.object {}, types.STATE), "the agent's state", root)
end

local Silence = { __name = "fcvm.silence" }
Silence.__index = Silence

--- Has the agent fall silent, so that nothing is on its way on vsock while a snapshot is made. It stays so until M.wake, or
-- M.restore in a clone, or for core.guest.limits.quiet seconds. Gives a guard that is to be kept until the snapshot is made
-- and the guest woken, and then closed (`<close>`, more than once is fine): closing it earlier would be heard in the guest.
-- Until then other processes' sessions wait. Raises where the container does not run (EAGAIN, ESRCH).
function M.quiesce(root)
  mark(root)
  local ok, session = pcall(open, root, "the agent's silence", function(session)
    session:send(types.QUIESCE, json.object {})
    check_greeting(session)
    expect(session, types.OK)
  end)
  if ok then return setmetatable({ root = root, session = session }, Silence) end
  unmark(root)
  error(session, 0)
end

function Silence:close()
  if not self.session then return end
  unmark(self.root)
  self.session:close()
  self.session = nil
end
Silence.__close = Silence.close

--- Has a silent agent go on; one that is not silent says yes too. Who was attached, and whose command runs, comes back then.
function M.wake(root)
  ask_awakening(root, types.WAKE, json.object {}, types.OK, ANSWER_SECONDS)
  unmark(root)
end

-- ---- a clone's identity

local function hex(bytes) return (bytes:gsub(".", function(c) return ("%02x"):format(c:byte()) end)) end

-- The guest read its clock somewhere between `sent` and `answered`: how far it is off by the middle of the two, and the
-- most by which it can be.
local function measured(guest_ns, sent, answered)
  local offset = guest_ns - (sent + (answered - sent) // 2)
  return { offset = offset, bound = math.abs(offset) + (answered - sent + 1) // 2, round_trip = answered - sent }
end

local function time_of(answer, subject)
  local time, boot = integer_in(answer.time_ns, 0, 1 << 62), integer_in(answer.boot_ns, 0, 1 << 62)
  if not time or not boot then error(broken(subject, "EPROTO", "it tells no time"), 0) end
  return time, boot
end

--- Reads the guest's clock, after setting it to ours where `set` is true. Returns {time_ns=, boot_ns=, offset=, bound=,
-- round_trip=}: how far the clock is from ours, and the most by which it can be, all in ns.
function M.clock(root, set)
  local result
  wait_for_snapshot(root)
  local began = now_ns()
  local session = open(root, "the agent's clock", function(session)
    check_greeting(session)
    local sent = now_ns()
    -- The greetings' way there and back took no less than our word's way there will.
    local payload = set and json.object { time_ns = sent + (sent - began) // 4 } or json.object {}
    session:send(types.CLOCK, payload)
    local frame = expect(session, types.TIME)
    local answered = now_ns()
    local time, boot = time_of(object_of(frame, "the agent's clock", session.subject), session.subject)
    result = measured(time, sent, answered)
    result.time_ns, result.boot_ns = time, boot
  end)
  session:close()
  return result
end

-- Corrects the guest's clock until it is surely near ours; gives the best that was measured.
local function settle_clock(root, best)
  for try = 1, CLOCK_TRIES do
    if best.bound < CLOCK_BOUND then break end
    local off = math.abs(best.offset) >= CLOCK_BOUND // 4
    local found = M.clock(root, off)
    found.tries = try
    -- What was measured before the clock was set says nothing any more.
    if off or found.bound < best.bound then best = found end
  end
  return best
end

local IDENTITY = { hostname = "string", generation = "string", machine_id = "string", name = "string", env = "table",
  files = "table" }

local function request_of(identity)
  local env, files
  for key, value in pairs(identity.env or {}) do
    env = env or {}
    env[key] = tostring(value)
  end
  for i, file in ipairs(identity.files or {}) do
    errors.options("files", file, { path = "string", data = "string", mode = "integer" })
    files = files or json.array()
    files[i] = { path = file.path, mode = file.mode, data = base64.encode(file.data or "") }
  end
  return { hostname = identity.hostname, name = identity.name, env = env, files = files,
    generation = identity.generation or hex(errors.check_uv("draw", "random numbers", uv.random(16))),
    machine_id = identity.machine_id or hex(errors.check_uv("draw", "random numbers", uv.random(16))),
    entropy = base64.encode(errors.check_uv("draw", "random numbers", uv.random(ENTROPY_SIZE))) }
end

-- The answer has to be what was asked for: a guest that says anything else is no clone that could be called healthy.
local function check_restored(answer, request, subject)
  for _, key in ipairs { "generation", "hostname", "machine_id" } do
    if answer[key] ~= request[key] then
      error(broken(subject, "EPROTO", ("its %s is not what it was given"):format(key)), 0)
    end
  end
  return integer_in(answer.output, 0, math.maxinteger) or error(broken(subject, "EPROTO", "its output begins nowhere"), 0)
end

local function send_restore(root, request)
  local subject = root:match "([^/]+)/root$" or root
  local frame, sent, answered = ask_awakening(root, types.RESTORE, function()
    request.time_ns = now_ns()
    local payload = json.encode(request)
    if #payload > core.guest.limits.payload then
      errors.raise { op = "restore", subject = subject, name = "EFBIG", status = errors.status.usage,
        message = ("environment and files take %d bytes, over the limit of %d"):format(#payload, core.guest.limits.payload),
        hint = "larger files can be copied in once it runs" }
    end
    return payload
  end, types.RESTORED, RESTORE_SECONDS)
  local answer = object_of(frame, "the clone's identity", subject)
  local output = check_restored(answer, request, subject)
  local time, boot = time_of(answer, subject)
  return output, boot, measured(time, sent, answered)
end

--- Gives a clone its identity and waits until it has confirmed it: hostname, machine_id and generation (32 hexadecimal
-- digits; at random by default), name, env (for its later commands and /run/fcvm/env), files ({path=, data=, mode=}, put
-- into the container), fresh random numbers, and our clock, corrected until it is surely within 25 ms or 5 tries are done.
-- Returns {generation=, hostname=, machine_id=, output=, boot_ns=, clock = {offset=, bound=, round_trip=, tries=}}: `output`
-- is where the clone's own output begins, for M.attach; times are in ns. May be called again after an error.
function M.restore(root, identity)
  identity = errors.options("restore", identity, IDENTITY)
  if not identity.hostname then errors.raise { op = "restore", name = "EINVAL", message = "a clone needs a hostname" } end
  local request = request_of(identity)
  local output, boot, first = send_restore(root, request)
  first.tries = 0
  return { generation = request.generation, hostname = request.hostname, machine_id = request.machine_id, output = output,
    boot_ns = boot, clock = settle_clock(root, first) }
end

return M
