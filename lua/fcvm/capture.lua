-- SPDX-License-Identifier: Apache-2.0
--- Makes a snapshot of a running VM, in its supervisor: whoever asked may die, the VM goes on.
--
-- The order: what can be done beforehand (space, the disk synced), then the agent quiet, the VM paused, memory and state written
-- by Firecracker, the disk cloned, the VM resumed, the agent awake; then, while the VM serves again, the files are checked,
-- indexed, synced and given their name. Whatever goes wrong, the VM is resumed and what was written is removed.
local uv = require "luv"
local core = require "fcvm.core"
local errors = require "fcvm.errors"
local firecracker = require "fcvm.firecracker"
local guest = require "fcvm.guest"
local snapshot = require "fcvm.snapshot"
local state = require "fcvm.state"
local task = require "fcvm.task"

local M = {}

local SPARE = 64 << 20 -- space that is left on the disk beside the snapshot

local function refuse(self, message, hint)
  errors.raise { op = "snapshot", subject = self.record.name, name = "EBUSY", message = message, hint = hint }
end

-- The tag is this VM's until it is done: no other VM writes it, and this one makes one snapshot at a time.
local function claim_tag(self, tag)
  state.locked(function()
    for _, record in ipairs(state.vms()) do
      if record.snapshotting == tag then
        refuse(self, ("'%s' is being made by the VM %s"):format(tag, record.name), "choose another --tag, or wait")
      end
    end
    self:update { snapshotting = tag }
  end)
  task.defer(function() self:update { snapshotting = false } end)
end

local function check_space(self)
  local where = snapshot.home()
  local stat = errors.check_uv("look at", where, uv.fs_statfs(where))
  local free, needed = stat.bavail * stat.bsize, (self.record.memory_mib << 20) + SPARE
  if free < needed then
    errors.raise { op = "snapshot", subject = self.record.name, name = "ENOSPC",
      message = ("it needs %d MiB and %s has %d"):format(needed >> 20, where, free >> 20),
      hint = firecracker.space_hint }
  end
end

-- What was written to the disk's file goes out now, so that the clone made during the pause finds little to do.
local function sync_disk(self)
  local path = self.vmm.root .. "/disk.ext4"
  local fd = errors.check_uv("open", path, uv.fs_open(path, "r", 0))
  task.defer(function() uv.fs_close(fd) end)
  local failure = task.await(function(resume) uv.fs_fsync(fd, resume) end)
  if failure then errors.raise { op = "sync", subject = path, message = tostring(failure) } end
end

-- Where Firecracker writes: a directory of its own in its root.
local function make_place(self)
  local place = self.vmm.root .. "/snapshot"
  local stat = errors.check_uv("look at", self.vmm.root, uv.fs_stat(self.vmm.root .. "/disk.ext4"))
  task.defer(function() require("fcvm.resources").remove_tree(place) end)
  errors.check_uv("make directory", place, uv.fs_mkdir(place, 448))
  errors.check_uv("set owner", place, uv.fs_chown(place, stat.uid, stat.gid))
  return place
end

-- A file that Firecracker wrote, taken over: no link that leads elsewhere, nobody's but ours and read-only from now on.
local function take(place, name, into)
  local from, to = place .. "/" .. name, into .. "/" .. name
  local stat = errors.check_uv("look at", from, uv.fs_lstat(from))
  if stat.type ~= "file" or stat.nlink ~= 1 then
    errors.raise { op = "snapshot", subject = from, name = "EPROTO", message = "Firecracker left no plain file there" }
  end
  errors.check_uv("rename", from, uv.fs_rename(from, to))
  errors.check_uv("set owner", to, uv.fs_chown(to, uv.getuid(), uv.getgid()))
  errors.check_uv("set mode", to, uv.fs_chmod(to, 292))
end

-- With the VM paused: all that is of one moment. Returns how long it stood still, in seconds.
local function stand_still(self, into)
  local root = self.vmm.root
  local began = task.now()
  local resume = task.defer(function() self.vmm:resume() end)
  self.vmm:pause()
  self.vmm:write_snapshot()
  firecracker.copy(root .. "/disk.ext4", into .. "/disk.ext4")
  resume()
  return task.now() - began
end

-- With the agent silent. Whatever happens in there, it is woken; who was attached comes back by itself.
local function quietly(self, fn, ...)
  local arguments = table.pack(...)
  return task.scope(function()
    self.held = true
    task.defer(function() self.held = false end)
    local silence = guest.quiesce(self.vmm.root)
    local done = false
    task.defer(function()
      -- The agent goes on when the snapshot has reset its connections, and where none was made, when this one is closed.
      if not done then silence:close() end
      local ok, err = pcall(guest.wake, self.vmm.root)
      silence:close()
      if not ok then error(err, 0) end
    end)
    local result = fn(table.unpack(arguments, 1, arguments.n))
    done = true
    return result
  end)
end

local function describe(self, tag, labels, into)
  local record = self.record
  local files = {}
  for _, name in ipairs(snapshot.parts) do
    local stat = errors.check_uv("look at", name, uv.fs_stat(into .. "/" .. name))
    files[name] = snapshot.mark_of(stat)
  end
  return { version = snapshot.version, tag = tag, labels = labels or record.labels, created_at = os.time(), image = record.image,
    image_digest = record.image_digest, memory_mib = record.memory_mib, cpus = record.cpus, vm = record.name,
    health_check = record.health_check, parent = record.snapshot, egress = record.egress, plan = self.plan, files = files,
    firecracker = self.vmm:version(), host = snapshot.host() }
end

local function make(self, arguments, peer)
  local tag = arguments.tag
  claim_tag(self, tag)
  check_space(self)
  local into = snapshot.begin(self.record.vm_id)
  task.defer(function() require("fcvm.resources").remove_tree(into) end)
  sync_disk(self)
  local place = make_place(self)
  peer:progress "writing"
  local paused = quietly(self, task.scope, stand_still, self, into)
  self.log:info("resumed after %.2f s", paused)
  peer:progress "indexing"
  take(place, "memory.bin", into)
  take(place, "vmstate.bin", into)
  errors.check_uv("set mode", into, uv.fs_chmod(into .. "/disk.ext4", 292))
  errors.check_uv("link", into, uv.fs_link(self.vmm.root .. "/image.squashfs", into .. "/image.squashfs"))
  snapshot.index(into)
  errors.check(core.disk.write(into .. "/snapshot.json",
    require("fcvm.json").encode(describe(self, tag, arguments.labels, into), true), 420))
  snapshot.publish(into, tag)
  return { tag = tag, paused = paused }
end

--- Makes a snapshot. Arguments: tag, labels. Raises EBUSY where one is under way.
function M.create(self, arguments, peer)
  if not state.is_name(arguments.tag) then
    errors.raise { op = "snapshot", subject = tostring(arguments.tag), name = "EINVAL", message = "that is no tag",
      hint = "letters, digits, '-', '_' and '.', at most 63, a letter or digit first" }
  end
  if self.held or self.record.snapshotting or self.record.status ~= "running" then
    refuse(self, (self.held or self.record.snapshotting) and "a snapshot or pause is under way" or "it is not running yet")
  end
  local ok, result = pcall(task.scope, make, self, arguments, peer)
  if ok then
    self.log:info("snapshot '%s' is made", arguments.tag)
    return result
  end
  self.log:warn("snapshot: %s", tostring(result))
  -- A VM that cannot be resumed or woken is of no use to anybody.
  if not self.leaving and (self.held or not pcall(guest.status, self.vmm.root)) then
    self.root:cancel(errors.wrap(result, "resume after snapshot", self.record.name))
  end
  error(errors.wrap(result, "snapshot", self.record.name), 0)
end

return M
