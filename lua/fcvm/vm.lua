-- SPDX-License-Identifier: Apache-2.0
--- VMs as objects: plain views of their state records. One that this process started is followed over its supervisor's
-- socket, any other by its record; what can be asked of both is the same.
local uv = require "luv"
local control = require "fcvm.control"
local core = require "fcvm.core"
local egress = require "fcvm.egress"
local errors = require "fcvm.errors"
local health = require "fcvm.health"
local json = require "fcvm.json"
local machine = require "fcvm.machine"
local paths = require "fcvm.paths"
local publish = require "fcvm.publish"
local state = require "fcvm.state"
local supervised = require "fcvm.supervised"
local task = require "fcvm.task"

local M = {}

local SNAPSHOT_SECONDS = 300

local VM = supervised.class "fcvm.vm"

function VM:__tostring() return ("vm %s (%s, PID %d)"):format(self.name, self.status, self.pid) end

local OPTIONS = { image = "string", name = "string", cmd = "table", entrypoint = "table string", env = "table",
  cpu = "integer", mem = "string integer", health = "string table", labels = "table", detach = "boolean",
  on_output = "function", output = "string", timeout = "number", pull = "string", publish = "string table",
  network_mode = "string", network = "string table", dns = "string table", dns_search = "string table", add_host = "string table",
  egress = "string table function" }

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
  local ports, names = publish.list(options.publish), require("fcvm.resolvers").check(options)
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
    health = options.health, labels = options.labels, detach = options.detach, pull = options.pull, publish = ports,
    network_mode = options.network_mode, network = require("fcvm.lan").check(options.network), dns = names.dns,
    dns_search = names.dns_search, hosts = names.hosts, egress = egress.read(options.egress) }
end

-- A pipe of ours that the supervisor will write to, and a function that reads it to its end, for on_output.
local function listen(name, fn)
  local pipe = uv.new_pipe(false)
  return pipe, function()
    pipe:read_start(function(_, chunk)
      if chunk then fn(name, chunk) else pipe:close() end
    end)
  end
end

-- Starts the supervisor of what `what` says. The container's output goes to descriptors of ours (output = "inherit"), to a
-- function, or nowhere but the log that `fcvm logs` reads.
local function supervise(what, options)
  local stdio = {}
  if options.output == "inherit" then
    stdio[2], stdio[6] = 1, 2
    local self = supervised.start(VM, "supervise", what, stdio)
    self:take_signals()
    return self
  elseif options.on_output then
    local read_out, read_bad
    stdio[2], read_out = listen("stdout", options.on_output)
    stdio[6], read_bad = listen("stderr", options.on_output)
    return supervised.start(VM, "supervise", what, stdio, function()
      read_out()
      read_bad()
    end)
  end
  return supervised.start(VM, "supervise", what, stdio)
end

local function start(what, options)
  local self = supervise(what, options)
  if type(options.egress) == "function" then require("fcvm.verdicts").serve(self, options.egress) end
  return self
end

--- Starts a VM; see API.md of the docs for the options. Returns the VM once its name is claimed; raises what kept it
-- from that. It ends with the current scope unless it is detached.
function M.run(options) return start(plan(options), options) end

--- Starts a clone at the server `serve` ({serve_id=, pid=}) of what restore.plan gave; see server:clone.
function M.clone(serve, what, options)
  what.clone = serve
  return start(what, options)
end

--- The running VM that a name, a PID or an id means. Raises ENOENT.
function M.find(key)
  return supervised.view(VM, state.find(key))
end

--- The running VMs, by name; with `labels`, those that have all of them.
function M.list(filter)
  local list = {}
  for _, record in ipairs(state.vms()) do
    local fits = true
    for key, value in pairs(filter and filter.labels or {}) do
      fits = fits and record.labels and record.labels[key] == value
    end
    if fits then list[#list + 1] = supervised.view(VM, record) end
  end
  return list
end

local reached = {
  running = function(record) return record.status == "running" end,
  healthy = function(record) return record.health == "healthy" end,
}

--- Waits until the VM is "running", "healthy" or "exited". Raises where it ends first, and ETIMEDOUT after
-- `options.timeout` seconds (300; none for "exited"), with the last health failure. Returns the VM.
function VM:wait(status, options)
  options = errors.options("wait", options or {}, { timeout = "number" })
  if not reached[status] and status ~= "exited" then
    errors.raise { op = "wait", subject = tostring(status), name = "EINVAL", message = "it is running, healthy or exited" }
  end
  local ok, err = pcall(self.wait_for, self, status, reached[status], options.timeout or (reached[status] and 300) or nil)
  if ok then return self end
  if type(err) == "table" and err.timeout and self.health_failure then
    err.message = err.message .. "; last: " .. self.health_failure
  end
  error(err, 0)
end

-- Waits for a VM that is still starting: who asks something of it wants it running.
local function running(self)
  if self:state().status == "starting" then self:wait "running" end
  return self
end

local EXEC = { stdin = "string function", env = "table", user = "string", cwd = "string", timeout = "number", vm = "boolean",
  on_stdout = "function", on_stderr = "function", max_output = "integer" }

--- Runs a command in the container (with vm = true in the guest itself), once it runs. Options beside the vector: stdin,
-- env, user, cwd, timeout (seconds), on_stdout, on_stderr (then not collected), max_output (8 MiB each).
-- Returns {status=, signal=, stdout=, stderr=, seconds=}; raises where it could not be run.
function VM:exec(options)
  local argv, rest = {}, {}
  for key, value in pairs(options) do
    if math.type(key) == "integer" then argv[key] = tostring(value) else rest[key] = value end
  end
  errors.options("exec", rest, EXEC)
  if #argv == 0 then errors.raise { op = "exec", name = "EINVAL", message = "it needs a command" } end
  return require("fcvm.guest").exec(paths.vm_root(running(self).record.vm_id), argv, rest)
end

--- Makes an HTTP request to a port of the VM. Options: port (80), path ("/"), method, headers {name = value}, body,
-- timeout (10). Returns {status=, headers=, body=}.
function VM:request(options)
  options = errors.options("request", options or {}, { port = "integer", path = "string", method = "string",
    headers = "table", body = "string", timeout = "number" })
  local headers = {}
  for name, value in pairs(options.headers or {}) do headers[#headers + 1] = name .. ": " .. tostring(value) end
  local address, socket = require("fcvm.network").reach(running(self).record)
  local url = ("http://%s:%d%s"):format(address, options.port or 80, options.path or "/")
  return require("fcvm.http").request { url = url, socket = socket, method = options.method, headers = headers,
    body = options.body, timeout = options.timeout or 10 }
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
  local follow = options.follow and function() return not task.readable_within(self.watch_fd, 0.1) end
  task.scope(function()
    if follow then
      local handle = errors.check(core.proc.pidfd(self.record))
      task.defer(function() handle:close() end)
      rawset(self, "watch_fd", handle:fileno())
    end
    require("fcvm.logfile").read(paths.vm(self.record.vm_id), take, follow)
  end)
  return table.concat(parts[1]), table.concat(parts[2])
end

local function ask(self, op, arguments, options)
  return control.call(paths.vm(running(self).record.vm_id), self.name, op, arguments, options)
end

--- Makes a snapshot of the VM, which goes on serving. Options: tag, labels, timeout (300), on_progress(what). A snapshot that
-- had the tag is replaced. Returns it; `.paused` is how long the VM stood still, in seconds.
function VM:snapshot(options)
  options = errors.options("snapshot", options or {}, { tag = "string", labels = "table", timeout = "number",
    on_progress = "function" })
  local made = ask(self, "snapshot", { tag = options.tag or self.name, labels = options.labels },
    { timeout = options.timeout or SNAPSHOT_SECONDS, on_progress = options.on_progress })
  local found = require("fcvm.snapshot").find(made.tag)
  rawset(found, "paused", made.paused)
  return found
end

--- Stops the VM's processors until `resume`. Connections stay open as long as the other sides wait.
function VM:pause() ask(self, "pause") end
function VM:resume() ask(self, "resume") end

--- What its egress policy has denied: {policy= its text, denied= packets, destinations= {{address=, protocol=, port=, packets=,
-- bytes=}, …} with the most first, others= packets to destinations that are not listed (any more)}. Of a VM without one
-- the policy alone.
function VM:egress()
  if not self:state().egress then return { policy = "allow" } end
  return ask(self, "egress")
end

--- What the VM uses now: memory {private=, shared=, pss=} of its Firecracker in bytes, cpu seconds.
function VM:stats()
  return require("fcvm.stats").of(self:state())
end

M.VM = VM
return M
