-- SPDX-License-Identifier: Apache-2.0
--- The guest's kernel: Debian's cloud kernel as Firecracker boots it, and the initramfs with the agent and the modules.
--
--     kernels/vmlinux          what Firecracker boots
--     kernels/modules.cpio     the modules, one part of the initramfs
--     kernels/initramfs.cpio   the agent as /init, then the modules
--     kernels/kernel.json      package, release, digests; the agent's digest, so that another agent means another initramfs
local uv = require "luv"
local cpio = require "fcvm.setup.cpio"
local errors = require "fcvm.errors"
local image = require "fcvm.setup.kernel_image"
local log = require "fcvm.log"
local machine = require "fcvm.machine"
local modules = require "fcvm.setup.modules"
local paths = require "fcvm.paths"
local progress = require "fcvm.progress"
local task = require "fcvm.task"
local workshop = require "fcvm.setup.workshop"

local M = {}

local KERNEL_MAX = 512 << 20
local VERSION = 2 -- of the initramfs's layout: another one means that it is made anew
local apt_environment = { LC_ALL = "C.UTF-8", DEBIAN_FRONTEND = "noninteractive" }

local function place(name) return paths.kernels() .. "/" .. name end

local function no_package(name, why)
  errors.raise { op = "find kernel package", subject = name, name = "ENOENT", message = why, status = errors.status.unavailable,
    hint = "apt-get update, or fcvm setup kernel --from FILE" }
end

-- The fields of a package's candidate as apt knows it, or nil.
local function show(package)
  local result = workshop.run { "apt-cache", "show", "--no-all-versions", "--", package, env = apt_environment, check = false }
  if result.status ~= 0 then return nil end
  local fields = {}
  for line in result.stdout:gmatch "[^\n]+" do
    local key, value = line:match "^([%w%-]+): (.*)$"
    if key and not fields[key] then fields[key] = value end
  end
  return fields
end

--- The package that the meta package `name` stands for: {package=, version=, size=, sha256=}, or nil where apt knows none.
function M.resolve(name)
  local meta = show(name)
  local package = meta and (meta.Depends or ""):match "linux%-image%-[%w%.%+%-]+"
  local fields = package and show(package)
  if not fields or not fields.SHA256 or not fields.Version then return nil end
  return { package = package, version = fields.Version, size = tonumber(fields.Size), sha256 = fields.SHA256 }
end

local function update_lists(bar)
  bar:say "apt-get update"
  workshop.run { "apt-get", "-qq", "update", env = apt_environment, timeout = 300, op = "update package lists" }
end

local function download(wanted, directory, bar)
  bar:say(wanted.package)
  local result = workshop.watch(bar, directory, wanted.size, function()
    return workshop.run { "apt-get", "-qq", "-o", "APT::Sandbox::User=root", "-o", "Acquire::Retries=2",
      "-o", "Acquire::http::Timeout=30", "download", wanted.package .. "=" .. wanted.version, cwd = directory,
      env = apt_environment, timeout = 1200, check = false, op = "download" }
  end)
  if result.status ~= 0 then return nil, result.stderr:gsub("%s+$", ""):match "[^\n]*$" end
  local scan = uv.fs_scandir(directory)
  while scan do
    local name = uv.fs_scandir_next(scan)
    if not name then break end
    if name:match "%.deb$" then return directory .. "/" .. name end
  end
  return nil, "apt-get brought no package"
end

-- The kernel package's file, from an earlier attempt or by apt, which checks it against Debian's signatures. It waits in
-- downloads/ until the kernel is made.
local function package_file(directory, bar)
  local meta = "linux-image-cloud-" .. machine.arch().debian
  local root = uv.getuid() == 0
  local wanted = M.resolve(meta)
  if not wanted and root then
    update_lists(bar)
    wanted = M.resolve(meta)
  end
  if not wanted then no_package(meta, "apt knows no such package") end
  local kept = workshop.downloads() .. "/" .. wanted.sha256 .. ".deb"
  if workshop.digest(kept) == wanted.sha256 then return kept, wanted end
  local into = paths.ensure(directory .. "/download")
  local file, why = download(wanted, into, bar)
  if not file and root then
    -- Lists that are older than the archive name packages that are gone from it.
    log.debug("kernel: %s; trying again with new lists", why)
    update_lists(bar)
    wanted = M.resolve(meta) or wanted
    kept = workshop.downloads() .. "/" .. wanted.sha256 .. ".deb"
    file, why = download(wanted, into, bar)
  end
  if not file then no_package(wanted.package, why) end
  local digest = workshop.digest(file)
  if digest ~= wanted.sha256 then
    errors.raise { op = "verify", subject = wanted.package, name = "EPROTO", status = errors.status.data,
      message = ("its SHA-256 is %s, not %s"):format(digest, wanted.sha256), hint = "try again: fcvm setup kernel" }
  end
  paths.ensure(workshop.downloads())
  workshop.publish { { file, kept } }
  return kept, wanted
end

local function read_file(path)
  local file <close> = errors.check_uv("open", path, io.open(path, "rb"))
  local size = file:seek "end"
  if not size or size > KERNEL_MAX then
    errors.raise { op = "read kernel", subject = path, name = "EFBIG", message = "it is larger than any kernel",
      status = errors.status.config }
  end
  file:seek "set"
  return errors.check_uv("read", path, file:read "a")
end

local function only_entry(directory, pattern, what)
  local scan = uv.fs_scandir(directory)
  local found
  while scan do
    local name = uv.fs_scandir_next(scan)
    if not name then break end
    if name:match(pattern) and (not found or name > found) then found = name end
  end
  if not found then
    errors.raise { op = "read kernel package", subject = directory, name = "ENOENT", message = "it has no " .. what,
      status = errors.status.config, hint = "a kernel package has boot/vmlinuz-RELEASE and lib/modules/RELEASE" }
  end
  return found
end

-- From the tree of a kernel package: the kernel, and its modules as cpio entries.
local function from_tree(root, directory, bar)
  bar:say "unpacking the kernel"
  local kernel = only_entry(root .. "/boot", "^vmlinuz%-", "kernel")
  local release = kernel:match "^vmlinuz%-(.+)$"
  image.extract(read_file(root .. "/boot/" .. kernel), directory .. "/vmlinux", machine.arch().name, kernel)
  bar:say "modules"
  if not uv.fs_stat(root .. "/lib/modules") and uv.fs_stat(root .. "/usr/lib/modules") then
    errors.check_uv("link", root, uv.fs_symlink("usr/lib", root .. "/lib"))
  end
  only_entry(root .. "/lib/modules", "^" .. release:gsub("%W", "%%%0") .. "$", "modules of " .. release)
  local entries, names = modules.entries(root, release)
  return { release = release, entries = entries, modules = names }
end

local function unpack_package(file, directory, bar)
  bar:say "unpacking the package"
  workshop.run { "dpkg-deb", "-x", file, directory .. "/tree", op = "unpack kernel package" }
  return from_tree(directory .. "/tree", directory, bar)
end

local function from_user(from, directory, bar)
  local stat = uv.fs_stat(from)
  if not stat then
    errors.raise { op = "set up the kernel", subject = from, name = "ENOENT", message = "there is no such file or directory" }
  end
  if stat.type == "directory" then
    -- depmod and a link may have to be written into it, and it is not ours.
    workshop.run { "cp", "-rT", "--reflink=auto", "--", errors.check_uv("find", from, uv.fs_realpath(from)), directory .. "/tree",
      op = "read kernel package" }
    return from_tree(directory .. "/tree", directory, bar)
  end
  local data = read_file(from)
  if data:sub(1, 8) == "!<arch>\n" then return unpack_package(from, directory, bar) end
  image.extract(data, directory .. "/vmlinux", machine.arch().name, from)
  -- A kernel alone must have everything built in; its modules are then none.
  return { release = image.release(directory .. "/vmlinux") or "unknown", modules = {},
    entries = { { "modules", directory = true }, { "modules/order", data = "" } } }
end

local function agent_path()
  local path = paths.libexec "fc-agent"
  if not uv.fs_access(path, "R") then
    errors.raise { op = "make initramfs", subject = path, name = "ENOENT", message = "the agent is not installed",
      status = errors.status.missing_part, hint = "make installs it beside fcvm" }
  end
  return path
end

-- The initramfs: the agent's archive, then the modules' as it is.
local function write_initramfs(path, agent, modules_archive)
  local head = cpio.archive { { "dev", directory = true }, { "dev/console", character = { 5, 1 } }, { "proc", directory = true },
    { "sys", directory = true }, { "init", mode = 493, data = read_file(agent) } }
  workshop.write(path, head .. read_file(modules_archive))
end

local function save(directory, record, files)
  workshop.write_record(directory .. "/record", record)
  local list = {}
  for _, name in ipairs(files) do list[#list + 1] = { directory .. "/" .. name, place(name) } end
  list[#list + 1] = { directory .. "/record", place "kernel.json" }
  workshop.publish(list)
end

--- The kernel's record where its files are what it says, and whether the initramfs is of this agent; nil otherwise.
function M.verified(agent)
  local record = workshop.record(place "kernel.json")
  if not record or type(record.sha256) ~= "table" then return nil end
  local found = workshop.digests { place "vmlinux", place "modules.cpio", place "initramfs.cpio", agent }
  if found[1] ~= record.sha256.vmlinux or found[2] ~= record.sha256.modules or not found[1] or not found[2] then return nil end
  local current = found[3] == record.sha256.initramfs and found[4] == record.agent and record.version == VERSION
  return record, current, found[4]
end

local function make(options, agent, bar)
  local directory = workshop.directory()
  local made, wanted, kept
  if options.from then
    made = from_user(options.from, directory, bar)
  else
    kept, wanted = package_file(directory, bar)
    made = unpack_package(kept, directory, bar)
  end
  bar:say "initramfs"
  workshop.write(directory .. "/modules.cpio", cpio.archive(made.entries))
  write_initramfs(directory .. "/initramfs.cpio", agent, directory .. "/modules.cpio")
  local digests = workshop.digests { directory .. "/vmlinux", directory .. "/modules.cpio", directory .. "/initramfs.cpio",
    agent }
  local record = { version = VERSION, release = made.release, modules = made.modules, source = options.from or wanted.package,
    package = wanted and wanted.package, package_version = wanted and wanted.version, agent = digests[4],
    sha256 = { vmlinux = digests[1], modules = digests[2], initramfs = digests[3], package = wanted and wanted.sha256 } }
  save(directory, record, { "vmlinux", "modules.cpio", "initramfs.cpio" })
  if kept then workshop.remove(kept) end
  return record
end

local KNOWN = { from = "string", force = "boolean" }

--- Makes <data>/kernels/vmlinux and initramfs.cpio. Options: from (a kernel package's file or its unpacked tree, or a
-- vmlinux or vmlinuz that has everything built in), force (even if they are there: takes the newest package). A new agent
-- makes a new initramfs alone. Returns the record with `changed` (true, false or "initramfs").
function M.setup(options)
  options = errors.options("setup.kernel", options or {}, KNOWN)
  local agent = agent_path()
  return task.scope(function()
    local bar <close> = progress("kernel", nil, { unit = "bytes" })
    workshop.lock()
    local record, current
    if not options.force and not options.from then record, current = M.verified(agent) end
    if record and current then
      record.changed = false
      bar:done(("%s is there and verified"):format(record.release))
      return record
    end
    if record then
      local directory = workshop.directory()
      write_initramfs(directory .. "/initramfs.cpio", agent, place "modules.cpio")
      local digests = workshop.digests { directory .. "/initramfs.cpio", agent }
      record.sha256.initramfs, record.agent, record.version = digests[1], digests[2], VERSION
      save(directory, record, { "initramfs.cpio" })
      record.changed = "initramfs"
      bar:done(("%s, a new initramfs for this agent"):format(record.release))
      return record
    end
    record = make(options, agent, bar)
    record.changed = true
    bar:done(("%s, %d modules, sha256 %s"):format(record.release, #record.modules, record.sha256.vmlinux))
    return record
  end)
end

return M
