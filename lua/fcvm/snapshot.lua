-- SPDX-License-Identifier: Apache-2.0
--- Snapshots as files and as objects: <data>/snapshots/<tag>/ with memory.bin, vmstate.bin, disk.ext4, image.squashfs,
-- page-map.bin (which pages are zero), snapshot.json, and working-set.bin once a clone was recorded.
--
-- They are written beside (".new-<vm-id>", which goes with that VM), synced and renamed, so that a tag is a whole snapshot.
-- A server holds links of its own: a tag that is made again is another snapshot, and clones of the old one go on.
local uv = require "luv"
local core = require "fcvm.core"
local errors = require "fcvm.errors"
local json = require "fcvm.json"
local pages = require "fcvm.pages"
local paths = require "fcvm.paths"
local state = require "fcvm.state"
local task = require "fcvm.task"

local M = {
  version = 1,
  parts = { "memory.bin", "vmstate.bin", "disk.ext4", "image.squashfs" }, -- without these it is none
}

local META_MAX = 1 << 20

local Snapshot = { __name = "fcvm.snapshot" }
function Snapshot.__index(self, key)
  if Snapshot[key] ~= nil then return Snapshot[key] end
  return rawget(self, "meta")[key]
end
function Snapshot:__tostring() return ("snapshot %s (%s)"):format(self.tag, self.image or "no image") end

--- The directory of all snapshots, made where it is missing.
function M.home() return paths.ensure(paths.snapshots()) end

--- The directory of one.
function M.directory(tag) return paths.snapshots() .. "/" .. tag end

--- By what a part is known again: its size and the time of its last change, which a copy with `cp -a` keeps.
function M.mark_of(stat) return { size = stat.size, mtime_ns = stat.mtime.sec * 1000000000 + stat.mtime.nsec } end

--- What of this host a snapshot depends on: {cpu=, kernel=}.
function M.host()
  local info = core.disk.read("/proc/cpuinfo", 1 << 20) or ""
  return { cpu = info:match "model name%s*:%s*([^\n]+)" or uv.os_uname().machine, kernel = uv.os_uname().release }
end

--- Where the VM writes its next snapshot: a new directory. Removed with the VM, whatever happens.
function M.begin(id)
  local into = M.home() .. "/.new-" .. id
  M.abandon(id)
  errors.check_uv("make directory", into, uv.fs_mkdir(into, 448))
  return into
end

--- Removes what the VM `id` did not finish.
function M.abandon(id) require("fcvm.resources").remove_tree(paths.snapshots() .. "/.new-" .. id) end

--- Finds the zero pages of the memory in `directory` and writes page-map.bin.
function M.index(directory)
  local job, err = core.uffd.index(directory .. "/memory.bin", directory .. "/page-map.bin")
  return pages.finish(job, err, "the memory to be read")
end

--- Gives the finished snapshot in `directory` its tag; one that had it is replaced and removed.
function M.publish(directory, tag)
  for _, name in ipairs(M.parts) do
    local path = directory .. "/" .. name
    local fd = errors.check_uv("open", path, uv.fs_open(path, "r", 0))
    local failure = task.await(function(resume) uv.fs_fsync(fd, resume) end)
    uv.fs_close(fd)
    if failure then errors.raise { op = "sync", subject = path, message = tostring(failure) } end
  end
  state.locked(function()
    local there = uv.fs_lstat(M.directory(tag))
    errors.check(core.disk.publish(directory, M.directory(tag), there and "exchange" or "new"))
  end)
end

local text_fields = { tag = "string", image = "string", firecracker = "string", created_at = "integer", memory_mib = "integer",
  cpus = "integer", files = "table", plan = "table", host = "table" }

local function problem_of(meta, tag)
  if type(meta) ~= "table" then return "it holds no object" end
  if meta.version ~= M.version then return ("its version is %s, not %d"):format(tostring(meta.version), M.version) end
  for key, kind in pairs(text_fields) do
    if (math.type(meta[key]) or type(meta[key])) ~= kind then return ("its %s is no %s"):format(key, kind) end
  end
  if tag and meta.tag ~= tag then return ("it is of the tag '%s'"):format(meta.tag:sub(1, 64)) end
end

--- Reads snapshot.json in `directory`. Returns it, or nil and an error: ENOENT, or EPROTO where it makes no sense.
function M.read(directory, tag)
  local path = directory .. "/snapshot.json"
  local text, err = core.disk.read(path, META_MAX)
  if not text then return nil, err end
  local meta, why = json.decode(text, path, META_MAX)
  local problem = why and why.message or problem_of(meta, tag)
  if not problem then return meta end
  return nil, errors.new { op = "read snapshot", subject = path, name = "EPROTO", message = problem,
    status = errors.status.data, hint = tag and ("fcvm snapshot rm %s, and make it again"):format(tag) or nil }
end

--- Raises where a part in `directory` is missing or not the one that belongs to `meta`.
function M.check_parts(directory, meta)
  for _, name in ipairs(M.parts) do
    local path, wanted = directory .. "/" .. name, meta.files[name]
    local stat = uv.fs_lstat(path)
    local problem
    if not stat then problem = "it is missing"
    elseif stat.type ~= "file" then problem = "it is no file"
    elseif type(wanted) ~= "table" then problem = "snapshot.json does not know it"
    else
      local mark = M.mark_of(stat)
      if mark.size ~= wanted.size then
        problem = ("it has %d bytes and not %s"):format(mark.size, tostring(wanted.size))
      elseif mark.mtime_ns ~= wanted.mtime_ns then
        problem = "it is not the file that this snapshot was made with: it changed later"
      end
    end
    if problem then
      errors.raise { op = "check snapshot", subject = path, name = "EPROTO", message = problem, status = errors.status.data,
        hint = "make the snapshot again, or copy it back whole (cp -a keeps the times that are compared)" }
    end
  end
end

--- The snapshot of a tag. Raises ENOENT, and EPROTO where it is damaged.
function M.find(tag)
  local meta, err
  if state.is_name(tag) then meta, err = M.read(M.directory(tag), tag) end
  if meta then return setmetatable({ meta = meta, directory = M.directory(tag) }, Snapshot) end
  if err and err.name ~= "ENOENT" then error(errors.new(err), 0) end
  local tags = {}
  for _, other in ipairs((M.list())) do tags[#tags + 1] = other.tag end
  local near = errors.nearest(tostring(tag), tags)
  errors.raise { op = "find snapshot", subject = tostring(tag), name = "ENOENT", message = "there is no such snapshot",
    hint = near and ("did you mean '%s'?"):format(near) or "fcvm snapshot ls lists them" }
end

--- All snapshots by tag, and a list of {tag=, error=} for those that cannot be read.
function M.list()
  local list, broken = {}, {}
  local scan = uv.fs_scandir(paths.snapshots())
  while scan do
    local tag = uv.fs_scandir_next(scan)
    if not tag then break end
    if state.is_name(tag) then
      local meta, err = M.read(M.directory(tag), tag)
      if meta then list[#list + 1] = setmetatable({ meta = meta, directory = M.directory(tag) }, Snapshot)
      else broken[#broken + 1] = { tag = tag, error = err } end
    end
  end
  table.sort(list, function(a, b) return a.tag < b.tag end)
  return list, broken
end

--- What is known of it: snapshot.json, the bytes on disk as `.size`, the PIDs of its servers as `.servers`.
function Snapshot:inspect()
  local out, size = {}, 0
  for key, value in pairs(self.meta) do out[key] = value end
  for _, name in ipairs { "memory.bin", "vmstate.bin", "disk.ext4", "page-map.bin", "working-set.bin" } do
    local stat = uv.fs_stat(self.directory .. "/" .. name)
    size = size + (stat and stat.blocks * 512 or 0)
  end
  out.size, out.directory, out.recorded = size, self.directory, uv.fs_stat(self.directory .. "/working-set.bin") ~= nil
  out.servers = json.array {}
  for _, record in ipairs(state.servers(self.tag)) do out.servers[#out.servers + 1] = record.pid end
  return out
end

--- Removes the snapshot. Raises EBUSY where a server uses it. A damaged one is removed as well: `M.remove(tag)`.
function Snapshot:remove() M.remove(self.tag) end

--- Removes the snapshot of a tag, be it whole or damaged.
function M.remove(tag)
  if not state.is_name(tag) or not uv.fs_lstat(M.directory(tag)) then M.find(tag) end
  local doomed = M.home() .. "/.gone-" .. core.proc.random_hex(6)
  state.locked(function()
    local servers = state.servers(tag)
    if #servers > 0 then
      errors.raise { op = "remove snapshot", subject = tag, name = "EBUSY",
        message = ("the server of process %d uses it"):format(servers[1].pid), hint = ("fcvm stop %d"):format(servers[1].pid) }
    end
    errors.check_uv("rename", M.directory(tag), uv.fs_rename(M.directory(tag), doomed))
  end)
  require("fcvm.resources").remove_tree(doomed)
end

--- Removes what a killed `remove` left.
function M.sweep()
  local scan = uv.fs_scandir(paths.snapshots())
  while scan do
    local name = uv.fs_scandir_next(scan)
    if not name then break end
    if name:match "^%.gone%-%x+$" then require("fcvm.resources").remove_tree(paths.snapshots() .. "/" .. name) end
  end
end

--- Serves the snapshot's memory to clones; see fcvm.server. Ends with the current scope.
function Snapshot:serve(options) return require("fcvm.server").start(self.tag, options) end

--- A clone with a server of its own, which ends with its last clone. Options as of server:clone.
function Snapshot:clone(options) return require("fcvm.server").start(self.tag, { exit_when_idle = true }):clone(options) end

return M
