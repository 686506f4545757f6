-- SPDX-License-Identifier: Apache-2.0
--- The process that supervises one VM, from its claim of a name to the last thing removed.
--
-- It is started by fcvm.run (lua/fcvm/vm.lua) as `fcvm supervise` with these descriptors: 1 and 5 take the container's
-- stdout and stderr, 2 the log, 3 is a socket to its owner. Over the socket come one line of JSON, what to run, and
-- nothing more: its end means that the owner is gone, and the VM goes too (unless it is detached). Over it go lines of JSON:
-- {event = "state", record} at each change and {event = "end", status, error} at the end.
local uv = require "luv"
local errors = require "fcvm.errors"
local firecracker = require "fcvm.firecracker"
local guest = require "fcvm.guest"
local health = require "fcvm.health"
local image = require "fcvm.image"
local json = require "fcvm.json"
local log = require "fcvm.log"
local logfile = require "fcvm.logfile"
local machine = require "fcvm.machine"
local network = require "fcvm.network"
local resources = require "fcvm.resources"
local state = require "fcvm.state"
local stream = require "fcvm.stream"
local task = require "fcvm.task"

local M = {}

local OWNER_FD, STDERR_FD = 3, 5
local PLAN_MAX = 1 << 20
local BOOT_SECONDS = 120       -- from start to the agent's word; under emulation a boot takes ten
local CONTAINER_SECONDS = 180  -- from the agent's word to a container that runs
local SHUTDOWN_SECONDS = 15
local STOP_GRACE = 10

local Supervisor = {}
Supervisor.__index = Supervisor

local function tell(self, message)
  if self.owner and not self.owner:is_closing() then self.owner:write(json.encode(message) .. "\n") end
end

local function update(self, fields)
  for key, value in pairs(fields) do self.record[key] = value end
  state.write(self.record)
  tell(self, { event = "state", record = self.record })
end

-- Notes how long after the start a stage was reached; the record carries these to `inspect`, the demo and the bench.
local function mark(self, stage)
  self.stages[stage] = math.floor((task.now() - self.began) * 1e4 + 0.5) / 1e4
  self.record.stages = self.stages
end

local function read_plan(self)
  self.owner = uv.new_pipe(false)
  errors.check_uv("open", "descriptor 3", self.owner:open(OWNER_FD))
  local text, size = {}, 0
  local line = task.timeout(10, "what to run", function()
    return task.await(function(resume)
      self.owner:read_start(function(_, chunk)
        if chunk and not self.planned then
          size = size + #chunk
          text[#text + 1] = chunk
          if chunk:find("\n", 1, true) or size > PLAN_MAX then
            self.planned = true
            resume(table.concat(text))
          end
        elseif not chunk then
          resume(nil)
          if self.on_owner_gone then self.on_owner_gone() end
        end
      end)
    end)
  end)
  if not line then errors.raise { op = "supervise", message = "its owner ended before it said what to run" } end
  return errors.check(json.decode(line, "what to run", PLAN_MAX))
end

-- Claims the name and the slot. Whatever the claim leads to is removed by `release`, last of all.
local function claim(self)
  local options = self.options
  self.record = state.claim({ name = options.name, process_type = "vm", image = options.image, labels = options.labels,
    health_check = self.check and self.check.text, memory_mib = self.memory, cpus = self.cpus }, network.free_slots())
  task.defer(function()
    local ok, err = pcall(resources.release, self.record)
    if ok then state.remove(self.record.vm_id) else self.log:warn("%s", tostring(err)) end
  end)
  self.log = log.tag(self.record.name)
  tell(self, { event = "state", record = self.record })
end

local function open_image(self)
  local found = image.open { reference = self.options.image, arch = machine.arch().oci, pull = self.options.pull,
    log = self.log:tag "image" }
  self.record.image_digest = found.digest
  mark(self, "image")
  return found
end

local function make_network(self)
  local made = network.create(self.record)
  self.record.address = made.address
  mark(self, "network")
  return made
end

local function start_firecracker(self, store, place)
  firecracker.prepare(self.record.vm_id, store, place.uid)
  mark(self, "disk")
  self.vmm = firecracker.start { id = self.record.vm_id, uid = place.uid, namespace = place.namespace,
    memory = self.memory, cpus = self.cpus, log = self.log }
  self.vmm:wait_api()
  mark(self, "spawn")
end

local function plan_of(self, found)
  local options = self.options
  return { version = 1, name = self.record.name, hostname = (self.record.name:gsub("[_.]", "-")),
    image = { reference = found.reference, store = "/dev/vdb" },
    command = options.cmd, entrypoint = options.entrypoint, env = options.env, dns = json.array(network.resolvers()),
    time_ns = os.time() * 1000000000, stop_grace = STOP_GRACE }
end

-- Boots the guest; returns a session that is attached to the container.
local function boot(self, found)
  local plan = plan_of(self, found)
  local ready <close> = guest.listen_ready(self.vmm.root)
  uv.fs_chown(ready.path, network.of_slot(self.record.slot).uid, network.of_slot(self.record.slot).uid)
  self.vmm:boot { memory = self.memory, cpus = self.cpus, plan = plan, hostname = plan.hostname }
  mark(self, "boot")
  self.watcher = task.spawn(function()
    self.vmm:wait()
    if not self.leaving then
      task.sleep(0.05) -- its last words may still be in the pipe
      self.root:cancel(self.vmm:unexpected_end())
    end
  end)
  ready:wait(BOOT_SECONDS)
  mark(self, "agent")
  return guest.attach(self.vmm.root)
end

local function watch_health(self)
  if not self.check then
    update(self, { health = "healthy", healthy_at = os.time() })
    mark(self, "healthy")
    return update(self, {})
  end
  local tagged = self.log:tag "health"
  self.health_task = task.spawn(function()
    health.watch(self.check, self.record.address, function(status, why)
      if status == "healthy" and not self.stages.healthy then mark(self, "healthy") end
      if status ~= self.record.health then
        tagged:info("%s%s", status, why and ": " .. why or "")
        update(self, { health = status, health_failure = why, healthy_at = status == "healthy" and os.time() or nil })
      elseif why ~= self.record.health_failure then
        update(self, { health_failure = why })
      end
    end)
  end)
end

local function on_event(self, event)
  if event.event == "container-started" then
    mark(self, "container")
    update(self, { status = "running", started_at = os.time() })
    self.started_timer:cancel()
    watch_health(self)
  elseif event.event == "stage" then
    self.log:tag("agent"):debug("%s", tostring(event.name))
  end
end

-- Passes output on and follows events until the container has ended. Returns its exit status.
local function follow(self, session)
  local out, bad = stream.sink(1), stream.sink(STDERR_FD)
  self.started_timer = task.spawn(function()
    task.sleep(CONTAINER_SECONDS)
    self.root:cancel(errors.new { op = "start container", subject = self.options.image, name = "ETIMEDOUT",
      status = errors.status.guest, message = ("it did not run within %d s"):format(CONTAINER_SECONDS) })
  end)
  while true do
    local message = session:next()
    if message.stream then
      self.logfile:append(message.stream, message.data);
      (message.stream == 2 and bad or out):write(message.data)
    elseif message.event == "container-exited" then
      self.started_timer:cancel()
      out:close()
      bad:close()
      return message
    else
      on_event(self, message)
    end
  end
end

-- A session that ends by itself is seldom the cause: where Firecracker ended too, its end tells more.
local function follow_to_end(self, session)
  local ok, result = pcall(follow, self, session)
  if ok then return result end
  if type(result) == "table" and result.name == "EPIPE" then
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
  update(self, { status = "stopping" })
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
  if count > 1 or number == 3 or not self.vmm or self.record.status ~= "running" then
    self.leaving = true
    return self.root:cancel(forced)
  end
  self.log:info "stopping (again to force)"
  update(self, { status = "stopping" })
  task.spawn(function()
    local ok, err = pcall(guest.stop, self.vmm.root, STOP_GRACE)
    if not ok then
      self.log:warn("%s", tostring(err))
      self.root:cancel(forced)
    end
  end)
end

local function supervise(self)
  self.options = read_plan(self)
  self.root = task.current()
  self.memory, self.cpus = machine.shape(self.options.mem, self.options.cpu)
  self.check = health.read(self.options.health)
  resources.sweep()
  claim(self)
  self.on_owner_gone = function()
    if self.options.detach then return end
    self.leaving = true
    self.root:cancel(errors.new { op = "supervise", subject = self.record.name, name = "EOWNERDEAD",
      message = "its owner is gone" })
  end
  for number, name in pairs { [2] = "sigint", [15] = "sigterm", [3] = "sigquit" } do
    local handle = uv.new_signal()
    handle:start(name, function()
      self.signals = (self.signals or 0) + 1
      on_signal(self, number, self.signals)
    end)
    handle:unref()
  end
  local opening = task.spawn(open_image, self)
  local place = make_network(self)
  local found = opening:join()
  start_firecracker(self, found.store, place)
  self.logfile = logfile.create(firecracker.directory(self.record.vm_id))
  local session = boot(self, found)
  local status = exit_status(self, follow_to_end(self, session))
  session:close()
  shut_down(self)
  return status
end

--- Runs the supervisor; returns the process's exit status.
function M.main()
  local self = setmetatable({ began = task.now(), stages = {}, log = log, record = {} }, Supervisor)
  local ok, result = pcall(task.main, function()
    local out = table.pack(pcall(task.scope, supervise, self))
    -- What was made is gone now, by the scope's end; only then does the owner hear of the end.
    local failure = not out[1] and errors.wrap(out[2], "run", self.record.name) or nil
    local status = failure and errors.exit_status(out[2]) or out[2]
    if self.owner then
      local message = { event = "end", status = status, error = failure and { op = failure.op, subject = failure.subject,
        errno = failure.errno, name = failure.name, message = failure.message, hint = failure.hint, status = status,
        signal = failure.signal } }
      if self.owner:is_closing() or (self.options and self.options.detach) then
        if failure then log.error("%s", tostring(failure)) end
      end
      pcall(task.timeout, 2, "the owner", task.await, function(resume)
        self.owner:write(json.encode(message) .. "\n", resume)
      end)
      self.owner:close()
    end
    return status
  end)
  if not ok then
    log.error("%s", tostring(result))
    return errors.exit_status(result)
  end
  return result
end

return M
