-- SPDX-License-Identifier: Apache-2.0
--- What a VM owns beside its processes, and how all of it goes: by its supervisor, or by whoever finds it dead.
local uv = require "luv"
local errors = require "fcvm.errors"
local firecracker = require "fcvm.firecracker"
local log = require "fcvm.log"
local network = require "fcvm.network"
local paths = require "fcvm.paths"
local snapshot = require "fcvm.snapshot"
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

--- Frees all that the owner of a record owns: of a VM its cgroup with what still runs in it, network, directory and a
-- snapshot that it did not finish; of a server its directory. The record stays.
function M.release(record)
  if record.net_id then return require("fcvm.net").release(record) end
  if record.serve_id then return M.remove_tree(paths.serves() .. "/" .. record.serve_id) end
  firecracker.remove_cgroup(record.vm_id)
  local ok, err = pcall(network.remove, record)
  snapshot.abandon(record.vm_id)
  M.remove_tree(paths.vm(record.vm_id))
  if not ok then error(err, 0) end
end

-- Directories that no record knows, as a loss of power may leave them: a record is there before its directory and goes after
-- it, so that a directory whose record is not there is nobody's.
local function orphans()
  local ids = {}
  for _, home in ipairs { paths.disks(), paths.serves() } do
    local scan = uv.fs_scandir(home)
    while scan do
      local id = uv.fs_scandir_next(scan)
      if not id then break end
      if state.is_id(id) and not uv.fs_stat(state.path(id)) then ids[#ids + 1] = id end
    end
  end
  return ids
end

--- Frees what dead supervisors left and says so. Returns the ids.
function M.sweep()
  local swept, failed = state.sweep(M.release)
  for _, id in ipairs(orphans()) do
    local ok, err = pcall(M.release, { [id:match "^%l+" .. "_id"] = id })
    if ok then swept[#swept + 1] = id else failed[#failed + 1] = { id = id, error = err } end
  end
  snapshot.sweep()
  for _, id in ipairs(swept) do log.tag("sweep"):info("removed what %s left", id) end
  for _, failure in ipairs(failed) do log.tag("sweep"):warn("%s: %s", failure.id, tostring(failure.error)) end
  return swept
end

return M
