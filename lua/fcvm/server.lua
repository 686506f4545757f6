-- SPDX-License-Identifier: Apache-2.0
--- Servers of snapshots as objects: what a recipe sees of lua/fcvm/serve.lua.
local control = require "fcvm.control"
local errors = require "fcvm.errors"
local paths = require "fcvm.paths"
local restore = require "fcvm.restore"
local state = require "fcvm.state"
local supervised = require "fcvm.supervised"
local vm = require "fcvm.vm"

local M = {}

local Server = supervised.class "fcvm.server"
local START_SECONDS = 60

function Server:__tostring() return ("server of %s (%s, PID %d)"):format(self.snapshot, self.status, self.pid) end

local OPTIONS = { memory = "string", record = "boolean", exit_when_idle = "boolean", any_cpu = "boolean", detach = "boolean" }
local ways = { auto = true, uffd = true, file = true }

--- Starts a server of the snapshot `tag` and waits until it serves. Options: memory ("auto", "uffd" or "file"), record
-- (true: what the first clone touches, where no recording is there), exit_when_idle, any_cpu, detach. It ends, with its
-- clones, with the current scope unless it is detached.
function M.start(tag, options)
  options = errors.options("serve", options or {}, OPTIONS)
  if options.memory and not ways[options.memory] then
    errors.raise { op = "serve", subject = options.memory, name = "EINVAL", message = "memory is auto, uffd or file" }
  end
  local plan = { tag = tag, memory = options.memory or "auto", record = options.record, exit_when_idle = options.exit_when_idle,
    any_cpu = options.any_cpu, detach = options.detach }
  return supervised.start(Server, "serve-pages", plan, {})
    :wait_for("serving", function(record) return record.status == "running" end, START_SECONDS)
end

--- The running server of a PID or an id, or the only one of a snapshot's tag. Raises ENOENT.
function M.find(key)
  local pid, of_tag = math.tointeger(tonumber(key)), {}
  for _, record in ipairs(state.servers()) do
    if record.serve_id == key or (pid and record.pid == pid) then return supervised.view(Server, record) end
    if record.snapshot == key then of_tag[#of_tag + 1] = record end
  end
  if #of_tag == 1 then return supervised.view(Server, of_tag[1]) end
  errors.raise { op = "find server", subject = tostring(key), name = #of_tag > 1 and "EINVAL" or "ENOENT",
    message = #of_tag > 1 and ("%d serve this snapshot"):format(#of_tag) or "no such process serves a snapshot",
    hint = #of_tag > 1 and "name one by its PID" or "fcvm snapshot ls lists them" }
end

--- The running servers, oldest first; of one snapshot where its tag is given.
function M.list(tag)
  local list = {}
  for i, record in ipairs(state.servers(tag)) do list[i] = supervised.view(Server, record) end
  return list
end

--- Starts a clone: a VM that goes on where the snapshot was taken. Options: name, env and files (for commands run in it, and
-- in /run/fcvm), labels, health (a URL or table; the snapshot's own by default, false for none), detach, on_output. It is
-- running only when its agent has confirmed its own host name, machine id, clock and random numbers.
function Server:clone(options)
  return vm.clone({ serve_id = self.serve_id, pid = self.pid }, restore.plan(options or {}), options or {})
end

--- Counters of the page server: faults, replayed, zero, bytes, and of each clone that it feeds (clients) the same with
-- p50 and p99 (seconds).
function Server:stats()
  return control.call(paths.serves() .. "/" .. self.serve_id, ("the server of process %d"):format(self.pid), "stats")
end

return M
