-- SPDX-License-Identifier: Apache-2.0
--- One Firecracker under its jailer: its directory, its process, its configuration over the API.
--
-- The jailer fixes the layout: <vm directory>/firecracker/<id>/root is Firecracker's root and working directory, and all
-- paths that it is given are relative to it, so that a snapshot does not depend on where it was taken.
local uv = require "luv"
local core = require "fcvm.core"
local errors = require "fcvm.errors"
local http = require "fcvm.http"
local json = require "fcvm.json"
local machine = require "fcvm.machine"
local network = require "fcvm.network"
local paths = require "fcvm.paths"
local process = require "fcvm.process"
local stream = require "fcvm.stream"
local task = require "fcvm.task"

local M = {}
M.__index = M
M.__name = "fcvm.firecracker"

local API_SECONDS = 10           -- from exec to an API that answers
local PAUSE_SECONDS = 30
local SNAPSHOT_SECONDS = 300     -- memory is written to a disk that may be slow
local LOAD_SECONDS = 60
local API_MAX = 320 << 10        -- a request's body, which must hold the plan
local LINE_MAX, LINES_KEPT = 1024, 40
local OVERHEAD = 192 << 20       -- what Firecracker and the page cache of its jail may need beside the guest's memory
local CGROUPS = "/sys/fs/cgroup/fcvm"

-- A file of the data directory inside the jail: the same file by a hard link, which costs nothing and which its mode keeps
-- read-only there; a clone where it lies on another file system.
local function give(from, to)
  local ok, _, name = uv.fs_link(from, to)
  if ok then return end
  if name ~= "EXDEV" and name ~= "EMLINK" and name ~= "EPERM" then
    errors.raise { op = "link", subject = from, name = name, hint = "fcvm setup makes what is missing",
      status = name == "ENOENT" and errors.status.missing_part or nil }
  end
  M.copy(from, to)
  errors.check_uv("set mode", to, uv.fs_chmod(to, 292))
end

--- Clones a file: a reflink where the file system can, else a sparse copy, step by step.
function M.copy(from, to)
  local how, err = core.disk.clone(from, to)
  if how then return how end
  if err.name ~= "EOPNOTSUPP" and err.name ~= "EXDEV" and err.name ~= "EINVAL" and err.name ~= "ENOTTY" then
    error(errors.new(err), 0)
  end
  local copier = errors.check(core.disk.copy(from, to))
  local ok, failure = pcall(function()
    repeat
      local done, total = errors.check(copier:step(16 << 20))
      task.sleep(0)
    until done >= total
  end)
  copier:close()
  if not ok then error(failure, 0) end
  return "copy"
end

-- Without root everything is of one user's, who then is not named.
local function hand_over(path, uid, mode)
  errors.check_uv("set mode", path, uv.fs_chmod(path, mode))
  if uid then errors.check_uv("set owner", path, uv.fs_chown(path, uid, uid)) end
end

-- A disk of the VM's own in its root, as a clone of `from`.
local function own_disk(from, root, uid)
  M.copy(from, root .. "/disk.ext4")
  hand_over(root .. "/disk.ext4", uid, 384)
end

--- Makes the directory of a VM that boots: kernel, initramfs and image by link, a disk of its own. `uid` owns the disk.
function M.prepare(id, image_store, uid)
  local root = paths.ensure(paths.vm_root(id))
  give(paths.kernels() .. "/vmlinux", root .. "/vmlinux")
  give(paths.kernels() .. "/initramfs.cpio", root .. "/initramfs.cpio")
  give(image_store, root .. "/image.squashfs")
  own_disk(paths.rootfs() .. "/rootfs.ext4", root, uid)
  return root
end

--- Makes the directory of a clone out of the snapshot's files in `from`; `memory` is "uffd" (then the socket there is linked
-- too) or "file".
function M.prepare_clone(id, from, memory, uid)
  local root = paths.ensure(paths.vm_root(id))
  give(from .. "/vmstate.bin", root .. "/vmstate.bin")
  give(from .. "/image.squashfs", root .. "/image.squashfs")
  if memory == "uffd" then
    errors.check_uv("link", from .. "/uffd.sock", uv.fs_link(from .. "/uffd.sock", root .. "/uffd.sock"))
  else
    give(from .. "/memory.bin", root .. "/memory.bin")
  end
  own_disk(from .. "/disk.ext4", root, uid)
  return root
end

local function cgroup_limits(memory_mib, cpus)
  local controllers = core.disk.read("/sys/fs/cgroup/cgroup.controllers", 4096)
  if not controllers or not controllers:find "memory" then return nil end
  return { ("memory.max=%d"):format((memory_mib << 20) + OVERHEAD), "pids.max=64", "memory.swap.max=0",
    -- One processor more than the guest's own: what Firecracker's own threads use is not the guest's.
    ("cpu.max=%d 100000"):format((cpus + 1) * 100000) }
end

-- What Firecracker is started with, by its jailer and without.
local function own_words()
  return { "--api-sock", "api.sock", "--http-api-max-payload-size", tostring(API_MAX) }
end

local function jailer_argv(options)
  local id = options.id
  local argv = { paths.bin() .. "/jailer", "--id", id, "--exec-file", paths.bin() .. "/firecracker", "--uid", options.uid,
    "--gid", options.uid, "--chroot-base-dir", paths.vm(id), "--netns", options.namespace }
  local limits = cgroup_limits(options.memory, options.cpus)
  if limits then
    for _, word in ipairs { "--cgroup-version", "2", "--parent-cgroup", "fcvm" } do argv[#argv + 1] = word end
    for _, limit in ipairs(limits) do
      argv[#argv + 1] = "--cgroup"
      argv[#argv + 1] = limit
    end
  else
    options.log:warn "no cgroup v2 with a memory controller: the VM runs without limits"
  end
  argv[#argv + 1] = "--"
  for _, word in ipairs(own_words()) do argv[#argv + 1] = word end
  for i, word in ipairs(argv) do argv[i] = tostring(word) end
  return argv
end

-- The jailer needs root. Without it a user namespace does as much as it can: no capability, PID, mount and network namespaces of
-- its own, and nothing to see but its directory with the devices that it opens.
local function close_in(plan, root, options)
  local binds = { [root .. "/firecracker"] = paths.bin() .. "/firecracker" }
  for _, device in ipairs { "/dev/kvm", "/dev/net/tun", "/dev/userfaultfd", "/dev/urandom" } do
    if uv.fs_stat(device) then binds[root .. device] = device end
  end
  for place in pairs(binds) do
    paths.ensure(place:match "^(.*)/")
    local fd = errors.check_uv("create", place, uv.fs_open(place, "w", 256))
    uv.fs_close(fd)
  end
  plan.argv = { "/firecracker", "--id", options.id, table.unpack(own_words()) }
  plan.root, plan.binds, plan.netns = root, binds, options.namespace
end

-- Sorts what Firecracker prints: its own log under `firecracker:`, without its times and instance names; the guest's
-- console at debug level, its last lines kept for the error that may need them.
local function follow(self, fd)
  local own, console = self.log:tag "firecracker", self.log:tag "console"
  local feed = stream.lines(LINE_MAX, function(line)
    local text = line:match "^%d%d%d%d%-%d%d%-%d%dT[%d:.]+Z? %[[^%]]*%] (.*)$"
    if text then
      local level = text:find "^%[?ERROR" and "error" or text:find "^%[?WARN" and "warn" or "debug"
      own[level](own, "%s", text)
    elseif line ~= "" then
      self.guest_spoke = self.guest_spoke or line:find "^%[ *%d+%.%d+%]" ~= nil or line:find "^fc%-agent: " ~= nil
      console:debug("%s", line)
    end
    -- A panic's registers and stack are longer than what is kept.
    self.panic = self.panic or line:match "Kernel panic.*"
    if line ~= "" then
      self.lines[#self.lines + 1] = line
      if #self.lines > LINES_KEPT then table.remove(self.lines, 1) end
    end
  end)
  local pipe = uv.new_pipe(false)
  errors.check_uv("open pipe", nil, pipe:open(fd))
  pipe:read_start(function(_, chunk)
    feed(chunk)
    if not chunk then pipe:close() end
  end)
  task.defer(function() if not pipe:is_closing() then pipe:close() end end)
end

--- Raises where this host cannot run a VM for a reason that is quickly seen, before anything is made. What a VM needs to boot
-- is looked for with `boot`.
function M.require_host(boot)
  if not uv.fs_stat "/dev/kvm" then
    errors.raise { op = "start Firecracker", subject = "/dev/kvm", name = "ENOENT", status = errors.status.kvm,
      message = "this host has no KVM", hint = "fcvm setup preflight says what is missing" }
  end
  for _, name in ipairs { "firecracker", uv.getuid() == 0 and "jailer" or nil } do
    if not uv.fs_access(paths.bin() .. "/" .. name, "X") then
      errors.raise { op = "start Firecracker", subject = paths.bin() .. "/" .. name, name = "ENOENT",
        message = "there is no such program", hint = "fcvm setup firecracker", status = errors.status.missing_part }
    end
  end
  for path, part in pairs(not boot and {} or { [paths.kernels() .. "/vmlinux"] = "kernel",
    [paths.kernels() .. "/initramfs.cpio"] = "kernel", [paths.rootfs() .. "/rootfs.ext4"] = "rootfs" }) do
    if not uv.fs_stat(path) then
      errors.raise { op = "start VM", subject = path, name = "ENOENT", message = "there is no such file",
        hint = "fcvm setup " .. part, status = errors.status.missing_part }
    end
  end
end

--- Starts a jailed Firecracker in the current scope, which ends it. Options: id, uid (nil without
-- root), namespace, memory (MiB), cpus, log.
-- `self.ended` is {status=} or {signal=} once it has ended.
function M.start(options)
  local self = setmetatable({ id = options.id, log = options.log, root = paths.vm_root(options.id), lines = {} }, M)
  local reader, writer = errors.check(core.proc.pipe())
  local plan = { fds = { [1] = writer, [2] = writer }, env = {}, session = true, contain = true }
  if options.uid then
    plan.argv = jailer_argv(options)
  else
    close_in(plan, self.root, options)
  end
  local child, err = core.proc.spawn(plan)
  core.proc.close(writer)
  if not child then
    core.proc.close(reader)
    error(errors.wrap(err, "start Firecracker"), 0)
  end
  self.child = child
  task.defer(function()
    child:close()
    M.remove_cgroup(self.id)
  end)
  follow(self, reader)
  return self
end

--- Removes the VM's cgroup, whose processes have ended. Waits a moment for the kernel to see that.
function M.remove_cgroup(id)
  local path = CGROUPS .. "/" .. id
  -- One that is writing a snapshot ends only when the disk has taken what is under way.
  for _ = 1, 1000 do
    local ok, _, name = uv.fs_rmdir(path)
    if ok or name ~= "EBUSY" then return end
    local kill = io.open(path .. "/cgroup.kill", "w")
    if kill then
      kill:write "1"
      kill:close()
    end
    task.sleep(0.01)
  end
end

--- What Firecracker or the guest last said that explains an end: the panic, the error, else the last line.
function M:last_words()
  if self.panic then return self.panic end
  local fallback
  for i = #self.lines, 1, -1 do
    local line = self.lines[i]
    line = line:gsub("^%d+%-%d+%-%d+T%S+ %[[^%]]*%] ", "")
    if line:find "ERROR" or line:find "Error" or line:find "panicked" then return line end
    fallback = fallback or line
  end
  return fallback
end

--- Waits for Firecracker's end; returns {status=} or {signal=}.
function M:wait()
  self.ended = self.ended or process.wait(self.child)
  return self.ended
end

--- The error of an end that nobody asked for.
function M:unexpected_end()
  local how = self.ended.signal and ("was ended by signal %d"):format(self.ended.signal)
    or ("ended with status %d"):format(self.ended.status)
  local words = self:last_words()
  if self.panic then
    return errors.new { op = "run guest", subject = self.id, name = "EIO", status = errors.status.guest,
      message = "the guest panicked: " .. self.panic }
  end
  if words and (words:find "/dev/kvm" or words:find "KVM") then
    return errors.new { op = "start Firecracker", subject = "/dev/kvm", name = "ENODEV", status = errors.status.kvm,
      message = words, hint = "fcvm setup preflight says what is wrong with it" }
  end
  if self.booted and not self.guest_spoke then
    return errors.new { op = "run Firecracker", subject = self.id, name = "EIO", status = errors.status.kvm,
      message = ("it %s before the guest said a word: this KVM may not run guests"):format(how),
      hint = "fcvm setup preflight boots one to see" }
  end
  return errors.new { op = "run Firecracker", subject = self.id, name = "EIO", status = errors.status.guest,
    message = words and ("it %s: %s"):format(how, words) or "it " .. how }
end

--- Calls the API; the body is a table. Raises Firecracker's own words. (KVM is first opened at InstanceStart, so that is
-- where a host without one is told.)
function M:api(method, path, body, timeout)
  local ok, err = pcall(http.firecracker, self.root .. "/api.sock", method, path, body and json.encode(body), timeout)
  if ok then return err end
  if type(err) == "table" and tostring(err.message):lower():find "kvm" then
    err.status, err.hint = errors.status.kvm, "fcvm setup preflight says what is wrong with /dev/kvm"
  end
  error(err, 0)
end

local function version_of(answer)
  local about = json.decode(answer.body or "", "Firecracker's version")
  return type(about) == "table" and tostring(about.firecracker_version) or "unknown"
end

--- Waits until the API answers; it says its version then (M:version).
function M:wait_api()
  local socket = self.root .. "/api.sock"
  task.timeout(API_SECONDS, "Firecracker's API", function()
    while true do
      local ok, answer = false, { name = "ENOENT" }
      -- A look costs less than a request that fails.
      if uv.fs_lstat(socket) then ok, answer = pcall(self.api, self, "GET", "/version") end
      if ok then
        self.about = version_of(answer)
        return
      end
      if answer.cancelled or answer.timeout or (answer.name ~= "ENOENT" and answer.name ~= "ECONNREFUSED") then
        error(answer, 0)
      end
      local ended = self.child:wait()
      if ended then
        self.ended = ended
        -- What it said last may still be in the pipe.
        task.sleep(0.05)
        error(self:unexpected_end(), 0)
      end
      task.sleep(0.002)
    end
  end)
end

--- Configures the machine and starts the guest. Options: memory (MiB), cpus, plan (a table, reaches the agent by MMDS),
-- hostname.
function M:boot(options)
  local address = ("ip=%s::%s:%s:%s:eth0:off"):format(network.guest_address, network.guest_gateway, network.guest_netmask,
    options.hostname)
  self:api("PUT", "/boot-source", { kernel_image_path = "vmlinux", initrd_path = "initramfs.cpio",
    boot_args = ("console=ttyS0 panic=1 quiet %s %s"):format(machine.arch().boot, address) })
  self:api("PUT", "/machine-config", { vcpu_count = options.cpus, mem_size_mib = options.memory })
  self:api("PUT", "/drives/rootfs", { drive_id = "rootfs", path_on_host = "disk.ext4", is_root_device = false,
    is_read_only = false })
  self:api("PUT", "/drives/image", { drive_id = "image", path_on_host = "image.squashfs", is_root_device = false,
    is_read_only = true })
  self:api("PUT", "/network-interfaces/eth0", { iface_id = "eth0", guest_mac = network.guest_mac, host_dev_name = network.tap })
  self:api("PUT", "/vsock", { guest_cid = 3, uds_path = "vsock.sock" })
  self:api("PUT", "/mmds/config", { version = "V2", network_interfaces = { "eth0" } })
  self:api("PUT", "/mmds", { plan = options.plan })
  self.booted = true
  self:api("PUT", "/actions", { action_type = "InstanceStart" }, 30)
end

--- The version of this Firecracker, after M:wait_api: "1.12.1".
function M:version() return self.about end

--- What frees space for a snapshot.
M.space_hint = "fcvm snapshot rm frees space; FCVM_DATA_DIR or --data-dir chooses another disk"

--- Stops the guest's processors, and lets them go on.
function M:pause() self:api("PATCH", "/vm", { state = "Paused" }, PAUSE_SECONDS) end
function M:resume() self:api("PATCH", "/vm", { state = "Resumed" }, PAUSE_SECONDS) end

--- Has the paused VM write snapshot/vmstate.bin and snapshot/memory.bin in its root. Where it fails, Firecracker may have
-- left parts of them.
function M:write_snapshot()
  local ok, err = pcall(self.api, self, "PUT", "/snapshot/create", { snapshot_type = "Full",
    snapshot_path = "snapshot/vmstate.bin", mem_file_path = "snapshot/memory.bin" }, SNAPSHOT_SECONDS)
  if ok then return end
  -- Its own status is that of a bad request; the number stands in its words.
  if type(err) == "table" and tostring(err.message):find("(os error 28)", 1, true) then
    errors.raise { op = err.op, subject = err.subject, name = "ENOSPC", message = err.message,
      hint = M.space_hint }
  end
  error(err, 0)
end

--- Loads vmstate.bin and goes on from there, or with `paused` waits for resume; memory as in prepare_clone.
function M:load(memory, paused)
  self.booted, self.guest_spoke = true, true
  local ok, err = pcall(self.api, self, "PUT", "/snapshot/load", { snapshot_path = "vmstate.bin", resume_vm = not paused,
    mem_backend = { backend_type = memory == "uffd" and "Uffd" or "File",
      backend_path = memory == "uffd" and "uffd.sock" or "memory.bin" } }, LOAD_SECONDS)
  if ok then return end
  -- What it refuses is what the snapshot says, no option of the user's.
  if err.name == "EINVAL" then err.status = err.status or errors.status.data end
  error(err, 0)
end

--- Gives the guest another plan, which it finds at the metadata address.
function M:set_plan(plan) self:api("PUT", "/mmds", { plan = plan }) end

return M
