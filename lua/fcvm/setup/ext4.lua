-- SPDX-License-Identifier: Apache-2.0
--- An ext4 file system out of a list of what it holds: the same list gives the same bytes, on every host.
--
-- `mke2fs -d` takes a directory in the order in which the host's file system happens to list it, and its change times, so
-- that no two hosts make the same file of it. Here mke2fs makes an empty file system and debugfs fills it in the list's
-- sorted order; times, owners and modes come from the list. Nothing of it needs root.
local errors = require "fcvm.errors"
local workshop = require "fcvm.setup.workshop"

local M = {}

local BLOCK, MIB = 4096, 1 << 20
local formats = { file = 32768, directory = 16384, symlink = 40960, char = 8192, block = 24576, fifo = 4096 }

-- A word of debugfs's command language.
local function quoted(word)
  if word:find "[%c]" then
    errors.raise { op = "make file system", subject = word, name = "EINVAL", message = "its name has a control character",
      status = errors.status.data }
  end
  return '"' .. word:gsub('"', '""') .. '"'
end

local function split(path)
  local directory, name = path:match "^(.*)/([^/]+)$"
  return directory == "" and "/" or directory, name
end

--- Bytes that a file system for `entries` should have: its content, `room` bytes of free space, and what ext4 needs.
function M.size(entries, room)
  local bytes = 0
  for _, entry in ipairs(entries) do bytes = bytes + ((entry.size or 0) + BLOCK - 1) // BLOCK * BLOCK + BLOCK // 4 end
  return ((bytes + room) * 105 // 100 + 64 * MIB - 1) // (64 * MIB) * (64 * MIB)
end

--- debugfs's commands that put `entries` into an empty file system, as a list of lines. An entry is {path=, type=, mode=,
-- uid=, gid=, mtime=, size=, source= (the file with its data), target= (a symlink's), major=, minor=,
-- xattr_files={name = the file with its value}}.
function M.commands(entries, time)
  local by_directory, names = {}, {}
  local root = { path = "/", type = "directory", mode = 493, uid = 0, gid = 0, mtime = time }
  for _, entry in ipairs(entries) do
    if entry.path == "/" then
      root = entry
    else
      local directory = split(entry.path)
      if not by_directory[directory] then
        by_directory[directory] = {}
        names[#names + 1] = directory
      end
      table.insert(by_directory[directory], entry)
    end
  end
  table.sort(names)
  local lines, count = {}, 0
  local function add(format, ...) lines[#lines + 1] = format:format(...) end
  local function set(name, entry)
    add("sif %s mode 0%o", name, formats[entry.type] | entry.mode)
    if entry.uid ~= 0 then add("sif %s uid %d", name, entry.uid) end
    if entry.gid ~= 0 then add("sif %s gid %d", name, entry.gid) end
    if entry.mtime ~= time then add("sif %s mtime @%d", name, entry.mtime) end
    local keys = {}
    for key in pairs(entry.xattr_files or {}) do keys[#keys + 1] = key end
    table.sort(keys)
    for _, key in ipairs(keys) do add("ea_set -f %s %s %s", quoted(entry.xattr_files[key]), name, quoted(key)) end
  end
  for _, directory in ipairs(names) do
    add("cd %s", quoted(directory))
    local list = by_directory[directory]
    table.sort(list, function(a, b) return a.path < b.path end)
    for _, entry in ipairs(list) do
      local _, plain = split(entry.path)
      local name = quoted(plain)
      if entry.type == "directory" then
        add("mkdir %s", name)
      elseif entry.type == "symlink" then
        add("symlink %s %s", name, quoted(entry.target))
      elseif entry.type == "file" then
        add("write %s %s", quoted(entry.source), name)
      elseif entry.type == "fifo" then
        add("mknod %s p", name)
      else
        add("mknod %s %s %d %d", name, entry.type:sub(1, 1), entry.major, entry.minor)
      end
      set(name, entry)
      count = count + 1
    end
  end
  -- Last, since a directory's own time must not be that of what was put into it.
  add("cd /")
  for _, directory in ipairs(names) do
    for _, entry in ipairs(by_directory[directory]) do
      if entry.type == "directory" and entry.mtime ~= time then
        add("sif %s mtime @%d", quoted(entry.path), entry.mtime)
      end
    end
  end
  set("/", root)
  return lines, count
end

local creators = { mkdir = true, write = true, symlink = true, mknod = true }

-- Is this line of debugfs's echo one that makes an entry?
local function creates(line) return creators[line:match "^debugfs:%s*(%l+)"] end

--- Makes `path` (which must not exist) a file system of `options.size` bytes (sparse) that holds `options.entries`.
-- Other options: time (seconds, for all times that no entry has), uuid, label, directory (for the command file),
-- on_entry (called for each entry that is in). The result is checked by e2fsck.
function M.make(path, options)
  local environment = { E2FSPROGS_FAKE_TIME = options.time, SOURCE_DATE_EPOCH = options.time, MKE2FS_CONFIG = "/dev/null",
    TZ = "UTC", DEBUGFS_PAGER = "cat" }
  -- No journal: a VM's disk lives as long as the VM, and a snapshot keeps it with the memory that goes with it.
  workshop.run { "mke2fs", "-q", "-F", "-t", "ext4", "-b", BLOCK, "-I", 256, "-i", 16384, "-m", 0, "-U", options.uuid,
    "-L", options.label, "-O", "none,filetype,ext_attr,dir_index,extent,64bit,flex_bg,sparse_super,large_file,huge_file," ..
    "dir_nlink,extra_isize,metadata_csum,resize_inode",
    "-E", "hash_seed=" .. options.uuid .. ",root_owner=0:0,assume_storage_prezeroed=1,nodiscard", path,
    ("%dk"):format(options.size // 1024), env = environment, op = "make file system" }
  local lines = M.commands(options.entries, options.time)
  local script = options.directory .. "/debugfs"
  local file = assert(io.open(script, "w"))
  local written = file:write(table.concat(lines, "\n"), "\n")
  if not (file:close() and written) then
    errors.raise { op = "write", subject = script, name = "ENOSPC", message = "it could not be written" }
  end
  local rest = ""
  local result = workshop.run { "debugfs", "-w", "-f", script, path, env = environment, op = "fill file system",
    on_stdout = function(chunk)
      rest = rest .. chunk
      for line in rest:gmatch "([^\n]*)\n" do
        if options.on_entry and creates(line) then options.on_entry() end
      end
      rest = rest:match "[^\n]*$"
    end }
  -- debugfs goes on after an error and ends with 0; beside its banner it has nothing to say but errors.
  local complaint = result.stderr:gsub("^debugfs [%d.]+ %([^\n]*%)\n", ""):match "[^\n]+"
  if complaint then
    errors.raise { op = "fill file system", subject = path, name = complaint:find "no free" and "ENOSPC" or "EIO",
      message = complaint }
  end
  workshop.run { "e2fsck", "-fn", path, env = environment, op = "check file system" }
end

return M
