-- SPDX-License-Identifier: Apache-2.0
--- What a VM owns beside its processes, and how all of it goes: by its supervisor, or by whoever finds it dead.
local uv = require "luv"
local errors = require "fcvm.errors"
local firecracker = require "fcvm.firecracker"
local log = require "fcvm.log"
local network = require "fcvm.network"
local state = require "fcvm.state"

local M = {}

--- Removes a directory and what is in it; follows no link. That it is gone already is fine.
function M.remove_tree(path)
  local dir = uv.fs_scandir(path)
  while dir do
    local name, kind = uv.fs_scandir_next(dir)
    if not name then break end
    if kind == "directory" then M.remove_tree(path .. "/" .. name) else uv.fs_unlink(path .. "/" .. name) end
  end
  local ok, text, name = uv.fs_rmdir(path)
  if not ok and name ~= "ENOENT" then errors.raise { op = "remove", subject = path, name = name, message = text } end
end

--- Frees all that the VM of a record owns: its cgroup with what still runs in it, network, directory. The record stays.
function M.release(record)
  firecracker.remove_cgroup(record.vm_id)
  local ok, err = pcall(network.remove, record)
  M.remove_tree(firecracker.directory(record.vm_id))
  if not ok then error(err, 0) end
end

--- Frees what dead supervisors left and says so. Returns the ids.
function M.sweep()
  local swept, failed = state.sweep(M.release)
  for _, id in ipairs(swept) do log.tag("sweep"):info("removed what %s left", id) end
  for _, failure in ipairs(failed) do log.tag("sweep"):warn("%s: %s", failure.id, tostring(failure.error)) end
  return swept
end

return M
