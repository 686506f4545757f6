-- SPDX-License-Identifier: Apache-2.0
--- How a clone comes to be, in its supervisor: it joins a server, takes links of the snapshot's files, and is loaded into a new
-- Firecracker in a network of its own. It runs only when its agent has confirmed what makes it another: host name, machine id,
-- clock, random numbers, generation.
local control = require "fcvm.control"
local core = require "fcvm.core"
local egress = require "fcvm.egress"
local errors = require "fcvm.errors"
local health = require "fcvm.health"
local json = require "fcvm.json"
local paths = require "fcvm.paths"
local publish = require "fcvm.publish"
local state = require "fcvm.state"
local stats = require "fcvm.stats"
local task = require "fcvm.task"

local M = {}

local CLOCK_NS = 50000000 -- by which a clone's clock may differ from ours
local JOIN_SECONDS = 120 -- a server may first read a working set from a slow disk

local function gone(self, serve)
  if self.leaving then return end
  self.leaving = true
  self.root:cancel(errors.new { op = "serve memory of", subject = self.options.name, name = "EOWNERDEAD",
    status = errors.status.guest, message = ("its server, process %d, has ended: the clone is killed"):format(serve.pid) })
end

-- Joins the server; the connection lasts as long as the clone, and its end is the clone's.
local function join(self, serve)
  local connection = control.connect(paths.serves() .. "/" .. serve.serve_id, ("the server of process %d"):format(serve.pid))
  task.defer(function()
    connection.on_gone = nil
    connection:close()
  end)
  connection.on_gone = function() gone(self, serve) end
  return connection, connection:ask("join", {}, { timeout = JOIN_SECONDS })
end

-- What the clone's record says; the server must still be serving when the record is there, or it would not be ended with it.
local function claim(self, serve, meta)
  self:claim({ process_type = "clone", image = meta.image, image_digest = meta.image_digest, memory_mib = meta.memory_mib,
    cpus = meta.cpus, snapshot = meta.tag, serve_pid = serve.pid, server = serve.serve_id }, function()
    local record = state.read(serve.serve_id)
    if record and record.status ~= "stopping" and core.proc.alive(record) then return end
    errors.raise { op = "clone", subject = meta.tag, name = "ESRCH", status = errors.status.temporary,
      message = ("its server, process %d, is ending"):format(serve.pid) }
  end)
end

local function check_version(self, meta)
  local version = self.vmm:version()
  if version ~= meta.firecracker then
    errors.raise { op = "load snapshot", subject = meta.tag, name = "EINVAL", status = errors.status.config,
      message = ("Firecracker %s made it, and this one is %s"):format(meta.firecracker, version),
      hint = "make it again, or fcvm setup firecracker --from the one that made it" }
  end
end

local function merged(base, more)
  if not base and not more then return nil end
  local out = {}
  for _, map in ipairs { base or {}, more or {} } do
    for key, value in pairs(map) do out[key] = value end
  end
  return out
end

-- The clone's own plan: the snapshot's with another name and what was asked for.
local function plan_of(self, meta)
  local plan = {}
  for key, value in pairs(meta.plan) do plan[key] = value end
  plan.name, plan.hostname = self.record.name, (self.record.name:gsub("[_.]", "-"))
  plan.env = merged(plan.env, self.options.env)
  plan.time_ns = os.time() * 1000000000
  return plan
end

--- Makes the clone that `self.options.clone` (the server's record) asks for. Returns a session attached to its container.
function M.start(self)
  -- Here, since a clone's command, which has its options checked by M.plan, has no use for them and should start quickly.
  local firecracker, guest = require "fcvm.firecracker", require "fcvm.guest"
  local serve = self.options.clone
  local connection, found = join(self, serve)
  local meta = found.meta
  self:mark "joined"
  if self.options.health == nil then self.check = health.read(meta.health_check) end
  if self.options.health == false then self.check = nil end
  self.options.egress = egress.inherit(self.options.egress, meta.egress)
  claim(self, serve, meta)
  self.record.memory = found.memory
  local place = self:make_network()
  firecracker.prepare_clone(self.record.vm_id, paths.serves() .. "/" .. serve.serve_id, found.memory, place.uid)
  self:mark "disk"
  self:start_firecracker(place)
  check_version(self, meta)
  self:watch_firecracker()
  self.vmm:load(found.memory, found.replay)
  if found.replay then
    -- All that was recorded is there before the first touch: a tenth of what a replay beside the running guest costs.
    connection:ask("prefilled", { pid = stats.firecracker_of(self.record.pid) })
    self.vmm:resume()
  end
  self:mark "load"
  self.plan = plan_of(self, meta)
  self.vmm:set_plan(self.plan)
  local confirmed = self:with_guest(guest.restore, self.vmm.root, { hostname = self.plan.hostname, name = self.record.name,
    env = self.options.env, files = self.options.files })
  self:mark "restore"
  if math.abs(confirmed.clock.offset) > CLOCK_NS then
    self.log:warn("its clock is off by %d ms: the guest is too slow to have it set", confirmed.clock.offset // 1000000)
  end
  self:update { generation = confirmed.generation, machine_id = confirmed.machine_id, hostname = confirmed.hostname,
    clock_offset = confirmed.clock.offset / 1e9 }
  self.on_healthy = function() task.spawn(pcall, connection.ask, connection, "healthy") end
  return guest.attach(self.vmm.root, { from = confirmed.output })
end

--- Checks what a user gave for a clone; returns it as the supervisor takes it.
function M.plan(options)
  errors.options("clone", options, { name = "string", env = "table", labels = "table", health = "string table boolean",
    files = "table", detach = "boolean", output = "string", on_output = "function", publish = "string table",
    network_mode = "string", network = "string table", dns = "string table", egress = "string table function" })
  if options.health then health.read(options.health) end
  local files
  for path, content in pairs(options.files or {}) do
    if type(path) ~= "string" or path:sub(1, 1) ~= "/" then
      errors.raise { op = "clone", subject = tostring(path), name = "EINVAL", message = "a file's name is an absolute path" }
    end
    local file = type(content) == "table" and content or { data = content }
    files = files or json.array {}
    files[#files + 1] = { path = path, mode = file.mode or 420, data = tostring(file.data) }
  end
  return { name = options.name, env = options.env, labels = options.labels, health = options.health, files = files,
    detach = options.detach, publish = publish.list(options.publish), network_mode = options.network_mode,
    network = require("fcvm.lan").check(options.network),
    dns = require("fcvm.resolvers").check({ dns = options.dns }).dns, egress = egress.read(options.egress) }
end

return M
