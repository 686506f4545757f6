-- SPDX-License-Identifier: Apache-2.0
--- The process that serves one snapshot to clones: `fcvm serve`, started by lua/fcvm/server.lua.
--
-- It owns <data>/serves/<serve-id>: links of the snapshot's parts (so that a tag made again meanwhile is another's), the socket
-- that Firecrackers get their memory from, and the control socket that clones join at. The page server itself is core/uffd,
-- in threads that never see Lua; here are its life, its recording, and which clone's memory comes by which way.
--
-- The end, in this order: the record says `stopping` (no clone can join any more), SIGTERM to each clone, SIGKILL to those that
-- stay, then the userfaultfds are closed and what was made is removed. A userfaultfd closed before its VM is dead would feed
-- it zero pages.
local uv = require "luv"
local control = require "fcvm.control"
local core = require "fcvm.core"
local errors = require "fcvm.errors"
local log = require "fcvm.log"
local owner = require "fcvm.owner"
local page_jobs = require "fcvm.pages"
local paths = require "fcvm.paths"
local resources = require "fcvm.resources"
local snapshot = require "fcvm.snapshot"
local state = require "fcvm.state"
local supervised = require "fcvm.supervised"
local stream = require "fcvm.stream"
local task = require "fcvm.task"

local M = {}

local VM = supervised.class "fcvm.vm"

local STOP_SECONDS = 35 -- for clones to stop by themselves: a container that needs its grace, and a slow guest to power off
local KILL_SECONDS = 10
local AFTER_HEALTHY_SECONDS = 1
local PREFILL_SECONDS = 5
local QUIET_SECONDS = 30

local Serve = { __name = "fcvm.serve" }
Serve.__index = Serve

local function link(from, to)
  errors.check_uv("link", from, uv.fs_link(from, to))
end

-- The links; under the lock, so that the snapshot is one and the same.
local function take_parts(self, tag)
  local found = snapshot.find(tag)
  snapshot.check_parts(found.directory, found.meta)
  self.meta, self.origin = found.meta, found.directory
  for _, name in ipairs(snapshot.parts) do link(found.directory .. "/" .. name, self.directory .. "/" .. name) end
  for _, name in ipairs { "page-map.bin", "working-set.bin" } do
    if uv.fs_stat(found.directory .. "/" .. name) then link(found.directory .. "/" .. name, self.directory .. "/" .. name) end
  end
end

local function claim(self)
  local options = self.options
  self.record = state.claim_server({ process_type = "serve", snapshot = options.tag, memory = options.memory,
    exit_when_idle = options.exit_when_idle, clones = 0 }, function(record)
    self.directory = paths.ensure(paths.serves() .. "/" .. record.serve_id)
    local ok, err = pcall(take_parts, self, options.tag)
    if ok then return end
    resources.remove_tree(self.directory)
    error(err, 0)
  end)
  task.defer(function()
    resources.release(self.record)
    state.remove(self.record.serve_id)
  end)
  if options.detach then log.to_file(self.directory .. "/fcvm.log") end
  self.log, self.owner.subject = log.tag("serve"):tag(options.tag), options.tag
end

local function check_host(self)
  local here, there = snapshot.host(), self.meta.host
  if here.cpu == there.cpu or self.options.any_cpu then return end
  errors.raise { op = "serve", subject = self.meta.tag, name = "EINVAL", status = errors.status.config,
    message = ("it was made on a '%s', and this is a '%s'"):format(tostring(there.cpu), here.cpu),
    hint = "a guest may use what this processor lacks; --any-cpu serves it all the same" }
end

local function path_of(self, name)
  local path = self.directory .. "/" .. name
  return uv.fs_stat(path) and path or nil
end

-- Starts the page server where a clone may need it. Without userfaultfd, `auto` is the File backend.
local function start_pages(self)
  if self.record.memory == "file" then return end
  local probe = core.uffd.probe()
  if not probe.userfaultfd then
    if self.record.memory == "uffd" then error(errors.new(probe.userfaultfd_error), 0) end
    self.log:warn("%s: clones map the memory file", tostring(errors.new(probe.userfaultfd_error)))
    self.record.memory = "file"
    return
  end
  self.socket = self.directory .. "/uffd.sock"
  local listener = errors.check(core.uffd.listen(self.socket, 438))
  local memory = errors.check_uv("open", self.directory .. "/memory.bin", uv.fs_open(self.directory .. "/memory.bin", "r", 0))
  local recorded = path_of(self, "working-set.bin")
  local pages, err = core.uffd.serve { listener = listener, memory = memory, page_map = path_of(self, "page-map.bin"),
    working_set = self.record.memory == "uffd" and recorded or nil, record = not recorded and self.options.record ~= false,
    -- A clone that is healthy says so; this is for one that never does.
    quiet = QUIET_SECONDS }
  uv.fs_close(memory)
  core.proc.close(listener)
  if not pages then error(errors.new(err), 0) end
  self.pages, self.replays = pages, self.record.memory == "uffd" and recorded ~= nil
  task.defer(function() pages:close() end)
end

-- Has a process make the clones' supervisors by fork. Without it they are started: slower, and as right.
local function start_fork_server(self)
  local socket = self.directory .. "/" .. supervised.fork_socket
  local child, err = core.proc.spawn { argv = { paths.prefix() .. "/bin/fcvm", "fork-server", socket }, fds = { [2] = 2 },
    session = true }
  if not child then return self.log:warn("%s", tostring(errors.wrap(err, "start fork server"))) end
  task.defer(function() child:close() end)
end

-- Reads the working set into the page cache, once, for clones that map the file.
local function warm(self)
  local job, err = core.uffd.warm(self.directory .. "/memory.bin", self.directory .. "/working-set.bin")
  local ok, failure = pcall(page_jobs.finish, job, err, "the working set to be read")
  if not ok then
    if failure.cancelled then error(failure, 0) end
    self.log:warn("%s", tostring(failure))
  end
end

-- Keeps what the first clone touched: for the clones of this server, and for those of the next where the snapshot is still there.
local function keep_recording(self)
  if self.recorded or self.pages:stats().recording == "none" then return end
  self.recorded = true
  local out = self.directory .. "/working-set.bin"
  local job, err = self.pages:recording { out = out }
  local ok, pages = pcall(page_jobs.finish, job, err, "the recording to be written")
  if not ok then
    if type(pages) == "table" and pages.cancelled then error(pages, 0) end
    self.log:warn("%s", tostring(pages))
    return
  end
  self.log:info("recorded a working set of %d pages", pages)
  state.locked(function()
    local mine, theirs = uv.fs_stat(self.directory .. "/memory.bin"), uv.fs_stat(self.origin .. "/memory.bin")
    if theirs and theirs.ino == mine.ino and theirs.dev == mine.dev then uv.fs_link(out, self.origin .. "/working-set.bin") end
  end)
  if self.record.memory == "uffd" then
    errors.check(self.pages:replay(out))
    self.replays = true
  else
    self.warming = task.background(warm, self)
  end
end

-- How the next clone's memory comes. `auto`: while nothing is recorded yet, page by page, and recorded; then by the File
-- backend over a page cache that was warmed: the fastest of the three here, and it shares memory (docs/page-server.md).
local function way_of(self)
  if self.recorder then self.recorder:wait() end
  if self.record.memory ~= "auto" then return self.record.memory end
  if not path_of(self, "working-set.bin") then return self.pages and self.options.record ~= false and "uffd" or "file" end
  if self.warming then self.warming:wait() end
  return "file"
end

local function count(self, difference)
  self.owner:update(self.record, { clones = self.record.clones + difference })
  if self.record.clones == 0 and difference < 0 and self.options.exit_when_idle then self.wake:push "idle" end
end

-- A client as it goes over the control socket: its error in words.
local function client_of(client)
  if client.error then client.error = tostring(errors.new(client.error)) end
  return client
end

local function is_filled(self, pid)
  for _, client in ipairs(self.pages:stats().clients) do
    if client.pid == pid and client.state ~= "handshake" and client.state ~= "prefill" then return true end
  end
end

local handlers = {
  join = function(self, _, peer)
    local memory = way_of(self)
    count(self, 1)
    peer:on_close(function()
      if not self.root.done then task.spawn(function() count(self, -1) end) end
    end)
    return { memory = memory, meta = self.meta, replay = memory == "uffd" and self.replays }
  end,
  -- Waits until the working set is in the memory of the clone whose Firecracker is this process. A clone that is late is
  -- no error: it runs, and its pages come as it touches them.
  prefilled = function(self, arguments)
    local ok, err = pcall(task.timeout, PREFILL_SECONDS, "the working set", function()
      while not is_filled(self, arguments.pid) do
        task.await(function(resume) self.awaiting[#self.awaiting + 1] = resume end)
      end
    end)
    if not ok and not err.timeout then error(err, 0) end
  end,
  healthy = function(self)
    if not self.pages or self.recorded or self.recorder then return end
    self.recorder = task.background(function()
      -- What it just began is still to be finished; what it touches later is its daily work.
      task.sleep(AFTER_HEALTHY_SECONDS)
      keep_recording(self)
    end)
  end,
  stats = function(self)
    local stats = self.pages and self.pages:stats() or { faults = 0, replayed = 0, zero = 0, bytes = 0, clients = {} }
    local clients = {}
    for i, client in ipairs(stats.clients) do clients[i] = client_of(client) end
    stats.clients = require("fcvm.json").array(clients)
    return stats
  end,
}

-- The clones that are this server's, by their records.
local function clones(self)
  local list = {}
  for _, record in ipairs(state.vms()) do
    if record.server == self.record.serve_id then list[#list + 1] = record end
  end
  return list
end

local function signal_all(self, number)
  for _, record in ipairs(clones(self)) do supervised.view(VM, record):signal(number) end
end

local function end_clones(self)
  state.locked(function() self.owner:update(self.record, { status = "stopping" }) end)
  local function none()
    while #clones(self) > 0 do task.sleep(0.02) end
  end
  signal_all(self, 15)
  if pcall(task.timeout, STOP_SECONDS, "clones to stop", none) then return end
  self.log:warn "clones that did not stop are killed"
  signal_all(self, 9)
  pcall(task.timeout, KILL_SECONDS, "clones to end", none)
end

-- Follows the page server's events until it is to end; returns why.
local function follow_pages(self)
  local fd = self.pages:fileno()
  while true do
    task.readable(fd, nil, "an event of the page server")
    core.uffd.drain(fd)
    local waiters = self.awaiting
    self.awaiting = {}
    for _, resume in ipairs(waiters) do resume() end
    local stats = self.pages:stats()
    for _, client in ipairs(self.pages:reap()) do
      if client.error then self.log:warn("process %d: %s", client.pid, tostring(errors.new(client.error))) end
    end
    if stats.recording == "settled" then keep_recording(self) end
  end
end

local function serve(self)
  self.options = self.owner:read()
  self.root = task.current()
  self.wake, self.awaiting = stream.queue(), {}
  resources.sweep()
  claim(self)
  check_host(self)
  self.owner.on_gone = function()
    if not self.options.detach then self.wake:push "its owner is gone" end
  end
  self.owner:on_signal(function(number, times)
    if times > 1 or number == 3 then signal_all(self, 9) end
    self.wake:push(("signal %d"):format(number))
  end)
  start_fork_server(self)
  start_pages(self)
  if self.record.memory ~= "uffd" and path_of(self, "working-set.bin") then self.warming = task.background(warm, self) end
  control.serve(self.directory, handlers, self)
  if self.pages then task.spawn(follow_pages, self) end
  self.owner:update(self.record, { status = "running", health = "healthy", socket = self.socket, started_at = os.time() })
  local why = self.wake:pop()
  self.log:info("ending: %s", why)
  end_clones(self)
  return 0
end

--- Runs the server; returns the process's exit status.
function M.main()
  return owner.run("serve", function(to)
    return serve(setmetatable({ owner = to, log = log }, Serve))
  end)
end

return M
