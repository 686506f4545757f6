-- SPDX-License-Identifier: Apache-2.0
--- What a VM's processes use, read from /proc.
local core = require "fcvm.core"
local errors = require "fcvm.errors"

local M = {}

--- Memory of a process in bytes: {private=, shared=, pss=}. Raises ESRCH where it is gone.
function M.memory(pid)
  local text, err = core.disk.read(("/proc/%d/smaps_rollup"):format(pid), 65536)
  if not text then error(errors.wrap(err, "read memory of", tostring(pid)), 0) end
  local function kb(name) return (math.tointeger(tonumber(text:match(name .. ":%s*(%d+) kB"))) or 0) << 10 end
  return { private = kb "Private_Clean" + kb "Private_Dirty", shared = kb "Shared_Clean" + kb "Shared_Dirty", pss = kb "Pss" }
end

local function descendants(pid, found)
  local text = core.disk.read(("/proc/%d/task/%d/children"):format(pid, pid), 65536) or ""
  for child in text:gmatch "%d+" do
    found[#found + 1] = math.tointeger(tonumber(child))
    descendants(found[#found], found)
  end
  return found
end

--- The Firecracker's PID of a supervisor, or nil.
function M.firecracker_of(supervisor)
  for _, pid in ipairs(descendants(supervisor, {})) do
    local name = core.disk.read(("/proc/%d/comm"):format(pid), 64)
    if name and name:match "^firecracker" then return pid end
  end
end

--- Of a record: {memory=, cpu= seconds, firecracker= its PID, supervisor= memory}.
function M.of(record)
  local pid = M.firecracker_of(record.pid)
  if not pid then
    errors.raise { op = "read stats", subject = record.name, name = "ESRCH", message = "its Firecracker does not run" }
  end
  local stat = errors.check(core.disk.read(("/proc/%d/stat"):format(pid), 4096))
  local user, system = stat:match "%) %S+ %S+ %S+ %S+ %S+ %S+ %S+ %S+ %S+ %S+ %S+ (%d+) (%d+)"
  return { memory = M.memory(pid), firecracker = pid,
    cpu = (tonumber(user) + tonumber(system)) / 100, supervisor = M.memory(record.pid) }
end

return M
