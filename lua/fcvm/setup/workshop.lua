-- SPDX-License-Identifier: Apache-2.0
--- Where setup works: one setup at a time, in a directory of its own beside the products, which goes when setup ends.
--
-- Products come into being there, are synced, and then renamed to their final names; so an interruption at any moment
-- leaves the old product or the new one. What a killed setup left is swept by the next, which holds the lock.
local uv = require "luv"
local core = require "fcvm.core"
local errors = require "fcvm.errors"
local json = require "fcvm.json"
local log = require "fcvm.log"
local paths = require "fcvm.paths"
local process = require "fcvm.process"
local task = require "fcvm.task"

local M = {}

local LOCK_POLL = 0.2
local RECORD_MAX = 1 << 20

--- fcvm.process.run, with what it starts contained where that can be: a PID namespace takes root. Without, what the program
-- itself started may outlive an interruption.
function M.run(options)
  if options.contain == nil then options.contain = uv.getuid() == 0 end
  return process.run(options)
end

--- Removes a file or a tree, if it is there.
function M.remove(path)
  if uv.fs_lstat(path) then M.run { "rm", "-rf", "--", path, op = "remove" } end
end

local function lock(data)
  local said
  while true do
    local held, err = core.proc.lock(data .. "/.setup.lock")
    if held then return held end
    if err.name ~= "EAGAIN" then error(errors.new(err), 0) end
    if not said then log.info "another setup is at work in this data directory; waiting for it" end
    said = true
    task.sleep(LOCK_POLL)
  end
end

local function sweep(data)
  local scan = uv.fs_scandir(data)
  local left = {}
  while scan do
    local name = uv.fs_scandir_next(scan)
    if not name then break end
    if name:match "^%.setup%-%x+$" then left[#left + 1] = data .. "/" .. name end
  end
  for _, path in ipairs(left) do M.remove(path) end
end

--- Takes the data directory's setup lock for the current scope, waiting where another setup has it.
function M.lock()
  local data = paths.ensure(paths.data())
  local held = lock(data)
  task.defer(function() held:close() end)
  sweep(data)
end

--- Makes a directory for work in progress, which is removed at the scope's end. Needs the lock.
function M.directory()
  local path = paths.data() .. "/.setup-" .. core.proc.random_hex(8)
  paths.ensure(path)
  task.defer(function() M.remove(path) end)
  return path
end

--- Where finished downloads wait for the step that needs them, so that an interrupted setup does not fetch them again.
function M.downloads() return paths.data() .. "/downloads" end

--- Waits until the file or directory is on the disk.
function M.sync(path)
  local fd = errors.check_uv("open", path, uv.fs_open(path, "r", 0))
  local err = task.await(function(resume)
    uv.fs_fsync(fd, function(failure)
      uv.fs_close(fd)
      resume(failure)
    end)
  end)
  if err then errors.raise { op = "sync", subject = path, name = err:match "^(%u+)", message = err } end
end

--- Gives finished files their final names: `list` of {from, to, mode}. All are synced first; the renames follow each other
-- without a wait, in order.
function M.publish(list)
  for _, item in ipairs(list) do
    errors.check_uv("set mode", item[1], uv.fs_chmod(item[1], item[3] or 292))
    M.sync(item[1])
    paths.ensure(item[2]:match "^(.*)/")
  end
  for _, item in ipairs(list) do errors.check_uv("rename", item[2], uv.fs_rename(item[1], item[2])) end
  M.sync(list[#list][2]:match "^(.*)/")
end

--- SHA-256 in hex of each of the files, in order; nil for one that is not there.
function M.digests(files)
  local argv, found = { "sha256sum", "--binary", "--", op = "hash" }, {}
  for i, path in ipairs(files) do
    if uv.fs_stat(path) then
      argv[#argv + 1] = path
      found[#found + 1] = i
    end
  end
  local digests = {}
  if #found == 0 then return digests end
  local at = 0
  for line in M.run(argv).stdout:gmatch "[^\n]+" do
    at = at + 1
    digests[found[at]] = line:match "^\\?(%x+) "
  end
  return digests
end

function M.digest(path) return M.digests { path }[1] end

--- What tells without reading it whether a file is still the one it was.
function M.stamp(path)
  local stat = uv.fs_stat(path)
  return stat and ("%d.%09d %d %d"):format(stat.mtime.sec, stat.mtime.nsec, stat.size, stat.ino)
end

--- The record at `path`, or nil where there is none that makes sense.
function M.record(path)
  local text = core.disk.read(path, RECORD_MAX)
  local record = text and json.decode(text, path)
  return type(record) == "table" and record or nil
end

--- Writes a whole file into a work directory.
function M.write(path, data)
  local file = errors.check_uv("write", path, io.open(path, "wb"))
  local ok, why = file:write(data)
  if not (file:close() and ok) then
    errors.raise { op = "write", subject = path, name = "ENOSPC", message = tostring(why or "it could not be written") }
  end
end

--- Writes a record into a work directory.
function M.write_record(path, record) M.write(path, json.encode(record, true) .. "\n") end

--- Runs `fn` while `bar` shows how large the file (or the largest in the directory) at `path` has become.
function M.watch(bar, path, total, fn)
  return task.scope(function()
    task.spawn(function()
      while true do
        local size = 0
        local stat = uv.fs_stat(path)
        if stat and stat.type == "file" then
          size = stat.size
        elseif stat then
          local scan = uv.fs_scandir(path)
          while scan do
            local name, kind = uv.fs_scandir_next(scan)
            if not name then break end
            local inner = kind == "file" and uv.fs_stat(path .. "/" .. name)
            if inner then size = math.max(size, inner.size) end
          end
        end
        bar:set(size, total)
        task.sleep(0.1)
      end
    end)
    return fn()
  end)
end

return M
