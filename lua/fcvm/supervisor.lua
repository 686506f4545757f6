-- SPDX-License-Identifier: Apache-2.0
--- The process that supervises one VM, from its claim of a name to the last thing removed.
--
-- It is started (lua/fcvm/vm.lua) as `fcvm supervise` with these descriptors: 1 and 5 take the container's stdout and
-- stderr, 2 the log, 3 is a socket to its owner (lua/fcvm/owner.lua). A VM comes to be in one of two ways: it boots an image, or
-- it is a clone of a snapshot (lua/fcvm/restore.lua). From then on both are the same. What other processes of fcvm ask of a VM
-- (a snapshot, a pause) comes over its control socket.
local uv = require "luv"
local capture = require "fcvm.capture"
local control = require "fcvm.control"
local core = require "fcvm.core"
local egress = require "fcvm.egress"
local egress_names = require "fcvm.egress_names"
local errors = require "fcvm.errors"
local firecracker = require "fcvm.firecracker"
local guest = require "fcvm.guest"
local health = require "fcvm.health"
local json = require "fcvm.json"
local lan = require "fcvm.lan"
local log = require "fcvm.log"
local logfile = require "fcvm.logfile"
local machine = require "fcvm.machine"
local network = require "fcvm.network"
local owner = require "fcvm.owner"
local paths = require "fcvm.paths"
local publish = require "fcvm.publish"
local resolvers = require "fcvm.resolvers"
local resources = require "fcvm.resources"
local restore = require "fcvm.restore"
local state = require "fcvm.state"
local stats = require "fcvm.stats"
local stream = require "fcvm.stream"
local task = require "fcvm.task"
local verdicts = require "fcvm.verdicts"

local M = {}

local STDERR_FD = 5
local BOOT_SECONDS = 120       -- from start to the agent's word; under emulation a boot takes ten
local CONTAINER_SECONDS = 180  -- from the agent's word to a container that runs
local SHUTDOWN_SECONDS = 15
local STOP_GRACE = 10

local Supervisor = { __name = "fcvm.supervisor" }
Supervisor.__index = Supervisor

--- Changes fields of the record.
function Supervisor:update(fields) self.owner:update(self.record, fields) end

--- Notes how long after the start a stage was reached; the record carries these to `inspect`, the demo and the bench.
function Supervisor:mark(stage)
  self.stages[stage] = math.floor((task.now() - self.began) * 1e4 + 0.5) / 1e4
  self.record.stages = self.stages
end

--- Claims the name and the slot. Whatever the claim leads to is removed by `release`, last of all. `fields` of the record come
-- from how the VM comes to be; `check` as of state.claim.
function Supervisor:claim(fields, check)
  local options = self.options
  fields.network_mode, fields.dns = network.mode(options.network_mode), resolvers.choose(options.dns)
  if options.egress ~= "allow" then fields.egress = options.egress end
  -- What a guest is answered is seen in the relay alone.
  if egress_names.needed(fields.egress) and #fields.dns.servers > 0 then fields.dns.relay = true end
  fields.name, fields.labels, fields.health_check = options.name, options.labels, self.check and self.check.text
  if options.network then
    if fields.network_mode ~= "bridged" then
      errors.raise { op = "join network", subject = options.network[1], name = "EPERM", status = errors.status.permission,
        message = "bridges of the host take root" }
    end
    fields.dns.relay = true -- it answers for the members
  end
  self.record = state.claim(fields, network.free_slots(), function(record, living)
    if check then check() end
    if options.network then record.networks = lan.choose(options.network, living) end
  end)
  task.defer(function()
    local ok, err = pcall(resources.release, self.record)
    if ok then state.remove(self.record.vm_id) else self.log:warn("%s", tostring(err)) end
  end)
  -- Before anything is made that takes time: a port that is taken is told at once.
  local ports, release = publish.hold(publish.parse(options.publish))
  if #ports > 0 then self.record.ports = json.array(ports) end
  self.release_ports = release
  local directory = paths.ensure(paths.vm(self.record.vm_id))
  if options.detach then log.to_file(directory .. "/fcvm.log") end
  self.log, self.owner.subject = log.tag(self.record.name), self.record.name
  self.owner:tell { event = "state", record = self.record }
end

--- Makes the claimed VM's namespace; returns what network.create does.
function Supervisor:make_network()
  local place = network.create(self.record)
  self.record.address = place.address
  return place
end

--- Starts Firecracker in the VM's directory, which is filled already, and makes its network while it starts.
function Supervisor:start_firecracker(place)
  self.vmm = firecracker.start { id = self.record.vm_id, uid = place.uid, namespace = place.namespace,
    memory = self.record.memory_mib, cpus = self.record.cpus, log = self.log }
  if egress_names.needed(self.record.egress) then
    self.names = egress_names.new(self.record.egress, network.inside(self.record))
  end
  local usernet = network.furnish(self.record, self.release_ports, self.names)
  if usernet then
    task.spawn(function()
      local ended = usernet()
      if not self.leaving then self.root:cancel(ended) end
    end)
  end
  self:mark "network"
  self.vmm:wait_api()
  self:mark "spawn"
end

--- From now on Firecracker's end is the VM's.
function Supervisor:watch_firecracker()
  self.watcher = task.spawn(function()
    self.vmm:wait()
    if not self.leaving then
      task.sleep(0.05) -- its last words may still be in the pipe
      self.root:cancel(self.vmm:unexpected_end())
    end
  end)
end

local function open_image(self)
  -- A clone, whose start should be quick, has no use for it.
  local found = require "fcvm.image".open { reference = self.options.image, arch = machine.arch().oci, pull = self.options.pull,
    log = self.log:tag "image" }
  self.record.image_digest = found.digest
  self:mark "image"
  return found
end

-- As many as there are to ask, and one at least: a clone may have more than its source had.
local function guest_resolvers(dns)
  return json.array(table.move(resolvers.guest, 1, math.max(1, #dns.servers), 1, {}))
end

-- What the agent is to do, as docs/agent.md has it.
local function plan_of(self, found)
  local options = self.options
  return { version = 1, name = self.record.name, hostname = (self.record.name:gsub("[_.]", "-")),
    image = { reference = found.reference, store = "/dev/vdb" },
    command = options.cmd, entrypoint = options.entrypoint, env = options.env,
    dns = guest_resolvers(self.record.dns), hosts = options.hosts,
    search = json.array(options.dns_search or resolvers.of_host().search),
    time_ns = os.time() * 1000000000, stop_grace = STOP_GRACE }
end

-- Why a guest may not have said that it serves: what its console said last, and whether it computes or sleeps.
local function without_agent(self, late)
  if type(late) ~= "table" or not late.timeout then return late end
  local words = self.vmm:last_words()
  local measured, use = pcall(stats.of, self.record)
  return errors.new { op = "boot", subject = self.record.name, name = "ETIMEDOUT", status = errors.status.guest,
    message = ("%s; the guest %s%s"):format(late.message, words and "last said: " .. words or "said nothing",
      measured and (", and has used %.0f s of CPU"):format(use.cpu) or ""),
    hint = "FCVM_LOG=debug shows its console" }
end

-- Boots an image in a new VM; returns a session that is attached to the container, which is still to start.
local function boot(self)
  local memory, cpus = machine.shape(self.options.mem, self.options.cpu)
  self:claim { process_type = "vm", image = self.options.image, memory_mib = memory, cpus = cpus }
  local opening = task.spawn(open_image, self)
  local place = self:make_network()
  local found = opening:join()
  firecracker.prepare(self.record.vm_id, found.store, place.uid)
  self:mark "disk"
  self:start_firecracker(place)
  self.plan = plan_of(self, found)
  local ready <close> = guest.listen_ready(self.vmm.root)
  if place.uid then uv.fs_chown(ready.path, place.uid, place.uid) end
  self.vmm:boot { memory = memory, cpus = cpus, plan = self.plan, hostname = self.plan.hostname }
  self:mark "boot"
  self:watch_firecracker()
  local ok, answer = pcall(ready.wait, ready, BOOT_SECONDS)
  if not ok then error(without_agent(self, answer), 0) end
  self.record.guest_ready = answer
  self:mark "agent"
  self.started_timer = task.spawn(function()
    task.sleep(CONTAINER_SECONDS)
    self.root:cancel(errors.new { op = "start container", subject = self.options.image, name = "ETIMEDOUT",
      status = errors.status.guest, message = ("it did not run within %d s"):format(CONTAINER_SECONDS) })
  end)
  return guest.attach(self.vmm.root)
end

local function watch_health(self)
  if not self.check then
    self:mark "healthy"
    self:update { health = "healthy", healthy_at = os.time() }
    return self.on_healthy and self.on_healthy()
  end
  local tagged = self.log:tag "health"
  self.health_task = task.spawn(health.watch, self.check, function(status, why)
    -- A guest that is paused cannot answer, and that says nothing about it.
    if self.held then return end
    local first = status == "healthy" and not self.stages.healthy
    if first then self:mark "healthy" end
    if status ~= self.record.health then
      tagged:info("%s%s", status, why and ": " .. why or "")
      self:update { health = status, health_failure = why, healthy_at = status == "healthy" and os.time() or nil }
    elseif why ~= self.record.health_failure then
      self:update { health_failure = why }
    end
    if first and self.on_healthy then self.on_healthy() end
  end, function() return self.held end, network.reach(self.record))
end

--- The container runs.
function Supervisor:running()
  if self.record.status ~= "starting" then return end
  self:mark "container"
  self:update { status = "running", started_at = os.time() }
  if self.started_timer then self.started_timer:cancel() end
  watch_health(self)
end

local function on_event(self, event)
  if event.event == "container-started" then
    self:running()
  elseif event.event == "stage" then
    self.log:tag("agent"):debug("%s", tostring(event.name))
  end
end

-- Passes output on and follows events until the container has ended. Returns its last event.
local function follow(self)
  local out, bad = stream.sink(1), stream.sink(STDERR_FD)
  while true do
    local message = self.session:next()
    if message.stream then
      self.logfile:append(message.stream, message.data);
      (message.stream == 2 and bad or out):write(message.data)
    elseif message.event == "container-exited" then
      if self.started_timer then self.started_timer:cancel() end
      out:close()
      bad:close()
      return message
    else
      on_event(self, message)
    end
  end
end

--- Runs `fn(...)`, which talks to the guest. A session that ends by itself is seldom the cause: where Firecracker ended too, its
-- end tells more.
function Supervisor:with_guest(fn, ...)
  local ok, result = pcall(fn, ...)
  if ok then return result end
  if type(result) == "table" and (result.name == "EPIPE" or result.name == "ECONNREFUSED") then
    -- The watcher cancels us with Firecracker's own end, which is what is raised then.
    local waited, why = pcall(task.timeout, 5, "Firecracker's end", self.watcher.wait, self.watcher)
    if not waited and not why.timeout then result = why end
  end
  error(result, 0)
end

local function exit_status(self, message)
  if message.error then
    self.log:error("container: %s", tostring(message.error):gsub("%s+$", ""))
  end
  if message.signal then return 128 + message.signal end
  return message.exit_status
end

-- Has the guest power off and waits for Firecracker's end; past the limit it is killed with its scope.
local function shut_down(self)
  self.leaving = true
  if self.health_task then self.health_task:cancel() end
  self:update { status = "stopping" }
  local ok, err = pcall(task.timeout, SHUTDOWN_SECONDS, "the guest to power off", function()
    guest.shutdown(self.vmm.root)
    self.watcher:wait()
  end)
  if not ok then
    if err.cancelled or err.signal then error(err, 0) end
    self.log:warn("%s; it is killed", tostring(err))
  end
end

-- The first SIGTERM or SIGINT stops the container in its grace, the second one ends the VM.
local function on_signal(self, number, count)
  local forced = errors.new { op = "stop", name = "EINTR", message = "ended by a signal", signal = number,
    status = 128 + number }
  if count > 1 or number == 3 or not self.vmm or self.held or self.record.status ~= "running" then
    self.leaving = true
    return self.root:cancel(forced)
  end
  self.log:info "stopping"
  if self.health_task then self.health_task:cancel() end
  self:update { status = "stopping" }
  task.spawn(function()
    local ok, err = pcall(guest.stop, self.vmm.root, STOP_GRACE)
    if not ok then
      self.log:warn("%s", tostring(err))
      self.root:cancel(forced)
    end
  end)
end

-- What its egress policy has denied so far.
local function denied(self)
  if not self.record.egress then return { policy = egress.text(nil) } end
  local path, name = network.inside(self.record)
  local handle <close> = errors.check(core.net.open(path))
  local counts = egress.counts(handle, name)
  for _, destination in ipairs(counts.destinations) do
    destination.name = self.names and self.names.known[destination.address]
  end
  counts.policy, counts.destinations = egress.text(self.record.egress), json.array(counts.destinations)
  return counts
end

-- What other processes may ask of the VM.
local handlers = {
  snapshot = function(self, arguments, peer) return capture.create(self, arguments, peer) end,
  egress = denied,
  [verdicts.request] = verdicts.ask,
  pause = function(self)
    if self.held or self.record.status ~= "running" then
      errors.raise { op = "pause", subject = self.record.name, name = "EBUSY",
        message = self.held and "a snapshot or pause is under way" or "it is not running" }
    end
    self.held = true
    self.vmm:pause()
    self:update { status = "paused" }
  end,
  resume = function(self)
    if self.record.status ~= "paused" then
      errors.raise { op = "resume", subject = self.record.name, name = "EINVAL", message = "it is not paused" }
    end
    self.vmm:resume()
    self.held = false
    self:update { status = "running" }
  end,
}

local function supervise(self)
  self.options = self.owner:read()
  -- Before there are threads: what is made for the VM is made in namespaces of our own.
  if uv.getuid() ~= 0 then errors.check(core.proc.userns_enter()) end
  self.root = task.current()
  self.check = health.read(self.options.health)
  if not self.options.clone then machine.shape(self.options.mem, self.options.cpu) end
  firecracker.require_host(not self.options.clone)
  resources.sweep()
  self.owner.on_gone = function()
    if self.options.detach then return end
    self.leaving = true
    self.root:cancel(errors.new { op = "supervise", subject = self.record.name, name = "EOWNERDEAD",
      message = "its owner is gone" })
  end
  self.owner:on_signal(function(number, count) on_signal(self, number, count) end)
  self.session = self.options.clone and restore.start(self) or boot(self)
  self.logfile = logfile.create(paths.vm(self.record.vm_id))
  control.serve(paths.vm(self.record.vm_id), handlers, self)
  if self.options.clone then self:running() end
  local status = exit_status(self, self:with_guest(follow, self))
  self.session:close()
  shut_down(self)
  return status
end

--- Runs the supervisor; returns the process's exit status.
function M.main()
  return owner.run("run", function(to)
    return supervise(setmetatable({ owner = to, began = task.now(), stages = {}, log = log, record = {} }, Supervisor))
  end)
end

return M
